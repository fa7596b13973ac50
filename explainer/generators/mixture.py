r"""A VAE whose prior is a mixture of Gaussians: it sorts images into clusters without labels.

.. math:: \mathcal{L} = -\log p(x|z) + \beta\, \mathbb{E}_{q(z|x)} \Big[ \log q(z|x)
          - \log \sum_k \pi_k\, N(z; \mu_k, \sigma_k^2) \Big]

with the expectation at one reparametrised draw: the divergence from the mixture itself, where VaDE
(Jiang et al. 2017, arXiv 1611.05148) has an upper bound of it by its responsibilities. Training such a
prior from scratch is known to fail in many ways; what is done about each:

- Codes that mean nothing yet have no clusters: a first phase trains a plain VAE, without the mixture.
- A bad start is never left: the mixture is fitted to the codes by expectation maximisation, several
  times, and the fit that is likeliest on held-out codes begins. No label is ever looked at.
- A prior that runs after the codes: it learns at a tenth of the rate of the networks. Its parameters are
  stored in tenths, and the steps of Adam do not depend on the scale of a gradient.
- Weights that are no distribution, variances that vanish or explode: a softmax, and bounded logarithms.
- Components that nothing belongs to: they are sent to share the fullest one's place.
"""

import math
import warnings
from itertools import cycle
from typing import Unpack

import torch
from torch import Tensor, nn

from explainer.errors import OptionError, TrainingError
from explainer.generators.base import as_unit_interval, initialised
from explainer.generators.feed import Feed
from explainer.generators.objectives import maximum_mean_discrepancy
from explainer.generators.training import Phase
from explainer.generators.vae import VAE, VAEOptions, reparametrise

__all__ = ["GaussianMixtureVAE", "mixture_kl", "mixture_log_densities"]

PRIOR_RATE = 0.1
LOG_VARIANCE_LIMIT = 5.0
START_IMAGES = 10_000
DEAD_SHARE = 0.1
USAGE_DECAY = 0.99
PATIENCE = 200
# Clusters of codes are seldom round: full covariances find them better, where there are codes enough.
STARTS = (("full", "kmeans"), ("full", "random_from_data"), ("diag", "kmeans"))


def mixture_log_densities(z: Tensor, log_weights: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
    r"""``log pi_k + log N(z; mu_k, sigma_k^2)`` of codes under each component.

    Args:
        z: ``(N, D)``.
        log_weights: ``(K,)``, the logarithms of weights that sum to 1.
        means: ``(K, D)``.
        log_variances: ``(K, D)``.

    Returns:
        ``(N, K)``; its ``logsumexp`` over components is the log-density of the mixture, its softmax the
        responsibilities.

    >>> standard = torch.zeros(1, 2)
    >>> mixture_log_densities(torch.zeros(1, 2), torch.zeros(1), standard, standard)  # -log 2 pi
    tensor([[-1.8379]])
    """
    squared = (z[:, None] - means).square() * (-log_variances).exp()
    return log_weights - 0.5 * (squared + log_variances + math.log(2 * math.pi)).sum(dim=2)


def mixture_kl(mean: Tensor, log_variance: Tensor, z: Tensor, log_densities: Tensor) -> Tensor:
    """KL divergence of posteriors from a mixture, estimated at one draw of each.

    Args:
        mean: Posterior means ``(N, D)``.
        log_variance: Posterior log-variances ``(N, D)``.
        z: A reparametrised draw of each posterior, ``(N, D)``.
        log_densities: :func:`mixture_log_densities` of ``z``, ``(N, K)``.

    Returns:
        A scalar in nats, the mean over the batch. It has no bias; one draw may be negative.
    """
    squared = (z - mean).square() * (-log_variance).exp()
    posterior = -0.5 * (squared + log_variance + math.log(2 * math.pi)).sum(dim=1)
    return (posterior - log_densities.logsumexp(dim=1)).mean()


class GaussianMixtureVAE(VAE):
    """A :class:`VAE` with a mixture of Gaussians as its prior, one component for each cluster.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions ``D`` of the code; small codes (about 10) cluster better than large ones.
        components: Components ``K`` of the mixture.
        warm_up: Share of the training budget without the mixture.
        restarts: Fits of the mixture to the codes at the end of the warm-up.
        options: As for :class:`VAE`: networks, weights of the terms, tau, sampler (which then draws samples
            of the whole mixture), seed.

    Raises:
        OptionError: No components or restarts, or a share outside (0, 1).

    >>> generator = GaussianMixtureVAE((1, 32, 32), latent_dim=8, components=3)
    >>> generator.cluster(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 3])
    >>> generator.sample(2, component=1).shape
    torch.Size([2, 1, 32, 32])
    """

    kind = "mixture"

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int = 10,
        components: int = 10,
        *,
        warm_up: float = 0.4,
        restarts: int = 20,
        **options: Unpack[VAEOptions],
    ) -> None:
        super().__init__(shape, latent_dim, **options)
        if components < 1 or restarts < 1:
            raise OptionError(
                "components, restarts", "must be at least 1", received=(components, restarts),
                remedy="Pass the number of clusters you expect.",
            )  # fmt: skip
        if not 0 < warm_up < 1:
            raise OptionError(
                "warm_up", "must lie between 0 and 1", received=warm_up, remedy="0.4 is the default."
            )
        self.components, self.restarts, self.warm_up = int(components), int(restarts), float(warm_up)
        self.prior_logits = nn.Parameter(torch.zeros(components))
        with initialised(options.get("seed", 0)):
            self.prior_means = nn.Parameter(torch.randn(components, latent_dim) / PRIOR_RATE)
        self.prior_log_variances = nn.Parameter(torch.zeros(components, latent_dim))
        self.register_buffer("usage", torch.full((components,), 1 / components))
        self.register_buffer("age", torch.zeros((), dtype=torch.long))
        self.usage: Tensor
        self.age: Tensor

    # -- the prior -----------------------------------------------------------------------------------

    def prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the weights ``(K,)``, means and log-variances ``(K, D)`` of the components."""
        bounded = LOG_VARIANCE_LIMIT * torch.tanh(PRIOR_RATE * self.prior_log_variances / LOG_VARIANCE_LIMIT)
        weights = torch.log_softmax(PRIOR_RATE * self.prior_logits, dim=0)
        return weights, PRIOR_RATE * self.prior_means, bounded

    @torch.no_grad()
    def _set_prior(self, log_weights: Tensor, means: Tensor, log_variances: Tensor) -> None:
        share = (log_variances / LOG_VARIANCE_LIMIT).clamp(-0.99, 0.99)
        self.prior_logits.copy_(log_weights / PRIOR_RATE)
        self.prior_means.copy_(means / PRIOR_RATE)
        self.prior_log_variances.copy_(LOG_VARIANCE_LIMIT * torch.atanh(share) / PRIOR_RATE)

    @torch.no_grad()
    def cluster(self, images: Tensor) -> Tensor:
        """Responsibilities of the components for images ``(N, C, H, W)`` in [0, 1].

        Returns:
            ``(N, K)``, every row sums to 1; its largest value names the cluster.
        """
        return mixture_log_densities(self.encode(images), *self.prior()).softmax(dim=1)

    @torch.no_grad()
    def sample(
        self, count: int, component: int | None = None, *, seed: int = 0, prior: str | None = None
    ) -> Tensor:
        """Images ``(count, C, H, W)`` decoded from the mixture, or from one of its components.

        Args:
            count: Number of images.
            component: Of the mixture; None for the whole.
            seed: Of the draws.
            prior: ``"standard"``, which is the mixture here, or ``"sampler"``; by default the sampler where
                there is one and no component is named.

        Raises:
            OptionError: There is no such component, or the prior is unknown.
            GeneratorError: There is no sampler.
        """
        if component is None and prior != "standard" and (self.sampler is not None or prior is not None):
            return super().sample(count, seed=seed, prior=prior)
        if component is not None and not 0 <= component < self.components:
            raise OptionError(
                "component", "does not exist", received=component,
                remedy=f"Choose 0 to {self.components - 1}, or None for the whole mixture.",
            )  # fmt: skip
        random = torch.Generator().manual_seed(seed)
        log_weights, means, log_variances = (value.cpu() for value in self.prior())
        if component is None:
            chosen = torch.multinomial(log_weights.exp(), count, replacement=True, generator=random)
        else:
            chosen = torch.full((count,), component)
        z = reparametrise(means[chosen], log_variances[chosen], random)
        return self.decode(z.to(self.latent_mean))

    # -- training ------------------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        return Phase("warm-up", self.warm_up, self), Phase("mixture", 1 - self.warm_up, self)

    def begin(self, phase: Phase, images: Feed) -> None:
        """Fit the mixture to the codes once the warm-up is over.

        Raises:
            TrainingError: Fewer than 5 images for each component.
        """
        if len(images) < 5 * self.components:
            raise TrainingError(
                "images", f"must be at least 5 for each of the {self.components} components",
                received=len(images), remedy="Pass more images, or build it with fewer components.",
            )  # fmt: skip
        if phase.name == "mixture":
            chosen = torch.randperm(len(images))[:START_IMAGES]  # seeded by fit, for each phase
            self._fit_prior(*self._posteriors(images.part(chosen)))

    @torch.no_grad()
    def _posteriors(self, images: Feed) -> tuple[Tensor, Tensor]:
        self.eval()
        device = self.intensity.device
        parts = [self.posterior(self.prepare(as_unit_interval(p).to(device))) for p in images.split(256)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([variance for _, variance in parts])

    def _fit_prior(self, mean: Tensor, log_variance: Tensor) -> None:
        """Expectation maximisation on four fifths of the codes; the start likeliest on the rest is taken."""
        from sklearn.exceptions import ConvergenceWarning  # takes a second to import
        from sklearn.mixture import GaussianMixture

        codes = mean.cpu().double()
        kept, values = len(codes) // 5, codes.numpy()
        seeds = torch.randint(2**31 - 1, (self.restarts,)).tolist()
        fits = [
            GaussianMixture(
                self.components,
                covariance_type=covariance,
                init_params=start,
                reg_covar=1e-4,
                random_state=seed,
            )
            for seed, (covariance, start) in zip(seeds, cycle(STARTS), strict=False)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that has not converged is a start too
            best = max((fit.fit(values[kept:]) for fit in fits), key=lambda fit: fit.score(values[:kept]))
        shares = torch.from_numpy(best.predict_proba(values))
        total = shares.sum(dim=0).clamp_min(1e-6)
        means = shares.T @ codes / total[:, None]
        # The prior is that of draws, which scatter about the means the mixture was fitted to.
        squares = shares.T @ (codes.square() + log_variance.cpu().double().exp()) / total[:, None]
        self._set_prior((total / total.sum()).log(), means, (squares - means.square()).clamp_min(1e-6).log())
        self.usage.copy_(shares.mean(dim=0))
        self.age.zero_()

    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if phase.name == "warm-up":
            return super().loss(phase, prepared, noise, ramp)
        self._revive(noise)
        mean, log_variance = self.posterior(prepared)
        z = reparametrise(mean, log_variance, noise)
        log_densities = mixture_log_densities(z, *self.prior())
        kl = mixture_kl(mean, log_variance, z, log_densities)
        used = self._count(log_densities.detach())
        # No ramp: codes that were let go for a tenth of the budget would leave the clusters just found.
        loss, terms = self.image_loss(prepared, self._decode(z), kl, self.beta)
        if self.mmd:
            with torch.no_grad():
                log_weights, means, log_variances = self.prior()
                chosen = torch.multinomial(log_weights.exp(), len(z), replacement=True, generator=noise)
                prior = reparametrise(means[chosen], log_variances[chosen], noise)
            terms["mmd"] = maximum_mean_discrepancy(z, prior)
            loss = loss + self.mmd * terms["mmd"]
        return loss, {**terms, "components_used": used}

    @torch.no_grad()
    def _count(self, log_densities: Tensor) -> Tensor:
        """Update the shares of the components; returns how many are used, the exponential of the entropy."""
        shares = log_densities.softmax(dim=1).mean(dim=0)
        if torch.isfinite(shares).all():
            self.usage.lerp_(shares, 1 - USAGE_DECAY)
            self.age += 1
        return torch.special.entr(self.usage).sum().exp()

    @torch.no_grad()
    def _revive(self, noise: torch.Generator) -> None:
        """Send components that hold less than a tenth of their share to split the fullest one with it."""
        if not int(self.age) or int(self.age) % PATIENCE:
            return
        dead = torch.nonzero(self.usage < DEAD_SHARE / self.components).flatten().tolist()
        log_weights, means, log_variances = self.prior()
        for component in dead:
            fullest = int(self.usage.argmax())
            away = torch.randn(self.latent_dim, generator=noise, device=means.device)
            means[component] = means[fullest] + away * (0.5 * log_variances[fullest]).exp()
            log_variances[component] = log_variances[fullest]
            log_weights[[component, fullest]] = log_weights[fullest] - math.log(2)
            self.usage[[component, fullest]] = self.usage[fullest] / 2
        if dead:
            self._set_prior(log_weights, means, log_variances)

    # -- what is measured ----------------------------------------------------------------------------

    @torch.no_grad()
    def kl_per_dimension(self, images: Tensor) -> Tensor:
        """KL divergence ``(D,)`` in nats of the posterior from the components, weighted by responsibility.

        What the choice of the component itself says, at most log K nats, belongs to no dimension and is
        not in it.
        """
        mean, log_variance = self.posterior(self.prepare(images))
        log_weights, means, log_variances = self.prior()
        shares = mixture_log_densities(mean, log_weights, means, log_variances).softmax(dim=1)
        distance = (mean[:, None] - means).square() * (-log_variances).exp()
        spread = log_variance[:, None] - log_variances
        return torch.einsum("nk,nkd->d", shares, 0.5 * (distance + spread.exp() - 1 - spread)) / len(images)

    def options(self) -> dict[str, object]:
        options = {name: value for name, value in super().options().items() if name != "latent_channels"}
        return {
            **options, "components": self.components, "warm_up": self.warm_up, "restarts": self.restarts,
        }  # fmt: skip
