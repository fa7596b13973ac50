"""The audit on faces: the paper's experiment with several seeds, and what an audit costs.

    python benchmarks/audit_faces.py --data faces.zip --out runs/audit_faces --stages faces,cost

Singla et al. 2020, section 4.4: a smile classifier trained on smiling women and men who do not smile, beside
one trained on everybody. Small classifiers that see faces at 32 pixels, trained on the train split, several
seeds of each; walked on the people of the test split with the zoo's generator. Gender and smile have its
oracles (trained on the train split), the other attributes are trained in the audit. Intervals count people.
Parts are kept in ``--out``; the same command goes on where it stopped.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import record
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "faces"))
from train import read_faces

import explainer.bias.audit as auditing
from explainer import load_classifier, load_generator
from explainer.bias import BiasReport, audit
from explainer.classifier import Classifier
from explainer.convnet import ConvNet, fit_classifier
from explainer.metrics import cluster_bootstrap
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import require_levels

SEEDS, STEPS = 5, 300
NAMES = {"confounded": ("no smile", "smile"), "smile": ("no smile", "smile"), "gender": ("male", "female")}


class Half(nn.Module):
    """A network that sees images at half their size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(nn.functional.avg_pool2d(images, 2))


def answers(labels: pd.DataFrame) -> pd.DataFrame:
    """What is asked about each photograph."""
    return pd.DataFrame(
        {
            "female": labels["gender"].eq("female"), "smile": labels["Smiling"] > 0.5,
            "eyeglasses": labels["Eyeglasses"] > 0.5, "young": labels["Young"] > 0.5,
            "hat": labels["Wearing_Hat"] > 0.5,
        }
    )  # fmt: skip


def classifier_of(data: Path, out: Path, kind: str, seed: int) -> Classifier:
    """One of the classifiers, trained once."""
    file = out / f"{kind}-{seed}.pt"
    if not file.exists():
        images, labels = read_faces(data, "train")
        table = answers(labels)
        truth = torch.from_numpy(table["female" if kind == "gender" else "smile"].to_numpy(copy=True)).float()
        kept = np.arange(len(table))
        if kind == "confounded":
            kept = np.flatnonzero(table["smile"] == table["female"])
        order = torch.from_numpy(np.random.default_rng(seed).permutation(kept))
        small = nn.functional.avg_pool2d(images[order].float() / 255, 2)
        network, _ = fit_classifier(
            small[400:],
            truth[order[400:]],
            steps=STEPS,
            seed=seed,
            validation=(small[:400], truth[order[:400]]),
        )
        torch.save(network.state_dict(), unfinished := file.with_suffix(f".{os.getpid()}"))
        unfinished.rename(file)
    network = ConvNet(channels=3)
    network.load_state_dict(torch.load(file, weights_only=True))
    return Classifier(Half(network.requires_grad_(False).eval()), kind="binary", class_names=NAMES[kind])


def people_of(data: Path) -> tuple[Tensor, pd.DataFrame, np.ndarray]:
    """Photographs of the test split, what is asked about them, and who is on them."""
    images, labels = read_faces(data, "test")
    return images.float() / 255, answers(labels), labels["person"].to_numpy()


def faces(data: Path, out: Path, target: str, n_images: int) -> dict[str, Any]:
    """Audit the classifiers of smile (biased and not), or of gender."""
    begun = time.process_time()
    kinds = ("confounded", "smile") if target == "smile" else ("gender",)
    models = {
        f"{kind} {seed}": classifier_of(data, out, kind, seed) for kind in kinds for seed in range(SEEDS)
    }
    images, table, people = people_of(data)
    truth = "smile" if target == "smile" else "female"
    own, other = ("smile-second", "gender") if target == "smile" else ("gender", "smile-second")
    asked = [name for name in table if name != truth]
    outcomes: dict[Any, Any] = {}
    original = auditing._comparisons

    def kept(changed: Mapping[Any, Any], *rest: Any) -> Any:
        outcomes.update(changed)
        return original(changed, *rest)

    auditing._comparisons = kept
    try:
        report = audit(
            images, models, labels=table[truth].to_numpy().astype(int), attributes=table[asked],
            oracles={
                NAMES[target][1]: load_classifier(f"faces/{own}"),
                ("female" if target == "smile" else "smile"): load_classifier(f"faces/{other}"),
            },
            reference=load_classifier("faces/smile") if target == "smile" else None,
            groups=people, generator=load_generator("faces"), n_images=n_images, oracle_steps=300,
            progress=False,
        )  # fmt: skip
    finally:
        auditing._comparisons = original
    found = {"rows": rows_of(report), "seconds": time.process_time() - begun}
    if target == "smile":
        found["difference"] = {name: difference(outcomes, NAMES[target][1], name, people) for name in asked}
    return found


def difference(outcomes: Mapping[Any, Any], target: str, name: str, people: np.ndarray) -> dict[str, Any]:
    """Share of walks that change the attribute, biased minus unbiased, seed by seed; bootstrap by person."""
    rows, gaps, each = [], [], []
    for seed in range(SEEDS):
        mine, first = outcomes[f"confounded {seed}", target, name]
        theirs, second = outcomes[f"smile {seed}", target, name]
        shared, a, b = np.intersect1d(mine, theirs, return_indices=True)
        rows.append(shared)
        gaps.append(first[a].astype(float) - second[b].astype(float))
        each.append(float(gaps[-1].mean()))
    interval = cluster_bootstrap(np.concatenate(gaps), people[np.concatenate(rows)], resamples=2000, seed=0)
    return {
        "value": interval.estimate, "low": interval.low, "high": interval.high,
        "people": len(np.unique(people[np.concatenate(rows)])), "seeds": each,
    }  # fmt: skip


def rows_of(report: BiasReport) -> list[dict[str, Any]]:
    """What is kept of every finding."""
    frame = report.to_frame().replace({np.nan: None})
    failed = [[gate.name for gate in finding.gates if not gate.met] for finding in report.findings]
    return [row | {"failed": gates} for row, gates in zip(frame.to_dict("records"), failed, strict=True)]


def cost(data: Path, out: Path, n_images: int = 500) -> dict[str, Any]:
    """An audit of two classifiers and five attributes, and the bare walks of the same images."""
    models = {kind: load_classifier(f"faces/{kind}") for kind in ("smile", "smile-confounded")}
    images, table, people = people_of(data)
    table["lipstick"] = read_faces(data, "test")[1]["Wearing_Lipstick"] > 0.5
    generator = load_generator("faces")
    begun = time.process_time()
    for model in models.values():
        model.check(images[:8])
        with model.frozen():
            for batch in images[:n_images].split(64):
                scene = Scene(generator, model, model.target(1), batch)
                GradientWalk()(scene, require_levels(np.linspace(0.05, 0.95, 10)))
    walked = time.process_time()
    audit(
        images, models, labels=table["smile"].to_numpy().astype(int), attributes=table.drop(columns="smile"),
        groups=people, generator=generator, n_images=n_images, progress=False,
    )  # fmt: skip
    return {"seconds_walk": walked - begun, "seconds_audit": time.process_time() - walked, "images": n_images}


def summary(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What the parts that were run come to."""
    result: dict[str, Any] = {}
    rows = [row for part in parts.values() for row in part.get("rows", [])]
    if rows:
        table = pd.DataFrame(rows)
        table["kind"] = table["classifier"].str.split().str[0]
        result["verdicts"] = {
            f"{kind}, {attribute}": {
                "verdicts": some["verdict"].value_counts().to_dict(),
                "changed": float(some["changed"].mean()), "floor": float(some["floor"].mean()),
                "reverse, median": None if some["reverse"].isna().all() else float(some["reverse"].median()),
                "gates failed": some["failed"].explode().value_counts().to_dict(),
            }
            for (kind, attribute), some in table.groupby(["kind", "attribute"])
        }  # fmt: skip
    if "faces-smile" in parts:
        result["difference"] = parts["faces-smile"]["difference"]
    if "cost" in parts:
        spent = parts["cost"]
        result["cost"] = {
            **spent, "minutes of the processor": spent["seconds_audit"] / 60,
            "ratio": spent["seconds_audit"] / spent["seconds_walk"],
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", default="faces-smile,faces-gender,cost")
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stages = {
        "faces-smile": lambda: faces(arguments.data, arguments.out, "smile", arguments.images),
        "faces-gender": lambda: faces(arguments.data, arguments.out, "gender", arguments.images),
        "cost": lambda: cost(arguments.data, arguments.out),
    }
    for name in arguments.stages.split(","):
        file = arguments.out / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(stages[name]()), encoding="utf-8")
            print(name, flush=True)
    parts = {
        name: json.loads((arguments.out / f"{name}.json").read_text(encoding="utf-8"))
        for name in stages if (arguments.out / f"{name}.json").exists()
    }  # fmt: skip
    record.write(
        "audit_faces", {**summary(parts), "not run": [name for name in stages if name not in parts]},
        "--data <faces.zip> --out <folder>",
    )  # fmt: skip


if __name__ == "__main__":
    main()
