"""What carried detail does to frames of cells and chest X-rays; the widths of the gates are chosen here.

    python benchmarks/detail.py --zoo chest --data chest.zip
    python benchmarks/detail.py --zoo cells --data cells.npz --labels cells.csv

Images of the validation split are walked across to level .05 or .95 with: nothing carried; the pixel
residual, as it is and gated; the stage-1 latents; latents and gated pixels. Sharpness is the power of a
channel above a quarter of the sampling rate over that of the original. The second classifier (of the cells
it is trained here: another architecture and seed) says on which side the frame is for somebody else;
validity is that the frame's level is reached. ``faces_detail.py`` is the same for faces.
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
    "latents gated at 2, pixels at .05": {"latent_tau": 2.0, "tau": 0.05},
    "latents gated at 2, pixels at .1": {"latent_tau": 2.0, "tau": 0.1},
}


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
def ends_of(scene: Scene) -> tuple[Tensor, Tensor]:
    """Every image on the other side: frames ``(N, C, H, W)`` and the level ``(N,)`` they were to have."""
    latents = GradientWalk()(scene, LEVELS).latents
    far = (scene.score0 < 0).long()
    rows = torch.arange(len(latents))
    return scene.deliver(latents[rows, far], rows), LEVELS[far]


def measure(
    generator: TwoStageVAE, first: Classifier, second: Classifier, images: Tensor, variant: Variant
) -> tuple[dict[str, Any], Tensor]:
    """One variant: its row of the table, and its frames."""
    with first.frozen():
        scene = scene_of(generator, first, images, **variant)
        ends, wanted = ends_of(scene)
    achieved, other = (levels_of(network, ends[:, None])[:, 0].double() for network in (first, second))
    units = generator.normalise(ends) - generator.normalise(images)
    power = (fine_power(ends) / fine_power(images)).median(dim=0).values
    names = generator.channel_names or ("grey",)
    row: dict[str, Any] = {
        "level reached": share((achieved - wanted).abs() <= TOLERANCE),
        "second classifier on the requested side": share((other > 0.5) == (wanted > 0.5)),
        "its score towards the requested side, median": float(
            (torch.logit(other) * (2 * wanted - 1).sign()).median()
        ),
        "L1 to the original in the generator's units, median": float(
            units.abs().mean(dim=(1, 2, 3)).median()
        ),
        **{f"fine power {name}, median": value for name, value in zip(names, power.tolist(), strict=True)},
    }
    if "PI (DNA)" in names:
        total = ends[:, names.index("PI (DNA)")].double().sum(dim=(1, 2)) * 65535
        row["summed PI on the requested side"] = share((total > MIDDLE_OF_PI) == (wanted > 0.5))
    return row, ends


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
    parser.add_argument("--zoo", choices=["cells", "chest"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="cells.npz, or the zip of X-rays")
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
    table, pictures = {}, [images[:8]]
    for name, variant in VARIANTS.items():
        table[name], frames = measure(generator, first, second, images, variant)
        pictures.append(frames[:8])
        print(name, table[name], flush=True)
    if options.sheet:
        write_sheet(generator, pictures, options.sheet)
    result = {"split": "val", "images": len(images), "the card's": chosen, "variants": table}
    arguments = f"--zoo {options.zoo} " + (
        "--data <zip>" if options.zoo == "chest" else "--data <npz> --labels <csv>"
    )
    print(record.write(f"{options.zoo}_detail", result, arguments))


if __name__ == "__main__":
    main()
