"""Sparse, short and diverse walks."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.classifier import Classifier
from explainer.errors import OptionError
from explainer.walks import EvolutionWalk, GradientWalk, LinearWalk, Scene, diverse_walks
from explainer.walks.base import require_levels

LEVELS = require_levels([0.1, 0.5, 0.9])


def scene_of(model=None, count=3):
    generator = LinearGenerator()
    images = toy_images(count)
    classifier = Classifier(model or LogisticClassifier(generator))
    classifier.check(images)
    return Scene(generator, classifier, classifier.target(None, images), images)


def achieved(scene, latents):
    rows = torch.arange(len(latents)).repeat_interleave(latents.shape[1])
    return scene.score(latents.flatten(0, 1), rows).sigmoid().view(latents.shape[:2])


# -- sparsity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sparsity", "moved"), [(0.0, 6), (0.5, 3), (0.99, 1)])
def test_a_sparse_walk_moves_the_dimensions_of_the_largest_slopes(sparsity, moved):
    scene = scene_of()
    result = GradientWalk(sparsity=sparsity)(scene, LEVELS)
    gradient = scene.generator.basis.T @ scene.classifier.model.weight.detach()
    moves = (result.latents - scene.z[:, None]).abs() > 0
    expected = torch.zeros(6, dtype=torch.bool).scatter(0, gradient.abs().topk(moved).indices, True)
    assert torch.equal(moves.any(dim=1), expected.expand(3, -1))
    assert_allclose(achieved(scene, result.latents), LEVELS.expand(3, -1), atol=0.003)


def test_a_sparse_evolution_walk_is_sparse():
    scene = scene_of()
    moves = EvolutionWalk(sparsity=0.5)(scene, LEVELS).latents - scene.z[:, None]
    assert int((moves.abs() > 0).any(dim=1).sum(dim=1).max()) == 3


# -- the shortest move ---------------------------------------------------------------------------------------


class Bowl(nn.Module):
    """A score that is the distance of the code from the origin: the shortest move is radial."""

    def __init__(self, basis):
        super().__init__()
        self.register_buffer("basis", basis / 0.09)
        self.register_buffer("stretch", torch.tensor([0.05, 0.2, 0.5, 1.0, 3.0, 6.0]))

    def forward(self, images):
        codes = (images - 0.5).flatten(1) @ self.basis
        return (codes.square() * self.stretch).sum(dim=1) - 6


def test_sliding_back_along_the_level_set_finds_the_nearest_point_on_it():
    scene = scene_of(Bowl(LinearGenerator().basis), count=8)
    levels = require_levels([0.01, 0.99])
    long = GradientWalk(shorten=0, radius=0.5)(scene, levels).latents
    short = GradientWalk(shorten=1, radius=0.5)(scene, levels).latents
    for latents in (long, short):
        assert_allclose(achieved(scene, latents), levels.expand(8, -1), atol=0.003)
    length = [(latents - scene.z[:, None]).norm(dim=2) for latents in (long, short)]
    assert (length[1] <= length[0] * 1.03).all()
    assert length[1].sum() < 0.985 * length[0].sum()
    # At the nearest point of a level set the move runs along the gradient.
    end = short[:, 0]
    slope = scene.score_and_gradient(end, torch.arange(8))[1]
    aligned = torch.cosine_similarity(scene.z - end, slope, dim=1)
    start = torch.cosine_similarity(
        scene.z - long[:, 0], scene.score_and_gradient(long[:, 0], torch.arange(8))[1], dim=1
    )
    assert aligned.mean() > start.mean()
    assert aligned.median() > 0.9


@pytest.mark.parametrize("options", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"shorten": 1.5}])
def test_shares_outside_their_range_are_refused(options):
    with pytest.raises(OptionError, match="sparsity, shorten: must lie in"):
        GradientWalk(**options)


# -- diversity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", [GradientWalk(), EvolutionWalk()], ids=["gradient", "evolution"])
def test_diverse_walks_reach_their_levels_by_moves_at_right_angles(walk):
    generator = LinearGenerator()

    class EitherWay(nn.Module):
        """Raised by any one of three dimensions."""

        def forward(self, images):
            codes = (images - 0.5).flatten(1) @ generator.basis / 0.09
            return (2 * codes[:, :3]).logsumexp(dim=1) - 4

    levels = require_levels([0.97, 0.99])
    scene = scene_of(EitherWay())
    results = diverse_walks(walk, scene, levels, 2)
    assert len(results) == 2
    assert torch.equal(results[0].latents, walk(scene, levels).latents)
    for result in results:
        assert result.reasons == [["", ""]] * 3
        assert_allclose(achieved(scene, result.latents), levels.expand(3, -1), atol=0.003)
    first, second = (result.latents - scene.z[:, None] for result in results)
    for end in (0, -1):
        assert_allclose(torch.cosine_similarity(first[:, end], second[:, end], dim=1), 0, atol=1e-3)
        assert second[:, end].norm(dim=1).min() > 0.1


def test_where_only_one_direction_counts_a_second_walk_says_that_it_found_none():
    scene = scene_of()
    second = diverse_walks(GradientWalk(), scene, require_levels([0.99]), 2)[1]
    assert "the gradient vanished" in second.reasons[0][0]


def test_what_cannot_be_diverse():
    scene = scene_of()
    with pytest.raises(OptionError, match=r"walk: must be one that steps along a slope .received LinearWalk"):
        diverse_walks(LinearWalk(), scene, LEVELS, 2)
    with pytest.raises(OptionError, match=r"count: must lie in 1 \.\.\. 3"):
        diverse_walks(GradientWalk(), scene, LEVELS, 4)
