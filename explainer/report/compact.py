"""What a notebook shows of a result by itself: a verdict, a row of small pictures, no script.

Colours and backgrounds are the notebook's own, but for the verdict; nothing is wider than the cell.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from explainer.report.panels import colourise, data_uri, display_ranges, image_panels, side_by_side
from explainer.report.strip import format_level

__all__ = ["compact_explanation", "compact_table", "compact_verdict"]

HEIGHT = 84
MOST_FRAMES = 7
GREEN, AMBER, RED, BLUE = "#2e7d32", "#b26a00", "#b3261e", "#1f5fa8"
VERDICTS = {
    "trust": ("✔", GREEN), "limits": ("!", AMBER), "distrust": ("✖", RED),
    "not detected": ("○", BLUE), "insufficient": ("?", AMBER), "confounded": ("✖", RED),
}  # fmt: skip
WORDS = {"limits": "trust with limits", "distrust": "do not trust"}


def compact_verdict(status: str) -> str:
    """The sign and the word of a verdict, in its colour."""
    sign, colour = VERDICTS[status]
    return f'<b style="color:{colour}">{sign} {html.escape(WORDS.get(status, status))}</b>'


def compact_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the heads are text."""
    head = "".join(f'<th style="text-align:left">{html.escape(each)}</th>' for each in heads)
    # The last cell is a sentence: on a phone the table scrolls rather than being a column of single words.
    styles = ["text-align:left"] * (len(heads) - 1) + ["text-align:left;min-width:15em"]
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{style}">{cell}</td>' for style, cell in zip(styles, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def compact_explanation(page: Mapping[str, Any]) -> str:
    """An explanation in one cell: verdict and reasons, original and frames, the first map.

    Args:
        page: The plain data of its page: ``verdict``, ``outcome``, ``target``, ``original``, ``frames``,
            ``saliency``, ``channel_names`` and ``tolerance``.
    """
    frames, names, tolerance = page["frames"], page["channel_names"], page["tolerance"]
    count = min(MOST_FRAMES, len(frames))
    shown = [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    ranges = display_ranges([page["original"]["image"], *(frame["image"] for frame in shown)], names)
    pictures = [_picture(_pixels(page["original"]["image"], names, ranges), "original",
                         format_level(page["original"]["level"], tolerance))]  # fmt: skip
    for frame in shown:
        level = format_level(frame["achieved"], tolerance)
        caption = f"level {level}" if frame["reached"] else f"✕ {level}, not reached"
        pictures.append(_picture(_pixels(frame["image"], names, ranges), caption, ""))
    for one in page["saliency"][:1]:
        values = np.asarray(one["map"], dtype=np.float64)
        limit = float(np.abs(values).max()) or 1.0
        coloured = colourise(values, limit, signed=one["signed"])
        pictures.append(_picture(_sized(coloured), f"map: {one['name']}", ""))
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in page["verdict"]["reasons"])
    return (
        f"<div><p>{compact_verdict(page['verdict']['status'])} &ensp;{html.escape(page['target']['label'])}. "
        f"{html.escape(page['verdict']['sentence'])}</p>"
        f'<div style="display:flex;flex-wrap:wrap;gap:6px">{"".join(pictures)}</div>'
        f"<ul>{reasons}</ul><p>{html.escape(page['walk_sentence'])} "
        "<small>The whole page: .show(); a slider: .slider(); a file: .to_html(path)</small></p></div>"
    )


def _picture(pixels: np.ndarray, caption: str, more: str) -> str:
    said = html.escape(f"{caption} {more}".strip())
    height, width = pixels.shape[:2]
    return (
        f'<figure style="margin:0;font-size:11px"><img src="{data_uri(pixels, kind="png")}" alt="{said}" '
        f'width="{width}" height="{height}" style="max-width:none"><figcaption>{said}</figcaption></figure>'
    )


def _pixels(image: object, names: Sequence[str] | None, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    return _sized(side_by_side(image_panels(image, names, ranges), gap=1))


def _sized(pixels: np.ndarray) -> np.ndarray:
    """Pixels :data:`HEIGHT` high."""
    height, width = pixels.shape[:2]
    size = (max(1, round(width * HEIGHT / height)), HEIGHT)
    smooth = Image.Resampling.LANCZOS if height > HEIGHT else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize(size, smooth))
