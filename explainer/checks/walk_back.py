r"""Self-consistency: the far end of a walk, taken as a new image and walked back, is the original again.

The third property of Singla et al. 2020 (arXiv 1911.00483). The far end is encoded and *its own* detail is
taken, so nothing of the original is left but what the frame shows. From there it is walked to the score of
the original, by steps of the smallest move that a linear model of the score allows,

.. math:: \delta z = (s(x) - s)\, g / \|g\|^2

cut to a trust radius as in :mod:`explainer.walks.base`, every image to a goal of its own. What comes back is
compared with the original; the error is told as a share of what the walk itself had changed. An image whose
score does not come back has not been walked back at all, however near it is: that fails.

The bound of a third of the walk's change, which one would ask for, is not met and is not the threshold:
carried detail is gated, what the walk faded out of a changed region is in neither the code nor the detail of
the far end, and no way back can restore it. So what is nearer to the original than the far end is passes.
The same codes delivered with the *original's* detail are told beside it. They say how much of the error is
the lost detail, and how much is that the codes do not come back; nothing is judged by them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from explainer.checks.base import UNMOVED, Check, Thresholds, status_above
from explainer.checks.ends import Ends
from explainer.checks.walked import Walked
from explainer.walks.scene import Scene

__all__ = ["scene_of_ends", "walk_back", "walk_to_scores"]

STEPS = 8
RADIUS = 1.5
TOLERANCE = 0.1
RELATIVE_TOLERANCE = 0.02


@torch.no_grad()
def scene_of_ends(far: Ends) -> Scene:
    """The far ends' frames as new images, with codes and detail of their own."""
    scene = far.scene
    return Scene(
        scene.generator,
        scene.classifier,
        scene.target,
        far.frames,
        strength=scene.detail.strength,
        batch_size=scene.batch_size,
        allow=None if scene.allowed is None else scene.allowed[far.rows],
    )


def walk_to_scores(
    scene: Scene, goals: Tensor, *, steps: int = STEPS, radius: float = RADIUS
) -> tuple[Tensor, Tensor]:
    """Codes ``(N, D)`` at which every image of a scene has a score of its own choosing, and those scores.

    Args:
        scene: Images, generator, classifier and target.
        goals: Scores ``(N,)``.
        steps: Largest number of gradients for an image.
        radius: First trust radius.
    """
    goals = goals.double().cpu()
    best, reached = scene.z.clone(), scene.score0.double().cpu()
    allowed = TOLERANCE + RELATIVE_TOLERANCE * (goals - reached).abs()
    trust = torch.full_like(goals, radius)
    gradients = torch.zeros_like(best)
    fresh = torch.ones(len(goals), dtype=torch.bool)
    active = torch.arange(len(goals))
    for _ in range(steps):
        gap = (goals - reached)[active]
        active = active[(gap.abs() > allowed[active]) & (trust[active] > 1e-3)]
        if not len(active):
            break
        stale = active[fresh[active]]
        if len(stale):
            gradients[stale] = scene.score_and_gradient(best[stale], stale)[1]
            fresh[stale] = False
        slope = gradients[active]
        length = slope.norm(dim=1).double().cpu()
        walkable = torch.isfinite(length) & (length > 1e-6)
        active, slope, length = active[walkable], slope[walkable], length[walkable]
        if not len(active):
            break
        gap = (goals - reached)[active]
        step = gap.sign() * torch.minimum(gap.abs() / length, trust[active]) / length
        trial = best[active] + step[:, None].to(best) * slope
        score = scene.score(trial, active).double().cpu()
        better = (goals[active] - score).abs() < 0.9 * gap.abs()
        best[active[better]], reached[active[better]] = trial[better], score[better]
        fresh[active[better]] = True
        trust[active] = torch.where(better, trust[active] * 1.3, trust[active] / 2)
    return best, reached


def walk_back(walked: Sequence[Walked], far: Ends, arrived: Scene, thresholds: Thresholds) -> list[Check]:
    """Walk every far end back to the score of its original, and compare the pictures.

    Args:
        walked: The walks.
        far: Their far ends.
        arrived: :func:`scene_of_ends` of these.
        thresholds: See :class:`Thresholds`.
    """
    if not far.scene.classifier.differentiable:
        said = "Not measured: the classifier has no gradient to walk back along."
        return [Check("walk back", "info", said, {}) for _ in walked]
    codes, scores = walk_to_scores(arrived, far.start)
    rows = torch.arange(len(far))
    with torch.no_grad():
        back = _delivered(arrived, codes, rows)
        carried = _delivered(far.scene, codes, far.rows)
    own = (far.frames - far.images).abs().mean(dim=(1, 2, 3))
    error = (back - far.images).abs().mean(dim=(1, 2, 3))
    with_detail = (carried - far.images).abs().mean(dim=(1, 2, 3))
    left = (scores - far.start).abs() / (far.scores - far.start).abs()
    measured = zip(
        far.image.tolist(), error.tolist(), own.tolist(), left.tolist(), with_detail.tolist(), strict=True
    )
    found = {image: values for image, *values in measured}
    checks = []
    for image in range(len(walked)):
        if image not in found:
            checks.append(Check("walk back", "info", UNMOVED, {}))
            continue
        returned, change, missing, carried_error = found[image]
        ratio = returned / max(change, 1e-9)
        status = status_above(ratio, thresholds.returned_limit, thresholds.returned_fail)
        said = (
            f"Walked back from its far end, the image differs from the original by {returned:.4f} (mean "
            "absolute), "
            f"{ratio:.0%} of what the walk had changed"
        )
        if not missing <= thresholds.score_left:
            status = "fail"
            said += f", and {missing:.0%} of the change of score could not be walked back"
        values: dict[str, float | str] = {
            "error": returned, "change of the walk": change, "ratio": ratio, "score left": missing,
            "ratio with the original's detail": carried_error / max(change, 1e-9),
        }  # fmt: skip
        checks.append(Check("walk back", status, f"{said}.", values))
    return checks


def _delivered(scene: Scene, codes: Tensor, rows: Tensor) -> Tensor:
    if not len(codes):
        return scene.images[:0]
    parts = zip(codes.split(scene.batch_size), rows.split(scene.batch_size), strict=True)
    return torch.cat([scene.deliver(*part) for part in parts])
