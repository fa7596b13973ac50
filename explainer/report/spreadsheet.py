"""A table as CSV that a spreadsheet shows and never runs.

A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break is a formula to a spreadsheet
(OWASP, CSV injection); text of that kind gets an apostrophe in front. Numbers are left as they are.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["csv_text"]

# The last four are the wide forms, which some spreadsheets take for the same.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV with a line of column names; what is missing or no finite number is empty.

    Args:
        columns: Names, in order.
        rows: Values by column.

    >>> rows = [{"name": "=1+2", "p": -0.5}, {"name": "a, b", "p": float("nan")}]
    >>> print(csv_text(["name", "p"], rows).rstrip())
    name,p
    '=1+2,-0.5
    "a, b",
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if not isinstance(value, str):
        return value
    text = value.replace("\x00", "")
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
