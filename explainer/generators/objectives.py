r"""The terms a generator is trained on, each in named units.

Reconstruction is a Gaussian likelihood with one standard deviation per channel, calibrated on the
batch (Rybkin, Daniilidis & Levine 2021, arXiv 2006.13202), in nats per image:

.. math:: -\log p(x|z) = \sum_c \left[ \frac{SSE_c}{2\sigma_c^2} + D_c \log\sigma_c \right] + const,
          \qquad \sigma_c^2 = \mathrm{MSE}_c

with :math:`\log\sigma_c` soft-clipped at -6. Because sigma is at its optimum, its value carries no
gradient beyond the likelihood's own, and the balance against the KL term needs no hand-set weight:
with a fixed sigma of 1, or with the mean squared error plus the KL divergence, the code collapses.

The KL divergence to the standard normal is in nats per image. The Laplacian-pyramid L1 distance
(Bojanowski et al. 2018, arXiv 1707.05776) keeps edges sharp; it is in units of normalised intensity.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["gaussian_kl", "laplacian_distance", "laplacian_pyramid", "sigma_reconstruction"]

_LOG_SIGMA_FLOOR = -6.0


def sigma_reconstruction(images: Tensor, reconstructions: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood in nats per image, and the mean squared error of each channel.

    Args:
        images: ``(N, C, H, W)``, normalised intensities.
        reconstructions: ``(N, C, H, W)``.

    Returns:
        The mean over the batch, a scalar in nats per image (without the constant ``D/2 log 2 pi``),
        and the MSE per channel ``(C,)``.

    >>> x, y = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), .1)
    >>> nats, mse = sigma_reconstruction(x, y)
    >>> round(float(nats), 2), round(16 * (0.5 + math.log(0.1)), 2)  # exact but for the soft clip
    (-28.83, -28.84)
    """
    mse = (images - reconstructions).square().mean(dim=(0, 2, 3))
    pixels = images.shape[2] * images.shape[3]
    log_sigma = 0.5 * mse.detach().clamp_min(1e-20).log()
    log_sigma = _LOG_SIGMA_FLOOR + functional.softplus(log_sigma - _LOG_SIGMA_FLOOR)
    nats = pixels * (mse / (2 * (2 * log_sigma).exp()) + log_sigma)
    return nats.sum(), mse


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of ``N(mean, exp(log_variance))`` from ``N(0, 1)``, per dimension.

    Args:
        mean: ``(N, D)``.
        log_variance: ``(N, D)``.

    Returns:
        ``(D,)``, the mean over the batch in nats; its sum is the KL term of the evidence bound.

    >>> gaussian_kl(torch.ones(3, 2), torch.zeros(3, 2))
    tensor([0.5000, 0.5000])
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=0)


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Band-pass images, finest first, ending with the low-pass rest; their sum (upsampled) is the image."""
    bands = []
    current = images
    for _ in range(levels - 1):
        low = functional.avg_pool2d(current, 2, ceil_mode=True)
        up = functional.interpolate(low, size=current.shape[-2:], mode="bilinear", align_corners=False)
        bands.append(current - up)
        current = low
    return [*bands, current]


def laplacian_distance(images: Tensor, reconstructions: Tensor, levels: int | None = None) -> Tensor:
    """Sum over pyramid levels of the mean absolute difference, in normalised intensity.

    Args:
        images: ``(N, C, H, W)``.
        reconstructions: ``(N, C, H, W)``.
        levels: Pyramid levels; by default down to about 4 pixels.

    Returns:
        A scalar, the mean over the batch.
    """
    if levels is None:
        levels = max(1, int(math.log2(min(images.shape[-2:]) / 4)) + 1)
    bands = laplacian_pyramid(images - reconstructions, levels)
    return torch.stack([band.abs().mean() for band in bands]).sum()
