r"""Fine-tuning: a generator learns axes that mean what a person said, and keeps what was good.

Training starts from the directions :math:`q_i` that :func:`explainer.generators.directions.find_axes` finds
for the generator as it is; they stay, and the networks learn to make the coordinates
:math:`a_i = q_i \cdot (z - m)` what was said. What :class:`explainer.generators.lesson.Lesson` asks for is
added to the generator's own loss, ramped up over the first fifth of the steps. What came out is measured on
images that nothing was said of, before and after; where there are too few of these, on guided ones too.
"""

import copy
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor

from explainer import metrics
from explainer.errors import OptionError, TrainingError
from explainer.generators.axes import NamedAxes
from explainer.generators.base import as_unit_interval
from explainer.generators.directions import codes_of, find_axes, label_line, require_locks
from explainer.generators.feed import feed
from explainer.generators.guidance import Anchors, Guidance
from explainer.generators.lesson import Lesson, Weights
from explainer.generators.told import Told, places_of, told
from explainer.generators.training import FEWEST_IMAGES, TrainableGenerator, _claim, store_codes
from explainer.storage import sha256, state_sha256

__all__ = ["Weights", "guide"]

RAMP = 0.2
FEWEST_ASIDE = 5
Trained = TypeVar("Trained", bound=TrainableGenerator)


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

    Of several stages the last is trained. A twentieth of the images is set aside, of those that nothing was
    said of. If there are fewer than five of these, guided images are measured too, and trained on all the
    same: ``"measured images trained on"`` counts them. What is measured before and after is in
    ``history.attrs["guidance"]``, and in ``axes.record`` where there are named axes.

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
        OptionError: As for :func:`explainer.generators.directions.name_axes`; guidance from which nothing can
            be learnt; anchors with more coordinates than the code has dimensions; a budget that is not
            positive; a generator that cannot be trained.
        TrainingError: Too few images, checkpoints of another run, or more than ten steps and more than a
            tenth of them without a finite gradient, or all.
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
    if not (0 < minutes < math.inf and 0 < learning_rate < math.inf):
        raise OptionError(
            "minutes, learning_rate", "must be positive and finite", received=(minutes, learning_rate),
            remedy="Try 30, 1e-3.",
        )  # fmt: skip
    require_locks(guidance, generator.axes)
    if not guidance.names and not guidance.of(Anchors):
        raise OptionError(
            "guidance", "says nothing that could be learnt", received=f"{len(guidance.statements)} of them",
            remedy="Label, rank or anchor some images, or pair two that differ in a named axis.",
        )  # fmt: skip
    places = _places(guidance, ids, len(images))
    held, training = _set_aside(len(images), set(places.values()), seed)
    before = copy.deepcopy(generator).requires_grad_(False).eval()
    codes = codes_of(before, images)
    axes = None
    if guidance.names or generator.axes is not None:
        axes = find_axes(codes, guidance, ids=ids, before=generator.axes, orthonormal=True, seed=seed)
    lesson = Lesson(before, axes, guidance, images, places, codes, weights or Weights(), seed)
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
            "generator": state_sha256(generator.state_dict()), "axes": _fingerprint(generator.axes),
        }  # fmt: skip
        _claim(folder, run_of)
        loop = Loop(
            "guidance", phase.module, loss, steps=steps, seconds=60 * minutes, rate=learning_rate, seed=seed,
            flip=False,
        )  # fmt: skip
        device = generator.intensity.device
        run(loop, known, min(batch_size, len(known)), folder, progress=progress)
        guided.to(device)
    if int(loop.skipped) > max(10, steps // 10) or not loop.learned:
        raise TrainingError(
            "learning_rate", "too many steps had no finite gradient", received=int(loop.skipped),
            remedy="Guide again with a smaller learning rate.",
        )  # fmt: skip
    guided.requires_grad_(False).eval()
    guided.history = pd.DataFrame(loop.rows)
    guided.skipped_steps = int(loop.skipped)
    store_codes(guided, known, feed(images[held], "images", guided.shape, 2))
    if guided.sampler is not None:
        guided.sampler.fit(*guided._codes_of(known), steps=steps, seed=seed)
    record = {
        "mode": "fine-tune", "statements": len(guidance.statements), "steps": steps, "seed": seed,
        "weights": asdict(lesson.weights), **_measured(guided, before, as_unit_interval(images[held])),
    }  # fmt: skip
    overlap = int(torch.isin(held, training).sum())
    if overlap:
        record["measured images trained on"] = overlap
    guided.history.attrs["guidance"] = record
    if axes is not None:
        found = _as_learned(axes, codes_of(guided, images), lesson_of=told(guidance, places))
        quality = {axis.name: axis.quality for axis in axes.axes if axis.measure}
        guided.axes = replace(found, record={**record, "held-out before": quality})
    return guided


def _fingerprint(axes: NamedAxes | None) -> str:
    """Of the axes a generator has: their names and tensors."""
    if axes is None:
        return ""
    return sha256(json.dumps([axes.names, state_sha256(axes.tensors())]).encode())


def _measured(guided: TrainableGenerator, before: TrainableGenerator, aside: Tensor) -> dict[str, Any]:
    """What the fine-tuning cost, on images set aside."""
    health = guided.health(aside)
    return {
        "held-out images": len(aside), "R2 before": _r2(before, aside), "R2 after": _r2(guided, aside),
        "health": f"{health.status}: {health.sentence}",
    }  # fmt: skip


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
            line = label_line(coordinates[:, number].numpy(), evidence) or (axis.slope, axis.offset)
            now = replace(
                now, basis=f"{axis.basis}, fine-tuned", measure="", quality=float("nan"), count=0,
                slope=line[0], offset=line[1],
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
    """Rows to measure on and rows to train on.

    Nothing was said of the first, unless such rows are too few: then guided ones, which are trained on too.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    free = [row for row in order if row not in guided]
    wanted = min(500, max(FEWEST_ASIDE, count // 20))
    kept = torch.ones(count, dtype=torch.bool)
    kept[free[:wanted]] = False
    others = [row for row in order if row in guided] if len(free) < FEWEST_ASIDE else []
    return torch.tensor([*free, *others][:wanted]), kept.nonzero().flatten()
