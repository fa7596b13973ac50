"""Write ``docs/results.md`` from ``benchmarks/results/*.json``; a test compares the two.

python benchmarks/tables.py
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
CONTEXT = ("benchmark", "command", "machine", "versions")


def shown(value: Any) -> str:
    """A number to three significant digits; a rate with its interval; a list joined."""
    if isinstance(value, dict) and {"rate", "low", "high", "n"} <= value.keys():
        return f"{value['rate']:.1%} [{value['low']:.1%}, {value['high']:.1%}], n = {value['n']}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(shown(entry) for entry in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def section(name: str, values: dict[str, Any]) -> list[str]:
    """A table of measures, or of rows by columns where every value is a table of the same measures."""
    nested = [value for value in values.values() if isinstance(value, dict) and "rate" not in value]
    lines = [f"### {name}", ""]
    if len(nested) == len(values) > 1 and all(set(nested[0]) <= set(value) for value in nested):
        measures = list(nested[0])
        lines += ["| | " + " | ".join(values) + " |", "|---" * (len(values) + 1) + "|"]
        lines += [
            f"| {measure} | " + " | ".join(shown(value[measure]) for value in nested) + " |"
            for measure in measures
        ]
        extra = {key: {k: v for k, v in value.items() if k not in measures} for key, value in values.items()}
        lines += ["", *(f"{key}: {shown(more)}." for key, more in extra.items() if more)]
    else:
        lines += ["| measure | value |", "|---|---|"]
        lines += [f"| {key} | {shown(value)} |" for key, value in values.items()]
    return [*lines, ""]


def page() -> str:
    """The whole page, from every result file."""
    lines = [
        "# Results",
        "",
        "Written by `benchmarks/tables.py` from `benchmarks/results/*.json`. Rates: 95 % Wilson intervals.",
        "Times are from small shared machines: only ratios taken in the same run mean something.",
        "",
    ]
    for path in sorted((HERE / "results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"## {result['benchmark']}", "", f"`{result['command']}`; {shown(result['machine'])}; "
                  f"{shown(result['versions'])}.", ""]  # fmt: skip
        plain = {
            key: value for key, value in result.items() if key not in CONTEXT and not isinstance(value, dict)
        }
        if plain:
            lines += [shown(plain) + ".", ""]
        for name, values in result.items():
            if name not in CONTEXT and isinstance(values, dict):
                lines += section(name, values)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
