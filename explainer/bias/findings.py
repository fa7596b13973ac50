"""What an audit found: one finding per classifier, target and attribute, and the report of them all.

The JSON of a report (``schema`` 1) is an object with

==============  ==========================================================================================
schema          1; a change of meaning or a removal makes it 2, additions do not
findings        objects: classifier, target, attribute, column, verdict, sentence, p, q, gates (name, met,
                value, bound, sentence), forward and reverse (null where nothing was walked), observed
                (groups and cells as rows, differences with intervals), oracle, paths, shown (numbers of
                the images whose walks are pictured, by reason), changes (numbers of the images whose walks
                crossed, and whether the oracle changed class)
comparisons     objects: first, second, target, attribute, difference
clusters        by "classifier, target": rows (numbers of images), direction, share, p, where (8 x 8),
                distinct, shares (a sentence), attribute (null where none names it)
warnings        by "classifier, target": what the generator cannot show; empty where there is nothing
skipped         sentences
thresholds      of the verdicts
provenance      versions, image count and hash, fingerprints, options
==============  ==========================================================================================

and ``attribution_by_axis``, by "classifier, target" the record of an :class:`AxisAttribution`, the mean of
the walks that crossed; empty where the generator has no named axes; and ``pictures_left_out``, the number of
walks that were to be pictured but had no room in memory.

An effect is an object: value, low, high, n, groups, p, margin. What is not a finite number is null.
"""

import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explainer.axis_attribution import AxisAttribution
from explainer.bias.confounding import Forward, Reverse
from explainer.bias.discovery import Cluster
from explainer.bias.junit import as_junit
from explainer.bias.markdown import as_markdown
from explainer.bias.pictures import Strip
from explainer.bias.statistics import Effect
from explainer.bias.subgroups import Observed
from explainer.bias.verdict import AuditThresholds, Gate, Verdict
from explainer.errors import OutputError
from explainer.report.bias_page import finding_columns, write_bias
from explainer.report.compact import compact_table, compact_verdict
from explainer.report.spreadsheet import csv_text

__all__ = ["SCHEMA", "BiasReport", "Comparison", "Finding", "Group"]

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Finding:
    """Everything known of one classifier, target and attribute.

    Attributes:
        classifier: Its name.
        target: In words.
        attribute: In words.
        column: Of the table of attributes.
        verdict: Confounded, not detected or insufficient evidence, and why.
        p: Of a verdict of confounding.
        q: After the correction over the whole table.
        gates: The conditions of a verdict.
        forward: What the oracle does when the classifier is walked; None if no walk crossed.
        reverse: What the classifier does when the oracle is walked; None if no walk crossed.
        observed: Group by group, without walks.
        oracle: Where the oracle comes from, and how good it is within each class, also on bare images.
        paths: Mean probabilities of classifier and oracle along the walks, up and down, with intervals, see
            :mod:`explainer.bias.paths`.
        shown: Numbers of the images whose walks are pictured: worst, median and random.
        changes: Whether the oracle changed class, for each walk that crossed, by the number of its image.
    """

    classifier: str
    target: str
    attribute: str
    column: str
    verdict: Verdict
    p: float
    q: float
    gates: tuple[Gate, ...]
    forward: Forward | None
    reverse: Reverse | None
    observed: Observed
    oracle: Mapping[str, float | str]
    paths: Mapping[str, list[float]]
    shown: Mapping[str, list[int]] = field(default_factory=dict)
    changes: pd.Series = field(default_factory=lambda: pd.Series(dtype=bool))


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images: how much more often the first one's walks change the attribute."""

    first: str
    second: str
    target: str
    attribute: str
    difference: Effect


@dataclass(frozen=True, eq=False)
class Group:
    """Walks that resemble each other.

    Attributes:
        cluster: Which, and how unlike chance; ``rows`` are numbers of audited images.
        shares: What they share, in words.
        attribute: The attribute that tells them from the other walks; None if none does.
    """

    cluster: Cluster
    shares: str
    attribute: str | None


@dataclass(frozen=True, eq=False)
class BiasReport:
    """The result of an audit.

    Attributes:
        findings: One for each classifier, target and attribute.
        comparisons: Classifiers on the same images, paired.
        clusters: Groups of walks, by "classifier, target".
        warnings: By "classifier, target": that the classifier reads what the generator cannot show, or empty.
        skipped: What could not be asked, sentences.
        thresholds: Where evidence turned into verdicts.
        provenance: Versions, seed, options, hashes and counts.
        pictures: Some walks by "classifier, target"; of these only the numbers go into the JSON.
        attribution_by_axis: By "classifier, target": what the walks did along the named axes of the
            generator, the mean of those that crossed; empty if it has none.
        pictures_left_out: Walks that were to be among the pictures, but there was no room for them.
    """

    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...]
    clusters: Mapping[str, tuple[Group, ...]]
    warnings: Mapping[str, str]
    skipped: tuple[str, ...]
    thresholds: AuditThresholds
    provenance: Mapping[str, Any]
    pictures: Mapping[str, tuple[Strip, ...]] = field(default_factory=dict)
    attribution_by_axis: Mapping[str, AxisAttribution] = field(default_factory=dict)
    pictures_left_out: int = 0

    def __repr__(self) -> str:
        counts = pd.Series([finding.verdict.status for finding in self.findings]).value_counts()
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"BiasReport({said})"

    def _repr_html_(self) -> str:
        """What notebooks show: a verdict and a sentence for each question, and what could not be asked."""
        rows = [
            (html.escape(f"{finding.attribute} ({finding.target}, {finding.classifier})"),
             compact_verdict(finding.verdict.status), html.escape(finding.verdict.sentence))
            for finding in self.findings
        ]  # fmt: skip
        said = [*self.warnings.values(), *self.skipped]
        notes = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in said if sentence)
        return f"<div>{compact_table(('question', 'verdict', 'why'), rows)}<ul>{notes}</ul></div>"

    def of_status(self, status: str) -> tuple[Finding, ...]:
        """The findings of a verdict: ``"confounded"``, ``"not detected"`` or ``"insufficient"``."""
        return tuple(finding for finding in self.findings if finding.verdict.status == status)

    @property
    def confounded(self) -> tuple[Finding, ...]:
        """The findings whose verdict is ``"confounded"``."""
        return self.of_status("confounded")

    def to_frame(self) -> pd.DataFrame:
        """One row per finding: verdict, p and q, effects with intervals and counts."""
        rows = []
        for finding in self.findings:
            row: dict[str, Any] = {
                "classifier": finding.classifier, "target": finding.target, "attribute": finding.attribute,
                "verdict": finding.verdict.status, "sentence": finding.verdict.sentence, "p": finding.p,
                "q": finding.q,
            }  # fmt: skip
            effects: dict[str, Effect] = {}
            if finding.forward is not None:
                ahead = finding.forward
                effects = {
                    "changed": ahead.changed, "floor": ahead.floor, "over floor": ahead.over_floor,
                    "over reference": ahead.over_reference,
                }  # fmt: skip
            if finding.reverse is not None:
                effects["reverse"] = finding.reverse.moved
                if finding.reverse.over_reference is not None:
                    effects["reverse over reference"] = finding.reverse.over_reference
            for name, effect in effects.items():
                row |= {
                    name: effect.value, f"{name} low": effect.low, f"{name} high": effect.high,
                    f"{name} n": effect.n,
                }  # fmt: skip
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, see this module; what is not a finite number is None."""
        return {
            "schema": SCHEMA,
            "findings": [_plain(_of_finding(finding)) for finding in self.findings],
            "comparisons": [_plain(asdict(comparison)) for comparison in self.comparisons],
            "clusters": {
                name: [
                    _plain({**vars(group.cluster), "shares": group.shares, "attribute": group.attribute})
                    for group in groups
                ]
                for name, groups in self.clusters.items()
            },
            "warnings": dict(self.warnings),
            "attribution_by_axis": {
                name: _plain(found.record()) for name, found in self.attribution_by_axis.items()
            },
            "pictures_left_out": self.pictures_left_out,
            "skipped": list(self.skipped),
            "thresholds": asdict(self.thresholds),
            "provenance": _plain(self.provenance),
        }

    def to_json(self, path: str | Path) -> Path:
        """Write :meth:`to_dict` as JSON and return the path."""
        return _written(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    def to_junit(self, path: str | Path) -> Path:
        """Write a JUnit report, see :func:`explainer.bias.junit.as_junit`, and return the path."""
        return _written(path, as_junit(self.to_dict()))

    def to_csv(self, path: str | Path) -> Path:
        """Write the table of findings, safe to open in a spreadsheet, and return the path."""
        return _written(path, csv_text(*finding_columns(self.to_dict())))

    def to_html(
        self, path: str | Path, *, images: bool = True, wording: Mapping[str, str] | None = None
    ) -> Path:
        """Write the report as one HTML file that needs no network, and return the path.

        Args:
            path: The file to write; it appears whole or not at all.
            images: Whether the walks that were kept are shown. Without them no pixel of any image is in it.
            wording: Words in the place of the package's own, by name; see
                :mod:`explainer.report.bias_wording`.

        Raises:
            OptionError: Wording that there is no place for, or that certifies.
            OutputError: The file cannot be written.
        """
        walks = {key: [vars(strip) for strip in kept] for key, kept in self.pictures.items()}
        return write_bias(self.to_dict(), path, walks, images=images, wording=wording)

    def to_markdown(self) -> str:
        """A fragment of a model card."""
        return as_markdown(self.to_dict())


def _of_finding(finding: Finding) -> dict[str, Any]:
    observed = finding.observed
    return {
        **{
            name: getattr(finding, name) for name in ("classifier", "target", "attribute", "column", "p", "q")
        },
        "verdict": finding.verdict.status,
        "sentence": finding.verdict.sentence,
        "gates": [asdict(gate) for gate in finding.gates],
        "forward": None if finding.forward is None else asdict(finding.forward),
        "reverse": None if finding.reverse is None else asdict(finding.reverse),
        "observed": {
            **vars(observed),
            "groups": observed.groups.to_dict("records"),
            "cells": observed.cells.to_dict("records"),
        },
        "oracle": finding.oracle,
        "paths": finding.paths,
        "shown": finding.shown,
        "changes": {"images": finding.changes.index.tolist(), "changed": finding.changes.tolist()},
    }


def _plain(value: Any) -> Any:
    """Plain JSON values: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value if value is None else str(value)


def _written(path: str | Path, text: str) -> Path:
    place = Path(path)
    try:
        place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            "path", "cannot be written", received=f"{place}: {error.strerror}",
            remedy="Name a file in a folder that exists and can be written to.",
        ) from error  # fmt: skip
    return place
