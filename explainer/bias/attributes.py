"""Attributes of images as binary questions, and weights that undo what goes with the target.

A binary column is one question. A categorical column is one question per category, a continuous one asks
whether the value lies above its median. What is empty stays unanswered (NaN) and is counted, not guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explainer.errors import OptionError

__all__ = ["Attribute", "balanced_weights", "questions", "raked_weights"]

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
        positive: What the column says where the answer is 1; None if the question is of a threshold.
    """

    name: str
    column: str
    kind: str
    values: NDArray[np.float64]
    positive: Any = None


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
        skipped += _left_out(str(column), attributes[column])
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


def _left_out(column: str, values: pd.Series) -> list[str]:
    """Sentences on a column without answers, and on categories beyond the most common ones."""
    known = values.dropna()
    if not len(known):
        return [f"{column}: every cell is empty"]
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    rest = known.value_counts().iloc[MOST_CATEGORIES:]
    if numeric or not len(rest):
        return []
    return [
        f"{column}: {len(rest)} rarer categories ({int(rest.sum())} images); only the {MOST_CATEGORIES} most "
        "common ones are asked about"
    ]


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
        return [Attribute(name, column, "binary", answers(values == positive), positive)]
    if numeric and len(different) > 2:
        middle = float(known.median())
        return [Attribute(f"{column} above {middle:g}", column, "continuous", answers(values > middle))]
    common = known.value_counts().index[:MOST_CATEGORIES]
    return [
        Attribute(f"{column} = {category}", column, "categorical", answers(values == category), category)
        for category in sorted(common, key=str)
    ]


def balanced_weights(target: NDArray, attribute: NDArray) -> NDArray[np.float64]:
    """Weights (N,), mean 1, that give every cell of (target, attribute) the same total; 0 where unknown.

    >>> balanced_weights(np.array([0.0, 0, 0, 1]), np.array([0.0, 0, 1, 1]))
    array([0.66666667, 0.66666667, 1.33333333, 1.33333333])
    """
    weights = np.zeros(len(target))
    for y in np.unique(target[~np.isnan(target)]):
        for a in np.unique(attribute[~np.isnan(attribute)]):
            cell = (target == y) & (attribute == a)
            if cell.any():
                weights[cell] = 1 / cell.sum()
    return _bounded(weights)


def raked_weights(target: NDArray, attributes: Sequence[NDArray], *, rounds: int = 50) -> NDArray[np.float64]:
    """Weights (N,), mean 1, under which the target goes with none of the attributes.

    Iterative proportional fitting (Deming & Stephan 1940) of every table (target, attribute) to equal cells;
    images without an answer keep their weight in that table. An attribute with an empty cell is left as it
    is: no weights can balance it. Weights stay within a factor of 20 of the mean.

    Args:
        target: (N,) 0, 1 or NaN; weight 0 where unknown.
        attributes: Each (N,) 0, 1 or NaN.
        rounds: Passes over the tables.

    >>> y = np.array([1] * 6 + [0] * 6)
    >>> weights = raked_weights(y, [np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0])])
    >>> np.round(weights[[0, 5]], 2)
    array([0.6, 3. ])
    """
    known = ~np.isnan(target)
    weights = known.astype(np.float64)
    tables = []
    for answers in (np.zeros(len(target)), *attributes):
        cells = [
            (target == y) & (answers == a) for y in (0, 1) for a in np.unique(answers[~np.isnan(answers)])
        ]
        if all(cell.any() for cell in cells):
            tables.append(cells)
    for _ in range(rounds):
        for cells in tables:
            total = sum(float(weights[cell].sum()) for cell in cells) / len(cells)
            for cell in cells:
                weights[cell] *= total / weights[cell].sum()
    return _bounded(weights)


def _bounded(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of mean 1 over those above 0, none beyond 20."""
    used = weights > 0
    if not used.any():
        return weights
    return np.minimum(weights / weights[used].mean(), 20.0)
