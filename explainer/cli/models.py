"""``explainer models``: what comes with the package."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Annotated, Any

import typer
from rich.markup import escape

from explainer.cli.options import NO_WORD, AsJson, Debug
from explainer.cli.terminal import errors_named, examples, print_json, print_lines

__all__ = ["EXAMPLES", "models"]

EXAMPLES = examples(
    ("See what there is", "explainer models"),
    ("Names for a script", "explainer models --quiet"),
)


def models(
    as_json: AsJson = False,
    seed: Annotated[int, typer.Option(hidden=True)] = 0,
    device: Annotated[str | None, typer.Option(hidden=True)] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", metavar=NO_WORD, help="Names only, one in a line.")
    ] = False,
    debug: Debug = False,
) -> None:
    """List the generators and classifiers that come with the package."""
    with errors_named(debug):
        from explainer.generators.zoo import list_models

        rows = [row for card in list_models() for row in _rows(card)]
        if as_json:
            print_json(rows)
            return
        if quiet:
            print_lines([escape(row["name"]) for row in rows])
            return
        for row in rows:  # not a table: it would cut names, which are there to be copied
            print_lines([f"[bold]{escape(row['name'])}[/]  {escape(_about(row))}"])


def _rows(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What there is to load in a model folder: name, kind, shape or size in pixels, bytes, licence."""
    folder = files("explainer._models") / card["name"]
    entries = {card["name"]: ("generator", card["generator"])} if "generator" in card else {}
    for name, entry in card.get("classifiers", {}).items():
        entries[f"{card['name']}/{name}"] = ("classifier", entry)
    for name, (kind, entry) in entries.items():
        yield {
            "name": name,
            "kind": f"{kind} ({entry['kind']})" if "kind" in entry else kind,
            "shape": entry["options"]["shape"] if kind == "generator" else entry["size"],
            "bytes": len((folder / entry["file"]).read_bytes()),
            "licence": entry.get("licence", card["licence"]),
        }


def _about(row: dict[str, Any]) -> str:
    """What there is to know of an entry, in one line."""
    shape = " x ".join(str(part) for part in row["shape"])
    return f"{row['kind']}, {shape}, {row['bytes'] / 1e6:.1f} MB, {row['licence']}"
