"""What an audit is given, checked before any work: images, labels, attributes, groups, classifiers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from explainer.bias.attributes import Attribute, questions
from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError
from explainer.image import as_images
from explainer.target import Target

__all__ = [
    "Model",
    "as_groups",
    "as_models",
    "as_oracles",
    "as_pixels",
    "as_questions",
    "as_targets",
    "chosen_rows",
    "counterpart",
    "require_classes",
    "require_distinct",
    "require_options",
    "require_scores",
    "truth_of",
    "wrapped",
]

Model: TypeAlias = Classifier | nn.Module | Callable[[Tensor], Any]


def as_pixels(images: object) -> Tensor:
    """Images (N, C, H, W) in [0, 1]."""
    if isinstance(images, Tensor) and images.ndim == 4 and images.dtype == torch.uint8:
        return images.float() / 255
    return as_images(images)


def require_options(n_images: int, oracle_steps: int, alpha: float, seed: int) -> None:
    """Refuse numbers out of range, before any work.

    Raises:
        OptionError: One is.
    """
    for name, value, least in (
        ("n_images", n_images, 2),
        ("oracle_steps", oracle_steps, 1),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise OptionError(
                name, f"must be a whole number of at least {least}", received=value,
                remedy="The default is a good start.",
            )  # fmt: skip
    if not 0 < alpha < 1:
        raise OptionError("alpha", "must lie in (0, 1)", received=alpha, remedy="Pass e.g. .05.")


def as_groups(groups: ArrayLike | None, count: int) -> NDArray:
    """Group of every image (N,): its own where none are given."""
    if groups is None:
        return np.arange(count)
    people = np.asarray(groups)
    if people.shape != (count,) or pd.isna(people).any():
        raise OptionError(
            "groups", f"must name one group for each of the {count} images", received=f"shape {people.shape}",
            remedy="Pass the person or patient of every image, without empty cells.",
        )  # fmt: skip
    return np.unique(people.astype(str), return_inverse=True)[1]


def as_questions(attributes: pd.DataFrame, count: int) -> tuple[list[Attribute], list[str]]:
    """The binary questions of a table, and what cannot be asked."""
    asked, skipped = questions(attributes)
    if len(attributes) != count:
        raise OptionError(
            "attributes", f"must have one row for each of the {count} images",
            received=f"{len(attributes)} rows", remedy="Pass the rows of the images, in their order.",
        )  # fmt: skip
    called = [question.name for question in asked]
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        raise OptionError(
            "attributes", "ask two questions of one name", received=twice,
            remedy="Rename the column that is called like a category of another.",
        )  # fmt: skip
    if not asked:
        raise OptionError(
            "attributes", "leave nothing to ask", received="; ".join(skipped),
            remedy="Pass more images, or attributes that vary.",
        )  # fmt: skip
    return asked, skipped


def wrapped(model: Model) -> Classifier:
    """A classifier, wrapped if it is none."""
    return model if isinstance(model, Classifier) else Classifier(model)


def as_models(
    classifier: Model | Mapping[str, Model], compare_with: Model | Mapping[str, Model] | None
) -> dict[str, Classifier]:
    """The classifiers to audit by name, the one that others are compared with first."""
    given = dict(classifier) if isinstance(classifier, Mapping) else {"classifier": classifier}
    if compare_with is not None:
        more = compare_with if isinstance(compare_with, Mapping) else {"compared": compare_with}
        twice = set(given) & set(more)
        if twice:
            raise OptionError(
                "compare_with", "names a classifier twice", received=sorted(twice), remedy="Rename one."
            )
        given |= dict(more)
    if not given:
        raise OptionError("classifier", "is empty", received="{}", remedy="Pass at least one classifier.")
    names = [str(name) for name in given]
    if len(set(names)) < len(names):
        raise OptionError(
            "classifier", "has two names that read alike", received=list(given), remedy="Rename one."
        )
    return {str(name): wrapped(model) for name, model in given.items()}


def require_classes(models: Mapping[str, Classifier]) -> None:
    """Refuse regressions, which an audit does not walk, among classifiers by name (or "reference")."""
    for name, model in models.items():
        if model.kind == "regression":
            raise ClassifierError(
                name, "is a regression, which an audit does not walk", received='kind="regression"',
                remedy='Audit the event you care about as a class: kind="binary" with the logit of it.',
            )  # fmt: skip


def counterpart(model: Classifier, target: Target, images: Tensor) -> Target:
    """What of another classifier answers for a target: its class of that name, else of that number."""
    named = target.name in model.class_names
    return model.target(target.name if named else target.index, images[:1])


@torch.no_grad()
def require_scores(models: Mapping[str, Classifier], target: Target, images: Tensor) -> None:
    """Refuse classifiers that give no finite score for some of the images, before anything is walked."""
    for name, model in models.items():
        asked = counterpart(model, target, images)
        with model.frozen():
            parts = [model.score(part, asked) for part in images.split(model.batch_size)]
        lost = int((~torch.isfinite(torch.cat(parts))).sum())
        if lost:
            raise ClassifierError(
                name, "must give a finite score for every image", received=f"{lost} of {len(images)} are not",
                remedy="Leave those images out, or see why the model gives NaN or infinity for them.",
            )  # fmt: skip


def as_oracles(
    oracles: Mapping[str, Model] | None,
    asked: Sequence[Attribute],
    targets: Sequence[Target],
    reference: Classifier | None,
    images: Tensor,
) -> dict[str, Classifier]:
    """Given oracles by name; a name that is none of a column, a question or a target is an error.

    The target's own needs a reference: it cannot be held and be compared with.
    """
    names = {name for question in asked for name in (question.name, question.column)}
    names |= {target.label for target in targets}
    unknown = sorted(set(oracles or {}) - names)
    if unknown:
        raise OptionError(
            "oracles", "answer for no attribute and no target", received=unknown,
            remedy=f"Name them as one of: {', '.join(sorted(names))}.",
        )  # fmt: skip
    given = {name: wrapped(model) for name, model in (oracles or {}).items()}
    for target in targets:
        mine = given.get(target.label)
        if mine is None:
            continue
        if reference is None:
            raise OptionError(
                "oracles", f'has a model to hold "{target.label}", but there is nothing to compare with',
                received="no reference",
                remedy="Pass reference=, a classifier of the target that does not read the attributes, or "
                "leave the target's oracle out: two are then trained here, one to hold and one to compare.",
            )  # fmt: skip
        mine.check(images[:8])
        if not mine.differentiable:
            raise ClassifierError(
                "oracles", f'has a model without a gradient for "{target.label}", and it is held along it',
                received=mine, remedy="Leave it out: one is trained here from the labels.",
            )  # fmt: skip
    return given


def as_targets(model: Classifier, targets: Sequence[int | str] | None) -> list[Target]:
    """The classes to audit: the positive one of two, else all, unless some are named."""
    if targets is not None:
        if isinstance(targets, str) or not len(targets):
            raise OptionError(
                "targets", "must be a list of classes", received=repr(targets), remedy="Write [name]."
            )
        return [model.target(spec) for spec in targets]
    if model.kind == "binary":
        return [model.target(1)]
    return [model.target(index) for index in range(len(model.class_names))]


def require_distinct(names: Sequence[str], targets: Sequence[Target]) -> None:
    """Refuse names that a report, which joins a classifier's and a target's by a comma, could not tell apart.

    Raises:
        OptionError: Two pairs of them read the same, such as ("a, b", "c") and ("a", "b, c"), or a class is
            named twice.
    """
    pairs = [f"{name}, {target.label}" for name in names for target in targets]
    twice = sorted({pair for pair in pairs if pairs.count(pair) > 1})
    if twice:
        raise OptionError(
            "classifier, targets", "names of classifiers and targets cannot be told apart", received=twice,
            remedy="Name each class once, and classifiers without a comma.",
        )  # fmt: skip


def truth_of(labels: ArrayLike, model: Classifier, target: Target, count: int) -> NDArray[np.float64]:
    """Whether each image is of the target's class (N,): 1, 0, or NaN where the label is empty."""
    given = np.asarray(labels)
    words = given.dtype.kind in "OSU" and given.ndim == 1
    values = _indices(given, model) if words else given.astype(np.float64)
    if values.ndim == 2 and model.kind == "multilabel" and target.index < values.shape[1]:
        values = values[:, target.index]
    elif values.ndim == 1:
        values = values if words else _as_classes(values, model)
        values = np.where(np.isnan(values), np.nan, values == target.index)
    if values.shape != (count,):
        raise OptionError(
            "labels", f"must hold one class for each of the {count} images",
            received=f"shape {np.shape(labels)}", remedy="Pass class indices, in the order of the images.",
        )  # fmt: skip
    found = np.unique(values[~np.isnan(values)])
    if not np.array_equal(found, [0, 1]):
        raise OptionError(
            "labels", f'must hold "{target.name}" and others', received=found.tolist(),
            remedy="Pass images of the class and of others.",
        )  # fmt: skip
    return values


def _indices(labels: NDArray, model: Classifier) -> NDArray[np.float64]:
    """Labels given as names, numbers or empty cells, as indices; a name wins over a number."""
    names = {name: float(index) for index, name in enumerate(model.class_names)}
    if not _numbered(model):
        names = {str(index): float(index) for index in range(len(model.class_names))} | names
    values = np.full(len(labels), np.nan)
    for position in np.flatnonzero(~pd.isna(labels)):
        said = str(labels[position])
        if said not in names:
            said = said.removesuffix(".0")  # a column of numbers with empty cells
        if said not in names:
            raise _unknown_class(said, model)
        values[position] = names[said]
    return values


def _as_classes(values: NDArray[np.float64], model: Classifier) -> NDArray[np.float64]:
    """Numbers as indices: as names where all classes are named by numbers, else as they are."""
    places = {float(index): float(index) for index in range(len(model.class_names))}
    if _numbered(model):
        places = {float(name): float(index) for index, name in enumerate(model.class_names)}
    found = np.full(len(values), np.nan)
    for value in np.unique(values[~np.isnan(values)]).tolist():
        if value not in places:
            raise _unknown_class(f"{value:g}", model)
        found[values == value] = places[value]
    return found


def _numbered(model: Classifier) -> bool:
    return all(name.isdecimal() for name in model.class_names)


def _unknown_class(said: str, model: Classifier) -> OptionError:
    listed = ", ".join(f"{index} ({name})" for index, name in enumerate(model.class_names[:10]))
    how = "the names" if _numbered(model) else "numbers or names"
    return OptionError(
        "labels", "holds a class that the classifier does not have", received=said,
        remedy=f"Use {how} of its classes: {listed}.",
    )  # fmt: skip


def chosen_rows(truth: NDArray, n_images: int, seed: int) -> NDArray[np.int64]:
    """Rows to walk: as many of each class as there are, up to half of ``n_images`` each, in random order."""
    stream = np.random.default_rng(seed)
    classes = [stream.permutation(np.flatnonzero(truth == y)) for y in (0, 1)]
    each = max(n_images // 2, n_images - min(len(rows) for rows in classes))
    return stream.permutation(np.concatenate([rows[: min(each, len(rows))] for rows in classes]))
