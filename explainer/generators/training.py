"""Training that ends well: a step budget, warm-up and cosine, clipping, averaged weights, resumption.

A generator names its *phases* (one for a plain VAE, two for a two-stage VAE): what is trained, and the
loss of a batch. The loop itself is in :mod:`explainer.generators.loop`.
"""

import math
import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from explainer.classifier import Classifier
from explainer.errors import GeneratorError, OptionError, TrainingError
from explainer.generators.base import Generator, as_unit_interval
from explainer.generators.feed import Feed, ImageSource, feed
from explainer.generators.health import Health, measure_health
from explainer.generators.perception import Perception, perception
from explainer.generators.sampler import CodeSampler
from explainer.generators.selection import MEASURED_IMAGES, Selection
from explainer.image_sets import read_image_set
from explainer.storage import new_folder, read_json, write_json, write_tensors

if TYPE_CHECKING:
    from explainer.generators.loop import Loss

__all__ = [
    "CARD",
    "CARD_FORMAT",
    "FEWEST_IMAGES",
    "Phase",
    "TrainableGenerator",
    "affordable",
    "store_codes",
    "store_intensity",
]

CARD = "card.json"
AXES = "axes.safetensors"
CARD_FORMAT = 1
FEWEST_IMAGES = 40
TOGETHER = 64  # images that are encoded at once
MOST_VALUES = 25_000_000  # of the images that percentiles and feature variances are taken from
QUANTILES = (0.5, 0.9, 0.95, 0.975, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Phase:
    """One optimisation.

    Attributes:
        name: Shown in the history and the progress bar.
        share: Share of the whole step and time budget.
        module: Its parameters are trained and averaged; everything else is frozen.
        beta: Final weight of the KL term, in the bound by which a state is kept.
        patience: Measurements of that bound without an improvement after which the phase ends; None: never.
    """

    name: str
    share: float
    module: nn.Module
    beta: float = 1.0
    patience: int | None = None


class TrainableGenerator(Generator):
    """A generator with phases and a loss: ``fit`` trains it and stores what inference needs to know.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions ``D`` of the code.
        multiple: As for :class:`Generator`, like ``tau``.
        tau: Width of the gate of the carried detail.
        sampler: Fit a second, small VAE to the codes at the end (see :mod:`explainer.generators.sampler`),
            so that samples look like images.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int,
        *,
        multiple: int,
        tau: float,
        sampler: bool = False,
    ) -> None:
        super().__init__(shape, latent_dim, multiple=multiple, tau=tau)
        self.sampler = CodeSampler(self.latent_dim) if sampler else None
        self.perceive: Perception | None = None  # while fit runs, with a classifier

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

    def begin(self, phase: Phase, images: Feed) -> None:
        """Called before a phase with the training images."""

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, prior: str | None = None) -> Tensor:
        """Images ``(count, C, H, W)`` of codes that are drawn from a prior.

        Args:
            count: Number of images.
            seed: Of the draws.
            prior: ``"standard"``, the standard normal, or ``"sampler"``, the second VAE; by default the
                sampler where there is one.

        Raises:
            OptionError: An unknown prior.
            GeneratorError: There is no sampler.
        """
        if prior not in (None, "standard", "sampler"):
            raise OptionError(
                "prior", "is unknown", received=prior, remedy='Choose one of: "standard", "sampler".'
            )
        if prior == "sampler" and self.sampler is None:
            raise GeneratorError(
                "prior", "there is no sampler", received=prior,
                remedy="Build and train the generator with sampler=True.",
            )  # fmt: skip
        if self.sampler is None or prior == "standard":
            return super().sample(count, seed=seed)
        return self._decode_in_parts(self.sampler.draw(count, torch.Generator().manual_seed(seed)))

    def fit(
        self,
        images: ImageSource,
        *,
        steps: int = 20_000,
        minutes: float = 30.0,
        seed: int = 0,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        flip: bool = False,
        held_out: ImageSource | None = None,
        classifier: Classifier | nn.Module | None = None,
        resume_from: str | Path | None = None,
        progress: bool = True,
        devices: str | torch.device | Sequence[str | torch.device] | None = None,
        patience: int | None = None,
    ) -> Self:
        """Train on images and store intensity percentiles, code statistics and error quantiles.

        Every twentieth of the budget of a phase the averaged weights are measured on up to 256 held-out
        images, and the phase ends with the best of these states (:mod:`explainer.generators.selection`).

        Args:
            images: ``(N, C, H, W)``: floats in [0, 1], or unsigned integers, which are divided by their
                type's maximum; a folder, .zip, .npz or .csv, or a DataFrame of paths; or a ``Dataset``. They
                are held as they are stored, or read batch by batch (see :mod:`explainer.generators.feed`).
            steps: Optimiser steps over all phases. This is the reproducible budget.
            minutes: Upper bound on the time; if it binds, the learning rate is annealed to it.
            seed: Decides batches and noise; the initial weights come from the constructor's ``seed``.
            batch_size: Images a step.
            learning_rate: Peak rate of Adam, after 100 warm-up steps and before the cosine.
            flip: Mirror half of the images (where left and right mean nothing).
            held_out: Images that states are chosen by, and of the error quantiles; by default 5 % of
                ``images``, 5 to 500, are set aside.
            classifier: Whose features reconstructions shall keep, for a generator with ``features > 0``.
            resume_from: Folder for checkpoints, each with the latest and the best state; a run that finds
                its own checkpoint there continues from the latest, with the weights it would have had.
                Those of another run are an error.
            progress: Show a progress bar when attached to a terminal.
            devices: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or a list of one; by default where the generator is.
            patience: Measurements without an improvement after which a phase ends early; by default 5 where
                information is maximised, and never (20) elsewhere.

        Returns:
            The generator itself, trained, in evaluation mode. ``history`` holds the loss terms.

        Raises:
            OptionError: A budget that is not positive, several devices, or a classifier that is missing or
                would not be used.
            TrainingError: Unusable or fewer than 40 images, checkpoints of another run or damaged ones,
                or more than ten steps and more than a tenth of a phase without a finite gradient, or all.
            KeyboardInterrupt: Ctrl-C; what was trained until then is in ``resume_from``.
        """
        from explainer.generators.loop import Loop, run  # imports Lightning, which takes seconds

        if patience is not None and patience < 1:
            raise OptionError(
                "patience", "must be at least 1", received=patience,
                remedy="Pass for example patience=5, a quarter of the budget; 20 never ends early.",
            )  # fmt: skip
        if steps < 1 or batch_size < 1 or not (0 < minutes < math.inf and 0 < learning_rate < math.inf):
            raise OptionError(
                "steps, minutes, batch_size, learning_rate",
                "must be positive and finite",
                received=(steps, minutes, batch_size, learning_rate),
                remedy="Pass for example steps=20_000, minutes=30.",
            )
        place = self._place(devices)
        given = feed(images, "images", self.shape, FEWEST_IMAGES)
        order = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed))
        if held_out is None:
            aside = min(500, max(5, len(given) // 20))
            kept, training = given.part(order[:aside]), given.part(order[aside:])
        else:
            kept, training = feed(held_out, "held_out", self.shape, 2), given.part(order)
            # Only the first are measured: a file in the order of its classes must not decide on one of them.
            mixed = torch.Generator().manual_seed(seed + 1)
            kept = kept.part(torch.randperm(len(kept), generator=mixed))
        self.to(place)
        store_intensity(self, training, seed)
        rows: list[dict[str, float | str]] = []
        skipped = 0
        with (
            tempfile.TemporaryDirectory() as scratch,
            torch.random.fork_rng(),
            self._perceiving(classifier, training),
        ):
            folder = Path(resume_from) if resume_from is not None else Path(scratch)
            run_of = {"kind": self.kind, "options": self.options(), "steps": steps, "seed": seed,
                      "batch_size": batch_size, "learning_rate": learning_rate, "flip": flip,
                      "images": training.digest(), "held_out": kept.digest(),
                      "patience": patience}  # fmt: skip
            _claim(folder, run_of)
            judged = kept[: min(MEASURED_IMAGES, affordable(self.shape))]
            size = min(batch_size, len(training))
            for number, phase in enumerate(self.phases()):
                torch.manual_seed(seed + number)
                self.begin(phase, training)
                budget = max(1, round(steps * phase.share))
                loop = Loop(
                    phase.name,
                    phase.module,
                    self._loss_of(phase),
                    steps=budget,
                    seconds=60 * minutes * phase.share,
                    rate=learning_rate,
                    seed=seed + 104_729 * number,
                    flip=flip,
                    selection=Selection(
                        judged,
                        beta=phase.beta,
                        patience=phase.patience if patience is None else patience,
                        batch_size=size,
                        seed=seed + number,
                    ),
                )
                self.requires_grad_(False).train()
                phase.module.requires_grad_(True)
                run(loop, training, size, folder, progress=progress)
                self.to(place)  # Lightning leaves what it trained on the CPU
                rows += loop.rows
                skipped += int(loop.skipped)
                if skipped > max(10, budget // 10) or not loop.learned:
                    raise TrainingError(
                        "learning_rate", "too many steps had no finite gradient", received=skipped,
                        remedy="Train again with a smaller learning rate.",
                    )  # fmt: skip
        self.requires_grad_(False).eval()
        if self.sampler is not None:
            fitted = self.sampler.fit(*self._codes_of(training), steps=steps, seed=seed)
            rows += [{"phase": "sampler", **row} for row in fitted]
        self.history = pd.DataFrame(rows)
        self.skipped_steps = skipped
        store_codes(self, training, kept)
        return self

    def health(
        self, images: Tensor | str | os.PathLike[str] | pd.DataFrame, labels: ArrayLike | None = None
    ) -> Health:
        """Measure this generator on images it was not trained on.

        Args:
            images: ``(N, C, H, W)`` in [0, 1]; or a folder, archive or table as ``fit`` takes them, which are
                resized.
            labels: One class for each image, for a linear probe of the code.
        """
        if not isinstance(images, Tensor):
            images = as_unit_interval(read_image_set(images, (self.shape[1], self.shape[2])))
        self._require_shape(images)
        return measure_health(self, images, labels)

    def entry(self, folder: Path, *, half: bool = False) -> dict[str, object]:
        """Write the weights into an existing folder and return what a card says of them."""
        digest = write_tensors(folder / "generator.safetensors", self.state_dict(), half=half)
        entry: dict[str, object] = {
            "kind": self.kind,
            "options": self.options(),
            "quantiles": self.quantiles,
            "channel_names": self.channel_names,
            "file": "generator.safetensors",
            "sha256": digest,
        }
        if self.axes is not None:
            digest = write_tensors(folder / AXES, self.axes.tensors())
            entry["axes"] = {**self.axes.plain(), "file": AXES, "sha256": digest}
        return entry

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

    def options(self) -> dict[str, object]:
        return {**super().options(), **({"sampler": True} if self.sampler is not None else {})}

    @torch.no_grad()
    def _codes_of(self, images: Feed) -> tuple[Tensor, Tensor]:
        """Means and log-variances ``(N, D)`` of the posteriors of images."""
        device = self.intensity.device
        parts = [self.posterior_of(as_unit_interval(part).to(device)) for part in images.split(TOGETHER)]
        means, log_variances = zip(*(part for part in parts if part is not None), strict=True)
        return torch.cat(means), torch.cat(log_variances)

    def _place(self, devices: str | torch.device | Sequence[str | torch.device] | None) -> torch.device:
        """The device to train on."""
        if devices is None:
            return self.intensity.device
        named = [devices] if isinstance(devices, str | torch.device) else list(devices)
        if len(named) != 1:
            raise OptionError(
                "devices", "must be one device: a run is not split over several",
                received=", ".join(map(str, named)) or "none", remedy='Pass for example devices="cuda".',
            )  # fmt: skip
        try:
            device = torch.device(named[0])
        except RuntimeError as error:
            raise OptionError(
                "devices", "is no device", received=named[0], remedy='Pass "cpu", "cuda" or "cuda:1".'
            ) from error
        present = torch.cuda.device_count() if device.type == "cuda" else int(device.type == "cpu")
        if (device.index or 0) >= present:
            raise OptionError(
                "devices", "is not available here", received=named[0],
                remedy='Pass "cpu"' + (', or "cuda:0".' if torch.cuda.device_count() else "."),
            )  # fmt: skip
        return device

    @contextmanager
    def _perceiving(self, classifier: Classifier | nn.Module | None, images: Feed) -> Iterator[None]:
        """While the features of a classifier are part of the loss."""
        wanted = bool(self.options().get("features"))
        if wanted != (classifier is not None):
            problem = "is needed for the features" if wanted else "would not be used"
            raise OptionError(
                "classifier", problem, received="None" if wanted else type(classifier).__name__,
                remedy="Pass it to fit, and features=.1 to the constructor; or neither of them.",
            )  # fmt: skip
        if classifier is None:
            yield
            return
        device = self.intensity.device
        known = images.part(slice(affordable(self.shape))).split(64)
        batches = (as_unit_interval(part).to(device) for part in known)
        with perception(classifier, batches) as features:
            inner = [module for module in self.modules() if isinstance(module, TrainableGenerator)]
            for generator in inner:
                generator.perceive = lambda y: features(self.denormalise(self.crop(y)).clamp(0, 1))
            try:
                yield
            finally:
                for generator in inner:
                    generator.perceive = None

    def _loss_of(self, phase: Phase) -> "Loss":
        return lambda images, noise, ramp: self.loss(phase, self.prepare(images), noise, ramp)


def affordable(shape: tuple[int, int, int]) -> int:
    """How many images of a shape statistics of pixels are taken from: 2,000, fewer if they are large."""
    return min(2000, max(FEWEST_IMAGES, MOST_VALUES // math.prod(shape)))


def store_intensity(generator: Generator, images: Feed, seed: int) -> None:
    """The 0.1 and 99.9 percentiles of every channel, on at most 2,000 images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = order[: affordable(generator.shape)]
    pixels = as_unit_interval(images[chosen]).transpose(0, 1).flatten(1).numpy()
    bounds = np.quantile(pixels, [0.001, 0.999], axis=1)
    flat = np.flatnonzero(bounds[1] - bounds[0] <= 0)
    if len(flat):
        raise TrainingError(
            "images", f"channel {flat[0]} is constant", received=f"value {bounds[0, flat[0]]:.4g}",
            remedy="Leave this channel out: there is nothing to learn in it.",
        )  # fmt: skip
    generator.intensity.copy_(torch.from_numpy(bounds).float())


@torch.no_grad()
def store_codes(generator: Generator, training: Feed, held_out: Feed) -> None:
    """Mean and deviation of the codes, and quantiles of the errors of held-out images."""
    device = generator.intensity.device

    def measured_on(images: Feed, measure: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([measure(as_unit_interval(part).to(device)) for part in images.split(TOGETHER)])

    codes = measured_on(training.part(slice(5000)), generator.encode)
    generator.latent_mean.copy_(codes.mean(0))
    generator.latent_std.copy_(codes.std(0).clamp_min(1e-6))
    measured = {
        "bare": measured_on(held_out, generator.bare_error),
        "unexplained": measured_on(held_out, generator.unexplained),
        "typicality": generator.typicality(measured_on(held_out, generator.encode)),
    }
    generator.quantiles = {
        name: {f"{q:g}": float(torch.quantile(values.double().cpu(), q)) for q in QUANTILES}
        for name, values in measured.items()
    }


def _claim(folder: Path, run_of: dict[str, object]) -> None:
    """Note beside the checkpoints what run they belong to, or find that it is this one.

    Raises:
        TrainingError: They belong to another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "run.json"
    if not note.exists():
        part = note.with_suffix(".part")
        write_json(part, run_of)
        os.replace(part, note)
        return
    before = read_json(note, "resume_from")
    changed = [name for name in run_of if before.get(name) != run_of[name]]
    if changed:
        raise TrainingError(
            "resume_from", f"holds the checkpoints of a run with other {', '.join(changed)}", received=folder,
            remedy="Choose an empty folder, or repeat that run's settings to continue it.",
        )  # fmt: skip
