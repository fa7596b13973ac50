"""From walks to evidence on one attribute.

**Forward** (Singla et al. 2020, section 4.4): does the oracle move when the classifier is walked? Of the
walks that crossed, the share whose oracle class differs between the bare start and the bare end, over the
share that mere reconstruction changes and over the share of *reference* walks to the same levels: those of an
unbiased classifier, or of the target's own oracle, trained here raked over the attributes. **Reverse**: does
the classifier move when the *oracle* is walked and the target's own oracle is held? Entanglement in the
generator makes the forward test fire alone; reliance makes both fire.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from explainer.bias.statistics import Effect, mean, paired_difference, share

__all__ = ["Forward", "Reverse", "forward", "reverse"]


@dataclass(frozen=True)
class Forward:
    """What the oracle does when the classifier is walked.

    Attributes:
        changed: Share of crossed walks whose oracle class changed (the paper's confounding metric).
        floor: Share of the same images whose oracle class bare reconstruction alone changes.
        over_floor: ``changed - floor``, paired.
        over_reference: ``changed`` minus the same of the reference walks, paired; NaN without them.
        random: Share changed by random moves of the same lengths, which control for little: they hardly move
            the classifier.
        with_target: Share that gained the attribute going up or lost it going down.
        against_target: Share that lost it going up or gained it going down.
        one_sided: Two-sided p-value of an exact sign test of the two (McNemar's); each person has one vote.
        shift: Mean change of the oracle's probability, counted along the walk's direction.
        shift_over_reference: The same minus that of the reference walks along theirs, paired. What has no
            direction (a walk that wanders through a flat region of the classifier) cancels out of both.
        slope: Mean slope of the oracle's probability over the classifier's along the paths.
        spearman: Mean rank correlation of the two along the paths.
        relative_change: Mean absolute change of the oracle from one end of the path to the other, over that
            of the classifier (ratio of means).
    """

    changed: Effect
    floor: Effect
    over_floor: Effect
    over_reference: Effect
    random: Effect
    with_target: Effect
    against_target: Effect
    one_sided: float
    shift: Effect
    shift_over_reference: Effect
    slope: float
    spearman: float
    relative_change: float

    @property
    def low(self) -> float:
        """Lower bound of the effect: over the floor and over the reference."""
        return min(effect.low for effect in self.tested)

    @property
    def high(self) -> float:
        """Upper bound of the effect: what a balanced classifier changes as often is none."""
        return min(effect.high for effect in self.tested)

    @property
    def tested(self) -> tuple[Effect, ...]:
        """What the verdict looks at."""
        return (self.over_floor, self.over_reference)


@dataclass(frozen=True)
class Reverse:
    """What the classifier does when the oracle is walked.

    Attributes:
        moved: Mean change of the classifier's probability, counted along the oracle's direction.
        held: Mean absolute change of the probability that was to be held; NaN where nothing was.
        over_reference: What is left of ``moved`` where the same walk does not move the reference: the
            classifier given as one, else the target's oracle of the other half, which was not held. (The
            change minus that multiple of the reference's, from 0 to 1, that comes closest to it in least
            squares.) None if there is no reference.
    """

    moved: Effect
    held: float
    over_reference: Effect | None = None

    @property
    def tested(self) -> tuple[Effect, ...]:
        """What the verdict looks at."""
        return (self.moved,) if self.over_reference is None else (self.moved, self.over_reference)


def forward(
    *,
    original: NDArray,
    start: NDArray,
    end: NDArray,
    random: NDArray,
    direction: NDArray,
    oracle_path: NDArray,
    classifier_path: NDArray,
    reference: tuple[NDArray, NDArray, NDArray, NDArray],
    groups: NDArray,
    margin: float = 0.05,
    alpha: float = 0.05,
) -> Forward:
    """Forward evidence from the oracle's probabilities on crossed walks.

    Args:
        original: On the images themselves (N,).
        start: On their bare reconstructions (N,).
        end: On the bare ends of the walks (N,).
        random: On the bare ends of random moves of the same lengths (N,).
        direction: +1 where the classifier went up, -1 where it went down (N,).
        oracle_path: On the bare frames along the path (N, L).
        classifier_path: The classifier's levels of the delivered frames there (N, L).
        reference: Of the reference walks of the same images whether they crossed (N,), the oracle's
            probabilities on their bare starts and ends (N,), and their directions (N,).
        groups: Person, patient ... (N,).
        margin: Of the tests.
        alpha: 1 - coverage of the intervals.
    """
    before, after = start > 0.5, end > 0.5
    changed, floored = before != after, (original > 0.5) != before
    gained = (~before & after & (direction > 0)) | (before & ~after & (direction < 0))
    lost = changed & ~gained
    paired, other = reference[0], (reference[1] > 0.5) != (reference[2] > 0.5)
    along, beside = direction * (end - start), reference[3] * (reference[2] - reference[1])
    slope, spearman = _association(classifier_path, oracle_path)
    moved = np.abs(classifier_path[:, -1] - classifier_path[:, 0])
    total = float(moved.mean()) if len(moved) else 0.0
    return Forward(
        changed=share(changed, groups, alpha=alpha),
        floor=share(floored, groups, alpha=alpha),
        over_floor=paired_difference(changed, floored, groups, margin=margin, alpha=alpha),
        over_reference=paired_difference(
            changed[paired], other[paired], groups[paired], margin=margin, alpha=alpha
        ),
        random=share((random > 0.5) != before, groups, alpha=alpha),
        with_target=share(gained, groups, alpha=alpha),
        against_target=share(lost, groups, alpha=alpha),
        one_sided=_sign_test(gained.astype(int) - lost, groups),
        shift=mean(along, groups, margin=margin, alpha=alpha),
        shift_over_reference=mean((along - beside)[paired], groups[paired], margin=margin, alpha=alpha),
        slope=slope,
        spearman=spearman,
        relative_change=float(np.abs(oracle_path[:, -1] - oracle_path[:, 0]).mean()) / total
        if total
        else math.nan,
    )


def reverse(
    *,
    before: NDArray,
    after: NDArray,
    direction: NDArray,
    held_before: NDArray | None,
    held_after: NDArray | None,
    groups: NDArray,
    beside: NDArray | None = None,
    margin: float = 0.05,
    alpha: float = 0.05,
) -> Reverse:
    """Reverse evidence from the classifier's probabilities before and after walks of the oracle.

    Args:
        before: On the delivered images before the walk (N,).
        after: After it (N,).
        direction: +1 where the oracle went up, -1 where it went down (N,).
        held_before: Probabilities of the held oracle before (N,), if one was held.
        held_after: After.
        groups: Person, patient ... (N,).
        beside: Change of the reference's probability in the same walks (N,), if there is a reference.
        margin: Of the tests.
        alpha: 1 - coverage of the interval.
    """
    held = math.nan
    if held_before is not None and held_after is not None and len(held_before):
        held = float(np.abs(held_after - held_before).mean())
    change = after - before
    over = None
    if beside is not None:
        slope = float((change * beside).sum() / max((beside**2).sum(), 1e-12))
        adjusted = direction * (change - min(max(slope, 0.0), 1.0) * beside)
        over = mean(adjusted, groups, margin=margin, alpha=alpha)
    return Reverse(mean(direction * change, groups, margin=margin, alpha=alpha), held, over)


def _sign_test(votes: NDArray, groups: NDArray) -> float:
    """Of +1 and -1 (N,), summed within each group."""
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=votes)
    cast = int((sums != 0).sum())
    return float(stats.binomtest(int((sums > 0).sum()), cast).pvalue) if cast else 1.0


def _association(classifier: NDArray, oracle: NDArray) -> tuple[float, float]:
    """Mean slope and rank correlation of the oracle over the classifier, path by path."""
    if not len(classifier):
        return math.nan, math.nan
    x = classifier - classifier.mean(axis=1, keepdims=True)
    y = oracle - oracle.mean(axis=1, keepdims=True)
    spread = (x**2).sum(axis=1)
    slopes = (x * y).sum(axis=1)[spread > 0] / spread[spread > 0]
    ranks_x, ranks_y = stats.rankdata(classifier, axis=1), stats.rankdata(oracle, axis=1)
    ranks_x -= ranks_x.mean(axis=1, keepdims=True)
    ranks_y -= ranks_y.mean(axis=1, keepdims=True)
    scale = np.sqrt((ranks_x**2).sum(axis=1) * (ranks_y**2).sum(axis=1))
    correlations = (ranks_x * ranks_y).sum(axis=1)[scale > 0] / scale[scale > 0]
    return (
        float(slopes.mean()) if len(slopes) else math.nan,
        float(correlations.mean()) if len(correlations) else math.nan,
    )
