r"""What a few labels make likely for all other images: Gaussian processes beside a generator.

A label is worth more than its one image. Three descriptions of an image are tried, and all together: its
code in the generator as it was; quantiles of its intensities per channel, which know size and brightness but
no place; and the moments of what is brighter than the channel's median: where it is, and how far it reaches.
Each has unit variance in total, the kernel is :math:`A \exp(-d^2 / 2\ell^2)` plus noise, and what is likelier
under its marginal likelihood is kept (Rasmussen & Williams 2006, ch. 5). A guess is as sure as the share of
the prior variance that the labels take away.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["Teacher", "describe", "fit_teacher"]

QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.85, 0.9, 0.93, 0.96, 0.98, 0.99, 1.0)
SIDE = 64


def describe(prepared: Tensor, codes: Tensor) -> dict[str, Tensor]:
    """Descriptions ``(N, F)``, by name, of images ``(N, C, H, W)`` in normalised units and their codes."""
    stride = max(1, -(-max(prepared.shape[-2:]) // SIDE))
    flat = functional.avg_pool2d(prepared, stride).flatten(2) if stride > 1 else prepared.flatten(2)
    shares = torch.tensor(QUANTILES).to(flat)
    intensities = torch.quantile(flat, shares, dim=2).permute(1, 2, 0).flatten(1)
    whole = torch.cat([intensities, flat.mean(dim=2), flat.std(dim=2)], dim=1)
    return {"code": codes, "intensities": whole, "moments": _moments(prepared)}


def _moments(images: Tensor) -> Tensor:
    """Centre and deviations ``(N, 4 C)`` of what is brighter than the median, in shares of the frame."""
    light = (images - images.flatten(2).median(dim=2).values[..., None, None]).clamp_min(0)
    mass = light.sum(dim=(2, 3)).clamp_min(1e-6)
    found = []
    for axis in (3, 2):
        count = images.shape[axis]
        places = (torch.arange(count, device=images.device, dtype=images.dtype) + 0.5) / count
        profile = light.sum(dim=5 - axis) / mass[..., None]
        centre = (profile * places).sum(dim=2)
        found += [centre, (profile * (places - centre[..., None]).square()).sum(dim=2).sqrt()]
    return torch.cat(found, dim=1)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A fitted Gaussian process.

    Attributes:
        blocks: Names of the descriptions it looks at.
        mean: By block, of the labelled images.
        scale: By block, what makes its total variance 1.
        known: ``(n, F)``, the labelled images.
        alpha: ``(n,)``.
        factor: ``(n, n)``, the Cholesky factor of the kernel with noise.
        amplitude: A.
        length: Of the kernel.
        likelihood: The logarithm of its marginal likelihood.
    """

    blocks: tuple[str, ...]
    mean: dict[str, Tensor]
    scale: dict[str, Tensor]
    known: Tensor
    alpha: Tensor
    factor: Tensor
    amplitude: float
    length: float
    likelihood: float

    def __call__(self, described: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Guesses ``(N,)`` in standard deviations of the labels, and how sure they are, 0 to 1."""
        rows = _joined(described, self.blocks, self.mean, self.scale)
        kernel = self.amplitude * torch.exp(-torch.cdist(rows, self.known).square() / (2 * self.length**2))
        explained = torch.linalg.solve_triangular(self.factor, kernel.T, upper=False).square().sum(dim=0)
        return kernel @ self.alpha, (explained / self.amplitude).clamp(0, 1)


def _joined(
    described: dict[str, Tensor], blocks: tuple[str, ...], mean: dict[str, Tensor], scale: dict[str, Tensor]
) -> Tensor:
    parts = [(described[name].double().cpu() - mean[name]) / scale[name] for name in blocks]
    return torch.cat(parts, dim=1)


def fit_teacher(described: dict[str, Tensor], values: NDArray[np.float64]) -> Teacher:
    """The likeliest process of labels ``(n,)``, of mean 0 and deviation 1, on described images."""
    mean = {name: block.double().cpu().mean(dim=0) for name, block in described.items()}
    scale = {}
    for name, block in described.items():
        deviation = block.double().cpu().std(dim=0)
        least = 1e-3 * float(deviation.max()) + 1e-12
        # What varies little in a code is not used; elsewhere every number counts alike.
        each = deviation.clamp_min(least) if name != "code" else deviation.square().mean().sqrt()
        scale[name] = each * math.sqrt(block.shape[1])
    names = tuple(described)
    fits = [
        _fitted(described, blocks, mean, scale, values) for blocks in [(name,) for name in names] + [names]
    ]
    return max(fits, key=lambda fit: fit.likelihood)


def _fitted(
    described: dict[str, Tensor],
    blocks: tuple[str, ...],
    mean: dict[str, Tensor],
    scale: dict[str, Tensor],
    values: NDArray[np.float64],
) -> Teacher:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    known = _joined(described, blocks, mean, scale)
    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(1.0, (0.05, 50.0)) + WhiteKernel(0.1, (1e-4, 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound is an answer too
        process = GaussianProcessRegressor(kernel).fit(known.numpy(), values)
    return Teacher(
        blocks, mean, scale, known, torch.from_numpy(np.asarray(process.alpha_)),
        torch.from_numpy(np.asarray(process.L_)), float(process.kernel_.k1.k1.constant_value),
        float(process.kernel_.k1.k2.length_scale), float(process.log_marginal_likelihood_value_),
    )  # fmt: skip
