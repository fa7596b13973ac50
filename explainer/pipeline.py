"""``explain``: from an image and a classifier to an explanation. Read top to bottom it is the data flow."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import Tensor, nn

from explainer.checks import Check, Thresholds, decide
from explainer.checks.compatibility import compatibility, rounding
from explainer.checks.consistency import code_typicality, latent_closeness, reconstruction, reconstruction_gap
from explainer.classifier import Classifier, Target
from explainer.errors import ClassifierError, GeneratorError, OptionError
from explainer.explanation import Explanation, Picture
from explainer.frozen import modules_within
from explainer.generators.base import Generator
from explainer.generators.zoo import fitting_generator, load_generator
from explainer.image import as_image
from explainer.saliency import SaliencyMap, difference
from explainer.storage import sha256
from explainer.walks import GradientWalk, Scene, Walk, WalkResult
from explainer.walks.base import require_levels

__all__ = ["DEFAULT_LEVELS", "explain"]

DEFAULT_LEVELS = tuple(np.linspace(0.05, 0.95, 10).tolist())
WALKS: dict[str, Callable[[], Walk]] = {"gradient": GradientWalk}
SALIENCY = ("difference",)
VERSIONS = ("progressive-explainer", "torch", "numpy", "scikit-image", "safetensors")


@torch.inference_mode(mode=False)
def explain(
    image: object,
    classifier: Classifier | nn.Module | Callable[[Tensor], Any],
    *,
    generator: Generator | str | Path = "auto",
    target: int | str | tuple[int | str, int | str] | None = None,
    levels: Sequence[float] | Tensor | np.ndarray | None = None,
    walk: str | Walk = "gradient",
    detail: float = 1.0,
    saliency: Sequence[str] = ("difference",),
    thresholds: Thresholds | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Explanation:
    """Walk an image until the classifier's output has moved where it was asked to, and check the walk.

    Progressive exaggeration (Singla et al., ICLR 2020, arXiv 1911.00483) on a frozen generator.

    Args:
        image: A path, PIL image, array or tensor; see :func:`explainer.as_image`. Any size: the walk is
            made at the generator's size, and the difference is added to the image at its own.
        classifier: A :class:`Classifier`, or a module or callable, which is wrapped with its defaults. It
            is left as it was found: mode, gradients, hooks, device.
        generator: A generator (it is put in evaluation mode, on the device), the name of one in the zoo, a
            folder, or ``"auto"``: the one of the zoo that has the image's channels and that it fits better
            than the worst fortieth of its held-out images; see :mod:`explainer.generators.zoo`.
        target: A class by index or name, or ``(a, b)``: from a towards b. By default the positive class
            of a binary classifier, else the class predicted for the image.
        levels: Probabilities of the target to walk to, strictly between 0 and 1, whatever the image's own
            is; by default ten from .05 to .95.
        walk: ``"gradient"`` or a :class:`Walk`.
        detail: Strength of the carried detail: 1 keeps all of the image that the code does not hold, 0
            shows bare reconstructions (an image larger than the generator's keeps what is too fine for it).
        saliency: Maps to make: ``"difference"``, of the two ends of the walk.
        thresholds: Where the checks turn from pass to limit to fail.
        seed: Of everything drawn at random. The gradient walk draws nothing.
        device: Where to compute; by default where the classifier's parameters are.
        progress: Say on a terminal's stderr what is being done.

    Returns:
        The explanation. A level that could not be reached is in its frames with the reason.

    Raises:
        ImageError: The image cannot be used as it is.
        ClassifierError: The classifier cannot be explained as it is.
        GeneratorError: No generator fits, or the one given has another number of channels.
        OptionError: An option outside its range.
    """
    picture = as_image(image).clone()
    asked = require_levels(DEFAULT_LEVELS if levels is None else levels)
    walker, limits = _walk(walk), Thresholds() if thresholds is None else thresholds
    _require_options(detail, saliency, limits)
    wrapped = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
    with wrapped.frozen(), _progress(progress) as say:
        place = _device(device, wrapped)
        say("checking the classifier")
        images = picture[None].to(place)
        wrapped.check(images)
        _require_classes(wrapped)
        wanted = wrapped.target(target, images)
        say("fitting the generator to the image")
        chosen = _generator(generator, images).to(place)
        say(f"walking to {len(asked)} levels")
        scene = Scene(chosen, wrapped, wanted, images, strength=detail)
        result = walker(scene, asked)
        frames = _deliver(scene, result.latents[0])
        table = _table(scene, result, asked, frames, limits)
        say("checking the walk")
        original, bare = _pictures(scene)
        checks = _checks(scene, result.latents[0], table, original, bare, limits)
        maps = _saliency(saliency, frames, table, original)
        return Explanation(
            target=wanted.label,
            level_word=f"probability of {wanted.label}",
            frames=table,
            images=frames,
            latents=result.latents[0].cpu(),
            original=original,
            bare=bare,
            outcome=_outcome(table, result, original),
            verdict=decide(checks),
            checks=checks,
            saliency=maps,
            fidelity=None,
            assumptions=_assumptions(scene, wanted, detail),
            provenance=_provenance(scene, walker, asked, detail, saliency, seed, limits),
            channel_names=chosen.channel_names,
        )


# -- what comes in ---------------------------------------------------------------------------------------


@contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[str], None]]:
    """A function that says what is being done, on stderr if that is a terminal."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield lambda doing: None
        return
    with console.status("explaining") as status:
        yield lambda doing: status.update(f"explaining: {doing}")


def _walk(walk: str | Walk) -> Walk:
    if isinstance(walk, Walk):
        return walk
    if walk not in WALKS:
        raise OptionError(
            "walk", "is not known", received=walk, remedy=f"Choose one of {', '.join(WALKS)}, or pass a Walk."
        )
    return WALKS[walk]()


def _require_options(detail: float, saliency: Sequence[str], limits: Thresholds) -> None:
    if not isinstance(detail, int | float) or not 0 <= detail <= 1:
        raise OptionError("detail", "must lie in [0, 1]", received=detail, remedy="1 carries all detail.")
    if not isinstance(limits, Thresholds):
        raise OptionError(
            "thresholds", "must be a Thresholds", received=type(limits).__name__,
            remedy="Pass for example Thresholds(level_error=.01).",
        )  # fmt: skip
    if not isinstance(saliency, tuple | list) or set(saliency) - set(SALIENCY):
        raise OptionError(
            "saliency", "must be a tuple of known methods", received=saliency,
            remedy=f"Choose from {SALIENCY}; an empty tuple makes none.",
        )  # fmt: skip


def _require_classes(classifier: Classifier) -> None:
    if classifier.kind == "regression":
        raise ClassifierError(
            "classifier", "is a regression, which explain does not walk yet", received="kind='regression'",
            remedy='Explain the event you care about as a class: kind="binary" with the logit of it.',
        )  # fmt: skip


def _device(device: str | torch.device | None, classifier: Classifier) -> torch.device:
    """The device asked for, else the classifier's own."""
    if device is not None:
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # torch raises either for a device it does not have
            raise OptionError(
                "device", "cannot be used here", received=device,
                remedy=f"Use cpu ({str(error).splitlines()[0]}).",
            ) from error  # fmt: skip
    if classifier.device is not None:
        return classifier.device
    modules = modules_within(classifier.model)
    return next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))


def _generator(generator: Generator | str | Path, images: Tensor) -> Generator:
    if isinstance(generator, Generator):
        chosen = generator
    elif not isinstance(generator, str | Path):
        raise OptionError(
            "generator", "must be a generator, a name or a folder", received=type(generator).__name__,
            remedy='Pass "auto", the name of a zoo generator, a folder, or a TwoStageVAE.',
        )  # fmt: skip
    elif generator == "auto":
        return fitting_generator(images.cpu())
    else:
        chosen = load_generator(generator)
    if chosen.shape[0] != images.shape[1]:
        raise GeneratorError(
            "generator", f"takes {chosen.shape[0]} channels", received=f"image with {images.shape[1]}",
            remedy="Pass an image with those channels, or a generator of this image's.",
        )  # fmt: skip
    return chosen.eval()


# -- what the walk delivered -----------------------------------------------------------------------------


@torch.no_grad()
def _deliver(scene: Scene, latents: Tensor) -> Tensor:
    rows = torch.zeros(len(latents), dtype=torch.long)
    return scene.deliver(latents, rows).float().cpu()


def _table(
    scene: Scene, result: WalkResult, levels: Tensor, frames: Tensor, limits: Thresholds
) -> pd.DataFrame:
    """One row per level; achieved is what the classifier says of the delivered frame."""
    device = scene.images.device
    with torch.no_grad():
        scores = scene.classifier.score(frames.to(device), scene.target).double().cpu()
        units = scene.generator.normalise(frames.to(device))  # 8 bits of each channel's own range
        eight_bit = scene.generator.denormalise((units * 255).round() / 255)
        rounded = torch.sigmoid(scene.classifier.score(eight_bit, scene.target).double()).cpu()
    achieved = torch.sigmoid(scores)
    reached = (achieved - levels).abs() <= limits.level_error
    reasons = [
        "" if ok else reason or f"level {level:.2f} not reached: the frame achieves {got:.2f}"
        for ok, reason, level, got in zip(
            reached.tolist(), result.reasons[0], levels.tolist(), achieved.tolist(), strict=True
        )
    ]
    return pd.DataFrame(
        {
            "level": levels.numpy(),
            "achieved": achieved.numpy(),
            "score": scores.numpy(),
            "reached": reached.numpy(),
            "reason": reasons,
            "distance": (result.latents[0] - scene.z[0]).norm(dim=1).double().cpu().numpy(),
            "rounded": rounded.numpy(),
        }
    )


@torch.no_grad()
def _pictures(scene: Scene) -> tuple[Picture, Picture]:
    """The original at its own size, and its bare reconstruction at the generator's."""

    def picture(images: Tensor) -> Picture:
        return Picture(
            image=images[0].float().cpu(),
            score=float(scene.classifier.score(images, scene.target)[0]),
            level=float(scene.classifier.level(images, scene.target)[0]),
            class_name=scene.classifier.class_name(images),
        )

    return picture(scene.images), picture(scene.generator.bare(scene.small))


def _checks(
    scene: Scene, latents: Tensor, table: pd.DataFrame, original: Picture, bare: Picture, limits: Thresholds
) -> tuple[Check, ...]:
    return (
        reconstruction(scene.generator, scene.small, limits),
        reconstruction_gap(original.score, bare.score, original.class_name, bare.class_name, limits),
        compatibility(table["level"], table["achieved"], table["reason"], limits),
        rounding(table["achieved"], table["rounded"], limits),
        code_typicality(scene.generator, latents, limits),
        latent_closeness(scene.z[0], latents),
    )


def _saliency(
    names: Sequence[str], frames: Tensor, table: pd.DataFrame, original: Picture
) -> dict[str, SaliencyMap]:
    achieved = table["achieved"].tolist()
    return {name: difference(frames, achieved, original.image, original.level) for name in names}


# -- what is said of it ----------------------------------------------------------------------------------


def _outcome(table: pd.DataFrame, result: WalkResult, original: Picture) -> str:
    reached = int(table["reached"].sum())
    effort = f"{result.gradients:.0f} gradients and {result.evaluations:.0f} further evaluations"
    first = (
        f"From its own level {original.level:.2f} the image was walked to {reached} of {len(table)} levels "
        f"with {effort}."
    )
    reasons = [reason for reason in table["reason"] if reason]
    return f"{first} {reasons[0][0].upper()}{reasons[0][1:]}." if reasons else first


def _assumptions(scene: Scene, target: Target, detail: float) -> tuple[str, ...]:
    height, width = scene.images.shape[-2:]
    top, left, rows, columns = scene.region
    seen = (
        "all of it"
        if (rows, columns) == (height, width)
        else f"rows {top}-{top + rows}, columns {left}-{left + columns}"
    )
    channels, inner_height, inner_width = scene.generator.shape
    size = f"{inner_width}x{inner_height}"
    resized = "" if (height, width) == (inner_height, inner_width) else (
        f" The walk was made at {size} pixels; its frames were enlarged to {width}x{height} and carry the "
        "image's finer detail where they do not change it."
    )  # fmt: skip
    return (
        f"The classifier: {scene.classifier.preprocessing}",
        f"The score is the log-odds of {target.label}; a level is its probability.",
        f"The generator ({scene.generator.kind}, {channels} channels, {size}) sees {seen}.{resized}",
        f"Carried detail: {detail:.0%} of what the code does not hold of this image is added to every frame, "
        "less where the walk changes it.",
    )


def _provenance(
    scene: Scene,
    walk: Walk,
    levels: Tensor,
    detail: float,
    saliency: Sequence[str],
    seed: int,
    limits: Thresholds,
) -> dict[str, Any]:
    return {
        "versions": {name: _version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "image": {
            "sha256": sha256(scene.images[0].float().cpu().contiguous().numpy().tobytes()),
            "shape": list(scene.images.shape[1:]),
        },
        "classifier": {
            "sha256": scene.classifier.fingerprint,
            "kind": scene.classifier.kind,
            "outputs": scene.classifier.outputs,
        },
        "target": asdict(scene.target),
        "generator": {
            "source": scene.generator.source,
            "sha256": scene.generator.fingerprint,
            "kind": scene.generator.kind,
        },
        "options": {
            "walk": walk.name,
            **walk.options(),
            "levels": [round(level, 6) for level in levels.tolist()],
            "detail": detail,
            "saliency": list(saliency),
            "seed": seed,
            "device": str(scene.images.device),
        },
        "thresholds": asdict(limits),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
