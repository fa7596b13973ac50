r"""How well a generator does, measured on images it has not seen, with a verdict in words.

For every channel, in the generator's normalised units: the mean squared error of ``bare``,
:math:`R^2_c = 1 - \mathrm{MSE}_c / \mathrm{Var}_c` against the mean image, and SSIM. For every latent
dimension: the KL divergence from the prior, in nats. Active units alone do not show a collapse, so the
verdict looks at the information in the code *and* at what is reconstructed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from explainer import metrics
from explainer.generators.base import Generator

__all__ = ["Health", "measure_health"]

COLLAPSED_NATS = 5.0
BLURRED_R2 = 0.5


@dataclass(frozen=True)
class Health:
    """The state of a generator.

    Attributes:
        images: Number of images measured.
        mse: Per channel, normalised units squared.
        r2: Per channel, 1 is perfect, 0 is no better than the mean image.
        ssim: Per channel, 1 is perfect.
        kl: Per latent dimension, nats; empty where the generator has no posterior variance.
        stages: The same measures of inner stages, by name.
        status: ``"healthy"``, ``"weak"`` or ``"collapsed"``.
        sentence: The verdict in words, with the remedy.
    """

    images: int
    mse: tuple[float, ...]
    r2: tuple[float, ...]
    ssim: tuple[float, ...]
    kl: tuple[float, ...]
    stages: dict[str, dict[str, tuple[float, ...]]]
    status: str
    sentence: str


def reconstruction_quality(images: Tensor, reconstructions: Tensor) -> dict[str, tuple[float, ...]]:
    """MSE, R2 and SSIM per channel of ``(N, C, H, W)`` in normalised units."""
    ssim = metrics.ssim(reconstructions.clamp(0, 1), images.clamp(0, 1))
    return {
        "mse": tuple(metrics.mse(reconstructions, images).mean(dim=0).tolist()),
        "r2": tuple(metrics.r2(reconstructions, images).tolist()),
        "ssim": tuple(ssim.mean(dim=0).tolist()),
    }


def _verdict(r2: tuple[float, ...], kl: tuple[float, ...]) -> tuple[str, str]:
    if any(not np.isfinite(value) for value in (*r2, *kl)):
        return "collapsed", "The reconstruction is not finite: train again with a smaller learning rate."
    information = sum(kl)
    if kl and information < COLLAPSED_NATS and float(np.mean(r2)) < BLURRED_R2:
        return "collapsed", (
            f"The code holds only {information:.1f} nats: it has collapsed. The usual cause is a "
            "reconstruction term that is too weak (a fixed sigma of 1, or the mean squared error plus KL): "
            "use the calibrated sigma of VAE, or a smaller beta."
        )
    worst = min(range(len(r2)), key=lambda channel: r2[channel])
    if r2[worst] < BLURRED_R2:
        return "weak", (
            f"Channel {worst} is reconstructed with R2 {r2[worst]:.2f} only: train longer, use a larger "
            "latent_dim, or treat what is seen in this channel with care."
        )
    return "healthy", f"Every channel is reconstructed with R2 of at least {r2[worst]:.2f}."


@torch.no_grad()
def measure_health(generator: Generator, images: Tensor, *, batch_size: int = 128) -> Health:
    """Measure a generator on images ``(N, C, H, W)`` in [0, 1] it was not trained on."""
    truth, bare, divergences = [], [], []
    layers: dict[str, list[Tensor]] = {}
    for batch in images.split(batch_size):
        truth.append(generator.normalise(batch))
        bare.append(generator.normalise(generator.bare(batch)))
        for name, reconstruction in generator.stage_reconstructions(batch).items():
            layers.setdefault(name, []).append(reconstruction)
        divergences.append(generator.kl_per_dimension(batch) * len(batch))
    target = torch.cat(truth)
    quality = reconstruction_quality(target, torch.cat(bare))
    kl = (torch.stack(divergences).sum(0) / len(images)).tolist() if divergences[0].numel() else []
    status, sentence = _verdict(quality["r2"], tuple(kl))
    return Health(
        images=len(images),
        kl=tuple(kl),
        stages={name: reconstruction_quality(target, torch.cat(parts)) for name, parts in layers.items()},
        status=status,
        sentence=sentence,
        **quality,
    )
