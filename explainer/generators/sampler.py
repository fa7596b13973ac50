r"""A second, small VAE on the codes of a first one, so that samples from a simple prior become its codes.

What a VAE's encoder makes of real images, the *aggregate posterior* :math:`q(z) = \mathbb{E}_x\, q(z|x)`,
is not the standard normal its decoder is asked to sample from: the better the reconstructions, the further
apart they are, and samples are images of codes that no image has. The cure (Dai & Wipf 2019,
arXiv 1903.05789) is a second VAE whose data are draws of :math:`q(z)` and whose own code u has as many
dimensions. It has nothing to compress, so its aggregate posterior can match its prior:

.. math:: u \sim N(0, 1), \qquad z \sim N(m(u), \mathrm{diag}(s^2)), \qquad x = G(z)

Codes are whitened per dimension. Encoder and decoder are perceptrons around the identity, which they start
at: before any training the sampler draws from the Gaussian of the codes, and s is calibrated per
dimension as the sigma of an image's channel is.
"""

import math

import torch
from torch import Tensor, nn

from explainer.generators.base import initialised
from explainer.generators.networks import split_gaussian
from explainer.generators.objectives import gaussian_kl, sigma_reconstruction

__all__ = ["CodeSampler"]

MOST_STEPS = 2000
BATCH = 256
RATE = 5e-3
FIRST_LOG_VARIANCE = -3.0


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Two hidden layers, and an output of zeros at first."""
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
    )  # fmt: skip


class CodeSampler(nn.Module):
    """Draws codes like those that images have.

    Args:
        latent_dim: Dimensions ``D`` of the codes, and of the sampler's own.
        width: Units of its hidden layers.

    >>> sampler = CodeSampler(3)  # not fitted: the standard normal
    >>> sampler(torch.tensor([[-1.0, 0.0, 2.0]])).detach()
    tensor([[-1.,  0.,  2.]])
    """

    def __init__(self, latent_dim: int, width: int = 256) -> None:
        super().__init__()
        with initialised(0):
            self.encoder = _perceptron(latent_dim, width, 2 * latent_dim)
            self.decoder = _perceptron(latent_dim, width, latent_dim)
        self.register_buffer("centre", torch.zeros(latent_dim))
        self.register_buffer("spread", torch.ones(latent_dim))
        self.register_buffer("sigma", torch.zeros(latent_dim))
        self.centre: Tensor
        self.spread: Tensor
        self.sigma: Tensor

    def forward(self, u: Tensor) -> Tensor:
        """Centres ``(N, D)`` of the codes that the sampler's own codes ``(N, D)`` stand for."""
        return self.centre + self.spread * self._whitened(u)

    @torch.no_grad()
    def draw(self, count: int, noise: torch.Generator) -> Tensor:
        """Codes ``(count, D)``; the noise is drawn on the CPU, so that devices agree."""
        u, rest = torch.randn(2, count, len(self.centre), generator=noise).to(self.centre)
        return self(u) + self.spread * self.sigma * rest

    def posterior(self, whitened: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(N, D)`` of the sampler's own codes of whitened codes."""
        mean, log_variance = split_gaussian(self.encoder(whitened))
        return whitened + mean, FIRST_LOG_VARIANCE + log_variance

    def fit(self, mean: Tensor, log_variance: Tensor, *, steps: int, seed: int) -> list[dict[str, float]]:
        """Fit to draws of the posteriors of training images, and calibrate sigma.

        Args:
            mean: Posterior means ``(N, D)``.
            log_variance: Posterior log-variances ``(N, D)``.
            steps: Optimiser steps; no more than 2,000 are taken.
            seed: Of batches and noise.

        Returns:
            The terms of the loss at every 25th step, in nats per code.
        """
        device, steps = mean.device, min(steps, MOST_STEPS)
        noise = torch.Generator(device).manual_seed(seed)
        deviation = (0.5 * log_variance).exp()
        self.centre.copy_(mean.mean(dim=0))
        total = mean.var(dim=0, correction=0) + deviation.square().mean(dim=0)
        self.spread.copy_(total.sqrt().clamp_min(1e-6))

        def drawn(rows: Tensor) -> Tensor:
            epsilon = torch.randn(len(rows), mean.shape[1], generator=noise, device=device)
            return (mean[rows] + deviation[rows] * epsilon - self.centre) / self.spread

        self.requires_grad_(True).train()
        optimizer = torch.optim.Adam(self.parameters(), lr=RATE, betas=(0.9, 0.99))
        rows: list[dict[str, float]] = []
        for step in range(steps):
            chosen = torch.randint(len(mean), (BATCH,), generator=noise, device=device)
            loss, terms = self._loss(drawn(chosen), noise)
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            if torch.isfinite(norm):
                optimizer.step()
            if step % 25 == 0:
                values = {name: float(value.detach()) for name, value in terms.items()}
                rows.append({"step": step, "loss": float(loss.detach()), **values})
        self.requires_grad_(False).eval()
        whitened = drawn(torch.arange(len(mean), device=device))
        errors = [self._errors(part, noise) for part in whitened.split(4096)]
        self.sigma.copy_(torch.cat(errors).mean(dim=0).sqrt())
        return rows

    def _whitened(self, u: Tensor) -> Tensor:
        return u + self.decoder(u)

    def _rebuilt(self, whitened: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """What a draw of the sampler's own code makes of whitened codes, and its KL divergence, ``(D,)``."""
        mean, log_variance = self.posterior(whitened)
        epsilon = torch.randn(mean.shape, generator=noise, device=mean.device)
        u = mean + (0.5 * log_variance).exp() * epsilon
        return self._whitened(u), gaussian_kl(mean, log_variance)

    def _loss(self, whitened: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rebuilt, kl = self._rebuilt(whitened, noise)
        nats, errors = sigma_reconstruction(whitened[:, :, None, None], rebuilt[:, :, None, None])
        terms = {"reconstruction_nats": nats, "kl_nats": kl.sum(), "latent_mse": errors.mean()}
        return (nats + kl.sum()) / whitened.shape[1], terms

    @torch.no_grad()
    def _errors(self, whitened: Tensor, noise: torch.Generator) -> Tensor:
        """Squared errors ``(N, D)`` of whitened codes."""
        return (self._rebuilt(whitened, noise)[0] - whitened).square()
