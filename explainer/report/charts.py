"""Where everything lies in the plot of achieved against requested levels, in SVG units.

The template draws it, so the plot follows the page's colours in light, dark and print, and costs a few
kilobytes instead of a plotting library.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["CalibrationChart", "LevelChart", "Marker", "calibration_chart", "level_chart", "nice_ticks"]

SIZE, LEFT, RIGHT, TOP, BOTTOM = 420.0, 58.0, 14.0, 14.0, 52.0


@dataclass(frozen=True)
class Marker:
    """One frame in the plot: its place and whether it reached its level."""

    x: float
    y: float
    reached: bool
    label: str


@dataclass(frozen=True)
class LevelChart:
    """The plot's geometry; x to the right, y downwards, both in SVG units.

    Args:
        size: Width and height of the drawing.
        frame: Left, top, right and bottom of the plotting area.
        ticks: Place along x, place along y, and label of each tick.
        identity: x1, y1, x2, y2 of the line where achieved equals requested.
        band: Corners of the tolerance around it as SVG points, or None.
        markers: One per frame with a finite achieved level.
        original: Height of the original's own level, or None when it lies outside.
    """

    size: float
    frame: tuple[float, float, float, float]
    ticks: list[tuple[float, float, str]]
    identity: tuple[float, float, float, float]
    band: str | None
    markers: list[Marker]
    original: float | None


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about `count` of them.

    >>> nice_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(-13, 40)
    [0.0, 20.0, 40.0]
    """
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def level_chart(
    levels: Sequence[float],
    achieved: Sequence[float],
    reached: Sequence[bool],
    *,
    original: float,
    tolerance: float | None,
) -> LevelChart:
    """Lays out the plot of achieved against requested levels.

    Args:
        levels: Requested level of each frame.
        achieved: Achieved level of each frame; frames whose level is not finite are left out.
        reached: Whether each frame reached its level.
        original: Level of the original image.
        tolerance: Half-width of the band in which a level counts as reached, or None for no band.

    >>> chart = level_chart([0.0, 1.0], [0.0, 1.0], [True, True], original=.5, tolerance=None)
    >>> [(marker.x, marker.y) for marker in chart.markers]
    [(58.0, 368.0), (406.0, 14.0)]
    """
    finite = [float(value) for value in [*levels, *achieved, original] if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low >= -1e-9 and high <= 1 + 1e-9:
        low, high = 0.0, 1.0
    else:
        pad = 0.05 * (high - low) or 1.0
        low, high = low - pad, high + pad
    width, height = SIZE - LEFT - RIGHT, SIZE - TOP - BOTTOM

    def across(value: float) -> float:
        return round(LEFT + width * (value - low) / (high - low), 2)

    def down(value: float) -> float:
        return round(TOP + height * (high - value) / (high - low), 2)

    band = None
    if tolerance is not None:
        corners = [(low, low - tolerance), (high, high - tolerance), (high, high + tolerance)]
        corners.append((low, low + tolerance))
        band = " ".join(f"{across(x)},{down(y)}" for x, y in corners)
    markers = [
        Marker(across(x), down(y), bool(ok), f"asked {x:.4g}, achieved {y:.4g}")
        for x, y, ok in zip(levels, achieved, reached, strict=True)
        if math.isfinite(y)
    ]
    return LevelChart(
        size=SIZE,
        frame=(LEFT, TOP, SIZE - RIGHT, SIZE - BOTTOM),
        ticks=[(across(tick), down(tick), f"{tick:.4g}") for tick in nice_ticks(low, high)],
        identity=(across(low), down(low), across(high), down(high)),
        band=band,
        markers=markers,
        original=down(original) if math.isfinite(original) else None,
    )


@dataclass(frozen=True)
class CalibrationChart:
    """Levels of a set of walks: the plot of their means, and bars from 5 to 95 % of what was achieved.

    Args:
        levels: The plot; a marker that is not reached stands for a level that some walks missed.
        bars: Place along x, and upper and lower end along y.
    """

    levels: LevelChart
    bars: list[tuple[float, float, float]]


def calibration_chart(rows: Sequence[Mapping[str, Any]], *, tolerance: float | None) -> CalibrationChart:
    """Lays out the plot of a set.

    Args:
        rows: One per level, with "level", "mean", "low", "high", "walks" and "unreached"; levels at which
            nothing finite was achieved are left out.
        tolerance: Half-width of the band in which a level counts as reached, or None for no band.

    >>> row = {"level": 0.5, "mean": 0.5, "low": 0.0, "high": 1.0, "walks": 4, "unreached": 1}
    >>> calibration_chart([row], tolerance=None).bars
    [(232.0, 14.0, 368.0)]
    """
    shown = [row for row in rows if all(math.isfinite(row[key]) for key in ("mean", "low", "high"))]
    whole = level_chart(
        [row["level"] for row in shown] * 3,
        [row[key] for key in ("mean", "high", "low") for row in shown],
        [not row["unreached"] for row in shown] * 3,
        original=math.nan, tolerance=tolerance,
    )  # fmt: skip
    count = len(shown)
    means = [
        replace(
            marker,
            label=f"asked {row['level']:.4g}, achieved {row['mean']:.4g} on average, "
            f"missed by {row['unreached']} of {row['walks']} walks",
        )
        for marker, row in zip(whole.markers[:count], shown, strict=True)
    ]
    ends = zip(whole.markers[count : 2 * count], whole.markers[2 * count :], strict=True)
    bars = [(high.x, high.y, low.y) for high, low in ends]
    return CalibrationChart(replace(whole, markers=means), bars)
