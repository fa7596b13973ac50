"""The audit against planted truth: false alarms, sensitivity, a tag it cannot see, an entangled generator.

    python benchmarks/audit_power.py --out runs/audit_power --stages coverage,power,tag,entangled,cost

The truth is *reliance*, measured with the renderer: mean |f(image) - f(same, that factor alone changed)|. At
least .10 is confounded, at most .02 is null, in between is left out. Sprites of 32 pixels, label ``scale``.
Every stage is cut into parts whose results are kept in ``--out``; the same command goes on where it stopped.
One thread; the seconds of the processor are recorded, not those of the clock.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import record
import torch
from sklearn.metrics import roc_auc_score

from explainer import synthetic
from explainer.bias import BiasReport, audit
from explainer.bias.statistics import mean, paired_difference, share
from explainer.classifier import Classifier
from explainer.convnet import fit_classifier
from explainer.generators import VAE, load_generator
from explainer.generators.base import Generator
from explainer.metrics import wilson_interval
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import require_levels

SIZE, LABEL = 32, "scale"
FACTORS = ("shade", "x", "y", "shape", "batch_mark")
STRENGTHS = (0.8, 0.9, 0.97)
CLASSIFIERS, TOGETHER = 24, 8
CONFOUNDED, NULL = 0.10, 0.02


def generator_of(out: Path, name: str, **options: Any) -> Generator:
    """A small VAE of sprites, trained once."""
    folder = out / name
    if not folder.exists():
        planted = synthetic.sprites(6000, size=SIZE, seed=1, label=LABEL, dtype=torch.uint8, **options)
        VAE((1, SIZE, SIZE), latent_dim=12, widths=(16, 32, 48)).fit(
            planted.images, steps=3000, progress=False
        ).save(folder)
    return load_generator(folder)


def classifier_of(out: Path, seed: int, correlation: dict[str, Any] | None, marks: float) -> Classifier:
    """A classifier of the label, trained once on data with that association."""
    file = out / f"classifier-{seed}.pt"
    options = {} if correlation and "batch_mark" in correlation else {"batch_mark": marks}
    data = synthetic.sprites(4000, size=SIZE, seed=seed, label=LABEL, correlation=correlation, **options)
    network, _ = fit_classifier(
        data.images[:3600], data.labels[:3600].float(), augment=False, seed=seed,
        validation=(data.images[3600:], data.labels[3600:].float()), steps=0 if file.exists() else 400,
    )  # fmt: skip
    if file.exists():
        network.load_state_dict(torch.load(file, weights_only=True))
    else:
        torch.save(network.state_dict(), file)
    return Classifier(network.requires_grad_(False), kind="binary", class_names=("small", "large"))


def changed(table: pd.DataFrame, factor: str) -> pd.DataFrame:
    """The table with one factor of every image moved to its other half."""
    table = table.copy()
    if factor == "batch_mark":
        table[factor] = ~table[factor].astype(bool)
    elif factor == "shape":
        table[factor] = np.where(table[factor] == "heart", "square", "heart")
    else:
        known = synthetic.SPRITE_FACTORS[factor]
        values = table[factor].to_numpy(dtype=float)
        middle = (known.low + known.high) / 2
        table[factor] = np.where(
            values >= middle, values - (middle - known.low), values + (middle - known.low)
        )
    return table


def reliance(classifier: Classifier, planted: synthetic.PlantedImages, factor: str, most: int = 600) -> float:
    """Mean absolute change of the probability when the renderer changes that factor only."""
    before = planted.factors.iloc[:most]
    images, _ = synthetic.render_sprites(before, size=SIZE)
    other, _ = synthetic.render_sprites(changed(before, factor), size=SIZE)
    target = classifier.target(1, images[:1])
    return float((classifier.level(images, target) - classifier.level(other, target)).abs().mean())


def rows_of(report: BiasReport, truth: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
    rows = []
    for finding in report.findings:
        strength, reverse = None, None
        if finding.forward is not None and finding.reverse is not None:
            reverse = abs(finding.reverse.moved.value)
            strength = min(reverse, *(effect.value for effect in finding.forward.tested))
        rows.append(
            {
                "classifier": finding.classifier, "factor": finding.column, "p": finding.p, "q": finding.q,
                "reliance": truth[finding.classifier, finding.column], "verdict": finding.verdict.status,
                "strength": strength, "reverse": reverse, "sentence": finding.verdict.sentence,
                "failed": [gate.name for gate in finding.gates if not gate.met],
                "hidden": bool(report.warnings[f"{finding.classifier}, {finding.target}"]),
            }
        )  # fmt: skip
    return rows


def audited(
    out: Path,
    generator: Generator,
    plans: Sequence[tuple[int, dict[str, Any] | None]],
    factors: Sequence[str],
    *,
    seed: int,
    marks: float,
) -> dict[str, Any]:
    """Train the planned classifiers, measure their reliance, audit them together."""
    begun = time.process_time()
    models = {f"{number}": classifier_of(out, number, correlation, marks) for number, correlation in plans}
    test = synthetic.sprites(1500, size=SIZE, seed=seed, label=LABEL, batch_mark=marks or 0.5)
    truth = {(name, factor): reliance(m, test, factor) for name, m in models.items() for factor in factors}
    trained = time.process_time()
    table = test.attributes[list(factors)]
    report = audit(
        test.images, models, labels=test.labels.numpy(), attributes=table, generator=generator,
        n_images=300, oracle_steps=300, seed=seed, progress=False,
    )  # fmt: skip
    return {
        "rows": rows_of(report, truth),
        "clusters": {name: len(groups) for name, groups in report.clusters.items()},
        "seconds_training": trained - begun,
        "seconds_audit": time.process_time() - trained,
    }


def power(out: Path, part: int) -> dict[str, Any]:
    """Half of the classifiers without any association, half with one factor, at three strengths."""
    plans: list[tuple[int, dict[str, Any] | None]] = []
    for number in range(part * TOGETHER, (part + 1) * TOGETHER):
        turn = number // 2
        planted = {FACTORS[turn % len(FACTORS)]: STRENGTHS[turn % len(STRENGTHS)]}
        plans.append((100 + number, planted if number % 2 else None))
    generator = generator_of(out, "generator-marks", batch_mark=0.5)
    return audited(out, generator, plans, FACTORS, seed=900 + part, marks=0.5)


def tag(out: Path, part: int) -> dict[str, Any]:
    """A tag that the generator has never seen; it goes with the label in the classifiers' training data."""
    plans = [(300 + part * 5 + i, {"batch_mark": 0.95}) for i in range(5)]
    return audited(
        out, generator_of(out, "generator-plain"), plans, ("batch_mark",), seed=950 + part, marks=0.0
    )


def entangled(out: Path, part: int) -> dict[str, Any]:
    """Clean classifiers, seen through a generator in whose training data shade goes with the label."""
    plans = [(400 + part * 5 + i, None) for i in range(5)]
    generator = generator_of(out, "generator-entangled", correlation={"shade": 0.97})
    return audited(out, generator, plans, ("shade",), seed=970 + part, marks=0.0)


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
    return {"coverage": {name: float(np.mean(hits)) for name, hits in found.items()}, "n": simulations}


def cost(out: Path, part: int, images: int = 500) -> dict[str, Any]:
    """An audit of two classifiers and five factors, and the bare walks of the same images."""
    generator = generator_of(out, "generator-marks", batch_mark=0.5)
    models = {f"{100 + i}": classifier_of(out, 100 + i, None, 0.5) for i in (0, 2)}
    test = synthetic.sprites(1500, size=SIZE, seed=990 + part, label=LABEL, batch_mark=0.5)
    begun = time.process_time()
    for model in models.values():
        model.check(test.images[:8])
        with model.frozen():
            for batch in test.images[:images].split(64):
                scene = Scene(generator, model, model.target(1), batch)
                GradientWalk()(scene, require_levels(np.linspace(0.05, 0.95, 10)))
    walked = time.process_time()
    audit(
        test.images, models, labels=test.labels.numpy(), attributes=test.attributes[list(FACTORS)],
        generator=generator, n_images=images, oracle_steps=300, progress=False,
    )  # fmt: skip
    return {"seconds_walk": walked - begun, "seconds_audit": time.process_time() - walked}


STAGES: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int]] = {
    "coverage": (coverage, 1),
    "power": (power, CLASSIFIERS // TOGETHER),
    "tag": (tag, 4),
    "entangled": (entangled, 4),
    "cost": (cost, 1),
}


def summary(parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the parts that were run come to."""
    result: dict[str, Any] = {}
    if parts.get("coverage"):
        result["coverage"] = parts["coverage"][0]
    table = pd.DataFrame([row for part in parts.get("power", []) for row in part["rows"]])
    if len(table):
        null, bad = table[table.reliance <= NULL], table[table.reliance >= CONFOUNDED]
        judged = pd.concat([null, bad]).dropna(subset="strength")
        result["power"] = {
            "classifiers": int(table.classifier.nunique()), "factors": int(table.factor.nunique()),
            "null_pairs": len(null), "confounded_pairs": len(bad),
            "excluded_between": len(table) - len(null) - len(bad),
            "false_alarms": int((null.verdict == "confounded").sum()),
            "found": _rate(bad.verdict == "confounded"),
            "missed_as_not_detected": int((bad.verdict == "not detected").sum()),
            "insufficient": _rate(pd.concat([null, bad]).verdict == "insufficient"),
            "null_not_detected": _rate(null.verdict == "not detected"),
            "gates_failed": table.failed.explode().value_counts().to_dict(),
            **{f"auroc_{name}": _auroc(judged, name) for name in ("strength", "reverse")},
            "curve": [
                {"reliance": [low, high], **_rate(_between(table, low, high).verdict == "confounded")}
                for low, high in ((0, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 1))
            ],
        }  # fmt: skip
    for name in ("tag", "entangled"):
        table = pd.DataFrame([row for part in parts.get(name, []) for row in part["rows"]])
        if len(table):
            result[name] = {
                "classifiers": len(table), "verdicts": table.verdict.value_counts().to_dict(),
                "warned": int(table.hidden.sum()), "reliance": table.reliance.quantile([0, 0.5, 1]).tolist(),
                "gates_failed": table.failed.explode().value_counts().to_dict(),
            }  # fmt: skip
    if parts.get("cost"):
        spent = parts["cost"][0]
        result["cost"] = {**spent, "ratio": spent["seconds_audit"] / spent["seconds_walk"]}
    for key in ("seconds_training", "seconds_audit"):
        spent = {name: [part[key] for part in done if key in part] for name, done in parts.items()}
        if any(spent.values()):
            result[key] = {name: seconds for name, seconds in spent.items() if seconds}
    return result


def _between(table: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    return table[(table.reliance > low if low else table.reliance >= 0) & (table.reliance <= high)]


def _rate(hits: pd.Series) -> dict[str, Any]:
    count, total = int(hits.sum()), len(hits)
    interval = wilson_interval(count, total) if total else None
    return {
        "n": total, "hits": count, "share": count / total if total else None,
        "low": interval.low if interval else None, "high": interval.high if interval else None,
    }  # fmt: skip


def _auroc(table: pd.DataFrame, column: str, resamples: int = 500) -> dict[str, Any]:
    """Area under the ROC curve; its interval resamples classifiers."""
    truth = (table.reliance >= CONFOUNDED).to_numpy()
    if truth.all() or not truth.any():
        return {"value": None, "low": None, "high": None, "n": len(table)}
    stream, drawn = np.random.default_rng(0), []
    groups = [np.flatnonzero(table.classifier == name) for name in table.classifier.unique()]
    values = table[column].to_numpy()
    for _ in range(resamples):
        rows = np.concatenate([groups[i] for i in stream.integers(len(groups), size=len(groups))])
        if 0 < truth[rows].mean() < 1:
            drawn.append(roc_auc_score(truth[rows], values[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "value": float(roc_auc_score(truth, values)), "low": float(low), "high": float(high), "n": len(table)
    }  # fmt: skip


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
    done = {name: len(found) for name, found in parts.items()}
    record.write(
        "audit_power", {**summary(parts), "parts": {"planned": planned, "done": done}}, "--out <folder>"
    )


if __name__ == "__main__":
    main()
