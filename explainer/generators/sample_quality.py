r"""How much samples of a generator are like images it has not seen.

The squared Frechet distance of Gaussians fitted to *local features* of as many samples as images, beside
two distances that say what it means: of ``bare`` reconstructions of other images, which are as blurred as
samples but have the codes of images (what a perfect prior would reach), and of other images themselves, the
floor that a perfect generator would reach. The features need no downloaded network, so this is not FID: an
8 x 8 thumbnail, and the mean absolute value of the two finest Laplacian bands in every cell of a 4 x 4 grid,
which blur takes away; each standardised on the images and cut at 3 standard deviations, then their at most 32
leading principal components. A distance is in squared standard deviations, compares only with others of the
same images, and grows as their number falls; hence the floor.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from explainer.generators.base import Generator
from explainer.generators.objectives import laplacian_pyramid
from explainer.metrics import Interval, frechet_distance

__all__ = ["SampleQuality", "local_features", "sample_quality"]

FEWEST = 40
MOST_DIMENSIONS = 32
FARTHEST = 3.0  # standard deviations: a band that is empty but for a few images would decide everything
RESAMPLES = 60


@dataclass(frozen=True)
class SampleQuality:
    """Samples beside images.

    Attributes:
        distance: Of samples from half of the images, squared standard deviations.
        bare: Of ``bare`` of the other half of the images.
        floor: Of the other half of the images.
        count: Samples, and images in each half.
        dimensions: Of the features.
    """

    distance: Interval
    bare: Interval
    floor: Interval
    count: int
    dimensions: int


def local_features(images: Tensor) -> Tensor:
    """Layout and sharpness ``(N, 96 C)`` of images ``(N, C, H, W)``: thumbnails, and energies of fine bands.

    >>> blank = torch.full((1, 1, 16, 16), 0.5)
    >>> local_features(blank)[0, [0, 63, 64, 95]]  # the thumbnail, then two bands that are empty
    tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """
    first, second, _ = laplacian_pyramid(images, 3)
    energies = [functional.adaptive_avg_pool2d(band.abs(), 4).flatten(1) for band in (first, second)]
    return torch.cat([functional.adaptive_avg_pool2d(images, 8).flatten(1), *energies], dim=1)


@torch.no_grad()
def sample_quality(
    generator: Generator, images: Tensor, *, seed: int = 0, batch_size: int = 128
) -> SampleQuality | None:
    """Compare samples with images ``(N, C, H, W)`` in [0, 1]; None for fewer than 40 images.

    The intervals are normal ones, with the standard deviation over resampled images and samples: resampled
    values themselves are biased upwards, as a Frechet distance is for images that come twice.
    """
    count = len(images) // 2
    if len(images) < FEWEST:
        return None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    samples = generator.sample(count, seed=seed)
    rebuilt = torch.cat([generator.bare(part) for part in images[order[:count]].split(batch_size)])

    def features(batches: Tensor) -> Tensor:
        parts = [local_features(generator.normalise(part)) for part in batches.split(batch_size)]
        return torch.cat(parts).double().cpu()

    known, drawn, bare = features(images), features(samples), features(rebuilt)
    centre, scale = known.mean(dim=0), known.std(dim=0).clamp_min(1e-6)
    known, drawn, bare = (
        ((each - centre) / scale).clamp(-FARTHEST, FARTHEST) for each in (known, drawn, bare)
    )
    if not torch.isfinite(torch.cat([drawn, bare])).all():
        undefined = Interval(float("nan"), float("nan"), float("nan"), 0.95)
        return SampleQuality(undefined, undefined, undefined, count, 0)
    dimensions = min(MOST_DIMENSIONS, count // 8, known.shape[1])
    axes = torch.linalg.svd(known, full_matrices=False).Vh[:dimensions].T
    halves = (known @ axes)[order].numpy()
    first, second = halves[:count], halves[count : 2 * count]
    return SampleQuality(
        _with_interval((drawn @ axes).numpy(), second, seed),
        _with_interval((bare @ axes).numpy(), second, seed),
        _with_interval(first, second, seed),
        count,
        dimensions,
    )


def _with_interval(features: NDArray, reference: NDArray, seed: int) -> Interval:
    stream = np.random.default_rng(seed)
    estimate = frechet_distance(features, reference)
    values = [
        frechet_distance(
            features[stream.integers(len(features), size=len(features))],
            reference[stream.integers(len(reference), size=len(reference))],
        )
        for _ in range(RESAMPLES)
    ]
    margin = 1.96 * float(np.std(values, ddof=1))
    return Interval(estimate, max(0.0, estimate - margin), estimate + margin, 0.95)
