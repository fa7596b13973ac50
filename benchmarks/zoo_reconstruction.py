r"""What the zoo's generators reconstruct of test images, beside what needs no generator.

    python benchmarks/zoo_reconstruction.py --faces faces.zip --chest chest.zip \
        --cells cells.npz --labels cells.csv

Stage 1 (how faithful a frame can be) and ``bare`` (what the compact code says), per channel in the
generator's normalised units, on all images of the test split. Beside them: as many principal components of
the training images as the code has dimensions, the mean training image, and a Gaussian blur of one pixel
(sigma), which keeps everything but the finest detail.
"""

import argparse
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor
from zoo_walk import reconstruction, script

from explainer import load_generator

CHANNELS = {"faces": ("red", "green", "blue"), "chest": ("grey",)}


def images_of(name: str, options: argparse.Namespace, split: str) -> Tensor:
    """The images ``(N, C, H, W)`` in [0, 1] of a split."""
    train = script(name)
    if name == "cells":
        images: Tensor = train.read_cells(options.cells, options.labels, split)[0]
        return images
    if name == "faces":
        return train.read_faces(options.faces, split)[0].float() / 255
    images = train.read_chest(options.chest, split)[0]
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("faces", "chest", "cells"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True, help="cells.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"split": "test"}
    for name in ("cells", "chest", "faces"):
        generator = load_generator(name)
        training, test = (images_of(name, options, split) for split in ("train", "test"))
        channels = generator.channel_names or CHANNELS[name]
        table: dict[str, Any] = reconstruction(generator, training, test, channels)
        linear = table[f"PCA with {generator.latent_dim} components"]
        gains = [table["bare"][f"R2 {channel}"] - linear[f"R2 {channel}"] for channel in channels]
        result[name] = table
        result[f"{name}: least of all channels"] = {
            "images": len(test),
            "SSIM of stage 1": min(table["stage 1"][f"SSIM {channel}"] for channel in channels),
            "R2 of bare - that of the principal components": min(gains),
        }
        print(name, result[name], result[f"{name}: least of all channels"], flush=True)
    arguments = "--faces <zip> --chest <zip> --cells <npz> --labels <csv>"
    print(record.write("zoo_reconstruction", result, arguments))


if __name__ == "__main__":
    main()
