r"""The variational autoencoder with a calibrated standard deviation per channel.

.. math:: \mathcal{L} = -\log p(x|z) + \beta\,\mathrm{KL}[q(z|x)\,\|\,N(0, 1)]
          + V \sum_i \lambda_i d_i

The first term is the calibrated Gaussian likelihood of :mod:`explainer.generators.objectives` (Kingma &
Welling 2014, arXiv 1312.6114; Rybkin et al. 2021). The others are optional: distances :math:`d_i` with
weights :math:`\lambda_i`, times the number of pixel values V, so that all are of the order of nats per image:

- ``laplacian``: the Laplacian-pyramid L1 distance, ``l1``: the mean absolute difference, both in
  normalised intensity;
- ``features``: the squared distance of what the explained classifier's last layer reads, in variances of
  each feature over the training images, so that reconstructions keep what it looks at;
- ``mmd``: the maximum mean discrepancy of codes and prior (Zhao et al. 2019, arXiv 1706.02262), which is
  minimised.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from explainer.errors import OptionError
from explainer.generators.base import as_unit_interval, initialised
from explainer.generators.feed import Feed
from explainer.generators.linear import LinearPath, begin_small
from explainer.generators.networks import Decoder, Encoder, MapDecoder, MapEncoder, split_gaussian
from explainer.generators.objectives import (
    gaussian_kl,
    kl_terms,
    laplacian_distance,
    maximum_mean_discrepancy,
    sigma_reconstruction,
)
from explainer.generators.training import FEWEST_IMAGES, Phase, TrainableGenerator

__all__ = ["VAE", "VAEOptions", "blocks_of", "reparametrise"]

START_IMAGES = 3000
START_VALUES = 40_000_000  # of the images that the linear path starts from: 320 MB in double precision


class VAEOptions(TypedDict, total=False):
    """The options of a :class:`VAE` that its subclasses hand on."""

    widths: Sequence[int]
    encoder_blocks: Sequence[int] | None
    decoder_blocks: Sequence[int] | None
    beta: float
    laplacian: float
    l1: float
    features: float
    mmd: float
    tau: float
    linear: bool
    sampler: bool
    seed: int


def reparametrise(mean: Tensor, log_variance: Tensor, noise: torch.Generator) -> Tensor:
    """A draw from ``N(mean, exp(log_variance))`` that gradients pass through."""
    epsilon = torch.randn(mean.shape, generator=noise, device=mean.device)
    return mean + (0.5 * log_variance).exp() * epsilon


def blocks_of(widths: Sequence[int], *, finest: int, others: int) -> tuple[int, ...]:
    """As many residual blocks at each resolution as there are widths: the finest is the dearest.

    >>> blocks_of((24, 48), finest=0, others=1)
    (0, 1)
    """
    return (finest, *(others for _ in widths))[: len(widths)]


class VAE(TrainableGenerator):
    """A convolutional VAE with a vector code, or a spatial one if ``latent_channels`` is given.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions of the code. Ignored for a spatial code.
        latent_channels: Keep the code as a map of this many channels (high fidelity, poor prior):
            ``latent_dim`` becomes ``latent_channels * h * w``.
        widths: Channels at each resolution, starting at half the image's.
        encoder_blocks: Residual blocks of the encoder at each resolution; None: 0, then 1 each.
        decoder_blocks: Residual blocks of the decoder at each resolution; None: 1 each.
        beta: Weight of the KL term; 1 is the evidence bound.
        laplacian: Weight of the Laplacian-pyramid term, per pixel value, like those that follow.
        l1: Weight of the mean absolute difference.
        features: Weight of the features of the classifier that ``fit`` is given; try .1.
        mmd: Weight of the maximum mean discrepancy of codes and prior; try 1.
        tau: Width of the gate of the carried detail.
        linear: Begin at the principal components, kept as a linear path beside the networks (see
            :mod:`explainer.generators.linear`). A spatial code has that of patches.
        sampler: Fit a second VAE to the codes, so that samples look like images.
        seed: Of the initial weights.

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
        encoder_blocks: Sequence[int] | None = None,
        decoder_blocks: Sequence[int] | None = None,
        beta: float = 1.0,
        laplacian: float = 0.0,
        l1: float = 0.0,
        features: float = 0.0,
        mmd: float = 0.0,
        tau: float = 0.03,
        linear: bool = True,
        sampler: bool = False,
        seed: int = 0,
    ) -> None:
        if encoder_blocks is None:
            encoder_blocks = blocks_of(widths, finest=0, others=1)
        if decoder_blocks is None:
            decoder_blocks = blocks_of(widths, finest=1, others=1)
        if not len(widths) == len(encoder_blocks) == len(decoder_blocks) or not widths:
            raise OptionError(
                "widths, encoder_blocks, decoder_blocks", "must be equally long",
                received=(tuple(widths), tuple(encoder_blocks), tuple(decoder_blocks)),
                remedy="Pass one number for each resolution.",
            )  # fmt: skip
        weights = {"beta": beta, "laplacian": laplacian, "l1": l1, "features": features, "mmd": mmd}
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise OptionError(
                    name, "must not be negative", received=weight, remedy="0 leaves the term out."
                )
        multiple = 2 ** len(widths)
        height, width = (-(-size // multiple) for size in shape[-2:])
        if latent_channels is not None:
            latent_dim = latent_channels * height * width
        super().__init__(shape, latent_dim, multiple=multiple, tau=tau, sampler=sampler)
        self.latent_channels = latent_channels
        self.widths, self.encoder_blocks, self.decoder_blocks = (
            tuple(widths),
            tuple(encoder_blocks),
            tuple(decoder_blocks),
        )
        self.beta, self.laplacian, self.l1 = float(beta), float(laplacian), float(l1)
        self.features, self.mmd = float(features), float(mmd)
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
        self.linear: LinearPath | None = None
        if linear:
            patch = (multiple, multiple) if latent_channels else None
            self.linear = LinearPath(self.padded_shape, latent_channels or latent_dim, patch=patch)
            into = [layer for layer in self.to_code.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
            begin_small(into[-1], self.decoder.layers[-2])

    def posterior(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(N, D)`` of prepared images."""
        parameters = self.to_code(self.encoder(prepared))
        if self.linear is not None:
            parameters = parameters + self.linear(prepared).view_as(parameters)
        mean, log_variance = split_gaussian(parameters)
        return mean.flatten(1), log_variance.flatten(1)

    def _encode(self, prepared: Tensor) -> Tensor:
        return self.posterior(prepared)[0]

    def _decode(self, codes: Tensor) -> Tensor:
        codes = codes.view(-1, *self.code_shape)
        images = self.decoder(self.from_code(codes))
        if self.linear is None:
            return images
        return images + self.linear.decode(codes if self.latent_channels else codes[:, :, None, None])

    def begin(self, phase: Phase, images: Feed) -> None:
        """Start the linear path."""
        if self.linear is not None:
            most = min(START_IMAGES, max(FEWEST_IMAGES, START_VALUES // math.prod(self.padded_shape)))
            chosen = images[torch.randperm(len(images))[:most]]  # seeded by fit
            self.linear.start(self.prepare(as_unit_interval(chosen).to(self.intensity.device)))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("vae", 1.0, self, beta=self.beta),)

    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.evidence_loss(prepared, noise, ramp)[:2]

    def evidence_loss(
        self, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss per pixel value, its terms, and the draws ``(N, D)`` of the posteriors it came from."""
        mean, log_variance = self.posterior(prepared)
        z = reparametrise(mean, log_variance, noise)
        kl = gaussian_kl(mean, log_variance)
        loss, terms = self.image_loss(prepared, self._decode(z), kl.sum(), self.beta * ramp)
        terms |= kl_terms(kl)
        if self.mmd:
            terms["mmd"] = maximum_mean_discrepancy(z, torch.randn(z.shape, generator=noise, device=z.device))
            loss = loss + self.mmd * terms["mmd"]
        return loss, terms, z

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
        if shared_sigma:
            mse = (prepared - reconstruction).square().mean(dim=(0, 2, 3))
        if len(mse) > 1:
            terms |= {f"mse_channel_{channel}": error for channel, error in enumerate(mse)}
        distances: dict[str, tuple[float, Tensor]] = {}
        if self.laplacian:
            distances["laplacian"] = self.laplacian, laplacian_distance(prepared, reconstruction)
        if self.l1:
            distances["l1"] = self.l1, (prepared - reconstruction).abs().mean()
        if self.features and self.perceive is not None:
            with torch.no_grad():
                seen = self.perceive(prepared)
            distances["features_mse"] = self.features, (self.perceive(reconstruction) - seen).square().mean()
        for name, (weight, distance) in distances.items():
            loss = loss + weight * values * distance
            terms[name] = distance
        return loss / values, terms

    def posterior_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior(self.prepare(images))

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
            "linear": self.linear is not None,
            **{name: value for name in ("l1", "features", "mmd") if (value := getattr(self, name))},
        }
