"""The result of replacing pixels: curves, areas, paired differences, and the ranking they allow."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from explainer.errors import OptionError
from explainer.report.fidelity_chart import fidelity_svg
from explainer.report.fidelity_figures import curves_figure, fidelity_page, ranking_figure

__all__ = ["Fidelity"]


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How soon the classifier changes its mind when pixels go in the order of a map.

    Attributes:
        methods: Names of the maps that were given.
        controls: Names of the orders that were added.
        fractions: Of pixels replaced ``(F,)``, 0 to 1.
        curves: One row per method, order, fraction and measure: ``value``, ``low``, ``high`` (pointwise
            interval).
        areas: One row per measure and method: ``area`` under the curve, ``low``, ``high``.
        differences: One row per measure and pair of methods, with paired interval, ``p``, ``q`` and ``real``.
        probability: Of the class first predicted, ``(methods and controls, orders, F, N)``, mean over draws.
        predictions: Classes ``(methods and controls, orders, draws, F, N)``.
        predicted: Classes ``(N,)`` of the intact images.
        labels: True classes ``(N,)``, if they were given.
        orders: ``"most"`` and ``"least"`` relevant first.
        lower_is_better: For each measure.
        missing: Why a measure or a control is not there.
        chance: Accuracy when nothing is left, and by chance.
        settings: Options and seeds.
    """

    methods: tuple[str, ...]
    controls: tuple[str, ...]
    fractions: NDArray[np.float64]
    curves: pd.DataFrame
    areas: pd.DataFrame
    differences: pd.DataFrame
    probability: NDArray[np.float32]
    predictions: NDArray[np.int16]
    predicted: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    orders: tuple[str, ...]
    lower_is_better: Mapping[str, bool]
    missing: Mapping[str, str]
    chance: Mapping[str, float]
    settings: Mapping[str, Any]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that could be had."""
        return tuple(self.lower_is_better)

    def to_frame(self) -> pd.DataFrame:
        """All curves in long form, controls marked."""
        return self.curves.assign(control=self.curves["method"].isin(self.controls))

    def ranking(self, measure: str = "probability") -> pd.DataFrame:
        """Methods and controls from the best to the worst, and which differences are real.

        Returns:
            ``method``, ``area``, ``low``, ``high``, ``control``, ``better than`` and ``not told apart from``:
            names, by the paired test at a false discovery rate of .05.

        Raises:
            OptionError: No such measure.
        """
        self._require(measure)
        table = self.areas[self.areas["measure"] == measure].drop(columns="measure")
        lower = self.lower_is_better[measure]
        table = table.sort_values("area", ascending=lower, kind="stable").reset_index(drop=True)
        better: dict[str, list[str]] = {name: [] for name in table["method"]}
        same: dict[str, list[str]] = {name: [] for name in table["method"]}
        for row in self.differences[self.differences["measure"] == measure].itertuples():
            if not row.real:
                same[row.method].append(row.other)
                same[row.other].append(row.method)
            elif (row.difference < 0) == lower:
                better[row.method].append(row.other)
            else:
                better[row.other].append(row.method)
        return table.assign(
            control=table["method"].isin(self.controls),
            **{
                "better than": [", ".join(better[name]) for name in table["method"]],
                "not told apart from": [", ".join(same[name]) for name in table["method"]],
            },
        )

    def compare(self, method: str, other: str, measure: str = "probability") -> dict[str, Any]:
        """The paired difference of two methods: ``difference`` (method - other), ``low``, ``high``, ``p``,
        ``q``, ``real`` and ``better``: whether the whole interval favours ``method``.

        Raises:
            OptionError: No such measure or method, or one image only.
        """
        self._require(measure)
        rows = self.differences[self.differences["measure"] == measure]
        for sign, a, b in ((1, method, other), (-1, other, method)):
            found = rows[(rows["method"] == a) & (rows["other"] == b)]
            if len(found):
                row = found.iloc[0]
                low, high = sorted((sign * float(row["low"]), sign * float(row["high"])))
                better = high < 0 if self.lower_is_better[measure] else low > 0
                return {
                    "difference": sign * float(row["difference"]), "low": low, "high": high,
                    "p": float(row["p"]), "q": float(row["q"]), "real": bool(row["real"]), "better": better,
                }  # fmt: skip
        raise OptionError(
            "method, other", "were not compared", received=(method, other),
            remedy=f"Choose two of {', '.join((*self.methods, *self.controls))}, with at least two images.",
        )  # fmt: skip

    def sentences(self) -> list[str]:
        """What can be said, in words."""
        said = []
        main = str(self.settings["controls_for"])
        for measure in self.measures:
            if not len(self.differences):
                break
            against = {name: self.compare(main, name, measure) for name in self.controls}
            won = [name for name, found in against.items() if found["better"] and found["real"]]
            lost = [name for name in self.controls if name not in won]
            text = f"By {measure}, {main} is better than {', '.join(won) or 'none of the controls'}"
            said.append(f"{text}; not better than {', '.join(lost)}." if lost else f"{text}: all controls.")
        if self.chance:
            said.append(
                f"With nothing left accuracy is {self.chance['accuracy when nothing is left']:.2f}; "
                f"chance is {self.chance['accuracy by chance']:.2f}."
            )
        said += [f"No {name}: {reason}" for name, reason in self.missing.items()]
        return said

    # -- looking at it --------------------------------------------------------------------------------

    def figure(self) -> Any:
        """All curves as a plotly figure."""
        return curves_figure(self.to_frame(), chance=self.chance.get("accuracy by chance"))

    def ranking_figure(self) -> Any:
        """All areas with their intervals as a plotly figure."""
        return ranking_figure(self.areas, self.controls, self.lower_is_better)

    def to_html(self, path: str | Path) -> Path:
        """Write one page with curves, areas and tables that makes no network request.

        Raises:
            OutputError: The file cannot be written.
        """
        tables = {measure: self.ranking(measure) for measure in self.measures}
        return fidelity_page([self.figure(), self.ranking_figure()], tables, self.sentences(), path)

    def __repr__(self) -> str:
        return (
            f"Fidelity({len(self.methods)} methods, {len(self.controls)} controls, "
            f"{self.settings['images']} images, filler={self.settings['filler']!r}, "
            f"unit={self.settings['unit']!r})"
        )

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        columns = ["method", "area", "low", "high", "better than"]
        table = self.ranking("probability")[columns].to_html(
            index=False, float_format=lambda value: f"{value:.3f}", border=0, na_rep=""
        )
        return f"<div>{fidelity_svg(self.to_frame())}{table}<ul>{said}</ul></div>"

    # -- keeping it -----------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """Everything but the arrays, JSON-serialisable."""
        return {
            "methods": list(self.methods),
            "controls": list(self.controls),
            "orders": list(self.orders),
            "fractions": self.fractions.tolist(),
            "curves": _rows(self.curves),
            "areas": _rows(self.areas),
            "differences": _rows(self.differences),
            "lower_is_better": dict(self.lower_is_better),
            "missing": dict(self.missing),
            "chance": dict(self.chance),
            "settings": dict(self.settings),
        }

    def arrays(self) -> dict[str, NDArray]:
        """The arrays: what every image was answered."""
        arrays: dict[str, NDArray] = {
            "probability": self.probability,
            "predictions": self.predictions,
            "predicted": self.predicted,
        }
        if self.labels is not None:
            arrays["labels"] = self.labels
        return arrays

    @classmethod
    def from_record(cls, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> "Fidelity":
        """The inverse of :meth:`record` and :meth:`arrays`; tensors are taken for arrays too."""
        kept = {name: np.asarray(values) for name, values in arrays.items()}
        return cls(
            methods=tuple(record["methods"]),
            controls=tuple(record["controls"]),
            orders=tuple(record["orders"]),
            fractions=np.asarray(record["fractions"], dtype=np.float64),
            curves=_table(record["curves"]),
            areas=_table(record["areas"]),
            differences=_table(record["differences"]),
            probability=kept["probability"],
            predictions=kept["predictions"],
            predicted=kept["predicted"],
            labels=kept.get("labels"),
            lower_is_better=dict(record["lower_is_better"]),
            missing=dict(record["missing"]),
            chance=dict(record["chance"]),
            settings=dict(record["settings"]),
        )

    def _require(self, measure: str) -> None:
        if measure not in self.lower_is_better:
            reason = self.missing.get(measure)
            raise OptionError(
                "measure", f"is not there: {reason}" if reason else "is not known", received=measure,
                remedy=f"Choose from: {', '.join(self.measures)}.",
            )  # fmt: skip


NUMBERS = ("fraction", "value", "low", "high", "area", "difference", "p", "q")


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    """Columns and rows; NaN as None, because JSON has none."""
    values = table.astype(object).where(table.notna(), None)
    return {"columns": list(table.columns), "rows": values.to_numpy().tolist()}


def _table(stored: Mapping[str, Any]) -> pd.DataFrame:
    table = pd.DataFrame(stored["rows"], columns=stored["columns"])
    kinds = {name: float for name in table.columns if name in NUMBERS}
    return table.astype(kinds | ({"real": bool} if "real" in table else {}))
