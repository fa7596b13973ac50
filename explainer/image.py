"""Turns a path, a PIL image, an array or a tensor into an image, and folders and tables into batches.

An image is a float32 tensor (channels, height, width) in [0, 1]. The scale never depends on the image
itself: with `low` and `high` the ends of the scale, one pair for all channels or one pair for each,

    image[c] = (pixels[c] - low[c]) / (high[c] - low[c]),

where (low, high) is (0, 255) for uint8, (0, 65535) for uint16 and (0, 1) for booleans and floats; every
other scale is said with `range=(low, high)`. A value outside the scale is an error, never clipped.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from explainer.errors import ImageError, OptionError
from explainer.image_files import BE_EXPLICIT, Layout, channels_first, from_file, from_pil, layout_of

__all__ = [
    "SUFFIXES",
    "Layout",
    "Range",
    "as_image",
    "as_images",
    "list_images",
    "list_table",
    "natural_order",
    "resize",
    "to_uint8",
]

Range: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | np.ndarray

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm")
TOLERANCE = 1e-6  # overshoot of a float image that is rounding, not another scale


def as_image(source: object, *, range: Range | None = None, layout: Layout | None = None) -> Tensor:
    """Image from a file, a PIL image, an array or a tensor.

    8 and 16 bit PNG, JPEG and TIFF files, and DICOM (the extra ``dicom``; its scale: see
    :mod:`explainer.dicom_files`), are read at their full depth; EXIF and TIFF orientation are honoured,
    palettes become RGB, an opaque alpha channel is dropped. The axis of a TIFF stack is its channels. (Pillow
    itself keeps 8 bits of a 16 bit colour PNG: pass the path, not the opened image.)

    Args:
        source: Path; PIL image; array (height, width), (height, width, channels) or (channels, height,
            width); tensor (height, width) or (channels, height, width), detached and brought to the CPU.
        range: Ends of the scale (low, high): two numbers, or a list of one pair per channel, or
            (lows, highs). Default: the dtype's maximum for uint8 and uint16, [0, 1] for floats.
        layout: "CHW" or "HWC" for arrays, tensors and unlabelled TIFF stacks. Default: CHW for tensors;
            for arrays the axis with at most 15 entries, an error if that is both or neither.

    Returns:
        image (channels, height, width) in [0, 1], float32, in memory of its own.

    Raises:
        ImageError: A file that cannot be read, or pixels whose layout, type or scale is not clear.
        OptionError: A `range` or `layout` that cannot be applied.

    >>> import numpy as np
    >>> pixels = np.full((24, 32, 3), 51, dtype=np.uint8)
    >>> image = as_image(pixels)
    >>> tuple(image.shape), round(image.max().item(), 3)
    ((3, 24, 32), 0.2)
    >>> round(as_image(pixels, range=(1, 101)).max().item(), 3)
    0.5
    >>> as_image(pixels / 1.0)
    Traceback (most recent call last):
    ...
    explainer.errors.ImageError: image: holds values outside [0, 1] (received float64 from 51 to 51). \
Pass range=(0, 255) to as_image or as_images if that is the scale of the pixels.
    """
    _check_layout(layout)
    return _image(source, range, layout, "image")


def as_images(
    source: object,
    *,
    range: Range | None = None,
    layout: Layout | None = None,
    paths: str | None = None,
) -> Tensor:
    """Batch of images of one shape from an array, a list, a folder or a table.

    Args:
        source: Array or tensor with four axes; list of anything :func:`as_image` takes; folder of image
            files, read in the order of :func:`list_images`; DataFrame or CSV file with a column of paths
            (relative to the CSV file's folder; for a DataFrame, to the current one).
        range: As in :func:`as_image`.
        layout: As in :func:`as_image`; the axes after the first.
        paths: Name of the table's column of paths. Default: "path" or "file".

    Returns:
        images (batch, channels, height, width) in [0, 1], float32, in memory of their own.

    Raises:
        ImageError: Nothing to read, an image that :func:`as_image` refuses, or one whose shape differs
            from the first; the text names the first such image.
        OptionError: A `range`, `layout` or `paths` that cannot be applied.

    >>> import numpy as np
    >>> tuple(as_images([np.zeros((24, 32)), np.ones((24, 32))]).shape)
    (2, 1, 24, 32)
    """
    _check_layout(layout)
    items: Iterable[object]
    if isinstance(source, Tensor) or (isinstance(source, np.ndarray) and source.dtype.kind not in "OSU"):
        if paths is not None:
            raise _paths_without_table(source)
        items = batch = _batch_axes(source, layout)
        layout = "CHW"
        names = [f"images[{index}]" for index, _ in enumerate(batch)]
    else:
        items = listed = _listed(source, paths)
        names = [
            str(item) if isinstance(item, str | os.PathLike) else f"images[{index}]"
            for index, item in enumerate(listed)
        ]
    images: Tensor | None = None
    for index, (item, name) in enumerate(zip(items, names, strict=True)):
        image = _image(item, range, layout, name)
        if images is None:
            images = image.new_empty(len(names), *image.shape)
        elif image.shape != images.shape[1:]:
            raise ImageError(
                name,
                f"differs in shape from the first image, {names[0]}, which is {tuple(images.shape[1:])}",
                received=f"{tuple(image.shape)} at position {index}",
                remedy="Bring all images to one number of channels and one size, with resize for example.",
            )
        images[index] = image
    if images is None:
        raise ImageError(
            "images", "is empty", received=type(source).__name__, remedy="Pass at least one image."
        )
    return images


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Image files directly in a folder, in natural order (`a2.png` before `a10.png`).

    Files are taken by their suffix: .png .jpg .jpeg .tif .tiff .bmp .webp, in either case. Hidden files
    are left out; folders inside are not entered.

    Args:
        folder: Path of the folder.

    Returns:
        Paths that start with `folder`, at least one.

    Raises:
        ImageError: The folder is missing, is not a folder or holds no image files.
    """
    folder = _expanded(folder)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise ImageError("folder", problem, received=folder, remedy="Pass a folder of image files.")
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise ImageError(
            "folder",
            "holds no image files",
            received=folder,
            remedy=f"Put {', '.join(SUFFIXES)} files directly in it, or pass a list of paths.",
        )
    return sorted(found, key=lambda path: (natural_order(path.stem), path.name))


def list_table(table: str | os.PathLike[str] | pd.DataFrame, *, paths: str | None = None) -> list[Path]:
    """Paths in a table; relative ones are taken from the folder of a CSV file, else from the current one.

    Args:
        table: CSV file or DataFrame.
        paths: Name of the column of paths. Default: "path" or "file".

    Raises:
        ImageError: A file that cannot be read as a table, or an empty cell.
        OptionError: No such column.
    """
    if isinstance(table, pd.DataFrame):
        return _column(table, paths, Path())
    path = _expanded(table)
    return _column(_table(path), paths, path.parent)


def to_uint8(image: Tensor | np.ndarray) -> np.ndarray:
    """Pixels of an image, rounded to 8 bits (halves to even), as Pillow and imageio take them.

    Args:
        image: image (channels, height, width) in [0, 1].

    Returns:
        uint8 pixels (height, width) for one channel, else (height, width, channels), in [0, 255].

    Raises:
        ImageError: Not an image in [0, 1].

    >>> to_uint8(torch.tensor([[[0.0, 0.5], [0.25, 1.0]]])).tolist()
    [[0, 128], [64, 255]]
    """
    pixels = np.rint(255.0 * _image(image, None, "CHW", "image").double().numpy()).astype(np.uint8)
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def resize(images: Tensor, size: int | Sequence[int]) -> Tensor:
    """Images at another size: bilinear, and antialiased along an axis that shrinks.

    Linear in the images, hence differentiable and fit for differences of images too; a constant stays
    that constant to rounding error. The same size gives back the same values exactly.

    Args:
        images: images (batch, channels, height, width), any range, any floating type and device.
        size: (height, width) in pixels, or one number for both.

    Returns:
        images (batch, channels, *size), same type and device, in memory of their own.

    Raises:
        ImageError: Not a batch of floating-point images.
        OptionError: A size that is not one or two positive whole numbers.

    >>> resize(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]), (1, 4)).tolist()
    [[[[0.0, 0.25, 0.75, 1.0]]]]
    """
    tensor = isinstance(images, Tensor)
    if not (tensor and images.ndim == 4 and images.is_floating_point() and images.numel()):
        raise ImageError(
            "images",
            "must be floating-point images (batch, channels, height, width)",
            received=f"{images.dtype} {tuple(images.shape)}" if tensor else type(images).__name__,
            remedy="Pass the result of as_images, or as_image(...)[None] for one image.",
        )
    height, width = _size(size)
    if (height, width) == tuple(images.shape[2:]):
        return images.clone(memory_format=torch.contiguous_format)
    shrinks = height < images.shape[2] or width < images.shape[3]
    # Contiguous: the channels_last kernels of torch 2.13 are not safe on the CPU.
    return F.interpolate(
        images.contiguous(), size=(height, width), mode="bilinear", align_corners=False, antialias=shrinks
    )


def _image(source: object, range: Range | None, layout: Layout | None, name: str) -> Tensor:
    """The image of any one source; `name` is what errors call it."""
    if isinstance(source, str | os.PathLike):
        pixels = from_file(_expanded(source), layout)
        name = str(source) if name == "image" else name
    elif isinstance(source, Image.Image):
        pixels = from_pil(source, name)
    elif isinstance(source, Tensor | np.ndarray):
        pixels = channels_first(_array(source, name), layout, name, tensor=isinstance(source, Tensor))
    else:
        raise ImageError(
            name,
            "must be a path, a PIL image, an array or a tensor",
            received=type(source).__name__,
            remedy="Convert it with numpy.asarray first.",
        )
    return _scaled(pixels, range, name)


# Scale


def _scaled(pixels: np.ndarray, range: Range | None, name: str) -> Tensor:
    """Pixels (channels, height, width) of any real type as an image in [0, 1], always a copy."""
    kind, width = pixels.dtype.kind, pixels.dtype.itemsize
    received = f"{pixels.dtype} {pixels.shape}"
    if kind not in "biuf":
        raise ImageError(
            name, "must hold real numbers", received=received, remedy="Convert the pixels to floats."
        )
    if pixels.size == 0:
        raise ImageError(name, "is empty", received=received, remedy="Pass an image with pixels.")
    if min(pixels.shape[1:]) < 2:
        raise ImageError(
            name,
            "must be at least 2 x 2 pixels",
            received=f"{received} as (channels, height, width)",
            remedy="Pass a larger image, or say where the channels are: " + BE_EXPLICIT,
        )
    if kind == "f" and not (finite := np.isfinite(pixels)).all():
        raise ImageError(
            name,
            "holds NaN or infinite values",
            received=f"{finite.size - finite.sum()} of {finite.size} values",
            remedy="Replace them first, with numpy.nan_to_num for example.",
        )
    scaled: np.ndarray
    if range is not None:
        low, high = _bounds(range, len(pixels))
        with np.errstate(over="ignore"):  # an overflow is outside the range and reported as that
            scaled = (pixels.astype(np.float64) - low) / (high - low)
    elif kind == "b":
        return torch.from_numpy(pixels.astype(np.float32, order="C"))
    elif kind == "u" and width <= 2:
        return torch.from_numpy(pixels.astype(np.float32, order="C") / np.float32(256**width - 1))
    elif kind == "f":
        scaled = pixels
    else:
        raise ImageError(
            name,
            "has whole-number pixels of an unknown scale",
            received=f"{pixels.dtype} from {pixels.min()} to {pixels.max()}",
            remedy="Pass range=(low, high) to as_image or as_images, or convert to uint8 or uint16.",
        )
    if scaled.min() < -TOLERANCE or scaled.max() > 1 + TOLERANCE:
        raise _out_of_scale(pixels, scaled, range, name)
    # order="C" also copies: neither memory nor strides of the source survive.
    return torch.from_numpy(np.array(scaled.clip(0, 1), dtype=np.float32, order="C", copy=True))


def _bounds(range: Range, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the scale, (channels or 1, 1, 1) each."""
    try:
        values = np.asarray(range, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    pairs: list[np.ndarray] = []
    if values.shape == (2,):
        pairs.append(values[None])
    if values.shape == (channels, 2):
        pairs.append(values)
    # A list is read as pairs, so that two channels have one form that cannot be misread.
    if values.shape == (2, channels) and not (channels == 2 and isinstance(range, list)):
        pairs.append(values.T)
    if not pairs:
        raise OptionError(
            "range",
            f"must be (low, high) or a list of one such pair per channel, {channels} here",
            received=repr(range),
            remedy="Pass range=(0, 4095), or range=[(0, 4095), (0, 255)] for two channels.",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        spans = [pair[:, 1] - pair[:, 0] for pair in pairs]
    valid = [pair for pair, span in zip(pairs, spans, strict=True) if ((span > 0) & (span < np.inf)).all()]
    if not valid:
        raise OptionError(
            "range",
            "must have low below high, both finite, for every channel",
            received=repr(range),
            remedy="Give the values that black and white have, such as range=(0, 4095).",
        )
    if len(valid) == 2 and not np.array_equal(valid[0], valid[1]):
        raise OptionError(
            "range",
            "is ambiguous for two channels: two pairs, or the lows and the highs",
            received=repr(range),
            remedy="Pass a list, range=[(low, high), (low, high)]; it is always read as pairs.",
        )
    return valid[0][:, 0, None, None], valid[0][:, 1, None, None]


def _out_of_scale(pixels: np.ndarray, scaled: np.ndarray, range: Range | None, name: str) -> ImageError:
    if range is None:
        lowest, highest = pixels.min(), pixels.max()
        guess = "(low, high)"
        if lowest >= -1 and highest <= 1:
            guess = "(-1, 1)"
        elif lowest >= 0 and highest <= 255:
            guess = "(0, 255)"
        return ImageError(
            name,
            "holds values outside [0, 1]",
            received=f"{pixels.dtype} from {lowest:.7g} to {highest:.7g}",
            remedy=f"Pass range={guess} to as_image or as_images if that is the scale of the pixels.",
        )
    outside = (scaled < -TOLERANCE) | (scaled > 1 + TOLERANCE)
    channel = int(outside.any(axis=(1, 2)).argmax())
    return ImageError(
        name,
        f"holds values outside range={range} in channel {channel}",
        received=f"{pixels[channel].min():.7g} to {pixels[channel].max():.7g}, "
        f"{outside[channel].sum()} of {outside[channel].size} pixels outside",
        remedy="Widen the range, or clip the pixels first with numpy.clip if their excess means nothing.",
    )


# Layout


def _check_layout(layout: Layout | None) -> None:
    if layout not in (None, "CHW", "HWC"):
        raise OptionError("layout", "must be CHW or HWC", received=repr(layout), remedy=BE_EXPLICIT)


def _batch_axes(source: Tensor | np.ndarray, layout: Layout | None) -> np.ndarray:
    """View (batch, channels, height, width) of an array or a tensor with four axes."""
    values = _array(source, "images")
    if values.ndim != 4:
        raise ImageError(
            "images",
            "must have four axes: batch, channels, height, width",
            received=f"{values.ndim} axes, shape {values.shape}",
            remedy="Pass images[:, None] for a batch of grey images, images[None] or as_image for one image.",
        )
    found = layout_of(values.shape[1:], layout, "images", tensor=isinstance(source, Tensor))
    return values.transpose(0, 3, 1, 2) if found == "HWC" else values


def _array(source: Tensor | np.ndarray, name: str) -> np.ndarray:
    """Array that may share memory with the source."""
    if isinstance(source, np.ndarray):
        if isinstance(source, np.ma.MaskedArray) and np.ma.is_masked(source):
            raise ImageError(
                name,
                "has masked pixels",
                received=f"{np.ma.count_masked(source)} of {source.size} masked",
                remedy="Fill them first with image.filled(value).",
            )
        return np.asarray(source)
    tensor = source.detach()
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ImageError(
            name,
            "must be a dense tensor of real numbers",
            received=f"{source.dtype}, {source.layout}, on {source.device}",
            remedy="Convert it with .to_dense() or .float() first.",
        ) from error


# Lists and tables


def _listed(source: object, paths: str | None) -> list[object]:
    """The single images named by a folder, a table or a list."""
    if isinstance(source, pd.DataFrame):
        return list(list_table(source, paths=paths))
    if isinstance(source, str | os.PathLike):
        path = _expanded(source)
        if path.suffix.lower() == ".csv" and path.is_file():
            return list(list_table(path, paths=paths))
        if paths is not None:
            raise _paths_without_table(source)
        if not path.is_dir():
            problem = "is one file; a folder, a CSV file or a list is wanted"
            raise ImageError(
                "images",
                problem if path.exists() else "does not exist",
                received=path,
                remedy="Pass a folder or a CSV file; for one image [path], or the path to as_image.",
            )
        return list(list_images(path))
    if paths is not None:
        raise _paths_without_table(source)
    # A set has no order and a mapping's keys are not images; a PIL image is one image.
    if not isinstance(source, Iterable) or isinstance(source, bytes | Mapping | AbstractSet | Image.Image):
        raise ImageError(
            "images",
            "must be an array, a list, a folder or a table of images",
            received=type(source).__name__,
            remedy="Pass a list; for one image, [image] or as_image.",
        )
    return list(source)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, skipinitialspace=True)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ImageError(
            str(path),
            "cannot be read as a table",
            received=f"{type(error).__name__}: {error}",
            remedy="Pass a comma-separated UTF-8 file with a header line and a column named path.",
        ) from error


def _column(table: pd.DataFrame, paths: str | None, folder: Path) -> list[Path]:
    """Paths in a table's column, relative ones taken from the folder."""
    named = [name for name in ("path", "file") if name in table.columns] if paths is None else [paths]
    if len(named) != 1 or named[0] not in table.columns:
        wanted = "one column named path or file" if paths is None else f"the column {paths}"
        raise OptionError(
            "paths",
            f"the table must have {wanted}",
            received=f"columns {', '.join(map(str, table.columns))}",
            remedy='Name the column that holds the paths, such as paths="filename".',
        )
    cells = list(table[named[0]])
    for row, cell in enumerate(cells):
        if not isinstance(cell, str | os.PathLike) or not str(cell).strip():
            raise ImageError(
                f"images[{row}]",
                f"has no path in the column {named[0]}",
                received=repr(cell),
                remedy="Fill in the path, or drop the row.",
            )
    return [folder / _expanded(cell) for cell in cells]


def _expanded(path: str | os.PathLike[str]) -> Path:
    """Path with ~ expanded where it names a home folder, else as it is."""
    return Path(os.path.expanduser(path))


def _paths_without_table(source: object) -> OptionError:
    return OptionError(
        "paths",
        "names a column, but the images are not a DataFrame or a CSV file",
        received=type(source).__name__,
        remedy="Leave paths out, or pass a table.",
    )


def natural_order(name: str) -> list[str | int]:
    """Sort key in which runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, Sequence | torch.Size) else (size, size)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in pair)
    if len(pair) != 2 or not whole:
        raise OptionError(
            "size",
            "must be one or two positive whole numbers",
            received=repr(size),
            remedy="Pass (height, width) in pixels, such as (64, 64).",
        )
    return int(pair[0]), int(pair[1])
