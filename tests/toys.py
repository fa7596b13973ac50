"""Generators and classifiers small enough to be solved by hand."""

import torch
from torch import Tensor, nn

from explainer.generators.base import Generator

__all__ = ["LinearGenerator", "LogisticClassifier", "toy_images"]

SHAPE = (1, 16, 16)


def toy_images(count: int, seed: int = 0) -> Tensor:
    """Images ``(count, 1, 16, 16)`` that the toy generator can say, but for a little noise."""
    random = torch.Generator().manual_seed(seed)
    codes = torch.randn(count, 6, generator=random)
    noise = 0.01 * (torch.rand(count, *SHAPE, generator=random) - 0.5)
    return (LinearGenerator().decode(codes) + noise).clamp(0, 1)


class LinearGenerator(Generator):
    """``decode(z) = .5 + B z`` with orthogonal columns B of length .3, ``encode`` its least squares."""

    kind = "linear"

    def __init__(self, latent_dim: int = 6, seed: int = 0) -> None:
        super().__init__(SHAPE, latent_dim, multiple=1, tau=1e6)
        random = torch.randn(256, latent_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("basis", torch.linalg.qr(random).Q * 0.3)
        self.quantiles = {
            "bare": {"0.5": 1e-5, "0.95": 2e-5, "0.999": 4e-5, "1": 5e-5},
            "typicality": {"0.5": 1.0, "0.95": 1.5, "0.999": 2.5, "1": 2.5},
        }

    def _encode(self, prepared: Tensor) -> Tensor:
        return (prepared - 0.5).flatten(1) @ self.basis / 0.09

    def _decode(self, codes: Tensor) -> Tensor:
        return 0.5 + (codes @ self.basis.T).view(-1, *SHAPE)


class LogisticClassifier(nn.Module):
    """``s = a + w . x`` with weights in the span of the toy generator."""

    def __init__(self, generator: LinearGenerator, scale: float = 4.0, offset: float = 0.3) -> None:
        super().__init__()
        direction = generator.basis @ torch.linspace(1, 2, generator.latent_dim)
        self.weight = nn.Parameter(scale * direction)
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight + self.offset
