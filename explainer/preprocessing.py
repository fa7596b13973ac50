"""What happens to an image before a classifier sees it: channels, size, mean and standard deviation."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from explainer.errors import ClassifierError, OptionError
from explainer.image import resize

__all__ = ["Preprocessing"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Preprocessing:
    """(resized image - mean) / std, differentiable, in memory of its own.

    Args:
        size: (height, width) in pixels, or one number for both; any size when omitted.
        mean: Subtracted from images in [0, 1]: one number, or one per channel.
        std: What the images are then divided by, likewise.
        channels: Grey images are repeated to as many channels, RGB images turned to luma for one.

    Raises:
        OptionError: An option outside its range.

    >>> preprocessing = Preprocessing(size=2, mean=0.5, std=(0.25, 0.5, 1.0), channels=3)
    >>> preprocessing(torch.ones(1, 1, 4, 4))[0, :, 0, 0]
    tensor([2.0000, 1.0000, 0.5000])
    >>> print(preprocessing.sentence)
    Grey images are repeated to 3 channels; images in [0, 1] are resized to 2x2 (bilinear, antialiased), \
reduced by the mean 0.5 and divided by the standard deviation (0.25, 0.5, 1), inside the graph.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        channels: int | None = None,
    ) -> None:
        self.size = _pair(size)
        self.mean, self.std = _floats("mean", mean), _floats("std", std)
        self.channels = channels
        if self.std is not None and not min(self.std) > 0:
            raise OptionError(
                "std", "must be positive", received=std, remedy="Pass standard deviations above 0."
            )
        if channels is not None and channels < 1:
            raise OptionError(
                "channels", "must be at least 1", received=channels, remedy="Pass for instance 3."
            )

    def __call__(self, images: Tensor) -> Tensor:
        """What the classifier is given for images (batch, channels, height, width) in [0, 1]."""
        images = _with_channels(images, self.channels)
        images = resize(images, tuple(images.shape[2:]) if self.size is None else self.size)
        if self.mean is not None:
            images = images - _per_channel(self.mean, images, "mean")
        if self.std is not None:
            images = images / _per_channel(self.std, images, "std")
        return images

    @property
    def sentence(self) -> str:
        """The preprocessing in words."""
        steps = []
        if self.size is not None:
            steps.append(f"resized to {self.size[0]}x{self.size[1]} (bilinear, antialiased)")
        if self.mean is not None:
            steps.append(f"reduced by the mean {_listed(self.mean)}")
        if self.std is not None:
            steps.append(f"divided by the standard deviation {_listed(self.std)}")
        channels = ""
        if self.channels is not None:
            grey = f"repeated to {self.channels} channels" if self.channels > 1 else "taken as they are"
            colour = "" if self.channels > 1 else ", RGB images turned to luma"
            channels = f"Grey images are {grey}{colour}; "
        subject = f"{channels}images in [0, 1]" if channels else "Images in [0, 1]"
        if not steps:
            return f"{subject} are given to the classifier at their own size, without normalisation."
        *first, last = steps
        return f"{subject} are {', '.join(first)}{' and ' if first else ''}{last}, inside the graph."


def _with_channels(images: Tensor, channels: int | None) -> Tensor:
    """Images with as many channels as the model takes."""
    if channels is None or images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    if images.shape[1] == 3 and channels == 1:
        weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
        return (images * weights).sum(dim=1, keepdim=True)
    raise ClassifierError(
        "channels",
        f"is {channels}, and the images can only be turned to it from 1 channel, or from 3 to 1",
        received=f"images of {images.shape[1]} channels",
        remedy="Choose the channels inside the classifier: lambda images: model(images[:, [0, 2]]).",
    )


def _per_channel(values: tuple[float, ...], images: Tensor, name: str) -> Tensor:
    if len(values) not in (1, images.shape[1]):
        raise ClassifierError(
            name,
            "must be one number, or one per channel the model takes",
            received=f"{len(values)} numbers for {images.shape[1]} channels",
            remedy="Say with channels= how many channels the model takes, or give as many numbers.",
        )
    return torch.tensor(values, device=images.device).view(1, -1, 1, 1)


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(length, int) and length > 0 for length in pair):
        raise OptionError(
            "size", "must be (height, width) in pixels", received=size, remedy="Pass for instance size=224."
        )
    return pair


def _floats(name: str, values: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = np.atleast_1d(np.asarray(values, dtype=float))
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise OptionError(
            name, "must be finite", received=values, remedy="Pass one number, or one per channel."
        )
    return tuple(numbers.tolist())


def _listed(values: tuple[float, ...]) -> str:
    text = ", ".join(f"{value:g}" for value in values)
    return text if len(values) == 1 else f"({text})"
