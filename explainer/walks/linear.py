"""Latent shift: a straight line along the gradient at the start (Cohen et al. 2021, arXiv 2102.09475).

The baseline that users know. The line is followed in both directions; with ``t`` its length, the points
``t_1 = min(gap / ||g||, radius)``, ``t_{k+1} = 1.6 t_k`` are evaluated until the goal is passed, the score
falls, or the line has left the reach of any code. The levels in between are found on the line.
"""

import math
from typing import Any

import torch
from torch import Tensor

from explainer.errors import OptionError
from explainer.walks.base import NOT_FINITE, Goals, Lanes, Walk
from explainer.walks.gradient import require_gradient
from explainer.walks.placing import Lane
from explainer.walks.scene import Scene

__all__ = ["LinearWalk"]

_GROWTH = 1.6
_FLAT_GRADIENT = 1e-6


class LinearWalk(Walk):
    """One gradient per image, then forward passes only.

    Args:
        radius: Longest first step, in prior standard deviations of the code.
        reach: Longest line, likewise: twice the usual length of a code of 64 dimensions and more.
    """

    name = "linear"

    def __init__(self, *, radius: float = 1.0, reach: float = 20.0) -> None:
        if not 0 < radius <= reach:
            raise OptionError(
                "radius, reach",
                "must be positive, the reach no less than the radius",
                received=(radius, reach),
                remedy="Try radius=1, reach=20.",
            )
        self.radius, self.reach = radius, reach

    def options(self) -> dict[str, Any]:
        return {"radius": self.radius, "reach": self.reach}

    def lanes(self, scene: Scene, goals: Goals, wanted: Tensor) -> Lanes:
        require_gradient(scene, self.name)
        images = sorted({image for image, _ in goals})
        scores, gradients = scene.score_and_gradient(scene.z[images], torch.tensor(images))
        start = {image: (float(scores[i]), gradients[i]) for i, image in enumerate(images)}
        lanes: Lanes = {}
        length: dict[tuple[int, int], float] = {}
        for key in sorted(goals):
            image, _ = key
            score, gradient = start[image]
            lanes[key] = Lane([scene.z[image]], [score], [gradient])
            slope = float(gradient.norm())
            if not math.isfinite(slope):
                lanes[key].stopped = NOT_FINITE
            elif not slope > _FLAT_GRADIENT:
                lanes[key].stopped = "the gradient vanished"
            else:
                length[key] = min(abs(goals[key] - score) * 1.02 / slope, self.radius)
        while length:
            active = list(length)
            z = torch.stack(
                [
                    lanes[key].codes[0]
                    + lanes[key].gradients[0] * (key[1] * length[key] / float(lanes[key].gradients[0].norm()))
                    for key in active
                ]
            )
            found = scene.score(z, torch.tensor([image for image, _ in active])).tolist()
            for key, code, score in zip(active, z, found, strict=True):
                lane, (_, sign) = lanes[key], key
                if not math.isfinite(score):
                    lane.stopped = "the classifier's score was not finite further on"
                elif sign * (score - lane.scores[-1]) <= 0:
                    lane.stopped = "the score turned back along the straight line"
                else:
                    lane.add(code, score)
                    if sign * (score - goals[key]) < 0 and length[key] < self.reach:
                        length[key] = min(length[key] * _GROWTH, self.reach)
                        continue
                    lane.stopped = f"the straight line ended after {self.reach:g} standard deviations"
                del length[key]
        return lanes
