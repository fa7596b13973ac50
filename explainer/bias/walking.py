r"""Walks made for evidence: across the boundary of one model, while another is watched or held.

:func:`cross` walks every image to the other side of a score. :class:`HeldWalk` changes an attribute while the
score of the target is held. First by the *typical difference*: the slope :math:`b` of the least-squares fit
:math:`z = c + a\, b + y\, b_y` of codes on attribute and target, how codes differ with the attribute at one
value of the target. A walk that stops where the oracle just tips would give but a little of the attribute.
The held score is then brought back by Newton steps along its gradient :math:`h`, less what of it lies along
the oracle's gradient :math:`g`. Where that does not arrive with the target held, nor with one and a half or
two differences, the walk follows

.. math:: g - \frac{g \cdot h}{h \cdot h} h

to the end of the levels, which leaves the held score unchanged to first order; how far it moved all the same
is measured. These walks are greedy (``shorten=0``): they are many, and sliding back along level sets doubles
their cost.
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
from explainer.walks.base import TOLERANCE, Scene, Walk, WalkResult, require_levels
from explainer.walks.evolution import EvolutionWalk
from explainer.walks.gradient import GradientWalk
from explainer.walks.stepping import SteppingWalk

__all__ = [
    "LEVELS",
    "Crossing",
    "HeldWalk",
    "Watched",
    "cross",
    "cross_oracle",
    "region_effects",
    "typical_difference",
    "watch",
]

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
ENDS = (0.1, 0.9)
MULTIPLES = (1.0, 1.5, 2.0)
"""Of the typical difference, tried in turn: from an extreme image it does not lead to the other side."""
CORRECTIONS, CORRECTION = 4, 0.7
"""Newton steps that bring a held score back, and how far each may go, in prior standard deviations."""


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
    """A walk to an end of the levels that leaves another classifier's score where it is.

    Args:
        held: The classifier that is not to notice.
        target: What of it is held.
        difference: How codes differ between the answers (D,); it is tried before the gradients.
        tolerance: Largest change of the held level with which a difference is taken.
        radius: First trust radius, in prior standard deviations of the code.
        steps: Largest number of steps of one lane.
    """

    name = "held"
    settles = True

    def __init__(
        self,
        held: Classifier,
        target: Target,
        difference: Tensor | None = None,
        *,
        tolerance: float = 0.2,
        radius: float = 0.5,
        steps: int = 20,
    ) -> None:
        super().__init__(radius=radius, steps=steps, shorten=0.0)
        self.held, self.target, self.difference, self.tolerance = held, target, difference, tolerance

    def __call__(self, scene: Scene, levels: Tensor) -> WalkResult:
        """As any walk; where the typical difference does it, its end stands for the levels on its side."""
        ends, done = self._moved(scene, levels)
        left = torch.nonzero(~done).flatten()
        latents = torch.where((levels > 0.5)[None, :, None] == (scene.score0 < 0)[:, None, None],
                              ends[:, None], scene.z[:, None])  # fmt: skip
        reasons = [[""] * len(levels) for _ in range(len(ends))]
        if len(left):
            rest = Scene(
                scene.generator, scene.classifier, scene.target, scene.images[left],
                batch_size=scene.batch_size,
            )  # fmt: skip
            walked = super().__call__(rest, levels)
            latents[left] = walked.latents
            for image, said in zip(left.tolist(), walked.reasons, strict=True):
                reasons[image] = said
        return WalkResult(latents, reasons, scene.gradients / len(ends), scene.evaluations / len(ends))

    def look(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        score, gradient, _, other = self._both(scene, z, rows)
        return score, gradient - _share(gradient, other) * other

    def slope(self, scene: Scene, z: Tensor, rows: Tensor, previous: Tensor | None, step: int) -> Tensor:
        _, gradient, _, other = self._both(scene, z, rows)
        return gradient - _share(gradient, other) * other

    def _moved(self, scene: Scene, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N, D) moved by the difference, the held score brought back; and which arrived (N,)."""
        ends, arrived = scene.z.clone(), torch.zeros(len(scene.z), dtype=torch.bool)
        if self.difference is None:
            return ends, arrived
        up = scene.score0 < 0
        sign = torch.where(up, 1.0, -1.0)[:, None]
        wanted = scene.target.to_score(levels).to(scene.score0)
        with torch.no_grad():
            before = self.held.score(scene.deliver(scene.z, torch.arange(len(ends))), self.target)
        for multiple in MULTIPLES:
            rows = torch.nonzero(~arrived).flatten()
            if not len(rows):
                break
            z = scene.z[rows] + multiple * sign[rows] * self.difference
            for _ in range(CORRECTIONS):
                _, gradient, now, other = self._both(scene, z, rows)
                aside = other - _share(other, gradient) * gradient
                back = (before[rows] - now)[:, None] * aside
                back = back / (aside * other).sum(1, keepdim=True).clamp_min(1e-6)
                z = z + back * (CORRECTION / back.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
            with torch.no_grad():
                score, now = scene.score(z, rows), self.held.level(scene.deliver(z, rows), self.target)
            there = torch.where(up[rows], score >= wanted[-1], score <= wanted[0])
            there &= (now - self.target.to_level(before[rows])).abs() <= self.tolerance
            ends[rows[there]], arrived[rows[there]] = z[there], True
        return ends, arrived

    def _both(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The walked score (M,) and its gradient (M, D), the held score and its gradient."""
        scene.gradients += len(z)
        found: list[tuple[Tensor, ...]] = []
        with torch.enable_grad():
            for part, members, count in scene.batches(z, rows):
                leaf = part.detach().requires_grad_(True)
                delivered = scene.deliver(leaf, members)
                score = scene.classifier.score(delivered, scene.target)
                other = self.held.score(delivered, self.target)
                (gradient,) = torch.autograd.grad(score.sum(), leaf, retain_graph=True)
                (beside,) = torch.autograd.grad(other.sum(), leaf)
                found.append(tuple(each.detach()[:count] for each in (score, gradient, other, beside)))
        score, gradient, other, beside = (torch.cat(each) for each in zip(*found, strict=True))
        return score, gradient, other, beside


def _share(one: Tensor, other: Tensor) -> Tensor:
    """How much of directions (M, D) lies along others: factors (M, 1)."""
    return (one * other).sum(1, keepdim=True) / other.square().sum(1, keepdim=True).clamp_min(1e-12)


def cross(
    generator: Generator,
    classifier: Classifier,
    target: Target,
    images: Tensor,
    rows: NDArray[np.int64],
    *,
    walk: Walk | None = None,
    levels: Sequence[float] = LEVELS,
    least: float = 0.9,
    watched: Sequence[tuple[Classifier, Target]] = (),
    batch_size: int = 64,
) -> Crossing:
    """Walk images to the other side of a score: to the highest level from below .5, to the lowest from above.

    Args:
        generator: In evaluation mode.
        classifier: Whose score is walked.
        target: What the score is of.
        images: (N, C, H, W) in [0, 1], any size.
        rows: Number of each in the audited set.
        walk: By default along the gradient, or along a measured slope where there is none.
        levels: Ascending.
        least: A walk has crossed from this level up, or from 1 - this level down.
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
            arrived = torch.where(up, reached >= least - TOLERANCE, reached <= 1 - least + TOLERANCE)
            with torch.no_grad():
                first, last = scene.deliver(scene.z, own), scene.deliver(end, own)
                bare = generator.at_full_size(generator.decode(scene.z), scene.small, scene.images)
                parts.append(
                    (
                        torch.where(up, 1.0, -1.0).double(),
                        arrived.double(),
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
def typical_difference(codes: Tensor, answers: NDArray, truth: NDArray) -> Tensor | None:
    """How codes (N, D) differ with the attribute where the target is the same: (D,), from without to with.

    None if the answers do not vary beyond the target.
    """
    known = ~np.isnan(answers) & ~np.isnan(truth)
    columns = np.stack([np.ones(known.sum()), answers[known], truth[known]], axis=1)
    if np.linalg.matrix_rank(columns) < 3:
        return None
    slopes = np.linalg.lstsq(columns, codes[torch.from_numpy(known)].double().cpu().numpy(), rcond=None)[0]
    return torch.from_numpy(slopes[1]).to(codes) if slopes[1].any() else None


def cross_oracle(
    generator: Generator,
    oracle: Oracle,
    held: Oracle | None,
    images: Tensor,
    rows: NDArray[np.int64],
    *,
    difference: Tensor | None = None,
    watched: Sequence[tuple[Classifier, Target]] = (),
    witness: tuple[Classifier, Target] | None = None,
) -> Crossing:
    """Move images to the other side of an oracle while the ``held`` one is held, each with its own models.

    Args:
        generator: In evaluation mode.
        oracle: What is moved.
        held: What is held; None holds nothing, and the oracle is walked as any classifier is. It is also
            watched, after all others, and before it the ``witness``.
        images: (N, C, H, W) in [0, 1], any size.
        rows: Number of each in the audited set.
        difference: See :func:`typical_difference`; None goes along the held gradient only.
        watched: Classifiers that are asked about the delivered images before and after.
        witness: A model of what is held that is itself not held; by default the held oracle's of the other
            half (levels are NaN where there is none).
    """
    parts = []
    for part in oracle.parts:
        for kept in held.parts if held is not None else (None,):
            chosen = np.flatnonzero(np.isin(rows, part.rows) & (kept is None or np.isin(rows, kept.rows)))
            if not len(chosen):
                continue
            some, mine = images[torch.from_numpy(chosen)], rows[chosen]
            if held is None or kept is None:
                parts.append(
                    cross(generator, part.classifier, part.target, some, mine, levels=ENDS, watched=watched)
                )
                continue
            others = [(each.classifier, each.target) for each in held.parts if each is not kept]
            asked = others[0] if witness is None and others else witness
            own = (kept.classifier, kept.target)
            walk = HeldWalk(*own, difference)
            with kept.classifier.frozen():
                found = cross(
                    generator, part.classifier, part.target, some, mine, walk=walk, levels=ENDS,
                    watched=[*watched, own if asked is None else asked, own],
                )  # fmt: skip
            if asked is None:
                found.before[-2] = found.after[-2] = np.nan
            parts.append(found)

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


@torch.no_grad()
def region_effects(
    generator: Generator,
    classifier: Classifier,
    target: Target,
    images: Tensor,
    crossing: Crossing,
    walks: NDArray[np.int64],
    region: tuple[float, float, float, float],
    *,
    batch: int = 64,
) -> NDArray[np.float64]:
    """Share of the change of each score (M,) that a region of the image makes alone.

    The mean of what it does when it is taken from the end of the walk into its start, and from the start into
    the end.

    Args:
        generator: In evaluation mode.
        classifier: That was walked.
        target: What of it was walked.
        images: Those that were walked (N, C, H, W).
        crossing: The walks.
        walks: Which of them (M,).
        region: Top, left, bottom and right, as shares of what the generator sees of the image.
        batch: Walks looked at at once.
    """
    found = []
    for chosen in torch.from_numpy(walks).split(batch):
        with classifier.frozen():
            scene = Scene(generator, classifier, target, images[chosen].to(generator.latent_mean))
            own = torch.arange(len(chosen))
            first, last = (scene.deliver(codes[chosen], own) for codes in (crossing.start, crossing.end))
            height, width = first.shape[-2:]
            top, left, bottom, right = region
            mask = torch.zeros(height, width, dtype=torch.bool, device=first.device)
            mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = (
                True
            )
            scores = [
                classifier.score(part, target).double()
                for part in (first, torch.where(mask, last, first), torch.where(mask, first, last), last)
            ]
        before, into, out, after = scores
        change = after - before
        part = (into - before + after - out) / 2
        found.append(torch.where(change == 0, torch.zeros_like(part), part / change).cpu().numpy())
    return np.concatenate(found)


def _levels(watched: Sequence[tuple[Classifier, Target]], images: Tensor) -> Tensor:
    """Levels (M, W) of images (M, C, H, W)."""
    levels = []
    for classifier, target in watched:
        with classifier.frozen():
            levels.append(classifier.level(images, target).double().cpu())
    return torch.stack(levels, dim=1) if levels else torch.zeros(len(images), 0, dtype=torch.float64)
