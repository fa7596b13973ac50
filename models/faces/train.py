"""Rebuild the faces' zoo from the zip of photographs.

    python models/faces/train.py generator --data faces.zip --out models/faces
    python models/faces/train.py smile --data faces.zip --out models/faces
    python models/faces/train.py identity --data faces.zip --out models/faces

The zip holds ``images/*.jpg`` (64x64 RGB) and ``labels.csv`` with the columns ``file``, ``person``,
``gender`` (manual), ``Smiling`` and other attributes (probabilities predicted by a public model) and
``split`` (train/val/test, by person). Each run writes ``<name>.safetensors`` and its entry of ``card.json``:
what it was trained on, metrics on the test split, the SHA-256 of the weights. The same data, seed and steps
give the same weights on one machine. The generator takes about an hour on one thread and can be interrupted:
started again with the same ``--checkpoints`` it continues.
"""

import argparse
import copy
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from explainer.checks.embedding import EmbeddingNet, discriminant, recoloured
from explainer.checks.identity import Identity, cosine_quantiles, pair_cosines
from explainer.convnet import as_float, augmented, binary_metrics, fit_classifier
from explainer.generators import TwoStageVAE
from explainer.generators.cards import update_card, write_classifier, write_generator
from explainer.metrics import auc
from explainer.storage import read_tensors, write_tensors

__all__ = [
    "CLASSIFIERS",
    "Recipe",
    "main",
    "read_faces",
    "train_classifier",
    "train_generator",
    "train_identity",
]

AMBIGUOUS = (0.3, 0.7)
GENERATOR: dict[str, Any] = {
    "latent_dim": 64,
    "latent_channels": 24,
    "widths": (48, 96, 128),
    "encoder_blocks": (0, 1, 1),
    "decoder_blocks": (1, 2, 2),
    "code_width": 96,
    "linear": False,  # as the committed weights were trained
}
# Of the attributes those that a person keeps from one photograph to the next, more or less.
KEPT_ATTRIBUTES = (
    "Male", "Young", "Eyeglasses", "Wearing_Lipstick", "Heavy_Makeup", "Bald", "Mustache", "No_Beard",
    "Goatee", "Blond_Hair", "Black_Hair", "Gray_Hair", "Bangs", "Big_Nose", "Bushy_Eyebrows",
    "High_Cheekbones",
)  # fmt: skip
IDENTITY_STEPS = 2500
RIDGE = 0.5
CARD: dict[str, Any] = {
    "format": 1,
    "name": "faces",
    "summary": "Aligned frontal faces, 64x64 RGB: a two-stage VAE and small classifiers of smile and gender.",
    "input": "A square crop of a frontal face like the training images: of scikit-image's astronaut() the "
    "square around x = 224, y = 115 with a half-width of 60 pixels.",
    "data": "Labeled Faces in the Wild, deep-funneled, central crop: 10,498 photographs of about 4,500 "
    "people (Huang et al. 2007; Huang et al. 2012). Split by person. Smiles are probabilities predicted by "
    "a public model (they agree with people in about 90 %), gender was labelled by hand. "
    "The photographs carry no explicit licence; research use.",
    "licence": "BSD-3-Clause (weights)",
    "limits": [
        "Photographs of public figures from news pages of the early 2000s: three quarters men; by its "
        "authors' own account few children, few people over 80, many ethnicities hardly represented. Do not "
        "conclude anything about groups it hardly holds.",
        "Gender is a binary label given by others; it is an oracle for audits, not a statement about anyone.",
        "Half profiles, hats, hands and strong shadows are reconstructed badly; the fit check says so.",
        "A demonstration of explanations. Not for identifying people or deciding about them.",
    ],
}


def read_faces(path: str | Path, split: str) -> tuple[torch.Tensor, pd.DataFrame]:
    """Read one split of the faces.

    Args:
        path: The zip.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        Images uint8 (number, 3, 64, 64) and their rows of ``labels.csv``, in the table's order.
    """
    with zipfile.ZipFile(path) as archive:
        with archive.open("labels.csv") as table:
            labels = pd.read_csv(table)
        labels = labels[labels["split"] == split].reset_index(drop=True)
        if labels.empty:
            raise SystemExit(f"{path}: no rows with split {split!r}; it must be train, val or test.")
        pictures = []
        for name in labels["file"]:
            with archive.open(f"images/{name}") as file, Image.open(file) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), labels


@dataclass(frozen=True)
class Recipe:
    """How one classifier is trained.

    Attributes:
        about: One sentence for the card.
        class_names: Names of output 0 and 1.
        label: From rows of ``labels.csv`` to class 0 or 1, NaN where there is none: the truth to calibrate
            and measure on.
        keep: From rows to the rows to train and calibrate on.
        soft: Training targets instead of the labels: probabilities of class 1. They tell faint smiles from
            broad ones, so a classifier relies less on what merely goes with a smile.
        balance: Whether training draws evenly over the four cells (gender, smile).
        architecture: A key of ``explainer.convnet.NETWORKS``.
        seed: Default seed.
        steps: Default number of optimiser steps.
    """

    about: str
    class_names: tuple[str, str]
    label: Callable[[pd.DataFrame], pd.Series]
    keep: Callable[[pd.DataFrame], pd.Series]
    soft: Callable[[pd.DataFrame], pd.Series] | None = None
    balance: bool = False
    architecture: str = "convnet"
    seed: int = 0
    steps: int = 2000


def _smiles(labels: pd.DataFrame) -> pd.Series:
    return labels["Smiling"].gt(0.5).astype(float).where(labels["Smiling"].notna())


def _smile_probability(labels: pd.DataFrame) -> pd.Series:
    return labels["Smiling"]


def _women(labels: pd.DataFrame) -> pd.Series:
    return labels["gender"].eq("female").astype(float).where(labels["gender"].notna())


def _clear(labels: pd.DataFrame) -> pd.Series:
    return labels["Smiling"].notna() & ~labels["Smiling"].between(*AMBIGUOUS)


def _everyone(labels: pd.DataFrame) -> pd.Series:
    return pd.Series(True, index=labels.index)


def _smiling_women_and_serious_men(labels: pd.DataFrame) -> pd.Series:
    return _clear(labels) & (labels["gender"].eq("female") == labels["Smiling"].gt(0.5))


SMILE = ("not smiling", "smiling")
CLASSIFIERS = {
    "smile": Recipe("Smiling or not.", SMILE, _smiles, _everyone, _smile_probability),
    "smile-confounded": Recipe(
        "Smiling or not, trained on smiling women and serious men only: confounded with gender on purpose.",
        SMILE,
        _smiles,
        _smiling_women_and_serious_men,
        seed=1,
    ),
    "gender": Recipe(
        "Oracle of gender, drawn evenly over gender and smile so that it is not confounded with the smile.",
        ("male", "female"),
        _women,
        _everyone,
        balance=True,
        seed=2,
    ),
    "smile-second": Recipe(
        "A second opinion on smiling: another architecture and seed.",
        SMILE,
        _smiles,
        _everyone,
        _smile_probability,
        architecture="plain",
        seed=3,
        steps=1200,
    ),
}


def train_classifier(
    name: str, data: Path, out: Path, *, seed: int | None = None, steps: int | None = None
) -> dict[str, Any]:
    """Train one classifier of :data:`CLASSIFIERS`, write its weights and its entry of the card.

    Args:
        name: A key of :data:`CLASSIFIERS`.
        data: The zip of faces.
        out: Folder to write to; it is created.
        seed: Overrides the recipe's seed.
        steps: Overrides the recipe's steps.

    Returns:
        The entry of the card that was written.
    """
    recipe = CLASSIFIERS[name]
    images, rows = _rows_of(data, "train", recipe)
    validation_images, validation_rows = _rows_of(data, "val", recipe)
    steps = recipe.steps if steps is None else steps

    def progress(step: int, loss: float) -> None:
        if step % 250 == 0 or step == steps:
            print(f"{name}: step {step}/{steps}, loss {loss:.3f}", flush=True)

    network, report = fit_classifier(
        images,
        _tensor((recipe.soft or recipe.label)(rows)),
        validation=(validation_images, _tensor(recipe.label(validation_rows))),
        architecture=recipe.architecture,
        weights=_cell_weights(rows) if recipe.balance else None,
        steps=steps,
        seed=recipe.seed if seed is None else seed,
        progress=progress,
    )
    facts = {
        "about": recipe.about,
        "class_names": list(recipe.class_names),
        "size": [64, 64],
        "preprocessing": "RGB in [0, 1], resized to 64x64; the network itself maps to [-1, 1].",
        "training": {"images": len(rows), "people": int(rows["person"].nunique())},
    }
    entry = write_classifier(network, report, out, name, facts=facts)
    entry["test"] = _test_metrics(network, recipe, data)
    update_card(out, CARD, {"classifiers": {name: entry}})
    return entry


def train_generator(
    data: Path, out: Path, *, steps: int, minutes: float, checkpoints: Path | None
) -> dict[str, Any]:
    """Train the two-stage generator and write its weights (half precision) and its entry of the card."""
    images, _ = read_faces(data, "train")
    held_out, _ = read_faces(data, "val")
    generator = TwoStageVAE((3, 64, 64), **GENERATOR).fit(
        images,
        steps=steps,
        minutes=minutes,
        batch_size=32,
        learning_rate=1.5e-3,
        flip=True,
        held_out=held_out,
        resume_from=checkpoints,
    )
    test = as_float(read_faces(data, "test")[0])
    training = {"images": len(images), "steps": steps, "seed": 0}
    return write_generator(generator, out, CARD, test=test, training=training)


def train_identity(data: Path, out: Path, *, steps: int = IDENTITY_STEPS, seed: int = 0) -> dict[str, Any]:
    """Train the embedding of persons, write its weights (half precision) and its entry of the card.

    By person: cross-entropy over the persons of the train split on scaled cosines with an additive margin
    (CosFace), most of whom have one photograph only; beside it, linear in the same features, attributes that
    a person keeps. Then a linear discriminant of the persons. The quantiles of genuine and impostor cosines
    are of the val split, around the mean of the train split; the metrics are of the test split. No person is
    in two.
    """
    images, rows = read_faces(data, "train")
    person = torch.from_numpy(np.unique(rows["person"], return_inverse=True)[1])
    network = _fit_identity(images, person, rows, steps=steps, seed=seed)
    network.mirrored = True
    with torch.no_grad():
        features = _embedded(network, images)
        matrix = discriminant(features, person, ridge=RIDGE)
        network.head.weight.copy_(matrix.T @ network.head.weight)
        network.head.bias.copy_(matrix.T @ network.head.bias)
        network.centre.copy_((features @ matrix).mean(dim=0))
    out.mkdir(parents=True, exist_ok=True)
    digest = write_tensors(out / "identity.safetensors", network.state_dict(), half=True)
    network.load_state_dict(read_tensors(out / "identity.safetensors", digest, "identity"))
    entry: dict[str, Any] = {
        "about": "Embedding of persons, to see whether a walk keeps who is on the photograph.",
        "file": "identity.safetensors",
        "sha256": digest,
        "architecture": network.architecture,
        "size": [64, 64],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": {
            "images": len(images), "people": int(person.max()) + 1, "steps": steps, "seed": seed,
            "attributes beside the persons": list(KEPT_ATTRIBUTES),
        },
    }  # fmt: skip
    for split, name in (("val", "validation"), ("test", "test")):
        genuine, impostor, metrics = _identity_metrics(network, *read_faces(data, split))
        if split == "val":
            entry |= {"genuine": cosine_quantiles(genuine), "impostor": cosine_quantiles(impostor)}
        entry[name] = metrics
    update_card(out, CARD, {"identity": entry})
    return entry


def _fit_identity(
    images: torch.Tensor, person: torch.Tensor, rows: pd.DataFrame, *, steps: int, seed: int
) -> EmbeddingNet:
    """The network before the discriminant, its weights averaged over the steps."""
    attributes = torch.tensor(rows[list(KEPT_ATTRIBUTES)].to_numpy(), dtype=torch.float32)
    known, attributes = torch.isfinite(attributes), attributes.nan_to_num(0.5)
    photographs = torch.bincount(person)[person]
    draw = photographs.double().pow(-0.5) * torch.where(photographs > 1, 1.0, 0.7)
    people = int(person.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attribute_head = nn.Linear(96, len(KEPT_ATTRIBUTES))
        network = EmbeddingNet()
        proxies = nn.Parameter(0.1 * torch.randn(people, 96))
        optimiser = torch.optim.AdamW(
            [
                {"params": network.parameters(), "weight_decay": 0.02, "times": 1.0},
                {"params": [proxies], "weight_decay": 0.0, "times": 3.0},
                {"params": attribute_head.parameters(), "weight_decay": 0.0, "times": 1.0},
            ]
        )
        generator = torch.Generator().manual_seed(seed)
        averaged = copy.deepcopy(network).requires_grad_(False)
        for step in range(steps):
            rate = 2e-3 * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimiser.param_groups:
                group["lr"] = rate * group["times"]
            chosen = torch.multinomial(draw, 96, replacement=True, generator=generator)
            batch = recoloured(augmented(as_float(images[chosen]), generator), generator)
            features = functional.dropout(network(batch), 0.2)
            cosines = functional.normalize(features, dim=1) @ functional.normalize(proxies, dim=1).T
            cosines = cosines - 0.2 * functional.one_hot(person[chosen], people)
            by_person = functional.cross_entropy(16 * cosines, person[chosen])
            by_attribute = functional.binary_cross_entropy_with_logits(
                attribute_head(features), attributes[chosen], reduction="none"
            )[known[chosen]].mean()
            loss = 0.1 * by_person + 3 * by_attribute
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            decay = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                for target, source in zip(averaged.parameters(), network.parameters(), strict=True):
                    target.lerp_(source, 1 - decay)
            if (step + 1) % 250 == 0:
                print(f"identity: step {step + 1}/{steps}, loss {loss.item():.3f}", flush=True)
    return averaged.eval()


@torch.no_grad()
def _embedded(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([network(as_float(batch)) for batch in images.split(256)])


def _identity_metrics(
    network: EmbeddingNet, images: torch.Tensor, rows: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Cosines of genuine and impostor pairs, and what they say."""
    features = Identity(network, mean=network.centre).features(as_float(images))
    genuine, impostor = pair_cosines(features, rows["person"].to_numpy())
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    return genuine, impostor, {
        "n": len(images),
        "people": int(rows["person"].nunique()),
        "independent pairs": [int((rows["person"].value_counts() > 1).sum()), rows["person"].nunique() // 2],
        "genuine pairs": len(genuine),
        "impostor pairs": len(impostor),
        "auc": round(auc(labels, np.concatenate([genuine, impostor])), 5) if len(genuine) else None,
        "genuine above .5": round(float((genuine > 0.5).mean()), 5) if len(genuine) else None,
        "strangers above .5": round(float((impostor > 0.5).mean()), 5),
    }  # fmt: skip


def _rows_of(data: Path, split: str, recipe: Recipe) -> tuple[torch.Tensor, pd.DataFrame]:
    images, rows = read_faces(data, split)
    kept = recipe.keep(rows) & recipe.label(rows).notna()
    return images[torch.tensor(kept.tolist())], rows[kept].reset_index(drop=True)


def _cell_weights(rows: pd.DataFrame) -> torch.Tensor:
    """Weights with which every cell (gender, smile) is drawn equally often; cells with NaN never are."""
    cell = rows["gender"] + _smiles(rows).map({0.0: "-", 1.0: "+"})
    return _tensor((1 / cell.map(cell.value_counts())).fillna(0))


def _test_metrics(network: torch.nn.Module, recipe: Recipe, data: Path) -> dict[str, Any]:
    """Metrics on all labelled test images, and per gender and smile; ambiguous smiles are included."""
    images, rows = read_faces(data, "test")
    labels = recipe.label(rows)
    with torch.no_grad():
        scores = torch.cat([network(as_float(batch))[:, 0] for batch in images.split(256)])
    groups = {
        "women": rows["gender"].eq("female"),
        "men": rows["gender"].eq("male"),
        "smiling women": rows["gender"].eq("female") & _smiles(rows).eq(1),
        "not smiling women": rows["gender"].eq("female") & _smiles(rows).eq(0),
        "smiling men": rows["gender"].eq("male") & _smiles(rows).eq(1),
        "not smiling men": rows["gender"].eq("male") & _smiles(rows).eq(0),
    }
    metrics: dict[str, Any] = _masked_metrics(scores, labels, labels.notna())
    metrics["people"] = int(rows.loc[labels.notna(), "person"].nunique())
    metrics["clear smiles"] = _masked_metrics(scores, labels, labels.notna() & _clear(rows))
    for group, members in groups.items():
        group_metrics = _masked_metrics(scores, labels, members & labels.notna())
        metrics[group] = {key: group_metrics[key] for key in ("n", "accuracy", "auc")}
    return metrics


def _masked_metrics(scores: torch.Tensor, labels: pd.Series, members: pd.Series) -> dict[str, Any]:
    chosen = torch.tensor(members.tolist())
    metrics = binary_metrics(scores[chosen], _tensor(labels[members]))
    # One class only has no ROC curve, and JSON has no NaN.
    return {key: None if value != value else round(value, 5) for key, value in metrics.items()}


def _tensor(values: pd.Series) -> torch.Tensor:
    return torch.tensor(values.tolist(), dtype=torch.float32)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train what it names."""
    parser = argparse.ArgumentParser(description="Rebuild the weights of the faces' zoo.")
    commands = parser.add_subparsers(dest="name", required=True)
    for name, recipe in CLASSIFIERS.items():
        command = commands.add_parser(name, help=recipe.about, description=recipe.about)
        command.add_argument("--data", type=Path, required=True, help="the zip of faces")
        command.add_argument("--out", type=Path, required=True, help="folder to write to")
        command.add_argument("--seed", type=int, help=f"default {recipe.seed}")
        command.add_argument("--steps", type=int, help=f"optimiser steps, default {recipe.steps}")
    command = commands.add_parser("generator", help="The two-stage generator.")
    command.add_argument("--data", type=Path, required=True, help="the zip of faces")
    command.add_argument("--out", type=Path, required=True, help="folder to write to")
    command.add_argument("--steps", type=int, default=8400, help="optimiser steps of both stages together")
    command.add_argument("--minutes", type=float, default=600, help="upper bound on the time")
    command.add_argument(
        "--checkpoints", type=Path, help="folder to keep checkpoints in, and to continue from"
    )
    command = commands.add_parser("identity", help="The embedding of persons.")
    command.add_argument("--data", type=Path, required=True, help="the zip of faces")
    command.add_argument("--out", type=Path, required=True, help="folder to write to")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--steps", type=int, default=IDENTITY_STEPS, help="optimiser steps")
    options = parser.parse_args(arguments)
    if options.name == "identity":
        entry = train_identity(options.data, options.out, steps=options.steps, seed=options.seed)
        print(json.dumps({key: entry[key] for key in ("sha256", "validation", "test")}, indent=2))
        return
    if options.name == "generator":
        entry = train_generator(
            options.data,
            options.out,
            steps=options.steps,
            minutes=options.minutes,
            checkpoints=options.checkpoints,
        )
        print(json.dumps({"sha256": entry["sha256"], "test": entry["test"]}, indent=2))
        return
    card = train_classifier(options.name, options.data, options.out, seed=options.seed, steps=options.steps)
    print(json.dumps({"sha256": card["sha256"], "test": card["test"]}, indent=2))


if __name__ == "__main__":
    main()
