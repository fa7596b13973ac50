"""Saved generators, and the models that ship with the package.

A model folder holds ``card.json`` (what it is, trained on what, under which licence, how good, with
which limits) and its weights as safetensors, whose SHA-256 the card names. The folders of the zoo are
read from the installed package, one's own from any path.
"""

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explainer.classifier import Classifier
from explainer.convnet import NETWORKS
from explainer.errors import GeneratorError, ModelFileError, OptionError
from explainer.generators.axes import NamedAxes
from explainer.generators.base import Generator
from explainer.generators.infomax import InfoMaxVAE
from explainer.generators.mixture import GaussianMixtureVAE
from explainer.generators.training import CARD, CARD_FORMAT, TrainableGenerator
from explainer.generators.two_stage import TwoStageVAE
from explainer.generators.vae import VAE
from explainer.storage import read_json, read_tensors

__all__ = ["fitting_generator", "list_models", "load_classifier", "load_generator"]

FITTING = "0.975"
KINDS: dict[str, type[TrainableGenerator]] = {
    cls.kind: cls for cls in (VAE, InfoMaxVAE, TwoStageVAE, GaussianMixtureVAE)
}


def list_models() -> list[dict[str, Any]]:
    """The cards of the zoo, in the order of their names."""
    return [_card(folder) for folder in _zoo()]


def load_generator(source: str | Path) -> TrainableGenerator:
    """A generator of the zoo by name, or one that was saved to a folder.

    Args:
        source: A name such as ``"faces"``, which always means the zoo's, or a folder (``"./faces"``).

    Returns:
        The generator in evaluation mode, on the CPU, without gradients for its weights.

    Raises:
        OptionError: No such name or folder.
        ModelFileError: The folder is not complete, or its weights are not those the card names.
    """
    folder = _folder(source)
    entry = _entry(_card(folder), "generator", folder)
    if entry.get("kind") not in KINDS:
        raise ModelFileError(
            "generator", f"is of an unknown kind; known are {', '.join(KINDS)}", received=entry.get("kind"),
            remedy="Update progressive-explainer.",
        )  # fmt: skip
    try:
        options = {"linear": False, **entry["options"]}  # earlier cards know of no linear path
        generator = KINDS[entry["kind"]](tuple(options.pop("shape")), **options)
        tensors = read_tensors(folder / entry["file"], entry["sha256"], "generator")
    except (KeyError, TypeError) as error:
        raise _incomplete(folder, error) from error
    _load_state(generator, tensors, "generator", folder)
    generator.quantiles = entry.get("quantiles", {})
    names = entry.get("channel_names")
    generator.channel_names = tuple(names) if names else None
    if "axes" in entry:
        generator.axes = _axes(entry["axes"], folder)
    if isinstance(generator, GaussianMixtureVAE):
        named = entry.get("cluster_names", {})
        generator.name_clusters({int(number): name for number, name in named.items()})
    generator.requires_grad_(False).eval()
    generator.source, generator.fingerprint = str(source), entry["sha256"]
    return generator


def load_classifier(source: str) -> Classifier:
    """A classifier of the zoo.

    Args:
        source: ``"<model>/<classifier>"``, such as ``"faces/smile"``.

    Raises:
        OptionError: No such classifier.
        ModelFileError: Its weights are not those the card names.
    """
    model, _, name = str(source).partition("/")
    folder = _folder(model)
    entries = _card(folder).get("classifiers", {})
    if name not in entries:
        known = ", ".join(
            f"{card['name']}/{key}" for card in list_models() for key in card.get("classifiers", {})
        )
        raise OptionError(
            "classifier", "is not in the zoo", received=source, remedy=f"Choose one of: {known}."
        )
    entry = entries[name]
    try:
        network = NETWORKS[entry["network"]](**entry["architecture"])
        tensors = read_tensors(folder / entry["file"], entry["sha256"], "classifier")
        names, size = entry["class_names"], tuple(entry["size"])
        mean, std = entry.get("mean"), entry.get("std")
    except (KeyError, TypeError) as error:
        raise _incomplete(folder, error) from error
    _load_state(network, tensors, "classifier", folder)
    network.requires_grad_(False).eval()
    return Classifier(network, class_names=names, size=size, mean=mean, std=std)


def fitting_generator(
    images: Tensor, *, load: Callable[[str], TrainableGenerator] | None = None
) -> TrainableGenerator:
    """The zoo generator that fits images, for ``generator="auto"``.

    A generator fits if it has as many channels and the images are not in the worst fortieth of the held-out
    images it was measured on: neither by the error of ``bare``, nor by the share of their own variance that
    ``bare`` misses (a dull picture of anything has a small error), nor by how far their codes lie from the
    mean code. If several fit, the one whose worst of these is best. A generator that is named is used
    whatever its error: the check of the explanation then says how unusual the image is.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], any size.
        load: Loads a generator by name; :func:`load_generator`, or one that remembers what it loaded.

    Raises:
        GeneratorError: None fits; the error shows each one's error against its own quantiles.
    """
    tried, best = [], None
    for folder in _zoo():
        card = _card(folder)
        if "generator" not in card:
            continue
        shape = tuple(card["generator"]["options"]["shape"])
        if shape[0] != images.shape[1]:
            tried.append(f"{card['name']} takes {shape[0]} channels")
            continue
        generator = (load or load_generator)(card["name"])
        ratio, said = misfit(generator, images)
        if ratio <= 1 and (best is None or ratio < best[0]):
            best = ratio, generator
        tried.append(f"{card['name']}: {said}")
    if best is None:
        raise GeneratorError(
            "generator",
            f"no generator of the zoo fits this image: {'; '.join(tried)}",
            received=f"image of shape {tuple(images.shape[1:])}",
            remedy="Crop the image like the generator's training images (its README says how), name the "
            "generator to use it all the same, or train one: TwoStageVAE(shape).fit(images).",
        )
    return best[1]


def misfit(generator: Generator, images: Tensor) -> tuple[float, str]:
    """The worst of three measures over what held-out images stay below, and a clause about all three."""
    top, left, height, width = generator.region((images.shape[-2], images.shape[-1]))
    small = generator.resized(images)
    with torch.no_grad():
        values = {
            "bare": float(generator.bare_error(small).max()),
            "unexplained": float(generator.unexplained(small).max()),
            "typicality": float(generator.typicality(generator.encode(small)).max()),
        }
    limits = {name: generator.quantiles[name][FITTING] for name in values}
    missed = "all" if values["unexplained"] >= 1 else f"{values['unexplained']:.0%}"
    return max(values[name] / limits[name] for name in values), (
        f"its region (rows {top}-{top + height}, columns {left}-{left + width}) is reconstructed with error "
        f"{values['bare']:.4f} ({float(FITTING):.1%} of the held-out images: below {limits['bare']:.4f}), "
        f"missing {missed} of its variance ({limits['unexplained']:.0%}), by a code "
        f"{values['typicality']:.2f} standard deviations from the mean ({limits['typicality']:.2f})"
    )


# -- folders and cards ---------------------------------------------------------------------------------


def _zoo() -> list[Traversable]:
    root = files("explainer._models")
    folders = [folder for folder in root.iterdir() if folder.is_dir() and (folder / CARD).is_file()]
    return sorted(folders, key=lambda folder: folder.name)


def _folder(source: str | Path) -> Any:
    for folder in _zoo():
        if folder.name == source:  # a bare name is the zoo's, whatever lies in the working directory
            return folder
    path = Path(source)
    if (path / CARD).is_file():
        return path
    names = ", ".join(folder.name for folder in _zoo())
    raise OptionError(
        "source",
        "is neither a model of the zoo nor a folder that holds one" if path.exists() else "is no generator",
        received=source,
        remedy=f"Choose one of the zoo ({names}), or a folder that `explainer train` or save() made.",
    )


def _card(folder: Any) -> dict[str, Any]:
    card = read_json(folder / CARD, "model")
    if card.get("format") != CARD_FORMAT:
        raise ModelFileError(
            "model", f"has a card of another format than {CARD_FORMAT}", received=card.get("format"),
            remedy="Update progressive-explainer, or save the model again.",
        )  # fmt: skip
    return card


def _entry(card: dict[str, Any], name: str, folder: Any) -> dict[str, Any]:
    if not isinstance(card.get(name), dict):
        raise ModelFileError("model", f"has no {name}", received=folder, remedy="Save the model again.")
    return card[name]


def _axes(entry: dict[str, Any], folder: Any) -> NamedAxes:
    """The named axes that a card tells of."""
    try:
        return NamedAxes.rebuilt(entry, read_tensors(folder / entry["file"], entry["sha256"], "axes"))
    except (KeyError, TypeError) as error:
        raise _incomplete(folder, error) from error


def _incomplete(folder: Any, error: Exception) -> ModelFileError:
    return ModelFileError(
        "model", "has a card that is not complete", received=folder,
        remedy=f"Save the model again ({type(error).__name__}: {error}).",
    )  # fmt: skip


def _load_state(module: torch.nn.Module, tensors: dict[str, Tensor], argument: str, folder: Any) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(
            argument, "does not have the weights its card describes", received=folder,
            remedy=f"Save the model again ({str(error).splitlines()[-1].strip()}).",
        ) from error  # fmt: skip
