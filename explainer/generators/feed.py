"""Training images, held as they are stored or read when they are needed, never as one large float array.

A tensor or array is used where it lies. A folder, archive or table is read once into 8 or 16 bits if that
takes at most two gigabytes, and batch by batch from the disk if it does not. A ``Dataset`` is asked anew for
every batch, so that its own augmentations count.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from explainer.errors import ImageError, TrainingError
from explainer.image import as_image
from explainer.image_sets import ImageSet, open_image_set
from explainer.storage import sha256

__all__ = ["Feed", "ImageSource", "feed", "of_set"]

LARGEST_HELD = 2 * 2**30  # bytes


class Feed:
    """Images by number, in the integers or floats they are stored as.

    Args:
        read: From numbers ``(n,)`` to images ``(n, C, H, W)``: floats in [0, 1], uint8 or uint16.
        rows: The numbers of the images, in their order ``(N,)``.
        repeatable: Whether reading a number twice gives the same image.
        name: What they are, for the fingerprint of images that are not repeatable.
    """

    def __init__(
        self, read: Callable[[Tensor], Tensor], rows: Tensor, *, repeatable: bool = True, name: str = ""
    ) -> None:
        self.read, self.rows, self.repeatable, self.name = read, rows, repeatable, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Some of the images, read now."""
        return self.read(self.rows[rows])

    def part(self, rows: Tensor | slice) -> "Feed":
        """Some of the images, read when needed."""
        return Feed(self.read, self.rows[rows], repeatable=self.repeatable, name=self.name)

    def split(self, size: int) -> Iterator[Tensor]:
        """All images, in batches that are read one by one."""
        return (self.read(rows) for rows in self.rows.split(size))

    def digest(self) -> str:
        """A fingerprint: the number of images, their type and a hundred of them."""
        if not self.repeatable:
            return f"{len(self)} of {self.name}"
        some = self[:: max(1, len(self) // 100)].contiguous()
        return f"{len(self)} {some.dtype} {sha256(some.view(torch.uint8).numpy().tobytes())}"


ImageSource: TypeAlias = Tensor | np.ndarray | str | os.PathLike[str] | pd.DataFrame | Dataset[Any] | Feed


def feed(source: ImageSource, argument: str, shape: tuple[int, int, int], fewest: int) -> Feed:
    """Images of one shape, if there are enough of them in a type and range that is clear.

    Args:
        source: Tensor or array ``(N, C, H, W)``; folder, .zip, .npz or .csv (see
            :func:`explainer.image_sets.read_image_set`) or DataFrame of paths, whose images are cut to their
            central part and resized; ``Feed``, whose images are of the shape; ``Dataset`` with a length,
            whose items are images as :func:`explainer.as_image` takes them, or pairs or mappings ("image")
            that begin with one.
        argument: What to call them in an error.
        shape: ``(C, H, W)``.
        fewest: Number of images needed.

    Raises:
        TrainingError: Too few images, of another shape, type or range.
        ImageError: An image that cannot be read.
    """
    if isinstance(source, Feed):
        _require(len(source) >= fewest, (len(source), *source[:1].shape[1:]), argument, shape, fewest)
        return source
    if isinstance(source, str | os.PathLike | pd.DataFrame):
        return of_set(open_image_set(source), argument, shape, fewest, name=str(source))
    if isinstance(source, Tensor | np.ndarray):
        stored = _usable(torch.as_tensor(source), argument, shape, fewest)
        return Feed(lambda rows: stored[rows], torch.arange(len(stored)))
    if not isinstance(source, Sized) or not callable(getattr(source, "__getitem__", None)):
        raise TrainingError(
            argument, "must be images, a folder or table of them, or a Dataset with a length",
            received=type(source).__name__,
            remedy="Give it __len__ and __getitem__: batches are drawn by number.",
        )  # fmt: skip
    items: Any = source
    name = type(source).__name__
    found = ImageSet([f"{argument}[{index}]" for index in range(len(source))], lambda i: _item(items[i]))
    return _streamed(found, argument, shape, fewest, repeatable=False, name=name)


def of_set(
    found: ImageSet, argument: str, shape: tuple[int, int, int], fewest: int, *, name: str = ""
) -> Feed:
    """A set of images, held in 8 or 16 bits if that takes at most two gigabytes, else read batch by batch.

    Raises:
        TrainingError: Too few images, or images of another shape.
        ImageError: An image that cannot be read.
    """
    if len(found) * math.prod(shape) * 2 > LARGEST_HELD:
        return _streamed(found, argument, shape, fewest, repeatable=True, name=name)
    _require(len(found) >= fewest, (len(found),), argument, shape, fewest)
    stored = _usable(found.read(shape[1:]), argument, shape, fewest)
    return Feed(lambda rows: stored[rows], torch.arange(len(stored)))


def _streamed(
    found: ImageSet,
    argument: str,
    shape: tuple[int, int, int],
    fewest: int,
    *,
    repeatable: bool,
    name: str,
) -> Feed:
    _require(len(found) >= fewest, (len(found),), argument, shape, fewest)
    first = found.image(0)
    _require(len(first) == shape[0], (len(found), *first.shape), argument, shape, fewest)

    def read(rows: Tensor) -> Tensor:
        return found.stored(rows.tolist(), shape[1:], shape[0])

    return Feed(read, torch.arange(len(found)), repeatable=repeatable, name=name)


def _item(item: object) -> Tensor:
    """The image in an item of a Dataset."""
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, Mapping):
        if "image" not in item:
            raise ImageError(
                "item", 'is a mapping without "image"', received=", ".join(map(str, item)),
                remedy='Name the image "image", or return it alone.',
            )  # fmt: skip
        item = item["image"]
    return as_image(Path(item) if isinstance(item, str) else item)


def _require(
    met: bool, received: tuple[int, ...], argument: str, shape: tuple[int, int, int], fewest: int
) -> None:
    if not met:
        raise TrainingError(
            argument, f"must be at least {fewest} images of shape {shape}", received=received,
            remedy="Stack them to (N, C, H, W); read folders with explainer.as_images.",
        )  # fmt: skip


def _usable(stored: Tensor, argument: str, shape: tuple[int, int, int], fewest: int) -> Tensor:
    """A tensor of images, if its shape, type and range are clear."""
    right = stored.ndim == 4 and tuple(stored.shape[1:]) == shape and len(stored) >= fewest
    _require(right, tuple(stored.shape), argument, shape, fewest)
    if stored.dtype not in (torch.uint8, torch.uint16) and not stored.is_floating_point():
        raise TrainingError(
            argument, "must be floats in [0, 1], uint8 or uint16", received=stored.dtype,
            remedy="Read them with as_images(..., range=(low, high)).",
        )  # fmt: skip
    if stored.is_floating_point():
        low, high = float(stored.min()), float(stored.max())
        if not (math.isfinite(low) and math.isfinite(high) and low >= -1e-6 and high <= 1 + 1e-6):
            raise TrainingError(
                argument, "must be finite and lie in [0, 1]", received=f"[{low}, {high}]",
                remedy="Rescale them, or read them with as_images(..., range=(low, high)).",
            )  # fmt: skip
    return stored
