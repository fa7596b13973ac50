"""What the parts of ``audit_power.py`` come to."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from sklearn.metrics import roc_auc_score

from explainer.metrics import wilson_interval

CONFOUNDED, NULL = 0.10, 0.02
PAIRS = ["classifier", "factor", "reliance", "verdict", "moved", "changed", "forward", "q"]
BINS = ((0, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.15), (0.15, 0.25), (0.25, 1))


def summary(parts: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Rates with intervals, stage by stage; a stage that was not run is left out."""
    result: dict[str, Any] = {}
    if parts.get("coverage"):
        found = parts["coverage"][0]
        result["coverage of 95 % intervals"] = {
            "simulations of each": found["n"], "lowest": min(found["coverage"].values()),
            "highest": max(found["coverage"].values()), **found["coverage"],
        }  # fmt: skip
        result["coverage, rare outcomes and few people who repeat"] = found["rare outcomes, few people"]
    table = pd.DataFrame([row for part in parts.get("power", []) for row in part["rows"]])
    if len(table):
        result |= _power(table)
        result["pairs"] = table[PAIRS].round(4).to_dict("records")
        clusters = {name: groups for part in parts["power"] for name, groups in part["clusters"].items()}
        free = [name for name, some in table.groupby("classifier") if some.reliance.max() < CONFOUNDED]
        result["power"]["unswayed classifiers in whose walks no cluster is claimed"] = rate(
            pd.Series([not clusters[name] for name in free])
        )
    for name in ("tag", "entangled"):
        table = pd.DataFrame([row for part in parts.get(name, []) for row in part["rows"]])
        if len(table):
            counts = {f"said {said}": int((table.verdict == said).sum()) for said in VERDICTS}
            result[name] = {
                "classifiers": len(table), **counts, "warned by the detail swap": int(table.hidden.sum()),
                "reliance: least, median, most": table.reliance.quantile([0, 0.5, 1]).tolist(),
                "gates failed": table.failed.explode().value_counts().to_dict(),
            }  # fmt: skip
    found = [marks(part, name) for part in parts.get("watermark", []) for name in part["clusters"]]
    if found:
        table = pd.DataFrame(found)
        result["watermark"] = {
            "planted: its cluster found": rate(table[table.planted].found),
            "planted: other clusters, in all": int(table[table.planted].others.sum()),
            "clean: none invented": rate(table[~table.planted].others == 0),
        }
    spent = {
        name: {
            key.removeprefix("seconds_"): [round(part[key]) for part in done]
            for key in ("seconds_training", "seconds_audit")
        }
        for name, done in parts.items() if done and "seconds_audit" in done[0]
    }  # fmt: skip
    return result | ({"seconds of the processor": spent} if spent else {})


VERDICTS = ("confounded", "insufficient", "not detected")


def _power(table: pd.DataFrame) -> dict[str, Any]:
    null, bad = table[table.reliance <= NULL], table[table.reliance >= CONFOUNDED]
    judged = pd.concat([null, bad])
    known = judged.dropna(subset=["strength", "forward"])
    curve, moved = {}, {}
    for low, high in BINS:
        some = table[(table.reliance > low if low else table.reliance >= 0) & (table.reliance <= high)]
        if len(some):
            curve[f"{low} to {high}"] = rate(some.verdict == "confounded")
            moved[f"{low} to {high}"] = {
                "reliance": float(some.reliance.median()), "reverse effect": float(some.moved.abs().median()),
                "walks that change it": float(some.changed.median()),
            }  # fmt: skip
    return {
        "power": {
            "classifiers": int(table.classifier.nunique()), "factors": int(table.factor.nunique()),
            "null pairs (reliance at most .02)": len(null), "confounded pairs (at least .10)": len(bad),
            "left out between": len(table) - len(judged),
            "false alarms": int((null.verdict == "confounded").sum()),
            "found": rate(bad.verdict == "confounded"),
            "said confounded of those left out between": int(
                (table.drop(judged.index).verdict == "confounded").sum()
            ),
            "missed: confounded, said not detected": int((bad.verdict == "not detected").sum()),
            "insufficient": rate(judged.verdict == "insufficient"),
            "null pairs said not detected": rate(null.verdict == "not detected"),
            "AUROC of the reverse effect": auroc(known, "strength"),
            "AUROC of the forward effect alone": auroc(known, "forward"),
            "gates failed": judged.failed.explode().value_counts().to_dict(),
        },
        "power curve: share said confounded, by reliance": curve,
        "medians, by reliance": moved,
    }  # fmt: skip


def marks(part: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Whether a classifier's clusters are of the mark: down by who is in them, up by the corner that changes.

    Half of the images that walk down are marked, none of those that walk up.
    """
    planted = name.split()[1].startswith("9")
    about = [
        group["attribute"] is None
        and (abs(group["marked"] - 0.5) >= 0.3 if group["direction"] == "down" else group["corner"] >= 0.3)
        for group in part["clusters"][name]
    ]
    return {"planted": planted, "found": any(about), "others": len(about) - (sum(about) if planted else 0)}


def rate(hits: pd.Series) -> dict[str, Any]:
    """A share with its Wilson interval."""
    found = wilson_interval(int(hits.sum()), len(hits))
    return {"rate": found.estimate, "low": found.low, "high": found.high, "n": len(hits)}


def auroc(table: pd.DataFrame, column: str) -> dict[str, Any]:
    """Area under the ROC curve, with Wilson's interval of a rate of the confounded pairs.

    It is the mean over them of the share of null pairs that lie below; they are the fewer and taken to be the
    sample, which is careful, and the interval does not vanish where nothing is out of order.
    """
    truth = (table.reliance >= CONFOUNDED).to_numpy()
    area = float(roc_auc_score(truth, table[column].to_numpy(dtype=float)))
    count, z = int(truth.sum()), 1.959964
    centre = (area + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(area * (1 - area) / count + z**2 / (4 * count**2))
    return {"rate": area, "low": centre - half, "high": min(1.0, centre + half), "n": count}
