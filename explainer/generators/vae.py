r"""The variational autoencoder with a calibrated standard deviation per channel.

.. math:: \mathcal{L} = -\log p(x|z) + \beta\,\mathrm{KL}[q(z|x)\,\|\,N(0, 1)]
          + \lambda D\, d_{lap}(x, \hat x)

The first term is the calibrated Gaussian likelihood of :mod:`explainer.generators.objectives`; the
last, optional, is the Laplacian-pyramid L1 distance times the number of pixel values ``D``, so that all
three are of the order of nats per image (Kingma & Welling 2014, arXiv 1312.6114; Rybkin et al. 2021).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from explainer.errors import OptionError
from explainer.generators.base import as_unit_interval, initialised
from explainer.generators.networks import (
    Decoder,
    Encoder,
    MapDecoder,
    MapEncoder,
    split_gaussian,
    start_at_nothing,
)
from explainer.generators.objectives import gaussian_kl, laplacian_distance, sigma_reconstruction
from explainer.generators.training import Phase, TrainableGenerator

__all__ = ["VAE", "reparametrise"]

PATCHED_IMAGES = 2000
PATCH_LOG_VARIANCE = -6.0


def reparametrise(mean: Tensor, log_variance: Tensor, noise: torch.Generator) -> Tensor:
    """A draw from ``N(mean, exp(log_variance))`` that gradients pass through."""
    epsilon = torch.randn(mean.shape, generator=noise, device=mean.device)
    return mean + (0.5 * log_variance).exp() * epsilon


class VAE(TrainableGenerator):
    """A convolutional VAE with a vector code, or a spatial one if ``latent_channels`` is given.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions of the code. Ignored for a spatial code.
        latent_channels: Keep the code as a map of this many channels (high fidelity, poor prior):
            ``latent_dim`` becomes ``latent_channels * h * w``.
        widths: Channels at each resolution, starting at half the image's.
        encoder_blocks: Residual blocks of the encoder at each resolution.
        decoder_blocks: Residual blocks of the decoder at each resolution.
        beta: Weight of the KL term; 1 is the evidence bound.
        laplacian: Weight of the Laplacian-pyramid term.
        tau: Width of the gate of the carried detail.
        seed: Of the initial weights.
        linear_start: Only for a spatial code: a fixed linear path beside each network, the principal
            components of the training images' patches; the networks begin at nothing and correct it. For
            little data or time.

    >>> generator = VAE((1, 32, 32), latent_dim=8)
    >>> generator.encode(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 8])
    """

    kind = "vae"

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int = 64,
        *,
        latent_channels: int | None = None,
        widths: Sequence[int] = (32, 64, 96),
        encoder_blocks: Sequence[int] = (0, 1, 1),
        decoder_blocks: Sequence[int] = (1, 1, 1),
        beta: float = 1.0,
        laplacian: float = 0.0,
        tau: float = 0.03,
        seed: int = 0,
        linear_start: bool = False,
    ) -> None:
        if not len(widths) == len(encoder_blocks) == len(decoder_blocks) or not widths:
            raise OptionError(
                "widths, encoder_blocks, decoder_blocks", "must be equally long",
                received=(tuple(widths), tuple(encoder_blocks), tuple(decoder_blocks)),
                remedy="Pass one number for each resolution.",
            )  # fmt: skip
        multiple = 2 ** len(widths)
        patch = shape[0] * multiple**2
        if linear_start and not 0 < (latent_channels or 0) <= patch:
            raise OptionError(
                "linear_start", f"needs a spatial code of at most {patch} channels", received=latent_channels,
                remedy="Pass latent_channels.",
            )  # fmt: skip
        height, width = (-(-size // multiple) for size in shape[-2:])
        if latent_channels is not None:
            latent_dim = latent_channels * height * width
        super().__init__(shape, latent_dim, multiple=multiple, tau=tau)
        self.latent_channels = latent_channels
        self.widths, self.encoder_blocks, self.decoder_blocks = (
            tuple(widths),
            tuple(encoder_blocks),
            tuple(decoder_blocks),
        )
        self.beta, self.laplacian = float(beta), float(laplacian)
        map_shape = (self.widths[-1], height, width)
        self.code_shape = (latent_channels, height, width) if latent_channels else (latent_dim,)
        self.to_code: nn.Module
        self.from_code: nn.Module
        with initialised(seed):
            self.encoder = Encoder(self.shape[0], self.widths, self.encoder_blocks)
            self.decoder = Decoder(self.shape[0], self.widths, self.decoder_blocks)
            if latent_channels:
                self.to_code = nn.Sequential(nn.SiLU(), nn.Conv2d(self.widths[-1], 2 * latent_channels, 1))
                self.from_code = nn.Conv2d(latent_channels, self.widths[-1], 3, padding=1)
            else:
                self.to_code = MapEncoder(map_shape, self.widths[-1], latent_dim)
                self.from_code = MapDecoder(map_shape, self.widths[-1], latent_dim)
        self.linear_start = bool(linear_start)
        if linear_start:
            self.register_buffer("patch_mean", torch.zeros(patch, 1, 1))
            self.register_buffer("patch_read", torch.zeros(latent_channels or 0, patch, 1, 1))
            self.register_buffer("patch_write", torch.zeros(patch, latent_channels or 0, 1, 1))
            self.patch_mean: Tensor
            self.patch_read: Tensor
            self.patch_write: Tensor

    def posterior(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(N, D)`` of prepared images."""
        mean, log_variance = split_gaussian(self.to_code(self.encoder(prepared)))
        if self.linear_start:
            patches = functional.pixel_unshuffle(prepared, 2 ** len(self.widths)) - self.patch_mean
            mean = mean + functional.conv2d(patches, self.patch_read)
        return mean.flatten(1), log_variance.flatten(1)

    def _encode(self, prepared: Tensor) -> Tensor:
        return self.posterior(prepared)[0]

    def _decode(self, codes: Tensor) -> Tensor:
        maps = codes.view(-1, *self.code_shape)
        images = self.decoder(self.from_code(maps))
        if self.linear_start:
            patches = functional.conv2d(maps, self.patch_write) + self.patch_mean
            images = images + functional.pixel_shuffle(patches, 2 ** len(self.widths))
        return images

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("vae", 1.0, self),)

    @torch.no_grad()
    def begin(self, phase: Phase, images: Tensor) -> None:
        if not self.linear_start:
            return
        some = self.prepare(as_unit_interval(images[:PATCHED_IMAGES]).to(self.intensity))
        patches = functional.pixel_unshuffle(some, 2 ** len(self.widths)).movedim(1, -1).flatten(0, 2)
        center = patches.mean(dim=0)
        covariance = torch.cov(patches.T.double(), correction=0)
        variances, vectors = torch.linalg.eigh(covariance)
        kept = self.patch_read.shape[0]
        scale = variances.flip(0)[:kept].clamp_min(1e-12).sqrt()
        basis = vectors.flip(1)[:, :kept]
        self.patch_mean.copy_(center.view(-1, 1, 1))
        self.patch_read.copy_((basis / scale).T[..., None, None])
        self.patch_write.copy_((basis * scale)[..., None, None])
        start_at_nothing(self.to_code[-1], log_variance=PATCH_LOG_VARIANCE)  # type: ignore[index]
        start_at_nothing(self.decoder.layers[-2])

    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_variance = self.posterior(prepared)
        reconstruction = self._decode(reparametrise(mean, log_variance, noise))
        kl = gaussian_kl(mean, log_variance).sum()
        return self.image_loss(prepared, reconstruction, kl, self.beta * ramp)

    def image_loss(
        self,
        prepared: Tensor,
        reconstruction: Tensor,
        kl: Tensor,
        beta: float,
        *,
        shared_sigma: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per pixel value from its parts; the terms are in the units their names say.

        With ``shared_sigma`` all channels have one standard deviation: their errors weigh the same, instead
        of each channel's as much as it is small.
        """
        values = prepared[0].numel()
        pair = (prepared, reconstruction)
        if shared_sigma:
            pair = (prepared.flatten(1, 2)[:, None], reconstruction.flatten(1, 2)[:, None])
        nats, mse = sigma_reconstruction(*pair)
        loss = nats + beta * kl
        terms = {"reconstruction_nats": nats, "kl_nats": kl, "mse": mse.mean()}
        if self.laplacian:
            distance = laplacian_distance(prepared, reconstruction)
            loss = loss + self.laplacian * values * distance
            terms["laplacian"] = distance
        return loss / values, terms

    @torch.no_grad()
    def kl_per_dimension(self, images: Tensor) -> Tensor:
        return gaussian_kl(*self.posterior(self.prepare(images)))

    def options(self) -> dict[str, object]:
        return {
            **super().options(),
            "latent_channels": self.latent_channels,
            "widths": list(self.widths),
            "encoder_blocks": list(self.encoder_blocks),
            "decoder_blocks": list(self.decoder_blocks),
            "beta": self.beta,
            "laplacian": self.laplacian,
            **({"linear_start": True} if self.linear_start else {}),
        }
