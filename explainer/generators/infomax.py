r"""A VAE whose code is also asked to say as much as it can about its image.

.. math:: \mathcal{L} = -\log p(x|z) + \beta\,\mathrm{KL}[q(z|x)\,\|\,N(0, 1)] - \gamma\, I_T(x; z)

(Rezaabad & Vishwanath 2020, arXiv 1912.13361). :math:`I_T` is a lower bound on the mutual information
of images and codes, computed with a critic T. Encoder and critic both maximise it, so there is one loss,
one backward pass and one optimiser; the decoder does not feel it.

It is no gain in quality: with the calibrated sigma the code already holds tens of nats, more than any of
these bounds can see (InfoNCE ends at the logarithm of the number of codes compared). Where sigma fixed at 1
starves the code, a strong weight brings it back on toy images, but on MNIST it did not
(docs/generators.md): calibrate sigma instead. What is reported apart stays apart: the terms hold the
reconstruction and the KL divergence, whose sum is the evidence bound, and the information beside them. The
state that is kept is chosen by the evidence bound on held-out images, never by a sum with the information
in it, and training ends early when that bound has not improved in five measurements: the information can
grow without end.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from explainer.errors import OptionError, TrainingError
from explainer.generators.base import initialised
from explainer.generators.objectives import info_nce, jensen_shannon, nwj
from explainer.generators.training import Phase
from explainer.generators.vae import VAE, VAEOptions

__all__ = ["BOUNDS", "InfoMaxVAE", "InformationCritic"]

BOUNDS = ("infonce", "jsd", "nwj")
PATIENCE = 5  # measurements of the evidence bound without an improvement, at most twenty in a phase


class InformationCritic(nn.Module):
    r"""Scores how well images and codes belong together, and bounds their mutual information.

    :math:`T(x, z) = g(x) \cdot k(z) / \sqrt{E}` with small networks g and k, so that every image of a
    batch is compared with every code for the price of one product.

    Args:
        shape: ``(C, H, W)`` of the prepared images; H and W even.
        latent_dim: Dimensions ``D`` of the codes.
        bound: ``"infonce"``, the default; ``"jsd"`` for small batches; ``"nwj"``, the form of the paper,
            with clamped scores.
        queue: Codes of earlier batches that InfoNCE compares with; the others compare within the batch.
        features: Dimensions ``E`` in which images and codes are compared.

    Raises:
        OptionError: An unknown bound or a negative queue.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int,
        *,
        bound: str = "infonce",
        queue: int = 1024,
        features: int = 64,
    ) -> None:
        super().__init__()
        if bound not in BOUNDS:
            raise OptionError(
                "bound", "is unknown", received=bound, remedy=f"Choose one of: {', '.join(BOUNDS)}."
            )
        if queue < 0:
            raise OptionError("queue", "must not be negative", received=queue, remedy="0 keeps no codes.")
        self.bound, self.queue = bound, int(queue)
        self.of_image = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * shape[0], 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, features),
        )
        self.of_code = nn.Sequential(nn.Linear(latent_dim, 128), nn.SiLU(), nn.Linear(128, features))
        kept = self.queue if bound == "infonce" else 0
        self.register_buffer("past", torch.zeros(kept, latent_dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.past: Tensor
        self.seen: Tensor

    def forward(self, images: Tensor, z: Tensor) -> Tensor:
        """Scores ``(N, M)`` of prepared images ``(N, C, H, W)`` and codes ``(M, D)``."""
        images_said, codes_said = self.of_image(images), self.of_code(z)
        return images_said @ codes_said.T / images_said.shape[1] ** 0.5

    def information(self, images: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What to maximise, and the named terms in nats.

        While training, the codes enter the queue. The codes in it are as old as the queue is long, so the
        bound is the better the slower the encoder moves.

        Args:
            images: ``(N, C, H, W)``, prepared.
            z: One draw of each posterior, ``(N, D)``.

        Returns:
            A scalar in nats, and ``mutual_information_nats``, a lower bound on I(x; z) (with
            ``jensen_shannon_nats`` beside it where that is what is maximised).

        Raises:
            TrainingError: One image alone, with a bound that compares within the batch.
        """
        if self.bound == "infonce":
            information = info_nce(self(images, torch.cat([z, self._remembered()])))
            if self.training:
                self._remember(z.detach())
            return information, {"mutual_information_nats": information}
        if len(z) < 2:
            raise TrainingError(
                "batch_size", f"must be at least 2 for bound={self.bound!r}", received=len(z),
                remedy="Codes are compared with those of other images: use a larger batch.",
            )  # fmt: skip
        scores = self(images, z)
        if self.bound == "nwj":
            information = nwj(scores)
            return information, {"mutual_information_nats": information}
        divergence = jensen_shannon(scores)
        with torch.no_grad():  # at the optimum the scores are the log density ratio, where NWJ wants 1 more
            information = nwj(scores + 1)
        return divergence, {"mutual_information_nats": information, "jensen_shannon_nats": divergence}

    def _remembered(self) -> Tensor:
        return self.past[: min(int(self.seen), len(self.past))]

    @torch.no_grad()
    def _remember(self, z: Tensor) -> None:
        """Write codes over the oldest ones; a step that will be skipped leaves none."""
        if not len(self.past) or not torch.isfinite(z).all():
            return
        z = z[-len(self.past) :]
        places = (self.seen + torch.arange(len(z), device=z.device)) % len(self.past)
        self.past[places] = z.to(self.past)
        self.seen += len(z)


class InfoMaxVAE(VAE):
    """A :class:`VAE` that also maximises a bound on the mutual information of images and codes.

    The critic is trained with it and saved with it; encoding, decoding and walking do not use it.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions of the code. Ignored for a spatial code.
        gamma: Weight of the information, in nats per nat; 0 trains nothing but the VAE.
        bound: ``"infonce"`` (at most log(batch + queue) nats), ``"jsd"`` or ``"nwj"``.
        queue: Codes of earlier batches that InfoNCE compares with.
        latent_channels: As for :class:`VAE`.
        options: As for :class:`VAE`: networks, weights of the terms, tau, sampler, seed.

    Raises:
        OptionError: A negative ``gamma`` or ``queue``, or an unknown ``bound``.

    >>> generator = InfoMaxVAE((1, 32, 32), latent_dim=8, gamma=2.0, bound="nwj")
    >>> generator.encode(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 8])
    """

    kind = "infomax"

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int = 64,
        *,
        gamma: float = 1.0,
        bound: str = "infonce",
        queue: int = 1024,
        latent_channels: int | None = None,
        **options: Unpack[VAEOptions],
    ) -> None:
        super().__init__(shape, latent_dim, latent_channels=latent_channels, **options)
        if not gamma >= 0:
            raise OptionError("gamma", "must not be negative", received=gamma, remedy="1 is the paper's.")
        self.gamma = float(gamma)
        with initialised(options.get("seed", 0)):
            self.critic = InformationCritic(self.padded_shape, self.latent_dim, bound=bound, queue=queue)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("infomax", 1.0, self, beta=self.beta, patience=PATIENCE),)

    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms, z = self.evidence_loss(prepared, noise, ramp)
        objective, information = self.critic.information(prepared, z)
        return loss - self.gamma * objective / prepared[0].numel(), {**terms, **information}

    def options(self) -> dict[str, object]:
        critic = {"gamma": self.gamma, "bound": self.critic.bound, "queue": self.critic.queue}
        return {**super().options(), **critic}
