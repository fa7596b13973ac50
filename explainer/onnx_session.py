"""ONNX Runtime sessions as models of batches of images.

A session says of its inputs what they are called, their type and shape; dimensions that are free have a name
or nothing instead of a number. What is fixed is kept to: a fixed batch is filled up by repeating the last
image, and the answers for the repetitions are dropped. A file is only data: operators it does not define
itself are looked up in ONNX Runtime, and no library is loaded for it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from explainer.errors import ClassifierError, DependencyError, ModelFileError, OptionError

__all__ = ["OnnxSession"]

DTYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
CHANNELS = (1, 3, 4)  # numbers that are taken for a number of channels where the layout must be guessed


class OnnxSession:
    """One input and one output of a session: images (batch, channels, height, width) to outputs, no gradient.

    Args:
        model: An ``onnxruntime.InferenceSession``, or the path of a ``.onnx`` file.
        input: Name of the input that takes the images; needed if there are several.
        output: Name of the output; needed if there are several.
        feeds: Arrays for the other inputs, by name.
        layout: ``"NCHW"`` or ``"NHWC"``; told from the shape of the input where it can be.

    Attributes:
        size: (height, width) the session is fixed to; None if free.
        channels: Channels it is fixed to; None if free.
        batch: Images it takes at a time; None if free.
        fingerprint: SHA-256 of the file; a session does not tell.

    Raises:
        DependencyError: onnxruntime is not installed.
        ModelFileError: No such file, or not one of ONNX.
        OptionError: An input, output or layout that must be named, or is not there.
        ClassifierError: An input that does not take images.
    """

    def __init__(
        self,
        model: Any,
        *,
        input: str | None = None,
        output: str | None = None,
        feeds: Mapping[str, np.ndarray] | None = None,
        layout: Literal["NCHW", "NHWC"] | None = None,
    ) -> None:
        self.fingerprint = "unavailable: a session"
        if isinstance(model, str | Path):
            self.fingerprint, model = _open(Path(model))
        self.session = model
        self.feeds = dict(feeds or {})
        entries = [entry for entry in model.get_inputs() if entry.name not in self.feeds]
        entry = _choose("input", input, entries)
        others = [other.name for other in entries if other.name != entry.name]
        if others:
            raise OptionError(
                "feeds", f"must hold an array for each of the other inputs: {', '.join(others)}",
                received=sorted(self.feeds) or "none",
                remedy=f'Pass for instance feeds={{"{others[0]}": array}}.',
            )  # fmt: skip
        self.input = entry.name
        self.output = _choose("output", output, model.get_outputs()).name
        if entry.type not in DTYPES or len(entry.shape) != 4:
            raise ClassifierError(
                "model", f'does not take images at its input "{entry.name}"',
                received=f"{entry.type} of shape {entry.shape}",
                remedy="Give Classifier a callable instead that runs the session on what it takes.",
            )  # fmt: skip
        self.dtype = DTYPES[entry.type]
        shape = [length if isinstance(length, int) else None for length in entry.shape]
        self.layout = _layout(layout, shape)
        self.batch = shape[0]
        rows = shape[1:] if self.layout == "NCHW" else [shape[3], *shape[1:3]]
        self.channels = rows[0]
        self.size = None if rows[1] is None or rows[2] is None else (rows[1], rows[2])

    def __repr__(self) -> str:
        return f"OnnxSession({self.input!r} -> {self.output!r})"

    @property
    def takes_bytes(self) -> bool:
        """Whether its input is uint8, 0 to 255."""
        return self.dtype is np.uint8

    def __call__(self, images: Tensor) -> Tensor:
        """Outputs of prepared images (batch, channels, height, width)."""
        array = images.detach().cpu().numpy()
        if self.layout == "NHWC":
            array = array.transpose(0, 2, 3, 1)
        array = array.round().clip(0, 255).astype(np.uint8) if self.takes_bytes else array.astype(self.dtype)
        array = np.ascontiguousarray(array)
        if self.batch is None:
            return self._run(array, len(array))
        parts = [array[start : start + self.batch] for start in range(0, len(array), self.batch)]
        return torch.cat([self._run(_filled(part, self.batch), len(part)) for part in parts])

    def _run(self, array: np.ndarray, count: int) -> Tensor:
        """Outputs for the first ``count`` rows."""
        from onnxruntime.capi import onnxruntime_pybind11_state as states

        raised = (states.Fail, states.InvalidArgument, states.RuntimeException, states.NotImplemented)
        try:
            (answer,) = self.session.run([self.output], {**self.feeds, self.input: array})
        except raised as error:
            raise ClassifierError(
                "model", f"fails on images of shape {array.shape}", received=error,
                remedy="Say with size=, channels= and layout= what it takes.",
            ) from error  # fmt: skip
        if not isinstance(answer, np.ndarray) or answer.dtype.kind != "f":
            found = answer.dtype if isinstance(answer, np.ndarray) else type(answer).__name__
            raise ClassifierError(
                "output", f'"{self.output}" is not an array of floating-point numbers', received=found,
                remedy="Choose another with output=, or export the model so that it returns one.",
            )  # fmt: skip
        return torch.from_numpy(answer[:count].astype(np.float32))


def _open(path: Path) -> tuple[str, Any]:
    """SHA-256 of a file and a session on it, on the CPU."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as states
    except ImportError as error:
        raise DependencyError(
            "onnxruntime", "cannot be imported", received=error,
            remedy='Install it: pip install "progressive-explainer[onnx]".',
        ) from error  # fmt: skip
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # what fails is raised
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise ModelFileError(
            "model", "cannot be read", received=f"{path}: {error.strerror}",
            remedy="Pass the path of a .onnx file.",
        ) from error  # fmt: skip
    except (states.Fail, states.InvalidProtobuf, states.InvalidGraph, states.NotImplemented, states.NoModel,
            states.InvalidArgument, states.RuntimeException, states.NoSuchFile) as error:  # fmt: skip
        raise ModelFileError(
            "model", "is not a file that ONNX Runtime can run", received=error,
            remedy="Export it again: torch.onnx.export(model, (images,), path).",
        ) from error  # fmt: skip
    return digest, session


def _choose(argument: str, name: str | None, entries: list[Any]) -> Any:
    names = [entry.name for entry in entries]
    if name is None and len(entries) == 1:
        return entries[0]
    if name is None:
        raise OptionError(
            argument, f"must be named: the model has {len(names)}", received="none",
            remedy=f"Choose one of {', '.join(names)}.",
        )  # fmt: skip
    if name not in names:
        raise OptionError(
            argument, "is not there", received=name, remedy=f"Choose one of {', '.join(names)}."
        )
    return entries[names.index(name)]


def _layout(given: str | None, shape: list[int | None]) -> str:
    if given in ("NCHW", "NHWC"):
        return str(given)
    if given is not None:
        raise OptionError("layout", "is unknown", received=given, remedy='Choose "NCHW" or "NHWC".')
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first != last:
        return "NCHW" if first else "NHWC"
    raise OptionError(
        "layout", "cannot be told from the shape of the input", received=shape,
        remedy='Pass layout="NCHW" or "NHWC".',
    )  # fmt: skip


def _filled(part: np.ndarray, batch: int) -> np.ndarray:
    """A batch of full length, the last image repeated."""
    missing = batch - len(part)
    return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
