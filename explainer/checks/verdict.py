"""From checks to one sentence: trust, trust with limits, or do not trust.

The decision table is :data:`DECISIONS`: for every check the worst it can lead to, and what a failure means
in words, root causes first. A failure of a check that may lead to distrust is distrust; any other failure,
and any limit, is a limit; ``"info"`` decides nothing, except that a walk that did not move the score, of
which nothing could be judged, is a limit. What another network says that was trained on labels
is never a reason against an explanation: it need not follow a biased classifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from explainer.checks.base import UNMOVED, Check

__all__ = ["DECISIONS", "Decision", "Verdict", "decide"]


@dataclass(frozen=True)
class Decision:
    """What a check can lead to.

    Attributes:
        worst: The worst it can lead to.
        reason: What its failure means, a clause.
    """

    worst: Literal["distrust", "limits", "nothing"]
    reason: str


DECISIONS: dict[str, Decision] = {
    "decoder": Decision("distrust", "the generator does not answer to its code"),
    "code cycle": Decision("distrust", "encoder and decoder do not belong together"),
    "compression": Decision("distrust", "the generator can say anything, adversarial noise included"),
    "reconstruction": Decision("distrust", "the generator does not fit the image"),
    "saturation": Decision("distrust", "the classifier is saturated"),
    "stability": Decision("distrust", "the classifier is brittle"),
    "8-bit frames": Decision("distrust", "the frames' levels hang on invisible differences"),
    "reconstruction gap": Decision("distrust", "the classifier reads what the generator does not express"),
    "detail swap": Decision("distrust", "the classifier reads what the generator does not express"),
    "re-encoding": Decision("distrust", "what moved the classifier is not in the code"),
    "surrogate": Decision("distrust", "the walk moves this classifier alone"),
    "compatibility": Decision("distrust", "the walk did not get where it was asked to"),
    "calibration": Decision("distrust", "the walks did not get where they were asked to"),
    "walk back": Decision("distrust", "the walk cannot be undone"),
    "typical codes": Decision("distrust", "the walk leaves the images the generator knows"),
    "composition": Decision("limits", "reconstructing again and again drifts away"),
    "identity": Decision("limits", "the walk does not keep the individual"),
    "random direction": Decision("limits", "any direction moves the score as much"),
    "realism": Decision("limits", "as a set the frames are not distributed like real images"),
    "equal moves": Decision("nothing", ""),
    "latent closeness": Decision("nothing", ""),
    "second network": Decision("nothing", "a network trained on labels need not follow the classifier"),
}


@dataclass(frozen=True)
class Verdict:
    """The answer in words.

    Attributes:
        status: ``"trust"``, ``"limits"`` or ``"distrust"``.
        sentence: One sentence.
        reasons: The sentences of the checks that decided it.
    """

    status: Literal["trust", "limits", "distrust"]
    sentence: str
    reasons: tuple[str, ...]


def decide(checks: Sequence[Check], *, of: str = "this explanation") -> Verdict:
    """The verdict of checks by the table; a check that is not in it counts as it says.

    Args:
        checks: Of one walk, or of a set of them.
        of: What the verdict is of, in words.

    >>> decide([Check("a", "pass", "Fine."), Check("b", "limit", "Not quite.")]).status
    'limits'
    >>> decide([Check("decoder", "fail", "It is dead.")]).sentence
    'Do not trust this explanation: the generator does not answer to its code (decoder).'
    >>> decide([Check("second network", "fail", "It disagrees."), Check("a", "pass", "Fine.")]).status
    'trust'
    """
    order = {name: position for position, name in enumerate(DECISIONS)}
    known = sorted(checks, key=lambda check: order.get(check.name, len(order)))
    failed, limited = [], []
    for check in known:
        worst = DECISIONS[check.name].worst if check.name in DECISIONS else "distrust"
        if check.status == "fail" and worst == "distrust":
            failed.append(check)
        elif check.status in ("fail", "limit") and worst != "nothing":
            limited.append(check)
    if failed:
        return Verdict(
            "distrust",
            f"Do not trust {of}: {'; '.join(_reasons(failed))}.",
            tuple(check.sentence for check in failed + limited),
        )
    unmoved = [check.name for check in known if check.sentence == UNMOVED]
    if limited or unmoved:
        reasons = [check.sentence for check in limited]
        names = [check.name for check in limited]
        if unmoved:
            names.append("the walk did not move the score")
            reasons.append(f"The walk did not move the score; not measured: {', '.join(unmoved)}.")
        said = f"Trust {of} with limits: {', '.join(names)}."
        return Verdict("limits", said, tuple(reasons))
    passed = sum(check.status == "pass" for check in checks)
    if not passed:
        sentence = f"Trust {of} with limits: nothing was checked."
        return Verdict("limits", sentence, (sentence,))
    missing = [check.name for check in known if not check.measured]
    found = f"{passed} passed, {len(missing)} could not be measured ({', '.join(missing)})"
    return Verdict(
        "trust", f"Trust {of}: no check found a fault, {found if missing else f'all {passed} passed'}.", ()
    )


def _reasons(failed: Sequence[Check]) -> list[str]:
    """Reasons, each once, with the names of the checks that gave it."""
    names: dict[str, list[str]] = {}
    for check in failed:
        reason = DECISIONS[check.name].reason if check.name in DECISIONS else "a check failed"
        names.setdefault(reason, []).append(check.name)
    return [f"{reason} ({', '.join(given)})" for reason, given in names.items()]
