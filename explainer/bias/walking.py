r"""Walks made for evidence: across the boundary of one model, while another is watched or held.

:func:`cross` walks every image to the other side of a score. :class:`HeldWalk` does so while a second score
is held: with gradients :math:`g` of the walked and :math:`h` of the held score it follows

.. math:: g - \frac{g \cdot h}{h \cdot h} h

which leaves the held score unchanged to first order.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainer.bias.attributes import Oracle
from explainer.classifier import Classifier, Target
from explainer.generators.base import Generator
from explainer.walks.base import TOLERANCE, Scene, Walk, require_levels
from explainer.walks.gradient import GradientWalk

__all__ = ["Crossing", "HeldWalk", "cross", "cross_oracle"]

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, eq=False)
class Crossing:
    """Images walked to the other side of a score.

    Attributes:
        rows: Number of each image in the audited set (N,).
        direction: +1 where the walk went up, -1 where it went down (N,).
        crossed: Whether it reached level .9 (or .1) on the other side (N,), booleans.
        start: Codes (N, D) of the images.
        end: Codes (N, D) of the last frames.
        path: Codes (N, 5, D) at the levels .1, .3, .5, .7, .9, ascending.
        first: The delivered images before the walk (N, C, H, W), at the generator's size.
        last: The delivered images after it.
    """

    rows: NDArray[np.int64]
    direction: NDArray[np.float64]
    crossed: NDArray[np.bool_]
    start: Tensor
    end: Tensor
    path: Tensor
    first: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.rows)


class HeldWalk(Walk):
    """A gradient walk that leaves another classifier's score where it is, to first order.

    Args:
        held: The classifier that is not to notice.
        target: What of it is held.
        radius: First trust radius, in prior standard deviations of the code.
        steps: Largest number of steps of one lane.
    """

    name = "held"

    def __init__(self, held: Classifier, target: Target, *, radius: float = 1.0, steps: int = 60) -> None:
        super().__init__(radius=radius, steps=steps)
        self.held, self.target = held, target

    def slope(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        scene.gradients += len(z)
        scores, directions = [], []
        with torch.enable_grad():
            for part, members in zip(z.split(scene.batch_size), rows.split(scene.batch_size), strict=True):
                leaf = part.detach().requires_grad_(True)
                delivered = scene.deliver(leaf, members)
                score = scene.classifier.score(delivered, scene.target)
                (gradient,) = torch.autograd.grad(score.sum(), leaf, retain_graph=True)
                (other,) = torch.autograd.grad(self.held.score(delivered, self.target).sum(), leaf)
                along = (gradient * other).sum(1) / other.square().sum(1).clamp_min(1e-12)
                scores.append(score.detach())
                directions.append(gradient - along[:, None] * other)
        return torch.cat(scores), torch.cat(directions)


def cross(
    generator: Generator,
    classifier: Classifier,
    target: Target,
    images: Tensor,
    rows: NDArray[np.int64],
    *,
    walk: Walk | None = None,
    batch_size: int = 64,
) -> Crossing:
    """Walk images to the other side of a score: to .1 from above .5, to .9 from below.

    Args:
        generator: In evaluation mode.
        classifier: Whose score is walked.
        target: What the score is of.
        images: (N, C, H, W) in [0, 1].
        rows: Number of each in the audited set.
        walk: The gradient walk by default.
        batch_size: Images walked at once.
    """
    walker = GradientWalk() if walk is None else walk
    levels = require_levels(LEVELS)
    parts = []
    with classifier.frozen():
        classifier.check(images[:8])
        for chosen in torch.arange(len(images)).split(batch_size):
            scene = Scene(generator, classifier, target, images[chosen])
            latents = walker(scene, levels).latents
            up = scene.score0 < 0
            end = torch.where(up[:, None], latents[:, -1], latents[:, 0])
            own = torch.arange(len(chosen))
            reached = torch.sigmoid(scene.score(end, own).double())
            goal = torch.where(up, levels[-1].to(reached), levels[0].to(reached))
            with torch.no_grad():
                first, last = scene.deliver(scene.z, own), scene.deliver(end, own)
            crossed = (reached - goal).abs() <= TOLERANCE
            parts.append((up, crossed, scene.z, end, latents, first.cpu(), last.cpu()))
    up, crossed, start, end, path, first, last = (torch.cat(part) for part in zip(*parts, strict=True))
    return Crossing(
        rows=np.asarray(rows),
        direction=np.where(up.cpu().numpy(), 1.0, -1.0),
        crossed=crossed.cpu().numpy(),
        start=start,
        end=end,
        path=path,
        first=first,
        last=last,
    )


def cross_oracle(
    generator: Generator, oracle: Oracle, held: Oracle | None, images: Tensor, rows: NDArray[np.int64]
) -> Crossing:
    """Walk images to the other side of an oracle while the ``held`` one is held, each with its own models.

    Args:
        generator: In evaluation mode.
        oracle: What is walked.
        held: What is held; None holds nothing.
        images: (N, C, H, W) in [0, 1].
        rows: Number of each in the audited set.
    """
    parts = []
    for classifier, may in oracle.parts:
        for kept, allowed in held.parts if held is not None else ((None, may),):
            chosen = np.flatnonzero(np.isin(rows, may) & np.isin(rows, allowed))
            if not len(chosen):
                continue
            some = images[torch.from_numpy(chosen)]
            target = classifier.target(1, some[:1])
            if kept is None:
                parts.append(cross(generator, classifier, target, some, rows[chosen]))
                continue
            with kept.frozen():
                kept.check(some[:8])
                walk = HeldWalk(kept, kept.target(1, some[:1]))
                parts.append(cross(generator, classifier, target, some, rows[chosen], walk=walk))
    return Crossing(
        rows=np.concatenate([part.rows for part in parts]),
        direction=np.concatenate([part.direction for part in parts]),
        crossed=np.concatenate([part.crossed for part in parts]),
        start=torch.cat([part.start for part in parts]),
        end=torch.cat([part.end for part in parts]),
        path=torch.cat([part.path for part in parts]),
        first=torch.cat([part.first for part in parts]),
        last=torch.cat([part.last for part in parts]),
    )
