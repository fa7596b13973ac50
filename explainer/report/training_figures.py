"""Plotly figures of a training and of what came of it, from plain arrays, and a page that holds them.

A loss is a sum of terms in different units, so every unit has a plot of its own: nats per image, squared
error, and so on. Errors, which fall over decades, are drawn on a logarithmic scale; likelihoods and
divergences, which pass through zero, are not.
"""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explainer.errors import ImageError, OptionError
from explainer.report.panels import data_uri, display_ranges, image_panels, side_by_side

__all__ = ["history_figure", "kl_figure", "reconstruction_figure", "sample_figure", "training_page"]

INK = "#3b4250"
COLOURS = ("#1f6fb2", "#b34700", "#3f8f4f", "#7a4fa3", "#8a6d1a", "#5c6570")
# How a term is named, what its axis says, and whether it falls over decades; the first that fits counts.
CHOOSES = "held_out_nats"  # the bound by which the state that is kept was chosen
UNITS = (
    (CHOOSES, "bound on held-out images, nats per image", False),
    (r"(held_out_)?reconstruction_nats", "reconstruction, nats per image", False),
    (r"kl_(largest|median)_nats", "KL, nats per dimension", False),
    (r"(held_out_)?kl_nats", "KL divergence, nats per image", False),
    (r"(mutual_information|jensen_shannon)_nats", "information I(x; z), nats", False),
    (r".*nats", "nats per image", False),
    (r"active_units", "active dimensions", False),
    (r"latent_mse", "squared error of latents", True),
    (r"features_mse", "squared error of features", True),
    (r"mse(_channel_\d+)?", "mean squared error", True),
    (r"laplacian|l1", "mean absolute error", True),
    (r"mmd", "maximum mean discrepancy", True),
    (r"loss", "loss, nats per pixel value", False),
)


def _unit(term: str) -> tuple[str, bool]:
    return next(((label, log) for name, label, log in UNITS if re.fullmatch(name, term)), (term, False))


def _styled(figure: go.Figure, **layout: Any) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "color": INK},
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        **layout,
    )
    return figure


def _called(term: str, channel_names: Sequence[str] | None) -> str:
    """A term's name, with its channel's."""
    found = re.fullmatch(r"mse_channel_(\d+)", term)
    if found is None:
        return term
    number = int(found[1])
    return f"mse of {channel_names[number] if channel_names else f'channel {number}'}"


def history_figure(history: pd.DataFrame, *, channel_names: Sequence[str] | None = None) -> go.Figure:
    """Every term of the loss against the step, one plot per unit, phases side by side.

    What was measured on held-out images has points; the state that was kept is marked on its bound.

    Args:
        history: ``generator.history``: columns "phase", "step" and the terms, whose names end with their
            units. NaN where a phase has no such term.
        channel_names: One name per channel, for the errors of single channels.

    Raises:
        OptionError: No rows, or no column "phase" or "step".

    >>> history = pd.DataFrame({"phase": ["vae"] * 2, "step": [0, 25], "mse": [.2, .1], "kl_nats": [9., 8.]})
    >>> [trace.name for trace in history_figure(history).data]
    ['mse', 'kl_nats']
    """
    if not {"phase", "step"} <= set(history.columns) or history.empty:
        raise OptionError(
            "history", "must have the columns phase and step, and rows",
            received=f"{len(history)} rows of {', '.join(map(str, history.columns)) or 'nothing'}",
            remedy="Pass generator.history after fit.",
        )  # fmt: skip
    phases = list(dict.fromkeys(history["phase"]))
    terms = [name for name in history.columns if name not in ("phase", "step")]
    units = list(dict.fromkeys(_unit(term) for term in terms))
    names = {term: _called(str(term), channel_names) for term in terms}
    figure = make_subplots(
        len(units), len(phases), shared_xaxes=True, vertical_spacing=0.3 / max(3, len(units)),
        column_titles=[html.escape(str(phase)) for phase in phases],
    )  # fmt: skip
    first: dict[int, int] = {}  # the first phase that has a term of this unit; empty plots are not drawn
    for column, phase in enumerate(phases, start=1):
        rows = history[history["phase"] == phase]
        for number, term in enumerate(terms):
            values = rows[["step", term]].dropna()
            if values.empty:
                continue
            row = units.index(_unit(term)) + 1
            first.setdefault(row, column)
            figure.add_scatter(
                x=values["step"].to_numpy(), y=values[term].to_numpy(dtype=float),
                mode="lines+markers" if str(term).startswith("held_out") else "lines",
                name=html.escape(names[term]), legendgroup=str(term), line={"color": COLOURS[number % 6]},
                showlegend=str(term) not in {trace.legendgroup for trace in figure.data},
                row=row, col=column,
            )  # fmt: skip
            if term == CHOOSES and np.isfinite(values[term]).any():
                best = values.loc[values[term].idxmin()]
                figure.add_scatter(
                    x=[best["step"]], y=[best[term]], mode="markers", name="state that is kept",
                    legendgroup="kept", showlegend=column == first[row], hoverinfo="x+y",
                    marker={"color": COLOURS[1], "size": 12, "symbol": "star"}, row=row, col=column,
                )  # fmt: skip
    for row, (label, log) in enumerate(units, start=1):
        figure.update_yaxes(title=html.escape(label), row=row, col=first.get(row, 1))
        if log:
            figure.update_yaxes(type="log", row=row)
    figure.update_xaxes(title="step", row=len(units))
    legend = {"orientation": "h", "y": 1.0, "yanchor": "top", "yref": "container"}
    return _styled(figure, height=110 + 220 * len(units), legend=legend)


def kl_figure(kl: Sequence[float], *, active: float = 0.01) -> go.Figure:
    """What every latent dimension says, in nats, the largest first.

    Args:
        kl: KL divergence of the posterior from the prior, per dimension.
        active: Nats above which a dimension counts as used.

    Raises:
        OptionError: No dimensions.

    >>> kl_figure([.001, 2., .5]).layout.title.text
    '2.5 nats in 3 dimensions, 2 of them used (above 0.01 nats)'
    """
    values = np.asarray(kl, dtype=float)
    if values.ndim != 1 or not values.size:
        raise OptionError(
            "kl", "must hold one number per dimension", received=f"shape {values.shape}",
            remedy="Pass health.kl; it is empty where a generator has no posterior variance.",
        )  # fmt: skip
    order = np.argsort(-values, kind="stable")
    used = values[order] > active
    figure = go.Figure(
        go.Bar(
            x=np.arange(1, len(values) + 1), y=values[order],
            marker={"color": [COLOURS[0] if each else "#c3c8d0" for each in used]},
            customdata=order, hovertemplate="dimension %{customdata}: %{y:.3g} nats<extra></extra>",
        )
    )  # fmt: skip
    title = (
        f"{values.sum():.1f} nats in {len(values)} dimensions, {used.sum()} of them used "
        f"(above {active:g} nats)"
    )
    figure.update_xaxes(title="dimension, by rank")
    figure.update_yaxes(title="KL, nats per image")
    return _styled(figure, title={"text": title, "x": 0.01}, height=340, bargap=0.1)


def reconstruction_figure(
    originals: object,
    reconstructions: Mapping[str, object],
    *,
    channel_names: Sequence[str] | None = None,
    most: int = 8,
) -> go.Figure:
    """Originals above their reconstructions, one row per stage, with the error of every channel.

    Grey and colour images have one row per stage; images of other channels, or with channel names, one row
    per stage of every channel.

    Args:
        originals: Images ``(N, C, H, W)``; the first ``most`` are drawn.
        reconstructions: Images of the same shape by stage, in the order they are drawn. The errors are
            over all N images, in the units of the images.
        channel_names: One name per channel, to show every channel in rows of its own.
        most: Images to draw.

    Raises:
        ImageError: No images, or a stage of another shape.

    >>> images = np.zeros((2, 1, 8, 8))
    >>> figure = reconstruction_figure(images, {"bare": images + .1})
    >>> [note.text for note in figure.layout.annotations]
    ['originals', 'bare: MSE 0.01']
    """
    images = _images("originals", originals)
    stages = [("originals", images)]
    for stage, values in reconstructions.items():
        rebuilt = np.asarray(values, dtype=float)
        if rebuilt.shape != images.shape:
            raise ImageError(
                f"reconstructions[{stage!r}]", f"must have the shape of the originals, {images.shape}",
                received=rebuilt.shape, remedy="Reconstruct the images that are passed as originals.",
            )  # fmt: skip
        stages.append((stage, rebuilt))
    channels = images.shape[1]
    together = channel_names is None and channels in (1, 3)
    names = list(channel_names) if channel_names else [f"channel {number}" for number in range(channels)]
    shown = [slice(None)] if together else [slice(number, number + 1) for number in range(channels)]
    rows, titles = [], []
    for number, part in enumerate(shown):
        ranges = display_ranges(list(images[:most, part]))
        for row, (stage, values) in enumerate(stages):
            errors = np.square(values[:, part] - images[:, part]).mean(axis=(0, 2, 3))
            said = stage if together else f"{names[number]}, {stage}"
            titles.append(f"{said}: MSE {_listed(errors)}" if row else said)
            rows.append((values[:most, part], ranges))
    return _grid(rows, titles)


def sample_figure(samples: object, *, channel_names: Sequence[str] | None = None) -> go.Figure:
    """Samples of a generator in one row, or one row per channel.

    Args:
        samples: Images ``(N, C, H, W)``.
        channel_names: One name per channel, to show every channel in a row of its own.

    Raises:
        ImageError: No images.

    >>> len(sample_figure(np.zeros((4, 2, 8, 8))).data)
    2
    """
    images = _images("samples", samples)
    channels = images.shape[1]
    if channel_names is None and channels in (1, 3):
        return _grid([(images, display_ranges(list(images)))], ["samples"])
    names = list(channel_names) if channel_names else [f"channel {number}" for number in range(channels)]
    parts = [images[:, number : number + 1] for number in range(channels)]
    return _grid([(part, display_ranges(list(part))) for part in parts], names)


def _images(argument: str, given: object) -> np.ndarray:
    images = np.asarray(given, dtype=float)
    if images.ndim != 4 or not len(images):
        raise ImageError(
            argument, "must be images (N, C, H, W)", received=f"shape {images.shape}",
            remedy="Pass the result of as_images.",
        )  # fmt: skip
    return images


def _listed(errors: np.ndarray) -> str:
    """Errors of channels; where there are three they are red, green and blue."""
    said = [f"{error:.2g}" for error in errors]
    if len(said) == 1:
        return said[0]
    return ", ".join(
        f"{error} ({colour})" for error, colour in zip(said, ("red", "green", "blue"), strict=True)
    )


def _grid(
    rows: Sequence[tuple[np.ndarray, Sequence[tuple[float, float]]]], titles: Sequence[str]
) -> go.Figure:
    """Rows of images, each with the values that are shown as black and white."""
    figure = make_subplots(
        len(rows), 1, subplot_titles=[html.escape(title) for title in titles],
        vertical_spacing=0.25 / max(2, len(rows)),
    )  # fmt: skip
    for row, (images, ranges) in enumerate(rows, start=1):
        panels = [panel for image in images for panel in image_panels(image, None, ranges)]
        picture = go.Image(source=data_uri(side_by_side(panels, gap=1), kind="png"), hoverinfo="skip")
        figure.add_trace(picture, row=row, col=1)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_annotations(font_size=12)
    return _styled(figure, height=80 + 150 * len(rows))


def training_page(title: str, sentences: Sequence[str], figures: Mapping[str, go.Figure]) -> str:
    """A page in one file: what is said, then the figures under their headings; it works without a network.

    Args:
        title: Of the page.
        sentences: Paragraphs above the figures.
        figures: Figures by heading.

    >>> "<h1>my &amp; model</h1>" in training_page("my & model", [], {})
    True
    """
    parts: list[str] = []
    for name, figure in figures.items():
        script = not parts  # the plotting library comes once, with the first figure
        body = figure.to_html(
            full_html=False, include_plotlyjs=script, config={"displaylogo": False, "displayModeBar": "hover"}
        )
        parts.append(f'<h2>{html.escape(name)}</h2>\n<div class="wide">{body}</div>')
    paragraphs = "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    heading = html.escape(title)
    style = (
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;"
        f"color:{INK};background:#fff}}h1,h2{{font-weight:600}}.wide{{overflow-x:auto}}</style>"
    )
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{view}<title>{heading}</title>{style}'
    figures_said = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n<h1>{heading}</h1>\n'
        f"{paragraphs}\n{figures_said}\n</body></html>\n"
    )
