r"""Clusters among explanations: what a group of walks shares, though no attribute names it.

Like spectral relevance analysis (Lapuschkin et al. 2019, arXiv 1902.10178), but on walks: every walk is
described by its move in the code, in prior standard deviations and counted upwards, and by where the
bare image changed. Walks up and walks down are looked at apart. A group is split in two (2-means) as long as
the split is unlike what one Gaussian with the same covariance would give:

.. math:: c = \mathrm{SS}_{within} / \mathrm{SS}_{total}

of the data against ``draws`` samples of that Gaussian (SigClust: Liu et al. 2008, JASA 103:1281). Clusters of
fewer than ``least`` of the images are left out, and so is the largest: it is what the others differ from.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

__all__ = ["Cluster", "describe_walks", "find_clusters"]

COMPONENTS = 12
GRID = 8


@dataclass(frozen=True, eq=False)
class Cluster:
    """Walks that resemble each other more than one crowd would.

    Attributes:
        rows: Positions of its walks among those given.
        direction: ``"up"`` or ``"down"``.
        share: Of the walks in that direction.
        p: Chance of so clean a split if there were only one crowd.
        where: Mean change of the image (8, 8), as a share of its largest value.
        distinct: How many times more this cluster changes its most peculiar place than the other walks do.
    """

    rows: NDArray[np.int64]
    direction: str
    share: float
    p: float
    where: NDArray[np.float64]
    distinct: float


def describe_walks(moves: Tensor, before: Tensor, after: Tensor) -> tuple[NDArray, NDArray]:
    """Features of walks and where they changed the image.

    Args:
        moves: Moves of the codes (N, D), in prior standard deviations, counted upwards.
        before: Bare images at the start (N, C, H, W).
        after: Bare images at the end.

    Returns:
        Features (N, F), both parts of equal weight; mean absolute change of the image on a grid (N, 8, 8).
    """
    change = (after - before).abs().mean(dim=1, keepdim=True)
    places = functional.adaptive_avg_pool2d(change, GRID)[:, 0].double().cpu().numpy()
    total = places.sum(axis=(1, 2), keepdims=True)
    where = np.divide(places, total, out=np.zeros_like(places), where=total > 0)
    parts = []
    for part in (moves.double().cpu().numpy(), where.reshape(len(where), -1)):
        centred = part - part.mean(axis=0)
        scale = np.sqrt((centred**2).sum(axis=1).mean())
        parts.append(centred / scale if scale > 0 else centred)
    return np.concatenate(parts, axis=1), places


def find_clusters(
    features: NDArray,
    places: NDArray,
    direction: NDArray,
    *,
    alpha: float = 0.01,
    least: float = 0.1,
    draws: int = 200,
    seed: int = 0,
) -> list[Cluster]:
    """Clusters among walks, the clearest first.

    Args:
        features: (N, F), see :func:`describe_walks`.
        places: (N, 8, 8).
        direction: +1 or -1 (N,).
        alpha: Of every split.
        least: Smallest share of a direction's walks that is called a cluster.
        draws: Samples of the null.
        seed: Of the null and of 2-means.
    """
    found: list[Cluster] = []
    for sign, name in ((1, "up"), (-1, "down")):
        rows = np.flatnonzero(direction == sign)
        if len(rows) < 40:
            continue
        leaves = sorted(_splits(features[rows], alpha, least, draws, seed), key=lambda leaf: len(leaf[0]))
        for members, p in leaves[:-1]:  # the largest is what the others differ from
            inside = np.zeros(len(rows), bool)
            inside[members] = True
            mine, others = places[rows[inside]].mean(0), places[rows[~inside]].mean(0)
            floor = 1e-3 * max(float(mine.max()), float(others.max()), 1e-12)
            found.append(
                Cluster(
                    rows=rows[members],
                    direction=name,
                    share=len(members) / len(rows),
                    p=p,
                    where=mine / max(float(mine.max()), 1e-12),
                    distinct=float(((mine + floor) / (others + floor)).max()),
                )
            )
    return sorted(found, key=lambda cluster: (cluster.p, -cluster.distinct))


def _splits(
    features: NDArray, alpha: float, least: float, draws: int, seed: int
) -> list[tuple[NDArray, float]]:
    """Members of the leaves of significant splits, with the p-value of the last split."""
    smallest = max(10, round(least * len(features)))
    leaves: list[tuple[NDArray, float]] = []
    pending = [(np.arange(len(features)), 1.0)]
    while pending:
        members, p = pending.pop()
        outcome = _split(features[members], draws, seed) if len(members) >= 2 * smallest else None
        if outcome is None or outcome[1] > alpha or min(np.bincount(outcome[0], minlength=2)) < smallest:
            leaves.append((members, p))
            continue
        labels, chance = outcome
        pending += [(members[labels == side], chance) for side in (0, 1)]
    return leaves


def _split(features: NDArray, draws: int, seed: int) -> tuple[NDArray, float] | None:
    """A split in two and its p-value under one Gaussian with the same leading covariance."""
    centred = features - features.mean(axis=0)
    scores, scale, _ = np.linalg.svd(centred, full_matrices=False)
    kept = min(COMPONENTS, int((scale > 1e-9 * max(scale[0], 1e-12)).sum()))
    if kept < 1:
        return None
    data = scores[:, :kept] * scale[:kept]
    labels, index = _two_means(data, seed)
    stream = np.random.default_rng(seed)
    deviation = data.std(axis=0)
    null = [_two_means(stream.normal(size=data.shape) * deviation, seed)[1] for _ in range(draws)]
    return labels, (1 + sum(value <= index for value in null)) / (draws + 1)


def _two_means(data: NDArray, seed: int) -> tuple[NDArray, float]:
    fitted = KMeans(2, n_init=3, random_state=seed).fit(data)
    total = ((data - data.mean(axis=0)) ** 2).sum()
    return fitted.labels_, float(fitted.inertia_ / total) if total else 1.0
