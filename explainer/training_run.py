"""A training of the command line: it can be killed at any moment and continued.

While it runs, ``DIR.checkpoints`` holds its settings and the checkpoints of its phases, each replaced as a
whole, at least every minute. The model folder ``DIR`` appears complete when training has ended; then the
history and the page of figures are written into it, and the checkpoints are removed. What is delivered is
the best state by the bound on held-out images, whether the steps ran out or the minutes did; a run that was
stopped ends with it, without training on, if it is continued with hardly any minutes.
"""

import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explainer.errors import ExplainerError, OptionError, OutputError, TrainingError
from explainer.generators.base import as_unit_interval
from explainer.generators.feed import Feed, of_set
from explainer.generators.health import Health
from explainer.generators.training import CARD, FEWEST_IMAGES, TrainableGenerator, affordable
from explainer.generators.zoo import KINDS
from explainer.image_sets import open_image_set
from explainer.report.output import write_file
from explainer.report.training_figures import (
    history_figure,
    kl_figure,
    reconstruction_figure,
    sample_figure,
    training_page,
)
from explainer.storage import read_json, write_json

__all__ = ["Settings", "TrainingResult", "checkpoints_of", "health_as_dict", "prepare", "train"]

SETTINGS = "settings.json"
DRAWN = 8
ASIDE = 5  # images at least that are measured on


@dataclass(frozen=True)
class Settings:
    """What decides a training.

    Attributes:
        data: Set of images, see :func:`explainer.image_sets.read_image_set`.
        kind: Of the generator: vae, infomax, two-stage or mixture.
        size: Height of the images in pixels, and width unless one is given.
        width: Width in pixels.
        latent_dim: Dimensions of the code; None for the default of the kind.
        steps: Optimiser steps.
        minutes: Upper bound on the time; may be another one when the run is continued.
        seed: Of weights, batches and the split.
        flip: Mirror half of the images.
        sampler: Fit a second VAE to the codes, so that samples look like images.
    """

    data: str
    kind: str = "two-stage"
    size: int = 64
    latent_dim: int | None = None
    steps: int = 20_000
    minutes: float = 30.0
    seed: int = 0
    flip: bool = False
    width: int | None = None
    sampler: bool = False

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width."""
        return self.size, self.size if self.width is None else self.width


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and what is known of it.

    Attributes:
        folder: The model folder.
        files: Files in it for people to read, by kind.
        images: How many images it was trained on.
        steps: Optimiser steps taken, at least.
        seconds: Time of this run.
        health: On held-out images.
    """

    folder: Path
    files: dict[str, str]
    images: int
    steps: int
    seconds: float
    health: Health


def checkpoints_of(out: Path) -> Path:
    """The folder of checkpoints beside a model folder."""
    return out.with_name(f"{out.name}.checkpoints")


def prepare(out: Path, given: Mapping[str, Any], *, resume: bool) -> Settings:
    """The settings of a run that may begin or continue; nothing is written.

    Args:
        out: The model folder to be.
        given: Settings that were given, by name; the others are those of the run to be continued, or the
            defaults.
        resume: Continue what ``DIR.checkpoints`` holds.

    Raises:
        OptionError: No data, an unknown kind, an unfinished run in the way, or nothing to continue.
        OutputError: The place is taken.
    """
    out = out.resolve()
    folder = checkpoints_of(out)
    begun = (folder / SETTINGS).is_file()
    taken = out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (resume and begun)))
    if taken or out == Path.cwd() or not out.name:
        raise OutputError(
            "out", "is a model already" if (out / CARD).is_file() else "is taken", received=out,
            remedy="Choose a new folder, or remove that one first.",
        )  # fmt: skip
    if not begun and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputError(
            "out", "has beside it the place of its checkpoints, which holds something else", received=folder,
            remedy="Choose another folder.",
        )  # fmt: skip
    if begun and not resume:
        raise OptionError(
            "out", "has the checkpoints of an unfinished run", received=folder,
            remedy="Add --resume to continue it, or remove that folder to start over.",
        )  # fmt: skip
    if resume and not begun:
        raise OptionError(
            "resume", "there is nothing to continue", received=f"no {folder / SETTINGS}",
            remedy="Leave out --resume to start.",
        )  # fmt: skip
    before = read_json(folder / SETTINGS, "checkpoints") if resume else {}
    known = {field.name for field in fields(Settings)}
    values = {**{name: value for name, value in before.items() if name in known}, **given}
    if not values.get("data"):
        raise OptionError(
            "data", "is missing", received="nothing", remedy="Pass --data with a folder, .zip, .npz or .csv."
        )
    settings = Settings(**values)
    if settings.kind not in KINDS:
        raise OptionError(
            "kind", "is unknown", received=settings.kind, remedy=f"Choose one of: {', '.join(KINDS)}."
        )
    if settings.steps < 1 or not (settings.minutes > 0 and math.isfinite(settings.minutes)):
        raise OptionError(
            "steps, minutes", "must be positive", received=(settings.steps, settings.minutes),
            remedy="Pass for example --steps 20000 --minutes 30.",
        )  # fmt: skip
    if min(settings.pixels) < 16:
        raise OptionError(
            "size, width", "must be at least 16", received=settings.pixels,
            remedy="Pass for example --size 64.",
        )  # fmt: skip
    return settings


def train(
    settings: Settings, out: Path, *, progress: bool, device: str | torch.device | None = None
) -> TrainingResult:
    """Train, save and measure a generator; continues where checkpoints are.

    Args:
        settings: Checked by :func:`prepare`.
        out: The model folder to be.
        progress: Show a bar when attached to a terminal.
        device: Where to train; the CPU by default. It is no setting: a run may go on elsewhere.

    Raises:
        ExplainerError: Data that cannot be trained on, or settings that are not those of the run.
        KeyboardInterrupt: Ctrl-C; ``DIR.checkpoints`` holds what was trained until then.
    """
    began = time.monotonic()
    out = out.resolve()
    found = open_image_set(settings.data)
    fewest = FEWEST_IMAGES + ASIDE
    if len(found) < fewest:
        raise TrainingError(
            "data", f"must be at least {fewest} images: {ASIDE} of them are set aside",
            received=len(found), remedy="Add images.",
        )  # fmt: skip
    shape = (len(found.image(0)), *settings.pixels)
    images = of_set(found, "data", shape, fewest, name=str(Path(settings.data).resolve()))
    options: dict[str, Any] = {"sampler": settings.sampler}
    options |= {} if settings.latent_dim is None else {"latent_dim": settings.latent_dim}
    generator = KINDS[settings.kind](shape, **options, seed=settings.seed)  # type: ignore[call-arg]
    held_out, training = _split(images, settings.seed)
    folder = checkpoints_of(out)
    _begin(folder, settings)
    try:
        generator.fit(
            training, steps=settings.steps, minutes=settings.minutes, seed=settings.seed,
            flip=settings.flip, held_out=held_out, resume_from=folder, progress=progress,
            devices=device,
        )  # fmt: skip
    except ExplainerError:
        if not any(folder.glob("*.ckpt")):  # nothing was trained: the next attempt is not a continuation
            shutil.rmtree(folder)
        raise
    measured = as_unit_interval(held_out[: affordable(shape)])
    health = generator.health(measured)
    generator.save(out)
    files = {
        "history": write_file(out / "history.csv", generator.history.to_csv(index=False).encode()),
        "page": write_file(
            out / "training.html", _page(generator, health, measured, settings, out.name).encode()
        ),
    }
    shutil.rmtree(folder)
    return TrainingResult(
        folder=out,
        files={name: str(path) for name, path in files.items()},
        images=len(training),
        steps=int(generator.history.groupby("phase")["step"].max().sum()),
        seconds=round(time.monotonic() - began, 1),
        health=health,
    )


def health_as_dict(health: Health) -> dict[str, Any]:
    """A health as JSON takes it: lists, and None for what is not finite."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, tuple):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in asdict(health).items()}


def _split(images: Feed, seed: int) -> tuple[Feed, Feed]:
    """5 % of the images, 5 to 500, set aside, and the rest; none is copied or read."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    aside = min(500, max(ASIDE, len(images) // 20))
    return images.part(order[:aside]), images.part(order[aside:])


def _begin(folder: Path, settings: Settings) -> None:
    """Note the settings beside the checkpoints, once."""
    if (folder / SETTINGS).is_file():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = folder.with_name(f".{folder.name}-{os.getpid()}")
        scratch.mkdir()
        write_json(scratch / SETTINGS, {**asdict(settings), "data": str(Path(settings.data).resolve())})
        os.replace(scratch, folder)
    except OSError as error:
        raise OutputError(
            "out", "cannot be written to", received=f"{folder}: {error.strerror}",
            remedy="Choose another place.",
        ) from error  # fmt: skip


def _page(
    generator: TrainableGenerator, health: Health, images: Tensor, settings: Settings, name: str
) -> str:
    """The page of figures; errors are in the generator's normalised units, as in the health."""
    names = generator.channel_names
    originals = generator.normalise(images)
    stages = {**generator.stage_reconstructions(images), "bare": generator.normalise(generator.bare(images))}
    rebuilt = {stage: values.cpu().numpy() for stage, values in stages.items()}
    figures = {"What the loss is made of": history_figure(generator.history, channel_names=names)}
    if health.kl:
        figures["Information in the code"] = kl_figure(health.kl)
    heading = "Held-out images and their reconstructions"
    figures[heading] = reconstruction_figure(
        originals.cpu().numpy(), rebuilt, channel_names=names, most=DRAWN
    )
    samples = generator.normalise(generator.sample(DRAWN)).cpu().numpy()
    figures["Samples of the prior"] = sample_figure(samples, channel_names=names)
    said = ", ".join(f"{key} {value}" for key, value in asdict(settings).items() if key != "data")
    sentences = [
        f"{health.status.capitalize()}. {health.sentence}",
        *health.facts(),
        f"Measured on {health.images} images that were not trained on; the best state was chosen on some of "
        f"them. Settings: {said}.",
    ]
    return training_page(f"Training of {name}", sentences, figures)
