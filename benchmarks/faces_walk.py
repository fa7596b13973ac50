"""The walk on faces: is it calibrated, is it believed by others, what does it cost, what does it betray?

    python benchmarks/faces_walk.py --data faces.zip

200 different people of the test split, one photograph each, drawn with a seed; the zoo's generator and
classifiers. Latent shift (Cohen et al. 2021; ``pip install --no-deps latentshift==0.0.6``) runs beside
ours on the same generator, classifier, images and carried detail, at its defaults and tuned on the
validation split. Its ``float(pred)`` fails on numpy 2 for one-element arrays: the name ``float`` of its
module is replaced by a cast of one-element arrays, nothing else of it is touched.
"""

import argparse
import importlib.util
import itertools
import statistics
import sys
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import record
import torch
from sklearn.decomposition import PCA
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "faces"))
from train import read_faces

from explainer import load_classifier, load_generator
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.metrics import mse, r2, ssim, wilson_interval
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import TOLERANCE, require_levels

LEVELS = require_levels([*np.linspace(0.05, 0.95, 10), 0.1, 0.9])
TEN_LEVELS = require_levels(np.linspace(0.05, 0.95, 10))


def one_photograph_each(data: Path, split: str, people: int, seed: int = 0) -> tuple[Tensor, pd.DataFrame]:
    """Photographs ``(people, 3, 64, 64)`` of different people, in random order, and their labels."""
    images, labels = read_faces(data, split)
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = labels.iloc[order].drop_duplicates("person").head(people)
    return images[torch.tensor(chosen.index.to_numpy())].float() / 255, chosen.reset_index(drop=True)


def scene_of(
    generator: Generator, classifier: Classifier, images: Tensor, strength: float = 1.0, *, check: bool = True
) -> Scene:
    if check:
        classifier.check(images[:4])
    return Scene(generator, classifier, classifier.target(None, images), images, strength=strength)


def share(hits: Tensor) -> dict[str, float | int]:
    """A rate with its Wilson interval."""
    interval = wilson_interval(int(hits.sum()), len(hits))
    return {"rate": interval.estimate, "low": interval.low, "high": interval.high, "n": len(hits)}


@torch.no_grad()
def levels_of(classifier: Classifier, frames: Tensor) -> Tensor:
    """Probabilities ``(N, L)`` of the positive class of frames ``(N, L, C, H, W)``."""
    target = classifier.target(None, frames[:1, 0])
    return torch.stack([classifier.level(image, target) for image in frames])


def deliver(scene: Scene, latents: Tensor) -> Tensor:
    rows = torch.arange(len(latents)).repeat_interleave(latents.shape[1])
    with torch.no_grad():
        parts = [
            scene.deliver(z, row)
            for z, row in zip(latents.flatten(0, 1).split(256), rows.split(256), strict=True)
        ]
    return torch.cat(parts).unflatten(0, latents.shape[:2])


def calibration(generator: Generator, images: Tensor) -> dict[str, Any]:
    """Are levels reached, frames monotone, and does a network trained apart agree?"""
    smile, second = load_classifier("faces/smile"), load_classifier("faces/smile-second")
    scene = scene_of(generator, smile, images)
    result = GradientWalk()(scene, LEVELS)
    frames = deliver(scene, result.latents)
    achieved = levels_of(smile, frames).double()
    error = (achieved - LEVELS).abs()
    at = {round(level, 2): position for position, level in enumerate(LEVELS.tolist())}
    reached = error <= TOLERANCE
    rounded = levels_of(smile, (frames * 255).round() / 255).double()
    own = torch.sigmoid(scene.score0).double()
    other = levels_of(second, frames)
    cosine = torch.cosine_similarity(scene.z[:, None], result.latents, dim=2).amin(dim=1)
    far = torch.where(own < 0.5, at[0.95], at[0.05])
    ends = frames[torch.arange(len(images)), far]
    return {
        "levels .1 and .9 both reached": share(reached[:, [at[0.1], at[0.9]]].all(dim=1)),
        "frames with error <= .02": share(reached.flatten()),
        "frames with error <= .02 after rounding to 8 bits": share(
            ((rounded - LEVELS).abs() <= TOLERANCE).flatten()
        ),
        "largest frame error": float(error.max()),
        "images with monotone frames": share((achieved.diff(dim=1) >= -1e-6).all(dim=1)),
        "second classifier on the requested side at .05": share(other[:, at[0.05]] < 0.5),
        "second classifier on the requested side at .95": share(other[:, at[0.95]] > 0.5),
        "second classifier on the requested side at both ends": share(
            (other[:, at[0.05]] < 0.5) & (other[:, at[0.95]] > 0.5)
        ),
        "second classifier agrees on the originals": share(
            (levels_of(second, images[:, None])[:, 0] > 0.5) == (own > 0.5)
        ),
        "lowest latent cosine of a walk, median": float(cosine.median()),
        "L1 to the original at the far end, median": float(
            (ends - images).abs().mean(dim=(1, 2, 3)).median()
        ),
        "gradients per image": result.gradients,
        "evaluations per image": result.evaluations,
    }


@torch.no_grad()
def reconstruction(generator: Generator, images: Tensor) -> dict[str, Any]:
    """Both stages without carried detail, beside a bound from below: the mean image."""
    smile = load_classifier("faces/smile")
    truth, bare = generator.normalise(images), generator.bare(images)
    first = generator.stage_reconstructions(images)["stage 1"].clamp(0, 1)
    target = smile.target(None, images)
    mean = truth.mean(dim=0, keepdim=True).expand_as(truth)
    return {
        "stage 1 SSIM": float(ssim(first, truth.clamp(0, 1)).mean()),
        "stage 1 MSE": float(mse(first, truth).mean()),
        "bare SSIM": float(ssim(generator.normalise(bare).clamp(0, 1), truth.clamp(0, 1)).mean()),
        "bare MSE": float(mse(generator.normalise(bare), truth).mean()),
        "mean image SSIM": float(ssim(mean.clamp(0, 1), truth.clamp(0, 1)).mean()),
        "mean image MSE": float(mse(mean, truth).mean()),
        "smile changes class on bare": share(
            (smile.level(images, target) > 0.5) != (smile.level(bare, target) > 0.5)
        ),
    }


def principal_components(data: Path, generator: Generator, images: Tensor) -> dict[str, Any]:
    """The linear peer of the compact code: as many principal components of the training images."""
    training = read_faces(data, "train")[0].flatten(1).numpy() / np.float32(255)
    pca = PCA(generator.latent_dim, svd_solver="randomized", random_state=0).fit(training)
    flat = images.flatten(1).numpy()
    rebuilt = torch.from_numpy(pca.inverse_transform(pca.transform(flat))).view_as(images).float()
    with torch.no_grad():
        bare = generator.bare(images)
    return {
        "components": generator.latent_dim,
        "R2 per channel, PCA": r2(rebuilt, images).tolist(),
        "R2 per channel, bare": r2(bare, images).tolist(),
        "MSE, PCA": float(mse(rebuilt, images).mean()),
        "MSE, bare": float(mse(bare, images).mean()),
    }


def cost(generator: Generator, images: Tensor) -> dict[str, Any]:
    """Seconds of one walk over seconds of ten forward passes of decoder and classifier, image by image.

    A walk is everything from the image to the scored frames: encoding, detail, steps, delivery.
    """
    smile = load_classifier("faces/smile")
    smile.check(images[:4])
    ratios, seconds = [], []
    with smile.frozen():
        for image in images[:25]:
            started = time.perf_counter()
            scene = scene_of(generator, smile, image[None], check=False)
            levels_of(smile, deliver(scene, GradientWalk()(scene, TEN_LEVELS).latents))
            walked = time.perf_counter()
            for _ in range(10):
                scene.score(scene.z, torch.zeros(1, dtype=torch.long))
            passed = time.perf_counter()
            seconds.append(walked - started)
            ratios.append((walked - started) / (passed - walked))
        started = time.perf_counter()
        scene = scene_of(generator, smile, images, check=False)
        levels_of(smile, deliver(scene, GradientWalk()(scene, TEN_LEVELS).latents))
        walked = time.perf_counter()
        for _ in range(10):
            scene.score(scene.z, torch.arange(len(images)))
        batch = (walked - started) / (time.perf_counter() - walked)
    quartiles = statistics.quantiles(ratios[1:], n=4)
    return {
        "one image, ten levels, in units of ten forward passes": {
            "median": quartiles[1],
            "quartiles": quartiles,
        },
        f"{len(images)} images at once, in the same units": batch,
        "seconds of one image alone, median": statistics.median(seconds[1:]),
        "seconds per image in the batch": (walked - started) / len(images),
    }


@torch.no_grad()
def confounding(generator: Generator, images: Tensor) -> dict[str, Any]:
    """Does the gender oracle change between the bare start and the bare end of the walk to the other side?"""
    oracle = load_classifier("faces/gender")
    table: dict[str, Any] = {}
    flips = {}
    for name in ("smile", "smile-confounded"):
        scene = scene_of(generator, load_classifier(f"faces/{name}"), images)
        latents = GradientWalk()(scene, require_levels([0.05, 0.95])).latents
        upwards = scene.score0 < 0
        end = torch.where(upwards[:, None], latents[:, 1], latents[:, 0])
        ends = generator.decode(end)
        before = levels_of(oracle, generator.decode(scene.z)[:, None])[:, 0] > 0.5
        after = levels_of(oracle, ends[:, None])[:, 0] > 0.5
        flips[name] = before != after
        table[name] = {
            "gender changes": share(flips[name]),
            "male to female, towards the smile": share((~before & after)[upwards]),
            "female to male, away from the smile": share((before & ~after)[~upwards]),
        }
    only = [int((flips[a] & ~flips[b]).sum()) for a, b in itertools.permutations(flips)]
    table["changes under smile only, under smile-confounded only"] = only
    plain = levels_of(oracle, images[:, None])[:, 0] > 0.5
    table["floor: gender changes by reconstruction alone"] = share(
        plain != (levels_of(oracle, generator.bare(images)[:, None])[:, 0] > 0.5)
    )
    return table


class _Autoencoder:
    """What latent shift asks for, of one image, with the detail that our walk carries."""

    def __init__(self, generator: Generator, image: Tensor) -> None:
        self.generator = generator
        self.code = generator.encode(image)
        self.detail = generator.detail(image, self.code)

    def encode(self, _: Tensor) -> Tensor:
        return self.code

    def decode(self, z: Tensor) -> Tensor:
        return self.generator.decode(z, self.detail)


def latent_shift(generator: Generator, images: Tensor, **options: float) -> dict[str, Any]:
    """Flips, share past .1 / .9 and seconds per image; always walks the predicted class down."""
    module = _latent_shift_module()
    smile = load_classifier("faces/smile")
    target = smile.target(None, images)
    moved, start, seconds = [], [], []
    with smile.frozen():
        for image in images:

            def forward(x: Tensor) -> Tensor:
                score = smile.score(x, target)
                return torch.stack([-score, score], dim=1)

            level = float(smile.level(image[None], target)[0])
            began = time.perf_counter()
            search = module.LatentShift(forward, _Autoencoder(generator, image[None]))
            (found,) = search.attribute(
                image[None], target=int(level > 0.5), verbose=False, return_dicts=True, **options
            )
            seconds.append(time.perf_counter() - began)
            start.append(level if level > 0.5 else 1 - level)
            moved.append(min(found["preds"]))
    final = torch.tensor(moved)
    return {
        "class flipped": share(final < 0.5),
        "past .1 / .9": share(final <= 0.1 + TOLERANCE),
        "level at the end, median": float(final.median()),
        "seconds per image": statistics.mean(seconds),
    }


def _latent_shift_module() -> Any:
    """The one file of the package that is needed; importing all of it would import its downloaders."""
    path = distribution("latentshift").locate_file("latentshift/cf/latent_shift.py")
    spec = importlib.util.spec_from_file_location("latent_shift", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.float = lambda value: np.asarray(value).item()  # numpy 2: float() of a one-element array fails
    return module


def tuned(generator: Generator, images: Tensor) -> dict[str, float]:
    """The options under which latent shift gets furthest on validation images, then fastest."""
    best: tuple[tuple[float, float], dict[str, float]] | None = None
    for step, pixels in itertools.product((3.0, 10.0, 30.0), (0.2, 1.0)):
        options = {
            "search_step_size": step, "search_max_pixel_diff_pct": pixels, "search_pred_diff": 0.95,
            "search_max_steps": 30000,
        }  # fmt: skip
        got = latent_shift(generator, images, **options)
        key = (got["past .1 / .9"]["rate"], -got["seconds per image"])
        if best is None or key > best[0]:
            best = key, options
    assert best is not None
    return best[1]


def ours_at_once(generator: Generator, images: Tensor) -> dict[str, Any]:
    """All images in one batch, to ten levels on both sides of each."""
    smile = load_classifier("faces/smile")
    smile.check(images[:4])
    with smile.frozen():
        began = time.perf_counter()
        scene = scene_of(generator, smile, images, check=False)
        result = GradientWalk()(scene, TEN_LEVELS)
        levels = levels_of(smile, deliver(scene, result.latents))
        seconds = (time.perf_counter() - began) / len(images)
    moved = torch.where(scene.score0 > 0, levels.amin(dim=1), 1 - levels.amax(dim=1))
    return {
        "class flipped": share(moved < 0.5),
        "past .1 / .9": share(moved <= 0.1 + TOLERANCE),
        "level at the end, median": float(moved.median()),
        "seconds per image": seconds,
    }


def ours_on_the_same_task(generator: Generator, images: Tensor) -> dict[str, Any]:
    """One image at a time, from its own class past the other side with ten frames, like latent shift."""
    smile = load_classifier("faces/smile")
    smile.check(images[:4])
    final, seconds = [], []
    with smile.frozen():
        for image in images:
            began = time.perf_counter()
            scene = scene_of(generator, smile, image[None], check=False)
            own = float(torch.sigmoid(scene.score0)[0])
            levels = np.linspace(0.05, 0.45, 10) if own > 0.5 else np.linspace(0.55, 0.95, 10)
            result = GradientWalk()(scene, require_levels(levels))
            end = levels_of(smile, deliver(scene, result.latents))[0]
            seconds.append(time.perf_counter() - began)
            final.append(float(end.min() if own > 0.5 else 1 - end.max()))
    moved = torch.tensor(final)
    return {
        "class flipped": share(moved < 0.5),
        "past .1 / .9": share(moved <= 0.1 + TOLERANCE),
        "level at the end, median": float(moved.median()),
        "seconds per image": statistics.mean(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the zip of faces")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument(
        "--split", default="test", choices=["val", "test"], help="val while tuning, test once"
    )
    options = parser.parse_args()
    generator = load_generator("faces")
    images, _ = one_photograph_each(options.data, options.split, options.people)
    validation, _ = one_photograph_each(options.data, "val", 30)
    result: dict[str, Any] = {"split": options.split, "people": len(images), "seed": 0}
    result["pca"] = principal_components(options.data, generator, images)
    print(result["pca"], flush=True)
    for name, measure in (
        ("calibration", calibration), ("reconstruction", reconstruction), ("cost", cost),
        ("confounding", confounding),
    ):  # fmt: skip
        result[name] = measure(generator, images)
        print(name, result[name], flush=True)
    chosen = tuned(generator, validation)
    result["latent shift"] = {
        "ours": ours_on_the_same_task(generator, images),
        "ours, all at once, both sides": ours_at_once(generator, images),
        "latent shift, defaults": latent_shift(generator, images),
        "latent shift, tuned on val": latent_shift(generator, images, **chosen) | {"options": chosen},
    }
    print(result["latent shift"], flush=True)
    if options.split == "test":
        print(record.write("faces_walk", result))


if __name__ == "__main__":
    main()
