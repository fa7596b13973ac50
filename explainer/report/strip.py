"""A walk as one picture for a README and as an animation that runs forth and back.

Both are drawn from the frames as plain dicts with "image" (channels, height, width) in [0, 1], "level",
"achieved" and "reached": the same that the page takes. A frame that did not reach its level says so.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from explainer.errors import OptionError
from explainer.report.output import write_file
from explainer.report.panels import display_ranges, image_panels, side_by_side

__all__ = ["format_level", "write_gif", "write_strip"]

INK, QUIET, PAPER, WARNING = (24, 28, 34), (92, 99, 110), (255, 255, 255), (168, 60, 0)


def format_level(value: float, tolerance: float | None = None) -> str:
    """A level for a caption: two decimals for a probability, four digits otherwise.

    Args:
        value: The level.
        tolerance: How far levels may be from what was asked for; of a scale other than that of probabilities
            it says how many decimals tell levels apart.

    >>> [format_level(value) for value in (.05, .999, 12.3456, float("nan"))]
    ['0.05', '1.00', '12.35', 'not a number']
    >>> format_level(0.00123456, tolerance=1e-5), format_level(1234.5, tolerance=2.0)
    ('0.00123', '1234')
    """
    value = float(value)
    if tolerance is not None and np.isfinite(value) and not 0.002 <= tolerance <= 0.2:
        return f"{value:.{max(0, -math.floor(math.log10(tolerance)))}f}"
    if not np.isfinite(value):
        return "not a number" if np.isnan(value) else str(value)
    return f"{value:.2f}" if -0.005 < value < 1.005 else f"{value:.4g}"


def _require_frames(frames: Sequence[Mapping[str, Any]]) -> None:
    if not len(frames):
        raise OptionError(
            "frames", "must hold at least one frame", received="none", remedy="Pass the frames of a walk."
        )


def _tiles(images: Sequence[Any], size: int, channel_names: Sequence[str] | None) -> list[Image.Image]:
    """The images as RGB pictures whose panels are `size` pixels high and stand side by side."""
    if not 16 <= size <= 4096:
        raise OptionError(
            "size", "must lie between 16 and 4096 pixels", received=size, remedy="The default is 256."
        )
    ranges = display_ranges(images, channel_names)
    tiles = []
    for image in images:
        pixels = side_by_side(image_panels(image, channel_names, ranges), gap=1)
        tile = Image.fromarray(pixels).convert("RGB")
        width = max(1, round(tile.width * size / tile.height))
        tiles.append(tile.resize((width, size), Image.Resampling.LANCZOS))
    return tiles


def _write_centred(
    draw: ImageDraw.ImageDraw, left: int, width: int, top: int, text: str, size: int, fill: tuple[int, ...]
) -> None:
    """The text on one line centred in its box, in the largest size up to `size` that fits."""
    font = ImageFont.load_default(size)
    while size > 8 and draw.textlength(text, font=font) > width - 4:
        size -= 1
        font = ImageFont.load_default(size)
    draw.text((left + width / 2, top), text, font=font, fill=fill, anchor="ma")


def write_gif(
    frames: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    size: int = 256,
    seconds_per_frame: float = 0.3,
    channel_names: Sequence[str] | None = None,
    tolerance: float | None = None,
) -> Path:
    """Writes the frames as an endless GIF that runs forth and back, each with what was asked and achieved.

    Args:
        frames: Dicts with "image" (channels, height, width) in [0, 1], "level", "achieved", "reached".
        path: The file to write.
        size: Height of the picture in pixels, without the caption.
        seconds_per_frame: How long a frame stays; the two ends stay three times as long.
        channel_names: One name per channel, to show every channel as a grey panel.
        tolerance: Of the levels, see :func:`format_level`.

    Returns:
        The path written.

    Raises:
        OptionError: If there are no frames or an option is out of range.
        OutputError: If the file cannot be written.
    """
    _require_frames(frames)
    if not 0.02 <= seconds_per_frame <= 60:
        raise OptionError(
            "seconds_per_frame", "must lie between .02 and 60", received=seconds_per_frame,
            remedy="The default is .3.",
        )  # fmt: skip
    tiles = _tiles([frame["image"] for frame in frames], size, channel_names)
    text_size = max(14, size // 15)
    band = 2 * text_size
    drawn = []
    for index, (tile, frame) in enumerate(zip(tiles, frames, strict=True)):
        width = max(tile.width, 10 * text_size)
        canvas = Image.new("RGB", (width, size + band), PAPER)
        canvas.paste(tile, ((width - tile.width) // 2, 0))
        draw = ImageDraw.Draw(canvas)
        share = (index + 1) / len(tiles)
        draw.rectangle((0, size, round(width * share) - 1, size + 2), fill=INK)
        asked, got = (format_level(frame[key], tolerance) for key in ("level", "achieved"))
        caption = f"asked {asked}   achieved {got}"
        if not frame["reached"]:
            caption += "   not reached"
        fill = INK if frame["reached"] else WARNING
        _write_centred(draw, 0, width, size + round(0.55 * text_size), caption, text_size, fill)
        drawn.append(canvas)
    # One palette for all frames: with one each, colours would flicker where nothing changes.
    sheet = Image.new("RGB", (drawn[0].width, sum(canvas.height for canvas in drawn)))
    for index, canvas in enumerate(drawn):
        sheet.paste(canvas, (0, index * canvas.height))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    drawn = [canvas.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for canvas in drawn]
    order = [*range(len(drawn)), *range(len(drawn) - 2, 0, -1)]
    ends = {0, len(drawn) - 1}
    durations = [round(1000 * seconds_per_frame * (3 if index in ends else 1)) for index in order]
    buffer = io.BytesIO()
    drawn[0].save(
        buffer, "GIF", save_all=True, append_images=[drawn[index] for index in order[1:]],
        duration=durations, loop=0, disposal=1,
    )  # fmt: skip
    return write_file(path, buffer.getvalue())


def write_strip(
    frames: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    original: Mapping[str, Any] | None = None,
    size: int = 160,
    channel_names: Sequence[str] | None = None,
) -> Path:
    """Writes the frames side by side as one PNG, each with what was asked and achieved below it.

    Args:
        frames: Dicts with "image" (channels, height, width) in [0, 1], "level", "achieved", "reached".
        path: The file to write.
        original: Dict with "image" and "level", shown first and set apart.
        size: Height of each picture in pixels, without the caption.
        channel_names: One name per channel, to show every channel as a grey panel.

    Returns:
        The path written.

    Raises:
        OptionError: If there are no frames or the size is out of range.
        OutputError: If the file cannot be written.
    """
    _require_frames(frames)
    images = [frame["image"] for frame in frames]
    if original is not None:
        images = [original["image"], *images]
    tiles = _tiles(images, size, channel_names)
    text_size = max(12, size // 11)
    gap, apart, margin = 6, 22, 10
    line = round(1.25 * text_size)
    lefts, left = [], margin
    for index, tile in enumerate(tiles):
        lefts.append(left)
        left += tile.width + (apart if original is not None and index == 0 else gap)
    width = lefts[-1] + tiles[-1].width + margin
    canvas = Image.new("RGB", (width, margin + size + 8 + 2 * line + margin), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = margin + size + 8
    for index, (tile, x) in enumerate(zip(tiles, lefts, strict=True)):
        canvas.paste(tile, (x, margin))
        if original is not None and index == 0:
            lines = [("original", QUIET), (format_level(original["level"]), INK)]
            rule = x + tile.width + apart // 2
            draw.line((rule, margin, rule, canvas.height - margin), fill=(205, 209, 215), width=1)
        else:
            frame = frames[index - (original is not None)]
            achieved = format_level(frame["achieved"])
            lines = [(f"asked {format_level(frame['level'])}", QUIET)]
            lines.append((achieved, INK) if frame["reached"] else (f"{achieved}, not reached", WARNING))
        for row, (text, fill) in enumerate(lines):
            _write_centred(draw, x, tile.width, top + row * line, text, text_size, fill)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return write_file(path, buffer.getvalue())
