"""The explanation as one HTML file that needs no network: plain dicts in, one string out.

What all pages share, policy and escaping included, is in :mod:`explainer.report.document`.
"""

import html
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from explainer.errors import OptionError
from explainer.report.axis_table import axis_table
from explainer.report.charts import level_chart
from explainer.report.document import clean_name, render_page
from explainer.report.fidelity_chart import fidelity_plots
from explainer.report.output import write_file
from explainer.report.panels import (
    Panel,
    colour_bar,
    colourise,
    data_uri,
    difference_limit,
    difference_panels,
    difference_planes,
    display_ranges,
    image_panels,
)
from explainer.report.strip import format_level

__all__ = ["embed_page", "render_explanation", "write_page"]

LOSSLESS_SIDE = 160  # pixels; smaller pictures are stored without loss
LARGEST_SIDE = 512  # pixels; larger pictures are shrunk for the page, and the page says so
VERDICTS = ("trust", "limits", "distrust")
STATUSES = ("pass", "limit", "fail", "info")
GRAVITY = ("fail", "limit", "pass", "info")
REQUIRED = (
    "title", "package_version", "verdict", "target", "level_word", "original", "bare", "frames", "saliency",
    "checks", "assumptions", "provenance", "channel_names", "walk_sentence",
)  # fmt: skip


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """The pixels, no side longer than the page's limit."""
    side = max(pixels.shape[:2])
    if side <= LARGEST_SIDE:
        return pixels
    size = tuple(max(1, round(length * LARGEST_SIDE / side)) for length in pixels.shape[1::-1])
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _pictures(panels: Sequence[Panel], alt: str) -> list[dict[str, Any]]:
    """The panels as the template takes them: name, alternative text, width, height, data URI."""
    pictures = []
    for panel in panels:
        pixels = _shrunk(panel.pixels)
        height, width = pixels.shape[:2]
        name = None if panel.name is None else clean_name(panel.name)
        pictures.append(
            {
                "name": name,
                "alt": alt if name is None else f"{alt}, {name}",
                "width": width,
                "height": height,
                "uri": data_uri(pixels, lossless=max(width, height) <= LOSSLESS_SIDE),
            }
        )
    return pictures


def _overlay(values: np.ndarray, limit: float, signed: bool, original: object) -> np.ndarray | None:
    """The map laid over the grey original, the stronger the more opaque; None if the sizes differ."""
    grey = np.asarray(original, dtype=np.float64).clip(0, 1).mean(axis=0)
    if grey.shape != values.shape:
        return None
    share = (np.abs(np.nan_to_num(values)) / limit).clip(0, 1)[..., None]
    opacity = 0.85 * share**0.7
    base = np.repeat((60 + 170 * grey)[..., None], 3, axis=2)
    return np.rint((1 - opacity) * base + opacity * colourise(values, limit, signed=signed)).astype(np.uint8)


def _saliency(maps: Sequence[Mapping[str, Any]], original: object) -> list[dict[str, Any]]:
    shown = []
    for each in maps:
        values, signed = np.asarray(each["map"], dtype=np.float64), bool(each["signed"])
        limit = difference_limit([values])
        picture = _shrunk(colourise(values, limit, signed=signed))
        overlay = _overlay(values, limit, signed, original)
        alt = f"Map: {clean_name(each['name'])}"
        shown.append(
            {
                "name": each["name"],
                "caption": each["caption"],
                "signed": signed,
                "unit": each.get("unit", "in its own unit" if signed else "in shares of the full range"),
                "low": f"−{limit:.2g}" if signed else "0",
                "high": f"+{limit:.2g}" if signed else f"{limit:.2g}",
                "uri": data_uri(picture, kind="png"),
                "width": picture.shape[1],
                "height": picture.shape[0],
                "alt": alt,
                "overlay": []
                if overlay is None
                else _pictures([Panel(None, overlay)], f"{alt}, laid over the original in grey"),
            }
        )
    return shown


def _fidelity(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The curves of the replacement test as plots, their legend and a table of areas."""
    if found is None:
        return None
    plots, legend = fidelity_plots(found["curves"])
    lines = {name: Markup(line) for name, _, line in legend}
    # Markup is right: the drawings are of this package, and escape what they are given.
    return {
        **found,
        "plots": [Markup(plot) for plot in plots],
        "rows": [{**row, "line": lines[row["method"]]} for row in found["rows"]],
    }


def _count(checks: Sequence[Mapping[str, Any]], status: str) -> int:
    return sum(check["status"] == status for check in checks)


def _require(data: Mapping[str, Any]) -> None:
    """Refuses data that the page cannot show, naming the field."""
    missing = [key for key in REQUIRED if key not in data]
    if missing:
        raise OptionError(
            "data", f"lacks {', '.join(missing)}", received=sorted(data), remedy="Pass every field."
        )
    if data["verdict"]["status"] not in VERDICTS:
        raise OptionError(
            "verdict", f"must have one of the statuses {', '.join(VERDICTS)}",
            received=data["verdict"]["status"], remedy="Sum the checks up in one of these words.",
        )  # fmt: skip
    for check in data["checks"]:
        if check["status"] not in STATUSES:
            raise OptionError(
                "checks", f"must have one of the statuses {', '.join(STATUSES)}",
                received=check["status"], remedy="Use 'info' for a check without a verdict.",
            )  # fmt: skip
    if not len(data["frames"]):
        raise OptionError(
            "frames", "must hold at least one frame", received="none", remedy="Pass the frames of a walk."
        )


def _first_shown(levels: Sequence[float], original: float, reached: Sequence[bool]) -> int:
    """The frame that the slider starts on: the reached one whose level is farthest from the original's."""
    distance = [abs(level - original) if math.isfinite(original) else 0.0 for level in levels]
    return max(range(len(levels)), key=lambda index: (reached[index], distance[index]))


def render_explanation(data: Mapping[str, Any]) -> str:
    """The page of one explanation.

    Args:
        data: Plain dicts: "title", "package_version", "verdict" (status "trust", "limits" or "distrust",
            sentence, reasons), "target" (label, from_name), "level_word", "original" and "bare" (image
            (channels, height, width) in [0, 1], level, class_name), "frames" (ascending: image, level,
            achieved, score, reached, reason), "saliency" (name, map (height, width), signed, caption, and if
            it is no difference its unit),
            "checks" (name, status "pass", "limit", "fail" or "info", sentence, values), "assumptions",
            "provenance" (nested), "channel_names" and "walk_sentence". Optional: "tolerance", the
            half-width within which a level counts as reached, .02 unless given; None draws no band;
            "alternatives", further walks of the image (outcome, verdict, frames); "fidelity", what replacing
            pixels did: curves (a data frame, see :func:`fidelity_plots`), rows (method, control, area, gain),
            filler, unit, steps, draws, class_name and sentences; "attribution_by_axis", the record of
            :class:`explainer.axis_attribution.AxisAttribution`.

    Returns:
        A whole HTML document; nothing in it refers to another file or place.

    Raises:
        OptionError: If a field is missing or a status is unknown.
        ImageError: If an image or a map has the wrong shape.
    """
    _require(data)
    original, bare, frames = data["original"], data["bare"], data["frames"]
    names, count = data["channel_names"], len(data["frames"])
    tolerance = data.get("tolerance", 0.02)
    images = [original["image"], bare["image"], *(frame["image"] for frame in frames)]
    ranges = display_ranges(images, names)
    # Changes are measured in what a picture shows from black to white, or dim channels would look unchanged.
    widths = np.array([high - low for low, high in ranges])[:, None, None]
    reference = np.asarray(original["image"]) / widths
    compared = [difference_planes(np.asarray(image) / widths, reference, names) for image in images[1:]]
    limit = difference_limit([plane for planes in compared for _, plane in planes])

    def show(image: object, alt: str) -> list[dict[str, Any]]:
        return _pictures(image_panels(image, names, ranges), alt)

    def change(image: object, alt: str) -> list[dict[str, Any]]:
        return _pictures(difference_panels(np.asarray(image) / widths, reference, limit, names), alt)

    shown = []
    for index, frame in enumerate(frames, start=1):
        asked, got = (format_level(frame[key], tolerance) for key in ("level", "achieved"))
        alt = f"Frame {index} of {count}: asked {asked}, achieved {got}"
        shown.append(
            {
                "number": index,
                "asked": asked,
                "achieved": got,
                "error": float(frame["achieved"]) - float(frame["level"]),
                "score": frame["score"],
                "reached": bool(frame["reached"]),
                "reason": frame["reason"],
                "pictures": show(frame["image"], alt),
                "change": change(frame["image"], f"Difference of frame {index} from the original"),
            }
        )
    levels = [float(frame["level"]) for frame in frames]
    achieved = [float(frame["achieved"]) for frame in frames]
    reached = [bool(frame["reached"]) for frame in frames]
    height, width = np.shape(original["image"])[1:]
    windows = [
        {
            "name": panel.name or "grey",
            "low": f"{low if abs(low) > 0.005 * high else 0:.3g}",
            "high": f"{high:.3g}",
        }
        for panel, (low, high) in zip(image_panels(original["image"], names), ranges, strict=False)
        if (low, high) != (0.0, 1.0)
    ]
    errors = [abs(frame["error"]) for frame in shown if math.isfinite(frame["error"])]
    alternatives = [
        {
            "number": number,
            "outcome": each["outcome"],
            "verdict": each["verdict"],
            "frames": [
                {
                    "achieved": format_level(frame["achieved"], tolerance),
                    "reached": bool(frame["reached"]),
                    "pictures": show(
                        frame["image"], f"Another way {number}: {format_level(frame['achieved'])}"
                    ),
                }
                for frame in each["frames"]
            ],
        }
        for number, each in enumerate(data.get("alternatives", ()), start=2)
    ]
    values = {
        **{key: data[key] for key in REQUIRED},
        "alternatives": alternatives,
        "original": {**original, "pictures": show(original["image"], "Original image")},
        "bare": {
            **bare,
            "pictures": show(bare["image"], "Bare reconstruction by the generator"),
            "change": change(bare["image"], "Difference of the bare reconstruction from the original"),
        },
        "frames": shown,
        "multiple": len(shown[0]["pictures"]) > 1,
        "selected": _first_shown(levels, float(original["level"]), reached),
        "reached_count": sum(reached),
        "largest_error": f"{max(errors):.2g}" if errors else "not a number",
        "limit": f"{limit:.2g}",
        "scale": "displayed range" if windows else "full range",
        "signed_bar": colour_bar(True),
        "unsigned_bar": colour_bar(False),
        "saliency": _saliency(data["saliency"], original["image"]),
        "fidelity": _fidelity(data.get("fidelity")),
        "axes": axis_table(data.get("attribution_by_axis")),
        # What is wrong comes first: nobody reads fourteen checks to find it.
        "checks": sorted(data["checks"], key=lambda check: GRAVITY.index(check["status"])),
        "counts": [(each, count) for each in GRAVITY if (count := _count(data["checks"], each))],
        "chart": level_chart(
            levels, achieved, reached, original=float(original["level"]), tolerance=tolerance
        ),
        "tolerance": tolerance,
        "windows": windows,
        "size": (height, width),
        "shrunk": max(height, width) > LARGEST_SIDE,
        "largest_side": LARGEST_SIDE,
    }
    return render_page("explanation", values)


def write_page(data: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Writes the page of one explanation; the file appears whole or not at all.

    Args:
        data: As for `render_explanation`.
        path: The file to write.

    Returns:
        The path written.

    Raises:
        OptionError: If a field is missing or a status is unknown.
        OutputError: If the file cannot be written.
    """
    return write_file(path, render_explanation(data).encode("utf-8"))


def embed_page(page: str, *, height: int = 900) -> str:
    """The page as a frame for a notebook cell: its own document, scripts allowed, everything else shut out.

    Args:
        page: What `render_explanation` returned.
        height: Height of the frame in pixels.

    >>> embed_page("<p>", height=100)[:60]
    '<iframe title="Explanation" sandbox="allow-scripts" srcdoc="'
    """
    return (
        f'<iframe title="Explanation" sandbox="allow-scripts" srcdoc="{html.escape(page, quote=True)}" '
        f'style="width: 100%; height: {int(height)}px; border: 0"></iframe>'
    )
