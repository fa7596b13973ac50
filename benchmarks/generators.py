"""Generators that train without collapse: stability over seeds, clusters, information, samples.

    python benchmarks/generators.py --mnist mnist.npz --cells cells.npz --labels cells.csv --work runs.jsonl

Every kind is trained with its defaults on a short budget of steps, seed after seed. Each finished run is a
line of the work file: a benchmark that was killed goes on where it was, and ``--report-only`` writes the
results of what is there. Labels are looked at by measures only. The page: docs/generators.md.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import record
import torch
from generator_runs import (
    Features,
    Images,
    WatchedMixture,
    Work,
    information,
    principal_components,
    read_jurkat,
    read_mnist,
    reconstruction,
)
from torch import Tensor

from explainer.generators import VAE, GaussianMixtureVAE, InfoMaxVAE, TwoStageVAE
from explainer.generators.training import TrainableGenerator

KINDS: dict[str, type[TrainableGenerator]] = {
    "VAE": VAE,
    "InfoMaxVAE": InfoMaxVAE,
    "TwoStageVAE": TwoStageVAE,
    "GaussianMixtureVAE": GaussianMixtureVAE,
}
LATENT_DIM = {"MNIST": 10, "cells": 16}
STEPS = {
    "MNIST": {"VAE": 100, "InfoMaxVAE": 100, "TwoStageVAE": 200, "GaussianMixtureVAE": 400},
    "cells": {"VAE": 100, "InfoMaxVAE": 100, "TwoStageVAE": 240, "GaussianMixtureVAE": 160},
}
SEEDS = {"MNIST": 10, "cells": 3}
SAMPLED_SEEDS, OTHER_SEEDS = 3, 2
SAMPLE_STEPS = 1000  # a better prior changes little where the images are still blurred
LITERAL_STEPS = 100
CLASSIFIER_STEPS = 250
MINUTES = 600  # steps decide


class LiteralVAE(VAE):
    """The loss as the source notes have it: mean squared error + KL divergence."""

    def image_loss(
        self, prepared: Tensor, reconstruction: Tensor, kl: Tensor, beta: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mse = (prepared - reconstruction).square().mean()
        return mse + beta * kl, {"mse": mse, "kl_nats": kl}


class UnitSigma:
    """Sigma fixed at 1: half the squared error + KL divergence, in nats per image."""

    def image_loss(
        self, prepared: Tensor, reconstruction: Tensor, kl: Tensor, beta: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        nats = 0.5 * (prepared - reconstruction).square().sum(dim=(1, 2, 3)).mean()
        return (nats + beta * kl) / prepared[0].numel(), {"reconstruction_nats": nats, "kl_nats": kl}


class UnitSigmaVAE(UnitSigma, VAE):
    """A VAE with sigma = 1."""


class UnitSigmaInfoMaxVAE(UnitSigma, InfoMaxVAE):
    """An InfoMaxVAE with sigma = 1."""


def trained(
    kind: type[TrainableGenerator], images: Images, steps: int, seed: int, **options: Any
) -> TrainableGenerator:
    generator = kind(images.shape, LATENT_DIM[images.name], seed=seed, **options)  # type: ignore[call-arg]
    if isinstance(generator, WatchedMixture):
        generator.__dict__["images"] = images
    return generator.fit(images.training, steps=steps, minutes=MINUTES, seed=seed, progress=False)


def one_run(name: str, images: Images, seed: int) -> dict[str, Any]:
    """Train one kind with one seed, and measure what this benchmark reports of it."""
    watched = name == "GaussianMixtureVAE" and images.name == "MNIST"
    steps = STEPS[images.name][name]
    generator = trained(WatchedMixture if watched else KINDS[name], images, steps, seed)
    row = {"images": images.name, "kind": name, "seed": seed, "steps": steps}
    row |= reconstruction(generator, images)
    if isinstance(generator, WatchedMixture):
        row |= {**generator.peer, "accuracy": generator.measured()}
        row["components used"] = float(generator.history["components_used"].dropna().iloc[-1])
    if images.name == "MNIST" and name in ("VAE", "InfoMaxVAE"):
        row |= information(generator, images)  # type: ignore[arg-type]
    return row


@torch.no_grad()
def sample_run(name: str, images: Images, seed: int, features: Features) -> dict[str, Any]:
    """Train one kind with a sampler for longer, and measure how far its samples are from images."""
    with torch.enable_grad():
        generator = trained(KINDS[name], images, SAMPLE_STEPS, seed, sampler=True)
    row: dict[str, Any] = {"images": images.name, "kind": name, "seed": seed, "steps": SAMPLE_STEPS}
    row |= reconstruction(generator, images)
    for key, prior in (("standard normal", "standard"), ("sampler", "sampler")):
        drawn = generator.sample(len(images.test), seed=seed, prior=prior)
        row[f"samples of the {key}"] = features.distance(drawn)
    bare = torch.cat([generator.bare(part) for part in images.test.split(250)])
    return {**row, "bare reconstructions": features.distance(bare)}


def other_loss(kind: type[VAE], images: Images, seed: int) -> dict[str, Any]:
    """Train with another loss, and ask ``health`` what it thinks; without the linear start, no part of it."""
    generator = trained(kind, images, LITERAL_STEPS, seed, linear=False)
    health = generator.health(images.test)
    return {
        "kind": kind.__name__, "seed": seed, "steps": LITERAL_STEPS, **reconstruction(generator, images),
        **information(generator, images), "verdict": health.sentence,  # type: ignore[arg-type]
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "lowest": min(values), "highest": max(values)}


def stability(rows: list[dict[str, Any]], bound: float) -> dict[str, Any]:
    """What one kind must hold on one set of images, over its seeds."""
    quality = [row["R2"] for row in rows]
    return {
        "seeds": len(rows),
        "steps": rows[0]["steps"],
        "R2": spread(quality),
        "R2, highest - lowest": max(quality) - min(quality),
        "lowest R2 / that of PCA": min(quality) / bound,
        "lowest KL in nats": min(row["KL in nats"] for row in rows),
        "skipped or not finite": sum(row["skipped steps"] + row.get("numbers not finite", 0) for row in rows),
        "processor seconds a run (median)": statistics.median(row["processor seconds"] for row in rows),
    }


def report(work: Work) -> None:
    """Write the results of all runs that are there."""
    runs = [row for row in work.rows.values() if row["run"].startswith("stability")]
    arguments = "--mnist <npz> --cells <npz> --labels <csv> --work <jsonl>"
    result: dict[str, Any] = {"latent_dim": ", ".join(f"{key} {value}" for key, value in LATENT_DIM.items())}
    for images in LATENT_DIM:
        if not any(row["images"] == images for row in runs):
            continue
        bound = work.rows[f"PCA {images}"]
        result[f"{images}: PCA with the same dimensions"] = {
            "R2": bound["R2"], "R2 per channel": bound["R2 per channel"],
        }  # fmt: skip
        result[images] = {
            name: stability(chosen, bound["R2"])
            for name in KINDS
            if (chosen := [row for row in runs if (row["images"], row["kind"]) == (images, name)])
        }
    kinds = [kind for images in LATENT_DIM for kind in result.get(images, {}).values()]
    result["all runs"] = {
        "runs": sum(kind["seeds"] for kind in kinds),
        "runs wanted": len(KINDS) * sum(SEEDS.values()),  # fewer: the benchmark was stopped on its way
        "skipped or not finite": sum(kind["skipped or not finite"] for kind in kinds),
        "lowest R2 / that of PCA": min(kind["lowest R2 / that of PCA"] for kind in kinds),
        "lowest KL in nats": min(kind["lowest KL in nats"] for kind in kinds),
        "largest difference of R2 within a kind": max(kind["R2, highest - lowest"] for kind in kinds),
        "processor minutes": sum(row["processor seconds"] for row in work.rows.values()) / 60,
    }
    print(record.write("generator_stability", result, arguments))
    mixtures = [row for row in runs if "accuracy" in row]
    if mixtures:
        print(record.write("generator_mixture", {"clusters of MNIST": {
            "seeds": len(mixtures),
            "accuracy": spread([row["accuracy"] for row in mixtures]),
            "accuracy where the second phase starts": spread(
                [row["accuracy at the start"] for row in mixtures]
            ),
            "scikit-learn's mixture on the same VAE's codes": spread(
                [row["accuracy of scikit-learn's mixture"] for row in mixtures]
            ),
            "mean accuracy over scikit-learn's": statistics.fmean(
                row["accuracy"] - row["accuracy of scikit-learn's mixture"] for row in mixtures
            ),
            "accuracy of each seed": [row["accuracy"] for row in mixtures],
        }}, arguments))  # fmt: skip
    informed = [row for row in work.rows.values() if "linear probe" in row]
    names = list(dict.fromkeys(row["kind"] for row in informed))
    measures = ("I(x; z) in nats, at least", "I(x; z) in nats, at most (KL)", "linear probe", "R2")
    if names:
        table = {
            name: {
                "seeds": len(of_kind := [row for row in informed if row["kind"] == name]),
                **{measure: spread([row[measure] for row in of_kind]) for measure in measures},
                "collapsed": sum(row["status"] == "collapsed" for row in of_kind),
            }
            for name in names
        }
        literal = [row for row in informed if row["kind"] == "LiteralVAE"]
        verdicts = {"verdict on the literal loss": literal[0]["verdict"]} if literal else {}
        print(record.write("generator_information", {**verdicts, "MNIST": table}, arguments))
    sampled = [row for row in work.rows.values() if row["run"].startswith("samples")]
    if sampled:
        print(record.write("generator_samples", samples(sampled), arguments))


def samples(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Frechet distances of samples, and of the two-stage generator's against the single VAE's."""
    table: dict[str, Any] = {}
    for name in ("VAE", "TwoStageVAE"):
        for prior in ("samples of the standard normal", "samples of the sampler", "bare reconstructions"):
            given = [row[prior] for row in runs if row["kind"] == name]
            if given:
                table[f"{name}, {prior}"] = {
                    "distance": statistics.fmean(each["distance"] for each in given),
                    "of each seed": [each["distance"] for each in given],
                    "interval of the first seed": [given[0]["low"], given[0]["high"]],
                    "images each": given[0]["n"],
                }
    single = table["VAE, samples of the standard normal"]["distance"]
    return {
        "steps": SAMPLE_STEPS,
        "MNIST": table,
        "MNIST: distance / that of the single VAE": {
            name: row["distance"] / single for name, row in table.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, required=True, help="mnist.npz")
    parser.add_argument("--cells", type=Path, required=True, help="cells.npz")
    parser.add_argument("--labels", type=Path, required=True, help="cells.csv")
    parser.add_argument(
        "--work", type=Path, required=True, help="finished runs, JSON lines; continued if there"
    )
    parser.add_argument(
        "--split", default="test", choices=["val", "test"], help="val while tuning, test once"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="100 and more while tuning")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="a part, in a work file of its own")
    parser.add_argument("--report-only", action="store_true", help="train nothing more")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = Work(options.work)
    if not options.report_only:
        sets = [
            read_mnist(options.mnist, split=options.split),
            read_jurkat(options.cells, options.labels, split=options.split),
        ]
        seen: dict[str, Features] = {}

        def features(images: Images) -> Features:
            if images.name not in seen:
                seen[images.name] = Features(images, steps=CLASSIFIER_STEPS)
                print(images.name, seen[images.name].report, flush=True)
            return seen[images.name]

        for images in sets:
            work.do(
                f"PCA {images.name}",
                lambda images=images: principal_components(images, LATENT_DIM[images.name]),
            )
        for number in range(max(SEEDS.values())):
            seed = options.first_seed + number
            for images in sets:
                for name in options.kinds if number < SEEDS[images.name] else ():
                    work.do(
                        f"stability {images.name} {name} {seed}",
                        lambda name=name, images=images, seed=seed: one_run(name, images, seed),
                    )
            for name in ("TwoStageVAE", "VAE") if number < SAMPLED_SEEDS else ():
                work.do(
                    f"samples {sets[0].name} {name} {seed}",
                    lambda name=name, seed=seed: sample_run(name, sets[0], seed, features(sets[0])),
                )
            for kind in (LiteralVAE, UnitSigmaVAE, UnitSigmaInfoMaxVAE) if number < OTHER_SEEDS else ():
                work.do(
                    f"other loss {kind.__name__} {seed}",
                    lambda kind=kind, seed=seed: other_loss(kind, sets[0], seed),
                )
    if options.split == "test":
        report(work)


if __name__ == "__main__":
    main()
