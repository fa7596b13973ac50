"""Exported programs (``.pt2`` of ``torch.export.save``) run without running anything the file says.

``torch.export.load`` is not for files of others: it unpickles parts of the archive, evaluates expressions
written in it and generates Python from names in it. None of that is needed to evaluate a classifier. The
archive holds the graph as JSON (a list of calls, each with the name of an operator and named arguments) and
every weight as plain bytes with its type, shape and stride. So the graph is read here and its calls are made
one by one, and only operators of ATen, and arithmetic on sizes, are called at all. What the reader does not
know is refused.
"""

import json
import operator
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explainer.errors import ModelFileError

__all__ = ["ExportedClassifier", "read_exported_program"]

SCHEMA = 8
LARGEST = 4 << 30  # bytes in the archive
TYPES = {
    1: torch.uint8, 2: torch.int8, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
STRIDED = 7
ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
SYMBOLS = ("as_sym_int", "as_sym_float", "as_sym_bool")
PLAIN = {"as_int": int, "as_float": int | float, "as_bool": bool, "as_string": str}
INNER = "_assert_tensor_metadata|_to_copy|_softmax|_log_softmax|_adaptive_avg_pool2d"
ATEN = re.compile(rf"torch\.ops\.aten\.([a-z][a-z0-9_]*|{INNER})\.([A-Za-z0-9_]+)")
# Operators of ATen that reach beyond their tensors, or are of no use to a classifier in evaluation mode.
REFUSED = re.compile(r"from_file|save|load|print|warn|format|.*storage.*|set_.*|resize.*|.*random.*|.*rand.*")

Values = dict[str, Any]


class ExportedClassifier(nn.Module):
    """The graph of an exported program: images (batch, channels, height, width) to its output.

    Args:
        nodes: Its calls, in their order.
        tensors: Parameters and buffers, by their names in the graph.
        image: Name of the input in the graph.
        output: Name of the output in the graph.
        shape: (batch, channels, height, width) it was exported for; None where free.

    Attributes:
        batch: Images it takes at a time; None if free.
        size: (height, width) it was exported for; None if free.
        channels: Channels it was exported for; None if free.
    """

    def __init__(
        self,
        nodes: list[Callable[[Values], None]],
        tensors: dict[str, Tensor],
        image: str,
        output: str,
        shape: list[int | None],
    ) -> None:
        super().__init__()
        self._nodes, self._image, self._output = nodes, image, output
        self._names = list(tensors)
        for number, tensor in enumerate(tensors.values()):
            if tensor.is_floating_point():  # a parameter tells on which device and in which type to call it
                self.register_parameter(f"tensor_{number}", nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(f"tensor_{number}", tensor)
        self.batch, self.channels, height, width = shape
        self.size = None if height is None or width is None else (height, width)

    def forward(self, images: Tensor) -> Tensor:
        if self.batch is None:
            return self._run(images)
        parts = images.split(self.batch)
        return torch.cat([self._run(_filled(part, self.batch))[: len(part)] for part in parts])

    def _run(self, images: Tensor) -> Tensor:
        values: Values = {name: getattr(self, f"tensor_{i}") for i, name in enumerate(self._names)}
        values[self._image] = images
        for node in self._nodes:
            node(values)
        output: Tensor = values[self._output]
        return output


def read_exported_program(path: Path) -> ExportedClassifier:
    """The classifier in a ``.pt2`` file, with one input of images and one output.

    Args:
        path: The file ``torch.export.save`` wrote.

    Raises:
        ModelFileError: Not such a file, or it needs what is not read here.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(_Archive(archive, path))
    except OSError as error:
        if isinstance(error, ModelFileError):
            raise
        raise _wrong(path, "cannot be read", error.strerror or error) from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise _wrong(path, "is not an archive of torch.export.save", error) from error
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
        RecursionError,
    ) as error:
        raise _wrong(path, "is incomplete or broken", f"{type(error).__name__}: {error}") from error


class _Archive:
    """Entries of the archive by their names below its one folder."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > LARGEST:
            raise _wrong(path, "is larger than 4 GiB", "more")
        self.names = {entry.filename.partition("/")[2]: entry for entry in entries}

    def bytes(self, name: str) -> bytes:
        if name not in self.names:
            raise _wrong(self.path, "is not an archive of torch.export.save", f"no entry {name}")
        return self.archive.read(self.names[name])

    def json(self, name: str) -> Any:
        return json.loads(self.bytes(name))

    def tensors(self, folder: str, config: str) -> dict[str, Tensor]:
        """Tensors by name, every one from plain bytes."""
        read = {}
        for name, entry in self.json(f"{folder}/{config}")["config"].items():
            about = entry["tensor_meta"]
            if entry["use_pickle"] or about is None:
                raise _wrong(self.path, "holds a pickle, which could run anything", f"for {name}")
            if about["dtype"] not in TYPES or about["layout"] != STRIDED:
                raise _wrong(self.path, "holds a tensor of an unknown type", f"{about['dtype']} of {name}")
            flat = torch.frombuffer(
                bytearray(self.bytes(f"{folder}/{entry['path_name']}")) or bytearray(8),
                dtype=TYPES[about["dtype"]],
            )
            sizes, strides = ([int(n["as_int"]) for n in about[key]] for key in ("sizes", "strides"))
            read[name] = flat.as_strided(sizes, strides, int(about["storage_offset"]["as_int"])).clone()
        return read


def _read(archive: _Archive) -> ExportedClassifier:
    path = archive.path
    models = [name for name in archive.names if re.fullmatch(r"models/[^/]+\.json", name)]
    if len(models) != 1:
        raise _wrong(path, "is not an archive of one exported program", f"{len(models)} programs")
    if archive.bytes("byteorder").strip() != b"little":
        raise _wrong(path, "was written in another byte order", "big endian")
    program, name = archive.json(models[0]), Path(models[0]).stem
    if program["schema_version"]["major"] != SCHEMA:
        raise _wrong(path, f"is not of schema {SCHEMA}", f"schema {program['schema_version']['major']}")
    stored = archive.tensors("data/weights", f"{name}_weights_config.json")
    stored |= archive.tensors("data/constants", f"{name}_constants_config.json")
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    tensors, images = {}, []
    keys = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    for spec in signature["input_specs"]:
        ((kind, entry),) = spec.items()
        if kind in keys:
            tensors[entry["arg"]["name"]] = stored[entry[keys[kind]]]
        elif kind == "user_input" and set(entry["arg"]) == {"as_tensor"}:
            images.append(entry["arg"]["as_tensor"]["name"])
        else:
            raise _wrong(path, "has an input that is not a tensor", kind)
    outputs = []
    for spec in signature["output_specs"]:
        ((kind, entry),) = spec.items()
        if kind != "user_output" or set(entry["arg"]) != {"as_tensor"}:
            raise _wrong(path, "changes its own state or returns something else than a tensor", kind,
                         "Call model.eval() before torch.export.export.")  # fmt: skip
        outputs.append(entry["arg"]["as_tensor"]["name"])
    if len(images) != 1 or len(outputs) != 1:
        received = f"{len(images)} inputs and {len(outputs)} outputs"
        raise _wrong(path, "must have one input of images and one output", received,
                     "Export a module whose forward(images) returns the logits.")  # fmt: skip
    sizes = graph["tensor_values"][images[0]]["sizes"]
    if len(sizes) != 4:
        raise _wrong(path, "does not take batches of images", f"an input of {len(sizes)} dimensions")
    shape = [size.get("as_int") for size in sizes]
    nodes = [_node(node, path) for node in graph["nodes"]]
    return ExportedClassifier(nodes, tensors, images[0], outputs[0], shape)


def _node(node: dict[str, Any], path: Path) -> Callable[[Values], None]:
    """One call of the graph as a function that notes its results among the values."""
    call = _operator(node["target"], path)
    if any(
        given["name"] in ("train", "training") and given["arg"].get("as_bool") for given in node["inputs"]
    ):
        raise _wrong(path, "was exported in training mode", node["target"],
                     "Call model.eval() before torch.export.export.")  # fmt: skip
    positional = [_argument(given["arg"], path) for given in node["inputs"] if given.get("kind") != 2]
    named = {
        given["name"]: _argument(given["arg"], path) for given in node["inputs"] if given.get("kind") == 2
    }
    results = [_result(output, path) for output in node["outputs"]]

    def run(values: Values) -> None:
        answer = call(
            *(read(values) for read in positional), **{key: read(values) for key, read in named.items()}
        )
        if not results:
            return
        if len(results) == 1 and isinstance(results[0], str):
            values[results[0]] = answer
            return
        names = results[0] if isinstance(results[0], list) else results
        values.update(zip(map(str, names), answer, strict=True))

    return run


def _operator(target: str, path: Path) -> Callable[..., Any]:
    aten = ATEN.fullmatch(target)
    if aten is not None and not REFUSED.fullmatch(aten[1]):
        return getattr(getattr(torch.ops.aten, aten[1]), aten[2])
    if target.startswith("_operator.") and target.removeprefix("_operator.") in (*ARITHMETIC, "getitem"):
        return getattr(operator, target.removeprefix("_operator."))
    if target in ("torch.sym_float", "torch.sym_int", "torch.sym_max", "torch.sym_min"):
        return getattr(torch, target.removeprefix("torch."))
    raise _wrong(path, "calls something else than an operator of ATen", target,
                 "Leave no_grad() and control flow out of forward(), or export to ONNX.")  # fmt: skip


def _argument(argument: dict[str, Any], path: Path) -> Callable[[Values], Any]:
    """A function from the values so far to what a call is given."""
    ((kind, given),) = argument.items()
    if kind == "as_none":
        return _constant(None)
    if kind in PLAIN and isinstance(given, PLAIN[kind]):
        return _constant(given)
    if kind in ("as_ints", "as_floats", "as_bools") and all(
        isinstance(number, int | float) for number in given
    ):
        return _constant(list(given))
    if kind == "as_scalar_type":
        return _constant(TYPES[given])
    if kind == "as_memory_format":
        return _constant(MEMORY_FORMATS[given])
    if kind == "as_layout" and given == STRIDED:
        return _constant(torch.strided)
    if kind == "as_device":  # where the weights are now, not where they were
        return lambda values: next(value.device for value in values.values() if isinstance(value, Tensor))
    if kind in ("as_tensor", "as_optional_tensor", *SYMBOLS):
        name = given.get("name", given.get("as_name"))
        return _argument(given, path) if name is None else operator.itemgetter(name)
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints"):
        parts = [_argument(part if "name" not in part else {"as_tensor": part}, path) for part in given]
        return lambda values: [part(values) for part in parts]
    if kind == "as_name":
        return operator.itemgetter(given)
    raise _wrong(path, "gives a call what is not read here", kind)


def _constant(value: object) -> Callable[[Values], Any]:
    return lambda values: value


def _result(output: dict[str, Any], path: Path) -> str | list[str]:
    ((kind, given),) = output.items()
    if kind in ("as_tensor", *SYMBOLS):
        return str(given.get("name", given.get("as_name")))
    if kind == "as_tensors":
        return [str(part["name"]) for part in given]
    raise _wrong(path, "has a call that returns what is not read here", kind)


def _filled(part: Tensor, batch: int) -> Tensor:
    """A batch of full length, the last image repeated."""
    missing = batch - len(part)
    return torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part


def _wrong(path: Path, problem: str, received: object, remedy: str = "") -> ModelFileError:
    return ModelFileError(
        "classifier", f"{path} {problem}", received=received,
        remedy=remedy or "Export it with torch.export.save, or to ONNX.",
    )  # fmt: skip
