"""Images one by one: every kind of source, in order, read only when asked for."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from explainer.errors import ImageError, OptionError
from explainer.image_stream import count, digest, stream

GREYS = (10, 20, 30)


@pytest.fixture
def folder(tmp_path):
    for index, grey in enumerate(GREYS):
        Image.fromarray(np.full((20, 24), grey, np.uint8)).save(tmp_path / f"a{index}.png")
    return tmp_path


class Labelled(Dataset):
    """Pairs of image and label; counts what was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return len(GREYS)

    def __getitem__(self, index):
        self.read.append(index)
        return torch.full((1, 20, 24), GREYS[index] / 255), index


def greys(source):
    return [round(255 * float(item.load().mean())) for item in stream(source)]


def sources(folder):
    arrays = np.stack([np.full((20, 24), grey, np.uint8) for grey in GREYS])
    np.savez(folder / "set.npz", images=arrays)
    paths = sorted(folder.glob("*.png"))
    table = pd.DataFrame({"path": [str(path) for path in paths]})
    table.to_csv(folder / "set.csv", index=False)
    return {
        "folder": folder,
        "npz": folder / "set.npz",
        "csv": str(folder / "set.csv"),
        "frame": table,
        "paths": paths,
        "tuple": tuple(paths),
        "array": arrays,
        "channels last": np.repeat(arrays[..., None], 3, axis=3),
        "tensor": torch.as_tensor(arrays[:, None]).float() / 255,
        "data set": Labelled(),
        "generator": (array for array in arrays),
        "pairs": [(array, "label") for array in arrays],
    }


KINDS = ("folder", "npz", "csv", "frame", "paths", "tuple", "array", "channels last", "tensor", "data set",
         "generator", "pairs")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_its_images_in_order(folder, kind):
    assert greys(sources(folder)[kind]) == list(GREYS)


def test_names_are_paths_or_places(folder):
    assert [item.name for item in stream(sorted(folder.glob("*.png")))] == [
        str(folder / f"a{index}.png") for index in range(3)
    ]
    assert [item.name for item in stream(np.zeros((2, 1, 20, 24), np.uint8))] == ["images[0]", "images[1]"]
    assert [item.index for item in stream(folder)] == [0, 1, 2]


def test_nothing_is_read_before_it_is_asked_for():
    data = Labelled()
    items = list(stream(data))
    assert data.read == []
    items[1].load()
    assert data.read == [1]


def test_an_iterator_is_not_run_ahead_of():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield np.zeros((20, 24))

    items = stream(endless())
    next(items), next(items)
    assert len(taken) == 2


def test_counts_without_reading(folder):
    assert count(folder) == count(np.zeros((3, 20, 24))) == count(Labelled()) == 3
    sources(folder)
    assert count(folder / "set.csv") == 3
    assert count(folder / "set.npz") is None
    assert count(iter([])) is None


def test_an_image_that_cannot_be_read_is_its_own_error(folder):
    (folder / "a1.png").write_bytes(b"\x89PNG no more")
    items = list(stream(folder))
    with pytest.raises(ImageError, match="cannot be read"):
        items[1].load()
    assert items[1].digest().startswith("unreadable: ")
    assert items[2].digest() == digest(torch.full((1, 20, 24), 30 / 255)) != items[0].digest()


def test_digests_tell_shapes_apart():
    assert digest(torch.zeros(1, 4, 9)) != digest(torch.zeros(1, 9, 4))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "images: is empty"),
        (iter([]), "images: is empty"),
        (np.zeros((0, 1, 20, 20)), "images: is empty"),
        (np.zeros((20, 20)), "images: must have four axes"),
        (torch.zeros(1, 20, 20), "images: must have four axes"),
        ({"a": 1}, "images: must be an array, a data set"),
        (Image.new("L", (20, 20)), "images: must be an array, a data set"),
        (7, "images: must be an array, a data set"),
        (DataLoader(Labelled()), "Pass its dataset"),
        ("no such place", "does not exist"),
    ],
)
def test_what_is_no_source_is_named_at_once(source, message):
    with pytest.raises(ImageError, match=message):
        stream(source)


def test_a_table_without_paths_is_named():
    with pytest.raises(OptionError, match="one column named path or file"):
        stream(pd.DataFrame({"where": ["a.png"]}))
