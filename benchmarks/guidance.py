"""Named axes on sprites: what labels, anchors, interventions and attributions come to.

    python benchmarks/guidance.py --work <folder>

Every stage leaves its generator or its numbers in the folder, so a run that was stopped goes on. Seeds: 1 for
training images and labels, 2 for tuning (nothing of it is reported), 3 and 4 for what is reported, once: of
seed 3 are the 1,000 images of correlations, anchors and R2, of seed 4 the 200 of interventions and walks.
Drift is the mean over images of the largest change of another factor on the way, in shares of that factor's
range.

Both modes depend on the generator they begin with: measured is one without the linear path that starts at
the principal components, trained for longer, and beside it one with that path, which is the default. What the
best direction is worth that the labels of all training images give stands beside the post-hoc mode.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from torch import Tensor, nn
from torch.nn import functional

from explainer.axis_attribution import attribute_to_axes, walked_path
from explainer.classifier import Classifier
from explainer.errors import GeneratorError
from explainer.generators import VAE, Guidance, guide, load_generator, name_axes
from explainer.generators.training import TrainableGenerator
from explainer.metrics import r2, wilson_interval
from explainer.synthetic import PlantedImages, sprites
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import require_levels

SIZE = 32
AXES = ("scale", "x", "y", "shade")
LABELS = 100
ANCHORED = 200
STEPS, LONG, RATE = 3000, 14_000, 2e-3
NETWORK = {"widths": (12, 24, 32), "encoder_blocks": (0, 0, 1), "decoder_blocks": (0, 1, 1)}
GROUND = 0.05
CORNERS = {(0, 0): (-1.5, -1.5), (1, 0): (1.5, -1.5), (0, 1): (-1.5, 1.5), (1, 1): (1.5, 1.5)}


def known() -> PlantedImages:
    return sprites(6000, size=SIZE, seed=1)


def kinds(planted: PlantedImages) -> np.ndarray:
    """Four kinds of sprites, ``(N, 2)``: on the left or right, dark or bright."""
    return planted.attributes[["x", "shade"]].to_numpy().astype(int)


def label_guidance(planted: PlantedImages) -> Guidance:
    """100 labels of each factor, of other images for each."""
    guidance = Guidance()
    for number, name in enumerate(AXES):
        ids = np.random.default_rng(number).choice(len(planted), LABELS, replace=False)
        guidance = guidance.label(name, ids.tolist(), planted.factors[name].to_numpy()[ids].tolist())
    return guidance


def anchor_guidance(planted: PlantedImages) -> Guidance:
    rows = np.random.default_rng(9).choice(len(planted), ANCHORED, replace=False)
    places = [CORNERS[tuple(kind)] for kind in kinds(planted)[rows]]
    return Guidance().anchor(rows.tolist(), places)


def measured(images: Tensor) -> dict[str, Tensor]:
    """The factors of sprites, read off images ``(N, 1, H, W)`` with gradients."""
    light = (images - GROUND)[:, 0]
    mass = light.sum(dim=(1, 2)).clamp_min(1.0)  # of the smallest, darkest sprite 5: with less there is none
    places = (torch.arange(SIZE, device=images.device) + 0.5) / SIZE
    peaks = functional.avg_pool2d(images, 3, stride=1).flatten(1)
    shade = (torch.softmax(60 * peaks, dim=1) * peaks).sum(dim=1)  # the brightest place, smoothly
    return {
        "scale": (mass / (shade - GROUND).clamp_min(0.05)).clamp_min(1e-6).sqrt() / SIZE,
        "x": (light.sum(dim=1) * places).sum(dim=1) / mass,
        "y": (light.sum(dim=2) * places).sum(dim=1) / mass,
        "shade": shade,
    }


def ranges(planted: PlantedImages) -> dict[str, float]:
    """Of what is measured on images: from the 1 % to the 99 % quantile."""
    return {
        name: float(values.quantile(0.99) - values.quantile(0.01))
        for name, values in measured(planted.images).items()
    }


def correlations(generator: TrainableGenerator, planted: PlantedImages) -> dict[str, float]:
    assert generator.axes is not None
    a = generator.axes.coordinates(generator.encode(planted.images)).numpy()
    return {
        name: float(np.corrcoef(a[:, generator.axes.index(name)], planted.factors[name])[0, 1])
        for name in AXES
    }


def best_directions(
    generator: TrainableGenerator, known: PlantedImages, new: PlantedImages
) -> dict[str, float]:
    """Correlations on new images that the labels of all known ones come to, by linear regression."""
    codes, others = (generator.encode(each.images).double().numpy() for each in (known, new))
    found = {}
    for name in AXES:
        inputs = np.column_stack([codes, np.ones(len(codes))])
        weights = np.linalg.lstsq(inputs, known.factors[name].to_numpy(), rcond=None)[0]
        found[name] = float(np.corrcoef(others @ weights[:-1], new.factors[name])[0, 1])
    return found


def quality(generator: TrainableGenerator, planted: PlantedImages) -> float:
    images = generator.normalise(planted.images)
    return float(r2(generator.normalise(generator.bare(planted.images)), images).mean())


def share(good: int, count: int) -> dict[str, Any]:
    interval = wilson_interval(good, count)
    return {"rate": good / count, "low": interval.low, "high": interval.high, "n": count}


@torch.no_grad()
def interventions(generator: TrainableGenerator, planted: PlantedImages, steps: int = 7) -> dict[str, Any]:
    """Every axis moved from its low to its high end on bare reconstructions, what it does to all factors."""
    assert generator.axes is not None
    width = ranges(planted)
    codes = generator.encode(planted.images)
    own = measured(generator.decode(codes))
    monotone, drifts = {}, {}
    for name in AXES:
        low, _, high = generator.axes.axes[generator.axes.index(name)].span
        paths = [
            measured(generator.decode(generator.axes.moved(codes, name, place.expand(len(codes)))))
            for place in torch.linspace(low, high, steps)
        ]
        along = torch.stack([path[name] for path in paths])
        monotone[name] = int((along.diff(dim=0) > 0).all(dim=0).sum())
        for other in AXES:
            if other != name:
                moved = torch.stack([(path[other] - own[other]).abs() for path in paths]).amax(dim=0)
                drifts[f"{name} moves {other}"] = float(moved.mean()) / width[other]
    worst = max(drifts, key=lambda key: drifts[key])
    return {
        "monotone": share(sum(monotone.values()), len(codes) * len(AXES)),
        **{f"monotone, {name}": good / len(codes) for name, good in monotone.items()},
        "drift, mean of the pairs": float(np.mean(list(drifts.values()))),
        "drift, worst pair": drifts[worst],
        "worst pair": worst,
    }


class Reads(nn.Module):
    """A classifier built on one factor: log-odds that the image has more of it than most."""

    def __init__(self, name: str, middle: float, deviation: float) -> None:
        super().__init__()
        self.name, self.middle, self.deviation = name, middle, deviation

    def forward(self, images: Tensor) -> Tensor:
        return 3 * (measured(images)[self.name] - self.middle) / self.deviation


def attributions(generator: TrainableGenerator, planted: PlantedImages, count: int = 40) -> dict[str, Any]:
    """Walks of classifiers that read one factor each: does its axis get the largest share?"""
    assert generator.axes is not None
    levels = require_levels([0.1, 0.9])
    named, reached, errors, shares, good = 0, 0, [], {}, {}
    for name in AXES:
        values = measured(planted.images)[name]
        classifier = Classifier(Reads(name, float(values.median()), float(values.std())))
        images = planted.images[:count]
        classifier.check(images)
        with classifier.frozen():
            scene = Scene(generator, classifier, classifier.target(None, images), images)
            result = GradientWalk()(scene, levels)
            paths = [(row, walked_path(scene, row, result.latents[row], levels)) for row in range(count)]
            found = attribute_to_axes(scene, paths, generator.axes)
        reached += sum(not reason for reasons in result.reasons for reason in reasons)
        errors += [each.error for each in found]
        largest = [max(each.shares, key=lambda key: abs(each.shares[key])) == name for each in found]
        over = [abs(each.shares[name]) > abs(each.unnamed_share) for each in found]
        good[name] = sum(largest) / count
        named += sum(largest)
        shares[f"median share, {name}"] = float(np.median([each.shares[name] for each in found]))
        shares[f"larger than the unnamed part, {name}"] = sum(over) / count
    return {
        "axis of the factor has the largest share": share(named, count * len(AXES)),
        **{f"largest, {name}": value for name, value in good.items()},
        **shares,
        "largest error of the sum": float(np.max(errors)),
        "99 % quantile of the error": float(np.quantile(errors, 0.99)),
        "levels reached": share(reached, count * len(AXES) * len(levels)),
    }


def as_it_is(
    generator: TrainableGenerator, known: PlantedImages, test: PlantedImages, some: PlantedImages
) -> dict[str, Any]:
    """The post-hoc mode on a generator; what it says where it refuses."""
    best = best_directions(generator, known, test)
    found: dict[str, Any] = {"R2": quality(generator, test), "bound": lowest(best), "refused": ""}
    began = time.perf_counter()
    try:
        named = name_axes(generator, known.images, label_guidance(known))
    except GeneratorError as error:
        return {**found, "refused": str(error)}
    seconds = time.perf_counter() - began
    return {
        **found, "seconds": round(seconds, 1), "correlation": lowest(correlations(named, test)),
        "interventions": interventions(named, some),
    }  # fmt: skip


def anchored(generator: TrainableGenerator, planted: PlantedImages) -> dict[str, Any]:
    """Are codes nearest to the anchor of their own kind?"""
    corners = torch.tensor(list(CORNERS.values()))
    nearest = torch.cdist(generator.encode(planted.images), corners).argmin(dim=1).numpy()
    own = np.array([list(CORNERS).index(tuple(kind)) for kind in kinds(planted)])
    return {"nearest to their own anchor": share(int((nearest == own).sum()), len(own))}


def lowest(correlation: dict[str, float]) -> dict[str, float]:
    return {**correlation, "lowest": min(correlation.values())}


def kept(folder: Path, make: Callable[[Path], TrainableGenerator]) -> TrainableGenerator:
    """A generator of an earlier run, or a new one; its checkpoints lie beside it."""
    if not folder.exists():
        made = make(folder.with_name(folder.name + "-checkpoints"))
        made.save(folder)
    return load_generator(folder)


def timed(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Numbers of an earlier run, or new ones."""
    if not path.exists():
        numbers = measure()
        path.write_text(json.dumps(numbers), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--until", default="end", help="stop after this stage")
    parser.add_argument("--tune", action="store_true", help="measure on the seed of tuning, record nothing")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    planted = known()
    images = planted.images

    def trained(dimensions: int, steps: int, *, linear: bool = True) -> Callable[[Path], TrainableGenerator]:
        return lambda checkpoints: VAE((1, SIZE, SIZE), dimensions, seed=0, linear=linear, **NETWORK).fit(
            images, steps=steps, batch_size=32, seed=0, progress=False, resume_from=checkpoints
        )

    def taught(base: TrainableGenerator, said: Guidance) -> Callable[[Path], TrainableGenerator]:
        return lambda checkpoints: guide(
            base, images, said, steps=arguments.steps, learning_rate=RATE, progress=False,
            resume_from=checkpoints,
        )  # fmt: skip

    free = kept(work / "bent", trained(10, LONG, linear=False))
    guided = kept(work / "guided", taught(free, label_guidance(planted)))
    if arguments.until == "guided":
        return
    base = kept(work / "base", trained(10, STEPS))
    from_base = kept(work / "guided-linear", taught(base, label_guidance(planted)))
    flat = kept(work / "flat", trained(2, 1000))
    placed = kept(work / "placed", taught(flat, anchor_guidance(planted)))
    if arguments.until == "placed":
        return
    test = sprites(1000, size=SIZE, seed=2 if arguments.tune else 3)
    some = sprites(200, size=SIZE, seed=2 if arguments.tune else 4)
    tag = "tune" if arguments.tune else "test"

    def learnt(each: TrainableGenerator) -> Callable[[], dict[str, Any]]:
        return lambda: {
            "correlation": lowest(correlations(each, test)), "R2": quality(each, test),
            "interventions": interventions(each, some),
            "walks": attributions(each, some, 8 if arguments.tune else 40),
        }  # fmt: skip

    ours = timed(work / f"{tag}-guided.json", learnt(guided))
    linear = timed(work / f"{tag}-guided-linear.json", learnt(from_base))
    frozen = timed(work / f"{tag}-post-hoc.json", lambda: as_it_is(free, planted, test, some))
    other = timed(work / f"{tag}-post-hoc-linear.json", lambda: as_it_is(base, planted, test, some))
    regions = timed(work / f"{tag}-anchors.json", lambda: anchored(placed, test))
    real = {
        name: float(np.corrcoef(values.numpy(), test.factors[name])[0, 1])
        for name, values in measured(test.images).items()
    }
    result = {
        "correlation with the factor, fine-tuned": ours["correlation"],
        "correlation with the factor, post-hoc": frozen["correlation"],
        "best direction of all labels": frozen["bound"],
        "interventions, fine-tuned": ours["interventions"],
        "interventions, post-hoc": frozen["interventions"],
        "attribution by axis, fine-tuned": ours["walks"],
        "anchors": regions,
        "reconstruction": {
            "R2 before": frozen["R2"],
            "R2 after": ours["R2"],
            "loss": frozen["R2"] - ours["R2"],
            "2-D code, R2 before": (before := quality(flat, test)),
            "2-D code, R2 after": (after := quality(placed, test)),
            "2-D code, loss": before - after,
        },
        "with the linear path": {
            "correlation, fine-tuned": linear["correlation"],
            "best direction of all labels": other["bound"],
            "R2 before": other["R2"],
            "R2 after": linear["R2"],
            "loss": other["R2"] - linear["R2"],
        },
        "with the linear path, interventions, fine-tuned": linear["interventions"],
        "with the linear path, attribution by axis, fine-tuned": linear["walks"],
        "with the linear path, post-hoc is refused": other["refused"],
        "what the measures of the factors are worth: correlation on real images": real,
        "seconds of the post-hoc mode": frozen["seconds"],
        "steps of the fine-tuning": arguments.steps,
    }
    if arguments.tune:
        print(json.dumps(result, indent=1))
    else:
        record.write("guidance", result, "--work <folder>")


if __name__ == "__main__":
    main()
