r"""Names for a generator as it is: directions of its code that follow what was said, found in seconds.

The code of each image a statement is about is centred within its statement, and every axis has a target
there: labels in units of their standard deviation, places in a ranking, 1 for the difference of a pair that
changed in it and 0 for one that did not. What a Gaussian process makes of them for other images
(:mod:`explainer.generators.teacher`) counts too, by how sure it is. An axis is read by the ridge regression
:math:`w_i` of its targets (the penalty by leave-one-out), in units in which known images have a standard
deviation of 1. With the
covariance C of their codes all axes are then moved along

.. math:: D = (W C W^\top)^{-1}\, W C, \qquad W D^\top = 1,

what changes in a code when one coordinate does and the others do not. For a generator that will learn its
axes (:func:`explainer.generators.guiding.guide`) they are made orthonormal at once instead, with none
preferred, :math:`W = D = (W W^\top)^{-1/2}\, W` (Loewdin's symmetric orthogonalisation, the orthonormal rows
nearest to W). How well an axis does is measured by repeating all of it without a fifth of the images that
were spoken of, in whichever statements, and looking at what was said of these.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainer.errors import GeneratorError, OptionError
from explainer.generators.axes import Axis, NamedAxes
from explainer.generators.base import Generator, as_unit_interval
from explainer.generators.guidance import Anchors, Guidance, Lock, Naming
from explainer.generators.teacher import describe, teacher_of
from explainer.generators.told import Told, places_of, told

__all__ = ["codes_of", "find_axes", "label_line", "name_axes", "require_locks"]

FOLDS = 5
MOST_SPREAD = 2000
FEWEST = 4
PENALTIES = np.logspace(-3, 4, 22)
_SAME_WAY = 0.05
_DUAL = 1e-3
_SPAN = (0.05, 0.5, 0.95)
Of = TypeVar("Of", bound=Generator)
Array = NDArray[np.float64]
Fixed = tuple[Array, Array]
Spread = Callable[[Sequence[Told]], tuple[NDArray[np.int64], Array, Array] | None]


def name_axes(
    generator: Of, images: Tensor, guidance: Guidance, *, ids: Sequence[object] | None = None, seed: int = 0
) -> Of:
    """A copy of a generator with named axes; nothing is trained, and images look as they did.

    Args:
        generator: Any generator. Axes it has keep their directions, unless they are described anew.
        images: ``(N, C, H, W)`` in [0, 1] or unsigned integers, those the guidance is about and, better,
            some hundred others: they say how far codes spread along an axis.
        guidance: What was said.
        ids: What the guidance calls each image; by default their number, from 0.
        seed: Of the folds.

    Raises:
        OptionError: Guidance about images that are not there or a dimension the code does not have; anchors,
            which move codes and need :func:`explainer.generators.guiding.guide`; or axes that cannot be told
            apart.
    """
    if guidance.of(Anchors):
        raise OptionError(
            "guidance", "has anchors, which move the codes of images", received="a generator as it is",
            remedy="Fine-tune it: guide(generator, images, guidance).",
        )  # fmt: skip
    codes = codes_of(generator, images)
    spread = _spreading(generator, images, codes, guidance, ids, seed)
    axes = find_axes(codes, guidance, ids=ids, before=generator.axes, spread=spread, seed=seed)
    named = copy.deepcopy(generator)
    named.axes = replace(axes, record={"mode": "post-hoc", "statements": len(guidance.statements)})
    return named


@torch.no_grad()
def codes_of(generator: Generator, images: Tensor) -> Tensor:
    """Codes ``(N, D)`` of stored images, 256 at a time."""
    if not len(images):
        raise OptionError("images", "must be at least one", received="none", remedy="Pass a batch.")
    device = generator.intensity.device
    return torch.cat([generator.encode(as_unit_interval(part).to(device)) for part in images.split(256)])


@torch.no_grad()
def _spreading(
    generator: Generator,
    images: Tensor,
    codes: Tensor,
    guidance: Guidance,
    ids: Sequence[object] | None,
    seed: int,
) -> Spread:
    """What Gaussian processes make of statements for images, at most ``MOST_SPREAD`` of them."""
    places = places_of(guidance, ids, len(images))
    guided = [places[each] for each in guidance.ids]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = torch.tensor(sorted({*guided, *order[:MOST_SPREAD].tolist()}))
    at = {row: position for position, row in enumerate(chosen.tolist())}
    device = generator.intensity.device
    parts = [
        describe(generator.prepare(as_unit_interval(images[part]).to(device)), codes[part])
        for part in chosen.split(256)
    ]
    described = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def spread(evidence: Sequence[Told]) -> tuple[NDArray[np.int64], Array, Array] | None:
        known = [
            replace(each, rows=np.array([at[row] for row in each.rows.tolist()]))
            for each in evidence
            if each.rows.ndim == 1
        ]
        teacher = teacher_of(known, described, seed)
        if teacher is None:
            return None
        guess, sure = (part.numpy() for part in teacher(described))
        if teacher.levels == (0.0, 1.0):  # other labels are counted in standard deviations already
            labels = np.concatenate([each.values for each in known if each.basis == "binary labels"])
            guess = (guess - labels.mean()) / labels.std()
        return chosen.numpy(), guess, np.maximum(sure, 1e-6)

    return spread


def find_axes(
    codes: Tensor,
    guidance: Guidance,
    *,
    ids: Sequence[object] | None = None,
    before: NamedAxes | None = None,
    orthonormal: bool = False,
    spread: Spread | None = None,
    seed: int = 0,
) -> NamedAxes:
    """Named axes of codes ``(N, D)``; see :func:`name_axes`.

    Args:
        codes: Of all images.
        guidance: What was said.
        ids: What it calls each image.
        before: Axes there are.
        orthonormal: Read new axes by the directions they are moved along, for a generator that will learn
            them.
        spread: From what was said of an axis to rows of other images, guesses and how sure these are.
        seed: Of the folds.
    """
    values = codes.double().cpu().numpy()
    evidence = told(guidance, places_of(guidance, ids, len(values)))
    fixed = _fixed(guidance, values.shape[1], before, evidence)
    names = [*(name for name in fixed if name not in guidance.names), *guidance.names]
    if not names:
        raise OptionError(
            "guidance", "names no axis", received=f"{len(guidance.statements)} statements",
            remedy="Label some images, rank them, or name a dimension.",
        )  # fmt: skip
    if len(names) > values.shape[1]:
        raise OptionError(
            "guidance", f"names more axes than the code has dimensions ({values.shape[1]})",
            received=len(names), remedy="Name fewer, or train a generator with a larger latent_dim.",
        )  # fmt: skip
    readings, directions = _directions(values, names, evidence, fixed, orthonormal, spread)
    held = _held_out(values, names, evidence, fixed, orthonormal, spread, seed)
    origin = values.mean(axis=0)
    for name, (reading, direction) in fixed.items():
        if (
            before is not None
            and name in before.names
            and np.allclose(reading, before.read[before.index(name)].double().cpu())
        ):
            # What has been said of its coordinates stays true whichever images there are now.
            origin = origin + (reading @ (before.origin.double().cpu().numpy() - origin)) * direction
    coordinates = (values - origin) @ readings.T
    known = {} if before is None else {axis.name: axis for axis in before.axes}
    axes = []
    for number, name in enumerate(names):
        said = [each for each in guidance.of(Naming) if each.name == name]
        axis = known.get(name, Axis(name)) if not evidence.get(name) else Axis(name)
        basis = ", ".join(dict.fromkeys(each.basis for each in evidence.get(name, []) if each.basis))
        low, median, high = np.quantile(coordinates[:, number], _SPAN).tolist()
        line = label_line(coordinates[:, number], evidence.get(name, []))
        known_of: dict[str, Any] = {"basis": basis} if basis else {}
        if name in held:
            known_of |= dict(zip(("measure", "quality", "count"), held[name], strict=True))
        if said:
            known_of |= {"low": said[-1].low or axis.low, "high": said[-1].high or axis.high}
        if line is not None:
            known_of |= dict(zip(("slope", "offset"), line, strict=True))
        axes.append(replace(axis, span=(low, median, high), **known_of))
    known_by = None if np.array_equal(readings, directions) else torch.from_numpy(readings).float()
    centre, moved = (torch.from_numpy(part).float() for part in (origin, directions))
    return NamedAxes(tuple(axes), centre, moved, readings=known_by)


def _fixed(
    guidance: Guidance, dimensions: int, before: NamedAxes | None, evidence: dict[str, list[Told]]
) -> dict[str, Fixed]:
    """Axes that are not to be found, how they are read and moved: named dimensions, and those before."""
    known = () if before is None else before.names
    locked = require_locks(guidance, before)
    fixed: dict[str, Fixed] = {}
    for name in known:
        assert before is not None  # it has names
        described = any(each.basis for each in evidence.get(name, []))
        if name in locked and described:
            raise OptionError(
                "guidance", "locks an axis and says more of it", received=name,
                remedy="Leave the lock out, or the labels, rankings and pairs that change it.",
            )  # fmt: skip
        if not described:
            rows = (
                part[before.index(name)].double().cpu().numpy() for part in (before.read, before.directions)
            )
            fixed[name] = next(rows), next(rows)
    for naming in guidance.of(Naming):
        if naming.axis is None:
            if naming.name not in known and not any(each.basis for each in evidence[naming.name]):
                raise OptionError(
                    "guidance", "names an axis that nothing else is said of", received=naming.name,
                    remedy="Name a dimension, or label, rank or pair images.",
                )  # fmt: skip
            continue
        if naming.axis >= dimensions:
            raise OptionError(
                "guidance", f"names a dimension that a code of {dimensions} does not have",
                received=naming.axis, remedy=f"Choose 0 to {dimensions - 1}.",
            )  # fmt: skip
        unit = np.eye(dimensions)[naming.axis]
        if naming.name in locked and not np.allclose(np.stack(fixed[naming.name]), unit, atol=_DUAL):
            raise OptionError(
                "guidance", "locks an axis and makes another dimension of it", received=naming.name,
                remedy="Leave the lock out, or give the dimension a name of its own.",
            )  # fmt: skip
        fixed[naming.name] = unit, unit
    return fixed


def require_locks(guidance: Guidance, before: NamedAxes | None) -> list[str]:
    """The names of locked axes, which the generator must have."""
    locked = [name for lock in guidance.of(Lock) for name in lock.names]
    for name in locked:
        if before is None or name not in before.names:
            raise OptionError(
                "guidance", "locks an axis that the generator does not have", received=name,
                remedy="Lock an axis that was named before, or leave the lock out.",
            )  # fmt: skip
    return locked


def _require_dual(read: Array, moved: Array, names: Sequence[str]) -> None:
    """Axes that are not to be found must not move each other's coordinates."""
    off = np.abs(read @ moved.T - np.eye(len(names)))
    if not len(names) or off.max() <= _DUAL:
        return
    a, b = (int(each) for each in np.unravel_index(off.argmax(), off.shape))
    first, second = _unit(read[[a, b]])
    if abs(first @ second) > 1 - _SAME_WAY:
        raise _same_way(names[a], names[b], abs(first @ second))
    raise OptionError(
        "guidance", "names a dimension that another axis there is already moves, or is read by",
        received=f'"{names[a]}" and "{names[b]}"',
        remedy="Name the generator as it was before those axes, with all of the guidance at once; "
        "or choose another dimension.",
    )  # fmt: skip


# -- directions --------------------------------------------------------------------------------------------


def _directions(
    codes: Array,
    names: Sequence[str],
    evidence: dict[str, list[Told]],
    fixed: dict[str, Fixed],
    orthonormal: bool,
    spread: Spread | None,
) -> tuple[Array, Array]:
    """Readings and directions, dual to each other, ``(K, D)``."""
    scale = float(np.sqrt(codes.var(axis=0).mean())) or 1.0
    free = [name for name in names if name not in fixed]
    none = np.zeros((0, codes.shape[1]))
    held_read, held = (
        np.stack([pair[part] for pair in fixed.values()]) if fixed else none for part in (0, 1)
    )
    _require_dual(held_read, held, list(fixed))
    read = np.stack([_ridge(codes / scale, name, evidence[name], spread) for name in free]) if free else none
    if orthonormal:
        taken = np.linalg.svd(np.concatenate([held_read, held]), full_matrices=False)
        basis = taken[2][taken[1] > 1e-6]
        read = _unit(read - (read @ basis.T) @ basis)
        _require_apart(read, free)
        if len(read):
            sizes, vectors = np.linalg.eigh(read @ read.T)
            read = vectors @ np.diag(sizes**-0.5) @ vectors.T @ read
        moved = read
    elif len(read):
        read = read - (read @ held.T) @ held_read
        covariance = _covariance(codes)
        read = read / np.maximum((codes @ read.T).std(axis=0), 1e-12)[:, None]
        root = np.linalg.cholesky(covariance)
        _require_apart(_unit(read @ root), free)
        everything = np.concatenate([held_read, read])
        _require_apart(_unit(everything @ root), [*fixed, *free])
        dual = np.linalg.solve(everything @ covariance @ everything.T, everything @ covariance)
        moved = dual[len(held) :]
    else:
        moved = read
    rows = {name: (read[n], moved[n]) for n, name in enumerate(free)} | fixed
    return np.stack([rows[name][0] for name in names]), np.stack([rows[name][1] for name in names])


def _unit(rows: Array) -> Array:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _covariance(codes: Array) -> Array:
    """Of codes ``(N, D)``, shrunk as far as so many of them need it (Ledoit & Wolf 2004); never singular."""
    from sklearn.covariance import ledoit_wolf

    covariance = np.asarray(ledoit_wolf(codes)[0])
    return covariance + (1e-6 * np.trace(covariance) / len(covariance) + 1e-12) * np.eye(len(covariance))


def _require_apart(rows: Array, names: Sequence[str]) -> None:
    """Directions that (nearly) repeat each other have no orthonormal ones beside them."""
    if not len(rows) or np.linalg.eigvalsh(rows @ rows.T)[0] > _SAME_WAY:
        return
    cosines = np.abs(np.triu(rows @ rows.T, 1))
    a, b = (int(each) for each in np.unravel_index(cosines.argmax(), cosines.shape))
    raise _same_way(names[a], names[b], float(cosines[a, b]))


def _same_way(first: str, second: str, cosine: float) -> GeneratorError:
    return GeneratorError(
        "guidance", "asks for axes that this generator cannot tell apart",
        received=f'"{first}" and "{second}", cosine {cosine:.2f}',
        remedy="Give them one name, label images that differ in one and not in the other, or fine-tune.",
    )  # fmt: skip


def _ridge(codes: Array, name: str, evidence: Sequence[Told], spread: Spread | None) -> Array:
    """The direction of one axis, not normalised."""
    from sklearn.linear_model import RidgeCV  # takes a second to import

    if not any(each.basis for each in evidence):
        raise OptionError(
            "guidance", "says only what an axis is not", received=name,
            remedy="Label, rank or pair images that differ in it.",
        )  # fmt: skip
    inputs, targets, weights = [], [], []
    for each in evidence:
        rows = each.inputs(codes)
        centred = each.rows.ndim == 1
        inputs.append(rows - rows.mean(axis=0) if centred else rows)
        targets.append(each.targets - each.targets.mean() if centred else each.targets)
        weights.append(np.ones(len(rows)))
    guessed = None if spread is None else spread(evidence)
    if guessed is not None:
        others, guess, sure = guessed
        inputs.append(codes[others] - np.average(codes[others], axis=0, weights=sure))
        targets.append(guess - np.average(guess, weights=sure))
        weights.append(sure)
    found = RidgeCV(PENALTIES, fit_intercept=False).fit(
        np.concatenate(inputs), np.concatenate(targets), sample_weight=np.concatenate(weights)
    )
    return np.asarray(found.coef_, dtype=np.float64)


def label_line(coordinates: Array, evidence: Sequence[Told]) -> tuple[float, float] | None:
    """Slope and offset of labelled values over the coordinate; None without labels."""
    labelled = [each for each in evidence if "labels" in each.basis]
    if not labelled:
        return None
    at = np.concatenate([coordinates[each.rows] for each in labelled])
    values = np.concatenate([each.values for each in labelled])
    slope = float(np.cov(at, values)[0, 1] / max(at.var(ddof=1), 1e-12))
    return slope, float(values.mean() - slope * at.mean())


# -- how good they are ---------------------------------------------------------------------------------------


def _held_out(
    codes: Array,
    names: Sequence[str],
    evidence: dict[str, list[Told]],
    fixed: dict[str, Fixed],
    orthonormal: bool,
    spread: Spread | None,
    seed: int,
) -> dict[str, tuple[str, float, int]]:
    """Measure, its value and on how many statements, for every axis with enough of them."""
    random = np.random.default_rng(seed)
    folds = {name: _folds(evidence.get(name, []), len(codes), random) for name in names}
    judged: dict[str, list[tuple[Array, Array, str]]] = {name: [] for name in names}
    for fold in range(FOLDS):
        kept, asked = {}, []
        for name in names:
            whole = evidence.get(name, [])
            known = [part for each in whole if len((part := _without(each, folds[name], fold)).rows) > 1]
            # Without this fold, is there still something that the axis follows?
            left = any(each.basis and (each.rows.ndim == 2 or np.ptp(each.targets) > 0) for each in known)
            if left and any(each.basis and len(each.rows) >= FEWEST for each in whole):
                asked.append(name)
            kept[name] = known if name in asked else whole
        readings = _unit(_directions(codes, names, kept, fixed, orthonormal, spread)[0])
        for name in asked:
            for each in evidence[name]:
                training, last = _without(each, folds[name], fold), _inside(each, folds[name], fold)
                if each.basis and len(each.rows) >= FEWEST and len(training.rows) > 1 and len(last.rows):
                    guess = _predicted(codes, readings[names.index(name)], training, last)
                    judged[name].append((guess, last.values, each.basis))
    return {name: found for name, parts_ in judged.items() if (found := _quality(parts_)) is not None}


def _folds(evidence: Sequence[Told], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The fold ``(N,)`` of every image that is spoken of, in whichever statements on this axis; else -1.

    The two of a pair share one where there is room: a pair that straddles folds cannot be judged.
    """
    rows = np.unique(np.concatenate([each.rows.ravel() for each in evidence])) if evidence else np.array([])
    found = np.full(count, -1)
    room = np.full(FOLDS, -(-len(rows) // FOLDS))
    pairs = [pair for each in evidence if each.rows.ndim == 2 for pair in each.rows.tolist()]
    order = [pairs[place] for place in random.permutation(len(pairs))]
    order += [[row] for row in random.permutation(rows).tolist()]
    for group in order:
        for row in group:
            if found[row] < 0:
                beside = [found[other] for other in group if found[other] >= 0 and room[found[other]] > 0]
                found[row] = beside[0] if beside else room.argmax()
                room[found[row]] -= 1
    return found


def _without(each: Told, folds: NDArray[np.int64], fold: int) -> Told:
    """A statement of images none of which is in a fold."""
    return each.part((folds[each.rows].reshape(len(each.rows), -1) != fold).all(axis=1))


def _inside(each: Told, folds: NDArray[np.int64], fold: int) -> Told:
    """A statement of images all of which are in a fold."""
    return each.part((folds[each.rows].reshape(len(each.rows), -1) == fold).all(axis=1))


def _predicted(codes: Array, direction: Array, training: Told, last: Told) -> Array:
    """What an axis says of images it was not fitted to, in the units of the values."""
    if training.rows.ndim == 2:
        moves = last.inputs(codes)
        return (moves @ direction) ** 2 / np.maximum((moves**2).sum(axis=1), 1e-12)
    known, new = training.inputs(codes) @ direction, last.inputs(codes) @ direction
    if training.basis == "binary labels":
        ends = [known[training.values == value] for value in (0.0, 1.0)]
        middle = sum(end.mean() if len(end) else known.mean() for end in ends) / 2
        return (new > middle).astype(np.float64)
    slope = np.cov(known, training.values)[0, 1] / max(known.var(ddof=1), 1e-12)
    return training.values.mean() + slope * (new - known.mean())


def _quality(judged: Sequence[tuple[Array, Array, str]]) -> tuple[str, float, int] | None:
    """Of the strongest kind of statement there is: labels, rankings, then pairs."""
    from scipy.stats import spearmanr

    for basis in ("labels", "binary labels", "ranking", "pairs"):
        chosen = [(guess, truth) for guess, truth, of in judged if of == basis]
        if not chosen:
            continue
        guess, truth = (np.concatenate(part) for part in zip(*chosen, strict=True))
        if basis == "pairs":
            return "share of the difference", float(guess.mean()), len(guess)
        if basis == "binary labels":
            return "accuracy", float((guess == truth).mean()), len(guess)
        if guess.std() == 0 or truth.std() == 0:
            return None
        if basis == "ranking":
            return "rank correlation", float(spearmanr(guess, truth).statistic), len(guess)
        return "correlation", float(np.corrcoef(guess, truth)[0, 1]), len(guess)
    return None
