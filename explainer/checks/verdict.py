"""From checks to one sentence: trust, trust with limits, or do not trust."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from explainer.checks.base import Check

__all__ = ["Verdict", "decide"]


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


def decide(checks: Sequence[Check]) -> Verdict:
    """Any failed check: do not trust. Else any limit: trust with limits. Else: trust.

    >>> decide([Check("a", "pass", "Fine."), Check("b", "limit", "Not quite.")]).status
    'limits'
    """
    failed = [check for check in checks if check.status == "fail"]
    limited = [check for check in checks if check.status == "limit"]
    if failed:
        names = ", ".join(check.name for check in failed)
        return Verdict(
            "distrust",
            f"Do not trust this explanation: {names} failed.",
            tuple(c.sentence for c in failed + limited),
        )
    if limited:
        names = ", ".join(check.name for check in limited)
        return Verdict(
            "limits",
            f"Trust this explanation with limits: {names}.",
            tuple(check.sentence for check in limited),
        )
    passed = sum(check.status == "pass" for check in checks)
    return Verdict("trust", f"No check found a fault: all {passed} passed.", ())
