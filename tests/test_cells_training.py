"""The script that rebuilds the cells' zoo, on noise with the right columns."""

import importlib.util
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from explainer.generators.zoo import KINDS
from explainer.storage import read_tensors


@pytest.fixture(scope="module")
def train(repository):
    spec = importlib.util.spec_from_file_location("cells_train", repository / "models" / "cells" / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["cells_train"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cells_train"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    rows = pd.DataFrame(
        {"phase": ["G1", "G2", "S_phase", "G2", "G1"] * 24, "split": ["train", "val", "test"] * 40}
    )
    images = np.random.default_rng(0).integers(0, 1000, (len(rows), 3, 40, 40)).astype(np.uint16)
    np.savez(folder / "cells.npz", images=images)
    rows.to_csv(folder / "cells.csv", index=False)
    return folder / "cells.npz", folder / "cells.csv", images, rows


def test_cells_are_read_in_the_order_of_the_table(train, cells):
    data, labels, images, rows = cells
    read, table = train.read_cells(data, labels, "val")
    chosen = rows["split"].eq("val").to_numpy()
    assert table["phase"].tolist() == rows["phase"][chosen].tolist()
    assert torch.equal((read * 65535).round().to(torch.int32), torch.tensor(images[chosen].astype(np.int32)))
    kept, classes = train.phases(read, table)
    assert len(kept) == len(classes) == int(table["phase"].isin(["G1", "G2"]).sum())
    assert classes.sum() == table["phase"].eq("G2").sum()
    with pytest.raises(SystemExit, match="no rows with split 'holdout'; it must be train, val or test"):
        train.read_cells(data, labels, "holdout")


def test_mirror_images_are_four_different_ones(train):
    image = torch.arange(3 * 16).view(1, 3, 4, 4)
    four = train.mirrored(image)
    assert len(four) == 4
    assert len({tuple(each.flatten().tolist()) for each in four}) == 4
    assert torch.equal(four[3], image[0].flip(-1, -2))


def test_the_classifier_is_written_with_its_normalisation(train, cells, tmp_path):
    data, labels, _, _ = cells
    train.main(["g1-g2", "--data", str(data), "--labels", str(labels), "--out", str(tmp_path),
                "--steps", "2"])  # fmt: skip
    text = (tmp_path / "card.json").read_text(encoding="utf-8")
    entry = json.loads(text)["classifiers"]["g1-g2"]
    training, _ = train.phases(*train.read_cells(data, labels, "train"))
    assert entry["mean"] == pytest.approx(training.mean(dim=(0, 2, 3)).tolist())
    assert entry["std"] == pytest.approx(training.std(dim=(0, 2, 3)).tolist())
    assert entry["training"] | {"steps": 2, "mirrored": 4 * len(training)} == entry["training"]
    assert read_tensors(tmp_path / entry["file"], entry["sha256"], "classifier")
    assert (tmp_path / entry["file"]).stat().st_mode & 0o044 == 0o044  # others may read what is packaged
    assert str(data.parent) not in text


def test_the_generator_is_written_with_what_it_measures(train, cells, tmp_path, monkeypatch):
    data, labels, _, _ = cells
    small = {"latent_dim": 4, "latent_channels": 4, "widths": (8, 8, 8), "code_width": 8,
             "decoder_blocks": (0, 0, 0), "encoder_blocks": (0, 0, 0)}  # fmt: skip
    monkeypatch.setattr(train, "GENERATOR", small)
    train.main(["generator", "--data", str(data), "--labels", str(labels), "--out", str(tmp_path),
                "--steps", "4"])  # fmt: skip
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    entry = card["generator"]
    assert entry["channel_names"] == list(train.CHANNELS)
    assert set(entry["quantiles"]) == {"bare", "unexplained", "typicality"}
    assert entry["test"]["n"] == 40
    assert card["name"] == "cells"
    assert entry["kind"] in KINDS
