"""A level set that bends must not hold a walk up."""

import torch
from torch import nn
from toys import LinearGenerator, toy_images

from explainer.classifier import Classifier
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import require_levels


class Ravine(nn.Module):
    """The score falls along a curve: sliding back towards the start climbs its walls."""

    def __init__(self, basis):
        super().__init__()
        self.register_buffer("basis", basis / 0.09)

    def forward(self, images):
        codes = (images - 0.5).flatten(1) @ self.basis
        bend = codes[:, 1] - 1.5 * torch.sin(2 * codes[:, 0])
        return 2 * codes[:, 0] - 2 * bend.square()


def test_a_short_walk_goes_wherever_the_plain_one_goes_at_little_more_cost():
    generator = LinearGenerator()
    images = toy_images(12)
    classifier = Classifier(Ravine(generator.basis))
    classifier.check(images)
    results = {}
    for shorten in (0.0, 1.0):
        scene = Scene(generator, classifier, classifier.target(None, images), images)
        results[shorten] = GradientWalk(shorten=shorten)(scene, require_levels([0.05, 0.95]))
    missed = {
        shorten: sum(bool(reason) for row in result.reasons for reason in row)
        for shorten, result in results.items()
    }
    assert missed[1.0] <= missed[0.0] + 2, "of 24: the two may end on different sides of a fold"
    assert results[1.0].gradients < 1.5 * results[0.0].gradients
