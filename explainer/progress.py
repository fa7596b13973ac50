"""What is being done, and how far: a line on a terminal, one in the cell of a notebook, nothing elsewhere.

In a notebook the line is a display that is updated in place, plain HTML: it needs no widget, so it looks the
same in JupyterLab, VS Code and an exported page, and it is gone when the work is done.
"""

import html
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from rich.console import Console

__all__ = ["Say", "in_notebook", "quiet_tqdm", "told"]

Say: TypeAlias = Callable[..., None]
"""Called with what is being done, and with the share that is done from 0 to 1 where it is known."""

EMPTY = "<span></span>"


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel. IPython is not imported for the question."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def quiet_tqdm() -> None:
    """Import the bars that captum brings without their advice to install widgets, which are not needed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        importlib.import_module("tqdm.auto")


@contextmanager
def told(wanted: bool, doing: str) -> Iterator[Say]:
    """A function that says what is being done, where somebody watches.

    Args:
        wanted: False says nothing.
        doing: What it is all about, in a word: "explaining".

    >>> with told(False, "explaining") as say:
    ...     say("image 3 of 10", 0.3)
    """
    console = Console(stderr=True)
    if wanted and in_notebook():
        with _in_cell(doing) as say:
            yield say
    elif wanted and console.is_terminal:
        with console.status(doing) as status:
            yield lambda text, share=None: status.update(f"{doing}: {text}{_percent(share)}")
    else:
        yield lambda text, share=None: None


@contextmanager
def _in_cell(doing: str) -> Iterator[Say]:
    from IPython.display import HTML, display

    handle: Any = display(HTML(_line(doing, "", None)), display_id=True)
    try:
        yield lambda text, share=None: handle.update(HTML(_line(doing, text, share)))
    finally:
        handle.update(HTML(EMPTY))


def _line(doing: str, text: str, share: float | None) -> str:
    said = html.escape(f"{doing}: {text}" if text else f"{doing} ...")
    if share is None:
        return f"<span>{said}</span>"
    return f'<progress value="{share:.3f}" max="1"></progress> <span>{said}{_percent(share)}</span>'


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.0%})"
