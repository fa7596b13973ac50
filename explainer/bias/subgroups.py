"""Observational evidence: how a classifier does on the images as they are, group by group.

Rates come from fairlearn's ``MetricFrame``; every cell is shown with its count, its interval and, where a
group holds one class only, without an AUC: it is undefined there and would look fair. Differences between
groups are shown with intervals and never tested against zero as maxima: the largest difference of several
groups is never zero (fairlearn's own bootstrap of it excludes zero under the null).

The *correlation difference* is corr(prediction, attribute) - corr(label, attribute): what the classifier adds
to the association that is in the data.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from fairlearn.metrics import (
    MetricFrame,
    count,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import accuracy_score

from explainer.bias.statistics import Effect, share
from explainer.metrics import auc

__all__ = ["Observed", "observe"]

RATES = {
    "accuracy": accuracy_score,
    "true positive rate": true_positive_rate,
    "false positive rate": false_positive_rate,
    "selection rate": selection_rate,
    "count": count,
}


@dataclass(frozen=True, eq=False)
class Observed:
    """What is seen without any walk.

    Attributes:
        groups: One row per answer of the attribute: rates, their intervals (``"... low"``, ``"... high"``),
            the AUC (NaN where a group holds one class only), and ``count``.
        cells: One row per (label, attribute): count and accuracy with its interval.
        worst: The cell with the lowest upper bound of its accuracy among those with enough images; None if
            no cell has them.
        demographic_parity: Difference of the selection rates, with its interval.
        equalised_odds: The larger of the differences of true and of false positive rates, without a test.
        correlation_difference: corr(prediction, attribute) - corr(label, attribute).
        association: Correlation of label and attribute in the data, with its interval.
        missing: Images without an answer.
    """

    groups: pd.DataFrame
    cells: pd.DataFrame
    worst: str | None
    demographic_parity: tuple[float, float, float]
    equalised_odds: float
    correlation_difference: float
    association: tuple[float, float, float]
    missing: int


def observe(
    labels: NDArray,
    scores: NDArray,
    answers: NDArray,
    groups: NDArray,
    *,
    alpha: float = 0.05,
    fewest: int = 20,
) -> Observed:
    """Observational evidence on one attribute.

    Args:
        labels: True classes (N,), 0 or 1.
        scores: Log-odds of the classifier (N,).
        answers: Of the attribute (N,), 0, 1 or NaN.
        groups: Person, patient ... (N,).
        alpha: 1 - coverage of the intervals.
        fewest: Images a cell needs to be called the worst.
    """
    known = ~np.isnan(answers) & ~np.isnan(labels) & np.isfinite(scores)
    y, s, a, members = labels[known].astype(int), scores[known], answers[known].astype(int), groups[known]
    predicted = (s > 0).astype(int)
    frame = MetricFrame(
        metrics=RATES, y_true=y, y_pred=predicted, sensitive_features=pd.Series(a, name="answer")
    )
    table = frame.by_group.reset_index()
    rows_of = {
        "accuracy": np.ones(len(y), bool), "true positive rate": y == 1, "false positive rate": y == 0,
        "selection rate": np.ones(len(y), bool),
    }  # fmt: skip
    hits = {"accuracy": predicted == y, **dict.fromkeys(list(RATES)[1:4], predicted == 1)}
    for name, relevant in rows_of.items():
        effects = [
            share(hits[name][relevant & (a == answer)], members[relevant & (a == answer)], alpha=alpha)
            for answer in table["answer"]
        ]
        table[name] = [effect.value for effect in effects]
        table[f"{name} low"] = [effect.low for effect in effects]
        table[f"{name} high"] = [effect.high for effect in effects]
    table["AUC"] = [auc(y[a == answer], s[a == answer]) for answer in table["answer"]]
    cells = _cells(y, a, predicted, members, alpha)
    enough = cells[cells["count"] >= fewest]
    worst = None if enough.empty else str(enough.loc[enough["high"].idxmin(), "cell"])
    by_answer = table.set_index("answer")
    both = {0, 1} <= set(by_answer.index)
    gaps = [
        abs(by_answer.loc[1, name] - by_answer.loc[0, name]) if both else math.nan
        for name in ("true positive rate", "false positive rate")
    ]
    return Observed(
        groups=table,
        cells=cells,
        worst=worst,
        demographic_parity=_difference(by_answer) if both else (math.nan,) * 3,
        equalised_odds=float(np.max(gaps)) if not np.isnan(gaps).any() else math.nan,
        correlation_difference=_correlation(predicted, a) - _correlation(y, a),
        association=_with_interval(_correlation(y, a), len(np.unique(members)), alpha),
        missing=int((~known).sum()),
    )


def _cells(y: NDArray, a: NDArray, predicted: NDArray, members: NDArray, alpha: float) -> pd.DataFrame:
    rows = []
    for label in (0, 1):
        for answer in (0, 1):
            cell = (y == label) & (a == answer)
            right: Effect = share((predicted == y)[cell], members[cell], alpha=alpha)
            rows.append(
                {
                    "cell": f"label {label}, attribute {answer}", "label": label, "attribute": answer,
                    "count": int(cell.sum()), "accuracy": right.value, "low": right.low, "high": right.high,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _difference(by_answer: pd.DataFrame) -> tuple[float, float, float]:
    """Newcombe's interval of the difference of two independent selection rates, from their own intervals."""
    one, other = by_answer.loc[1], by_answer.loc[0]
    p, q = one["selection rate"], other["selection rate"]
    value = p - q
    low = value - math.hypot(p - one["selection rate low"], other["selection rate high"] - q)
    high = value + math.hypot(one["selection rate high"] - p, q - other["selection rate low"])
    return float(value), float(low), float(high)


def _correlation(x: NDArray, y: NDArray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _with_interval(correlation: float, count: int, alpha: float) -> tuple[float, float, float]:
    """Fisher's interval of a correlation over so many independent units."""
    if math.isnan(correlation) or count < 4 or abs(correlation) >= 1:
        return correlation, math.nan, math.nan
    half = float(stats.norm.isf(alpha / 2)) / math.sqrt(count - 3)
    centre = math.atanh(correlation)
    return correlation, math.tanh(centre - half), math.tanh(centre + half)
