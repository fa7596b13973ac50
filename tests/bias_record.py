"""A report of an audit as plain values, with everything in it that a page can show, made up by hand."""

import copy
from typing import Any

import numpy as np
import test_page

from explainer.axis_attribution import AxisAttribution, AxisTerm

__all__ = ["HOSTILE", "bias_pictures", "bias_record", "hostile_record"]

HOSTILE = [
    *test_page.HOSTILE,
    '=HYPERLINK("http://127.0.0.1:9/","x")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
]
"""Names that somebody could give a classifier, a class, a column, a file or a sentence."""


def effect(value: float | None, half: float = 0.05, n: int = 200) -> dict[str, Any]:
    known = value is not None
    return {
        "value": value, "low": value - half if known else None, "high": value + half if known else None,
        "n": n, "groups": n // 2, "p": 0.001, "margin": 0.05,
    }  # fmt: skip


def paths() -> dict[str, list[float | None]]:
    made: dict[str, list[float | None]] = {}
    for way in ("up", "down"):
        oracle = [0.4, 0.45, 0.5, 0.55, 0.6]
        made |= {
            f"count, {way}": [100.0], f"asked, {way}": [0.1, 0.3, 0.5, 0.7, 0.9],
            f"classifier, {way}": [0.1, 0.3, 0.5, 0.7, 0.9], f"start, {way}": [0.42],
            f"oracle, {way}": oracle, f"oracle low, {way}": [v - 0.1 for v in oracle],
            f"oracle high, {way}": [v + 0.1 for v in oracle], f"random, {way}": [0.45, 0.4, 0.5],
            f"reference level, {way}": [0.1, 0.9], f"reference, {way}": [0.44, 0.46],
            f"reference low, {way}": [0.4, 0.42], f"reference high, {way}": [0.48, 0.5],
            f"reverse count, {way}": [80.0], f"reverse oracle, {way}": [0.2, 0.9],
            f"reverse held, {way}": [0.5, 0.51], f"reverse classifier, {way}": [0.4, 0.7],
            f"reverse classifier low, {way}": [0.3, 0.6], f"reverse classifier high, {way}": [0.5, 0.8],
        }  # fmt: skip
    return made


def finding(classifier: str, attribute: str, verdict: str, moved: float) -> dict[str, Any]:
    rates = ("accuracy", "true positive rate", "false positive rate", "selection rate")
    groups = [
        {"answer": answer, "count": 150, "AUC": None if answer else 0.9}
        | {f"{name}{end}": 0.5 for name in rates for end in ("", " low", " high")}
        for answer in (0, 1)
    ]
    cells = [
        {
            "cell": f"label {y}, attribute {a}", "label": y, "attribute": a, "count": 75 * (y or a),
            "accuracy": 0.8 if y or a else None, "low": 0.7 if y or a else None,
            "high": 0.9 if y or a else None,
        }
        for y in (0, 1) for a in (0, 1)
    ]  # fmt: skip
    gate = {"sentence": "it is what it is", "bound": 0.85}
    return {
        "classifier": classifier, "target": "smiling", "attribute": attribute, "column": attribute,
        "p": 0.001, "q": 0.002 if verdict == "confounded" else 0.9, "verdict": verdict,
        "sentence": f"What was found: {verdict}.",
        "gates": [
            {"name": "crossings", "met": True, "value": 200.0, **gate, "bound": 100.0},
            {"name": "oracle", "met": verdict != "insufficient", "value": None, **gate},
        ],
        "forward": {
            "changed": effect(moved), "floor": effect(0.02), "over_floor": effect(moved - 0.02),
            "over_reference": effect(moved - 0.03), "random": effect(0.04), "with_target": effect(moved),
            "against_target": effect(0.0), "one_sided": 1e-9, "shift": effect(moved),
            "shift_over_reference": effect(moved - 0.01), "slope": 0.3,
            "spearman": None, "relative_change": 0.4,
        },
        "reverse": {"moved": effect(moved), "held": 0.02, "over_reference": effect(moved - 0.04)},
        "observed": {
            "groups": groups, "cells": cells, "worst": "label 1, attribute 0",
            "demographic_parity": [0.1, 0.02, 0.18], "equalised_odds": None, "correlation_difference": 0.1,
            "association": [0.2, None, None], "missing": 3,
        },
        "oracle": {"source": "given", "least": 0.95, "least, bare": 0.9, "target, least, bare": None},
        "paths": paths(), "shown": {"worst": [7, 3], "median": [5], "random": [3, 9]},
    }  # fmt: skip


def in_words() -> dict[str, Any]:
    """The mean of walks along two named axes: gender alone would be enough, and age works against it."""
    terms = AxisTerm("gender", 1.5, 0.9, "female"), AxisTerm("age", -0.3, 0.2, "")
    return AxisAttribution(terms, 1.8, 3.0, 0.0012, (0.2, 0.8), 32).record()


def bias_record() -> dict[str, Any]:
    """Two classifiers and three attributes, with a finding of every verdict."""
    verdicts = {"gender": ("confounded", 0.3), "age": ("insufficient", 0.07), "hat": ("not detected", 0.0)}
    findings = [finding("biased", name, verdict, moved) for name, (verdict, moved) in verdicts.items()] + [
        finding("clean", name, "not detected", 0.0) for name in verdicts
    ]
    findings[1] |= {"forward": None, "reverse": None, "paths": {}, "shown": {}}
    where = np.zeros((8, 8))
    where[0, 0], where[3, 3] = 1.0, 0.4
    return {
        "schema": 1,
        "findings": findings,
        "comparisons": [
            {"first": "biased", "second": "clean", "target": "smiling", "attribute": name,
             "difference": effect(value)}
            for name, value in (("gender", 0.28), ("age", 0.1), ("hat", None))
        ],
        "clusters": {
            "biased, smiling": [
                {"rows": [3, 5], "direction": "up", "share": 0.2, "p": 0.005, "where": where.tolist(),
                 "distinct": 5.0, "shares": "change their most peculiar place 5.0 times as much",
                 "attribute": None}
            ],
            "clean, smiling": [],
        },
        "attribution_by_axis": {"biased, smiling": in_words()},
        "warnings": {"biased, smiling": "", "clean, smiling": "the classifier reads what cannot be shown"},
        "skipped": ["beard: 3 images with it and 297 without; at least 20 of each are needed"],
        "thresholds": {"present": 0.05, "absent": 0.1, "crossings": 100, "oracle_auc": 0.85},
        "provenance": {
            "versions": {"python": "3.11", "torch": "2.13.0"},
            "images": {"count": 300, "sha256": "0" * 64},
            "classifiers": {"biased": "1" * 64, "clean": "2" * 64},
            "generator": {"source": "faces", "sha256": "3" * 64, "kind": "vae"},
            "options": {"seed": 0, "alpha": 0.05, "n_images": 200, "levels": [0.1, 0.3, 0.5, 0.7, 0.9],
                        "reference": "given"},
            "labels": {"sha256": "4" * 64},
            "thresholds": {"present": 0.05},
        },
    }  # fmt: skip


def bias_pictures(channels: int = 3, names: tuple[str, ...] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Walks of the rows that the record names."""
    rng = np.random.default_rng(0)
    kept: dict[str, list[dict[str, Any]]] = {}
    for name in ("biased", "clean"):
        kept[f"{name}, smiling"] = [
            {
                "row": row, "classifier": name, "target": "smiling", "direction": "up", "crossed": True,
                "original": rng.integers(0, 255, (channels, 16, 16), dtype=np.uint8),
                "frames": rng.integers(0, 255, (5, channels, 16, 16), dtype=np.uint8), "level": 0.2,
                "levels": (0.1, 0.3, 0.5, 0.7, 0.9),
                "oracles": dict.fromkeys(("gender", "age", "hat"), (0.4, 0.4, 0.45, 0.5, 0.55, 0.6)),
                "channel_names": names,
            }
            for row in (3, 5, 7, 9)
        ]  # fmt: skip
    return kept


def hostile_record() -> dict[str, Any]:
    """The same with hostile text wherever somebody outside chose a string."""
    record, everything = copy.deepcopy(bias_record()), " ".join(HOSTILE)
    for index, found in enumerate(record["findings"]):
        text = HOSTILE[index % len(HOSTILE)]
        found |= dict.fromkeys(("classifier", "target", "column"), f"{text} {index // 3}")
        found |= {"attribute": f"{HOSTILE[-1 - index % 3]}{index}", "sentence": everything}
        found["oracle"]["source"] = everything
        for gate in found["gates"]:
            gate["sentence"] = everything
    for each in record["comparisons"]:
        each |= {"first": HOSTILE[0], "second": HOSTILE[1], "target": HOSTILE[10], "attribute": everything}
    cluster = record["clusters"].pop("biased, smiling")[0]
    cluster |= {"shares": everything, "attribute": HOSTILE[2]}
    record["clusters"] = {everything: [cluster]}
    record["warnings"] = dict.fromkeys(HOSTILE, everything)
    record["skipped"] = list(HOSTILE)
    words = record["attribution_by_axis"].pop("biased, smiling")
    words |= {"sentence": everything, "warnings": [everything]}
    words["terms"][0] |= {"name": HOSTILE[0], "towards": everything}
    record["attribution_by_axis"] = {everything: words}
    record["provenance"]["generator"]["source"] = everything
    record["provenance"]["options"]["reference"] = everything
    record["provenance"]["command"] = everything
    record["provenance"]["classifiers"] = {text: text for text in HOSTILE}
    return record
