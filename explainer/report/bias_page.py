"""The report of an audit as one HTML file: plain dicts in, one string out.

Everything is drawn from the JSON of the report and from the pictures of a few walks. The verdict comes first
and the evidence under it, from the table of all findings down to single walks; every plot comes with its
numbers, and the whole JSON and the table as CSV can be downloaded from the page without a network.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from explainer.errors import OptionError
from explainer.report.axis_table import axis_table
from explainer.report.bias_charts import forward_chart, interval_chart, reverse_chart
from explainer.report.bias_strips import Album
from explainer.report.bias_wording import chosen_wording
from explainer.report.document import clean_name, own_version, render_page, script_data
from explainer.report.output import write_file
from explainer.report.panels import colour_bar, colourise, data_uri
from explainer.report.spreadsheet import csv_text

__all__ = ["finding_columns", "render_bias", "write_bias"]

STATUSES = ("confounded", "insufficient", "not detected")
ICONS = {"confounded": "distrust", "insufficient": "unknown", "not detected": "info"}
PICTURES = 4_000_000
"""Bytes of pictures in a page: with 120 findings, 60 of them in detail, and the JSON it stays below 8 MB."""
MOST_DETAILED = 60
MOST_COMPARED = 40
MOST_PAIRED = 6
"""Comparisons that are shown on an image."""
REASONS = {"worst": "Largest change", "median": "Median change", "random": "Drawn at random"}
PLACES = (("upper", "middle", "lower"), ("left", "centre", "right"))


def render_bias(
    record: Mapping[str, Any],
    pictures: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    wording: Mapping[str, str] | None = None,
    images: bool = True,
) -> str:
    """The page of an audit.

    Args:
        record: Plain values: the JSON of the report, see :mod:`explainer.bias.findings`.
        pictures: By "classifier, target": walks, see :class:`explainer.report.bias_strips.Album`; each names
            its classifier and its target.
        wording: Words in the place of those of :mod:`explainer.report.bias_wording`.
        images: Whether pictures of walks are shown. Without them no pixel of any image is in the file.

    Returns:
        A whole HTML document; nothing in it refers to another file or place.

    Raises:
        OptionError: No findings, a verdict that there is not, or wording that cannot be.
    """
    words = chosen_wording(wording)
    findings = record["findings"]
    if not findings:
        raise OptionError(
            "findings", "must hold at least one finding", received="none", remedy="Run an audit first."
        )
    unknown = {finding["verdict"] for finding in findings} - set(STATUSES)
    if unknown:
        raise OptionError(
            "findings", f"must have one of the verdicts {', '.join(STATUSES)}", received=sorted(unknown),
            remedy="Pass the report as it was written.",
        )  # fmt: skip
    album = Album(PICTURES if images else 0)
    walks = (pictures or {}) if images else {}
    gravity = sorted(range(len(findings)), key=lambda index: STATUSES.index(findings[index]["verdict"]))
    detailed = set(gravity[:MOST_DETAILED])
    names = {
        "confounded": words["confounded"],
        "insufficient": words["insufficient"],
        "not detected": words["not_detected"],
    }
    # The paired walks first: they are few, and without them the comparison cannot be seen.
    compared = _compared(record, walks, album)
    shown: dict[int, dict[str, Any]] = {}
    for index in gravity:
        shown[index] = _finding(index, findings[index], record, walks, album, index in detailed)
    counts = {status: sum(finding["verdict"] == status for finding in findings) for status in STATUSES}
    overall = next(status for status in STATUSES if counts[status])
    values = {
        "title": words["title"],
        "package_version": own_version(),
        "words": words,
        "status_words": names,
        "icons": ICONS,
        "overall": overall,
        "headline": words[f"verdict_{overall.replace(' ', '_')}"],
        "counts": counts,
        "findings": [shown[index] for index in range(len(findings))],
        "serious": [shown[index] for index in gravity if findings[index]["verdict"] == "confounded"][:8],
        "detailed": [shown[index] for index in gravity if index in detailed],
        "matrix": _matrix(findings),
        "conditions": _conditions(record, names),
        "oracles": _oracles(findings),
        "gates": [gate["name"] for gate in findings[0]["gates"]],
        "compared": compared,
        "axes": [
            (key, table)
            for key, found in record.get("attribution_by_axis", {}).items()
            if (table := axis_table(found)) is not None
        ],
        "clusters": _clusters(record, walks, album),
        "warnings": [(key, said) for key, said in record["warnings"].items() if said],
        "skipped": record["skipped"],
        "thresholds": record["thresholds"],
        "provenance": {"command": "none: called from Python", **record["provenance"]},
        "alpha": record["provenance"].get("options", {}).get("alpha", 0.05),
        "images": bool(images and album.shown),
        "private": not images,
        "left_out": album.left_out,
        "not_kept": record.get("pictures_left_out", 0),
        "signed_bar": colour_bar(True),
        "unsigned_bar": colour_bar(False),
        "json_block": script_data(record),
        "csv_block": script_data(csv_text(*finding_columns(record))),
    }
    return render_page("bias", values)


def write_bias(
    record: Mapping[str, Any],
    path: str | os.PathLike[str],
    pictures: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    **options: Any,
) -> Path:
    """Writes the page that :func:`render_bias` makes; the file appears whole or not at all."""
    return write_file(path, render_bias(record, pictures, **options).encode("utf-8"))


def finding_columns(record: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The table of findings, one row each: names of the columns and the rows."""
    columns = ["classifier", "target", "attribute", "verdict", "sentence", "p", "q"]
    rows = []
    for finding in record["findings"]:
        row = {name: finding[name] for name in columns}
        for name, effect in _effects(finding).items():
            for part, key in (("", "value"), (" low", "low"), (" high", "high"), (" n", "n")):
                row[name + part] = None if effect is None else effect[key]
        rows.append(row)
    return columns + [name for name in rows[0] if name not in columns] if rows else columns, rows


def _effects(finding: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    ahead, back = finding["forward"] or {}, finding["reverse"] or {}
    return {
        "changed": ahead.get("changed"),
        "floor": ahead.get("floor"),
        "over floor": ahead.get("over_floor"),
        "over reference": ahead.get("over_reference"),
        "reverse": back.get("moved"),
        "reverse over reference": back.get("over_reference"),
    }


def _finding(
    index: int,
    finding: Mapping[str, Any],
    record: Mapping[str, Any],
    walks: Mapping[str, Sequence[Mapping[str, Any]]],
    album: Album,
    detailed: bool,
) -> dict[str, Any]:
    """Everything the template shows of one finding."""
    ahead, back = finding["forward"], finding["reverse"]
    paths, limits = finding["paths"], record["thresholds"]
    shown = {
        **{key: finding[key] for key in ("classifier", "target", "attribute", "sentence", "gates", "oracle")},
        "id": f"finding-{index + 1}",
        "number": index + 1,
        "verdict": finding["verdict"],
        "q": finding["q"],
        "effects": {name: _effect(effect) for name, effect in _effects(finding).items()},
        "bounds": _bounds(ahead),
        "forward": ahead,
        "reverse": back,
        "observed": finding["observed"],
        "detailed": detailed,
        "strips": [],
    }
    if not detailed:
        return shown
    ways = ("up", "down")
    shown["forward_charts"] = [chart for way in ways if (chart := forward_chart(paths, way)) is not None]
    shown["reverse_charts"] = [chart for way in ways if (chart := reverse_chart(paths, way)) is not None]
    margins = [limits["present"], limits["absent"]]
    shown["forward_effects"] = interval_chart(_forward_rows(ahead), margins) if ahead else None
    both = sorted({-limits["absent"], -limits["present"], *margins})
    shown["reverse_effects"] = None if back is None else interval_chart(_reverse_rows(back), both)
    for reason, row in _chosen(finding.get("shown", {})):
        walk = _walk(walks, finding, row)
        strip = None if walk is None else album.strip(walk, finding["attribute"], _asked(record, walk))
        if strip is not None:
            shown["strips"].append({**strip, "reason": reason})
    return shown


def _chosen(shown: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
    """Images to show and why; one that is there for two reasons is shown once and says both."""
    reasons: dict[int, list[str]] = {}
    for kind, rows in shown.items():
        for row in rows:
            reasons.setdefault(row, []).append(REASONS.get(kind, kind))
    return [
        (" and ".join([words[0], *(word.lower() for word in words[1:])]), row)
        for row, words in reasons.items()
    ]


def _walk(
    walks: Mapping[str, Sequence[Mapping[str, Any]]], finding: Mapping[str, Any], row: int
) -> Mapping[str, Any] | None:
    kept = _walks_of(walks, finding["classifier"], finding["target"])
    return next((walk for walk in kept if walk["row"] == row), None)


def _walks_of(
    walks: Mapping[str, Sequence[Mapping[str, Any]]], classifier: str, target: str
) -> list[Mapping[str, Any]]:
    """The walks of a classifier; by both names, since a comma in one makes the keys ambiguous."""
    kept = [walk for each in walks.values() for walk in each]
    return [walk for walk in kept if (walk["classifier"], walk["target"]) == (classifier, target)]


def _asked(record: Mapping[str, Any], walk: Mapping[str, Any]) -> Sequence[float]:
    levels = record["provenance"].get("options", {}).get("levels", ())
    return levels if len(levels) == len(walk["levels"]) else walk["levels"]


def _forward_rows(ahead: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        ("changed", ahead["changed"]),
        ("by reconstruction", ahead["floor"]),
        ("by random moves", ahead["random"]),
        ("over reconstruction", ahead["over_floor"]),
        ("over the reference", ahead["over_reference"]),
    ]


def _reverse_rows(back: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    over = back.get("over_reference")
    return [
        ("classifier moved", back["moved"]),
        *([("over the reference", over)] if over is not None else []),
    ]


def _effect(effect: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An effect as text, and the number that a table sorts by."""
    if effect is None or effect["value"] is None:
        return None
    number = _signed(effect["value"])
    known = effect["low"] is not None and effect["high"] is not None
    ends = f"{_signed(effect['low'])} to {_signed(effect['high'])}" if known else ""
    return {
        "number": number,
        "ends": ends,
        "text": f"{number} [{ends.replace(' to ', ', ')}]" if known else number,
        "value": effect["value"],
        "n": effect["n"],
    }


def _signed(value: float) -> str:
    """Two decimals with a sign, but for what rounds to zero."""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def _bounds(ahead: Mapping[str, Any] | None) -> str:
    """Lower and upper bound of the forward effect: the lesser ones over reconstruction and reference."""
    tested = [] if ahead is None else [ahead["over_floor"], ahead["over_reference"]]
    ends = [[effect[key] for effect in tested] for key in ("low", "high")]
    if not tested or any(None in each for each in ends):
        return "–"
    return f"{_signed(min(ends[0]))} to {_signed(min(ends[1]))}"


def _matrix(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes as rows, classifiers and targets as columns; numbers of findings in the cells."""
    columns = list(dict.fromkeys((each["classifier"], each["target"]) for each in findings))
    rows = list(dict.fromkeys(each["attribute"] for each in findings))
    places = {
        (each["attribute"], each["classifier"], each["target"]): number
        for number, each in enumerate(findings)
    }
    return {
        "columns": columns,
        "rows": [(row, [places.get((row, *column)) for column in columns]) for row in rows],
    }


def _conditions(record: Mapping[str, Any], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Under what the findings hold, as pairs of what and how."""
    findings, about, limits = record["findings"], record["provenance"], record["thresholds"]
    options = about.get("options", {})

    def listed(key: str) -> str:
        unique = list(dict.fromkeys(str(clean_name(each[key])) for each in findings))
        rest = f" and {len(unique) - 12} more" if len(unique) > 12 else ""
        return "; ".join(unique[:12]) + rest

    changed = [each["forward"]["changed"] for each in findings if each["forward"] is not None]
    crossed = sorted({effect["n"] for effect in changed})
    people = sorted({effect["groups"] for effect in changed})
    images = about.get("images", {}).get("count", "an unknown number of")
    alpha = options.get("alpha", 0.05)

    def span(numbers: Sequence[int]) -> str:
        return (
            "none"
            if not numbers
            else f"{numbers[0]:,}" + ("" if len(numbers) == 1 else f" to {numbers[-1]:,}")
        )

    pairs = [
        ("Classifiers", listed("classifier")),
        ("Targets", listed("target")),
        ("Attributes asked about", listed("attribute")),
        ("Images", f"{images:,}" if isinstance(images, int) else str(images)),
        ("Images walked at most", f"{options['n_images']:,}" if "n_images" in options else "not recorded"),
        ("Walks that crossed to the other side", span(crossed)),
        ("People or patients among these", "every image its own" if people == crossed else span(people)),
        ("Levels of a walk", ", ".join(f"{each:g}" for each in options.get("levels", ())) or "not recorded"),
        ("Generator", str(about.get("generator", {}).get("source", "not recorded"))),
        ("Reference walks", str(options.get("reference", "not recorded"))),
        ("Intervals", f"{100 * (1 - alpha):g}%; false discoveries held at {alpha:g} over {len(findings)} "
         "findings"),
        (names["confounded"],
         "every gate holds; walking the attribute with the target held moves the classifier beyond "
         f"{limits['present']:g}, by itself and over the reference (lower bounds), with q ≤ {alpha:g} over "
         "the whole table"),
        (names["not detected"],
         "every gate holds; the classifier reads nothing the code does not hold; walking the attribute moves "
         f"it less than {limits['absent']:g}; and its own walks take the attribute along less than that "
         "(over reconstruction, over the reference, or in their direction), or, where they do, walking it "
         f"moves the classifier less than {limits['present']:g}, also over the reference (all upper bounds)"),
        (names["insufficient"], "anything else; the walks of the classifier alone confound nothing, but can "
         f"stand against “{names['not detected']}”"),
    ]  # fmt: skip
    return pairs


def _oracles(findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per oracle: where it comes from and how good it is."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for each in findings:
        oracle = each["oracle"]
        rows.setdefault(
            (each["target"], each["attribute"]),
            {
                "target": each["target"],
                "attribute": each["attribute"],
                "source": oracle.get("source", "not recorded"),
                "least": oracle.get("least"),
                "bare": oracle.get("least, bare"),
                "held": oracle.get("target, least, bare"),
            },
        )
    return list(rows.values())


def _compared(
    record: Mapping[str, Any], walks: Mapping[str, Sequence[Mapping[str, Any]]], album: Album
) -> dict[str, Any] | None:
    """Classifiers on the same images, paired: differences, and the same image under both."""
    compared = record["comparisons"]
    if not compared:
        return None
    label = {id(each): clean_name(each["attribute"])[:24] for each in compared}
    plots: list[dict[str, Any]] = []
    skipped = 0
    for pair in dict.fromkeys((each["first"], each["second"], each["target"]) for each in compared):
        mine = [each for each in compared if (each["first"], each["second"], each["target"]) == pair]
        chart = interval_chart([(label[id(each)], each["difference"]) for each in mine[:MOST_COMPARED]])
        strips = []
        pairs = [_walks_of(walks, name, pair[2]) for name in pair[:2]]
        first, second = ({walk["row"]: walk for walk in kept} for kept in pairs)
        random = [
            row
            for finding in record["findings"]
            if (finding["classifier"], finding["target"]) == (pair[0], pair[2])
            for row in finding.get("shown", {}).get("random", ())
        ]
        both = [row for row in random if row in first and row in second][:1]
        skipped += bool(both) and len(plots) >= MOST_PAIRED
        for row in both if len(plots) < MOST_PAIRED else []:
            for name, walk in ((pair[0], first[row]), (pair[1], second[row])):
                strip = album.strip(walk, None, _asked(record, walk))
                if strip is not None:
                    strips.append({**strip, "reason": name})
        plots.append(
            {
                "first": pair[0], "second": pair[1], "target": pair[2], "chart": chart, "strips": strips,
                "drawn": min(MOST_COMPARED, len(mine)), "asked": len(mine),
            }
        )  # fmt: skip
    return {
        "plots": plots,
        "skipped": skipped,
        "paired": MOST_PAIRED,
        "rows": [{**each, "effect": _effect(each["difference"])} for each in compared],
    }


def _clusters(
    record: Mapping[str, Any], walks: Mapping[str, Sequence[Mapping[str, Any]]], album: Album
) -> list[dict[str, Any]]:
    """Groups of walks that resemble each other, with a map of where they change the image."""
    shown = []
    for key, clusters in record["clusters"].items():
        kept = {walk["row"]: walk for walk in walks.get(key, ())}
        for cluster in clusters:
            where = cluster["where"]
            largest = [(value or 0.0, i, j) for i, row in enumerate(where) for j, value in enumerate(row)]
            _, i, j = max(largest)
            names = [PLACES[axis][min(2, 3 * at // len(where))] for axis, at in ((0, i), (1, j))]
            plane = [[math.nan if value is None else value for value in row] for row in where]
            strips = []
            for row in [row for row in cluster["rows"] if row in kept][:2]:
                strip = album.strip(kept[row], cluster["attribute"], _asked(record, kept[row]))
                if strip is not None:
                    strips.append({**strip, "reason": "An example"})
            shown.append(
                {
                    "key": key,
                    "direction": cluster["direction"],
                    "share": f"{cluster['share']:.0%}",
                    "count": len(cluster["rows"]),
                    "p": cluster["p"],
                    "said": cluster["shares"],
                    "attribute": cluster["attribute"],
                    "map": data_uri(colourise(plane, 1.0, signed=False), kind="png"),
                    "place": " ".join(names) if names != ["middle", "centre"] else "centre",
                    "strips": strips,
                }
            )
    return shown
