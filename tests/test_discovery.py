"""Groups of walks: a planted mark is found where it is and only if it is read; one crowd is not cut."""

import numpy as np
import pytest
import torch

from explainer.bias.discovery import describe_changes, find_clusters, place_name
from explainer.bias.walking import Crossing, region_effects
from explainer.classifier import Classifier
from explainer.walks.base import Scene
from tests.toys import LinearGenerator, LogisticClassifier, toy_images

COUNT, PLANTED = 150, 40


def changes_of(marked: int, seed: int) -> np.ndarray:
    """Walks that change a bump somewhere; the first ``marked`` also a mark, bottom right."""
    stream = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    y, x = stream.uniform(3, 9, (2, COUNT, 1, 1))
    size = stream.uniform(0.2, 0.6, (COUNT, 1, 1))
    bump = size * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 6)
    changes = bump + 0.02 * stream.normal(size=(COUNT, 16, 16))
    changes[:marked, 13:15, 13:15] -= stream.uniform(0.2, 0.3, (marked, 1, 1))
    return changes[:, None]


def reading(marked: int, share: float):
    """What regions do to a score of which the mark makes ``share``."""

    def effects(walks, region):
        assert 0 <= region[0] < region[2] <= 1
        assert 0 <= region[1] < region[3] <= 1
        holds = (
            region[0] <= 13 / 16 and region[2] >= 15 / 16 and region[1] <= 13 / 16 and region[3] >= 15 / 16
        )
        noise = np.random.default_rng(5).normal(0, 0.05, len(walks))
        return noise + np.where((walks < marked) & holds, share, 0.02)

    return effects


def no_moves(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, 6))


def test_a_mark_is_found_where_it_is_and_who_has_it():
    for seed in range(3):
        found = find_clusters(
            no_moves(seed), changes_of(PLANTED, seed), np.ones(COUNT), reading(PLANTED, 0.4), seed=seed
        )
        (group,) = found
        assert sorted(group.rows) == list(range(PLANTED))
        assert group.direction == "up"
        assert place_name(group.region) == "bottom right"
        assert group.share == pytest.approx(PLANTED / COUNT)
        assert group.effect == pytest.approx(0.4, abs=0.03)
        assert group.effect_others == pytest.approx(0.02, abs=0.03)
        assert group.p < 0.01
        assert group.where[6:, 6:].mean() > 3 * group.where[:2, 6:].mean()
        assert group.distinct > 3


def test_a_mark_that_the_classifier_does_not_read_is_no_finding():
    assert find_clusters(no_moves(0), changes_of(PLANTED, 0), np.ones(COUNT), reading(PLANTED, 0.03)) == []


def test_an_object_that_wanders_is_no_mark():
    direction = np.where(np.arange(COUNT) % 2, 1, -1)
    for seed in range(4):
        # every window that is asked about makes much of the score in some walks: only the split can say no
        def anywhere(walks, region, seed=seed):
            return np.random.default_rng(seed).exponential(0.3, len(walks))

        assert find_clusters(no_moves(seed), changes_of(0, seed), direction, anywhere) == []


def test_images_of_a_few_people_are_no_crowd():
    people = np.arange(COUNT)
    people[:PLANTED] = np.arange(PLANTED) % 5  # forty photographs of five people
    found = find_clusters(
        no_moves(0), changes_of(PLANTED, 0), np.ones(COUNT), reading(PLANTED, 0.4), people=people
    )
    assert found == []
    people[:PLANTED] = np.arange(PLANTED) % 20
    (group,) = find_clusters(
        no_moves(0), changes_of(PLANTED, 0), np.ones(COUNT), reading(PLANTED, 0.4), people=people
    )
    assert sorted(group.rows) == list(range(PLANTED))


def test_a_mark_in_one_of_several_channels_is_found():
    changes = np.concatenate([changes_of(0, 6), changes_of(PLANTED, 7), changes_of(0, 8)], axis=1)
    (group,) = find_clusters(no_moves(6), changes, np.ones(COUNT), reading(PLANTED, 0.4))
    assert sorted(group.rows) == list(range(PLANTED))


def test_walks_that_change_nothing_say_nothing():
    still = np.zeros((COUNT, 1, 16, 16))
    assert find_clusters(np.zeros((COUNT, 6)), still, np.ones(COUNT), reading(PLANTED, 0.4)) == []


def test_walks_down_are_looked_at_apart():
    direction = np.where(np.arange(COUNT) < 75, -1, 1)
    found = find_clusters(no_moves(1), changes_of(PLANTED, 1), direction, reading(PLANTED, 0.4))
    (group,) = found
    assert group.direction == "down"
    assert sorted(group.rows) == list(range(PLANTED))
    assert group.share == pytest.approx(PLANTED / 75)


def test_too_few_walks_say_nothing():
    few = slice(0, 30)
    found = find_clusters(no_moves(0)[few], changes_of(15, 0)[few], np.ones(30), reading(15, 0.4))
    assert found == []


def test_two_crowds_of_moves_are_told_apart():
    moves, changes = no_moves(2), changes_of(0, 2)
    assert find_clusters(moves, changes, np.ones(COUNT), reading(0, 0.0)) == []
    moves[:50, 3] += 9
    (group,) = find_clusters(moves, changes, np.ones(COUNT), reading(0, 0.0))
    assert sorted(group.rows) == list(range(50))
    assert group.region is None
    assert np.isnan(group.effect)


def test_outliers_are_no_crowd():
    moves = no_moves(3)
    moves[:12] *= 12
    assert find_clusters(moves, changes_of(0, 3), np.ones(COUNT), reading(0, 0.0)) == []


def test_a_mark_that_the_moves_show_too_is_said_once():
    moves = no_moves(4)
    moves[:PLANTED, 0] += 9
    (group,) = find_clusters(moves, changes_of(PLANTED, 4), np.ones(COUNT), reading(PLANTED, 0.4))
    assert place_name(group.region) == "bottom right"


def test_changes_are_pooled_with_their_sign():
    before = torch.zeros(2, 3, 32, 32)
    after = before.clone()
    after[1, 2, :2, 2:4] = -0.5
    changes = describe_changes(before, after)
    assert changes.shape == (2, 3, 16, 16)
    assert changes[1, 2, 0, 1] == -0.5
    assert np.abs(changes).sum() == 0.5


class Wide(torch.nn.Module):
    """Reads the brightness of the right half of what lies in the middle 16 columns of 32."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 10 * images[:, 0, :, 16:24].mean(dim=(1, 2)) - 5


def test_a_region_is_of_what_the_generator_sees():
    generator = LinearGenerator().eval()
    images = torch.nn.functional.pad(toy_images(4), (8, 8), value=0.5)  # 16 x 32: the middle is seen
    model = Classifier(Wide(), kind="binary")
    model.check(images)
    start = generator.encode(generator.resized(images))
    path = start[:, None] + torch.linspace(0.1, 0.5, 2)[None, :, None] * torch.ones(6)
    empty = np.zeros(4)
    crossing = Crossing(
        np.arange(4), np.ones(4), np.ones(4, bool), start, path, empty, empty, empty, empty, empty
    )
    target = model.target(1, images)
    right, left = (
        region_effects(generator, model, target, images, crossing, np.arange(4), (0.0, side, 1.0, side + 0.5))
        for side in (0.5, 0.0)
    )
    np.testing.assert_allclose(right, 1, rtol=1e-4)
    np.testing.assert_allclose(left, 0, atol=1e-4)


def test_the_effect_of_a_region_is_its_part_of_a_linear_score():
    generator = LinearGenerator().eval()
    network = LogisticClassifier(generator)
    model = Classifier(network, kind="binary")
    images = toy_images(6)
    model.check(images)
    target = model.target(1, images)
    start = generator.encode(images)
    path = start[:, None] + torch.linspace(0.1, 0.5, 2)[None, :, None] * torch.ones(6)
    empty = np.zeros(6)
    crossing = Crossing(
        np.arange(6), np.ones(6), np.ones(6, bool), start, path, empty, empty, empty, empty, empty
    )
    scene = Scene(generator, model, target, images)
    own = torch.arange(6)
    change = scene.deliver(path[:, -1], own) - scene.deliver(start, own)
    parts = (change.flatten(1) * network.weight).detach().view(-1, 16, 16)
    chosen = np.array([4, 1])
    found = region_effects(generator, model, target, images, crossing, chosen, (0.0, 0.25, 0.5, 1.0))
    wanted = parts[:, :8, 4:].sum((1, 2)) / parts.sum((1, 2))
    np.testing.assert_allclose(found, wanted[chosen].numpy(), rtol=1e-3)
    whole = region_effects(generator, model, target, images, crossing, chosen, (0.0, 0.0, 1.0, 1.0))
    np.testing.assert_allclose(whole, 1, rtol=1e-4)
