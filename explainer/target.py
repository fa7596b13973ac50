r"""What is asked of a classifier, its score, and how a score and a level are turned into each other.

A walk moves a *score* ``s``, unbounded and of the order of 1; a user asks for a *level*. With raw outputs
``l`` (logits) or ``p`` (probabilities) of one image, the score of a target is

=====================  =============================  ==============================
kind                   logits                         probabilities
=====================  =============================  ==============================
binary, class 1        l                              log p - log(1 - p)
binary, class 0        -l                             log(1 - p) - log p
multiclass, t          l_t - logsumexp(l without t)   log p_t - log(1 - p_t)
from a towards b       l_b - l_a                      log p_b - log p_a
multilabel, t          l_t                            log p_t - log(1 - p_t)
regression, t          (l_t - median) / IQR           --
uncertainty            log u - log(1 - u)             log u - log(1 - u)
=====================  =============================  ==============================

and its level is ``sigmoid(s)``, a probability; for a regression the value ``l_t``, whose median and
interquartile range (IQR) are those of a reference; for the uncertainty ``u = H(p) / log K``, the entropy of
the K classes as a share of the highest there is.

Probabilities are taken to float64 and kept 1e-7 away from 0 and 1. ``u`` needs no such margin at 0: its
logarithm is computed from the logits, so ``s`` falls like ``-|l|`` for a classifier that is sure. At
``u = 1`` the score has a pole and the entropy no slope: logits closer than 1e-3 to all-equal are moved out
to that distance, with their gradient, so the score stays finite and a walk can leave.
"""

import difflib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, cat

from explainer.errors import ClassifierError, OptionError

__all__ = [
    "UNCERTAINTY",
    "Kind",
    "Measure",
    "Outputs",
    "Quartiles",
    "Target",
    "TargetSpec",
    "log_odds",
    "quartiles_of",
    "resolve_target",
]

Kind: TypeAlias = Literal["auto", "binary", "multiclass", "multilabel", "regression"]
Outputs: TypeAlias = Literal["logits", "probabilities"]
TargetSpec: TypeAlias = int | str | tuple[int | str, int | str] | None
Measure: TypeAlias = Literal["probability", "value", "uncertainty"]
Quartiles: TypeAlias = tuple[float, float, float]

UNCERTAINTY = "uncertainty"
"""The target that is no class: the entropy of all of them."""

PROBABILITY_MARGIN = 1e-7
UNIFORM_MARGIN = 1e-3
SCORE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Target:
    """What the score speaks of.

    Attributes:
        index: The class, label or output to walk towards; -1 for the uncertainty, which is of all classes.
        against: The class to walk away from; the rest of them all if there is none.
        name: Name of ``index``.
        against_name: Name of ``against``.
        measure: What a level is: a probability, a value of a regression, or the uncertainty.
        quartiles: Of a regression's values on reference images: lower quartile, median, upper quartile. They
            are the unit of the score; without them it is the value itself and has no tolerance.

    >>> Target(index=1, against=2, name="cat", against_name="dog").label
    'cat rather than dog'
    >>> age = Target(0, None, "age", None, measure="value", quartiles=(30.0, 40.0, 50.0))
    >>> age.to_score(torch.tensor([30.0, 60.0])), age.tolerance, age.level_word
    (tensor([-0.5000,  1.0000]), 0.4, 'value of age')
    """

    index: int
    against: int | None
    name: str
    against_name: str | None
    measure: Measure = "probability"
    quartiles: Quartiles | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Target":
        """The target that an explanation's provenance names, where quartiles are a list, as JSON has them."""
        quartiles = record["quartiles"]
        return cls(**{**record, "quartiles": None if quartiles is None else tuple(quartiles)})

    @property
    def label(self) -> str:
        """The target in words."""
        return self.name if self.against_name is None else f"{self.name} rather than {self.against_name}"

    @property
    def level_word(self) -> str:
        """What a level of this target is, in words."""
        if self.measure == "uncertainty":
            return "uncertainty (share of maximal entropy)"
        return f"{self.measure} of {self.label}"

    @property
    def tolerance(self) -> float:
        """How far the level of a frame may be from what was asked: .02, or 2 % of the interquartile range.

        Raises:
            ClassifierError: A regression without reference values.
        """
        if self.measure != "value":
            return SCORE_TOLERANCE
        if self.quartiles is None:
            raise ClassifierError(
                "reference",
                "is needed for a regression: 2 % of its interquartile range is the tolerance of a level",
                received="none",
                remedy='Pass Classifier(..., kind="regression", reference=values on reference images), or '
                "classifier.target(..., reference=images).",
            )
        return SCORE_TOLERANCE * self._unit[1]

    @property
    def default_levels(self) -> list[float]:
        """Ten levels: .05 to .95, or one interquartile range to either side of the median."""
        if self.measure == "value":
            median, spread = self._unit
            return np.linspace(median - spread, median + spread, 10).tolist()
        return np.linspace(0.05, 0.95, 10).tolist()

    def to_score(self, levels: Tensor) -> Tensor:
        """Scores at which the levels are reached, of the same shape and type."""
        if self.measure != "value":
            return torch.logit(levels)
        median, spread = self._unit
        return (levels - median) / spread

    def to_level(self, scores: Tensor) -> Tensor:
        """Levels of the scores, of the same shape and type: the inverse of :meth:`to_score`."""
        if self.measure != "value":
            return torch.sigmoid(scores)
        median, spread = self._unit
        return scores * spread + median

    def show(self, level: float) -> str:
        """A level as text: two decimals, or four digits of a value.

        >>> Target(1, None, "cat", None).show(0.9)
        '0.90'
        """
        return f"{level:.4g}" if self.measure == "value" else f"{level:.2f}"

    @property
    def _unit(self) -> tuple[float, float]:
        """Where a score of 0 lies, and how long a score of 1 is, in values of a regression."""
        if self.quartiles is None:
            return 0.0, 1.0
        low, median, high = self.quartiles
        return median, high - low


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
    if target.measure == "uncertainty":
        return _uncertainty(raw, kind, outputs)
    if kind == "regression":
        median, spread = target._unit
        return (raw[:, target.index] - median) / spread
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
            was predicted. ``"uncertainty"`` (unless a class is named so) is the entropy of all classes.
        names: Names of the classes, labels or values; those of the two classes of a binary classifier.
        kind: Anything but ``"auto"``.
        predicted: Asked, only if the answer depends on it, for the classes predicted for the images.

    Raises:
        ClassifierError: No such class, or none that can be told.

    >>> resolve_target(("dog", 1), ["dog", "cat"], "multiclass", predicted=list).label
    'cat rather than dog'
    """
    if spec == UNCERTAINTY and UNCERTAINTY not in names:
        return _uncertainty_target(kind, names)
    measure: Measure = "value" if kind == "regression" else "probability"
    if spec is None:
        index = _default_index(names, kind, predicted)
        return Target(index, None, names[index], None, measure)
    if not isinstance(spec, tuple | list):
        index = _index(spec, names)
        return Target(index, None, names[index], None, measure)
    if kind == "regression":
        raise _no_target(spec, "cannot be a pair: a regression has no classes", names)
    if len(spec) != 2:
        raise _no_target(spec, "must be a pair of classes, from the first towards the second", names)
    against, index = (_index(part, names) for part in spec)
    if against == index:
        raise _no_target(spec, "names the same class twice", names)
    return Target(index, against, names[index], names[against])


def quartiles_of(reference: ArrayLike | Tensor, index: int = 0) -> Quartiles:
    """Lower quartile, median and upper quartile of a regression's values on reference images.

    Args:
        reference: Values (images,) or (images, outputs), at least four images; or a tuple or list of three
            numbers, which are the quartiles already.
        index: The output, where there are several.

    Raises:
        OptionError: Fewer values, values that are not finite, or no spread between the quartiles.

    >>> quartiles_of([20.0, 30.0, 40.0, 50.0, 60.0]), quartiles_of((30, 40, 50))
    ((30.0, 40.0, 50.0), (30.0, 40.0, 50.0))
    """
    given = reference.detach().cpu().numpy() if isinstance(reference, Tensor) else reference
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim == 2 and index < values.shape[1]:
        values = values[:, index]
    ready = isinstance(reference, tuple | list) and values.shape == (3,)
    if (not ready and (values.ndim != 1 or len(values) < 4)) or not np.isfinite(values).all():
        raise OptionError(
            "reference",
            "must hold finite values of the classifier on four or more images, or three quartiles",
            received=f"shape {np.shape(given)}",
            remedy="Pass classifier.raw(images) of some hundred images of the kind to be explained.",
        )
    low, median, high = (
        float(value) for value in (values if ready else np.quantile(values, (0.25, 0.5, 0.75)))
    )
    if not low <= median <= high or not high > low:
        raise OptionError(
            "reference",
            "must have its quartiles in ascending order and apart: they are the unit of the walk",
            received=(low, median, high),
            remedy="Use reference images on which the value varies.",
        )
    return low, median, high


def _uncertainty_target(kind: Kind, names: Sequence[str]) -> Target:
    if kind in ("multilabel", "regression"):
        raise ClassifierError(
            "target",
            f"cannot be the uncertainty of a {kind} classifier, whose outputs are no classes of one question",
            received=repr(UNCERTAINTY),
            remedy="Wrap one label as a binary classifier (lambda images: model(images)[:, label])."
            if kind == "multilabel"
            else f"Choose a value: {', '.join(names[:10])}.",
        )
    return Target(-1, None, UNCERTAINTY, None, "uncertainty")


def _uncertainty(raw: Tensor, kind: Kind, outputs: Outputs) -> Tensor:
    """Log-odds of u = H(p) / log K, from log p alone so that no digit is lost at either end."""
    if kind == "binary":
        positive = raw[:, :1].double() if outputs == "logits" else _logit(raw[:, :1].double())
        logits = cat([-positive / 2, positive / 2], dim=1)
    else:
        logits = raw.double() if outputs == "logits" else _log(raw)
    centred = logits - logits.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True).detach()
    first = torch.zeros_like(centred)
    first[:, 0], first[:, 1] = -(0.5**0.5), 0.5**0.5
    direction = torch.where(length > 0, centred.detach() / length.clamp_min(1e-30), first)
    centred = centred + direction * (UNIFORM_MARGIN - length).clamp_min(0)
    log_p = centred.log_softmax(dim=1)
    # -log p of a class that is all but certain underflows; its share of the entropy is then negligible.
    log_u = (log_p + (-log_p).clamp_min(1e-300).log()).logsumexp(dim=1) - math.log(math.log(logits.shape[1]))
    return (log_u - (-torch.expm1(log_u)).log()).to(raw.dtype)


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
