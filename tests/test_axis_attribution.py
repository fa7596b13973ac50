"""The change of the score by named axis, walks held to axes, and walks to a named cluster."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer import Classifier, Explanation, explain, explain_many
from explainer.axis_attribution import AxisAttribution, AxisTerm, attribute_to_axes, walked_path
from explainer.bias.evidence import Evidence
from explainer.bias.walking import cross
from explainer.errors import OptionError
from explainer.generators import Axis, GaussianMixtureVAE, NamedAxes, load_generator
from explainer.walks import ClusterWalk, ConditionalWalk, GradientWalk, Scene
from explainer.walks.base import require_levels

AXES = NamedAxes(
    (Axis("first", low="little", high="much"), Axis("<b>last</b>")), torch.zeros(6), torch.eye(6)[[0, 5]]
)


@pytest.fixture(scope="module")
def generator():
    named = LinearGenerator().eval()
    named.axes = AXES
    return named


@pytest.fixture(scope="module")
def model(generator):
    return LogisticClassifier(generator)


@pytest.fixture(scope="module")
def image():
    return toy_images(1, seed=4)[0]


def slope(generator, model):
    return (generator.basis.T @ model.weight.detach()).double()


def test_the_terms_of_a_linear_generator_are_slope_times_move(generator, model, image):
    found = explain(image, model, generator=generator)
    parts = found.attribution_by_axis
    g = slope(generator, model)
    moved = (found.latents[-1] - found.latents[0]).double()
    assert_allclose([term.value for term in parts.terms], (g * moved)[[0, 5]], rtol=1e-4)
    assert_allclose([term.moved for term in parts.terms], moved[[0, 5]], rtol=1e-4)
    assert_allclose(parts.unnamed, (g * moved)[1:5].sum(), rtol=1e-4)
    assert_allclose(parts.change, found.frames["score"].iloc[-1] - found.frames["score"].iloc[0], rtol=1e-5)
    assert parts.error < 1e-3
    assert parts.points >= 32
    # The minimal move is along the slope (1, 1.2, ... 2): shares are those of its squares.
    squares = torch.linspace(1, 2, 6).double().square()
    assert_allclose(list(parts.shares.values()), (squares / squares.sum())[[0, 5]], rtol=1e-3)
    assert parts.terms[0].towards == "much"
    assert parts.unnamed_dominates
    assert parts.warnings[0].startswith("Most of the move has no name")


class Bent(LinearGenerator):
    """A generator whose carried detail fades where the walk changes the image."""

    def __init__(self):
        super().__init__()
        self.tau = 0.02

    def _decode(self, codes):
        return 0.5 + 0.3 * torch.sin(super()._decode(codes) - 0.5)


def test_the_parts_add_up_with_all_of_the_gradient_and_do_not_without():
    generator = Bent().eval()
    generator.axes = AXES
    model = LogisticClassifier(generator, scale=40.0)
    wrapped = Classifier(model)
    images = (
        toy_images(3) + 0.3 * torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)
    wrapped.check(images)
    with wrapped.frozen():
        scene = Scene(generator, wrapped, wrapped.target(None, images), images)
        codes = torch.stack([scene.z[0], scene.z[0] + 0.3, scene.z[0] + torch.linspace(0.2, 1, 6)])
        (whole,) = attribute_to_axes(scene, [(0, codes)], AXES)
        assert abs(whole.change) > 0.1
        assert whole.error < 0.01
        total = sum(term.value for term in whole.terms) + whole.unnamed
        assert_allclose(total, whole.change, rtol=0.01)
        detached = scene.score_and_gradient
        scene.score_and_gradient = lambda z, rows, full: detached(z, rows)
        (partial,) = attribute_to_axes(scene, [(0, codes)], AXES)
    assert partial.error > 0.05


def test_the_path_goes_through_the_image_where_its_own_level_is(generator, model):
    images = toy_images(1)
    wrapped = Classifier(model)
    wrapped.check(images)
    scene = Scene(generator, wrapped, wrapped.target(None, images), images)
    own = float(scene.score0.sigmoid())
    levels = torch.tensor([own - 0.01, own + 0.01, own + 0.02]).double()
    latents = torch.arange(3.0)[:, None].repeat(1, 6)
    path = walked_path(scene, 0, latents, levels)
    assert path[:, 0].tolist() == [0.0, float(scene.z[0, 0]), 1.0, 2.0]
    above = walked_path(scene, 0, latents, levels + 0.5)
    assert above[0, 0] == scene.z[0, 0]


def test_a_path_that_does_not_move_has_nothing_to_attribute(generator, model):
    images = toy_images(1)
    wrapped = Classifier(model)
    wrapped.check(images)
    scene = Scene(generator, wrapped, wrapped.target(None, images), images)
    (still,) = attribute_to_axes(scene, [(0, scene.z.repeat(3, 1))], AXES)
    assert still.shares == {}
    assert still.unnamed == 0
    assert still.sentence.startswith("The score did not change")


def test_an_error_of_the_sum_is_a_warning():
    parts = (AxisTerm("a", 2.0, 1.0, ""), AxisTerm("b", -0.5, 1.0, ""))
    assert AxisAttribution(parts, 0.2, 1.7, 0.0, (0.1, 0.9), 32).warnings == ()
    assert "miss 3.0%" in AxisAttribution(parts, 0.2, 1.7, 0.03, (0.1, 0.9), 32).warnings[0]


def test_parts_that_cancel_do_not_hide_that_the_change_has_no_name():
    parts = AxisTerm("a", 2.0, 1.0, ""), AxisTerm("b", -2.0, 1.0, "")
    found = AxisAttribution(parts, 1.0, 1.0, 0.0, (0.2, 0.8), 32)
    assert found.unnamed_dominates
    assert "Most of the move has no name" in found.warnings[0]
    assert not AxisAttribution((parts[0],), 1.0, 3.0, 0.0, (0.2, 0.8), 32).unnamed_dominates


def test_it_is_saved_and_shown_with_names_escaped(tmp_path, generator, model, image):
    found = explain(image, model, generator=generator)
    found.save(tmp_path / "e")
    assert Explanation.load(tmp_path / "e").attribution_by_axis == found.attribution_by_axis
    record = json.loads((tmp_path / "e" / "explanation.json").read_text())
    assert record["attribution_by_axis"]["sentence"] == found.attribution_by_axis.sentence
    page = found.to_html(tmp_path / "e.html").read_text()
    assert "The walk in words" in page
    assert "&lt;b&gt;last" in page
    assert "<b>last" not in page


def test_without_named_axes_there_is_none_and_the_page_has_no_such_section(tmp_path, model, image):
    found = explain(image, model, generator=LinearGenerator().eval())
    assert found.attribution_by_axis is None
    assert "The walk in words" not in found.to_html(tmp_path / "e.html").read_text()
    found.save(tmp_path / "e")
    assert Explanation.load(tmp_path / "e").attribution_by_axis is None


def test_a_classifier_without_a_gradient_is_not_attributed_and_says_so(generator, model, image):
    weight, offset = model.weight.detach(), model.offset.detach()

    def remote(images):
        return torch.from_numpy(((images - 0.5).flatten(1) @ weight + offset).numpy().copy())

    found = explain(image, remote, generator=generator, along=["first"], levels=[0.3, 0.7])
    assert found.attribution_by_axis is None
    assert any("not attributed to the named axes" in each for each in found.assumptions)
    moves = found.latents - generator.encode(image[None])
    assert float(moves[:, 1:].abs().max()) < 1e-4
    assert bool(found.frames["reached"].all())


# -- walks held to axes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", ["gradient", "linear", "evolution"])
@pytest.mark.parametrize(("along", "lock"), [(["first"], []), ([], ["first"]), (["first"], ["<b>last</b>"])])
def test_walks_move_only_where_they_may(generator, model, image, walk, along, lock):
    found = explain(image, model, generator=generator, walk=walk, along=along, lock=lock, levels=[0.2, 0.8])
    assert bool(found.frames["reached"].all())
    moves = (found.latents - generator.encode(image[None])).abs()
    still = slice(1, 6) if along else slice(0, 1)
    assert float(moves[:, still].max()) < 1e-4
    assert float(moves.max()) > 0.1
    said = " ".join(found.assumptions)
    assert ("held to" in said) == bool(along)
    assert ("kept off" in said) == bool(lock)
    assert found.provenance["options"].get("along", []) == along


def test_the_parts_of_oblique_axes_are_slope_along_times_what_is_read(generator, model, image):
    random = torch.Generator().manual_seed(3)
    read = torch.randn(2, 6, generator=random)
    pattern = torch.randn(2, 6, generator=random)
    oblique = LinearGenerator().eval()
    directions = torch.linalg.solve(pattern @ read.T, pattern)
    oblique.axes = NamedAxes(AXES.axes, torch.zeros(6), directions, readings=read)
    found = explain(image, model, generator=oblique)
    parts = found.attribution_by_axis
    move = (found.latents[-1] - found.latents[0]).double()
    expected = (directions.double() @ slope(generator, model)) * (read.double() @ move)
    assert_allclose([term.value for term in parts.terms], expected, rtol=1e-3)
    assert_allclose([term.moved for term in parts.terms], read.double() @ move, rtol=1e-3)
    assert_allclose(sum(term.value for term in parts.terms) + parts.unnamed, parts.change, rtol=1e-3)
    assert min(abs(term.value) for term in parts.terms) > 0.02


def test_a_walk_along_one_axis_is_all_of_that_axis(generator, model, image):
    parts = explain(image, model, generator=generator, along=["first"]).attribution_by_axis
    assert_allclose(parts.shares["first"], 1, atol=1e-3)
    assert_allclose(parts.unnamed_share, 0, atol=1e-3)
    assert parts.warnings == ()


def test_several_walks_can_be_held_too(generator, model, image):
    found = explain(image, model, generator=generator, lock=["first"], diverse=2, levels=[0.3, 0.7])
    moves = found.alternatives[0].latents - generator.encode(image[None])
    assert float(moves[:, 0].abs().max()) < 1e-4


def test_many_images_are_held_alike(generator, model):
    found = explain_many(toy_images(3), model, generator=generator, along=["first"], levels=[0.3, 0.7])
    assert all("held to" in " ".join(each.assumptions) for each in found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"along": ["third"]}, 'along: names no axis (received third). Named are: "first", "<b>last</b>".'),
        ({"along": "first"}, "along: must be a list of names of axes"),
        ({"along": ["first"], "lock": ["first"]}, "along, lock: must not name the same axis"),
        ({"lock": ["first"], "sparsity": 0.5}, "sparsity: holds dimensions still"),
        ({"towards": "x", "lock": ["first"]}, "towards: says the way to go"),
        ({"towards": "x"}, "towards: needs a generator with clusters"),
    ],
)
def test_what_cannot_be_asked_is_refused(generator, model, image, options, said):
    with pytest.raises(OptionError) as caught:
        explain(image, model, generator=generator, **options)
    assert str(caught.value).startswith(said)


def test_a_generator_without_names_is_refused(model, image):
    with pytest.raises(OptionError, match="lock: needs a generator with named axes"):
        explain(image, model, generator=LinearGenerator().eval(), lock=["first"])


class Straying(GradientWalk):
    """A walk that knows nothing of where it may go."""

    name = "straying"

    def look(self, scene, z, rows):
        scores, slopes = super().look(scene, z, rows)
        return scores, slopes + 0.1


def test_walks_that_cannot_be_held_are_refused(generator, model, image):
    wrapped = Classifier(model)
    trained = ConditionalWalk.fit(generator, wrapped, toy_images(8), steps=2, batch_size=4)
    for walk in (trained, Straying()):
        with pytest.raises(OptionError, match=f"cannot be kept by this walk .received the {walk.name} walk"):
            explain(image, model, generator=generator, walk=walk, along=["first"])


# -- named clusters ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture():
    made = GaussianMixtureVAE(
        (1, 16, 16), 3, 2, widths=(4, 8), encoder_blocks=(0, 0), decoder_blocks=(0, 0)
    ).eval()
    return made.requires_grad_(False).name_clusters({1: "round"})


class Sum(nn.Module):
    def forward(self, images):
        return 300 * (images.mean(dim=(1, 2, 3)) - 0.5)


def test_a_walk_to_a_cluster_is_straight_and_ends_in_its_middle(mixture):
    images = toy_images(2)
    wrapped = Classifier(Sum())
    wrapped.check(images)
    scene = Scene(mixture, wrapped, wrapped.target(None, images), images)
    middle = mixture.prior().means[1]
    end = scene.score(middle[None], torch.tensor([0]))
    up = bool(end > scene.score0[0])
    levels = require_levels([1e-6, 1 - 1e-6])
    result = ClusterWalk("round")(scene, levels)
    walked = result.latents[0, 1 if up else 0] - scene.z[0]
    way = middle - scene.z[0]
    assert_allclose((walked @ way) ** 2, walked.square().sum() * way.square().sum(), rtol=1e-3)
    assert 0 < float(walked @ way) <= float(way @ way) * 1.001
    said = [reason for reasons in result.reasons for reason in reasons]
    assert any('the way to the cluster "round" does not lead there' in reason for reason in said)


def test_a_level_passed_on_the_way_is_reached(mixture):
    image = toy_images(1)[0]
    wrapped = Classifier(Sum())
    wrapped.check(image[None])
    scene = Scene(mixture, wrapped, wrapped.target(None, image[None]), image[None])
    end = scene.score(mixture.prior().means[[1]], torch.tensor([0]))
    middle = float(((scene.score0 + end) / 2).sigmoid())
    found = explain(image, wrapped, generator=mixture, towards="round", levels=[middle])
    assert bool(found.frames["reached"].all())
    assert found.provenance["options"]["walk"] == "cluster"
    assert found.provenance["options"]["towards"] == "round"


def test_names_of_clusters_are_saved_and_checked(mixture, tmp_path):
    mixture.save(tmp_path / "m")
    back = load_generator(tmp_path / "m")
    assert back.cluster_names == {1: "round"}
    assert (back.cluster_number("round"), back.cluster_number(0)) == (1, 0)
    for call, said in (
        (lambda: back.name_clusters({5: "x"}), "names: must be a name for each component"),
        (lambda: back.name_clusters({0: "round"}), "names: must differ"),
        (
            lambda: back.cluster_number("square"),
            'cluster: is not known (received square). Named are: "round"',
        ),
        (lambda: ClusterWalk("round", points=0), "points: must be at least 1"),
    ):
        with pytest.raises(OptionError) as caught:
            call()
        assert str(caught.value).startswith(said)


def test_an_attribution_is_itself_again(generator, model, image):
    parts = explain(image, model, generator=generator).attribution_by_axis
    assert AxisAttribution.from_record(json.loads(json.dumps(parts.record()))) == parts
    assert AxisAttribution.from_record(None) is None
    assert replace(parts, change=0.0).unnamed_share != replace(parts, change=0.0).unnamed_share


# -- audits ------------------------------------------------------------------------------------------------


def test_an_audit_has_the_mean_of_its_walks_from_start_to_end(generator, model):
    images = toy_images(6)
    wrapped = Classifier(model)
    wrapped.check(images)
    target = wrapped.target(None, images)
    crossing = cross(generator, wrapped, target, images, np.arange(6))
    assert crossing.crossed.any()
    evidence = SimpleNamespace(generator=generator)
    found = Evidence._by_axis(evidence, wrapped, target, images, crossing)
    squares = torch.linspace(1, 2, 6).double().square()
    assert_allclose(list(found.shares.values()), (squares / squares.sum())[[0, 5]], rtol=1e-3)
    assert found.change > 0
    assert found.error < 0.01
    done = np.flatnonzero(crossing.crossed)
    own = torch.logit(torch.from_numpy(crossing.level[done]))
    ends = torch.where(torch.from_numpy(crossing.direction[done] > 0), 0.9, 0.1).double()
    assert_allclose(found.change, (torch.logit(ends) - own).abs().mean(), rtol=0.01)
    nameless = SimpleNamespace(generator=LinearGenerator().eval())
    assert Evidence._by_axis(nameless, wrapped, target, images, crossing) is None
