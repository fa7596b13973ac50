"""Walks of an audit as rows of pictures, with what was said of each frame, within a budget of bytes.

The classifier's probability stands above each frame and the oracle's below it, as in Singla et al. (2020),
with the change from the original underneath. The page stays small because pictures are spent in the order in
which they are asked for: from the first that does not fit on all are left out, and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from explainer.report.document import clean_name
from explainer.report.panels import (
    data_uri,
    difference_limit,
    difference_panels,
    difference_planes,
    display_ranges,
    image_panels,
    side_by_side,
)

__all__ = ["Album"]

LONGEST = 192
LEAST_SHOWN = 96


@dataclass
class Album:
    """Pictures for a page, as long as there is room for them.

    Attributes:
        room: Bytes left.
        left_out: Walks that there was no room for.
        shown: Walks drawn.
    """

    room: int
    left_out: int = 0
    shown: int = 0
    _ready: dict[int, dict[str, Any]] = field(default_factory=dict)

    def strip(self, walk: Mapping[str, Any], attribute: str | None, levels: Sequence[float]) -> dict | None:
        """A walk as the template takes it; None if there is no room for it.

        Args:
            walk: row, direction, crossed, original (C, H, W) and frames (L, C, H, W) of 8 bits, level,
                levels, oracles (by attribute: bare start, then frames), channel_names.
            attribute: Whose oracle is shown; None shows none.
            levels: Asked for (L,).
        """
        if self.left_out:  # full: drawing what cannot be shown would cost most of the time
            self.left_out += 1
            return None
        key = id(walk)
        if key not in self._ready:
            self._ready[key] = _drawn(walk)
        drawn = self._ready[key]
        if drawn["bytes"] > self.room:
            self.left_out = 1
            return None
        self.room -= drawn["bytes"]
        self.shown += 1
        oracle = walk["oracles"].get(attribute, ()) if attribute is not None else ()
        said = [(float(walk["level"]), None), *zip(map(float, walk["levels"]), levels, strict=True)]
        frames = []
        for index, (achieved, asked) in enumerate(said):
            probability = float(oracle[index]) if len(oracle) == len(said) else None
            frames.append(
                {
                    "asked": None if asked is None else f"{asked:.2g}",
                    "classifier": f"{achieved:.2f}",
                    "classifier_yes": achieved > 0.5,
                    "oracle": None if probability is None else f"{probability:.2f}",
                    "oracle_yes": probability is not None and probability > 0.5,
                    "picture": drawn["pictures"][index],
                    "change": drawn["changes"][index - 1] if index else None,
                }
            )
        return {
            "row": int(walk["row"]),
            "direction": walk["direction"],
            "crossed": bool(walk["crossed"]),
            "frames": frames,
            "limit": drawn["limit"],
        }


def _drawn(walk: Mapping[str, Any]) -> dict[str, Any]:
    """Pictures and differences of a walk, and the bytes they take."""
    original = np.asarray(walk["original"], dtype=np.float64) / 255
    frames = np.asarray(walk["frames"], dtype=np.float64) / 255
    names = walk.get("channel_names")
    ranges = display_ranges([original, *frames], names)
    planes = [difference_planes(frame, original, names) for frame in frames]
    limit = difference_limit([plane for each in planes for _, plane in each])
    pictures = [_picture(image_panels(image, names, ranges)) for image in (original, *frames)]
    changes = [_picture(difference_panels(frame, original, limit, names)) for frame in frames]
    spent = sum(len(each["uri"]) for each in (*pictures, *changes))
    return {"pictures": pictures, "changes": changes, "limit": f"{limit:.2g}", "bytes": spent}


def _picture(panels: Sequence[Any]) -> dict[str, Any]:
    """The panels of an image side by side, at least as large as can be looked at."""
    pixels = side_by_side(panels, gap=1)
    height, width = pixels.shape[:2]
    side = max(height, width)
    if side > LONGEST:
        size = tuple(max(1, round(length * LONGEST / side)) for length in (width, height))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        height, width = pixels.shape[:2]
    scale = max(1, -(-LEAST_SHOWN // max(height, width)))
    channels = ", ".join(clean_name(panel.name) for panel in panels if panel.name is not None)
    return {
        "uri": data_uri(pixels, lossless=False),
        "width": width * scale,
        "height": height * scale,
        "channels": channels,
    }
