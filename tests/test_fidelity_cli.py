"""``explainer fidelity``: what it prints and writes, and how it ends."""

import json

import pandas as pd
import pytest
from PIL import Image

from explainer import cli, load_generator
from explainer.image import to_uint8


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six faces that the generator drew, with labels by name."""
    folder = tmp_path_factory.mktemp("faces")
    for number, image in enumerate(load_generator("faces").sample(6, seed=1)):
        pixels = to_uint8(image)
        channels_last = pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else pixels
        Image.fromarray(channels_last).save(folder / f"{number}.png")
    rows = pd.DataFrame({"path": [f"{k}.png" for k in range(6)], "mood": ["smiling", "not smiling"] * 3})
    rows.to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    return stopped.value.code


OPTIONS = ("--classifier", "faces/smile", "--steps", 2, "--draws", 1, "--quiet")


def test_a_table_with_labels_a_page_and_json(table, tmp_path, capsys) -> None:
    code = run(
        "fidelity", table, *OPTIONS, "--labels", "mood", "--saliency", "difference", "--saliency", "saliency",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["methods"] == ["difference", "saliency"]
    assert said["missing"]["accuracy"].startswith("6 images are too few")
    assert {key: value.split("/")[-1] for key, value in said["files"].items()} == {
        "html": "fidelity.html", "json": "fidelity.json", "csv": "curves.csv",
    }  # fmt: skip
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert set(curves["method"]) >= {"difference", "saliency", "random order", "Sobel edges"}
    assert "Ranking by probability" in (tmp_path / "out" / "fidelity.html").read_text()


def test_a_folder_without_walk_and_labels_prints_tables(table, capsys) -> None:
    code = run("fidelity", table.parent, *OPTIONS, "--saliency", "saliency", "--unit", "superpixels")
    assert code == 0
    said = capsys.readouterr().out
    assert "symmetric relevance gain" in said
    assert "Accuracy is missing: No labels were given." in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--labels", "age"), "labels: is no column of the table"),
        (("--saliency", "magic"), "saliency: must be a tuple of known methods"),
        (("--saliency", "saliency", "--unit", "voxels"), "unit: is not known"),
        (("--saliency", "saliency", "--filler", "snow"), "filler: is not known"),
        (("--saliency", "saliency", "--device", "cuda:99"), "device: cannot be used here"),
        (("--saliency", "saliency", "--size", "64"), "size: does not belong to a classifier of the zoo"),
    ],
)
def test_wrong_words_end_with_2_and_a_remedy(table, words, text, capsys) -> None:
    assert run("fidelity", table, *OPTIONS, *words) == 2
    assert text in capsys.readouterr().err


def test_labels_need_a_table(table, capsys) -> None:
    assert run("fidelity", table.parent, *OPTIONS, "--labels", "mood") == 2
    assert "labels: are read from a table" in capsys.readouterr().err


def test_a_classifier_of_ones_own_needs_a_generator_only_for_walks(
    table, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "bright_mouths.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, images):\n"
        "        return images[:, :, 40:].mean((1, 2, 3))[:, None] * 20 - 6\n\n\n"
        "def net():\n    return Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    words = (
        "fidelity",
        table,
        "--classifier",
        "bright_mouths:net",
        "--size",
        "64",
        "--steps",
        2,
        "--draws",
        1,
    )
    assert run(*words) == 2
    assert "generator: must be named for a classifier that is not of the zoo" in capsys.readouterr().err
    assert run(*words, "--saliency", "saliency", "--device", "cpu", "--json") == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["saliency"]
    assert run(*words, "--saliency", "difference", "--generator", "faces", "--json") == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["difference"]


def test_a_classifier_without_a_gradient_is_walked_and_mapped_without_one(
    table, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "remote_mouths.py").write_text(
        "import torch\n\n\ndef net():\n    def answer(images):\n        return torch.from_numpy(\n"
        "            images.detach().numpy()[:, :, 40:].mean((1, 2, 3))[:, None] * 20 - 6)\n\n"
        "    return answer\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("fidelity", table, "--classifier", "remote_mouths:net", "--generator", "faces", "--size", "64")
    assert run(*words, "--steps", 2, "--draws", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["difference", "occlusion"]
