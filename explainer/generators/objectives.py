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

The mutual information of images and codes is bounded from below by the scores :math:`T(x_i, z_j)` of a
critic, row i an image and column j a code, the pairs that belong together on the diagonal. With
:math:`p` the pairs that belong together and :math:`q` all others,

.. math:: I \ge \mathbb{E}_i \Big[ T_{ii} - \log \tfrac1M \sum_j e^{T_{ij}} \Big]
          \quad\text{(InfoNCE)}, \qquad
          I \ge \mathbb{E}_p[T] - \mathbb{E}_q[e^{T - 1}] \quad\text{(NWJ)}.

All of them are to be **maximised**; the maximum mean discrepancy is to be **minimised**.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from explainer.errors import OptionError

__all__ = [
    "encoded_information",
    "gaussian_kl",
    "info_nce",
    "jensen_shannon",
    "kl_terms",
    "laplacian_distance",
    "laplacian_pyramid",
    "maximum_mean_discrepancy",
    "nwj",
    "sigma_reconstruction",
]

ACTIVE_NATS = 0.01
_LOG_SIGMA_FLOOR = -6.0
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


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


def kl_terms(kl: Tensor) -> dict[str, Tensor]:
    """What a history says of the KL divergence ``(D,)`` of a batch: the sum, and how it is spread.

    A dimension counts as active from a hundredth of a nat.

    >>> {name: float(value) for name, value in kl_terms(torch.tensor([0.0, 0.5, 2.0])).items()}
    {'kl_nats': 2.5, 'kl_largest_nats': 2.0, 'kl_median_nats': 0.5, 'active_units': 2.0}
    """
    kl = kl.detach()
    active = (kl > ACTIVE_NATS).sum().float()
    return {"kl_nats": kl.sum(), "kl_largest_nats": kl.max(), "kl_median_nats": kl.median(),
            "active_units": active}  # fmt: skip


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


# -- mutual information --------------------------------------------------------------------------------


def info_nce(scores: Tensor) -> Tensor:
    """InfoNCE bound on the mutual information (van den Oord et al. 2018, arXiv 1807.03748).

    Args:
        scores: ``(N, M)`` with ``M >= N``: the critic's score of image i and code j; those of pairs on
            the diagonal. Columns past the N-th hold codes of other images, from a queue.

    Returns:
        A scalar in nats, at most ``log M``: the reason for the queue.

    >>> info_nce(torch.zeros(4, 4)), info_nce(50 * torch.eye(4)) - math.log(4)
    (tensor(0.), tensor(0.))
    """
    return (scores.diagonal() - scores.logsumexp(dim=1)).mean() + math.log(scores.shape[1])


def jensen_shannon(scores: Tensor) -> Tensor:
    """Twice the Jensen-Shannon divergence of pairs from strangers, bounded from below.

    The estimator of Deep InfoMax (Hjelm et al. 2019, arXiv 1808.06670, eq. 4) plus the constant
    ``2 log 2``: its variance stays small in small batches. It is no bound on the mutual information;
    at its optimum the scores are the log density ratio, so that ``nwj(scores + 1)`` is one
    (Poole et al. 2019, arXiv 1905.06922, sec. 2.3).

    Args:
        scores: ``(N, M)`` with ``M >= N >= 2``, as for :func:`info_nce`.

    Returns:
        A scalar in nats, 0 if nothing is shared, at most ``2 log 2``.

    >>> jensen_shannon(torch.zeros(4, 4))
    tensor(0.)
    """
    others = functional.softplus(_strangers(scores)).mean()
    return 2 * math.log(2) - functional.softplus(-scores.diagonal()).mean() - others


def nwj(scores: Tensor, *, limit: float = 10.0) -> Tensor:
    """Bound of Nguyen, Wainwright & Jordan (2010, arXiv 0809.0853), a variational form of the KL divergence.

    Its variance grows exponentially with the information, so scores are clamped to ``[-limit, limit]``.
    The bound still holds, as the clamped critic is a critic too, and is at most ``limit``.

    Args:
        scores: ``(N, M)`` with ``M >= N >= 2``, as for :func:`info_nce`; best if 1 + the log density ratio.
        limit: Largest absolute score, in nats.

    Returns:
        A scalar in nats.

    >>> nwj(torch.ones(4, 4))
    tensor(0.)
    """
    clamped = scores.clamp(-limit, limit)
    return clamped.diagonal().mean() - (_strangers(clamped) - 1).exp().mean()


def _strangers(scores: Tensor) -> Tensor:
    """The scores off the diagonal, flat."""
    diagonal = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    return scores[~diagonal]


def encoded_information(mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
    """Information of codes about which image they came from, without a critic.

    InfoNCE with the scores ``log q(z_j | x_i)``, which the encoder knows (Poole et al. 2019,
    arXiv 1905.06922, sec. 2.4): a lower bound on I(x; z).

    Args:
        mean: Posterior means ``(N, D)``.
        log_variance: Posterior log-variances ``(N, D)``.
        z: One draw of each posterior, ``(N, D)``.

    Returns:
        A scalar in nats, at most ``log N``; near that it says only that the codes tell N images apart.

    >>> far_apart = torch.arange(8.0)[:, None] * 100
    >>> encoded_information(far_apart, torch.zeros(8, 1), far_apart)  # log 8
    tensor(2.0794)
    """
    mean, log_variance, draws = mean.double(), log_variance.double(), z.double()  # large terms cancel
    precision = (-log_variance).exp()
    squared = draws.square() @ precision.T - 2 * draws @ (mean * precision).T
    constant = (mean.square() * precision + log_variance).sum(dim=1)
    return info_nce(-0.5 * (squared + constant)).to(z.dtype)  # codes in rows, images in columns


# -- distances of distributions -------------------------------------------------------------------------


def maximum_mean_discrepancy(
    first: Tensor, second: Tensor, *, kernel: str = "imq", scales: Sequence[float] = _SCALES
) -> Tensor:
    """Squared maximum mean discrepancy of two samples (Gretton et al. 2012, jmlr v13 gretton12a).

    The mean over scales s of kernels of the squared distance r, with ``c = 2 D s`` the squared distance
    that is usual between draws of ``N(0, s)``: ``c / (c + r)`` (inverse multiquadratic, with heavy tails;
    Tolstikhin et al. 2018, arXiv 1711.01558) or ``exp(-r / c)`` (Gaussian). It is added to a loss with
    a **positive** weight, to bring the codes' distribution to the prior's (Zhao et al. 2019,
    arXiv 1706.02262): with a negative one it drives them apart.

    Args:
        first: ``(N, D)``.
        second: ``(M, D)``.
        kernel: ``"imq"`` or ``"rbf"``.
        scales: Variances, in the units of the samples squared.

    Returns:
        A scalar in [0, 2] without a unit: 0 for equal samples.

    Raises:
        OptionError: The kernel is unknown or a scale is not positive.

    >>> z = torch.arange(6.0).view(3, 2)
    >>> maximum_mean_discrepancy(z, z), maximum_mean_discrepancy(z, z + 1e6)
    (tensor(0.), tensor(1.0975))
    """
    if kernel not in ("imq", "rbf"):
        raise OptionError(
            "kernel", "is unknown", received=kernel, remedy='Choose "imq" (heavy tails) or "rbf".'
        )
    if not scales or min(scales) <= 0:
        raise OptionError(
            "scales", "must be positive", received=tuple(scales), remedy="Pass for example [1]."
        )
    usual = [2 * first.shape[1] * scale for scale in scales]

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        kernels = [c / (c + squared) if kernel == "imq" else (-squared / c).exp() for c in usual]
        return torch.stack(kernels).mean()

    return similarity(first, first) + similarity(second, second) - 2 * similarity(first, second)
