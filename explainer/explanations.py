"""The explanations of many images: a list, a table, a summary, a page."""

import html
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explainer.checks.base import Thresholds
from explainer.checks.compatibility import Calibration, calibration_of
from explainer.checks.sets import SetChecks
from explainer.errors import ModelFileError, OptionError
from explainer.explanation import Explanation
from explainer.metrics import Interval, wilson_interval
from explainer.report.compact import compact_table, compact_verdict
from explainer.report.figures import calibration_figure
from explainer.report.output import write_file
from explainer.report.sheet import render_sheet
from explainer.result_folder import Outcome, ResultFolder, Stored
from explainer.target import SCORE_TOLERANCE, Target

__all__ = ["Explanations", "Outcome", "Summary"]

SHOWN = 60
LISTED = 5
COLUMNS = ["image", "name", "level", "achieved", "error", "reached", "reason", "distance", "score", "rounded",
           "own", "verdict"]  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """What many explanations come to. A level that was not reached counts as a failure everywhere.

    Attributes:
        images: Number of images.
        failed: Number of them without an explanation.
        failures: For each kind of error, how many images it cost, and the sentence of the first.
        levels: Levels asked of the images that were explained.
        levels_reached: How many of them were reached.
        complete: Share of the explained images of which every level was reached, with Wilson's interval.
            Frames of one image depend on each other, so the images are what is counted; None without any.
        mean_error: Mean |achieved - asked| over the levels whose achieved level is finite.
        not_finite: Levels whose achieved level is not.
        monotone: Share of the explained images whose achieved levels never fall.
        verdicts: Images by verdict.
    """

    images: int
    failed: int
    failures: Mapping[str, tuple[int, str]]
    levels: int
    levels_reached: int
    complete: Interval | None
    mean_error: float
    not_finite: int
    monotone: float
    verdicts: Mapping[str, int]

    @property
    def reached(self) -> float:
        """Share of the levels that were reached; NaN if none was asked for."""
        return self.levels_reached / self.levels if self.levels else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Itself, JSON-serialisable; what is not a number is None."""
        return {
            "images": self.images,
            "failed": self.failed,
            "failures": {kind: {"images": n, "first": said} for kind, (n, said) in self.failures.items()},
            "levels": self.levels,
            "levels_reached": self.levels_reached,
            "reached": _or_none(self.reached),
            "complete": None if self.complete is None else asdict(self.complete),
            "mean_error": _or_none(self.mean_error),
            "not_finite": self.not_finite,
            "monotone": _or_none(self.monotone),
            "verdicts": dict(self.verdicts),
        }

    def sentences(self) -> list[str]:
        """The summary in words."""
        said = [f"{self.images:,} images, {self.failed:,} of them without an explanation."]
        for kind, (count, sentence) in self.failures.items():
            said.append(f"{kind}, {count:,}: {sentence}")
        if self.complete is None:
            return said
        said.append(
            f"{self.levels_reached:,} of {self.levels:,} levels reached ({self.reached:.1%}); every level of "
            f"{self.complete.estimate:.1%} of the images "
            f"(95 % interval {self.complete.low:.1%} to {self.complete.high:.1%})."
        )
        said.append(
            f"Mean error of a level {self.mean_error:.4f}; the levels of {self.monotone:.1%} of the images "
            "never fall." + (f" {self.not_finite:,} levels are not finite." if self.not_finite else "")
        )
        said.append(
            "Verdicts: " + ", ".join(f"{verdict} {count:,}" for verdict, count in self.verdicts.items()) + "."
        )
        return said

    def __str__(self) -> str:
        return "\n".join(self.sentences())


class Explanations(Sequence[Explanation | Outcome]):
    """What became of many images, in their order: an :class:`Explanation` or an :class:`Outcome` each.

    Args:
        results: What became of each image; those in a folder are read when they are asked for.
        complete: Whether the run that made them went through all of its images.
        folder: Where they are kept, if they are.
        checked: What :func:`explainer.check_set` found of them, if it was asked; it is shown on the page.
    """

    def __init__(
        self,
        results: Sequence[Explanation | Outcome],
        *,
        complete: bool = True,
        folder: Path | None = None,
        checked: SetChecks | None = None,
    ) -> None:
        self.results = results
        self.complete = complete
        self.folder = folder
        self.checked = checked

    @classmethod
    def open(cls, folder: str | Path) -> "Explanations":
        """Read what ``explain_many(..., out=folder)`` has written so far; images are read one by one.

        Raises:
            ModelFileError: It is not such a folder, or is damaged.
        """
        found = ResultFolder.open(folder)
        return cls(
            Stored(found.entries), complete=found.complete, folder=found.folder, checked=_read_checked(found)
        )

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Explanation | Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> "Explanations": ...

    def __getitem__(self, index: int | slice) -> "Explanation | Outcome | Explanations":
        if isinstance(index, slice):
            return Explanations(self.results[index], complete=self.complete)
        return self.results[index]

    def __repr__(self) -> str:
        where = "" if self.folder is None else f", folder={str(self.folder)!r}"
        unfinished = "" if self.complete else ", interrupted"
        return f"Explanations({len(self)} images, {len(self.failed)} failed{where}{unfinished})"

    @property
    def failed(self) -> list[Outcome]:
        """The images without an explanation."""
        if isinstance(self.results, Stored):
            return [entry.outcome for entry in self.results.entries if entry.outcome is not None]
        return [result for result in self.results if isinstance(result, Outcome)]

    def to_frame(self) -> pd.DataFrame:
        """One row for every image and level; an image without an explanation has one row, not reached.

        Columns: ``image`` (its place), ``name``, ``level``, ``achieved``, ``error`` (``|achieved - level|``),
        ``reached``, ``reason``, ``distance``, ``score``, ``rounded`` (see :attr:`Explanation.frames`),
        ``own`` (the image's own level) and ``verdict`` (without an explanation ``"failed"``).
        """
        rows = [row for record in self.records() for row in _rows(record)]
        return pd.DataFrame(rows, columns=COLUMNS)

    @property
    def calibration(self) -> Calibration | None:
        """Levels asked for against achieved over all walks, level by level; None if nothing was explained.

        A frame that missed its level is counted, one whose level is not finite too; images without an
        explanation are counted apart. See :meth:`calibrated` for other thresholds.
        """
        return self.calibrated()

    def calibrated(self, thresholds: Thresholds | None = None) -> Calibration | None:
        """Levels asked for against achieved, as :attr:`calibration`.

        Args:
            thresholds: Their ``level_error`` and ``monotone`` decide what was reached and what falls; by
                default those each image was explained with.
        """
        walks, slack, missing = [], [], 0
        for record in self.records():
            if "verdict" not in record:
                missing += 1
                continue
            rows = record["frames"]
            asked, got, met = ([row[name] for row in rows] for name in ("level", "achieved", "reached"))
            if thresholds is None:
                slack.append(record["provenance"]["thresholds"]["monotone"])
            else:
                slack.append(thresholds.monotone)
                unit = Target.from_record(record["provenance"]["target"]).tolerance / SCORE_TOLERANCE
                errors = np.abs(np.array(got, dtype=float) - np.array(asked))
                met = (errors <= thresholds.level_error * unit).tolist()
            walks.append((asked, got, met))
        return calibration_of(walks, slack=slack, unexplained=missing) if walks else None

    def calibration_figure(self) -> go.Figure:
        """:attr:`calibration` as a plotly figure.

        Raises:
            OptionError: Nothing was explained.
        """
        found = self.calibration
        if found is None:
            raise OptionError(
                "explanations", "hold no walk to draw", received=f"{len(self)} images, all without one",
                remedy="See failed for what went wrong.",
            )  # fmt: skip
        words = {
            (record["level_word"], record["tolerance"]) for record in self.records() if "verdict" in record
        }
        word, tolerance = words.pop() if len(words) == 1 else ("level", None)
        return calibration_figure(found.table.to_dict("records"), tolerance=tolerance, level_word=word)

    def summary(self) -> Summary:
        """Levels reached, errors, failures and verdicts in numbers."""
        failures: dict[str, tuple[int, str]] = {}
        verdicts = Counter({"trust": 0, "limits": 0, "distrust": 0})
        errors: list[float] = []
        images = levels = reached = complete = monotone = 0
        for record in self.records():
            images += 1
            if "verdict" not in record:
                count, first = failures.get(record["kind"], (0, record["sentence"]))
                failures[record["kind"]] = count + 1, first
                continue
            achieved = np.array([row["achieved"] for row in record["frames"]], dtype=float)
            asked = np.array([row["level"] for row in record["frames"]], dtype=float)
            met = [bool(row["reached"]) for row in record["frames"]]
            verdicts[record["verdict"]["status"]] += 1
            errors += np.abs(achieved - asked).tolist()
            levels, reached, complete = levels + len(met), reached + sum(met), complete + all(met)
            slack = record["provenance"]["thresholds"]["monotone"] * max(1.0, float(np.ptp(asked)))
            monotone += bool((np.diff(achieved) >= -slack).all())
        explained = sum(verdicts.values())
        finite = [error for error in errors if np.isfinite(error)]
        return Summary(
            images=images,
            failed=images - explained,
            failures=failures,
            levels=levels,
            levels_reached=reached,
            complete=wilson_interval(complete, explained) if explained else None,
            mean_error=float(np.mean(finite)) if finite else float("nan"),
            not_finite=len(errors) - len(finite),
            monotone=monotone / explained if explained else float("nan"),
            verdicts=dict(verdicts),
        )

    def to_html(self, path: str | Path, *, most: int = SHOWN) -> Path:
        """Write one self-contained page: the summary, and a strip of frames for each image.

        Args:
            path: The file.
            most: Images shown at most, evenly spread over all of them; those without an explanation are
                listed besides.

        Raises:
            OutputError: The file cannot be written.
        """
        return write_file(path, self._sheet(most).encode("utf-8"))

    def _repr_html_(self) -> str:
        """What notebooks show: the summary, and the first images with their verdicts."""
        sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.summary().sentences())
        rows = []
        for record in itertools.islice(self.records(), LISTED):
            explained = "verdict" in record
            verdict = compact_verdict(record["verdict"]["status"]) if explained else "no explanation"
            said = record["verdict"]["sentence"] if explained else record["sentence"]
            rows.append((html.escape(str(record["name"])), verdict, html.escape(said)))
        more = f"<p>... and {len(self) - LISTED:,} more</p>" if len(self) > LISTED else ""
        return f"<div><ul>{sentences}</ul>{compact_table(('image', 'verdict', 'why'), rows)}{more}</div>"

    def _sheet(self, most: int) -> str:
        """The page as HTML."""
        if most < 1:
            raise OptionError("most", "must be at least 1", received=most, remedy=f"The default is {SHOWN}.")
        summary = self.summary()
        explained = [index for index, record in enumerate(self.records()) if "verdict" in record]
        chosen = np.unique(np.linspace(0, len(explained) - 1, min(most, len(explained))).round().astype(int))
        shown = (self[explained[position]] for position in chosen)
        return render_sheet(
            {
                "sentences": summary.sentences(),
                "verdicts": dict(summary.verdicts),
                "images": len(self),
                "failed": [outcome.to_dict() for outcome in self.failed[:most]],
                "failed_count": len(self.failed),
                "complete": self.complete,
                "explained": [_shown(each) for each in shown if isinstance(each, Explanation)],
                "explained_count": len(explained),
                **self._of_the_set(),
            }
        )

    def _of_the_set(self) -> dict[str, Any]:
        """What the page shows of the set as a whole."""
        found, checked = self.calibration, self.checked
        tolerances = {record["tolerance"] for record in self.records() if "verdict" in record}
        return {
            "calibration": None if found is None else found.table.to_dict("records"),
            "tolerance": tolerances.pop() if len(tolerances) == 1 else None,
            "checked": None
            if checked is None
            else {
                "verdict": asdict(checked.verdict),
                "walks": checked.walks,
                "checks": [{**asdict(check), "values": dict(check.values)} for check in checked.checks],
                "closeness": checked.sentence_of_closeness(),
                "statuses": checked.statuses.to_dict("index"),
                "surrogate": [
                    {"level": level, "share": share.estimate, "low": share.low, "high": share.high}
                    for level, share in checked.surrogate
                ],
            },
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """The plain values of every image, without pixels; "index" and "name" among them."""
        if isinstance(self.results, Stored):
            records = (entry.record() for entry in self.results.entries)
        else:
            records = (result.to_dict() for result in self.results)
        for position, record in enumerate(records):
            image = record["provenance"]["image"] if "verdict" in record else record
            yield {"index": image.get("index", position), "name": image.get("name", ""), **record}


def _read_checked(folder: ResultFolder) -> SetChecks | None:
    record = folder.read_checked()
    try:
        return None if record is None else SetChecks.from_record(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelFileError(
            "folder", "has checks of the set that are not complete", received=folder.folder,
            remedy=f"Remove checked.json and make them again ({type(error).__name__}: {error}).",
        ) from error  # fmt: skip


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one image in :meth:`Explanations.to_frame`."""
    of_image = {"image": record["index"], "name": record["name"]}
    if "verdict" not in record:
        missing = dict.fromkeys(("level", "achieved", "error", "distance", "score", "rounded", "own"), np.nan)
        reason = f"{record['kind']}: {record['sentence']}"
        return [{**of_image, **missing, "reached": False, "reason": reason, "verdict": "failed"}]
    whole = {"own": record["original"]["level"], "verdict": record["verdict"]["status"]}
    return [
        {**of_image, **row, **whole, "error": abs(row["achieved"] - row["level"])} for row in record["frames"]
    ]


def _shown(explanation: Explanation) -> dict[str, Any]:
    """What a page of many images shows of one."""
    return {
        "name": explanation.provenance["image"].get("name", ""),
        "index": explanation.provenance["image"].get("index", 0),
        "target": explanation.target,
        "tolerance": explanation.tolerance,
        "status": explanation.verdict.status,
        "sentence": explanation.verdict.sentence,
        "outcome": explanation.outcome,
        "original": {"image": explanation.original.image.numpy(), "level": explanation.original.level},
        "frames": [
            {**row, "image": image.numpy()}
            for row, image in zip(explanation.frames.to_dict("records"), explanation.images, strict=True)
        ],
        "channel_names": explanation.channel_names,
    }
