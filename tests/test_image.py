"""Tests of explainer.image: every format at its full depth, every refusal by its text."""

import importlib.util
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from explainer.errors import ExplainerError, ImageError, OptionError
from explainer.image import as_image, as_images, list_images, resize, to_uint8

HEIGHT, WIDTH = 20, 24


def pixels_of(dtype, channels=None, seed=0):
    """Random pixels over the dtype's whole scale, (HEIGHT, WIDTH) or (HEIGHT, WIDTH, channels)."""
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    values[0, :2] = np.array([0, np.iinfo(dtype).max]).reshape(2, *[1] * (values.ndim - 2))
    return values


def expected_of(pixels):
    """The image written out slowly: float64, divided by the dtype's maximum, channels first."""
    image = pixels.astype(np.float64) / np.iinfo(pixels.dtype).max
    image = image[None] if image.ndim == 2 else np.stack([image[..., c] for c in range(image.shape[2])])
    return torch.from_numpy(image.astype(np.float32))


def assert_image(image, expected):
    assert image.dtype == torch.float32
    assert image.device.type == "cpu"
    assert image.is_contiguous()
    assert image.shape == expected.shape
    torch.testing.assert_close(image, expected, rtol=0, atol=6e-8)


def deep_png(path, pixels, colour_type, *, chunks=b"", interlaced=False):
    """Writes a PNG file with 16 bits per channel and every filter, which Pillow cannot in colour."""
    height, width = pixels.shape[:2]
    step = pixels.reshape(height, width, -1).shape[2] * 2

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def paeth(a, b, c):
        p = int(a) + int(b) - int(c)
        return min((abs(p - int(a)), 0, a), (abs(p - int(b)), 1, b), (abs(p - int(c)), 2, c))[2]

    def filtered(part):
        rows = np.ascontiguousarray(part.astype(">u2")).view(np.uint8).reshape(len(part), -1).astype(int)
        out, above = b"", np.zeros(rows.shape[1], dtype=int)
        for index, row in enumerate(rows):
            left = np.concatenate([np.zeros(step, dtype=int), row[:-step]])
            corner = np.concatenate([np.zeros(step, dtype=int), above[:-step]])
            kind = index % 5
            guess = {
                0: 0,
                1: left,
                2: above,
                3: (left + above) // 2,
                4: np.array([paeth(*abc) for abc in zip(left, above, corner, strict=True)]),
            }[kind]
            out += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
            above = row
        return out

    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[y::dy, x::dx] for y, x, dy, dx in adam7] if interlaced else [pixels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, int(interlaced))
    data = zlib.compress(b"".join(filtered(part) for part in parts))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def oriented(pixels, orientation):
    """Stored pixels turned upright by Pillow's own transpositions."""
    methods = [None, None, 0, 3, 1, 5, 4, 6, 2]  # FLIP_LEFT_RIGHT 0, FLIP_TOP_BOTTOM 1, ROTATE_90 2, ...
    method = methods[orientation]
    image = Image.fromarray(pixels)
    return np.asarray(image if method is None else image.transpose(Image.Transpose(method)))


# Arrays and tensors


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 5, 15])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_array_is_divided_by_its_dtypes_maximum(dtype, channels):
    pixels = pixels_of(dtype, channels)
    expected = expected_of(pixels)
    assert_image(as_image(pixels), expected)
    if channels is not None:
        assert_image(as_image(pixels.transpose(2, 0, 1)), expected)
        assert_image(as_image(np.ascontiguousarray(pixels.transpose(2, 0, 1))), expected)


def test_scale_does_not_depend_on_the_image():
    pixels = np.full((HEIGHT, WIDTH), 3, dtype=np.uint16)
    assert_image(as_image(pixels), torch.full((1, HEIGHT, WIDTH), 3 / 65535))


def test_big_endian_and_booleans():
    pixels = pixels_of(np.uint16, 3)
    assert_image(as_image(pixels.astype(">u2")), expected_of(pixels))
    mask = pixels_of(np.uint8) > 100
    assert_image(as_image(mask), torch.from_numpy(mask[None].astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_kept_as_they_are(dtype):
    pixels = np.random.default_rng(0).random((3, HEIGHT, WIDTH)).astype(dtype)
    assert_image(as_image(pixels), torch.from_numpy(pixels.astype(np.float32)))


def test_float_tolerance_is_clipped_and_no_more():
    pixels = np.full((HEIGHT, WIDTH), 0.5)
    pixels[0, :2] = -9e-7, 1 + 9e-7
    image = as_image(pixels)
    assert image.min() == 0
    assert image.max() == 1
    for value in (-2e-6, 1 + 2e-6):
        pixels[0, 0] = value
        with pytest.raises(ImageError, match=r"^image: holds values outside \[0, 1\]"):
            as_image(pixels)


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.uint16, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64],
)
def test_tensor_is_channels_first(dtype):
    values = torch.zeros(3, HEIGHT, WIDTH)
    values[1] = 1
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    tensor = (values * top).to(dtype)
    assert_image(as_image(tensor), values)
    assert_image(as_image(tensor[1]), values[1:2])


def test_tensor_layout():
    tensor = torch.rand(8, 9, 10)
    assert_image(as_image(tensor), tensor)
    assert_image(as_image(tensor, layout="HWC"), tensor.permute(2, 0, 1).contiguous())
    photograph = torch.rand(HEIGHT, WIDTH, 3)
    with pytest.raises(
        ImageError, match=r"image: is a tensor, read as CHW.* 3 channels of 20 x 24 .*layout="
    ):
        as_image(photograph)
    assert_image(as_image(photograph, layout="HWC"), photograph.permute(2, 0, 1).contiguous())
    assert_image(as_image(photograph, layout="CHW"), photograph)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 3), (15, 30, 15), (20, 24, 28), (16, 16, 16)])
def test_ambiguous_layout(shape):
    pixels = np.random.default_rng(0).random(shape)
    with pytest.raises(
        ImageError, match=r'image: has an ambiguous layout.*Pass layout="CHW" or layout="HWC"'
    ):
        as_image(pixels)
    assert as_image(pixels, layout="CHW").shape == shape
    assert as_image(pixels, layout="HWC").shape == (shape[2], *shape[:2])


@pytest.mark.parametrize("shape", [(3, 16, 16), (16, 16, 3)])
def test_sixteen_pixels_are_not_channels(shape):
    assert as_image(np.zeros(shape)).shape == (3, 16, 16)


def test_unknown_layout_word():
    with pytest.raises(OptionError, match=r"layout: must be CHW or HWC \(received 'NHWC'\)"):
        as_image(np.zeros((3, 32, 32)), layout="NHWC")
    with pytest.raises(OptionError, match=r"layout: must be CHW or HWC"):
        as_images([np.zeros((3, 32, 32))], layout="hwc")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (np.zeros((0, 5)), r"image: is empty \(received float64 \(1, 0, 5\)\)"),
        (np.zeros((3, 0, 20)), "image: is empty"),
        (torch.zeros(0, 20, 20), "image: is empty"),
        (np.zeros((1, 1)), r"image: must be at least 2 x 2 pixels"),
        (np.zeros((3, 1, 20)), r"image: must be at least 2 x 2 pixels"),
        (np.float64(0.5), "image: must be a path, a PIL image, an array or a tensor"),
        (np.array(0.5), "image: must have the axes of one image.* 0 axes"),
        (np.zeros(9), "image: must have the axes of one image.* 1 axes"),
        (
            np.zeros((1, 3, 20, 20)),
            "image: must have the axes of one image.* 4 axes.*Pass a batch to as_images",
        ),
        (
            torch.zeros(1, 3, 20, 20),
            "image: must have the axes of one image.* 4 axes.*Pass a batch to as_images",
        ),
        (np.zeros((1, 1, 3, 20, 20)), "image: must have the axes of one image.* 5 axes.*Pass one image"),
        (np.zeros((20, 20), dtype=complex), r"image: must hold real numbers \(received complex128"),
        (np.zeros((20, 20), dtype=object), r"image: must hold real numbers \(received object"),
        (np.full((20, 20), "a"), "image: must hold real numbers"),
        (np.zeros((20, 20), dtype="M8[s]"), "image: must hold real numbers"),
        (torch.zeros(20, 20, dtype=torch.complex64), "image: must hold real numbers"),
        (torch.zeros(20, 20).to_sparse(), "image: must be a dense tensor of real numbers.*sparse"),
        (torch.zeros(20, 20, device="meta"), "image: must be a dense tensor of real numbers.*meta"),
        (None, r"image: must be a path, a PIL image, an array or a tensor \(received NoneType\)"),
        ([[0.0, 1.0], [1.0, 0.0]], r"received list\). Convert it with numpy.asarray first"),
        (b"image.png", "received bytes"),
        (np.ma.masked_greater(np.eye(20), 0.5), r"image: has masked pixels \(received 20 of 400 masked\)"),
    ],
)
def test_what_is_not_an_image(source, text):
    with pytest.raises(ImageError, match=text):
        as_image(source)


def test_mask_without_masked_pixels():
    pixels = pixels_of(np.uint8)
    assert_image(as_image(np.ma.masked_array(pixels, mask=False)), expected_of(pixels))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [None, (0, 10)])
def test_not_finite(bad, scale):
    pixels = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    pixels[1, 2, 3:5] = bad
    text = r"image: holds NaN or infinite values \(received 2 of 1440 values\).*nan_to_num"
    with pytest.raises(ImageError, match=text):
        as_image(pixels, range=scale)
    with pytest.raises(ImageError, match=text):
        as_image(torch.from_numpy(pixels), range=scale)


# Ranges


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ((0.0, 255.0), r"from 0 to 255\).*range=\(0, 255\)"),
        ((-1.0, 1.0), r"from -1 to 1\).*range=\(-1, 1\)"),
        ((-1000.0, 3000.0), r"from -1000 to 3000\).*range=\(low, high\)"),
        ((0.0, 1e300), r"from 0 to 1e\+300\).*range=\(low, high\)"),
    ],
)
def test_other_float_scales_are_refused_with_the_likely_range(values, remedy):
    pixels = np.full((HEIGHT, WIDTH), values[0])
    pixels[3, 4] = values[1]
    with pytest.raises(
        ImageError, match=r"image: holds values outside \[0, 1\] \(received float64 " + remedy
    ):
        as_image(pixels)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_other_whole_numbers_need_a_range(dtype):
    pixels = np.arange(100, dtype=dtype).reshape(10, 10)
    with pytest.raises(
        ImageError, match=rf"unknown scale \(received {np.dtype(dtype)} from 0 to 99\).*range="
    ):
        as_image(pixels)
    expected = torch.arange(100, dtype=torch.float64).reshape(1, 10, 10) / 99
    assert_image(as_image(pixels, range=(0, 99)), expected.float())


def test_range_overrides_the_dtypes_maximum():
    pixels = np.full((HEIGHT, WIDTH), 1024, dtype=np.uint16)
    assert_image(as_image(pixels, range=(0, 4096)), torch.full((1, HEIGHT, WIDTH), 0.25))


def test_range_with_an_offset():
    pixels = np.linspace(-3, 5, 100).reshape(10, 10)
    image = as_image(pixels, range=(-5, 5))
    torch.testing.assert_close(image[0, 0, 0], torch.tensor(0.2))
    torch.testing.assert_close(image[0, 9, 9], torch.tensor(1.0))


THREE = [(0, 10), (100, 200), (-1, 1)]


@pytest.mark.parametrize(
    "scale", [THREE, tuple(THREE), np.array(THREE), tuple(zip(*THREE, strict=True)), np.array(THREE).T]
)
def test_one_range_per_channel(scale):
    pixels = np.stack([np.full((16, 17), value) for value in (5.0, 125.0, 0.5)])
    expected = torch.tensor([0.5, 0.25, 0.75])[:, None, None].expand(3, 16, 17).contiguous()
    assert_image(as_image(pixels, range=scale), expected)
    assert_image(as_image(pixels.transpose(1, 2, 0), range=scale), expected)


def test_two_channels_are_read_one_way_or_refused():
    pixels = np.stack([np.full((16, 17), 5.0), np.full((16, 17), 150.0)])
    expected = torch.tensor([0.5, 0.75])[:, None, None].expand(2, 16, 17).contiguous()
    assert_image(as_image(pixels, range=[(0, 10), (0, 200)]), expected)
    assert_image(as_image(pixels, range=((0, 10), (0, 200))), expected)  # lows below highs only as pairs
    assert_image(as_image(pixels, range=((0, 0), (10, 200))), expected)  # only as lows and highs
    expected[1] = 0.5
    assert_image(as_image(pixels, range=[(0, 10), (100, 200)]), expected)
    with pytest.raises(OptionError, match=r"range: is ambiguous for two channels.*Pass a list"):
        as_image(pixels, range=((0, 10), (100, 200)))


@pytest.mark.parametrize(
    "scale", [5, "ab", (1,), (0, 1, 2), [(0, 1)] * 2, [(0, 1), (0,)], [(0, 1, 2)] * 3, None.__class__, {0: 1}]
)
def test_range_of_a_wrong_form(scale):
    with pytest.raises(
        OptionError, match=r"range: must be \(low, high\) or a list .* pair per channel, 3 here"
    ):
        as_image(np.zeros((3, 16, 16)), range=scale)


@pytest.mark.parametrize(
    "scale", [(1, 0), (1, 1), (0, np.inf), (np.nan, 1), (-1e308, 1e308), [(0, 1), (2, 2), (0, 1)]]
)
def test_range_without_extent(scale):
    with pytest.raises(OptionError, match="range: must have low below high, both finite, for every channel"):
        as_image(np.zeros((3, 16, 16)), range=scale)


def test_outside_the_given_range():
    pixels = np.zeros((3, HEIGHT, WIDTH))
    pixels[2, 0, 0] = 11
    text = (
        r"holds values outside range=\(0, 10\) in channel 2 \(received 0 to 11, 1 of 480 pixels .*numpy.clip"
    )
    with pytest.raises(ImageError, match=text):
        as_image(pixels, range=(0, 10))
    with pytest.raises(ImageError, match="in channel 2"):
        as_image(np.where(pixels > 0, 1e308, 0), range=(0, 1e-300))


# Inputs stay as they are


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, bool])
def test_array_is_neither_changed_nor_shared(dtype):
    pixels = np.random.default_rng(0).integers(0, 2, (3, HEIGHT, WIDTH)).astype(dtype)
    before = pixels.copy()
    pixels.flags.writeable = False
    image, batch = as_image(pixels), as_images(pixels[None])
    image.fill_(0.5)
    batch.fill_(0.5)
    np.testing.assert_array_equal(pixels, before)
    assert not np.shares_memory(image.numpy(), pixels)
    assert not np.shares_memory(batch.numpy(), pixels)


def test_tensor_is_neither_changed_nor_shared():
    tensor = torch.rand(3, HEIGHT, WIDTH, requires_grad=True)
    before = tensor.detach().clone()
    image, batch, listed = as_image(tensor), as_images(tensor[None]), as_images([tensor])
    assert not image.requires_grad
    for result in (image, batch, listed):
        result.fill_(2)
    assert torch.equal(tensor.detach(), before)
    assert tensor.requires_grad
    assert tensor.grad is None


def test_overshoot_is_clipped_in_the_copy_only():
    tensor = torch.full((3, HEIGHT, WIDTH), 1 + 5e-7)
    assert as_image(tensor).max() == 1
    assert tensor.max() > 1


def test_pil_image_is_neither_changed_nor_shared():
    picture = Image.fromarray(pixels_of(np.uint8, 3))
    picture.info["transparency"] = (1, 2, 3)
    picture.getexif()[0x0112] = 6
    before, info = picture.tobytes(), dict(picture.info)
    as_image(picture).fill_(0.5)
    assert picture.tobytes() == before
    assert picture.info == info
    assert picture.mode == "RGB"
    assert picture.size == (WIDTH, HEIGHT)
    assert picture.getexif()[0x0112] == 6


# PIL images


@pytest.mark.parametrize("channels", [None, 3])
def test_pil_image(channels):
    pixels = pixels_of(np.uint8, channels)
    assert_image(as_image(Image.fromarray(pixels)), expected_of(pixels))


def test_pil_deep_modes():
    pixels = pixels_of(np.uint16)
    assert_image(as_image(Image.fromarray(pixels)), expected_of(pixels))
    whole = Image.fromarray(pixels.astype(np.int32))
    assert whole.mode == "I"
    with pytest.raises(ImageError, match="image: has whole-number pixels of an unknown scale"):
        as_image(whole)
    assert_image(as_image(whole, range=(0, 65535)), expected_of(pixels))
    floats = np.random.default_rng(0).random((HEIGHT, WIDTH), dtype=np.float32)
    assert_image(as_image(Image.fromarray(floats)), torch.from_numpy(floats[None]))


def test_pil_bilevel():
    mask = pixels_of(np.uint8) > 100
    assert_image(as_image(Image.fromarray(mask)), torch.from_numpy(mask[None].astype(np.float32)))


def test_pil_ycbcr_is_rgb():
    picture = Image.fromarray(pixels_of(np.uint8, 3)).convert("YCbCr")
    assert_image(as_image(picture), expected_of(np.asarray(picture.convert("RGB"))))


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "LAB", "RGBa"])
def test_pil_other_colour_spaces(mode):
    picture = Image.new(mode, (WIDTH, HEIGHT))
    with pytest.raises(
        ImageError, match=rf'image: has a colour space .* \(received mode {mode}\).*convert\("RGB"\)'
    ):
        as_image(picture)


def test_closed_pil_image(tmp_path):
    Image.fromarray(pixels_of(np.uint8)).save(tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png")
    picture.close()
    with pytest.raises(ImageError, match="image: cannot be read as an image"):
        as_image(picture)


# Alpha and palettes


@pytest.mark.parametrize("colours", [1, 3])
def test_alpha_is_dropped_only_if_opaque(tmp_path, colours):
    pixels = pixels_of(np.uint8, colours + 1)
    mode = {1: "LA", 3: "RGBA"}[colours]
    text = r"has an alpha channel that is not opaque \(received .*% of the pixels transparent\).*background"
    for opaque in (True, False):
        pixels[..., -1] = 255
        pixels[3, 4, -1] = 255 if opaque else 254
        picture = Image.frombytes(mode, (WIDTH, HEIGHT), pixels.tobytes())
        picture.save(tmp_path / "alpha.png")
        for source in (picture, tmp_path / "alpha.png"):
            if opaque:
                assert_image(as_image(source), expected_of(pixels[..., :-1]))
            else:
                with pytest.raises(ImageError, match=text):
                    as_image(source)


def test_four_channels_of_an_array_are_data():
    assert as_image(pixels_of(np.uint8, 4)).shape == (4, HEIGHT, WIDTH)


def test_palette_becomes_rgb(tmp_path):
    picture = Image.fromarray(pixels_of(np.uint8, 3)).quantize(16)
    picture.save(tmp_path / "palette.png")
    with Image.open(tmp_path / "palette.png") as stored:
        assert stored.mode == "P"
    expected = expected_of(np.asarray(picture.convert("RGB")))
    assert_image(as_image(picture), expected)
    assert_image(as_image(tmp_path / "palette.png"), expected)


def test_transparent_colour(tmp_path):
    grey = Image.fromarray(np.full((HEIGHT, WIDTH), 7, dtype=np.uint8))
    cases = {"grey": (grey, 7, 8), "colour": (grey.convert("RGB"), (7, 7, 7), (7, 7, 8))}
    cases["bilevel"] = (Image.new("1", grey.size), 0, 255)
    palette = grey.convert("RGB").quantize(2)
    used = int(np.asarray(palette)[0, 0])
    cases["palette"] = (palette, used, 1 - used)
    for name, (picture, present, absent) in cases.items():
        picture.save(tmp_path / f"{name}.png", transparency=absent)
        assert as_image(tmp_path / f"{name}.png").unique().numel() == 1, name
        picture.save(tmp_path / f"{name}.png", transparency=present)
        with pytest.raises(ImageError, match=rf"{name}\.png: has an alpha channel that is not opaque"):
            as_image(tmp_path / f"{name}.png")


# Files


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("channels", [None, 3])
def test_8_bit_files(tmp_path, suffix, channels):
    pixels = pixels_of(np.uint8, channels)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels).save(path)
    assert_image(as_image(path), expected_of(pixels))
    assert_image(as_image(str(path)), expected_of(pixels))


@pytest.mark.parametrize("channels", [None, 3])
def test_jpeg(tmp_path, channels):
    Image.fromarray(pixels_of(np.uint8, channels)).save(tmp_path / "image.jpg")
    with Image.open(tmp_path / "image.jpg") as stored:
        decoded = np.asarray(stored)
    assert_image(as_image(tmp_path / "image.jpg"), expected_of(decoded))


def test_cmyk_jpeg_is_refused(tmp_path):
    Image.new("CMYK", (WIDTH, HEIGHT)).save(tmp_path / "image.jpg")
    with pytest.raises(ImageError, match=r"image\.jpg: has a colour space that is not grey or RGB .*CMYK"):
        as_image(tmp_path / "image.jpg")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_keeps_all_its_bits(tmp_path, colour_type, channels, interlaced):
    pixels = pixels_of(np.uint16, channels)
    if colour_type >= 4:
        pixels[..., -1] = 65535
    path = deep_png(tmp_path / "deep.png", pixels, colour_type, interlaced=interlaced)
    colours = pixels[..., :-1] if colour_type >= 4 else pixels
    assert_image(as_image(path), expected_of(colours))
    if colour_type >= 4:
        pixels[3, 4, -1] = 65534  # lost in the high byte
        deep_png(path, pixels, colour_type, interlaced=interlaced)
        with pytest.raises(ImageError, match=r"deep\.png: has an alpha channel that is not opaque"):
            as_image(path)


def test_16_bit_png_as_pillow_writes_it(tmp_path):
    pixels = pixels_of(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    assert_image(as_image(tmp_path / "deep.png"), expected_of(pixels))


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_with_a_transparent_colour(tmp_path, colour_type, channels):
    pixels = np.full((HEIGHT, WIDTH, channels), 700, dtype=np.uint16)
    for value in (701, 700):
        data = struct.pack(">" + "H" * channels, *[value] * channels)
        chunk = struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))
        path = deep_png(tmp_path / "deep.png", pixels, colour_type, chunks=chunk)
        if value == 701:
            assert_image(as_image(path), expected_of(pixels))
        else:
            with pytest.raises(ImageError, match="alpha channel that is not opaque"):
                as_image(path)


def test_16_bit_png_orientation(tmp_path):
    pixels = pixels_of(np.uint16, 3)
    data = exif_of(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    path = deep_png(tmp_path / "deep.png", pixels, 2, chunks=chunk)
    assert_image(as_image(path), expected_of(np.rot90(pixels, -1)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    pixels = pixels_of(np.uint8, 3)
    expected = expected_of(oriented(pixels, orientation))
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif_of(orientation))
    assert_image(as_image(tmp_path / "a.png"), expected)
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=tag)
    assert_image(as_image(tmp_path / "a.tif"), expected)
    Image.fromarray(pixels).save(tmp_path / "lzw.tif", compression="tiff_lzw", tiffinfo={274: orientation})
    assert_image(as_image(tmp_path / "lzw.tif"), expected)
    with Image.open(tmp_path / "a.png") as opened:
        assert_image(as_image(opened), expected)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif_of(orientation), quality=95)
    with Image.open(tmp_path / "a.jpg") as stored:
        decoded = oriented(np.asarray(stored), orientation)
    assert_image(as_image(tmp_path / "a.jpg"), expected_of(decoded))


def test_the_first_picture_of_a_camera_file(tmp_path):
    pixels = pixels_of(np.uint8, 3)
    preview = Image.fromarray(pixels[::2, ::2])
    Image.fromarray(pixels).save(tmp_path / "a.mpo", save_all=True, append_images=[preview])
    photograph = (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert as_image(photograph).shape == (3, HEIGHT, WIDTH)


def test_animation_is_refused(tmp_path):
    frames = [Image.fromarray(pixels_of(np.uint8, 3, seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(
        ImageError, match=r"a\.png: holds several frames \(received 2 frames\).*image\.copy\(\)"
    ):
        as_image(tmp_path / "a.png")


def test_the_files_content_counts_not_its_name(tmp_path):
    pixels = pixels_of(np.uint8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").rename(tmp_path / "a.jpg")
    assert_image(as_image(tmp_path / "a.jpg"), expected_of(pixels))


def test_tilde_in_a_file_name(tmp_path, monkeypatch):
    pixels = pixels_of(np.uint8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(pixels).save(tmp_path / "~draft.png")
    assert_image(as_image("~draft.png"), expected_of(pixels))
    assert_image(as_image("~/~draft.png"), expected_of(pixels))


# TIFF


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("channels", [None, 3])
def test_tiff_files(tmp_path, dtype, compression, channels):
    pixels = pixels_of(dtype, channels)
    photometric = "minisblack" if channels is None else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, compression=compression)
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels))
    assert_image(as_image(tmp_path / "a.tif", layout="CHW"), expected_of(pixels))  # the file knows better


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("metadata", [{}, None, {"axes": "CYX"}, {"axes": "ZYX"}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_stack_is_one_channel_per_page(tmp_path, dtype, channels, metadata, byteorder):
    stack = np.random.default_rng(0).integers(0, 2, (channels, HEIGHT, WIDTH)).astype(dtype)
    options = {"photometric": "minisblack", "metadata": metadata, "byteorder": byteorder}
    tifffile.imwrite(tmp_path / "a.tif", stack, **options)
    expected = torch.from_numpy(stack.astype(np.float64)).div(
        1 if dtype == np.float32 else np.iinfo(dtype).max
    )
    assert_image(as_image(tmp_path / "a.tif"), expected.float())


def test_imagej_and_ome_stacks(tmp_path):
    stack = pixels_of(np.uint16, 4).transpose(2, 0, 1)
    expected = expected_of(stack.transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True, metadata={"axes": "CYX"})
    assert_image(as_image(tmp_path / "imagej.tif"), expected)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "CYX"}, photometric="minisblack")
    assert_image(as_image(tmp_path / "a.ome.tif"), expected)
    singles = stack[:, None, None]
    tifffile.imwrite(
        tmp_path / "singles.ome.tif", singles, metadata={"axes": "CTZYX"}, photometric="minisblack"
    )
    assert_image(as_image(tmp_path / "singles.ome.tif"), expected)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_samples(tmp_path, planar):
    pixels = pixels_of(np.uint16, 5)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar)
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels))


def test_small_labelled_stack_is_not_ambiguous(tmp_path):
    stack = np.zeros((3, 8, 9), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "labelled.tif", stack, photometric="minisblack", metadata={"axes": "CYX"})
    assert as_image(tmp_path / "labelled.tif").shape == (3, 8, 9)
    tifffile.imwrite(tmp_path / "pages.tif", stack, photometric="minisblack", metadata=None)
    assert as_image(tmp_path / "pages.tif").shape == (3, 8, 9)
    tifffile.imwrite(tmp_path / "array.tif", stack, photometric="minisblack")
    with pytest.raises(ImageError, match=r"array\.tif: has an ambiguous layout"):
        as_image(tmp_path / "array.tif")
    assert as_image(tmp_path / "array.tif", layout="CHW").shape == (3, 8, 9)
    assert as_image(tmp_path / "array.tif", layout="HWC").shape == (9, 3, 8)


def test_array_written_to_tiff_without_saying_what_its_axes_are(tmp_path):
    pixels = pixels_of(np.uint16, 5)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")  # 20 pages of 24 x 5
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels))


@pytest.mark.parametrize("metadata", [{}, None, {"axes": "TYX"}])
def test_long_stack_must_be_said_to_be_channels(tmp_path, metadata):
    stack = np.zeros((30, HEIGHT, WIDTH), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata=metadata)
    with pytest.raises(ImageError, match=r"a\.tif: has an ambiguous layout, CHW \(30 channels of 20 x 24\)"):
        as_image(tmp_path / "a.tif")
    assert as_image(tmp_path / "a.tif", layout="CHW").shape == stack.shape


def test_tiff_with_more_axes(tmp_path):
    stack = np.zeros((3, 4, HEIGHT, WIDTH), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata={"axes": "ZCYX"})
    with pytest.raises(
        ImageError, match=r"has more axes than one image \(received axes ZCYX, shape \(3, 4, 20, 24\)"
    ):
        as_image(tmp_path / "a.tif")


def test_tiff_with_pages_of_different_shapes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for side in (20, 30):
            writer.write(np.zeros((side, side), dtype=np.uint8), photometric="minisblack")
    text = r"holds images of different shapes \(received \(20, 20\), \(30, 30\)\). Load the pixels yourself"
    with pytest.raises(ImageError, match=text):
        as_image(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_alpha(tmp_path, dtype):
    pixels = pixels_of(dtype, 4)
    full = np.iinfo(dtype).max
    pixels[..., 3] = full
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels[..., :3]))
    pixels[3, 4, 3] = full - 1
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(
        ImageError, match=r"a\.tif: has an alpha channel that is not opaque .*load the pixels"
    ):
        as_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels))


def test_tiff_alpha_before_another_sample(tmp_path):
    pixels = pixels_of(np.uint8, 5)
    pixels[..., 3] = 255
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha", "unspecified"]
    )
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels[..., [0, 1, 2, 4]]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_white_is_zero(tmp_path, dtype):
    pixels = pixels_of(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    assert_image(as_image(tmp_path / "a.tif"), 1 - expected_of(pixels))


def test_tiff_bilevel(tmp_path):
    mask = pixels_of(np.uint8) > 100
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    assert_image(as_image(tmp_path / "a.tif"), torch.from_numpy(mask[None].astype(np.float32)))


def test_tiff_palette(tmp_path):
    pixels = pixels_of(np.uint8)
    colours = np.random.default_rng(1).integers(0, 65536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="palette", colormap=colours)
    assert_image(as_image(tmp_path / "a.tif"), expected_of(colours[:, pixels].transpose(1, 2, 0)))


def test_tiff_other_colour_space(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels_of(np.uint8, 4), photometric="separated")
    with pytest.raises(
        ImageError, match=r"a\.tif: has a colour space that is not grey or RGB \(received SEPARATED"
    ):
        as_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, None), (np.uint8, 3), (np.uint16, None)])
def test_compressed_tiff(tmp_path, compression, dtype, channels):
    pixels = pixels_of(dtype, channels)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels))


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs can undo it")
def test_compressed_tiff_is_never_read_at_half_its_depth(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels_of(np.uint16, 3), photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(int(tifffile.COMPRESSION.LZW))
    text = r"a\.tif: has a compression .* \(received LZW, 3 x 16 bits\)\. Install the imagecodecs package"
    with pytest.raises(ImageError, match=text):
        as_image(tmp_path / "a.tif")


def test_compressed_tiff_stack(tmp_path):
    pixels = pixels_of(np.uint16, 4)
    pages = [Image.fromarray(np.ascontiguousarray(pixels[..., channel])) for channel in range(4)]
    pages[0].save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    assert_image(as_image(tmp_path / "a.tif"), expected_of(pixels))


def test_compressed_tiff_stack_of_colour_pages(tmp_path):
    pages = [Image.fromarray(pixels_of(np.uint8, 3, seed)) for seed in (0, 1)]
    pages[0].save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="has more axes than one image"):
        as_image(tmp_path / "a.tif")


def test_tiff_with_jpeg_inside(tmp_path):
    Image.fromarray(pixels_of(np.uint8, 3)).save(tmp_path / "a.tif", compression="jpeg")
    with Image.open(tmp_path / "a.tif") as stored:
        decoded = np.asarray(stored.convert("RGB"))
    assert_image(as_image(tmp_path / "a.tif"), expected_of(decoded))


def test_pil_image_of_a_tiff_stack(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 32, 32), dtype=np.uint8), photometric="minisblack")
    with Image.open(tmp_path / "a.tif") as picture:
        with pytest.raises(ImageError, match=r"image: holds several frames .* of a TIFF stack pass the path"):
            as_image(picture)
        picture.seek(1)
        assert as_image(picture.copy()).shape == (1, 32, 32)


# Files that cannot be read


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(ImageError, match=r"nothing\.png: does not exist .*Check the path"):
        as_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match=r"is a folder, not an image .*the folder to as_images"):
        as_image(tmp_path)
    with pytest.raises(ImageError, match="is a folder, not an image"):
        as_image("")
    with pytest.raises(ImageError, match="does not exist"):
        as_image("nothing\0.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: is an empty file \(received 0 bytes\)"):
        as_image(tmp_path / "empty.png")
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(
        ImageError, match=r"notes\.png: cannot be read as an image, .*Pass a PNG, JPEG, TIFF or DICOM file"
    ):
        as_image(tmp_path / "notes.png")


def written(path, kind):
    if kind == "deep.png":
        deep_png(path, pixels_of(np.uint16, 3), 2)
    elif kind == "stack.tif":
        tifffile.imwrite(path, pixels_of(np.uint16, 3).transpose(2, 0, 1), photometric="minisblack")
    elif kind == "lzw.tif":
        Image.fromarray(pixels_of(np.uint8, 3)).save(path, compression="tiff_lzw")
    else:
        Image.fromarray(pixels_of(np.uint8, 3)).save(path)
    return path.read_bytes()


KINDS = ["plain.png", "deep.png", "plain.jpg", "plain.tif", "stack.tif", "lzw.tif", "plain.bmp", "plain.webp"]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused(tmp_path, kind):
    content = written(tmp_path / kind, kind)
    for share in (0.01, 0.1, 0.5, 0.9):
        (tmp_path / kind).write_bytes(content[: max(int(len(content) * share), 1)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow also warns about some truncated files
            with pytest.raises(ImageError, match=rf"{kind}: "):
                as_image(tmp_path / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_never_raise_anything_else(tmp_path, kind):
    content = written(tmp_path / kind, kind)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = np.frombuffer(content, dtype=np.uint8).copy()
        where = rng.integers(0, min(len(content), 400), 5)
        damaged[where] = rng.integers(0, 256, 5)
        (tmp_path / kind).write_bytes(damaged.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert as_image(tmp_path / kind).dtype == torch.float32
            except ImageError:
                refused += 1
    assert refused > 0


# Batches


def test_batch_from_an_array():
    pixels = np.stack([pixels_of(np.uint8, 3, seed) for seed in range(4)])
    expected = torch.stack([expected_of(image) for image in pixels])
    assert_image(as_images(pixels), expected)
    assert_image(as_images(pixels.transpose(0, 3, 1, 2)), expected)
    assert_image(as_images(torch.from_numpy(pixels).permute(0, 3, 1, 2)), expected)
    assert_image(as_images(torch.from_numpy(pixels), layout="HWC"), expected)
    assert_image(as_images(list(pixels)), expected)
    assert_image(as_images(image for image in pixels), expected)
    assert_image(as_images(pixels, range=(0, 255)), expected)


def test_batch_layout_and_range():
    with pytest.raises(ImageError, match=r"images: has an ambiguous layout, CHW \(8 channels of 8 x 3\)"):
        as_images(np.zeros((2, 8, 8, 3)))
    assert as_images(np.zeros((2, 8, 8, 3)), layout="HWC").shape == (2, 3, 8, 8)
    with pytest.raises(ImageError, match=r"images: is a tensor, read as CHW"):
        as_images(torch.zeros(2, 32, 32, 3))
    pixels = np.full((2, 2, 16, 17), 5)
    images = as_images(pixels, range=[(0, 10), (0, 20)])
    assert images[:, 0].unique().tolist() == [0.5]
    assert images[:, 1].unique().tolist() == [0.25]


def test_the_wrong_image_of_a_batch_is_named():
    pixels = np.zeros((5, 3, 16, 16))
    pixels[3, 0, 0, 0] = np.nan
    pixels[4, 0, 0, 0] = 7
    with pytest.raises(ImageError, match=r"^images\[3\]: holds NaN"):
        as_images(pixels)
    with pytest.raises(ImageError, match=r"^images\[3\]: holds NaN"):
        as_images(list(pixels))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (np.zeros((3, 16, 16)), r"images: must have four axes: .*received 3 axes.*images\[:, None\]"),
        (torch.zeros(16, 16), r"images: must have four axes: .*received 2 axes"),
        (np.zeros((0, 3, 16, 16)), r"images: is empty \(received ndarray\)"),
        ([], r"images: is empty \(received list\). Pass at least one image"),
        (5, r"images: must be an array, a list, a folder or a table of images \(received int\)"),
        (None, r"received NoneType"),
        ({"a.png": 1}, r"received dict"),
        ({"a.png"}, r"received set"),
        (b"ab", r"received bytes"),
        (Image.new("L", (16, 16)), r"received Image\).*\[image\] or as_image"),
        ([np.zeros((16, 16)), None], r"images\[1\]: must be a path, a PIL image, an array or a tensor"),
        ("nowhere", r"images: does not exist \(received nowhere\)"),
        ("nowhere.csv", r"images: does not exist \(received nowhere\.csv\)"),
    ],
)
def test_what_is_not_a_batch(source, text):
    with pytest.raises(ImageError, match=text):
        as_images(source)


def test_mixed_list(tmp_path):
    pixels = pixels_of(np.uint8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sources = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        pixels,
        Image.fromarray(pixels),
        expected_of(pixels),
    ]
    assert_image(as_images(sources), expected_of(pixels).expand(5, -1, -1, -1))


def test_the_first_image_of_another_shape_is_named(tmp_path):
    text = r"images\[2\]: differs in shape from the first image, images\[0\], which is \(1, 16, 16\) " + (
        r"\(received \(1, 16, 17\) at position 2\)\. Bring all"
    )
    with pytest.raises(ImageError, match=text):
        as_images([np.zeros((16, 16))] * 2 + [np.zeros((16, 17))] * 2)
    for index, channels in enumerate((3, 3, None)):
        Image.fromarray(pixels_of(np.uint8, channels)).save(tmp_path / f"{index}.png")
    text = r"2\.png: differs in shape from .*0\.png, which is \(3, 20, 24\) \(received \(1, 20, 24\)"
    with pytest.raises(ImageError, match=text):
        as_images(tmp_path)


def filled_folder(folder, names):
    """Folder of one-channel images whose constant grey value is their position in `names`."""
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 9), index, dtype=np.uint8)).save(path)
    return folder


def grey_values(images):
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def test_folder_in_natural_order(tmp_path):
    names = ["a1.png", "a2.png", "A3.PNG", "a10.tif", "a10b.bmp", "b.jpg", "b007.png", "b07.jpeg", "b7.tiff"]
    filled_folder(tmp_path, names)
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == names
    assert list_images(str(tmp_path))[0] == tmp_path / "a1.png"
    assert grey_values(as_images(tmp_path)) == list(range(9))
    assert grey_values(as_images(str(tmp_path))) == list(range(9))


def test_folder_without_images(tmp_path):
    text = r"folder: holds no image files \(received .*\)\. Put \.png, .* files directly in it"
    with pytest.raises(ImageError, match=text):
        list_images(tmp_path)
    with pytest.raises(ImageError, match=text):
        as_images(tmp_path)
    with pytest.raises(ImageError, match="folder: does not exist"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageError, match="folder: is not a folder"):
        list_images(tmp_path / "a.png")
    with pytest.raises(
        ImageError, match=r"images: is one file; .*for one image \[path\], or the path to as_image"
    ):
        as_images(tmp_path / "a.png")


@pytest.mark.parametrize("column", ["path", "file", "picture"])
def test_table_of_paths(tmp_path, monkeypatch, column):
    filled_folder(tmp_path, ["b.png", "deep/a.png", "c.png"])
    paths = ["c.png", "deep/a.png", str(tmp_path / "b.png"), "c.png"]
    table = pd.DataFrame({"label": [0, 1, 0, 1], column: paths}, index=[5, 3, 9, 1])
    table.to_csv(tmp_path / "table.csv", index=False)
    options = {"paths": column} if column == "picture" else {}
    assert grey_values(as_images(tmp_path / "table.csv", **options)) == [2, 1, 0, 2]
    monkeypatch.chdir(tmp_path)
    assert grey_values(as_images(table, **options)) == [2, 1, 0, 2]
    assert grey_values(as_images(table[column])) == [2, 1, 0, 2]
    assert grey_values(as_images(table[column].to_numpy())) == [2, 1, 0, 2]
    assert grey_values(as_images(np.array(paths))) == [2, 1, 0, 2]


def test_table_errors(tmp_path):
    filled_folder(tmp_path, ["a.png"])
    text = r"paths: the table must have one column .* \(received columns a, 3\).*paths=\"filename\""
    with pytest.raises(OptionError, match=text):
        as_images(pd.DataFrame({"a": ["a.png"], 3: ["b.png"]}))
    with pytest.raises(
        OptionError, match=r"must have one column named path or file .received columns path, file"
    ):
        as_images(pd.DataFrame({"path": ["a.png"], "file": ["a.png"]}))
    with pytest.raises(OptionError, match="paths: the table must have the column name"):
        as_images(pd.DataFrame({"path": ["a.png"]}), paths="name")
    csv = tmp_path / "table.csv"
    csv.write_text("path,label\na.png,1\n,0\n")
    with pytest.raises(ImageError, match=r"images\[1\]: has no path in the column path \(received nan\)"):
        as_images(csv)
    csv.write_text("path,label\nmissing.png,1\n")
    with pytest.raises(ImageError, match=r"missing\.png: does not exist"):
        as_images(csv)
    csv.write_text("path\n")
    with pytest.raises(ImageError, match="images: is empty"):
        as_images(csv)
    for content in (b"", b'path\n"a.png', b"path\n\xff\xfe\n", b"path\n1,2,3\n1\n1,2,3,4,5\n"):
        csv.write_bytes(content)
        with pytest.raises(ImageError, match=r"table\.csv: cannot be read as a table"):
            as_images(csv)


def test_paths_needs_a_table(tmp_path):
    filled_folder(tmp_path, ["a.png"])
    for source in (tmp_path, [tmp_path / "a.png"], np.zeros((2, 3, 16, 16))):
        with pytest.raises(
            OptionError, match="paths: names a column, but the images are not a DataFrame or a CSV"
        ):
            as_images(source, paths="path")


# to_uint8


def test_to_uint8_is_the_inverse_of_as_image():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = pixels_of(np.uint8, 3)
    for pixels in (grey, colour):
        back = to_uint8(as_image(pixels))
        assert back.dtype == np.uint8
        assert back.flags.c_contiguous
        np.testing.assert_array_equal(back, pixels)


def test_to_uint8_rounds_to_the_nearest():
    pixels = np.array([[[0.0, 0.5, 128.4], [128.6, 254.4, 254.6]]]) / 255
    pixels[0, 0, 1] = 0.5  # 127.5, the one half that float32 holds exactly
    np.testing.assert_array_equal(to_uint8(pixels), [[0, 128, 128], [129, 254, 255]])
    np.testing.assert_array_equal(to_uint8(torch.from_numpy(pixels)), to_uint8(pixels))


def test_to_uint8_layout_and_errors():
    assert to_uint8(torch.rand(5, 8, 9)).shape == (8, 9, 5)
    image = torch.rand(3, 8, 9, requires_grad=True)
    assert to_uint8(image).shape == (8, 9, 3)
    for bad in (torch.full((3, 8, 9), 1.1), torch.full((3, 8, 9), torch.nan), torch.rand(1, 3, 8, 9)):
        with pytest.raises(ImageError, match=r"^image: "):
            to_uint8(bad)


# resize


def test_resize_to_the_same_size_is_the_identity():
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    for size in ((12, 10), [12, 10], torch.Size((12, 10)), images.shape[2:]):
        same = resize(images, size)
        assert torch.equal(same, before)
        same.zero_()
        assert torch.equal(images, before)
    assert torch.equal(resize(images[..., :10, :], 10), images[..., :10, :])


@pytest.mark.parametrize("size", [(6, 5), (24, 20), (5, 31), (31, 5), (1, 1)])
def test_resize_agrees_with_pillow(size):
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    small = resize(images, size)
    assert small.shape == (2, 3, *size)
    for image, result in zip(images.flatten(0, 1), small.flatten(0, 1), strict=True):
        reference = Image.fromarray(image.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
        torch.testing.assert_close(result, torch.from_numpy(np.array(reference)), rtol=0, atol=1e-6)


def test_resize_removes_what_the_small_grid_cannot_hold():
    rows = torch.arange(64) % 2
    stripes = rows.float().expand(1, 1, 64, 64)
    assert (resize(stripes, 8)[..., 1:-1] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("size", [(6, 5), (24, 20), (5, 31), (12, 10)])
def test_resize_is_linear_and_differentiable(size):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 3, 12, 10, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(resize(a - 3 * b, size), resize(a, size) - 3 * resize(b, size))
    torch.testing.assert_close(resize(torch.full_like(a, 0.3), size), torch.full((2, 3, *size), 0.3).double())
    a.requires_grad_()
    weights = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * resize(a, size)).sum(), a)
    torch.testing.assert_close((gradient * b).sum(), (weights * resize(b, size)).sum())  # the exact adjoint
    assert gradient.abs().min() > 0


def test_resize_batched_is_unbatched_and_strides_do_not_matter():
    images = torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    batch = resize(images, (7, 15))
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.cat([resize(image[None], (7, 15)) for image in images]))
    interleaved = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(resize(interleaved, (7, 15)), batch)
    assert resize(interleaved, (12, 10)).is_contiguous()


@pytest.mark.parametrize("size", [0, -3, 2.5, "8", (8,), (8, 8, 8), (8, 0), (8, 8.0), True, None, ()])
def test_resize_wrong_size(size):
    with pytest.raises(OptionError, match="size: must be one or two positive whole numbers"):
        resize(torch.rand(1, 1, 8, 8), size)


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(3, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        np.zeros((1, 3, 8, 8)),
        torch.rand(0, 3, 8, 8),
    ],
)
def test_resize_wrong_images(images):
    with pytest.raises(ImageError, match=r"images: must be floating-point images .*as_images, or as_image"):
        resize(images, 4)


# The module as a whole


def test_every_refusal_is_of_the_packages_kinds():
    assert issubclass(ImageError, ExplainerError)
    assert issubclass(ImageError, ValueError)
    with pytest.raises(ValueError, match="is a folder"):
        as_image(Path())


def test_file_is_closed_after_reading(tmp_path, recwarn):
    for kind in ("plain.png", "deep.png", "stack.tif", "lzw.tif"):
        written(tmp_path / kind, kind)
        as_image(tmp_path / kind)
        (tmp_path / kind).unlink()
    (tmp_path / "bad.tif").write_bytes(b"II*\0" + bytes(40))
    with pytest.raises(ImageError, match=r"bad\.tif"):
        as_image(tmp_path / "bad.tif")
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]


def test_damaged_pil_image():
    buffer = io.BytesIO()
    Image.fromarray(pixels_of(np.uint8, 3)).save(buffer, format="PNG")
    picture = Image.open(io.BytesIO(buffer.getvalue()[:600]))
    with pytest.raises(ImageError, match=r"image: cannot be read as an image, .*truncated"):
        as_image(picture)
