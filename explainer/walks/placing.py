"""Frames on a path: where on a segment whose ends lie on either side of it is a score as wanted?

The first guess inverts the cubic through both ends' scores and slopes (the chord, where there are no
slopes); further guesses interpolate linearly (Illinois variant of the false position), so the bracket
always shrinks. No gradients are computed.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from explainer.walks.scene import Scene

__all__ = ["Bracket", "Lane", "place"]

_MOST_GUESSES = 30


@dataclass
class Lane:
    """One image's path in one direction.

    Attributes:
        codes: Its points ``(D,)``, the image's own code first.
        scores: Scores at the points.
        gradients: Gradients ``(D,)`` there; NaN where none was computed.
        stopped: Why it ended before its goal.
    """

    codes: list[Tensor]
    scores: list[float]
    gradients: list[Tensor] = field(default_factory=list)
    stopped: str = ""

    def add(self, code: Tensor, score: float, gradient: Tensor | None = None) -> None:
        """Go on to a point."""
        self.codes.append(code)
        self.scores.append(score)
        self.gradients.append(torch.full_like(code, torch.nan) if gradient is None else gradient)


@dataclass(frozen=True)
class Bracket:
    """A score wanted of an image, and the segment of a lane that ends at its point ``end`` around it."""

    image: int
    position: int
    wanted: float
    lane: Lane
    end: int


def place(scene: Scene, brackets: list[Bracket], *, aim: float) -> Tensor:
    """Codes ``(brackets, D)`` at which the score is as wanted.

    Args:
        scene: What is evaluated.
        brackets: Where to look.
        aim: How close the level comes before the search ends.
    """
    rows = torch.tensor([each.image for each in brackets])
    wanted = torch.tensor([each.wanted for each in brackets], dtype=torch.float64)
    left = torch.stack([each.lane.codes[each.end - 1] for each in brackets])
    move = torch.stack([each.lane.codes[each.end] for each in brackets]) - left
    ends = torch.tensor(
        [[each.lane.scores[each.end - 1], each.lane.scores[each.end]] for each in brackets],
        dtype=torch.float64,
    )
    low_gap, high_gap = (ends - wanted[:, None]).unbind(dim=1)
    low_gap, high_gap = low_gap.clone(), high_gap.clone()
    gradients = [
        torch.stack([each.lane.gradients[each.end - 1], each.lane.gradients[each.end]]) for each in brackets
    ]
    slopes = torch.einsum("bed,bd->be", torch.stack(gradients), move).double().cpu()
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    share = torch.where(
        slopes.isfinite().all(dim=1),
        _inverse_cubic(low_gap, high_gap, slopes[:, 0], slopes[:, 1]),
        low_gap / (low_gap - high_gap),
    )
    to_level = scene.target.to_level
    level = to_level(wanted)
    best, best_error = share.clone(), torch.full_like(share, torch.inf)
    pending = torch.arange(len(brackets))
    side = torch.zeros(len(brackets))
    for _ in range(_MOST_GUESSES):
        z = left[pending] + share[pending, None].to(left) * move[pending]
        gap = scene.score(z, rows[pending]).double().cpu() - wanted[pending]
        error = (to_level(gap + wanted[pending]) - level[pending]).abs()
        better = error < best_error[pending]
        best[pending[better]], best_error[pending[better]] = share[pending[better]], error[better]
        same = torch.sign(gap) == torch.sign(low_gap[pending])
        for own, mine, other_gap, mark in ((low, same, high_gap, 1.0), (high, ~same, low_gap, -1.0)):
            moved = pending[mine]
            own[moved] = share[moved]
            (low_gap if mark > 0 else high_gap)[moved] = gap[mine]
            repeated = moved[side[moved] == mark]
            other_gap[repeated] /= 2
            side[moved] = mark
        pending = pending[error > aim]
        if not len(pending):
            break
        a, b, fa, fb = low[pending], high[pending], low_gap[pending], high_gap[pending]
        guess = a - fa * (b - a) / (fb - fa)
        share[pending] = torch.where(torch.isfinite(guess), guess, (a + b) / 2).clamp(min=a, max=b)
    return left + best[:, None].to(left) * move


def _inverse_cubic(f0: Tensor, f1: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """Where in [0, 1] the cubic with values ``f0, f1`` and slopes ``d0, d1`` at the ends crosses zero."""
    low, high = torch.zeros_like(f0), torch.ones_like(f0)
    for _ in range(20):
        t = (low + high) / 2
        value = (
            f0 * (1 + 2 * t) * (1 - t) ** 2
            + d0 * t * (1 - t) ** 2
            + f1 * t**2 * (3 - 2 * t)
            + d1 * t**2 * (t - 1)
        )
        left = torch.sign(value) == torch.sign(f0)
        low, high = torch.where(left, t, low), torch.where(left, high, t)
    return (low + high) / 2
