r"""Are the frames of a set distributed like real images, in the features of a network that is at hand?

Two distances between the features of real images and of frames, both at detail 0 (bare) and 1 (delivered):

* the squared Frechet distance of fitted Gaussians, biased upwards for few images;
* the squared kernel distance (maximum mean discrepancy, Gretton et al., JMLR 13, 2012) with the cubic kernel
  :math:`k(a, b) = (a^T b / F + 1)^3` of Binkowski et al. (ICLR 2018), whose U-statistic has no bias, so it
  can be negative; its interval is of the delete-one jackknife.

The features are those of a local classifier or embedding; without one, the thumbnails and fine bands of
:func:`explainer.generators.sample_quality.local_features`. **Neither distance is an FID or a KID**, which are
of the Inception network, and neither can be compared with published ones. Each feature is standardised on
the real images and cut at 3 standard deviations.

What a distance means is told by the real images themselves. They are halved at random, many times: the
distances of the two halves are what real images have from real images that they are not, at this very number
of images. The frames of one half are held against the other half, which they were not made of. If their
median distance exceeds a quantile of the halves' own, they are not distributed like real images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from explainer.checks.base import Check, Thresholds
from explainer.errors import OptionError
from explainer.metrics import Interval, frechet_distance

__all__ = ["Realism", "kernel_distance", "realism"]

FEWEST = 20
MOST = 400
SPLITS = 40
FARTHEST = 3.0
REAL, DELIVERED, BARE = "real images", "frames, detail 1", "frames, detail 0"


@dataclass(frozen=True)
class Realism:
    """Distances of sets from real images, in the features of a local network.

    Attributes:
        frechet: Squared Frechet distance by the name of the set, the median over the halvings.
        kernel: Squared kernel distance by the name of the set, with its interval, of the first halving.
        halvings: One row per halving and set: ``set``, ``frechet``, ``kernel``.
        images: Number of images in every set; the Frechet distance depends on it.
        features: What the features are of.
    """

    frechet: dict[str, float]
    kernel: dict[str, Interval]
    halvings: pd.DataFrame
    images: int
    features: str = "given network"

    def check(self, thresholds: Thresholds) -> Check:
        """Are the delivered frames as far from real images as real images are?"""
        medians = self.halvings.groupby("set", sort=False)["kernel"].median()
        own = self.halvings.loc[self.halvings["set"] == REAL, "kernel"]
        usual = float(own.quantile(thresholds.realism))
        values: dict[str, float | str] = {
            "features": self.features, "images": float(self.images), "distance of real halves": usual,
            **{f"kernel, {name}": float(medians[name]) for name in (REAL, DELIVERED, BARE)},
            **{f"Frechet, {name}": self.frechet[name] for name in (REAL, DELIVERED, BARE)},
        }  # fmt: skip
        far = not medians[DELIVERED] <= usual
        said = (
            f"In the features of the {self.features}, {self.images} frames have a squared kernel distance of "
            f"{medians[DELIVERED]:.3g} (bare {medians[BARE]:.3g}) from as many real images, halves of the "
            f"real images up to {usual:.3g} from each other ({thresholds.realism:.0%} of halvings)"
        )
        if far:
            said += ": as a set the frames are not distributed like real images"
        return Check("realism", "limit" if far else "pass", f"{said}.", values)


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
    name: str = "given network",
    splits: int = SPLITS,
    seed: int = 0,
) -> Realism:
    """Distance of frames from real images they were not made of.

    The images are halved at random. One half is the reference; the frames of the other half are held against
    it, so that no frame meets its own original, and that half itself is the yardstick.

    Args:
        images: Originals ``(N, C, H, W)``, at least 40; of more than 400 some are drawn.
        frames: One frame of each, delivered, in the same order.
        bare_frames: The same without carried detail.
        features: From images to features ``(N, F)``, for example ``network.features`` of a local classifier.
        name: What the features are of.
        splits: How often the images are halved.
        seed: Of the halves.

    Raises:
        OptionError: Fewer images, sets of other lengths, or no halving.
    """
    if not len(images) == len(frames) == len(bare_frames) or len(images) < 2 * FEWEST:
        raise OptionError(
            "images", f"must be at least {2 * FEWEST}, with one frame and one bare frame each",
            received=f"{len(images)}, {len(frames)} and {len(bare_frames)}",
            remedy="Pass more images.",
        )  # fmt: skip
    if splits < 1:
        raise OptionError("splits", "must be at least 1", received=splits, remedy="40 tell a 95 % quantile.")
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(images), generator=random)[:MOST]
    sets = {
        kind: _features(features, some[drawn])
        for kind, some in ((REAL, images), (DELIVERED, frames), (BARE, bare_frames))
    }
    # Each feature in its own deviations over the real images; one that hardly varies must not decide.
    centre, scale = sets[REAL].mean(axis=0), sets[REAL].std(axis=0).clip(1e-6)
    sets = {kind: ((each - centre) / scale).clip(-FARTHEST, FARTHEST) for kind, each in sets.items()}
    real, size = sets[REAL], len(drawn) // 2
    rows, intervals = [], dict[str, Interval]()
    for number in range(splits):
        order = torch.randperm(len(drawn), generator=random).numpy()
        base, other = real[order[:size]], order[size : 2 * size]
        for kind, values in sets.items():
            distance = kernel_distance(values[other], base)
            intervals.setdefault(kind, distance)
            rows.append(
                {
                    "halving": number,
                    "set": kind,
                    "frechet": frechet_distance(values[other], base),
                    "kernel": distance.estimate,
                }
            )
    halvings = pd.DataFrame(rows)
    medians = halvings.groupby("set", sort=False)["frechet"].median()
    frechet = {kind: float(medians[kind]) for kind in sets}
    return Realism(frechet, intervals, halvings, size, name)


@torch.no_grad()
def _features(features: Callable[[Tensor], Tensor], images: Tensor) -> np.ndarray:
    return torch.cat([features(part).detach().double().cpu() for part in images.split(256)]).numpy()


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3
