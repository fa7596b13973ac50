r"""Fine-tuning: a generator learns axes that mean what a person said, and keeps what was good.

Training starts from the directions :math:`q_i` that :func:`explainer.generators.directions.find_axes` finds
for the generator as it is; they stay, and the networks learn to make the coordinates
:math:`a_i = q_i \cdot (z - m)` what was said. To the generator's own loss are added, ramped up over the first
fifth of the steps,

- ``told``: of labels :math:`(a_i - y)^2` with y in standard deviations, of 0 and 1 a logistic loss, of a
  ranking :math:`|\tanh(a_i - a_j) - \mathrm{sgn}|` of two images (AR-VAE, Pati & Lerch 2021, arXiv
  2004.05485, eq. 6), of a pair that its unchanged coordinates match and the changed ones grow, of anchors
  :math:`w\,\|\mu - \mathrm{anchor}\|^2`;
- ``spread``: what Gaussian processes (:mod:`explainer.generators.teacher`) make of labels and anchors for all
  other images, each weighed by how sure it is: with few labels, most of what can be known of the rest;
- ``moved``: codes of which one coordinate was moved are decoded and encoded, and must come back: moving an
  axis changes what it names and nothing else that is named;
- ``apart``: the squared correlations of a named coordinate with all other directions of the code;
- ``kept``: locked axes, and those there were before, keep their coordinates (distilled from the generator as
  it was), and an image is not reconstructed worse than it was.
"""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from explainer import metrics
from explainer.errors import OptionError
from explainer.generators.axes import NamedAxes
from explainer.generators.base import as_unit_interval
from explainer.generators.directions import (
    Told,
    codes_of,
    find_axes,
    label_line,
    places_of,
    told,
)
from explainer.generators.feed import feed
from explainer.generators.guidance import Anchors, Guidance, Lock
from explainer.generators.teacher import Teacher, describe, fit_teacher
from explainer.generators.training import FEWEST_IMAGES, TrainableGenerator, _claim, store_codes
from explainer.storage import sha256, state_sha256

__all__ = ["Weights", "guide"]

RAMP = 0.2
GUIDED = 32
LOGIT = 3.0
MARGIN = 1.0
FEWEST_SPREAD = 20
Trained = TypeVar("Trained", bound=TrainableGenerator)


@dataclass(frozen=True)
class Weights:
    """What each part of the guidance counts, beside the generator's own loss in nats per pixel value."""

    told: float = 5.0
    spread: float = 10.0
    moved: float = 1.0
    apart: float = 0.1
    kept: float = 2.0


def guide(
    generator: Trained,
    images: Tensor,
    guidance: Guidance,
    *,
    ids: Sequence[object] | None = None,
    steps: int = 1500,
    minutes: float = 30.0,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weights: Weights | None = None,
    seed: int = 0,
    resume_from: str | Path | None = None,
    progress: bool = True,
) -> Trained:
    """A copy of a generator that was fine-tuned to guidance, with its named axes; the generator stays as it
    is.

    Of several stages the last is trained. A twentieth of the images that nothing was said of is set aside;
    what is measured on them before and after is in ``axes.record``.

    Args:
        generator: Trained, of any kind that ``fit`` trains.
        images: Those it was trained on, ``(N, C, H, W)`` in [0, 1] or unsigned integers, with those the
            guidance is about among them.
        guidance: What was said.
        ids: What the guidance calls each image; by default their number, from 0.
        steps: Optimiser steps.
        minutes: Upper bound on the time.
        batch_size: Images a step.
        learning_rate: Peak rate of Adam.
        weights: Of the parts of the guidance.
        seed: Of batches, noise and what is set aside.
        resume_from: Folder for checkpoints; a run that finds its own there continues.
        progress: Show a progress bar when attached to a terminal.

    Raises:
        OptionError: As for :func:`explainer.generators.directions.name_axes`; anchors with more coordinates
        than
            the code has dimensions; a generator that cannot be trained.
        TrainingError: Too few images, or checkpoints of another run.
    """
    from explainer.generators.loop import Loop, run  # imports Lightning, which takes seconds

    if not isinstance(generator, TrainableGenerator):
        raise OptionError(
            "generator", "cannot be trained here", received=type(generator).__name__,
            remedy="Name its axes as it is: name_axes(generator, images, guidance).",
        )  # fmt: skip
    if steps < 1 or batch_size < 2:
        raise OptionError(
            "steps, batch_size",
            "must be at least 1 and 2",
            received=(steps, batch_size),
            remedy="Try 1500, 32.",
        )
    places = _places(guidance, ids, len(images))
    held, training = _set_aside(len(images), set(places.values()), seed)
    before = copy.deepcopy(generator).requires_grad_(False).eval()
    codes = codes_of(before, images)
    axes = None
    if guidance.names or generator.axes is not None:
        axes = find_axes(codes, guidance, ids=ids, before=generator.axes, seed=seed)
    lesson = _Lesson(before, axes, guidance, images, places, codes, weights or Weights(), seed)
    guided = copy.deepcopy(generator)
    guided.axes = None
    phase = guided.phases()[-1]
    guided.requires_grad_(False).train()
    if phase.module is not guided:
        guided.eval()
        phase.module.train()
    phase.module.requires_grad_(True)
    known = feed(images[training], "images", guided.shape, FEWEST_IMAGES)

    def loss(batch: Tensor, noise: torch.Generator, _: float) -> tuple[Tensor, dict[str, Tensor]]:
        own, terms = guided.loss(phase, guided.prepare(batch), noise, 1.0)  # the KL term was ramped before
        extra, said = lesson(guided, batch, noise)
        return own + min(1.0, loop.progress() / RAMP) * extra, {**terms, **said}

    called = [str(each) for each in (range(len(images)) if ids is None else ids)]
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng():
        torch.manual_seed(seed)
        folder = Path(resume_from) if resume_from is not None else Path(scratch)
        said = "\n".join([guidance.to_csv(), *called])
        run_of: dict[str, object] = {
            "kind": generator.kind, "options": generator.options(), "steps": steps, "seed": seed,
            "batch_size": batch_size, "learning_rate": learning_rate, "images": known.digest(),
            "guidance": sha256(said.encode()), "guided by": asdict(lesson.weights),
            "generator": state_sha256(generator.state_dict()),
        }  # fmt: skip
        _claim(folder, run_of)
        loop = Loop(
            "guidance", phase.module, loss, steps=steps, seconds=60 * minutes, rate=learning_rate, seed=seed,
            flip=False,
        )  # fmt: skip
        device = generator.intensity.device
        run(loop, known, min(batch_size, len(known)), folder, progress=progress)
        guided.to(device)
    guided.requires_grad_(False).eval()
    guided.history = pd.DataFrame(loop.rows)
    store_codes(guided, known, feed(images[held], "images", guided.shape, 2))
    if guided.sampler is not None:
        guided.sampler.fit(*guided._codes_of(known), steps=steps, seed=seed)
    return _finished(guided, before, axes, guidance, images, ids, held, steps, seed, weights or Weights())


def _finished(
    guided: Trained,
    before: TrainableGenerator,
    axes: NamedAxes | None,
    guidance: Guidance,
    images: Tensor,
    ids: Sequence[object] | None,
    held: Tensor,
    steps: int,
    seed: int,
    weights: Weights,
) -> Trained:
    """With its axes as they came out, and what was measured before and after."""
    if axes is None:
        return guided
    aside = as_unit_interval(images[held])
    r2 = {name: _r2(each, aside) for name, each in (("before", before), ("after", guided))}
    health = guided.health(aside)
    codes = codes_of(guided, images)
    found = _as_learned(axes, codes, lesson_of=told(guidance, _places(guidance, ids, len(images))))
    guided.axes = replace(
        found,
        record={
            "mode": "fine-tune", "statements": len(guidance.statements), "steps": steps, "seed": seed,
            "weights": asdict(weights), "held-out images": len(held), "R2 before": r2["before"],
            "R2 after": r2["after"], "health": f"{health.status}: {health.sentence}",
            "held-out before": {axis.name: axis.quality for axis in axes.axes if axis.measure},
        },
    )  # fmt: skip
    return guided


def _as_learned(axes: NamedAxes, codes: Tensor, lesson_of: dict[str, list[Told]]) -> NamedAxes:
    """The axes with the origin they were trained with, and what the new codes say of them.

    Nothing was held out of what was said of them, so they have no quality any more.
    """
    coordinates = axes.coordinates(codes).double().cpu()
    spans = torch.quantile(
        coordinates, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64), dim=0
    ).T.tolist()
    learned = []
    for number, (axis, span) in enumerate(zip(axes.axes, spans, strict=True)):
        now = replace(axis, span=(span[0], span[1], span[2]))
        evidence = lesson_of.get(axis.name, [])
        if any(each.basis for each in evidence):
            slope, offset = label_line(coordinates[:, number].numpy(), evidence)
            now = replace(
                now, basis=f"{axis.basis}, fine-tuned", measure="", quality=float("nan"), count=0,
                slope=slope or axis.slope, offset=offset or axis.offset,
            )  # fmt: skip
        learned.append(now)
    return replace(axes, axes=tuple(learned))


@torch.no_grad()
def _r2(generator: TrainableGenerator, images: Tensor) -> list[float]:
    """R2 of bare per channel."""
    device = generator.intensity.device
    truth = torch.cat([generator.normalise(part.to(device)) for part in images.split(128)])
    bare = [generator.normalise(generator.bare(part.to(device))) for part in images.split(128)]
    return [float(value) for value in metrics.r2(torch.cat(bare), truth)]


def _places(guidance: Guidance, ids: Sequence[object] | None, count: int) -> dict[str, int]:
    """Where each guided image is."""
    places = places_of(guidance, ids, count)
    return {each: places[each] for each in guidance.ids}


def _set_aside(count: int, guided: set[int], seed: int) -> tuple[Tensor, Tensor]:
    """Rows set aside, none of them guided, and rows to train on."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    free = torch.tensor([row for row in order.tolist() if row not in guided], dtype=torch.long)
    held = free[: min(500, max(5, count // 20))]
    kept = torch.ones(count, dtype=torch.bool)
    kept[held] = False
    return held, kept.nonzero().flatten()


class _Lesson:
    """The parts of the loss that come from guidance.

    Args:
        before: The generator as it was.
        axes: Directions to learn; None for anchors alone.
        guidance: What was said.
        images: All images.
        places: Where each guided image is.
        codes: Codes ``(N, D)`` of all images in the generator as it was.
        weights: Of the parts.
        seed: Of the Gaussian processes.
    """

    def __init__(
        self,
        before: TrainableGenerator,
        axes: NamedAxes | None,
        guidance: Guidance,
        images: Tensor,
        places: dict[str, int],
        codes: Tensor,
        weights: Weights,
        seed: int,
    ) -> None:
        self.before, self.axes, self.weights = before, axes, weights
        rows = sorted(set(places.values()))
        at = {row: place for place, row in enumerate(rows)}
        self.guided = images[rows]
        inner = {each: at[row] for each, row in places.items()}
        self.told = told(guidance, inner)
        self.names = () if axes is None else axes.names
        self.anchors = self._anchors(guidance, inner, before.latent_dim)
        taught = {name for name, each in self.told.items() if any(part.basis for part in each)}
        locked = {name for lock in guidance.of(Lock) for name in lock.names}
        self.kept = [number for number, name in enumerate(self.names) if name in locked or name not in taught]
        described = describe(before.prepare(as_unit_interval(self.guided).to(codes.device)), codes[rows])
        self.teachers = {
            number: teacher
            for number, name in enumerate(self.names)
            if name not in locked and (teacher := _teacher(self.told.get(name, []), described)) is not None
        }
        self.placing = self._placing(described)
        self.scale = _scales(self.told, self.names)

    def __call__(
        self, guided: TrainableGenerator, batch: Tensor, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.weights
        terms: dict[str, tuple[float, Tensor]] = {}
        terms["guidance_told"] = weights.told, self._said(guided, noise)
        some = guided.prepare(batch[: max(2, len(batch) // 2)])  # the parts below cost several passes each
        with torch.no_grad():
            old = self.before._encode(some)
            was = (self.before._decode(old) - some).square().mean(dim=(1, 2, 3))
        z = guided._encode(some)
        error = (guided._decode(z) - some).square().mean(dim=(1, 2, 3))
        worse = functional.relu(error - was).mean() / was.mean().clamp_min(1e-8)
        if self.axes is None:
            terms["guidance_kept"] = weights.kept, worse
        else:
            a = self.axes.coordinates(z)
            held = (a - self.axes.coordinates(old))[:, self.kept].square()
            terms["guidance_kept"] = weights.kept, worse + (held.mean() if self.kept else 0.0)
            terms["guidance_moved"] = weights.moved, self._moved(guided, z, noise)
            terms["guidance_apart"] = weights.apart, _apart(z, self.axes)
        if self.teachers or self.placing:
            terms["guidance_spread"] = weights.spread, self._spread(z, describe(some, old))
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return loss, {name: value for name, (_, value) in terms.items()}

    # -- what was said of single images ----------------------------------------------------------------

    def _said(self, guided: TrainableGenerator, noise: torch.Generator) -> Tensor:
        """The loss of some of the statements."""
        device = guided.intensity.device
        chosen = torch.randperm(len(self.guided), generator=noise, device=noise.device)[:GUIDED].cpu()
        parts: list[Tensor] = []
        drawn = [self._drawn(each, chosen, noise) for name in self.names for each in self.told.get(name, [])]
        rows = torch.unique(torch.cat([chosen, *(each.flatten() for each in drawn)]))
        z = guided._encode(guided.prepare(as_unit_interval(self.guided[rows]).to(device)))
        at = torch.full((len(self.guided),), -1)
        at[rows] = torch.arange(len(rows))
        position = 0
        for number, name in enumerate(self.names):
            for each in self.told.get(name, []):
                use, position = drawn[position], position + 1
                if len(use) and self.axes is not None:
                    parts.append(self._of(each, self.axes.coordinates(z)[:, number], at, use, number))
        if self.anchors is not None:
            which, target, weight = self.anchors
            inside = at[which] >= 0
            gap = z[at[which[inside]]][:, : target.shape[1]] - target[inside].to(z)
            if len(gap):
                parts.append((weight[inside].to(z) * gap.square().sum(dim=1)).mean())
        return torch.stack(parts).mean() if parts else z.new_zeros(())

    def _drawn(self, each: Told, chosen: Tensor, noise: torch.Generator) -> Tensor:
        """Positions in a statement that this step looks at; of a ranking pairs, the lower first."""
        rows = torch.from_numpy(each.rows)
        if each.rows.ndim == 2:
            return rows[torch.randperm(len(rows), generator=noise, device=noise.device)[:16].cpu()]
        if each.basis == "ranking":
            two = torch.rand(16, len(rows), generator=noise, device=noise.device).cpu().argsort(dim=1)[:, :2]
            return rows[two.sort(dim=1).values]
        return rows[torch.isin(rows, chosen)]

    def _of(self, each: Told, a: Tensor, at: Tensor, use: Tensor, number: int) -> Tensor:
        """The loss of one statement; ``use`` are the guided images of it that were encoded."""
        if each.basis == "ranking":
            low, high = a[at[use[:, 0]]], a[at[use[:, 1]]]
            return (torch.tanh(high - low) - 1).abs().mean()
        if each.rows.ndim == 2:
            gap = a[at[use[:, 1]]] - a[at[use[:, 0]]]
            return functional.relu(MARGIN - gap).mean() if each.basis else gap.square().mean()
        values = dict(zip(each.rows.tolist(), each.values.tolist(), strict=True))
        known = torch.tensor([values[row] for row in use.tolist()]).to(a)
        found = a[at[use]]
        if each.basis == "binary labels":
            return functional.binary_cross_entropy_with_logits(LOGIT * found, known)
        mean, std = self.scale[number]
        return (found - (known - mean) / std).square().mean()

    def _anchors(
        self, guidance: Guidance, places: dict[str, int], dimensions: int
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        said = guidance.of(Anchors)
        if not said:
            return None
        widths = {len(place) for each in said for place in each.coordinates}
        if len(widths) > 1 or max(widths) > dimensions:
            raise OptionError(
                "guidance", f"anchors must all have as many coordinates, at most {dimensions}",
                received=sorted(widths), remedy="Anchor in the first dimensions of the code.",
            )  # fmt: skip
        return (
            torch.tensor([places[name] for each in said for name in each.ids]),
            torch.tensor([place for each in said for place in each.coordinates]),
            torch.tensor([weight for each in said for weight in each.weights]),
        )

    # -- what follows for all images --------------------------------------------------------------------

    def _spread(self, z: Tensor, described: dict[str, Tensor]) -> Tensor:
        """How far coordinates are from what the labels and anchors of other images make likely."""
        found = {} if self.axes is None else dict(enumerate(self.axes.coordinates(z).T))
        pairs = [(found[number], teacher, 0.0, 1.0) for number, teacher in self.teachers.items()]
        pairs += [(z[:, number], *each) for number, each in enumerate(self.placing)]
        parts = []
        for a, teacher, mean, std in pairs:
            guess, sure = (each.to(a) for each in teacher(described))
            parts.append((sure * (a - (mean + std * guess)).square()).mean())
        return torch.stack(parts).mean()

    def _placing(self, described: dict[str, Tensor]) -> list[tuple[Teacher, float, float]]:
        """A teacher for each coordinate of the anchors, with the mean and deviation of its places."""
        if self.anchors is None or len(self.anchors[0]) < FEWEST_SPREAD:
            return []
        which, places, _ = self.anchors
        shown = {name: block[which.to(block.device)] for name, block in described.items()}
        found = []
        for column in places.double().numpy().T:
            std = float(column.std())
            if std > 0:
                found.append((fit_teacher(shown, (column - column.mean()) / std), float(column.mean()), std))
        return found if len(found) == places.shape[1] else []

    def _moved(self, guided: TrainableGenerator, z: Tensor, noise: torch.Generator) -> Tensor:
        """How far moved codes come back from where they were moved to, once decoded and encoded."""
        assert self.axes is not None
        axes, count = self.axes, len(self.axes)
        draws = torch.rand(2, len(z), generator=noise, device=noise.device).to(z)
        which = (draws[0] * count).long().clamp_max(count - 1)
        place = 3.2 * draws[1] - 1.6  # standard deviations: where nine tenths of a normal code lie
        directions = axes.directions.to(z)
        start = z.detach()
        gap = place - axes.coordinates(start).gather(1, which[:, None])[:, 0]
        target = start + gap[:, None] * directions[which]
        back = guided._encode(guided.pad(guided.crop(guided._decode(target)))) - target
        named = back @ directions.T
        rest = back - named @ directions
        return named.square().mean() + rest.square().sum(dim=1).mean() / max(1, z.shape[1] - count) / 4


def _apart(z: Tensor, axes: NamedAxes) -> Tensor:
    """Mean squared correlation of the named coordinates with each other and with the rest of the code."""
    directions = axes.directions.to(z)
    named = z @ directions.T
    rest = z - named @ directions
    whole = torch.cat([named, rest], dim=1)
    whole = (whole - whole.mean(dim=0)) / whole.std(dim=0).clamp_min(0.1)
    count = len(axes)
    correlation = whole[:, :count].T @ whole / len(z)
    off = correlation - functional.pad(torch.eye(count, device=z.device), (0, z.shape[1])).to(z) * correlation
    return off.square().sum() / (count * max(1, z.shape[1] - 1))


def _scales(told_of: dict[str, list[Told]], names: Sequence[str]) -> dict[int, tuple[float, float]]:
    """Mean and deviation of all labelled values of each axis."""
    scales = {}
    for number, name in enumerate(names):
        values = [each.values for each in told_of.get(name, []) if each.basis == "labels"]
        if values:
            joined = np.concatenate(values)
            scales[number] = float(joined.mean()), float(joined.std())
    return scales


def _teacher(evidence: Sequence[Told], described: dict[str, Tensor]) -> Teacher | None:
    """What the labels of an axis make likely elsewhere; None for few of them."""
    labelled = [each for each in evidence if each.basis == "labels"]
    if sum(len(each.rows) for each in labelled) < FEWEST_SPREAD:
        return None
    rows = torch.from_numpy(np.concatenate([each.rows for each in labelled]))
    values = np.concatenate([each.values for each in labelled])
    shown = {name: block[rows.to(block.device)] for name, block in described.items()}
    return fit_teacher(shown, (values - values.mean()) / values.std())
