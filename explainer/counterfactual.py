r"""Measures of a counterfactual: how much was changed, where, and how soon the classifier follows.

With an image :math:`x`, its counterfactual :math:`x'` and the probability :math:`p` of what was asked for:

===================  =====================================================================================
distance             mean :math:`|x - x'|` over channels and pixels
changed share        share of pixels whose mean change over channels exceeds a threshold; sparse is small
COUT                 pixels swapped from :math:`x` to :math:`x'` in order of :math:`\sum_c |x - x'|`:
                     the area under :math:`p` of the target less that of what it was, in [-1, 1]
latent closeness     cosine of the codes of :math:`x` and :math:`x'` (LSC); it is no identity
===================  =====================================================================================

COUT: Khorram & Fuxin, CVPR 2022 (arXiv 2203.15064). It rewards changes that are few and all count.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from explainer.errors import ImageError, OptionError

__all__ = ["changed_share", "cout", "distance", "latent_closeness"]


def distance(images: Tensor, counterfactuals: Tensor) -> Tensor:
    """Mean absolute change ``(N,)`` of images ``(N, C, H, W)``.

    >>> distance(torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]))
    tensor([0.5000])
    """
    _require_pair(images, counterfactuals)
    return (counterfactuals - images).abs().mean(dim=(1, 2, 3))


def changed_share(images: Tensor, counterfactuals: Tensor, *, threshold: float = 0.02) -> Tensor:
    """Share ``(N,)`` of pixels whose mean change over channels is above a threshold.

    >>> changed_share(torch.zeros(1, 1, 1, 4), torch.tensor([[[[0.0, 0.01, 0.03, 1.0]]]]))
    tensor([0.5000])
    """
    _require_pair(images, counterfactuals)
    return ((counterfactuals - images).abs().mean(dim=1) > threshold).float().mean(dim=(1, 2))


def latent_closeness(codes: Tensor, counterfactual_codes: Tensor) -> Tensor:
    """Cosine ``(N,)`` between codes ``(N, D)``."""
    return torch.cosine_similarity(codes, counterfactual_codes, dim=1)


def cout(
    images: Tensor,
    counterfactuals: Tensor,
    probability: Callable[[Tensor], Tensor],
    *,
    against: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | None = None,
    steps: int = 50,
) -> Tensor:
    """COUT ``(N,)``: 1 if the first pixels swapped decide all, -1 if nothing follows.

    Args:
        images: ``(N, C, H, W)``.
        counterfactuals: ``(N, C, H, W)``.
        probability: From images to probabilities ``(N,)`` of what each counterfactual was to reach.
        against: Of what each image was; one less the former when omitted (two classes).
        weights: Of each channel in the order of pixels ``(C,)``; 1 when omitted.
        steps: Parts in which the pixels are swapped; pixels of equal change in the order of the image.

    Raises:
        ImageError: Batches of different shapes.
        OptionError: No steps.

    >>> image, swapped = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> cout(image, swapped, lambda x: x.mean(dim=(1, 2, 3)), steps=4)
    tensor([0.])
    """
    _require_pair(images, counterfactuals)
    if steps < 1:
        raise OptionError("steps", "must be at least 1", received=steps, remedy="50 is usual.")
    count, channels, height, width = images.shape
    scale = torch.ones(channels).to(images) if weights is None else weights.to(images)
    change = ((counterfactuals - images).abs() * scale.view(1, -1, 1, 1)).sum(dim=1).flatten(1)
    order = change.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1]).to(order).expand_as(order))
    rank = rank.view(count, 1, height, width)
    curve = []
    for step in range(steps + 1):
        swapped = torch.where(rank < round(step / steps * height * width), counterfactuals, images)
        target = probability(swapped)
        curve.append(target - (1 - target if against is None else against(swapped)))
    return torch.trapezoid(torch.stack(curve, dim=1), dx=1 / steps, dim=1)


def _require_pair(images: Tensor, counterfactuals: Tensor) -> None:
    if images.ndim != 4 or images.shape != counterfactuals.shape or not images.numel():
        raise ImageError(
            "counterfactuals",
            f"must be one for each image, {tuple(images.shape)}",
            received=tuple(counterfactuals.shape),
            remedy="Pass batches (N, C, H, W).",
        )
