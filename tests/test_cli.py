"""The command: what it calls, what it prints, how it ends; with stand-ins, and once end to end."""

import json
import shlex
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rich.text
import typer

from explainer import cli
from explainer.cli import models as zoo_command
from explainer.errors import GeneratorError, ModelFileError

COMMANDS = typer.main.get_command(cli.app).commands

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass
class Verdict:
    status: str = "trust"
    sentence: str = "Trust it: 2 of 2 levels reached."
    reasons: list[str] = field(default_factory=lambda: ["frames [are] monotone"])


class Explained:
    """What pipeline.explain() returns, as far as the command uses it."""

    def __init__(self, verdict: Verdict, named: Any = None) -> None:
        self.verdict = verdict
        self.attribution_by_axis = named
        self.original = types.SimpleNamespace(class_name="a [smile]", level=0.875)
        self.level_word = "probability of smiling"
        self.frames = pd.DataFrame(
            {
                "level": [0.1, 0.9],
                "achieved": [0.101, 0.83],
                "reached": [True, False],
                "reason": [None, "level .90 not reached: the gradient vanished at .83"],
            }
        )

    def to_html(self, path: Path) -> None:
        Path(path).write_text("<html></html>")

    def to_gif(self, path: Path) -> None:
        Path(path).write_bytes(b"GIF89a")

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": {"status": self.verdict.status}, "levels": [0.1, 0.9]}


class Several:
    """What pipeline.explain_many() returns, as far as the command uses it."""

    failed = ()

    def __init__(self, status: str, of_set: str | None = None) -> None:
        self.status = status
        self.checked = None
        if of_set is not None:
            self.checked = types.SimpleNamespace(
                verdict=Verdict(of_set), sentences=lambda: ["The set [said]."], record=lambda: {"walks": 2}
            )
        self.verdicts = {"trust": 2, "limits": 0, "distrust": 0} | {status: 2}

    def summary(self) -> Any:
        return types.SimpleNamespace(
            failed=0,
            verdicts=self.verdicts,
            sentences=lambda: ["2 images [all]."],
            to_dict=lambda: {"images": 2},
        )

    def to_html(self, path: Path) -> Path:
        path.write_text("<html></html>")
        return path


class Desk:
    """Stand-ins for the zoo and the pipeline that note what they are asked."""

    def __init__(self) -> None:
        self.verdict = Verdict()
        self.of_set = "trust"
        self.error: BaseException | None = None
        self.named: Any = None
        self.asked: dict[str, Any] = {}
        self.cards: list[dict[str, Any]] = [
            {
                "name": "dots",
                "licence": "CC0 [x]",
                "generator": {
                    "kind": "vae",
                    "options": {"shape": [1, 32, 32]},
                    "file": "generator.safetensors",
                },
                "classifiers": {"round": {"size": [32, 32], "file": "round.safetensors", "licence": "MIT"}},
            }
        ]

    def explain(self, image: Any, classifier: Any, **options: Any) -> Explained:
        self.asked = {"image": np.asarray(image), "classifier": classifier, **options}
        if self.error is not None:
            raise self.error
        return Explained(self.verdict, self.named)

    def explain_many(self, images: Any, classifier: Any, **options: Any) -> "Several":
        self.asked = {"images": images, "classifier": classifier, **options}
        return Several(self.verdict.status, self.of_set if options["thorough"] else None)

    def load_classifier(self, name: str) -> str:
        if name != "faces/smile":
            raise ModelFileError("classifier", "is not in the zoo", received=name, remedy="Take faces/smile.")
        return f"the classifier {name}"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk()
    pipeline = types.ModuleType("explainer.pipeline")
    pipeline.explain = desk.explain  # type: ignore[attr-defined]
    pipeline.explain_many = desk.explain_many  # type: ignore[attr-defined]
    zoo = types.ModuleType("explainer.generators.zoo")
    zoo.load_classifier = desk.load_classifier  # type: ignore[attr-defined]
    zoo.list_models = lambda: desk.cards  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "explainer.pipeline", pipeline)
    monkeypatch.setitem(sys.modules, "explainer.generators.zoo", zoo)
    return desk


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG of 40 x 30 pixels whose red is its column and whose green is its row."""
    from PIL import Image

    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[..., 0] = np.arange(40)
    pixels[..., 1] = np.arange(30)[:, None]
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


def ends_with(*words: object) -> int:
    with pytest.raises(SystemExit) as ending:
        cli.main([str(word) for word in words])
    return int(ending.value.code or 0)


def test_demo_explains_the_astronaut_and_writes_page_and_animation(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "demo"
    assert ends_with("demo", "--out", out, "--seed", 7) == 0
    from skimage.data import astronaut

    face = astronaut()[55:175, 164:284].astype(np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(desk.asked["image"], face, atol=1e-7)
    assert desk.asked["classifier"] == "the classifier faces/smile"
    assert desk.asked["seed"] == 7
    assert desk.asked["progress"] is False
    assert sorted(path.name for path in out.iterdir()) == ["explanation.gif", "explanation.html"]
    printed = capsys.readouterr()
    assert "The classifier says a [smile]. Levels: probability of smiling; 0.88 as it is." in printed.out
    assert "Verdict Trust it: 2 of 2 levels reached." in printed.out
    assert "frames [are] monotone" in printed.out
    assert str(out / "explanation.html") in printed.out
    assert "the gradient vanished" in printed.out
    assert "nan" not in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(("status", "code"), [("trust", 0), ("limits", 0), ("distrust", 1)])
def test_exit_code_is_the_verdict(desk: Desk, tmp_path: Path, status: str, code: int) -> None:
    desk.verdict = Verdict(status)
    assert ends_with("demo", "--out", tmp_path) == code
    assert (tmp_path / "explanation.html").is_file()
    assert ends_with("demo", "--out", tmp_path, "--json") == code


def test_json_is_all_there_is_on_stdout(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with("demo", "--out", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "verdict": {"status": "trust"},
        "levels": [0.1, 0.9],
        "files": {"html": str(tmp_path / "explanation.html"), "gif": str(tmp_path / "explanation.gif")},
    }


def test_explain_passes_every_option_on(desk: Desk, picture: Path, tmp_path: Path) -> None:
    words = ["explain", picture, "--classifier", "faces/smile", "--generator", "faces", "--target", "Smiling"]
    words += ["--level", ".1", "--level", ".9", "--crop", "20,11,5", "--seed", "3", "--device", "cpu"]
    words += ["--saliency", "integrated_gradients, difference", "--fidelity", "--towards", "2"]
    words += ["--along", "mouth open", "--along", "age, in years", "--lock", "gender"]
    assert ends_with(*words) == 0
    asked = desk.asked
    image = np.round(asked.pop("image") * 255).astype(int)
    assert image.shape == (3, 10, 10)
    assert image[0, 0].tolist() == list(range(15, 25))
    assert image[1, :, 0].tolist() == list(range(6, 16))
    assert asked == {
        "classifier": "the classifier faces/smile",
        "generator": "faces",
        "target": "Smiling",
        "levels": [0.1, 0.9],
        "saliency": ("integrated_gradients", "difference"),
        "fidelity": True,
        "thorough": False,
        "along": ["mouth open", "age, in years"],
        "lock": ["gender"],
        "towards": 2,
        "seed": 3,
        "device": "cpu",
        "progress": False,
    }
    assert list(tmp_path.iterdir()) == [picture]  # without --out nothing is written


def test_explain_leaves_what_is_not_given_to_the_pipeline(desk: Desk, picture: Path, tmp_path: Path) -> None:
    assert (
        ends_with("explain", picture, "--classifier", "faces/smile", "--target", "1", "--out", tmp_path / "o")
        == 0
    )
    assert desk.asked["image"].shape == (3, 30, 40)
    assert desk.asked["target"] == 1
    assert desk.asked["levels"] is None
    assert desk.asked["generator"] == "auto"
    assert desk.asked["device"] is None
    assert (desk.asked["along"], desk.asked["lock"], desk.asked["towards"]) == ((), (), None)
    assert (desk.asked["saliency"], desk.asked["fidelity"]) == (("difference",), False)
    assert ends_with("explain", picture, "--classifier", "faces/smile", "--saliency", "none") == 0
    assert desk.asked["saliency"] == ()
    assert (tmp_path / "o" / "explanation.gif").is_file()


def test_explain_says_the_walk_in_words_where_axes_have_names(
    desk: Desk, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.named = types.SimpleNamespace(
        sentence='71 % of the move is "[age]".', warnings=("Most is unnamed.",)
    )
    assert ends_with("explain", picture, "--classifier", "faces/smile", "--towards", "round") == 0
    assert desk.asked["towards"] == "round"
    printed = capsys.readouterr().out
    assert '71 % of the move is "[age]".' in printed
    assert "Most is unnamed." in printed


@pytest.mark.parametrize(
    ("crop", "text"),
    [
        ("20,11", "crop: must be three whole numbers"),
        ("20,11,x", "received 20,11,x"),
        ("20,11,0", "a half-width above 0"),
        ("-2,11,3", "crop: must be three whole numbers"),
        ("38,11,5", "must lie inside the image of 40 x 30 pixels (received columns 33 to 43, rows 6 to 16)"),
        ("20,3,5", "(received columns 15 to 25, rows -2 to 8)"),
    ],
)
def test_wrong_crop_is_named(
    desk: Desk, picture: Path, capsys: pytest.CaptureFixture[str], crop: str, text: str
) -> None:
    assert ends_with("explain", picture, "--classifier", "faces/smile", f"--crop={crop}") == 2
    printed = capsys.readouterr()
    assert text in printed.err
    assert printed.out == ""
    assert desk.asked == {}


@pytest.mark.parametrize(("status", "code"), [("trust", 0), ("limits", 0), ("distrust", 1)])
def test_several_images_are_explained_together(
    desk: Desk, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    desk.verdict = Verdict(status)
    out = tmp_path / "out"
    words = ["explain", picture, picture, "--classifier", "faces/smile", "--out", out, "--level", ".2"]
    assert ends_with(*words, "--batch-size", "5") == code
    assert desk.asked["images"] == [picture, picture]
    assert desk.asked["out"] == out / "explanations"
    assert (desk.asked["batch_size"], desk.asked["levels"]) == (5, [0.2])
    assert (desk.asked["saliency"], desk.asked["fidelity"]) == (("difference",), False)
    printed = capsys.readouterr().out
    assert "2 images [all]." in printed
    assert str(out / "index.html") in printed
    assert ends_with(*words, "--json") == code
    files = {"html": str(out / "index.html"), "explanations": str(out / "explanations")}
    assert json.loads(capsys.readouterr().out) == {"summary": {"images": 2}, "failed": [], "files": files}


@pytest.mark.parametrize(("of_set", "code"), [("limits", 0), ("distrust", 1)])
def test_thorough_says_what_the_set_tells(
    desk: Desk, picture: Path, capsys: pytest.CaptureFixture[str], of_set: str, code: int
) -> None:
    desk.of_set = of_set
    words = ["explain", picture, picture, "--classifier", "faces/smile", "--thorough"]
    assert ends_with(*words) == code
    assert desk.asked["thorough"] is True
    assert "The set [said]." in capsys.readouterr().out
    assert ends_with(*words, "--json") == code
    assert json.loads(capsys.readouterr().out)["set"] == {"walks": 2}
    assert ends_with("explain", picture, "--classifier", "faces/smile", "--thorough") == 0
    assert desk.asked["thorough"] is True


def test_a_folder_is_several_images_and_has_no_crop(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with("explain", tmp_path, "--classifier", "faces/smile") == 0
    assert (desk.asked["images"], desk.asked["out"]) == (tmp_path, None)
    assert ends_with("explain", tmp_path, "--classifier", "faces/smile", "--crop", "9,9,3") == 2
    assert "crop: is for one image" in capsys.readouterr().err


def test_crop_may_reach_the_edges(desk: Desk, picture: Path) -> None:
    assert ends_with("explain", picture, "--classifier", "faces/smile", "--crop", "25,15,15") == 0
    assert desk.asked["image"].shape == (3, 30, 30)


def test_an_error_is_one_line_with_its_remedy(
    desk: Desk, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.error = GeneratorError(
        "generator",
        "does not fit [this] image",
        received="error .2",
        remedy="Crop closer to the face. " + "x" * 100,
    )
    assert ends_with("explain", picture, "--classifier", "faces/smile") == 2
    printed = capsys.readouterr()
    assert printed.err == f"Error {desk.error}\n"
    assert printed.out == ""
    assert ends_with("explain", picture, "--classifier", "faces/smile", "--debug") == 2
    printed = capsys.readouterr()
    assert "Traceback (most recent call last)" in printed.err
    assert printed.err.endswith(f"Error {desk.error}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "absent", "--classifier", "faces/smile"),
        ("fidelity", "absent", "--classifier", "faces/smile"),
        ("audit", "--classifier", "faces/smile", "--data", "absent", "--label", "a", "--attributes", "b"),
        ("train", "--data", "absent", "--out", "new"),
        ("health", "faces", "--data", "absent"),
    ],
    ids=lambda words: words[0],
)
def test_a_path_that_is_not_there_is_said_at_once(tmp_path: Path, words: tuple[str, ...]) -> None:
    code = f"import sys; from explainer import cli; sys.modules['torch'] = None; cli.main({list(words)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    place = "images" if words[0] == "explain" else "data"
    assert done.stderr.startswith(f"Error {place}: does not exist (received absent). Check the path")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_image_and_an_unknown_classifier_are_wrong_input(
    desk: Desk, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with("explain", "absent.png", "--classifier", "faces/smile") == 2
    assert "absent.png" in capsys.readouterr().err
    assert ends_with("explain", picture, "--classifier", "faces/frown") == 2
    assert (
        "classifier: is not in the zoo (received faces/frown). Take faces/smile." in capsys.readouterr().err
    )


def test_a_folder_that_cannot_be_made_is_said_before_any_work(
    desk: Desk, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with("demo", "--out", picture) == 2
    assert f"out: cannot be made (received {picture}: File exists)" in capsys.readouterr().err
    assert desk.asked == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explain", "a.png"), "Missing option '--classifier'. See explainer explain --help."),
        (("demo", "--seed", "high"), "Invalid value for '--seed': "),
        (("demo", "--sead", "1"), "No such option: --sead"),
        (("explian",), "No such command 'explian'. Did you mean 'explain'? See explainer --help."),
    ],
)
def test_wrong_usage_is_one_line_and_ends_with_2(
    desk: Desk, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert ends_with(*words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"Error {said}")
    assert "--help." in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_no_words_at_all_print_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with() == 2
    printed = capsys.readouterr()
    assert "Start here" in printed.out
    assert "Error" not in printed.err


def test_a_fault_of_ours_is_not_taken_for_a_verdict(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.error = ZeroDivisionError("a fault")
    assert ends_with("demo", "--out", tmp_path) == 3
    said = capsys.readouterr().err
    assert said.startswith("Fault ZeroDivisionError: a fault (test_cli.py, line ")
    assert "add --debug" in said
    assert said.count("\n") == 1
    assert ends_with("demo", "--out", tmp_path, "--debug") == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_fault_outside_of_a_command_is_none_of_its_verdicts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**options: object) -> None:
        raise ZeroDivisionError("while parsing")

    monkeypatch.setattr("explainer.cli.application.app", fails)
    assert ends_with("demo") == 3
    assert "ZeroDivisionError: while parsing" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(desk: Desk, tmp_path: Path) -> None:
    desk.error = KeyboardInterrupt()
    assert ends_with("demo", "--out", tmp_path) == 130


@pytest.mark.parametrize(
    ("words", "terminal", "progress"), [((), True, True), (("--quiet",), True, False), ((), False, False)]
)
def test_progress_only_on_a_terminal(
    desk: Desk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    terminal: bool,
    progress: bool,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert ends_with("demo", "--out", tmp_path, *words) == 0
    assert desk.asked["progress"] is progress


def test_models_lists_what_can_be_loaded(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dots").mkdir()
    (tmp_path / "dots" / "generator.safetensors").write_bytes(b"0" * 12_345)
    (tmp_path / "dots" / "round.safetensors").write_bytes(b"0" * 67)
    monkeypatch.setattr(zoo_command, "files", {"explainer._models": tmp_path}.__getitem__)
    assert ends_with("models", "--json") == 0
    generator = {"name": "dots", "kind": "generator (vae)", "shape": [1, 32, 32], "bytes": 12_345}
    classifier = {"name": "dots/round", "kind": "classifier", "shape": [32, 32], "bytes": 67}
    rows = [{**generator, "licence": "CC0 [x]"}, {**classifier, "licence": "MIT"}]
    assert json.loads(capsys.readouterr().out) == rows
    assert ends_with("models", "--quiet", "--seed", "1", "--device", "cpu") == 0
    assert capsys.readouterr().out == "dots\ndots/round\n"
    assert ends_with("models") == 0
    table = capsys.readouterr().out
    for word in ("dots/round", "generator (vae)", "1 x 32 x 32", "0.0 MB", "CC0 [x]", "MIT"):
        assert word in table


def test_an_empty_zoo_is_an_empty_list(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.cards = []
    assert ends_with("models", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert ends_with("models") == 0


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    import explainer

    assert ends_with("--version") == 0
    assert capsys.readouterr().out == explainer.__version__ + "\n"
    assert ends_with("--help") == 0
    manual = capsys.readouterr().out
    assert "Exit codes\n" in manual.replace(" \n", "\n").replace("  ", "")
    for name in COMMANDS:
        assert f"explainer {name}" in manual, f"the manual does not say what {name} is for"


def test_every_command_takes_what_all_take_and_its_examples_are_right() -> None:
    for name, command in COMMANDS.items():
        options = {word for parameter in command.params for word in parameter.opts}
        assert {"--json", "--seed", "--device", "--quiet", "--debug"} <= options, name
        assert all(flag.metavar for flag in command.params if getattr(flag, "is_flag", False)), name
        text = rich.text.Text.from_markup(command.epilog).plain.replace("\\\n", " ")
        shown = [shlex.split(line) for line in text.splitlines() if line.startswith("  explainer ")]
        assert any(words[1] == name for words in shown), f"{name} has no example of its own"
        for _, called, *words in shown:
            COMMANDS[called].make_context(called, words)  # raises on what is no option or has no value


def test_a_command_line_in_an_example_can_be_copied_from_a_narrow_terminal() -> None:
    for command in COMMANDS.values():
        for line in rich.text.Text.from_markup(command.epilog).plain.splitlines():
            assert len(line) <= 80


@pytest.mark.slow
def test_demo_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "explainer", "demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (result["verdict"]["status"] == "distrust") == (done.returncode == 1)
    page = (tmp_path / "demo" / "explanation.html").read_text(encoding="utf-8")
    assert "astronaut" in page.lower() or "smil" in page.lower()
    assert (tmp_path / "demo" / "explanation.gif").read_bytes()[:6] == b"GIF89a"
