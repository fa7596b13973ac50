"""Planted truth for the audit: images, generators, classifiers, and how much each relies on each factor.

The truth is *reliance*: the mean absolute change of a classifier's probability when the renderer changes one
factor and nothing else. A classifier learns from an annotator, who reads the label's factor with an error and
may be swayed by another factor; it is trained on the annotator's probabilities, which is what very many such
labels come to. (Where a label follows from its factor without error a shortcut is worth nothing and is hardly
learnt: with 90 % association the reliance was .02 to .05.) The audited images have the true labels.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from explainer import synthetic
from explainer.classifier import Classifier
from explainer.convnet import NETWORKS, ConvNet, fit_classifier
from explainer.generators import VAE, load_generator
from explainer.generators.base import Generator

SIZE = 32
BLUR = 0.12
"""Standard deviation of a reading of the label's factor, as a share of its range: 9 % come out wrong."""
STEPS = 300
NARROW_FROM = 300
"""Classifiers of seeds from here on have half the width: they are many."""
NETWORKS["narrow"] = partial(ConvNet, width=8)
WATERMARK = {"batch_mark": (0.0, 0.5)}


@dataclass(frozen=True)
class World:
    """A kind of images with planted factors."""

    name: str
    make: Callable[..., synthetic.PlantedImages]
    render: Callable[..., Any]
    known: Mapping[str, synthetic.Factor]
    label: str
    factors: tuple[str, ...]
    channels: int
    generator: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def odds(self, table: pd.DataFrame) -> np.ndarray:
        """Log-odds that an annotator calls the label's factor high, given a blurred reading of it."""
        factor = self.known[self.label]
        far = (table[self.label].to_numpy() - (factor.low + factor.high) / 2) / (factor.high - factor.low)
        return stats.norm.logcdf(far / BLUR) - stats.norm.logsf(far / BLUR)

    def images(self, count: int, seed: int, **options: Any) -> synthetic.PlantedImages:
        """Images and their true labels."""
        return self.make(count, size=SIZE, channels=self.channels, seed=seed, label=self.label, **options)


WORLDS = {
    "sprites": World(
        "sprites", synthetic.sprites, synthetic.render_sprites, synthetic.SPRITE_FACTORS, "scale",
        ("shade", "x", "y", "batch_mark"), 1,
        {"latent_dim": 12, "widths": (16, 32, 48), "steps": 3000},
    ),
    "cells": World(
        "cells", synthetic.cells, synthetic.render_cells, synthetic.CELL_FACTORS, "nucleus_size",
        ("nucleus_intensity", "cytoplasm_intensity", "illumination_tilt", "elongation", "batch_mark"), 3,
        {"latent_dim": 16, "widths": (16, 32, 48), "steps": 3000},
    ),
}  # fmt: skip


def generator_of(out: Path, world: World, name: str, **options: Any) -> Generator:
    """A small VAE of a world's images, trained once."""
    folder = out / f"generator-{world.name}-{name}"
    if not folder.exists():
        planted = world.images(6000, 1, dtype=torch.uint8, **options)
        shape = dict(world.generator)
        steps = shape.pop("steps")
        VAE((world.channels, SIZE, SIZE), **shape).fit(planted.images, steps=steps, progress=False).save(
            folder
        )
    return load_generator(folder)


def classifier_of(
    out: Path,
    world: World,
    seed: int,
    sway: Mapping[str, float] | None = None,
    *,
    watermark: bool = False,
) -> Classifier:
    """A classifier of the label, trained once on what an annotator would say of 4,000 images.

    Args:
        out: Where it is kept.
        world: Of the images.
        seed: Of the images and the training.
        sway: Factor -> log-odds by which an upper half of it raises, and a lower half lowers, the annotator's
            answer; None for one who looks at the label's factor only.
        watermark: Half of the images of class 1, and no others, are marked; the labels are the true ones.
    """
    file = out / f"classifier-{world.name}-{seed}.pt"
    architecture = "convnet" if seed < NARROW_FROM else "narrow"
    if not file.exists():
        marks = {"correlation": WATERMARK} if watermark else {"batch_mark": 0.5}
        data = world.images(4000, seed, **marks)
        odds = world.odds(data.factors)
        for factor, weight in (sway or {}).items():
            odds = odds + weight * (2 * data.attributes[factor].to_numpy() - 1)
        answers = data.labels.float() if watermark else torch.from_numpy(1 / (1 + np.exp(-odds))).float()
        network, _ = fit_classifier(
            data.images[:-400], answers[:-400], augment=False, seed=seed, steps=STEPS, label_smoothing=0.0,
            architecture=architecture,
            validation=(data.images[-400:], (answers[-400:] > 0.5).float()),
        )  # fmt: skip
        torch.save(network.state_dict(), unfinished := file.with_suffix(f".{os.getpid()}"))
        unfinished.rename(file)
    network = NETWORKS[architecture](channels=world.channels)
    network.load_state_dict(torch.load(file, weights_only=True))
    return Classifier(network.requires_grad_(False).eval(), kind="binary", class_names=("small", "large"))


def changed(world: World, table: pd.DataFrame, factor: str) -> pd.DataFrame:
    """The table with one factor of every image moved by half of its range, to its other half."""
    table = table.copy()
    if factor == "batch_mark":
        table[factor] = ~table[factor].astype(bool)
    else:
        known = world.known[factor]
        half = (known.high - known.low) / 2
        values = table[factor].to_numpy(dtype=float)
        table[factor] = np.where(values >= known.low + half, values - half, values + half)
    return table


def reliance(
    world: World, classifier: Classifier, planted: synthetic.PlantedImages, factor: str, most: int = 600
) -> float:
    """Mean absolute change of the probability when the renderer changes that factor only."""
    before = planted.factors.iloc[:most]
    images, other = (
        world.render(table, size=SIZE, channels=world.channels)[0]
        for table in (before, changed(world, before, factor))
    )
    target = classifier.target(1, images[:1])
    return float((classifier.level(images, target) - classifier.level(other, target)).abs().mean())
