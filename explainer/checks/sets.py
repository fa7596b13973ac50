"""What can only be said of a set of walks: whether levels, realism and the swap of details hold over all.

:func:`run_set_checks` makes the checks of walks of one scene; :class:`SetChecks` keeps what they found, with
a verdict of its own. What takes minutes is never made unasked: a surrogate, a balanced classifier.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from explainer.checks.base import NOT_MEASURED, Check
from explainer.checks.compatibility import Calibration, calibration
from explainer.checks.consistency import composition
from explainer.checks.nulls import NullControl
from explainer.checks.realism import Realism
from explainer.checks.robustness import FEWEST_PAIRED, detail_swap
from explainer.checks.suite import in_levels, written
from explainer.checks.surrogate import Surrogate, surrogate_curve
from explainer.checks.verdict import Verdict, decide
from explainer.checks.walked import Walked
from explainer.metrics import Interval

__all__ = ["SetChecks", "count_statuses", "not_measured", "run_set_checks"]

COMPOSED = 4
STATUSES = ["pass", "limit", "fail", "info"]


@dataclass(frozen=True)
class SetChecks:
    """What can only be said of a set of walks.

    Attributes:
        checks: Of the set, in the order in which they are shown; those that could not be made say why.
        calibration: Levels asked for against achieved.
        closeness: Quantiles (5, 50, 95 %) of the lowest cosine between the codes of image and frames (LSC).
        surrogate: Share of walks that a surrogate sees on the requested side, by level; empty without one.
        realism: Distances from real images; None if not measured.
        control: Walks of a balanced classifier beside the explained ones; None if not measured.
        statuses: One row per check of the single walks: how many passed, passed with limits, failed.
        walks: Number of walks that ``checks`` are of; the calibration and the statuses may be of more.
    """

    checks: tuple[Check, ...]
    calibration: Calibration
    closeness: Mapping[str, float]
    surrogate: tuple[tuple[float, Interval], ...]
    realism: Realism | None
    control: NullControl | None
    statuses: pd.DataFrame
    walks: int

    @property
    def verdict(self) -> Verdict:
        """Trust, trust with limits or do not trust, decided by the checks of the set."""
        return decide(self.checks, of="these explanations as a set")

    def to_frame(self) -> pd.DataFrame:
        """One row per check of the set: ``check``, ``status``, ``sentence``."""
        rows = [(check.name, check.status, check.sentence) for check in self.checks]
        return pd.DataFrame(rows, columns=["check", "status", "sentence"])

    def sentences(self) -> list[str]:
        """The verdict, and what each check found, in words."""
        found = [f"{check.name}: {check.sentence}" for check in self.checks]
        return [self.verdict.sentence, *found, self.sentence_of_closeness()]

    def sentence_of_closeness(self) -> str:
        """Latent space closeness over the set."""
        return (
            "The lowest cosine between the codes of an image and of its frames is "
            f"{self.closeness['50 %']:.2f} in the middle walk (5 % of walks below "
            f"{self.closeness['5 %']:.2f}): closeness in the generator, not identity."
        )

    def __str__(self) -> str:
        return "\n".join(self.sentences())

    def record(self) -> dict[str, Any]:
        """Everything, JSON-serialisable; :meth:`from_record` reads it."""
        realism, control = self.realism, self.control
        return {
            "checks": [{**asdict(check), "values": dict(check.values)} for check in self.checks],
            "calibration": {
                "table": _rows(self.calibration.table),
                "monotone": asdict(self.calibration.monotone),
                "walks": self.calibration.walks,
                "unexplained": self.calibration.unexplained,
            },
            "closeness": dict(self.closeness),
            "surrogate": [[level, asdict(share)] for level, share in self.surrogate],
            "realism": None
            if realism is None
            else {
                "frechet": realism.frechet,
                "kernel": {name: asdict(interval) for name, interval in realism.kernel.items()},
                "halvings": _rows(realism.halvings),
                "images": realism.images,
                "features": realism.features,
            },
            "control": None
            if control is None
            else {"table": _rows(control.table), "reached": control.reached, "walks": control.walks},
            "statuses": self.statuses.to_dict("index"),
            "walks": self.walks,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "SetChecks":
        """What :meth:`record` wrote.

        Raises:
            KeyError, TypeError: It is not such a record.
        """
        calibrated, realism, control = record["calibration"], record["realism"], record["control"]
        return cls(
            checks=tuple(Check(**check) for check in record["checks"]),
            calibration=Calibration(
                _table(calibrated["table"]),
                Interval(**calibrated["monotone"]),
                calibrated["walks"],
                calibrated["unexplained"],
            ),
            closeness=record["closeness"],
            surrogate=tuple((level, Interval(**share)) for level, share in record["surrogate"]),
            realism=None
            if realism is None
            else Realism(
                realism["frechet"],
                {name: Interval(**interval) for name, interval in realism["kernel"].items()},
                _table(realism["halvings"]),
                realism["images"],
                realism["features"],
            ),
            control=None
            if control is None
            else NullControl(_table(control["table"]), control["reached"], control["walks"]),
            statuses=pd.DataFrame.from_dict(record["statuses"], orient="index", columns=STATUSES),
            walks=record["walks"],
        )


def run_set_checks(
    walked: Sequence[Walked],
    checks: Sequence[Sequence[Check]],
    *,
    surrogate: Surrogate | None = None,
    realism: Realism | None = None,
    control: NullControl | None = None,
    calibrated: Calibration | None = None,
    statuses: pd.DataFrame | None = None,
    further: Sequence[Check] = (),
    composed: int = COMPOSED,
    seed: int = 0,
) -> SetChecks:
    """The checks of a set of walks to the same levels.

    Args:
        walked: Walks of one scene, at least one.
        checks: What :func:`run_checks` found of them.
        surrogate: A network distilled from the classifier, see :func:`fit_surrogate`.
        realism: What :func:`explainer.checks.realism.realism` found.
        control: What :func:`explainer.checks.nulls.equal_moves_control` found.
        calibrated: The calibration of a larger set that these walks are some of; by default theirs.
        statuses: How the checks of the larger set ended; by default ``checks``.
        further: Checks made elsewhere, to be kept with the rest.
        composed: How many of the images are reconstructed ten times in a row.
        seed: Of the pairs of the detail swap.
    """
    first, limits = walked[0], walked[0].thresholds
    scene = first.scene
    if calibrated is None:
        calibrated = calibration(
            first.table["level"].tolist(),
            [each.table["achieved"].tolist() for each in walked],
            in_levels(first, limits).level_error,
            slack=limits.monotone,
        )
    members = torch.tensor([each.row for each in walked[:composed]])
    found = [calibrated.check(limits), composition(first.generator, scene.small[members], limits)]
    if len(scene.images) >= FEWEST_PAIRED:
        found.append(detail_swap(scene, limits, seed=seed))
    else:
        found.append(not_measured("detail swap", f"{len(scene.images)} images, of {FEWEST_PAIRED} needed"))
    if realism is not None:
        found.append(realism.check(limits))
    curve: tuple[tuple[float, Interval], ...] = ()
    if surrogate is not None:
        points, check = surrogate_curve(walked, surrogate, limits)
        curve = tuple(points)
        found.append(check)
    if control is not None:
        found.append(control.check())
    found += further
    cosines = [float(torch.cosine_similarity(each.z[None], each.latents, dim=1).min()) for each in walked]
    quantiles = zip(("5 %", "50 %", "95 %"), np.quantile(cosines, [0.05, 0.5, 0.95]).tolist(), strict=True)
    return SetChecks(
        tuple(written(check) for check in found),
        calibrated,
        dict(quantiles),
        curve,
        realism,
        control,
        count_statuses((check.name, check.status) for each in checks for check in each)
        if statuses is None
        else statuses,
        len(walked),
    )


def count_statuses(checks: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """How often each check, by name and status, ended how: one row per name, in the order of their coming.

    >>> count_statuses([("a", "pass"), ("b", "fail"), ("a", "pass")]).loc["a"].tolist()
    [2, 0, 0, 0]
    """
    table = pd.DataFrame(list(checks), columns=["check", "status"])
    return pd.crosstab(table["check"], table["status"]).reindex(
        index=list(dict.fromkeys(table["check"])), columns=STATUSES, fill_value=0
    )


def not_measured(name: str, why: str) -> Check:
    """A check that could not be made, and why."""
    return Check(name, "info", f"{NOT_MEASURED}: {why}.", {})


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows that JSON can hold: what is not finite is None."""
    plain = table.astype(object).where(table.notna() & ~table.isin([np.inf, -np.inf]), None)
    return plain.to_dict("records")


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows)).infer_objects()
