"""Sets of images on disk, read one by one, brought to one size and kept in 8 or 16 bits.

A set is a folder of image files, a ZIP archive of them, a NumPy archive (.npz) or a table of paths (.csv).
Images whose proportions are not those asked for are cut to their largest central part, as a generator
does with the image it explains. What was stored in 8 bits stays in 8 bits, all else is kept in 16.
"""

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from explainer.errors import ExplainerError, ImageError
from explainer.image import SUFFIXES, as_image, list_images, list_table, natural_order, resize
from explainer.image_files import layout_of

__all__ = ["ImageSet", "open_image_set", "read_image_set"]

ImageSet = tuple[list[str], Callable[[int], Tensor]]
"""Names of the images, and what gives the image of a number."""


def read_image_set(source: str | os.PathLike[str], size: tuple[int, int]) -> Tensor:
    """Read a set of images at one size.

    Args:
        source: Folder of image files; .zip with image files, also in folders inside; .npz with an array
            named "images", or with one array of three or four axes only, (N, H, W), (N, H, W, C) or
            (N, C, H, W); .csv with a column "path" or "file".
        size: (height, width) in pixels.

    Returns:
        images (N, C, height, width), uint8 if every image came in 8 bits, else uint16.

    Raises:
        ImageError: Not such a set, an image that cannot be read, or images of several numbers of channels.
        OptionError: A table without a column of paths.
    """
    names, load = open_image_set(source)
    stored: np.ndarray | None = None
    eight_bits = True
    for index, name in enumerate(names):
        try:
            image = load(index)
        except ImageError as error:
            raise ImageError(name, error.problem, received=error.received, remedy=error.remedy) from error
        if stored is None:
            stored = np.empty((len(names), len(image), *size), np.uint16)
        elif len(image) != stored.shape[1]:
            raise ImageError(
                name, f"has another number of channels than the first image, {names[0]}, which has "
                f"{stored.shape[1]}", received=len(image),
                remedy="Bring all images to one number of channels.",
            )  # fmt: skip
        levels = 255 * image
        eight_bits = eight_bits and bool(((levels - levels.round()).abs() < 1e-3).all())
        fitted = _fitted(image, size).clamp(0, 1)
        stored[index] = (65535 * fitted.double()).round().numpy()
    if stored is None:
        raise ImageError("data", "is empty", received=source, remedy="Pass at least one image.")
    return torch.from_numpy(np.rint(stored / 257.0).astype(np.uint8) if eight_bits else stored)


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    _, height, width = image.shape
    wanted = size[1] / size[0]
    if abs(width / height / wanted - 1) >= 0.02:
        rows, columns = min(height, round(width / wanted)), min(width, round(height * wanted))
        top, left = (height - rows) // 2, (width - columns) // 2
        image = image[:, top : top + rows, left : left + columns]
    return resize(image[None], size)[0]


def open_image_set(source: str | os.PathLike[str]) -> ImageSet:
    """Names of the images in a set, and a function that reads the one of a number, at its own size.

    Args:
        source: As for :func:`read_image_set`.

    Raises:
        ImageError: Not such a set. An image that cannot be read is an error only when it is asked for.
        OptionError: A table without a column of paths.
    """
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
    return [str(path) for path in paths], lambda index: as_image(paths[index])


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
            except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
                raise ImageError(
                    "image", "cannot be unpacked", received=error,
                    remedy="Write the archive again, without a password.",
                ) from error  # fmt: skip
            return as_image(member)

    return [f"{path}/{info.filename}" for info in found], load


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
    return names, lambda index: as_image(array[index], layout=layout)
