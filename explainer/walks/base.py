r"""From images and levels to latents: a trust-region path to both ends, frames placed along it.

For every image two lanes leave its code, one to the highest level and one to the lowest. A lane takes
the smallest move that a linear model of the score allows,

.. math:: \delta z = (s^* - s)\, g / \|g\|^2, \qquad \|\delta z\| \le r

cut to the trust radius ``r``: accepted if the score moved towards its goal (``r`` grows by 1.3), else
taken back (``r`` halves). The score is that of the *delivered* image. All lanes step together, and
those that are done leave the batch.

Every level between the image's own and the end of a lane is bracketed by two points of the lane, so its
frame is found on that segment by safeguarded interpolation, without gradients: neighbouring frames lie
on one path, and their levels are exact to a fraction of the tolerance. What is not reached keeps the
closest frame and says why.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from explainer.classifier import Classifier, Target
from explainer.errors import OptionError
from explainer.generators.base import Generator

__all__ = ["TOLERANCE", "Scene", "Walk", "WalkResult", "require_levels"]

TOLERANCE = 0.02
"""A frame is reached if its achieved probability is this close; :attr:`Target.tolerance` for any target."""

AIM = 0.1
"""How close the interpolation goes, in tolerances, or a quarter of the smallest gap between levels."""

_OVERSHOOT = 0.05
_FLAT_GRADIENT = 1e-6
_SMALLEST_RADIUS = 1e-3


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
    is_value = target is not None and target.measure == "value"
    inside = values.isfinite() if is_value else (values > 0) & (values < 1)
    if not len(values) or not bool(inside.all()):
        what = "uncertainties" if target is not None and target.measure == "uncertainty" else "probabilities"
        raise OptionError(
            "levels",
            "must be finite values" if is_value else f"must be {what} strictly between 0 and 1",
            received=levels,
            remedy="Pass for example levels="
            + (
                str([round(level, 3) for level in target.default_levels[::3]])
                if target and is_value
                else "[.1, .5, .9]"
            )
            + ".",
        )
    return values.unique()


class Scene:
    """Some images, seen through a generator and a classifier: latents in, delivered images and scores out.

    Images of another size than the generator's are delivered at their own, see
    :meth:`Generator.at_full_size`. An image of another aspect ratio is walked in its central part.

    Args:
        generator: In evaluation mode.
        classifier: Frozen by the caller.
        target: What the score is of.
        images: ``(N, C, H, W)`` in [0, 1], any size.
        strength: Of the carried detail, 0 to 1.
        batch_size: Images evaluated at once.

    Attributes:
        z: Codes ``(N, D)`` of the images.
        score0: Scores ``(N,)`` of the delivered images before any move.
        evaluations: Number of images whose score was computed.
        gradients: Number of images whose gradient was computed.
    """

    def __init__(
        self,
        generator: Generator,
        classifier: Classifier,
        target: Target,
        images: Tensor,
        *,
        strength: float = 1.0,
        batch_size: int = 128,
    ) -> None:
        self.generator, self.classifier, self.target = generator, classifier, target
        self.images, self.batch_size = images, batch_size
        self.region = generator.region((images.shape[-2], images.shape[-1]))
        self.evaluations = self.gradients = 0
        with torch.no_grad():
            self.small = generator.resized(images)
            self.z = generator.encode(self.small)
            self.detail = generator.detail(self.small, self.z, strength)
        self.score0 = self.score(self.z, torch.arange(len(images)))

    def deliver(self, z: Tensor, rows: Tensor) -> Tensor:
        """Delivered images ``(M, C, H, W)`` of codes ``(M, D)`` that belong to the images ``rows``."""
        frames = self.generator.decode(z, self.detail[rows])
        return self.generator.at_full_size(frames, self.small[rows], self.images[rows])

    @torch.no_grad()
    def score(self, z: Tensor, rows: Tensor) -> Tensor:
        """Scores ``(M,)`` of the delivered images."""
        self.evaluations += len(z)
        parts = zip(z.split(self.batch_size), rows.split(self.batch_size), strict=True)
        return torch.cat([self.classifier.score(self.deliver(*part), self.target) for part in parts])

    def score_and_gradient(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(M,)`` and their gradients ``(M, D)`` with respect to the codes."""
        self.gradients += len(z)
        scores, gradients = [], []
        with torch.enable_grad():
            for part, members in zip(z.split(self.batch_size), rows.split(self.batch_size), strict=True):
                leaf = part.detach().requires_grad_(True)
                score = self.classifier.score(self.deliver(leaf, members), self.target)
                gradients.append(torch.autograd.grad(score.sum(), leaf)[0])
                scores.append(score.detach())
        return torch.cat(scores), torch.cat(gradients)


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


@dataclass
class _Lane:
    """The points of one image's path in one direction: codes, scores and slopes along the path."""

    codes: list[Tensor]
    scores: list[float]
    gradients: list[Tensor]
    stopped: str = ""


class Walk(ABC):
    """Base of the walks that step along a direction; a subclass says which.

    Args:
        radius: First trust radius, in prior standard deviations of the code.
        steps: Largest number of steps of one lane.
    """

    name = "walk"

    def __init__(self, *, radius: float = 1.0, steps: int = 60) -> None:
        if radius <= 0 or steps < 1:
            raise OptionError(
                "radius, steps",
                "must be positive",
                received=(radius, steps),
                remedy="Try radius=1, steps=60.",
            )
        self.radius, self.steps = radius, steps

    @abstractmethod
    def slope(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(M,)`` at codes ``(M, D)`` and the direction ``(M, D)`` in which the score rises."""

    def __call__(self, scene: Scene, levels: Tensor) -> WalkResult:
        """Walk every image of the scene to every level.

        Args:
            scene: Images, generator, classifier and target.
            levels: ``(L,)`` ascending, see :func:`require_levels`.
        """
        wanted = scene.target.to_score(levels)
        start = scene.score0.double().cpu()
        lanes: dict[tuple[int, int], _Lane] = {}
        goals: dict[tuple[int, int], float] = {}
        for image, own in enumerate(start.tolist()):
            for sign, goal in ((1, float(wanted[-1])), (-1, float(wanted[0]))):
                if sign * (goal - own) > 0:
                    goals[image, sign] = goal
        before = scene.evaluations, scene.gradients
        if goals:
            lanes = self._paths(scene, goals)
        latents = self._place(scene, lanes, wanted, start)
        reasons = [
            [self._reason(scene.target, lanes, image, float(want), float(start[image])) for want in wanted]
            for image in range(len(start))
        ]
        count = max(1, len(start))
        return WalkResult(
            latents=latents,
            reasons=reasons,
            gradients=(scene.gradients - before[1]) / count,
            evaluations=(scene.evaluations - before[0]) / count,
        )

    # -- the loop --------------------------------------------------------------------------------

    def _paths(self, scene: Scene, goals: dict[tuple[int, int], float]) -> dict[tuple[int, int], _Lane]:
        """Walk every lane to a little beyond its goal, all of them together."""
        images = sorted({image for image, _ in goals})
        rows = torch.tensor(images)
        scores, gradients = self.slope(scene, scene.z[rows], rows)
        first = {image: (float(scores[i]), gradients[i]) for i, image in enumerate(images)}
        lanes = {
            key: _Lane([scene.z[key[0]]], [first[key[0]][0]], [first[key[0]][1]]) for key in sorted(goals)
        }
        radius = dict.fromkeys(lanes, self.radius)
        active = list(lanes)
        for _ in range(self.steps):
            candidates, walking = [], []
            for key in active:
                step = self._step(lanes[key], goals[key], key[1], radius[key])
                if step is not None:
                    candidates.append(lanes[key].codes[-1] + step)
                    walking.append(key)
            if not walking:
                break
            z = torch.stack(candidates)
            scores, gradients = self.slope(scene, z, torch.tensor([image for image, _ in walking]))
            active = []
            for key, code, score, gradient in zip(walking, z, scores.tolist(), gradients, strict=True):
                lane, sign = lanes[key], key[1]
                if not math.isfinite(score) and radius[key] < 2 * _SMALLEST_RADIUS:
                    lane.stopped = "the classifier's score was not finite further on"
                elif sign * (score - lane.scores[-1]) > 0:
                    lane.codes.append(code)
                    lane.scores.append(score)
                    lane.gradients.append(gradient)
                    radius[key] *= 1.3
                    if sign * (score - goals[key]) < 0:
                        active.append(key)
                else:
                    radius[key] /= 2
                    active.append(key)
        for key in active:
            lanes[key].stopped = lanes[key].stopped or f"{self.steps} steps were not enough"
        return lanes

    def _step(self, lane: _Lane, goal: float, sign: int, radius: float) -> Tensor | None:
        """The next move of a lane, or None with the reason noted in the lane."""
        gradient = lane.gradients[-1]
        length = float(gradient.norm())
        if not math.isfinite(length):
            lane.stopped = "the classifier's score or gradient was not finite"
            return None
        if not length > _FLAT_GRADIENT:
            lane.stopped = "the gradient vanished"
            return None
        if radius < _SMALLEST_RADIUS:
            lane.stopped = "no step moved the score any further"
            return None
        gap = goal + sign * _OVERSHOOT - lane.scores[-1]
        return gradient * (sign * min(abs(gap) / length, radius) / length)

    # -- the frames --------------------------------------------------------------------------------

    def _place(
        self, scene: Scene, lanes: dict[tuple[int, int], _Lane], wanted: Tensor, start: Tensor
    ) -> Tensor:
        """Codes ``(N, L, D)``: levels inside a lane by interpolation, levels beyond it at its end."""
        latents = scene.z[:, None].repeat(1, len(wanted), 1)
        brackets = []
        for image, own in enumerate(start.tolist()):
            for position, want in enumerate(wanted.tolist()):
                sign = 1 if want > own else -1
                lane = lanes.get((image, sign))
                if lane is None or want == own:
                    continue
                segment = next((k for k, s in enumerate(lane.scores) if sign * (s - want) >= 0), None)
                if segment is None:
                    latents[image, position] = lane.codes[-1]
                elif segment > 0:
                    brackets.append((image, position, want, lane, segment))
        if brackets:
            gap = scene.target.to_level(wanted).diff().min() if len(wanted) > 1 else torch.inf
            codes = _interpolate(scene, brackets, aim=min(AIM * scene.target.tolerance, float(gap) / 4))
            for (image, position, *_), code in zip(brackets, codes, strict=True):
                latents[image, position] = code
        return latents

    def _reason(
        self, target: Target, lanes: dict[tuple[int, int], _Lane], image: int, want: float, own: float
    ) -> str:
        sign = 1 if want > own else -1
        lane = lanes.get((image, sign))
        if lane is None or sign * (lane.scores[-1] - want) >= 0:
            return ""
        level, end = target.to_level(torch.tensor([want, lane.scores[-1]], dtype=torch.float64)).tolist()
        return f"level {target.show(level)} not reached: {lane.stopped} at {target.show(end)}"


def _interpolate(scene: Scene, brackets: list[tuple[int, int, float, _Lane, int]], *, aim: float) -> Tensor:
    """Codes at which the score is as wanted, on segments whose ends lie on either side of it.

    The first guess inverts the cubic through both ends' scores and slopes; further guesses interpolate
    linearly (Illinois variant of the false position), so the bracket always shrinks.
    """
    rows = torch.tensor([image for image, *_ in brackets])
    wanted = torch.tensor([want for _, _, want, _, _ in brackets], dtype=torch.float64)
    left = torch.stack([lane.codes[k - 1] for *_, lane, k in brackets])
    right = torch.stack([lane.codes[k] for *_, lane, k in brackets])
    move = right - left
    low_gap = torch.tensor([lane.scores[k - 1] for *_, lane, k in brackets], dtype=torch.float64) - wanted
    high_gap = torch.tensor([lane.scores[k] for *_, lane, k in brackets], dtype=torch.float64) - wanted
    gradients = [torch.stack([lane.gradients[k - 1], lane.gradients[k]]) for *_, lane, k in brackets]
    slopes = torch.einsum("bed,bd->be", torch.stack(gradients), move).double().cpu()
    low, high = (
        torch.zeros(len(brackets), dtype=torch.float64),
        torch.ones(len(brackets), dtype=torch.float64),
    )
    share = _inverse_cubic(low_gap, high_gap, slopes[:, 0], slopes[:, 1])
    to_level = scene.target.to_level
    level = to_level(wanted)
    best, best_error = share.clone(), torch.full_like(share, torch.inf)
    pending = torch.arange(len(brackets))
    side = torch.zeros(len(brackets))
    for _ in range(30):
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
