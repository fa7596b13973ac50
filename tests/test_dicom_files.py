"""DICOM files, written here: which scale their pixels have, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

from explainer.errors import DependencyError, ImageError
from explainer.image import as_image, as_images

pydicom = pytest.importorskip("pydicom")


def written(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    """A file with these pixels; tags say what differs from a plain grey image of 12 bits."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a test"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.Modality = "OT"
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, min(bits, 12), min(bits, 12) - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


RAMP = (np.arange(20 * 16) * 4095 // 319).reshape(20, 16).astype(np.uint16)


def test_twelve_bits_fill_the_scale(tmp_path: Path) -> None:
    image = as_image(written(tmp_path / "ramp.dcm", RAMP))
    assert image.shape == (1, 20, 16)
    np.testing.assert_allclose(image[0], RAMP / 4095, atol=1 / 65535)
    assert image.min() == 0
    assert image.max() == 1


def test_zero_is_white_where_the_file_says_so(tmp_path: Path) -> None:
    image = as_image(written(tmp_path / "ramp.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(image[0], 1 - RAMP / 4095, atol=1 / 65535)


def test_eight_bits_and_colours(tmp_path: Path) -> None:
    grey = (RAMP // 16).astype(np.uint8)
    tags = {"BitsStored": 8, "HighBit": 7}
    np.testing.assert_allclose(as_image(written(tmp_path / "g.dcm", grey, **tags))[0], grey / 255, atol=1e-6)
    colour = np.stack([grey, 255 - grey, grey // 2], axis=2)
    image = as_image(written(tmp_path / "c.dcm", colour, **tags))
    np.testing.assert_allclose(image, colour.transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_values_with_a_unit_need_a_range(tmp_path: Path, signed: bool) -> None:
    stored = RAMP.astype(np.int16) - 1024 if signed else RAMP
    bits = {"BitsStored": 16, "HighBit": 15} if signed else {}
    path = written(
        tmp_path / "ct.dcm", stored, RescaleSlope=1, RescaleIntercept=0 if signed else -1024, **bits
    )
    with pytest.raises(ImageError, match=r"Pass range=\("):
        as_image(path)
    image = as_image(path, range=(-1024, 3071))
    np.testing.assert_allclose(image[0], RAMP / 4095, atol=1e-6)


def test_a_folder_of_them_is_a_batch(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        written(tmp_path / f"slice{number}.dcm", RAMP // np.uint16(number))
    images = as_images(tmp_path)
    assert images.shape == (3, 1, 20, 16)
    assert images.amax((1, 2, 3)).tolist() == pytest.approx([1, 0.5, 0.1], abs=1e-3)


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"PixelData": None}, "is a DICOM file without pixels"),
        ({"NumberOfFrames": 2}, "holds several frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "has a colour space that is not grey or RGB"),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": -5, "RescaleSlope": 1},
            "of which 0 is to be shown white",
        ),
        ({"Rows": 4000}, "cannot be read as an image"),
    ],
)
def test_what_is_not_one_image_is_refused(tmp_path: Path, tags: dict[str, object], text: str) -> None:
    with pytest.raises(ImageError, match=text):
        as_image(written(tmp_path / "odd.dcm", RAMP, **tags))


def test_a_compression_without_its_plugin_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "plain.dcm", RAMP)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 60])
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)
    with pytest.raises(
        ImageError, match=r"has a compression that cannot be undone here \(received JPEG 2000"
    ):
        as_image(path)


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "ramp.dcm", RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DependencyError, match=r"progressive-explainer\[dicom\]"):
        as_image(path)
