"""A classifier named by a word, as on the command line: of the zoo, a file, or a function of one's own.

======================== =================================================================================
``faces/smile``          a classifier of the zoo
``model.onnx``           run by ONNX Runtime
``model.pt2``            an exported program; nothing its file says is executed
``package.module:name``  a function that returns a classifier or module; the current folder is looked in
======================== =================================================================================

What a file does not say of its images (size, mean, standard deviation, names of classes) comes as options, or
from a file beside it with the same name and ``.json`` added. Files that are pickles are refused: to open one
is to run whatever program it holds.
"""

import difflib
import importlib
import json
import re
import sys
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, ExplainerError, ModelFileError, OptionError
from explainer.exported_program import read_exported_program

__all__ = ["OPTIONS", "open_classifier", "parsed"]

OPTIONS = ("size", "mean", "std", "class_names", "kind", "outputs", "channels")
"""What may be said of any classifier; a file of ONNX also takes its input, output and layout."""

ONNX_OPTIONS = ("input", "output", "layout")
FORMS: dict[str, tuple[type, ...]] = {
    "size": (int,), "mean": (int, float), "std": (int, float), "class_names": (), "channels": (int,)
}  # fmt: skip
LISTS: dict[str, tuple[type, ...]] = {**FORMS, "class_names": (str,), "channels": ()}
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".torchscript", ".jit")
OTHERS = {
    ".safetensors": "holds weights, but not the network they belong to",
    ".h5": "is a model of Keras, which is not read here",
    ".keras": "is a model of Keras, which is not read here",
    ".tflite": "is a model of TensorFlow Lite, which is not read here",
}
EXPORT = (
    "Export it where it was trained: torch.export.save(torch.export.export(model.eval(), (images,)), "
    "'model.pt2'), or to ONNX; or pass package.module:function, a function of yours that loads it."
)
LOAD = (
    "If it is yours, load it in a function of yours and pass package.module:function; a model of "
    "scikit-learn is returned as Classifier.from_sklearn(model)."
)
LARGEST = 1 << 20


def open_classifier(source: str, options: Mapping[str, Any] | None = None) -> Classifier:
    """The classifier a word names.

    Args:
        source: See the table of this module.
        options: Any of :data:`OPTIONS`, for a file of ONNX also ``input``, ``output`` and ``layout``; None
            counts as not given. They win over the file beside the model.

    Raises:
        OptionError: No such classifier, or an option that does not belong to it.
        ModelFileError: A file that is missing, broken, or of a kind that is not opened.
        ClassifierError: The function fails or returns something else.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    suffix = Path(source).suffix.lower()
    if suffix in (".onnx", ".pt2", *PICKLES, *OTHERS) and not re.fullmatch(r"[\w.]+:\w+", source):
        return _from_file(Path(source), suffix, given)
    if ":" in source:
        return _from_function(source, given)
    if given:
        raise OptionError(
            next(iter(given)), "does not belong to a classifier of the zoo, which knows its own",
            received=source, remedy="Leave it out.",
        )  # fmt: skip
    from explainer.generators.zoo import list_models, load_classifier

    try:
        return load_classifier(source)
    except OptionError as error:
        if Path(source).is_file():
            raise ModelFileError(
                "classifier", "is a file of a kind that is not opened", received=source, remedy=EXPORT
            ) from error
        names = [f"{card['name']}/{name}" for card in list_models() for name in card.get("classifiers", {})]
        raise OptionError(
            "classifier", "is not in the zoo", received=source,
            remedy=f"Choose one of: {', '.join(names)}; or pass a file (.onnx, .pt2), or "
            "package.module:function.",
        ) from error  # fmt: skip


def parsed(
    *,
    size: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    class_names: str | None = None,
    kind: str | None = None,
    outputs: str | None = None,
    channels: int | None = None,
) -> dict[str, Any]:
    """Options from the words of a command line.

    Args:
        size: ``"224"``, or height and width as ``"224x160"``.
        mean: Numbers between commas.
        std: Likewise.
        class_names: Names between commas.
        kind: As for :class:`Classifier`.
        outputs: Likewise.
        channels: Likewise.

    >>> parsed(size="224x160", mean=".5,.4,.3", class_names="cat, dog")
    {'size': (224, 160), 'mean': [0.5, 0.4, 0.3], 'class_names': ['cat', 'dog']}
    """
    lengths = None if size is None else re.fullmatch(r"(\d+)(?:x(\d+))?", size.strip())
    if size is not None and lengths is None:
        raise OptionError(
            "size", "must be pixels, or height x width", received=size, remedy="Write it as 224 or 224x160."
        )
    words = {
        "size": None if lengths is None else (int(lengths[1]), int(lengths[2] or lengths[1])),
        "mean": _numbers("mean", mean),
        "std": _numbers("std", std),
        "class_names": None if class_names is None else [name.strip() for name in class_names.split(",")],
        "kind": kind,
        "outputs": outputs,
        "channels": channels,
    }
    return {name: value for name, value in words.items() if value is not None}


def _numbers(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise OptionError(
            name,
            "must be numbers between commas",
            received=text,
            remedy="Write it as .485,.456,.406 or as .5.",
        ) from error


# -- files -------------------------------------------------------------------------------------------------


def _from_file(path: Path, suffix: str, given: dict[str, Any]) -> Classifier:
    if not path.is_file():
        raise ModelFileError(
            "classifier", "is no file", received=path, remedy="Pass the path of a .onnx or .pt2 file."
        )
    if suffix in PICKLES:
        script = zipfile.is_zipfile(path) and _is_script(path)
        problem = (
            "is a TorchScript archive, which is deprecated and, as torch.jit.load warns, can run a program "
            "when it is opened"
            if script
            else "is a pickle, which can run any program when it is opened"
        )
        estimator = suffix in (".pkl", ".pickle", ".joblib")
        raise ModelFileError("classifier", problem, received=path, remedy=LOAD if estimator else EXPORT)
    if suffix in OTHERS:
        raise ModelFileError("classifier", OTHERS[suffix], received=path, remedy=EXPORT)
    options = {**_beside(path, suffix), **given}
    if suffix == ".onnx":
        return Classifier.from_onnx(path, **options)
    program = read_exported_program(path)
    for name, fixed in (("size", program.size), ("channels", program.channels)):
        wanted = options.get(name)
        pair = (wanted, wanted) if name == "size" and isinstance(wanted, int) else wanted
        if fixed is not None and pair is not None and (tuple(pair) if name == "size" else pair) != fixed:
            raise OptionError(
                name, f"is fixed to {fixed} by the model", received=wanted, remedy=f"Leave {name} out."
            )
        options[name] = wanted or fixed
    return Classifier(program, **options)


def _is_script(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def _beside(path: Path, suffix: str) -> dict[str, Any]:
    """Options from the file beside a model."""
    beside = path.with_name(path.name + ".json")
    if not beside.exists():
        return {}
    try:
        with beside.open("rb") as file:
            options = json.loads(file.read(LARGEST))
    except (OSError, ValueError) as error:
        raise ModelFileError(
            "classifier", f"has a file beside it that is no JSON: {beside.name}", received=error,
            remedy='Write for instance {"size": 224, "mean": [0.485, 0.456, 0.406]} into it.',
        ) from error  # fmt: skip
    known = OPTIONS + (ONNX_OPTIONS if suffix == ".onnx" else ())
    unknown = sorted(set(options) - set(known)) if isinstance(options, dict) else [type(options).__name__]
    wrong = unknown or [f"{name}: {value}" for name, value in options.items() if not _is_of_form(name, value)]
    if wrong:
        raise ModelFileError(
            "classifier", f"has a file beside it that says what is not known: {beside.name}",
            received=", ".join(wrong), remedy=f"It may say {', '.join(known)}, as Classifier takes them.",
        )  # fmt: skip
    if isinstance(options.get("size"), list):
        options["size"] = tuple(options["size"])
    return options


def _is_of_form(name: str, value: object) -> bool:
    if isinstance(value, list):
        allowed = LISTS.get(name, ())
        return bool(value) and all(isinstance(one, allowed) and not isinstance(one, bool) for one in value)
    return isinstance(value, FORMS.get(name, (str,))) and not isinstance(value, bool)


# -- functions ---------------------------------------------------------------------------------------------


def _from_function(source: str, given: dict[str, Any]) -> Classifier:
    module_name, _, name = source.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise OptionError(
            "classifier", "must be package.module:function", received=source,
            remedy="Write for instance mymodels:smile for smile() in mymodels.py of the current folder.",
        )  # fmt: skip
    with _found_here(), _their_errors(source):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise OptionError(
                "classifier", f"there is no module {module_name}", received=source,
                remedy="Install it, or run the command in the folder it lies in.",
            ) from error  # fmt: skip
        if not hasattr(module, name):
            names = [
                key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
            ]
            close = difflib.get_close_matches(name, names, n=1)
            raise OptionError(
                "classifier", f"{module_name} has no {name}", received=source,
                remedy=f"Did you mean {module_name}:{close[0]}?" if close else f"It has {', '.join(names)}.",
            )  # fmt: skip
        found = getattr(module, name)
        ready = isinstance(found, Classifier | nn.Module) or not callable(found)
        made = found if ready else found()
    if isinstance(made, Classifier):
        if given:
            raise OptionError(
                next(iter(given)), "does not belong to a function that returns a Classifier",
                received=source, remedy="Leave it out, or return the module.",
            )  # fmt: skip
        return made
    if not callable(made) or isinstance(made, type):
        for attribute, maker in (
            ("predict_proba", "from_sklearn"),
            ("predict", "from_sklearn"),
            ("run", "from_onnx"),
        ):
            if hasattr(made, attribute):
                raise ClassifierError(
                    "classifier", "is an object that Classifier must be told more of",
                    received=f"{source} returned {type(made).__name__}",
                    remedy=f"Return Classifier.{maker}(model, ...) instead.",
                )  # fmt: skip
        raise ClassifierError(
            "classifier", "must be a Classifier, a module or a callable on images",
            received=f"{source} returned {type(made).__name__}", remedy="Return one of these.",
        )  # fmt: skip
    return Classifier(made, **given)


@contextmanager
def _found_here() -> Iterator[None]:
    """Modules of the current folder are found, as by ``python -m``."""
    before, here = list(sys.path), str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _their_errors(source: str) -> Iterator[None]:
    """Whatever the user's own code raises is theirs to put right, so it is named with its place."""
    try:
        yield
    except ExplainerError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ClassifierError(
            "classifier", f"{source} fails", received=f"{type(error).__name__}: {error}",
            remedy=f"Put it right: line {last.lineno} of {last.filename}.",
        ) from error  # fmt: skip
