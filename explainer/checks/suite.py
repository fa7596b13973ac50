"""All checks of single walks, in one batch, in the order in which they are shown.

Each is of one image alone, and the same whatever other images are checked with it; those that need a set are
in :mod:`explainer.checks.sets`. What costs more than the walk itself is never a default: fitting an identity,
and for a single image the tenfold composition.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from explainer.checks.base import UNMOVED, Check, Thresholds
from explainer.checks.compatibility import compatibility, rounding, saturation
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
from explainer.checks.robustness import stability
from explainer.checks.soundness import code_cycle, responding
from explainer.checks.walk_back import scene_of_ends, walk_back
from explainer.checks.walked import Walked
from explainer.generators.base import Generator
from explainer.target import SCORE_TOLERANCE

__all__ = ["default_identity", "in_levels", "run_checks", "written"]


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
    levels = in_levels(walked[0], limits)
    ends = Ends.of(walked)
    far = ends.far()
    sound = responding(walked, limits, seed=seed)
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
            *sound[image],
            cycles[image],
            compatibility(each.table["level"], each.table["achieved"], each.table["reason"], levels),
            rounding(each.table["achieved"], each.table["rounded"], levels),
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
        checks.append(tuple(written(check) for check in found))
    return checks


def _returned(walked: Sequence[Walked], far: Ends, limits: Thresholds) -> tuple[list[Check], list[Check]]:
    """Re-encoding and walking back, which share the codes of the far ends."""
    if not len(far):
        return _unmoved(walked, "re-encoding"), _unmoved(walked, "walk back")
    arrived = scene_of_ends(far)
    return reencoded(walked, far, arrived.z, limits), walk_back(walked, far, arrived, limits)


def written(check: Check) -> Check:
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


def in_levels(walked: Walked, limits: Thresholds) -> Thresholds:
    """The thresholds of levels in the unit of the target's levels: 1, or one interquartile range."""
    unit = walked.target.tolerance / SCORE_TOLERANCE
    return replace(
        limits,
        level_error=limits.level_error * unit,
        rounding=limits.rounding * unit,
        rounding_fail=limits.rounding_fail * unit,
    )
