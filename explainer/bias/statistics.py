r"""Effects with intervals and tests, for images that may come in groups.

=====================  ==========================================================================
effect                 interval and one-sided test of "not beyond a margin"
=====================  ==========================================================================
share of images        Wilson's score interval (1927)
paired difference      Tango's score interval of two dependent shares (1998)
mean of a quantity     Student's t
=====================  ==========================================================================

Several images of one person are not independent evidence. Groups enter as a *design effect*: the
cluster-robust variance of the mean over the variance of independent images,

.. math:: d = \frac{G}{G - 1} \frac{\sum_g (\sum_{i \in g} (v_i - \bar v))^2 / n^2}{s^2 / n},
          \qquad d \ge 1,

by which the number of images (and of every kind of outcome) is divided before the formulas above are
used (Rao & Scott 1992; for Wilson's interval Dean & Pagano 2015); a mean uses the cluster-robust
standard error and G - 1 degrees of freedom (Liang & Zeger 1986).

Score intervals are used because the bootstrap's percentiles cover too little where an outcome is rare.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from explainer.errors import OptionError

__all__ = ["Effect", "design_effect", "false_discovery", "mean", "paired_difference", "share"]


@dataclass(frozen=True)
class Effect:
    """A number, how well it is known, and whether it is beyond a margin.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        n: Images it rests on.
        groups: People, patients ... they come from; ``n`` where every image is its own.
        p: One-sided p-value of "the effect is not larger than the margin in the direction it has".
        margin: The margin of ``p``.
    """

    value: float
    low: float
    high: float
    n: int
    groups: int
    p: float
    margin: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"

    @property
    def known(self) -> bool:
        """Whether there was anything to estimate it from."""
        return math.isfinite(self.value) and math.isfinite(self.low) and math.isfinite(self.high)

    def beyond(self, margin: float) -> bool:
        """Whether the whole interval lies beyond the margin, on either side of zero."""
        return self.known and (self.low > margin or self.high < -margin)

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies closer to zero than the margin."""
        return self.known and self.high < margin and self.low > -margin


def share(
    outcomes: ArrayLike, groups: ArrayLike | None = None, *, margin: float = 0.0, alpha: float = 0.05
) -> Effect:
    """Share of images with an outcome.

    Args:
        outcomes: Booleans (N,).
        groups: Person, patient ... of each image (N,); None if each is its own.
        margin: The test asks whether the share is larger.
        alpha: 1 - coverage of the interval.

    >>> print(share([True] * 3 + [False] * 97))
    0.030 [0.010, 0.085], n = 100
    """
    values, members = _checked(outcomes, groups, alpha)
    if not len(values):
        return _unknown(margin)
    size = _effective(values, members, alpha)
    rate = values.mean()
    z = stats.norm.isf(alpha / 2)
    centre = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(rate * (1 - rate) / size + z**2 / (4 * size**2))
    spread = math.sqrt(max(margin * (1 - margin), 0.25 / size) / size)
    p = float(stats.norm.sf((rate - margin) / spread))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return _effect(rate, low, high, values, members, p, margin)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    margin: float = 0.0,
    alpha: float = 0.05,
) -> Effect:
    """Share of images with one outcome minus the share, of the same images, with another.

    Args:
        first: Booleans (N,).
        second: Booleans (N,) of the same images.
        groups: Person, patient ... of each image (N,); None if each is its own.
        margin: The test asks whether the difference is larger.
        alpha: 1 - coverage of the interval.

    >>> print(paired_difference([1, 1, 1, 0, 0] * 20, [1, 0, 0, 1, 0] * 20))
    0.200 [0.049, 0.341], n = 100
    """
    one, members = _checked(first, groups, alpha)
    other, _ = _checked(second, groups, alpha)
    if len(one) != len(other):
        raise OptionError(
            "second", "must belong to the same images", received=f"{len(other)} for {len(one)}",
            remedy="Pass one outcome of each kind per image.",
        )  # fmt: skip
    if not len(one):
        return _unknown(margin)
    shrink = len(one) / _effective(one - other, members, alpha)
    only_first = float(((one == 1) & (other == 0)).sum()) / shrink
    only_second = float(((one == 0) & (other == 1)).sum()) / shrink
    size = len(one) / shrink
    z = float(stats.norm.isf(alpha / 2))
    value = float((one - other).mean())

    def bound(wanted: float) -> float:
        def gap(delta: float) -> float:
            return _tango(only_first, only_second, size, delta) - wanted

        edge = 1 - 1e-9
        if gap(-edge) <= 0 or gap(edge) >= 0:
            return -1.0 if gap(-edge) <= 0 else 1.0
        return float(optimize.brentq(gap, -edge, edge, xtol=1e-10))

    low, high = bound(z), bound(-z)
    p = float(stats.norm.sf(_tango(only_first, only_second, size, margin)))
    return _effect(value, low, high, one, members, p, margin)


def mean(
    values: ArrayLike, groups: ArrayLike | None = None, *, margin: float = 0.0, alpha: float = 0.05
) -> Effect:
    """Mean of a signed quantity; the test asks whether it is beyond the margin, on the side it lies on.

    Args:
        values: Finite numbers (N,).
        groups: Person, patient ... of each image (N,); None if each is its own.
        margin: At least 0.
        alpha: 1 - coverage of the interval.

    >>> print(mean(np.linspace(-1, 2, 101)))
    0.500 [0.326, 0.674], n = 101
    """
    numbers, members = _checked(values, groups, alpha)
    count = len(np.unique(members))
    if count < 2:
        return _unknown(margin)
    value = float(numbers.mean())
    error = math.sqrt(_cluster_variance(numbers, members))
    half = float(stats.t.isf(alpha / 2, count - 1)) * error
    distance = abs(value) - margin
    certain = 0.0 if distance > 0 else 1.0
    p = float(stats.t.sf(distance / error, count - 1)) if error else certain
    # The direction was chosen by the data: both directions count.
    return _effect(value, value - half, value + half, numbers, members, min(1.0, 2 * p), margin)


def design_effect(values: NDArray, members: NDArray) -> float:
    """How many times larger the variance of the mean is than of as many independent images, at least 1.

    >>> people = np.repeat(np.arange(50), 4)
    >>> copies = np.repeat(np.random.default_rng(0).normal(size=50), 4)
    >>> round(design_effect(copies, people), 2)  # four equal images count as one
    4.06
    """
    groups = len(np.unique(members))
    if len(values) < 2 or groups == len(values):
        return 1.0
    independent = float(np.var(values, ddof=1)) / len(values)
    if groups == 1 or not independent:
        return len(values) / groups  # nothing shows that images of one person differ
    return max(1.0, _cluster_variance(values, members) / independent)


def _effective(values: NDArray, members: NDArray, alpha: float) -> float:
    """So many independent images would tell as much (Korn & Graubard 1998, Survey Methodology 24:193)."""
    groups = len(np.unique(members))
    size = len(values) / design_effect(values, members)
    if groups in (1, len(values)):
        return size
    return size * float(stats.norm.isf(alpha / 2) / stats.t.isf(alpha / 2, groups - 1)) ** 2


def false_discovery(p: Sequence[float]) -> list[float]:
    """The p-values after the correction of Benjamini and Hochberg (1995); NaN counts as 1.

    >>> false_discovery([0.01, 0.04, 0.5])
    [0.03, 0.06, 0.5]
    """
    values = np.nan_to_num(np.asarray(p, dtype=np.float64), nan=1.0)
    return [float(q) for q in stats.false_discovery_control(values)] if len(values) else []


def _tango(only_first: float, only_second: float, size: float, delta: float) -> float:
    """Score statistic of a paired difference of ``delta`` (Tango 1998, Statistics in Medicine 17:891)."""
    b = -only_first - only_second + (2 * size - only_first + only_second) * delta
    c = -only_second * delta * (1 - delta)
    shared = (math.sqrt(max(b * b - 8 * size * c, 0.0)) - b) / (4 * size)
    variance = size * (2 * shared + delta * (1 - delta))
    excess = only_first - only_second - size * delta
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def _cluster_variance(values: NDArray, members: NDArray) -> float:
    """Cluster-robust variance of the mean."""
    _, index = np.unique(members, return_inverse=True)
    sums = np.bincount(index, weights=values - values.mean())
    return float(len(sums) / (len(sums) - 1) * (sums**2).sum() / len(values) ** 2)


def _checked(values: ArrayLike, groups: ArrayLike | None, alpha: float) -> tuple[NDArray, NDArray]:
    numbers = np.asarray(values, dtype=np.float64)
    members = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    if numbers.ndim != 1 or members.shape != numbers.shape:
        raise OptionError(
            "groups", "must name one group for each value", received=f"{members.shape} for {numbers.shape}",
            remedy="Pass one person or patient per image.",
        )  # fmt: skip
    if not np.isfinite(numbers).all():
        raise OptionError(
            "values", "must be finite", received=f"{int((~np.isfinite(numbers)).sum())} are not",
            remedy="Count and report them, then leave those images out.",
        )  # fmt: skip
    if not 0 < alpha < 1:
        raise OptionError("alpha", "must lie in (0, 1)", received=alpha, remedy="Pass e.g. .05.")
    return numbers, members


def _effect(
    value: float, low: float, high: float, values: NDArray, members: NDArray, p: float, margin: float
) -> Effect:
    return Effect(float(value), float(low), float(high), len(values), len(np.unique(members)), p, margin)


def _unknown(margin: float) -> Effect:
    return Effect(math.nan, math.nan, math.nan, 0, 0, 1.0, margin)
