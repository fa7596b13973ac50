"""What the shell completes after TAB: names of the zoo, read from the cards without importing torch."""

import json
from importlib.resources import files
from pathlib import Path

__all__ = ["classifiers", "generators", "kinds_of_generators", "one_of", "saliency_methods"]

MODEL_FILES = (".onnx", ".pt2")
CARD = "card.json"
KINDS_OF_GENERATORS = ("vae", "infomax", "two-stage", "mixture")
SALIENCY_METHODS = (
    "difference", "path_integrated", "saliency", "input_x_gradient", "integrated_gradients", "gradient_shap",
    "guided_backprop", "deconvolution", "deep_lift", "grad_cam", "occlusion", "feature_ablation",
)  # fmt: skip


def classifiers(incomplete: str) -> list[str]:
    """Classifiers of the zoo, and files of models in the folder that has been typed so far."""
    names = [f"{name}/{key}" for name, card in _cards() for key in card.get("classifiers", {})]
    return [word for word in names if word.startswith(incomplete)] + _paths(incomplete, MODEL_FILES)


def generators(incomplete: str) -> list[str]:
    """``auto``, generators of the zoo, and folders."""
    names = ["auto", *(name for name, card in _cards() if "generator" in card)]
    return [word for word in names if word.startswith(incomplete)] + _paths(incomplete, ())


def one_of(words: tuple[str, ...], incomplete: str) -> list[str]:
    """The words that begin with what has been typed."""
    return [word for word in words if word.startswith(incomplete)]


def kinds_of_generators(incomplete: str) -> list[str]:
    """Kinds that ``train`` knows."""
    return one_of(KINDS_OF_GENERATORS, incomplete)


def saliency_methods(incomplete: str) -> list[str]:
    """Methods of maps, also after a comma."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + word for word in one_of(SALIENCY_METHODS, last)]


def _cards() -> list[tuple[str, dict]]:
    folders = [folder for folder in files("explainer._models").iterdir() if (folder / CARD).is_file()]
    return sorted((folder.name, json.loads((folder / CARD).read_text("utf-8"))) for folder in folders)


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders, and files with these suffixes, whose path begins with what has been typed."""
    folder, _, start = incomplete.rpartition("/")
    place = Path(folder + "/") if "/" in incomplete else Path()
    try:
        entries = sorted(place.iterdir())
    except OSError:
        return []
    prefix = f"{folder}/" if "/" in incomplete else ""
    return [
        f"{prefix}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(start)
        and (start or not entry.name.startswith("."))
        and (entry.is_dir() or entry.suffix in suffixes)
    ]
