"""Plotly figures of saliency and fidelity: curves with bands, areas, overlays, maps per channel.

Unsigned maps run from black to pale yellow, signed ones from blue over white to orange with white at zero;
in both equal steps look equal (:mod:`explainer.report.panels`). Every name from outside is escaped.
"""

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explainer.errors import DependencyError, OptionError
from explainer.report.fidelity_chart import CONTROL_COLOURS, METHOD_COLOURS, ORDER_WORDS
from explainer.report.output import write_file
from explainer.report.panels import (
    colour_table,
    colourise,
    data_uri,
    difference_limit,
    display_ranges,
    image_panels,
    side_by_side,
)

__all__ = [
    "channels_figure", "curves_figure", "fidelity_page", "overlay_figure", "ranking_figure", "write_figure",
]  # fmt: skip

INK = "#3b4250"
DASHES = ("dash", "dot", "longdash", "longdashdot")
AXES = {
    "probability": "probability of the first class",
    "class kept": "share that keeps its class",
    "accuracy": "accuracy",
    "information about the label": "information about the label, nats",
    "information about the first answer": "information about the first answer, nats",
}
CURVES_FROM_ZERO = ("probability", "class kept", "accuracy")


def _safe(text: object, longest: int = 80) -> str:
    line = " ".join(str(text).split())
    return html.escape(line if len(line) <= longest else line[: longest - 1] + "…")


def _style(methods: Sequence[str], controls: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line of each method: coloured, controls grey and dashed, the first one wide."""
    styles: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(methods):
        colour = METHOD_COLOURS[place % len(METHOD_COLOURS)]
        dash = "solid" if place < len(METHOD_COLOURS) else "dashdot"
        styles[name] = {"color": colour, "dash": dash, "width": 3 if place == 0 else 1.6}
    for place, name in enumerate(controls):
        styles[name] = {
            "color": CONTROL_COLOURS[place % len(CONTROL_COLOURS)], "dash": DASHES[place % len(DASHES)],
            "width": 2,
        }  # fmt: skip
    return styles


def _plain(figure: go.Figure, **layout: Any) -> go.Figure:
    figure.update_layout(
        template="plotly_white", font={"family": "system-ui, sans-serif", "color": INK, "size": 13},
        **{"margin": {"l": 70, "r": 20, "t": 60, "b": 60}, **layout},
    )  # fmt: skip
    return figure


def curves_figure(curves: pd.DataFrame, *, chance: float | None = None) -> go.Figure:
    """One plot per measure (rows) and order (columns), with the band of the first method and of the controls.

    Args:
        curves: Columns ``method``, ``control``, ``order``, ``fraction``, ``measure``, ``value``, ``low``,
            ``high``.
        chance: Accuracy by chance, drawn as a dotted line.

    Raises:
        OptionError: No curves.
    """
    if not len(curves):
        raise OptionError("curves", "must hold curves", received="none", remedy="Pass Fidelity.to_frame().")
    orders = list(dict.fromkeys(curves["order"]))
    measures = [name for name in AXES if (curves["measure"] == name).any()]
    names = curves[["method", "control"]].drop_duplicates()
    methods = names.loc[~names["control"], "method"].tolist()
    controls = names.loc[names["control"], "method"].tolist()
    styles = _style(methods, controls)
    figure = make_subplots(
        len(measures), len(orders), shared_xaxes=True, shared_yaxes=True, horizontal_spacing=0.06,
        vertical_spacing=0.16 / max(2, len(measures)),
        column_titles=[ORDER_WORDS.get(order, order) for order in orders],
    )  # fmt: skip
    for row, measure in enumerate(measures, start=1):
        for column, order in enumerate(orders, start=1):
            part = curves[(curves["measure"] == measure) & (curves["order"] == order)]
            for name in (*methods, *controls):
                line = part[part["method"] == name]
                if (name in controls or name == methods[0]) and line["low"].notna().all():
                    figure.add_trace(_band(line, styles[name]["color"], name), row=row, col=column)
                figure.add_trace(
                    go.Scatter(
                        x=line["fraction"], y=line["value"], mode="lines", line=styles[name],
                        name=_safe(name, 40),
                        legendgroup=name, showlegend=row == 1 and column == 1,
                        hovertemplate="%{x:.0%} replaced: %{y:.3f}",
                    ),
                    row=row, col=column,
                )  # fmt: skip
            if measure == "accuracy" and chance is not None:
                figure.add_trace(_chance_line(chance, named=column == 1), row=row, col=column)
        figure.update_yaxes(title_text="<br>".join(_wrapped(AXES[measure])), row=row, col=1)
        if measure in CURVES_FROM_ZERO:
            figure.update_yaxes(range=[0, 1.02], row=row)
        else:
            top = float(np.nanmax(curves.loc[curves["measure"] == measure, ["value", "high"]].to_numpy()))
            figure.update_yaxes(range=[0, 1.05 * max(top, 0.01)], row=row)
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_xaxes(title_text="share of pixels replaced", row=len(measures))
    return _plain(
        figure, height=110 + 260 * len(measures), width=280 + 400 * len(orders), hovermode="closest",
        legend={"groupclick": "togglegroup", "tracegroupgap": 0},
    )  # fmt: skip


def _chance_line(chance: float, *, named: bool) -> go.Scatter:
    return go.Scatter(
        x=[0, 1], y=[chance, chance], mode="lines", line={"color": INK, "width": 1, "dash": "dot"},
        name="chance (accuracy)", legendgroup="chance", showlegend=named,
        hovertemplate="chance: %{y:.3f}<extra></extra>",
    )  # fmt: skip


def _wrapped(text: str, longest: int = 26) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= longest:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _band(line: pd.DataFrame, colour: str, name: str) -> go.Scatter:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return go.Scatter(
        x=[*line["fraction"], *line["fraction"][::-1]], y=[*line["high"], *line["low"][::-1]], fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.14)", line={"width": 0}, hoverinfo="skip", showlegend=False,
        legendgroup=name, mode="lines",
    )  # fmt: skip


def ranking_figure(
    areas: pd.DataFrame, controls: Sequence[str], lower_is_better: Mapping[str, bool]
) -> go.Figure:
    """Every method's area with its interval, one plot per measure, the best on top.

    Args:
        areas: Columns ``measure``, ``method``, ``area``, ``low``, ``high``.
        controls: Names drawn grey and hollow.
        lower_is_better: For each measure.
    """
    measures = [name for name in lower_is_better if (areas["measure"] == name).any()]
    titles = [
        f"{name}<br><sup>{'lower' if lower_is_better[name] else 'higher'} is better</sup>"
        for name in measures
    ]
    columns = 2
    rows = -(-len(measures) // columns)
    count = areas["method"].nunique()
    height = 120 + rows * (90 + 22 * count)
    figure = make_subplots(
        rows, columns, subplot_titles=titles, horizontal_spacing=0.24, vertical_spacing=80 / height
    )
    for place, measure in enumerate(measures):
        table = areas[areas["measure"] == measure].sort_values("area", ascending=not lower_is_better[measure])
        hollow = table["method"].isin(controls)
        colours = [CONTROL_COLOURS[0] if each else METHOD_COLOURS[0] for each in hollow]
        spread = None
        if table["low"].notna().all():
            # The interval of a skewed estimate may leave it out; a bar cannot be shorter than nothing.
            spread = {
                "type": "data", "symmetric": False, "thickness": 1.3, "width": 4,
                "array": (table["high"] - table["area"]).clip(lower=0),
                "arrayminus": (table["area"] - table["low"]).clip(lower=0),
            }  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=table["area"], y=[_safe(name, 34) for name in table["method"]], mode="markers",
                error_x=spread,
                showlegend=False, hovertemplate="%{y}: %{x:.3f}<extra></extra>",
                marker={
                    "size": 9, "color": ["#ffffff" if each else METHOD_COLOURS[0] for each in hollow],
                    "line": {"width": 1.6, "color": colours},
                },
            ),
            row=place // columns + 1, col=place % columns + 1,
        )  # fmt: skip
    figure.update_yaxes(automargin=True, tickfont={"size": 11}, type="category")
    return _plain(figure, height=height, width=1080, margin={"l": 190, "r": 20, "t": 80, "b": 40})


def overlay_figure(
    image: object,
    maps: Mapping[str, tuple[object, bool]],
    *,
    channel_names: Sequence[str] | None = None,
    columns: int = 5,
) -> go.Figure:
    """Small multiples: the image, then each map laid over it in grey, the stronger the more opaque.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        maps: For each method ``(H, W)`` values and whether they are signed; each has its own scale, from 0
            (or from the opposite) to the 99.9 percentile of its magnitude.
        channel_names: One name per channel, if the image is not grey or RGB.
        columns: Pictures in a row.

    Raises:
        OptionError: No maps, or one of another size.
    """
    pixels = np.asarray(image, dtype=np.float64)
    ranges = display_ranges([pixels], channel_names)
    low, high = np.asarray(ranges).T[..., None, None]
    grey = ((pixels - low) / (high - low)).clip(0, 1).mean(axis=0)
    pictures = [side_by_side(image_panels(pixels, channel_names, ranges)[:1])]
    titles = ["image" if channel_names is None else f"image, {channel_names[0]}"]
    for name, (given, signed) in maps.items():
        values = np.asarray(given, dtype=np.float64)
        if values.shape != grey.shape:
            raise OptionError(
                "maps", f"{name} must have the size of the image, {grey.shape}", received=values.shape,
                remedy="Add up its channels, or use channels_figure.",
            )  # fmt: skip
        pictures.append(_overlay(values, grey, signed))
        titles.append(f"{name}{' ±' if signed else ''}")
    if len(pictures) == 1:
        raise OptionError("maps", "must hold at least one map", received="none", remedy="Pass some.")
    return _multiples(
        pictures, titles, min(columns, len(pictures)), any(signed for _, signed in maps.values())
    )


def channels_figure(
    image: object,
    maps: Mapping[str, tuple[object, bool]],
    *,
    channel_names: Sequence[str] | None = None,
) -> go.Figure:
    """Every map channel by channel, one row per method, under the channels of the image.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        maps: For each method ``(C, H, W)`` values and whether they are signed; the channels of one method
            share their scale.
        channel_names: One name per channel.
    """
    pixels = np.asarray(image, dtype=np.float64)
    names = list(
        channel_names or (["red", "green", "blue"] if len(pixels) == 3 else range(1, len(pixels) + 1))
    )
    panels = image_panels(
        pixels, [str(name) for name in names], display_ranges([pixels], [str(n) for n in names])
    )
    pictures, titles = [panel.pixels for panel in panels], [f"image, {name}" for name in names]
    for name, (given, signed) in maps.items():
        values = np.asarray(given, dtype=np.float64)
        if values.shape != pixels.shape:
            raise OptionError(
                "maps", f"{name} must have the shape of the image, {pixels.shape}", received=values.shape,
                remedy="Pass SaliencyMap.values.",
            )  # fmt: skip
        limit = difference_limit([values])
        pictures += [colourise(plane, limit, signed=signed) for plane in values]
        titles += [f"{name}, {channel}" for channel in names]
    return _multiples(pictures, titles, len(pixels), any(signed for _, signed in maps.values()))


def _overlay(values: np.ndarray, grey: np.ndarray, signed: bool) -> np.ndarray:
    limit = difference_limit([values])
    share = (np.abs(np.nan_to_num(values)) / limit).clip(0, 1)[..., None]
    opacity = 0.85 * share**0.7
    base = np.repeat((60 + 170 * grey)[..., None], 3, axis=2)
    return np.rint((1 - opacity) * base + opacity * colourise(values, limit, signed=signed)).astype(np.uint8)


def _multiples(
    pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int, signed: bool
) -> go.Figure:
    rows = -(-len(pictures) // columns)
    side, gap = 190, 30
    figure = make_subplots(
        rows, columns, subplot_titles=[_safe(title, 30) for title in titles],
        horizontal_spacing=8 / (columns * side), vertical_spacing=gap / (rows * (side + gap) + 60),
    )  # fmt: skip
    for place, pixels in enumerate(pictures):
        picture = go.Image(source=data_uri(pixels, kind="png"), hoverinfo="skip")
        figure.add_trace(picture, row=place // columns + 1, col=place % columns + 1)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, constrain="domain")
    figure.update_annotations(font_size=11)
    bars = [(False, "unsigned: none to most", 0.0)] + (
        [(True, "signed ±: against to for", 0.5)] if signed else []
    )
    for zero_centred, label, x in bars:
        table = colour_table(zero_centred)
        scale = [
            [k / 8, f"rgb({','.join(str(int(value)) for value in table[k * (len(table) - 1) // 8])})"]
            for k in range(9)
        ]
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip",
                marker={
                    "color": [0], "cmin": -1 if zero_centred else 0, "cmax": 1, "colorscale": scale,
                    "showscale": True,
                    "colorbar": {
                        "orientation": "h", "x": x, "xanchor": "left", "len": 0.45, "y": 0, "yanchor": "top",
                        "ypad": 6, "thickness": 10,
                        "title": {"text": label, "side": "bottom", "font": {"size": 11}},
                        "tickvals": [-1, 0, 1] if zero_centred else [0, 1], "tickfont": {"size": 10},
                    },
                },
            )
        )  # fmt: skip
    return _plain(
        figure, height=rows * (side + gap) + 110, width=max(420, columns * (side + 8) + 40),
        margin={"l": 20, "r": 20, "t": 40, "b": 70},
    )  # fmt: skip


def write_figure(figure: go.Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as ``.html``, which needs no network, or as ``.png``.

    Raises:
        OptionError: Another suffix.
        DependencyError: A PNG without kaleido.
        OutputError: The file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".html":
        page = figure.to_html(include_plotlyjs=True, config={"displaylogo": False})
        return write_file(path, page.encode())
    if suffix != ".png":
        raise OptionError("path", "must end in .html or .png", received=path, remedy="Rename it.")
    try:
        import kaleido  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "path", "needs kaleido to be written as PNG", received=path,
            remedy="Install kaleido, or write .html.",
        ) from error  # fmt: skip
    return write_file(path, figure.to_image(format="png", scale=2))


def fidelity_page(
    figures: Sequence[go.Figure],
    tables: Mapping[str, pd.DataFrame],
    sentences: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str = "Fidelity: which map is true to the classifier",
) -> Path:
    """Write sentences, figures and ranking tables to one HTML file that works without a network.

    Args:
        figures: Shown one under the other.
        tables: For each measure its ranking.
        sentences: What can be said, on top.
        path: The file.
        title: Of the page.
    """
    bodies = [
        '<div class="wide">'
        + figure.to_html(full_html=False, include_plotlyjs=place == 0, config={"displaylogo": False})
        + "</div>"
        for place, figure in enumerate(figures)
    ]
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    ranked = "".join(
        f"<h2>Ranking by {html.escape(name)}</h2>"
        + '<div class="wide">'
        + table.to_html(index=False, border=0, float_format=lambda value: f"{value:.3f}", na_rep="")
        + "</div>"
        for name, table in tables.items()
    )
    style = (
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;"
        f"color:{INK};background:#fff}}h1,h2{{font-weight:600}}.wide{{overflow-x:auto}}"
        "table{border-collapse:collapse;font-size:14px}th,td{padding:.25rem .7rem;text-align:left;"
        "border-bottom:1px solid #dde1e6;vertical-align:top}</style>"
    )
    heading = html.escape(title)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title>{style}</head>\n<body>"
        f"<h1>{heading}</h1><ul>{said}</ul>{''.join(bodies)}{ranked}</body></html>\n"
    )
    return write_file(path, page.encode())
