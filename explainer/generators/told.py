"""Statements of a person as rows of images with targets, axis by axis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from explainer.errors import OptionError
from explainer.generators.guidance import Guidance, Labels, Pair, Ranking

__all__ = ["Told", "places_of", "told"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Told:
    """A statement on one axis, as rows of codes with targets.

    Attributes:
        basis: What it was: ``"labels"``, ``"binary labels"``, ``"ranking"`` or ``"pairs"``; empty for pairs
            that say the axis did not change.
        rows: ``(n,)`` or ``(n, 2)``, which images; of a pair the second less the first is meant.
        targets: ``(n,)``, centred and scaled; of pairs 1 or 0.
        values: ``(n,)``, the targets as they were given.
    """

    basis: str
    rows: NDArray[np.int64]
    targets: Array
    values: Array

    def inputs(self, codes: Array) -> Array:
        """What the targets are of, ``(n, D)``: codes, or differences of codes."""
        if self.rows.ndim == 2:
            return codes[self.rows[:, 1]] - codes[self.rows[:, 0]]
        return codes[self.rows]

    def part(self, kept: NDArray[np.bool_]) -> "Told":
        """Some of its images."""
        return replace(self, rows=self.rows[kept], targets=self.targets[kept], values=self.values[kept])


def places_of(guidance: Guidance, ids: Sequence[object] | None, count: int) -> dict[str, int]:
    """Where each image is."""
    known = [str(each) for each in (range(count) if ids is None else ids)]
    if len(known) != count or len(set(known)) < count:
        raise OptionError(
            "ids", f"must be {count} different ones, one for each image", received=f"{len(set(known))} ids",
            remedy="Pass the ids in the order of the images.",
        )  # fmt: skip
    places = {each: row for row, each in enumerate(known)}
    missing = [each for each in guidance.ids if each not in places]
    if missing:
        raise OptionError(
            "guidance", f"is about {len(missing)} images that are not there", received=", ".join(missing[:5]),
            remedy="Pass those images too, and ids= if images are not called by their number.",
        )  # fmt: skip
    return places


def told(guidance: Guidance, places: dict[str, int]) -> dict[str, list[Told]]:
    """Everything that was said of each axis, as rows and targets."""
    found: dict[str, list[Told]] = {name: [] for name in guidance.names}
    for statement in guidance.statements:
        if isinstance(statement, Labels | Ranking):
            labels = isinstance(statement, Labels)
            given = statement.values if isinstance(statement, Labels) else range(len(statement.ids))
            values = np.array(given, dtype=np.float64)
            targets = (values - values.mean()) / values.std()
            basis = "ranking" if not labels else "binary labels" if statement.binary else "labels"  # type: ignore[union-attr]
            rows = np.array([places[each] for each in statement.ids])
            found[statement.name].append(Told(basis, rows, targets, values))
    pairs = guidance.of(Pair)
    for name in guidance.names if pairs else ():
        for changed in (True, False):
            chosen = [pair for pair in pairs if (name in pair.changed) == changed]
            if chosen:
                rows = np.array([[places[pair.a], places[pair.b]] for pair in chosen])
                targets = np.full(len(chosen), float(changed))
                found[name].append(Told("pairs" if changed else "", rows, targets, targets))
    return found
