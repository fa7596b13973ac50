"""All checks of walked images, in one batch, in the order in which they are shown.

Those of single walks are made of every walk (:func:`run_checks`); those that need a set are made once for
all of it (:func:`run_set_checks`). What costs more than the walk itself is never a default: distilling a
surrogate, fitting an identity, and for a single image the tenfold composition.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from explainer.checks.base import UNMOVED, Check, Thresholds
from explainer.checks.compatibility import Calibration, calibration, compatibility, rounding, saturation
from explainer.checks.consistency import (
    code_typicality,
    composition,
    latent_closeness,
    reconstruction,
    reconstruction_gap,
    reencoded,
)
from explainer.checks.ends import Ends
from explainer.checks.identity import Identity, identity_kept, load_identity
from explainer.checks.nulls import random_directions
from explainer.checks.realism import Realism
from explainer.checks.robustness import FEWEST_PAIRED, detail_swap, stability
from explainer.checks.soundness import code_cycle, responding
from explainer.checks.surrogate import Surrogate, surrogate_curve
from explainer.checks.walk_back import scene_of_ends, walk_back
from explainer.checks.walked import Walked
from explainer.generators.base import Generator
from explainer.metrics import Interval
from explainer.target import SCORE_TOLERANCE

__all__ = ["SetChecks", "default_identity", "run_checks", "run_set_checks"]

COMPOSED = 4


def default_identity(generator: Generator) -> Identity | None:
    """The identity that belongs to a generator: that of the zoo for its faces, none for anything else."""
    return load_identity("faces") if generator.source == "faces" else None


def run_checks(
    walked: Sequence[Walked],
    *,
    identity: Identity | None = None,
    thorough: bool = False,
    seed: int = 0,
) -> list[tuple[Check, ...]]:
    """The checks of every walk, together faster than the walk was.

    Args:
        walked: Walks of one scene.
        identity: Who is who, see :func:`default_identity`; without it identity is not checked.
        thorough: Also reconstruct every image ten times in a row, which takes half as long as the walk.
        seed: Of the noise and the random directions.

    Returns:
        One tuple of checks for each walk, in their order.
    """
    if not walked:
        return []
    limits = walked[0].thresholds
    in_levels = _in_levels(walked[0], limits)
    ends = Ends.of(walked)
    far = ends.far()
    shared = responding(walked, limits, seed=seed)
    cycles = code_cycle(walked, limits)
    again, returned = _returned(walked, far, limits)
    stable = stability(walked, ends, limits, seed=seed)
    random = random_directions(walked, far, limits, seed=seed) if len(far) else _unmoved(walked)
    kept = identity_kept(walked, ends, identity, limits) if identity else []
    checks = []
    for image, each in enumerate(walked):
        bare = each.bare.image[None].to(each.small)
        found = [
            reconstruction(each.generator, each.small, limits, bare),
            reconstruction_gap(
                each.original.score, each.bare.score, each.original.class_name, each.bare.class_name, limits
            ),
            *shared,
            cycles[image],
            compatibility(each.table["level"], each.table["achieved"], each.table["reason"], in_levels),
            rounding(each.table["achieved"], each.table["rounded"], in_levels),
            saturation(each, limits),
            code_typicality(each.generator, each.latents, limits),
            again[image],
            returned[image],
            stable[image],
            random[image],
            *([kept[image]] if kept else []),
            latent_closeness(each.z, each.latents),
        ]
        if thorough:
            found.append(composition(each.generator, each.small, limits))
        checks.append(tuple(_written(check) for check in found))
    return checks


@dataclass(frozen=True)
class SetChecks:
    """What can only be said of a set of walks.

    Attributes:
        checks: Of the set, with a judgement each.
        calibration: Levels asked for against achieved.
        closeness: Quantiles (5, 50, 95 %) of the lowest cosine between the codes of image and frames.
        surrogate: Share of walks that a surrogate sees on the requested side, by level; empty without one.
        realism: Distances from real images; None unless given.
        statuses: One row per check of the single walks: how many passed, passed with limits, failed.
    """

    checks: tuple[Check, ...]
    calibration: Calibration
    closeness: Mapping[str, float]
    surrogate: tuple[tuple[float, Interval], ...]
    realism: Realism | None
    statuses: pd.DataFrame


def run_set_checks(
    walked: Sequence[Walked],
    checks: Sequence[Sequence[Check]],
    *,
    surrogate: Surrogate | None = None,
    realism: Realism | None = None,
    seed: int = 0,
) -> SetChecks:
    """The checks of a set of walks to the same levels.

    Args:
        walked: Walks of one scene, at least one.
        checks: What :func:`run_checks` found of them.
        surrogate: A network distilled from the classifier, see :func:`fit_surrogate`.
        realism: What :func:`explainer.checks.realism.realism` found, to be kept with the rest.
        seed: Of the pairs of the detail swap.
    """
    first, limits = walked[0], walked[0].thresholds
    scene = first.scene
    in_levels = _in_levels(first, limits)
    achieved = [each.table["achieved"].tolist() for each in walked]
    calibrated = calibration(first.table["level"].tolist(), achieved, in_levels.level_error)
    members = torch.tensor([each.row for each in walked[:COMPOSED]])
    found = [calibrated.check(limits), composition(first.generator, scene.small[members], limits)]
    if len(scene.images) >= FEWEST_PAIRED and scene.detail.strength > 0:
        found.append(detail_swap(scene, limits, seed=seed))
    curve: tuple[tuple[float, Interval], ...] = ()
    if surrogate is not None:
        points, check = surrogate_curve(walked, surrogate, limits)
        curve = tuple(points)
        found.append(check)
    cosines = [float(torch.cosine_similarity(each.z[None], each.latents, dim=1).min()) for each in walked]
    quantiles = zip(("5 %", "50 %", "95 %"), np.quantile(cosines, [0.05, 0.5, 0.95]).tolist(), strict=True)
    rows = [(check.name, check.status) for each in checks for check in each]
    table = pd.DataFrame(rows, columns=["check", "status"])
    statuses = pd.crosstab(table["check"], table["status"]).reindex(
        index=list(dict.fromkeys(table["check"])), columns=["pass", "limit", "fail", "info"], fill_value=0
    )
    return SetChecks(
        tuple(_written(check) for check in found), calibrated, dict(quantiles), curve, realism, statuses
    )


def _returned(walked: Sequence[Walked], far: Ends, limits: Thresholds) -> tuple[list[Check], list[Check]]:
    """Re-encoding and walking back, which share the codes of the far ends."""
    if not len(far):
        return _unmoved(walked, "re-encoding"), _unmoved(walked, "walk back")
    arrived = scene_of_ends(far)
    return reencoded(walked, far, arrived.z, limits), walk_back(walked, far, arrived, limits)


def _written(check: Check) -> Check:
    """A check whose numbers can be written as JSON, which knows no NaN; none passes on such a number."""
    values = {
        name: value if isinstance(value, str) or math.isfinite(value) else "not finite"
        for name, value in check.values.items()
    }
    if check.status == "pass" and "not finite" in values.values():
        return replace(check, status="limit", values=values)
    return replace(check, values=values)


def _unmoved(walked: Sequence[Walked], name: str = "random direction") -> list[Check]:
    return [Check(name, "info", UNMOVED, {}) for _ in walked]


def _in_levels(walked: Walked, limits: Thresholds) -> Thresholds:
    """The thresholds of levels in the unit of the target's levels: 1, or one interquartile range."""
    unit = walked.target.tolerance / SCORE_TOLERANCE
    return replace(
        limits,
        level_error=limits.level_error * unit,
        rounding=limits.rounding * unit,
        rounding_fail=limits.rounding_fail * unit,
    )
