"""What the shell completes after TAB, and that it is what the package knows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from explainer.cli import completion
from explainer.generators.zoo import KINDS, list_models
from explainer.saliency.methods import METHODS


def test_the_lists_are_those_of_the_package() -> None:
    assert set(completion.KINDS_OF_GENERATORS) == set(KINDS)
    assert completion.SALIENCY_METHODS == METHODS


def test_names_of_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{card['name']}/{name}" for card in list_models() for name in card.get("classifiers", {})]
    assert completion.classifiers("") == names
    assert completion.classifiers("faces/sm") == [name for name in names if name.startswith("faces/sm")]
    assert completion.generators("") == ["auto", *(card["name"] for card in list_models())]
    assert completion.generators("fa") == ["faces"]


def test_model_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine.onnx", "mine.pt2", "mine.pt", ".hidden.onnx", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "mymodel").mkdir()
    (tmp_path / "mymodel" / "inner.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert completion.classifiers("m") == ["mine.onnx", "mine.pt2", "mymodel/"]
    assert completion.classifiers("mymodel/") == ["mymodel/inner.onnx"]
    assert completion.classifiers("./mine.o") == ["./mine.onnx"]
    assert completion.classifiers("absent/x") == []
    assert completion.generators("my") == ["mymodel/"]
    assert ".hidden.onnx" not in completion.classifiers("")
    assert completion.classifiers(".h") == [".hidden.onnx"]


def test_methods_also_after_a_comma() -> None:
    assert completion.saliency_methods("occ") == ["occlusion"]
    assert completion.saliency_methods("difference,grad_") == ["difference,grad_cam"]
    assert completion.kinds_of_generators("t") == ["two-stage"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("explainer exp", ["explain"]),
        ("explainer explain photo.png --classifier faces/gen", ["faces/gender"]),
        ("explainer audit --fail-on ins", ["insufficient"]),
        ("explainer train --kind mix", ["mixture"]),
    ],
)
def test_bash_is_told(words: str, expected: list[str]) -> None:
    asked = {"_EXPLAINER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", "from explainer.cli import main; main()"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == expected, done.stderr
