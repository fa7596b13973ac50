"""What every walk must do, and what the base does for all of them."""

import json

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError
from explainer.image import resize
from explainer.target import Target
from explainer.walks import ConditionalWalk, EvolutionWalk, GradientWalk, LinearWalk, Scene
from explainer.walks.base import require_levels
from explainer.walks.scene import BATCH_SIZES

LEVELS = require_levels([0.02, 0.1, 0.4, 0.6, 0.9, 0.98])


def scene_of(images, generator=None, model=None, **options):
    generator = generator or LinearGenerator()
    classifier = Classifier(model or LogisticClassifier(generator))
    classifier.check(images)
    return Scene(generator, classifier, classifier.target(None, images), images, **options)


def test_the_walk_of_a_linear_generator_is_the_closed_form_minimal_move():
    images = toy_images(3)
    scene = scene_of(images)
    result = GradientWalk()(scene, LEVELS)
    gradient = scene.generator.basis.T @ scene.classifier.model.weight.detach()
    gap = torch.logit(LEVELS)[None] - scene.score0[:, None]
    exact = scene.z[:, None] + (gap / gradient.square().sum())[..., None] * gradient
    assert_allclose(result.latents, exact.float(), atol=1e-5)
    assert result.reasons == [[""] * len(LEVELS)] * 3


def test_a_short_trust_radius_takes_more_steps_to_the_same_frames():
    images = toy_images(2)
    far, near = scene_of(images), scene_of(images)
    direct, patient = GradientWalk(radius=50)(far, LEVELS), GradientWalk(radius=0.1)(near, LEVELS)
    assert_allclose(direct.latents, patient.latents, atol=1e-4)
    assert patient.gradients > 2 * direct.gradients


class Curved(nn.Module):
    """A score that bends and saturates along the code, so interpolation has work to do."""

    def __init__(self, weight, ceiling):
        super().__init__()
        self.register_buffer("weight", weight)
        self.ceiling = ceiling

    def forward(self, images):
        score = (images - 0.5).flatten(1) @ self.weight
        return self.ceiling * torch.tanh(score + 0.2 * torch.sin(3 * score))


def curved(ceiling):
    generator = LinearGenerator()
    return generator, Curved(4 * generator.basis @ torch.ones(6), ceiling)


# -- the contract ----------------------------------------------------------------------------------------

KINDS = ("gradient", "linear", "evolution", "conditional")


def walk_for(kind, scene):
    """A walk of each kind; the conditional one is trained on other images of the toy."""
    if kind == "conditional":
        images = toy_images(64, seed=9)
        images = images[scene.classifier.raw(images).isfinite().flatten()]
        return ConditionalWalk.fit(
            scene.generator, scene.classifier, images, target=scene.target,
            steps=15, learning_rate=1e-3, width=16,
        )  # fmt: skip
    return {"gradient": GradientWalk, "linear": LinearWalk, "evolution": EvolutionWalk}[kind]()


def achieved(scene, result):
    count, levels = result.latents.shape[:2]
    rows = torch.arange(count).repeat_interleave(levels)
    return scene.target.to_level(scene.score(result.latents.flatten(0, 1), rows).double()).view(count, levels)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_every_walk_is_exact_on_the_linear_toy(kind):
    images = toy_images(3)
    scene = scene_of(images)
    result = walk_for(kind, scene)(scene, LEVELS)
    gradient = scene.generator.basis.T @ scene.classifier.model.weight.detach()
    gap = torch.logit(LEVELS)[None] - scene.score0[:, None]
    exact = scene.z[:, None] + (gap / gradient.square().sum())[..., None] * gradient
    assert_allclose(result.latents, exact.float(), atol=0.12 if kind == "conditional" else 2e-3)
    assert_allclose(achieved(scene, result), LEVELS.expand(3, -1), atol=0.011)
    assert result.reasons == [[""] * len(LEVELS)] * 3
    assert result.evaluations > 0
    json.dumps(walk_for("gradient", scene).options(), allow_nan=False)


def test_every_walk_reaches_the_levels_of_a_nonlinear_score(kind):
    generator, model = curved(ceiling=6.0)
    scene = scene_of(toy_images(5), generator, model)
    result = walk_for(kind, scene)(scene, LEVELS)
    assert result.reasons == [[""] * len(LEVELS)] * 5
    assert_allclose(achieved(scene, result), LEVELS.expand(5, -1), atol=0.011)
    assert (achieved(scene, result).diff(dim=1) > 0).all()


def test_every_walk_is_the_same_batched_and_alone_and_leaves_what_it_was_given(kind):
    generator, model = curved(ceiling=6.0)
    images = toy_images(4, seed=3)
    kept, weights = images.clone(), model.weight.clone()
    walk = walk_for(kind, scene_of(images, generator, model))
    together = walk(scene_of(images, generator, model), LEVELS).latents
    apart = torch.cat([walk(scene_of(image[None], generator, model), LEVELS).latents for image in images])
    assert_allclose(together, apart, atol=1e-4)
    assert torch.equal(images, kept)
    assert torch.equal(model.weight, weights)
    assert all(tensor.grad is None for tensor in (*generator.parameters(), *model.parameters()))
    assert model.training, "scene_of does not freeze, and the walk changed it"


@pytest.mark.parametrize("count", [1, 2, 25])
def test_every_walk_takes_any_number_of_levels(kind, count):
    levels = require_levels(torch.linspace(0.03, 0.97, count) if count > 1 else [0.8])
    scene = scene_of(toy_images(2))
    result = walk_for(kind, scene)(scene, levels)
    assert result.latents.shape == (2, count, 6)
    assert_allclose(achieved(scene, result), levels.expand(2, -1), atol=0.011)


def test_every_walk_takes_the_values_of_a_regression(kind):
    generator = LinearGenerator()
    model = LogisticClassifier(generator)
    value = lambda images: 100 + 20 * model(images)  # noqa: E731
    classifier = Classifier(value, kind="regression", reference=value(toy_images(200, seed=1)).detach())
    images = toy_images(3)
    classifier.check(images)
    target = classifier.target(None, images)
    levels = require_levels([60, 110, 150], target)
    scene = Scene(generator, classifier, target, images)
    result = walk_for(kind, scene)(scene, levels)
    assert result.reasons == [[""] * 3] * 3
    assert_allclose(achieved(scene, result), levels.expand(3, -1), atol=0.55 * target.tolerance)


def test_every_walk_goes_towards_and_away_from_uncertainty(kind):
    generator = LinearGenerator()
    classifier = Classifier(LogisticClassifier(generator))
    images = toy_images(3)
    classifier.check(images)
    scene = Scene(generator, classifier, classifier.target("uncertainty", images), images)
    levels = require_levels([0.2, 0.5, 0.9])
    result = walk_for(kind, scene)(scene, levels)
    assert result.reasons == [[""] * 3] * 3
    assert_allclose(achieved(scene, result), levels.expand(3, -1), atol=0.011)


class Plateau(nn.Module):
    """A score without any slope around the toy images, though black and white images differ."""

    def forward(self, images):
        return images.mean(dim=(1, 2, 3)).sub(0.5).mul(40).clamp(-15, -9) + 0 * images.sum(dim=(1, 2, 3))


class Wall(nn.Module):
    """A score that is not a number beyond 1."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, images):
        score = (images - 0.5).flatten(1) @ self.weight
        return torch.where(score > 1, torch.nan, score)


def test_every_walk_stops_on_a_plateau_and_says_so(kind):
    generator = LinearGenerator()
    classifier = Classifier(Plateau())
    images = toy_images(2)
    classifier.check(images)
    scene = Scene(generator, classifier, classifier.target(None, images), images)
    result = walk_for(kind, scene)(scene, require_levels([0.5, 0.9]))
    assert result.reasons[0][1] == "level 0.90 not reached: the gradient vanished at 0.00"
    assert result.latents.isfinite().all()


def test_every_walk_stops_where_the_score_is_not_a_number(kind):
    generator = LinearGenerator()
    classifier = Classifier(Wall(4 * generator.basis @ torch.ones(6)))
    images = toy_images(8)
    classifier._differentiable = True  # check() would refuse it
    images = images[classifier.raw(images).flatten() < 0.5]
    scene = Scene(generator, classifier, classifier.target("class 1", images), images)
    result = walk_for(kind, scene)(scene, require_levels([0.05, 0.9]))
    assert len(images) >= 3
    for near, far in result.reasons:
        assert near == ""
        assert far.startswith("level 0.90 not reached: ")
    assert result.latents.isfinite().all()
    assert scene.score(result.latents[:, 1], torch.arange(len(images))).isfinite().all()


def test_an_image_whose_own_score_is_not_a_number_is_not_counted_as_reached():
    generator = LinearGenerator()
    classifier = Classifier(Wall(40 * generator.basis @ torch.ones(6)))
    classifier._differentiable = True
    images = toy_images(8)
    scene = Scene(generator, classifier, classifier.target("class 1", images), images)
    lost = scene.score0.isnan()
    assert 0 < int(lost.sum()) < 8
    reasons = GradientWalk()(scene, require_levels([0.4])).reasons
    for row, is_lost in zip(reasons, lost.tolist(), strict=True):
        expected = (
            "level 0.40 not reached: the classifier's score of the image is not finite" if is_lost else ""
        )
        assert row == [expected]


# -- masks -----------------------------------------------------------------------------------------------


def test_outside_the_mask_a_frame_is_the_image_and_levels_hold_with_the_mask_on(kind):
    images = toy_images(3)
    mask = torch.zeros(16, 16)
    mask[4:14, 2:12] = 1
    scene = scene_of(images, allow=mask, preserve=torch.eye(16).expand(3, 1, -1, -1))
    result = walk_for(kind, scene)(scene, require_levels([0.3, 0.7]))
    frames = scene.deliver(result.latents[:, 1], torch.arange(3))
    changed = (frames - images).abs().amax(dim=1) > 0
    assert not changed[:, mask == 0].any()
    assert not changed[:, torch.eye(16).bool()].any()
    assert changed[:, (mask == 1) & ~torch.eye(16).bool()].float().mean() > 0.9
    assert result.reasons == [["", ""]] * 3
    assert_allclose(achieved(scene, result), torch.tensor([[0.3, 0.7]]).expand(3, -1), atol=0.011)


def test_nothing_can_be_reached_where_nothing_may_change():
    scene = scene_of(toy_images(1), allow=torch.zeros(16, 16))
    assert "the gradient vanished" in GradientWalk()(scene, require_levels([0.99])).reasons[0][0]


def test_a_mask_is_of_the_images_own_size():
    generator = LinearGenerator()
    large = resize(toy_images(2), (40, 40))
    classifier = Classifier(LogisticClassifier(generator), size=16)
    half = torch.zeros(40, 40)
    half[:, :20] = 0.5
    scene = Scene(generator, classifier, classifier.target(None, large), large, allow=half)
    free = Scene(generator, classifier, scene.target, large)
    rows = torch.arange(2)
    change = free.deliver(free.z + 0.5, rows) - large
    assert_allclose(scene.deliver(scene.z + 0.5, rows), large + half * change, atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "received"),
    [
        (torch.ones(8, 8), r"shape \(8, 8\)"),
        (torch.full((16, 16), 2.0), r"shape \(16, 16\) with values outside"),
        (torch.full((16, 16), float("nan")), r"shape \(16, 16\) with values outside"),
        ("left half", r"shape \(0,\)"),
    ],
)
def test_masks_that_are_none_are_refused(mask, received):
    with pytest.raises(OptionError, match=rf"preserve: must be a mask \(16, 16\) or .*received {received}"):
        scene_of(toy_images(2), preserve=mask)


# -- the gradient walk and the base ------------------------------------------------------------------------


def test_frames_of_a_nonlinear_score_are_exact_and_monotone():
    generator, model = curved(ceiling=6.0)
    images = toy_images(5)
    scene = scene_of(images, generator, model)
    latents = GradientWalk()(scene, LEVELS).latents
    rows = torch.arange(5).repeat_interleave(len(LEVELS))
    achieved = torch.sigmoid(scene.score(latents.flatten(0, 1), rows)).view(5, -1)
    assert_allclose(achieved, LEVELS.expand(5, -1), atol=0.003)
    assert (achieved.diff(dim=1) > 0).all()


def test_a_level_beyond_the_classifiers_reach_keeps_the_closest_frame_and_says_why():
    generator, model = curved(ceiling=1.5)  # sigmoid(1.5) = .82
    scene = scene_of(toy_images(1), generator, model)
    result = GradientWalk()(scene, require_levels([0.5, 0.7, 0.98]))
    middle, reached, beyond = result.reasons[0]
    assert (middle, reached) == ("", "")
    assert beyond.startswith("level 0.98 not reached: ")
    assert float(beyond.rsplit(" ", 1)[1]) == pytest.approx(torch.sigmoid(torch.tensor(1.5)).item(), abs=0.03)
    closest = float(scene.score(result.latents[0, 2:], torch.zeros(1, dtype=torch.long)))
    assert closest == pytest.approx(1.5, abs=0.1)


def test_too_few_steps_are_named_as_the_reason():
    result = GradientWalk(radius=0.01, steps=2)(scene_of(toy_images(1)), require_levels([0.99]))
    assert "2 steps were not enough" in result.reasons[0][0]


def test_batched_equals_unbatched_and_small_chunks_equal_large_ones():
    images = toy_images(4, seed=3)
    generator, model = curved(ceiling=6.0)
    together = GradientWalk()(scene_of(images, generator, model), LEVELS).latents
    chunked = GradientWalk()(scene_of(images, generator, model, batch_size=3), LEVELS).latents
    apart = torch.cat(
        [GradientWalk()(scene_of(image[None], generator, model), LEVELS).latents for image in images]
    )
    assert_allclose(together, chunked, atol=1e-4)
    assert_allclose(together, apart, atol=1e-4)


def test_the_same_walk_twice_is_the_same_bit_for_bit():
    generator, model = curved(ceiling=6.0)
    first, second = (GradientWalk()(scene_of(toy_images(3), generator, model), LEVELS) for _ in range(2))
    assert torch.equal(first.latents, second.latents)


def test_larger_images_get_the_upsampled_difference_and_keep_their_finer_detail():
    generator = LinearGenerator()
    model = LogisticClassifier(generator)
    large = resize(toy_images(2), (40, 40)) + 0.02 * torch.rand(2, 1, 40, 40)
    classifier = Classifier(model, size=16)
    scene = Scene(generator, classifier, classifier.target(None, large), large)
    rows = torch.arange(2)
    assert_allclose(scene.deliver(scene.z, rows), large, atol=1e-6)
    moved = scene.z + 0.5
    change = generator.decode(moved, scene.detail) - scene.small
    assert_allclose(scene.deliver(moved, rows), large + resize(change, (40, 40)), atol=1e-6)


def test_another_aspect_ratio_is_walked_in_its_central_part_only():
    generator = LinearGenerator()
    classifier = Classifier(LogisticClassifier(generator), size=16)
    wide = torch.nn.functional.pad(toy_images(1), (8, 8, 0, 0), value=0.25)
    scene = Scene(generator, classifier, classifier.target(None, wide), wide)
    frame = scene.deliver(scene.z + 1.0, torch.zeros(1, dtype=torch.long))
    assert torch.equal(frame[..., :8], wide[..., :8])
    assert torch.equal(frame[..., -8:], wide[..., -8:])
    assert not torch.allclose(frame[..., 8:-8], wide[..., 8:-8])


def test_without_detail_frames_are_bare():
    generator = LinearGenerator()
    images = toy_images(1)
    scene = scene_of(images, generator, strength=0.0)
    rows = torch.zeros(1, dtype=torch.long)
    assert_allclose(scene.deliver(scene.z, rows), generator.bare(images), atol=1e-6)
    assert not torch.allclose(scene.deliver(scene.z, rows), images, atol=1e-3)


def test_the_images_are_not_changed():
    images = toy_images(2)
    kept = images.clone()
    GradientWalk()(scene_of(images), LEVELS)
    assert torch.equal(images, kept)


def test_levels_on_one_side_only_walk_that_side():
    images = toy_images(1)
    scene = scene_of(images)
    own = float(torch.sigmoid(scene.score0)[0])
    assert own < 0.9
    both = GradientWalk(radius=0.2)(scene, require_levels([0.1, 0.9])).gradients
    up = GradientWalk(radius=0.2)(scene, require_levels([0.9])).gradients
    assert up < both


@pytest.mark.parametrize("levels", [[], [0.0], [1.0], [0.5, float("nan")], [-1], "high", None])
def test_levels_that_are_not_probabilities_are_refused(levels):
    with pytest.raises(OptionError, match="levels: must be probabilities strictly between 0 and 1"):
        require_levels(levels)


def test_levels_of_a_regression_are_any_finite_values():
    age = Target(0, None, "age", None, measure="value", quartiles=(20.0, 30.0, 40.0))
    assert require_levels([55, -3, 0.5], age).tolist() == [-3, 0.5, 55]
    with pytest.raises(OptionError, match=r"levels: must be finite values .* levels=\[10.0, "):
        require_levels([float("inf")], age)


def test_levels_are_sorted_and_distinct():
    assert require_levels([0.9, 0.1, 0.9]).tolist() == [0.1, 0.9]


@pytest.mark.parametrize("options", [{"radius": 0}, {"steps": 0}])
def test_a_walk_refuses_options_that_are_not_positive(options):
    with pytest.raises(OptionError, match="must be positive"):
        GradientWalk(**options)


def test_a_classifier_without_gradient_is_named():
    generator = LinearGenerator()
    model = LogisticClassifier(generator)
    blind = lambda images: model(images).detach().numpy()  # noqa: E731
    images = toy_images(1)
    classifier = Classifier(blind)
    classifier.check(images)
    scene = Scene(generator, classifier, classifier.target(None, images), images)
    with pytest.raises(ClassifierError, match="has no gradient"):
        GradientWalk()(scene, LEVELS)


def test_a_module_sees_few_batch_sizes_however_the_lanes_leave_and_a_callable_only_what_is_asked():
    generator = LinearGenerator()
    images = toy_images(45)
    model = LogisticClassifier(generator)
    seen = []

    class Watched(LogisticClassifier):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    results = []
    for watched in (Watched(generator), lambda images: (seen.append(len(images)), model(images))[1]):
        scene = scene_of(images, generator, watched, batch_size=32)
        seen.clear()
        before = scene.evaluations + scene.gradients
        results.append(GradientWalk()(scene, LEVELS))
        asked = scene.evaluations + scene.gradients - before
        if isinstance(watched, nn.Module):
            assert set(seen) <= set(BATCH_SIZES)
            assert sum(seen) > asked
        else:
            assert sum(seen) == asked
    assert_allclose(results[0].latents, results[1].latents, atol=1e-5)
