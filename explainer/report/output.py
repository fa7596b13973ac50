"""Writes a file whole or not at all."""

import os
import uuid
from pathlib import Path

from explainer.errors import OutputError

__all__ = ["write_file"]


def write_file(path: str | os.PathLike[str], payload: bytes, argument: str = "path") -> Path:
    """Writes the payload under another name beside `path`, then renames it: a reader never sees half a file.

    Args:
        path: The file to write; an existing file is replaced.
        payload: Its content.
        argument: Name of the argument that the error names.

    Returns:
        The path written.

    Raises:
        OutputError: If the folder is missing or the file cannot be written; nothing is left behind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "page.html", b"<p>").read_bytes()
    b'<p>'
    """
    target = Path(path)
    if os.path.isdir(target):
        raise OutputError(argument, "is a folder", received=target, remedy="Add a file name to it.")
    if not os.path.isdir(target.parent):
        raise OutputError(
            argument,
            f"lies in {target.parent}, which is not a folder",
            received=target,
            remedy="Create the folder first, or choose another place.",
        )
    # Not named after the target: a name near the length limit of the file system must not grow.
    partial = target.parent / f".{uuid.uuid4().hex}.part"
    try:
        with open(partial, "xb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except (OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            argument,
            f"cannot be written: {reason}",
            received=target,
            remedy="Choose a place where you may write and that has free space.",
        ) from error
    return target
