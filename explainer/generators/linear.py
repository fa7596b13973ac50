r"""A linear path beside the networks of a VAE, which begins at the principal components.

The best linear VAE is known in closed form: it is probabilistic principal component analysis (Tipping &
Bishop 1999, doi 10.1111/1467-9868.00196; Lucas et al. 2019, arXiv 1911.02469). With m the mean image, V and
:math:`\Lambda` the leading D eigenvectors and eigenvalues of the images' covariance and :math:`\sigma^2`
the variance that is left per value,

.. math:: x = m + W z, \qquad W = V (\Lambda - \sigma^2)^{1/2}, \qquad
          q(z|x) = N\big(\Lambda^{-1} W^\top (x - m),\ \sigma^2 \Lambda^{-1}\big)

Training that starts there does not depend on luck: whatever the seed, dimensions with more variance than what
is left carry information from the first step, and the networks add what is not linear. Channels are weighed
by their own sigma, as in the likelihood, so W depends on what it leaves and is found by a few repetitions; a
channel with a large sigma may then be reconstructed worse than by as many principal components of all.
"""

import torch
from torch import Tensor, nn

from explainer.generators.base import initialised

__all__ = ["LinearPath", "begin_small"]

REPETITIONS = 4
SPARE = 8
MOST_PATCHES = 20_000


class LinearPath(nn.Module):
    """Affine maps from images, or each of their patches, to a Gaussian, and from codes back.

    Args:
        shape: ``(C, H, W)`` of the prepared images.
        latent_dim: Dimensions ``D`` of the code of a patch.
        patch: ``(h, w)`` of the patches, which divide the images; by default the whole image is one.

    >>> path = LinearPath((1, 2, 2), 3)  # nothing, until it is started
    >>> path(torch.ones(1, 1, 2, 2)).flatten().detach(), path.decode(torch.ones(1, 3, 1, 1)).shape
    (tensor([0., 0., 0., 0., 0., 0.]), torch.Size([1, 1, 2, 2]))
    >>> LinearPath((1, 8, 4), 3, patch=(2, 2))(torch.ones(5, 1, 8, 4)).shape
    torch.Size([5, 6, 4, 2])
    """

    def __init__(
        self, shape: tuple[int, int, int], latent_dim: int, *, patch: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.patch_shape = (shape[0], *(patch or shape[1:]))
        values = shape[0] * self.patch_shape[1] * self.patch_shape[2]
        with initialised(0):  # zeros in the end, but the layers draw when they are made
            self.encoder = nn.Conv2d(values, 2 * latent_dim, 1)
            self.decoder = nn.Conv2d(latent_dim, values, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Mean and log-variance, side by side, ``(N, 2 D, rows, columns)`` of patches."""
        return self.encoder(self._patches(images))

    def decode(self, z: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` of codes ``(N, D, rows, columns)``."""
        channels, height, width = self.patch_shape
        parts = self.decoder(z).unflatten(1, (channels, height, width))
        return parts.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)

    def _patches(self, images: Tensor) -> Tensor:
        """``(N, C h w, rows, columns)``."""
        _, height, width = self.patch_shape
        parts = images.unflatten(3, (-1, width)).unflatten(2, (-1, height))
        return parts.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    @torch.no_grad()
    def start(self, images: Tensor) -> None:
        """Set both maps to the best linear VAE of prepared images ``(N, C, H, W)``.

        Of fewer patches than dimensions the rest of the code begins at the prior.
        """
        dimensions = self.decoder.in_channels
        flat = self._patches(images).movedim(1, -1).flatten(0, 2)
        flat = flat[:: max(1, len(flat) // MOST_PATCHES)].double()
        mean = flat.mean(dim=0)
        away = flat - mean
        rank = min(dimensions, *away.shape)
        weights = torch.ones_like(mean)
        for _ in range(REPETITIONS):  # in units in which what is left has variance 1 per value
            scaled = away * weights
            _, singular, vectors = torch.svd_lowrank(scaled, q=min(rank + SPARE, *away.shape), niter=4)
            singular, vectors = singular[:rank], vectors[:, :rank]
            left = ((scaled - scaled @ vectors @ vectors.T) / weights).square().mean(dim=0)
            per_channel = left.view(self.patch_shape).mean(dim=(1, 2), keepdim=True).clamp_min(1e-8)
            weights = per_channel.rsqrt().expand(self.patch_shape).flatten()
        variances = ((away * weights) @ vectors).square().mean(dim=0).clamp_min(1 + 1e-3)
        gain = (variances - 1).sqrt()
        for parameter in self.parameters():
            parameter.zero_()
        assert self.decoder.bias is not None
        assert self.encoder.bias is not None
        self.decoder.weight[:, :rank, 0, 0] = (vectors * gain / weights[:, None]).to(self.decoder.weight)
        offset, bias = self.decoder.get_parameter("bias"), self.encoder.get_parameter("bias")
        offset.copy_(mean)
        inverse = (vectors * gain / variances).T * weights
        self.encoder.weight[:rank, :, 0, 0] = inverse.to(self.encoder.weight)
        bias[:rank] = -(inverse @ mean).to(bias)
        bias[dimensions : dimensions + rank] = -variances.log().to(bias)


@torch.no_grad()
def begin_small(*layers: nn.Module) -> None:
    """Scale the last layers of networks down, so that they begin as a small correction of a linear path."""
    for layer in layers:
        layer.get_parameter("weight").mul_(0.1)
        layer.get_parameter("bias").zero_()
