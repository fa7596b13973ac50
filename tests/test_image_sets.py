import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from explainer.errors import ImageError, OptionError
from explainer.image_sets import read_image_set


def pixels_of(count=3, height=16, width=16):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def save(folder, pixels):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"a{number}.png")
    return folder


@pytest.mark.parametrize("form", ["folder", "zip", "csv", "npz HWC", "npz CHW", "npz other name"])
def test_the_same_images_from_every_kind_of_set(tmp_path, form):
    pixels = pixels_of(11)
    folder = save(tmp_path / "set", pixels)
    source = tmp_path / f"set.{form[:3]}"
    if form == "folder":
        source = folder
    elif form == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"inner/{path.name}")
            archive.writestr("__MACOSX/inner/._a0.png", b"no image")
            archive.writestr("inner/readme.txt", b"no image")
    elif form == "csv":
        source.write_text("path\n" + "".join(f"set/a{number}.png\n" for number in range(11)))
    else:
        arrays = {"labels": np.arange(11)}
        arrays["x" if form == "npz other name" else "images"] = (
            pixels.transpose(0, 3, 1, 2) if form == "npz CHW" else pixels
        )
        np.savez(source, **arrays)
    images = read_image_set(source, (16, 16))
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), pixels.transpose(0, 3, 1, 2))


def test_grey_arrays_and_deeper_pixels_keep_their_depth(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (2, 16, 16)).astype(np.uint16)
    np.savez(tmp_path / "deep.npz", images=deep)
    images = read_image_set(tmp_path / "deep.npz", (16, 16))
    assert images.dtype == torch.uint16
    assert np.array_equal(images.numpy()[:, 0], deep)


def test_images_of_other_sizes_are_cut_to_the_middle_and_resized(tmp_path):
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = 200  # the central square
    save(tmp_path / "set", [wide, np.full((20, 20, 3), 200, np.uint8)])
    images = read_image_set(tmp_path / "set", (16, 16))
    assert images.shape == (2, 3, 16, 16)
    assert torch.equal(images, torch.full_like(images, 200))
    half = read_image_set(tmp_path / "set", (16, 32))
    assert half.shape == (2, 3, 16, 32)


def test_another_number_of_channels_is_named(tmp_path):
    folder = save(tmp_path / "set", pixels_of(2))
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "a9.png")
    with pytest.raises(ImageError, match=r"a9.png: has another number of channels than the first .*a0.png"):
        read_image_set(folder, (16, 16))


def test_an_image_that_cannot_be_read_is_named_also_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("broken.png", b"not a PNG")
    with pytest.raises(ImageError, match=r"set.zip/broken.png: "):
        read_image_set(tmp_path / "set.zip", (16, 16))


def test_a_damaged_member_of_an_archive_is_named(tmp_path):
    folder, source = save(tmp_path / "set", pixels_of(1, 64, 64)), tmp_path / "set.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "a0.png", "a0.png")
        begin = archive.infolist()[0].header_offset + 30 + len("a0.png")
    whole = source.read_bytes()
    source.write_bytes(whole[:begin] + b"\xff" * 200 + whole[begin + 200 :])
    with pytest.raises(ImageError, match=r"set.zip/a0.png: cannot be unpacked .*Error -3"):
        read_image_set(source, (16, 16))


def test_an_archive_that_ends_within_a_member_is_named(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a0.png", b"")

    def ends(*_):
        raise EOFError("it ends too early")

    monkeypatch.setattr(zipfile.ZipFile, "read", ends)
    with pytest.raises(ImageError, match=r"set.zip/a0.png: cannot be unpacked .received it ends too early"):
        read_image_set(tmp_path / "set.zip", (16, 16))


def test_eight_bits_are_made_without_a_copy_in_double_precision(tmp_path):
    np.savez(tmp_path / "set.npz", images=pixels_of(100, 64, 64))
    values = 100 * 64 * 64 * 3
    tracemalloc.start()
    try:
        images = read_image_set(tmp_path / "set.npz", (64, 64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert images.dtype == torch.uint8
    assert peak < 8 * values  # the archive, 16 bits and 8 bits of them, and one image at work


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the archive ran code",))


def test_unusable_sets_are_named(tmp_path):
    (tmp_path / "note.txt").write_text("")
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    np.savez(tmp_path / "objects.npz", images=np.array([Payload()], dtype=object))
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 16, 16)), b=np.zeros((2, 16, 16)))
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 16, 16)))
    np.savez(tmp_path / "unclear.npz", images=np.zeros((2, 16, 16, 16)))
    np.savez(tmp_path / "scale.npz", images=np.full((2, 16, 16), 300.0))
    (tmp_path / "table.csv").write_text("name\na.png\n")
    for name, message in (
        ("absent", "data: does not exist"),
        ("note.txt", "data: is no set of images"),
        ("broken.zip", "data: cannot be read"),
        ("broken.npz", "data: cannot be read"),
        ("empty.zip", "data: holds no image files"),
        ("objects.npz", "data: cannot be read .*Object arrays cannot be loaded"),
        ("two.npz", "data: must hold an array named images, or only one"),
        ("none.npz", "data: is empty"),
        ("unclear.npz", "ambiguous layout.*Save it as"),
        ("scale.npz", r"scale.npz\[images\]\[0\]: holds values outside"),
    ):
        with pytest.raises(ImageError, match=message):
            read_image_set(tmp_path / name, (16, 16))
    with pytest.raises(OptionError, match="paths: the table must have one column named path or file"):
        read_image_set(tmp_path / "table.csv", (16, 16))
