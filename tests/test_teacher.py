"""What a few labels make likely elsewhere: planted functions are found, two values and decoded images too."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from explainer.generators.teacher import MOST_LABELLED, describe, fit_teacher, some_of, teacher_of
from explainer.generators.told import Told
from explainer.synthetic import sprites


@pytest.fixture(scope="module")
def planted():
    return sprites(400, size=32, seed=0)


@pytest.fixture(scope="module")
def described(planted):
    codes = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))  # that know nothing
    return describe(planted.images, codes)


def part(described, rows):
    return {name: block[rows] for name, block in described.items()}


def standard(values):
    values = np.asarray(values, dtype=np.float64)
    return (values - values[:100].mean()) / values[:100].std()


@pytest.mark.parametrize(
    ("factor", "block", "least"),
    [("x", "moments", 0.999), ("shade", "intensities", 0.99), ("scale", "intensities", 0.98)],
)
def test_a_factor_is_found_in_the_description_that_knows_it(planted, described, factor, block, least):
    values = standard(planted.factors[factor])
    teacher = fit_teacher(part(described, slice(100)), values[:100])
    guess, sure = teacher(part(described, slice(100, None)))
    assert teacher.blocks == (block,)
    assert np.corrcoef(guess, values[100:])[0, 1] > least
    assert float(sure.min()) > 0.5
    known, _ = teacher(part(described, slice(100)))
    assert_allclose(known, values[:100], atol=0.3)


def test_what_no_description_knows_is_not_guessed(described):
    values = standard(np.random.default_rng(1).standard_normal(400))
    guess, sure = fit_teacher(part(described, slice(100)), values[:100])(part(described, slice(100, None)))
    assert abs(np.corrcoef(guess, values[100:])[0, 1]) < 0.2
    assert float((sure * guess.square()).mean()) < 0.1


def test_of_two_values_it_says_which_and_is_unsure_between(planted, described):
    right = planted.factors["x"].to_numpy() > 0.5
    teacher = fit_teacher(part(described, slice(100)), np.where(right[:100], 3.0, 1.0))
    assert teacher.levels == (1.0, 3.0)
    assert teacher.variance == 1.0
    guess, sure = teacher(part(described, slice(100, None)))
    guess, sure = guess.numpy(), sure.numpy()
    assert ((guess > 2) == right[100:]).mean() > 0.95
    assert 1 <= guess.min() < guess.max() <= 3
    assert_allclose(sure, np.abs(guess - 2), atol=1e-9)
    assert set(teacher.likeliest(torch.from_numpy(guess)).tolist()) == {1.0, 3.0}
    far = np.abs(planted.factors["x"].to_numpy()[100:] - 0.5) > 0.1
    assert sure[far].mean() > 0.8 > 0.6 > sure[~far].mean()


def test_a_little_noise_as_of_decoded_images_does_not_make_it_blind(planted, described):
    values = standard(planted.factors["scale"])
    teacher = fit_teacher(part(described, slice(100)), values[:100])
    noise = 0.01 * torch.randn(planted.images.shape, generator=torch.Generator().manual_seed(1))
    rows = slice(100, None)
    guess, sure = teacher(describe((planted.images + noise)[rows], described["code"][rows]))
    assert np.corrcoef(guess, values[rows])[0, 1] > 0.9
    assert float(sure.quantile(0.05)) > 0.5


def test_gradients_reach_the_image(planted, described):
    teacher = fit_teacher(part(described, slice(100)), standard(planted.factors["shade"])[:100])
    image = planted.images[200:201].clone().requires_grad_()
    teacher(describe(image, described["code"][200:201]))[0].sum().backward()
    bright = image.detach() > image.detach().max() - 0.05
    assert float(image.grad[bright].sum()) > 0


def test_of_many_labels_some_are_looked_at_evenly_and_by_the_seed(described, planted, monkeypatch):
    values = np.zeros(1000)
    values[7] = 1.0  # a rare one
    used = some_of(values, 3)
    assert len(used) == len(set(used.tolist())) == MOST_LABELLED
    assert 7 in used
    assert used.tolist() == some_of(values, 3).tolist() != some_of(values, 4).tolist()
    spread = np.random.default_rng(0).standard_normal(900)
    shares = [0, 0.3, 0.7, 1]
    assert_allclose(np.quantile(spread[some_of(spread)], shares), np.quantile(spread, shares), atol=0.05)
    assert some_of(spread[:300]).tolist() == list(range(300))
    monkeypatch.setattr("explainer.generators.teacher.MOST_LABELLED", 300)
    x = planted.factors["x"].to_numpy()
    teacher = teacher_of([Told("labels", np.arange(400), x, x)], described)
    assert len(teacher.known) == 300
    guess, _ = teacher(described)
    assert np.corrcoef(guess, x)[0, 1] > 0.99
