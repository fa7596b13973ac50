"""Does the classifier say of every frame what was asked for?

Compatibility with f of Singla et al. 2020 (arXiv 1911.00483), on the delivered frames.
"""

from collections.abc import Sequence

import numpy as np

from explainer.checks.base import Check, Thresholds

__all__ = ["compatibility", "rounding"]


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
    monotone = bool((np.diff(achieved) >= -1e-6).all())
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
        "limit",
        f"Rounding to 8 bits moves a level by {change:.3f}: the classifier reads differences nobody can see.",
        values,
    )
