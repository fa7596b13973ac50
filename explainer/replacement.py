r"""Is a map true? Replace the pixels it calls relevant, and see how soon the classifier no longer sees its
class.

A faithful map makes accuracy, probability and mutual information fall quickly when its most relevant pixels
go first, and slowly when its least relevant go first (pixel flipping: Bach et al. 2015; accuracy, probability
and mutual information under uniform noise: Singla et al. 2020, arXiv 1911.00483; symmetric relevance gain,
least minus most: Blücher et al. 2024, arXiv 2401.06654). All three come from the same answers to the same
noise.

A curve alone says little: any replaced pixel hurts. So every call also draws what a map without knowledge of
the model would reach (:mod:`explainer.pixel_order`), and says which differences are more than chance
(:mod:`explainer.paired_comparison`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from explainer.classifier import Classifier
from explainer.errors import ImageError, OptionError
from explainer.fidelity_result import Fidelity
from explainer.fillers import Filler, make_filler
from explainer.generators.base import Generator
from explainer.mutual_information import information, joint_columns, permutation_null
from explainer.paired_comparison import (
    Measure,
    areas,
    differences,
    distribution,
    mean_of_columns,
    moved_to,
    percentiles,
)
from explainer.pixel_order import (
    Units,
    another_image,
    edges,
    pixels,
    require_relevance,
    same_spectrum,
    superpixels,
)
from explainer.progress import told
from explainer.replacement_curves import ORDERS, Answers, replace_and_ask
from explainer.saliency import SaliencyMap
from explainer.target import TargetSpec

__all__ = ["fidelity"]

FEWEST_IMAGES = 100
"""Below this accuracy and mutual information are too uncertain to be shown."""

MOST_CLASSES = 20
SHUFFLES = 200
RANDOM = "random order"

Maps = Tensor | np.ndarray | Sequence[SaliencyMap]


@dataclass(frozen=True)
class _Data:
    """Everything the measures are computed from."""

    methods: tuple[str, ...]
    answers: Answers
    labels: NDArray[np.int64] | None
    fractions: NDArray[np.float64]
    orders: tuple[str, ...]
    groups: NDArray[np.int64]
    seed: int

    def area(self, values: NDArray) -> NDArray:
        """Areas under curves whose fractions lie along the last axis but one, the last being images."""
        return np.trapezoid(values, self.fractions, axis=-2)


def fidelity(
    images: Tensor,
    labels: ArrayLike | None,
    classifier: Classifier,
    saliencies: Mapping[str, Maps],
    *,
    target: TargetSpec = None,
    filler: str | Filler | Generator = "uniform",
    unit: Literal["pixels", "superpixels"] = "pixels",
    steps: int = 20,
    draws: int = 2,
    superpixel_count: int = 64,
    orders: Sequence[str] = ORDERS,
    controls_for: str | None = None,
    groups: ArrayLike | None = None,
    batch_size: int = 128,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Fidelity:
    """Replace pixels in the order of each map and compare the maps with each other and with controls.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        labels: True classes ``(N,)``, indices or names of classes; None if they are not known: then there is
            no accuracy.
        classifier: Left as it was found.
        saliencies: For each method its maps: one :class:`SaliencyMap` per image, or an array ``(N, H, W)`` or
            ``(N, C, H, W)`` (channels are added up) whose highest values are the most relevant.
        target: What maps of evidence speak of: on images that the classifier puts on the other side they are
            turned round. By default the positive class of a binary classifier. Of a multilabel classifier the
            label that is looked at.
        filler: ``"uniform"``, ``"blur"``, ``"mean"``, ``"marginal"``, a generator (it inpaints) or a filler.
        unit: Pixels, with all their channels, or superpixels.
        steps: The fractions are 0, 1/steps, ... 1.
        draws: Of noise, of random orders and of the order of ties; probabilities are means over them.
        superpixel_count: About how many.
        orders: ``"most"`` and ``"least"`` relevant first.
        controls_for: The method whose maps are given to other images and whose spectrum is copied; the first.
        groups: Person or patient of each image, if some have several: intervals and tests are then of groups.
        batch_size: Images in memory, and asked, at a time.
        resamples: Of the bootstrap; one less exchanges are made for every test.
        confidence: Of the intervals.
        seed: Of everything drawn at random.
        progress: Show a bar on a terminal's stderr.

    Returns:
        Curves, areas, paired differences and the ranking.

    Raises:
        ImageError: Images that are not a batch.
        OptionError: An option outside its range, or maps and labels that do not belong to the images.
        ClassifierError: A regression, which has no classes.
    """
    _require_options(images, saliencies, steps, draws, orders, batch_size, resamples, confidence, unit)
    main = next(iter(saliencies)) if controls_for is None else controls_for
    if main not in saliencies:
        raise OptionError(
            "controls_for", "is no method of saliencies", received=main,
            remedy=f"Choose from: {', '.join(saliencies)}.",
        )  # fmt: skip
    images = images.detach().float()
    with torch.no_grad(), classifier.frozen():
        classifier.raw(images[:1])
    members = _groups(groups, len(images))
    relevances, controls, reasons = _relevances(images, classifier, saliencies, target, main, seed)
    fractions = np.linspace(0, 1, steps + 1)
    seeds = [int(value) for value in np.random.SeedSequence(seed).generate_state(draws)]
    units: Units = pixels(images) if unit == "pixels" else superpixels(images, superpixel_count)
    chosen = make_filler(filler, images)
    label = classifier.target(target) if classifier.kind == "multilabel" and target is not None else None
    asked = len(images) * (1 + draws + draws * len(relevances) * len(orders) * (steps - 1))
    with _bar(progress, asked) as advance:
        answers = replace_and_ask(
            images, classifier, relevances, units=units, filler=chosen,
            fractions=fractions.tolist(), seeds=seeds, orders=orders, target=label,
            batch_size=batch_size, progress=advance,
        )  # fmt: skip
    data = _Data(
        methods=tuple(relevances),
        answers=answers,
        labels=_labels(labels, classifier, answers.classes, len(images)),
        fractions=fractions,
        orders=tuple(orders),
        groups=members,
        seed=seed,
    )
    measures, missing = _measures(data)
    options = {"resamples": resamples, "confidence": confidence, "seed": seed}
    area_table, drawn = areas(measures, members, **options)  # type: ignore[arg-type]
    return Fidelity(
        methods=tuple(saliencies),
        controls=controls,
        fractions=fractions,
        curves=_curves(data, {measure.name for measure in measures}, **options),  # type: ignore[arg-type]
        areas=area_table,
        differences=differences(
            measures, drawn, members, exchanges=resamples - 1, confidence=confidence, seed=seed
        ),
        probability=answers.probability,
        predictions=answers.predictions,
        predicted=answers.predicted,
        labels=data.labels,
        orders=tuple(orders),
        lower_is_better={measure.name: measure.lower_is_better for measure in measures},
        missing=reasons | missing,
        chance=_chance(data),
        settings={
            "filler": chosen.name, "unit": unit, "steps": steps, "draws": draws, "seeds": seeds,
            "images": len(images), "groups": int(members.max()) + 1, "controls_for": main,
            "batch_size": batch_size, "resamples": resamples, "exchanges": resamples - 1,
            "confidence": confidence, "seed": seed, "shuffles": SHUFFLES, "asked": answers.asked,
        },
    )  # fmt: skip


# -- what comes in ---------------------------------------------------------------------------------------


def _require_options(
    images: object,
    saliencies: object,
    steps: int,
    draws: int,
    orders: Sequence[str],
    batch_size: int,
    resamples: int,
    confidence: float,
    unit: str,
) -> None:
    if (
        not isinstance(images, Tensor)
        or images.ndim != 4
        or not images.is_floating_point()
        or not len(images)
    ):
        raise ImageError(
            "images", "must be a floating-point tensor (batch, channels, height, width)",
            received=tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__,
            remedy="Pass the result of as_images.",
        )  # fmt: skip
    if not isinstance(saliencies, Mapping) or not saliencies:
        raise OptionError(
            "saliencies", "must hold the maps of at least one method", received=type(saliencies).__name__,
            remedy='Pass for example saliency_batch(["saliency"], classifier, images, target).',
        )  # fmt: skip
    smallest = {
        "steps": (steps, 2),
        "draws": (draws, 1),
        "batch_size": (batch_size, 1),
        "resamples": (resamples, 100),
    }
    for name, (value, least) in smallest.items():
        if value < least:
            raise OptionError(name, f"must be at least {least}", received=value, remedy="Leave it out.")
    if not 0 < confidence < 1:
        raise OptionError("confidence", "must lie between 0 and 1", received=confidence, remedy="Pass .95.")
    if unit not in ("pixels", "superpixels"):
        raise OptionError("unit", "is not known", received=unit, remedy='Choose "pixels" or "superpixels".')
    if not orders or set(orders) - set(ORDERS) or orders[0] != "most":
        raise OptionError(
            "orders", 'must be "most", or "most" and "least"', received=orders, remedy=f"Pass {ORDERS}."
        )


def _relevances(
    images: Tensor,
    classifier: Classifier,
    saliencies: Mapping[str, Maps],
    target: TargetSpec,
    main: str,
    seed: int,
) -> tuple[dict[str, NDArray], tuple[str, ...], dict[str, str]]:
    """Maps ``(N, H, W)`` of all methods and controls, names of the controls, and why one is missing."""
    found: dict[str, NDArray] = {}
    side: NDArray | None = None
    for name, maps in saliencies.items():
        if isinstance(maps, Tensor | np.ndarray):
            found[name] = require_relevance(name, maps, images.shape)
            continue
        found[name] = require_relevance(name, torch.stack([each.relevance() for each in maps]), images.shape)
        if any(each.evidence for each in maps):
            if side is None:
                side = _side(images, classifier, target)
            found[name] = found[name] * side[:, None, None]
    missing: dict[str, str] = {}
    controls = {
        RANDOM: np.zeros((len(images), *images.shape[2:])),  # all ties: every draw chooses an order
        "Sobel edges": edges(images),
        f"random phases of {main}": same_spectrum(found[main], seed),
    }
    if len(images) > 1:
        controls[f"another image's {main}"] = another_image(found[main], seed)
    else:
        missing[f"another image's {main}"] = "There is no other image."
    clash = set(controls) & set(found)
    if clash:
        raise OptionError(
            "saliencies", "names a method like a control", received=", ".join(clash), remedy="Rename it."
        )
    return found | controls, tuple(controls), missing


def _side(images: Tensor, classifier: Classifier, target: TargetSpec) -> NDArray:
    """1 where the classifier sees the target, -1 where it does not."""
    wanted = classifier.target(target, images)
    with torch.no_grad(), classifier.frozen():
        scores = torch.cat([classifier.score(part, wanted) for part in images.split(classifier.batch_size)])
    return np.where(scores.cpu().numpy() < 0, -1.0, 1.0)


def _groups(groups: ArrayLike | None, count: int) -> NDArray[np.int64]:
    if groups is None:
        return np.arange(count)
    members = np.asarray(groups)
    if members.shape != (count,):
        raise OptionError(
            "groups", f"must name one group for each of {count} images", received=f"shape {members.shape}",
            remedy="Pass one person or patient per image.",
        )  # fmt: skip
    return np.unique(members, return_inverse=True)[1].astype(np.int64)


def _labels(
    labels: ArrayLike | None, classifier: Classifier, classes: int, count: int
) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if given.shape != (count,):
        raise OptionError(
            "labels", f"must be one class for each of the {count} images", received=f"shape {given.shape}",
            remedy="Pass indices or names of classes, or None.",
        )  # fmt: skip
    if given.dtype.kind in "OUS":
        names = list(classifier.class_names)
        unknown = sorted({str(name) for name in given} - set(names))
        if unknown:
            raise OptionError(
                "labels", "hold names that are no classes", received=", ".join(unknown[:5]),
                remedy=f"Choose from: {', '.join(names[:10])}.",
            )  # fmt: skip
        given = np.array([names.index(str(name)) for name in given])
    if given.dtype.kind == "f" and not (given == np.floor(given)).all():
        raise OptionError(
            "labels",
            "must be classes, not probabilities",
            received=given[:3].tolist(),
            remedy="Round them first.",
        )
    whole = given.astype(np.int64)
    if whole.min() < 0 or whole.max() >= classes:
        raise OptionError(
            "labels", f"must lie in 0 ... {classes - 1}", received=f"{whole.min()} ... {whole.max()}",
            remedy="Pass indices of the classifier's classes.",
        )  # fmt: skip
    return whole


@contextmanager
def _bar(wanted: bool, total: int) -> Iterator[Callable[[int], None]]:
    asked = 0

    def advance(images: int) -> None:
        nonlocal asked
        asked += images
        say(f"{asked:,} of {total:,} images asked", asked / max(1, total))

    with told(wanted, "replacing pixels") as say:
        yield advance


# -- what comes out --------------------------------------------------------------------------------------


def _measures(data: _Data) -> tuple[list[Measure], dict[str, str]]:
    """Areas that can be had, and why the others cannot."""
    answers, count = data.answers, len(data.groups)
    kept = (answers.predictions == answers.predicted).mean(axis=2)
    found = [
        _mean(data, "probability", True, data.area(answers.probability[:, 0])),
        _mean(data, "class kept", True, data.area(kept[:, 0])),
    ]
    missing: dict[str, str] = {}
    if "least" in data.orders:
        least, most = data.orders.index("least"), data.orders.index("most")
        gain = data.area(answers.probability[:, least]) - data.area(answers.probability[:, most])
        found.append(_mean(data, "symmetric relevance gain", False, gain))
    few = (
        f"{count} {'image is' if count == 1 else 'images are'} too few: at least {FEWEST_IMAGES} are needed."
        if count < FEWEST_IMAGES
        else ""
    )
    unlabelled = "No labels were given." if data.labels is None else ""
    crowded = (
        f"{answers.classes} classes are too many for {count} images."
        if answers.classes > MOST_CLASSES
        else ""
    )
    reason = unlabelled or few
    if reason:
        missing["accuracy"] = reason
    else:
        correct = (answers.predictions == data.labels).mean(axis=2)
        found.append(_mean(data, "accuracy", True, data.area(correct[:, 0])))
    for name, first, lacking in (
        ("information about the label", data.labels, unlabelled),
        ("information about the first answer", answers.predicted, ""),
    ):
        reason = lacking or few or crowded
        if reason or first is None:
            missing[name] = reason
        else:
            found.append(_information(data, name, first))
    return found, missing


def _mean(data: _Data, name: str, lower: bool, values: NDArray) -> Measure:
    columns = {method: values[k].reshape(-1, 1).astype(np.float32) for k, method in enumerate(data.methods)}
    return Measure(name, lower, columns, mean_of_columns, dict.fromkeys(data.methods, 0.0))


def _information(data: _Data, name: str, first: NDArray) -> Measure:
    def finish(sums: NDArray, weight: NDArray) -> NDArray:
        return np.trapezoid(_information_curve(data, sums), data.fractions, axis=-1)

    columns, null = {}, {}
    for k, method in enumerate(data.methods):
        columns[method] = _joint(data, first, k, 0)
        null[method] = float(np.trapezoid(_null_curve(data, first, k, 0), data.fractions))
    return Measure(name, True, columns, finish, null)


def _joint(data: _Data, first: NDArray, method: int, order: int) -> NDArray[np.float32]:
    """Columns ``(N, draws * fractions * K * K)`` whose sums are contingency tables."""
    predictions = np.moveaxis(data.answers.predictions[method, order], -1, 0)
    return joint_columns(first, predictions, data.answers.classes).reshape(len(first), -1)


def _information_curve(data: _Data, sums: NDArray) -> NDArray:
    """Information ``(B, fractions)``, mean over draws, of sums of joint columns ``(B, P)``."""
    classes = data.answers.classes
    return information(sums.reshape(len(sums), -1, len(data.fractions), classes, classes)).mean(axis=1)


def _null_curve(data: _Data, first: NDArray, method: int, order: int) -> NDArray:
    predictions = np.moveaxis(data.answers.predictions[method, order], -1, 0)
    null = permutation_null(
        first, predictions.reshape(len(first), -1), data.answers.classes, shuffles=SHUFFLES, seed=data.seed
    )
    return null.reshape(predictions.shape[1:]).mean(axis=0)


def _curves(data: _Data, wanted: set[str], *, resamples: int, confidence: float, seed: int) -> pd.DataFrame:
    """Long table of all curves with pointwise intervals."""
    answers, several = data.answers, int(data.groups.max()) > 0
    means = {
        "probability": answers.probability,
        "class kept": (answers.predictions == answers.predicted).mean(axis=2),
    }
    if "accuracy" in wanted:
        means["accuracy"] = (answers.predictions == data.labels).mean(axis=2)
    tables = []
    for name, values in means.items():
        rows = values.reshape(-1, values.shape[-1]).astype(np.float32)
        low = high = np.full(len(rows), np.nan)
        if several:
            drawn = distribution(
                partial(_resampled_means, rows),
                data.groups, resamples=resamples, seed=seed,
            )  # fmt: skip
            low, high = percentiles(drawn, confidence, int(data.groups.max()) + 1)
        shape = values.shape[:-1]
        tables.append(_long(data, name, values.mean(axis=-1), low.reshape(shape), high.reshape(shape)))
    for name, first in (
        ("information about the label", data.labels),
        ("information about the first answer", answers.predicted),
    ):
        if name in wanted and first is not None:
            tables.append(_information_table(data, name, first, resamples, confidence, seed))
    return pd.concat(tables, ignore_index=True)


def _resampled_means(rows: NDArray, weights: NDArray) -> NDArray:
    """Weighted means ``(T, B)`` of rows ``(T, N)``."""
    return ((weights @ rows.T) / weights.sum(axis=1, keepdims=True)).T


def _resampled_information(data: _Data, columns: NDArray, weights: NDArray) -> NDArray:
    return _information_curve(data, (weights @ columns).astype(np.float64)).T


def _information_table(
    data: _Data, name: str, first: NDArray, resamples: int, confidence: float, seed: int
) -> pd.DataFrame:
    shape = (len(data.methods), len(data.orders), len(data.fractions))
    value, low, high = np.empty(shape), np.empty(shape), np.empty(shape)
    for k, order in np.ndindex(shape[:2]):
        columns, null = _joint(data, first, k, order), _null_curve(data, first, k, order)
        value[k, order] = _information_curve(data, columns.sum(axis=0)[None])[0] - null
        drawn = distribution(
            partial(_resampled_information, data, columns),
            data.groups, resamples=resamples, seed=seed,
        )  # fmt: skip
        low[k, order], high[k, order] = percentiles(
            moved_to(value[k, order], drawn), confidence, int(data.groups.max()) + 1
        )
    return _long(data, name, value, low, high)


def _long(data: _Data, measure: str, value: NDArray, low: NDArray, high: NDArray) -> pd.DataFrame:
    index = pd.MultiIndex.from_product(
        [data.methods, data.orders, data.fractions], names=["method", "order", "fraction"]
    )
    table = pd.DataFrame({"value": value.ravel(), "low": low.ravel(), "high": high.ravel()}, index=index)
    return table.reset_index().assign(measure=measure)


def _chance(data: _Data) -> dict[str, float]:
    """Accuracy when nothing is left, and what it would be if answers had nothing to do with labels."""
    if data.labels is None:
        return {}
    last = data.answers.predictions[0, 0, :, -1]
    classes = np.arange(data.answers.classes)
    of_labels = (data.labels[:, None] == classes).mean(axis=0)
    of_answers = (last[..., None] == classes).mean(axis=(0, 1))
    return {
        "accuracy when nothing is left": float((last == data.labels).mean()),
        "accuracy by chance": float(of_labels @ of_answers),
        "accuracy of the commonest label": float(of_labels.max()),
    }
