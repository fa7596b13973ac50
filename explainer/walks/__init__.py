"""Walks through the latent space: one base that owns the loop, one file for each way of stepping."""

from explainer.walks.base import Scene, Walk, WalkResult
from explainer.walks.gradient import GradientWalk

__all__ = ["GradientWalk", "Scene", "Walk", "WalkResult"]
