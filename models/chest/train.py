"""Rebuild the chest X-rays' zoo from the zip of images.

    python models/chest/train.py generator --data chest.zip --out models/chest
    python models/chest/train.py pneumonia --data chest.zip --out models/chest

The zip holds ``images/*.jpeg`` (128x128 grey) and ``labels.csv`` with the columns ``file``, ``label``
(NORMAL or PNEUMONIA), ``patient`` and ``split`` (train/val/test, by patient). Images are shrunk to 64x64,
antialiased. Each run writes ``<name>.safetensors`` in half precision and its entry of ``card.json``. The
generator takes minutes on one core and can be interrupted: started again with the same
``--checkpoints`` it continues.
"""

import argparse
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from explainer.convnet import ConvNet, PlainNet, binary_metrics, fit_classifier
from explainer.generators import TwoStageVAE
from explainer.generators.cards import update_card, write_classifier, write_generator
from explainer.image import resize
from explainer.storage import read_tensors

__all__ = ["CLASSIFIERS", "Recipe", "cropped", "fit_recipe", "main", "read_chest", "train_classifier",
           "train_generator"]  # fmt: skip

SIZE = (64, 64)
CLASSES = ("NORMAL", "PNEUMONIA")
COPIES = 3
GENERATOR: dict[str, Any] = {
    "latent_dim": 64,
    "latent_channels": 32,
    "widths": (16, 32, 48),
    "encoder_blocks": (0, 0, 1),
    "decoder_blocks": (0, 0, 1),
    "code_width": 64,
    "first_share": 0.1,
    "first_beta": 0.05,
    "linear": True,
}
CARD: dict[str, Any] = {
    "format": 1,
    "name": "chest",
    "summary": "Chest X-rays of children, 64x64 grey: a two-stage VAE and two classifiers of pneumonia.",
    "input": "A frontal X-ray of a child's chest, grey, one channel, the lungs filling the image, bones "
    "bright; other sizes are shrunk to 64x64.",
    "data": "4,649 frontal X-rays of children of one to five years, Guangzhou Women and Children's Medical "
    "Center (Kermany et al., Cell 172:1122, 2018), CC BY 4.0: train (3,479), val (518) and test (652), "
    "split by patient.",
    "licence": "BSD-3-Clause (weights)",
    "limits": [
        "A demonstration of explanations, not a diagnostic: never decide about a patient with it.",
        "One hospital, children under six: exposure, crop and markers of other hospitals, and adults, "
        "mean something else.",
        "Ill and healthy children were not imaged alike (in how they were held and cropped, in cables and "
        "markers): a classifier that tells them apart need not look at lungs; an explanation may show that.",
        "At 64x64 an infiltrate is a few grey pixels: fine signs are not there to be explained.",
        "The walk changes what goes with the score; that is not what the disease would change.",
    ],
}


@dataclass(frozen=True)
class Recipe:
    """How one classifier is trained: one sentence for the card, a key of ``NETWORKS``, seed and steps."""

    about: str
    architecture: str
    seed: int = 0
    steps: int = 500


CLASSIFIERS = {
    "pneumonia": Recipe("Normal or pneumonia, as the archive's labels have it.", "convnet"),
    "pneumonia-second": Recipe(
        "A second opinion on pneumonia: another architecture and seed.", "plain", seed=3
    ),
}


def read_chest(
    path: str | Path, split: str, *, size: tuple[int, int] | None = SIZE
) -> tuple[Tensor, pd.DataFrame]:
    """Read one split of the X-rays.

    Args:
        path: The zip.
        split: ``"train"``, ``"val"`` or ``"test"``.
        size: (height, width) to shrink to; None leaves them as they are stored.

    Returns:
        Images (number, 1, height, width) in [0, 1] and their rows of ``labels.csv``, in the table's order.
    """
    with zipfile.ZipFile(path) as archive:
        with archive.open("labels.csv") as table:
            rows = pd.read_csv(table)
        rows = rows[rows["split"] == split].reset_index(drop=True)
        if rows.empty:
            raise SystemExit(f"{path}: no rows with split {split!r}; it must be train, val or test.")
        pictures = []
        for name in rows["file"]:
            with archive.open(f"images/{name}") as file, Image.open(file) as picture:
                pictures.append(np.asarray(picture.convert("L")))
    images = torch.from_numpy(np.stack(pictures))[:, None].float() / 255
    return images if size is None else resize(images, size), rows


def cropped(images: Tensor, copies: int, *, seed: int = 0) -> Tensor:
    """Randomly placed crops of 7/8 to all of the side, at 64x64: ``copies`` of every image.

    They are never mirrored: the heart lies on one side.
    """
    random = torch.Generator().manual_seed(seed)
    side = images.shape[-1]
    made = []
    for _ in range(copies):
        for image in images.split(1):
            kept = int(torch.randint(side * 7 // 8, side + 1, (), generator=random))
            top, left = torch.randint(0, side - kept + 1, (2,), generator=random).tolist()
            made.append(resize(image[..., top : top + kept, left : left + kept], SIZE))
    return torch.cat(made)


def ill(rows: pd.DataFrame) -> Tensor:
    """1 for pneumonia, 0 for normal."""
    return torch.tensor(rows["label"].eq(CLASSES[1]).tolist(), dtype=torch.float32)


def fit_recipe(
    recipe: Recipe,
    training: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    steps: int | None = None,
    seed: int | None = None,
) -> tuple[ConvNet | PlainNet, dict[str, Any]]:
    """Train the network of a recipe; both classes are drawn equally often (three in four are ill)."""
    labels = training[1]
    share = labels.mean()
    return fit_classifier(
        training[0],
        labels,
        validation=validation,
        architecture=recipe.architecture,
        weights=torch.where(labels > 0.5, 1 - share, share),
        flip=False,
        steps=recipe.steps if steps is None else steps,
        seed=recipe.seed if seed is None else seed,
    )


def train_classifier(
    name: str, data: Path, out: Path, *, seed: int | None = None, steps: int | None = None
) -> dict[str, Any]:
    """Train one of :data:`CLASSIFIERS`, write its weights (half precision) and its entry of the card."""
    recipe = CLASSIFIERS[name]
    splits = {split: read_chest(data, split) for split in ("train", "val", "test")}
    training, validation, test = ((images, ill(rows)) for images, rows in splits.values())
    network, report = fit_recipe(recipe, training, validation, steps=steps, seed=seed)
    facts = {
        "about": recipe.about,
        "class_names": list(CLASSES),
        "size": list(SIZE),
        "preprocessing": "Grey in [0, 1], shrunk to 64x64; the network itself maps to [-1, 1].",
        "training": {"images": len(training[0]), "patients": int(splits["train"][1]["patient"].nunique())},
    }
    entry = write_classifier(network, report, out, name, facts=facts, half=True)
    network.load_state_dict(read_tensors(out / entry["file"], entry["sha256"], "classifier"))
    with torch.no_grad():
        scores = torch.cat([network(part)[:, 0] for part in test[0].split(256)])
    # One class only has no ROC curve, and JSON has no NaN.
    metrics = binary_metrics(scores, test[1])
    entry["test"] = {key: None if value != value else round(value, 5) for key, value in metrics.items()}
    entry["test"]["patients"] = int(splits["test"][1]["patient"].nunique())
    update_card(out, CARD, {"classifiers": {name: entry}})
    return entry


def train_generator(
    data: Path, out: Path, *, steps: int, minutes: float, checkpoints: Path | None
) -> dict[str, Any]:
    """Train the two-stage generator, write its weights (half precision) and its entry of the card."""
    stored, _ = read_chest(data, "train", size=None)
    images = torch.cat([resize(stored, SIZE), cropped(stored, COPIES)])
    generator = TwoStageVAE((1, *SIZE), **GENERATOR).fit(
        images,
        steps=steps,
        minutes=minutes,
        batch_size=32,
        learning_rate=1.5e-3,
        held_out=read_chest(data, "val")[0],
        resume_from=checkpoints,
    )
    test = read_chest(data, "test")[0]
    training = {"images": len(stored), "with crops": len(images), "steps": steps, "seed": 0}
    return write_generator(generator, out, CARD, test=test, training=training)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train what it names."""
    parser = argparse.ArgumentParser(description="Rebuild the weights of the chest X-rays' zoo.")
    commands = parser.add_subparsers(dest="name", required=True)
    for name, recipe in CLASSIFIERS.items():
        command = commands.add_parser(name, help=recipe.about, description=recipe.about)
        command.add_argument("--seed", type=int, help=f"default {recipe.seed}")
        command.add_argument("--steps", type=int, help=f"optimiser steps, default {recipe.steps}")
    command = commands.add_parser("generator", help="The two-stage generator.")
    command.add_argument("--steps", type=int, default=2000, help="optimiser steps of both stages together")
    command.add_argument("--minutes", type=float, default=600, help="upper bound on the time")
    command.add_argument(
        "--checkpoints", type=Path, help="folder to keep checkpoints in, and to continue from"
    )
    for command in commands.choices.values():
        command.add_argument("--data", type=Path, required=True, help="the zip of X-rays")
        command.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    if options.name == "generator":
        entry = train_generator(
            options.data,
            options.out,
            steps=options.steps,
            minutes=options.minutes,
            checkpoints=options.checkpoints,
        )
    else:
        entry = train_classifier(
            options.name, options.data, options.out, seed=options.seed, steps=options.steps
        )
    print(json.dumps({"sha256": entry["sha256"], "test": entry["test"]}, indent=2))


if __name__ == "__main__":
    main()
