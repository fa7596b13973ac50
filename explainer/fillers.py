r"""What takes the place of pixels that are taken away.

A classifier was never shown an image with holes, so what fills them matters, and rankings of methods change
with it. Every filler gives a whole image; the mask decides how much of it is seen. A random filler draws
once per image and draw, whatever is replaced, so that all methods are compared on the same noise.

=============  ==============================================================================================
``"uniform"``  uniform noise between each channel's smallest and largest value (Singla et al. 2020)
``"blur"``     the image itself, blurred by an eighth of its smaller side
``"mean"``     each channel's mean
``"marginal"`` the pixel at the same place in another image, all channels together
Inpainting     what a generator thinks fits: decode(encode(x)) in the holes, the image elsewhere, iterated
=============  ==============================================================================================
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from explainer.errors import GeneratorError, OptionError
from explainer.generators.base import Generator
from explainer.image import resize

__all__ = ["FILLERS", "Blur", "Filler", "Inpainting", "Marginal", "Mean", "UniformNoise", "make_filler"]


class Filler(ABC):
    """Base of the fillers.

    Args:
        images: ``(N, C, H, W)``, all images: the ranges and means are theirs.

    Attributes:
        random: Whether two draws differ.
    """

    name = "filler"
    random = False

    def __init__(self, images: Tensor) -> None:
        self.images = images

    @abstractmethod
    def draw(self, rows: range, seed: int) -> Tensor:
        """What fills the images ``rows``, ``(len(rows), C, H, W)``; the same for the same image and seed."""

    def fill(self, drawn: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        """Images ``(n, C, H, W)`` whose pixels in ``mask (n, H, W)`` are replaced."""
        return torch.where(mask[:, None], drawn, images)


class UniformNoise(Filler):
    """Uniform noise between each channel's smallest and largest value."""

    name = "uniform"
    random = True

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.low = images.amin(dim=(0, 2, 3), keepdim=True)[0]
        self.high = images.amax(dim=(0, 2, 3), keepdim=True)[0]

    def draw(self, rows: range, seed: int) -> Tensor:
        shape = self.images.shape[1:]
        noise = np.stack([np.random.default_rng([seed, row]).random(shape, dtype=np.float32) for row in rows])
        return self.low + torch.from_numpy(noise).to(self.images) * (self.high - self.low)


class Mean(Filler):
    """Each channel's mean over all images."""

    name = "mean"

    def draw(self, rows: range, seed: int) -> Tensor:
        mean = self.images.mean(dim=(0, 2, 3)).view(1, -1, 1, 1)
        return mean.expand(len(rows), *self.images.shape[1:])


class Blur(Filler):
    """The image itself, blurred.

    Args:
        images: ``(N, C, H, W)``.
        width: Standard deviation in pixels; an eighth of the smaller side if None.
    """

    name = "blur"

    def __init__(self, images: Tensor, width: float | None = None) -> None:
        super().__init__(images)
        self.width = min(images.shape[-2:]) / 8 if width is None else width

    def draw(self, rows: range, seed: int) -> Tensor:
        part = self.images[rows.start : rows.stop].cpu().numpy()
        blurred = gaussian_filter(part, (0, 0, self.width, self.width), mode="nearest")
        return torch.from_numpy(blurred).to(self.images)


class Marginal(Filler):
    """Every pixel from another image at the same place, all its channels together."""

    name = "marginal"
    random = True

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        if len(images) < 2:
            raise OptionError(
                "filler", "needs other images to take pixels from", received="marginal, one image",
                remedy='Choose "uniform", "blur" or "mean".',
            )  # fmt: skip

    def draw(self, rows: range, seed: int) -> Tensor:
        count, _, height, width = self.images.shape
        drawn = torch.empty(len(rows), *self.images.shape[1:], dtype=self.images.dtype)
        y, x = np.indices((height, width))
        for place, row in enumerate(rows):
            # From 1 to N - 1 further on: never the image itself.
            source = (row + np.random.default_rng([seed, row]).integers(1, count, (height, width))) % count
            drawn[place] = self.images[
                torch.from_numpy(source), :, torch.from_numpy(y), torch.from_numpy(x)
            ].permute(2, 0, 1)
        return drawn.to(self.images)


class Inpainting(Filler):
    """What a generator thinks fits to the pixels that are left.

    Args:
        images: ``(N, C, H, W)`` of the generator's aspect ratio.
        generator: In evaluation mode.
        rounds: How often the filled image is encoded and decoded again.

    Raises:
        GeneratorError: The generator takes other channels or sees only a part of the images.
    """

    name = "inpainting"

    def __init__(self, images: Tensor, generator: Generator, rounds: int = 4) -> None:
        super().__init__(images)
        size = (images.shape[-2], images.shape[-1])
        if generator.shape[0] != images.shape[1] or generator.region(size) != (0, 0, *size):
            raise GeneratorError(
                "filler", f"is a generator of shape {generator.shape}, which does not see all of the images",
                received=tuple(images.shape[1:]), remedy="Crop the images to its aspect ratio.",
            )  # fmt: skip
        if rounds < 1:
            raise OptionError("rounds", "must be at least 1", received=rounds, remedy="Take 4.")
        self.generator, self.rounds = generator, rounds

    def draw(self, rows: range, seed: int) -> Tensor:
        mean = self.images.mean(dim=(0, 2, 3)).view(1, -1, 1, 1)
        return mean.expand(len(rows), *self.images.shape[1:])

    def fill(self, drawn: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        filled = super().fill(drawn, images, mask)
        if not mask.any():
            return filled
        for _ in range(self.rounds):
            bare = self.generator.bare(self.generator.resized(filled))
            filled = super().fill(resize(bare, filled.shape[-2:]).clamp(0, 1), images, mask)
        return filled


FILLERS: dict[str, Callable[[Tensor], Filler]] = {
    "uniform": UniformNoise,
    "blur": Blur,
    "mean": Mean,
    "marginal": Marginal,
}


def make_filler(filler: str | Filler | Generator, images: Tensor) -> Filler:
    """The filler meant by a name, a generator (it inpaints) or a filler.

    Raises:
        OptionError: No such filler.
    """
    if isinstance(filler, Filler):
        return filler
    if isinstance(filler, Generator):
        return Inpainting(images, filler)
    if filler not in FILLERS:
        raise OptionError(
            "filler", "is not known", received=filler,
            remedy=f"Choose one of {', '.join(FILLERS)}, or pass a generator, which then inpaints.",
        )  # fmt: skip
    return FILLERS[filler](images)
