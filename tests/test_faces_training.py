"""The script that rebuilds the classifiers of the faces' zoo, on a zip of noise with the right columns."""

import hashlib
import importlib.util
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from explainer.checks.embedding import EmbeddingNet
from explainer.convnet import NETWORKS


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    path = Path(__file__).resolve().parents[1] / "models" / "faces" / "train.py"
    spec = importlib.util.spec_from_file_location("faces_train", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["faces_train"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["faces_train"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, train: ModuleType) -> Path:
    """Each split has two of each of: gender x (smiling, not, ambiguous), no gender, no smile."""
    random = np.random.default_rng(0)
    cells = [(gender, smile) for gender in ("female", "male") for smile in (0.95, 0.05, 0.6)]
    cells = [*cells, (None, 0.9), ("male", None)] * 2
    rows = [
        {
            "file": f"{split}_{i}.jpg",
            "person": f"{split} {i // 2}",
            "gender": gender,
            "Smiling": smile,
            "split": split,
            **dict.fromkeys(train.KEPT_ATTRIBUTES, 0.2),
        }
        for split in ("train", "val", "test")
        for i, (gender, smile) in enumerate(cells)
    ]
    path = tmp_path_factory.mktemp("faces") / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.csv", pd.DataFrame(rows).to_csv(index=False))
        for row in rows:
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
            archive.writestr(f"images/{row['file']}", file.getvalue())
    return path


def test_faces_are_read_in_the_order_of_the_table(train: ModuleType, faces: Path) -> None:
    images, labels = train.read_faces(faces, "val")
    assert images.shape == (16, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels["file"].tolist() == [f"val_{i}.jpg" for i in range(16)]
    with zipfile.ZipFile(faces) as archive, Image.open(archive.open("images/val_3.jpg")) as picture:
        assert torch.equal(images[3], torch.tensor(np.asarray(picture)).permute(2, 0, 1))
    with pytest.raises(SystemExit, match="no rows with split 'holdout'; it must be train, val or test"):
        train.read_faces(faces, "holdout")


def test_who_is_trained_on(train: ModuleType, faces: Path) -> None:
    _, confounded = train._rows_of(faces, "train", train.CLASSIFIERS["smile-confounded"])
    cells = set(zip(confounded["gender"], confounded["Smiling"] > 0.5, strict=True))
    assert cells == {("female", True), ("male", False)}
    assert not confounded["Smiling"].between(0.3, 0.7).any()
    _, smile = train._rows_of(faces, "train", train.CLASSIFIERS["smile"])
    assert len(smile) == 14  # all but the two without a label
    _, gender = train._rows_of(faces, "train", train.CLASSIFIERS["gender"])
    weights = pd.Series(train._cell_weights(gender).numpy())
    shares = weights.groupby([gender["gender"], gender["Smiling"] > 0.5]).sum()
    labelled = gender["Smiling"].notna()
    assert weights[~labelled].eq(0).all()
    assert np.allclose(shares, 1)


@pytest.mark.parametrize("name", ["smile", "smile-confounded", "gender", "smile-second"])
def test_weights_and_card(train: ModuleType, faces: Path, tmp_path: Path, name: str) -> None:
    train.main([name, "--data", str(faces), "--out", str(tmp_path), "--steps", "2", "--seed", "5"])
    weights = tmp_path / f"{name}.safetensors"
    text = (tmp_path / "card.json").read_text(encoding="utf-8")
    card = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    card = card["classifiers"][name]
    assert weights.stat().st_mode & 0o044 == 0o044  # others may read what is packaged
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card["training"]["steps"] == 2
    assert card["training"]["seed"] == 5
    network = NETWORKS[card["network"]](**card["architecture"])
    network.load_state_dict(load_file(weights))
    test = card["test"]
    assert test["n"] == 14
    assert test["women"]["n"] + test["men"]["n"] == (14 if name == "gender" else 12)
    assert test["smiling women"]["auc"] is None  # one class only, where a smile is what is asked
    assert str(faces.parent) not in text


def test_the_identity_and_its_card(train: ModuleType, faces: Path, tmp_path: Path) -> None:
    train.main(["identity", "--data", str(faces), "--out", str(tmp_path), "--steps", "2"])
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))["identity"]
    weights = tmp_path / "identity.safetensors"
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.stat().st_size <= 1_000_000
    assert card["training"]["people"] == 8
    assert card["test"]["genuine pairs"] == 8  # eight people with two photographs each
    assert card["test"]["impostor pairs"] == 16 * 15 // 2 - 8
    assert len(card["genuine"]) == len(card["impostor"]) == 101
    network = EmbeddingNet(**card["architecture"])
    network.load_state_dict(load_file(weights))
    again = train.train_identity(faces, tmp_path, steps=2)
    assert again["sha256"] == card["sha256"]


def test_the_same_seed_gives_the_same_weights(train: ModuleType, faces: Path, tmp_path: Path) -> None:
    first, second, other = (
        train.train_classifier("gender", faces, tmp_path, steps=2, seed=seed) for seed in (5, 5, 6)
    )
    assert first == second
    assert first["sha256"] != other["sha256"]


def test_data_and_out_are_required(train: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["smile"])
    assert "the following arguments are required: --data, --out" in capsys.readouterr().err
