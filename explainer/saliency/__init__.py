"""Saliency maps: which pixels the explanation is about."""

from explainer.saliency.base import SaliencyMap
from explainer.saliency.difference import difference, path_integrated
from explainer.saliency.methods import METHODS, Walked, saliency_batch, saliency_maps, walk_images

__all__ = [
    "METHODS",
    "SaliencyMap",
    "Walked",
    "difference",
    "path_integrated",
    "saliency_batch",
    "saliency_maps",
    "walk_images",
]
