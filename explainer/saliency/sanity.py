"""Does a map show the model, or only the image? It must change when the model does (Adebayo et al. 2018,
arXiv 1810.03292).

* :func:`parameter_randomisation`: the layers of a copy of the model are drawn anew one after the other, from
  the output down, and the map is made again at every stage.
* :func:`label_randomisation`: the map of a model of the same kind that was trained on random labels.
* :func:`infidelity` and :func:`sensitivity`, captum's (Yeh et al. 2019, arXiv 1901.09392).

A map is any function from a classifier to maps, so the walk is checked in the same way as a gradient: its
walk is made again on the changed classifier.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from explainer.classifier import Classifier, Target
from explainer.errors import ClassifierError, OptionError
from explainer.metrics import ssim
from explainer.saliency.attribution import SMOOTH, _quiet, _seeded, attribute
from explainer.saliency.base import SaliencyMap
from explainer.saliency.score_module import ScoreModule

__all__ = [
    "UNCHANGED", "SanityCheck", "infidelity", "label_randomisation", "parameter_randomisation", "sensitivity",
]  # fmt: skip

UNCHANGED = 0.5
"""A map whose rank correlation with that of a random model is above this does not depend on the model."""

Maps = Callable[[Classifier], Sequence[SaliencyMap]]


@dataclass(frozen=True)
class SanityCheck:
    """How a method's maps change with the model.

    Attributes:
        name: What was randomised.
        method: The saliency method.
        table: One row per stage: ``stage``, ``layer``, ``correlation`` (Spearman's, of magnitudes, mean over
            images), ``low`` and ``high`` (5 and 95 % of the images), ``ssim``.
        changed: Whether the maps of the last stage differ from those of the model.
        sentence: The result in words.
    """

    name: str
    method: str
    table: pd.DataFrame
    changed: bool
    sentence: str


def parameter_randomisation(
    maps: Maps, classifier: Classifier, *, stages: int | None = None, seed: int = 0
) -> SanityCheck:
    """Draw the layers of a copy of the model anew, from the last to the first, and compare the maps.

    Args:
        maps: From a classifier to one map per image, for example
            ``lambda c: saliency_batch(["saliency"], c, images, target)["saliency"]``.
        classifier: Left as it is.
        stages: At most so many, each of several layers; one per layer if None.
        seed: Of the random parameters.

    Raises:
        ClassifierError: The classifier is no module, or has no parameters.
    """
    if not isinstance(classifier.model, nn.Module):
        raise ClassifierError(
            "classifier", "must be a module, so that its parameters can be randomised",
            received=classifier, remedy="Pass the torch module, or use label_randomisation.",
        )  # fmt: skip
    first = list(maps(classifier))
    network = copy.deepcopy(classifier.model)
    twin = _twin(classifier, network)
    layers = [
        (name or "the model", module)
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ][::-1]
    if not layers:
        raise ClassifierError(
            "classifier",
            "has no parameters to randomise",
            received=classifier,
            remedy="Pass a trained module.",
        )
    size = 1 if stages is None else -(-len(layers) // max(1, stages))
    rows: list[dict] = []
    start = iter(layers)
    stream = torch.Generator().manual_seed(seed)
    while group := list(itertools.islice(start, size)):
        for _, module in group:
            _draw_anew(module, stream)
        label = group[0][0] if len(group) == 1 else f"{group[0][0]} to {group[-1][0]}"
        rows.append({"stage": len(rows) + 1, "layer": label, **_similarity(first, list(maps(twin)))})
    return _judged("parameter randomisation", "whose parameters are random", first, rows)


def label_randomisation(
    maps: Maps, classifier: Classifier, randomised: Classifier | Callable[[], Classifier]
) -> SanityCheck:
    """Compare the maps with those of a model that was trained on random labels.

    Args:
        maps: From a classifier to one map per image.
        classifier: The model.
        randomised: The one trained on permuted labels, or a function that trains it.
    """
    other = randomised if isinstance(randomised, Classifier) else randomised()
    first = list(maps(classifier))
    row = {"stage": 1, "layer": "all, by training", **_similarity(first, list(maps(other)))}
    return _judged("label randomisation", "trained on random labels", first, [row])


def infidelity(
    attributions: Tensor,
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    noise: float = 0.1,
    samples: int = 32,
    seed: int = 0,
) -> Tensor:
    """captum's normalised infidelity ``(N,)``: how badly the map predicts what noise does to the score.

    Args:
        attributions: ``(N, C, H, W)``; they are scaled by the best single factor (``normalize=True``), so
            only their proportions count.
        classifier: Left as it was found.
        images: ``(N, C, H, W)``.
        target: What the score is of.
        noise: Standard deviation of the noise, as a share of the range of the images.
        samples: Noise images per image.
        seed: Of the noise.
    """
    from captum.metrics import infidelity as captum_infidelity

    spread = noise * float(images.amax() - images.amin())

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        drawn = spread * torch.randn_like(inputs)
        return drawn, inputs - drawn

    with classifier.frozen(), torch.no_grad(), _seeded(seed), _quiet():
        return captum_infidelity(
            ScoreModule(classifier, target), perturb, images, attributions.to(images),
            n_perturb_samples=samples, normalize=True,
        ).cpu()  # fmt: skip


def sensitivity(
    name: str,
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    radius: float = 0.02,
    samples: int = 8,
    seed: int = 0,
) -> Tensor:
    """captum's maximal sensitivity ``(N,)``: the largest relative change of the map under a change of the
    image too small to matter.

    Args:
        name: One of captum's methods that draws nothing at random.
        classifier: Left as it was found.
        images: ``(N, C, H, W)``.
        target: What the score is of.
        radius: Largest change of a pixel, as a share of the range of the images.
        samples: Changed images per image.
        seed: Of the changes.

    Raises:
        OptionError: A method that draws at random: its own noise would be measured.
    """
    from captum.metrics import sensitivity_max

    if name.endswith(SMOOTH) or name == "gradient_shap":
        raise OptionError(
            "name", "draws at random, so its own noise would be measured", received=name,
            remedy='Choose for example "integrated_gradients".',
        )  # fmt: skip

    def explained(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # A tuple in, a tuple out: captum would iterate over a tensor's first axis.
        return (attribute(name, classifier, inputs[0], target),)

    spread = radius * float(images.amax() - images.amin())
    with _seeded(seed), _quiet():
        return sensitivity_max(
            explained, images.cpu(), perturb_radius=spread, n_perturb_samples=samples,
            max_examples_per_batch=len(images),
        ).cpu()  # fmt: skip


def _twin(classifier: Classifier, model: nn.Module) -> Classifier:
    twin = copy.copy(classifier)
    twin.model = model
    twin._depth = 0
    return twin


@torch.no_grad()
def _draw_anew(module: nn.Module, stream: torch.Generator) -> None:
    """New parameters of one layer: by its own initialisation if it has one, else of the same spread."""
    seed = int(torch.randint(2**31, (1,), generator=stream))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            return
        for parameter in module.parameters(recurse=False):
            spread = float(parameter.std()) if parameter.numel() > 1 else float(parameter.abs().max())
            parameter.copy_(spread * torch.randn(parameter.shape))


def _similarity(first: list[SaliencyMap], second: list[SaliencyMap]) -> dict[str, float]:
    a, b = (
        np.stack([each.relevance().abs().flatten().double().numpy() for each in maps])
        for maps in (first, second)
    )
    ranks_a, ranks_b = (rankdata(values, axis=1) for values in (a, b))
    ranks_a -= ranks_a.mean(axis=1, keepdims=True)
    ranks_b -= ranks_b.mean(axis=1, keepdims=True)
    spread = np.sqrt((ranks_a**2).sum(axis=1) * (ranks_b**2).sum(axis=1))
    # A blank map has no order, so it agrees with nothing.
    each = np.divide((ranks_a * ranks_b).sum(axis=1), spread, out=np.zeros(len(a)), where=spread > 0)
    return {
        "correlation": float(each.mean()),
        "low": float(np.quantile(each, 0.05)),
        "high": float(np.quantile(each, 0.95)),
        "ssim": _ssim(first, second),
    }


def _ssim(first: list[SaliencyMap], second: list[SaliencyMap]) -> float:
    pictures = []
    for maps in (first, second):
        stacked = torch.stack([each.relevance().abs() for each in maps])[:, None]
        pictures.append(stacked / stacked.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12))
    return float(ssim(*pictures).mean())


def _judged(name: str, how: str, first: list[SaliencyMap], rows: list[dict]) -> SanityCheck:
    last = rows[-1]["correlation"]
    changed = last <= UNCHANGED
    method = first[0].name
    sentence = (
        f"{method} changes with the model: the rank correlation with its maps of a model {how} is {last:.2f}."
        if changed
        else f"{method} hardly changes when the model does: the rank correlation with its maps of a model "
        f"{how} is {last:.2f}. It shows the image, not the model."
    )
    return SanityCheck(name, method, pd.DataFrame(rows), changed, sentence)
