"""The options that commands share, with their names, help and completion; and how their words are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explainer.cli import completion
from explainer.errors import OptionError

if TYPE_CHECKING:
    import torch

    from explainer.classifier import Classifier

__all__ = [
    "NO_WORD",
    "AsJson",
    "Channels",
    "ClassNames",
    "ClassifierWord",
    "Debug",
    "Device",
    "GeneratorWord",
    "KindOfClassifier",
    "Mean",
    "OutputsOfClassifier",
    "Quiet",
    "Seed",
    "Size",
    "Std",
    "as_target",
    "column",
    "names",
    "opened",
    "usable",
]

# typer would write the type "<bool>" beside a flag, as if it took a word.
NO_WORD = " "

AsJson = Annotated[
    bool, typer.Option("--json", metavar=NO_WORD, help="Print JSON on stdout, and nothing else.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default that of the model.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar=NO_WORD, help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", metavar=NO_WORD, help="Print the traceback of an error.")]

GeneratorWord = Annotated[
    str,
    typer.Option(
        help="A generator of the zoo, a folder that `explainer train` made, or auto: the one of the zoo that "
        "fits.",
        autocompletion=completion.generators,
    ),
]
ClassifierWord = Annotated[
    str,
    typer.Option(
        help="Of the zoo (faces/smile), a file (model.onnx, model.pt2), or package.module:function. What a "
        "file does not say of its images comes from the options below, or from model.onnx.json beside it.",
        autocompletion=completion.classifiers,
    ),
]

_OF_CLASSIFIER = "About a classifier that is not of the zoo"
Size = Annotated[
    str | None,
    typer.Option(metavar="PIXELS", help="224, or height x width: 224x160.", rich_help_panel=_OF_CLASSIFIER),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Subtracted from images in [0, 1]: .485,.456,.406.", rich_help_panel=_OF_CLASSIFIER),
]
Std = Annotated[
    str | None,
    typer.Option(help="What they are then divided by: .229,.224,.225.", rich_help_panel=_OF_CLASSIFIER),
]
ClassNames = Annotated[
    str | None,
    typer.Option(help="In the order of the outputs: cat,dog.", rich_help_panel=_OF_CLASSIFIER),
]
KindOfClassifier = Annotated[
    str | None,
    typer.Option(
        "--kind", help="auto, binary, multiclass, multilabel or regression.", rich_help_panel=_OF_CLASSIFIER
    ),
]
OutputsOfClassifier = Annotated[
    str | None, typer.Option("--outputs", help="logits or probabilities.", rich_help_panel=_OF_CLASSIFIER)
]
Channels = Annotated[
    int | None,
    typer.Option(help="Channels it takes, if not those of the image.", rich_help_panel=_OF_CLASSIFIER),
]


def opened(words: str, device: "torch.device | None", **about: Any) -> "Classifier":
    """The classifier that words name.

    Args:
        words: As for ``--classifier``.
        device: Where it is evaluated; None leaves it where it is.
        about: The options about a classifier that is not of the zoo, as they were typed.

    Raises:
        OptionError: An option that cannot be read, or that does not belong to this classifier.
        ModelFileError: A file that is not opened, with the reason.
    """
    from explainer.classifier_files import open_classifier, parsed

    classifier = open_classifier(words, parsed(**about))
    if device is not None:
        classifier.device = device
    return classifier


def usable(device: str | None) -> "torch.device | None":
    """The device asked for, which must be there; None if none was."""
    from explainer.session import require_device

    return None if device is None else require_device(device)


def as_target(word: str | None) -> str | int | None:
    """A class by its number, or by its name."""
    return int(word) if word is not None and word.isdecimal() else word


def names(words: str) -> tuple[str, ...]:
    """Names with commas between them; "none" is no name.

    >>> names("difference, saliency"), names("none")
    (('difference', 'saliency'), ())
    """
    found = tuple(name.strip() for name in words.split(",") if name.strip())
    return () if found == ("none",) else found


def column(table: Path, name: str, *, as_text: bool = False) -> list[Any]:
    """A column of a table of images, for ``--labels``.

    Args:
        table: A .csv file.
        name: Of the column.
        as_text: Words as they stand in the file, empty where there is none; else numbers where all are.

    Raises:
        OptionError: No such table, or no such column.
    """
    import pandas as pd

    if table.suffix.lower() != ".csv":
        raise OptionError(
            "labels", "are read from a table", received=table,
            remedy="Pass a .csv with a column path and the column of labels.",
        )  # fmt: skip
    rows = pd.read_csv(table, dtype=str if as_text else None)
    if name not in rows.columns:
        raise OptionError(
            "labels", "is no column of the table", received=name,
            remedy=f"Choose one of: {', '.join(map(str, rows.columns))}.",
        )  # fmt: skip
    return (rows[name].fillna("") if as_text else rows[name]).tolist()
