"""The script that rebuilds the chest X-rays' zoo, on noise with the right columns."""

import importlib.util
import io
import json
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from explainer.generators.zoo import KINDS
from explainer.image import resize
from explainer.storage import read_tensors


@pytest.fixture(scope="module")
def train(repository):
    spec = importlib.util.spec_from_file_location("chest_train", repository / "models" / "chest" / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["chest_train"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chest_train"]


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    path = tmp_path_factory.mktemp("chest") / "chest.zip"
    rows = pd.DataFrame(
        {"label": ["NORMAL", "PNEUMONIA", "PNEUMONIA"] * 40, "split": ["train", "train", "val", "test"] * 30}
    )
    rows["file"] = [f"{number:05}.png" for number in range(len(rows))]
    rows["patient"] = [f"p{number // 2}" for number in range(len(rows))]
    images = np.random.default_rng(0).integers(0, 256, (len(rows), 128, 128)).astype(np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.csv", rows.to_csv(index=False))
        for name, image in zip(rows["file"], images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "png")
            archive.writestr(f"images/{name}", buffer.getvalue())
    return path, images, rows


def test_images_are_read_in_the_order_of_the_table_and_shrunk(train, chest):
    path, images, rows = chest
    chosen = rows["split"].eq("val").to_numpy()
    stored, table = train.read_chest(path, "val", size=None)
    assert table["file"].tolist() == rows["file"][chosen].tolist()
    assert torch.equal((stored[:, 0] * 255).round().to(torch.uint8), torch.from_numpy(images[chosen]))
    small, _ = train.read_chest(path, "val")
    assert small.shape == (chosen.sum(), 1, 64, 64)
    assert torch.equal(small, resize(stored, (64, 64)))
    assert train.ill(table).tolist() == table["label"].eq("PNEUMONIA").astype(float).tolist()
    with pytest.raises(SystemExit, match="no rows with split 'holdout'; it must be train, val or test"):
        train.read_chest(path, "holdout")


def test_crops_are_parts_of_their_images_and_never_mirrored(train):
    ramp = torch.linspace(0, 1, 128).expand(2, 1, 128, 128) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    crops = train.cropped(ramp, 3, seed=1)
    assert crops.shape == (6, 1, 64, 64)
    assert (crops.diff(dim=-1) > 0).all()  # dark is left in all of them
    assert torch.equal(crops, train.cropped(ramp, 3, seed=1))
    spans = (crops[..., -1] - crops[..., 0]).mean(dim=(1, 2))
    assert (spans[0::2] > 0.8).all()
    assert (spans[1::2] < 0.51).all()
    assert len({round(float(span), 6) for span in spans}) == 6


@pytest.mark.parametrize("name", ["pneumonia", "pneumonia-second"])
def test_a_classifier_is_written_with_what_it_measures(train, chest, tmp_path, name):
    path, _, rows = chest
    train.main([name, "--data", str(path), "--out", str(tmp_path), "--steps", "2"])
    text = (tmp_path / "card.json").read_text(encoding="utf-8")
    entry = json.loads(text)["classifiers"][name]
    of_split = rows[rows["split"].eq("train")]
    assert entry["training"]["images"] == len(of_split)
    assert entry["training"]["patients"] == of_split["patient"].nunique()
    assert entry["network"] == train.CLASSIFIERS[name].architecture
    assert entry["test"]["n"] == rows["split"].eq("test").sum()
    assert entry["class_names"] == ["NORMAL", "PNEUMONIA"]
    assert read_tensors(tmp_path / entry["file"], entry["sha256"], "classifier")
    assert str(path.parent) not in text


def test_both_classifiers_differ_in_architecture_and_seed(train):
    first, second = train.CLASSIFIERS.values()
    assert first.architecture != second.architecture
    assert first.seed != second.seed


def test_the_generator_is_written_with_what_it_measures(train, chest, tmp_path, monkeypatch):
    path, _, rows = chest
    small = {"latent_dim": 4, "latent_channels": 4, "widths": (8, 8, 8), "code_width": 8,
             "decoder_blocks": (0, 0, 0), "encoder_blocks": (0, 0, 0)}  # fmt: skip
    monkeypatch.setattr(train, "GENERATOR", small)
    train.main(["generator", "--data", str(path), "--out", str(tmp_path), "--steps", "4"])
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    entry = card["generator"]
    assert set(entry["quantiles"]) == {"bare", "unexplained", "typicality"}
    assert entry["test"]["n"] == rows["split"].eq("test").sum()
    assert entry["training"]["with crops"] == (1 + train.COPIES) * rows["split"].eq("train").sum()
    assert card["name"] == "chest"
    assert entry["kind"] in KINDS
