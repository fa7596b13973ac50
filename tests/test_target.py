"""Targets, and log-odds computed by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from explainer.errors import ClassifierError
from explainer.target import Target, log_odds, resolve_target

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
