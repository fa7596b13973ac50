r"""A walk without a gradient: the slope is measured by antithetic pairs of queries.

For a classifier that can only be asked (a remote service, trees, an ONNX session) the derivatives along
orthonormal directions :math:`u_i` of the latent space are taken from pairs,

.. math:: d_i = \frac{s(z + \sigma u_i) - s(z - \sigma u_i)}{2 \sigma}, \qquad
          g \leftarrow g + \sum_i u_i\, (d_i - u_i \cdot g),

where :math:`g` on the right is the slope at the point before: what was learnt is kept, and put right along
the directions just measured, the old slope's own among them (the update of least change, as Broyden's). So
later points need few pairs. Directions are drawn with the spread that codes have along each dimension, so
dimensions that a generator does not use cost no queries. Evolution strategies: Salimans et al. 2017 (arXiv
1703.03864); guided by earlier slopes: Maheswaranathan et al. 2019 (arXiv 1806.10230).
"""

from typing import Any

import torch
from torch import Tensor

from explainer.errors import OptionError
from explainer.walks.scene import Scene
from explainer.walks.stepping import SteppingWalk

__all__ = ["EvolutionWalk"]

_LEAST_SPREAD = 0.02
"""Of a dimension's standard deviation, as a share of the largest."""


class EvolutionWalk(SteppingWalk):
    """Trust-region steps along a measured slope; works with any callable.

    Args:
        first_pairs: Pairs of queries at an image's own code, shared by its two lanes.
        pairs: Pairs at every later point, and wherever a step failed.
        sigma: Distance of a query from its point, in prior standard deviations of the code.
        queries: Budget of one image for walking; frames are then found with two or three queries each, and
            :attr:`WalkResult.evaluations` counts them all.
        seed: Of the directions. They are the same for every image, so a batch changes nothing.
        radius: First trust radius, in prior standard deviations of the code.
        sparsity: As in :class:`SteppingWalk`.
        shorten: As in :class:`SteppingWalk`.
    """

    name = "evolution"

    def __init__(
        self,
        *,
        first_pairs: int = 32,
        pairs: int = 6,
        sigma: float = 0.1,
        queries: int = 600,
        seed: int = 0,
        radius: float = 1.0,
        sparsity: float = 0.0,
        shorten: float = 1.0,
    ) -> None:
        if pairs < 1 or first_pairs < 1 or not sigma > 0:
            raise OptionError(
                "first_pairs, pairs, sigma",
                "must be positive",
                received=(first_pairs, pairs, sigma),
                remedy="Try first_pairs=32, pairs=6, sigma=.1.",
            )
        least = 2 * first_pairs + 2 * (2 * pairs + 1)
        if queries < least:
            raise OptionError(
                "queries",
                f"must be at least {least}: the first slope and one step in each direction",
                received=queries,
                remedy="Allow more queries, or take fewer pairs.",
            )
        steps = (queries - 2 * first_pairs) // (2 * (2 * pairs + 1))
        super().__init__(radius=radius, steps=steps, sparsity=sparsity, shorten=shorten)
        self.first_pairs, self.pairs, self.sigma = first_pairs, pairs, sigma
        self.queries, self.seed = queries, seed
        self.exhausted = f"the budget of {queries} queries was spent"

    def options(self) -> dict[str, Any]:
        own = ("first_pairs", "pairs", "sigma", "queries", "seed", "radius", "sparsity", "shorten")
        return {name: getattr(self, name) for name in own}

    def slope(self, scene: Scene, z: Tensor, rows: Tensor, previous: Tensor | None, step: int) -> Tensor:
        free = z.shape[1] if scene.within is None else len(scene.within)
        count = min(free, self.first_pairs if previous is None else self.pairs)
        basis = self._directions(scene, count, previous, step, len(z))
        moved = self.sigma * basis.transpose(1, 2)
        queried = torch.cat([z[:, None] + moved, z[:, None] - moved], dim=1)
        scores = scene.score(queried.flatten(0, 1), rows.repeat_interleave(2 * count))
        ahead, behind = scores.view(len(z), 2, count).to(z).unbind(dim=1)
        measured = (ahead - behind) / (2 * self.sigma)
        if previous is None:
            return torch.einsum("mdp,mp->md", basis, measured)
        known = torch.einsum("mdp,md->mp", basis, previous)
        return previous + torch.einsum("mdp,mp->md", basis, measured - known)

    def _directions(self, scene: Scene, count: int, previous: Tensor | None, step: int, lanes: int) -> Tensor:
        """Orthonormal directions ``(lanes, D, count)``, the earlier slope's own first."""
        z = scene.z
        noise = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        spread = scene.generator.latent_std
        spread = (spread / spread.max()).clamp_min(_LEAST_SPREAD)
        drawn = torch.randn(z.shape[1], count, generator=noise).to(z) * spread[:, None]
        drawn = scene.allowed_part(drawn.T).T
        if previous is None:
            return torch.linalg.qr(drawn).Q.expand(lanes, -1, -1)
        several = drawn.expand(lanes, -1, -1).clone()
        several[:, :, 0] = previous
        return torch.linalg.qr(several).Q
