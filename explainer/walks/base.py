"""From images and levels to latents: lanes to both ends, frames placed along them.

For every image up to two lanes leave its code, one to the highest level and one to the lowest; a subclass
says how. Every level between the image's own and the end of a lane is bracketed by two points of the lane,
so its frame is found on that segment by safeguarded interpolation (:mod:`explainer.walks.placing`):
neighbouring frames lie on one path, and their levels are exact to a fraction of the tolerance. What is not
reached keeps the closest frame and says why.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from explainer.errors import OptionError
from explainer.target import Target
from explainer.walks.placing import Bracket, Lane, place
from explainer.walks.scene import Scene

__all__ = [
    "NOT_FINITE",
    "TOLERANCE",
    "Goals",
    "Lanes",
    "Scene",
    "Walk",
    "WalkResult",
    "refused",
    "require_levels",
]

TOLERANCE = 0.02
"""A frame is reached if its achieved probability is this close; :attr:`Target.tolerance` for any target."""

_ASIDE = 1e-3
"""Of the length of a move, as a share: how much of it may lie where codes may not move."""

NOT_FINITE = "the classifier's score or gradient was not finite"

Goals: TypeAlias = Mapping[tuple[int, int], float]
"""By image and direction (1 up, -1 down), the score to reach."""

Lanes: TypeAlias = dict[tuple[int, int], Lane]


def require_levels(levels: object, target: Target | None = None) -> Tensor:
    """Ascending, distinct levels ``(L,)`` float64: strictly between 0 and 1, or values of a regression.

    Args:
        levels: Numbers.
        target: What they are levels of; probabilities when omitted.

    Raises:
        OptionError: Anything else.

    >>> require_levels([0.9, 0.1, 0.9])
    tensor([0.1000, 0.9000], dtype=torch.float64)
    """
    try:
        values = torch.as_tensor(levels, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0, dtype=torch.float64)
    measure = "probability" if target is None else target.measure
    inside = values.isfinite() if measure == "value" else (values > 0) & (values < 1)
    if not len(values) or not bool(inside.all()):
        what = "uncertainties" if measure == "uncertainty" else "probabilities"
        example = "[.1, .5, .9]"
        if target is not None and measure == "value":
            example = str([round(level, 3) for level in target.default_levels[::3]])
        raise OptionError(
            "levels",
            "must be finite values" if measure == "value" else f"must be {what} strictly between 0 and 1",
            received=levels,
            remedy=f"Pass for example levels={example}.",
        )
    return values.unique()


@dataclass(frozen=True)
class WalkResult:
    """Where the walk went.

    Attributes:
        latents: ``(N, L, D)``, one code for each image and level, levels ascending.
        reasons: For each image and level, why it was not reached; empty where it was.
        gradients: Gradient evaluations per image.
        evaluations: Forward evaluations per image.
    """

    latents: Tensor
    reasons: list[list[str]]
    gradients: float
    evaluations: float


class Walk(ABC):
    """Base of all walks: a subclass says how its lanes run.

    Attributes:
        name: What it is called.
        aim: How close a frame's level is brought, in tolerances (or a quarter of the smallest gap between
            levels if that is less).
        settles: Whether a point of a lane that is so close already is a frame; else every frame is sought.
    """

    name = "walk"
    aim = 0.1
    settles = False

    @abstractmethod
    def lanes(self, scene: Scene, goals: Goals, wanted: Tensor) -> Lanes:
        """A lane for every goal, from the image's code to a little beyond the goal if it can be reached.

        Args:
            scene: What is evaluated.
            goals: Where each lane leads.
            wanted: Scores ``(L,)`` of all the levels, ascending; the goals are its ends.
        """

    def options(self) -> dict[str, Any]:
        """The options it runs with; JSON-serialisable."""
        return {}

    def __call__(self, scene: Scene, levels: Tensor) -> WalkResult:
        """Walk every image of the scene to every level.

        Args:
            scene: Images, generator, classifier and target.
            levels: ``(L,)`` ascending, see :func:`require_levels`.
        """
        wanted = scene.target.to_score(levels)
        start = scene.score0.double().cpu().tolist()
        goals = {
            (image, sign): goal
            for image, own in enumerate(start)
            for sign, goal in ((1, float(wanted[-1])), (-1, float(wanted[0])))
            if sign * (goal - own) > 0
        }
        before = scene.evaluations, scene.gradients
        lanes = self.lanes(scene, goals, wanted) if goals else {}
        latents = self._place(scene, lanes, wanted, start)
        self._require_within(scene, latents)
        reasons = [
            [_reason(scene.target, lanes, image, want, own) for want in wanted.tolist()]
            for image, own in enumerate(start)
        ]
        count = max(1, len(start))
        return WalkResult(
            latents=latents,
            reasons=reasons,
            gradients=(scene.gradients - before[1]) / count,
            evaluations=(scene.evaluations - before[0]) / count,
        )

    def _require_within(self, scene: Scene, latents: Tensor) -> None:
        """Raise if codes were moved where the scene does not let them."""
        moves = latents - scene.z[:, None]
        aside = (moves - scene.allowed_part(moves)).norm(dim=-1)
        if bool((aside > _ASIDE * moves.norm(dim=-1) + 1e-6).any()):
            raise refused(self.name)

    def _place(self, scene: Scene, lanes: Lanes, wanted: Tensor, start: list[float]) -> Tensor:
        """Codes ``(N, L, D)``: levels inside a lane by interpolation, levels beyond it at its end."""
        latents = scene.z[:, None].repeat(1, len(wanted), 1)
        levels = scene.target.to_level(wanted)
        gap = float(levels.diff().min()) if len(wanted) > 1 else math.inf
        aim = min(self.aim * scene.target.tolerance, gap / 4)
        brackets = []
        for image, own in enumerate(start):
            for position, want in enumerate(wanted.tolist()):
                sign = 1 if want > own else -1
                lane = lanes.get((image, sign))
                if lane is None or want == own:
                    continue
                end = next((k for k, s in enumerate(lane.scores) if sign * (s - want) >= 0), None)
                if end is None:
                    latents[image, position] = lane.codes[-1]
                elif end > 0:
                    point, error = _nearer(scene.target, lane, end, want)
                    if self.settles and error <= aim:
                        latents[image, position] = lane.codes[point]
                    else:
                        brackets.append(Bracket(image, position, want, lane, end))
        if brackets:
            for bracket, code in zip(brackets, place(scene, brackets, aim=aim), strict=True):
                latents[bracket.image, bracket.position] = code
        return latents


def refused(name: str) -> OptionError:
    """The error of a walk that cannot be held to named axes."""
    return OptionError(
        "along, lock", "cannot be kept by this walk", received=f"the {name} walk",
        remedy='Use walk="gradient", "linear" or "evolution".',
    )  # fmt: skip


def _nearer(target: Target, lane: Lane, end: int, want: float) -> tuple[int, float]:
    """The end of a lane's segment whose level is nearer to what is wanted, and how far it is."""
    scores = torch.tensor([lane.scores[end - 1], lane.scores[end], want], dtype=torch.float64)
    before, after, level = target.to_level(scores).tolist()
    far = (abs(before - level), end - 1), (abs(after - level), end)
    error, point = min(far)
    return point, error


def _reason(target: Target, lanes: Lanes, image: int, want: float, own: float) -> str:
    if not math.isfinite(own):
        level = float(target.to_level(torch.tensor(want, dtype=torch.float64)))
        return f"level {target.show(level)} not reached: the classifier's score of the image is not finite"
    sign = 1 if want > own else -1
    lane = lanes.get((image, sign))
    if lane is None or sign * (lane.scores[-1] - want) >= 0:
        return ""
    level, end = target.to_level(torch.tensor([want, lane.scores[-1]], dtype=torch.float64)).tolist()
    return f"level {target.show(level)} not reached: {lane.stopped} at {target.show(end)}"
