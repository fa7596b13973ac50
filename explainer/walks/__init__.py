"""Walks through the latent space: one base that owns the frames, one file for each way to them."""

from explainer.walks.base import Scene, Walk, WalkResult
from explainer.walks.cluster import ClusterWalk
from explainer.walks.conditional import ConditionalWalk
from explainer.walks.diverse import diverse_walks
from explainer.walks.evolution import EvolutionWalk
from explainer.walks.gradient import GradientWalk
from explainer.walks.linear import LinearWalk

__all__ = [
    "ClusterWalk",
    "ConditionalWalk",
    "EvolutionWalk",
    "GradientWalk",
    "LinearWalk",
    "Scene",
    "Walk",
    "WalkResult",
    "diverse_walks",
]
