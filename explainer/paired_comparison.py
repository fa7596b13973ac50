r"""Which differences between methods are real: all are measured on the same images, so compare in pairs.

A measure of a method is a function of a sum over images, :math:`m = f(\sum_i w_i c_i)`, with columns
:math:`c_i` that hold all of an image's answers: its area under the curve (then f divides by the number of
images), or a one in the cell of each contingency table it falls into (then f is the area under the mutual
information). Hence

* intervals: images are drawn with replacement (:func:`scipy.stats.bootstrap`, expanded percentiles), all
  methods on the same draws, so the interval of a difference is a paired one;
* tests: under the hypothesis that two methods are equal, their answers to an image may be exchanged; ``p`` is
  the share of random exchanges with a difference as large on either side, the data counted as one of them
  (Phipson & Smyth 2010);
* many tests: false discovery rate of each measure's family (Benjamini & Hochberg 1995,
  :func:`scipy.stats.false_discovery_control`).

Images of one person or patient are no independent evidence: with ``groups`` whole groups are drawn and
exchanged. An estimated information is corrected by its permutation null; a resample is biased once more, by
what the mean of the resamples shows, so they are moved back to the estimate (:func:`moved_to`). Where two
lists of many classes agree almost always, the permutation null is more than the bias: the estimate and its
interval are then too low.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Measure", "areas", "differences", "distribution", "mean_of_columns", "moved_to", "percentiles"]

SIGNIFICANT = 0.05
Finish = Callable[[NDArray, NDArray], NDArray]


def mean_of_columns(sums: NDArray, weight: NDArray) -> NDArray:
    """The finish of a measure that is a mean: sums ``(B, P)`` over weights ``(B,)``, mean over columns."""
    return sums.mean(axis=1) / weight


@dataclass(frozen=True)
class Measure:
    """One number per method, as a function of sums over images.

    Attributes:
        name: For tables.
        lower_is_better: Otherwise higher.
        columns: For each method ``(N, P)``.
        finish: From sums ``(B, P)`` and summed weights ``(B,)`` to ``(B,)``.
        null: For each method what chance adds to it.
    """

    name: str
    lower_is_better: bool
    columns: Mapping[str, NDArray]
    finish: Finish
    null: Mapping[str, float]

    def value(self, method: str) -> float:
        """The measure of one method on the images as they are."""
        columns = self.columns[method]
        whole = self.finish(columns.sum(axis=0, dtype=np.float64)[None], np.array([float(len(columns))]))
        return float(whole[0]) - self.null[method]


def distribution(
    statistic: Callable[[NDArray], NDArray], groups: NDArray[np.int64], *, resamples: int, seed: int
) -> NDArray:
    """What a statistic is on resampled images.

    Args:
        statistic: From weights of images ``(B, N)`` to values ``(T, B)``.
        groups: The group ``0, 1, ...`` of each image ``(N,)``.
        resamples: ``R``.
        seed: Of the draws.

    Returns:
        ``(T, R)``.
    """
    count = int(groups.max()) + 1

    def of_drawn(drawn: NDArray, axis: int = -1) -> NDArray:
        rows = np.atleast_2d(drawn)
        flat = (rows + count * np.arange(len(rows))[:, None]).ravel()
        weights = np.bincount(flat, minlength=count * len(rows)).reshape(len(rows), count)
        values = statistic(weights[:, groups].astype(np.float32))
        return values if drawn.ndim == 2 else values[:, 0]

    found = stats.bootstrap(
        (np.arange(count),), of_drawn, vectorized=True, n_resamples=resamples, batch=250, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return found.bootstrap_distribution


def percentiles(values: NDArray, confidence: float, count: int) -> tuple[NDArray, NDArray]:
    r"""Lower and upper bound along the last axis of resampled values.

    The plain percentiles are too narrow for few images, as a normal interval with the variance over ``n`` is;
    the expanded ones (Hesterberg 2015, arXiv 1411.5279) put the tail at
    :math:`\Phi(-\sqrt{n / (n - 1)}\, t_{\alpha / 2, n - 1})`.

    Args:
        values: ``(..., R)``.
        confidence: Of the interval.
        count: Independent images or groups ``n``, at least 2.
    """
    tail = stats.norm.cdf(math.sqrt(count / (count - 1)) * stats.t.ppf((1 - confidence) / 2, count - 1))
    low, high = np.quantile(values, [tail, 1 - tail], axis=-1)
    return low, high


def moved_to(values: NDArray, drawn: NDArray) -> NDArray:
    """Resampled values ``(..., R)`` without the bias that resampling has added to the values ``(...)``.

    >>> moved_to(np.array([2.0]), np.array([[2.5, 3.5, 4.5]]))
    array([[1., 2., 3.]])
    """
    return drawn - drawn.mean(axis=-1, keepdims=True) + values[..., None]


def areas(
    measures: Sequence[Measure], groups: NDArray[np.int64], *, resamples: int, confidence: float, seed: int
) -> tuple[pd.DataFrame, dict[str, NDArray]]:
    """Each measure of each method with its interval, and the resampled values ``{measure: (methods, R)}``."""
    rows, drawn = [], {}
    several = int(groups.max()) > 0
    for measure in measures:
        methods = list(measure.columns)
        if several:
            drawn[measure.name] = distribution(
                partial(_of_all, measure), groups, resamples=resamples, seed=seed
            )
            if any(measure.null.values()):
                found = np.array([measure.value(method) for method in methods])
                drawn[measure.name] = moved_to(found, drawn[measure.name])
            low, high = percentiles(drawn[measure.name], confidence, int(groups.max()) + 1)
        else:
            low = high = np.full(len(methods), np.nan)
        rows += [
            {
                "measure": measure.name,
                "method": method,
                "area": measure.value(method),
                "low": low[k],
                "high": high[k],
            }
            for k, method in enumerate(methods)
        ]
    return pd.DataFrame(rows), drawn


def differences(
    measures: Sequence[Measure],
    drawn: Mapping[str, NDArray],
    groups: NDArray[np.int64],
    *,
    exchanges: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Every pair of methods: difference, paired interval, p, and q after control of the false discovery rate.

    Args:
        measures: What is compared.
        drawn: Resampled values of :func:`areas`.
        groups: The group of each image.
        exchanges: Random exchanges of a test.
        confidence: Of the intervals.
        seed: Of the exchanges.

    Returns:
        Columns ``measure``, ``method``, ``other``, ``difference`` (method - other), ``low``, ``high``, ``p``,
        ``q``, ``real``; empty for one image.
    """
    columns = ["measure", "method", "other", "difference", "low", "high", "p", "q", "real"]
    count = int(groups.max()) + 1
    swaps = np.random.default_rng(seed).integers(0, 2, (exchanges, count))[:, groups].astype(np.float32)
    tables = []
    for measure in measures:
        rows = []
        if measure.name not in drawn:
            continue
        for (a, first), (b, second) in combinations(enumerate(measure.columns), 2):
            low, high = percentiles(drawn[measure.name][a] - drawn[measure.name][b], confidence, count)
            rows.append(
                (
                    measure.name, first, second, measure.value(first) - measure.value(second),
                    float(low), float(high), _exchange_test(measure, first, second, swaps),
                )
            )  # fmt: skip
        if rows:
            table = pd.DataFrame(rows, columns=columns[:-2])
            table["q"] = stats.false_discovery_control(table["p"], method="bh")
            table["real"] = table["q"] <= SIGNIFICANT
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _of_all(measure: Measure, weights: NDArray) -> NDArray:
    """Resampled values ``(methods, B)``."""
    total = weights.sum(axis=1, dtype=np.float64)
    return np.stack(
        [
            measure.finish((weights @ columns).astype(np.float64), total)
            for columns in measure.columns.values()
        ]
    )


def _exchange_test(measure: Measure, first: str, second: str, swaps: NDArray) -> float:
    one, two = measure.columns[first], measure.columns[second]
    gap = one - two
    if not gap.any():
        return 1.0
    moved = (swaps @ gap).astype(np.float64)
    sums = one.sum(axis=0, dtype=np.float64), two.sum(axis=0, dtype=np.float64)
    weight = np.full(len(swaps), float(len(one)))
    exchanged = measure.finish(sums[0] - moved, weight) - measure.finish(sums[1] + moved, weight)
    found = float((measure.finish(sums[0][None], weight[:1]) - measure.finish(sums[1][None], weight[:1]))[0])
    # Rounding must not make the data's own difference smaller than itself.
    as_large = np.abs(exchanged) >= abs(found) - 1e-9 * max(1.0, abs(found))
    return float((1 + as_large.sum()) / (1 + len(swaps)))
