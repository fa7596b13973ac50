"""The map of a code and strips along an axis: the right points, the right images, nothing unescaped."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from toys import LinearGenerator, toy_images

from explainer.errors import OptionError, OutputError
from explainer.generators import Axis, NamedAxes
from explainer.report.latent_map import HEADER, chosen_ids, latent_map, latent_page, traversal


@pytest.fixture(scope="module")
def generator():
    named = LinearGenerator().eval()
    axes = Axis("light", low="dim", high="<bright>", span=(-1.0, 0.0, 1.0)), Axis("other")
    named.axes = NamedAxes(axes, torch.zeros(6), torch.eye(6)[[1, 4]])
    return named


def points(figure):
    return np.concatenate([np.stack([trace.x, trace.y], axis=1) for trace in figure.data])


def test_a_code_of_two_dimensions_is_shown_as_it_is():
    generator, images = LinearGenerator(latent_dim=2), toy_images(5)
    figure = latent_map(generator, images)
    assert_allclose(points(figure), generator.encode(images).numpy(), atol=1e-6)
    assert figure.layout.xaxis.title.text == "dimension 0"


def test_another_code_is_shown_along_named_axes_or_principal_components(generator):
    images = toy_images(30)
    codes = generator.encode(images)
    along = latent_map(generator, images, axes=("light", "other"))
    assert_allclose(points(along), codes[:, [1, 4]].numpy(), atol=1e-6)
    assert along.layout.xaxis.title.text == "light: dim → &lt;bright&gt;"
    plain = points(latent_map(generator, images))
    variances = np.linalg.eigvalsh(np.cov(codes.numpy().T))[::-1]
    assert_allclose(plain.var(axis=0, ddof=1), variances[:2], rtol=1e-4)


def test_points_carry_their_ids_and_their_images(generator):
    images = toy_images(6)
    labels = ["a", "b", "a", "b", "a", "<i>"]
    figure = latent_map(
        generator, images, labels, ids=[f"img-{row}" for row in range(6)], anchors={"<x>": (0, 0)}
    )
    assert [trace.name for trace in figure.data[:3]] == ["&lt;i&gt;", "a", "b"]
    assert chosen_ids(figure, [(1, 1), {"curveNumber": 2, "pointNumber": 0}]) == ["img-2", "img-1"]
    uri = figure.data[1].customdata[1][1]
    kind, content = uri.split(",", 1)
    assert kind.startswith("data:image/")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L")) / 255
    assert_allclose(picture, images[2, 0].numpy(), atol=0.02)
    with pytest.raises(OptionError, match="points: are not of this map"):
        chosen_ids(figure, [(0, 99)])


def test_numbers_are_a_scale_of_colours(generator):
    figure = latent_map(generator, toy_images(12), np.linspace(0, 1, 12))
    assert figure.data[0].marker.showscale


def test_the_page_is_one_file_that_asks_for_nothing_and_shows_hostile_names_as_text(generator, tmp_path):
    hostile = "</script><img src=x onerror=alert(1)>"
    figure = latent_map(generator, toy_images(3), [hostile] * 3, ids=[hostile, "b", "c"], title=hostile)
    page = latent_page(figure, tmp_path / "map.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert page.count("</script>") == page.count("<script")
    assert not re.findall(r'src="https?:', page)
    assert "default-src 'none'" in page
    (buttons,) = re.findall(r'"modeBarButtons": \[\[(.*?)\]\]', page)
    assert "lasso2d" in buttons
    assert "cloud" not in buttons.lower(), "images stay here"
    with pytest.raises(OutputError):
        latent_page(figure, tmp_path / "none" / "map.html")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": ["a"]}, "labels: must be one for each of the 12 images"),
        ({"ids": ["a"]}, "ids: must be one for each of the 12 images"),
        ({"labels": list("abcdefghijkl")}, "labels: have 12 classes"),
        ({"axes": ("light", "none")}, "axes: names no axis"),
    ],
)
def test_what_cannot_be_shown_is_refused(generator, options, said):
    with pytest.raises(OptionError) as caught:
        latent_map(generator, toy_images(12), **options)
    assert str(caught.value).startswith(said)


def test_one_image_and_axes_without_names_are_refused(generator):
    with pytest.raises(OptionError, match="images: must be 2 to 3,000"):
        latent_map(generator, toy_images(1))
    with pytest.raises(OptionError, match="axes: needs a generator with named axes"):
        latent_map(LinearGenerator(), toy_images(3), axes=("a", "b"))


def test_a_strip_goes_from_the_low_to_the_high_end(generator, tmp_path):
    images = toy_images(2)
    strip = traversal(generator, "light", images, steps=5, path=tmp_path / "strip.png")
    zoom = 4
    assert strip.size == (5 * 16 * zoom, 32 * zoom + HEADER)
    written = np.asarray(strip.convert("L"))[:HEADER] < 128
    thirds = [part.sum() for part in np.array_split(written, 3, axis=1)]
    assert min(thirds) > 20  # dim, light, <bright>
    pixels = np.asarray(strip.convert("L"))[HEADER:] / 255
    codes = generator.encode(images)
    codes[:, 1] = -1.0
    expected = generator.decode(codes)[:, 0].numpy().reshape(32, 16)
    assert_allclose(pixels[::zoom, : 16 * zoom : zoom], expected, atol=0.02)
    codes[:, 1] = 1.0
    expected = generator.decode(codes)[:, 0].numpy().reshape(32, 16)
    assert_allclose(pixels[::zoom, -16 * zoom :: zoom], expected, atol=0.02)
    assert (tmp_path / "strip.png").read_bytes().startswith(b"\x89PNG")


def test_a_dimension_has_a_strip_too(generator):
    strip = traversal(generator, 2, steps=3)
    first = np.asarray(strip.convert("L"))[HEADER::4, :64:4] / 255
    code = torch.zeros(1, 6)
    code[0, 2] = -1.6
    assert_allclose(first, generator.decode(code)[0, 0].numpy(), atol=0.02)


def test_long_names_of_ends_do_not_run_into_each_other():
    named = LinearGenerator().eval()
    axis = Axis("a name that is far too long for a line " * 3, low="l" * 200, high="h" * 200)
    named.axes = NamedAxes((axis,), torch.zeros(6), torch.eye(6)[:1])
    header = np.asarray(traversal(named, axis.name, steps=3).convert("L"))[:HEADER] < 128
    third = header.shape[1] // 3
    assert header[:, :third].any()
    assert not header[:, third - 2 : third + 2].any()
    assert not header[:, 2 * third - 2 : 2 * third + 2].any()


@pytest.mark.parametrize(("axis", "said"), [("none", "axis: names no axis"), (9, "axis: is no dimension")])
def test_an_unknown_axis_is_refused(generator, axis, said):
    with pytest.raises(OptionError) as caught:
        traversal(generator, axis)
    assert str(caught.value).startswith(said)
    with pytest.raises(OptionError, match="steps: must be at least 2"):
        traversal(generator, "light", steps=1)
    with pytest.raises(OptionError, match="needs a generator with named axes"):
        traversal(LinearGenerator(), "light")
