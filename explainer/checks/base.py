"""What a check says, and the thresholds of all of them in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from explainer.errors import OptionError

__all__ = ["Check", "Status", "Thresholds", "stored_quantile"]

Status = Literal["pass", "limit", "fail", "info"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: Short, unique within an explanation.
        status: ``"pass"``; ``"limit"``: usable with this reservation; ``"fail"``: not evidence;
            ``"info"``: a measurement without a judgement.
        sentence: What was found, in words.
        values: The numbers behind the sentence.
    """

    name: str
    status: Status
    sentence: str
    values: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Thresholds:
    """Where a check turns from pass to limit to fail. All of them can be overridden.

    Attributes:
        error_limit: Quantile of the held-out error of ``bare`` up to which an image passes; one of those the
            generator stores (.5, .9, .95, .975, .99, .999, 1).
        error_fail: Quantile beyond which the generator does not fit the image.
        gap_limit: Change of the score (log-odds) by ``bare`` alone that is still a pass.
        gap_fail: Change beyond which, if the class flips too, the generator hides what f reads.
        level_error: Largest deviation of an achieved level from what was asked for.
        reached_limit: Share of the levels that must be reached for the walk to count at all.
        rounding: Largest change of a level by rounding the frame to 8 bits.
        typicality_limit: Quantile of held-out typicality that the walk's ends may reach.
        typicality_fail: Factor over the largest held-out typicality beyond which an end is no image.
    """

    error_limit: float = 0.95
    error_fail: float = 1.0
    gap_limit: float = 1.0
    gap_fail: float = 2.0
    level_error: float = 0.02
    reached_limit: float = 0.5
    rounding: float = 0.02
    typicality_limit: float = 0.999
    typicality_fail: float = 1.5


def stored_quantile(quantiles: Mapping[str, float], share: float) -> float:
    """A quantile that a generator stores.

    Raises:
        OptionError: It stores others.

    >>> stored_quantile({"0.5": 0.01, "1": 0.05}, 1.0)
    0.05
    """
    if f"{share:g}" not in quantiles:
        raise OptionError(
            "thresholds", "names a quantile that the generator does not store", received=share,
            remedy=f"Choose one of {', '.join(quantiles)}.",
        )  # fmt: skip
    return quantiles[f"{share:g}"]
