r"""Trust-region steps along a slope that is found anew at every point.

With score :math:`s`, slope :math:`g` and goal :math:`s^*` a lane takes the smallest move that a linear
model of the score allows,

.. math:: \delta z = (s^* - s)\, g / \|g\|^2 - \eta\, P\, (z - z_0), \qquad \|\delta z\| \le r,

where :math:`P = 1 - g g^T / \|g\|^2`: the second term slides back along the level set towards the image's own
code :math:`z_0`. With :math:`\eta = 1` it is the step of Hasofer, Lind, Rackwitz and Fiessler (1978) to the
nearest point of the level set. It is cut to the length of the first, and :math:`\eta` halves whenever a step
gains less than half of what was predicted: level sets that bend hold a walk up otherwise. The move is cut to
the trust radius ``r``: accepted if the score moved towards its goal (``r`` grows by 1.3), else taken back
(``r`` halves). The score is that of the *delivered* image. All lanes step together, and those that are done
leave the batch.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from explainer.errors import OptionError
from explainer.walks.base import NOT_FINITE, Goals, Lanes, Walk
from explainer.walks.placing import Lane
from explainer.walks.scene import Scene

__all__ = ["SteppingWalk"]

_OVERSHOOT = 0.05
_FLAT_GRADIENT = 1e-6
_SMALLEST_RADIUS = 1e-3
_GOOD_SHARE = 0.5


class SteppingWalk(Walk):
    """Base of the walks that step; a subclass says where the slope comes from.

    Args:
        radius: First trust radius, in prior standard deviations of the code.
        steps: Largest number of steps of one lane.
        sparsity: Share of the code's dimensions that stay still, 0 to 1: of each image those along which the
            score's slope at its own code is smallest.
        shorten: The first :math:`\\eta` of the module's formula, 0 to 1.
    """

    def __init__(
        self, *, radius: float = 1.0, steps: int = 60, sparsity: float = 0.0, shorten: float = 1.0
    ) -> None:
        if radius <= 0 or steps < 1:
            raise OptionError(
                "radius, steps",
                "must be positive",
                received=(radius, steps),
                remedy="Try radius=1, steps=60.",
            )
        if not 0 <= sparsity < 1 or not 0 <= shorten <= 1:
            raise OptionError(
                "sparsity, shorten",
                "must lie in [0, 1), and in [0, 1]",
                received=(sparsity, shorten),
                remedy="sparsity=.5 lets half of the code's dimensions move.",
            )
        self.radius, self.steps = radius, steps
        self.sparsity, self.shorten = sparsity, shorten
        self.exhausted = f"{steps} steps were not enough"

    def options(self) -> dict[str, Any]:
        return {
            "radius": self.radius,
            "steps": self.steps,
            "sparsity": self.sparsity,
            "shorten": self.shorten,
        }

    @abstractmethod
    def slope(self, scene: Scene, z: Tensor, rows: Tensor, previous: Tensor | None, step: int) -> Tensor:
        """Slopes ``(M, D)`` of the score at codes ``(M, D)``.

        Args:
            scene: What is evaluated.
            z: Codes.
            rows: ``(M,)``, the images they belong to.
            previous: Slopes ``(M, D)`` at the point before, or found at the same point before; None at first.
            step: Number of the step.
        """

    def look(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores ``(M,)`` at codes ``(M, D)``, and the slopes where they come for little more."""
        return scene.score(z, rows), None

    def lanes(self, scene: Scene, goals: Goals, wanted: Tensor) -> Lanes:
        images = sorted({image for image, _ in goals})
        rows = torch.tensor(images)
        scores, slopes = self.look(scene, scene.z[rows], rows)
        if slopes is None:
            slopes = self.slope(scene, scene.z[rows], rows, None, 0)
        moving = _moving(slopes, self.sparsity)
        at = {image: place for place, image in enumerate(images)}
        lanes: Lanes = {}
        for key in sorted(goals):
            i = at[key[0]]
            lanes[key] = Lane([scene.z[key[0]]], [float(scores[i])], [slopes[i] * moving[i]])
        radius, slide = dict.fromkeys(lanes, self.radius), dict.fromkeys(lanes, self.shorten)
        active = list(lanes)
        for number in range(1, self.steps + 1):
            candidates, walking = [], []
            for key in active:
                move = self._move(lanes[key], goals[key], key[1], radius[key], slide[key])
                if move is not None:
                    candidates.append(lanes[key].codes[-1] + move * moving[at[key[0]]])
                    walking.append(key)
            if not walking:
                break
            z = torch.stack(candidates)
            rows = torch.tensor([image for image, _ in walking])
            scores, found = self.look(scene, z, rows)
            better = [
                key[1] * (score - lanes[key].scores[-1]) > 0
                for key, score in zip(walking, scores.tolist(), strict=True)
            ]
            active = []
            for i, (key, score) in enumerate(zip(walking, scores.tolist(), strict=True)):
                lane, sign = lanes[key], key[1]
                if not math.isfinite(score) and radius[key] < 2 * _SMALLEST_RADIUS:
                    lane.stopped = "the classifier's score was not finite further on"
                elif better[i]:
                    predicted = abs(float(lane.gradients[-1] @ (z[i] - lane.codes[-1])))
                    if abs(score - lane.scores[-1]) < _GOOD_SHARE * predicted:
                        slide[key] /= 2
                    lane.add(z[i], score, None if found is None else found[i] * moving[at[key[0]]])
                    radius[key] *= 1.3
                    if sign * (score - goals[key]) < 0:
                        active.append(key)
                else:
                    radius[key] /= 2
                    slide[key] /= 2
                    active.append(key)
            if found is None and active:
                self._renew(scene, lanes, active, moving, at, number)
        for key in active:
            lanes[key].stopped = lanes[key].stopped or self.exhausted
        return lanes

    def _renew(
        self,
        scene: Scene,
        lanes: Lanes,
        active: list[tuple[int, int]],
        moving: Tensor,
        at: dict[int, int],
        step: int,
    ) -> None:
        """Slopes where the lanes now stand: new ones at new points, better ones where a step failed."""
        z = torch.stack([lanes[key].codes[-1] for key in active])
        rows = torch.tensor([image for image, _ in active])
        known = []
        for key in active:
            gradients = lanes[key].gradients
            known.append(gradients[-2] if gradients[-1].isnan().all() else gradients[-1])
        slopes = self.slope(scene, z, rows, torch.stack(known), step)
        for key, slope in zip(active, slopes, strict=True):
            lanes[key].gradients[-1] = slope * moving[at[key[0]]]

    def _move(self, lane: Lane, goal: float, sign: int, radius: float, slide: float) -> Tensor | None:
        """The next move of a lane, or None with the reason noted in the lane."""
        gradient = lane.gradients[-1]
        length = float(gradient.norm())
        if not math.isfinite(length):
            lane.stopped = NOT_FINITE
            return None
        if not length > _FLAT_GRADIENT:
            lane.stopped = "the gradient vanished"
            return None
        if radius < _SMALLEST_RADIUS:
            lane.stopped = "no step moved the score any further"
            return None
        gap = goal + sign * _OVERSHOOT - lane.scores[-1]
        unit = gradient / length
        ahead = min(abs(gap) / length, radius)
        move = unit * (sign * ahead)
        if slide and len(lane.codes) > 1:
            behind = lane.codes[-1] - lane.codes[0]
            aside = slide * (behind - unit * (behind @ unit))
            move = move - aside * min(1.0, ahead / max(float(aside.norm()), 1e-12))
            move = move * min(1.0, radius / float(move.norm()))
        return move


def _moving(slopes: Tensor, sparsity: float) -> Tensor:
    """1 for the dimensions ``(M, D)`` that may move, 0 for the share with the smallest slopes."""
    kept = max(1, round(slopes.shape[1] * (1 - sparsity)))
    if kept == slopes.shape[1]:
        return torch.ones_like(slopes)
    return torch.zeros_like(slopes).scatter(1, slopes.abs().nan_to_num().topk(kept, dim=1).indices, 1.0)
