"""Channels, size and normalisation in front of a classifier."""

import pytest
import torch
from torch.testing import assert_close

from explainer.errors import ClassifierError, OptionError
from explainer.preprocessing import Preprocessing


def images(channels: int, size: int = 4) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_nothing_is_a_copy() -> None:
    given = images(3)
    prepared = Preprocessing()(given)
    assert torch.equal(prepared, given)
    prepared.zero_()
    assert given.any()


def test_normalised_by_hand() -> None:
    prepared = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))(images(3))
    expected = images(3)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        expected[:, channel] = (expected[:, channel] - mean) / std
    assert_close(prepared, expected)
    assert_close(Preprocessing(mean=0.5)(images(2)), images(2) - 0.5)
    assert_close(Preprocessing(std=0.5)(images(2)), images(2) * 2)


def test_resized() -> None:
    checks = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 4)[None, None]
    assert_close(Preprocessing(size=2)(checks)[..., 0, 0], torch.tensor([[0.5]]), atol=0.1, rtol=0)
    assert Preprocessing(size=(5, 3))(checks).shape == (1, 1, 5, 3)


def test_channels() -> None:
    grey = images(1)
    assert torch.equal(Preprocessing(channels=3)(grey), grey.repeat(1, 3, 1, 1))
    colours = torch.eye(3)[:, :, None, None].expand(3, 3, 2, 2)
    assert_close(Preprocessing(channels=1)(colours)[:, 0, 0, 0], torch.tensor([0.299, 0.587, 0.114]))
    assert torch.equal(Preprocessing(channels=3)(images(3)), images(3))


def test_gradient_reaches_the_image_at_its_own_size() -> None:
    given = images(3, size=9).double().requires_grad_()
    preprocessing = Preprocessing(size=4, mean=0.5, std=(0.5, 1.0, 2.0))
    (gradient,) = torch.autograd.grad(preprocessing(given).sum(), given)
    # the sum of a resized image is (4 / 9)^2 times the sum of the image, then divided by std
    assert gradient.shape == given.shape
    per_channel = torch.tensor([32.0, 16.0, 8.0], dtype=torch.float64)
    assert_close(gradient.sum(dim=(2, 3)), per_channel.expand(2, 3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {},
            "Images in [0, 1] are given to the classifier at their own size, without normalisation.",
        ),
        (
            {"size": 64},
            "Images in [0, 1] are resized to 64x64 (bilinear, antialiased), inside the graph.",
        ),
        (
            {"size": (32, 48), "mean": 0.5, "std": (0.25, 0.5)},
            "Images in [0, 1] are resized to 32x48 (bilinear, antialiased), reduced by the mean 0.5 and "
            "divided by the standard deviation (0.25, 0.5), inside the graph.",
        ),
        (
            {"channels": 1, "mean": 0.5},
            "Grey images are taken as they are, RGB images turned to luma; images in [0, 1] are reduced "
            "by the mean 0.5, inside the graph.",
        ),
    ],
)
def test_sentence(options: dict[str, object], sentence: str) -> None:
    assert Preprocessing(**options).sentence == sentence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: must be (height, width) in pixels (received 0). Pass for instance size=224."),
        ({"size": (1, 2, 3)}, "size: must be (height, width) in pixels (received (1, 2, 3)). Pass"),
        (
            {"std": (1.0, 0.0)},
            "std: must be positive (received (1.0, 0.0)). Pass standard deviations above 0.",
        ),
        ({"std": float("nan")}, "std: must be finite (received nan). Pass one number, or one per channel."),
        ({"mean": float("inf")}, "mean: must be finite (received inf). Pass one number, or one per channel."),
        ({"channels": 0}, "channels: must be at least 1 (received 0). Pass for instance 3."),
    ],
)
def test_option_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Preprocessing(**options)
    assert str(caught.value).startswith(message)


def test_channel_errors() -> None:
    with pytest.raises(ClassifierError) as caught:
        Preprocessing(channels=3)(images(2))
    assert str(caught.value) == (
        "channels: is 3, and the images can only be turned to it from 1 channel, or from 3 to 1 (received "
        "images of 2 channels). Choose the channels inside the classifier: "
        "lambda images: model(images[:, [0, 2]])."
    )
    with pytest.raises(
        ClassifierError, match=r"^mean: .*one per channel the model takes .received 3 numbers for 1"
    ):
        Preprocessing(mean=(0.1, 0.2, 0.3))(images(1))
