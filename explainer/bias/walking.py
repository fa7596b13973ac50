r"""Walks made for evidence: across the boundary of one model, while another is watched or held.

:func:`cross` walks every image to the other side of a score. :class:`HeldWalk` does so while a second score
is held: with gradients :math:`g` of the walked and :math:`h` of the held score it follows

.. math:: g - \frac{g \cdot h}{h \cdot h} h

which leaves the held score unchanged to first order; how far it moved all the same is measured. Where that
path ends before its goal it goes straight instead, along the slope :math:`b` of the least-squares fit
:math:`z = c + a\, b + y\, b_y` of codes on attribute and target: how codes differ with the attribute where
the target is the same. Held walks are greedy (``shorten=0``): they are many, and sliding back along level
sets doubles their cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainer.bias.oracles import Oracle, scores_of
from explainer.checks.nulls import random_moves
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.target import Target
from explainer.walks.base import TOLERANCE, Goals, Lanes, Scene, Walk, require_levels
from explainer.walks.evolution import EvolutionWalk
from explainer.walks.gradient import GradientWalk
from explainer.walks.placing import Lane
from explainer.walks.stepping import SteppingWalk

__all__ = [
    "LEVELS",
    "Crossing",
    "HeldWalk",
    "Watched",
    "cross",
    "cross_oracle",
    "straight_direction",
    "watch",
]

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
ENDS = (0.1, 0.9)
STRAIGHT = tuple(np.linspace(0.3, 4.5, 15).tolist())
"""Distances tried on a straight walk, in prior standard deviations of the code."""


@dataclass(frozen=True, eq=False)
class Crossing:
    """Images walked to the other side of a score.

    Attributes:
        rows: Number of each image in the audited set (N,).
        direction: +1 where the walk went up, -1 where it went down (N,).
        crossed: Whether it reached level .9 (or .1) on the other side (N,).
        start: Codes (N, D) of the images.
        path: Codes (N, L, D) at the levels asked for, ascending.
        level: Levels (N,) of the delivered images before the walk: of the images themselves.
        levels: Levels (N, L) of the delivered images along it.
        bare: Levels (N,) of the bare reconstructions.
        before: Levels (W, N) of watched classifiers before the walk.
        after: Levels (W, N) after it.
    """

    rows: NDArray[np.int64]
    direction: NDArray[np.float64]
    crossed: NDArray[np.bool_]
    start: Tensor
    path: Tensor
    level: NDArray[np.float64]
    levels: NDArray[np.float64]
    bare: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def end(self) -> Tensor:
        """Codes (N, D) of the last frames."""
        up = torch.from_numpy(self.direction > 0).to(self.path.device)
        return torch.where(up[:, None], self.path[:, -1], self.path[:, 0])


@dataclass(frozen=True, eq=False)
class Watched:
    """Probabilities of oracles on the bare frames of walks, one row per oracle.

    Attributes:
        start: (A, N) before.
        end: (A, N) after.
        path: (A, N, L) at every level.
        random: (A, N) after random moves of the same lengths.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    path: NDArray[np.float64]
    random: NDArray[np.float64]


class HeldWalk(SteppingWalk):
    """A gradient walk that leaves another classifier's score where it is, to first order.

    Args:
        held: The classifier that is not to notice.
        target: What of it is held.
        straight: Direction (D,) to try where the gradients lead nowhere; None tries nothing.
        radius: First trust radius, in prior standard deviations of the code.
        steps: Largest number of steps of one lane.
    """

    name = "held"

    def __init__(
        self,
        held: Classifier,
        target: Target,
        straight: Tensor | None = None,
        *,
        radius: float = 0.5,
        steps: int = 20,
    ) -> None:
        super().__init__(radius=radius, steps=steps, shorten=0.0)
        self.held, self.target, self.straight = held, target, straight

    def lanes(self, scene: Scene, goals: Goals, wanted: Tensor) -> Lanes:
        lanes = super().lanes(scene, goals, wanted)
        missed = [key for key, lane in lanes.items() if key[1] * (lane.scores[-1] - goals[key]) < 0]
        if self.straight is None or not missed:
            return lanes
        rows = torch.tensor([image for image, _ in missed])
        signs = torch.tensor([float(sign) for _, sign in missed]).to(scene.z)[:, None]
        other = {key: Lane([scene.z[key[0]]], [float(scene.score0[key[0]])]) for key in missed}
        for lane in other.values():
            lane.gradients.append(torch.full_like(lane.codes[0], torch.nan))
        for distance in STRAIGHT:
            codes = scene.z[rows] + signs * distance * self.straight
            for key, code, score in zip(missed, codes, scene.score(codes, rows).tolist(), strict=True):
                other[key].add(code, score)
        for key, lane in other.items():
            if max(key[1] * score for score in lane.scores) >= key[1] * goals[key]:
                lanes[key] = lane
        return lanes

    def look(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._turned(scene, z, rows)

    def slope(self, scene: Scene, z: Tensor, rows: Tensor, previous: Tensor | None, step: int) -> Tensor:
        return self._turned(scene, z, rows)[1]

    def _turned(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (M,), and their gradients (M, D) turned so that the held score stays."""
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
    levels: Sequence[float] = LEVELS,
    watched: Sequence[tuple[Classifier, Target]] = (),
    batch_size: int = 64,
) -> Crossing:
    """Walk images to the other side of a score: to .1 from above .5, to .9 from below.

    Args:
        generator: In evaluation mode.
        classifier: Whose score is walked.
        target: What the score is of.
        images: (N, C, H, W) in [0, 1], any size.
        rows: Number of each in the audited set.
        walk: By default along the gradient, or along a measured slope where there is none.
        levels: Ascending, from .1 to .9.
        watched: Classifiers that are asked about the delivered images before and after.
        batch_size: Images walked at once.
    """
    if walk is None:
        classifier.check(images[:8])
        walk = GradientWalk() if classifier.differentiable else EvolutionWalk()
    wanted = require_levels(levels)
    parts = []
    with classifier.frozen():
        for chosen in torch.arange(len(images)).split(batch_size):
            scene = Scene(
                generator, classifier, target, images[chosen].to(generator.latent_mean), batch_size=batch_size
            )
            own = torch.arange(len(chosen))
            path = walk(scene, wanted).latents
            up = scene.score0 < 0
            end = torch.where(up[:, None], path[:, -1], path[:, 0])
            achieved = [target.to_level(scene.score(codes, own).double()) for codes in path.unbind(dim=1)]
            reached = torch.where(up, achieved[-1], achieved[0])
            goal = torch.where(up, wanted[-1].to(reached), wanted[0].to(reached))
            with torch.no_grad():
                first, last = scene.deliver(scene.z, own), scene.deliver(end, own)
                bare = generator.at_full_size(generator.decode(scene.z), scene.small, scene.images)
                parts.append(
                    (
                        torch.where(up, 1.0, -1.0).double(),
                        ((reached - goal).abs() <= TOLERANCE).double(),
                        scene.z,
                        path,
                        target.to_level(scene.score0.double()),
                        torch.stack(achieved, dim=1),
                        target.to_level(classifier.score(bare, target).double()),
                        _levels(watched, first),
                        _levels(watched, last),
                    )
                )
    joined = [torch.cat(part) for part in zip(*parts, strict=True)]
    direction, crossed, start, path, level, along, bare, before, after = joined
    return Crossing(
        np.asarray(rows), direction.cpu().numpy(), crossed.cpu().numpy() > 0, start, path,
        level.cpu().numpy(), along.cpu().numpy(), bare.cpu().numpy(), before.cpu().numpy().T,
        after.cpu().numpy().T,
    )  # fmt: skip


@torch.no_grad()
def straight_direction(codes: Tensor, answers: NDArray, truth: NDArray) -> Tensor | None:
    """How codes (N, D) differ with the attribute where the target is the same: (D,), length 1.

    None if the answers do not vary beyond the target.
    """
    known = ~np.isnan(answers) & ~np.isnan(truth)
    columns = np.stack([np.ones(known.sum()), answers[known], truth[known]], axis=1)
    if np.linalg.matrix_rank(columns) < 3:
        return None
    slopes = np.linalg.lstsq(columns, codes[torch.from_numpy(known)].double().cpu().numpy(), rcond=None)[0]
    direction = torch.from_numpy(slopes[1]).to(codes)
    length = float(direction.norm())
    return direction / length if length > 0 else None


def cross_oracle(
    generator: Generator,
    oracle: Oracle,
    held: Oracle | None,
    images: Tensor,
    rows: NDArray[np.int64],
    *,
    straight: Tensor | None = None,
    levels: Sequence[float] = ENDS,
    watched: Sequence[tuple[Classifier, Target]] = (),
) -> Crossing:
    """Walk images to the other side of an oracle while the ``held`` one is held, each with its own models.

    Args:
        generator: In evaluation mode.
        oracle: What is walked.
        held: What is held; None holds nothing. It is also watched, after all others.
        images: (N, C, H, W) in [0, 1], any size.
        rows: Number of each in the audited set.
        straight: See :class:`HeldWalk`.
        levels: As for :func:`cross`.
        watched: Classifiers that are asked about the delivered images before and after.
    """
    parts = []
    for part in oracle.parts:
        for kept in held.parts if held is not None else (None,):
            chosen = np.flatnonzero(np.isin(rows, part.rows) & (kept is None or np.isin(rows, kept.rows)))
            if not len(chosen):
                continue
            some, mine = images[torch.from_numpy(chosen)], rows[chosen]
            model, target = part.classifier, part.target
            if kept is None:
                parts.append(cross(generator, model, target, some, mine, levels=levels, watched=watched))
                continue
            with kept.classifier.frozen():
                walk = HeldWalk(kept.classifier, kept.target, straight)
                also = [*watched, (kept.classifier, kept.target)]
                parts.append(
                    cross(generator, model, target, some, mine, walk=walk, levels=levels, watched=also)
                )

    def joined(name: str, axis: int = 0) -> NDArray:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis)

    return Crossing(
        joined("rows"), joined("direction"), joined("crossed"), torch.cat([part.start for part in parts]),
        torch.cat([part.path for part in parts]), joined("level"), joined("levels"), joined("bare"),
        joined("before", 1), joined("after", 1),
    )  # fmt: skip


@torch.no_grad()
def watch(
    generator: Generator, crossing: Crossing, oracles: Sequence[Oracle], *, seed: int = 0, batch: int = 128
) -> Watched:
    """What oracles say of the bare frames of walks: what the generator itself draws at their codes.

    Args:
        generator: In evaluation mode.
        crossing: The walks.
        oracles: See :func:`explainer.bias.oracles.scores_of`.
        seed: Of the random moves.
        batch: Walks decoded at once.
    """
    along = crossing.path.shape[1]
    random = crossing.start + random_moves(crossing.end - crossing.start, draws=1, seed=seed)[0]
    codes = torch.cat([crossing.start[:, None], crossing.path, random[:, None]], dim=1)
    columns = []
    for chosen in np.array_split(np.arange(len(crossing)), max(1, -(-len(crossing) // batch))):
        frames = generator.decode(codes[torch.from_numpy(chosen)].flatten(0, 1))
        scores = scores_of(oracles, frames, np.repeat(crossing.rows[chosen], along + 2))
        columns.append(scores.reshape(len(oracles), len(chosen), along + 2))
    levels = 1 / (1 + np.exp(-np.concatenate(columns, axis=1)))
    path = levels[:, :, 1:-1]
    end = np.where(crossing.direction > 0, path[:, :, -1], path[:, :, 0])
    return Watched(levels[:, :, 0], end, path, levels[:, :, -1])


def _levels(watched: Sequence[tuple[Classifier, Target]], images: Tensor) -> Tensor:
    """Levels (M, W) of images (M, C, H, W)."""
    levels = []
    for classifier, target in watched:
        with classifier.frozen():
            levels.append(classifier.level(images, target).double().cpu())
    return torch.stack(levels, dim=1) if levels else torch.zeros(len(images), 0, dtype=torch.float64)
