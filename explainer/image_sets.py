"""Sets of images on disk, read one by one, brought to one size and kept in 8 or 16 bits.

A set is a folder of image files, a ZIP archive of them, a NumPy archive (.npz) or a table of paths (a .csv
file or a DataFrame).
Images whose proportions are not those asked for are cut to their largest central part, as a generator
does with the image it explains. What was stored in 8 bits stays in 8 bits, all else is kept in 16.
"""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explainer.errors import ExplainerError, ImageError
from explainer.image import SUFFIXES, as_image, list_images, list_table, natural_order, resize
from explainer.image_files import layout_of

__all__ = ["ImageSet", "open_image_set", "read_image_set"]


class ImageSet:
    """Images that are read when they are asked for.

    Args:
        names: One per image, for errors.
        load: Gives the image (channels, height, width) in [0, 1] of a number.
    """

    def __init__(self, names: list[str], load: Callable[[int], Tensor]) -> None:
        self.names, self.load = names, load

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int, *, channels: int | None = None) -> Tensor:
        """The image of a number, as it is, in [0, 1].

        Raises:
            ImageError: It cannot be read, or has another number of channels than asked for.
        """
        try:
            image = self.load(index)
        except ImageError as error:
            problem, received, remedy = error.problem, error.received, error.remedy
            raise ImageError(self.names[index], problem, received=received, remedy=remedy) from error
        if channels is not None and len(image) != channels:
            raise ImageError(
                self.names[index], "has another number of channels than the first image, "
                f"{self.names[0]}, which has {channels}", received=len(image),
                remedy="Bring all images to one number of channels.",
            )  # fmt: skip
        return image

    def stored(self, indices: Sequence[int], size: tuple[int, int], channels: int) -> Tensor:
        """Some of the images at one size, uint16 (len(indices), channels, height, width)."""
        images = np.empty((len(indices), channels, *size), np.uint16)
        for row, index in enumerate(indices):
            images[row] = _in_16_bits(self.image(index, channels=channels), size)
        return torch.from_numpy(images)

    def read(self, size: tuple[int, int]) -> Tensor:
        """All images at one size (N, channels, height, width), uint8 if all came in 8 bits, else uint16.

        Raises:
            ImageError: An image that cannot be read, or images of several numbers of channels.
        """
        stored: np.ndarray = np.empty((0, 0), np.uint16)
        eight_bits = True
        for index in range(len(self)):
            image = self.image(index, channels=stored.shape[1] if index else None)
            if not index:
                stored = np.empty((len(self), len(image), *size), np.uint16)
            levels = 255 * image
            eight_bits = eight_bits and bool(((levels - levels.round()).abs() < 1e-3).all())
            stored[index] = _in_16_bits(image, size)
        return torch.from_numpy(_in_8_bits(stored) if eight_bits else stored)


def open_image_set(source: str | os.PathLike[str] | pd.DataFrame) -> ImageSet:
    """A set of images of which none has been read yet.

    Args:
        source: As for :func:`read_image_set`, or a DataFrame with a column "path" or "file".

    Raises:
        ImageError: Not such a set, or an empty one.
        OptionError: A table without a column of paths.
    """
    opened = _of_paths(list_table(source)) if isinstance(source, pd.DataFrame) else _opened(source)
    if not len(opened):
        raise ImageError("data", "is empty", received=_said(source), remedy="Pass at least one image.")
    return opened


def read_image_set(source: str | os.PathLike[str] | pd.DataFrame, size: tuple[int, int]) -> Tensor:
    """Read a set of images at one size.

    Args:
        source: Folder of image files; .zip with image files, also in folders inside; .npz with an array
            named "images", or with one array of three or four axes only, (N, H, W), (N, H, W, C) or
            (N, C, H, W); .csv, or a DataFrame, with a column "path" or "file".
        size: (height, width) in pixels.

    Returns:
        images (N, C, height, width), uint8 if every image came in 8 bits, else uint16.

    Raises:
        ImageError: Not such a set, an image that cannot be read, or images of several numbers of channels.
        OptionError: A table without a column of paths.
    """
    return open_image_set(source).read(size)


def _in_8_bits(stored: np.ndarray) -> np.ndarray:
    """One image at a time: the quotients of a whole set would take eight bytes each."""
    images = np.empty(stored.shape, np.uint8)
    for row, image in enumerate(stored):
        images[row] = np.rint(image / 257.0)
    return images


def _in_16_bits(image: Tensor, size: tuple[int, int]) -> np.ndarray:
    fitted = _fitted(image, size).clamp(0, 1)
    return (65535 * fitted.double()).round().numpy()


def _said(source: object) -> object:
    return f"a table of {len(source)} rows" if isinstance(source, pd.DataFrame) else source


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    _, height, width = image.shape
    wanted = size[1] / size[0]
    if abs(width / height / wanted - 1) >= 0.02:
        rows, columns = min(height, round(width / wanted)), min(width, round(height * wanted))
        top, left = (height - rows) // 2, (width - columns) // 2
        image = image[:, top : top + rows, left : left + columns]
    return resize(image[None], size)[0]


def _opened(source: str | os.PathLike[str]) -> ImageSet:
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return _of_paths(list_images(path))
    kinds = {".zip": _of_zip, ".npz": _of_npz, ".csv": lambda table: _of_paths(list_table(table))}
    if not path.is_file() or path.suffix.lower() not in kinds:
        raise ImageError(
            "data", "is no set of images" if path.exists() else "does not exist", received=path,
            remedy="Pass a folder of image files, a .zip of them, an .npz or a .csv with a column path.",
        )  # fmt: skip
    try:
        return kinds[path.suffix.lower()](path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, ExplainerError):
            raise
        raise ImageError(
            "data", "cannot be read", received=f"{path}: {error}",
            remedy="Write the file again; arrays of Python objects are refused, because they hold code.",
        ) from error  # fmt: skip


def _of_paths(paths: list[Path]) -> ImageSet:
    return ImageSet([str(path) for path in paths], lambda index: as_image(paths[index]))


def _of_zip(path: Path) -> ImageSet:
    archive = zipfile.ZipFile(path)
    found = [
        info
        for info in archive.infolist()
        if Path(info.filename).suffix.lower() in SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in Path(info.filename).parts)
    ]
    if not found:
        raise ImageError(
            "data", "holds no image files", received=path,
            remedy=f"Put {', '.join(SUFFIXES)} files in the archive.",
        )  # fmt: skip
    found.sort(key=lambda info: natural_order(info.filename))

    def load(index: int) -> Tensor:
        # Through a file: only the path gives the full depth, and never under the archive's own names.
        with tempfile.TemporaryDirectory() as scratch:
            member = Path(scratch) / f"image{Path(found[index].filename).suffix}"
            try:
                member.write_bytes(archive.read(found[index]))
            except (RuntimeError, EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
                raise ImageError(
                    "image", "cannot be unpacked", received=error,
                    remedy="Write the archive again, whole and without a password.",
                ) from error  # fmt: skip
            return as_image(member)

    return ImageSet([f"{path}/{info.filename}" for info in found], load)


def _of_npz(path: Path) -> ImageSet:
    with np.load(path, allow_pickle=False) as archive:
        if isinstance(archive, np.ndarray):
            raise ValueError("it is one array, not an archive")
        arrays = {name: archive[name] for name in archive.files}
    fitting = {name: array for name, array in arrays.items() if array.ndim in (3, 4)}
    name = "images" if "images" in fitting else next(iter(fitting), "")
    if not name or (name != "images" and len(fitting) > 1):
        raise ImageError(
            "data", "must hold an array named images, or only one of three or four axes",
            received=", ".join(f"{key} {array.shape}" for key, array in arrays.items()) or "no arrays",
            remedy="Save it with numpy.savez_compressed(path, images=images).",
        )  # fmt: skip
    array = fitting[name]
    array = array[:, None] if array.ndim == 3 else array
    try:
        layout = layout_of(array.shape[1:], None, f"{path}[{name}]", tensor=False)
    except ImageError as error:
        raise ImageError(
            error.argument, error.problem, received=error.received,
            remedy="Save it as (N, channels, height, width) with at most 15 channels.",
        ) from error  # fmt: skip
    names = [f"{path}[{name}][{index}]" for index in range(len(array))]
    return ImageSet(names, lambda index: as_image(array[index], layout=layout))
