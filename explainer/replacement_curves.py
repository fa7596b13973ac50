"""Pixels replaced step by step, and what the classifier says at every step.

All methods see the same noise: the filler draws once per image and draw, maps become places once per draw,
and the mask of every fraction is a comparison of places with a number. What all methods share is asked for
once: the intact images, and the images of which nothing is left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainer.classifier import Classifier, Target
from explainer.errors import ClassifierError
from explainer.fillers import Filler
from explainer.pixel_order import Units

__all__ = ["ORDERS", "Answers", "class_probabilities", "replace_and_ask"]

ORDERS = ("most", "least")
"""Most relevant pixels first, least relevant first."""


@dataclass(frozen=True)
class Answers:
    """What the classifier said.

    Attributes:
        predicted: Classes ``(N,)`` of the intact images.
        certainty: Probability ``(N,)`` of that class.
        classes: Number of classes.
        predictions: Classes ``(methods, orders, draws, fractions, N)``.
        probability: Of the class predicted for the intact image, ``(methods, orders, fractions, N)``, mean
            over draws.
        asked: Number of images the classifier was asked for.
    """

    predicted: NDArray[np.int64]
    certainty: NDArray[np.float32]
    classes: int
    predictions: NDArray[np.int16]
    probability: NDArray[np.float32]
    asked: int


def class_probabilities(classifier: Classifier, raw: Tensor, target: Target | None) -> Tensor:
    """Probabilities ``(N, K)`` of the classes from raw outputs.

    Of a multilabel classifier the two classes are the target label and its absence.

    Raises:
        ClassifierError: A regression; or a multilabel classifier and no target.
    """
    kind, logits = classifier.kind, classifier.outputs == "logits"
    if kind == "regression":
        raise ClassifierError(
            "classifier", "has no classes that could change", received='kind="regression"',
            remedy='Ask for an event: kind="binary" with the logit of it.',
        )  # fmt: skip
    if kind == "multiclass":
        return raw.softmax(dim=1) if logits else raw
    if kind == "multilabel":
        if target is None:
            raise ClassifierError(
                "target", "must be named: of several labels each is a question of its own", received="None",
                remedy="Pass the label as the target.",
            )  # fmt: skip
        raw = raw[:, target.index].unsqueeze(1)
    positive = raw.sigmoid() if logits else raw
    return torch.cat([1 - positive, positive], dim=1)


@torch.no_grad()
def replace_and_ask(
    images: Tensor,
    classifier: Classifier,
    relevances: Mapping[str, NDArray],
    *,
    units: Units,
    filler: Filler,
    fractions: Sequence[float],
    seeds: Sequence[int],
    orders: Sequence[str] = ORDERS,
    target: Target | None = None,
    batch_size: int = 128,
    progress: Callable[[int], None] = lambda images: None,
) -> Answers:
    """Replace growing fractions of the units in the order of their relevance.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        classifier: Left as it was found.
        relevances: For each method ``(N, H, W)``, highest first; equal values in an order that every draw
            chooses anew.
        units: Pixels or superpixels.
        filler: What takes their place.
        fractions: Ascending, from 0 to 1.
        seeds: One per draw of noise and of the order of ties.
        orders: From :data:`ORDERS`.
        target: Of a multilabel classifier.
        batch_size: Images in memory, and asked, at a time.
        progress: Called with the number of images asked.
    """
    parts = []
    with classifier.frozen():
        for start in range(0, len(images), batch_size):
            rows = range(start, min(start + batch_size, len(images)))
            chunk = _Chunk(images[rows.start : rows.stop], rows, classifier, target, progress)
            parts.append(chunk.ask(relevances, units, filler, fractions, seeds, orders))
    predictions, probability = (np.concatenate([part[k] for part in parts], axis=-1) for k in (0, 1))
    predicted, certainty = (np.concatenate([part[k] for part in parts]) for k in (2, 3))
    return Answers(
        predicted=predicted,
        certainty=certainty,
        classes=parts[0][4],
        predictions=predictions,
        probability=probability,
        asked=sum(part[5] for part in parts),
    )


class _Chunk:
    """Some images that are in memory together."""

    def __init__(
        self,
        images: Tensor,
        rows: range,
        classifier: Classifier,
        target: Target | None,
        progress: Callable[[int], None],
    ) -> None:
        self.images, self.rows, self.classifier, self.target = images, rows, classifier, target
        self.progress, self.asked = progress, 0
        intact = self._probabilities(images)
        self.classes = intact.shape[1]
        self.predicted = intact.argmax(dim=1)
        self.certainty = self._of_predicted(intact)

    def ask(
        self,
        relevances: Mapping[str, NDArray],
        units: Units,
        filler: Filler,
        fractions: Sequence[float],
        seeds: Sequence[int],
        orders: Sequence[str],
    ) -> tuple[NDArray, NDArray, NDArray, NDArray, int, int]:
        shape = (len(relevances), len(orders), len(seeds), len(fractions), len(self.rows))
        predictions = np.empty(shape, dtype=np.int16)
        probability = np.empty(shape, dtype=np.float32)
        predictions[:, :, :, 0] = self.predicted.cpu()
        probability[:, :, :, 0] = self.certainty.cpu()
        counts = torch.from_numpy(units.counts[self.rows.start : self.rows.stop])
        numbers = [torch.round(fraction * counts).int().view(-1, 1, 1) for fraction in fractions]
        everything = torch.ones(len(self.rows), *units.size, dtype=torch.bool)
        for draw, seed in enumerate(seeds):
            drawn = filler.draw(self.rows, seed)
            nothing_left = self._answer(filler.fill(drawn, self.images, everything.to(self.images.device)))
            predictions[:, :, draw, -1], probability[:, :, draw, -1] = nothing_left
            for method, relevance in enumerate(relevances.values()):
                part = relevance[self.rows.start : self.rows.stop]
                most = units.places(part, self.rows, seed)
                for order, name in enumerate(orders):
                    places = most if name == "most" else counts.int().view(-1, 1, 1) - 1 - most
                    for step in range(1, len(fractions) - 1):
                        mask = (places < numbers[step]).to(self.images.device)
                        where = method, order, draw, step
                        predictions[where], probability[where] = self._answer(
                            filler.fill(drawn, self.images, mask)
                        )
        return (
            predictions, probability.mean(axis=2), self.predicted.cpu().numpy(), self.certainty.cpu().numpy(),
            self.classes, self.asked,
        )  # fmt: skip

    def _probabilities(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        self.progress(len(images))
        return class_probabilities(self.classifier, self.classifier.raw(images), self.target)

    def _of_predicted(self, probabilities: Tensor) -> Tensor:
        return probabilities.gather(1, self.predicted[:, None])[:, 0]

    def _answer(self, images: Tensor) -> tuple[NDArray, NDArray]:
        """The classes of images, and the probability of the class that the intact image was given."""
        probabilities = self._probabilities(images)
        return probabilities.argmax(dim=1).cpu().numpy(), self._of_predicted(probabilities).cpu().numpy()
