"""Latent shift: one gradient, a straight line, and where it ends."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError
from explainer.walks import LinearWalk, Scene
from explainer.walks.base import require_levels


class Hill(nn.Module):
    """A score that rises along the code and falls again: ceiling - k (x - peak)^2."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, images):
        return 1 - (((images - 0.5).flatten(1) @ self.weight) - 2).square()


def scene_of(model, generator, count=2):
    images = toy_images(count)
    classifier = Classifier(model)
    classifier.check(images)
    return Scene(generator, classifier, classifier.target(None, images), images)


def test_all_frames_lie_on_the_gradients_line_and_one_gradient_is_taken():
    generator = LinearGenerator()
    scene = scene_of(Hill(4 * generator.basis @ torch.ones(6)), generator)
    gradient = scene.score_and_gradient(scene.z, torch.arange(2))[1]
    result = LinearWalk()(scene, require_levels([0.05, 0.3, 0.6]))
    moves = result.latents - scene.z[:, None]
    cosines = torch.cosine_similarity(moves, gradient[:, None].expand_as(moves), dim=2)
    assert_allclose(cosines.abs(), 1, atol=1e-5)
    assert result.gradients == 1


def test_where_the_score_turns_back_the_line_ends():
    generator = LinearGenerator()
    scene = scene_of(Hill(4 * generator.basis @ torch.ones(6)), generator)
    reasons = LinearWalk()(scene, require_levels([0.95])).reasons
    assert all("the score turned back along the straight line at 0." in row[0] for row in reasons)


def test_the_line_has_a_reach():
    generator = LinearGenerator()
    scene = scene_of(LogisticClassifier(generator, scale=0.5), generator)
    result = LinearWalk(radius=0.1, reach=0.5)(scene, require_levels([0.01, 0.99]))
    assert "the straight line ended after 0.5 standard deviations" in result.reasons[0][1]
    assert_allclose((result.latents - scene.z[:, None]).norm(dim=2), 0.5, rtol=1e-4)


def test_a_classifier_without_gradient_is_named():
    generator = LinearGenerator()
    model = LogisticClassifier(generator)
    scene = scene_of(lambda images: model(images).detach().numpy(), generator)
    with pytest.raises(ClassifierError, match=r"no gradient, which the linear walk needs.*EvolutionWalk\(\)"):
        LinearWalk()(scene, require_levels([0.9]))


def test_options():
    with pytest.raises(OptionError, match="radius, reach: must be positive"):
        LinearWalk(radius=2, reach=1)
    assert LinearWalk().options() == {"radius": 1.0, "reach": 20.0}
