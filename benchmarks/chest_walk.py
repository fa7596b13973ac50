"""Chest X-rays: are levels of pneumonia reached, does a network trained apart agree, what is drawn?

    python benchmarks/chest_walk.py --data chest.zip

One X-ray of each patient of the test split; the zoo's generator and classifiers. Nothing is known here of
what the walk must change; that another network, of another architecture and seed, ends on the requested
side is the only independent judge. Reconstructions stand beside the mean image, a blur of one pixel and as
many principal components as the code has dimensions.
"""

import argparse
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor
from zoo_walk import levels_of, reconstruction, script, share, walked

from explainer import load_classifier, load_generator
from explainer.generators.base import Generator
from explainer.walks.base import TOLERANCE, require_levels

LEVELS = require_levels([0.05, 0.1, 0.5, 0.9, 0.95])


def walk(generator: Generator, images: Tensor, strength: float) -> dict[str, Any]:
    """Levels, agreement and size of change of the walks of some images."""
    first, second = load_classifier("chest/pneumonia"), load_classifier("chest/pneumonia-second")
    frames, achieved = walked(generator, first, images, LEVELS, strength)
    error = (achieved.double() - LEVELS).abs()
    rounded = levels_of(first, (frames * 255).round() / 255).double()
    own, other = levels_of(first, images[:, None])[:, 0], levels_of(second, frames)
    at = {round(level, 2): position for position, level in enumerate(LEVELS.tolist())}
    far = torch.where(own < 0.5, at[0.95], at[0.05])
    ends, judged = frames[torch.arange(len(images)), far], other[torch.arange(len(images)), far]
    return {
        "levels .1 and .9 both reached": share((error <= TOLERANCE)[:, [at[0.1], at[0.9]]].all(dim=1)),
        "frames with error <= .02": share((error <= TOLERANCE).flatten()),
        "frames with error <= .02 after rounding to 8 bits": share(
            ((rounded - LEVELS).abs() <= TOLERANCE).flatten()
        ),
        "images with monotone frames": share((achieved.diff(dim=1) >= -1e-6).all(dim=1)),
        **{
            f"second classifier on the requested side at .{round(100 * level):02d}": share(
                (other[:, at[level]] > 0.5) == (level > 0.5)
            )
            for level in (0.05, 0.1, 0.9, 0.95)
        },
        "second classifier on the requested side at the far end, of those walked to pneumonia": share(
            judged[own < 0.5] > 0.5
        ),
        "... of those walked to normal": share(judged[own >= 0.5] < 0.5),
        "second classifier agrees on the originals": share(
            (levels_of(second, images[:, None])[:, 0] > 0.5) == (own > 0.5)
        ),
        "L1 to the original at the far end, median": float(
            (ends - images).abs().mean(dim=(1, 2, 3)).median()
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the zip of X-rays")
    parser.add_argument(
        "--split", default="test", choices=["val", "test"], help="val while tuning, test once"
    )
    options = parser.parse_args()
    train, generator = script("chest"), load_generator("chest")
    training, _ = train.read_chest(options.data, "train")
    everything, rows = train.read_chest(options.data, options.split)
    order = rows.sample(frac=1, random_state=0).drop_duplicates("patient").index
    images = everything[torch.tensor(order.to_numpy())]
    result: dict[str, Any] = {
        "split": options.split,
        "patients": len(images),
        "with pneumonia": int(train.ill(rows.loc[order]).sum()),
        "X-rays reconstructed": len(everything),
        "walk": {
            "with carried detail": walk(generator, images, 1.0),
            "bare": walk(generator, images, 0.0),
        },
        "reconstruction": reconstruction(generator, training, everything, ["grey"]),
    }
    print({name: result[name] for name in ("walk", "reconstruction")}, flush=True)
    if options.split == "test":
        print(record.write("chest_walk", result))


if __name__ == "__main__":
    main()
