"""The curves of a fidelity test as one small SVG, for a notebook and for the page of an explanation.

No script and no library: a few kilobytes, with text that can be read and searched.
"""

import html
from collections.abc import Sequence

import pandas as pd

__all__ = ["CONTROL_COLOURS", "METHOD_COLOURS", "fidelity_svg"]

METHOD_COLOURS = (
    "#1f6fb2", "#d1495b", "#3f8f4f", "#7a4fa3", "#e08e00", "#00808a", "#8a5a2b",
    "#c2479f", "#4c4cff", "#6b7d00",
)  # fmt: skip
CONTROL_COLOURS = ("#5c6570", "#8d96a0", "#6f5a4f", "#a3978f")
DASHES = ("4 3", "1.5 2.5", "7 3", "7 2 1.5 2")
INK, RULE = "#3b4250", "#c8ccd2"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 250.0, 170.0, 40.0, 26.0, 34.0, 18.0
ORDER_WORDS = {"most": "most relevant first", "least": "least relevant first"}


def fidelity_svg(curves: pd.DataFrame, *, measures: Sequence[str] = ("probability", "class kept")) -> str:
    """One plot per measure and order, a line per method, controls dashed, bands of the first method.

    Args:
        curves: Columns ``method``, ``control``, ``order``, ``fraction``, ``measure``, ``value``, ``low``,
            ``high``.
        measures: Which to draw, if they are there.

    >>> curves = pd.DataFrame({"method": ["a"] * 2, "control": [False] * 2, "order": ["most"] * 2,
    ...     "fraction": [0., 1.], "measure": ["probability"] * 2, "value": [1., .5],
    ...     "low": [.9, .4], "high": [1., .6]})
    >>> fidelity_svg(curves)[:45]
    '<svg xmlns="http://www.w3.org/2000/svg" viewB'
    """
    shown = [measure for measure in measures if (curves["measure"] == measure).any()]
    orders = list(dict.fromkeys(curves["order"]))
    methods = curves[["method", "control"]].drop_duplicates()
    styles = _styles(methods)
    parts: list[str] = []
    for row, measure in enumerate(shown):
        for column, order in enumerate(orders):
            part = curves[(curves["measure"] == measure) & (curves["order"] == order)]
            x, y = LEFT + column * (WIDTH + GAP + LEFT), TOP + row * (HEIGHT + TOP + BOTTOM)
            parts.append(_plot(part, styles, x, y, f"{measure}, {ORDER_WORDS.get(order, order)}"))
    below = len(shown) * (HEIGHT + TOP + BOTTOM) + 8
    parts.append(_legend(methods, styles, below))
    width = len(orders) * (WIDTH + GAP + LEFT) + 4
    height = below + 18 * (len(methods) + 1) // 2 + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="Replacement curves" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}">{"".join(parts)}</svg>'
    )


def _styles(methods: pd.DataFrame) -> dict[str, tuple[str, str, float]]:
    """Colour, dashes and width of each method's line."""
    styles, ours, theirs = {}, 0, 0
    for row in methods.itertuples():
        if row.control:
            place = theirs % len(CONTROL_COLOURS)
            styles[row.method] = CONTROL_COLOURS[place], DASHES[place], 1.4
            theirs += 1
        else:
            dash = "" if ours < len(METHOD_COLOURS) else DASHES[0]
            styles[row.method] = METHOD_COLOURS[ours % len(METHOD_COLOURS)], dash, 2.2 if ours == 0 else 1.4
            ours += 1
    return styles


def _plot(
    part: pd.DataFrame, styles: dict[str, tuple[str, str, float]], x: float, y: float, title: str
) -> str:
    def across(fraction: float) -> float:
        return round(x + WIDTH * fraction, 1)

    def down(value: float) -> float:
        return round(y + HEIGHT * (1 - min(1.0, max(0.0, value))), 1)

    marks = [f'<text x="{x}" y="{y - 8}" font-weight="600">{html.escape(title)}</text>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        marks.append(f'<path d="M{x} {down(tick)}h{WIDTH}" stroke="{RULE}" stroke-width=".6" fill="none"/>')
        marks.append(f'<text x="{x - 6}" y="{down(tick) + 4}" text-anchor="end">{tick:g}</text>')
        marks.append(f'<text x="{across(tick)}" y="{y + HEIGHT + 14}" text-anchor="middle">{tick:.0%}</text>')
    marks.append(
        f'<text x="{x + WIDTH / 2}" y="{y + HEIGHT + 27}" text-anchor="middle">share replaced</text>'
    )
    for place, (method, rows) in enumerate(part.groupby("method", sort=False)):
        colour, dash, width = styles[str(method)]
        if place == 0 and rows["low"].notna().all():
            ahead = [f"{across(f)},{down(v)}" for f, v in zip(rows["fraction"], rows["high"], strict=True)]
            back = [f"{across(f)},{down(v)}" for f, v in zip(rows["fraction"], rows["low"], strict=True)][
                ::-1
            ]
            marks.append(f'<polygon points="{" ".join(ahead + back)}" fill="{colour}" opacity=".16"/>')
        points = " ".join(
            f"{across(f)},{down(v)}" for f, v in zip(rows["fraction"], rows["value"], strict=True)
        )
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        marks.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}>'
            f"<title>{html.escape(str(method))}</title></polyline>"
        )
    return "".join(marks)


def _legend(methods: pd.DataFrame, styles: dict[str, tuple[str, str, float]], y: float) -> str:
    marks = []
    for place, name in enumerate(methods["method"]):
        colour, dash, width = styles[name]
        x, line = LEFT + (place % 2) * (WIDTH + GAP + LEFT), y + 18 * (place // 2) + 8
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        marks.append(
            f'<path d="M{x} {line - 4}h26" stroke="{colour}" stroke-width="{width}" fill="none"{dashes}/>'
        )
        shown = name if len(name) <= 40 else name[:39] + "…"
        marks.append(f'<text x="{x + 32}" y="{line}">{html.escape(shown)}</text>')
    return "".join(marks)
