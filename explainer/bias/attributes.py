"""Attributes of images as binary questions, and the models that answer them.

A binary column is one question. A categorical column is one question per category, a continuous one asks
whether the value lies above its median. An *oracle* is a model of such a question. Where none is given one
is trained here: in two halves (by group), each image is then judged by the model that has not seen it, with
training draws balanced over attribute and target, so that the oracle cannot use what merely goes with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainer.classifier import Classifier
from explainer.convnet import fit_classifier
from explainer.errors import OptionError
from explainer.metrics import auc

__all__ = ["Attribute", "Oracle", "balanced_weights", "fit_oracle", "oracle_quality", "questions"]

FEWEST = 20
MOST_CATEGORIES = 12


@dataclass(frozen=True, eq=False)
class Attribute:
    """A binary question about every image.

    Attributes:
        name: In words, for example ``"gender = female"`` or ``"age above 41"``.
        column: Where it comes from.
        kind: ``"binary"``, ``"categorical"`` or ``"continuous"``, of the column.
        values: Answers (N,): 1, 0, or NaN where the column is empty.
    """

    name: str
    column: str
    kind: str
    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Oracle:
    """Models that answer a question, and which images each of them may be asked about.

    Attributes:
        parts: A binary classifier and the rows of the images it has not seen, one or two of them.
        source: Where it comes from, in words.
    """

    parts: tuple[tuple[Classifier, NDArray[np.int64]], ...]
    source: str

    @torch.no_grad()
    def score(self, images: Tensor, rows: Sequence[int] | NDArray) -> NDArray[np.float64]:
        """Log-odds (M,) of images (M, C, H, W) that belong to (or were made from) the images ``rows``.

        Args:
            images: In [0, 1].
            rows: Of each, its number in the audited set: it decides which model is asked.
        """
        asked = np.asarray(rows)
        scores = np.full(len(asked), np.nan)
        for classifier, may in self.parts:
            chosen = np.flatnonzero(np.isin(asked, may))
            if len(chosen):
                with classifier.frozen():
                    target = classifier.target(1, images[:1])
                    parts = images[torch.from_numpy(chosen)].split(classifier.batch_size)
                    values = torch.cat([classifier.score(part, target) for part in parts])
                scores[chosen] = values.double().cpu().numpy()
        return scores

    def level(self, images: Tensor, rows: Sequence[int] | NDArray) -> NDArray[np.float64]:
        """Probabilities (M,), see :meth:`score`."""
        return 1 / (1 + np.exp(-self.score(images, rows)))

    @classmethod
    def given(cls, classifier: Classifier, count: int) -> "Oracle":
        """One model for all ``count`` images, which somebody else trained."""
        return cls(((classifier, np.arange(count)),), "given")


def questions(attributes: pd.DataFrame) -> tuple[list[Attribute], list[str]]:
    """The binary questions that a table of attributes asks.

    Args:
        attributes: One row per image.

    Returns:
        The questions, and a sentence for every category or column that is too small to ask about.

    Raises:
        OptionError: No column, or two of one name.

    >>> table = pd.DataFrame({"hat": [True, False] * 30, "age": range(60), "site": ["a"] * 40 + ["b"] * 20})
    >>> [question.name for question in questions(table)[0]]
    ['hat', 'age above 29.5', 'site = b']
    """
    if not isinstance(attributes, pd.DataFrame) or not len(attributes.columns):
        raise OptionError(
            "attributes", "must be a table with at least one column", received=type(attributes).__name__,
            remedy='Pass a DataFrame such as images_table[["gender", "age"]].',
        )  # fmt: skip
    if attributes.columns.duplicated().any():
        raise OptionError(
            "attributes", "has two columns of one name",
            received=list(attributes.columns[attributes.columns.duplicated()]), remedy="Rename one of them.",
        )  # fmt: skip
    asked: list[Attribute] = []
    skipped: list[str] = []
    for column in attributes.columns:
        for question in _questions_of(str(column), attributes[column]):
            counts = [int((question.values == answer).sum()) for answer in (0, 1)]
            if min(counts) >= FEWEST:
                asked.append(question)
            else:
                skipped.append(
                    f"{question.name}: {counts[1]} images with it and {counts[0]} without; at least "
                    f"{FEWEST} of each are needed"
                )
    return asked, skipped


def _questions_of(column: str, values: pd.Series) -> list[Attribute]:
    known = values.dropna()
    different = sorted(known.unique().tolist(), key=str)
    missing = values.isna().to_numpy()

    def answers(truth: pd.Series) -> NDArray[np.float64]:
        return np.where(missing, np.nan, truth.to_numpy(dtype=float))

    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if len(different) == 2:
        positive = max(known.unique().tolist()) if numeric else different[1]
        plain = set(map(str, different)) in ({"0", "1"}, {"0.0", "1.0"}, {"False", "True"})
        name = column if plain else f"{column} = {positive}"
        return [Attribute(name, column, "binary", answers(values == positive))]
    if numeric and len(different) > 2:
        middle = float(known.median())
        return [Attribute(f"{column} above {middle:g}", column, "continuous", answers(values > middle))]
    common = known.value_counts().index[:MOST_CATEGORIES]
    return [
        Attribute(f"{column} = {category}", column, "categorical", answers(values == category))
        for category in sorted(common, key=str)
    ]


def balanced_weights(target: NDArray, attribute: NDArray) -> NDArray[np.float64]:
    """Weights (N,) that give every cell of (target, attribute) the same total; 0 where either is unknown.

    >>> balanced_weights(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    array([0.5, 0.5, 1. , 1. ])
    """
    weights = np.zeros(len(target))
    for y in np.unique(target[~np.isnan(target)]):
        for a in np.unique(attribute[~np.isnan(attribute)]):
            cell = (target == y) & (attribute == a)
            if cell.any():
                weights[cell] = 1 / cell.sum()
    return weights


def fit_oracle(
    images: Tensor,
    answers: NDArray,
    other: NDArray,
    groups: NDArray,
    *,
    steps: int = 400,
    seed: int = 0,
    class_names: tuple[str, str] = ("without", "with"),
) -> Oracle:
    """Train a cross-fitted oracle: two halves by group, each judged by the model trained on the other.

    Args:
        images: (N, C, H, W) in [0, 1] or uint8.
        answers: (N,) 0, 1 or NaN: what the oracle is to tell.
        other: (N,) 0, 1 or NaN: what it must not use; training draws are balanced over both.
        groups: (N,) person or patient; nobody is in both halves.
        steps: Optimiser steps of each half.
        seed: Of the halves and the training.
        class_names: Of answers 0 and 1.

    Raises:
        OptionError: A half without images of both answers.
    """
    names, index = np.unique(groups, return_inverse=True)
    half = np.random.default_rng(seed).permutation(len(names))[index] % 2
    weights = balanced_weights(other, answers)
    parts = []
    for number in (0, 1):
        training = np.flatnonzero((half == number) & (weights > 0))
        held_out = np.flatnonzero((half != number) & (weights > 0))
        for rows in (training, held_out):
            if len(np.unique(answers[rows])) < 2:
                raise OptionError(
                    "attributes", "leave one half of the groups without both answers", received=class_names,
                    remedy="Pass more images of the rarer answer, from several people or patients.",
                )  # fmt: skip
        network, _ = fit_classifier(
            images[torch.from_numpy(training)],
            torch.from_numpy(answers[training]).float(),
            validation=(
                images[torch.from_numpy(held_out[:1000])],
                torch.from_numpy(answers[held_out[:1000]]).float(),
            ),
            weights=torch.from_numpy(weights[training]),
            steps=steps,
            augment=False,  # brightness or position may be the attribute
            seed=seed + number,
        )
        network.requires_grad_(False).eval()
        classifier = Classifier(network, kind="binary", class_names=class_names)
        parts.append((classifier, np.flatnonzero(half != number)))
    return Oracle(tuple(parts), f"trained here in two halves, {steps} steps each")


def oracle_quality(scores: NDArray, answers: NDArray, target: NDArray) -> dict[str, float]:
    """Area under the ROC curve of an oracle within each class of the target: what it knows beyond the target.

    Returns:
        ``"within y"`` for each class y, and ``"least"`` of them; NaN where a class holds one answer only.
    """
    quality: dict[str, float] = {}
    for y in np.unique(target[~np.isnan(target)]):
        rows = (target == y) & ~np.isnan(answers) & np.isfinite(scores)
        quality[f"within {y:g}"] = auc(answers[rows], scores[rows]) if rows.sum() else float("nan")
    values = list(quality.values())
    quality["least"] = float(np.nan) if not values or np.isnan(values).any() else min(values)
    return quality
