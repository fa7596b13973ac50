r"""Two stages: a faithful spatial autoencoder, and a compact code of its latents.

Stage 1 is a :class:`VAE` with a spatial code ``z1`` (high fidelity); it is trained first and frozen.
Stage 2 is a VAE of the whitened ``z1`` with a vector code ``z2`` of 8-64 dimensions, trained on the
*image* loss through the frozen decoder plus a small match of the latents: with the latent match alone
it collapses to grey averages. With ``G1`` the first decoder and ``H`` the second,

.. math:: \mathrm{bare} = G_1(H(z_2)), \qquad
          y = G_1(H(z_2') + a M_1 (z_1 - H(z_2))), \qquad x' = y + a M (x - y_0)

with :math:`y_0` the value of y at :math:`z_2' = z_2`. The stage-1 latent carries the detail of the image,
the pixel residual what is left, and both fade out where the walk changes the image:
:math:`M_1 = \exp(-\mathrm{blur}_3(\overline{|H(z_2') - H(z_2)|}) / \tau_1)`, in whitened units, is what keeps
teeth from shining through a mouth that has closed.

Two-stage VAEs: Dai & Wipf 2019 (arXiv 1903.05789).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from explainer.errors import OptionError
from explainer.generators.base import Detail, as_unit_interval, gate, initialised
from explainer.generators.networks import MapDecoder, MapEncoder, split_gaussian, start_at_nothing
from explainer.generators.objectives import gaussian_kl
from explainer.generators.training import Phase, TrainableGenerator
from explainer.generators.vae import VAE, reparametrise

__all__ = ["TwoStageVAE"]

LINEAR_IMAGES = 6000
RIDGE = 0.01
LOG_VARIANCE = -4.0


class TwoStageVAE(TrainableGenerator):
    """The default generator: sharp like its first stage, with a code as small as its second.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions of the compact code.
        latent_channels: Channels of the spatial code of stage 1.
        widths: Channels of stage 1 at each resolution, starting at half the image's.
        encoder_blocks: Residual blocks of the first encoder at each resolution.
        decoder_blocks: Residual blocks of the first decoder at each resolution.
        code_width: Channels of stage 2.
        laplacian: Weight of the Laplacian-pyramid term in both stages.
        latent_match: Weight of the squared error of whitened stage-1 latents, in nats per value.
        first_share: Share of the training budget that goes to stage 1.
        tau: Width of the gate of the carried pixel residual, in normalised intensity.
        latent_tau: Width of the gate of the carried stage-1 latents, in their standard deviations.
        seed: Of the initial weights.
        first_beta: Weight of the KL term of stage 1. Stage 2 knows its latents whatever their prior, so a
            smaller one only makes it more faithful.
        beta: Weight of the KL term of stage 2; 1 is the evidence bound.
        linear_start: Fixed linear paths beside the networks of both stages: principal components of patches,
            and of whole images. It starts as good as so many components, and what is trained corrects it.
            For little data or time.
        shared_sigma: One standard deviation for all channels in stage 2 instead of one for each.

    >>> generator = TwoStageVAE((1, 32, 32), latent_dim=8, widths=(8, 16, 16), code_width=16)
    >>> generator.encode(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 8])
    """

    kind = "two-stage"

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int = 64,
        *,
        latent_channels: int = 16,
        widths: Sequence[int] = (32, 64, 96),
        encoder_blocks: Sequence[int] = (0, 1, 1),
        decoder_blocks: Sequence[int] = (1, 2, 2),
        code_width: int = 96,
        laplacian: float = 2.0,
        latent_match: float = 0.1,
        first_share: float = 0.5,
        tau: float = 0.05,
        latent_tau: float = 1.0,
        seed: int = 0,
        first_beta: float = 1.0,
        beta: float = 1.0,
        shared_sigma: bool = False,
        linear_start: bool = False,
    ) -> None:
        if not 0 < first_share < 1 or latent_tau <= 0:
            raise OptionError(
                "first_share, latent_tau", "must lie in (0, 1), and be positive",
                received=(first_share, latent_tau), remedy="Try first_share=.5, latent_tau=1.",
            )  # fmt: skip
        if not (first_beta > 0 and beta > 0):
            raise OptionError(
                "first_beta, beta", "must be positive", received=(first_beta, beta),
                remedy="1 is the evidence bound; smaller is more faithful.",
            )  # fmt: skip
        super().__init__(shape, latent_dim, multiple=2 ** len(widths), tau=tau)
        self.latent_tau = float(latent_tau)
        self.latent_match, self.first_share, self.code_width = (
            float(latent_match),
            float(first_share),
            code_width,
        )
        self.stage1 = VAE(
            self.shape, latent_channels=latent_channels, widths=widths, encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks, laplacian=laplacian, tau=tau, seed=seed, beta=first_beta,
            linear_start=linear_start,
        )  # fmt: skip
        self.beta = float(beta)
        map_shape = self.stage1.code_shape
        with initialised(seed + 1):
            self.stage2 = nn.ModuleDict(
                {
                    "encoder": MapEncoder(map_shape, code_width, latent_dim),  # type: ignore[arg-type]
                    "decoder": MapDecoder(map_shape, code_width, latent_dim),  # type: ignore[arg-type]
                }
            )
        self.register_buffer("map_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("map_std", torch.ones(latent_channels, 1, 1))
        self.map_mean: Tensor
        self.map_std: Tensor
        self.shared_sigma, self.linear_start = bool(shared_sigma), bool(linear_start)
        if linear_start:
            for name in ("read", "write"):
                self.register_buffer(name, torch.zeros(latent_dim, math.prod(map_shape)))
            self.register_buffer("center", torch.zeros(map_shape))
            self.read: Tensor
            self.write: Tensor
            self.center: Tensor

    # -- latents of stage 1, whitened per channel -------------------------------------------------

    def _whitened(self, prepared: Tensor) -> Tensor:
        codes = self.stage1._encode(prepared).view(-1, *self.stage1.code_shape)
        return (codes - self.map_mean) / self.map_std

    def _render(self, whitened: Tensor) -> Tensor:
        return self.stage1._decode((whitened * self.map_std + self.map_mean).flatten(1))

    def posterior(self, whitened: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(N, D)`` of the compact code of whitened stage-1 latents."""
        mean, log_variance = split_gaussian(self.stage2["encoder"](whitened))
        if self.linear_start:
            mean = mean + (whitened - self.center).flatten(1) @ self.read.T
        return mean, log_variance

    def _maps(self, codes: Tensor) -> Tensor:
        """Whitened stage-1 latents of compact codes."""
        maps = self.stage2["decoder"](codes)
        return maps + (codes @ self.write).view_as(maps) + self.center if self.linear_start else maps

    def _encode(self, prepared: Tensor) -> Tensor:
        return self.posterior(self._whitened(prepared))[0]

    def _decode(self, codes: Tensor) -> Tensor:
        return self._render(self._maps(codes))

    # -- carried detail ----------------------------------------------------------------------------

    @torch.no_grad()
    def detail(self, images: Tensor, z: Tensor, strength: float = 1.0) -> Detail:
        detail = super().detail(images, z, strength)
        base = detail.values["stage2"] + strength * (detail.values["stage1"] - detail.values["stage2"])
        values = {"base": base, "stage2": detail.values["stage2"], "image": detail.values["image"],
                  "reconstruction": self._render(base)}  # fmt: skip
        return Detail(values, detail.strength)

    def _detail(self, prepared: Tensor, codes: Tensor) -> dict[str, Tensor]:
        return {
            "image": prepared,
            "stage1": self._whitened(prepared),
            "stage2": self._maps(codes),
        }

    def _deliver(self, codes: Tensor, detail: Detail) -> Tensor:
        start = detail.values["stage2"]
        moved = self._maps(codes)
        carried = gate(moved, start, self.latent_tau, window=3) * (detail.values["base"] - start)
        return self._fill_in(self._render(moved + carried), detail)

    # -- training ------------------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("stage 1", self.first_share, self.stage1),
            Phase("stage 2", 1 - self.first_share, self.stage2),
        )

    @torch.no_grad()
    def begin(self, phase: Phase, images: Tensor) -> None:
        if phase.name == "stage 1":
            self.stage1.begin(phase, images)
            return
        self.stage1.eval()
        device = self.intensity.device
        parts = [
            self.stage1._encode(self.prepare(as_unit_interval(part).to(device)))
            for part in images[:4000].split(256)
        ]
        codes = torch.cat(parts).view(-1, *self.stage1.code_shape)
        self.map_mean.copy_(codes.mean(dim=(0, 2, 3)).view(-1, 1, 1))
        self.map_std.copy_(codes.std(dim=(0, 2, 3)).clamp_min(1e-6).view(-1, 1, 1))
        if self.linear_start:
            self._start_linear(images[:LINEAR_IMAGES])

    @torch.no_grad()
    def _start_linear(self, images: Tensor) -> None:
        """Lay down the fixed linear paths of stage 2, and let the networks beside them begin at nothing.

        With X the images, ``X = U S V'`` their leading components and ``C = sqrt(N) U`` codes of unit
        variance, ``write`` is the regression of the whitened, centred latents W on C, ``read`` that of C on
        W, with a ridge.
        """
        prepared = [self.prepare(as_unit_interval(part).to(self.intensity)) for part in images.split(256)]
        whitened = torch.cat([self._whitened(part) for part in prepared])
        self.center.copy_(whitened.mean(dim=0))
        maps = (whitened - self.center).flatten(1)
        pixels = torch.cat(prepared).flatten(1)
        rank = min(self.latent_dim, len(pixels) - 1)
        left = torch.svd_lowrank(pixels - pixels.mean(dim=0), q=min(rank + 32, *pixels.shape), niter=4)[0]
        codes = torch.zeros(len(maps), self.latent_dim).to(maps)
        codes[:, :rank] = math.sqrt(len(maps)) * left[:, :rank]
        cross = maps.T @ codes / len(maps)
        second_moment = maps.T @ maps / len(maps)
        second_moment.diagonal().add_(RIDGE)
        self.write.copy_(cross.T)
        self.read.copy_(torch.linalg.solve(second_moment.double(), cross.double()).T)
        start_at_nothing(self.stage2["encoder"].layers[-1], log_variance=LOG_VARIANCE)  # type: ignore[index, arg-type]
        start_at_nothing(self.stage2["decoder"].layers[-1])  # type: ignore[index, arg-type]

    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if phase.name == "stage 1":
            return self.stage1.loss(phase, prepared, noise, ramp)
        with torch.no_grad():
            whitened = self._whitened(prepared)
        mean, log_variance = self.posterior(whitened)
        rebuilt = self._maps(reparametrise(mean, log_variance, noise))
        kl = gaussian_kl(mean, log_variance).sum()
        loss, terms = self.stage1.image_loss(
            prepared, self._render(rebuilt), kl, self.beta * ramp, shared_sigma=self.shared_sigma
        )
        match = (whitened - rebuilt).square().mean()
        return loss + self.latent_match * match, {**terms, "latent_mse": match}

    # -- what is measured ----------------------------------------------------------------------------

    @torch.no_grad()
    def kl_per_dimension(self, images: Tensor) -> Tensor:
        return gaussian_kl(*self.posterior(self._whitened(self.prepare(images))))

    @torch.no_grad()
    def stage_reconstructions(self, images: Tensor) -> dict[str, Tensor]:
        prepared = self.prepare(images)
        return {"stage 1": self.crop(self.stage1._decode(self.stage1._encode(prepared)))}

    def options(self) -> dict[str, object]:
        first = self.stage1.options()
        shared = {
            name: first[name]
            for name in ("latent_channels", "widths", "encoder_blocks", "decoder_blocks", "laplacian")
        }
        return {
            **super().options(),
            **shared,
            "code_width": self.code_width,
            "latent_match": self.latent_match,
            "first_share": self.first_share,
            "latent_tau": self.latent_tau,
            "first_beta": self.stage1.beta,
            "beta": self.beta,
            "shared_sigma": self.shared_sigma,
            **({"linear_start": True} if self.linear_start else {}),
        }
