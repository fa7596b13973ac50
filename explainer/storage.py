"""Files that are never half-written and never read unchecked.

A folder appears under its name only when everything in it is complete: it is written beside its place
and renamed. Tensors are stored as safetensors, which hold no code, and are compared with their SHA-256.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from explainer.errors import ModelFileError, OutputError

__all__ = ["new_folder", "read_json", "read_tensors", "sha256", "state_sha256", "write_json", "write_tensors"]


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names, types, shapes and contents of a module's state."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def new_folder(folder: str | Path, *, marker: str) -> Iterator[Path]:
    """A folder to write into that takes its place only if the block ends well.

    Args:
        folder: Where it shall be. A folder there is replaced only if it is empty or holds ``marker``,
            the file that shows that it was written by this package.
        marker: Name of that file.

    Raises:
        OutputError: The place is a file, someone else's folder, or cannot be written to.
    """
    place = Path(folder).resolve()
    if place == Path.cwd():
        raise OutputError(
            "folder", "is the working directory, which cannot be replaced", received=folder,
            remedy="Name a new folder in it.",
        )  # fmt: skip
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / marker).is_file()):
        raise OutputError(
            "folder",
            f"exists and holds no {marker}, so it is left alone",
            received=folder,
            remedy="Choose a new folder.",
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        scratch.chmod(0o755)
        new = scratch / "new"
        new.mkdir()
        yield new
        try:
            _put_in_place(new, place, aside=scratch / "old")
        except OSError as error:
            raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(new: Path, place: Path, *, aside: Path) -> None:
    """Rename a folder to its place; what was there is moved aside, and back if that fails."""
    if not place.exists():
        os.replace(new, place)
        return
    os.replace(place, aside)
    try:
        os.replace(new, place)
    except OSError:
        os.replace(aside, place)
        raise


def _unwritable(folder: str | Path, error: OSError) -> OutputError:
    return OutputError(
        "folder", "cannot be written to", received=folder, remedy=f"Choose another place ({error.strerror})."
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON; NaN and infinity are refused."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, argument: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelFileError: The file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(
            argument, "has no readable card or record", received=path, remedy=f"Write it again ({error})."
        ) from error
    if not isinstance(content, dict):
        raise ModelFileError(argument, "is not a JSON object", received=path, remedy="Write it again.")
    return content


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, half: bool = False) -> str:
    """Write tensors as safetensors and return the SHA-256 of the file.

    Args:
        path: The file.
        tensors: Tensors by name.
        half: Store floats in half precision (about three significant digits, half the size).
    """

    def stored(tensor: Tensor) -> Tensor:
        kept = tensor.detach().cpu().contiguous()
        return kept.half() if half and kept.is_floating_point() else kept

    content = save_safetensors({name: stored(tensor) for name, tensor in tensors.items()})
    path.write_bytes(content)
    return sha256(content)


def read_tensors(path: Any, digest: str, argument: str) -> dict[str, Tensor]:
    """Read tensors whose file has the given SHA-256; half-precision floats come back as float32.

    Args:
        path: A file, or a resource of an installed package.
        digest: The SHA-256 that the card or record names.
        argument: What to call it in an error.

    Raises:
        ModelFileError: The file is missing, was changed, or is not safetensors.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            argument, "has no readable weights", received=path, remedy="Restore the file or save again."
        ) from error
    if sha256(content) != digest:
        raise ModelFileError(
            argument,
            f"was changed after it was written: its SHA-256 is not {digest[:12]}...",
            received=f"{path} with {sha256(content)[:12]}...",
            remedy="Restore the file; never load weights of unknown origin.",
        )
    try:
        tensors = load_safetensors(content)
    except SafetensorError as error:
        raise ModelFileError(
            argument, "is not a safetensors file", received=path, remedy="Save the model again."
        ) from error
    return {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
