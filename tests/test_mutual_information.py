"""Mutual information of many tables at once, and what chance adds to it."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import mutual_info_score

from explainer.mutual_information import information, joint_columns, permutation_null


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_equals_sklearn_table_by_table(classes: int) -> None:
    random = np.random.default_rng(classes)
    first = random.integers(0, classes, 150)
    second = np.where(random.random((150, 7)) < 0.5, first[:, None], random.integers(0, classes, (150, 7)))
    tables = joint_columns(first, second, classes).sum(axis=0).reshape(7, classes, classes)
    expected = [mutual_info_score(first, second[:, k]) for k in range(7)]
    assert_allclose(information(tables), expected, atol=1e-12)


def test_by_hand() -> None:
    assert_allclose(information(np.array([[5, 0], [0, 5]])), math.log(2))
    assert_allclose(information(np.array([[4, 4], [4, 4]])), 0, atol=1e-15)
    assert information(np.zeros((2, 2))) == 0


def test_the_null_is_the_bias_of_independent_lists() -> None:
    """(K - 1)^2 / 2N nats, and what is left after it is centred on zero."""
    random = np.random.default_rng(0)
    gaps = []
    for trial in range(40):
        first, second = random.integers(0, 3, 100), random.integers(0, 3, (100, 5))
        null = permutation_null(first, second, 3, seed=trial)
        found = information(joint_columns(first, second, 3).sum(axis=0).reshape(5, 3, 3))
        assert_allclose(null.mean(), 4 / 200, rtol=0.25)
        gaps.append(found - null)
    assert abs(float(np.mean(gaps))) < 0.01


def test_the_null_of_a_constant_is_zero_and_it_follows_its_seed() -> None:
    first = np.arange(60) % 2
    second = np.stack([np.zeros(60, dtype=int), first], axis=1)
    null = permutation_null(first, second, 2, seed=3)
    assert null[0] == 0
    assert null[1] > 0
    assert_allclose(null, permutation_null(first, second, 2, seed=3))
    wide = np.repeat(second, 40_000, axis=1)[:, :50_000]  # more lists than fit at once
    assert_allclose(permutation_null(first, wide, 2, seed=3, shuffles=20)[:2], permutation_null(
        first, second[:, :1].repeat(2, axis=1), 2, seed=3, shuffles=20))  # fmt: skip
