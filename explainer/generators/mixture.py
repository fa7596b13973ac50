r"""A VAE whose prior is a mixture of Gaussians: it sorts images into clusters without labels.

.. math:: \mathcal{L} = -\log p(x|z) + \beta\, \mathbb{E}_{q(z|x)} \Big[ \log q(z|x)
          - \log \sum_k \pi_k\, N(z; \mu_k, \sigma_k^2) \Big]

with the expectation at one reparametrised draw: the divergence from the mixture itself, where VaDE
(Jiang et al. 2017, arXiv 1611.05148) has an upper bound of it by its responsibilities; covariances are full.
Training such a prior from scratch is known to fail in many ways; what is done about each:

- Codes that mean nothing yet have no clusters: a first phase trains a plain VAE, without the mixture.
- A bad start is never left: the mixture is fitted to the codes by expectation maximisation, several
  times, and the fit that is likeliest on held-out codes begins. No label is ever looked at.
- The likeliest clusters are those of posture: an upright and a slanted stroke are further apart than some
  pairs of things. So an image and the same image turned or sheared a little are made to share a component,
  in the fit and in training (:mod:`explainer.generators.clustering`): a choice about what a cluster is,
  and the only one. Where the direction means something, ``turns=0`` takes it back.
- A prior that runs after the codes: it learns at a tenth of the rate of the networks. Its parameters are
  stored in tenths, and the steps of Adam do not depend on the scale of a gradient.
- Weights that are no distribution, variances that vanish or explode: a softmax, and bounded logarithms.
- Components that nothing belongs to: they are sent to share the fullest one's place.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from explainer.errors import OptionError, TrainingError
from explainer.generators.base import as_unit_interval, initialised
from explainer.generators.clustering import Mixture, fit_mixture, maximised, mixture_log_densities, turned
from explainer.generators.feed import Feed
from explainer.generators.objectives import maximum_mean_discrepancy
from explainer.generators.training import TOGETHER, Phase
from explainer.generators.vae import VAE, VAEOptions, reparametrise

__all__ = ["GaussianMixtureVAE", "mixture_kl"]

PRIOR_RATE = 0.1
LOG_VARIANCE_LIMIT = 5.0
START_IMAGES = 2_500
DEAD_SHARE = 0.1
USAGE_DECAY = 0.99
PATIENCE = 200


def mixture_kl(mean: Tensor, log_variance: Tensor, z: Tensor, log_densities: Tensor) -> Tensor:
    """KL divergence of posteriors from a mixture, estimated at one draw of each.

    Args:
        mean: Posterior means ``(N, D)``.
        log_variance: Posterior log-variances ``(N, D)``.
        z: A reparametrised draw of each posterior, ``(N, D)``.
        log_densities: :func:`explainer.generators.clustering.mixture_log_densities` of ``z``, ``(N, K)``,
            or ``(N / T, K)`` of groups of T codes that share a component.

    Returns:
        A scalar in nats, the mean over the batch. It has no bias; one draw may be negative.
    """
    squared = (z - mean).square() * (-log_variance).exp()
    posterior = -0.5 * (squared + log_variance + math.log(2 * math.pi)).sum(dim=1)
    return posterior.mean() - log_densities.logsumexp(dim=1).sum() / len(z)


class GaussianMixtureVAE(VAE):
    """A :class:`VAE` with a mixture of Gaussians as its prior, one component for each cluster.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions ``D`` of the code; small codes (about 10) cluster better than large ones.
        components: Components ``K`` of the mixture.
        warm_up: Share of the training budget without the mixture.
        restarts: Fits of the mixture to the codes at the end of the warm-up.
        turns: Images that differ by a turn and a shear of up to this many radians share a component; 0 makes
            no such claim.
        options: As for :class:`VAE`: networks, weights of the terms, tau, sampler (which then draws samples
            of the whole mixture), seed.

    Raises:
        OptionError: No components or restarts, a share outside (0, 1), or turns outside [0, 1].

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
        turns: float = 0.25,
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
        if not 0 <= turns <= 1:
            raise OptionError(
                "turns", "must lie in [0, 1] radians", received=turns, remedy="0.25 is about 14 degrees."
            )
        self.components, self.restarts, self.warm_up = int(components), int(restarts), float(warm_up)
        self.turns = float(turns)
        self.prior_logits = nn.Parameter(torch.zeros(components))
        with initialised(options.get("seed", 0)):
            self.prior_means = nn.Parameter(torch.randn(components, latent_dim) / PRIOR_RATE)
        self.prior_log_variances = nn.Parameter(torch.zeros(components, latent_dim))
        self.prior_mixing = nn.Parameter(torch.zeros(components, latent_dim, latent_dim))
        self.cluster_names: dict[int, str] = {}
        self.register_buffer("usage", torch.full((components,), 1 / components))
        self.register_buffer("age", torch.zeros((), dtype=torch.long))
        self.usage: Tensor
        self.age: Tensor

    # -- the prior -----------------------------------------------------------------------------------

    def prior(self) -> Mixture:
        """The components as they are now."""
        bounded = LOG_VARIANCE_LIMIT * torch.tanh(PRIOR_RATE * self.prior_log_variances / LOG_VARIANCE_LIMIT)
        weights = torch.log_softmax(PRIOR_RATE * self.prior_logits, dim=0)
        return Mixture(
            weights, PRIOR_RATE * self.prior_means, bounded, PRIOR_RATE * self.prior_mixing.tril(-1)
        )

    @torch.no_grad()
    def _set_prior(self, mixture: Mixture) -> None:
        share = (mixture.log_variances / LOG_VARIANCE_LIMIT).clamp(-0.99, 0.99)
        self.prior_logits.copy_(mixture.log_weights / PRIOR_RATE)
        self.prior_means.copy_(mixture.means / PRIOR_RATE)
        self.prior_log_variances.copy_(LOG_VARIANCE_LIMIT * torch.atanh(share) / PRIOR_RATE)
        self.prior_mixing.copy_(mixture.mixing.tril(-1) / PRIOR_RATE)

    @torch.no_grad()
    def cluster(self, images: Tensor) -> Tensor:
        """Responsibilities of the components for images ``(N, C, H, W)`` in [0, 1].

        Returns:
            ``(N, K)``, every row sums to 1; its largest value names the cluster.
        """
        return mixture_log_densities(self.encode(images), self.prior()).softmax(dim=1)

    def name_clusters(self, names: Mapping[int, str]) -> Self:
        """Call components of the mixture by names, which are saved with the generator.

        Args:
            names: By number of the component, such as ``{3: "round"}``. Others keep theirs.

        Returns:
            The generator itself.

        Raises:
            OptionError: There is no such component, or two would have one name.
        """
        named = {**self.cluster_names, **{int(number): str(name) for number, name in names.items()}}
        for number, name in named.items():
            if not 0 <= number < self.components or not name.strip():
                raise OptionError(
                    "names", "must be a name for each component", received=f"{number}: {name!r}",
                    remedy=f"Name components 0 to {self.components - 1}.",
                )  # fmt: skip
        if len(set(named.values())) < len(named):
            raise OptionError(
                "names", "must differ", received=", ".join(named.values()), remedy="Name each cluster once."
            )
        self.cluster_names = named
        return self

    def cluster_number(self, cluster: str | int) -> int:
        """The component of a name (or number).

        Raises:
            OptionError: There is none.
        """
        for number, name in self.cluster_names.items():
            if name == cluster:
                return number
        if isinstance(cluster, int) and 0 <= cluster < self.components:
            return cluster
        known = ", ".join(f'"{name}"' for name in self.cluster_names.values()) or "none"
        raise OptionError(
            "cluster", "is not known", received=cluster,
            remedy=f"Named are: {known}; numbers are 0 to {self.components - 1}.",
        )  # fmt: skip

    def entry(self, folder: Path, *, half: bool = False) -> dict[str, object]:
        named = {str(number): name for number, name in self.cluster_names.items()}
        return {**super().entry(folder, half=half), **({"cluster_names": named} if named else {})}

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
        mixture = self.prior()
        if component is None:
            weights = mixture.log_weights.exp().cpu()
            chosen = torch.multinomial(weights, count, replacement=True, generator=random)
        else:
            chosen = torch.full((count,), component)
        noise = torch.randn(count, self.latent_dim, generator=random)
        codes = mixture.draw(chosen.to(self.latent_mean.device), noise.to(self.latent_mean))
        return self._decode_in_parts(codes)

    # -- training ------------------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("warm-up", self.warm_up, self, beta=self.beta),
            Phase("mixture", 1 - self.warm_up, self, beta=self.beta),
        )

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
        if phase.name == "warm-up":
            super().begin(phase, images)
        else:
            chosen = torch.randperm(len(images))[:START_IMAGES]  # seeded by fit, for each phase
            self._fit_prior(*self._posteriors(images.part(chosen)))

    @torch.no_grad()
    def _posteriors(self, images: Feed) -> tuple[Tensor, Tensor]:
        """Means ``(T, N, D)`` of versions of N stored images, and log-variances ``(N, D)``."""
        self.eval()
        device, turn = self.intensity.device, self.turns
        versions = [(turn, 0.0), (-turn, 0.0), (0.0, turn), (0.0, -turn)] if turn else []
        means, log_variances = [], []
        for part in images.split(TOGETHER):
            prepared = self.prepare(as_unit_interval(part).to(device))
            mean, log_variance = self.posterior(prepared)
            ones = torch.ones(len(part), device=device)
            others = [self.posterior(turned(prepared, a * ones, s * ones))[0] for a, s in versions]
            means.append(torch.stack([mean, *others]))
            log_variances.append(log_variance)
        return torch.cat(means, dim=1), torch.cat(log_variances)

    def _fit_prior(self, means: Tensor, log_variances: Tensor) -> None:
        """Expectation maximisation; the prior is that of draws, which scatter about the means."""
        seed = int(torch.randint(2**31 - 10_000, ()))
        codes, scatter = means.double().cpu(), log_variances.double().cpu().exp()
        shares = fit_mixture(codes, self.components, restarts=self.restarts, seed=seed)
        extra = shares.T @ scatter / shares.sum(dim=0).clamp_min(1e-6)[:, None]
        self._set_prior(maximised(codes, shares, extra))
        self.usage.copy_(shares.mean(dim=0))
        self.age.zero_()

    def loss(
        self, phase: Phase, prepared: Tensor, noise: torch.Generator, ramp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if phase.name == "warm-up":
            return super().loss(phase, prepared, noise, ramp)
        if self.training:
            self._revive(noise)
        pairs = self.turns > 0
        if pairs:
            prepared = self._with_versions(prepared, noise)
        mean, log_variance = self.posterior(prepared)
        z = reparametrise(mean, log_variance, noise)
        log_densities = mixture_log_densities(z.unflatten(0, (2, -1)) if pairs else z, self.prior())
        kl = mixture_kl(mean, log_variance, z, log_densities)
        if self.training:
            self._count(log_densities.detach())
        used = torch.special.entr(self.usage).sum().exp()
        # No ramp: codes that were let go for a tenth of the budget would leave the clusters just found.
        loss, terms = self.image_loss(prepared, self._decode(z), kl, self.beta)
        if self.mmd:
            with torch.no_grad():
                mixture = self.prior()
                weights = mixture.log_weights.exp()
                chosen = torch.multinomial(weights, len(z), replacement=True, generator=noise)
                prior = mixture.draw(chosen, torch.randn(z.shape, generator=noise, device=z.device))
            terms["mmd"] = maximum_mean_discrepancy(z, prior)
            loss = loss + self.mmd * terms["mmd"]
        return loss, {**terms, "components_used": used}

    def _with_versions(self, prepared: Tensor, noise: torch.Generator) -> Tensor:
        """The first half of a batch, and the same images turned and sheared: a batch as large as before."""
        half = prepared[: (len(prepared) + 1) // 2]
        angles, shears = self.turns * (2 * torch.rand(2, len(half), generator=noise, device=half.device) - 1)
        return torch.cat([half, turned(half, angles, shears)])

    @torch.no_grad()
    def _count(self, log_densities: Tensor) -> None:
        """Update the shares of the components."""
        shares = log_densities.softmax(dim=1).mean(dim=0)
        if torch.isfinite(shares).all():
            self.usage.lerp_(shares, 1 - USAGE_DECAY)
            self.age += 1

    @torch.no_grad()
    def _revive(self, noise: torch.Generator) -> None:
        """Send components that hold less than a tenth of their share to split the fullest one with it."""
        if not int(self.age) or int(self.age) % PATIENCE:
            return
        dead = torch.nonzero(self.usage < DEAD_SHARE / self.components).flatten().tolist()
        prior = self.prior()
        for component in dead:
            fullest = self.usage.argmax()
            away = torch.randn(1, self.latent_dim, generator=noise, device=self.usage.device)
            prior.means[component] = prior.draw(fullest[None], away)[0]
            prior.log_variances[component] = prior.log_variances[fullest]
            prior.mixing[component] = prior.mixing[fullest]
            prior.log_weights[[component, int(fullest)]] = prior.log_weights[fullest] - math.log(2)
            self.usage[[component, int(fullest)]] = self.usage[fullest] / 2
        if dead:
            self._set_prior(prior)

    # -- what is measured ----------------------------------------------------------------------------

    @torch.no_grad()
    def kl_per_dimension(self, images: Tensor) -> Tensor:
        """KL divergence ``(D,)`` in nats of the posterior from the components, weighted by responsibility.

        What the choice of the component itself says belongs to no dimension: it is in :meth:`total_kl`.
        """
        return self._divergences(images)[0]

    @torch.no_grad()
    def total_kl(self, images: Tensor) -> Tensor:
        """That of all dimensions and of the choice of the component, in nats.

        For responsibilities r of whatever kind, ``KL(q || mixture)`` is at most
        ``sum_k r_k KL(q || component k) + KL(r || weights)``.
        """
        per_dimension, choice = self._divergences(images)
        return per_dimension.sum() + choice

    def _divergences(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """KL divergence from the components ``(D,)``, and of their responsibilities from their weights."""
        mean, log_variance = self.posterior(self.prepare(images))
        prior = self.prior()
        log_shares = mixture_log_densities(mean, prior).log_softmax(dim=1)
        shares = log_shares.exp()
        choice = (shares * (log_shares - prior.log_weights)).sum(dim=1).mean()
        rows = prior.mixing + torch.eye(self.latent_dim, device=mean.device)
        spread = torch.einsum("kde,ne->nkd", rows.square(), log_variance.exp())
        ratio = (prior.whitened(mean).square() + spread) * (-prior.log_variances).exp()
        kl = 0.5 * (ratio - 1 + prior.log_variances - log_variance[:, None])
        return torch.einsum("nk,nkd->d", shares, kl) / len(images), choice

    def options(self) -> dict[str, object]:
        options = {name: value for name, value in super().options().items() if name != "latent_channels"}
        return {
            **options, "components": self.components, "warm_up": self.warm_up, "restarts": self.restarts,
            "turns": self.turns,
        }  # fmt: skip
