"""The amortised walk: its head, its training, one pass, files."""

import json

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, ModelFileError, OptionError, OutputError, TrainingError
from explainer.walks import ConditionalWalk, Scene
from explainer.walks.base import require_levels
from explainer.walks.head import Head

LEVELS = require_levels([0.05, 0.2, 0.5, 0.8, 0.95])


class Bent(nn.Module):
    """A score whose direction turns with the code, so that one direction for all images is not enough."""

    def __init__(self, basis):
        super().__init__()
        self.register_buffer("basis", basis / 0.09)

    def forward(self, images):
        codes = (images - 0.5).flatten(1) @ self.basis
        return 0.7 * codes[:, 0] + 2 * torch.tanh(2 * codes[:, 1]) * codes[:, 2]


def problem(model=None, count=6):
    generator = LinearGenerator()
    images = toy_images(count)
    classifier = Classifier(model or Bent(generator.basis))
    classifier.check(images)
    return generator, classifier, Scene(generator, classifier, classifier.target(None, images), images)


def fitted(generator, classifier, **options):
    options = {"steps": 60, "batch_size": 32, "width": 64, "learning_rate": 0.01, **options}
    return ConditionalWalk.fit(generator, classifier, toy_images(200, seed=5), **options)


def one_pass_error(walk, scene):
    count = len(scene.z)
    rows = torch.arange(count).repeat_interleave(len(LEVELS))
    codes = walk.codes(scene, rows, LEVELS.logit().repeat(count))
    return (scene.score(codes, rows).sigmoid().view(count, -1) - LEVELS).abs().mean()


def test_a_head_asked_for_what_is_moves_nothing():
    head = Head(6, 8, seed=1)
    nn.init.normal_(head.last.weight)
    z, s, slope = torch.randn(3, 6), torch.randn(3), torch.randn(3, 6)
    assert_allclose(head(z, s, slope, s).detach(), 0, atol=1e-6)
    assert head(z, s, slope, s + 1).abs().max() > 0.01


def test_a_new_head_goes_straight_along_the_slope_damped_where_it_is_flat():
    head = Head(2, 8)
    head.steepness.fill_(4.0)
    slope = torch.tensor([[0.0, 3.0], [0.0, 0.0]])
    moves = head(torch.randn(2, 2), torch.tensor([1.0, 0.0]), slope, torch.tensor([3.0, 5.0]))
    assert_allclose(moves.detach(), [[0, 2 * 3 / (9 + 1)], [0, 0]], rtol=1e-6)


def test_training_brings_one_pass_near_the_level_and_bisecting_to_it():
    generator, classifier, scene = problem(count=40)
    raw = one_pass_error(fitted(generator, classifier, steps=1, learning_rate=1e-9), scene)
    walk = fitted(generator, classifier)
    trained = one_pass_error(walk, scene)
    assert trained < 0.03 < 0.05 < raw
    result = walk(scene, LEVELS)
    rows = torch.arange(40).repeat_interleave(len(LEVELS))
    achieved = scene.score(result.latents.flatten(0, 1), rows).sigmoid().view(40, -1)
    assert ((achieved - LEVELS).abs() <= 0.011).all()
    assert result.gradients < 4, "two of each image, and the few that the head does not bring there"
    assert result.evaluations < 4 * len(LEVELS)


def test_walking_back_returns():
    generator, classifier, scene = problem(count=40)
    walk = fitted(generator, classifier)
    anchors = walk.anchors(scene)
    back = anchors.codes + walk.head(*anchors, scene.score0)
    assert (back - scene.z).norm(dim=1).mean() < 0.5 * (anchors.codes - scene.z).norm(dim=1).mean()


def test_frames_begin_at_the_nearer_of_image_and_anchor():
    generator, classifier, scene = problem()
    walk = fitted(generator, classifier, steps=5)
    anchors, rows = walk.anchors(scene), torch.arange(6)
    assert_allclose(walk.codes(scene, rows, scene.score0), scene.z, atol=1e-5)
    assert_allclose(walk.codes(scene, rows, anchors.scores), anchors.codes, atol=1e-5)
    blind = anchors._replace(slopes=torch.full_like(anchors.slopes, torch.nan))
    assert walk.codes(scene, rows, torch.full((6,), 2.0), blind).isfinite().all()


def test_the_seed_decides():
    generator, classifier, scene = problem()
    first, again, other = (
        fitted(generator, classifier, steps=5, seed=seed)(scene, LEVELS).latents for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_level_the_head_was_never_asked_for_is_reached_by_asking_for_more():
    generator, classifier, scene = problem(LogisticClassifier(LinearGenerator()))
    walk = fitted(generator, classifier, steps=5)
    levels = require_levels([1e-4, 1 - 1e-4])
    result = walk(scene, levels)
    assert result.reasons == [["", ""]] * 6
    rows = torch.arange(6).repeat_interleave(2)
    scores = scene.score(result.latents.flatten(0, 1), rows).view(6, 2)
    assert_allclose(scores.sigmoid(), levels.expand(6, -1), atol=0.011)


def test_a_head_that_falls_short_hands_over_to_the_gradient_walk():
    generator, classifier, scene = problem(LogisticClassifier(LinearGenerator()))
    walk = fitted(generator, classifier, steps=1)
    walk.head.steepness.fill_(1e9)
    nn.init.zeros_(walk.head.last.weight)
    walk.head.fixed.zero_()
    assert walk(scene, LEVELS).reasons == [[""] * len(LEVELS)] * 6


def test_without_a_gradient_it_is_refused():
    generator, classifier, scene = problem(LogisticClassifier(LinearGenerator()))
    walk = fitted(generator, classifier, steps=1)
    classifier._differentiable = False
    with pytest.raises(ClassifierError, match="no gradient, which the conditional walk needs"):
        walk(scene, LEVELS)


def test_it_comes_back_from_files_as_it_was(tmp_path):
    generator, classifier, scene = problem()
    walk = fitted(generator, classifier, steps=5)
    walk.save(tmp_path / "walk")
    again = ConditionalWalk.load(tmp_path / "walk")
    assert again.target == walk.target
    assert again.options() == walk.options()
    assert torch.equal(again(scene, LEVELS).latents, walk(scene, LEVELS).latents)
    json.dumps(walk.options(), allow_nan=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds no walk\.json"):
        walk.save(tmp_path / "other")


def test_the_target_of_a_regression_comes_back_too(tmp_path):
    generator = LinearGenerator()
    model = LogisticClassifier(generator)
    images = toy_images(40, seed=5)
    classifier = Classifier(model, kind="regression", reference=model(images).detach())
    walk = ConditionalWalk.fit(generator, classifier, images, steps=2, width=8)
    walk.save(tmp_path / "walk")
    assert ConditionalWalk.load(tmp_path / "walk").target == walk.target
    assert walk.target.quartiles is not None


def test_changed_or_foreign_files_are_refused(tmp_path):
    generator, classifier, _ = problem()
    fitted(generator, classifier, steps=1).save(tmp_path / "walk")
    card = tmp_path / "walk" / "walk.json"
    written = card.read_text()
    card.write_text(json.dumps({**json.loads(written), "width": 7}))
    with pytest.raises(ModelFileError, match="is not a saved conditional walk"):
        ConditionalWalk.load(tmp_path / "walk")
    card.write_text(json.dumps({**json.loads(written), "format": 1}))
    with pytest.raises(ModelFileError, match="its format is 1, not 2"):
        ConditionalWalk.load(tmp_path / "walk")
    card.write_text("{}")
    with pytest.raises(ModelFileError, match="is not a saved conditional walk"):
        ConditionalWalk.load(tmp_path / "walk")
    card.write_text(written)
    weights = tmp_path / "walk" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFileError, match="was changed after it was written"):
        ConditionalWalk.load(tmp_path / "walk")
    with pytest.raises(ModelFileError, match="has no readable card"):
        ConditionalWalk.load(tmp_path / "nowhere")


def test_another_target_or_generator_is_refused():
    generator, classifier, scene = problem()
    walk = fitted(generator, classifier, steps=1)
    scene.target = classifier.target(0)
    with pytest.raises(OptionError, match='was trained for "class 1"'):
        walk(scene, LEVELS)
    scene.target = walk.target
    generator.fingerprint = "another"
    with pytest.raises(OptionError, match="was trained with another generator"):
        walk(scene, LEVELS)


def test_what_cannot_be_trained():
    generator, classifier, _ = problem()
    with pytest.raises(OptionError, match="steps, batch_size, width, learning_rate: must be positive"):
        fitted(generator, classifier, steps=0)
    model = LogisticClassifier(generator)
    blind = Classifier(lambda images: model(images).detach().numpy())
    with pytest.raises(ClassifierError, match="no gradient, which the conditional walk needs"):
        fitted(generator, blind)


class Cliff(nn.Module):
    """Finite scores with a slope that is not."""

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return mean - 0.5 + (mean - mean.detach()).sqrt()


def test_a_slope_that_is_nowhere_finite_teaches_nothing():
    generator, _, _ = problem()
    with pytest.raises(TrainingError, match=r"no finite gradient .*received 200 images"):
        fitted(generator, Classifier(Cliff()), steps=3)
