r"""Oracles: models that answer the questions about attributes, and the target's own.

Where none is given they are trained here, all in one network with one output per question, on two halves of
the images (by group): each image is judged by the network that has not seen it. Losses are weighted so that
an oracle cannot use what merely goes with its answer: an attribute's is balanced over the target, the
target's is raked over all attributes at once. With weights :math:`w_{ih}` of image i for output h, images are
drawn with probability :math:`p_i \propto \sum_h w_{ih}` and their losses weighted :math:`w_{ih} / p_i`.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from explainer.bias.attributes import Attribute, balanced_weights, raked_weights
from explainer.classifier import Classifier
from explainer.convnet import ConvNet, as_float, fit_temperature
from explainer.errors import ClassifierError, OptionError
from explainer.metrics import auc
from explainer.target import Target, log_odds

__all__ = ["Oracle", "Part", "fit_oracles", "given_oracle", "oracle_quality", "scores_of"]

SMOOTHING = 0.05
BATCH = 64


@dataclass(frozen=True, eq=False)
class Part:
    """A model, and the images it may be asked about.

    Attributes:
        classifier: Of one or several outputs.
        target: The one that answers.
        rows: Numbers of the images it has not seen.
    """

    classifier: Classifier
    target: Target
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Oracle:
    """Models that answer one question, each for images it has not seen.

    Attributes:
        parts: One model, or one for each half of the images.
        source: Where it comes from, in words.
    """

    parts: tuple[Part, ...]
    source: str


class Seen(nn.Module):
    """A network that sees what the generator sees of an image: its region, at its size."""

    def __init__(self, network: nn.Module, resized: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.resized = resized

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.resized(images))


@torch.no_grad()
def scores_of(
    oracles: Sequence[Oracle], images: Tensor, rows: Sequence[int] | NDArray
) -> NDArray[np.float64]:
    """Log-odds (oracles, M) of images (M, C, H, W) that belong to, or were made from, the images ``rows``.

    Args:
        oracles: Outputs of one network are evaluated together.
        images: In [0, 1].
        rows: Of each, its number in the audited set: it decides which model is asked.
    """
    asked = np.asarray(rows)
    scores = np.full((len(oracles), len(asked)), np.nan)
    seen: dict[int, tuple[NDArray, Tensor]] = {}
    for number, oracle in enumerate(oracles):
        for part in oracle.parts:
            model = part.classifier
            if id(model) not in seen:
                chosen = np.flatnonzero(np.isin(asked, part.rows))
                with model.frozen():
                    batches = images[torch.from_numpy(chosen)].split(model.batch_size)
                    raw = [model.raw(batch) for batch in batches if len(batch)]
                seen[id(model)] = chosen, torch.cat(raw) if raw else torch.zeros(0)
            chosen, outputs = seen[id(model)]
            if len(chosen):
                score = log_odds(outputs, part.target, kind=model.kind, outputs=model.outputs)
                scores[number, chosen] = score.double().cpu().numpy()
    return scores


def given_oracle(oracles: Mapping[str, Classifier], question: Attribute, images: Tensor) -> Oracle | None:
    """The oracle that somebody else trained for a question, by the question's name or its column.

    A model of several classes (one for a categorical column) answers by the class named as the category.

    Args:
        oracles: By name.
        question: What is asked.
        images: All audited images (N, C, H, W).

    Raises:
        OptionError: A model for a categorical column without a class of that name.
        ClassifierError: A model without a gradient, which cannot be walked.
    """
    name = next((name for name in (question.name, question.column) if name in oracles), None)
    if name is None:
        return None
    model = oracles[name]
    model.check(images[:8])
    if not model.differentiable:
        raise ClassifierError(
            "oracles", f'has a model without a gradient for "{name}", and an oracle is walked',
            received=model, remedy="Leave it out: one is trained here from the attribute's column.",
        )  # fmt: skip
    positive = str(question.positive)
    if positive in model.class_names:
        target = model.target(positive)
    elif model.kind == "binary" and (question.kind != "categorical" or name == question.name):
        target = model.target(1)
    else:
        raise OptionError(
            "oracles", f'"{name}" has no class "{positive}" to answer for "{question.name}"',
            received=model.class_names, remedy="Name its classes with Classifier(..., class_names=...).",
        )  # fmt: skip
    return Oracle((Part(model, target, np.arange(len(images))),), "given")


def fit_oracles(
    images: Tensor,
    questions: Sequence[Attribute],
    truth: NDArray,
    groups: NDArray,
    *,
    resized: Callable[[Tensor], Tensor],
    steps: int = 400,
    seed: int = 0,
) -> list[Oracle]:
    """Train cross-fitted oracles of all questions, and last the target's own.

    Args:
        images: (N, C, H, W) in [0, 1], at the size at which they are to be seen.
        questions: About every image.
        truth: Target (N,): 0, 1 or NaN.
        groups: Person, patient ... (N,); nobody is in both halves.
        resized: Brings images of any size to that of ``images``; differentiable.
        steps: Optimiser steps of each half.
        seed: Of the halves and the training.
    """
    if steps < 1:
        raise OptionError("oracle_steps", "must be at least 1", received=steps, remedy="400 is usual.")
    names, index = np.unique(groups, return_inverse=True)
    half = np.random.default_rng(seed).permutation(len(names))[index] % 2
    answers = np.stack([*(question.values for question in questions), truth], axis=1)
    weights = np.stack(
        [
            *(balanced_weights(truth, question.values) for question in questions),
            raked_weights(truth, [question.values for question in questions]),
        ],
        axis=1,
    )
    parts: list[list[Part]] = [[] for _ in range(answers.shape[1])]
    for number in (0, 1):
        training, judged = np.flatnonzero(half == number), np.flatnonzero(half != number)
        if not len(training) or not len(judged):
            raise OptionError(
                "groups", "are too few to train an oracle on one half of them for the other",
                received=f"{len(names)} groups", remedy="Pass images of more people, or oracles=.",
            )  # fmt: skip
        network = _fit(images, answers, weights, training, steps=steps, seed=seed + number)
        _calibrate(network, images, answers, judged)
        classifier = Classifier(
            Seen(network.requires_grad_(False).eval(), resized),
            kind="multilabel",
            class_names=[*(question.name for question in questions), "the target"],
        )
        for output, mine in enumerate(parts):
            mine.append(Part(classifier, classifier.target(output, images[:1]), judged))
    source = f"trained here in two halves, {steps} steps each"
    return [Oracle(tuple(mine), source) for mine in parts]


@torch.enable_grad()
def _fit(
    images: Tensor, answers: NDArray, weights: NDArray, rows: NDArray, *, steps: int, seed: int
) -> ConvNet:
    """One network for all questions; the weights are averaged over the second half of the training."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = ConvNet(channels=images.shape[1], classes=answers.shape[1]).train()
    known = torch.from_numpy(np.nan_to_num(answers[rows], nan=0.5)).float()
    wanted = known * (1 - SMOOTHING) + SMOOTHING / 2
    weight = torch.from_numpy(weights[rows])
    draw = weight.sum(dim=1)
    if not bool((draw > 0).any()):
        draw = torch.ones(len(rows), dtype=torch.float64)
    share = torch.where(draw > 0, draw / draw.mean(), torch.inf)
    weight = (weight / share[:, None]).float()
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    stream = torch.Generator().manual_seed(seed)
    own = torch.from_numpy(rows)
    for step in range(steps):
        warm = min(1.0, (step + 1) / min(50, steps))
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.multinomial(draw, BATCH, replacement=True, generator=stream)
        outputs = network(as_float(images[own[chosen]]))
        loss = functional.binary_cross_entropy_with_logits(
            outputs, wanted[chosen], weight=weight[chosen], reduction="sum"
        )
        optimiser.zero_grad(set_to_none=True)
        (loss / BATCH).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        keep = min(0.99, (1 + step) / (10 + step))
        for old, new in zip(averaged.parameters(), network.parameters(), strict=True):
            old.lerp_(new.detach(), 1 - keep)
    return averaged


@torch.no_grad()
def _calibrate(network: ConvNet, images: Tensor, answers: NDArray, rows: NDArray, most: int = 1000) -> None:
    """Divide every output by its temperature on images that were not trained on (one number per output)."""
    some = torch.from_numpy(rows[:most])
    outputs = torch.cat([network(as_float(part)) for part in images[some].split(256)])
    for output in range(answers.shape[1]):
        known = ~np.isnan(answers[rows[:most], output])
        if known.sum() >= 2 * BATCH:
            labels = torch.from_numpy(answers[rows[:most], output][known])
            temperature = fit_temperature(
                outputs[torch.from_numpy(known), output : output + 1], labels, label_noise=0.02
            )
            network.head.weight[output] /= temperature
            network.head.bias[output] /= temperature


def oracle_quality(scores: NDArray, answers: NDArray, other: NDArray) -> dict[str, float]:
    """How good an oracle is within each class of something else: what it knows beyond that.

    Args:
        scores: Log-odds (N,).
        answers: What is true (N,), 0, 1 or NaN.
        other: The classes (N,), 0, 1 or NaN.

    Returns:
        The area under the ROC curve and the error rate within each class; ``"least"`` of the areas, NaN where
        a class holds one answer only.
    """
    quality: dict[str, float] = {}
    areas = []
    for y in (0, 1):
        rows = (other == y) & ~np.isnan(answers) & np.isfinite(scores)
        areas.append(auc(answers[rows], scores[rows]) if rows.any() else math.nan)
        quality[f"AUC within {y}"] = areas[-1]
        wrong = (scores[rows] > 0) != (answers[rows] > 0.5)
        quality[f"error within {y}"] = float(wrong.mean()) if rows.any() else math.nan
    quality["least"] = math.nan if np.isnan(areas).any() else min(areas)
    return quality
