"""Turns images and maps into pictures: grey panels, colour maps, WebP and PNG.

One channel is shown grey, three channels as red, green and blue unless the channels have names, anything
else as one grey panel per channel. Signed maps run from blue over white to orange, unsigned ones from
black to pale yellow; in both the lightness is a linear function of the value in Oklab (Ottosson, 2020),
so equal steps look equal, and the order survives any colour blindness and a grey print.
"""

import base64
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from explainer.errors import ImageError

__all__ = [
    "Panel",
    "colour_bar",
    "colour_table",
    "colourise",
    "data_uri",
    "difference_limit",
    "difference_panels",
    "display_ranges",
    "image_panels",
    "side_by_side",
]

DIM_MAXIMUM = 0.5  # a channel whose values stay below this would look black on a screen
QUANTILES = (0.1, 99.9)


@dataclass(frozen=True)
class Panel:
    """One picture to show.

    Args:
        name: Channel name, or None when the panel holds the whole image.
        pixels: 8-bit values (height, width) for grey or (height, width, 3) for colour.
    """

    name: str | None
    pixels: np.ndarray


def _as_image(image: object, argument: str = "image") -> np.ndarray:
    """The image as float64 (channels, height, width), from an array or a tensor."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    values = np.asarray(image, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ImageError(
            argument,
            "must have shape (channels, height, width)",
            received=values.shape,
            remedy="Pass one image at a time, channels first.",
        )
    if not np.isfinite(values).all():
        raise ImageError(
            argument,
            "holds values that are not finite",
            received=f"{int((~np.isfinite(values)).sum())} of {values.size} values",
            remedy="Pass values in [0, 1].",
        )
    return values


def _is_colour(channels: int, channel_names: Sequence[str] | None) -> bool:
    return channels == 3 and channel_names is None


def _panel_names(channels: int, channel_names: Sequence[str] | None) -> list[str | None]:
    if channel_names is not None:
        if len(channel_names) != channels:
            raise ImageError(
                "channel_names",
                f"must name every one of the {channels} channels",
                received=list(channel_names),
                remedy="Pass one name per channel, or None.",
            )
        return [str(name) for name in channel_names]
    return [None] if channels == 1 else [f"channel {index + 1}" for index in range(channels)]


def display_ranges(
    images: Sequence[object], channel_names: Sequence[str] | None = None
) -> list[tuple[float, float]]:
    """The values shown as black and as white, per channel, the same for all images.

    Colour images are always shown from 0 to 1. A grey channel that stays below one half, as most
    fluorescence channels do, would look black: it is shown between its own 0.1 and 99.9 percentiles.

    Args:
        images: Images (channels, height, width) in [0, 1] with the same channels, of any sizes.
        channel_names: One name per channel, or None.

    Returns:
        One (low, high) per channel.

    Raises:
        ImageError: If an image has the wrong shape or values that are not finite.

    >>> import numpy as np
    >>> dim = np.linspace(0, .004, 64).reshape(1, 8, 8)
    >>> low, high = display_ranges([dim])[0]
    >>> print(f"{low:.4f} {high:.4f}")
    0.0000 0.0040
    >>> display_ranges([np.ones((3, 2, 2))])
    [(0.0, 1.0), (0.0, 1.0), (0.0, 1.0)]
    """
    planes = [_as_image(image, "images") for image in images]
    channels = len(planes[0])
    values = np.concatenate([image.reshape(channels, -1) for image in planes], axis=1)
    if _is_colour(channels, channel_names):
        return [(0.0, 1.0)] * channels
    ranges = []
    for channel in range(channels):
        low, high = (float(value) for value in np.percentile(values[channel], QUANTILES))
        ranges.append((low, high) if high < DIM_MAXIMUM and high > low else (0.0, 1.0))
    return ranges


def image_panels(
    image: object,
    channel_names: Sequence[str] | None = None,
    ranges: Sequence[tuple[float, float]] | None = None,
) -> list[Panel]:
    """The pictures that show an image.

    Args:
        image: Array or tensor (channels, height, width) in [0, 1]; values outside are clipped.
        channel_names: One name per channel; with names, each channel is a grey panel of its own.
        ranges: The (low, high) shown as black and white, per channel; (0, 1) unless given.

    Returns:
        One panel for a grey image, one for an RGB image without channel names, else one per channel.

    Raises:
        ImageError: If the shape or the number of names is wrong, or values are not finite.

    >>> import numpy as np
    >>> [panel.pixels.shape for panel in image_panels(np.zeros((3, 4, 5)))]
    [(4, 5, 3)]
    >>> [panel.name for panel in image_panels(np.zeros((3, 4, 5)), ["DNA", "actin", "golgi"])]
    ['DNA', 'actin', 'golgi']
    """
    values = _as_image(image)
    channels = values.shape[0]
    if ranges is not None:
        low, high = np.asarray(ranges, dtype=np.float64).T[..., None, None]
        values = (values - low) / (high - low)
    pixels = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
    if _is_colour(channels, channel_names):
        return [Panel(None, pixels.transpose(1, 2, 0))]
    names = _panel_names(channels, channel_names)
    return [Panel(name, plane) for name, plane in zip(names, pixels, strict=True)]


def difference_limit(differences: Sequence[object]) -> float:
    """The value at the ends of a colour bar: the 99.9 percentile of the absolute values, never zero.

    >>> import numpy as np
    >>> difference_limit([np.full((3, 4), -.25), np.zeros((3, 4))])
    0.25
    """
    absolute = np.abs(np.concatenate([np.ravel(np.asarray(d, dtype=np.float64)) for d in differences]))
    absolute = absolute[np.isfinite(absolute)]
    limit = float(np.percentile(absolute, QUANTILES[1])) if absolute.size else 0.0
    return limit if limit > 1e-6 else 1e-6


def difference_planes(
    image: object, reference: object, channel_names: Sequence[str] | None = None
) -> list[tuple[str | None, np.ndarray]]:
    """The signed change from the reference: averaged over an RGB image's channels, else one per channel."""
    difference = _as_image(image) - _as_image(reference, "reference")
    if _is_colour(difference.shape[0], channel_names):
        return [(None, difference.mean(axis=0))]
    return list(zip(_panel_names(difference.shape[0], channel_names), difference, strict=True))


def difference_panels(
    image: object, reference: object, limit: float, channel_names: Sequence[str] | None = None
) -> list[Panel]:
    """The change from a reference image in the signed colours: orange where brighter, blue where darker.

    Args:
        image: Array or tensor (channels, height, width) in [0, 1].
        reference: The image it is compared with, of the same shape.
        limit: Change, as a share of the full range, at the ends of the colour bar.
        channel_names: As for `image_panels`; the channels of an RGB image are averaged.

    Raises:
        ImageError: If a shape is wrong or values are not finite.

    >>> import numpy as np
    >>> panel, = difference_panels(np.full((3, 1, 1), .5), np.full((3, 1, 1), .5), limit=.1)
    >>> panel.pixels.ravel().tolist()
    [242, 242, 242]
    """
    planes = difference_planes(image, reference, channel_names)
    return [Panel(name, colourise(plane, limit, signed=True)) for name, plane in planes]


@functools.lru_cache(maxsize=2)
def colour_table(signed: bool) -> np.ndarray:
    """The 255 colours of a map as 8-bit RGB (255, 3): from blue over white to orange, or from black to pale.

    >>> colour_table(True)[[0, 127, 254]].tolist()
    [[0, 74, 144], [242, 242, 242], [129, 42, 0]]
    """
    position = np.linspace(-1, 1, 255) if signed else np.linspace(0, 1, 255)
    if signed:
        lightness = 0.96 - 0.55 * np.abs(position)
        chroma = 0.26 * np.abs(position) * (1 - 0.48 * np.abs(position))
        hue = np.where(position < 0, 252.0, 48.0)
    else:
        lightness = 0.16 + 0.81 * position
        chroma = 0.17 * np.sin(np.pi * (0.08 + 0.80 * position)) ** 0.8
        hue = 290.0 + 170.0 * position
    angle = np.deg2rad(hue)
    return _oklab_to_rgb(lightness, chroma * np.cos(angle), chroma * np.sin(angle))


def _oklab_to_rgb(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """8-bit sRGB of Oklab coordinates; the matrices are those of Ottosson (2020)."""
    cone = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (to_linear @ cone**3).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8).T


def colourise(plane: object, limit: float, *, signed: bool) -> np.ndarray:
    """Colours of a map (height, width): [-limit, limit] if signed, else [0, limit]; grey where not finite.

    Raises:
        ImageError: If the map does not have two dimensions.

    >>> colourise([[0.0, float("nan")]], 1.0, signed=False).tolist()
    [[[14, 7, 35], [128, 128, 128]]]
    """
    values = np.asarray(plane, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ImageError(
            "map",
            "must have shape (height, width)",
            received=values.shape,
            remedy="Average the channels, or pass one map per channel.",
        )
    finite = np.isfinite(values)
    share = np.where(finite, values, 0.0) / limit
    if signed:
        share = (share + 1) / 2
    table = colour_table(signed)
    colours = table[np.rint(share.clip(0, 1) * (len(table) - 1)).astype(int)]
    colours[~finite] = 128
    return colours


def colour_bar(signed: bool) -> str:
    """The colours of a map from low to high as a picture of 255 by 1 pixels, a data URI."""
    ramp = np.linspace(-1, 1, 255) if signed else np.linspace(0, 1, 255)
    return data_uri(colourise(ramp[None], 1.0, signed=signed), kind="png")


def side_by_side(panels: Sequence[Panel], gap: int = 0) -> np.ndarray:
    """The panels in one row of 8-bit pixels (height, width) or, if any is coloured, (height, width, 3).

    >>> import numpy as np
    >>> side_by_side(image_panels(np.zeros((2, 4, 5))), gap=1).shape
    (4, 11)
    """
    coloured = any(panel.pixels.ndim == 3 for panel in panels)
    pieces: list[np.ndarray] = []
    for index, panel in enumerate(panels):
        pixels = panel.pixels
        if coloured and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if index and gap:
            pieces.append(np.full((pixels.shape[0], gap, *pixels.shape[2:]), 255, dtype=np.uint8))
        pieces.append(pixels)
    return np.concatenate(pieces, axis=1)


def data_uri(pixels: np.ndarray, *, lossless: bool = True, kind: str = "webp") -> str:
    """The pixels as a data URI.

    Args:
        pixels: 8-bit values (height, width) or (height, width, 3).
        lossless: WebP without loss, else at quality 92. PNG is always without loss.
        kind: "webp" or "png".

    >>> import numpy as np
    >>> data_uri(np.zeros((2, 2), dtype=np.uint8), kind="png")[:22]
    'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if kind == "png":
        picture.save(buffer, "PNG", optimize=True)
    else:
        options = {"lossless": True, "quality": 80} if lossless else {"quality": 92}
        picture.save(buffer, "WEBP", method=4, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
