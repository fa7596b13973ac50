import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from explainer.bias.statistics import (
    Effect,
    design_effect,
    false_discovery,
    mean,
    paired_difference,
    share,
)
from explainer.errors import OptionError
from explainer.metrics import wilson_interval


def test_a_share_of_single_images_has_wilsons_interval():
    effect = share([True] * 7 + [False] * 93)
    wilson = wilson_interval(7, 100)
    assert_allclose([effect.value, effect.low, effect.high], [0.07, wilson.low, wilson.high], rtol=1e-10)


def test_tangos_interval_inverts_the_score_test_of_the_paper():
    # The bounds are the differences whose score statistic, written out here, is +-1.96.
    first = [1] * 12 + [0] * 2 + [1] * 10 + [0] * 8
    second = [0] * 12 + [1] * 2 + [1] * 10 + [0] * 8
    effect = paired_difference(first, second)
    assert effect.value == pytest.approx(10 / 32)
    for delta, sign in ((effect.low, 1), (effect.high, -1)):
        b = -12 - 2 + (2 * 32 - 12 + 2) * delta
        c = -2 * delta * (1 - delta)
        q = (np.sqrt(b * b - 4 * 2 * 32 * c) - b) / (2 * 2 * 32)
        z = (12 - 2 - 32 * delta) / np.sqrt(32 * (2 * q + delta * (1 - delta)))
        assert z == pytest.approx(sign * 1.959964, abs=1e-4)
    assert effect.low < 10 / 32 < effect.high


def test_the_test_of_a_paired_difference_at_margin_zero_is_mcnemars():
    first = [1] * 12 + [0] * 2 + [1] * 10 + [0] * 8
    second = [0] * 12 + [1] * 2 + [1] * 10 + [0] * 8
    assert paired_difference(first, second).p == pytest.approx(stats.norm.sf((12 - 2) / np.sqrt(14)))


def test_equal_outcomes_differ_by_nothing():
    effect = paired_difference([1, 0] * 50, [1, 0] * 50)
    assert effect.value == 0
    assert effect.low < 0 < effect.high
    assert effect.within(0.1)
    assert not effect.within(0.01)


def test_a_mean_of_single_images_has_students_interval():
    values = np.random.default_rng(0).normal(0.3, 1, size=50)
    effect = mean(values)
    low, high = stats.t.interval(0.95, 49, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(50))
    assert_allclose([effect.low, effect.high], [low, high], rtol=1e-10)
    assert effect.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_four_equal_images_of_a_person_count_as_one():
    people = np.repeat(np.arange(60), 4)
    once = np.random.default_rng(1).random(60) < 0.2
    copied = np.repeat(once, 4)
    alone, together = share(once), share(copied, people)
    assert together.groups == 60
    assert together.n == 240
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.03)
    assert share(copied).high - share(copied).low < 0.6 * (together.high - together.low)


def test_a_design_effect_never_makes_images_more_than_they_are():
    # within each person the outcomes cancel: the naive formula would count them as more than independent
    assert design_effect(np.tile([0.0, 1.0], 50), np.repeat(np.arange(50), 2)) == 1


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_the_interval_of_a_share_covers_the_truth_as_often_as_it_says(rate):
    stream = np.random.default_rng(3)
    covered = 0
    for _ in range(600):
        effect = share(stream.random(150) < rate)
        covered += effect.low <= rate <= effect.high
    assert 0.925 <= covered / 600 <= 0.985


def test_images_of_few_people_tell_little_where_nothing_varies():
    """Nothing in 200 images of 10 people is no more than nothing in 10 people."""
    people = np.repeat(np.arange(10), 20)
    of_people, of_images = share(np.zeros(200), people), share(np.zeros(10))
    assert of_people.high == pytest.approx(of_images.high, abs=0.07)
    assert of_people.high >= of_images.high
    assert paired_difference(np.zeros(200), np.zeros(200), people).high > 0.2
    one = share([1, 0] * 100, np.zeros(200))
    assert one.high - one.low > 0.8
    assert design_effect(np.zeros(200), people) == 20


@pytest.mark.parametrize(("groups", "each", "rate"), [(80, 3, 0.05), (40, 5, 0.2)])
def test_the_interval_of_a_share_covers_the_truth_with_people_that_repeat(groups, each, rate):
    stream, people, covered = np.random.default_rng(6), np.repeat(np.arange(groups), each), 0
    for _ in range(600):
        own = np.repeat(stream.random(groups) < rate, each)
        drawn = np.where(stream.random(len(people)) < 0.7, own, stream.random(len(people)) < rate)
        effect = share(drawn, people)
        covered += effect.low <= rate <= effect.high
    assert covered / 600 >= 0.92


def test_the_interval_of_a_paired_difference_covers_the_truth_with_clusters():
    stream, covered = np.random.default_rng(4), 0
    people = np.repeat(np.arange(60), 3)
    for _ in range(600):
        one, other = (np.repeat(stream.random(60) < 0.3, 3) for _ in range(2))
        first = np.where(stream.random(180) < 0.5, one, stream.random(180) < 0.3)
        second = np.where(stream.random(180) < 0.5, other, stream.random(180) < 0.3)
        effect = paired_difference(first, second, people)
        covered += effect.low <= 0 <= effect.high
    assert 0.92 <= covered / 600 <= 0.98


def test_the_mean_test_rejects_a_true_margin_as_rarely_as_it_says():
    stream = np.random.default_rng(5)
    rejected = sum(mean(stream.normal(0.05, 0.2, size=80), margin=0.05).p < 0.05 for _ in range(800))
    assert 0.01 <= rejected / 800 <= 0.05


def test_false_discovery_is_scipys_and_takes_the_unknown_for_one():
    found = false_discovery([0.001, float("nan"), 0.02, 0.3])
    assert_allclose(found, stats.false_discovery_control([0.001, 1, 0.02, 0.3]))
    assert found[1] == 1
    assert false_discovery([]) == []


def test_beyond_and_within_look_at_both_sides():
    up = Effect(0.2, 0.1, 0.3, 9, 9, 0.0, 0.0)
    down = Effect(-0.2, -0.3, -0.1, 9, 9, 0.0, 0.0)
    for effect in (up, down):
        assert effect.beyond(0.05)
        assert not effect.beyond(0.15)
        assert effect.within(0.35)
        assert not effect.within(0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share([True, False], [1]), "groups"),
        (lambda: mean([1.0, float("nan")]), "values: must be finite"),
        (lambda: share([True], alpha=0), "alpha"),
        (lambda: paired_difference([1], [1, 0]), "second: must belong to the same images"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(OptionError, match=message):
        call()
