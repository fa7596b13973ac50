"""What a model folder of the zoo says of itself: the entries of ``card.json``, written beside the weights.

The scripts ``models/*/train.py`` share this; a card is read by :mod:`explainer.generators.zoo`.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor

from explainer.convnet import ConvNet, PlainNet
from explainer.generators.training import CARD, TrainableGenerator
from explainer.storage import read_json, read_tensors, write_json, write_tensors

__all__ = ["update_card", "write_classifier", "write_generator"]

TRAINING_KEYS = ("steps", "batch_size", "seed", "label_smoothing", "label_noise", "temperature")


def write_classifier(
    network: ConvNet | PlainNet,
    report: Mapping[str, Any],
    folder: Path,
    name: str,
    *,
    facts: Mapping[str, Any],
    half: bool = False,
) -> dict[str, Any]:
    """Write the weights of a binary classifier and return what a card says of them.

    Args:
        network: The network, trained.
        report: What :func:`explainer.convnet.fit_classifier` reported of it.
        folder: Folder to write to; it is created.
        name: Of the classifier, which is also that of its file.
        facts: Entries that only the caller knows: ``about``, ``class_names``, ``size``, ``preprocessing``,
            ``training`` (what it was trained on), and ``mean`` and ``std`` if images are normalised.
        half: Store the weights in half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    digest = write_tensors(file, network.state_dict(), half=half)
    return {
        "about": facts["about"],
        "file": file.name,
        "sha256": digest,
        "network": report["architecture"],
        "architecture": network.architecture,
        "kind": "binary",
        "outputs": "logits",
        **facts,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": {**facts["training"], **{key: report[key] for key in TRAINING_KEYS}},
        "validation": report["validation"],
    }


def write_generator(
    generator: TrainableGenerator,
    folder: Path,
    about: Mapping[str, Any],
    *,
    test: Tensor,
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a trained generator and what it measures on test images, once rounded to half precision.

    Args:
        generator: The generator, trained.
        folder: Folder to write to; it is created.
        about: The entries of the card that are written by hand.
        test: Images ``(N, C, H, W)`` in [0, 1] that it was neither trained nor chosen on.
        training: What it was trained on, and for how long.

    Returns:
        The entry of the card that was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry = generator.entry(folder, half=True)
    rounded = deepcopy(generator)
    rounded.load_state_dict(read_tensors(folder / str(entry["file"]), str(entry["sha256"]), "generator"))
    health = rounded.health(test)
    entry |= {
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "training": dict(training),
        "test": {
            "n": health.images,
            "bare": {name: list(getattr(health, name)) for name in ("mse", "r2", "ssim")},
            "stage 1": {name: list(values) for name, values in health.stages["stage 1"].items()},
            "kl_nats": sum(health.kl),
            "verdict": health.sentence,
        },
    }
    update_card(folder, about, {"generator": entry})
    return entry


def update_card(folder: Path, about: Mapping[str, Any], change: Mapping[str, Any]) -> None:
    """Put entries into the card of a folder; classifiers are added to those that are there.

    Args:
        folder: Of the model.
        about: The entries that are written by hand: format, name, summary, data, licence, limits.
        change: ``{"generator": ...}`` or ``{"classifiers": {name: ...}}``.
    """
    path = folder / CARD
    card = read_json(path, "card") if path.exists() else {}
    classifiers = card.get("classifiers", {}) | change.get("classifiers", {})
    write_json(path, {**card, **change, **about, "classifiers": classifiers})
