"""Cells, where the truth is known: more DNA is more PI. Does the walk raise what it must, and only then?

    python benchmarks/cells_walk.py --data cells.npz --labels cells.csv

All G1 and G2 cells of the test split; the zoo's generator and classifier. The summed PI signal, as shipped
(16-bit values, background included), separates G1 (about 203k) from G2 (about 328k): the walk from G1 to G2
must carry it across the middle, and back. Classifiers trained on permuted labels are walked to the same
level: on them PI must rise about as often as it falls.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import record
import torch
from scipy.stats import binomtest
from scipy.stats import t as student_t
from torch import Tensor
from zoo_walk import reconstruction, share, walked

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "cells"))
from train import CHANNELS, SIZE, fit_phases, phases, read_cells

from explainer import load_classifier, load_generator
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import TOLERANCE, require_levels

LEVELS = require_levels([0.05, 0.1, 0.5, 0.9, 0.95])
FULL = 65535
PI = CHANNELS.index("PI (DNA)")
MIDDLE = 257_000
PERMUTATIONS = 16
PERMUTED_CELLS = 9  # every ninth: what is drawn are permutations, their cells agree with one another
PERMUTED_STEPS = 200


def summed_pi(images: Tensor) -> Tensor:
    """The summed PI signal of images ``(..., C, H, W)``, in units of the instrument."""
    return images[..., PI, :, :].double().sum(dim=(-2, -1)) * FULL


def known_truth(generator: Generator, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Are levels reached, and does PI go where the phase asks for it?"""
    classifier = load_classifier("cells/g1-g2")
    at = {round(level, 2): position for position, level in enumerate(LEVELS.tolist())}
    before = summed_pi(images)
    low, high = (labels == 0) & (before < MIDDLE), (labels == 1) & (before > MIDDLE)
    table: dict[str, Any] = {}
    for name, strength in (("with carried detail", 1.0), ("bare", 0.0)):
        frames, achieved = walked(generator, classifier, images, LEVELS, strength)
        error = (achieved.double() - LEVELS).abs()
        stored = (frames * FULL).round() / FULL
        target = classifier.target(None, images)
        again = classifier.level(stored.flatten(0, 1), target).unflatten(0, error.shape).double()
        after = summed_pi(frames)
        up, down = after[:, at[0.95]], after[:, at[0.05]]
        background = frames[:, at[0.95]] - images
        table[name] = {
            "levels .1 and .9 both reached": share(
                (error <= TOLERANCE)[:, [at[0.1], at[0.9]]].all(dim=1)
            ),
            "frames with error <= .02": share((error <= TOLERANCE).flatten()),
            "frames with error <= .02 after rounding to 16 bits": share(
                ((again - LEVELS).abs() <= TOLERANCE).flatten()
            ),
            "G1 to .95: PI crosses the middle": share(up[low] > MIDDLE),
            "G2 to .05: PI crosses the middle": share(down[high] < MIDDLE),
            "G1 to .95: PI rises": share(up[low] > before[low]),
            "G2 to .05: PI falls": share(down[high] < before[high]),
            "PI of G1 in thousands: original, walked to .95 (medians)": [
                float(before[low].median()) / 1e3, float(up[low].median()) / 1e3,
            ],
            "PI of G2 in thousands: original, walked to .05 (medians)": [
                float(before[high].median()) / 1e3, float(down[high].median()) / 1e3,
            ],
            "change of G1 at .95 by channel, in the generator's units (RMS)": (
                (background[low] / (generator.intensity[1] - generator.intensity[0]).view(1, -1, 1, 1))
                .square().mean(dim=(0, 2, 3)).sqrt().tolist()
            ),
        }  # fmt: skip
    return table


@torch.no_grad()
def walked_ends(generator: Generator, classifier: Classifier, images: Tensor) -> tuple[Scene, Tensor, Tensor]:
    """Walks to .05 and .95: their scene, their moves ``(N, 2, D)`` and whether they arrived ``(N, 2)``."""
    classifier.check(images[:4])
    levels = require_levels([0.05, 0.95])
    with classifier.frozen():
        scene = Scene(generator, classifier, classifier.target(None, images), images)
        latents = GradientWalk()(scene, levels).latents
        rows = torch.arange(len(images))
        scores = torch.stack([scene.score(latents[:, end], rows) for end in range(2)], dim=1)
    arrived = (torch.sigmoid(scores).double() - levels).abs() <= TOLERANCE
    return scene, latents - scene.z[:, None], arrived


@torch.no_grad()
def pi_after(scene: Scene, moves: Tensor) -> Tensor:
    """The summed PI signal ``(N,)`` of the delivered images after moves ``(N, D)`` of the codes."""
    return summed_pi(scene.deliver(scene.z + moves, torch.arange(len(moves))))


def cut(moves: Tensor, length: float) -> Tensor:
    """Moves ``(..., D)`` that are longer than ``length`` shortened to it."""
    return moves * (length / moves.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1)


def permuted(
    generator: Generator, training: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], images: Tensor
) -> dict[str, Any]:
    """Classifiers of permuted labels: in how many walks does PI rise?

    The temperature that calibrates them (their labels hold nothing, so it is as large as it may be) is taken
    back: with it no level but the middle exists. One classifier leans one way in nearly all cells, so the
    interval is over permutations (t), and a sign test asks whether they lean one way more often than the
    other. Exchanging the two classes of permuted labels gives labels that are permuted just as well, and a
    classifier whose walk to .95 is this one's walk to .05: half of both is the rate without the lean.
    A flat classifier is walked much further than the true one, so the same directions are also measured at
    the length of the true walks, and beside them random directions.
    """
    before = summed_pi(images)
    _, moves, _ = walked_ends(generator, load_classifier("cells/g1-g2"), images)
    usual = float(moves.norm(dim=2).amax(dim=1).median())
    table: dict[str, Any] = {"length of the walks of the true classifier, median": usual}
    pooled: dict[str, list[Tensor]] = {}
    lengths = []
    for seed in range(PERMUTATIONS):
        order = torch.randperm(len(training[1]), generator=torch.Generator().manual_seed(seed))
        network, report, mean, std = fit_phases(
            (training[0], training[1][order]), validation, steps=PERMUTED_STEPS, seed=seed
        )
        with torch.no_grad():
            network.head.weight.mul_(report["temperature"])
            network.head.bias.mul_(report["temperature"])
        network.requires_grad_(False)
        flat = Classifier(network, size=SIZE, mean=mean, std=std)
        scene, moves, arrived = walked_ends(generator, flat, images)
        down, up = (pi_after(scene, moves[:, end]) for end in range(2))
        short_down, short_up = (pi_after(scene, cut(moves[:, end], usual)) for end in range(2))
        noise = torch.randn(moves[:, 0].shape, generator=torch.Generator().manual_seed(seed))
        far = float(moves.norm(dim=2).median())
        directions = noise / noise.norm(dim=1, keepdim=True)
        lengths.append(far)
        hits = {
            "PI rises towards .95": up > before,
            "PI rises towards .05": down > before,
            "PI is higher at .95 than at .05": up > down,
            "at the length of the true walks: PI rises towards .95": short_up > before,
            "at the length of the true walks: PI rises towards .05": short_down > before,
            "random directions of the length of these walks: PI rises": pi_after(scene, far * directions)
            > before,
            "random directions of the length of the true walks: PI rises": pi_after(scene, usual * directions)
            > before,
            "levels reached": arrived.flatten(),
        }
        hits["PI rises, classes in either order"] = torch.stack([up > before, down > before]).flatten()
        for name, values in hits.items():
            pooled.setdefault(name, []).append(values)
        print(seed, {name: float(values.double().mean()) for name, values in hits.items()}, far, flush=True)
    table["permutations"], table["cells each"] = PERMUTATIONS, len(images)
    table["length of the walks of permuted labels, medians"] = lengths
    for name, parts in pooled.items():
        each = torch.stack([part.double().mean() for part in parts])
        half = student_t.ppf(0.975, len(each) - 1) * float(each.std()) / len(each) ** 0.5
        table[f"{name}, mean"] = float(each.mean())
        table[f"{name}, interval over permutations"] = [float(each.mean()) - half, float(each.mean()) + half]
        table[f"{name}, each permutation"] = each.tolist()
    leaning = torch.tensor(table["PI is higher at .95 than at .05, each permutation"])
    up = int((leaning > 0.5).sum())
    table["permutations with PI higher at .95 in most cells"] = up
    table["... p of a sign test"] = float(binomtest(up, int((leaning != 0.5).sum())).pvalue)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="cells.npz")
    parser.add_argument("--labels", type=Path, required=True, help="cells.csv")
    parser.add_argument(
        "--split", default="test", choices=["val", "test"], help="val while tuning, test once"
    )
    parser.add_argument(
        "--only-permuted",
        action="store_true",
        help="measure only permuted labels again, keep the rest",
    )
    options = parser.parse_args()
    generator = load_generator("cells")
    training, training_rows = read_cells(options.data, options.labels, "train")
    everything, rows = read_cells(options.data, options.labels, options.split)
    images, labels = phases(everything, rows)
    validation = phases(*read_cells(options.data, options.labels, "val"))
    result: dict[str, Any] = {
        "split": options.split, "cells in G1": int((labels == 0).sum()), "cells in G2": int(labels.sum()),
        "cells reconstructed": len(everything), "the middle of the summed PI": MIDDLE,
        "highest summed PI of a G1 cell": round(float(summed_pi(images[labels == 0]).max())),
        "lowest of a G2 cell": round(float(summed_pi(images[labels == 1]).min())),
    }  # fmt: skip
    if options.only_permuted:
        kept = json.loads((record.RESULTS / "cells_walk.json").read_text(encoding="utf-8"))
        result |= {name: kept[name] for name in ("walk", "reconstruction")}
    else:
        result["walk"] = known_truth(generator, images, labels)
        print(result["walk"], flush=True)
        result["reconstruction"] = reconstruction(generator, training, everything, CHANNELS)
        print(result["reconstruction"], flush=True)
    given = images[::PERMUTED_CELLS]
    result["permuted labels"] = permuted(generator, phases(training, training_rows), validation, given)
    print(result["permuted labels"], flush=True)
    if options.split == "test":
        print(record.write("cells_walk", result, arguments="--data <npz> --labels <csv>"))


if __name__ == "__main__":
    main()
