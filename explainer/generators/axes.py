r"""Named axes: directions of a code that mean something, and what a code is in their words.

An axis is read by one vector :math:`w_i` of the code and moved along another, :math:`d_i`. With the mean code
m as origin and :math:`w_i \cdot d_j = 1` for i = j, else 0, a code is

.. math:: z = m + \sum_i a_i(z)\, d_i + u, \qquad a_i(z) = w_i \cdot (z - m), \qquad w_i \cdot u = 0,

its coordinates :math:`a_i` along the named axes and a rest u that has no name. So moving along one axis
changes no other named coordinate, and any small move is the sum of its parts along the axes and of the
unnamed part: what an attribution by axis adds up. What is read best and what changes with it are one
direction only in a code whose dimensions do not go together (Haufe et al. 2014, doi
10.1016/j.neuroimage.2013.10.067); axes that were learnt are orthonormal, and :math:`w_i = d_i`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from explainer.errors import GeneratorError, OptionError

__all__ = ["Axis", "NamedAxes"]

_DUAL = 1e-3


@dataclass(frozen=True)
class Axis:
    """What is known of one named axis.

    Attributes:
        name: What it is called, such as ``"nucleus size"``.
        low: What little of it is called, such as ``"small"``; may be empty.
        high: What much of it is called; may be empty.
        basis: What it was found by: ``"dimension"``, ``"labels"``, ``"binary labels"``, ``"ranking"``,
            ``"pairs"``, or several of them.
        measure: What ``quality`` is: ``"correlation"``, ``"accuracy"``, ``"rank correlation"`` or ``"share of
            the difference"``; empty where nothing was given to measure it by.
        quality: Of statements the axis was not fitted to (five folds); NaN where there is no measure.
        count: Statements it was measured on.
        span: Coordinates below which 5 %, 50 % and 95 % of known images lie.
        slope: Of the labels' values over the coordinate, 0 where there are none.
        offset: The labels' value at coordinate 0.
    """

    name: str
    low: str = ""
    high: str = ""
    basis: str = "dimension"
    measure: str = ""
    quality: float = float("nan")
    count: int = 0
    span: tuple[float, float, float] = (-1.645, 0.0, 1.645)
    slope: float = 0.0
    offset: float = 0.0

    def __str__(self) -> str:
        ends = f" ({self.low or 'low'} to {self.high or 'high'})" if self.low or self.high else ""
        held = f", held-out {self.measure} {self.quality:.2f} (n = {self.count:,})" if self.measure else ""
        return f'"{self.name}"{ends}: from {self.basis}{held}'


@dataclass(frozen=True, eq=False)
class NamedAxes:
    """Directions of a code, each with a name.

    Attributes:
        axes: What is known of each.
        origin: ``(D,)``, the mean code.
        directions: ``(K, D)``, what moving along each adds to a code.
        readings: ``(K, D)``, what each is read by; None where that is the direction itself, and they are
            orthonormal.
        record: How they came about: mode, guidance, what was measured before and after; plain values.

    >>> axes = NamedAxes((Axis("size"), Axis("shade")), torch.zeros(3), torch.eye(3)[:2])
    >>> axes.coordinates(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 2.]])
    >>> axes.moved(torch.zeros(1, 3), "shade", torch.tensor([2.0]))
    tensor([[0., 2., 0.]])
    """

    axes: tuple[Axis, ...]
    origin: Tensor
    directions: Tensor
    record: Mapping[str, Any] = field(default_factory=dict)
    readings: Tensor | None = None

    def __post_init__(self) -> None:
        count, dimensions = len(self.axes), len(self.origin)
        given = [tuple(each.shape) for each in (self.directions, self.read)]
        if given != [(count, dimensions)] * 2 or not torch.allclose(
            self.read @ self.directions.T, torch.eye(count).to(self.directions), atol=_DUAL
        ):
            own = "orthonormal rows" if self.readings is None else "rows with readings dual to them,"
            raise GeneratorError(
                "directions", f"must be {count} {own} of {dimensions} dimensions",
                received=f"shape {given[0]}", remedy="Orthogonalise them first.",
            )  # fmt: skip
        names = self.names
        if len(set(names)) < len(names):
            raise OptionError("name", "names two axes", received=names, remedy="Give each its own name.")

    @property
    def read(self) -> Tensor:
        """``(K, D)``, what each axis is read by."""
        return self.directions if self.readings is None else self.readings

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(axis.name for axis in self.axes)

    def __len__(self) -> int:
        return len(self.axes)

    def index(self, name: str, argument: str = "axis") -> int:
        """The number of a named axis.

        Raises:
            OptionError: No axis has this name.
        """
        if name not in self.names:
            known = ", ".join(f'"{each}"' for each in self.names)
            raise OptionError(argument, "names no axis", received=name, remedy=f"Named are: {known}.")
        return self.names.index(name)

    def coordinates(self, z: Tensor) -> Tensor:
        """Coordinates ``(N, K)`` of codes ``(N, D)``."""
        return (z - self.origin.to(z)) @ self.read.to(z).T

    def unnamed(self, z: Tensor) -> Tensor:
        """What is left of codes, or of moves, ``(N, D)`` without their parts along the axes; the origin stays
        in it."""
        return z - (z @ self.read.to(z).T) @ self.directions.to(z)

    def moved(self, z: Tensor, name: str, coordinates: Tensor) -> Tensor:
        """Codes ``(N, D)`` whose coordinate on one axis is as given ``(N,)``, and nothing else is changed."""
        number = self.index(name)
        gap = coordinates.to(z) - self.coordinates(z)[:, number]
        return z + gap[:, None] * self.directions[number].to(z)

    def subspace(self, along: Sequence[str], lock: Sequence[str]) -> Tensor:
        """Orthonormal directions ``(M, D)`` a code may move in.

        Args:
            along: Only along these axes; along all of the code if there are none.
            lock: Not along these.

        Raises:
            OptionError: An unknown name, a name in both, or nothing left to move in.
        """
        for argument, given in (("along", along), ("lock", lock)):
            if isinstance(given, str):
                raise OptionError(
                    argument, "must be a list of names", received=given, remedy=f'Pass ["{given}"].'
                )
        kept = [self.index(name, "along") for name in along]
        locked = [self.index(name, "lock") for name in lock]
        both = sorted(set(along) & set(lock))
        if both:
            raise OptionError(
                "along, lock", "must not name the same axis", received=", ".join(both),
                remedy="Walk along an axis, or lock it.",
            )  # fmt: skip
        if kept:
            chosen = self.directions[sorted(set(kept))]
            return chosen if self.readings is None else torch.linalg.qr(chosen.T).Q.T
        if not locked:
            return torch.eye(len(self.origin))
        held = self.read[sorted(set(locked))]
        if len(held) >= len(self.origin):
            raise OptionError(
                "lock", "leaves no direction to walk in", received=", ".join(lock),
                remedy="Lock fewer axes.",
            )  # fmt: skip
        return torch.linalg.svd(held, full_matrices=True).Vh[len(held) :]

    def plain(self) -> dict[str, Any]:
        """Everything but the tensors, JSON-serialisable."""
        rows = [{**asdict(axis), "span": list(axis.span)} for axis in self.axes]
        for row in rows:
            row["quality"] = row["quality"] if row["measure"] else None
        return {"axes": rows, "record": dict(self.record)}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        own = {} if self.readings is None else {"readings": self.readings}
        return {"origin": self.origin, "directions": self.directions, **own}

    @classmethod
    def rebuilt(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "NamedAxes":
        """What :meth:`plain` and :meth:`tensors` said."""
        axes = []
        for row in plain["axes"]:
            quality = float("nan") if row["quality"] is None else row["quality"]
            axes.append(Axis(**{**row, "quality": quality, "span": tuple(row["span"])}))
        read = tensors.get("readings")
        return cls(tuple(axes), tensors["origin"], tensors["directions"], dict(plain["record"]), read)

    def __str__(self) -> str:
        return "\n".join(str(axis) for axis in self.axes)
