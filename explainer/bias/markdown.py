"""An audit as a fragment of a model card: Markdown that can be pasted as it is."""

from collections.abc import Mapping
from typing import Any

__all__ = ["as_markdown"]

ICONS = {"confounded": "✖", "not detected": "○", "insufficient": "?"}


def as_markdown(record: Mapping[str, Any]) -> str:
    """A section "Confounder audit" with one table, what was left out, and how it was made.

    Args:
        record: :meth:`explainer.bias.findings.BiasReport.to_dict`.
    """
    lines = [
        "## Confounder audit",
        "",
        "| classifier | target | attribute | verdict | changes in walks | over reference | moves it | q |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for finding in record["findings"]:
        ahead, back = finding["forward"] or {}, finding["reverse"] or {}
        cells = [
            _cell(finding["classifier"]), _cell(finding["target"]), _cell(finding["attribute"]),
            f"{ICONS[finding['verdict']]} {finding['verdict']}", _effect(ahead.get("changed")),
            _effect(ahead.get("over_reference")), _effect(back.get("moved")), _number(finding["q"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {_cell(finding['sentence'])}" for finding in record["findings"])]
    lines += [f"- Not asked: {_cell(sentence)}." for sentence in record["skipped"]]
    lines += [f"- {_cell(sentence)}." for sentence in record["warnings"].values() if sentence]
    for name, clusters in record["clusters"].items():
        for cluster in clusters:
            lines.append(
                f"- {_cell(name)}: {cluster['share']:.0%} of the walks {cluster['direction']} resemble each "
                f"other (p = {cluster['p']:.2g}) and {_cell(cluster['shares'])}."
            )
    for name, named in record.get("attribution_by_axis", {}).items():
        lines.append(f"- {_cell(name)}, in the words of the generator's axes: {_cell(named['sentence'])}")
    about = record["provenance"]
    lines += [
        "",
        f"{about['images']['count']} images, seed {about['options']['seed']}, intervals of "
        f"{1 - about['options']['alpha']:.0%}, generator {_cell(str(about['generator']['source']))}. "
        '"Insufficient" is no acquittal: the evidence was not enough.',
    ]
    return "\n".join(lines) + "\n"


def _effect(effect: Mapping[str, Any] | None) -> str:
    if effect is None or effect["value"] is None:
        return "–"
    low, high = (_number(effect[end]) for end in ("low", "high"))
    return f"{effect['value']:.2f} [{low}, {high}], n = {effect['n']}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if 0 < value < 0.01 else f"{value:.2f}"


def _cell(text: str) -> str:
    """Text that stays in its cell and is not read as markup."""
    clean = "".join(letter if letter.isprintable() else " " for letter in str(text))
    for letter in "\\`*_[]<>|#":
        clean = clean.replace(letter, f"\\{letter}")
    return clean
