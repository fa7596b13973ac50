"""A walk towards a named cluster: what the classifier says on the straight way to its middle.

The lane runs from an image's code to the mean of a component of a :class:`GaussianMixtureVAE`, in equal
steps. It is not led by the classifier: a level is reached if the score passes it on the way, and what is not
passed keeps the closest frame and says so. Up and down are the same way.
"""

import math
from typing import Any

import torch

from explainer.errors import OptionError
from explainer.generators.mixture import GaussianMixtureVAE
from explainer.walks.base import Goals, Lanes, Walk
from explainer.walks.placing import Lane
from explainer.walks.scene import Scene

__all__ = ["ClusterWalk"]


class ClusterWalk(Walk):
    """A straight way to the middle of a cluster.

    Args:
        cluster: Its name (see :meth:`GaussianMixtureVAE.name_clusters`) or its number.
        points: Points of the way at which the classifier is asked.
    """

    name = "cluster"

    def __init__(self, cluster: str | int, *, points: int = 16) -> None:
        if points < 1:
            raise OptionError("points", "must be at least 1", received=points, remedy="Try 16.")
        self.cluster, self.points = cluster, points

    def options(self) -> dict[str, Any]:
        return {"cluster": self.cluster, "points": self.points}

    def lanes(self, scene: Scene, goals: Goals, wanted: torch.Tensor) -> Lanes:
        if not isinstance(scene.generator, GaussianMixtureVAE):
            raise OptionError(
                "towards", "needs a generator with clusters", received=scene.generator.kind,
                remedy="Train a GaussianMixtureVAE.",
            )  # fmt: skip
        with torch.no_grad():
            middle = scene.generator.prior().means[scene.generator.cluster_number(self.cluster)]
        images = sorted({image for image, _ in goals})
        start = scene.z[images]
        shares = torch.linspace(0, 1, self.points + 1)[1:].to(start)
        way = start[:, None] + shares[:, None] * (middle - start)[:, None]
        rows = torch.tensor(images).repeat_interleave(self.points)
        scores = scene.score(way.flatten(0, 1), rows).view(len(images), self.points)
        lanes: Lanes = {}
        for place, image in enumerate(images):
            for sign in (1, -1):
                if (image, sign) in goals:
                    lane = Lane(
                        [start[place]], [float(scene.score0[image])], [torch.full_like(middle, torch.nan)]
                    )
                    for code, score in zip(way[place], scores[place].tolist(), strict=True):
                        if math.isfinite(score):
                            lane.add(code, score)
                    _end(lane, sign, goals[image, sign], str(self.cluster))
                    lanes[image, sign] = lane
        return lanes


def _end(lane: Lane, sign: int, goal: float, cluster: str) -> None:
    """Cut a lane where it has come nearest to its goal."""
    best = max(range(len(lane.scores)), key=lambda point: sign * lane.scores[point])
    passed = next((point for point, score in enumerate(lane.scores) if sign * (score - goal) >= 0), None)
    last = best if passed is None else passed
    del lane.codes[last + 1 :], lane.scores[last + 1 :], lane.gradients[last + 1 :]
    if passed is None:
        lane.stopped = f'the way to the cluster "{cluster}" does not lead there; it came nearest'
