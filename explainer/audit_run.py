"""An audit of files: a table of images, labels and attributes in; JSON, JUnit, Markdown and a table out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explainer.bias.audit import audit
from explainer.bias.findings import BiasReport
from explainer.bias.inputs import Model
from explainer.classifier import Classifier
from explainer.errors import OptionError, OutputError
from explainer.generators.base import Generator
from explainer.generators.zoo import load_generator
from explainer.image import as_images, resize
from explainer.image_sets import open_image_set

__all__ = ["audit_table", "read_audit_table", "write_report"]


def read_audit_table(
    data: Path,
    label: str,
    attributes: Sequence[str],
    group: str | None,
    size: Callable[[], tuple[int, int]] | None = None,
) -> tuple[Tensor, pd.DataFrame]:
    """The images of a table, and the table.

    Args:
        data: A .csv file with a column "path" or "file", relative to its folder, and the columns named here.
        label: Column of the true class.
        attributes: Columns of attributes.
        group: Column of the person or patient; None if every image is its own.
        size: Gives (height, width) for images of several sizes; they are refused if None.

    Raises:
        OptionError: Not such a file, or a column that is not there.
        ImageError: An image that cannot be read, or that differs in shape.
    """
    if data.suffix.lower() != ".csv" or not data.is_file():
        raise OptionError(
            "data", "must be a .csv file" if data.exists() else "does not exist", received=str(data),
            remedy='Make a table with the columns "path", the label and the attributes.',
        )  # fmt: skip
    try:
        table = pd.read_csv(data, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise OptionError(
            "data", "cannot be read as a table", received=f"{data}: {error}", remedy="Save it as UTF-8 CSV."
        ) from error
    missing = [name for name in (label, *attributes, *([group] if group else [])) if name not in table]
    if missing:
        raise OptionError(
            "data", f"has no column {', '.join(missing)}", received=", ".join(map(str, table.columns)),
            remedy="Name its columns with --label, --attributes and --group.",
        )  # fmt: skip
    opened = open_image_set(data)
    first = opened.image(0)
    images = [first, *(opened.image(index, channels=len(first)) for index in range(1, len(opened)))]
    if size is None or len({image.shape for image in images}) == 1:
        return as_images(data), table  # as they are, or the error that names the first that differs
    wanted = size()
    return torch.cat([resize(image[None], wanted) for image in images]).clamp(0, 1), table


def audit_table(
    data: Path, classifier: Model, *, label: str, attributes: Sequence[str], group: str | None, **options: Any
) -> BiasReport:
    """Audit the images, labels and attributes of a table; options as for :func:`explainer.audit`.

    Images of several sizes are brought to that of the classifier, or of the generator if it has none.
    """

    def size() -> tuple[int, int]:
        if isinstance(classifier, Classifier) and classifier.size is not None:
            return classifier.size
        generator = options.get("generator", "auto")
        if generator == "auto":
            raise OptionError(
                "data", "has images of several sizes", received=str(data),
                remedy="Give the classifier a size (--size), name a generator, or resize the images.",
            )  # fmt: skip
        shape = (generator if isinstance(generator, Generator) else load_generator(generator)).shape
        return shape[1], shape[2]

    images, table = read_audit_table(data, label, attributes, group, size)
    return audit(
        images,
        classifier,
        labels=np.asarray(table[label]),
        attributes=table[list(attributes)],
        groups=None if group is None else np.asarray(table[group]),
        **options,
    )


def write_report(report: BiasReport, out: Path) -> dict[str, str]:
    """Write ``audit.json``, ``audit.xml`` (JUnit), ``audit.md`` and ``audit.csv``; their paths by kind."""
    files = {
        "json": report.to_json(out / "audit.json"), "junit": report.to_junit(out / "audit.xml"),
        "csv": report.to_csv(out / "audit.csv"),
    }  # fmt: skip
    try:
        (out / "audit.md").write_text(report.to_markdown(), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            "out", "cannot be written to", received=f"{out}: {error.strerror}", remedy="Name another folder."
        ) from error
    files |= {"markdown": out / "audit.md"}
    return {kind: str(path) for kind, path in files.items()}
