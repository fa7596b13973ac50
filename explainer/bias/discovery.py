r"""Groups among walks: what some of them share, though no attribute names it.

Like spectral relevance analysis (Lapuschkin et al. 2019, arXiv 1902.10178), but on walks; walks up and walks
down are looked at apart. Two things are asked.

*Places.* A mark is a thing that looks alike and lies in one place in some images and not in the others. So in
every window of the image the changes that the walks make there, of all channels and of each, are split in two
(2-means) by

.. math:: c = \mathrm{SS}_{within} / \mathrm{SS}_{total}.

What many things may do in a window (an object that lies here or there) leaves much within the two parts; a
mark leaves little. Then the classifier is asked: how much of the change of its score does this window make
alone, taken from the end of the walk into its start, and from its start into the end (the mean of both, as in
a Shapley value of two players)? A group is claimed if it makes more of it than in the other walks. So a mark
that the generator moves along, but that the classifier does not read, is no finding.

*Moves.* The moves in the code are split along each of their leading principal components.

The null of places is a normal distribution (as in SigClust: Liu et al. 2008, JASA 103:1281) on a line:
2-means leaves :math:`1 - 2/\pi = 36` % of its variance, and more of one in several dimensions, so one
normal crowd is not cut. Outliers are, but small parts are not groups; a uniform distribution, of which a
quarter is left, may be, and then what the place does to the score must tell. Of moves nobody asks the
classifier, so their null is the uniform distribution (the reference of the gap statistic: Tibshirani,
Walther & Hastie 2001, JRSS B 63:411).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

__all__ = ["Cluster", "Effects", "Region", "describe_changes", "find_clusters", "place_name"]

GRID, WINDOW, STRIDE = 16, 4, 2
"""Cells of a side of the image, of a window, and between windows."""
STARTS = range(0, GRID - WINDOW + 1, STRIDE)
SHOWN = 8
COMPONENTS = 6
FEWEST, FEWEST_PEOPLE = 40, 10
DRAWS, LEAST_P = 2000, 1e-6
Region = tuple[float, float, float, float]
"""Top, left, bottom and right, as shares of the image."""
Effects = Callable[[NDArray[np.int64], Region], NDArray[np.float64]]
"""From positions of walks and a region to the share of the change of each score that the region makes."""


@dataclass(frozen=True, eq=False)
class Cluster:
    """Walks that resemble each other more than one crowd would.

    Attributes:
        rows: Positions of its walks among those given.
        direction: ``"up"`` or ``"down"``.
        share: Of the walks in that direction.
        p: Chance of so clean a split if there were only one crowd, over all splits that were looked at.
        where: Mean change of the image (8, 8), as a share of its largest value.
        distinct: How many times more this cluster changes its most peculiar place than the other walks do.
        region: The place that it changes alike; None of a group by its moves.
        effect: Mean share of the change of the score that the place makes alone, in its walks.
        effect_others: The same in the other walks of that direction.
    """

    rows: NDArray[np.int64]
    direction: str
    share: float
    p: float
    where: NDArray[np.float64]
    distinct: float
    region: Region | None = None
    effect: float = math.nan
    effect_others: float = math.nan


@dataclass(frozen=True, eq=False)
class _Split:
    """A split in two that one crowd would hardly give."""

    index: float
    p: float
    inside: NDArray[np.bool_]
    cell: tuple[int, int] | None


def describe_changes(before: Tensor, after: Tensor) -> NDArray[np.float64]:
    """Signed changes of images (N, C, H, W) on a grid: (N, C, 16, 16)."""
    return functional.adaptive_avg_pool2d(after - before, GRID).double().cpu().numpy()


def find_clusters(
    moves: NDArray[np.float64],
    changes: NDArray[np.float64],
    direction: NDArray,
    effects: Effects,
    *,
    people: NDArray | None = None,
    alpha: float = 0.01,
    least: float = 0.15,
    margin: float = 0.05,
    seed: int = 0,
) -> list[Cluster]:
    """Groups among walks, the clearest first.

    Args:
        moves: Moves of the codes (N, D), in prior standard deviations, counted upwards.
        changes: Of the images, see :func:`describe_changes`.
        direction: +1 or -1 (N,).
        effects: What a region does to the score, see :data:`Effects`.
        people: Person, patient ... of each walk (N,); each part must hold ten of them, and effects are
            compared by their means. By default every walk is its own.
        alpha: Of all splits of both directions together; not over classifiers.
        least: Smallest share of a direction's walks that is called a group by its place (of fewer, outliers
            would pass for one); by its moves a third more.
        margin: A group by its place makes at least so much more of the change of the score there than the
            other walks do (lower 95 % bound of the difference of means, Welch).
        seed: Of the null and of 2-means.
    """
    members = np.arange(len(moves)) if people is None else np.unique(people, return_inverse=True)[1]
    looks = [slice(None), *(slice(k, k + 1) for k in range(changes.shape[1]) if changes.shape[1] > 1)]
    looked = 2 * (len(looks) * len(STARTS) ** 2 + COMPONENTS)
    found: list[Cluster] = []
    for sign, name in ((1, "up"), (-1, "down")):
        rows = np.flatnonzero(direction == sign)
        if len(rows) < FEWEST:
            continue
        smallest = max(10, round(least * len(rows)))
        stream = np.random.default_rng(seed)
        null = _null(stream.normal(size=(len(rows), DRAWS)), smallest)
        splits = sorted(
            _places(changes[rows], looks, null, smallest, looked, seed), key=lambda split: split.index
        )
        taken: list[_Split] = []
        for split in [each for each in splits if each.p <= alpha]:
            assert split.cell is not None
            if any(_overlap(split.cell, other.cell) for other in taken if other.cell is not None):
                continue
            region = _region(split.cell)
            share = effects(rows, region)
            inside = split.inside
            if share[inside].mean() < share[~inside].mean():
                inside = ~inside
            mine, others = (_by_person(share[part], members[rows[part]]) for part in (inside, ~inside))
            if min(len(mine), len(others)) < FEWEST_PEOPLE:
                continue
            if not stats.ttest_ind(mine, others, equal_var=False).confidence_interval().low > margin:
                continue
            taken.append(replace(split, inside=inside))
            found.append(
                _cluster(
                    rows, inside, name, split.p, changes[rows], region=region,
                    effect=float(share[inside].mean()), effect_others=float(share[~inside].mean()),
                )
            )  # fmt: skip
        smallest = smallest * 4 // 3  # components of codes have more outliers than windows
        null = _null(stream.random((len(rows), DRAWS)), smallest)
        for split in _moves(moves[rows], null, smallest, looked):
            parts = [len(np.unique(members[rows[part]])) for part in (split.inside, ~split.inside)]
            if split.p > alpha or min(parts) < FEWEST_PEOPLE:
                continue
            if not any(_alike(split.inside, other.inside) for other in taken):
                taken.append(split)
                found.append(_cluster(rows, split.inside, name, split.p, changes[rows]))
    return sorted(found, key=lambda cluster: (cluster.p, -cluster.distinct))


def place_name(region: Region) -> str:
    """Where a region is, in words.

    >>> place_name((0.0, 0.0, 0.25, 0.25)), place_name((0.375, 0.375, 0.625, 0.625))
    ('top left', 'centre')
    """
    top, left, bottom, right = region
    names = (("top", "", "bottom"), ("left", "", "right"))
    said = [
        words[min(2, int(1.5 * (low + high)))]
        for words, low, high in zip(names, (top, left), (bottom, right), strict=True)
    ]
    return " ".join(word for word in said if word) or "centre"


def _places(
    changes: NDArray, looks: list[slice], null: NDArray, smallest: int, looked: int, seed: int
) -> list[_Split]:
    """One split for each window, of all channels and of each, in which both parts are large enough."""
    splits = []
    for top in STARTS:
        for left in STARTS:
            window = changes[:, :, top : top + WINDOW, left : left + WINDOW]
            for look in looks:
                labels, index = _two_means(window[:, look].reshape(len(changes), -1), seed)
                if min(labels.sum(), (~labels).sum()) >= smallest:
                    splits.append(_Split(index, _chance(index, null, looked), labels, (top, left)))
    return splits


def _moves(moves: NDArray, null: NDArray, smallest: int, looked: int) -> list[_Split]:
    """One split along each leading principal component; ``inside`` is the smaller part."""
    centred = moves - moves.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    kept = min(COMPONENTS, int((scale > 1e-9 * max(scale[0], 1e-12)).sum()))
    splits = []
    for score in left.T[:kept]:
        index, cut = _cut(np.sort(score)[:, None], smallest)
        above = score > np.sort(score)[cut[0]]
        inside = above if above.sum() * 2 <= len(above) else ~above
        splits.append(_Split(float(index[0]), _chance(float(index[0]), null, looked), inside, None))
    return splits


def _cluster(
    rows: NDArray, inside: NDArray, name: str, p: float, changes: NDArray, **place: Region | float
) -> Cluster:
    """A group with where it changes the image, and how unlike the other walks."""
    sizes = np.abs(changes).mean(axis=1)
    cells = SHOWN, GRID // SHOWN
    sizes = sizes.reshape(len(sizes), *cells, *cells).mean(axis=(2, 4))
    mine, others = sizes[inside].mean(0), sizes[~inside].mean(0)
    floor = 1e-3 * max(float(mine.max()), float(others.max()), 1e-12)
    return Cluster(
        rows=rows[inside], direction=name, share=float(inside.mean()), p=p,
        where=mine / max(float(mine.max()), 1e-12),
        distinct=float(((mine + floor) / (others + floor)).max()), **place,  # type: ignore[arg-type]
    )  # fmt: skip


def _by_person(values: NDArray, members: NDArray) -> NDArray:
    """Mean of the values of each person."""
    _, index = np.unique(members, return_inverse=True)
    return np.bincount(index, weights=values) / np.bincount(index)


def _null(samples: NDArray, smallest: int) -> NDArray:
    """The index of samples (N, DRAWS) of one crowd."""
    return _cut(np.sort(samples, axis=0), smallest)[0]


def _chance(index: float, null: NDArray, looked: int) -> float:
    """The p-value of one of so many splits (normal tail of the null, Bonferroni)."""
    p = float(stats.norm.cdf((index - null.mean()) / null.std()))
    return min(1.0, looked * max(p, LEAST_P))


def _cut(ordered: NDArray, smallest: int) -> tuple[NDArray, NDArray]:
    """The best split of sorted columns (N, M): its index (M,), and the last row of its lower part (M,)."""
    count = len(ordered)
    below = np.arange(1, count)[:, None]
    sums = np.cumsum(ordered, axis=0)
    means = sums[:-1] / below - (sums[-1] - sums[:-1]) / (count - below)
    between = below * (count - below) / count * means**2
    between = between[smallest - 1 : count - smallest]
    total = ((ordered - ordered.mean(axis=0)) ** 2).sum(axis=0)
    best = between.argmax(axis=0)
    return 1 - between.max(axis=0) / np.maximum(total, 1e-300), best + smallest - 1


def _two_means(data: NDArray, seed: int) -> tuple[NDArray[np.bool_], float]:
    """Two parts, and their index; 1 where nothing varies."""
    total = float(((data - data.mean(axis=0)) ** 2).sum())
    if total < 1e-12 * max(1.0, float((data**2).sum())):
        return np.zeros(len(data), bool), 1.0
    fitted = KMeans(2, n_init=3, random_state=seed).fit(data)
    return fitted.labels_ == 1, float(fitted.inertia_) / total


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) < WINDOW


def _alike(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether two splits are mostly the same."""
    same = float((one == other).mean())
    return max(same, 1 - same) > 0.8


def _region(cell: tuple[int, int]) -> Region:
    top, left = (place / GRID for place in cell)
    return top, left, top + WINDOW / GRID, left + WINDOW / GRID
