"""Mean paths of walks with intervals, for plots: classifier and oracle, the reference, random moves, reverse.

Walks up and walks down are apart, because a mean over both would hide either. Every mean has Student's
interval over people (``groups``); a mean of one walk has none and is left out.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from explainer.bias.statistics import mean
from explainer.bias.walking import LEVELS, Crossing, Watched

__all__ = ["forward_paths", "reverse_paths"]

WAYS = (("up", 1), ("down", -1))


def forward_paths(
    crossing: Crossing,
    seen: Watched,
    reference: Crossing,
    beside: Watched,
    number: int,
    people: NDArray,
    alpha: float,
) -> dict[str, list[float]]:
    """Means along the walks of a classifier that crossed, up and down.

    Args:
        crossing: The walks of the classifier.
        seen: What the oracles say of them.
        reference: The walks of the reference.
        beside: What the oracles say of those.
        number: Of the oracle.
        people: Group of every audited image.
        alpha: 1 - coverage of the intervals.

    Returns:
        Of each way ("..., up", "..., down"): "count"; "asked", the levels; "classifier", what it gives the
        delivered frames; "oracle", what it gives the bare ones, with "oracle low" and "oracle high"; "start",
        the oracle before the walk; "random" [mean, low, high] after random moves of the same lengths; of the
        walks of the reference "reference level", "reference", "reference low" and "reference high".
    """
    paths: dict[str, list[float]] = {}
    for way, sign in WAYS:
        mine = crossing.crossed & (crossing.direction == sign)
        if mine.sum() < 2:
            continue
        own = people[crossing.rows[mine]]
        paths |= _band("oracle", way, seen.path[number, mine], own, alpha)
        random = mean(seen.random[number, mine], own, alpha=alpha)
        paths |= {
            f"count, {way}": [float(mine.sum())],
            f"asked, {way}": list(LEVELS),
            f"classifier, {way}": crossing.levels[mine].mean(axis=0).tolist(),
            f"start, {way}": [float(seen.start[number, mine].mean())],
            f"random, {way}": [random.value, random.low, random.high],
        }
        other = reference.crossed & (reference.direction == sign)
        if other.sum() >= 2:
            paths[f"reference level, {way}"] = reference.levels[other].mean(axis=0).tolist()
            paths |= _band("reference", way, beside.path[number, other], people[reference.rows[other]], alpha)
    return paths


def reverse_paths(
    back: Crossing, which: int, done: NDArray[np.bool_], people: NDArray, alpha: float
) -> dict[str, list[float]]:
    """Means before and after the walks of an oracle that count, up and down.

    Args:
        back: The walks of the oracle; the last watched classifier is the held one.
        which: Number of the watched classifier.
        done: Walks that arrived with the target held (N,).
        people: Group of every audited image.
        alpha: 1 - coverage of the intervals.

    Returns:
        Of each way, [before, after]: "reverse oracle", "reverse held", "reverse classifier" with "... low"
        and "... high"; "reverse count".
    """
    paths: dict[str, list[float]] = {}
    for way, sign in WAYS:
        mine = done & (back.direction == sign)
        if mine.sum() < 2:
            continue
        end = back.levels[mine, -1 if sign > 0 else 0]
        moved = np.stack([back.before[which, mine], back.after[which, mine]], axis=1)
        paths |= _band("reverse classifier", way, moved, people[back.rows[mine]], alpha)
        paths |= {
            f"reverse count, {way}": [float(mine.sum())],
            f"reverse oracle, {way}": [float(back.level[mine].mean()), float(end.mean())],
            f"reverse held, {way}": [float(back.before[-1, mine].mean()), float(back.after[-1, mine].mean())],
        }
    return paths


def _band(name: str, way: str, values: NDArray, people: NDArray, alpha: float) -> Mapping[str, list[float]]:
    """Means (L,) of values (N, L) with their intervals."""
    effects = [mean(column, people, alpha=alpha) for column in values.T]
    return {
        f"{name}, {way}": [effect.value for effect in effects],
        f"{name} low, {way}": [effect.low for effect in effects],
        f"{name} high, {way}": [effect.high for effect in effects],
    }
