"""Which walks of an audit are kept, what they hold, and the mean paths that plots are made of."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.bias.paths import forward_paths, reverse_paths
from explainer.bias.pictures import LONGEST, choose, keep_strips
from explainer.bias.walking import LEVELS, Crossing, Watched, cross
from explainer.classifier import Classifier

COUNT = 40


def crossing(crossed: np.ndarray | None = None, watched: int = 2) -> Crossing:
    """Walks whose numbers say which walk they are of."""
    rng = np.random.default_rng(0)
    each = np.arange(COUNT, dtype=float)
    return Crossing(
        rows=np.arange(COUNT) + 100, direction=np.where(each % 2, 1.0, -1.0),
        crossed=np.ones(COUNT, bool) if crossed is None else crossed, start=torch.zeros(COUNT, 6),
        path=torch.zeros(COUNT, 5, 6), level=rng.random(COUNT), levels=rng.random((COUNT, 5)),
        bare=rng.random(COUNT), before=rng.random((watched, COUNT)), after=rng.random((watched, COUNT)),
    )  # fmt: skip


def watched(seed: int = 1) -> Watched:
    rng = np.random.default_rng(seed)
    path = rng.random((2, COUNT, 5))
    return Watched(rng.random((2, COUNT)), path[:, :, -1], path, rng.random((2, COUNT)))


PEOPLE = np.arange(200) // 2


def test_worst_and_median_are_those_of_the_oracle_and_random_is_nobodys_choice() -> None:
    walks, seen = crossing(), watched()
    for number in (0, 1):
        moved = np.abs(seen.end[number] - seen.start[number])
        chosen = choose(walks, seen, number, seed=0)
        assert chosen["worst"] == np.argsort(-moved)[:2].tolist()
        assert moved[chosen["median"][0]] == np.sort(moved)[::-1][COUNT // 2]
        assert len(set(chosen["random"])) == 2
    assert choose(walks, seen, 0, seed=0)["random"] == choose(walks, watched(2), 1, seed=0)["random"]
    assert choose(walks, seen, 0, seed=0)["random"] != choose(walks, seen, 0, seed=1)["random"]


def test_only_walks_that_crossed_are_chosen() -> None:
    crossed = np.zeros(COUNT, bool)
    crossed[[3, 8]] = True
    chosen = choose(crossing(crossed), watched(), 0, seed=0)
    assert {position for kind in chosen.values() for position in kind} == {3, 8}
    none = choose(crossing(np.zeros(COUNT, bool)), watched(), 0, seed=0)
    assert none == {"worst": [], "median": [], "random": []}
    # the walks that both crossed are the same at random, whoever else crossed
    fewer = np.ones(COUNT, bool)
    fewer[choose(crossing(), watched(), 0, seed=0)["worst"]] = False
    kept = [p for p in choose(crossing(), watched(), 0, seed=0)["random"] if fewer[p]]
    assert set(kept) <= set(choose(crossing(fewer), watched(), 0, seed=0)["random"])


@pytest.fixture(scope="module")
def walked():
    generator, images = LinearGenerator(), toy_images(COUNT)
    model = Classifier(LogisticClassifier(generator), kind="binary")
    target = model.target(1, images[:1])
    return generator, model, target, images, cross(generator, model, target, images, np.arange(COUNT) + 100)


def test_a_strip_is_what_the_classifier_saw(walked) -> None:
    generator, model, target, images, walks = walked
    seen = watched()
    before = images.clone()
    strips = keep_strips(
        generator, model, target, "mine", images, walks, seen, ["a", "b"], [5, 2, 5]
    )  # fmt: skip
    assert [strip.row for strip in strips] == [105, 102], "twice the same is drawn once"
    assert torch.equal(images, before)
    strip = strips[0]
    assert strip.frames.dtype == np.uint8
    assert strip.frames.shape == (5, 1, 16, 16)
    assert_allclose(strip.original / 255, images[5].numpy(), atol=0.5 / 255 + 1e-6)
    levels = model.level(torch.from_numpy(strip.frames / 255).float(), target)
    assert_allclose(levels.detach().numpy(), strip.levels, atol=0.02)
    assert_allclose(strip.levels, LEVELS, atol=0.02)
    assert strip.level == pytest.approx(float(model.level(images[5:6], target)), abs=1e-5)
    assert strip.direction == ("up" if strip.level < 0.5 else "down")
    assert strip.oracles["b"] == (seen.start[1, 5], *seen.path[1, 5])


def test_memory_is_bounded(walked) -> None:
    generator, model, target, images, walks = walked
    one = 6 * 16 * 16
    for room, kept in ((one - 1, 0), (3 * one, 3), (10**6, 10)):
        strips = keep_strips(
            generator, model, target, "mine", images, walks, watched(), [], range(10), room=room
        )
        assert len(strips) == kept
    large = functional.interpolate(images[:2], (400, 200))

    class Small(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return model.model(functional.adaptive_avg_pool2d(images, 16))

    wide = Classifier(Small(), kind="binary")
    few = Crossing(**{**vars(walks), "rows": walks.rows[:2], "path": walks.path[:2]})
    (strip,) = keep_strips(generator, wide, target, "wide", large, few, watched(), [], [1])
    assert strip.frames.shape == (5, 1, LONGEST, LONGEST // 2)


def test_forward_paths_are_the_means_of_the_walks_that_crossed() -> None:
    crossed = np.ones(COUNT, bool)
    crossed[:10] = False
    walks, seen, reference, beside = crossing(crossed), watched(), crossing(), watched(2)
    paths = forward_paths(walks, seen, reference, beside, 1, PEOPLE, 0.05)
    up = crossed & (walks.direction > 0)
    assert paths["count, up"] == [15.0]
    assert paths["asked, up"] == list(LEVELS)
    assert_allclose(paths["oracle, up"], seen.path[1, up].mean(0))
    assert_allclose(paths["classifier, down"], walks.levels[crossed & (walks.direction < 0)].mean(0))
    assert_allclose(paths["random, up"][0], seen.random[1, up].mean())
    assert_allclose(paths["reference, up"], beside.path[1, reference.direction > 0].mean(0))
    for name in ("oracle", "reference"):
        low, middle, high = (np.array(paths[f"{name}{end}, up"]) for end in (" low", "", " high"))
        assert (low < middle).all()
        assert_allclose(high - middle, middle - low)
    one = np.zeros(COUNT, bool)
    one[1] = True
    assert forward_paths(crossing(one), seen, reference, beside, 1, PEOPLE, 0.05) == {}
    alone = forward_paths(walks, seen, crossing(one), beside, 1, PEOPLE, 0.05)
    assert "reference, up" not in alone
    assert alone["oracle, up"] == paths["oracle, up"]


def test_reverse_paths_end_where_the_oracle_went() -> None:
    back, done = crossing(), np.ones(COUNT, bool)
    done[:4] = False
    paths = reverse_paths(back, 0, done, PEOPLE, 0.05)
    up, down = done & (back.direction > 0), done & (back.direction < 0)
    assert_allclose(paths["reverse oracle, up"], [back.level[up].mean(), back.levels[up, -1].mean()])
    assert_allclose(paths["reverse oracle, down"], [back.level[down].mean(), back.levels[down, 0].mean()])
    assert_allclose(paths["reverse classifier, up"], [back.before[0, up].mean(), back.after[0, up].mean()])
    assert_allclose(paths["reverse held, up"], [back.before[1, up].mean(), back.after[1, up].mean()])
    assert paths["reverse count, down"] == [18.0]
    assert paths["reverse classifier low, up"][0] < paths["reverse classifier, up"][0]
    assert reverse_paths(back, 0, np.zeros(COUNT, bool), PEOPLE, 0.05) == {}
