"""Many explanations as one HTML file: what they come to, and a strip of small frames for each image.

Small pictures of the frames are all there is; the page of one explanation shows what a strip leaves out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from explainer.report.charts import calibration_chart
from explainer.report.document import own_version, render_page
from explainer.report.panels import data_uri, display_ranges, image_panels, side_by_side
from explainer.report.strip import format_level

__all__ = ["render_sheet"]

THUMB = 72  # pixels, the height of a picture
MOST_FRAMES = 11


def render_sheet(data: Mapping[str, Any]) -> str:
    """The page of many explanations.

    Args:
        data: "sentences" (the summary), "verdicts" (images by verdict), "images", "complete",
            "failed" (index, name, kind, sentence) and "failed_count",
            "calibration" (its rows, or None) and "tolerance" (of a level, or None),
            "checked" (what the checks of the set found, or None),
            "explained" (index, name, target, status, sentence, outcome, original, frames, channel_names,
            tolerance) and "explained_count".

    Returns:
        A whole HTML document; nothing in it refers to another file or place.
    """
    return render_page(
        "sheet",
        {
            **data,
            "title": f"{data['images']:,} images explained",
            "package_version": own_version(),
            "explained": [_strip(each) for each in data["explained"]],
            "chart": calibration_chart(data["calibration"], tolerance=data["tolerance"])
            if data["calibration"]
            else None,
        },
    )


def _strip(each: Mapping[str, Any]) -> dict[str, Any]:
    """The original and some frames of one image as small pictures."""
    frames, names, tolerance = each["frames"], each["channel_names"], each["tolerance"]
    count = min(MOST_FRAMES, len(frames))
    kept = [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    ranges = display_ranges([each["original"]["image"], *(frame["image"] for frame in kept)], names)

    def picture(image: object, level: float, alt: str) -> dict[str, Any]:
        pixels = _thumb(image, names, ranges)
        caption = format_level(level, tolerance)
        height, width = pixels.shape[:2]
        uri = data_uri(pixels, lossless=False)
        return {"uri": uri, "width": width, "height": height, "level": caption, "alt": f"{alt} {caption}"}

    return {
        **{key: each[key] for key in ("index", "name", "target", "status", "sentence", "outcome")},
        "original": picture(each["original"]["image"], each["original"]["level"], "Original, level"),
        "pictures": [
            {**picture(frame["image"], frame["achieved"], "Frame, level"), "reached": bool(frame["reached"])}
            for frame in kept
        ],
        "reached": sum(bool(frame["reached"]) for frame in frames),
        "levels": len(frames),
    }


def _thumb(image: object, names: Sequence[str] | None, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """The image THUMB pixels high, its panels side by side."""
    pixels = side_by_side(image_panels(image, names, ranges), gap=1)
    height, width = pixels.shape[:2]
    size = (max(1, round(width * THUMB / height)), THUMB)
    smooth = Image.Resampling.LANCZOS if height > THUMB else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize(size, smooth))
