r"""Null controls: what other moves of the same size do.

* A random direction of equal length. If it moves the score as much as the walk did, the walk's direction says
  nothing. It hardly ever does, so alone it controls nothing:
* moves of equal :math:`|\Delta s|` made by walking another classifier, one trained locally on balanced data
  (:func:`explainer.convnet.fit_classifier`). What changes along these as much as along the explained walk,
  an oracle's attribute or the identity, is entangled in the generator and no finding about the classifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explainer.checks.base import UNMOVED, Check, Thresholds
from explainer.checks.ends import Ends
from explainer.checks.walk_back import walk_to_scores
from explainer.checks.walked import Walked
from explainer.classifier import Classifier
from explainer.target import TargetSpec
from explainer.walks.scene import Scene

__all__ = ["EqualMoves", "equal_score_moves", "random_directions", "random_moves"]

DRAWS = 1


def random_moves(moves: Tensor, *, draws: int, seed: int) -> Tensor:
    """Random moves ``(draws, N, D)``, each as long as the move ``(N, D)`` it stands for."""
    random = torch.randn((draws, *moves.shape), generator=torch.Generator().manual_seed(seed)).to(moves)
    return random * (moves.norm(dim=1) / random.norm(dim=2))[..., None]


@torch.no_grad()
def random_directions(
    walked: Sequence[Walked], far: Ends, thresholds: Thresholds, *, draws: int = DRAWS, seed: int = 0
) -> list[Check]:
    """Change of the score by random moves as long as the walk to the far end, as a share of the walk's."""
    scene = far.scene
    start = scene.z[far.rows]
    moved = start + random_moves(far.codes - start, draws=draws, seed=seed)
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
        reached: ``(N,)``, whether it was reached to a tenth.
    """

    codes: Tensor
    frames: Tensor
    asked: Tensor
    change: Tensor
    reached: Tensor


def equal_score_moves(far: Ends, balanced: Classifier, target: TargetSpec = None) -> EqualMoves:
    """Walk a balanced classifier by the change of score that the explained walks made.

    Args:
        far: The far ends of the explained walks.
        balanced: A classifier of the same question, trained locally so that nothing else goes with the
            answer. Its scores should be calibrated: a change means the same only if it is one of log-odds.
        target: Its target; by default as for :func:`explainer.explain`.

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
    return EqualMoves(codes, frames, asked, change, (change - asked).abs() <= 0.1 * asked.abs() + 0.1)
