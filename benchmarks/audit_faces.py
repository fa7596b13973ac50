"""The audit on faces: the paper's experiment with several seeds, and what an audit costs.

    python benchmarks/audit_faces.py --data faces.zip --out runs/audit_faces --stages faces,cost

Singla et al. 2020, section 4.4: a smile classifier trained on smiling women and on men who do not smile,
beside one trained on everybody; and (stage ``faces-gender``) a classifier of gender. They are trained by
the recipes of the zoo, several seeds of each, and walked on the people of the test split with the zoo's
generator. Oracles of smile and gender are the zoo's, of eyeglasses, young and hat they are trained here,
all on the train split. Intervals count people. Parts are kept in ``--out``; the same command goes on where
it stopped. One thread; seconds are those of the processor, not of the clock.
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
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "faces"))
from sklearn.metrics import roc_auc_score
from train import CLASSIFIERS, Recipe, read_faces

from explainer import load_classifier, load_generator
from explainer.bias import BiasReport, audit
from explainer.classifier import Classifier
from explainer.convnet import ConvNet, fit_classifier
from explainer.metrics import cluster_bootstrap
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import require_levels

FIRST = 10
"""The first seed; those of the zoo are lower."""
KINDS = {"confounded": "smile-confounded", "smile": "smile"}
TRAINED = ("eyeglasses", "young", "hat")


def answers(labels: pd.DataFrame) -> pd.DataFrame:
    """What is asked about each photograph."""
    return pd.DataFrame(
        {
            "female": labels["gender"].eq("female"), "smile": labels["Smiling"] > 0.5,
            "eyeglasses": labels["Eyeglasses"] > 0.5, "young": labels["Young"] > 0.5,
            "hat": labels["Wearing_Hat"] > 0.5,
        }
    )  # fmt: skip


def trained(data: Path, file: Path, recipe: Recipe, seed: int, beside: str = "") -> Classifier:
    """A classifier by a recipe like those of the zoo, trained once.

    Args:
        data: The zip of photographs.
        file: Where its weights are kept.
        recipe: What it learns, and from which photographs.
        seed: Of the training.
        beside: Another answer; the four cells of the two then count the same.
    """
    if not file.exists():
        sets = []
        for split in ("train", "val"):
            images, labels = read_faces(data, split)
            kept = (recipe.keep(labels) & recipe.label(labels).notna()).to_numpy(copy=True)
            labels = labels[kept]
            sets.append((images[torch.from_numpy(kept)], labels))
        (images, labels), (held, held_labels) = sets
        weights = None
        if beside:
            cells = 2 * recipe.label(labels).to_numpy() + answers(labels)[beside].to_numpy()
            weights = torch.from_numpy(1 / np.bincount(cells.astype(int))[cells.astype(int)])
        network, _ = fit_classifier(
            images, _tensor((recipe.soft or recipe.label)(labels)), weights=weights, steps=recipe.steps,
            seed=seed, validation=(held, _tensor(recipe.label(held_labels))),
        )  # fmt: skip
        torch.save(network.state_dict(), unfinished := file.with_suffix(f".{os.getpid()}"))
        unfinished.rename(file)
    network = ConvNet(channels=3)
    network.load_state_dict(torch.load(file, weights_only=True))
    network = network.requires_grad_(False).eval()
    return Classifier(network, kind="binary", class_names=recipe.class_names)


def _tensor(values: pd.Series) -> Tensor:
    return torch.from_numpy(values.to_numpy(dtype=np.float32, copy=True))


def oracle_recipe(name: str) -> Recipe:
    """Of an answer that the zoo has no oracle of."""
    return Recipe(
        name, ("no", "yes"), lambda labels: answers(labels)[name].astype(float),
        lambda labels: pd.Series(True, index=labels.index), steps=1000,
    )  # fmt: skip


def people_of(data: Path, split: str) -> tuple[Tensor, pd.DataFrame, np.ndarray]:
    """Photographs of a split, what is asked about them, and who is on them."""
    images, labels = read_faces(data, split)
    return images.float() / 255, answers(labels), labels["person"].to_numpy()


def faces(data: Path, out: Path, split: str, seeds: int, n_images: int) -> dict[str, Any]:
    """Audit the classifiers of smile, confounded and not."""
    begun = time.process_time()
    models = {
        f"{kind} {seed}": trained(data, out / f"{kind}-{seed}.pt", CLASSIFIERS[name], FIRST + seed)
        for kind, name in KINDS.items() for seed in range(seeds)
    }  # fmt: skip
    images, table, people = people_of(data, split)
    oracles: dict[str, Classifier] = {
        name: trained(data, out / f"oracle-{name}.pt", oracle_recipe(name), 100, "smile") for name in TRAINED
    }
    oracles |= {"smiling": load_classifier("faces/smile-second"), "female": load_classifier("faces/gender")}
    asked = [name for name in table if name != "smile"]
    report = audit(
        images, models, labels=table["smile"].to_numpy().astype(int), attributes=table[asked],
        oracles=oracles, reference=load_classifier("faces/smile"), groups=people,
        generator=load_generator("faces"), n_images=n_images, progress=False,
    )  # fmt: skip
    return {
        "rows": rows_of(report),
        "AUC": {name: roc_auc_score(table["smile"], scores(model, images)) for name, model in models.items()},
        "difference": {name: difference(report, name, people, seeds) for name in asked},
        "groups of walks": {
            key: [f"{group.cluster.direction} {group.cluster.share:.2f}: {group.shares}" for group in groups]
            for key, groups in report.clusters.items()
        },
        "warnings": dict(report.warnings),
        "seconds": time.process_time() - begun,
    }


def scores(model: Classifier, images: Tensor) -> np.ndarray:
    target = model.target(1, images[:1])
    with torch.no_grad():
        return torch.cat([model.score(part, target) for part in images.split(128)]).numpy()


def difference(report: BiasReport, name: str, people: np.ndarray, seeds: int) -> dict[str, Any]:
    """Share of walks that change the attribute, confounded less not, seed by seed; bootstrap by person."""
    changes = {each.classifier: each.changes for each in report.findings if each.column == name}
    pairs = [
        pd.concat([changes[f"confounded {seed}"], changes[f"smile {seed}"]], axis=1, join="inner").astype(
            float
        )
        for seed in range(seeds)
    ]
    gaps = [pair[0] - pair[1] for pair in pairs]
    joined = pd.concat(gaps)
    interval = cluster_bootstrap(joined.to_numpy(), people[joined.index], resamples=2000, seed=0)
    return {
        "rate": interval.estimate, "low": interval.low, "high": interval.high, "n": len(joined),
        "people": len(np.unique(people[joined.index])), "seeds": [float(gap.mean()) for gap in gaps],
    }  # fmt: skip


def rows_of(report: BiasReport) -> list[dict[str, Any]]:
    """What is kept of every finding."""
    frame = report.to_frame().replace({np.nan: None})
    failed = [[gate.name for gate in finding.gates if not gate.met] for finding in report.findings]
    return [row | {"failed": gates} for row, gates in zip(frame.to_dict("records"), failed, strict=True)]


def cost(data: Path, split: str, n_images: int = 500) -> dict[str, Any]:
    """An audit of two classifiers and five attributes, and the bare walks of the same images."""
    models = {kind: load_classifier(f"faces/{kind}") for kind in ("smile", "smile-confounded")}
    images, table, people = people_of(data, split)
    table["lipstick"] = read_faces(data, split)[1]["Wearing_Lipstick"] > 0.5
    generator = load_generator("faces")
    seconds = {}
    for count in (5, 10):
        begun = time.process_time()
        for model in models.values():
            model.check(images[:8])
            with model.frozen():
                for batch in images[:n_images].split(64):
                    scene = Scene(generator, model, model.target(1), batch)
                    GradientWalk()(scene, require_levels(np.linspace(0.05, 0.95, count)))
        seconds[f"seconds_walks_{count}_levels"] = time.process_time() - begun
    begun = time.process_time()
    audit(
        images, models, labels=table["smile"].to_numpy().astype(int), attributes=table.drop(columns="smile"),
        groups=people, generator=generator, n_images=n_images, progress=False,
    )  # fmt: skip
    return {**seconds, "seconds_audit": time.process_time() - begun, "images": n_images}


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
    if "faces" in parts:
        found = parts["faces"]
        result["difference"] = found["difference"]
        kinds = {kind: [v for name, v in found["AUC"].items() if name.startswith(kind)] for kind in KINDS}
        result["AUC of smiling, least"] = {kind: min(values) for kind, values in kinds.items()}
        result["warned by the detail swap"] = {
            kind: sum(bool(said) for key, said in found["warnings"].items() if key.startswith(kind))
            for kind in KINDS
        }
        result["groups of walks claimed"] = {
            kind: sum(len(said) for key, said in found["groups of walks"].items() if key.startswith(kind))
            for kind in KINDS
        }
    if "cost" in parts:
        spent = parts["cost"]
        result["cost"] = {
            **spent, "minutes of the processor": spent["seconds_audit"] / 60,
            "ratio": spent["seconds_audit"] / spent["seconds_walks_10_levels"],
            "ratio, walks of 5 levels": spent["seconds_audit"] / spent["seconds_walks_5_levels"],
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", default="faces,cost")
    parser.add_argument("--images", type=int, default=300, help="walked of each classifier")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", choices=("val", "test"), default="test", help="val to try things out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data, out, split = arguments.data, arguments.out, arguments.split
    stages = {
        "faces": lambda: faces(data, out, split, arguments.seeds, arguments.images),
        "cost": lambda: cost(data, split),
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
    result = {**summary(parts), "not run": [name for name in stages if name not in parts]}
    if split == "test":
        record.write("audit_faces", result, "--data <faces.zip> --out <folder>")
    else:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
