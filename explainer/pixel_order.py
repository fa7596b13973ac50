"""In which order pixels are replaced: from maps to places, ties broken at random, and orders to compare with.

A unit is a pixel with all its channels, or a superpixel (SLIC, Achanta et al. 2012). The order of an image
is a map of places ``(H, W)``: place 0 is replaced first, place ``units - 1`` last, so the mask at a fraction
f is ``places < round(f * units)``; the reversed order is ``units - 1 - places``.

The controls have what a good map has, without knowing the model: *edges* (Sobel) the structure of the image,
*another image's map* the smoothness and the usual place, *the same spectrum* exactly the bandwidth of the
map at random phases (blur alone is rewarded, and difference maps of a VAE are blurry), and *random* none of
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import sobel
from skimage.segmentation import slic
from torch import Tensor

from explainer.errors import OptionError

__all__ = [
    "Units", "another_image", "edges", "pixels", "require_relevance", "same_spectrum", "superpixels",
]  # fmt: skip


@dataclass(frozen=True)
class Units:
    """What is replaced at a time.

    Attributes:
        segments: ``(N, H, W)``: the unit each pixel belongs to, or None if every pixel is its own.
        counts: Units of each image ``(N,)``.
        size: (height, width).
    """

    segments: NDArray[np.int64] | None
    counts: NDArray[np.int64]
    size: tuple[int, int]

    def places(self, relevance: NDArray, rows: range, seed: int) -> Tensor:
        """Place of every pixel of some images, highest relevance first.

        Args:
            relevance: ``(len(rows), H, W)``; of a superpixel the mean counts.
            rows: Which images these are.
            seed: Of the random order of ties; every image has its own stream.

        Returns:
            ``(len(rows), H, W)`` int32.
        """
        height, width = self.size
        places = np.empty((len(rows), height * width), dtype=np.int32)
        for place, (row, values) in enumerate(zip(rows, relevance.reshape(len(rows), -1), strict=True)):
            count = int(self.counts[row])
            stream = np.random.default_rng([seed, row])
            if self.segments is None:
                places[place] = _ranks(values, stream)
            else:
                members = self.segments[row].ravel()
                sums = np.bincount(members, weights=values, minlength=count)
                means = sums / np.bincount(members, minlength=count)
                places[place] = _ranks(means, stream)[members]
        return torch.from_numpy(places).view(-1, height, width)


def pixels(images: Tensor) -> Units:
    """Every pixel on its own."""
    height, width = images.shape[-2:]
    return Units(None, np.full(len(images), height * width), (height, width))


def superpixels(images: Tensor, count: int = 64) -> Units:
    """About ``count`` compact segments of similar colour per image.

    Raises:
        OptionError: Fewer than two.
    """
    if count < 2:
        raise OptionError(
            "superpixels", "must be at least 2", received=count, remedy="64 suits 64 x 64 pixels."
        )
    low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
    scaled = (images - low.view(1, -1, 1, 1)) / (high - low).clamp_min(1e-12).view(1, -1, 1, 1)
    segments = np.stack(
        [
            slic(
                image[0] if len(image) == 1 else image,
                n_segments=count,
                channel_axis=None if len(image) == 1 else 0,
                convert2lab=len(image) == 3,
                compactness=0.1 if len(image) != 3 else 10.0,
                sigma=1,
                start_label=0,
            )
            for image in scaled.double().cpu().numpy()
        ]
    )
    return Units(
        segments, segments.reshape(len(images), -1).max(axis=1) + 1, (images.shape[-2], images.shape[-1])
    )


def edges(images: Tensor) -> NDArray[np.float64]:
    """Sobel's gradient magnitude of each channel over its standard deviation, added up, ``(N, H, W)``."""
    spread = images.double().std(dim=(0, 2, 3)).clamp_min(1e-12).view(1, -1, 1, 1)
    scaled = (images.double() / spread).cpu().numpy()
    return np.stack([sum(sobel(channel) for channel in image) for image in scaled])


def another_image(relevance: NDArray, seed: int) -> NDArray:
    """Each image gets the map of another one: a random cycle through all of them.

    Raises:
        OptionError: One image only.
    """
    if len(relevance) < 2:
        raise OptionError(
            "images", "must be several to swap their maps", received=1, remedy="Pass more images."
        )
    cycle = np.random.default_rng(seed).permutation(len(relevance))
    swapped = np.empty_like(relevance)
    swapped[cycle] = relevance[np.roll(cycle, 1)]
    return swapped


def same_spectrum(relevance: NDArray, seed: int) -> NDArray[np.float64]:
    """Maps with the power spectrum of the given ones and random phases: as blurry, but about nothing."""
    surrogates = np.empty(relevance.shape)
    for row, values in enumerate(relevance):
        noise = np.random.default_rng([seed, row]).standard_normal(values.shape)
        # The phases of real noise have the symmetry that keeps the result real.
        phases = np.exp(1j * np.angle(np.fft.fft2(noise)))
        surrogates[row] = np.fft.ifft2(np.abs(np.fft.fft2(values)) * phases).real
    return surrogates


def require_relevance(name: str, maps: object, shape: Sequence[int]) -> NDArray[np.float64]:
    """Maps ``(N, H, W)`` or ``(N, C, H, W)`` as float64 ``(N, H, W)``, channels added up.

    Raises:
        OptionError: Another shape, or values that are not finite.
    """
    count, _, height, width = shape
    values = torch.as_tensor(maps).detach().cpu().double().numpy()
    if values.ndim == 4:
        values = values.sum(axis=1)
    if values.shape != (count, height, width):
        raise OptionError(
            "saliencies", f"{name} must have one map for each image, with or without channels",
            received=tuple(values.shape), remedy=f"Its shape must be {(count, height, width)}.",
        )  # fmt: skip
    if not np.isfinite(values).all():
        raise OptionError(
            "saliencies", f"{name} holds values that are not finite",
            received=f"{int((~np.isfinite(values)).sum())} of {values.size}",
            remedy="Leave that image out, or look at the method.",
        )  # fmt: skip
    return values


def _ranks(values: NDArray, stream: np.random.Generator) -> NDArray[np.int32]:
    """Place of each value, highest first; equal values in random order."""
    order = np.argsort(-values)
    ranked = values[order]
    if (ranked[1:] == ranked[:-1]).any():
        shuffled = stream.permutation(len(values))
        order = shuffled[np.argsort(-values[shuffled], kind="stable")]
    places = np.empty(len(values), dtype=np.int32)
    places[order] = np.arange(len(values), dtype=np.int32)
    return places
