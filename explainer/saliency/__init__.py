"""Saliency maps: which pixels the explanation is about."""

from explainer.saliency.base import SaliencyMap
from explainer.saliency.difference import difference

__all__ = ["SaliencyMap", "difference"]
