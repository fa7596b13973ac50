r"""From walks to evidence, and from evidence to a verdict on one attribute.

**Forward** (Singla et al. 2020, section 4.4): does the oracle move when the classifier is walked? Of the
walks that crossed, the share whose oracle class differs between the bare start and the bare end, over the
share that mere reconstruction changes and over the share of *reference* walks: those of an unbiased
classifier, or of one trained here balanced over the attribute. **Reverse**: does the classifier move when the
*oracle* is walked and the target's own oracle is held? Entanglement in the generator makes the forward test
fire alone; reliance makes both fire.

=================  ======================================================================================
confounded         every gate holds; the lower bounds of forward (over both) and reverse exceed
                   ``present``, with q <= alpha over the whole table
not detected       every gate holds; both upper bounds lie below ``absent``
insufficient       anything else
=================  ======================================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from explainer.bias.statistics import Effect, mean, paired_difference, share
from explainer.errors import OptionError

__all__ = [
    "AuditThresholds",
    "Forward",
    "Gate",
    "Reverse",
    "Verdict",
    "decide",
    "forward",
    "gates",
    "reverse",
]


@dataclass(frozen=True)
class AuditThresholds:
    """Where evidence turns into a verdict. All of them can be overridden.

    Attributes:
        present: Lower bounds of a confounded attribute exceed this.
        absent: Upper bounds of an attribute that is not detected lie below this.
        crossings: Fewest walks that reached the other side.
        oracle_auc: Least area under the ROC curve of an oracle within each class of the target, also on bare
            reconstructions.
        kept: Least share of the images whose class survives bare reconstruction.
        expressible: Least share of the walks of an oracle that reach its other side.
    """

    present: float = 0.05
    absent: float = 0.10
    crossings: int = 100
    oracle_auc: float = 0.85
    kept: float = 0.80
    expressible: float = 0.80

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            highest = math.inf if field.name == "crossings" else 1
            if not 0 <= value <= highest:
                raise OptionError(
                    "thresholds", f"{field.name} must lie in [0, {highest}]", received=value,
                    remedy=f"The default is {field.default}.",
                )  # fmt: skip


@dataclass(frozen=True)
class Forward:
    """What the oracle does when the classifier is walked.

    Attributes:
        changed: Share of crossed walks whose oracle class changed (the paper's confounding metric).
        floor: Share of the same images whose oracle class bare reconstruction alone changes.
        over_floor: ``changed - floor``, paired.
        over_reference: ``changed`` minus the same of the reference walks, paired; None without them.
        with_target: Share that gained the attribute going up or lost it going down.
        against_target: Share that lost it going up or gained it going down.
        shift: Mean change of the oracle's probability, counted along the walk's direction.
        slope: Mean slope of the oracle's probability over the classifier's along the paths.
        spearman: Mean rank correlation of the two along the paths.
        relative_change: Mean absolute change of the oracle over that of the classifier (ratio of means).
    """

    changed: Effect
    floor: Effect
    over_floor: Effect
    over_reference: Effect | None
    with_target: Effect
    against_target: Effect
    shift: Effect
    slope: float
    spearman: float
    relative_change: float

    @property
    def low(self) -> float:
        """Lower bound of the effect: over the floor and over the reference."""
        return min(effect.low for effect in self.tested)

    @property
    def high(self) -> float:
        """Upper bound of the effect."""
        return min(effect.high for effect in self.tested)

    @property
    def tested(self) -> tuple[Effect, ...]:
        """What the verdict looks at."""
        return (self.over_floor,) if self.over_reference is None else (self.over_floor, self.over_reference)


@dataclass(frozen=True)
class Reverse:
    """What the classifier does when the oracle is walked.

    Attributes:
        moved: Mean change of the classifier's probability, counted along the oracle's direction.
        held: Mean absolute change of the probability that was to be held; NaN where nothing was.
    """

    moved: Effect
    held: float


@dataclass(frozen=True)
class Gate:
    """A condition without which there is no verdict.

    Attributes:
        name: Short.
        met: Whether it holds.
        value: What was measured; NaN if it could not be.
        bound: What it had to reach.
        sentence: In words.
    """

    name: str
    met: bool
    value: float
    bound: float
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The answer for one attribute.

    Attributes:
        status: ``"confounded"``, ``"not detected"`` or ``"insufficient"``.
        sentence: Why, with the numbers.
    """

    status: str
    sentence: str


def forward(
    *,
    original: NDArray,
    start: NDArray,
    end: NDArray,
    direction: NDArray,
    oracle_path: NDArray,
    classifier_path: NDArray,
    reference: tuple[NDArray, NDArray] | None,
    groups: NDArray,
    margin: float = 0.05,
    alpha: float = 0.05,
) -> Forward:
    """Forward evidence from the oracle's probabilities on crossed walks.

    Args:
        original: On the images themselves (N,).
        start: On their bare reconstructions (N,).
        end: On the bare ends of the walks (N,).
        direction: +1 where the classifier went up, -1 where it went down (N,).
        oracle_path: On the bare frames along the path (N, L).
        classifier_path: The classifier's probabilities there (N, L).
        reference: The oracle's probabilities on bare start and end of the reference walks of the same images.
        groups: Person, patient ... (N,).
        margin: Of the tests.
        alpha: 1 - coverage of the intervals.
    """
    before, after = start > 0.5, end > 0.5
    changed, floored = before != after, (original > 0.5) != before
    gained = (~before & after & (direction > 0)) | (before & ~after & (direction < 0))
    lost = changed & ~gained
    over_reference = None
    if reference is not None:
        moved = (reference[0] > 0.5) != (reference[1] > 0.5)
        over_reference = paired_difference(changed, moved, groups, margin=margin, alpha=alpha)
    slope, spearman = _association(classifier_path, oracle_path)
    moved_classifier = np.abs(classifier_path[:, -1] - classifier_path[:, 0]).mean() if len(start) else 0.0
    return Forward(
        changed=share(changed, groups, alpha=alpha),
        floor=share(floored, groups, alpha=alpha),
        over_floor=paired_difference(changed, floored, groups, margin=margin, alpha=alpha),
        over_reference=over_reference,
        with_target=share(gained, groups, alpha=alpha),
        against_target=share(lost, groups, alpha=alpha),
        shift=mean(direction * (end - start), groups, margin=margin, alpha=alpha),
        slope=slope,
        spearman=spearman,
        relative_change=float(np.abs(end - start).mean() / moved_classifier)
        if moved_classifier
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
        margin: Of the test.
        alpha: 1 - coverage of the interval.
    """
    held = math.nan
    if held_before is not None and held_after is not None and len(held_before):
        held = float(np.abs(held_after - held_before).mean())
    return Reverse(mean(direction * (after - before), groups, margin=margin, alpha=alpha), held)


def gates(
    *,
    crossings: int,
    kept: float,
    oracle_auc: float,
    oracle_auc_bare: float,
    expressible: float,
    thresholds: AuditThresholds,
) -> tuple[Gate, ...]:
    """The conditions of a verdict; what could not be measured is not met."""

    def gate(name: str, value: float, bound: float, sentence: str) -> Gate:
        return Gate(name, bool(value >= bound), float(value), float(bound), sentence)

    least = min(oracle_auc, oracle_auc_bare)
    return (
        gate("crossings", crossings, thresholds.crossings,
             f"{crossings} walks crossed to the other side ({thresholds.crossings} are needed)"),
        gate("kept", kept, thresholds.kept,
             f"{kept:.0%} of the images keep their class in bare reconstruction ({thresholds.kept:.0%} "
             "are needed)"),
        gate("oracle", math.nan if math.isnan(oracle_auc + oracle_auc_bare) else least, thresholds.oracle_auc,
             f"the oracle's AUC within the classes is {oracle_auc:.2f} on images and {oracle_auc_bare:.2f} "
             f"on bare reconstructions ({thresholds.oracle_auc:.2f} is needed)"),
        gate("expressible", expressible, thresholds.expressible,
             f"{expressible:.0%} of the walks of the oracle reached its other side "
             f"({thresholds.expressible:.0%} are needed)"),
    )  # fmt: skip


def decide(
    checked: Sequence[Gate],
    ahead: Forward | None,
    back: Reverse | None,
    *,
    thresholds: AuditThresholds,
    alpha: float = 0.05,
) -> Verdict:
    """The verdict on one attribute; the effects carry the q-values of the whole table."""
    failed = [gate for gate in checked if not gate.met]
    if failed or ahead is None or back is None:
        reasons = "; ".join(gate.sentence for gate in failed) or "there were no walks to measure"
        return Verdict("insufficient", f"Insufficient evidence: {reasons}.")
    tested = (*ahead.tested, back.moved)
    numbers = (
        f"the attribute changes in {ahead.changed.value:.0%} of the walks of the classifier "
        f"(effect {ahead.low:.2f} to {ahead.high:.2f}), and walking the attribute moves the classifier by "
        f"{back.moved.value:+.2f} [{back.moved.low:+.2f}, {back.moved.high:+.2f}]"
    )
    if not all(effect.known for effect in tested):
        return Verdict("insufficient", "Insufficient evidence: an effect could not be estimated.")
    if (
        ahead.low > thresholds.present
        and back.moved.beyond(thresholds.present)
        and all(effect.q <= alpha for effect in tested)
    ):
        return Verdict("confounded", f"Supports evidence for confounding: {numbers}.")
    if ahead.high < thresholds.absent and back.moved.within(thresholds.absent):
        return Verdict("not detected", f"Not detected: {numbers}.")
    alone = ""
    if ahead.low > thresholds.present and back.moved.within(thresholds.absent):
        alone = " The forward effect alone points to an entangled generator rather than to the classifier."
    return Verdict("insufficient", f"Insufficient evidence: {numbers}.{alone}")


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
