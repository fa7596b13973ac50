"""The result of explaining one image: frames, checks, saliency, verdict and where they come from."""

import tempfile
import webbrowser
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from explainer.axis_attribution import AxisAttribution
from explainer.checks import Check, Verdict
from explainer.checks.walked import Picture
from explainer.errors import ModelFileError
from explainer.fidelity_result import Fidelity
from explainer.image import resize
from explainer.progress import in_notebook
from explainer.report import embed_page, render_explanation, slider_figure, write_gif, write_page
from explainer.report.compact import compact_explanation
from explainer.report.strip import format_level
from explainer.saliency import SaliencyMap
from explainer.storage import new_folder, read_json, read_tensors, write_json, write_tensors

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Explanation", "Picture"]

RECORD = "explanation.json"
RECORD_FORMAT = 3
READABLE = (2, RECORD_FORMAT)
"""Format 2 had no fidelity, and no word on evidence."""

_ARRAYS = "fidelity/"


@dataclass(frozen=True)
class Explanation:
    """What a walk of one image showed, and whether it is evidence.

    Attributes:
        target: The target in words.
        level_word: What the levels are of, for example ``"probability of smiling"``.
        tolerance: How far the level of a frame may be from what was asked for.
        frames: One row per level, ascending: ``level`` asked for, ``achieved``, ``score``, ``reached``,
            ``reason`` (why not), ``distance`` of the code from the image's, ``rounded`` (the level of the
            frame rounded to 8 bits of each channel's range).
        images: The delivered frames ``(levels, C, H, W)``, float32 in [0, 1], CPU, in the same order.
        latents: Their codes ``(levels, D)``.
        original: The image as it came, at its own size.
        bare: What the generator alone makes of it, at the generator's size.
        outcome: Why the walk ended where it did, a sentence.
        verdict: Trust, trust with limits, or do not trust; decided by the checks.
        checks: Every check with its numbers.
        saliency: Maps by name.
        fidelity: How soon the class is lost when pixels go in the order of each map, and of orders that know
            nothing; ``None`` if it was not asked for.
        assumptions: What was assumed about image, classifier and generator, sentences.
        provenance: Versions, seeds, options and hashes.
        channel_names: Names of the channels, if they are not grey or RGB.
        alternatives: Further explanations of the image, each by moves apart from those before it, if
            several were asked for. Maps not made from the walk, and fidelity, are of the first alone.
        attribution_by_axis: How much of the change of the score came from each named axis of the generator;
            ``None`` if it has none, or the classifier has no gradient.
    """

    target: str
    level_word: str
    tolerance: float
    frames: pd.DataFrame
    images: Tensor
    latents: Tensor
    original: Picture
    bare: Picture
    outcome: str
    verdict: Verdict
    checks: tuple[Check, ...]
    saliency: Mapping[str, SaliencyMap]
    fidelity: Fidelity | None
    assumptions: tuple[str, ...]
    provenance: Mapping[str, Any]
    channel_names: tuple[str, ...] | None
    alternatives: tuple["Explanation", ...] = ()
    attribution_by_axis: AxisAttribution | None = None

    # -- looking at it --------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, JSON-serialisable."""
        return {
            "target": self.target,
            "level_word": self.level_word,
            "tolerance": self.tolerance,
            "verdict": asdict(self.verdict),
            "outcome": self.outcome,
            "original": _without_image(self.original),
            "bare": _without_image(self.bare),
            "frames": self.frames.to_dict("records"),
            "checks": [{**asdict(check), "values": dict(check.values)} for check in self.checks],
            "saliency": {
                name: {
                    "signed": saliency.signed,
                    "evidence": saliency.evidence,
                    "caption": saliency.caption,
                }
                for name, saliency in self.saliency.items()
            },
            "fidelity": None if self.fidelity is None else self.fidelity.record(),
            "attribution_by_axis": (
                None if self.attribution_by_axis is None else self.attribution_by_axis.record()
            ),
            "assumptions": list(self.assumptions),
            "channel_names": list(self.channel_names) if self.channel_names else None,
            "provenance": dict(self.provenance),
            "alternatives": [alternative.to_dict() for alternative in self.alternatives],
        }

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page that makes no network request.

        Raises:
            OutputError: The file cannot be written.
        """
        return write_page(self._page(), path)

    def to_gif(self, path: str | Path) -> Path:
        """Write the frames as an animation, forth and back.

        Raises:
            OutputError: The file cannot be written.
        """
        return write_gif(
            self._page()["frames"], path, channel_names=self.channel_names, tolerance=self.tolerance
        )

    def show(self) -> None:
        """Display the whole page: inline in a notebook, else in the browser."""
        if in_notebook():
            from IPython.display import HTML, display

            display(HTML(embed_page(render_explanation(self._page()))))
            return
        folder = Path(tempfile.mkdtemp(prefix="explanation-"))
        webbrowser.open(self.to_html(folder / "explanation.html").as_uri())

    def slider(self) -> "go.Figure":
        """The original, a frame and its difference, with a slider over the levels, as a plotly figure.

        It is made of plotly's frames, so it moves wherever plotly is shown, also in an exported page.
        """
        page = self._page()
        return slider_figure(page["frames"], original=page["original"], channel_names=self.channel_names)

    def _repr_html_(self) -> str:
        return compact_explanation(self._page())

    def __repr__(self) -> str:
        reached = int(self.frames["reached"].sum())
        return (
            f"Explanation(target={self.target!r}, "
            f"original={format_level(self.original.level, self.tolerance)}, "
            f"reached={reached}/{len(self.frames)}, verdict={self.verdict.status!r})"
        )

    def _page(self) -> dict[str, Any]:
        """The plain data of the page."""
        rows = self.frames.to_dict("records")
        return {
            **self.to_dict(),
            "title": f"Why {self._own()}? Progressive exaggeration of {self.target}",
            "package_version": self.provenance["versions"]["progressive-explainer"],
            "target": {"label": self.target, "from_name": None},
            "original": _with_image(self.original),
            "bare": {**_with_image(self.bare), "image": self._bare_at_full_size().numpy()},
            "frames": [{**row, "image": image.numpy()} for row, image in zip(rows, self.images, strict=True)],
            "saliency": [
                {
                    "name": name,
                    "map": saliency.summed().numpy(),
                    "signed": saliency.signed,
                    "caption": saliency.caption,
                }
                for name, saliency in self.saliency.items()
            ],
            "fidelity": self._fidelity_page(),
            "walk_sentence": self.outcome,
            "alternatives": [
                {
                    "outcome": other.outcome,
                    "verdict": asdict(other.verdict),
                    "frames": [
                        {**row, "image": image.numpy()}
                        for row, image in zip(other.frames.to_dict("records"), other.images, strict=True)
                    ],
                }
                for other in self.alternatives
            ],
        }

    def _fidelity_page(self) -> dict[str, Any] | None:
        """What the page shows of the replaced pixels."""
        found = self.fidelity
        if found is None:
            return None
        gains = dict(found.ranking("symmetric relevance gain")[["method", "area"]].to_numpy().tolist())
        ranked = found.ranking("probability")[["method", "control", "area"]].to_dict("records")
        return {
            "curves": found.to_frame(),
            "rows": [{**row, "gain": gains[row["method"]]} for row in ranked],
            "sentences": found.sentences(),
            "class_name": self.original.class_name,
            **{name: found.settings[name] for name in ("filler", "unit", "steps", "draws", "images")},
        }

    def _own(self) -> str:
        """What the classifier says of the image, in words."""
        return (
            self.original.class_name or f"{self.target} {format_level(self.original.level, self.tolerance)}"
        )

    def _bare_at_full_size(self) -> Tensor:
        """The bare reconstruction, resized to be seen beside the original."""
        size = self.original.image.shape[-2:]
        return resize(self.bare.image[None], size)[0].clamp(0, 1)

    # -- keeping it -----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the explanation; the folder appears only when it is complete.

        Raises:
            OutputError: The folder holds something else, or cannot be written to.
        """
        tensors = {
            "images": self.images,
            "latents": self.latents,
            "original": self.original.image,
            "bare": self.bare.image,
            **{f"saliency/{name}": saliency.values for name, saliency in self.saliency.items()},
        }
        if self.fidelity is not None:
            arrays = self.fidelity.arrays()
            tensors |= {f"{_ARRAYS}{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
        with new_folder(folder, marker=RECORD) as place:
            digest = write_tensors(place / "tensors.safetensors", tensors)
            for number, alternative in enumerate(self.alternatives, start=1):
                alternative.save(place / f"alternative-{number}")
            write_json(place / RECORD, {"format": RECORD_FORMAT, "sha256": digest, **self.to_dict()})

    @classmethod
    def load(cls, folder: str | Path) -> "Explanation":
        """Read an explanation that :meth:`save` wrote.

        Raises:
            ModelFileError: The folder is incomplete, was changed, or is of another format.
        """
        place = Path(folder)
        record = read_json(place / RECORD, "folder")
        if record.get("format") not in READABLE:
            raise ModelFileError(
                "folder",
                f"has a record of another format than {RECORD_FORMAT}",
                received=record.get("format"),
                remedy="Read it with the version that its provenance names.",
            )
        try:
            return cls._from_record(place, record)
        except (KeyError, TypeError) as error:
            raise ModelFileError(
                "folder", "has a record that is not complete", received=place,
                remedy=f"Save the explanation again ({type(error).__name__}: {error}).",
            ) from error  # fmt: skip

    @classmethod
    def _from_record(cls, place: Path, record: dict[str, Any]) -> "Explanation":
        tensors = read_tensors(place / "tensors.safetensors", record["sha256"], "folder")
        kept = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        return cls(
            **{
                **kept,
                "frames": pd.DataFrame(record["frames"]),
                "images": tensors["images"],
                "latents": tensors["latents"],
                "original": Picture(tensors["original"], **record["original"]),
                "bare": Picture(tensors["bare"], **record["bare"]),
                "verdict": Verdict(**{**record["verdict"], "reasons": tuple(record["verdict"]["reasons"])}),
                "checks": tuple(Check(**check) for check in record["checks"]),
                "saliency": {
                    name: SaliencyMap(name, tensors[f"saliency/{name}"], **entry)
                    for name, entry in record["saliency"].items()
                },
                "fidelity": _read_fidelity(record.get("fidelity"), tensors),
                "attribution_by_axis": AxisAttribution.from_record(record.get("attribution_by_axis")),
                "assumptions": tuple(record["assumptions"]),
                "channel_names": tuple(record["channel_names"]) if record["channel_names"] else None,
                "alternatives": tuple(
                    cls.load(place / f"alternative-{number}")
                    for number, _ in enumerate(record["alternatives"], start=1)
                ),
            }
        )


def _read_fidelity(record: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Fidelity | None:
    if record is None:
        return None
    arrays = {
        name.removeprefix(_ARRAYS): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(_ARRAYS)
    }
    return Fidelity.from_record(record, arrays)


def _without_image(picture: Picture) -> dict[str, Any]:
    return {"score": picture.score, "level": picture.level, "class_name": picture.class_name}


def _with_image(picture: Picture) -> dict[str, Any]:
    return {**_without_image(picture), "image": picture.image.numpy()}
