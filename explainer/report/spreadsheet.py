"""A table as CSV that a spreadsheet shows and never runs.

A cell that begins with ``=``, ``+``, ``-`` or ``@`` is a formula to a spreadsheet (OWASP, CSV injection);
text of that kind gets an apostrophe in front. Where a spreadsheet splits depends on its language, so the
same holds after every ``;``, ``,``, ``|`` and quotation mark within a text; line breaks and tabs become
spaces. Numbers are left as they are.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["csv_text"]

# The last four are the wide forms, which some spreadsheets take for the same.
FORMULA = ("=", "+", "-", "@", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")
BREAKS = re.compile(r"[\r\n\t\v\f\x1c-\x1e\x85\u2028\u2029]+")
NUMBER = r"[+-]\d+(?:\.\d+)?[\])]*\s*(?:$|[;,])"
INNER = re.compile(rf'([;,|"][\s\u200b\ufeff]*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])(?!{NUMBER})')
"""The begin of a formula behind what may split a text; a number there, as in "[-0.1, +0.2]", is none."""


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
    text = INNER.sub(r"\1'", BREAKS.sub(" ", value.replace("\x00", "")))
    return f"'{text}" if text.lstrip(" \u00a0\u200b\ufeff").startswith(FORMULA) else text
