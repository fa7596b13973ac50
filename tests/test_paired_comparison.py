"""Paired intervals and tests: against scipy where it can do it, and on data where the truth is known."""

import numpy as np
from numpy.testing import assert_allclose
from scipy import stats

from explainer.mutual_information import information, joint_columns, permutation_null
from explainer.paired_comparison import (
    Measure,
    areas,
    differences,
    distribution,
    mean_of_columns,
    percentiles,
)


def measure_of(**columns: np.ndarray) -> Measure:
    return Measure(
        "area", True, {name: values[:, None].astype(np.float32) for name, values in columns.items()},
        mean_of_columns, dict.fromkeys(columns, 0.0),
    )  # fmt: skip


def alone(count: int) -> np.ndarray:
    return np.arange(count)


def compared(measure: Measure, groups: np.ndarray, **options):
    options = {"resamples": 500, "exchanges": 999, "confidence": 0.95, "seed": 0} | options
    exchanges = options.pop("exchanges")
    _, drawn = areas([measure], groups, **options)
    del options["resamples"]
    return differences([measure], drawn, groups, exchanges=exchanges, **options)


def test_interval_is_that_of_scipy_but_expanded() -> None:
    values = np.random.default_rng(0).exponential(size=40).astype(np.float32)
    table, drawn = areas([measure_of(a=values)], alone(40), resamples=2000, confidence=0.95, seed=3)
    row = table.iloc[0]
    assert_allclose(row["area"], values.mean(), rtol=1e-6)
    plain = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(3), batch=250
    )
    assert_allclose(np.sort(drawn["area"][0]), np.sort(plain.bootstrap_distribution), rtol=1e-5)
    assert row["low"] < plain.confidence_interval.low < plain.confidence_interval.high < row["high"]
    normal = stats.norm(0, 1).ppf(np.linspace(0.0005, 0.9995, 1000))
    low, high = percentiles(normal, 0.95, 10)
    assert_allclose([low, high], np.array([-1, 1]) * stats.t.ppf(0.975, 9) * (10 / 9) ** 0.5, rtol=0.02)


def test_an_estimated_information_lies_in_its_interval_also_with_ten_classes_that_agree() -> None:
    random = np.random.default_rng(4)
    first = random.integers(0, 10, 300)
    second = np.where(random.random(300) < 0.95, first, random.integers(0, 10, 300))
    null = float(permutation_null(first, second[:, None], 10, seed=0)[0])
    columns = joint_columns(first, second[:, None], 10).reshape(300, -1)
    measure = Measure(
        "information",
        False,
        {"a": columns},
        lambda sums, _: information(sums.reshape(-1, 10, 10)),
        {"a": null},
    )
    table, drawn = areas([measure], alone(300), resamples=500, confidence=0.95, seed=0)
    row = table.iloc[0]
    assert_allclose(drawn["information"].mean(), row["area"], rtol=1e-6)
    assert row["low"] < row["area"] < row["high"]
    assert_allclose(row["area"], information(columns.sum(axis=0).reshape(10, 10)) - null)


def test_exchange_test_is_scipys_permutation_test() -> None:
    random = np.random.default_rng(1)
    a = random.normal(size=30)
    b = a + random.normal(0.15, 0.5, size=30)
    found = compared(measure_of(a=a, b=b), alone(30), exchanges=9999)["p"].iloc[0]
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=9999,
        vectorized=True, rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    assert 0.01 < expected < 0.9
    assert_allclose(found, expected, atol=0.02)


def test_a_planted_difference_is_found_and_equal_methods_are_not_told_apart() -> None:
    random = np.random.default_rng(2)
    base = random.random(60)
    measure = measure_of(a=base, b=base.copy(), c=base + 0.1 + 0.05 * random.normal(size=60))
    table = compared(measure, alone(60)).set_index(["method", "other"])
    assert table.loc[("a", "b"), ["difference", "low", "high", "p"]].tolist() == [0, 0, 0, 1]
    assert not table.loc[("a", "b"), "real"]
    row = table.loc[("a", "c")]
    assert row["real"]
    assert row["low"] < -0.1 < row["high"] < 0
    assert_allclose(table["q"], stats.false_discovery_control(table["p"]))


def test_copies_of_one_person_are_no_evidence() -> None:
    random = np.random.default_rng(3)
    a, b = random.random(12), random.random(12)
    single = compared(measure_of(a=a, b=b), alone(12)).iloc[0]
    copies = measure_of(a=np.repeat(a, 8), b=np.repeat(b, 8))
    clustered = compared(copies, np.repeat(alone(12), 8)).iloc[0]
    naive = compared(copies, alone(96)).iloc[0]
    assert_allclose(clustered[["difference", "low", "high"]].astype(float),
                    single[["difference", "low", "high"]].astype(float), atol=1e-6)  # fmt: skip
    assert clustered["high"] - clustered["low"] > 2 * (naive["high"] - naive["low"])
    assert clustered["p"] > naive["p"]


def test_one_image_has_no_interval_and_no_test() -> None:
    measure = measure_of(a=np.array([0.5]), b=np.array([0.7]))
    table, drawn = areas([measure], alone(1), resamples=100, confidence=0.95, seed=0)
    assert table["low"].isna().all()
    assert drawn == {}
    assert compared(measure, alone(1)).empty


def test_coverage_of_the_paired_interval_is_nominal() -> None:
    """Fewer trials than benchmarks/fidelity.py, so a wider margin: 3 standard errors of 300 trials."""
    covered = 0
    for trial in range(300):
        random = np.random.default_rng([5, trial])
        both = random.beta(2, 1, (60, 1)) + random.normal(0, 0.3, (60, 2))
        drawn = distribution(
            lambda weights, both=both: (weights @ both / weights.sum(axis=1, keepdims=True)).T, alone(60),
            resamples=400, seed=trial,
        )  # fmt: skip
        low, high = percentiles(drawn[0] - drawn[1], 0.95, 60)
        covered += bool(low <= 0 <= high)
    assert 0.91 <= covered / 300 <= 0.985
