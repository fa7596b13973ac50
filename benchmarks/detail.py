"""What carried detail does to frames; the widths of its gates are chosen here, on validation images.

    python benchmarks/detail.py --zoo faces --data faces.zip
    python benchmarks/detail.py --zoo chest --data chest.zip
    python benchmarks/detail.py --zoo cells --data cells.npz --labels cells.csv

Images are walked across to level .05 or .95 with: nothing carried; the pixel residual, as it is and gated;
the stage-1 latents; latents and gated pixels. Measured is whether

- the frame's level is reached (validity);
- the second classifier puts it on the requested side too (of the cells one is trained here: another
  architecture and seed), and with which score;
- it is as sharp as the original: the power of a channel above a quarter of the sampling rate over that of the
  original, and the mean over channels of the absolute logarithm of that (0 is best);
- what should have vanished is still there: among the tenth of the pixels where the bare frame changes most,
  how much of the original's own detail (image - bare) is left in the frame, as a regression coefficient, 1
  being all of it;
- how far it is from the original (L1).

The rule by which a variant takes the place of the default widths (pixels .05, latents 1): its validity, its
agreement with the second classifier and, of cells, the side of the summed PI are no worse; of those the
sharpest. A first rule, that at most half of the old detail be left where the frame changes most, was laid
down before that was measured and dropped after: no variant with latents met it (where a frame changes little,
detail rightly stays), and what did, the pixel residual gated at .05, is among the least sharp.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from PIL import Image
from torch import Tensor
from zoo_walk import levels_of, script, share

from explainer import load_classifier, load_generator
from explainer.classifier import Classifier
from explainer.generators import TwoStageVAE
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import TOLERANCE, require_levels

NEVER = 1e6
LEVELS = require_levels([0.05, 0.95])
MIDDLE_OF_PI = 257_000
Variant = dict[str, Any]
VARIANTS: dict[str, Variant] = {
    "none (bare frames)": {"strength": 0.0},
    "pixel residual": {"latents": False},
    "pixel residual, gated at .05": {"latents": False, "tau": 0.05},
    "stage-1 latents": {"pixels": False},
    "stage-1 latents, gated at 1": {"pixels": False, "latent_tau": 1.0},
    "latents and pixels": {},
    "latents, pixels gated at .05": {"tau": 0.05},
    "latents gated at .5, pixels at .03": {"latent_tau": 0.5, "tau": 0.03},
    "latents gated at .5, pixels at .05": {"latent_tau": 0.5, "tau": 0.05},
    "latents gated at 1, pixels at .03": {"latent_tau": 1.0, "tau": 0.03},
    "latents gated at 1, pixels at .05": {"latent_tau": 1.0, "tau": 0.05},
    "latents gated at 1, pixels at .1": {"latent_tau": 1.0, "tau": 0.1},
    "latents gated at 1, pixels at .2": {"latent_tau": 1.0, "tau": 0.2},
    "latents gated at 2, pixels at .05": {"latent_tau": 2.0, "tau": 0.05},
    "latents gated at 2, pixels at .1": {"latent_tau": 2.0, "tau": 0.1},
    "latents gated at 2, pixels at .2": {"latent_tau": 2.0, "tau": 0.2},
    "latents gated at 4, pixels at .1": {"latent_tau": 4.0, "tau": 0.1},
    "latents gated at 4, pixels at .2": {"latent_tau": 4.0, "tau": 0.2},
}
DEFAULT = "latents gated at 1, pixels at .05"
REACHED, AGREES, PI_SIDE, LEFT, BLUR = (
    "level reached",
    "second classifier on the requested side",
    "summed PI on the requested side",
    "old detail left where the frame changes most, median",
    "distance from the original's sharpness",
)
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


@torch.no_grad()
def scene_of(
    generator: TwoStageVAE,
    classifier: Classifier,
    images: Tensor,
    *,
    strength: float = 1.0,
    latents: bool = True,
    pixels: bool = True,
    tau: float = NEVER,
    latent_tau: float = NEVER,
) -> Scene:
    """A scene whose detail lacks what is not carried; gates that are not named are open."""
    generator.tau, generator.latent_tau = tau, latent_tau
    scene = Scene(generator, classifier, classifier.target(None, images), images, strength=strength)
    values = dict(scene.detail.values)
    if not latents:
        values |= {"base": values["stage2"], "reconstruction": generator._render(values["stage2"])}
    if not pixels:
        values["image"] = values["reconstruction"]
    scene.detail = replace(scene.detail, values=values)
    scene.score0 = scene.score(scene.z, torch.arange(len(images)))
    return scene


def fine_power(images: Tensor) -> Tensor:
    """Power ``(N, C)`` of frequencies above a quarter of the sampling rate."""
    spectrum = torch.fft.fft2(images).abs().square()
    rows, columns = (torch.fft.fftfreq(size).abs() for size in images.shape[-2:])
    return spectrum[..., torch.maximum(rows[:, None], columns[None]) > 0.25].sum(dim=-1)


@torch.no_grad()
def ends_of(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Every image on the other side: frames, bare frames ``(N, C, H, W)``, levels asked for."""
    latents = GradientWalk()(scene, LEVELS).latents
    far = (scene.score0 < 0).long()
    rows = torch.arange(len(latents))
    ends = latents[rows, far]
    return scene.deliver(ends, rows), scene.generator.decode(ends), LEVELS[far]


@torch.no_grad()
def left_over(generator: TwoStageVAE, images: Tensor, ends: Tensor, bare_ends: Tensor) -> Tensor:
    """How much of the original's detail ``(N,)`` is left in the tenth of the pixels that change most."""
    bare = generator.bare(images)
    images, ends, bare_ends, bare = (generator.normalise(each) for each in (images, ends, bare_ends, bare))
    change = (bare_ends - bare).abs().mean(dim=1, keepdim=True)
    moved = change >= change.flatten(1).quantile(0.9, dim=1).view(-1, 1, 1, 1)
    own = (images - bare) * moved
    return ((ends - bare_ends) * own).sum(dim=(1, 2, 3)) / own.square().sum(dim=(1, 2, 3))


def measure(
    generator: TwoStageVAE, first: Classifier, second: Classifier, images: Tensor, variant: Variant
) -> tuple[dict[str, Any], Tensor]:
    """One variant: its row of the table, and its frames."""
    with first.frozen():
        scene = scene_of(generator, first, images, **variant)
        ends, bare_ends, wanted = ends_of(scene)
    achieved, other = (levels_of(network, ends[:, None])[:, 0].double() for network in (first, second))
    units = generator.normalise(ends) - generator.normalise(images)
    power = (fine_power(ends) / fine_power(images)).median(dim=0).values
    names = generator.channel_names or CHANNELS[len(power)]
    row: dict[str, Any] = {
        REACHED: share((achieved - wanted).abs() <= TOLERANCE),
        AGREES: share((other > 0.5) == (wanted > 0.5)),
        "its score towards the requested side, median": float(
            (torch.logit(other) * (2 * wanted - 1).sign()).median()
        ),
        "L1 to the original in the generator's units, median": float(
            units.abs().mean(dim=(1, 2, 3)).median()
        ),
        **{f"fine power {name}, median": value for name, value in zip(names, power.tolist(), strict=True)},
        BLUR: float(power.log().abs().mean()),
        LEFT: float(left_over(generator, images, ends, bare_ends).median()),
    }
    if "PI (DNA)" in names:
        total = ends[:, names.index("PI (DNA)")].double().sum(dim=(1, 2)) * 65535
        row[PI_SIDE] = share((total > MIDDLE_OF_PI) == (wanted > 0.5))
    return row, ends


def no_worse(table: dict[str, dict[str, Any]]) -> list[str]:
    """The variants that lose nothing against the default widths, the sharpest first."""
    measures = [name for name in (REACHED, AGREES, PI_SIDE) if name in table[DEFAULT]]
    kept = [
        name
        for name, row in table.items()
        if all(row[measure]["rate"] >= table[DEFAULT][measure]["rate"] for measure in measures)
    ]
    return sorted(kept, key=lambda name: table[name][BLUR])


def write_sheet(generator: TwoStageVAE, pictures: list[Tensor], path: Path, scale: int = 3) -> None:
    """Images by rows, the original and each variant by columns; channels below one another.

    Shown in the generator's units: black is the .1 percentile of the training images, white the 99.9.
    """
    shown = torch.stack([generator.normalise(each).clamp(0, 1) for each in pictures], dim=1)
    count, columns, channels, height, width = shown.shape
    grid = shown.permute(0, 2, 3, 1, 4).reshape(count * channels * height, columns * width)
    pixels = Image.fromarray((grid * 255).round().to(torch.uint8).numpy().astype(np.uint8))
    pixels.resize((pixels.width * scale, pixels.height * scale), Image.Resampling.NEAREST).save(path)


def models_of(options: argparse.Namespace) -> tuple[Classifier, Classifier, Tensor]:
    """Both classifiers and the images that are walked."""
    train = script(options.zoo)
    if options.zoo == "faces":
        stored, rows = train.read_faces(options.data, "val")
        order = rows.sample(frac=1, random_state=0).drop_duplicates("person").index
        first, second = (load_classifier(f"faces/{name}") for name in ("smile", "smile-second"))
        return first, second, stored[torch.tensor(order[: options.images].to_numpy())].float() / 255
    if options.zoo == "chest":
        images, rows = train.read_chest(options.data, "val")
        order = rows.sample(frac=1, random_state=0).drop_duplicates("patient").index
        first, second = (load_classifier(f"chest/{name}") for name in ("pneumonia", "pneumonia-second"))
        return first, second, images[torch.tensor(order.to_numpy())]
    training, validation = (
        train.phases(*train.read_cells(options.data, options.labels, split)) for split in ("train", "val")
    )
    network, _, mean, std = train.fit_phases(training, validation, architecture="convnet", seed=3)
    second = Classifier(network.requires_grad_(False), size=train.SIZE, mean=mean, std=std)
    return load_classifier("cells/g1-g2"), second, validation[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", choices=["faces", "cells", "chest"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="cells.npz, or the zip of images")
    parser.add_argument("--labels", type=Path, help="cells.csv")
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--sheet", type=Path, help="also write frames of eight images to this PNG")
    options = parser.parse_args()
    first, second, images = models_of(options)
    images = images[: options.images]
    first.check(images[:4])
    second.check(images[:4])
    generator = load_generator(options.zoo)
    assert isinstance(generator, TwoStageVAE)
    chosen = {"gate of pixels": generator.tau, "gate of latents": generator.latent_tau}
    table: dict[str, dict[str, Any]] = {}
    pictures = [images[:8]]
    for name, variant in VARIANTS.items():
        table[name], frames = measure(generator, first, second, images, variant)
        pictures.append(frames[:8])
        print(name, table[name], flush=True)
    if options.sheet:
        write_sheet(generator, pictures, options.sheet)
    result = {
        "split": "val", "images": len(images),
        "no worse than the default widths, the sharpest first": no_worse(table),
        "the card's": chosen, "variants": table,
    }  # fmt: skip
    arguments = f"--zoo {options.zoo} " + (
        "--data <npz> --labels <csv>" if options.zoo == "cells" else "--data <zip>"
    )
    print(record.write(f"{options.zoo}_detail", result, arguments))


if __name__ == "__main__":
    main()
