"""Targets, and log-odds computed by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from explainer.errors import ClassifierError, OptionError
from explainer.target import Target, log_odds, quartiles_of, resolve_target

NAMES = ("dog", "cat", "bird")


def to(index: int, against: int | None = None) -> Target:
    return Target(index, against, f"class {index}", None if against is None else f"class {against}")


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.0]])
PROBABILITIES = torch.tensor([[0.7, 0.1, 0.2], [0.25, 0.5, 0.25]])


@pytest.mark.parametrize(
    ("kind", "outputs", "target", "expected"),
    [
        (
            "multiclass",
            "logits",
            to(0),
            [1 - math.log(math.exp(-2) + math.exp(0.5)), -math.log(math.exp(3) + 1)],
        ),
        ("multiclass", "logits", to(2, against=1), [2.5, -3.0]),
        ("multiclass", "probabilities", to(0), [logit(0.7), logit(0.25)]),
        ("multiclass", "probabilities", to(2, against=1), [math.log(2), -math.log(2)]),
        ("multilabel", "logits", to(1), [-2.0, 3.0]),
        ("multilabel", "logits", to(1, against=0), [-3.0, 3.0]),
        ("multilabel", "probabilities", to(1), [logit(0.1), 0.0]),
        ("multilabel", "probabilities", to(1, against=0), [logit(0.1) - logit(0.7), -logit(0.25)]),
        ("regression", "logits", to(2), [0.5, 0.0]),
    ],
)
def test_by_hand(kind: str, outputs: str, target: Target, expected: list[float]) -> None:
    raw = LOGITS if outputs == "logits" else PROBABILITIES
    assert_close(log_odds(raw, target, kind=kind, outputs=outputs), torch.tensor(expected))


def test_binary_by_hand() -> None:
    raw = torch.tensor([[2.0], [-1.0]])
    assert log_odds(raw, to(1), kind="binary").tolist() == [2.0, -1.0]
    assert log_odds(raw, to(0), kind="binary").tolist() == [-2.0, 1.0]
    assert log_odds(raw, to(0, against=1), kind="binary").tolist() == [-2.0, 1.0]
    scores = log_odds(raw.sigmoid(), to(0), kind="binary", outputs="probabilities")
    assert_close(scores, torch.tensor([-2.0, 1.0]))


def test_all_kinds_agree_on_two_classes() -> None:
    logits = torch.linspace(-6, 6, 7)[:, None] * torch.tensor([[-0.5, 0.5]])
    expected = torch.linspace(-6, 6, 7)
    probabilities = logits.softmax(1)
    for target in (to(1), to(1, against=0)):
        assert_close(log_odds(logits, target, kind="multiclass"), expected)
        assert_close(log_odds(probabilities, target, kind="multiclass", outputs="probabilities"), expected)
    assert_close(log_odds(probabilities[:, 1:], to(1), kind="binary", outputs="probabilities"), expected)


def test_log_softmax_passes_for_logits() -> None:
    assert_close(
        log_odds(LOGITS.log_softmax(1), to(0), kind="multiclass"), log_odds(LOGITS, to(0), kind="multiclass")
    )


def test_extreme_probabilities_stay_finite_and_keep_their_digits() -> None:
    bound = logit(1 - 1e-7)
    raw = torch.tensor([[0.0], [1.0]])
    assert_close(log_odds(raw, to(1), kind="binary", outputs="probabilities"), torch.tensor([-bound, bound]))
    logits = torch.tensor([[0.0, 15.0]])
    score = log_odds(logits.softmax(1), to(1), kind="multiclass", outputs="probabilities")
    assert_close(score, torch.tensor([15.0]), rtol=1e-4, atol=0)
    assert log_odds(torch.eye(2), to(1), kind="multiclass", outputs="probabilities").isfinite().all()


def test_gradient_against_finite_differences() -> None:
    raw = PROBABILITIES.double().requires_grad_()
    for kind in ("multiclass", "multilabel"):
        for target in (to(1), to(1, against=2)):
            assert torch.autograd.gradcheck(
                lambda values, target=target, kind=kind: log_odds(
                    values, target, kind=kind, outputs="probabilities"
                ),
                raw,
            )


def test_labels() -> None:
    assert Target(1, None, "cat", None).label == "cat"
    assert Target(1, 0, "cat", "dog").label == "cat rather than dog"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (2, Target(2, None, "bird", None)),
        (torch.tensor(2), Target(2, None, "bird", None)),
        ("cat", Target(1, None, "cat", None)),
        (("dog", "cat"), Target(1, 0, "cat", "dog")),
        ([2, "dog"], Target(0, 2, "dog", "bird")),
        (None, Target(2, None, "bird", None)),
    ],
)
def test_resolved(spec: object, expected: Target) -> None:
    assert resolve_target(spec, NAMES, "multiclass", lambda: [2]) == expected


def test_defaults_need_no_images() -> None:
    def never() -> list[int]:
        raise AssertionError("asked for predictions")

    assert resolve_target(None, ("no", "yes"), "binary", never).name == "yes"
    assert resolve_target(None, ("age",), "regression", never).name == "age"
    assert resolve_target("dog", NAMES, "multiclass", never).index == 0


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("bat", "multiclass", """target: is not the name of a class (received 'bat'). Did you mean "cat"?"""),
        (
            "horse",
            "multiclass",
            "target: is not the name of a class (received 'horse'). Choose from: dog, cat, bird.",
        ),
        (3, "multiclass", "target: must lie in 0 ... 2 (received 3). Choose from: dog, cat, bird."),
        (-1, "multiclass", "target: must lie in 0 ... 2 (received -1). Choose from: dog, cat, bird."),
        (
            0.5,
            "multiclass",
            "target: must be an index, a name or a pair of them (received 0.5). Choose from: dog, cat, bird.",
        ),
        (
            (1, "cat"),
            "multiclass",
            "target: names the same class twice (received (1, 'cat')). Choose from: dog, cat, bird.",
        ),
        (
            (0, 1, 2),
            "multiclass",
            "target: must be a pair of classes, from the first towards the second (received (0, 1, 2)). "
            "Choose from: dog, cat, bird.",
        ),
        (
            (0, 1),
            "regression",
            "target: cannot be a pair: a regression has no classes (received (0, 1)). "
            "Choose from: dog, cat, bird.",
        ),
        (
            None,
            "regression",
            "target: must be named: there are several values (received None). Choose from: dog, cat, bird.",
        ),
        (
            None,
            "multilabel",
            "target: must be named: the images are predicted as different classes (received None). "
            "Choose from: dog, bird.",
        ),
    ],
)
def test_errors(spec: object, kind: str, message: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        resolve_target(spec, NAMES, kind, lambda: [0, 2])
    assert str(caught.value) == message


def test_many_names_are_shortened() -> None:
    with pytest.raises(ClassifierError, match=r"9 \.\.\. \(1000 in all\)\.$"):
        resolve_target(1000, [str(number) for number in range(1000)], "multiclass", list)


# -- regression ------------------------------------------------------------------------------------------


def test_a_regression_is_scored_in_interquartile_ranges_from_the_median() -> None:
    age = Target(1, None, "age", None, measure="value", quartiles=(20.0, 30.0, 60.0))
    raw = torch.tensor([[9.0, 30.0], [9.0, 50.0], [9.0, -10.0]])
    scores = log_odds(raw, age, kind="regression")
    assert scores.tolist() == [0.0, 0.5, -1.0]
    assert age.to_level(scores).tolist() == [30.0, 50.0, -10.0]
    assert age.to_score(torch.tensor([50.0])).tolist() == [0.5]
    assert age.tolerance == pytest.approx(0.8)
    assert age.level_word == "value of age"
    assert age.show(1234.5) == "1234"
    assert age.default_levels[0] == -10.0
    assert age.default_levels[-1] == 70.0


def test_a_regression_without_reference_has_no_tolerance() -> None:
    target = resolve_target(None, ("age",), "regression", list)
    with pytest.raises(ClassifierError, match="reference: is needed for a regression"):
        _ = target.tolerance


def test_quartiles_of_values_columns_and_given_quartiles() -> None:
    values = torch.arange(101.0)
    assert quartiles_of(values) == (25.0, 50.0, 75.0)
    assert quartiles_of(torch.stack([values, 2 * values], dim=1), 1) == (50.0, 100.0, 150.0)
    assert quartiles_of((1, 2, 4)) == (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ([1.0, 2.0], "must hold finite values"),
        ("ages", "must hold finite values"),
        ([1.0, float("nan"), 2.0, 3.0], "must hold finite values"),
        ([5.0] * 10, "ascending order and apart"),
        ((3, 2, 1), "ascending order and apart"),
    ],
)
def test_references_that_are_none(reference: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        quartiles_of(reference)  # type: ignore[arg-type]


# -- uncertainty -----------------------------------------------------------------------------------------


def entropy_log_odds(probabilities: list[float]) -> float:
    u = -sum(p * math.log(p) for p in probabilities) / math.log(len(probabilities))
    return logit(u)


DOUBT = Target(-1, None, "uncertainty", None, "uncertainty")


def test_uncertainty_by_hand() -> None:
    raw = torch.tensor([[2.0], [-0.5]])
    p = raw.sigmoid().flatten().tolist()
    expected = torch.tensor([entropy_log_odds([x, 1 - x]) for x in p])
    assert_close(log_odds(raw, DOUBT, kind="binary"), expected)
    assert_close(log_odds(raw.sigmoid(), DOUBT, kind="binary", outputs="probabilities"), expected)
    expected = torch.tensor([entropy_log_odds(row) for row in PROBABILITIES.tolist()])
    assert_close(log_odds(PROBABILITIES, DOUBT, kind="multiclass", outputs="probabilities"), expected)
    assert_close(log_odds(PROBABILITIES.log() + 7, DOUBT, kind="multiclass"), expected)
    assert DOUBT.to_level(expected[:1]).item() == pytest.approx(
        -sum(p * math.log(p) for p in (0.7, 0.1, 0.2)) / math.log(3)
    )


@pytest.mark.parametrize("logit_value", [0.0, 1e-9, 1e-4, 5.0, 40.0, -300.0])
def test_uncertainty_is_finite_with_a_slope_away_from_indecision(logit_value: float) -> None:
    raw = torch.tensor([[logit_value]], requires_grad=True)
    score = log_odds(raw, DOUBT, kind="binary")
    (slope,) = torch.autograd.grad(score.sum(), raw)
    assert score.isfinite().all()
    assert slope.isfinite().all()
    assert (slope < 0) == (logit_value >= 0), "surer is less uncertain"
    several = torch.full((1, 5), 3.0, requires_grad=True)
    score = log_odds(several, DOUBT, kind="multiclass")
    (slope,) = torch.autograd.grad(score.sum(), several)
    assert score > 13
    assert slope.isfinite().all()
    assert slope.abs().max() > 1


def test_uncertainty_of_certain_probabilities_is_finite() -> None:
    raw = torch.tensor([[0.0], [1.0], [0.5]])
    assert log_odds(raw, DOUBT, kind="binary", outputs="probabilities").isfinite().all()
    assert log_odds(torch.eye(3), DOUBT, kind="multiclass", outputs="probabilities").isfinite().all()


def test_gradient_of_the_uncertainty_against_finite_differences() -> None:
    raw = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.1]], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: log_odds(values, DOUBT, kind="multiclass"), raw)
    assert torch.autograd.gradcheck(lambda values: log_odds(values[:, 1:2], DOUBT, kind="binary"), raw)


def test_uncertainty_is_resolved_unless_a_class_has_that_name() -> None:
    assert resolve_target("uncertainty", NAMES, "multiclass", list) == DOUBT
    assert resolve_target("uncertainty", ("uncertainty", "cat"), "multiclass", list).index == 0
    assert DOUBT.level_word == "uncertainty (share of maximal entropy)"
    for kind, remedy in (("multilabel", "one label"), ("regression", "Choose a value: dog, cat, bird")):
        with pytest.raises(ClassifierError, match=rf"cannot be the uncertainty of a {kind}.*{remedy}"):
            resolve_target("uncertainty", NAMES, kind, list)  # type: ignore[arg-type]


def test_levels_and_scores_of_a_probability_are_inverse() -> None:
    cat = Target(1, None, "cat", None)
    levels = torch.tensor(cat.default_levels, dtype=torch.double)
    assert_close(cat.to_level(cat.to_score(levels)), levels)
    assert cat.tolerance == 0.02
    assert cat.level_word == "probability of cat"
    assert cat.show(0.5) == "0.50"
