r"""Are the frames of a set distributed like real images, in the features of a network that is at hand?

Two distances between the features of real images and of frames, both at detail 0 (bare) and 1 (delivered):

* the squared Frechet distance of fitted Gaussians, biased upwards for few images;
* the squared kernel distance (maximum mean discrepancy, Gretton et al., JMLR 13, 2012) with the cubic kernel
  :math:`k(a, b) = (a^T b / F + 1)^3` of Binkowski et al. (ICLR 2018), whose U-statistic has no bias, so it
  can be negative; its interval is of the delete-one jackknife.

The features are those of a local classifier or embedding. **Neither distance is an FID or a KID**, which are
of the Inception network, and neither can be compared with published ones: compare with the distance of two
halves of the real images, which is reported beside them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from explainer.errors import OptionError
from explainer.metrics import Interval, frechet_distance

__all__ = ["Realism", "kernel_distance", "realism"]

FEWEST = 20


@dataclass(frozen=True)
class Realism:
    """Distances of sets from real images, in the features of a local network.

    Attributes:
        frechet: Squared Frechet distance by the name of the set.
        kernel: Squared kernel distance by the name of the set, with its interval.
        images: Number of images in every set; the Frechet distance depends on it.
    """

    frechet: dict[str, float]
    kernel: dict[str, Interval]
    images: int


def kernel_distance(features: ArrayLike, reference: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Squared kernel distance of two sets of features, unbiased, with its jackknife interval.

    Args:
        features: ``(N, F)``, at least 3 rows.
        reference: ``(M, F)``, at least 3 rows, independent of the first.
        confidence: Nominal coverage.

    Raises:
        OptionError: Too few rows, other features, or values that are not finite.

    >>> rows = np.random.default_rng(0).normal(size=(400, 2))
    >>> kernel_distance(rows[:200], rows[200:]).low < 0 < kernel_distance(rows[:200], rows[200:] + 1).low
    True
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (features, reference))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise OptionError(
            "features", "and reference must be (N, F) and (M, F), at least 3 rows each",
            received=f"{x.shape} and {y.shape}", remedy="Pass features of one network, one row per image.",
        )  # fmt: skip
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise OptionError(
            "features", "and reference must be finite", received="NaN or infinite values",
            remedy="Count and report those images, then leave them out.",
        )  # fmt: skip
    n, m = len(x), len(y)
    within_x, within_y, between = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    np.fill_diagonal(within_x, 0)
    np.fill_diagonal(within_y, 0)
    rows_x, rows_y = within_x.sum(axis=1), within_y.sum(axis=1)
    sum_x, sum_y, sum_xy = rows_x.sum(), rows_y.sum(), between.sum()
    mean_y, mean_x = sum_y / (m * (m - 1)), sum_x / (n * (n - 1))
    estimate = mean_x + mean_y - 2 * sum_xy / (n * m)
    without_x = (
        (sum_x - 2 * rows_x) / ((n - 1) * (n - 2))
        + mean_y
        - 2 * (sum_xy - between.sum(axis=1)) / ((n - 1) * m)
    )
    without_y = (
        mean_x
        + (sum_y - 2 * rows_y) / ((m - 1) * (m - 2))
        - 2 * (sum_xy - between.sum(axis=0)) / (n * (m - 1))
    )
    variance = sum(
        (len(each) - 1) / len(each) * float(((each - each.mean()) ** 2).sum())
        for each in (without_x, without_y)
    )
    half = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(variance)
    return Interval(float(estimate), float(estimate) - half, float(estimate) + half, confidence)


def realism(
    images: Tensor,
    frames: Tensor,
    bare_frames: Tensor,
    features: Callable[[Tensor], Tensor],
    *,
    seed: int = 0,
) -> Realism:
    """Distance of frames from real images they were not made of.

    The images are halved at random. One half is the reference; the frames of the other half are held against
    it, so that no frame meets its own original, and that half itself is the yardstick.

    Args:
        images: Originals ``(N, C, H, W)``, at least 40.
        frames: One frame of each, delivered, in the same order.
        bare_frames: The same without carried detail.
        features: From images to features ``(N, F)``, for example ``network.features`` of a local classifier.
        seed: Of the halves.

    Raises:
        OptionError: Fewer images, or sets of other lengths.
    """
    if not len(images) == len(frames) == len(bare_frames) or len(images) < 2 * FEWEST:
        raise OptionError(
            "images", f"must be at least {2 * FEWEST}, with one frame and one bare frame each",
            received=f"{len(images)}, {len(frames)} and {len(bare_frames)}",
            remedy="Pass more images.",
        )  # fmt: skip
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    size = len(images) // 2
    reference, other = order[:size], order[size : 2 * size]
    base = _features(features, images[reference])
    sets = {
        "real images": _features(features, images[other]),
        "frames, detail 1": _features(features, frames[other]),
        "frames, detail 0": _features(features, bare_frames[other]),
    }
    return Realism(
        frechet={name: frechet_distance(each, base) for name, each in sets.items()},
        kernel={name: kernel_distance(each, base) for name, each in sets.items()},
        images=size,
    )


@torch.no_grad()
def _features(features: Callable[[Tensor], Tensor], images: Tensor) -> np.ndarray:
    return torch.cat([features(part).detach().double().cpu() for part in images.split(256)]).numpy()


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3
