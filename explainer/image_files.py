"""Reads image files at their full depth, and finds the channels among the axes of their pixels.

PNG, JPEG and TIFF with 8 and 16 bits per channel, and DICOM; EXIF and TIFF orientation are honoured, palettes
become RGB, an opaque alpha channel is dropped. The pixels keep their type: nothing is scaled here.
"""

import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import tifffile
from PIL import Image, ImageOps, ImageSequence

from explainer.dicom_files import HEAD, from_dicom, is_dicom
from explainer.errors import DependencyError, ImageError

__all__ = ["BE_EXPLICIT", "Layout", "channels_first", "from_file", "from_pil", "layout_of"]

Layout: TypeAlias = Literal["CHW", "HWC"]

MOST_CHANNELS = 15  # what passes for a channel axis unasked; 16 pixels and more are a height or width
BE_EXPLICIT = 'Pass layout="CHW" or layout="HWC" to as_image or as_images.'

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_ALPHA_SAMPLES = (1, 2)  # TIFF ExtraSamples: associated and unassociated alpha; 0 is data
# What Pillow and tifffile raise on damaged or foreign files.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, MemoryError,
    OverflowError, ZeroDivisionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_LOAD_YOURSELF = "Load the pixels yourself and pass the array to as_image."


def from_file(path: Path, layout: Layout | None) -> np.ndarray:
    """Pixels (channels, height, width) of an image file at its full depth.

    Args:
        path: The file; its kind is told by its content, not by its suffix.
        layout: "CHW" or "HWC" for a TIFF stack that does not say which axis is the channels.

    Returns:
        Pixels of the file's own type and scale, upright, without palette or alpha.

    Raises:
        ImageError: A file that is missing, damaged, of another kind, or not one image.
    """
    name = str(path)
    if path.is_dir():
        raise ImageError(
            name,
            "is a folder, not an image",
            received="a folder",
            remedy="Pass a file, or the folder to as_images.",
        )
    if not path.exists():
        raise ImageError(
            name,
            "does not exist",
            received=f"working folder {Path.cwd()}",
            remedy="Check the path of the image.",
        )
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(0)
            if not head:
                raise ImageError(name, "is an empty file", received="0 bytes", remedy="Pass an image file.")
            if head[:4] in _TIFF_MAGIC:
                return _from_tiff(path, layout)
            if is_dicom(head):
                return from_dicom(path)
            if head[:8] == _PNG_MAGIC and len(head) > 25 and head[24] == 16:
                return _from_deep_png(file, head[25], name)
            with Image.open(file) as image:
                return _pil_pixels(image, name)
    except (ImageError, DependencyError):
        raise
    except _DECODING_ERRORS as error:
        raise _unreadable(name, error) from error


def from_pil(image: Image.Image, name: str) -> np.ndarray:
    """Pixels (channels, height, width) of a PIL image, upright, without palette or alpha.

    Args:
        image: An image of one frame, opened or made.
        name: What errors call it.

    Returns:
        Pixels of the image's own type and scale.

    Raises:
        ImageError: Several frames, transparency, a colour space that is not grey or RGB, or damage.
    """
    try:
        return _pil_pixels(image, name)
    except ImageError:
        raise
    except _DECODING_ERRORS as error:
        raise _unreadable(name, error) from error


def channels_first(
    values: np.ndarray, layout: Layout | None, name: str, *, tensor: bool = False
) -> np.ndarray:
    """View (channels, height, width) of an array with two or three axes.

    Args:
        values: array (height, width), (channels, height, width) or (height, width, channels).
        layout: "CHW" or "HWC"; None to take the one that :func:`layout_of` finds.
        name: What errors call the array.
        tensor: Whether it came as a tensor, for which CHW is the rule.

    Returns:
        View of the values, never a copy.

    Raises:
        ImageError: Another number of axes, or a layout that is not clear.
    """
    if values.ndim == 2:
        return values[None]
    if values.ndim != 3:
        batch = values.ndim == 4
        raise ImageError(
            name,
            "must have the axes of one image: height, width and perhaps channels",
            received=f"{values.ndim} axes, shape {values.shape}",
            remedy="Pass a batch to as_images, or one of its images." if batch else "Pass one image.",
        )
    found = layout_of(values.shape, layout, name, tensor=tensor)
    return values.transpose(2, 0, 1) if found == "HWC" else values


def layout_of(shape: tuple[int, ...], layout: Layout | None, name: str, *, tensor: bool) -> Layout:
    """Which of three axes holds the channels; without a unique answer an error.

    Args:
        shape: Sizes of the three axes.
        layout: "CHW" or "HWC", which is then the answer, or None.
        name: What errors call the array.
        tensor: Whether it came as a tensor, for which CHW is the rule.

    Returns:
        "CHW" or "HWC".

    Raises:
        ImageError: Both layouts are possible, or a tensor has the shape of HWC.
    """
    if layout is not None:
        return layout
    first, last = (0 < shape[axis] <= MOST_CHANNELS for axis in (0, 2))
    if tensor and not (last and not first):
        return "CHW"
    if 0 in shape or (first and not last):
        return "CHW"
    if last and not first and not tensor:
        return "HWC"
    a, b, c = shape
    if tensor:
        problem = f"is a tensor, read as CHW, but its shape looks like HWC, {c} channels of {a} x {b}"
    else:
        problem = f"has an ambiguous layout, CHW ({a} channels of {b} x {c}) or HWC ({c} of {a} x {b})"
    raise ImageError(name, problem, received=f"shape {tuple(shape)}", remedy=BE_EXPLICIT)


def _pil_pixels(image: Image.Image, name: str) -> np.ndarray:
    """What `from_pil` returns, with the errors of Pillow itself."""
    # MPO is a JPEG photograph followed by previews of itself.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise ImageError(
            name,
            "holds several frames",
            received=f"{getattr(image, 'n_frames', 1)} frames",
            remedy="Pass one of them: image.seek(k), then image.copy(); of a TIFF stack pass the path.",
        )
    image = ImageOps.exif_transpose(image)
    transparent = "transparency" in image.info
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if transparent or image.mode == "PA" else "RGB")
    elif transparent and image.mode in ("1", "L", "RGB"):
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    elif image.mode == "YCbCr":
        image = image.convert("RGB")
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise ImageError(
            name,
            "has a colour space that is not grey or RGB",
            received=f"mode {image.mode}",
            remedy='Convert it first: PIL.Image.open(path).convert("RGB").',
        )
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        pixels = _opaque(pixels, name)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _from_deep_png(file: BinaryIO, colour_type: int, name: str) -> np.ndarray:
    """Pixels (channels, height, width), uint16, of a PNG file with 16 bits per channel.

    Pillow reads grey ones whole, but only the high bytes of the others; asked for the file's bytes in
    the other order, it reads the low ones. Grey with alpha has the four bytes per pixel of an RGBA image.
    """

    def bytes_as(raw_mode: str | None) -> np.ndarray:
        file.seek(0)
        with Image.open(file) as image:
            if raw_mode is not None:
                image.tile = [(*tile[:3], raw_mode) for tile in image.tile]  # type: ignore[misc]
            image.load()
            transparency.append(image.info.get("transparency"))
            return np.asarray(ImageOps.exif_transpose(image))

    transparency: list[Any] = []
    if colour_type == 0:
        pixels = bytes_as(None).astype(np.uint16)[..., None]
    elif colour_type == 4:
        pixels = bytes_as("RGBA").copy().view(">u2").astype(np.uint16)
    else:
        raw_mode = "RGB;16" if colour_type == 2 else "RGBA;16"
        pixels = bytes_as(raw_mode + "B").astype(np.uint16) * 256 + bytes_as(raw_mode + "L")
    if transparency[0] is not None and (pixels == np.asarray(transparency[0])).all(axis=-1).any():
        raise _not_opaque(name, "a transparent colour")
    pixels = _opaque(pixels, name) if colour_type in (4, 6) else pixels
    return pixels.transpose(2, 0, 1)


def _from_tiff(path: Path, layout: Layout | None) -> np.ndarray:
    """Pixels (channels, height, width) of a TIFF file, whose stack of pages is its channels."""
    name = str(path)
    photometrics = tifffile.PHOTOMETRIC
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ImageError(
                name,
                "holds images of different shapes",
                received=", ".join(str(series.shape) for series in file.series) or "no image",
                remedy=_LOAD_YOURSELF,
            )
        series = file.series[0]
        page: Any = series.keyframe
        photometric = page.photometric
        if photometric == photometrics.YCBCR:
            return _from_compressed_tiff(path, page, name)
        try:
            values = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _from_compressed_tiff(path, page, name)
        kept = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX"]
        axes, values = "".join(axis for axis, _ in kept), values.reshape([n for _, n in kept])
        colours = page.colormap
        orientation = page.tags.valueof(274, 1)
        extra = [int(sample) in _ALPHA_SAMPLES for sample in page.extrasamples]
    if photometric == photometrics.PALETTE and axes == "YX":
        values, axes = colours[:, values], "CYX"
    elif photometric == photometrics.MINISWHITE and values.dtype.kind in "bu":
        values = ~values
    elif photometric not in (photometrics.MINISBLACK, photometrics.RGB):
        raise ImageError(
            name,
            "has a colour space that is not grey or RGB",
            received=getattr(photometric, "name", photometric),
            remedy=_LOAD_YOURSELF,
        )
    if len(axes) > 3 or not {"Y", "X"} <= set(axes):
        raise ImageError(
            name,
            "has more axes than one image",
            received=f"axes {axes}, shape {values.shape}",
            remedy=_LOAD_YOURSELF,
        )
    if "S" in axes:
        values = np.moveaxis(values, axes.index("S"), -1)
        if any(extra):
            values = _opaque(values, name, len(extra) - extra.index(True))
        layout = "HWC"
    elif "C" in axes:
        values, layout = np.moveaxis(values, axes.index("C"), 0), "CHW"
    elif axes[0] not in "QY" and len(values) <= MOST_CHANNELS:
        layout = layout or "CHW"  # pages, planes or times; Q is an array of which only the shape is known
    return _upright(channels_first(values, layout, name), orientation)


def _from_compressed_tiff(path: Path, page: Any, name: str) -> np.ndarray:
    """Pixels (channels, height, width) by Pillow, for compressions that tifffile alone cannot undo."""
    if page.bitspersample > 8 and (page.samplesperpixel > 1 or page.bitspersample != 16):
        raise ImageError(
            name,
            "has a compression that cannot be undone here at its full depth",
            received=f"{page.compression.name}, {page.samplesperpixel} x {page.bitspersample} bits",
            remedy="Install the imagecodecs package, or save the file without compression.",
        )
    with Image.open(path) as image:
        pages = [_pil_pixels(frame.copy(), name) for frame in ImageSequence.Iterator(image)]
    if len(pages) > 1 and any(len(pixels) > 1 or pixels.shape != pages[0].shape for pixels in pages):
        shapes = ", ".join(str(pixels.shape) for pixels in pages)
        raise ImageError(name, "has more axes than one image", received=shapes, remedy=_LOAD_YOURSELF)
    return np.concatenate(pages)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """View of pixels (channels, height, width) turned as the TIFF orientation 1 to 8 says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(1, 2)
    flipped = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation, ())
    return np.flip(pixels, flipped)


def _opaque(pixels: np.ndarray, name: str, from_last: int = 1) -> np.ndarray:
    """Pixels (height, width, channels) without their alpha channel, which must be opaque."""
    alpha = pixels[..., -from_last]
    full = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    if (alpha != full).any():
        raise _not_opaque(name, f"{(alpha != full).mean():.1%} of the pixels transparent")
    return np.delete(pixels, -from_last, axis=-1)


def _not_opaque(name: str, received: str) -> ImageError:
    return ImageError(
        name,
        "has an alpha channel that is not opaque",
        received=received,
        remedy='Lay it over a background or drop alpha with PIL.Image.convert("RGB"); '
        "if the channel is data, load the pixels and pass the array.",
    )


def _unreadable(name: str, error: BaseException) -> ImageError:
    return ImageError(
        name,
        "cannot be read as an image, it is damaged or of another kind",
        received=f"{type(error).__name__}: {error}",
        remedy="Pass a PNG, JPEG, TIFF or DICOM file, or load the pixels yourself and pass the array.",
    )
