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

Either stage may also maximise a bound on the information of images and its codes, ``gamma = (g1, g2)``
(:mod:`explainer.generators.infomax`): a two-stage InfoMax VAE. Each stage has a critic of its own, trained
with it in one pass; stage 1 is frozen while stage 2 learns. A code of three dimensions, to be plotted, needs
no more than ``latent_dim=3``.

Two-stage VAEs: Dai & Wipf 2019 (arXiv 1903.05789).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from explainer.errors import OptionError
from explainer.generators.base import Detail, as_unit_interval, gate, initialised
from explainer.generators.feed import Feed
from explainer.generators.infomax import PATIENCE, InfoMaxVAE, InformationCritic
from explainer.generators.linear import LinearPath, begin_small
from explainer.generators.networks import MapDecoder, MapEncoder, split_gaussian
from explainer.generators.objectives import gaussian_kl, kl_terms, maximum_mean_discrepancy
from explainer.generators.training import FEWEST_IMAGES, TOGETHER, Phase, TrainableGenerator
from explainer.generators.vae import START_VALUES, VAE, VAEOptions, blocks_of, reparametrise

__all__ = ["TwoStageVAE"]

START_CODES = 4000  # stage-1 codes that stage 2 is whitened by and starts from


class TwoStageVAE(TrainableGenerator):
    """The default generator: sharp like its first stage, with a code as small as its second.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions of the compact code.
        latent_channels: Channels of the spatial code of stage 1.
        widths: Channels of stage 1 at each resolution, starting at half the image's.
        encoder_blocks: Residual blocks of the first encoder at each resolution; None: 0, then 1 each.
        decoder_blocks: Residual blocks of the first decoder at each resolution.
        code_width: Channels of stage 2.
        laplacian: Weight of the Laplacian-pyramid term in both stages, per pixel value; see :class:`VAE`.
        l1: Weight of the mean absolute difference in both stages.
        features: Weight of the features of the classifier that ``fit`` is given, in both stages; try .1.
        mmd: Weight of the maximum mean discrepancy of the compact code and its prior.
        gamma: Weights of the information of images and codes in stage 1 and in stage 2.
        bound: ``"infonce"``, ``"jsd"`` or ``"nwj"``; see :class:`InfoMaxVAE`, like ``queue``.
        queue: Codes of earlier batches that InfoNCE compares with.
        latent_match: Weight of the squared error of whitened stage-1 latents, in nats per value.
        first_share: Share of the training budget that goes to stage 1.
        tau: Width of the gate of the carried pixel residual, in normalised intensity.
        latent_tau: Width of the gate of the carried stage-1 latents, in their standard deviations.
        first_beta: Weight of the KL term of stage 1. Stage 2 knows its latents whatever their prior, so a
            smaller one only makes it more faithful.
        beta: Weight of the KL term of stage 2; 1 is the evidence bound.
        shared_sigma: One standard deviation for all channels in stage 2 instead of one for each.
        linear: Begin both stages at principal components, of patches and of the stage-1 latents (see
            :mod:`explainer.generators.linear`).
        sampler: Fit a second VAE to the compact codes, so that samples look like images.
        seed: Of the initial weights.

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
        encoder_blocks: Sequence[int] | None = None,
        decoder_blocks: Sequence[int] | None = None,
        code_width: int = 96,
        laplacian: float = 2.0,
        l1: float = 0.0,
        features: float = 0.0,
        mmd: float = 0.0,
        gamma: tuple[float, float] = (0.0, 0.0),
        bound: str = "infonce",
        queue: int = 1024,
        latent_match: float = 0.1,
        first_share: float = 0.5,
        tau: float = 0.05,
        latent_tau: float = 1.0,
        first_beta: float = 1.0,
        beta: float = 1.0,
        shared_sigma: bool = False,
        linear: bool = True,
        sampler: bool = False,
        seed: int = 0,
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
        if not 0 <= mmd < float("inf"):
            raise OptionError("mmd", "must not be negative", received=mmd, remedy="0 leaves the term out.")
        if len(gamma) != 2 or not all(0 <= weight < float("inf") for weight in gamma):
            raise OptionError(
                "gamma", "must be two weights, of stage 1 and stage 2, that are not negative", received=gamma,
                remedy="Pass (0, 1) for a second stage with InfoMax.",
            )  # fmt: skip
        super().__init__(shape, latent_dim, multiple=2 ** len(widths), tau=tau, sampler=sampler)
        self.latent_tau = float(latent_tau)
        self.latent_match, self.first_share, self.code_width = (
            float(latent_match),
            float(first_share),
            code_width,
        )
        self.gamma = float(gamma[0]), float(gamma[1])
        self.bound, self.queue, self.mmd = bound, int(queue), float(mmd)
        self.beta, self.shared_sigma = float(beta), bool(shared_sigma)
        if decoder_blocks is None:
            decoder_blocks = blocks_of(widths, finest=1, others=2)
        first: VAEOptions = {
            "widths": widths, "encoder_blocks": encoder_blocks, "decoder_blocks": decoder_blocks,
            "laplacian": laplacian, "l1": l1, "features": features, "tau": tau, "linear": linear,
            "beta": first_beta, "seed": seed,
        }  # fmt: skip
        if gamma[0]:
            self.stage1: VAE = InfoMaxVAE(
                self.shape, latent_channels=latent_channels, gamma=gamma[0], bound=bound, queue=queue, **first
            )
        else:
            self.stage1 = VAE(self.shape, latent_channels=latent_channels, **first)
        map_shape = self.stage1.code_shape
        with initialised(seed + 1):
            self.stage2 = nn.ModuleDict(
                {
                    "encoder": MapEncoder(map_shape, code_width, latent_dim),  # type: ignore[arg-type]
                    "decoder": MapDecoder(map_shape, code_width, latent_dim),  # type: ignore[arg-type]
                }
            )
            if gamma[1]:
                self.stage2["critic"] = InformationCritic(
                    self.padded_shape, latent_dim, bound=bound, queue=queue
                )
        self.linear = bool(linear)
        if linear:
            self.stage2["linear"] = LinearPath(map_shape, latent_dim)  # type: ignore[arg-type]
            for part in ("encoder", "decoder"):
                begin_small(self.stage2[part].get_submodule("layers")[-1])  # type: ignore[index]
        self.register_buffer("map_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("map_std", torch.ones(latent_channels, 1, 1))
        self.map_mean: Tensor
        self.map_std: Tensor

    # -- latents of stage 1, whitened per channel -------------------------------------------------

    def _whitened(self, prepared: Tensor) -> Tensor:
        codes = self.stage1._encode(prepared).view(-1, *self.stage1.code_shape)
        return (codes - self.map_mean) / self.map_std

    def _render(self, whitened: Tensor) -> Tensor:
        return self.stage1._decode((whitened * self.map_std + self.map_mean).flatten(1))

    def posterior(self, whitened: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(N, D)`` of the compact code of whitened stage-1 latents."""
        parameters = self.stage2["encoder"](whitened)
        if self.linear:
            parameters = parameters + self.stage2["linear"](whitened).flatten(1)
        return split_gaussian(parameters)

    def _expanded(self, codes: Tensor) -> Tensor:
        """Compact codes ``(N, D)`` to whitened stage-1 latents."""
        maps = self.stage2["decoder"](codes)
        if not self.linear:
            return maps
        return maps + self.stage2["linear"].decode(codes[:, :, None, None])  # type: ignore[operator]

    def posterior_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior(self._whitened(self.prepare(images)))

    def _encode(self, prepared: Tensor) -> Tensor:
        return self.posterior(self._whitened(prepared))[0]

    def _decode(self, codes: Tensor) -> Tensor:
        return self._render(self._expanded(codes))

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
            "stage2": self._expanded(codes),
        }

    def _deliver(self, codes: Tensor, detail: Detail) -> Tensor:
        start = detail.values["stage2"]
        moved = self._expanded(codes)
        mask = gate(moved, start, self.latent_tau, window=3, full=detail.full)
        carried = mask * (detail.values["base"] - start)
        return self._fill_in(self._render(moved + carried), detail)

    # -- training ------------------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        first, second = (PATIENCE if weight else None for weight in self.gamma)
        return (
            Phase("stage 1", self.first_share, self.stage1, self.stage1.beta, first),
            Phase("stage 2", 1 - self.first_share, self.stage2, self.beta, second),
        )

    @torch.no_grad()
    def begin(self, phase: Phase, images: Feed) -> None:
        if phase.name == "stage 1":
            self.stage1.intensity.copy_(self.intensity)
            self.stage1.begin(phase, images)
            return
        self.stage1.eval()
        device = self.intensity.device
        most = min(START_CODES, max(FEWEST_IMAGES, START_VALUES // math.prod(self.stage1.code_shape)))
        parts = [
            self.stage1._encode(self.prepare(as_unit_interval(part).to(device)))
            for part in images.part(slice(most)).split(TOGETHER)
        ]
        codes = torch.cat(parts).view(-1, *self.stage1.code_shape)
        self.map_mean.copy_(codes.mean(dim=(0, 2, 3)).view(-1, 1, 1))
        self.map_std.copy_(codes.std(dim=(0, 2, 3)).clamp_min(1e-6).view(-1, 1, 1))
        if self.linear:
            self.stage2["linear"].start((codes - self.map_mean) / self.map_std)  # type: ignore[operator]

    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if phase.name == "stage 1":
            return self.stage1.loss(phase, prepared, noise, ramp)
        with torch.no_grad():
            whitened = self._whitened(prepared)
        mean, log_variance = self.posterior(whitened)
        z = reparametrise(mean, log_variance, noise)
        rebuilt = self._expanded(z)
        kl = gaussian_kl(mean, log_variance)
        loss, terms = self.stage1.image_loss(
            prepared, self._render(rebuilt), kl.sum(), self.beta * ramp, shared_sigma=self.shared_sigma
        )
        match = (whitened - rebuilt).square().mean()
        loss, terms = loss + self.latent_match * match, {**terms, **kl_terms(kl), "latent_mse": match}
        if self.mmd:
            terms["mmd"] = maximum_mean_discrepancy(z, torch.randn(z.shape, generator=noise, device=z.device))
            loss = loss + self.mmd * terms["mmd"]
        critic = self.stage2["critic"] if self.gamma[1] else None
        if isinstance(critic, InformationCritic):
            objective, information = critic.information(prepared, z)
            loss, terms = loss - self.gamma[1] * objective / prepared[0].numel(), {**terms, **information}
        return loss, terms

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
        shared: dict[str, object] = {
            name: first[name]
            for name in (
                "latent_channels", "widths", "encoder_blocks", "decoder_blocks", "laplacian", "l1", "features"
            )
            if name in first
        }  # fmt: skip
        critics = {"gamma": list(self.gamma), "bound": self.bound, "queue": self.queue}
        return {
            **super().options(),
            **shared,
            **({"mmd": self.mmd} if self.mmd else {}),
            **(critics if any(self.gamma) else {}),
            "code_width": self.code_width,
            "latent_match": self.latent_match,
            "first_share": self.first_share,
            "latent_tau": self.latent_tau,
            "first_beta": self.stage1.beta,
            "beta": self.beta,
            "shared_sigma": self.shared_sigma,
            "linear": self.linear,
        }
