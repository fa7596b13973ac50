r"""Is a map right? Where the pixels that decide were planted, as on :mod:`explainer.synthetic`, look there.

With relevance :math:`r \ge 0` and the planted pixels :math:`M`, ``k`` of them (Zhang et al. 2016, arXiv
1608.00507; Arras et al. 2022, arXiv 2003.07258):

=======================  ================================================================
pointing game            the most relevant pixel lies in M
intersection over union  of M and the k most relevant pixels
relevance mass accuracy  :math:`\sum_{M} r / \sum r`
=======================  ================================================================

A random map scores the share of M in the image on the first and the last. A faithful map need not be right:
if the classifier looks elsewhere, a map that says so misses M.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explainer.errors import OptionError
from explainer.metrics import bootstrap_mean
from explainer.saliency.base import SaliencyMap

__all__ = ["intersection_over_union", "localisation", "pointing_game", "relevance_mass"]


def pointing_game(relevance: Tensor, masks: Tensor) -> Tensor:
    """Share ``(N,)`` of the most relevant pixels that lie in the mask: 1 or 0, in between only for ties.

    Args:
        relevance: ``(N, H, W)``, its magnitude counts.
        masks: ``(N, H, W)`` booleans.

    >>> pointing_game(torch.tensor([[[0.1, 0.9]]]), torch.tensor([[[False, True]]]))
    tensor([1.])
    """
    size, inside = _flat(relevance, masks)
    top = size == size.amax(dim=1, keepdim=True)
    return ((top & inside).sum(dim=1) / top.sum(dim=1)).float()


def intersection_over_union(relevance: Tensor, masks: Tensor, *, seed: int = 0) -> Tensor:
    """Overlap ``(N,)`` of the mask with as many pixels of highest relevance; ties are broken at random."""
    size, inside = _flat(relevance, masks)
    jitter = np.random.default_rng(seed).random(size.shape)
    order = torch.from_numpy(np.lexsort((jitter, -size.numpy()), axis=1))
    ranked = inside.gather(1, order)
    first = torch.arange(ranked.shape[1]) < inside.sum(dim=1, keepdim=True)
    both = (ranked & first).sum(dim=1)
    return (both / (2 * inside.sum(dim=1) - both)).float()


def relevance_mass(relevance: Tensor, masks: Tensor) -> Tensor:
    """Share ``(N,)`` of all relevance that lies in the mask; NaN for a map that is zero everywhere."""
    size, inside = _flat(relevance, masks)
    return ((size * inside).sum(dim=1) / size.sum(dim=1)).float()


def localisation(
    maps: Mapping[str, Sequence[SaliencyMap]], masks: Tensor, *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How well maps find planted pixels, with bootstrap intervals over images.

    Args:
        maps: For each method one map per image.
        masks: ``(N, H, W)`` booleans; images without any planted pixel are left out.
        resamples: Of the bootstrap.
        seed: Of the bootstrap and of ties.

    Returns:
        One row per method and measure: ``method``, ``measure``, ``mean``, ``low``, ``high``, ``images``,
        ``blank`` (maps that are zero everywhere, counted as 0), ``chance``.

    Raises:
        OptionError: No image has planted pixels, or maps and masks do not belong together.
    """
    kept = masks.flatten(1).any(dim=1)
    if not kept.any():
        raise OptionError(
            "masks", "must hold planted pixels", received="none in any image", remedy="Pass another mask."
        )
    rows = []
    for name, each in maps.items():
        relevance = torch.stack([one.relevance().abs() for one in each])[kept]
        inside = masks[kept]
        mass = relevance_mass(relevance, inside)
        measures = {
            "pointing game": (pointing_game(relevance, inside), float(inside.float().mean())),
            "intersection over union": (
                intersection_over_union(relevance, inside, seed=seed), _chance_overlap(inside),
            ),
            "relevance mass accuracy": (mass.nan_to_num(0.0), float(inside.float().mean())),
        }  # fmt: skip
        for measure, (values, chance) in measures.items():
            interval = bootstrap_mean(values.double().numpy(), resamples=resamples, seed=seed)
            rows.append(
                {
                    "method": name, "measure": measure, "mean": interval.estimate, "low": interval.low,
                    "high": interval.high, "images": len(values), "blank": int(mass.isnan().sum()),
                    "chance": chance,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _chance_overlap(inside: Tensor) -> float:
    """Expected overlap of ``k`` random pixels: about ``p / (2 - p)`` for a share ``p``."""
    share = inside.float().flatten(1).mean(dim=1)
    return float((share / (2 - share)).mean())


def _flat(relevance: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if relevance.shape != masks.shape or relevance.ndim != 3:
        raise OptionError(
            "masks", "must have the shape (N, H, W) of the relevance",
            received=f"{tuple(masks.shape)} for {tuple(relevance.shape)}", remedy="Sum maps over channels.",
        )  # fmt: skip
    return relevance.abs().double().flatten(1), masks.bool().flatten(1)
