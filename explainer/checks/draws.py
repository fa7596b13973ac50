"""Random draws of an image's own: the same whatever other images are checked together with it."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["image_seeds", "normal_like"]


def image_seeds(images: Tensor, *, seed: int = 0) -> list[int]:
    """One seed for each image ``(N, C, H, W)``, made from its pixels and ``seed``.

    >>> images = torch.rand(3, 1, 16, 16)
    >>> image_seeds(images)[1:] == image_seeds(images[1:]), image_seeds(images) == image_seeds(images, seed=1)
    (True, False)
    """
    pixels = images.detach().float().cpu().contiguous().numpy()
    start = str(seed).encode()
    return [
        int.from_bytes(hashlib.sha256(start + image.tobytes()).digest()[:7], "big")  # 56 bits
        for image in pixels
    ]


def normal_like(values: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal draws ``(N, ...)``, those of each row from its own seed."""
    shape = values.shape[1:]
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(values) if drawn else torch.zeros_like(values)
