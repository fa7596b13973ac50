"""Panels, colour maps, notebook figures, the animation and the strip."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from explainer.errors import ImageError, OptionError, OutputError
from explainer.report import (
    difference_figure,
    image_panels,
    levels_figure,
    slider_figure,
    strip_figure,
    write_gif,
    write_strip,
)
from explainer.report.panels import (
    colour_table,
    colourise,
    data_uri,
    difference_limit,
    difference_panels,
    display_ranges,
    side_by_side,
)
from explainer.report.strip import format_level


def frames(count: int = 3, channels: int = 3) -> list[dict[str, Any]]:
    """Flat grey images that brighten; the last did not reach its level."""
    levels = np.linspace(0.1, 0.9, count)
    return [
        {
            "image": np.full((channels, 8, 8), level, dtype=np.float32),
            "level": float(level),
            "achieved": float(level) - (0.1 if index == count - 1 else 0.0),
            "reached": index < count - 1,
        }
        for index, level in enumerate(levels)
    ]


def decoded(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))


# Panels


def test_panels_follow_the_rule() -> None:
    grey = image_panels(np.zeros((1, 2, 3)))
    assert [(panel.name, panel.pixels.shape) for panel in grey] == [(None, (2, 3))]
    named = image_panels(np.zeros((1, 2, 3)), ["DNA"])
    assert [panel.name for panel in named] == ["DNA"]
    colour = image_panels(torch.zeros(3, 2, 3, requires_grad=True))
    assert [(panel.name, panel.pixels.shape) for panel in colour] == [(None, (2, 3, 3))]
    two = image_panels(np.zeros((2, 2, 3)))
    assert [panel.name for panel in two] == ["channel 1", "channel 2"]


def test_pixels_are_rounded_and_clipped() -> None:
    values = np.array([[[-0.1, 0.0, 1 / 255, 0.5, 1.0, 1.7]]])
    assert image_panels(values)[0].pixels.ravel().tolist() == [0, 0, 1, 128, 255, 255]


def test_colour_channels_keep_their_order() -> None:
    red = np.zeros((3, 1, 1))
    red[0] = 1
    assert image_panels(red)[0].pixels.ravel().tolist() == [255, 0, 0]


def test_images_are_left_unchanged() -> None:
    image = np.full((3, 4, 4), 0.25, dtype=np.float32)
    panel = image_panels(image)[0]
    panel.pixels[:] = 7
    difference_panels(image, image, 1.0)
    display_ranges([image])
    assert_array_equal(image, 0.25)


def test_wrong_images_are_named() -> None:
    with pytest.raises(ImageError, match=r"image: must have shape \(channels, height, width\) \(received"):
        image_panels(np.zeros((4, 4)))
    with pytest.raises(ImageError, match=r"holds values that are not finite \(received 1 of 16 values"):
        image_panels(np.where(np.arange(16).reshape(1, 4, 4) == 3, np.nan, 0.0))
    with pytest.raises(ImageError, match="must name every one of the 2 channels"):
        image_panels(np.zeros((2, 4, 4)), ["one"])
    with pytest.raises(ImageError, match=r"map: must have shape \(height, width\)"):
        colourise(np.zeros((1, 2, 2)), 1.0, signed=False)


def test_dim_channels_get_their_own_range_and_bright_ones_do_not() -> None:
    image = np.stack([np.linspace(0, 1, 64).reshape(8, 8), np.linspace(0, 0.004, 64).reshape(8, 8)])
    bright, dim = display_ranges([image, image])
    assert bright == (0.0, 1.0)
    assert_allclose(dim, np.percentile([image[1], image[1]], [0.1, 99.9]))
    shown = image_panels(image, ranges=[bright, dim])[1].pixels
    assert (shown.min(), shown.max()) == (0, 255)
    assert display_ranges([np.zeros((1, 4, 4))]) == [(0.0, 1.0)], "a black image stays black"


def test_side_by_side_puts_grey_and_colour_in_one_row() -> None:
    colour, grey = image_panels(np.zeros((3, 2, 2))), image_panels(np.zeros((1, 2, 2)))
    row = side_by_side([*colour, *grey], gap=1)
    assert row.shape == (2, 5, 3)
    assert (row[:, 2] == 255).all()


@pytest.mark.parametrize("kind", ["webp", "png"])
def test_data_uris_keep_every_pixel(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert_array_equal(decoded(data_uri(pixels, kind=kind)), pixels)


# Colour maps


def lightness(table: np.ndarray) -> np.ndarray:
    """Oklab lightness of 8-bit sRGB."""
    values = table / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cone = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cone) @ np.array([0.2104542553, 0.7936177850, -0.0040720468])


def test_unsigned_lightness_is_linear() -> None:
    measured = lightness(colour_table(False))
    assert_allclose(measured, 0.16 + 0.81 * np.linspace(0, 1, 255), atol=0.02)
    assert (np.diff(measured) > -0.004).all()


def test_signed_lightness_is_linear_and_alike_on_both_sides() -> None:
    measured = lightness(colour_table(True))
    assert_allclose(measured, 0.96 - 0.55 * np.abs(np.linspace(-1, 1, 255)), atol=0.03)
    assert_allclose(measured, measured[::-1], atol=0.03)
    table = colour_table(True).astype(int)
    assert table[0, 2] > table[0, 0], "blue for less"
    assert table[-1, 0] > table[-1, 2], "orange for more"


def test_colourise_sends_values_to_the_right_end() -> None:
    table = colour_table(True)
    colours = colourise(np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]), 1.0, signed=True)[0]
    assert_array_equal(colours, table[[0, 0, 127, 254, 254]])
    unsigned = colourise(np.array([[-1.0, 0.0, 1.0]]), 1.0, signed=False)[0]
    assert_array_equal(unsigned, colour_table(False)[[0, 0, 254]])


def test_difference_sign_and_average() -> None:
    """Brighter is orange, darker blue; the channels of a colour image are averaged."""
    before = np.full((3, 1, 2), 0.5)
    after = before.copy()
    after[:, 0, 0] += 0.2
    after[0, 0, 1], after[1, 0, 1] = 0.7, 0.3
    panel = difference_panels(after, before, 0.2)[0].pixels
    assert panel[0, 0].tolist() == colour_table(True)[-1].tolist()
    assert panel[0, 1].tolist() == colour_table(True)[127].tolist()
    per_channel = difference_panels(after, before, 0.2, ["a", "b", "c"])
    assert [each.name for each in per_channel] == ["a", "b", "c"]
    assert per_channel[1].pixels[0, 1].tolist() == colour_table(True)[0].tolist()


def test_difference_limit_ignores_what_is_not_finite_and_is_never_zero() -> None:
    assert difference_limit([np.array([[np.nan, 0.5, -0.5]])]) == pytest.approx(0.5)
    assert difference_limit([np.zeros((2, 2))]) == 1e-6


# Figures for notebooks


def test_strip_figure_has_one_exact_picture_per_frame() -> None:
    figure = strip_figure(frames(), original=frames()[0], title="walk")
    assert len(figure.data) == 4
    assert (decoded(figure.data[2].source) == 128).all()
    captions = [note.text for note in figure.layout.annotations]
    assert captions[0] == "original<br>0.10"
    assert captions[1] == "asked 0.10<br>achieved 0.10"
    assert captions[3] == "asked 0.90<br>achieved 0.80<br>✕ not reached"


def test_slider_figure_has_one_step_and_one_frame_per_level() -> None:
    shown = frames()
    figure = slider_figure(shown, original=shown[0])
    slider = figure.layout.sliders[0]
    assert [step.label for step in slider.steps] == [
        "asked 0.10, achieved 0.10",
        "asked 0.50, achieved 0.50",
        "asked 0.90, achieved 0.80, not reached",
    ]
    assert [frame.name for frame in figure.frames] == [step.args[0][0] for step in slider.steps]
    assert (decoded(figure.frames[1].data[0].source) == 128).all()
    first, last = decoded(figure.frames[0].data[1].source), decoded(figure.frames[2].data[1].source)
    assert first[0, 0].tolist() == colour_table(True)[127].tolist()
    assert last[0, 0].tolist() == colour_table(True)[254].tolist()
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["Play", "Pause"]


def test_levels_figure_shows_identity_band_and_misses() -> None:
    figure = levels_figure(frames(), original_level=0.3, tolerance=0.05, level_word="probability")
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name) == ["within ±0.05", "achieved = asked", "reached", "not reached"]
    assert_array_equal(by_name["achieved = asked"].x, by_name["achieved = asked"].y)
    assert_allclose(by_name["reached"].x, [0.1, 0.5])
    assert_allclose(by_name["not reached"].y, [0.8])
    assert figure.layout.shapes[0].y0 == 0.3


def test_levels_figure_leaves_out_what_was_not_asked() -> None:
    figure = levels_figure(frames()[:1], tolerance=None)
    assert [trace.name for trace in figure.data] == ["achieved = asked", "reached"]


def test_difference_figure_has_the_colour_bar_of_its_picture() -> None:
    figure = difference_figure(np.array([[-0.4, 0.0, 0.4]]), signed=True, unit="score per pixel")
    marker = figure.data[1].marker
    assert (marker.cmin, marker.cmax) == (-0.4, 0.4)
    assert marker.colorbar.title.text == "score per pixel"
    assert marker.colorscale[0][1] == "rgb(0,74,144)"
    assert decoded(figure.data[0].source)[0, 0].tolist() == [0, 74, 144]


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "</script>", "<a href='javascript:1'>x</a>"]
)
def test_names_in_figures_are_escaped(name: str) -> None:
    shown = frames()
    for figure in (
        strip_figure(shown, title=name),
        slider_figure(shown, original=shown[0], title=name),
        levels_figure(shown, level_word=name),
        difference_figure(np.ones((2, 2)), name=name, unit=name),
    ):
        text = figure.to_json()
        assert "\\u003cimg" not in text
        assert "<img" not in text
        assert "<a " not in text
        assert "</script>" not in text


def test_figures_show_every_named_channel() -> None:
    shown = frames(channels=4)
    figure = strip_figure(shown, channel_names=["a", "b", "c", "d"])
    assert decoded(figure.data[0].source).shape == (8, 4 * 8 + 3)


@pytest.mark.parametrize("figure", [strip_figure, levels_figure])
def test_no_frames_is_an_error(figure: Any) -> None:
    with pytest.raises(OptionError, match="frames: must hold at least one frame"):
        figure([])


# Animation and strip


def test_levels_are_formatted_for_reading() -> None:
    assert [format_level(value) for value in (0.0, 1.0, -0.004, 37.2, -5.0, float("inf"))] == [
        "0.00", "1.00", "-0.00", "37.2", "-5", "inf",
    ]  # fmt: skip


def test_gif_runs_forth_and_back_with_long_ends(tmp_path: Path) -> None:
    path = write_gif(frames(4), tmp_path / "walk.gif", seconds_per_frame=0.1)
    with Image.open(path) as animation:
        assert animation.n_frames == 6
        assert animation.info["loop"] == 0
        assert animation.width >= 256
        assert animation.height > 256
        brightness, durations = [], []
        for index in range(animation.n_frames):
            animation.seek(index)
            durations.append(animation.info["duration"])
            brightness.append(int(np.asarray(animation.convert("L"))[128, 128]))
    assert durations == [300, 100, 100, 300, 100, 100]
    assert_allclose(brightness, [26, 94, 162, 230, 162, 94], atol=3)


def test_gif_caption_tells_a_miss(tmp_path: Path) -> None:
    """The caption is drawn, and drawn in the warning colour where the level was not reached."""
    with Image.open(write_gif(frames(2), tmp_path / "walk.gif")) as animation:
        captions = []
        for index in range(2):
            animation.seek(index)
            captions.append(np.asarray(animation.convert("RGB")).astype(int)[262:])
    reddish = [int(((c[..., 0] - c[..., 2]) > 60).sum()) for c in captions]
    dark = [int((c.max(axis=2) < 90).sum()) for c in captions]
    assert reddish[0] == 0
    assert reddish[1] > 50
    assert dark[0] > 50


def test_gif_of_one_frame_and_of_wide_panels(tmp_path: Path) -> None:
    with Image.open(write_gif(frames(1), tmp_path / "one.gif")) as animation:
        assert getattr(animation, "n_frames", 1) == 1
    many = write_gif(frames(2, channels=4), tmp_path / "many.gif", channel_names=list("abcd"))
    with Image.open(many) as animation:
        assert animation.width >= 4 * 256


def test_strip_has_every_frame_in_order_and_the_original_first(tmp_path: Path) -> None:
    shown = frames(3)
    bright = {"image": np.ones((3, 8, 8)), "level": 0.7}
    with Image.open(write_strip(shown, tmp_path / "strip.png", original=bright, size=64)) as picture:
        pixels = np.asarray(picture.convert("L"))
    centres = [10 + 32, 10 + 64 + 22 + 32, 10 + 2 * 64 + 22 + 6 + 32, 10 + 3 * 64 + 22 + 12 + 32]
    assert pixels[10 + 32, centres].tolist() == [255, 26, 128, 229]
    assert pixels.shape[1] == centres[-1] + 32 + 10
    with Image.open(write_strip(shown, tmp_path / "plain.png", size=64)) as plain:
        assert plain.width == 10 + 3 * 64 + 2 * 6 + 10


def test_strip_captions_are_drawn_below_each_frame(tmp_path: Path) -> None:
    with Image.open(write_strip(frames(3), tmp_path / "strip.png", size=96)) as picture:
        below = np.asarray(picture.convert("L"))[10 + 96 + 4 :]
    for index in range(3):
        left = 10 + index * (96 + 6)
        assert (below[:, left : left + 96] < 140).sum() > 40


@pytest.mark.parametrize("write", [write_gif, write_strip])
def test_wrong_places_and_options_are_named(write: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="path: is a folder"):
        write(frames(), tmp_path)
    with pytest.raises(OutputError, match="Create the folder first"):
        write(frames(), tmp_path / "missing" / "walk.gif")
    with pytest.raises(OptionError, match="frames: must hold at least one frame"):
        write([], tmp_path / "walk.gif")
    with pytest.raises(OptionError, match="size: must lie between 16 and 4096 pixels"):
        write(frames(), tmp_path / "walk.gif", size=1)
    assert list(tmp_path.iterdir()) == []


def test_gif_speed_is_checked(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"seconds_per_frame: must lie between .02 and 60 \(received 0\)"):
        write_gif(frames(), tmp_path / "walk.gif", seconds_per_frame=0)


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    one = write_gif(frames(), tmp_path / "one.gif").read_bytes()
    assert write_gif(frames(), tmp_path / "two.gif").read_bytes() == one
