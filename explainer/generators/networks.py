r"""Encoders and decoders: GroupNorm, SiLU and residual blocks between sub-pixel ends.

An image ``(C, H, W)`` is folded to a quarter of its pixels (space to depth), halved
``len(widths) - 1`` times, and ends as a map of ``widths[-1]`` channels; the decoder mirrors this
and unfolds at the end (depth to space), so no full-resolution convolution is ever paid for. There is
no BatchNorm: what an image becomes never depends on its neighbours in the batch.

References: residual blocks in pre-activation form (He et al. 2016, arXiv 1603.05027), GroupNorm
(Wu & He 2018, arXiv 1803.08494), sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder", "MapDecoder", "MapEncoder", "ResidualBlock", "split_gaussian",
           "start_at_nothing"]  # fmt: skip

_LOG_VARIANCE_LIMIT = 10.0


def _normalisation(channels: int) -> nn.GroupNorm:
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def split_gaussian(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, each ``(N, D)``, from the encoder's output ``(N, 2 * D)``.

    The log-variance is bounded softly to +-10: its exponential can neither overflow nor vanish,
    and its gradient never switches off.
    """
    mean, log_variance = parameters.chunk(2, dim=1)
    return mean, _LOG_VARIANCE_LIMIT * torch.tanh(log_variance / _LOG_VARIANCE_LIMIT)


@torch.no_grad()
def start_at_nothing(layer: nn.Module, log_variance: float | None = None) -> None:
    """Let a last layer give zero; where its second half are log-variances, these are all ``log_variance``."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    if log_variance is not None:
        layer.bias[len(layer.bias) // 2 :] = log_variance


class ResidualBlock(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))``, the identity at initialisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _normalisation(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            _normalisation(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _upsampling(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4 * out_channels, 1), nn.PixelShuffle(2))


class Encoder(nn.Module):
    """Images ``(N, C, H, W)`` to the map ``(N, widths[-1], H / f, W / f)`` with ``f = 2 ** len(widths)``.

    Args:
        channels: Channels of the images.
        widths: Channels at each resolution, finest (half of the image) first.
        blocks: Residual blocks at each resolution.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width) for _ in range(blocks[level])]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Decoder(nn.Module):
    """The mirror of :class:`Encoder`: maps ``(N, widths[-1], h, w)`` to images ``(N, C, h * f, w * f)``."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level in range(len(widths) - 1, -1, -1):
            layers += [ResidualBlock(widths[level]) for _ in range(blocks[level])]
            if level:
                layers.append(_upsampling(widths[level], widths[level - 1]))
        layers += [
            _normalisation(widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps)


class MapEncoder(nn.Module):
    """A map ``(N, C, h, w)`` to the parameters ``(N, 2 * latent_dim)`` of a diagonal Gaussian.

    Args:
        shape: ``(C, h, w)`` of the maps.
        width: Channels of the first block; the second, at half the resolution, has 1.5 times as many.
        latent_dim: Dimensions of the code.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, latent_dim: int) -> None:
        super().__init__()
        channels, height, span = shape
        inner = width * 3 // 2
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            ResidualBlock(width),
            nn.Conv2d(width, inner, 3, stride=2, padding=1),
            ResidualBlock(inner),
            _normalisation(inner),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(inner * -(-height // 2) * -(-span // 2), 2 * latent_dim),
        )
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.5)  # type: ignore[operator]

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps)


class MapDecoder(nn.Module):
    """A code ``(N, latent_dim)`` to a map ``(N, C, h, w)``; the mirror of :class:`MapEncoder`."""

    def __init__(self, shape: tuple[int, int, int], width: int, latent_dim: int) -> None:
        super().__init__()
        channels, self.height, self.span = shape
        inner = width * 3 // 2
        rows, columns = -(-self.height // 2), -(-self.span // 2)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, inner * rows * columns),
            nn.Unflatten(1, (inner, rows, columns)),
            ResidualBlock(inner),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(inner, width, 3, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
            _normalisation(width),
            nn.SiLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)[:, :, : self.height, : self.span]
