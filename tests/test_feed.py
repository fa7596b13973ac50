"""What fit accepts: tensors, arrays, folders, archives, tables and Datasets, all the same to the training."""

import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_training import blobs
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from explainer.errors import ImageError, OptionError, TrainingError
from explainer.generators import VAE
from explainer.generators import feed as feed_module
from explainer.generators.feed import feed
from explainer.image_sets import ImageSet

SHAPE = (1, 16, 16)


def vae():
    return VAE(SHAPE, 3, widths=(8,), encoder_blocks=(0,), decoder_blocks=(0,))


@pytest.fixture(scope="module")
def stored():
    return (255 * blobs(50)).round().to(torch.uint8)


@pytest.fixture(scope="module")
def sources(stored, tmp_path_factory):
    """The same fifty images in every form."""
    place = tmp_path_factory.mktemp("forms")
    folder = place / "folder"
    folder.mkdir()
    for number, image in enumerate(stored):
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    paths = [folder / f"{number}.png" for number in range(50)]
    with zipfile.ZipFile(place / "set.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    np.savez(place / "set.npz", images=stored.numpy())
    pd.DataFrame({"path": paths}).to_csv(place / "set.csv", index=False)
    return {
        "array": stored.numpy(),
        "folder": folder,
        "zip": str(place / "set.zip"),
        "npz": place / "set.npz",
        "csv": place / "set.csv",
        "table": pd.DataFrame({"file": [str(path) for path in paths]}),
        "dataset of pairs": TensorDataset(stored, torch.arange(50)),
    }


@pytest.mark.parametrize("form", ["array", "folder", "zip", "npz", "csv", "table", "dataset of pairs"])
def test_every_form_trains_the_same_weights(form, sources, stored):
    first = vae().fit(stored, steps=3, progress=False).state_dict()
    second = vae().fit(sources[form], held_out=None, steps=3, progress=False).state_dict()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=1e-4)


def test_a_large_folder_is_read_batch_by_batch_in_16_bits(sources, stored, monkeypatch):
    monkeypatch.setattr(feed_module, "LARGEST_HELD", 1000)
    monkeypatch.setattr(ImageSet, "read", lambda *_: pytest.fail("all images were read"))
    images = feed(sources["folder"], "images", SHAPE, 40)
    part = images.part(torch.tensor([7, 3]))[:]
    assert part.dtype == torch.uint16
    assert torch.equal(part, stored[[7, 3]].to(torch.int32).mul(257).to(torch.uint16))
    assert images.digest() == feed(sources["folder"], "images", SHAPE, 40).digest()
    assert [len(batch) for batch in images.split(20)] == [20, 20, 10]


def test_an_array_is_used_where_it_lies(stored):
    images = feed(stored, "images", SHAPE, 40)
    assert images.digest() != feed(255 - stored, "images", SHAPE, 40).digest()
    before = images[:1].clone()
    stored_copy = stored.clone()
    view = feed(stored_copy, "images", SHAPE, 40)
    stored_copy[0] += 1
    assert not torch.equal(view[:1], before)


class Counting(Dataset):
    """Items as mappings of PIL images, brighter each time they are read."""

    def __init__(self, images):
        self.images, self.reads = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads += 1
        return {"image": Image.fromarray(self.images[index, 0].numpy()), "label": 1}


def test_a_dataset_is_read_anew_for_every_batch(stored):
    images = Counting(stored)
    vae().fit(images, steps=2, batch_size=10, progress=False)
    assert images.reads > 50
    assert feed(images, "images", SHAPE, 40).digest() == "50 of Counting"


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


class Bad(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return self.item


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            Endless(),
            TrainingError,
            r"images: must be images, a folder or table of them, or a D",
        ),
        (Bad({"x": 1}), ImageError, r'images\[0\]: is a mapping without "image" .received x'),
        (
            Bad(torch.zeros(3, 16, 16)),
            TrainingError,
            r"images: must be at least 40 images of shape \(1, 16, 16\)",
        ),
        (Bad(5), ImageError, r"images\[0\]: "),
        ("/nowhere/at/all", ImageError, "data: does not exist"),
        (
            pd.DataFrame({"name": ["a"]}),
            OptionError,
            "paths: the table must have one column named path",
        ),
        (pd.DataFrame({"path": []}), ImageError, "data: is empty .received a table of 0 rows"),
    ],
)
def test_what_cannot_be_trained_on_is_named(source, error, message):
    with pytest.raises(error, match=message):
        vae().fit(source, steps=1, progress=False)


def test_one_device_is_named_and_others_are_refused(stored):
    generator = vae().fit(stored, steps=1, progress=False, devices=["cpu"])
    assert generator.intensity.device.type == "cpu"
    with pytest.raises(OptionError, match="devices: must be one device"):
        vae().fit(stored, steps=1, progress=False, devices=["cuda:0", "cuda:1"])
    with pytest.raises(OptionError, match=r"devices: is no device .received gpu."):
        vae().fit(stored, steps=1, progress=False, devices="gpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "meta", "mps"])
def test_a_device_that_is_not_there_is_named(stored, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(OptionError, match=rf"devices: is not available here .received {device}."):
        vae().fit(stored, steps=1, progress=False, devices=device)
