"""What a person says of a generator's code: names, labels, rankings, pairs, anchors and locks.

A :class:`Guidance` is a list of statements about images, which are named by ids (their file names, numbers
of a table; without ids, their row). It is appended to by methods that return a new one, and is kept as one
CSV or JSON file:

=========  =================================================================================================
name       a dimension of the code, or an axis that labels are of, is called so, its ends ``low`` and ``high``
label      some images have these values of an axis: 0 and 1, or any numbers
rank       of these images each has more of an axis than the one before
pair       two images differ in the ``changed`` axes and in no other named one
anchor     these images belong at these coordinates of the first dimensions of the code
lock       these axes must stay what they are
=========  =================================================================================================

A CSV has the columns ``statement, kind, axis, id, other, value, weight, low, high`` and one row for each
image of a statement. Anchors are also read from the table ``Unique_id, delta, x_anchor, y_anchor``, in which
delta is the weight (rows whose delta is 0 anchor nothing).
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from explainer.errors import OptionError, OutputError

__all__ = ["Anchors", "Guidance", "Labels", "Lock", "Naming", "Pair", "Ranking", "Statement"]

COLUMNS = ("statement", "kind", "axis", "id", "other", "value", "weight", "low", "high")
SOURCE_COLUMNS = ("Unique_id", "delta", "x_anchor", "y_anchor")
FORMAT = 1


@dataclass(frozen=True)
class Naming:
    """A dimension of the code (or, with None, an axis known by other statements) has a name."""

    axis: int | None
    name: str
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class Labels:
    """Values of an axis for some images."""

    name: str
    ids: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return set(self.values) <= {0.0, 1.0}


@dataclass(frozen=True)
class Ranking:
    """Images in ascending order of an axis."""

    name: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two images that differ in some named axes alone."""

    a: str
    b: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Anchors:
    """Where images belong in the first dimensions of the code."""

    ids: tuple[str, ...]
    coordinates: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Lock:
    """Axes that stay what they are."""

    names: tuple[str, ...]


Statement = Naming | Labels | Ranking | Pair | Anchors | Lock
Kind = TypeVar("Kind", Naming, Labels, Ranking, Pair, Anchors, Lock)


@dataclass(frozen=True)
class Guidance:
    """Statements of a person about a code, in order. Methods return a new one with a statement more.

    Attributes:
        statements: What was said.

    >>> guidance = Guidance().label("size", ["a", "b", "c"], [0.1, 0.5, 0.3]).name(None, "size", low="small")
    >>> guidance.names, guidance == Guidance.parse(guidance.to_csv())
    (('size',), True)
    """

    statements: tuple[Statement, ...] = ()

    # -- saying things ---------------------------------------------------------------------------------

    def name(self, axis: int | None, name: str, *, low: str = "", high: str = "") -> "Guidance":
        """Call a dimension of the code ``name``; with ``axis=None`` only say how its ends are called.

        Args:
            axis: Number of the dimension, from 0; None for an axis that labels, rankings or pairs are of.
            name: Its name.
            low: What little of it is called.
            high: What much of it is called.
        """
        given: Any = axis
        if axis is not None and (isinstance(given, bool) or not isinstance(given, Integral) or axis < 0):
            raise _error("axis", "must be the number of a dimension, from 0", axis, "Pass 0, 1, ... or None.")
        axis = None if axis is None else int(axis)
        return self._with(Naming(axis, _text("name", name), str(low), str(high)))

    def label(self, name: str, ids: Sequence[object], values: Sequence[float]) -> "Guidance":
        """Give values of an axis for some images: 0 and 1, or any numbers (more is more of it)."""
        known, numbers = _ids("ids", ids, 2), _numbers("values", values)
        if len(numbers) != len(known):
            raise _error("values", f"must be one for each of the {len(known)} ids", len(numbers),
                         "Pass a value for every image.")  # fmt: skip
        if len(set(numbers)) < 2:
            raise _error("values", "are all the same", numbers[0], "Label images that differ in it.")
        return self._with(Labels(_text("name", name), known, numbers))

    def rank(self, name: str, ids: Sequence[object]) -> "Guidance":
        """Put images in ascending order of an axis."""
        return self._with(Ranking(_text("name", name), _ids("ids", ids, 2)))

    def pair(self, a: object, b: object, *, changed: Sequence[str]) -> "Guidance":
        """Say that two images differ in ``changed`` axes (b has more of them) and in no other named one."""
        names = [_text("changed", name) for name in _listed("changed", changed, "names")]
        first, second = _ids("a, b", [a, b], 2)
        return self._with(Pair(first, second, tuple(names)))

    def anchor(
        self,
        ids: Sequence[object],
        coordinates: Sequence[Sequence[float]],
        weight: float | Sequence[float] = 1.0,
    ) -> "Guidance":
        """Say where images belong.

        Args:
            ids: The images.
            coordinates: For each image its place in the first dimensions of the code; or one place for all.
            weight: How much it matters; for all, or for each.
        """
        known = _ids("ids", ids, 1)
        given = _listed("coordinates", coordinates, "numbers")
        given = [given] * len(known) if given and _is_number(given[0]) else given
        places = tuple(_numbers(f"coordinates[{row}]", place) for row, place in enumerate(given))
        if len(places) != len(known) or len({len(place) for place in places}) > 1 or not places[0]:
            raise _error("coordinates", f"must be one place, equally long, for each of the {len(known)} ids",
                         [len(place) for place in places], "Pass for example [(-2, 0), (2, 0)].")  # fmt: skip
        weights = _numbers("weight", [weight] * len(known) if _is_number(weight) else weight)
        if len(weights) != len(known) or min(weights) <= 0:
            raise _error("weight", "must be positive, one for all or one for each id", weight, "1 is usual.")
        return self._with(Anchors(known, places, weights))

    def lock(self, axes: Sequence[str]) -> "Guidance":
        """Say that named axes must stay what they are while the generator learns others."""
        names = [_text("axes", name) for name in _listed("axes", axes, "names")]
        if not names:
            raise _error("axes", "must be a list of names", axes, 'Pass for example ["nucleus size"].')
        return self._with(Lock(tuple(names)))

    def __add__(self, other: "Guidance") -> "Guidance":
        return replace(self, statements=self.statements + other.statements)

    def _with(self, statement: Statement) -> "Guidance":
        return replace(self, statements=(*self.statements, statement))

    # -- asking what was said ----------------------------------------------------------------------------

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The statements of one kind."""
        return [statement for statement in self.statements if isinstance(statement, kind)]

    @property
    def names(self) -> tuple[str, ...]:
        """Every axis that a statement names or describes, in the order in which they come up."""
        found: dict[str, None] = {}
        for statement in self.statements:
            if isinstance(statement, Naming | Labels | Ranking):
                found[statement.name] = None
            elif isinstance(statement, Pair):
                found |= dict.fromkeys(statement.changed)
        return tuple(found)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every image that a statement is about."""
        found: dict[str, None] = {}
        for statement in self.statements:
            if isinstance(statement, Labels | Ranking | Anchors):
                found |= dict.fromkeys(statement.ids)
            elif isinstance(statement, Pair):
                found |= dict.fromkeys((statement.a, statement.b))
        return tuple(found)

    # -- files -----------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, str]]:
        """One row for each image of each statement, by the columns of the CSV."""
        return [
            {**dict.fromkeys(COLUMNS, ""), "statement": str(number), **row}
            for number, statement in enumerate(self.statements)
            for row in _rows(statement)
        ]

    def to_csv(self) -> str:
        """The text of the CSV."""
        text, rows = io.StringIO(newline=""), self.rows()
        # Spaces at the beginning and single carriage returns come back from between quotes alone.
        odd = any(cell[:1].isspace() or "\r" in cell for row in rows for cell in row.values())
        writer = csv.DictWriter(
            text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
        )
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write a ``.csv`` or a ``.json`` and return its path.

        Raises:
            OptionError: Another ending.
            OutputError: It cannot be written.
        """
        place = Path(path)
        if place.suffix not in (".csv", ".json"):
            raise _error("path", "must end in .csv or .json", place, "Name the file guidance.csv.")
        text = self.to_csv()
        if place.suffix == ".json":
            text = json.dumps({"format": FORMAT, "rows": self.rows()}, indent=1) + "\n"
        try:
            place.write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            raise OutputError("path", "cannot be written", received=f"{place}: {error.strerror}",
                              remedy="Name a file in a folder that exists.") from error  # fmt: skip
        return place

    @classmethod
    def load(cls, path: str | Path) -> "Guidance":
        """Read a file that :meth:`save` wrote, or a CSV of anchors ``Unique_id, delta, x_anchor, y_anchor``.

        Raises:
            OptionError: It cannot be read; the error names the row and the column.
        """
        try:
            return cls.parse(Path(path).read_bytes().decode("utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise _error(
                "guidance", "cannot be read", f"{path}: {error}", "Name a CSV or JSON file."
            ) from error

    @classmethod
    def parse(cls, text: str) -> "Guidance":
        """What :meth:`load` makes of the text of a file."""
        if text.lstrip().startswith("{"):
            try:
                content = json.loads(text)
                version = content.get("format", FORMAT)
                rows = [{column: str(row[column]) for column in COLUMNS} for row in content["rows"]]
            except (ValueError, KeyError, TypeError) as error:
                raise _error("guidance", "is not a JSON file of guidance", repr(error),
                             "Write it with Guidance.save.") from error  # fmt: skip
            if version != FORMAT:
                raise _error("guidance", f"is a JSON file of another format than {FORMAT}", version,
                             "Write it with Guidance.save, or update the package.")  # fmt: skip
            return _parsed(rows)
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        try:
            header, table = tuple(reader.fieldnames or ()), list(reader)
        except csv.Error as error:
            raise _error("guidance", f"line {reader.line_num + 1}: is no CSV", error,
                         "Put quotes around commas, quotes and ends of lines.") from error  # fmt: skip
        for columns, parse in ((COLUMNS, _parsed), (SOURCE_COLUMNS, _parsed_anchors)):
            if set(columns) <= set(header):
                return parse([{column: row[column] or "" for column in columns} for row in table])
        missing = [column for column in COLUMNS if column not in header]
        raise _error("guidance", f"row 1: lacks the columns {', '.join(missing)}", ", ".join(header),
                     f"Pass those, or {', '.join(SOURCE_COLUMNS)}.")  # fmt: skip


# -- rows of a table -------------------------------------------------------------------------------------


def _rows(statement: Statement) -> list[dict[str, str]]:
    if isinstance(statement, Naming):
        axis = "" if statement.axis is None else str(statement.axis)
        return [{"kind": "name", "axis": statement.name, "value": axis, "low": statement.low,
                 "high": statement.high}]  # fmt: skip
    if isinstance(statement, Labels):
        return [{"kind": "label", "axis": statement.name, "id": each, "value": repr(value)}
                for each, value in zip(statement.ids, statement.values, strict=True)]  # fmt: skip
    if isinstance(statement, Ranking):
        return [{"kind": "rank", "axis": statement.name, "id": each, "value": str(place)}
                for place, each in enumerate(statement.ids)]  # fmt: skip
    if isinstance(statement, Pair):
        return [{"kind": "pair", "axis": name, "id": statement.a, "other": statement.b}
                for name in statement.changed or ("",)]  # fmt: skip
    if isinstance(statement, Anchors):
        return [
            {"kind": "anchor", "id": each, "value": " ".join(map(repr, place)), "weight": repr(weight)}
            for each, place, weight in zip(
                statement.ids, statement.coordinates, statement.weights, strict=True
            )
        ]
    return [{"kind": "lock", "axis": name} for name in statement.names]


def _parsed(rows: Sequence[Mapping[str, str]]) -> Guidance:
    """Guidance from rows; the first is row 2 of its file, below the header."""
    grouped: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
    for number, row in enumerate(rows, start=2):
        if row["kind"] not in _READERS:
            raise _error("guidance", f'row {number}, column "kind": is unknown', row["kind"],
                         f"Known are: {', '.join(_READERS)}.")  # fmt: skip
        members = grouped.setdefault(row["statement"], [])
        if members and members[0][1]["kind"] != row["kind"]:
            raise _error("guidance", f'row {number}, column "kind": differs from the rest of its statement',
                         row["kind"], "Give each statement its own number.")  # fmt: skip
        members.append((number, row))
    guidance = Guidance()
    for members in grouped.values():
        try:
            guidance = _READERS[members[0][1]["kind"]](guidance, members)
        except OptionError as error:
            if error.argument == "guidance":
                raise
            first, last = members[0][0], members[-1][0]
            where = f"row {first}" if first == last else f"rows {first} to {last}"
            raise _error("guidance", f'{where}, column "{_COLUMN.get(error.argument, "id")}": '
                         f"{error.problem}", error.received, error.remedy) from error  # fmt: skip
    return guidance


_COLUMN = {"name": "axis", "changed": "axis", "axes": "axis", "values": "value", "coordinates": "value",
           "axis": "value", "weight": "weight"}  # fmt: skip
Members = list[tuple[int, Mapping[str, str]]]


def _number(number: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _error("guidance", f'row {number}, column "{column}": must be a finite number', text or "none",
                     "Write it with a decimal point.")  # fmt: skip
    return value


def _same(members: Members, column: str) -> str:
    """What a column says in all rows of a statement."""
    value = members[0][1][column]
    for number, row in members:
        if row[column] != value:
            raise _error("guidance", f'row {number}, column "{column}": differs from the first of its rows',
                         row[column], f'Write "{value}", or begin another statement.')  # fmt: skip
    return value


def _read_name(guidance: Guidance, members: Members) -> Guidance:
    number, row = members[0]
    if len(members) > 1:
        raise _error("guidance", f'row {members[1][0]}, column "statement": a name takes one row',
                     row["statement"], "Number it anew.")  # fmt: skip
    axis = None if row["value"] == "" else _number(number, "value", row["value"])
    whole = int(axis) if axis is not None and axis == int(axis) else axis
    return guidance.name(whole, row["axis"], low=row["low"], high=row["high"])  # type: ignore[arg-type]


def _read_label(guidance: Guidance, members: Members) -> Guidance:
    values = [_number(number, "value", row["value"]) for number, row in members]
    return guidance.label(_same(members, "axis"), [row["id"] for _, row in members], values)


def _read_rank(guidance: Guidance, members: Members) -> Guidance:
    places = {_number(number, "value", row["value"]): row["id"] for number, row in members}
    if len(places) < len(members):
        raise _error("guidance", f'row {members[0][0]}, column "value": two images have one place',
                     f"{len(places)} places, {len(members)} images", "Number them 0, 1, 2, ...")  # fmt: skip
    return guidance.rank(_same(members, "axis"), [places[place] for place in sorted(places)])


def _read_pair(guidance: Guidance, members: Members) -> Guidance:
    changed = [row["axis"] for _, row in members if row["axis"]]
    return guidance.pair(_same(members, "id"), _same(members, "other"), changed=changed)


def _read_anchor(guidance: Guidance, members: Members) -> Guidance:
    places = [[_number(number, "value", part) for part in row["value"].split()] for number, row in members]
    weights = [_number(number, "weight", row["weight"]) for number, row in members]
    return guidance.anchor([row["id"] for _, row in members], places, weights)


def _read_lock(guidance: Guidance, members: Members) -> Guidance:
    return guidance.lock([row["axis"] for _, row in members])


_READERS: dict[str, Callable[[Guidance, Members], Guidance]] = {
    "name": _read_name, "label": _read_label, "rank": _read_rank, "pair": _read_pair,
    "anchor": _read_anchor, "lock": _read_lock,
}  # fmt: skip


def _parsed_anchors(rows: Sequence[Mapping[str, str]]) -> Guidance:
    """Guidance from a table of anchors in the plane."""
    ids, places, weights = [], [], []
    for number, row in enumerate(rows, start=2):
        weight = _number(number, "delta", row["delta"])
        if weight < 0:
            raise _error("guidance", f'row {number}, column "delta": must not be negative', row["delta"],
                         "0 anchors nothing.")  # fmt: skip
        if not row["Unique_id"]:
            raise _error(
                "guidance", f'row {number}, column "Unique_id": is empty', "nothing", "Name the image."
            )
        if row["Unique_id"] in ids:
            raise _error("guidance", f'row {number}, column "Unique_id": comes twice', row["Unique_id"],
                         "Anchor an image once.")  # fmt: skip
        if weight > 0:
            ids.append(row["Unique_id"])
            places.append([_number(number, column, row[column]) for column in ("x_anchor", "y_anchor")])
            weights.append(weight)
    if not ids:
        raise _error("guidance", 'column "delta": anchors no image', f"{len(rows)} rows of delta 0",
                     "Give the anchored ones a positive delta.")  # fmt: skip
    return Guidance().anchor(ids, places, weights)


# -- single values -----------------------------------------------------------------------------------------


def _text(argument: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _error(argument, "must be a name", repr(value), 'Pass for example "nucleus size".')
    return value


def _ids(argument: str, ids: Sequence[object], fewest: int) -> tuple[str, ...]:
    known = tuple(str(each) for each in _listed(argument, ids, "ids"))
    if len(known) < fewest:
        raise _error(argument, f"must be at least {fewest}", ids, "Name images by their ids.")
    seen: set[str] = set()
    for position, each in enumerate(known):
        if not each or each in seen:
            problem = f"entry {position} is {'named twice' if each else 'empty'}"
            raise _error(argument, problem, each or "nothing", "Name each image once.")  # fmt: skip
        seen.add(each)
    return known


def _is_number(value: object) -> bool:
    """Whether this is one number, of Python, NumPy or PyTorch."""
    return isinstance(value, Real) or getattr(value, "ndim", None) == 0


def _listed(argument: str, values: Any, of: str) -> list[Any]:
    """Several values; a text is one."""
    if not isinstance(values, str | bytes) and not _is_number(values):
        try:
            return list(values)
        except TypeError:
            pass
    raise _error(argument, f"must be a list of {of}", repr(values), f"Pass for example [{values!r}].")


def _numbers(argument: str, values: Any) -> tuple[float, ...]:
    found: list[float] = []
    for position, value in enumerate(_listed(argument, values, "numbers")):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise _error(argument, f"entry {position} is not a finite number", value, "Leave the image out.")
        found.append(number)
    return tuple(found)


def _error(argument: str, problem: str, received: Any, remedy: str) -> OptionError:
    return OptionError(argument, problem, received=received, remedy=remedy)
