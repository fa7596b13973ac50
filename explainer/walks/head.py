r"""The network of the conditional walk: from a code, its score and a wanted score to a move.

With code :math:`z` of score :math:`s_0` and wanted score :math:`s`,

.. math:: z' = z + H(z, s) - H(z, s_0), \qquad H(z, s) = s\, v + h(\tilde z, s)

where :math:`v` is a fixed direction (the mean minimal move per unit of score over training images),
:math:`h` a small network that starts at 0, and :math:`\tilde z` the code in standard deviations. So the path
of an image over ``s`` is smooth and passes through its own code at its own score: asked for what already is,
nothing moves.
"""

import torch
from torch import Tensor, nn

from explainer.generators.base import initialised

__all__ = ["Head"]


class Head(nn.Module):
    """:math:`H` of the module's formula.

    Args:
        latent_dim: Dimensions ``D`` of the code.
        width: Of the two hidden layers.
        seed: Of the initial weights.
    """

    def __init__(self, latent_dim: int, width: int = 128, *, seed: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.width = latent_dim, width
        with initialised(seed):
            self.layers = nn.Sequential(
                nn.Linear(latent_dim + 3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
            )
            self.last = nn.Linear(width, latent_dim, bias=False)
        nn.init.zeros_(self.last.weight)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("std", torch.ones(latent_dim))
        self.register_buffer("direction", torch.zeros(latent_dim))
        self.mean: Tensor
        self.std: Tensor
        self.direction: Tensor

    def forward(self, z: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
        """Moves ``(M, D)`` of codes ``(M, D)`` with scores ``(M,)`` to wanted scores ``(M,)``."""
        whitened = (z - self.mean) / self.std
        return self._at(whitened, wanted) - self._at(whitened, own)

    def _at(self, whitened: Tensor, score: Tensor) -> Tensor:
        s = score[:, None].to(whitened)
        features = torch.cat([whitened, s / 4, torch.tanh(s / 2), torch.tanh(s / 6)], dim=1)
        return s * self.direction + self.last(self.layers(features))
