"""Every walk and its peers on one table: reached, small, sparse, believed, fast.

    python benchmarks/walks.py --dataset faces --data faces.zip
    python benchmarks/walks.py --dataset cells --data cells.npz --labels cells.csv
    python benchmarks/walks.py --dataset chest --data chest.zip

One image of each person or patient, drawn with a seed; the zoo's generator and classifiers. Peers run on the
same generator, classifier, images and carried detail: *latent shift* (Cohen et al. 2021; ``pip install
--no-deps latentshift==0.0.6``) at its defaults and tuned on the validation split, and *Adam-200*, 200 steps
of Adam on the code for each level. Both are slow, so they see the first images only, and the evolution walk
more of them.
Latent shift walks one class down and makes no frames at given levels: it is run for both classes with ten
frames each, and for every level the nearest frame counts.

Every row is written as soon as it is known; a run that was stopped goes on where it was.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from faces_walk import _Autoencoder, _latent_shift_module, share
from torch import Tensor

from explainer import load_classifier, load_generator
from explainer.classifier import Classifier
from explainer.counterfactual import changed_share, cout, distance, latent_closeness
from explainer.generators.base import Generator
from explainer.metrics import frechet_distance
from explainer.target import Target
from explainer.walks import ConditionalWalk, EvolutionWalk, GradientWalk, LinearWalk, Scene, Walk
from explainer.walks.base import TOLERANCE, require_levels

REPOSITORY = Path(__file__).parents[1]
LEVELS = require_levels([*np.linspace(0.05, 0.95, 10), 0.1, 0.9])
TEN_LEVELS = require_levels(np.linspace(0.05, 0.95, 10))
CLASSIFIERS = {"faces": "smile", "cells": "g1-g2", "chest": "pneumonia"}
TUNED_ON = 8


@dataclass
class Problem:
    """A generator, a classifier and images to explain."""

    name: str
    generator: Generator
    classifier: Classifier
    second: Classifier | None
    target: Target
    images: Tensor

    def scene(self, images: Tensor) -> Scene:
        return Scene(self.generator, self.classifier, self.target, images)


@dataclass
class Walked:
    """Codes ``(N, L, D)`` of images ``(N, C, H, W)`` at the levels, and what they cost."""

    latents: Tensor
    seconds: float
    cost: dict[str, float]


# -- what is explained -------------------------------------------------------------------------------------


def recipe(dataset: str) -> Any:
    """The script that trained the zoo's models of a data set."""
    path = REPOSITORY / "models" / dataset / "train.py"
    spec = importlib.util.spec_from_file_location(f"train_{dataset}", path)
    assert spec is not None
    assert spec.loader is not None
    train = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = train  # its dataclasses look themselves up
    spec.loader.exec_module(train)
    return train


def read(dataset: str, data: Path, labels: Path | None, split: str) -> Tensor:
    """Images of one split in random order, the first of each person or patient; cells are G1 and G2."""
    train = recipe(dataset)
    groups = None
    if dataset == "cells":
        images, _ = train.phases(*train.read_cells(data, labels, split))
    elif dataset == "chest":
        images, rows = train.read_chest(data, split)
        groups = rows["patient"]
    else:
        images, rows = train.read_faces(data, split)
        groups = rows["person"]
    order = np.random.default_rng(0).permutation(len(images))
    if groups is not None:
        drawn = groups.reset_index(drop=True).iloc[order]
        order = drawn[~drawn.duplicated()].index.to_numpy()
    chosen = images[torch.from_numpy(order.copy())]
    return chosen if chosen.is_floating_point() else chosen.float() / torch.iinfo(chosen.dtype).max


def second_for_cells(data: Path, labels: Path | None) -> Classifier:
    """A second network for the phases, of another architecture: the zoo has none."""
    train = recipe("cells")
    training, validation = (
        train.phases(*train.read_cells(data, labels, split)) for split in ("train", "val")
    )
    network, report, mean, std = train.fit_phases(training, validation, architecture="convnet", seed=1)
    print("second network, accuracy on validation cells", report["validation"]["accuracy"], flush=True)
    return Classifier(network, class_names=train.PHASES, size=train.SIZE, mean=mean, std=std)


def problem(dataset: str, images: Tensor, second: Classifier | None = None) -> Problem:
    name = CLASSIFIERS[dataset]
    classifier = load_classifier(f"{dataset}/{name}")
    classifier.check(images[:4])
    card = json.loads((REPOSITORY / "models" / dataset / "card.json").read_text(encoding="utf-8"))
    if f"{name}-second" in card["classifiers"]:
        second = load_classifier(f"{dataset}/{name}-second")
    return Problem(
        dataset, load_generator(dataset), classifier, second, classifier.target(None, images), images
    )


# -- the walks and their peers ---------------------------------------------------------------------------


def ours(walk: Walk) -> Callable[[Problem, Tensor], Walked]:
    def run(given: Problem, images: Tensor) -> Walked:
        began = time.process_time()
        scene = given.scene(images)
        result = walk(scene, LEVELS)
        return Walked(
            result.latents,
            time.process_time() - began,
            {"gradients per image": result.gradients, "evaluations per image": result.evaluations},
        )

    return run


def adam(given: Problem, images: Tensor) -> Walked:
    """200 steps of Adam (rate .05) on each code for each level: squared gap of the score + .02 ||dz||^2."""
    began = time.process_time()
    scene = given.scene(images)
    rows = torch.arange(len(images)).repeat_interleave(len(LEVELS))
    start, wanted = scene.z[rows], given.target.to_score(LEVELS).float().repeat(len(images))
    z = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.05)
    for _ in range(200):
        score, gradient = scene.score_and_gradient(z.detach(), rows)
        z.grad = 2 * (score - wanted)[:, None] * gradient + 0.04 * (z.detach() - start)
        optimiser.step()
    latents = z.detach().unflatten(0, (len(images), len(LEVELS)))
    return Walked(latents, time.process_time() - began, {"gradients per image": 200.0 * len(LEVELS)})


def latent_shift(**options: Any) -> Callable[[Problem, Tensor], Walked]:
    def run(given: Problem, images: Tensor) -> Walked:
        module = _latent_shift_module()
        latents, seconds = [], 0.0
        scene = given.scene(images)
        for row, image in enumerate(images):
            found_codes, found_levels = [], []
            for side in (0, 1):
                codes: list[Tensor] = []

                def forward(x: Tensor) -> Tensor:
                    score = given.classifier.score(x, given.target)
                    return torch.stack([-score, score], dim=1)

                began = time.process_time()
                coder = _Autoencoder(given.generator, image[None])
                search = module.LatentShift(forward, coder)
                (found,) = search.attribute(
                    image[None], target=side, verbose=False, return_dicts=True, **options
                )
                seconds += time.process_time() - began
                # The codes of its frames, z + lambda dp/dz, are not returned.
                leaf = scene.z[row : row + 1].clone().requires_grad_()
                with torch.enable_grad():
                    level = forward(scene.deliver(leaf, torch.tensor([row])))[:, side].sigmoid()
                slope = torch.autograd.grad(level, leaf)[0]
                codes = [leaf.detach() + slope * float(shift) for shift in found["lambdas"]]
                found_codes.append(torch.cat(codes))
                raw = torch.tensor(found["preds"], dtype=torch.float64)
                found_levels.append(raw if side == 1 else 1 - raw)
            every, at = torch.cat(found_codes), torch.cat(found_levels)
            nearest = (at[None] - LEVELS[:, None]).abs().argmin(dim=1)
            latents.append(every[nearest])
        return Walked(torch.stack(latents), seconds, {})

    return run


def tuned(given: Problem, validation: Tensor) -> dict[str, float]:
    """The options under which latent shift comes nearest to the levels of validation images."""
    best: tuple[float, dict[str, float]] | None = None
    for step in (0.3, 1.0, 3.0, 10.0, 30.0):
        options = {
            "search_step_size": step, "search_max_pixel_diff_pct": 1.0, "search_pred_diff": 0.95,
            "search_max_steps": 30000,
        }  # fmt: skip
        walked = latent_shift(**options)(given, validation)
        scene = given.scene(validation)
        error = float((achieved(scene, walked.latents) - LEVELS).abs().mean())
        if best is None or error < best[0]:
            best = error, options
    assert best is not None
    return best[1]


# -- what is measured --------------------------------------------------------------------------------------


def _rows(latents: Tensor) -> Tensor:
    return torch.arange(len(latents)).repeat_interleave(latents.shape[1])


def achieved(scene: Scene, latents: Tensor) -> Tensor:
    scores = scene.score(latents.flatten(0, 1), _rows(latents)).double()
    return scene.target.to_level(scores).view(latents.shape[:2])


@torch.no_grad()
def features(network: Classifier, images: Tensor) -> np.ndarray:
    """Penultimate features of a classifier of the zoo."""
    parts = [network.model.features(network._prepare(part)) for part in images.split(256)]
    return torch.cat(parts).numpy()


def frechet(found: np.ndarray, real: np.ndarray) -> float | None:
    """The distance; None for a single image, which has no covariance."""
    return float(frechet_distance(found, real)) if len(found) > 1 else None


@torch.no_grad()
def measured(given: Problem, images: Tensor, walked: Walked) -> dict[str, Any]:
    """One row of the table. The far end is level .95 of an image below .5 and level .05 of the others."""
    scene = given.scene(images)
    at = {round(level, 2): position for position, level in enumerate(LEVELS.tolist())}
    got = achieved(scene, walked.latents)
    error = (got - LEVELS).abs()
    upwards = scene.score0 < 0
    every = torch.arange(len(images))
    far = walked.latents[every, torch.where(upwards, at[0.95], at[0.05])]
    frames = torch.cat(
        [scene.deliver(z, row) for z, row in zip(far.split(256), every.split(256), strict=True)]
    )
    plain, moved = given.generator.normalise(images), given.generator.normalise(frames)

    def probability(swapped: Tensor) -> Tensor:
        level = given.classifier.level(given.generator.denormalise(swapped), given.target)
        return torch.where(upwards, level, 1 - level)

    codes = given.generator.encode(given.generator.resized(frames))
    judge = given.second or given.classifier
    real = features(judge, images)
    row: dict[str, Any] = {
        "images": len(images),
        "levels .1 and .9 both reached": share((error[:, [at[0.1], at[0.9]]] <= TOLERANCE).all(dim=1)),
        "frames reached": share((error <= TOLERANCE).flatten()),
        "mean error": float(error.mean()),
        "COUT": float(cout(plain, moved, probability).mean()),
        "L1": float(distance(plain, moved).mean()),
        "share of pixels changed": float(changed_share(plain, moved).mean()),
        "share of code dimensions moved": float(((far - scene.z).abs() > 1e-6).float().mean()),
        "length of the move": float((far - scene.z).norm(dim=1).mean()),
        "LSC": float(latent_closeness(scene.z, codes).mean()),
        "Frechet distance, detail 1": frechet(features(judge, frames), real),
        "Frechet distance, detail 0": frechet(features(judge, given.generator.decode(far)), real),
        "features of": "a second network" if given.second else "the classifier itself: no second network",
        "seconds per image": walked.seconds / len(images),
        **walked.cost,
    }
    if given.second is not None:
        target = given.second.target(None, images)
        ends = [
            given.second.level(scene.deliver(walked.latents[:, at[end]], every), target)
            for end in (0.05, 0.95)
        ]
        row["second network on the requested side at both ends"] = share((ends[0] < 0.5) & (ends[1] > 0.5))
    return row


def cost(given: Problem, walks: dict[str, Walk], images: Tensor, rounds: int = 3) -> dict[str, Any]:
    """Processor time of encoding and walking to ten levels, in units of ten forward passes; medians."""
    table: dict[str, Any] = {"images": len(images), "rounds": rounds}
    for name, walk in walks.items():
        units, seconds = [], []
        for _ in range(rounds):
            began = time.process_time()
            scene = given.scene(images)
            walk(scene, TEN_LEVELS)
            done = time.process_time()
            for _ in range(10):
                scene.score(scene.z, torch.arange(len(images)))
            units.append((done - began) / (time.process_time() - done))
            seconds.append((done - began) / len(images))
        table[name] = {
            "forward units": float(np.median(units)),
            "seconds per image": float(np.median(seconds)),
        }
        print(name, table[name], flush=True)
    return table


def one_pass(given: Problem, walk: ConditionalWalk, images: Tensor) -> dict[str, Any]:
    """The conditional walk before its frames are brought to their levels."""
    scene = given.scene(images)
    rows = torch.arange(len(images)).repeat_interleave(len(TEN_LEVELS))
    wanted = given.target.to_score(TEN_LEVELS).repeat(len(images))
    codes = walk.codes(scene, rows, wanted).unflatten(0, (len(images), len(TEN_LEVELS)))
    error = (achieved(scene, codes) - TEN_LEVELS).abs()
    return {
        "images": len(images), "mean error": float(error.mean()), "by level": error.mean(dim=0).tolist(),
        "training": walk.training,
    }  # fmt: skip


def race(
    given: Problem, tuned: dict[str, float], conditional: Walk, images: Tensor, together: dict[str, Any]
) -> dict[str, Any]:
    """Latent shift, which takes one image at a time, against ours: medians of the ratios of their seconds.

    Ours on one image after another, and in the batch of :func:`cost`. Ten forward passes are the bound: what
    ten frames cost if nothing had to be found.
    """
    batch = {
        f"{name} walk, in a batch": together[name]["seconds per image"]
        for name in ("gradient", "conditional")
    }
    batch["ten forward passes, in a batch"] = (
        together["gradient"]["seconds per image"] / together["gradient"]["forward units"]
    )

    def walked(walk: Walk, image: Tensor) -> float:
        began = time.process_time()
        walk(given.scene(image), TEN_LEVELS)
        return time.process_time() - began

    ratios: dict[str, dict[str, list[float]]] = {}
    for image in images.split(1):
        ours = {
            "gradient walk": walked(GradientWalk(), image),
            "conditional walk": walked(conditional, image),
            **batch,
        }
        scene, began = given.scene(image), time.process_time()
        for _ in range(10):
            scene.score(scene.z, torch.zeros(1, dtype=torch.long))
        ours["ten forward passes"] = time.process_time() - began
        for name, options in (("defaults", {}), ("tuned on val", tuned)):
            theirs = latent_shift(**options)(given, image).seconds
            for key, seconds in ours.items():
                ratios.setdefault(f"latent shift, {name}", {}).setdefault(key, []).append(theirs / seconds)
    return {name: {key: float(np.median(r)) for key, r in row.items()} for name, row in ratios.items()}


# -- the table ---------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, choices=sorted(CLASSIFIERS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="of the cells")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--cost-images", type=int, default=256)
    parser.add_argument("--evolution", type=int, default=150, help="images that the evolution walk sees")
    parser.add_argument("--slow", type=int, default=20, help="images that latent shift sees")
    parser.add_argument("--adam", type=int, default=8, help="images that Adam-200 sees")
    parser.add_argument("--training", type=int, default=1600, help="images the conditional walk learns from")
    parser.add_argument("--steps", type=int, default=200, help="of its training")
    parser.add_argument("--only", nargs="*", help="rows to run")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/unfinished"), help="unfinished tables")
    options = parser.parse_args()
    images = read(options.dataset, options.data, options.labels, options.split)[: options.images]
    second = second_for_cells(options.data, options.labels) if options.dataset == "cells" else None
    given = problem(options.dataset, images, second)
    options.work.mkdir(parents=True, exist_ok=True)
    state = options.work / f"walks-{options.dataset}-{options.split}.json"
    table: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
    table.setdefault("split", options.split)
    table.setdefault("rows", {})
    folder = options.work / f"head-{options.dataset}"
    made: list[ConditionalWalk] = []

    def conditional() -> ConditionalWalk:
        if not made and (folder / "walk.json").exists():
            made.append(ConditionalWalk.load(folder))
        elif not made:
            training = read(options.dataset, options.data, options.labels, "train")[: options.training]
            walk = ConditionalWalk.fit(
                given.generator, given.classifier, training, target=given.target, steps=options.steps
            )
            walk.save(folder)
            made.append(walk)
        return made[0]

    def validation() -> Tensor:
        return read(options.dataset, options.data, options.labels, "val")[-TUNED_ON:]

    def keep(name: str, make: Callable[[], Any], into: dict[str, Any]) -> None:
        if name in into or (options.only and name not in options.only):
            return
        into[name] = make()
        print(name, into[name], flush=True)
        state.write_text(json.dumps(table, indent=2, allow_nan=False))

    runs: dict[str, tuple[Callable[[], Callable[[Problem, Tensor], Walked]], int]] = {
        "gradient": (lambda: ours(GradientWalk()), len(images)),
        "gradient, shorten=0": (lambda: ours(GradientWalk(shorten=0)), len(images)),
        "gradient, sparsity=.5": (lambda: ours(GradientWalk(sparsity=0.5)), len(images)),
        "linear": (lambda: ours(LinearWalk()), len(images)),
        "evolution": (lambda: ours(EvolutionWalk()), options.evolution),
        "conditional": (lambda: ours(conditional()), len(images)),
        "latent shift, defaults": (latent_shift, options.slow),
        "latent shift, tuned on val": (lambda: latent_shift(**table["tuned"]), options.slow),
        "gradient, images of latent shift": (lambda: ours(GradientWalk()), options.slow),
        "Adam-200": (lambda: adam, options.adam),
        "gradient, images of Adam-200": (lambda: ours(GradientWalk()), options.adam),
    }
    with given.classifier.frozen():
        for name, (make, count) in runs.items():
            if name == "latent shift, tuned on val":
                keep("tuned", lambda: tuned(given, validation()), table)
                if "tuned" not in table:
                    continue

            def row(make: Any = make, count: int = count) -> dict[str, Any]:
                some = images[:count]
                return measured(given, some, make()(given, some))

            keep(name, row, table["rows"])
        keep("conditional, one pass", lambda: one_pass(given, conditional(), images), table)
        walks = {"gradient": GradientWalk(), "linear": LinearWalk()}
        few = images[: options.cost_images]
        keep("cost", lambda: cost(given, {**walks, "conditional": conditional()}, few), table)
        if "tuned" in table:
            keep(
                "seconds of latent shift over ours",
                lambda: race(given, table["tuned"], conditional(), images[: options.slow], table["cost"]),
                table,
            )  # fmt: skip
    if options.split == "test" and not options.only:
        named = "--data <npz> --labels <csv>" if options.dataset == "cells" else "--data <zip>"
        print(record.write(f"walks_{options.dataset}", table, f"--dataset {options.dataset} {named}"))


if __name__ == "__main__":
    main()
