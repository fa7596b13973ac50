r"""Embeddings of individuals, small enough to be trained here: a network, and how it learns without labels.

The network keeps an 8x8 grid of features up to its last layer: images are aligned, so *where* something is
tells individuals apart. Two ways to train it:

* by individual, with an additive margin on cosines (CosFace, Wang et al. 2018), see
``models/faces/train.py``;
* without labels, :func:`fit_embedding`: two augmented copies of an image are one individual, every other
  image of the batch another (NT-Xent, Chen et al. 2020, arXiv 2002.05709).

:func:`discriminant` turns features so that what varies within individuals counts less (within-class
covariance normalisation, Hatch et al. 2006): with :math:`W` the covariance within individuals and ridge r,
:math:`e \to (W + r\, \overline{w} I)^{-1/2} e` up to a rotation, :math:`\overline{w}` the mean variance.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from explainer.convnet import ResidualStage, as_float, augmented
from explainer.errors import OptionError, TrainingError

__all__ = ["EmbeddingNet", "discriminant", "fit_embedding", "recoloured"]

GRID = 8
TEMPERATURE = 0.2
FEWEST = 40


class EmbeddingNet(nn.Module):
    """Residual network to features of an aligned image.

    Args:
        channels: Channels of the images.
        width: Channels of the first stage.
        dims: Dimensions F of the embedding.
        mirrored: Average the features of an image and of its mirror image; for what is the same individual
            either way.

    >>> EmbeddingNet(channels=3)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 96])
    """

    centre: Tensor

    def __init__(self, channels: int = 3, width: int = 24, dims: int = 96, mirrored: bool = False) -> None:
        super().__init__()
        self.channels, self.width, self.dims, self.mirrored = channels, width, dims, mirrored
        widest = 4 * width
        self.stem = nn.Conv2d(channels, width, 5, stride=2, padding=2)
        self.stages = nn.Sequential(ResidualStage(width, 2 * width), ResidualStage(2 * width, widest))
        self.norm = nn.GroupNorm(math.gcd(widest, 8), widest)
        self.squeeze = nn.Conv2d(widest, 32, 1)
        self.head = nn.Linear(32 * GRID * GRID, dims)
        self.register_buffer("centre", torch.zeros(dims))

    @property
    def architecture(self) -> dict[str, int | bool]:
        """Constructor arguments that rebuild this network."""
        return {name: getattr(self, name) for name in ("channels", "width", "dims", "mirrored")}

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(N, F)`` of images ``(N, C, H, W)`` in [0, 1], at least 16 pixels a side."""
        if not self.mirrored:
            return self._features(images)
        return (self._features(images) + self._features(images.flip(3))) / 2

    def _features(self, images: Tensor) -> Tensor:
        x = self.squeeze(functional.silu(self.norm(self.stages(self.stem(2 * images - 1)))))
        return self.head(functional.adaptive_avg_pool2d(x, GRID).flatten(1))


def recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``(N, C, H, W)`` with random gains of their channels; one in five has its channels averaged."""
    count, channels = images.shape[:2]
    gain = 1 + 0.15 * (2 * torch.rand(count, channels, 1, 1, generator=generator) - 1)
    grey = (torch.rand(count, 1, 1, 1, generator=generator) < 0.2).float()
    lit = images * gain
    return (lit * (1 - grey) + grey * lit.mean(dim=1, keepdim=True)).clamp(0, 1)


@torch.no_grad()
def discriminant(features: Tensor, individuals: Tensor, *, ridge: float = 0.5) -> Tensor:
    """A matrix ``(F, F)`` by which to multiply features from the right, see above.

    Args:
        features: ``(N, F)``.
        individuals: ``(N,)`` indices from 0; those with one image tell nothing about what varies within.
        ridge: r, in units of the mean variance within individuals.

    Raises:
        OptionError: No individual has two images.

    >>> features = torch.tensor([[0.0, 0.0], [4.0, 1.0], [0.0, 9.0], [4.0, 8.0]])
    >>> matrix = discriminant(features, torch.tensor([0, 0, 1, 1]), ridge=0.01)
    >>> (features[1] - features[0]) @ matrix @ (matrix.T @ (features[3] - features[2])) < 2
    tensor(True)
    """
    count = torch.bincount(individuals)
    repeated = count[individuals] > 1
    if not bool(repeated.any()):
        raise OptionError(
            "individuals", "must name at least one individual twice", received=f"{len(count)} with one "
            "image each",
            remedy="Leave the discriminant out.",
        )  # fmt: skip
    values = features.double()
    sums = torch.zeros(len(count), values.shape[1], dtype=torch.float64).index_add_(0, individuals, values)
    number = count[individuals].double()[:, None]
    apart = (values - sums[individuals] / number) * (number / (number - 1).clamp_min(1)).sqrt()
    # The fourth root lets an individual with many images count more, but not in proportion.
    weighted = (apart / number**0.25)[repeated]
    within = weighted.T @ weighted / (len(weighted) - 1)
    variance, axes = torch.linalg.eigh(within)
    return (axes / (variance + ridge * variance.mean()).sqrt()).float()


def fit_embedding(
    images: Tensor, *, steps: int = 600, batch_size: int = 64, flip: bool = False, seed: int = 0
) -> EmbeddingNet:
    """Train an embedding on images without labels; the same seed gives the same network.

    Args:
        images: ``(N, C, H, W)``, uint8 or float in [0, 1], at least 40; aligned, one individual each.
        steps: Optimiser steps.
        batch_size: Images a step; all of a step are taken to be different individuals.
        flip: Whether a mirrored image is the same individual.
        seed: Of weights, batches and augmentation.

    Returns:
        The network in evaluation mode; ``centre`` is the mean embedding of the images.

    Raises:
        TrainingError: Too few images, or none that are a batch.
        OptionError: A budget that is not positive.
    """
    if images.ndim != 4 or len(images) < FEWEST:
        raise TrainingError(
            "images", f"must be at least {FEWEST}, (N, C, H, W)", received=tuple(images.shape),
            remedy="Read a folder with as_images.",
        )  # fmt: skip
    if steps < 1 or batch_size < 2:
        raise OptionError(
            "steps, batch_size", "must be at least 1 and 2", received=(steps, batch_size),
            remedy="Try steps=600, batch_size=64.",
        )  # fmt: skip
    size = min(batch_size, len(images))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = EmbeddingNet(channels=images.shape[1], width=16, dims=64).train()
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    same = torch.arange(2 * size).roll(size)
    itself = torch.eye(2 * size, dtype=torch.bool)
    for step in range(steps):
        rate = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = torch.randperm(len(images), generator=generator)[:size]
        both = as_float(images[chosen]).repeat(2, 1, 1, 1)
        both = recoloured(augmented(both, generator, flip=flip), generator)
        features = functional.normalize(network(both), dim=1)
        cosines = (features @ features.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        loss = functional.cross_entropy(cosines, same)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay = min(0.99, (1 + step) / (10 + step))
        with torch.no_grad():
            for target, source in zip(averaged.parameters(), network.parameters(), strict=True):
                target.lerp_(source, 1 - decay)
    averaged.eval()
    with torch.no_grad():
        averaged.centre.copy_(torch.cat([averaged(as_float(part)) for part in images.split(256)]).mean(dim=0))
    return averaged
