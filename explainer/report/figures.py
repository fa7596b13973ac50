"""Plotly figures of a walk for notebooks, from plain arrays.

Frames are dicts with "image" (channels, height, width) in [0, 1], "level", "achieved" and "reached", the
same that the page takes. Pictures are embedded without loss. Every name from outside is escaped, because
plotly reads its labels as a kind of HTML.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explainer.errors import OptionError
from explainer.report.panels import (
    colour_table,
    colourise,
    data_uri,
    difference_limit,
    difference_panels,
    difference_planes,
    display_ranges,
    image_panels,
    side_by_side,
)
from explainer.report.strip import format_level

__all__ = ["calibration_figure", "difference_figure", "levels_figure", "slider_figure", "strip_figure"]

REACHED, MISSED, INK = "#1f6fb2", "#b34700", "#3b4250"


def _safe(text: object) -> str:
    """The text on one line, shortened, with nothing that plotly would read as markup."""
    line = " ".join(str(text).split())
    return html.escape(line if len(line) <= 120 else line[:119] + "…")


def _require_frames(frames: Sequence[Mapping[str, Any]]) -> None:
    if not len(frames):
        raise OptionError(
            "frames", "must hold at least one frame", received="none", remedy="Pass the frames of a walk."
        )


def _picture(pixels: np.ndarray) -> go.Image:
    return go.Image(source=data_uri(pixels, kind="png"), hoverinfo="skip")


TOOLS = ["zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale", "resetScale"]
"""Of plotly's bar: a picture without axes needs none of them, and they would lie over its title."""


def _plain(figure: go.Figure, title: str | None, **layout: Any) -> go.Figure:
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, constrain="domain")
    figure.update_layout(
        template="plotly_white",
        title=None
        if title is None
        else {
            "text": _safe(title),
            "x": 0.01,
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 30},
        },
        margin={"l": 12, "r": 12, "t": 84 if title else 56, "b": 12},
        modebar={"remove": TOOLS, "bgcolor": "rgba(0,0,0,0)"},
        font={"family": "system-ui, sans-serif", "color": INK},
        **layout,
    )
    return figure


def _caption(frame: Mapping[str, Any]) -> str:
    caption = f"asked {format_level(frame['level'])}<br>achieved {format_level(frame['achieved'])}"
    return caption if frame["reached"] else f"{caption}<br>✕ not reached"


def strip_figure(
    frames: Sequence[Mapping[str, Any]],
    *,
    original: Mapping[str, Any] | None = None,
    channel_names: Sequence[str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """The frames in one row, each with what was asked and achieved above it.

    Args:
        frames: Dicts with "image", "level", "achieved" and "reached".
        original: Dict with "image" and "level", shown first.
        channel_names: One name per channel, to show every channel as a grey panel.
        title: A title, or None.

    Raises:
        OptionError: If there are no frames.
        ImageError: If an image has the wrong shape.

    >>> import numpy as np
    >>> frame = {"image": np.zeros((3, 8, 8)), "level": .9, "achieved": .91, "reached": True}
    >>> len(strip_figure([frame, frame]).data)
    2
    """
    _require_frames(frames)
    shown = [frame["image"] for frame in frames]
    captions = [_caption(frame) for frame in frames]
    if original is not None:
        shown = [original["image"], *shown]
        captions = [f"original<br>{format_level(original['level'])}", *captions]
    ranges = display_ranges(shown, channel_names)
    figure = make_subplots(1, len(shown), subplot_titles=captions, horizontal_spacing=0.006)
    for column, image in enumerate(shown, start=1):
        pixels = side_by_side(image_panels(image, channel_names, ranges), gap=1)
        figure.add_trace(_picture(pixels), row=1, col=column)
    figure.update_annotations(font_size=11)
    return _plain(figure, title, height=250 if title else 220, width=max(360, 132 * len(shown)))


def slider_figure(
    frames: Sequence[Mapping[str, Any]],
    *,
    original: Mapping[str, Any],
    channel_names: Sequence[str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """The original, one frame and its difference from the original, with a slider and a play button.

    Args:
        frames: Dicts with "image", "level", "achieved" and "reached".
        original: Dict with "image" and "level".
        channel_names: One name per channel, to show every channel as a grey panel.
        title: A title, or None.

    Raises:
        OptionError: If there are no frames.
        ImageError: If an image has the wrong shape.
    """
    _require_frames(frames)
    ranges = display_ranges([original["image"], *(frame["image"] for frame in frames)], channel_names)
    planes = [difference_planes(frame["image"], original["image"], channel_names) for frame in frames]
    limit = difference_limit([plane for each in planes for _, plane in each])
    captions = [f"original, {format_level(original['level'])}", "frame", f"difference, ±{limit:.2g}"]
    figure = make_subplots(1, 3, subplot_titles=captions, horizontal_spacing=0.02)
    steps, moves, pictures = [], [], []
    for index, frame in enumerate(frames):
        image = side_by_side(image_panels(frame["image"], channel_names, ranges), gap=1)
        change = difference_panels(frame["image"], original["image"], limit, channel_names)
        pictures.append([_picture(image), _picture(side_by_side(change, gap=1))])
        moves.append(go.Frame(data=pictures[-1], traces=[1, 2], name=str(index)))
        label = f"asked {format_level(frame['level'])}, achieved {format_level(frame['achieved'])}"
        label = label if frame["reached"] else f"{label}, not reached"
        still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
        steps.append({"method": "animate", "label": label, "args": [[str(index)], still]})
    first = side_by_side(image_panels(original["image"], channel_names, ranges), gap=1)
    for column, picture in enumerate([_picture(first), *pictures[0]], start=1):
        figure.add_trace(picture, row=1, col=column)
    figure.frames = moves
    run = {"mode": "immediate", "fromcurrent": True, "frame": {"duration": 350, "redraw": True},
           "transition": {"duration": 0}}  # fmt: skip
    stop = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, run]},
        {"label": "Pause", "method": "animate", "args": [[None], stop]},
    ]
    figure = _plain(figure, title, height=440, width=820)
    figure.update_layout(
        margin_b=110,
        updatemenus=[{"type": "buttons", "direction": "left", "buttons": buttons, "x": 0, "y": -0.08,
                      "xanchor": "left", "yanchor": "top", "showactive": False}],
        sliders=[{"steps": steps, "active": 0, "x": 0.2, "len": 0.8, "y": -0.04,
                  "currentvalue": {"prefix": "", "xanchor": "left"}, "font": {"color": "rgba(0,0,0,0)"}}],
    )  # fmt: skip
    figure.layout.sliders[0].currentvalue.font.color = INK
    return figure


def levels_figure(
    frames: Sequence[Mapping[str, Any]],
    *,
    original_level: float | None = None,
    tolerance: float | None = 0.02,
    level_word: str = "level",
) -> go.Figure:
    """Achieved against requested levels, with the line where they agree and the tolerance around it.

    Args:
        frames: Dicts with "level", "achieved" and "reached".
        original_level: Level of the original, drawn as a dotted line.
        tolerance: Half-width of the band in which a level counts as reached, or None.
        level_word: What a level is, for the axes, such as "probability of Smiling".

    Raises:
        OptionError: If there are no frames.

    >>> frame = {"level": .9, "achieved": .91, "reached": True}
    >>> [trace.name for trace in levels_figure([frame]).data]
    ['within ±0.02', 'achieved = asked', 'reached']
    """
    _require_frames(frames)
    values = [float(frame[key]) for frame in frames for key in ("level", "achieved")]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    figure = go.Figure()
    if tolerance is not None:
        figure.add_scatter(
            x=[low, high, high, low],
            y=[low - tolerance, high - tolerance, high + tolerance, low + tolerance],
            fill="toself", mode="none", fillcolor="rgba(31, 111, 178, .18)", hoverinfo="skip",
            name=f"within ±{tolerance:g}",
        )  # fmt: skip
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", name="achieved = asked", hoverinfo="skip",
        line={"color": INK, "width": 1, "dash": "dash"},
    )  # fmt: skip
    kinds = ((True, "reached", "circle", REACHED), (False, "not reached", "x", MISSED))
    for reached, name, symbol, colour in kinds:
        chosen = [frame for frame in frames if bool(frame["reached"]) is reached]
        if chosen:
            figure.add_scatter(
                x=[float(frame["level"]) for frame in chosen],
                y=[float(frame["achieved"]) for frame in chosen],
                mode="markers", name=name, marker={"symbol": symbol, "color": colour, "size": 10},
            )  # fmt: skip
    if original_level is not None and math.isfinite(original_level):
        figure.add_hline(y=float(original_level), line={"dash": "dot", "color": INK, "width": 1},
                         annotation_text="original")  # fmt: skip
    figure.update_layout(
        template="plotly_white", width=520, height=460,
        font={"family": "system-ui, sans-serif", "color": INK},
        margin={"l": 60, "r": 20, "t": 30, "b": 60}, legend={"orientation": "h", "y": 1.08},
    )  # fmt: skip
    word = _safe(level_word)
    figure.update_xaxes(title=f"asked: {word}")
    figure.update_yaxes(title=f"achieved: {word}")
    return figure


def calibration_figure(
    rows: Sequence[Mapping[str, Any]], *, tolerance: float | None = 0.02, level_word: str = "level"
) -> go.Figure:
    """Levels asked for against levels achieved over a set of walks: mean, 5 to 95 % of them, and the missed.

    Args:
        rows: One per level, with "level", "mean", "low", "high", "walks" and "unreached".
        tolerance: Half-width of the band in which a level counts as reached, or None for no band.
        level_word: What a level is.

    Raises:
        OptionError: If there are no rows.

    >>> row = {"level": .9, "mean": .9, "low": .89, "high": .91, "walks": 10, "unreached": 2}
    >>> calibration_figure([row]).data[-1].text
    ('2 of 10 missed',)
    """
    if not len(rows):
        raise OptionError(
            "rows", "must hold at least one level", received="none", remedy="Pass the table of a calibration."
        )
    frames = [{"level": row["level"], "achieved": row["mean"], "reached": True} for row in rows]
    figure = levels_figure(frames, tolerance=tolerance, level_word=level_word)
    means = figure.data[-1]
    means.name = "mean"
    means.error_y = {
        "type": "data", "symmetric": False, "thickness": 1.4, "color": REACHED,
        "array": [row["high"] - row["mean"] for row in rows],
        "arrayminus": [row["mean"] - row["low"] for row in rows],
    }  # fmt: skip
    means.hovertext = [f"{row['walks']} walks, {row['unreached']} missed" for row in rows]
    missed = [row for row in rows if row["unreached"]]
    if missed:
        figure.add_scatter(
            x=[row["level"] for row in missed], y=[row["level"] for row in missed],
            text=[f"{row['unreached']} of {row['walks']} missed" for row in missed],
            mode="markers+text", textposition="bottom right", name="levels that walks missed",
            marker={"symbol": "x", "color": MISSED, "size": 10}, textfont={"color": MISSED},
        )  # fmt: skip
    return figure


def difference_figure(
    values: object, *, name: str = "difference", signed: bool = False, unit: str = "share of full range"
) -> go.Figure:
    """One map with a colour bar.

    Args:
        values: Map (height, width).
        name: Its title.
        signed: Colours run from -limit over white to limit; else from zero to the limit.
        unit: Unit written beside the colour bar.

    Raises:
        ImageError: If the map does not have two dimensions.

    >>> import numpy as np
    >>> figure = difference_figure(np.array([[0.0, .5]]), name="<b>smile</b>")
    >>> print(figure.layout.title.text)
    &lt;b&gt;smile&lt;/b&gt;
    """
    limit = difference_limit([values])
    figure = go.Figure(_picture(colourise(values, limit, signed=signed)))
    table = colour_table(signed)
    scale = [[index / 254, f"rgb({r},{g},{b})"] for index, (r, g, b) in enumerate(table.tolist())]
    # An image has no colour bar of its own: an invisible point carries it.
    figure.add_scatter(
        x=[0], y=[0], mode="markers", hoverinfo="skip", showlegend=False,
        marker={"color": [0.0], "cmin": -limit if signed else 0.0, "cmax": limit, "colorscale": scale,
                "opacity": 0, "colorbar": {"title": {"text": _safe(unit), "side": "right"}}},
    )  # fmt: skip
    return _plain(figure, name, width=460, height=420)
