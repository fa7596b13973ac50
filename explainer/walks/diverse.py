"""Several different explanations of one image: each next walk keeps off the moves of those before it.

The slope of every further walk is projected off the span of the earlier moves (both ends of each), so its
own move is orthogonal to them in the latent space. What is left of the slope shrinks with every walk: the
moves get longer, and at some point the levels are not reached; the reasons say so.
"""

import torch
from torch import Tensor

from explainer.errors import OptionError
from explainer.walks.base import WalkResult
from explainer.walks.scene import Scene
from explainer.walks.stepping import SteppingWalk

__all__ = ["diverse_walks"]

_NO_MOVE = 1e-6


def diverse_walks(walk: SteppingWalk, scene: Scene, levels: Tensor, count: int) -> list[WalkResult]:
    """Walk every image of the scene to every level in several ways.

    Args:
        walk: A walk that steps: :class:`GradientWalk` or :class:`EvolutionWalk`.
        scene: Images, generator, classifier and target.
        levels: ``(L,)`` ascending.
        count: Number of walks; the first is the plain one.

    Returns:
        One result for each walk, the most natural first.

    Raises:
        OptionError: A walk that does not step, or more walks than the code has room for.
    """
    if not isinstance(walk, SteppingWalk):
        raise OptionError(
            "walk",
            "must be one that steps along a slope",
            received=type(walk).__name__,
            remedy="Use GradientWalk() or EvolutionWalk().",
        )
    if not 1 <= count <= scene.z.shape[1] // 2:
        raise OptionError(
            "count",
            f"must lie in 1 ... {scene.z.shape[1] // 2}: every walk takes two dimensions of the code",
            received=count,
            remedy="Ask for 2 or 3.",
        )
    results = [walk(scene, levels)]
    while len(results) < count:
        moves = [result.latents[:, end] - scene.z for result in results for end in (0, -1)]
        results.append(_ApartFrom(walk, torch.stack(moves, dim=2))(scene, levels))
    return results


class _ApartFrom(SteppingWalk):
    """Another walk, held off some moves.

    Args:
        walk: The walk.
        moves: ``(N, D, moves)``, of every image of the scene.
    """

    name = "apart"

    def __init__(self, walk: SteppingWalk, moves: Tensor) -> None:
        super().__init__(radius=walk.radius, steps=walk.steps, sparsity=walk.sparsity, shorten=walk.shorten)
        self.walk, self.name, self.exhausted = walk, walk.name, walk.exhausted
        vectors, lengths, _ = torch.linalg.svd(moves, full_matrices=False)
        self.basis = vectors * (lengths > _NO_MOVE * lengths.amax(dim=1, keepdim=True)).to(vectors)[:, None]

    def look(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        scores, slopes = self.walk.look(scene, z, rows)
        return scores, None if slopes is None else self._apart(slopes, rows)

    def slope(self, scene: Scene, z: Tensor, rows: Tensor, previous: Tensor | None, step: int) -> Tensor:
        return self._apart(self.walk.slope(scene, z, rows, previous, step), rows)

    def _apart(self, slopes: Tensor, rows: Tensor) -> Tensor:
        basis = self.basis[rows.to(self.basis.device)]
        along = torch.einsum("mdk,md->mk", basis, slopes)
        return slopes - torch.einsum("mdk,mk->md", basis, along)
