"""Where everything lies in the plots of an audit, in SVG units; the template draws them.

Three kinds: classifier and oracle against the level asked for, with the band of the null; the reverse of it,
before and after a walk of the attribute; effects on one axis. The template draws them as SVG that follows the
page's colours, scales with the page and prints; each comes with the same numbers as a table, and with a
description for whoever does not see it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from explainer.report.charts import nice_ticks

__all__ = ["Intervals", "Line", "Paths", "forward_chart", "interval_chart", "reverse_chart"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 260.0, 66.0, 14.0, 12.0, 50.0
ROW, LABEL = 30.0, 204.0


@dataclass(frozen=True)
class Line:
    """One series of a plot.

    Attributes:
        kind: Name of its style: ``"classifier"``, ``"oracle"``, ``"null"``, ``"held"`` or ``"random"``.
        points: Corners of the line as SVG points.
        band: Corners of its interval; None if there is none.
        marks: Places of its markers.
        whiskers: Place along x, and both ends along y, of intervals drawn as bars.
    """

    kind: str
    points: str
    band: str | None = None
    marks: list[tuple[float, float]] = field(default_factory=list)
    whiskers: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Paths:
    """A plot of probabilities.

    Attributes:
        size: Width and height.
        frame: Left, top, right and bottom of the plotting area.
        x_ticks: Place and label.
        y_ticks: Place and label.
        lines: What is drawn, in this order.
        count: Walks it is the mean of.
        description: In words, for whoever does not see it.
        columns: Names of the columns of the same numbers.
        rows: The numbers.
    """

    size: tuple[float, float]
    frame: tuple[float, float, float, float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    count: int
    description: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Intervals:
    """A plot of effects, one below the other.

    Attributes:
        size: Width and height.
        frame: Left, top, right and bottom of the plotting area.
        ticks: Place and label.
        zero: Place of zero.
        margins: Places of thresholds.
        bars: Place along y, label, low, value, high along x, and the numbers in words.
        description: In words.
    """

    size: tuple[float, float]
    frame: tuple[float, float, float, float]
    ticks: list[tuple[float, str]]
    zero: float
    margins: list[float]
    bars: list[tuple[float, str, float, float, float, str]]
    description: str


def _across(value: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * value, 2)


def _down(value: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value), 2)


def _line(kind: str, x: Sequence[float], y: Sequence[float], low: Any = None, high: Any = None) -> Line:
    """A series through places of shares x and y, with a band where its ends are known."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
    marks = [(_across(a), _down(b)) for a, b in kept]
    band = None
    if low is not None and high is not None and all(end is not None for end in (*low, *high)):
        there = [f"{_across(a)},{_down(b)}" for a, b in zip(x, low, strict=True)]
        back = [f"{_across(a)},{_down(b)}" for a, b in zip(x, high, strict=True)][::-1]
        band = " ".join(there + back)
    return Line(kind, " ".join(f"{a},{b}" for a, b in marks), band, marks)


def _two(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"


def _with_ends(value: float | None, low: float | None, high: float | None) -> str:
    return _two(value) if low is None or high is None else f"{_two(value)} [{_two(low)}, {_two(high)}]"


def forward_chart(paths: Mapping[str, list[Any]], way: str) -> Paths | None:
    """Classifier and oracle against the level asked for, over the walks of one direction.

    Args:
        paths: Of a finding, see :mod:`explainer.bias.paths`.
        way: ``"up"`` or ``"down"``.

    Returns:
        The plot; None if no walk went that way.
    """

    def of(name: str) -> list[Any] | None:
        return paths.get(f"{name}, {way}")

    classifier, oracle = of("classifier"), of("oracle")
    if classifier is None or oracle is None:
        return None
    asked = of("asked") or classifier
    lines = []
    levels, null = of("reference level"), of("reference")
    if levels and null:
        ends = of("reference low"), of("reference high")
        lines.append(_line("null", levels, null, *ends))
    lines.append(_line("classifier", asked, classifier))
    lines.append(_line("oracle", asked, oracle, of("oracle low"), of("oracle high")))
    random = of("random") or [None] * 3
    if random[0] is not None:
        x = _across(0.97 if way == "up" else 0.03)
        ends_known = random[1] is not None and random[2] is not None
        whiskers = [(x, _down(random[1]), _down(random[2]))] if ends_known else []
        lines.append(Line("random", "", None, [(x, _down(random[0]))], whiskers))
    rows = []
    low, high = of("oracle low") or [None] * len(oracle), of("oracle high") or [None] * len(oracle)
    for index, level in enumerate(asked):
        rows.append(
            [_two(level), _two(classifier[index]), _with_ends(oracle[index], low[index], high[index])]
        )
    said = f"the oracle goes from {_two(oracle[0])} to {_two(oracle[-1])} as the level goes from "
    said += f"{_two(asked[0])} to {_two(asked[-1])}"
    if null:
        said += f"; on the reference’s walks from {_two(null[0])} to {_two(null[-1])}"
        bounds = of("reference low") or [None] * len(null), of("reference high") or [None] * len(null)
        for index, level in enumerate(levels or []):
            ends_of = _with_ends(null[index], bounds[0][index], bounds[1][index])
            rows.append([f"reference at {_two(level)}", "–", ends_of])
    rows.append(["after random moves", "–", _with_ends(*random[:3])])
    return Paths(
        size=(WIDTH, HEIGHT),
        frame=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        x_ticks=[(_across(level), f"{level:.2g}") for level in (0.1, 0.3, 0.5, 0.7, 0.9)],
        y_ticks=[(_down(tick), f"{tick:g}") for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)],
        lines=lines,
        count=int((of("count") or [0])[0]),
        description=f"Walks {way}: {said}.",
        columns=["level asked for", "classifier", "oracle"],
        rows=rows,
    )


def reverse_chart(paths: Mapping[str, list[Any]], way: str) -> Paths | None:
    """Oracle, classifier and the held oracle before and after walks of the attribute in one direction.

    Args:
        paths: Of a finding, see :mod:`explainer.bias.paths`.
        way: ``"up"`` or ``"down"``.
    """

    def of(name: str) -> list[Any] | None:
        return paths.get(f"reverse {name}, {way}")

    oracle, classifier, held = of("oracle"), of("classifier"), of("held")
    if oracle is None or classifier is None or held is None:
        return None
    low, high = of("classifier low") or [None, None], of("classifier high") or [None, None]
    places = (0.25, 0.75)
    whiskers = [
        (_across(x), _down(low[index]), _down(high[index]))
        for index, x in enumerate(places)
        if low[index] is not None and high[index] is not None
    ]
    moved = _line("classifier", places, classifier)
    lines = [
        _line("held", places, held),
        _line("oracle", places, oracle),
        Line("classifier", moved.points, None, moved.marks, whiskers),
    ]
    names = ("the attribute’s oracle (walked)", "the classifier", "the target’s oracle (held)")
    return Paths(
        size=(WIDTH, HEIGHT),
        frame=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        x_ticks=[(_across(places[0]), "before"), (_across(places[1]), "after")],
        y_ticks=[(_down(tick), f"{tick:g}") for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)],
        lines=lines,
        count=int((of("count") or [0])[0]),
        description=f"Walks {way} of the attribute: the oracle goes from {_two(oracle[0])} to "
        f"{_two(oracle[1])}, the classifier from {_two(classifier[0])} to {_two(classifier[1])}, the held "
        f"oracle from {_two(held[0])} to {_two(held[1])}.",
        columns=["probability", "before", "after"],
        rows=[
            [names[0], _two(oracle[0]), _two(oracle[1])],
            [names[1], *(_with_ends(classifier[i], low[i], high[i]) for i in (0, 1))],
            [names[2], _two(held[0]), _two(held[1])],
        ],
    )


def interval_chart(
    effects: Sequence[tuple[str, Mapping[str, Any]]], margins: Sequence[float] = ()
) -> Intervals | None:
    """Effects with their intervals on one axis.

    Args:
        effects: Label and effect: value, low, high, n.
        margins: Thresholds to mark.

    >>> chart = interval_chart([("moved", {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9})])
    >>> chart.description
    'moved: +0.20 [+0.10, +0.30], n = 9.'
    """
    known = [(label, each) for label, each in effects if each and each.get("value") is not None]
    if not known:
        return None
    numbers = [each[key] for _, each in known for key in ("value", "low", "high") if each[key] is not None]
    low, high = min(0.0, *numbers, *margins), max(0.0, *numbers, *margins)
    pad = 0.04 * (high - low) or 0.1
    low, high = low - pad, high + pad
    width = 2 * WIDTH - 190

    def across(value: float) -> float:
        return round(LABEL + (width - LABEL - RIGHT) * (value - low) / (high - low), 2)

    bars = []
    for index, (label, each) in enumerate(known):
        ends = [each["value"] if each[key] is None else each[key] for key in ("low", "high")]
        said = f"{each['value']:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}], n = {each['n']}".replace("-", "−")
        bars.append(
            (TOP + ROW * (index + 0.5), label, across(ends[0]), across(each["value"]), across(ends[1]), said)
        )
    bottom = TOP + ROW * len(known)
    return Intervals(
        size=(width, bottom + 26),
        frame=(LABEL, TOP, width - RIGHT, bottom),
        ticks=[(across(tick), f"{tick:g}".replace("-", "−")) for tick in nice_ticks(low, high, 4)],
        zero=across(0.0),
        margins=[across(margin) for margin in margins],
        bars=bars,
        description="; ".join(f"{label}: {said}" for _, label, *_, said in bars) + ".",
    )
