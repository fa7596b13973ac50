"""From evidence to a verdict on one attribute.

=================  ======================================================================================
confounded         every gate holds; walking the attribute with the target held moves the classifier beyond
                   ``present``, by itself and over the reference (lower bounds), with q <= alpha over the
                   whole table
not detected       every gate holds, the classifier reads nothing the code does not hold (detail swap),
                   walking the attribute moves it less than ``absent``, and its own walks take the attribute
                   along less than that (over reconstruction, over the reference, or in their direction);
                   or, where they do take it along, walking it moves the classifier less than ``present``,
                   also over the reference: then it is the generator that is entangled (all upper bounds)
insufficient       anything else
=================  ======================================================================================

The verdict of confounding rests on the *reverse* evidence. The forward evidence cannot carry it: a walk takes
the cheapest way, so of a classifier that relies on an attribute a little (its probability changes by .1 with
it) a walk changes the attribute in less than one image of twenty; and an entangled generator makes it fire
alone. What it adds is whether the classifier's own walks go by the attribute. A verdict of confounding needs
all reverse effects, so its p-value is the largest of theirs (intersection-union test, Berger 1982), and these
are corrected over the whole table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from explainer.bias.confounding import Forward, Reverse
from explainer.bias.statistics import Effect
from explainer.errors import OptionError

__all__ = ["AuditThresholds", "Gate", "Verdict", "decide", "gates", "weakest"]


@dataclass(frozen=True)
class AuditThresholds:
    """Where evidence turns into a verdict. All of them can be overridden.

    Attributes:
        present: Lower bounds of a confounded attribute exceed this.
        absent: Upper bounds of an attribute that is not detected lie below this.
        crossings: Fewest walks that reached the other side.
        oracle_auc: Least area under the ROC curve of an oracle within each class of the target, also on bare
            reconstructions; and of the target's oracle within each answer of the attribute.
        kept: Least share of the images whose class survives bare reconstruction.
        expressible: Least share of the walks of an oracle that reach its other side with the target held.
        held: Largest change of the probability of the target's oracle that counts as held.
    """

    present: float = 0.05
    absent: float = 0.10
    crossings: int = 100
    oracle_auc: float = 0.85
    kept: float = 0.80
    expressible: float = 0.80
    held: float = 0.20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            highest = math.inf if field.name == "crossings" else 1.0
            if not 0 <= value <= highest:
                raise OptionError(
                    "thresholds", f"{field.name} must lie in [0, {highest}]", received=value,
                    remedy=f"The default is {field.default}.",
                )  # fmt: skip


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


def gates(
    *,
    crossings: int,
    kept: float,
    oracle_auc: float,
    oracle_auc_bare: float,
    target_auc_bare: float,
    expressible: float,
    thresholds: AuditThresholds,
) -> tuple[Gate, ...]:
    """The conditions of a verdict; what could not be measured is not met.

    Args:
        crossings: Walks of the classifier that reached the other side.
        kept: Share of the images whose class survives bare reconstruction.
        oracle_auc: The oracle's least AUC within the classes of the target, on images.
        oracle_auc_bare: On bare reconstructions.
        target_auc_bare: The AUC of the target's oracle within the answers of the attribute, on bare ones.
        expressible: Share of the walks of the oracle that reached its other side with the target held.
        thresholds: What they have to reach.
    """

    def gate(name: str, value: float, bound: float, sentence: str) -> Gate:
        return Gate(name, bool(value >= bound), float(value), float(bound), sentence)

    least = math.nan if math.isnan(oracle_auc + oracle_auc_bare) else min(oracle_auc, oracle_auc_bare)
    return (
        gate("crossings", crossings, thresholds.crossings,
             f"{crossings} walks crossed to the other side ({thresholds.crossings} are needed)"),
        gate("kept", kept, thresholds.kept,
             f"{_percent(kept)} of the images keep their class in bare reconstruction "
             f"({thresholds.kept:.0%} are needed)"),
        gate("oracle", least, thresholds.oracle_auc,
             _UNVARIED if math.isnan(oracle_auc) else
             f"the oracle's AUC within the classes is {oracle_auc:.2f} on images and {oracle_auc_bare:.2f} "
             f"on bare reconstructions ({thresholds.oracle_auc:.2f} is needed)"),
        gate("target oracle", target_auc_bare, thresholds.oracle_auc,
             _UNVARIED_TARGET if math.isnan(target_auc_bare) else
             f"the AUC of the target's oracle, which is held, is {target_auc_bare:.2f} within the answers "
             f"({thresholds.oracle_auc:.2f} is needed)"),
        gate("expressible", expressible, thresholds.expressible,
             f"{_percent(expressible)} of the walks of the oracle reached its other side, the target held "
             f"({thresholds.expressible:.0%} are needed)"),
    )  # fmt: skip


_UNVARIED = "in a class of the target all images have one value of the attribute, so no oracle can be tested"
_UNVARIED_TARGET = "in a group of the attribute all images are of one class, so no target can be held"


def _percent(value: float) -> str:
    return "an unknown share" if math.isnan(value) else f"{value:.0%}"


def weakest(ahead: Forward | None, back: Reverse | None) -> float:
    """The p-value of a verdict of confounding: the largest of what it needs; 1 if one is unknown."""
    if ahead is None or back is None:
        return 1.0
    effects = back.tested
    agree = len({effect.value > 0 for effect in effects}) == 1
    return max(effect.p for effect in effects) if agree and all(effect.known for effect in effects) else 1.0


def decide(
    checked: Sequence[Gate],
    ahead: Forward | None,
    back: Reverse | None,
    *,
    q: float,
    hidden: str = "",
    thresholds: AuditThresholds,
    alpha: float = 0.05,
) -> Verdict:
    """The verdict on one attribute.

    Args:
        checked: The gates.
        ahead: Forward evidence; None if no walk crossed.
        back: Reverse evidence; None if no walk crossed.
        q: :func:`weakest` after the correction over the whole table.
        hidden: The warning that the classifier reads what the generator cannot show; empty if it does not.
        thresholds: Where evidence turns into a verdict.
        alpha: False-discovery rate.
    """
    failed = [gate for gate in checked if not gate.met]
    if failed or ahead is None or back is None:
        reasons = "; ".join(gate.sentence for gate in failed) or "there were no walks to measure"
        return Verdict("insufficient", f"Insufficient evidence: {reasons}.")
    if not all(effect.known for effect in (*ahead.tested, *back.tested)):
        return Verdict("insufficient", "Insufficient evidence: an effect could not be estimated.")
    over = "" if back.over_reference is None else f", over the reference by {_signed(back.over_reference)}"
    numbers = (
        f"walking the attribute, the target held, moves the classifier by {_signed(back.moved)}{over}; the "
        f"attribute changes in {ahead.changed.value:.0%} of the walks of the classifier (effect "
        f"{ahead.low:+.2f} to {ahead.high:+.2f} over reconstruction and reference)"
    )
    moves = all(effect.beyond(thresholds.present) for effect in back.tested)
    along = ahead.low > thresholds.present
    if moves and len({effect.value > 0 for effect in back.tested}) == 1:
        if q <= alpha:
            how = "" if along else " Its own walks mostly cross by other, cheaper changes."
            return Verdict("confounded", f"Supports evidence for confounding: {numbers}; q = {q:.2g}.{how}")
        said = f"{numbers}, but q = {q:.2g} over the whole table"
        return Verdict("insufficient", f"Insufficient evidence: {said}.")
    still = back.moved.within(thresholds.absent)
    without = ahead.high < thresholds.absent or ahead.shift_over_reference.within(thresholds.absent)
    apart = all(effect.within(thresholds.present) for effect in back.tested)
    if still and (without or apart):
        if hidden:
            return Verdict("insufficient", f"Insufficient evidence: {numbers}. But {hidden}.")
        why = "" if without else " What its own walks change with it is entangled in the generator."
        return Verdict("not detected", f"Not detected: {numbers}.{why}")
    alone = ""
    if still:
        alone = " The forward effect alone points to an entangled generator rather than to the classifier."
    elif back.moved.beyond(thresholds.present):
        alone = " The reference moves as well: the generator is entangled, or the reference reads it too."
    return Verdict("insufficient", f"Insufficient evidence: {numbers}.{alone}")


def _signed(effect: Effect) -> str:
    return f"{effect.value:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}]"
