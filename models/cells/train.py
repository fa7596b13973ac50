"""Rebuild the cells' zoo from the table of images.

    python models/cells/train.py generator --data cells.npz --labels cells.csv --out models/cells
    python models/cells/train.py g1-g2 --data cells.npz --labels cells.csv --out models/cells

``cells.npz`` holds ``images`` (number, 3, 40, 40) uint16: brightfield, PI (DNA) and darkfield. The rows of
``cells.csv`` belong to them in order, with the columns ``phase`` (G1, S_phase, G2, ...) and ``split``
(train/val/test). Each run writes ``<name>.safetensors`` in half precision and its entry of ``card.json``. The
generator takes minutes on one core and can be interrupted: started again with the same
``--checkpoints`` it continues. What a cell looks like does not depend on how it lies, so both are trained on
mirrored cells too.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explainer.convnet import ConvNet, PlainNet, binary_metrics, fit_classifier
from explainer.generators import TwoStageVAE
from explainer.generators.cards import update_card, write_classifier, write_generator
from explainer.storage import read_tensors

__all__ = ["CHANNELS", "fit_phases", "main", "mirrored", "phases", "read_cells", "train_classifier",
           "train_generator"]  # fmt: skip

CHANNELS = ("brightfield", "PI (DNA)", "darkfield")
SIZE = (40, 40)
GENERATOR: dict[str, Any] = {
    "latent_dim": 64,
    "latent_channels": 24,
    "widths": (16, 48),
    "encoder_blocks": (0, 1),
    "decoder_blocks": (0, 1),
    "code_width": 48,
    "first_share": 0.1,
    "first_beta": 0.05,
    "beta": 0.3,
    "shared_sigma": True,
    "linear": True,
    "tau": 0.1,  # chosen on val, like the next: docs/generators.md
    "latent_tau": 2.0,
}
CARD: dict[str, Any] = {
    "format": 1,
    "name": "cells",
    "summary": "Jurkat cells from an imaging flow cytometer, 40x40 pixels, brightfield, PI (DNA) and "
    "darkfield: a two-stage VAE and a classifier of G1 against G2.",
    "input": "One cell, centred, in three channels in this order, as 16-bit integers of the instrument "
    "(background about 50 in PI, about 680 in brightfield): as_image divides them by 65535.",
    "data": "2,850 Jurkat cells (Blasi et al., Nature Communications 7:10256, 2016) with their phase of the "
    "cell cycle, split into train (2,135), val (286) and test (429). BSD-3-Clause.",
    "licence": "BSD-3-Clause (weights)",
    "limits": [
        "One cell line, one stain, one instrument: intensities of another do not mean the same.",
        "The phase was decided from the amount of DNA (PI), with markers of mitosis: the classifier can "
        "hardly look at anything else, and its agreement with the labels is no finding about cells.",
        "The code explains little more than as many principal components do (docs/results.md), of the "
        "darkfield two thirds: its speckle, and all fine texture in a frame, are carried detail.",
        "Cells that are cut off, doublets and debris are rare in training; the fit check says so.",
        "A demonstration of explanations on images with three channels; not for diagnosis.",
    ],
}
ABOUT = "G1 or G2 of the cell cycle: once or twice the DNA."
PHASES = ("G1", "G2")
STEPS = 400


def read_cells(data: Path, labels: Path, split: str) -> tuple[Tensor, pd.DataFrame]:
    """Read one split of the cells.

    Args:
        data: ``cells.npz``.
        labels: ``cells.csv``.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        Images (number, 3, 40, 40) in [0, 1] (the stored values divided by 65535) and their rows of the table.
    """
    rows = pd.read_csv(labels)
    chosen = rows["split"].eq(split).to_numpy()
    if not chosen.any():
        raise SystemExit(f"{labels}: no rows with split {split!r}; it must be train, val or test.")
    with np.load(data) as archive:
        images = archive["images"]
    if len(images) != len(rows):
        raise SystemExit(f"{data} has {len(images)} images, {labels} {len(rows)} rows.")
    values = images[chosen].astype(np.float32) / np.float32(65535)
    return torch.from_numpy(values), rows[chosen].reset_index(drop=True)


def phases(images: Tensor, rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """The cells in G1 and G2, and 0 or 1 for each."""
    kept = rows["phase"].isin(PHASES)
    labels = rows.loc[kept, "phase"].eq(PHASES[1])
    return images[torch.tensor(kept.tolist())], torch.tensor(labels.tolist(), dtype=torch.float32)


def mirrored(images: Tensor) -> Tensor:
    """Images and their mirror images: upside down, left to right, and both."""
    upside = torch.cat([images, images.flip(-2)])
    return torch.cat([upside, upside.flip(-1)])


def fit_phases(
    training: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    architecture: str = "plain",
    steps: int = STEPS,
    seed: int = 0,
) -> tuple[ConvNet | PlainNet, dict[str, Any], list[float], list[float]]:
    """Train the classifier on cells in [0, 1], standardised per channel.

    Nothing but mirror images augments them: brightness is the signal. The network is the plain one: group
    normalisation, which forgets how bright an image is, made a classifier so flat away from its boundary that
    walks got lost on the way there.

    Returns:
        The network, the report of :func:`explainer.convnet.fit_classifier`, and the mean and standard
        deviation of each channel, which the network's images must be reduced by and divided by.
    """
    mean, std = training[0].mean(dim=(0, 2, 3)), training[0].std(dim=(0, 2, 3))

    def standardised(images: Tensor) -> Tensor:
        return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)

    network, report = fit_classifier(
        mirrored(standardised(training[0])),
        training[1].repeat(4),
        validation=(standardised(validation[0]), validation[1]),
        architecture=architecture,
        augment=False,
        steps=steps,
        seed=seed,
    )
    return network, report, mean.tolist(), std.tolist()


def train_classifier(
    data: Path, labels: Path, out: Path, *, seed: int = 0, steps: int = STEPS
) -> dict[str, Any]:
    """Train ``g1-g2``, write its weights (half precision) and its entry of the card, which is returned."""
    training, validation, test = (
        phases(*read_cells(data, labels, split)) for split in ("train", "val", "test")
    )
    network, report, mean, std = fit_phases(training, validation, steps=steps, seed=seed)
    facts = {
        "about": ABOUT,
        "class_names": list(PHASES),
        "size": list(SIZE),
        "mean": mean,
        "std": std,
        "preprocessing": "16-bit values / 65535, reduced by the mean and divided by the standard deviation "
        "of each channel over the training cells.",
        "training": {"images": len(training[0]), "mirrored": 4 * len(training[0])},
    }
    entry = write_classifier(network, report, out, "g1-g2", facts=facts, half=True)
    network.load_state_dict(read_tensors(out / entry["file"], entry["sha256"], "classifier"))
    inputs = (test[0] - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    with torch.no_grad():
        metrics = binary_metrics(network(inputs)[:, 0], test[1])
    # One class only has no ROC curve, and JSON has no NaN.
    entry["test"] = {key: None if value != value else round(value, 5) for key, value in metrics.items()}
    update_card(out, CARD, {"classifiers": {"g1-g2": entry}})
    return entry


def train_generator(
    data: Path, labels: Path, out: Path, *, steps: int, minutes: float, checkpoints: Path | None
) -> dict[str, Any]:
    """Train the two-stage generator, write its weights (half precision) and its entry of the card."""
    images, _ = read_cells(data, labels, "train")
    generator = TwoStageVAE((len(CHANNELS), *SIZE), **GENERATOR).fit(
        # Not left to right: the cells flow past, and darkfield shows it.
        torch.cat([images, images.flip(-2)]),
        steps=steps,
        minutes=minutes,
        batch_size=32,
        learning_rate=1e-3,
        held_out=read_cells(data, labels, "val")[0],
        resume_from=checkpoints,
    )
    generator.channel_names = CHANNELS
    test = read_cells(data, labels, "test")[0]
    training = {"images": len(images), "mirrored": 2 * len(images), "steps": steps, "seed": 0}
    return write_generator(generator, out, CARD, test=test, training=training)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train what it names."""
    parser = argparse.ArgumentParser(description="Rebuild the weights of the cells' zoo.")
    commands = parser.add_subparsers(dest="name", required=True)
    for name, about in (("generator", "The two-stage generator."), ("g1-g2", ABOUT)):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--data", type=Path, required=True, help="cells.npz")
        command.add_argument("--labels", type=Path, required=True, help="cells.csv")
        command.add_argument("--out", type=Path, required=True, help="folder to write to")
        default = 1800 if name == "generator" else STEPS
        command.add_argument("--steps", type=int, default=default, help=f"optimiser steps, default {default}")
        if name == "generator":
            command.add_argument("--minutes", type=float, default=600, help="upper bound on the time")
            command.add_argument(
                "--checkpoints", type=Path, help="folder to keep checkpoints in, and to continue from"
            )
        else:
            command.add_argument("--seed", type=int, default=0, help="default 0")
    options = parser.parse_args(arguments)
    if options.name == "generator":
        entry = train_generator(
            options.data,
            options.labels,
            options.out,
            steps=options.steps,
            minutes=options.minutes,
            checkpoints=options.checkpoints,
        )
    else:
        entry = train_classifier(
            options.data, options.labels, options.out, seed=options.seed, steps=options.steps
        )
    print(json.dumps({"sha256": entry["sha256"], "test": entry["test"]}, indent=2))


if __name__ == "__main__":
    main()
