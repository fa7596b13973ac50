"""Which map is true to the classifier, and is the test itself right and quick?

    python benchmarks/fidelity.py --faces faces.zip --cells cells.npz --cell-labels cells.csv --chest
    chest.zip

Every saliency method on faces, cells and (if the zoo has the classifier) chest X-rays, with all controls; the
planted region of sprites and of cells, whose classifiers and generators are trained here; whether maps
change with the model; the coverage of the paired interval, the estimate of mutual information on known data;
and the time beside Quantus' PixelFlipping (``pip install --no-deps quantus opencv-python-headless``), which
counts channels one by one and steps that divide the pixels only: 24 steps of 512 values are the nearest to
20, and its default step of one value is extrapolated from 96 steps, because it would take hours.
"""

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import record
import torch
from scipy import stats
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "faces"))
from faces_walk import one_photograph_each

from explainer import VAE, load_classifier, load_generator
from explainer.classifier import Classifier
from explainer.convnet import fit_classifier
from explainer.fillers import Inpainting, Mean
from explainer.generators.base import Generator
from explainer.image import resize
from explainer.mutual_information import information, joint_columns, permutation_null
from explainer.paired_comparison import Measure, areas, distribution, mean_of_columns, moved_to, percentiles
from explainer.pixel_order import pixels
from explainer.replacement import fidelity
from explainer.replacement_curves import replace_and_ask
from explainer.saliency import METHODS, SaliencyMap, saliency_batch, walk_images
from explainer.saliency.sanity import parameter_randomisation
from explainer.saliency.truth import localisation
from explainer.synthetic import PlantedImages, cells, sprites
from explainer.walks.base import require_levels

LEVELS = require_levels(np.linspace(0.05, 0.95, 10))
OURS = ("difference", "path_integrated")


# -- real data -------------------------------------------------------------------------------------------


def all_maps(
    generator: Generator, classifier: Classifier, images: Tensor, methods: tuple[str, ...] = METHODS
) -> dict[str, list[SaliencyMap]]:
    target = classifier.target(None, images)
    walks = walk_images(generator, classifier, images, target, LEVELS)
    return saliency_batch(methods, classifier, images, target, walked=walks, reference=images[:16])


def real_data(
    name: str, generator: Generator, classifier: Classifier, images: Tensor, labels: np.ndarray,
    draws: int, methods: tuple[str, ...] = METHODS,
) -> dict[str, Any]:  # fmt: skip
    """Areas of all methods, and the difference of the extremes against every control."""
    maps = all_maps(generator, classifier, images, methods)
    found = fidelity(images, labels, classifier, maps, draws=draws, seed=0)
    table: dict[str, Any] = {
        "images": len(images),
        "areas": {
            measure: {
                row.method: {"area": row.area, "low": row.low, "high": row.high}
                for row in found.ranking(measure).itertuples()
            }
            for measure in found.measures
        },
        "difference against controls": {
            measure: {control: found.compare("difference", control, measure) for control in found.controls}
            for measure in found.measures
        },
        "chance": dict(found.chance),
        "probability of the first class, a tenth replaced, by label": {
            method: {
                classifier.class_names[label]: float(found.probability[k, 0, 2, labels == label].mean())
                for label in np.unique(labels)
            }
            for k, method in enumerate((*found.methods, *found.controls))
            if method in ("difference", "random order", "another image's difference")
        },
    }
    few = min(64, len(images))  # the generator runs at every step
    inpainted = fidelity(
        images[:few], labels[:few], classifier,
        {key: maps[key][:few] for key in (*OURS, "integrated_gradients") if key in maps},
        filler=Inpainting(images[:few], generator, rounds=2), draws=1, steps=5, orders=("most",), seed=0,
    )  # fmt: skip
    table["areas with inpainting"] = {
        row.method: {"area": row.area, "low": row.low, "high": row.high}
        for row in inpainted.ranking("probability").itertuples()
    }
    print(name, *found.sentences(), sep="\n  ", flush=True)
    return table


def _better(compared: dict[str, Any]) -> bool:
    """Better, and not by chance: held to the false discovery rate."""
    return bool(compared["better"] and compared["real"])


def not_better(found: dict[str, Any]) -> list[str]:
    """Where the difference of the extremes does not beat a random order or another image's map."""
    asked = ("accuracy", "probability", "information about the label", "symmetric relevance gain")
    controls = ("random order", "another image's difference")
    return [
        f"{measure}: {control}"
        for measure in asked
        for control in controls
        if not _better(found["difference against controls"][measure][control])
    ]


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The rows that had to be reached."""
    known = result["known mutual information"]
    planted = {name: result[f"planted {name}"] for name in ("sprites", "cells")}
    return {
        "mutual information: mean estimate - truth, nats": abs(known["mean estimate"] - known["truth, nats"]),
        **{
            f"{name}: controls that difference does not beat": not_better(result[name])
            for name in ("faces", "cells", "chest")
            if name in result
        },
        **{
            f"planted {name}: relevance mass accuracy, ours / best of captum": max(found["ours"].values())
            / max(found["best of captum"].values())
            for name, found in planted.items()
        },
    }


def read_phases(data: Path, labels: Path, split: str) -> tuple[Tensor, np.ndarray]:
    """Cells in G1 or G2 of one split, in [0, 1], and 0 or 1."""
    rows = pd.read_csv(labels)
    with np.load(data, allow_pickle=False) as archive:
        stored = archive[archive.files[0]]
    chosen = rows["split"].eq(split).to_numpy() & rows["phase"].isin(["G1", "G2"]).to_numpy()
    images = torch.from_numpy(stored[chosen].astype(np.float32) / 65535)
    return images, rows.loc[chosen, "phase"].eq("G2").astype(int).to_numpy()


def read_chest(data: Path, split: str, size: tuple[int, int], count: int) -> tuple[Tensor, np.ndarray]:
    """One X-ray of each of some patients at a classifier's size, and whether it shows pneumonia."""
    import io
    import zipfile

    from PIL import Image

    with zipfile.ZipFile(data) as archive:
        rows = pd.read_csv(io.BytesIO(archive.read("labels.csv")))
        rows = rows[rows["split"] == split]
        order = np.random.default_rng(0).permutation(len(rows))
        rows = rows.iloc[order].drop_duplicates("patient").head(count)
        pictures = [
            np.asarray(Image.open(io.BytesIO(archive.read(f"images/{name}"))).convert("L"), dtype=np.float32)
            for name in rows["file"]
        ]
    images = torch.from_numpy(np.stack(pictures) / 255)[:, None]
    return resize(images, size), rows["label"].eq("PNEUMONIA").astype(int).to_numpy()


# -- planted truth ---------------------------------------------------------------------------------------


def planted_region(name: str, make: Callable[[int, int], PlantedImages], mask: str) -> dict[str, Any]:
    """Train a classifier and a generator on planted images; where do the maps lie?"""
    training, validation, test = make(3000, 0), make(300, 1), make(64, 2)
    network, report = fit_classifier(
        training.images, training.labels.float(), validation=(validation.images, validation.labels.float()),
        steps=400, augment=False, flip=False,
    )  # fmt: skip
    generator = VAE(tuple(training.images.shape[1:]), latent_dim=16).fit(
        training.images, steps=1500, minutes=6, progress=False
    )
    classifier = Classifier(network, class_names=("low", "high"))
    maps = all_maps(generator, classifier, test.images)
    table = localisation(maps, test.masks[mask])
    mass = table[table["measure"] == "relevance mass accuracy"].set_index("method")["mean"]
    best = mass.drop(list(OURS)).idxmax()
    result = {
        "classifier, accuracy on validation": report["validation"]["accuracy"],
        "chance": float(table.loc[table["measure"] == "relevance mass accuracy", "chance"].iloc[0]),
        "best of captum": {best: float(mass[best])},
        "ours": {key: float(mass[key]) for key in OURS},
        "table": {
            measure: {
                row.method: {"mean": row.mean, "low": row.low, "high": row.high}
                for row in part.rename(columns={"mean": "mean"}).itertuples()
            }
            for measure, part in table.groupby("measure")
        },
    }
    print(name, {key: result[key] for key in ("chance", "ours", "best of captum")}, flush=True)
    return result


def sanity(generator: Generator, classifier: Classifier, images: Tensor) -> dict[str, Any]:
    """Rank correlation of every method's maps with those of a model with random parameters."""
    table = {}
    for method in METHODS:

        def maps(asked: Classifier, method: str = method) -> list[SaliencyMap]:
            target = classifier.target(None, images)
            walks = walk_images(generator, asked, images, target, LEVELS) if method in OURS else None
            return saliency_batch([method], asked, images, target, walked=walks)[method]

        found = parameter_randomisation(maps, classifier, stages=2)
        table[method] = {"correlation": found.table["correlation"].tolist(), "changed": found.changed}
        print(found.sentence, flush=True)
    return table


# -- the test itself -------------------------------------------------------------------------------------


def coverage(trials: int = 2000, images: int = 100) -> dict[str, Any]:
    """How often the paired interval of two equal methods holds zero; their areas are skewed and alike."""
    covered = 0
    for trial in range(trials):
        random = np.random.default_rng([17, trial])
        shared = random.beta(2, 1, (images, 1))
        both = 0.6 * shared + 0.4 * random.beta(1, 3, (images, 2))
        columns = {"a": both[:, :1].astype(np.float32), "b": both[:, 1:].astype(np.float32)}
        measure = Measure("area", True, columns, mean_of_columns, {"a": 0.0, "b": 0.0})
        _, drawn = areas([measure], np.arange(images), resamples=1000, confidence=0.95, seed=trial)
        low, high = percentiles(drawn["area"][0] - drawn["area"][1], 0.95, images)
        covered += bool(low <= 0 <= high)
    interval = stats.binomtest(covered, trials).proportion_ci(method="wilson")
    return {
        "trials": trials,
        "images": images,
        "coverage": covered / trials,
        "low": interval.low,
        "high": interval.high,
    }


def known_information(trials: int = 200, count: int = 200) -> dict[str, Any]:
    """Two classes that agree with probability .8: I = log 2 - H(.8); and two independent ones."""
    truth = math.log(2) + 0.8 * math.log(0.8) + 0.2 * math.log(0.2)
    inside, estimates, nulls = 0, [], []
    for trial in range(trials):
        random = np.random.default_rng([23, trial])
        first = random.integers(0, 2, count)
        second = np.where(random.random(count) < 0.8, first, 1 - first)
        columns = joint_columns(first, second[:, None], 2).reshape(count, -1)
        null = permutation_null(first, second[:, None], 2, seed=trial)[0]
        drawn = distribution(
            lambda weights, columns=columns: information((weights @ columns).reshape(-1, 2, 2))[None],
            np.arange(count), resamples=1000, seed=trial,
        )  # fmt: skip
        estimates.append(float(information(columns.sum(axis=0).reshape(2, 2)) - null))
        low, high = percentiles(moved_to(np.array(estimates[-1]), drawn[0]), 0.95, count)
        inside += bool(low <= truth <= high)
        other = random.integers(0, 2, (count, 1))
        table = joint_columns(first, other, 2).sum(axis=0).reshape(2, 2)
        nulls.append(float(information(table) - permutation_null(first, other, 2, seed=trial)[0]))
    return {
        "truth, nats": truth, "mean estimate": float(np.mean(estimates)),
        "share of intervals that hold it": inside / trials,
        "independent classes, mean estimate": float(np.mean(nulls)), "trials": trials, "images": count,
    }  # fmt: skip


class _TwoLogits(nn.Module):
    """A binary classifier as Quantus wants it: one output per class."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logit = self.network(images)
        return torch.cat([-logit / 2, logit / 2], dim=1)


def speed(repeats: int = 3) -> dict[str, Any]:
    """Processor seconds: three curves of ours beside one of Quantus, on 256 images."""
    try:
        import quantus
    except ImportError as error:
        return {"left out": f"Quantus cannot be imported: {error}"}
    classifier = load_classifier("faces/smile")
    images = torch.rand(256, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    relevance = np.random.default_rng(0).random((256, 3, 64, 64)).astype(np.float32)
    labels = np.arange(256) % 2
    peer = _TwoLogits(classifier.model).eval()

    def theirs(values: int) -> None:
        metric = quantus.PixelFlipping(features_in_step=values, disable_warnings=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric(
                model=peer,
                x_batch=images.numpy(),
                y_batch=labels,
                a_batch=relevance,
                device="cpu",
                channel_first=True,
            )

    def ours() -> None:
        fractions = np.linspace(0, 1, 21)
        answers = replace_and_ask(
            images, classifier, {"map": relevance.sum(axis=1)}, units=pixels(images), filler=Mean(images),
            fractions=fractions.tolist(), seeds=[0], orders=["most"], batch_size=64,
        )  # fmt: skip
        curve = answers.predictions[0, 0, 0]
        answers.probability[0, 0].mean(axis=-1), (curve == labels).mean(axis=-1)
        tables = joint_columns(labels, curve.T, 2).sum(axis=0).reshape(-1, 2, 2)
        information(tables) - permutation_null(labels, curve.T, 2)

    def passes() -> None:
        with classifier.frozen(), torch.no_grad():
            for _ in range(21):
                for part in images.split(64):
                    classifier.raw(part)

    def seconds(work: Callable[[], None]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    # 12 and 24 steps: what a step costs, and what does not depend on the steps.
    rounds = [
        (seconds(ours), seconds(lambda: theirs(1024)), seconds(lambda: theirs(512))) for _ in range(repeats)
    ]
    mine, fewer, more = (float(np.median(part)) for part in zip(*rounds, strict=True))
    own = seconds(passes)
    step = (more - fewer) / 12
    slow = seconds(lambda: theirs(128))
    return {
        "ours, 3 curves, 21 fractions, seconds": mine,
        "of it the classifier's own passes, seconds": own,
        "quantus, 1 curve, 12 steps, seconds": fewer,
        "quantus, 1 curve, 24 steps, seconds": more,
        "quantus, 1 curve, 96 steps, seconds": slow,
        "ratio at 20 steps, between 12 and 24": (fewer + 8 * step) / mine,
        "ratio at its default step of one value, extrapolated from 24 and 96 steps": (
            (slow + (12288 - 96) * (slow - more) / 72) / mine
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--cell-labels", type=Path)
    parser.add_argument("--chest", type=Path)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument(
        "--split", default="test", choices=["val", "test"], help="val while tuning, test once"
    )
    parser.add_argument("--methods", nargs="*", default=METHODS, help="fewer while tuning")
    parser.add_argument("--only", nargs="*", help="parts to run; nothing is written then")
    options = parser.parse_args()
    rest = options.draws, tuple(options.methods)
    parts: dict[str, Callable[[], Any]] = {
        "speed": speed,
        "coverage of the paired interval": coverage,
        "known mutual information": known_information,
        "planted sprites": lambda: planted_region(
            "sprites", lambda n, seed: sprites(n, size=32, seed=seed, label="shade"), "sprite"
        ),
        "planted cells": lambda: planted_region(
            "cells", lambda n, seed: cells(n, size=32, seed=seed, label="nucleus_intensity"), "nucleus"
        ),
    }
    if options.faces:
        images, labels = one_photograph_each(options.faces, options.split, options.images)
        smiles = labels["Smiling"].gt(0.5).astype(int).to_numpy()
        generator, smile = load_generator("faces"), load_classifier("faces/smile")
        parts["faces"] = lambda: real_data("faces", generator, smile, images, smiles, *rest)
        parts["sanity, faces"] = lambda: sanity(generator, smile, images[:8])
    if options.cells:
        cell_images, phase = read_phases(options.cells, options.cell_labels, options.split)
        drawn = np.random.default_rng(0).permutation(len(phase))[: options.images]  # the file is in order
        cell_images, phase = cell_images[torch.from_numpy(drawn)], phase[drawn]
        parts["cells"] = lambda: real_data(
            "cells", load_generator("cells"), load_classifier("cells/g1-g2"), cell_images, phase, *rest,
        )  # fmt: skip
    if options.chest:
        xray = load_classifier("chest/pneumonia")
        xrays, ill = read_chest(options.chest, options.split, xray.size or (128, 128), options.images)
        parts["chest"] = lambda: real_data("chest", load_generator("chest"), xray, xrays, ill, *rest)
    result: dict[str, Any] = {"split": options.split, "images": options.images, "draws": options.draws}
    for name, part in parts.items():
        if not options.only or name in options.only:
            result[name] = part()
            print(name, result[name] if name.startswith(("speed", "cov", "known")) else "done", flush=True)
    if options.split == "test" and not options.only:
        result["summary"] = summary(result)
        arguments = "--faces <zip> --cells <npz> --cell-labels <csv> --chest <zip>"
        print(record.write("fidelity", result, arguments))


if __name__ == "__main__":
    main()
