"""What is asked of a classifier, and its log-odds.

With raw outputs ``l`` (logits) or ``p`` (probabilities) of one image, the score of a target is

=====================  =============================  ==============================
kind                   logits                         probabilities
=====================  =============================  ==============================
binary, class 1        l                              log p - log(1 - p)
binary, class 0        -l                             log(1 - p) - log p
multiclass, t          l_t - logsumexp(l without t)   log p_t - log(1 - p_t)
from a towards b       l_b - l_a                      log p_b - log p_a
multilabel, t          l_t                            log p_t - log(1 - p_t)
regression, t          l_t (the value itself)         --
=====================  =============================  ==============================

Probabilities are taken to float64 and kept 1e-7 away from 0 and 1.
"""

import difflib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, cat

from explainer.errors import ClassifierError

__all__ = ["Kind", "Outputs", "Target", "TargetSpec", "log_odds", "resolve_target"]

Kind: TypeAlias = Literal["auto", "binary", "multiclass", "multilabel", "regression"]
Outputs: TypeAlias = Literal["logits", "probabilities"]
TargetSpec: TypeAlias = int | str | tuple[int | str, int | str] | None

PROBABILITY_MARGIN = 1e-7


@dataclass(frozen=True)
class Target:
    """What the score speaks of.

    Attributes:
        index: The class, label or output to walk towards.
        against: The class to walk away from; the rest of them all if there is none.
        name: Name of ``index``.
        against_name: Name of ``against``.

    >>> Target(index=1, against=2, name="cat", against_name="dog").label
    'cat rather than dog'
    """

    index: int
    against: int | None
    name: str
    against_name: str | None

    @property
    def label(self) -> str:
        """The target in words."""
        return self.name if self.against_name is None else f"{self.name} rather than {self.against_name}"


def log_odds(raw: Tensor, target: Target, *, kind: Kind, outputs: Outputs = "logits") -> Tensor:
    """Score of a target from raw outputs: the table of this module.

    Args:
        raw: (batch, outputs) logits, probabilities, or values of a regression.
        target: What to score.
        kind: Anything but ``"auto"``.
        outputs: What ``raw`` holds.

    Returns:
        Scores (batch,), of the type of ``raw``.

    >>> from torch import tensor
    >>> cats = Target(index=1, against=None, name="cat", against_name=None)
    >>> log_odds(tensor([[0.25, 0.75]]), cats, kind="multiclass", outputs="probabilities")
    tensor([1.0986])
    """
    if kind == "regression":
        return raw[:, target.index]
    if kind == "binary":
        positive = raw[:, 0] if outputs == "logits" else _logit(raw[:, 0])
        return positive if target.index == 1 else -positive
    if kind == "multilabel":
        own = raw if outputs == "logits" else _logit(raw)
        score = own[:, target.index]
        return score if target.against is None else score - own[:, target.against]
    if target.against is not None:
        rest = raw[:, target.against].unsqueeze(1)
    else:
        rest = cat([raw[:, : target.index], raw[:, target.index + 1 :]], dim=1)
    if outputs == "logits":
        return raw[:, target.index] - rest.logsumexp(dim=1)
    # 1 - p_t as the sum of the others: float32 keeps their digits when p_t is close to 1.
    return (_log(raw[:, target.index]) - _log(rest.double().sum(dim=1))).to(raw.dtype)


def resolve_target(
    spec: TargetSpec, names: Sequence[str], kind: Kind, predicted: Callable[[], list[int]]
) -> Target:
    """Target for what a user asked.

    Args:
        spec: Index or name of a class (against the rest of them); ``(a, b)`` for from a towards b; or None:
            the positive class of a binary classifier, the only value of a regression, else the class that
            was predicted.
        names: Names of the classes, labels or values; those of the two classes of a binary classifier.
        kind: Anything but ``"auto"``.
        predicted: Asked, only if the answer depends on it, for the classes predicted for the images.

    Raises:
        ClassifierError: No such class, or none that can be told.

    >>> resolve_target(("dog", 1), ["dog", "cat"], "multiclass", predicted=list)
    Target(index=1, against=0, name='cat', against_name='dog')
    """
    if spec is None:
        index = _default_index(names, kind, predicted)
        return Target(index, None, names[index], None)
    if not isinstance(spec, tuple | list):
        index = _index(spec, names)
        return Target(index, None, names[index], None)
    if kind == "regression":
        raise _no_target(spec, "cannot be a pair: a regression has no classes", names)
    if len(spec) != 2:
        raise _no_target(spec, "must be a pair of classes, from the first towards the second", names)
    against, index = (_index(part, names) for part in spec)
    if against == index:
        raise _no_target(spec, "names the same class twice", names)
    return Target(index, against, names[index], names[against])


def _default_index(names: Sequence[str], kind: Kind, predicted: Callable[[], list[int]]) -> int:
    if kind == "binary":
        return 1
    if kind == "regression":
        if len(names) > 1:
            raise _no_target(None, "must be named: there are several values", names)
        return 0
    classes = predicted()
    if len(classes) > 1:
        shown = [names[index] for index in classes]
        raise _no_target(None, "must be named: the images are predicted as different classes", shown)
    return classes[0]


def _index(spec: int | str, names: Sequence[str]) -> int:
    if isinstance(spec, str):
        if spec not in names:
            raise _no_target(spec, "is not the name of a class", names)
        return list(names).index(spec)
    try:
        index = operator.index(spec)
    except TypeError:
        raise _no_target(spec, "must be an index, a name or a pair of them", names) from None
    if not 0 <= index < len(names):
        raise _no_target(spec, f"must lie in 0 ... {len(names) - 1}", names)
    return index


def _no_target(spec: object, problem: str, names: Sequence[str]) -> ClassifierError:
    close = difflib.get_close_matches(spec, names, n=1) if isinstance(spec, str) else []
    shown = ", ".join(names[:10]) + (f" ... ({len(names)} in all)" if len(names) > 10 else "")
    remedy = f'Did you mean "{close[0]}"?' if close else f"Choose from: {shown}."
    return ClassifierError("target", problem, received=repr(spec), remedy=remedy)


def _log(probability: Tensor) -> Tensor:
    return probability.double().clamp_min(PROBABILITY_MARGIN).log()


def _logit(probability: Tensor) -> Tensor:
    clamped = probability.double().clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    return (clamped.log() - (-clamped).log1p()).to(probability.dtype)
