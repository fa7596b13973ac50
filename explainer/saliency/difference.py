r"""The saliency of progressive exaggeration, from the frames of a walk.

The absolute difference of its two ends (Singla et al. 2020, arXiv 1911.00483),

.. math:: S = |x_{high} - x_{low}|

and the path-integrated difference: the gradient of the score integrated along the delivered path from the
lowest to the highest frame, times the change of each pixel,

.. math:: A = \sum_k (x_{k+1} - x_k) \odot \int_0^1 \nabla s\big(x_k + t (x_{k+1} - x_k)\big) \, dt

whose pixels add up to :math:`s(x_{high}) - s(x_{low})`, because the integral of a gradient does not depend on
the path (the completeness of integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365, whose straight
line from a blank image is replaced by the walk). Gauss-Legendre nodes on every segment between neighbouring
frames make the sum exact to a small error.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from explainer.classifier import Classifier, Target
from explainer.errors import ClassifierError, OptionError
from explainer.saliency.base import SaliencyMap

__all__ = [
    "difference",
    "difference_of_ends",
    "path_integrated",
    "path_integrated_difference",
    "require_gradient",
]

SAME_LEVEL = 0.01


def difference(frames: Tensor, levels: Sequence[float], original: Tensor, own: float) -> SaliencyMap:
    """Absolute difference between the two ends of the walk: the last and the first frame.

    Where all frames are at one level (only one was asked for, or reached), the original is the other end.

    Args:
        frames: ``(L, C, H, W)``, levels ascending.
        levels: Achieved levels of the frames.
        original: ``(C, H, W)``.
        own: Its level.

    >>> import torch
    >>> dark, bright = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    >>> difference(bright, [0.9], dark[0], 0.2).caption
    'Absolute change of intensity between the original at 0.20 and the frame at 0.90.'
    """
    _, ends = _path(frames, levels, original, own)
    return SaliencyMap(
        name="difference",
        values=difference_of_ends(frames, levels, original),
        signed=False,
        caption=f"Absolute change of intensity between {ends}.",
    )


def difference_of_ends(frames: Tensor, levels: Sequence[float], original: Tensor) -> Tensor:
    """The values ``(C, H, W)`` of :func:`difference`."""
    path, _ = _path(frames, levels, original, 0.0)
    return (path[-1] - path[0]).abs()


def path_integrated(
    frames: Tensor,
    levels: Sequence[float],
    original: Tensor,
    own: float,
    classifier: Classifier,
    target: Target,
    *,
    nodes: int = 4,
    batch_size: int = 64,
) -> SaliencyMap:
    """The change of every pixel along the walk, in units of the score: the map adds up to the score's change.

    Args:
        frames: ``(L, C, H, W)``, levels ascending.
        levels: Achieved levels of the frames.
        original: ``(C, H, W)``, the other end where all frames are at one level.
        own: Its level.
        classifier: Differentiable; left as it was found.
        target: What the score is of.
        nodes: Gauss-Legendre nodes on every segment between neighbouring frames.
        batch_size: Gradients computed at a time.

    Raises:
        ClassifierError: The classifier has no gradient.
        OptionError: No nodes.
    """
    path, ends = _path(frames, levels, original, own)
    values = path_integrated_difference(path, classifier, target, nodes=nodes, batch_size=batch_size)
    return SaliencyMap(
        name="path_integrated",
        values=values,
        signed=True,
        caption=f"What the change of each pixel did to the score of {target.label} between {ends}; "
        f"the map adds up to {values.sum():+.2f} in log-odds.",
    )


def path_integrated_difference(
    path: Tensor, classifier: Classifier, target: Target, *, nodes: int = 4, batch_size: int = 64
) -> Tensor:
    """The values ``(C, H, W)`` of :func:`path_integrated` for a path ``(L, C, H, W)``, float32 on the CPU."""
    if nodes < 1:
        raise OptionError("nodes", "must be at least 1", received=nodes, remedy="4 suits ten frames.")
    places, weights = (torch.tensor(part).float() for part in np.polynomial.legendre.leggauss(nodes))
    places, weights = (places + 1) / 2, weights / 2
    start, move = path[:-1], path[1:] - path[:-1]
    images = (start[:, None] + places.view(1, -1, 1, 1, 1).to(path) * move[:, None]).flatten(0, 1)
    gradients = score_gradients(classifier, images, target, batch_size=batch_size)
    mean = torch.einsum("kq...,q->k...", gradients.unflatten(0, (len(move), nodes)), weights)
    return (move.float().cpu() * mean).sum(dim=0)


def score_gradients(
    classifier: Classifier, images: Tensor, target: Target, *, batch_size: int = 64
) -> Tensor:
    """Gradients of the score with respect to images, float32 on the CPU, in the images' shape."""
    found = []
    require_gradient("path_integrated", classifier, images)
    with classifier.frozen(), torch.inference_mode(False), torch.enable_grad():
        for part in images.split(batch_size):
            leaf = part.detach().clone().requires_grad_(True)
            score = classifier.score(leaf, target)
            found.append(torch.autograd.grad(score.sum(), leaf)[0].float().cpu())
    return torch.cat(found)


def require_gradient(name: str, classifier: Classifier, images: Tensor) -> None:
    """Raise if the method ``name`` needs a gradient that the classifier does not have."""
    with torch.inference_mode(False), torch.enable_grad():
        try:
            classifier.raw(images[:1].detach().clone().requires_grad_(True))
        except ClassifierError as error:
            if error.problem != "has no gradient with respect to the images":
                raise
            raise ClassifierError(
                "saliency", f"{name} needs a gradient, which the classifier does not have",
                received=classifier, remedy='Choose "difference", "occlusion" or "feature_ablation".',
            ) from error  # fmt: skip


def _path(frames: Tensor, levels: Sequence[float], original: Tensor, own: float) -> tuple[Tensor, str]:
    """The images passed from the lowest to the highest level, and a clause that names both ends."""
    low, high = levels[0], levels[-1]
    if high - low >= SAME_LEVEL:
        return frames, f"the frames at {low:.2f} and {high:.2f}"
    path = torch.stack([original.to(frames), frames[-1]])
    ends = [f"the original at {own:.2f}", f"the frame at {high:.2f}"]
    return path, " and ".join(ends)
