"""The parts of a walk by named axis as rows of a table, each with a bar; what a page shows of them."""

from collections.abc import Mapping
from typing import Any

__all__ = ["axis_table"]


def axis_table(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The parts of the change by named axis, largest first, the unnamed one last.

    Args:
        found: The record of an :class:`explainer.axis_attribution.AxisAttribution`.

    Returns:
        The record with ``rows``: of each part its share in words, and where its bar begins and how long it
        is, in units of which 100 lie on either side of the line. None without a change to be shared.
    """
    if found is None or not found["shares"]:
        return None
    named = sorted(found["terms"], key=lambda term: -abs(term["value"]))
    parts = [*named, {"name": None, "value": found["unnamed"], "moved": None, "towards": ""}]
    longest = max(abs(part["value"]) for part in parts) or 1.0
    rows = []
    for part in parts:
        width = 100 * abs(part["value"]) / longest
        share = part["value"] / found["change"]
        rows.append(
            {**part, "share": f"{round(100 * share)} %".replace("-", "−"), "against": share < 0,
             "start": round(100 - width, 2) if share < 0 else 100, "width": round(width, 2)}
        )  # fmt: skip
    return {**found, "rows": rows}
