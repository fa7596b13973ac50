"""What a check says, and in one place where each turns from pass to limit to fail."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from explainer.errors import OptionError

__all__ = [
    "NOT_MEASURED",
    "UNMOVED",
    "Check",
    "Status",
    "Thresholds",
    "require_quantiles",
    "status_above",
    "status_below",
    "stored_quantile",
]

Status = Literal["pass", "limit", "fail", "info"]

NOT_MEASURED = "Not measured"
UNMOVED = f"{NOT_MEASURED}: the walk did not move the score."
"""What a check of an end says of a walk that has none."""

_LOW_IS_BAD = ("reencoded", "stable", "surrogate")


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

    @property
    def measured(self) -> bool:
        """Whether there was anything to look at."""
        return not self.sentence.startswith(NOT_MEASURED)


@dataclass(frozen=True)
class Thresholds:
    """Where a check turns from pass to limit to fail, and what it does to an image; all can be overridden.

    A *kept share* is how much of the walk's move of the score is left after something was done to the frame:
    1 all of it, 0 nothing.

    Attributes:
        error_limit: Quantile of the held-out error of ``bare`` up to which an image passes; one of those the
            generator stores (.5, .9, .95, .975, .99, .999, 1).
        error_fail: Quantile beyond which the generator does not fit the image.
        gap_limit: Change of the score (log-odds) by ``bare`` alone that is still a pass.
        gap_fail: Change beyond which, if the class flips too, the generator hides what f reads.
        level_error: Largest deviation of an achieved level from what was asked for.
        moved: Share of the tolerance of a level by which an end must differ from the image's own level to be
            the end of a walk.
        monotone: Largest fall of a level from one frame to the next that is none.
        reached_limit: Share of the levels that must be reached for the walk to count at all.
        rounding: Largest change of a level by rounding the frame to 8 bits that is still a pass.
        rounding_fail: Change beyond which the frames' levels are those of invisible differences.
        typicality_limit: Quantile of held-out typicality that the walk's ends may reach.
        typicality_fail: Factor over the largest held-out typicality beyond which an end is no image.
        variance_missed: Share of a channel's own variance that ``bare`` misses, beyond which the channel is
            not reconstructed at all (1 is what a flat picture of the right brightness misses).
        blank: Mean squared error, in normalised units, that is no error even in a blank channel.
        response_fail: Change of a channel from one random code to another, as a share of the image's own
            spread, below which the channel is dead.
        least_spread: Spread that an image is taken to have at least; that of a blank one is 0.
        probing_noise: Standard deviation of the white noise that ``bare`` is given, in normalised units.
        noise_passed_limit: Share of white noise that ``bare`` lets through, up to which the code compresses.
        noise_passed_fail: Share beyond which the generator can say anything, adversarial noise included.
        noise_grows: Share beyond which noise is not let through but made larger, which is said so.
        code_cycle_limit: Distance between the codes of an image and of its ``bare``, in distances of two
            random codes, that is still a pass.
        code_cycle_fail: Distance beyond which decoder and encoder do not speak of the same code.
        drift_limit: Growth of the error from ``bare`` to ``bare`` applied ten times that is still a pass.
        drift_visible: Error of the ten times, as a share of the range, below which any growth is a pass.
        reencoded_limit: Kept share of the far end, encoded and decoded again, that is still a pass.
        reencoded_fail: Kept share below which what moved the score was never in the code.
        returned_limit: Error of walking back, as a share of the walk's own change, that is still a pass.
        returned_fail: Error beyond which the walk cannot be undone.
        score_left: Share of the walk's change of score that may be left after walking back.
        saturation_limit: Absolute score of the original up to which frames change gradually.
        saturation_fail: Absolute score beyond which all levels lie in a thin shell of the walk.
        faint_noise: Standard deviation of the noise on the ends, as a share of each channel's range.
        jpeg_quality: Quality of the JPEG that the ends are written as, a whole number from 1 to 95.
        shift_coarse: Mean square of what a shift of one pixel changes, as a share of the image's variance,
            up to which it is a small change.
        stable_span: Log-odds that a change of the score is held against if the levels span less.
        stable_limit: Kept share under faint noise and JPEG, and under a shift of one pixel where that is
            a small change, that is still a pass.
        stable_fail: Kept share below which the score hangs on what nobody can see.
        random_limit: Change of the score by a random move of equal length, as a share of the walk's, up to
            which the direction matters.
        identity: Centred cosine that image and frames must exceed to show the same individual.
        strangers: Share of pairs of strangers above ``identity`` up to which that cosine means anything; with
            fewer than 1 / ``strangers`` pairs that share nobody it cannot be told, and decides nothing.
        genuine: Share of genuine pairs that are less alike than image and frame up to which the frame is
            unlike its image, although above ``identity``; likewise.
        surrogate_faithful: Share of held-out samples on which a surrogate must agree with the classifier to
            be asked at all.
        surrogate_limit: Share of walks that a surrogate sees end on the requested side, still a pass.
        surrogate_fail: Share below which the walk moved the classifier alone.
        swap_limit: Correlation of the score with what ``bare`` leaves out of the score of the image the
            detail comes from, lower bound of its interval, up to which the code holds what the classifier
            reads.
        swap_fail: Lower bound beyond which the classifier reads what the walk cannot show.
        realism: Quantile of the distances of two halves of the real images that the distance of frames may
            reach.
        equal_move: Share of a change of score by which a walk of equal change may miss it.

    Raises:
        OptionError: A threshold that is not a finite number, or a limit beyond its fail.
    """

    error_limit: float = 0.95
    error_fail: float = 1.0
    gap_limit: float = 1.0
    gap_fail: float = 2.0
    level_error: float = 0.02
    moved: float = 0.5
    monotone: float = 1e-6
    reached_limit: float = 0.5
    rounding: float = 0.02
    rounding_fail: float = 0.3
    typicality_limit: float = 0.999
    typicality_fail: float = 1.5
    variance_missed: float = 1.0
    blank: float = 1e-4
    response_fail: float = 0.02
    least_spread: float = 0.05
    probing_noise: float = 0.05
    noise_passed_limit: float = 0.5
    noise_passed_fail: float = 0.8
    noise_grows: float = 1.25
    code_cycle_limit: float = 0.5
    code_cycle_fail: float = 0.8
    drift_limit: float = 3.0
    drift_visible: float = 0.01
    reencoded_limit: float = 0.5
    reencoded_fail: float = 0.2
    returned_limit: float = 1.0
    returned_fail: float = 2.0
    score_left: float = 0.5
    saturation_limit: float = 10.0
    saturation_fail: float = 30.0
    faint_noise: float = 0.02
    jpeg_quality: float = 90
    shift_coarse: float = 0.5
    stable_span: float = 4.0
    stable_limit: float = 0.6
    stable_fail: float = 0.25
    random_limit: float = 0.8
    identity: float = 0.5
    strangers: float = 0.05
    genuine: float = 0.05
    surrogate_faithful: float = 0.85
    surrogate_limit: float = 0.8
    surrogate_fail: float = 0.5
    swap_limit: float = 0.3
    swap_fail: float = 0.5
    realism: float = 0.95
    equal_move: float = 0.1

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise OptionError(
                    "thresholds", f"must hold finite numbers, also for {name}", received=value,
                    remedy="Leave it out for its default.",
                )  # fmt: skip
        for stem, limit, fail in self._pairs():
            low_is_bad = stem in _LOW_IS_BAD
            if (limit < fail) if low_is_bad else (limit > fail):
                raise OptionError(
                    "thresholds", f"must fail {stem} only beyond its limit", received=(limit, fail),
                    remedy=f"Choose {stem}_limit {'above' if low_is_bad else 'below'} {stem}_fail.",
                )  # fmt: skip

    def _pairs(self) -> list[tuple[str, float, float]]:
        names = {each.name for each in fields(self)}
        stems = sorted(name.removesuffix("_fail") for name in names if name.endswith("_fail"))
        return [
            (stem, getattr(self, f"{stem}_limit"), getattr(self, f"{stem}_fail"))
            for stem in stems
            if f"{stem}_limit" in names and stem != "typicality"  # a quantile and a factor
        ]


def status_above(value: float, limit: float, fail: float) -> Status:
    """Pass up to the limit, limit up to the fail, fail beyond; a value that is no number fails.

    >>> status_above(0.1, 0.2, 0.5), status_above(0.3, 0.2, 0.5), status_above(float("nan"), 0.2, 0.5)
    ('pass', 'limit', 'fail')
    """
    return "pass" if value <= limit else "limit" if value <= fail else "fail"


def status_below(value: float, limit: float, fail: float) -> Status:
    """Pass down to the limit, limit down to the fail, fail below; a value that is no number fails."""
    return "pass" if value >= limit else "limit" if value >= fail else "fail"


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


def require_quantiles(quantiles: Mapping[str, Mapping[str, float]], thresholds: Thresholds) -> None:
    """See that a generator stores every quantile that thresholds name, of the kinds it stores at all.

    Args:
        quantiles: Those of a generator, by kind.
        thresholds: What is asked for.

    Raises:
        OptionError: It stores others.
    """
    named = {
        "bare": (thresholds.error_limit, thresholds.error_fail),
        "typicality": (thresholds.typicality_limit,),
    }
    for kind, shares in named.items():
        for share in shares if quantiles.get(kind) else ():
            stored_quantile(quantiles[kind], share)
