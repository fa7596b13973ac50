"""Does the classifier say of every frame what was asked for?

Compatibility with f of Singla et al. 2020 (arXiv 1911.00483), on the delivered frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from explainer.checks.base import Check, Thresholds, status_above
from explainer.checks.walked import Walked
from explainer.metrics import Interval, wilson_interval

__all__ = ["Calibration", "calibration", "calibration_of", "compatibility", "rounding", "saturation"]


def compatibility(
    levels: Sequence[float], achieved: Sequence[float], reasons: Sequence[str], thresholds: Thresholds
) -> Check:
    """Requested against achieved level of every frame, and whether the frames are monotone.

    Args:
        levels: Requested, ascending.
        achieved: Achieved, in the same order.
        reasons: Why a level was not reached; empty where it was.
        thresholds: See :class:`Thresholds`.
    """
    errors = np.abs(np.asarray(levels) - np.asarray(achieved))
    reached = errors <= thresholds.level_error
    monotone = bool((np.diff(achieved) >= -thresholds.monotone).all())
    values: dict[str, float | str] = {
        "reached": float(reached.mean()), "largest error": float(errors.max()), "monotone": str(monotone),
    }  # fmt: skip
    count = f"{int(reached.sum())} of {len(errors)} levels"
    if reached.mean() < thresholds.reached_limit:
        why = next((reason for reason in reasons if reason), "the frames miss their levels")
        return Check("compatibility", "fail", f"The walk reached only {count}: {why}.", values)
    if not monotone:
        return Check(
            "compatibility", "fail", "The achieved levels are not monotone along the frames.", values
        )
    if not reached.all():
        why = next((reason for reason in reasons if reason), f"the largest error is {errors.max():.3f}")
        return Check("compatibility", "limit", f"The walk reached {count}: {why}.", values)
    return Check(
        "compatibility",
        "pass",
        f"The classifier says of every frame what was asked for, to within {errors.max():.3f}.",
        values,
    )


def rounding(achieved: Sequence[float], rounded: Sequence[float], thresholds: Thresholds) -> Check:
    """Do the frames keep their levels when rounded to the 8 bits of an image file?"""
    change = float(np.abs(np.asarray(achieved) - np.asarray(rounded)).max())
    values: dict[str, float | str] = {"largest change": change}
    if change <= thresholds.rounding:
        return Check(
            "8-bit frames",
            "pass",
            f"Rounded to 8 bits, every frame keeps its level to within {change:.3f}.",
            values,
        )
    return Check(
        "8-bit frames",
        "limit" if change <= thresholds.rounding_fail else "fail",
        f"Rounding to 8 bits moves a level by {change:.3f}: the classifier reads differences nobody can see.",
        values,
    )


def saturation(walked: Walked, thresholds: Thresholds) -> Check:
    """Is the classifier so sure of the image that all levels lie in one place of the walk?

    Of a log-odds of 60 nine tenths are walked before the first level is met: the frames then show what the
    walk did on the way, not what makes the difference between two levels.
    """
    score = abs(walked.original.score)
    latents = walked.latents
    longest = float((latents - walked.z).norm(dim=1).max())
    span = float((latents[-1] - latents[0]).norm()) / max(longest, 1e-12)
    values: dict[str, float | str] = {"score of the image": walked.original.score, "span of the levels": span}
    if walked.target.measure == "value":
        return Check("saturation", "info", "A value of a regression does not saturate.", values)
    status = status_above(score, thresholds.saturation_limit, thresholds.saturation_fail)
    said = f"The classifier's log-odds on the image are {walked.original.score:+.1f}"
    if status == "pass":
        return Check("saturation", "pass", f"{said}: it is not saturated.", values)
    return Check(
        "saturation",
        status,
        f"{said}: it is saturated, that is almost certain, and turns from one answer to the other within "
        f"{span:.0%} of the walk's length, where all frames lie; levels in between mean little.",
        values,
    )


@dataclass(frozen=True)
class Calibration:
    """Levels asked for against levels achieved, over the walks of a set.

    Attributes:
        table: One row per level: ``level``, ``walks`` (asked for it), ``mean``, ``low`` and ``high`` (5 and
            95 % quantiles) of what was achieved, ``largest error``, ``reached`` and ``unreached``
            (counts), the bounds ``reached low`` and ``reached high`` of the share that was reached (Wilson),
            and ``not finite``, a count. A level that is not finite is unreached, and in no mean.
        monotone: Share of the walks whose achieved levels never fall, with its interval.
        walks: Number of walks.
        unexplained: Images of the set that have no walk. They are in none of these counts, but the check
            takes none of their levels for reached.
    """

    table: pd.DataFrame
    monotone: Interval
    walks: int
    unexplained: int = 0

    @property
    def unreached(self) -> int:
        """Frames that missed their level."""
        return int(self.table["unreached"].sum())

    def check(self, thresholds: Thresholds) -> Check:
        """All levels of all images, summed up; what was not reached counts as a failure.

        An image without a walk counts as if it had missed as many levels as a walk has on average.
        """
        frames = int(self.table["walks"].sum())
        share = (1 - self.unreached / frames) * self.walks / (self.walks + self.unexplained)
        values: dict[str, float | str] = {
            "walks": float(self.walks), "frames": float(frames), "unreached": float(self.unreached),
            "largest error": float(self.table["largest error"].max()), "monotone": self.monotone.estimate,
            "images without a walk": float(self.unexplained), "reached, of all images": share,
        }  # fmt: skip
        said = (
            f"Of {frames} frames {self.unreached} missed their level; {self.monotone.estimate:.1%} of "
            f"{self.walks} walks are monotone"
        )
        if self.unexplained:
            said += (
                f", and {self.unexplained} further images could not be explained: of the levels of all "
                f"images {share:.1%} were reached"
            )
        if share < thresholds.reached_limit or self.monotone.estimate < thresholds.reached_limit:
            return Check("calibration", "fail", f"{said}.", values)
        clean = self.unreached == self.unexplained == 0 and self.monotone.estimate == 1
        return Check("calibration", "pass" if clean else "limit", f"{said}.", values)


def calibration(
    levels: Sequence[float],
    achieved: Sequence[Sequence[float]],
    tolerance: float,
    *,
    slack: float = Thresholds.monotone,
) -> Calibration:
    """Calibration of a set of walks to the same levels.

    Args:
        levels: ``(L,)`` asked for, ascending.
        achieved: ``(N, L)``, what the classifier says of the delivered frames.
        tolerance: Largest error of a level that was reached.
        slack: Largest fall of a level that is none.

    >>> found = calibration([0.1, 0.9], [[0.11, 0.9], [0.1, 0.6]], 0.02)
    >>> found.table["unreached"].tolist(), found.monotone.estimate
    ([0, 1], 1.0)
    """
    wanted = np.asarray(levels, dtype=float)
    rows = [np.asarray(row, dtype=float) for row in achieved]
    return calibration_of([(wanted, row, np.abs(row - wanted) <= tolerance) for row in rows], slack=slack)


def calibration_of(
    walks: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    slack: float | Sequence[float] = Thresholds.monotone,
    unexplained: int = 0,
) -> Calibration:
    """Calibration of walks that need not have been asked for the same levels.

    Args:
        walks: Of each walk the levels asked for, ascending, those achieved, and whether each was reached.
        slack: Largest fall of a level, as a share of what a walk spans if that is more than 1, that is none;
            one for all walks, or one for each.
        unexplained: Images without a walk.
    """
    asked, got, met = ([np.asarray(walk[place], dtype=float) for walk in walks] for place in range(3))
    rising = [
        bool((np.diff(row) >= -fall * max(1.0, float(np.ptp(levels)))).all())
        for levels, row, fall in zip(asked, got, np.broadcast_to(slack, len(walks)).tolist(), strict=True)
    ]
    frames = pd.DataFrame(
        {
            "level": np.concatenate(asked).round(9),
            "achieved": np.concatenate(got),
            "reached": np.concatenate(met).astype(bool),
        }
    )
    rows = [_level(float(level), of_level) for level, of_level in frames.groupby("level")]
    return Calibration(pd.DataFrame(rows), wilson_interval(sum(rising), len(rising)), len(walks), unexplained)


def _level(level: float, frames: pd.DataFrame) -> dict[str, float | int]:
    """The row of one level."""
    count, reached = len(frames), int(frames["reached"].sum())
    finite = frames.loc[np.isfinite(frames["achieved"]), "achieved"].to_numpy()
    share = wilson_interval(reached, count)
    low, high = np.quantile(finite, [0.05, 0.95]).tolist() if len(finite) else (np.nan, np.nan)
    return {
        "level": level,
        "walks": count,
        "mean": float(finite.mean()) if len(finite) else np.nan,
        "low": low,
        "high": high,
        "largest error": float(np.abs(finite - level).max()) if len(finite) else np.nan,
        "reached": reached,
        "unreached": count - reached,
        "reached low": share.low,
        "reached high": share.high,
        "not finite": count - len(finite),
    }
