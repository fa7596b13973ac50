"""Training that ends well: a step budget, warm-up and cosine, clipping, averaged weights, resumption.

A generator names its *phases* (one for a plain VAE, two for a two-stage VAE): what is trained, and the
loss of a batch. The loop belongs to Lightning. Batches, augmentation and reparametrisation noise are
drawn from the seed and the step number alone, so a resumed run continues as if it had never stopped.
Steps whose gradient is not finite are skipped and counted.
"""

import logging
import math
import tempfile
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from explainer.errors import OptionError, TrainingError
from explainer.generators.base import Generator
from explainer.generators.health import Health, measure_health
from explainer.storage import new_folder, write_json, write_tensors

__all__ = ["CARD", "CARD_FORMAT", "Phase", "TrainableGenerator", "as_unit_interval"]

CARD = "card.json"
CARD_FORMAT = 1

WARM_UP_STEPS = 100
EMA_DECAY = 0.999
CLOCK_LEAD = 0.05
CHECKPOINT_SECONDS = 50
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Phase:
    """One optimisation.

    Attributes:
        name: Shown in the history and the progress bar.
        share: Share of the whole step and time budget.
        module: Its parameters are trained and averaged; everything else is frozen.
    """

    name: str
    share: float
    module: nn.Module


class _Batches(IterableDataset[Tensor]):
    """Index-seeded batches of storage-typed images, from step ``start`` to step ``steps``."""

    def __init__(self, images: Tensor, batch_size: int, steps: int, seed: int) -> None:
        self.images, self.batch_size, self.steps, self.seed = images, batch_size, steps, seed
        self.start = 0

    def __iter__(self) -> Iterator[Tensor]:
        per_epoch = max(1, len(self.images) // self.batch_size)
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, per_epoch)
            if step == self.start or position == 0:
                order = torch.randperm(
                    len(self.images), generator=torch.Generator().manual_seed(self.seed + 1_000_003 * epoch)
                )
            yield self.images[order[position * self.batch_size : (position + 1) * self.batch_size]]


class _RampedAverage(WeightAveraging):
    """Exponential moving average whose decay rises to .999, so that short runs are averaged too."""

    def __init__(self) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            decay = min(EMA_DECAY, (1 + float(count)) / (10 + float(count)))
            return torch.lerp(averaged, current, 1 - decay) if averaged.is_floating_point() else current

        super().__init__(avg_fn=average)


class _Loop(pl.LightningModule):
    """Lightning's view of one phase."""

    def __init__(
        self,
        generator: "TrainableGenerator",
        phase: Phase,
        *,
        steps: int,
        seconds: float,
        rate: float,
        seed: int,
        flip: bool,
    ) -> None:
        super().__init__()
        self.trained = phase.module
        self.owner = [(generator, phase)]  # in a list, so that only `trained` is a submodule and saved
        self.steps, self.seconds, self.rate, self.seed, self.flip = steps, seconds, rate, seed, flip
        self.began = time.monotonic()
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))
        self.skipped: Tensor
        self.rows: list[dict[str, float | str]] = []

    @property
    def generator(self) -> "TrainableGenerator":
        return self.owner[0][0]

    @property
    def phase(self) -> Phase:
        return self.owner[0][1]

    def progress(self) -> float:
        """Share of the budget that is used up.

        Steps decide, so that a run can be repeated; the clock only where it is a twentieth of its
        budget ahead of them, so that a run it will cut short is still annealed.
        """
        clock = (time.monotonic() - self.began) / self.seconds
        return min(1.0, max(self.global_step / self.steps, (clock - CLOCK_LEAD) / (1 - CLOCK_LEAD)))

    def training_step(self, batch: Tensor, _: int) -> Tensor | None:
        noise = torch.Generator(batch.device).manual_seed(self.seed * 7_919 + self.global_step)
        images = as_unit_interval(batch)
        if self.flip:
            mirrored = torch.rand(len(images), generator=noise, device=images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        ramp = min(1.0, 10 * self.progress())
        loss, terms = self.generator.loss(self.phase, self.generator.prepare(images), noise, ramp)
        if not torch.isfinite(loss):
            self.skipped += 1
            return None
        if self.global_step % 25 == 0:
            values = {name: float(value.detach()) for name, value in terms.items()}
            self.rows.append(
                {"phase": self.phase.name, "step": self.global_step, "loss": float(loss.detach()), **values}
            )
            self.log_dict(values, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.trained.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            nn.utils.clip_grads_with_norm_(self.trained.parameters(), 1.0, norm)
        else:
            self.skipped += 1
            optimizer.zero_grad(set_to_none=True)
        warm_up = min(1.0, (self.global_step + 1) / min(WARM_UP_STEPS, self.steps / 5))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in optimizer.param_groups:
            group["lr"] = self.rate * warm_up * (0.01 + 0.99 * cosine)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trained.parameters(), lr=self.rate, betas=(0.9, 0.99))


def as_unit_interval(images: Tensor) -> Tensor:
    """Stored images as float32 in [0, 1]: unsigned integers are divided by their type's maximum."""
    if images.is_floating_point():
        return images.float()
    return images.float() / torch.iinfo(images.dtype).max


class TrainableGenerator(Generator):
    """A generator with phases and a loss: ``fit`` trains it and stores what inference needs to know."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The optimisations, in order; their shares sum to 1."""

    @abstractmethod
    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of prepared images and its named terms.

        Args:
            phase: The running phase.
            prepared: ``(N, C, H, W)``, normalised and padded.
            noise: Source of the reparametrisation noise.
            ramp: Weight of the KL term, 0 to 1 over the first tenth of the budget.
        """

    def begin(self, phase: Phase, images: Tensor) -> None:
        """Called before a phase with the storage-typed training images."""

    def fit(
        self,
        images: Tensor | np.ndarray,
        *,
        steps: int = 20_000,
        minutes: float = 30.0,
        seed: int = 0,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        flip: bool = False,
        held_out: Tensor | np.ndarray | None = None,
        checkpoints: str | Path | None = None,
        progress: bool = True,
        device: str | torch.device | None = None,
    ) -> Self:
        """Train on images and store intensity percentiles, code statistics and error quantiles.

        Args:
            images: ``(N, C, H, W)``: floats in [0, 1], or unsigned integers, which are divided by their
                type's maximum.
            steps: Optimiser steps over all phases. This is the reproducible budget.
            minutes: Upper bound on the time; if it binds, the learning rate is annealed to it.
            seed: Decides initial weights, batches and noise.
            batch_size: Images a step.
            learning_rate: Peak rate of Adam, after 100 warm-up steps and before the cosine.
            flip: Mirror half of the images (where left and right mean nothing).
            held_out: Images of the error quantiles; by default 5 % of ``images``, at most 500, are set aside.
            checkpoints: Folder for checkpoints; a run that finds its own checkpoint there continues.
            progress: Show a progress bar when attached to a terminal.
            device: ``"cpu"``, ``"cuda"``, ...; by default where the generator is.

        Returns:
            The generator itself, trained, in evaluation mode. ``history`` holds the loss terms.

        Raises:
            OptionError: A budget that is not positive.
            TrainingError: Unusable images, or more than a tenth of the steps were not finite.
        """
        if steps < 1 or minutes <= 0 or batch_size < 1 or learning_rate <= 0:
            raise OptionError(
                "steps, minutes, batch_size, learning_rate",
                "must be positive",
                received=(steps, minutes, batch_size, learning_rate),
                remedy="Pass for example steps=20_000, minutes=30.",
            )
        stored = self._training_images(images, "images")
        order = torch.randperm(len(stored), generator=torch.Generator().manual_seed(seed))
        if held_out is None:
            aside = max(1, min(500, len(stored) // 20))
            kept, training = stored[order[:aside]], stored[order[aside:]]
        else:
            kept, training = self._training_images(held_out, "held_out"), stored
        self.to(device or self.intensity.device)
        self._store_intensity(training, seed)
        rows: list[dict[str, float | str]] = []
        skipped = 0
        with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng():
            folder = Path(checkpoints) if checkpoints is not None else Path(scratch)
            for number, phase in enumerate(self.phases()):
                torch.manual_seed(seed + number)
                self.begin(phase, training)
                budget = max(1, round(steps * phase.share))
                loop = _Loop(
                    self,
                    phase,
                    steps=budget,
                    seconds=60 * minutes * phase.share,
                    rate=learning_rate,
                    seed=seed + 104_729 * number,
                    flip=flip,
                )
                _run(loop, training, min(batch_size, len(training)), folder, progress)
                rows += loop.rows
                skipped += int(loop.skipped)
                if skipped > max(10, budget // 10):
                    raise TrainingError(
                        "learning_rate", "too many steps had no finite gradient", received=skipped,
                        remedy="Train again with a smaller learning rate.",
                    )  # fmt: skip
        self.requires_grad_(False).eval()
        self.history = pd.DataFrame(rows)
        self.skipped_steps = skipped
        self._store_codes(training, kept)
        return self

    def health(self, images: Tensor) -> Health:
        """Measure this generator on images ``(N, C, H, W)`` in [0, 1] it was not trained on."""
        self._require_shape(images)
        return measure_health(self, images)

    def entry(self, folder: Path, *, half: bool = False) -> dict[str, object]:
        """Write the weights into an existing folder and return what a card says of them."""
        digest = write_tensors(folder / "generator.safetensors", self.state_dict(), half=half)
        return {
            "kind": self.kind,
            "options": self.options(),
            "quantiles": self.quantiles,
            "channel_names": self.channel_names,
            "file": "generator.safetensors",
            "sha256": digest,
        }

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write ``card.json`` and ``generator.safetensors``; the folder appears only when complete.

        Args:
            folder: A new folder, or a model folder, which is replaced.
            half: Store the weights in half precision: half the size, about three significant digits.

        Raises:
            OutputError: The folder is something else or cannot be written to.
        """
        with new_folder(folder, marker=CARD) as place:
            card = {
                "format": CARD_FORMAT,
                "name": Path(folder).name,
                "generator": self.entry(place, half=half),
            }
            write_json(place / CARD, card)

    def _training_images(self, images: Tensor | np.ndarray, argument: str) -> Tensor:
        stored = torch.as_tensor(images)
        if stored.ndim != 4 or tuple(stored.shape[1:]) != self.shape or len(stored) < 2:
            raise TrainingError(
                argument, f"must be at least 2 images of shape {self.shape}", received=tuple(stored.shape),
                remedy="Stack them to (N, C, H, W); read folders with explainer.as_images.",
            )  # fmt: skip
        if stored.is_floating_point():
            low, high = float(stored.min()), float(stored.max())
            if not (math.isfinite(low) and math.isfinite(high) and low >= -1e-6 and high <= 1 + 1e-6):
                raise TrainingError(
                    argument, "must be finite and lie in [0, 1]", received=f"[{low}, {high}]",
                    remedy="Rescale them, or read them with as_images(..., range=(low, high)).",
                )  # fmt: skip
        return stored

    def _store_intensity(self, images: Tensor, seed: int) -> None:
        """The 0.1 and 99.9 percentiles of every channel, on at most 2,000 images."""
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:2000]
        pixels = as_unit_interval(images[chosen]).transpose(0, 1).flatten(1).numpy()
        bounds = np.quantile(pixels, [0.001, 0.999], axis=1)
        flat = np.flatnonzero(bounds[1] - bounds[0] <= 0)
        if len(flat):
            raise TrainingError(
                "images", f"channel {flat[0]} is constant", received=f"value {bounds[0, flat[0]]:.4g}",
                remedy="Leave this channel out: there is nothing to learn in it.",
            )  # fmt: skip
        self.intensity.copy_(torch.from_numpy(bounds).float())

    @torch.no_grad()
    def _store_codes(self, training: Tensor, held_out: Tensor) -> None:
        device = self.intensity.device

        def codes_of(images: Tensor) -> Tensor:
            return torch.cat([self.encode(as_unit_interval(part).to(device)) for part in images.split(256)])

        codes = codes_of(training[:5000])
        self.latent_mean.copy_(codes.mean(0))
        self.latent_std.copy_(codes.std(0).clamp_min(1e-6))
        errors = torch.cat(
            [self.bare_error(as_unit_interval(part).to(device)) for part in held_out.split(256)]
        )
        distances = self.typicality(codes_of(held_out))
        self.quantiles = {
            name: {f"{q:g}": float(torch.quantile(values.double().cpu(), q)) for q in QUANTILES}
            for name, values in (("bare", errors), ("typicality", distances))
        }


def _run(loop: _Loop, images: Tensor, batch_size: int, folder: Path, progress: bool) -> None:
    """Run one phase to the end of its budget, continuing from its checkpoint if there is one."""
    slug = loop.phase.name.replace(" ", "-")
    latest = folder / f"{slug}.ckpt"
    batches = _Batches(images, batch_size, loop.steps, loop.seed)
    if latest.exists():
        batches.start = int(torch.load(latest, weights_only=True, map_location="cpu")["global_step"])
    trained = {id(parameter) for parameter in loop.trained.parameters()}
    for parameter in loop.generator.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    loop.generator.train()
    checkpoint = ModelCheckpoint(
        dirpath=folder,
        filename=slug,
        train_time_interval=timedelta(seconds=CHECKPOINT_SECONDS),
        enable_version_counter=False,
    )
    shown = progress and Console(stderr=True).is_terminal
    with _quiet_lightning():
        trainer = pl.Trainer(
            max_steps=loop.steps,
            max_epochs=-1,
            max_time=timedelta(seconds=max(1, math.ceil(loop.seconds))),
            accelerator="gpu" if loop.generator.intensity.is_cuda else "cpu",
            devices=1,
            callbacks=[checkpoint, _RampedAverage(), *([RichProgressBar()] if shown else [])],
            enable_progress_bar=shown,
            enable_model_summary=False,
            logger=False,
            default_root_dir=folder,
            use_distributed_sampler=False,
        )
        resume = latest if latest.exists() else None
        trainer.fit(loop, DataLoader(batches, batch_size=None), ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(latest)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's notes on hardware, workers and folders; its warnings of substance stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*`training_step` returned `None`.*")
            warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
