r"""Null controls: what other moves of the same size do.

* A random direction of equal length. If it moves the score as much as the walk did, the walk's direction says
  nothing. It hardly ever does, so alone it controls nothing:
* moves of equal :math:`|\Delta s|` made by walking another classifier, one trained locally on balanced data
  (:func:`explainer.convnet.fit_classifier`). What changes along these as much as along the explained walk,
  an oracle's attribute or the identity, is entangled in the generator and no finding about the classifier.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from explainer.checks.base import UNMOVED, Check, Thresholds
from explainer.checks.draws import image_seeds, normal_like
from explainer.checks.ends import Ends
from explainer.checks.walk_back import TOLERANCE, walk_to_scores
from explainer.checks.walked import Walked
from explainer.classifier import Classifier
from explainer.metrics import bootstrap_mean
from explainer.target import TargetSpec
from explainer.walks.scene import Scene

__all__ = [
    "EqualMoves",
    "NullControl",
    "equal_moves_control",
    "equal_score_moves",
    "random_directions",
    "random_moves",
]

DRAWS = 1


def random_moves(moves: Tensor, *, draws: int, seed: int) -> Tensor:
    """Random moves ``(draws, N, D)``, each as long as the move ``(N, D)`` it stands for."""
    random = torch.randn((draws, *moves.shape), generator=torch.Generator().manual_seed(seed)).to(moves)
    return _as_long(random, moves)


def _as_long(random: Tensor, moves: Tensor) -> Tensor:
    return random * (moves.norm(dim=1) / random.norm(dim=2))[..., None]


@torch.no_grad()
def random_directions(
    walked: Sequence[Walked], far: Ends, thresholds: Thresholds, *, draws: int = DRAWS, seed: int = 0
) -> list[Check]:
    """Change of the score by random moves as long as the walk to the far end, as a share of the walk's.

    Every image has random moves of its own.
    """
    scene = far.scene
    start = scene.z[far.rows]
    rows = start[:, None].expand(-1, draws, -1)
    random = normal_like(rows, image_seeds(far.images, seed=seed)).transpose(0, 1)
    moved = start + _as_long(random, far.codes - start)
    scores = scene.score(moved.flatten(0, 1), far.rows.repeat(draws)).double().cpu().unflatten(0, (draws, -1))
    share = (scores - far.start).abs().mean(dim=0) / (far.scores - far.start).abs()
    found = dict(zip(far.image.tolist(), share.tolist(), strict=True))
    checks = []
    for image in range(len(walked)):
        if image not in found:
            said = UNMOVED
            checks.append(Check("random direction", "info", said, {}))
            continue
        value = found[image]
        enough = value <= thresholds.random_limit
        said = (
            f"Random moves of the code, as long as the walk, change the score by {value:.0%} "
            "of what the walk did"
        )
        if not enough:
            said += ": the walk's direction is hardly better than any"
        values: dict[str, float | str] = {"share": value, "draws": float(draws)}
        checks.append(Check("random direction", "pass" if enough else "limit", f"{said}.", values))
    return checks


@dataclass(frozen=True)
class EqualMoves:
    """Moves of a set of images along another classifier.

    Attributes:
        codes: ``(N, D)``, where the moves end.
        frames: Delivered images ``(N, C, H, W)``.
        asked: Change ``(N,)`` of the other classifier's score that was asked for: that of the explained walk.
        change: Change ``(N,)`` that was reached.
        reached: ``(N,)``, whether it was reached.
    """

    codes: Tensor
    frames: Tensor
    asked: Tensor
    change: Tensor
    reached: Tensor


def equal_score_moves(
    far: Ends, balanced: Classifier, target: TargetSpec = None, *, share: float = Thresholds.equal_move
) -> EqualMoves:
    """Walk a balanced classifier by the change of score that the explained walks made.

    Args:
        far: The far ends of the explained walks.
        balanced: A classifier of the same question, trained locally so that nothing else goes with the
            answer. Its scores should be calibrated: a change means the same only if it is one of log-odds.
        target: Its target; by default as for :func:`explainer.explain`.
        share: Of the change asked for, by which a move may miss it.

    Returns:
        One move per end. Hold them against the ends with the oracle in question.
    """
    images = far.images
    balanced.check(images[:4])
    with balanced.frozen():
        scene = Scene(
            far.scene.generator,
            balanced,
            balanced.target(target, images[:1]),
            images,
            strength=far.scene.detail.strength,
            batch_size=far.scene.batch_size,
            allow=None if far.scene.allowed is None else far.scene.allowed[far.rows],
        )
        start = scene.score0.double().cpu()
        asked = far.scores - far.start
        codes, scores = walk_to_scores(scene, start + asked, steps=30)
        rows = torch.arange(len(far))
        with torch.no_grad():
            parts = zip(codes.split(scene.batch_size), rows.split(scene.batch_size), strict=True)
            frames = torch.cat([scene.deliver(*part) for part in parts])
    change = scores - start
    missed = (change - asked).abs()
    return EqualMoves(codes, frames, asked, change, missed <= share * asked.abs() + TOLERANCE)


@dataclass(frozen=True)
class NullControl:
    """What changes along the explained walks, beside what changes along moves of equal change of score.

    Attributes:
        table: One row per measure: ``measure``, the means ``walk`` and ``balanced`` over the moves that were
            reached, and ``difference`` (walk - balanced, paired) with its 95 % bounds ``low`` and ``high``.
        reached: Moves of the balanced classifier that reached the change asked for; the others are in no
            mean.
        walks: Number of walks.
    """

    table: pd.DataFrame
    reached: int
    walks: int

    def check(self) -> Check:
        """A measurement, without a judgement: what is entangled in the generator is no fault of a walk."""
        said = (
            f"A balanced classifier was walked by the same change of score, reached in {self.reached} of "
            f"{self.walks} walks. Mean along the explained walks and along these: "
        )
        rows = self.table.to_dict("records")
        said += "; ".join(
            f"{row['measure']} {row['walk']:.3g} and {row['balanced']:.3g} "
            f"(difference {row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}])"
            for row in rows
        )
        values: dict[str, float | str] = {"reached": float(self.reached), "walks": float(self.walks)}
        for row in rows:
            values |= {f"{row['measure']}, {key}": row[key] for key in ("walk", "balanced", "low", "high")}
        return Check("equal moves", "info", f"{said}.", values)


@torch.no_grad()
def equal_moves_control(
    far: Ends,
    balanced: Classifier,
    target: TargetSpec = None,
    *,
    measures: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    identity: Callable[[Tensor, Tensor], Tensor] | None = None,
    thresholds: Thresholds | None = None,
    seed: int = 0,
) -> NullControl | None:
    """Hold explained walks against walks of a balanced classifier by the same change of score.

    Args:
        far: The far ends of the explained walks.
        balanced: As for :func:`equal_score_moves`.
        target: Its target.
        measures: By name, from images ``(N, C, H, W)`` at their own size to numbers ``(N,)``, such as the
            score of an oracle of another attribute; what is told is the mean absolute change.
        identity: From images and frames to cosines ``(N,)``.
        thresholds: See :class:`Thresholds`.
        seed: Of the bootstrap.

    Returns:
        None if fewer than two moves were reached.
    """
    limits = Thresholds() if thresholds is None else thresholds
    moves = equal_score_moves(far, balanced, target, share=limits.equal_move)
    kept = torch.nonzero(moves.reached)[:, 0]
    if len(kept) < 2:
        return None
    images, frames, others = far.images[kept], far.frames[kept], moves.frames[kept]
    start = far.scene.z[far.rows]
    pairs = {
        "change of the explained score": (
            (far.scores - far.start).abs()[kept], (far.score(others) - far.start[kept]).abs(),
        ),
        "length of the move": tuple(
            (codes - start).norm(dim=1)[kept].double().cpu() for codes in (far.codes, moves.codes)
        ),
        "mean absolute change of a pixel": tuple(
            (each - images).abs().mean(dim=(1, 2, 3)).double().cpu() for each in (frames, others)
        ),
    }  # fmt: skip
    for name, measure in (measures or {}).items():
        before, after, beside = (measure(each).double().cpu().flatten() for each in (images, frames, others))
        pairs[f"change of {name}"] = (after - before).abs(), (beside - before).abs()
    if identity is not None:
        pairs["identity cosine"] = tuple(identity(images, each).double().cpu() for each in (frames, others))
    rows = []
    for name, (walk, null) in pairs.items():
        gap = bootstrap_mean((walk - null).numpy(), resamples=2000, seed=seed, method="percentile")
        rows.append(
            {
                "measure": name, "walk": float(walk.mean()), "balanced": float(null.mean()),
                "difference": gap.estimate, "low": gap.low, "high": gap.high,
            }
        )  # fmt: skip
    return NullControl(pd.DataFrame(rows), len(kept), len(far))
