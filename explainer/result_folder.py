"""Explanations on disk, written in chunks as they come and read one by one.

::

    folder/run.json                             the settings, before any image is read
    folder/chunk-00000000/chunk.json            what became of each of its images, in order
    folder/chunk-00000000/00000003/             one explanation, as Explanation.save writes it
    folder/complete.json                        how many images there were, at the end
    folder/checked.json                         what the checks of the set found, if they were made

A chunk appears under its name only when all of it is written, so a process may be killed at any moment:
chunks that are there are whole, they follow on each other from the first image, and the next run goes on
after the last of them. Frames are kept as float32, as they were delivered: read again they are the same to
the last bit, and so is what the classifier says of them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

from explainer.errors import ExplainerError, ModelFileError, OutputError
from explainer.explanation import RECORD, Explanation
from explainer.report.output import write_file
from explainer.storage import new_folder, read_json, write_json

__all__ = ["Entry", "Outcome", "ResultFolder", "Stored"]

RUN, CHUNK, COMPLETE, CHECKED = "run.json", "chunk.json", "complete.json", "checked.json"
FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """Why an image has no explanation.

    Attributes:
        index: Its place among the images.
        name: Its path, or ``images[index]``.
        kind: Kind of the error, such as ``"ImageError"``.
        sentence: What was wrong and what to do about it.
    """

    index: int
    name: str
    kind: str
    sentence: str

    @classmethod
    def of(cls, index: int, name: str, error: Exception) -> "Outcome":
        """The outcome of an image over which an error was raised."""
        return cls(index, name, type(error).__name__, " ".join(str(error).split()) or "no message")

    def to_dict(self) -> dict[str, Any]:
        """Itself, JSON-serialisable."""
        return asdict(self)


@dataclass(frozen=True)
class Entry:
    """Where what became of one image is kept.

    Attributes:
        index: Place of the image.
        name: Its name.
        digest: What tells the image from another.
        place: Folder of its explanation, or None.
        outcome: Why it has none, or None.
    """

    index: int
    name: str
    digest: str
    place: Path | None
    outcome: Outcome | None

    def read(self) -> Explanation | Outcome:
        """What became of the image, with its pixels."""
        if self.outcome is not None:
            return self.outcome
        assert self.place is not None  # one of the two is there
        return Explanation.load(self.place)

    def record(self) -> dict[str, Any]:
        """The same without its pixels, see :meth:`Explanation.to_dict`."""
        if self.outcome is not None:
            return self.outcome.to_dict()
        assert self.place is not None
        return read_json(self.place / RECORD, "folder")


class Stored(Sequence[Explanation | Outcome]):
    """Explanations in a folder, each read when it is asked for and not kept.

    Args:
        entries: Where they are.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Explanation | Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> "Stored": ...

    def __getitem__(self, index: int | slice) -> "Explanation | Outcome | Stored":
        return Stored(self.entries[index]) if isinstance(index, slice) else self.entries[index].read()

    def records(self) -> Iterator[dict[str, Any]]:
        return (entry.record() for entry in self.entries)


class ResultFolder:
    """The folder of one run of ``explain_many``.

    Args:
        folder: Where it is.
        settings: The settings of the run, as written.
        entries: What became of the images so far, in order.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], entries: list[Entry]) -> None:
        self.folder, self.settings, self.entries = folder, settings, entries

    @classmethod
    def begin(cls, folder: str | Path, settings: Mapping[str, Any]) -> "ResultFolder":
        """Make the folder, or go on with one that was begun with the same settings.

        Raises:
            OutputError: The folder holds something else, was begun with other settings, or cannot be
                written to.
        """
        place = Path(folder).expanduser()
        plain = json.loads(json.dumps(settings))
        if not (place / RUN).is_file():
            with new_folder(place, marker=RUN) as fresh:
                write_json(fresh / RUN, {"format": FORMAT, "settings": plain})
            return cls(place.resolve(), plain, [])
        begun = cls.open(place)
        other = sorted(
            name
            for name in plain.keys() | begun.settings.keys()
            if plain.get(name) != begun.settings.get(name)
        )
        if other:
            name = other[0]
            raise OutputError(
                "out", f"was begun with another {', another '.join(other)}",
                received=f"{name} {plain.get(name)} instead of {begun.settings.get(name)}",
                remedy="Choose a new folder, or repeat the call with the settings of the first.",
            )  # fmt: skip
        begun.sweep()
        return begun

    @classmethod
    def open(cls, folder: str | Path) -> "ResultFolder":
        """Read what a folder holds.

        Raises:
            ModelFileError: It is not one of these folders, or a chunk is missing or not readable.
        """
        place = Path(folder).expanduser().resolve()
        run = read_json(place / RUN, "folder")
        if run.get("format") != FORMAT or not isinstance(run.get("settings"), dict):
            raise ModelFileError(
                "folder", f"has a record of another format than {FORMAT}", received=run.get("format"),
                remedy="Read it with the version that wrote it.",
            )  # fmt: skip
        entries: list[Entry] = []
        for chunk in sorted(place.glob("chunk-*/")):
            entries += _entries(chunk, start=len(entries))
        return cls(place, run["settings"], entries)

    @property
    def complete(self) -> bool:
        """Whether the run went through all of its images."""
        return (self.folder / COMPLETE).is_file()

    def sweep(self) -> None:
        """Remove what a killed process left unfinished."""
        for left in self.folder.glob(".chunk-*"):
            shutil.rmtree(left, ignore_errors=True)

    def append(self, results: Sequence[tuple[str, str, Explanation | Outcome]]) -> None:
        """Write the next chunk.

        Args:
            results: Name of the image, what tells it from another, and what became of it.

        Raises:
            OutputError: It cannot be written; what was there before is as it was.
        """
        start = len(self.entries)
        chunk = self.folder / f"chunk-{start:08d}"
        listed = []
        try:
            (self.folder / COMPLETE).unlink(missing_ok=True)
            (self.folder / CHECKED).unlink(missing_ok=True)
            with new_folder(chunk, marker=CHUNK) as fresh:
                for index, (name, digest, result) in enumerate(results, start=start):
                    failed = isinstance(result, Outcome)
                    if isinstance(result, Explanation):
                        result.save(fresh / f"{index:08d}")
                    listed.append(
                        {"name": name, "digest": digest, "outcome": result.to_dict() if failed else None}
                    )
                write_json(fresh / CHUNK, {"start": start, "images": listed})
        except ExplainerError:
            raise
        except OSError as error:
            raise OutputError(
                "out", "cannot be written to", received=chunk,
                remedy=f"{error.strerror or error}. What was written is kept; repeat the call to go on.",
            ) from error  # fmt: skip
        self.entries += _entries(chunk, start=start)

    def write_checked(self, record: Mapping[str, Any]) -> None:
        """Keep what the checks of the whole set found, until more images are added."""
        write_file(self.folder / CHECKED, json.dumps(record, allow_nan=False).encode(), argument="out")

    def read_checked(self) -> dict[str, Any] | None:
        """What was kept, if anything.

        Raises:
            ModelFileError: It cannot be read.
        """
        return read_json(self.folder / CHECKED, "folder") if (self.folder / CHECKED).is_file() else None

    def finish(self) -> None:
        """Note that there are no more images."""
        if not self.complete:
            said = json.dumps({"images": len(self.entries)}) + "\n"
            write_file(self.folder / COMPLETE, said.encode(), argument="out")


def _entries(chunk: Path, *, start: int) -> list[Entry]:
    record = read_json(chunk / CHUNK, "folder")
    try:
        if record["start"] != start:
            raise ModelFileError(
                "folder", f"lacks the chunk that begins with image {start}", received=chunk,
                remedy="Restore it, or explain the images again into a new folder.",
            )  # fmt: skip
        return [
            Entry(
                index=index,
                name=image["name"],
                digest=image["digest"],
                place=chunk / f"{index:08d}" if image["outcome"] is None else None,
                outcome=None if image["outcome"] is None else Outcome(**image["outcome"]),
            )
            for index, image in enumerate(record["images"], start=start)
        ]
    except (KeyError, TypeError) as error:
        raise ModelFileError(
            "folder", "has a chunk that is not complete", received=chunk,
            remedy=f"Explain the images again into a new folder ({type(error).__name__}: {error}).",
        ) from error  # fmt: skip
