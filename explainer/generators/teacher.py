r"""What a few labels make likely for all other images: Gaussian processes beside a generator.

A label is worth more than its one image. Three descriptions of an image are tried, and all together: its
code in the generator as it was; quantiles of its intensities per channel, which know size and brightness but
no place; and the moments of what is brighter than the channel's median: where it is, and how far it reaches.
Each has unit variance in total, the kernel is :math:`A \exp(-d^2 / 2\ell^2)` plus noise, and what is likelier
under its marginal likelihood is kept (Rasmussen & Williams 2006, ch. 5). Of two values a logistic of the
process says which it is (there ch. 3, Laplace's approximation). What this costs grows with the cube of the
number of images, so of more than 500 labelled ones 500 are looked at, spread evenly over the labels.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from explainer.generators.told import Told

__all__ = ["FEWEST_SPREAD", "Teacher", "describe", "fit_teacher", "some_of", "teacher_of"]

QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.85, 0.9, 0.93, 0.96, 0.98, 0.99, 1.0)
SIDE = 64
FEWEST_SPREAD = 20
MOST_LABELLED = 500
STEEPEST = 1e6
LEAST = 0.1
"""Share of the largest deviation of a description that the others count at least."""


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
        alpha: ``(n,)``, what each of them adds.
        weights: ``(n,)``, square roots of how sharply each bounds the process; 1 in a regression.
        factor: ``(n, n)``, the Cholesky factor of the weighted kernel with noise.
        amplitude: A.
        length: Of the kernel.
        likelihood: The logarithm of its marginal likelihood.
        levels: The two values there are, ascending; None for any number of them.
    """

    blocks: tuple[str, ...]
    mean: dict[str, Tensor]
    scale: dict[str, Tensor]
    known: Tensor
    alpha: Tensor
    weights: Tensor
    factor: Tensor
    amplitude: float
    length: float
    likelihood: float
    levels: tuple[float, float] | None = None

    @property
    def variance(self) -> float:
        """Of a value before anything is known of an image."""
        return self.amplitude if self.levels is None else (self.levels[1] - self.levels[0]) ** 2 / 4

    def __call__(self, described: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Expected values ``(N,)``, and how sure they are, 0 to 1: the share of the variance taken away; of
        two values, how much more often the likelier one is right than wrong."""
        rows = _joined(described, self.blocks, self.mean, self.scale)
        kernel = self.amplitude * torch.exp(-torch.cdist(rows, self.known).square() / (2 * self.length**2))
        inner = torch.linalg.solve_triangular(self.factor, self.weights[:, None] * kernel.T, upper=False)
        explained = inner.square().sum(dim=0)
        if self.levels is None:
            return kernel @ self.alpha, (explained / self.amplitude).clamp(0, 1)
        low, high = self.levels
        left = (self.amplitude - explained).clamp_min(0)
        upper = torch.sigmoid(kernel @ self.alpha / (1 + math.pi * left / 8).sqrt())
        return low + (high - low) * upper, (2 * upper - 1).abs()

    def likeliest(self, expected: Tensor) -> Tensor:
        """The likelier of two values, where there are two; else what is expected."""
        if self.levels is None:
            return expected
        low, high = self.levels
        return torch.where(expected > (low + high) / 2, high, low).to(expected)


def _joined(
    described: dict[str, Tensor], blocks: tuple[str, ...], mean: dict[str, Tensor], scale: dict[str, Tensor]
) -> Tensor:
    parts = [(described[name].double().cpu() - mean[name]) / scale[name] for name in blocks]
    return torch.cat(parts, dim=1)


def fit_teacher(described: dict[str, Tensor], values: NDArray[np.float64]) -> Teacher:
    """The likeliest process of labels ``(n,)`` on described images, of mean 0 and deviation 1 or two."""
    mean = {name: block.double().cpu().mean(dim=0) for name, block in described.items()}
    scale = {}
    for name, block in described.items():
        deviation = block.double().cpu().std(dim=0)
        # What hardly varies among labelled images would be noise made large, above all in decoded ones.
        least = LEAST * float(deviation.max()) + 1e-12
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
    from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    known = _joined(described, blocks, mean, scale)
    two = np.unique(values)
    levels = (float(two[0]), float(two[1])) if len(two) == 2 else None
    smooth = RBF(1.0, (0.05, 50.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound is an answer too
        if levels is None:
            kernel = ConstantKernel(1.0, (1e-2, 1e3)) * smooth + WhiteKernel(0.1, (1e-4, 2.0))
            process = GaussianProcessRegressor(kernel).fit(known.numpy(), values)
            alpha, weights, factor = process.alpha_, np.ones(len(values)), process.L_
            product = process.kernel_.k1
        else:
            latent = ConstantKernel(1.0, (1e-2, STEEPEST)) * smooth
            process = GaussianProcessClassifier(latent).fit(known.numpy(), values == levels[1])
            inner = process.base_estimator_
            alpha, weights, factor = inner.y_train_ - inner.pi_, inner.W_sr_, inner.L_
            product = inner.kernel_
    learnt = [torch.from_numpy(np.array(part)) for part in (alpha, weights, factor)]
    return Teacher(
        blocks, mean, scale, known, learnt[0], learnt[1], learnt[2], float(product.k1.constant_value),
        float(product.k2.length_scale), float(process.log_marginal_likelihood_value_), levels,
    )  # fmt: skip


def some_of(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.int64]:
    """At most 500 rows, ascending, spread evenly over their values: both of two values are among them, and
    which of equal ones is drawn by the seed."""
    if len(values) <= MOST_LABELLED:
        return np.arange(len(values))
    order = np.random.default_rng(seed).permutation(len(values))
    order = order[np.argsort(values[order], kind="stable")]
    return np.sort(order[np.linspace(0, len(order) - 1, MOST_LABELLED).round().astype(np.int64)])


def teacher_of(evidence: Sequence[Told], described: dict[str, Tensor], seed: int = 0) -> Teacher | None:
    """What the labels of an axis make likely elsewhere; None for few of them, and of many from 500 alone.

    Args:
        evidence: What was said of the axis; the first kind that there is enough of counts: numbers, labels of
            0 and 1, rankings.
        described: Of the guided images, ``(n, F)``, or of several versions of them ``(V, n, F)``.
        seed: Of which 500.
    """
    for basis in ("labels", "binary labels", "ranking"):
        labelled = [each for each in evidence if each.basis == basis]
        if sum(len(each.rows) for each in labelled) < FEWEST_SPREAD:
            continue
        rows = torch.from_numpy(np.concatenate([each.rows for each in labelled]))
        known = [each.targets if basis == "ranking" else each.values for each in labelled]
        values = np.concatenate(known)  # of rankings places, each on a scale of its own
        if values.min() == values.max():  # the only other one was held out
            continue
        if basis == "labels":
            values = (values - values.mean()) / values.std()
        used = some_of(values, seed)
        rows, values = rows[used], values[used]
        shown = {name: block[..., rows.to(block.device), :] for name, block in described.items()}
        versions = len(shown["code"]) if shown["code"].ndim == 3 else 1
        flat = {name: block.flatten(0, -2) for name, block in shown.items()}
        return fit_teacher(flat, np.tile(values, versions))
    return None
