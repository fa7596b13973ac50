"""Images with planted truth: every factor, mask and label-attribute association is known exactly.

**Factors.** Every image is rendered from one row of a table of factors. A factor has a uniform
distribution, given by its quantile function ``q``, and is *high* in its upper half (continuous: at
or above the median; discrete: the later half of the levels, so of the three shapes only the heart).
Values are stratified (a permutation of ``n`` strata, one uniform draw in each), so medians and
quantiles hold exactly in every sample. Factors whose association is not asked for are independent.

**Associations.** ``correlation={"shade": .8}`` states conditional probabilities of a high value::

    P(shade high | label 1) = .8        P(shade high | label 0) = 1 - .8

They are planted as counts: of the ``n_k`` images of class ``k`` exactly ``round(p_k n_k)`` are high,
chosen at random. So .5 is independence, 1 determines the attribute, values below .5 reverse the sign,
and with the balanced default label the phi coefficient is ``2 * .8 - 1``. A sequence gives
``P(high | label k)`` for each class: ``{"batch_mark": (0, .5)}`` marks half of class 1 and nothing
else. Within high and within low, values do not depend on the label, and given the label two
associated attributes are independent.

**Reliance.** The renderers are deterministic functions of the table (texture and camera noise come
from its ``texture`` column), so changing one column and rendering again changes that factor only::

    mean |f(render(factors)) - f(render(factors with a changed))|    is the reliance of f on a.

What the factors are and how they are drawn is in :mod:`explainer.drawing`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explainer.drawing import (
    CELL_CHANNELS,
    CELL_FACTORS,
    SPRITE_FACTORS,
    Factor,
    check_whole,
    render_cells,
    render_sprites,
)
from explainer.errors import OptionError

__all__ = [
    "CELL_CHANNELS",
    "CELL_FACTORS",
    "Factor",
    "PlantedImages",
    "SPRITE_FACTORS",
    "cells",
    "render_cells",
    "render_sprites",
    "sprites",
]

Correlation = Mapping[str, float | Sequence[float]]
Label = str | tuple[str, Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True, eq=False)
class PlantedImages:
    """Images and everything that is true of them.

    Args:
        images: (N, C, H, W) in [0, 1], float32 (or uint8 in 0 ... 255 where that was asked for).
        factors: One row per image: the exact values it was rendered from.
        attributes: One row per image: whether each factor is high, as booleans.
        masks: For each planted thing its pixels, booleans (N, H, W).
        labels: Class of each image, int64 (N,).
        channel_names: Names of the channels, or None for grey and RGB.
    """

    images: Tensor
    factors: pd.DataFrame
    attributes: pd.DataFrame
    masks: dict[str, Tensor]
    labels: Tensor
    channel_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.images)


def sprites(
    n: int,
    *,
    size: int = 64,
    channels: int = 1,
    seed: int = 0,
    label: Label = "scale",
    correlation: Correlation | None = None,
    batch_mark: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> PlantedImages:
    """One square, ellipse or heart per image.

    Args:
        n: Number of images.
        size: Height and width in pixels, at least 16.
        channels: 1 (grey) or 3 (RGB, warm sprite on a bluish ground).
        seed: Seed of all factors; a factor's values do not depend on what is asked of the others.
        label: A factor (1 where it is high; for ``shape`` the index of the shape), or
            ``(factor, function)`` with a function from values (N,) to classes 0, 1, ...
        correlation: Attribute -> P(high | label 1), or one probability per class; see above.
        batch_mark: Share of images, in every class, with a small bright cross in the upper left
            corner; to tie it to the label name it in ``correlation``.
        dtype: ``torch.float32``, or ``torch.uint8`` to store a quarter of it.

    Returns:
        Images with masks ``sprite`` and ``batch_mark``; these never overlap.

    Raises:
        OptionError: If an option is out of range or names no factor.

    >>> planted = sprites(1000, size=32, label="scale", correlation={"shade": 0.8})
    >>> planted.images.shape, planted.labels.bincount().tolist()
    (torch.Size([1000, 1, 32, 32]), [500, 500])
    >>> high = planted.attributes["shade"].to_numpy()
    >>> float(high[planted.labels == 1].mean()), float(high[planted.labels == 0].mean())
    (0.8, 0.2)
    """
    table, attributes, labels = _plant(SPRITE_FACTORS, n, seed, label, correlation, batch_mark)
    images, masks = render_sprites(table, size=size, channels=channels, dtype=dtype)
    return PlantedImages(images, table, attributes, masks, labels, None)


def cells(
    n: int,
    *,
    size: int = 64,
    channels: int = 3,
    seed: int = 0,
    label: Label = "nucleus_size",
    correlation: Correlation | None = None,
    batch_mark: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> PlantedImages:
    """One fluorescent cell per image, one stain per channel.

    Nuisance factors are ``illumination_tilt``, ``stain_gain``, ``batch_mark``, the pose
    (``orientation``, ``x``, ``y``) and ``texture``, a seed for outline, grain, the places of the
    spots and camera noise.

    Args:
        n: Number of images.
        size: Height and width in pixels, at least 16.
        channels: 3, 4 or 5: the first of ``CELL_CHANNELS``.
        seed: Seed of all factors; a factor's values do not depend on what is asked of the others.
        label: A factor (1 where it is high), or ``(factor, function)`` with a function from values
            (N,) to classes 0, 1, ...
        correlation: Attribute -> P(high | label 1), or one probability per class; see above.
        batch_mark: Share of images, in every class, with a small bright cross in the upper left
            corner; to tie it to the label name it in ``correlation``.
        dtype: ``torch.float32``, or ``torch.uint8`` to store a quarter of it.

    Returns:
        Images with masks ``nucleus``, ``cytoplasm`` (the cell without its nucleus), ``spots`` and
        ``batch_mark``.

    Raises:
        OptionError: If an option is out of range or names no factor.

    >>> planted = cells(100, size=32, channels=4, label="spots", correlation={"batch_mark": (0, 0.5)})
    >>> planted.channel_names
    ('nucleus', 'cytoplasm', 'spots', 'membrane')
    >>> pd.crosstab(planted.labels.numpy(), planted.factors["batch_mark"].to_numpy()).to_numpy().tolist()
    [[50, 0], [25, 25]]
    """
    table, attributes, labels = _plant(CELL_FACTORS, n, seed, label, correlation, batch_mark)
    # Past the streams of the factors, so that it is independent of all of them.
    stream = np.random.default_rng([seed, len(CELL_FACTORS)])
    table["texture"] = stream.integers(2**32, size=n)
    images, masks = render_cells(table, size=size, channels=channels, dtype=dtype)
    return PlantedImages(images, table, attributes, masks, labels, CELL_CHANNELS[:channels])


def _plant(
    factors: Mapping[str, Factor],
    n: int,
    seed: int,
    label: Label,
    correlation: Correlation | None,
    batch_mark: float,
) -> tuple[pd.DataFrame, pd.DataFrame, Tensor]:
    """Table of factors, table of attributes and labels with the associations asked for."""
    check_whole("n", n, at_least=1)
    check_whole("seed", seed, at_least=0)
    name, function = (label, None) if isinstance(label, str) else label
    associations = dict(correlation or {})
    for argument, given in [("label", name), *(("correlation", key) for key in associations)]:
        if given not in factors:
            remedy = f"Use one of {', '.join(factors)}."
            raise OptionError(argument, "names no factor", received=given, remedy=remedy)
    if name in associations:
        raise OptionError(
            "correlation",
            "names the factor the label is made of",
            received=name,
            remedy="Leave it out: its association with the label follows from the label.",
        )
    if batch_mark and "batch_mark" in (name, *associations):
        raise OptionError(
            "batch_mark",
            "cannot be a share of all images when the label or correlation fixes it too",
            received=batch_mark,
            remedy='Give correlation={"batch_mark": (share in class 0, share in class 1)} alone.',
        )
    streams = {key: np.random.default_rng([seed, position]) for position, key in enumerate(factors)}
    values = {key: factor.quantile(_strata(streams[key], n)) for key, factor in factors.items()}
    labels = _classes(factors[name], values[name], function)
    classes = max(int(labels.max()) + 1, 2)

    shares = {key: _probabilities(key, given, classes) for key, given in associations.items()}
    if name != "batch_mark" and "batch_mark" not in shares:
        shares["batch_mark"] = _probabilities("batch_mark", [batch_mark] * classes, classes, "batch_mark")
    for key, probabilities in shares.items():
        stream, middle = streams[key], factors[key].middle
        high = np.zeros(n, dtype=bool)
        for k, probability in enumerate(probabilities):
            members = stream.permutation(np.flatnonzero(labels == k))
            high[members[: int(np.rint(probability * len(members)))]] = True
        u = np.empty(n)
        u[high] = middle + (1 - middle) * _strata(stream, int(high.sum()))
        u[~high] = middle * _strata(stream, int((~high).sum()))
        values[key] = factors[key].quantile(u)
    table = pd.DataFrame(values)
    attributes = pd.DataFrame({key: factor.is_high(values[key]) for key, factor in factors.items()})
    return table, attributes, torch.from_numpy(labels)


def _strata(stream: np.random.Generator, n: int) -> np.ndarray:
    """One uniform draw from each of ``n`` equal parts of [0, 1), in random order."""
    return (stream.permutation(n) + stream.random(n)) / max(n, 1)


def _classes(factor: Factor, values: np.ndarray, function: Callable | None) -> np.ndarray:
    """Classes 0, 1, ... of the label factor's values."""
    if function is None:
        if factor.levels and isinstance(factor.levels[0], str):
            return np.array([factor.levels.index(value) for value in values], dtype=np.int64)
        return factor.is_high(values).astype(np.int64)
    labels = np.asarray(function(values))
    kind = labels.dtype.kind
    if labels.shape != values.shape or kind not in "bui" or (kind == "i" and labels.min() < 0):
        raise OptionError(
            "label",
            f"the function must return one class 0, 1, ... for each of the {len(values)} values",
            received=f"{labels.dtype} of shape {labels.shape}",
            remedy="Return whole numbers or booleans, e.g. (values > .2).",
        )
    return labels.astype(np.int64)


def _probabilities(name: str, given: object, classes: int, argument: str = "correlation") -> list[float]:
    """P(attribute high | class k) for every class."""
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(classes, np.nan)  # not numbers: refused below
    if values.ndim == 0 and classes == 2:
        values = np.stack([1 - values, values])
    if values.shape != (classes,) or not ((values >= 0) & (values <= 1)).all():
        raise OptionError(
            argument,
            f"{name} needs probabilities in [0, 1]: P(high | label 1), or one for each of {classes} classes",
            received=given,
            remedy=f"Pass e.g. {{'{name}': .8}} for two classes or {{'{name}': (.2, .8)}}."
            if argument == "correlation"
            else "Pass a share between 0 and 1.",
        )
    return values.tolist()
