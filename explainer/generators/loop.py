"""The loop of one training phase, in Lightning's hands.

Batches, augmentation and reparametrisation noise are drawn from the seed and the step number alone, so a
resumed run continues as if it had never stopped. Steps whose gradient is not finite are skipped and
counted. A checkpoint is written whole or not at all, every 50 seconds; Ctrl-C is answered at the end of the
step, with one more. What a phase leaves behind is its best state (:mod:`explainer.generators.selection`); a
checkpoint holds that and the latest one, from which a run is continued. Lightning takes two seconds to
import, so this module is imported when training begins.
"""

import logging
import math
import os
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from explainer.errors import TrainingError
from explainer.generators.base import as_unit_interval
from explainer.generators.feed import Feed
from explainer.generators.selection import Selection
from explainer.progress import in_notebook, told

__all__ = ["Loop", "run"]

WARM_UP_STEPS = 100
# Torch's own refusal, named through torch: nothing is unpickled here.
REFUSED = (zipfile.BadZipFile, torch.serialization.pickle.UnpicklingError)
EMA_DECAY = 0.999
CLOCK_LEAD = 0.05
CHECKPOINT_SECONDS = 50

Loss = Callable[[Tensor, torch.Generator, float], tuple[Tensor, dict[str, Tensor]]]


class _Batches(IterableDataset[Tensor]):
    """Index-seeded batches of storage-typed images, from step ``start`` to step ``steps``."""

    def __init__(self, images: Feed, batch_size: int, steps: int, seed: int) -> None:
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
        def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
            decay = min(EMA_DECAY, (1 + float(count)) / (10 + float(count)))
            if averaged[0].is_floating_point():  # the lists are of one type each
                torch._foreach_lerp_(averaged, current, 1 - decay)
            else:
                torch._foreach_copy_(averaged, current)

        super().__init__(multi_avg_fn=average)

    @contextmanager
    def in_place(self, loop: pl.LightningModule) -> Iterator[None]:
        """The averaged weights in place of the current ones."""
        self._swap_models(loop)
        try:
            yield
        finally:
            self._swap_models(loop)


class Loop(pl.LightningModule):
    """Lightning's view of one phase.

    Args:
        name: Of the phase, for the history and the checkpoint.
        module: Its parameters are trained and averaged; nothing else is saved.
        loss: From images ``(N, C, H, W)`` in [0, 1], a source of noise and the ramp (the weight of the KL
            term, 0 to 1 over the first tenth of the budget) to a scalar and its named terms.
        steps: Optimiser steps.
        seconds: Upper bound on the time.
        rate: Peak learning rate.
        seed: Of batches and noise.
        flip: Mirror half of the images.
        selection: Measures states and keeps the best; without one the last is kept.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        loss: Loss,
        *,
        steps: int,
        seconds: float,
        rate: float,
        seed: int,
        flip: bool,
        selection: Selection | None = None,
    ) -> None:
        super().__init__()
        self.selection = selection
        self.name, self.trained, self.loss = name, module, loss
        self.steps, self.seconds, self.rate, self.seed, self.flip = steps, seconds, rate, seed, flip
        self.began = time.monotonic()
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))
        self.skipped: Tensor
        self.finished = False
        self.learned = False  # from one batch at least
        self.rows: list[dict[str, float | str]] = []

    def progress(self, step: int | None = None) -> float:
        """Share of the budget that is used up, after ``step`` steps or now.

        Steps decide, so that a run can be repeated; the clock only where it is a twentieth of its
        budget ahead of them, so that a run it will cut short is still annealed.
        """
        clock = (time.monotonic() - self.began) / self.seconds
        step = self.global_step if step is None else step
        return min(1.0, max(step / self.steps, (clock - CLOCK_LEAD) / (1 - CLOCK_LEAD)))

    def training_step(self, batch: Tensor, _: int) -> Tensor | None:
        noise = torch.Generator(batch.device).manual_seed(self.seed * 7_919 + self.global_step)
        images = as_unit_interval(batch)
        if self.flip:
            mirrored = torch.rand(len(images), generator=noise, device=images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        ramp = min(1.0, 10 * self.progress())
        loss, terms = self.loss(images, noise, ramp)
        if not torch.isfinite(loss):
            self.skipped += 1
            return None
        if self.global_step % 25 == 0:
            values = {name: float(value.detach()) for name, value in terms.items()}
            self.rows.append(
                {"phase": self.name, "step": self.global_step, "loss": float(loss.detach()), **values}
            )
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.trained.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            self.learned = self.learned or bool(gradients)
            nn.utils.clip_grads_with_norm_(self.trained.parameters(), 1.0, norm)
        else:
            self.skipped += 1
            optimizer.zero_grad(set_to_none=True)
        warm_up = min(1.0, (self.global_step + 1) / min(WARM_UP_STEPS, self.steps / 5))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in optimizer.param_groups:
            group["lr"] = self.rate * warm_up * (0.01 + 0.99 * cosine)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trained.parameters(), lr=self.rate, betas=(0.9, 0.99), fused=True)

    def measure(self, step: int) -> None:
        """Measure the weights as they are after ``step`` steps, unless that has been done."""
        if self.selection is None or self.selection.measured_at == step:
            return
        found = self.selection.measure(
            self.trained,
            lambda images, noise: self.loss(images, noise, 1.0)[1],
            progress=self.progress(step),
            step=step,
        )
        if found:
            self.rows.append({"phase": self.name, "step": step, **found})

    def conclude(self) -> None:
        """Take the best state; the phase is finished."""
        if self.selection is not None:
            self.selection.restore(self.trained)
        self.finished = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rows"], checkpoint["elapsed"] = self.rows, time.monotonic() - self.began
        checkpoint["finished"], checkpoint["learned"] = self.finished, self.learned
        if self.finished:
            checkpoint["state_dict"] = self.state_dict()  # the best, where the callback put the last
        elif self.selection is not None:
            checkpoint["selection"] = self.selection.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.selection is not None:
            self.selection.load(checkpoint.get("selection", {}))
        self.rows = list(checkpoint.get("rows", []))
        self.began = time.monotonic() - checkpoint.get("elapsed", 0.0)
        self.finished, self.learned = checkpoint.get("finished", False), checkpoint.get("learned", True)


class _Selecting(pl.Callback):
    """Measures the averaged weights now and then, and ends a phase that does not improve any more."""

    def __init__(self, averages: _RampedAverage) -> None:
        self.averages = averages

    def on_train_batch_end(self, trainer: pl.Trainer, loop: pl.LightningModule, *_: Any) -> None:
        assert isinstance(loop, Loop)
        selection = loop.selection
        if selection is None or not selection.due(loop.progress(), loop.global_step):
            return
        with self.averages.in_place(loop):
            loop.measure(loop.global_step)
        if selection.exhausted:
            trainer.should_stop = True


class _Checkpoints(pl.Callback):
    """Keeps the state of a phase in one file that is replaced, never rewritten."""

    def __init__(self, path: Path) -> None:
        self.path, self.written = path, time.monotonic()
        self.interrupted = self.stopped = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.interrupted or time.monotonic() - self.written >= CHECKPOINT_SECONDS:
            self.write(trainer)
        if self.interrupted:
            trainer.should_stop = self.stopped = True

    def on_train_end(self, _: pl.Trainer, loop: pl.LightningModule) -> None:
        assert isinstance(loop, Loop)
        if not self.stopped:
            loop.measure(loop.global_step)  # what was averaged is in place now

    def write(self, trainer: pl.Trainer) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        os.replace(part, self.path)
        self.written = time.monotonic()

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Ctrl-C is noted, to be answered at the end of the step; a second one ends at once."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def note(*_: object) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _Bar(pl.Callback):
    """A line on stderr: the share of the budget that is used, the time left, the latest terms."""

    def __init__(self, loop: Loop, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[terms]}"), console=console)
        self.loop, self.task = loop, self.bar.add_task(loop.name, total=1.0, terms="")

    def on_train_start(self, *_: Any) -> None:
        self.bar.start()

    def on_train_batch_end(self, *_: Any) -> None:
        latest = next((row for row in reversed(self.loop.rows) if "loss" in row), {})
        terms = [f"{name} {latest[name]:.4g}" for name in list(latest)[3:6]]
        said = f"step {self.loop.global_step:,}: {', '.join(terms)}"
        self.bar.update(self.task, completed=self.loop.progress(), terms=said)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.bar.stop()


class _Line(pl.Callback):
    """The same in the cell of a notebook, drawn anew at most ten times a second."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.drawn, self.line = loop, 0.0, ExitStack()

    def on_train_start(self, *_: Any) -> None:
        self.say = self.line.enter_context(told(True, self.loop.name))

    def on_train_batch_end(self, *_: Any) -> None:
        if time.monotonic() - self.drawn > 0.1:
            self.drawn = time.monotonic()
            self.say(f"step {self.loop.global_step:,}", self.loop.progress())

    def teardown(self, *_: Any, **__: Any) -> None:
        self.line.close()


def run(loop: Loop, images: Feed, batch_size: int, folder: Path, *, progress: bool) -> None:
    """Run one phase to the end of its budget, continuing from its checkpoint if there is one.

    A phase that has finished is loaded and not trained any more, whatever time there is now: the phases
    after it have learned on its weights.

    Args:
        loop: The phase.
        images: Training images.
        batch_size: Images a step.
        folder: Where ``<name>.ckpt`` is written at least every minute.
        progress: Show a progress bar when attached to a terminal.

    Raises:
        TrainingError: The checkpoint is damaged.
        KeyboardInterrupt: Ctrl-C; what was trained until then is in the checkpoint.
    """
    slug = loop.name.replace(" ", "-")
    latest = folder / f"{slug}.ckpt"
    batches = _Batches(images, batch_size, loop.steps, loop.seed)
    if latest.exists():
        checkpoint = _read(loop, latest)
        batches.start = int(checkpoint["global_step"])
        if _is_over(checkpoint, loop):
            loop.load_state_dict(checkpoint["state_dict"])
            loop.on_load_checkpoint(checkpoint)
            if not loop.finished:  # it was stopped after its last step
                loop.measure(batches.start)
                loop.conclude()
            return
    checkpoints, averages = _Checkpoints(latest), _RampedAverage()
    console = Console(stderr=True)
    bar: list[pl.Callback] = [_Bar(loop, console)] if progress and console.is_terminal else []
    bar = [_Line(loop)] if progress and in_notebook() else bar
    device = next(loop.trained.parameters()).device
    with _quiet_lightning(), checkpoints.on_interrupt():
        trainer = pl.Trainer(
            max_steps=loop.steps,
            max_epochs=-1,
            max_time=timedelta(seconds=max(1, math.ceil(loop.seconds))),
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            # In this order: what is measured, and then written, has just been averaged.
            callbacks=[averages, _Selecting(averages), checkpoints, *bar],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            default_root_dir=folder,
            use_distributed_sampler=False,
        )
        resume = latest if latest.exists() else None
        try:
            trainer.fit(loop, DataLoader(batches, batch_size=None), ckpt_path=resume, weights_only=True)
        except SystemExit as error:  # Lightning's answer to a second Ctrl-C
            raise KeyboardInterrupt from error
        if not checkpoints.stopped:
            loop.conclude()
            checkpoints.write(trainer)
        if checkpoints.interrupted:
            raise KeyboardInterrupt


def _is_over(checkpoint: dict[str, Any], loop: Loop) -> bool:
    """Whether a phase has nothing left to train."""
    ended_early = checkpoint.get("selection", {}).get("exhausted", False)
    return bool(checkpoint.get("finished") or ended_early or checkpoint["global_step"] >= loop.steps)


def _read(loop: Loop, path: Path) -> dict[str, Any]:
    """A checkpoint of a phase, if it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:  # every part has a checksum
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        wanted, found = set(loop.state_dict()), set(checkpoint["state_dict"])
        if not wanted <= found or "global_step" not in checkpoint:
            raise ValueError("it is not one of this phase")
    except (*REFUSED, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise TrainingError(
            "resume_from", "holds a damaged checkpoint", received=f"{path}: {error}",
            remedy="Remove that file to train its phase again, or choose an empty folder.",
        ) from error  # fmt: skip
    return checkpoint


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
