r"""A walk in words: how much of the change of the score came from moving along each named axis.

With the delivered image a function of the code, the gradient theorem along the path of the walk, from frame
to frame in straight segments, says

.. math:: s(z_1) - s(z_0) = \int \nabla s \cdot dz
          = \sum_i \int (\nabla s \cdot d_i)\, (w_i \cdot dz) + \int \nabla s \cdot du

so the terms of the named axes, read by :math:`w_i` and moved along :math:`d_i` (see
:mod:`explainer.generators.axes`), and of what has no name add up to the change of the score. The gradient is
all of it, through the gates of the carried detail too, taken at 32 Gauss-Legendre points of every segment;
what the sum misses is measured and kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explainer.generators.axes import NamedAxes
from explainer.walks.scene import Scene

__all__ = ["POINTS", "AxisAttribution", "AxisTerm", "attribute_to_axes", "pooled", "walked_path"]

POINTS = 32
DOMINATES = 0.5
COMPLETE = 0.01
_NO_CHANGE = 1e-6


@dataclass(frozen=True)
class AxisTerm:
    """What one named axis did.

    Attributes:
        name: The axis.
        value: Its part of the change of the score.
        moved: How far its coordinate moved, in standard deviations: of the prior, or of images where the axis
            was named post hoc.
        towards: What that end of the axis is called; empty if it has no name.
    """

    name: str
    value: float
    moved: float
    towards: str


@dataclass(frozen=True)
class AxisAttribution:
    """The change of the score along a walk, by named axis.

    Attributes:
        terms: One for each named axis, in their order.
        unnamed: The part of the change that no named axis explains.
        change: The score at the end of the path less that at its beginning.
        error: What terms and the unnamed part together miss of ``change``, as a share of it.
        levels: Levels at the beginning and the end of the path.
        points: Points of every segment at which the gradient was taken.
    """

    terms: tuple[AxisTerm, ...]
    unnamed: float
    change: float
    error: float
    levels: tuple[float, float]
    points: int

    @property
    def shares(self) -> dict[str, float]:
        """Share of the change by axis, negative where an axis went against it; empty without a change."""
        if abs(self.change) < _NO_CHANGE:
            return {}
        return {term.name: term.value / self.change for term in self.terms}

    @property
    def unnamed_share(self) -> float:
        """Share of the change that has no name; NaN without a change."""
        return self.unnamed / self.change if abs(self.change) >= _NO_CHANGE else float("nan")

    @property
    def unnamed_dominates(self) -> bool:
        """Whether the unnamed part is more than half of the change, or of all parts counted by their size."""
        whole = abs(self.unnamed) + sum(abs(term.value) for term in self.terms)
        return abs(self.unnamed_share) > DOMINATES or abs(self.unnamed) > DOMINATES * whole

    @property
    def sentence(self) -> str:
        """The attribution in words, largest part first.

        >>> parts = AxisTerm("mouth open", 2.1, 1.5, ""), AxisTerm("age", -0.3, 0.2, "old")
        >>> print(AxisAttribution(parts, 1.2, 3.0, 0.0, (0.2, 0.8), 32).sentence)
        70 % of the move is "mouth open", -10 % is "age" (towards "old"), against it, and 40 % is unnamed.
        """
        shares = self.shares
        if not shares:
            return "The score did not change along the walk, so there is nothing to attribute."
        order = sorted(self.terms, key=lambda term: -abs(term.value))
        shown = [term for term in order if abs(shares[term.name]) >= 0.005]
        said = []
        for number, term in enumerate(shown):
            share = f"{round(100 * shares[term.name])} % {'of the move ' if number == 0 else ''}is"
            towards = f' (towards "{term.towards}")' if term.towards else ""
            said.append(
                f'{share} "{term.name}"{towards}' + (", against it" if term.value * self.change < 0 else "")
            )
        rest = f"{round(100 * self.unnamed_share)} % {'' if said else 'of the move '}is unnamed"
        return (", ".join(said) + ", and " if said else "") + rest + "."

    @property
    def warnings(self) -> tuple[str, ...]:
        """What keeps the sentence from being the whole story."""
        found = []
        if self.unnamed_dominates:
            found.append(
                "Most of the move has no name: the named axes do not say what the classifier looks at here. "
                "Look at the frames, and name what changes in them."
            )
        if self.error > COMPLETE:
            found.append(
                f"The parts miss {self.error:.1%} of the change of the score: read them as approximate."
            )
        return tuple(found)

    def record(self) -> dict[str, Any]:
        """Plain values; the sentence and the warnings with them."""
        return {
            **asdict(self),
            "levels": list(self.levels),
            "terms": [asdict(term) for term in self.terms],
            "shares": self.shares,
            "sentence": self.sentence,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> "AxisAttribution | None":
        """What :meth:`record` said; None of None."""
        if record is None:
            return None
        return cls(
            tuple(AxisTerm(**term) for term in record["terms"]), record["unnamed"], record["change"],
            record["error"], tuple(record["levels"]), record["points"],
        )  # fmt: skip


def pooled(found: Sequence[AxisAttribution]) -> AxisAttribution:
    """The mean of several walks, each turned so that its score rises.

    Args:
        found: At least one, of the same axes.

    >>> up = AxisAttribution((AxisTerm("age", 2.0, 1.0, "old"),), 1.0, 3.0, 0.0, (0.2, 0.8), 32)
    >>> down = AxisAttribution((AxisTerm("age", -4.0, -1.0, "young"),), 1.0, -3.0, 0.0, (0.8, 0.2), 32)
    >>> print(pooled([up, down]).sentence)
    100 % of the move is "age" (towards "old"), and 0 % is unnamed.
    """
    signs = np.array([1.0 if each.change >= 0 else -1.0 for each in found])
    values = np.array([[term.value for term in each.terms] for each in found]) * signs[:, None]
    moves = np.array([[term.moved for term in each.terms] for each in found]) * signs[:, None]
    towards: list[str] = []
    for number, move in enumerate(moves.mean(axis=0)):
        # What the end is called that the mean goes to, if any of the walks went there.
        named = [each.terms[number] for each in found if each.terms[number].moved * move > 0]
        towards.append(named[0].towards if named else "")
    ends = np.array([each.levels if each.change >= 0 else each.levels[::-1] for each in found]).mean(axis=0)
    terms = tuple(
        AxisTerm(term.name, float(value), float(move), word)
        for term, value, move, word in zip(
            found[0].terms, values.mean(axis=0), moves.mean(axis=0), towards, strict=True
        )
    )
    unnamed = float((np.array([each.unnamed for each in found]) * signs).mean())
    change = float(np.abs([each.change for each in found]).mean())
    error = max(each.error for each in found)
    return AxisAttribution(terms, unnamed, change, error, (float(ends[0]), float(ends[1])), found[0].points)


def walked_path(scene: Scene, row: int, latents: Tensor, levels: Tensor) -> Tensor:
    """The codes ``(P, D)`` a walk of one image went through, from its lowest to its highest frame.

    The image's own code is where its own level is, at an end if all frames lie on one side.

    Args:
        scene: The images.
        row: Which of them.
        latents: ``(L, D)`` of its frames.
        levels: ``(L,)`` ascending, what was asked for.
    """
    own = float(scene.target.to_level(scene.score0[row].double()))
    below = int((levels < own).sum())
    return torch.cat([latents[:below], scene.z[row : row + 1], latents[below:]])


def attribute_to_axes(
    scene: Scene, paths: Sequence[tuple[int, Tensor]], axes: NamedAxes, *, points: int = POINTS
) -> list[AxisAttribution]:
    """The attribution of every path.

    Args:
        scene: What is evaluated; its classifier must have a gradient.
        paths: For each the image it is of, and its codes ``(P, D)``.
        axes: Of the scene's generator.
        points: Gauss-Legendre points of every segment.
    """
    places, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(points))
    places, weights = (places + 1) / 2, weights / 2
    return [_of_path(scene, row, codes, axes, places, weights) for row, codes in paths]


def _of_path(
    scene: Scene, row: int, codes: Tensor, axes: NamedAxes, places: Tensor, weights: Tensor
) -> AxisAttribution:
    moves = codes[1:] - codes[:-1]
    real = moves.norm(dim=1) > 0
    starts, moves = codes[:-1][real], moves[real]
    ends = codes[[0, -1]]
    scores = scene.score(ends, torch.full((2,), row)).double().cpu()
    low, high = scene.target.to_level(scores).tolist()
    directions, readings = axes.directions.to(codes), axes.read.to(codes)
    if len(moves):
        between = (starts[:, None] + places.to(codes)[:, None] * moves[:, None]).flatten(0, 1)
        gradients = scene.score_and_gradient(between, torch.full((len(between),), row), full=True)[1]
        mean = torch.einsum(
            "spd,p->sd", gradients.unflatten(0, (len(moves), -1)).double(), weights.to(codes.device)
        )
        steps = moves.double()
        along = (mean @ directions.double().T) * (steps @ readings.double().T)
        values = along.sum(dim=0).cpu()
        whole = float((mean * steps).sum())
    else:
        values, whole = torch.zeros(len(axes), dtype=torch.float64), 0.0
    moved = ((ends[1] - ends[0]) @ readings.T).tolist()
    change = float(scores[1] - scores[0])
    terms = tuple(
        AxisTerm(axis.name, value, distance, axis.high if distance > 0 else axis.low)
        for axis, value, distance in zip(axes.axes, values.tolist(), moved, strict=True)
    )
    error = abs(whole - change) / abs(change) if abs(change) >= _NO_CHANGE else 0.0
    return AxisAttribution(terms, whole - float(values.sum()), change, error, (low, high), len(places))
