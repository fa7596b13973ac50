"""The audit against planted truth: false alarms, sensitivity, a tag it cannot see, an entangled generator.

    python benchmarks/audit_power.py --out runs/audit_power --stages coverage,power,tag,entangled,watermark

The truth is *reliance*, measured with the renderer (see ``audit_truth.py``). At least .10 is confounded, at
most .02 is null, in between is left out. What was tuned was tuned on classifiers of seeds 2000 to 3999 and
images of seed 1900, the rule for groups of walks on classifiers of seeds 100 to 706 and the same images; here
are other images, and in ``watermark`` other classifiers. Every stage is cut into parts whose results are kept
in ``--out``, and the same command goes on where it stopped. One thread; seconds are those of the processor,
not of the clock.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from audit_summary import summary
from audit_truth import WATERMARK, WORLDS, World, classifier_of, generator_of, reliance

from explainer.bias import BiasReport, audit
from explainer.bias.statistics import mean, paired_difference, share
from explainer.generators.base import Generator

SWAYS = (1.2, 2.0, 3.0)
EACH = 12
Plan = tuple[int, Mapping[str, float] | None]


def rows_of(report: BiasReport, truth: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    rows = []
    for finding in report.findings:
        ahead, back = finding.forward, finding.reverse
        rows.append(
            {
                "classifier": finding.classifier, "factor": finding.column, "p": finding.p, "q": finding.q,
                "reliance": truth[finding.classifier, finding.column], "verdict": finding.verdict.status,
                # how sure the verdict's effects are: the least of them, by its bound nearest to zero
                "strength": None if back is None else min(abs(effect.value) for effect in back.tested),
                "moved": None if back is None else back.moved.value,
                "changed": None if ahead is None else ahead.changed.value,
                "forward": None if ahead is None else min(effect.value for effect in ahead.tested),
                "sentence": finding.verdict.sentence,
                "failed": [gate.name for gate in finding.gates if not gate.met],
                "hidden": bool(report.warnings[f"{finding.classifier}, {finding.target}"]),
            }
        )  # fmt: skip
    return rows


def audited(
    out: Path,
    world: World,
    generator: Generator,
    plans: Sequence[Plan],
    factors: Sequence[str],
    *,
    seed: int,
    watermark: bool = False,
    n_images: int = 300,
    **options: Any,
) -> dict[str, Any]:
    """Train the planned classifiers, measure their reliance, audit them together."""
    begun = time.process_time()
    models = {
        f"{world.name} {number}": classifier_of(out, world, number, sway, watermark=watermark)
        for number, sway in plans
    }
    test = world.images(2400, seed, **(options or {"batch_mark": 0.5}))
    truth = {
        (name, factor): reliance(world, model, test, factor)
        for name, model in models.items() for factor in factors
    }  # fmt: skip
    trained = time.process_time()
    report = audit(
        test.images, models, labels=test.labels.numpy(), attributes=test.attributes[list(factors)],
        generator=generator, n_images=n_images, oracle_steps=500, seed=seed, progress=False,
    )  # fmt: skip
    return {
        "rows": rows_of(report, truth),
        "clusters": {
            name.split(",")[0]: [_cluster(group, test) for group in groups]
            for name, groups in report.clusters.items()
        },
        "seconds_training": trained - begun,
        "seconds_audit": time.process_time() - trained,
    }


def _cluster(group: Any, test: Any) -> dict[str, Any]:
    """A group of walks: whether it goes by the marks, and whether it is the corner that changes."""
    marked = test.attributes["batch_mark"].to_numpy(dtype=float)
    where = np.asarray(group.cluster.where)
    return {
        "direction": group.cluster.direction, "share": group.cluster.share, "p": group.cluster.p,
        "marked": float(marked[group.cluster.rows].mean()),
        "corner": float(where[:3, :3].sum() / where.sum()), "attribute": group.attribute,
    }  # fmt: skip


def plans_of(world: World) -> list[Plan]:
    """Half of the classifiers learn from an annotator whom nothing sways, half from a swayed one."""
    first, plans = {"sprites": 100, "cells": 200}[world.name], []
    for number in range(EACH):
        turn = number // 2
        sway = {world.factors[turn % len(world.factors)]: SWAYS[turn % len(SWAYS)]} if number % 2 else None
        plans.append((first + number, sway))
    return plans


def power(out: Path, part: int) -> dict[str, Any]:
    world = list(WORLDS.values())[part]
    generator = generator_of(out, world, "marks", batch_mark=0.5)
    return audited(out, world, generator, plans_of(world), world.factors, seed=900 + part)


def tag(out: Path, part: int) -> dict[str, Any]:
    """A tag that the generator has never seen, and that sways the annotator."""
    world = WORLDS["sprites"]
    plans = [(300 + part * 10 + i, {"batch_mark": 3.0}) for i in range(10)]
    return audited(
        out, world, generator_of(out, world, "plain"), plans, ("batch_mark",), seed=950 + part, n_images=200
    )


def clean(count: int) -> list[Plan]:
    """The unswayed sprite classifiers of ``power``, and more of the kind."""
    known: list[Plan] = [plan for plan in plans_of(WORLDS["sprites"]) if plan[1] is None]
    return [*known, *((400 + i, None) for i in range(count - len(known)))]


def entangled(out: Path, part: int) -> dict[str, Any]:
    """Clean classifiers, seen through a generator in whose training data shade goes with the label."""
    world = WORLDS["sprites"]
    generator = generator_of(out, world, "entangled", correlation={"shade": 0.97})
    plans = clean(20)[part * 10 : (part + 1) * 10]
    return audited(out, world, generator, plans, ("shade",), seed=970 + part, n_images=200, batch_mark=0.0)


def watermark(out: Path, part: int) -> dict[str, Any]:
    """A mark in half of one class of the training data, which no attribute names; and clean classifiers."""
    world = WORLDS["sprites"]
    generator = generator_of(out, world, "watermark", correlation=WATERMARK)
    planted, first = part % 2 == 0, 10 * (part // 2)
    return audited(
        out, world, generator, [((900 if planted else 1000) + first + i, None) for i in range(10)], ("x",),
        seed=1090 + part // 2, watermark=planted, n_images=200, correlation=WATERMARK,
    )  # fmt: skip


def coverage(out: Path, part: int, simulations: int = 4000) -> dict[str, Any]:
    """How often 95 % intervals hold the truth, with and without people of several images."""
    stream = np.random.default_rng(part)
    people = np.repeat(np.arange(80), 3)
    found: dict[str, list[bool]] = {}

    def note(name: str, low: float, truth: float, high: float) -> None:
        found.setdefault(name, []).append(low <= truth <= high)

    def clustered(rate: float) -> np.ndarray:
        own = np.repeat(stream.random(80) < rate, 3)
        return np.where(stream.random(240) < 0.5, own, stream.random(240) < rate)

    for _ in range(simulations):
        for rate in (0.05, 0.2):
            effect = share(stream.random(200) < rate)
            note(f"share {rate}, single images", effect.low, rate, effect.high)
            effect = share(clustered(rate), people)
            note(f"share {rate}, three images a person", effect.low, rate, effect.high)
        one, other = stream.random(200) < 0.25, stream.random(200) < 0.1
        effect = paired_difference(one, other)
        note("difference .15, single images", effect.low, 0.15, effect.high)
        effect = paired_difference(clustered(0.25), clustered(0.1), people)
        note("difference .15, three images a person", effect.low, 0.15, effect.high)
        effect = mean(stream.normal(0.05, 0.2, 200))
        note("mean, single images", effect.low, 0.05, effect.high)
        effect = mean(stream.normal(0.05, 0.2, 240) + np.repeat(stream.normal(0, 0.1, 80), 3), people)
        note("mean, three images a person", effect.low, 0.05, effect.high)
    common = {name: float(np.mean(hits)) for name, hits in found.items()}
    found.clear()
    for persons, each, rate in ((200, 1, 0.01), (80, 3, 0.02), (20, 10, 0.05), (20, 10, 0.2)):
        members = np.repeat(np.arange(persons), each)
        for _ in range(simulations):
            own = np.repeat(stream.random(persons) < rate, each)
            copied = np.where(stream.random(len(own)) < 0.7, own, stream.random(len(own)) < rate)
            effect = share(copied if each > 1 else own, members)
            note(f"share {rate}, {persons} people of {each}", effect.low, rate, effect.high)
    hard = {name: float(np.mean(hits)) for name, hits in found.items()}
    return {"coverage": common, "rare outcomes, few people": hard, "n": simulations}


STAGES: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int]] = {
    "coverage": (coverage, 1),
    "power": (power, len(WORLDS)),
    "tag": (tag, 2),
    "entangled": (entangled, 2),
    "watermark": (watermark, 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", default=",".join(STAGES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.stages.split(","):
        run, count = STAGES[name]
        for part in range(count):
            file = arguments.out / f"{name}-{part}.json"
            if not file.exists():
                file.write_text(json.dumps(run(arguments.out, part)), encoding="utf-8")
                print(f"{name} {part + 1} of {count}", flush=True)
    parts = {
        name: [
            json.loads(file.read_text(encoding="utf-8"))
            for file in sorted(arguments.out.glob(f"{name}-[0-9].json"))
        ]
        for name in STAGES
    }
    planned = {name: count for name, (_, count) in STAGES.items()}
    stages = {
        name: {"parts planned": count, "parts run": len(parts[name])} for name, count in planned.items()
    }
    record.write("audit_power", {**summary(parts), "stages": stages}, "--out <folder>")


if __name__ == "__main__":
    main()
