r"""The network of the conditional walk: from a code, its score, its slope and a wanted score to a move.

With code :math:`z` of score :math:`s_0` and slope :math:`g = \nabla s(z)`, and wanted score :math:`s`,

.. math:: z' = z + H(s) - H(s_0), \qquad
          H(s) = s\,(v + d) + c\, d + h(\tilde z, \tilde g, s), \qquad d = \frac{g}{\|g\|^2 + \lambda}

where :math:`v` is one direction for all and :math:`d` the shortest move per unit of score if the score were
linear, damped where it is flat (:math:`\lambda` is a quarter of the median of :math:`\|g\|^2`); ``h`` is a
small network that starts at 0 and also gives ``c``, and :math:`\tilde z`, :math:`\tilde g` are in standard
deviations of the training images' codes. So the path of an image over ``s`` is smooth and passes through its
own code at its own score: asked for what already is, nothing moves.
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
                nn.Linear(2 * latent_dim + 4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
            )
            self.last = nn.Linear(width, latent_dim + 1, bias=False)
        nn.init.zeros_(self.last.weight)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("std", torch.ones(latent_dim))
        self.register_buffer("steepness", torch.ones(()))
        self.fixed = nn.Parameter(torch.zeros(latent_dim))
        self.mean: Tensor
        self.std: Tensor
        self.steepness: Tensor

    def forward(self, z: Tensor, own: Tensor, slope: Tensor, wanted: Tensor) -> Tensor:
        """Moves ``(M, D)`` of codes and slopes ``(M, D)`` with scores ``(M,)`` to wanted scores ``(M,)``."""
        whitened = (z - self.mean) / self.std
        square = slope.square().sum(dim=1, keepdim=True)
        straight = slope / (square + self.steepness / 4)
        steep = slope * self.std
        length = steep.norm(dim=1, keepdim=True)
        bent = steep / length.clamp_min(1e-6) * self.latent_dim**0.5
        known = torch.cat([whitened, bent, (square / self.steepness + 0.01).log()], dim=1)
        return self._at(known, straight, wanted) - self._at(known, straight, own)

    def _at(self, known: Tensor, straight: Tensor, score: Tensor) -> Tensor:
        s = score[:, None].to(known)
        features = torch.cat([known, s / 4, torch.tanh(s / 2), torch.tanh(s / 6)], dim=1)
        bend = self.last(self.layers(features))
        return s * (self.fixed + straight) + bend[:, 1:] + bend[:, :1] * straight
