"""Looking at a code before and after naming its axes: a map of images, and strips along an axis.

``latent_map`` is a plotly scatter of codes; a click or a lasso chooses images, and :func:`chosen_ids` reads
which. ``traversal`` is a strip of what the generator draws while one axis goes from its low to its high end.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from explainer.errors import OptionError
from explainer.generators.base import Generator, as_unit_interval
from explainer.image import resize
from explainer.report.output import write_file
from explainer.report.panels import data_uri, display_ranges, image_panels, side_by_side

__all__ = ["chosen_ids", "latent_map", "latent_page", "traversal"]

THUMBNAIL = 64
HEADER = 20
MOST_IMAGES = 3000
COLOURS = ("#1f6fb2", "#b34700", "#2e7d32", "#7b3fa0", "#8a6d00", "#00798c", "#b3261e", "#5b6472")
BUTTONS = ("select2d", "lasso2d", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage")
CONFIG = {"displaylogo": False, "modeBarButtons": [list(BUTTONS)]}
"""Only these buttons: among plotly's own are some that would send the images to a server."""


@torch.no_grad()
def latent_map(
    generator: Generator,
    images: Tensor,
    labels: Sequence[object] | None = None,
    *,
    ids: Sequence[object] | None = None,
    axes: tuple[str, str] | None = None,
    anchors: Mapping[str, tuple[float, float]] | None = None,
    title: str = "Where images lie in the code",
) -> go.Figure:
    """A scatter of the codes of images, with the images themselves to be seen.

    A code of two dimensions is shown as it is; of another, along two named axes, or else the two principal
    components. Points carry their ids: :func:`latent_page` shows the image of the point under the pointer and
    the ids of those that a lasso or a click chooses.

    Args:
        generator: Any generator.
        images: ``(N, C, H, W)`` in [0, 1] or unsigned integers, at most 3,000.
        labels: One for each image: classes (at most eight) are colours with a legend, other numbers a scale.
        ids: What each image is called; by default its number.
        axes: Two named axes to show.
        anchors: Places to mark, by name.
        title: Above the map.

    Raises:
        OptionError: Labels or ids that are not one for each image, too many images, or an unknown axis.
    """
    known = [str(each) for each in (range(len(images)) if ids is None else ids)]
    if not 2 <= len(images) <= MOST_IMAGES:
        raise OptionError(
            "images", f"must be 2 to {MOST_IMAGES:,}", received=len(images), remedy="Show a part of them."
        )
    for name, given in (("ids", known), ("labels", labels)):
        if given is not None and len(given) != len(images):
            raise OptionError(
                name, f"must be one for each of the {len(images)} images", received=len(given),
                remedy="Pass them in the order of the images.",
            )  # fmt: skip
    device = generator.intensity.device
    codes = torch.cat([generator.encode(as_unit_interval(part).to(device)) for part in images.split(256)])
    places, words = _plane(generator, codes.cpu(), axes)
    thumbnails = [_thumbnail(image) for image in images]
    figure = go.Figure()
    for name, chosen, marker in _groups(labels, len(images)):
        said = [f"<b>{_safe(known[row])}</b><br>{_safe(_label(labels, row))}" for row in chosen]
        figure.add_scatter(
            x=places[chosen, 0], y=places[chosen, 1], mode="markers", name=name, marker=marker,
            customdata=[[known[row], thumbnails[row]] for row in chosen], text=said,
            hovertemplate="%{text}<extra></extra>", showlegend=name != "",
        )  # fmt: skip
    for name, (x, y) in (anchors or {}).items():
        figure.add_scatter(
            x=[x], y=[y], mode="markers+text", text=[_safe(name)], textposition="top center",
            marker={"symbol": "x", "size": 13, "color": "#111"}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.update_layout(
        template="plotly_white", title={"text": _safe(title), "x": 0.01}, dragmode="lasso", width=860,
        height=640, font={"family": "system-ui, sans-serif", "color": "#3b4250"}, legend_title_text="",
        margin={"l": 60, "r": 20, "t": 56, "b": 56},
    )  # fmt: skip
    figure.update_xaxes(title_text=_safe(words[0]), zeroline=False)
    figure.update_yaxes(title_text=_safe(words[1]), zeroline=False, scaleanchor="x")
    return figure


def latent_page(figure: go.Figure, path: str | Path) -> Path:
    """Write a map as one HTML file without any request: images on hover, chosen ids to be copied.

    Args:
        figure: Of :func:`latent_map`.
        path: The file.

    Raises:
        OutputError: It cannot be written.
    """
    plot = figure.to_html(full_html=False, include_plotlyjs=True, div_id="map", config=CONFIG)
    page = _PAGE.replace("{{ plot }}", plot)
    return write_file(path, page.encode("utf-8"))


def chosen_ids(figure: go.Figure, points: Any) -> list[str]:
    """The ids of chosen points, in their order.

    Args:
        figure: Of :func:`latent_map`.
        points: ``(trace, point)`` numbers, or dicts with ``curveNumber`` and ``pointNumber`` as plotly's
            selection events give them.

    >>> figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], customdata=[["a", ""], ["b", ""]]))
    >>> chosen_ids(figure, [{"curveNumber": 0, "pointNumber": 1}])
    ['b']
    """
    found = []
    for point in points:
        trace, number = (
            (point["curveNumber"], point["pointNumber"]) if isinstance(point, Mapping) else tuple(point)
        )
        try:
            found.append(str(figure.data[trace].customdata[number][0]))
        except (IndexError, TypeError) as error:
            raise OptionError(
                "points", "are not of this map", received=point, remedy="Pass what its selection returned."
            ) from error
    return found


@torch.no_grad()
def traversal(
    generator: Generator,
    axis: str | int,
    images: Tensor | None = None,
    *,
    steps: int = 7,
    path: str | Path | None = None,
) -> Image.Image:
    """Strips of bare frames along an axis: one row for each image, from its low end to its high end, below a
    line that names them.

    Args:
        generator: With the axis.
        axis: A named axis, or the number of a dimension.
        images: ``(N, C, H, W)`` in [0, 1], the rows; the mean code when omitted.
        steps: Frames of a row, evenly from the coordinate that 5 % of known images lie below to that which 95
        %
            do (for a dimension: 1.6 standard deviations of the code to either side of the mean).
        path: Also write it there, as PNG.

    Raises:
        OptionError: An unknown axis, or fewer than two steps.
    """
    if steps < 2:
        raise OptionError("steps", "must be at least 2", received=steps, remedy="7 is usual.")
    mean = generator.latent_mean[None]
    start = mean if images is None else generator.encode(as_unit_interval(images).to(mean.device))
    if isinstance(axis, str):
        if generator.axes is None:
            raise OptionError(
                "axis", "needs a generator with named axes", received=axis,
                remedy="Pass the number of a dimension, or name axes first.",
            )  # fmt: skip
        low, _, high = generator.axes.axes[generator.axes.index(axis)].span
        places = torch.linspace(low, high, steps)
        codes = [generator.axes.moved(start, axis, place.expand(len(start))) for place in places]
    else:
        if not 0 <= axis < generator.latent_dim:
            raise OptionError(
                "axis", "is no dimension of the code", received=axis,
                remedy=f"Choose 0 to {generator.latent_dim - 1}.",
            )  # fmt: skip
        codes = []
        for share in torch.linspace(-1.6, 1.6, steps):
            moved = start.clone()
            moved[:, axis] = generator.latent_mean[axis] + share * generator.latent_std[axis]
            codes.append(moved)
    frames = torch.stack([generator.decode(each).cpu() for each in codes], dim=1)
    ranges = display_ranges([frame.numpy() for frame in frames.flatten(0, 1)], generator.channel_names)
    rows = [
        np.concatenate(
            [
                side_by_side(image_panels(frame.numpy(), generator.channel_names, ranges), gap=1)
                for frame in row
            ],
            axis=1,
        )
        for row in frames
    ]
    picture = Image.fromarray(np.concatenate(rows, axis=0))
    zoom = max(1, 64 // generator.shape[1])
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    picture = _headed(picture, _header(generator, axis))
    if path is not None:
        import io

        content = io.BytesIO()
        picture.save(content, format="PNG")
        write_file(path, content.getvalue())
    return picture


def _header(generator: Generator, axis: str | int) -> tuple[str, str, str]:
    """What stands over the low end of a strip, its middle, and its high end."""
    if isinstance(axis, int) or generator.axes is None:
        return "-1.6", f"dimension {axis}", "+1.6"
    known = generator.axes.axes[generator.axes.index(axis)]
    return known.low or "low", known.name, known.high or "high"


def _headed(picture: Image.Image, words: tuple[str, str, str]) -> Image.Image:
    """The picture below a line of three words: left, in the middle, and right."""
    canvas = Image.new("RGB", (picture.width, picture.height + HEADER), "white")
    canvas.paste(picture, (0, HEADER))
    draw = ImageDraw.Draw(canvas)
    share = picture.width / 3 - 6
    for word, place, anchor in zip(
        words, (3, picture.width / 2, picture.width - 3), ("lm", "mm", "rm"), strict=True
    ):
        size, text = 13, " ".join(word.split())
        while size > 8 and draw.textlength(text, font=ImageFont.load_default(size)) > share:
            size -= 1
        font = ImageFont.load_default(size)
        while len(text) > 1 and draw.textlength(text, font=font) > share:
            text = text[:-2].rstrip() + "…" if text.endswith("…") else text[:-1].rstrip() + "…"
        draw.text((place, HEADER / 2), text, font=font, fill="#22262e", anchor=anchor)
    return canvas


# -- pieces of the map -----------------------------------------------------------------------------------


def _plane(generator: Generator, codes: Tensor, axes: tuple[str, str] | None) -> tuple[np.ndarray, list[str]]:
    """Two coordinates ``(N, 2)`` of every code, and what they are called."""
    if axes is not None:
        if generator.axes is None:
            raise OptionError(
                "axes", "needs a generator with named axes", received=axes, remedy="Leave axes out."
            )
        numbers = [generator.axes.index(name, "axes") for name in axes]
        return generator.axes.coordinates(codes)[:, numbers].numpy(), [_ends(generator, n) for n in numbers]
    if codes.shape[1] == 2:
        return codes.numpy(), ["dimension 0", "dimension 1"]
    away = (codes - codes.mean(dim=0)).double()
    left, sizes, _ = torch.linalg.svd(away, full_matrices=False)
    share = (sizes.square() / sizes.square().sum())[:2].tolist()
    places = (left[:, :2] * sizes[:2]).float().numpy()
    return places, [f"principal component {n + 1} ({part:.0%})" for n, part in enumerate(share)]


def _ends(generator: Generator, number: int) -> str:
    assert generator.axes is not None  # asked by its caller
    axis = generator.axes.axes[number]
    return f"{axis.name}: {axis.low} → {axis.high}" if axis.low and axis.high else axis.name


def _groups(labels: Sequence[object] | None, count: int) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Name, rows and marker of every trace."""
    everything = np.arange(count)
    if labels is None:
        return [("", everything, {"size": 7, "color": COLOURS[0], "opacity": 0.75})]
    values = np.asarray(labels)
    names = np.unique(values)
    if len(names) <= len(COLOURS):
        return [
            (_safe(name), everything[values == name], {"size": 7, "color": colour, "opacity": 0.75})
            for name, colour in zip(names, COLOURS, strict=False)
        ]
    if values.dtype.kind not in "fiu":
        raise OptionError(
            "labels", f"have {len(names)} classes, and {len(COLOURS)} colours can be told apart",
            received=", ".join(map(str, names[:3])) + ", ...", remedy="Put rare classes together.",
        )  # fmt: skip
    scale = {"colorscale": "Viridis", "colorbar": {"title": {"text": "label"}}, "showscale": True}
    return [("", everything, {"size": 7, "color": values.astype(float), "opacity": 0.8, **scale})]


def _label(labels: Sequence[object] | None, row: int) -> str:
    if labels is None:
        return ""
    value = labels[row]
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


def _thumbnail(image: Tensor) -> str:
    """An image of at most 64 pixels a side as a data URI."""
    pixels = as_unit_interval(image[None]).cpu()
    height, width = pixels.shape[-2:]
    if max(height, width) > THUMBNAIL:
        share = THUMBNAIL / max(height, width)
        pixels = resize(pixels, (max(1, round(share * height)), max(1, round(share * width)))).clamp(0, 1)
    panels = image_panels(pixels[0].numpy(), None if image.shape[0] in (1, 3) else _numbers(len(image)))
    return data_uri(side_by_side(panels, gap=1))


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def _safe(text: object) -> str:
    line = " ".join(str(text).split())
    return html.escape(line if len(line) <= 80 else line[:79] + "…")


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Map of the code</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'">
<style>body{font:15px system-ui,sans-serif;margin:16px;color:#222;background:#fff}
#look{position:fixed;display:none;pointer-events:none;border:1px solid
#888;background:#fff;padding:4px;z-index:9} #look img{width:128px;image-rendering:pixelated;display:block}
#chosen{display:flex;flex-wrap:wrap;gap:4px;max-width:860px}#chosen img{width:48px;image-rendering:pixelated}
textarea{width:860px;max-width:100%;height:4em}</style></head><body> {{ plot }} <div id="look"
role="tooltip"></div> <label for="ids">Chosen images, as JSON (draw around points, or click one; shift
adds):</label><br> <textarea id="ids" readonly>[]</textarea><div id="chosen"></div> <script> const map =
document.getElementById("map"), look = document.getElementById("look"); const ids =
document.getElementById("ids"), chosen = document.getElementById("chosen"); function picture(uri, title) {
  const image = document.createElement("img");
  if (String(uri).startsWith("data:image/")) image.src = uri;
  image.alt = title; image.title = title;
  return image;
}
function show(points) {
  const found = points.filter(point => point.customdata);
  ids.value = JSON.stringify(found.map(point => point.customdata[0]));
  const shown = found.slice(0, 60).map(point => picture(point.customdata[1], point.customdata[0]));
  chosen.replaceChildren(...shown);
}
map.on("plotly_hover", event => {
  const point = event.points[0];
  if (!point.customdata) return;
  look.replaceChildren(picture(point.customdata[1], point.customdata[0]));
  look.style.display = "block";
  look.style.left = (event.event.clientX + 16) + "px";
  look.style.top = (event.event.clientY + 16) + "px";
});
map.on("plotly_unhover", () => { look.style.display = "none"; });
map.on("plotly_selected", event => { if (event) show(event.points); });
map.on("plotly_click", event => show(event.points));
</script></body></html>
"""
