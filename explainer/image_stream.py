"""Images one by one from whatever holds them, so that a million need no more memory than one.

An image that cannot be read is an error only when it is asked for, and then only its own.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from explainer.errors import ImageError
from explainer.image import as_image, list_images, list_table
from explainer.image_files import layout_of
from explainer.image_sets import open_image_set
from explainer.storage import sha256

__all__ = ["UNREADABLE", "Item", "count", "digest", "stream"]


UNREADABLE = (OSError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError)
"""What a user's own data set or classifier may raise over one image. A fault of ours is not among them."""


@dataclass(frozen=True)
class Item:
    """One image that was not read yet.

    Attributes:
        index: Its place among all of them.
        name: Its path, or ``images[index]``.
        load: Gives the image ``(C, H, W)`` in [0, 1]; raises ImageError, or what the data set raises.
    """

    index: int
    name: str
    load: Callable[[], Tensor]

    def digest(self) -> str:
        """What tells this image from another: :func:`digest` of its pixels, or why it cannot be read."""
        try:
            return digest(self.load())
        except UNREADABLE as error:
            return digest(error)


def digest(image: Tensor | Exception) -> str:
    """SHA-256 of the shape and pixels of an image, or the sentence of the error it raised."""
    if isinstance(image, Exception):
        return f"unreadable: {image}"
    return sha256(str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes())


def stream(source: object) -> Iterator[Item]:
    """The images of a source, in its order.

    Args:
        source: Batch ``(N, C, H, W)`` as a tensor or array (also (N, H, W, C) or (N, H, W) for arrays);
            folder of image files, .zip of them, .npz, or .csv with a column of paths; DataFrame with such a
            column; a data set with ``__len__`` and ``__getitem__`` (of pairs, the first is the image); any
            other iterable of what :func:`as_image` takes, which is gone through once.

    Raises:
        ImageError: Something else, or nothing in it.
        OptionError: A table without a column of paths.
    """
    items = _items(source)
    first = next(items, None)
    if first is None:
        raise ImageError(
            "images", "is empty", received=type(source).__name__, remedy="Pass at least one image."
        )
    return chain([first], items)


def count(source: object) -> int | None:
    """How many images there are, if that can be told without reading them.

    >>> count([1, 2, 3]), count(iter([1, 2, 3])) is None
    (3, True)
    """
    if isinstance(source, str | os.PathLike):
        path = Path(os.path.expanduser(source))
        if path.is_dir():
            return len(list_images(path))
        return len(list_table(path)) if path.suffix.lower() == ".csv" and path.is_file() else None
    return len(source) if hasattr(source, "__len__") else None


def _items(source: Any) -> Iterator[Item]:
    if isinstance(source, Tensor) or (isinstance(source, np.ndarray) and source.dtype.kind not in "OSU"):
        return _of_batch(source)
    if isinstance(source, pd.DataFrame):
        paths = list_table(source)
        return (Item(index, str(path), _reader(path)) for index, path in enumerate(paths))
    if isinstance(source, str | os.PathLike):
        opened = open_image_set(source)
        names, load = opened.names, opened.load
        return (Item(index, name, _numbered(load, index)) for index, name in enumerate(names))
    if isinstance(source, bytes | Mapping | AbstractSet | Image.Image) or _is_loader(source):
        raise _no_source(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, list | tuple):
        return (
            Item(index, _name(None, index), _numbered(lambda i: as_image(_first(source[i])), index))
            for index in range(len(source))
        )
    if not isinstance(source, Iterable):
        raise _no_source(source)
    return (Item(index, _name(each, index), _reader(each)) for index, each in enumerate(source))


def _of_batch(source: Tensor | np.ndarray) -> Iterator[Item]:
    if isinstance(source, np.ndarray) and source.ndim == 3:
        source = source[:, None]
    if source.ndim != 4:
        raise ImageError(
            "images", "must have four axes: batch, channels, height, width",
            received=f"{source.ndim} axes, shape {tuple(source.shape)}",
            remedy="Pass images[None] for one image.",
        )  # fmt: skip
    layout = layout_of(tuple(source.shape[1:]), None, "images", tensor=isinstance(source, Tensor))
    return (
        Item(index, _name(None, index), _numbered(lambda i: as_image(source[i], layout=layout), index))
        for index in range(len(source))
    )


def _numbered(load: Callable[[int], Tensor], index: int) -> Callable[[], Tensor]:
    return lambda: load(index)


def _reader(source: object) -> Callable[[], Tensor]:
    return lambda: as_image(_first(source))


def _first(entry: Any) -> Any:
    """The image of an entry of a data set, which may come with its label."""
    return entry[0] if isinstance(entry, tuple) and entry else entry


def _name(entry: object, index: int) -> str:
    return str(entry) if isinstance(entry, str | os.PathLike) else f"images[{index}]"


def _is_loader(source: object) -> bool:
    """Whether it is a torch DataLoader, which gives batches."""
    return hasattr(source, "dataset") and hasattr(source, "batch_size")


def _no_source(source: object) -> ImageError:
    remedy = "Pass its dataset." if _is_loader(source) else "Pass a list; for one image, [image] or explain."
    return ImageError(
        "images", "must be an array, a data set, a list, a folder or a table of images",
        received=type(source).__name__, remedy=remedy,
    )  # fmt: skip
