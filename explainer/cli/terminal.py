"""What every command does with its words: prints results, names errors, ends with an exit code."""

import json
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from explainer.errors import ExplainerError, OptionError, OutputError

__all__ = [
    "COLOURS",
    "DISTRUSTED",
    "FAULT",
    "INSUFFICIENT",
    "INTERRUPTED",
    "WRONG_INPUT",
    "errors_named",
    "examples",
    "make_folder",
    "print_error",
    "print_json",
    "print_lines",
    "require_there",
    "shows_progress",
    "to_stderr",
]

DISTRUSTED, WRONG_INPUT, FAULT, INSUFFICIENT, INTERRUPTED = 1, 2, 3, 4, 130

COLOURS = {"trust": "green", "limits": "yellow", "distrust": "red"}
COLOURS |= {"healthy": "green", "weak": "yellow", "collapsed": "red"}
COLOURS |= {"not detected": "blue", "insufficient": "yellow", "confounded": "red"}

WIDTH = 74


def examples(*commands: tuple[str, str]) -> str:
    """The examples below the help of a command, from pairs of what one wants and what one types.

    >>> print(examples(("See it", "explainer demo")))
    [bold]Examples[/]
    <BLANKLINE>
      [dim]# See it[/]
      explainer demo
    """
    shown = ["[bold]Examples[/]"]
    for wish, words in commands:
        # broken where a shell takes it, so that it can be copied from a narrow terminal
        lines = textwrap.wrap(words, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        wishes = textwrap.wrap(wish, WIDTH, initial_indent="# ", subsequent_indent="# ")
        shown.append(
            "".join(f"  [dim]{escape(line)}[/]\n" for line in wishes) + "  " + escape(" \\\n  ".join(lines))
        )
    return "\n\n".join(shown)


@contextmanager
def errors_named(debug: bool) -> Iterator[None]:
    """Turn an error into one line on stderr and the exit code that says whose it is.

    Args:
        debug: Print the traceback before it.

    Raises:
        typer.Exit: With :data:`WRONG_INPUT` if the user can put it right, else with :data:`FAULT`.
    """
    try:
        yield
    except ExplainerError as error:
        if debug:
            traceback.print_exc()
        print_error(str(error))
        raise typer.Exit(WRONG_INPUT) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print_fault(error)
        raise typer.Exit(FAULT) from None


def print_error(sentence: str) -> None:
    """One line on stderr about what the user can put right."""
    to_stderr(f"[bold red]Error[/] {escape(sentence)}")


def print_fault(error: Exception) -> None:
    """One line on stderr about a fault in this package, and where it is."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())
    to_stderr(
        f"[bold red]Fault[/] {escape(type(error).__name__)}: {escape(said)} ({Path(place.filename).name}, "
        f"line {place.lineno}). This is a fault in explainer: add --debug for the traceback, and report it."
    )


def to_stderr(text: str) -> None:
    """A line of markup on stderr; it is not wrapped."""
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)


def shows_progress(quiet: bool) -> bool:
    """Whether to show what is being done: on a terminal, unless it was asked not to."""
    return not quiet and sys.stderr.isatty()


def make_folder(out: Path | None) -> None:
    """Make the folder before any work is done, so that nobody waits for a result that cannot be written."""
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "out",
            "cannot be made",
            received=f"{out}: {error.strerror}",
            remedy="Name a folder in a place that can be written to.",
        ) from error


def require_there(argument: str, *paths: Path) -> None:
    """Say that a file or folder is not there before torch is imported, which takes seconds."""
    for path in paths:
        if not path.expanduser().exists():
            raise OptionError(
                argument, "does not exist", received=path,
                remedy=f"Check the path; the working folder is {Path.cwd()}.",
            )  # fmt: skip


def print_json(value: object) -> None:
    """The one thing on stdout with ``--json``."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_lines(lines: Sequence[str]) -> None:
    """Lines of markup on stdout; they are not wrapped: a path broken over two lines cannot be copied."""
    Console().print("\n".join(lines), soft_wrap=True, highlight=False)
