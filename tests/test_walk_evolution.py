"""The walk without a gradient: what a measured slope is, what it costs, and that anything can be asked."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.ensemble import GradientBoostingClassifier
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.classifier import Classifier
from explainer.errors import OptionError
from explainer.walks import EvolutionWalk, GradientWalk, Scene
from explainer.walks.base import require_levels

LEVELS = require_levels([0.1, 0.5, 0.9])


def linear_scene(count=2, dimensions=6):
    generator = LinearGenerator(dimensions)
    model = LogisticClassifier(generator)
    blind = lambda images: model(images).detach().numpy()  # noqa: E731
    images = toy_images(count)
    classifier = Classifier(blind)
    classifier.check(images)
    assert not classifier.differentiable
    slope = generator.basis.T @ model.weight.detach()
    return Scene(generator, classifier, classifier.target(None, images), images), slope


def test_as_many_pairs_as_dimensions_measure_the_slope_exactly():
    scene, exact = linear_scene()
    slopes = EvolutionWalk().slope(scene, scene.z, torch.arange(2), None, 0)
    assert_allclose(slopes, exact.expand(2, -1), rtol=1e-3)


def test_few_pairs_find_the_slope_within_their_span_and_later_pairs_add_to_it():
    scene, exact = linear_scene(dimensions=12)
    walk, rows = EvolutionWalk(first_pairs=4, pairs=4), torch.arange(2)
    slope, errors = None, []
    for step in range(25):
        slope = walk.slope(scene, scene.z, rows, slope, step)
        errors.append(float((slope - exact).norm() / exact.norm() / 2**0.5))
    assert 0.5 < errors[0] < 1
    assert errors == sorted(errors, reverse=True), "of a linear score nothing learnt is ever lost"
    assert errors[-1] < 0.1


def test_queries_are_counted_and_the_budget_holds():
    scene, _ = linear_scene()
    walk = EvolutionWalk(first_pairs=6, pairs=2, queries=80)
    before = scene.evaluations
    result = walk(scene, LEVELS)
    assert result.gradients == 0
    assert result.evaluations == (scene.evaluations - before) / 2
    assert result.evaluations <= 80 + 5 * len(LEVELS)
    assert result.reasons == [[""] * 3] * 2


def test_a_spent_budget_is_the_reason():
    scene, _ = linear_scene()
    walk = EvolutionWalk(first_pairs=6, pairs=2, queries=22, radius=0.01)
    assert "the budget of 22 queries was spent" in walk(scene, LEVELS).reasons[0][2]


def test_the_seed_decides_and_is_all_that_decides():
    walks = [EvolutionWalk(first_pairs=2, pairs=2, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (walk(linear_scene(dimensions=12)[0], LEVELS).latents for walk in walks)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


def test_dimensions_that_codes_do_not_use_cost_no_queries():
    scene, exact = linear_scene(dimensions=12)
    scene.generator.latent_std[6:] = 1e-6
    slope = EvolutionWalk(first_pairs=6).slope(scene, scene.z, torch.arange(2), None, 0)
    assert (slope[0, :6] - exact[:6]).norm() < 0.15 * exact[:6].norm()


def test_trees_that_have_no_gradient_are_walked():
    generator = LinearGenerator()
    images = toy_images(300, seed=2)
    labels = (generator.encode(images)[:, 0] > 0).numpy()
    trees = GradientBoostingClassifier(n_estimators=150, subsample=0.3, max_depth=2, random_state=0)
    trees.fit(images.flatten(1).numpy(), labels)
    classifier = Classifier(
        lambda batch: trees.predict_proba(batch.flatten(1).numpy())[:, 1].astype(np.float32),
        outputs="probabilities",
    )
    few = images[:6]
    classifier.check(few)
    scene = Scene(generator, classifier, classifier.target(None, few), few)
    result = EvolutionWalk(sigma=0.7, radius=1.5)(scene, require_levels([0.5]))
    moved = scene.score(result.latents[:, 0], torch.arange(6)).sigmoid()
    # Steps of trees are coarse: no level between two of them exists.
    assert float((moved - 0.5).abs().median()) < 0.2
    assert float((scene.score0.sigmoid() - 0.5).abs().median()) > 0.35


def test_it_goes_where_the_gradient_walk_goes():
    generator = LinearGenerator()
    classifier = Classifier(LogisticClassifier(generator))
    images = toy_images(2)
    classifier.check(images)
    scene = Scene(generator, classifier, classifier.target(None, images), images)
    assert_allclose(EvolutionWalk()(scene, LEVELS).latents, GradientWalk()(scene, LEVELS).latents, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "first_pairs, pairs, sigma: must be positive"),
        ({"sigma": 0}, "first_pairs, pairs, sigma: must be positive"),
        ({"queries": 50}, "queries: must be at least 90: the first slope and one step in each direction"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(OptionError, match=message):
        EvolutionWalk(**options)


def test_options_are_told():
    assert EvolutionWalk(seed=3).options()["seed"] == 3
