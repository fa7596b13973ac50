"""Reads the pixels of DICOM files, of any modality, with pydicom (the extra ``dicom``).

Unsigned grey values without a rescale fill the scale of their bits: 12 bits stored become uint16 with 4095 at
65535, so that white is 1 in an image. Values with a unit (a rescale slope or intercept, as the Hounsfield
units of CT), and signed ones, are float32 in that unit: they need ``range=(low, high)``. MONOCHROME1, where 0
is white, is turned over. Windows are not applied: they are a way of looking.
"""

from pathlib import Path
from typing import Any

import numpy as np

from explainer.errors import DependencyError, ImageError

__all__ = ["HEAD", "from_dicom", "is_dicom"]

HEAD = 132
"""Bytes of a file that :func:`is_dicom` needs."""

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins like this is DICOM: 128 bytes of anything, then ``DICM``."""
    return head[128:HEAD] == b"DICM"


def from_dicom(path: Path) -> np.ndarray:
    """Pixels (channels, height, width) of a DICOM file that holds one image.

    Args:
        path: The file.

    Returns:
        uint8 or uint16 on the whole scale of their type, or float32 in the unit of the file.

    Raises:
        ImageError: No pixels, several frames, a colour space that is not grey or RGB, or a compression that
            cannot be undone here.
        DependencyError: pydicom is not installed.
    """
    name = str(path)
    try:
        import pydicom
    except ImportError as error:
        raise DependencyError(
            "pydicom", "is needed for DICOM files", received=name,
            remedy='Install it: pip install "progressive-explainer[dicom]".',
        ) from error  # fmt: skip
    data = pydicom.dcmread(path)
    if "PixelData" not in data:
        raise ImageError(
            name, "is a DICOM file without pixels", received=data.get("Modality", "no modality"),
            remedy="Pass the file of an image.",
        )  # fmt: skip
    frames = int(data.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise ImageError(
            name, "holds several frames", received=f"{frames} frames",
            remedy="Pass one of them as an array: pydicom.dcmread(path).pixel_array[k].",
        )  # fmt: skip
    colours = str(data.get("PhotometricInterpretation", ""))
    if colours not in _COLOURS + _GREYS:
        raise ImageError(
            name, "has a colour space that is not grey or RGB", received=colours or "none",
            remedy="Convert it first, and pass the array.",
        )  # fmt: skip
    try:
        pixels = data.pixel_array
    except RuntimeError as error:  # what pydicom says of a compression without its plug-in
        raise ImageError(
            name, "has a compression that cannot be undone here",
            received=getattr(data.file_meta.TransferSyntaxUID, "name", "unknown"),
            remedy=f"Decompress it first, or install what pydicom needs: {error}",
        ) from error  # fmt: skip
    return pixels.transpose(2, 0, 1) if colours in _COLOURS else _grey(pixels, data, colours, name)[None]


def _grey(pixels: np.ndarray, data: Any, colours: str, path: str) -> np.ndarray:
    """Grey values (height, width), dark to light."""
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    if (slope, intercept) != (1.0, 0.0) or pixels.dtype.kind == "i":
        if colours == "MONOCHROME1":
            raise ImageError(
                path, "has values with a unit of which 0 is to be shown white", received=colours,
                remedy="Decide which way up they are meant, and pass the array.",
            )  # fmt: skip
        return pixels.astype(np.float32) * slope + intercept
    white = 2 ** int(data.BitsStored) - 1
    kind = np.uint8 if white <= 255 else np.uint16
    scaled = pixels.astype(np.float64) * (np.iinfo(kind).max / white)
    whole = np.round(scaled).astype(kind)
    return np.iinfo(kind).max - whole if colours == "MONOCHROME1" else whole
