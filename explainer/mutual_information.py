r"""Mutual information of two lists of classes, many at once, with what chance alone would give taken off.

.. math:: I(A; B) = \sum_{a,b} p_{ab} \log \frac{p_{ab}}{p_a p_b} \quad \text{nats}

from the counts of a contingency table (:func:`sklearn.metrics.mutual_info_score` for one table; a test
compares). The estimate is too high by about :math:`(K - 1)^2 / 2N` (Miller 1955), because the table of two
independent lists is never exactly independent; the mean over random permutations of one of them is taken off.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["classes_as_columns", "information", "joint_columns", "permutation_null"]


def information(counts: NDArray) -> NDArray[np.float64]:
    """Mutual information in nats of contingency tables ``(..., K, L)``; 0 for an empty table.

    >>> information(np.array([[5, 0], [0, 5]])).round(6)
    np.float64(0.693147)
    """
    table = np.asarray(counts, dtype=np.float64)
    total = table.sum(axis=(-2, -1))
    entropy = _sum_of_logs(table).sum(axis=(-2, -1))
    margins = _sum_of_logs(table.sum(axis=-1)).sum(axis=-1) + _sum_of_logs(table.sum(axis=-2)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (entropy - margins) / total + np.log(total)
    return np.where(total > 0, np.maximum(value, 0.0), 0.0)[()]


def classes_as_columns(classes: NDArray, count: int) -> NDArray[np.float32]:
    """One column per class, ``(..., count)``: 1 where the class is that one."""
    return (classes[..., None] == np.arange(count)).astype(np.float32)


def joint_columns(first: NDArray, second: NDArray, count: int) -> NDArray[np.float32]:
    """One column per pair of classes, so that sums over rows are contingency tables.

    Args:
        first: ``(N,)``.
        second: ``(N, ...)``.
        count: Number ``K`` of classes.

    Returns:
        ``(N, ..., K * K)``.
    """
    spread = first.reshape(-1, *[1] * (second.ndim - 1))
    return classes_as_columns(spread * count + second, count * count)


def permutation_null(
    first: NDArray, second: NDArray, count: int, *, shuffles: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """Mean mutual information after random permutations of ``first``.

    Args:
        first: Classes ``(N,)``.
        second: Classes ``(N, T)``: T lists.
        count: Number ``K`` of classes.
        shuffles: Number of permutations.
        seed: Of the permutations.

    Returns:
        ``(T,)`` nats.
    """
    stream = np.random.default_rng(seed)
    shuffled = np.stack([stream.permutation(first) for _ in range(shuffles)])
    rows = classes_as_columns(shuffled, count).transpose(0, 2, 1).reshape(shuffles * count, len(first))
    total = np.zeros(second.shape[1])
    lists = max(1, 2_000_000 // (shuffles * count * count))  # bounds the memory
    for start in range(0, second.shape[1], lists):
        columns = classes_as_columns(second[:, start : start + lists], count)
        width = columns.shape[1]
        tables = (rows @ columns.reshape(len(first), -1)).reshape(shuffles, count, width, count)
        total[start : start + width] = information(tables.transpose(0, 2, 1, 3)).mean(axis=0)
    return total


def _sum_of_logs(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """``x log x`` with ``0 log 0 = 0``."""
    return table * np.log(np.where(table > 0, table, 1.0))
