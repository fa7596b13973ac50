"""A classifier named by a word: the zoo, ONNX, exported programs, functions; and what is not opened."""

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from explainer import cli
from explainer.classifier import Classifier
from explainer.classifier_files import open_classifier, parsed
from explainer.errors import ClassifierError, ExplainerError, ModelFileError, OptionError
from explainer.exported_program import read_exported_program


def images(count: int = 3, size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """What classifiers are made of: normalisation, slices, sizes read in forward, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.group, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.group(torch.relu(self.norm(self.first(x)))).chunk(2, dim=1)
        joined = torch.cat([a.sigmoid(), nn.functional.gelu(b)], dim=1)
        joined = nn.functional.interpolate(joined, scale_factor=0.5, mode="bilinear")
        return self.head(joined.reshape(x.shape[0], 8, -1).mean(dim=2)) * torch.tensor([1.0, 2.0, 3.0])


def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().eval()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported with a free batch."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    free = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    torch.export.save(torch.export.export(network(), (images(2),), dynamic_shapes=free), path)
    return path


def rewritten(source: Path, target: Path, changes: dict[str, Any]) -> Path:
    """The archive with entries changed: a function of the JSON, or bytes; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content: Any = old.read(entry)
            for end, change in changes.items():
                if entry.filename.endswith(end):
                    content = json.dumps(change(json.loads(content))).encode() if callable(change) else change
            if content is not None:
                new.writestr(entry.filename, content)
    return target


# -- exported programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [True, False])
def test_an_exported_program_answers_as_its_module_and_has_its_gradient(
    exported: Path, tmp_path: Path, free: bool
) -> None:
    path = exported
    if not free:
        path = tmp_path / "fixed.pt2"
        torch.export.save(torch.export.export(network(), (images(2),)), path)
    program = read_exported_program(path)
    assert (program.batch, program.size, program.channels) == (None if free else 2, (16, 16), 3)
    given, same = images(5).requires_grad_(), images(5).requires_grad_()
    got, want = program(given), network()(same)
    assert_close(got, want, atol=1e-6, rtol=1e-5)
    got.square().sum().backward()
    want.square().sum().backward()
    assert_close(given.grad, same.grad, atol=1e-7, rtol=1e-4)


def test_an_exported_program_is_a_classifier_like_its_module(exported: Path) -> None:
    options = {"class_names": ["a", "b", "c"], "mean": [0.5], "std": [0.25]}
    classifier = open_classifier(str(exported), options)
    direct = Classifier(network(), size=16, channels=3, **options)
    given = images(4, size=24)
    classifier.check(given)
    assert classifier.differentiable
    assert_close(classifier.raw(given), direct.raw(given))
    assert classifier.class_names == ("a", "b", "c")
    assert len(classifier.fingerprint) == 64
    assert_close(classifier.raw(given[:, :1]), direct.raw(given[:, :1]))  # grey images are repeated


class Odd(nn.Module):
    """Types, indices, sizes, several results, constants: what the reader must pass on as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.register_buffer("steps", torch.arange(16.0))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        values, places = x.mean(dim=1).double().to(torch.float32).max(dim=2)
        found = torch.zeros(rows, 16, device=x.device) + values + places.float() * self.steps
        found = torch.where(found > 0.5, found, torch.zeros_like(found)).contiguous()
        found = found.view(rows * 2, 8).reshape(rows, -1)[:, torch.arange(16, device=x.device)]
        found = found.clone(memory_format=torch.contiguous_format)
        kept = self.head(found).masked_fill(torch.zeros(rows, 3, dtype=torch.bool), 0.5)
        return kept * x.new_ones(1) + torch.stack([found.sum(dim=1)] * 3, dim=1)


def test_calls_of_every_form_are_passed_on(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        odd = Odd().eval()
    free = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    torch.export.save(torch.export.export(odd, (images(2),), dynamic_shapes=free), tmp_path / "odd.pt2")
    with torch.no_grad():
        assert_close(read_exported_program(tmp_path / "odd.pt2")(images(5)), odd(images(5)))


def test_a_program_with_regions_of_its_own_is_refused(tmp_path: Path) -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                mean = x.mean()
            return (x - mean).mean(dim=(2, 3))

    torch.export.save(torch.export.export(Centred(), (images(2),)), tmp_path / "centred.pt2")
    with pytest.raises(ModelFileError, match=r"calls something else.*Leave no_grad\(\) and control flow out"):
        open_classifier(str(tmp_path / "centred.pt2"))


def node(target: str) -> Any:
    def change(program: dict[str, Any]) -> dict[str, Any]:
        program["graph_module"]["graph"]["nodes"][0]["target"] = target
        return program

    return change


def argument(value: dict[str, Any]) -> Any:
    def change(program: dict[str, Any]) -> dict[str, Any]:
        program["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = value
        return program

    return change


def weight(**values: Any) -> Any:
    def change(config: dict[str, Any]) -> dict[str, Any]:
        entry = next(iter(config["config"].values()))
        entry.update({key: value for key, value in values.items() if key in entry})
        entry["tensor_meta"].update({key: value for key, value in values.items() if key not in entry})
        return config

    return change


def spec(kind: str, entry: dict[str, Any]) -> Any:
    def change(program: dict[str, Any]) -> dict[str, Any]:
        program["graph_module"]["signature"][f"{kind}_specs"].append(entry)
        return program

    return change


def schema(program: dict[str, Any]) -> dict[str, Any]:
    return {**program, "schema_version": {"major": 99, "minor": 0}}


TENSOR = {"as_tensor": {"name": "x"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.json": node("torch.os.system")}, r"calls something else than an operator.*torch.os.system"),
        ({"model.json": node("torch.ops.aten.from_file.default")}, "calls something else than an operator"),
        ({"model.json": node("torch.ops.aten.__class__.mro")}, "calls something else than an operator"),
        ({"model.json": node("_operator.methodcaller")}, "calls something else than an operator"),
        ({"model.json": node("math.sqrt")}, "calls something else than an operator"),
        ({"model.json": node("#custom")}, "calls something else than an operator"),
        ({"model.json": node("torch.ops.aten.conv2d.nothing")}, "is incomplete or broken"),
        ({"model.json": argument({"as_operator": "os.system"})}, "gives a call what is not read here"),
        ({"model.json": argument({"as_graph": {}})}, "gives a call what is not read here"),
        ({"model.json": schema}, r"is not of schema 8 \(received schema 99\)"),
        ({"model.json": spec("output", {"buffer_mutation": {"arg": {"name": "x"}}})}, r"Call model.eval\(\)"),
        ({"model.json": spec("output", {"user_output": {"arg": TENSOR}})}, "1 inputs and 2 outputs"),
        ({"model.json": spec("input", {"user_input": {"arg": TENSOR}})}, "2 inputs and 1 outputs"),
        ({"model.json": spec("input", {"custom_obj": {}})}, "has an input that is not a tensor"),
        ({"model.json": b"[1, 2"}, "is incomplete or broken"),
        ({"model_weights_config.json": weight(use_pickle=True)}, "holds a pickle, which could run anything"),
        ({"model_weights_config.json": weight(dtype=99)}, "holds a tensor of an unknown type"),
        ({"model_weights_config.json": weight(sizes=[{"as_int": 10**6}])}, "is incomplete or broken"),
        ({"weight_0": b""}, "is incomplete or broken"),
        ({"weight_1": None}, "is not an archive of torch.export.save.*no entry"),
        ({"byteorder": b"big"}, "was written in another byte order"),
        ({"models/model.json": None}, "is not an archive of one exported program"),
    ],
)
def test_a_hostile_or_broken_program_is_refused_in_one_line(
    exported: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = rewritten(exported, tmp_path / "model.pt2", changes)
    with pytest.raises(ModelFileError, match=message) as caught:
        open_classifier(str(path))
    assert "\n" not in str(caught.value)


def test_what_torch_would_unpickle_and_evaluate_is_never_read(exported: Path, tmp_path: Path) -> None:
    """The sample inputs of the archive are a pickle, its guards are Python: neither is touched."""

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "run",))

    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)

    def with_guards(program: dict[str, Any]) -> dict[str, Any]:
        program["guards_code"] = [f"open({str(tmp_path / 'run')!r}, 'w')"]
        return program

    changes = {"sample_inputs/model.pt": buffer.getvalue(), "model.json": with_guards}
    path = rewritten(exported, tmp_path / "model.pt2", changes)
    assert_close(open_classifier(str(path)).raw(images()), network()(images()))
    assert not (tmp_path / "run").exists()


def test_a_program_that_was_not_put_in_evaluation_mode_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(network().train(), (images(2),)), path)
    with pytest.raises(ModelFileError, match=r"was exported in training mode.*Call model.eval\(\) before"):
        open_classifier(str(path))


# -- files that are not opened, and options ------------------------------------------------------------------


def test_pickles_are_refused_with_the_reason_and_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "run",))

    for name in ("a.pt", "a.pth", "a.ckpt", "a.bin"):
        torch.save(Bomb(), tmp_path / name)
    import joblib

    for name in ("a.joblib", "a.pkl", "a.pickle"):
        joblib.dump(Bomb(), tmp_path / name)
    for path in list(tmp_path.iterdir()):
        with pytest.raises(
            ModelFileError,
            match=r"is a pickle, which can run any program.*(Export it where it was|load it in a function)",
        ):
            open_classifier(str(path))
    for name, said in (
        ("a.onnx", "is not a file that ONNX Runtime can run"),
        ("a.pt2", "is incomplete|is not an"),
    ):
        shutil.copy(tmp_path / "a.pt", tmp_path / name)
        with pytest.raises(ModelFileError, match=said):
            open_classifier(str(tmp_path / name))
    assert not (tmp_path / "run").exists()


def test_torchscript_and_other_formats_are_refused_with_the_reason(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/code/__torch__.py", b"")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    (tmp_path / "model.keras").write_bytes(b"")
    shutil.copy(tmp_path / "script.pt", tmp_path / "script.torchscript")
    (tmp_path / "model.xyz").write_bytes(b"")
    for name, message in (
        ("script.pt", "is a TorchScript archive, which is deprecated.*can run a program"),
        ("script.torchscript", "is a TorchScript archive, which is deprecated.*can run a program"),
        ("model.xyz", "is a file of a kind that is not opened"),
        ("weights.safetensors", "holds weights, but not the network"),
        ("model.keras", "is a model of Keras"),
        ("absent.pt2", "is no file"),
    ):
        with pytest.raises(ModelFileError, match=message):
            open_classifier(str(tmp_path / name))
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(ModelFileError, match=r"is not an archive of torch.export.save"):
        open_classifier(str(tmp_path / "text.pt2"))


def test_the_file_beside_the_model_is_read_and_options_win(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    shutil.copy(exported, path)
    beside = tmp_path / "model.pt2.json"
    beside.write_text(
        json.dumps({"size": [16, 16], "mean": [0.5], "std": 0.25, "class_names": ["a", "b", "c"]})
    )
    want = Classifier(network(), size=16, mean=0.5, std=0.25)
    assert_close(open_classifier(str(path)).raw(images()), want.raw(images()))
    named = open_classifier(str(path), {"class_names": ["x", "y", "z"], "kind": None})
    assert named.class_names == ("x", "y", "z")
    with pytest.raises(OptionError, match=r"size: is fixed to \(16, 16\) by the model"):
        open_classifier(str(path), {"size": 32})
    for text, message in (
        ("{", "that is no JSON: model.pt2.json"),
        ('{"sizes": 3}', r"says what is not known.*\(received sizes\). It may say size, mean"),
        ('{"size": true}', "says what is not known.*received size: True"),
        ('{"mean": "grey"}', "says what is not known.*received mean: grey"),
        ('{"class_names": [1]}', "says what is not known"),
        ("[]", "says what is not known.*received list"),
    ):
        beside.write_text(text)
        with pytest.raises(ModelFileError, match=message):
            open_classifier(str(path))


def test_a_file_of_onnx_takes_its_input_from_the_file_beside_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    nodes.append(helper.make_node("Neg", ["y"], ["z"]))
    shape = ["n", "c", "h", "w"]
    shown = [value("y", TensorProto.FLOAT, ["n", 3]), value("z", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(nodes, "pool", [value("x", TensorProto.FLOAT, shape)], shown)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "pool.onnx"
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path).graph.name == "pool"
    (tmp_path / "pool.onnx.json").write_text('{"layout": "NCHW", "output": "z", "size": 8}')
    assert_close(open_classifier(str(path)).raw(images(2, 8)), -images(2, 8).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"size": "big"}, "size: must be pixels, or height x width.*224x160"),
        ({"mean": "a,b"}, "mean: must be numbers between commas"),
        ({"std": ""}, "std: must be numbers between commas"),
    ],
)
def test_words_that_are_no_options(words: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parsed(**words)  # type: ignore[arg-type]


# -- the zoo and functions -----------------------------------------------------------------------------------


def test_the_zoo_is_asked_for_what_is_neither_file_nor_function() -> None:
    assert open_classifier("faces/smile").class_names == ("not smiling", "smiling")
    with pytest.raises(OptionError, match="size: does not belong to a classifier of the zoo"):
        open_classifier("faces/smile", {"size": 64})
    for name in ("faces/frown", "nothing"):
        with pytest.raises(
            OptionError, match=rf"received {name}\). Choose one of: .*faces/smile.*\.onnx, \.pt2"
        ):
            open_classifier(name)


MODULE = """
import torch
from torch import nn
from sklearn.linear_model import LogisticRegression
from explainer import Classifier

def means(): return lambda images: 8 * images.mean(dim=(2, 3)) - 4
def wrapped(): return Classifier(means(), class_names=("r", "g", "b"))
class Net(nn.Module):
    def forward(self, images): return 8 * images.mean(dim=(2, 3)) - 4
ready = Net()
wrapped_already = wrapped()
def estimator(): return LogisticRegression()
def nothing(): return None
def fails(): return 1 / 0
def asks(name): return name
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_classifiers.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("import own_absent_package\n")
    (tmp_path / "own_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["means", "wrapped", "Net", "ready", "wrapped_already"])
def test_a_function_of_the_current_folder(here: Path, name: str) -> None:
    path = list(sys.path)
    classifier = open_classifier(f"own_classifiers:{name}")
    assert_close(classifier.raw(images()), 8 * images().mean(dim=(2, 3)) - 4)
    assert sys.path == path


def test_options_belong_to_what_a_function_returns_unless_it_is_a_classifier(here: Path) -> None:
    assert open_classifier("own_classifiers:means", {"class_names": ["x", "y", "z"]}).class_names[0] == "x"
    with pytest.raises(OptionError, match="size: does not belong to a function that returns a Classifier"):
        open_classifier("own_classifiers:wrapped", {"size": 8})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("own_nowhere:f", "there is no module own_nowhere.*run the command in the folder"),
        ("own_classifiers:wraped", "has no wraped.*Did you mean own_classifiers:wrapped"),
        ("own_classifiers:zzz", "has no zzz.*It has .*means"),
        (
            "own_classifiers:fails",
            r"own_classifiers:fails fails \(received ZeroDivisionError.*line 15 of .*own_cl",
        ),
        ("own_classifiers:asks", r"fails \(received TypeError"),
        ("own_broken:f", r"own_broken:f fails \(received ModuleNotFoundError: No module named 'own_absent_p"),
        ("own_syntax:f", r"own_syntax:f fails \(received SyntaxError"),
        (
            "own_classifiers:estimator",
            r"returned LogisticRegression\). Return Classifier.from_sklearn\(model",
        ),
        ("own_classifiers:nothing", "must be a Classifier, a module or a callable.*returned NoneType"),
        ("own_classifiers:f()", "must be package.module:function"),
        ("__import__('os'):x", "must be package.module:function"),
    ],
)
def test_functions_that_give_no_classifier_say_why(here: Path, source: str, message: str) -> None:
    with pytest.raises((OptionError, ClassifierError), match=message) as caught:
        open_classifier(source)
    assert "\n" not in str(caught.value)


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_explains_with_an_exported_program(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    asked: dict[str, Any] = {}

    class StopHereError(ExplainerError):
        pass

    def explain(image: Any, classifier: Classifier, **options: Any) -> None:
        asked.update(classifier=classifier, target=options["target"])
        raise StopHereError("image", "is enough", received="it", remedy="Stop.")

    monkeypatch.setattr("explainer.pipeline.explain", explain)
    picture = tmp_path / "picture.png"
    Image.fromarray((images(1)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(picture)
    words = ["explain", str(picture), "--classifier", str(exported), "--mean", ".5", "--std", ".25"]
    with pytest.raises(SystemExit) as ending:
        cli.main([*words, "--class-names", "a,b,c", "--target", "b"])
    assert ending.value.code == 2
    assert (asked["target"], asked["classifier"].class_names) == ("b", ("a", "b", "c"))
    assert "mean 0.5" in asked["classifier"].preprocessing
    for extra, said in ((["--kind", "odd"], "kind: is unknown"), (["--size", "x"], "size: must be pixels")):
        with pytest.raises(SystemExit) as ending:
            cli.main([*words, *extra])
        assert ending.value.code == 2
        assert said in capsys.readouterr().err
