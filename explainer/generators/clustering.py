r"""Clusters of codes: a mixture of Gaussians whose data come in groups, by expectation maximisation.

A group holds several versions of one image that cannot belong to different clusters, such as the image and
the image turned a little. All members of group n share one component (Shental et al. 2003, NIPS 16,
"equivalence constraints"):

.. math:: \log p(z_{n1}, \dots, z_{nT}) = \log \sum_k \pi_k \prod_t N(z_{nt}; \mu_k, \Sigma_k)

so a cluster cannot be split along the directions in which versions differ, and the likelihood prefers
clusters of things to clusters of postures. Covariances are full, written by their inverse as
:math:`\Sigma^{-1} = B^\top \mathrm{diag}(e^{-v}) B` with a unit lower triangular B: :math:`v_d` is the
log-variance of dimension d given those before it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Mixture", "fit_mixture", "mixture_log_densities", "turned"]

MOST_ITERATIONS = 60
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Mixture:
    """The parameters of a mixture of K Gaussians in D dimensions.

    Attributes:
        log_weights: ``(K,)``, the logarithms of weights that sum to 1.
        means: ``(K, D)``.
        log_variances: ``(K, D)``, v.
        mixing: ``(K, D, D)``, of which what is below the diagonal is that of B.
    """

    log_weights: Tensor
    means: Tensor
    log_variances: Tensor
    mixing: Tensor

    def whitened(self, z: Tensor) -> Tensor:
        """``B (z - mu)`` of codes ``(..., D)`` for each component, ``(..., K, D)``."""
        away = z[..., None, :] - self.means
        return away + torch.einsum("kde,...ke->...kd", self.mixing.tril(-1), away)

    def draw(self, components: Tensor, noise: Tensor) -> Tensor:
        """Codes ``(N, D)`` of components ``(N,)`` from standard normal noise ``(N, D)``."""
        scaled = (0.5 * self.log_variances[components]).exp() * noise
        mixing = self.mixing[components].tril(-1)
        away = torch.linalg.solve_triangular(mixing, scaled[..., None], upper=False, unitriangular=True)
        return self.means[components] + away[..., 0]


def mixture_log_densities(z: Tensor, mixture: Mixture) -> Tensor:
    r"""``log pi_k + log N(z; mu_k, Sigma_k)`` of codes, or of groups of codes that share a component.

    Args:
        z: ``(N, D)``, or groups ``(T, N, D)``.
        mixture: Of K components.

    Returns:
        ``(N, K)``; its ``logsumexp`` over components is the log-density under the mixture, its softmax the
        responsibilities.

    >>> standard = Mixture(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2, 2))
    >>> mixture_log_densities(torch.zeros(1, 2), standard)  # -log 2 pi
    tensor([[-1.8379]])
    >>> mixture_log_densities(torch.zeros(3, 1, 2), standard)  # three of them
    tensor([[-5.5136]])
    """
    squared = mixture.whitened(z).square() * (-mixture.log_variances).exp()
    densities = -0.5 * (squared + mixture.log_variances + math.log(2 * math.pi)).sum(dim=-1)
    return mixture.log_weights + (densities.sum(dim=0) if z.ndim == 3 else densities)


def turned(images: Tensor, angles: Tensor, shears: Tensor) -> Tensor:
    """Images ``(N, C, H, W)``, each turned by an angle ``(N,)`` and sheared by ``(N,)``, in radians.

    >>> image = torch.arange(9.0).view(1, 1, 3, 3)
    >>> turned(image, torch.tensor([math.pi / 2]), torch.zeros(1))[0, 0]  # a quarter turn
    tensor([[2., 5., 8.],
            [1., 4., 7.],
            [0., 3., 6.]])
    """
    cosine, sine, shear, zero = angles.cos(), angles.sin(), shears.tan(), torch.zeros_like(angles)
    aspect = images.shape[-2] / images.shape[-1]
    rows = [cosine, aspect * (cosine * shear - sine), zero, sine / aspect, sine * shear + cosine, zero]
    grid = functional.affine_grid(
        torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def fit_mixture(groups: Tensor, components: int, *, restarts: int, seed: int = 0) -> Tensor:
    """Responsibilities of the mixture that is likeliest on held-out groups; no label is looked at.

    Each fit starts from other clusters of k-means on four fifths of the groups. Covariances are drawn
    towards the diagonal of their average with the weight of D groups, so that small clusters have one.

    Args:
        groups: Codes ``(T, N, D)``: T versions of each of N images, N at least 5 for each component.
        components: K.
        restarts: Number of fits.
        seed: Of the starts.

    Returns:
        Responsibilities ``(N, K)``, of which :func:`maximised` makes the mixture again.

    >>> codes = torch.tensor([-1.0, 1.0]).repeat(20)[None, :, None] + torch.linspace(-0.1, 0.1, 40)[:, None]
    >>> shares = fit_mixture(codes, 2, restarts=3)
    >>> shares.argmax(dim=1).unflatten(0, (20, 2)).diff(dim=1).abs().sum(), shares.sum(dim=0)
    (tensor(20), tensor([20., 20.]))
    """
    from sklearn.cluster import KMeans  # takes a second to import

    values = groups.double().cpu()
    kept = values.shape[1] // 5
    training, judged = values[:, kept:], values[:, :kept]
    centres = training.mean(dim=0).numpy()
    best, highest = None, -math.inf
    for restart in range(restarts):
        start = KMeans(components, n_init=1, random_state=seed + restart).fit(centres).labels_
        shares = functional.one_hot(torch.as_tensor(start, dtype=torch.long), components).double()
        mixture = _maximise_expectation(training, shares)
        likelihood = float(mixture_log_densities(judged, mixture).logsumexp(dim=1).mean())
        if best is None or likelihood > highest:
            best, highest = mixture, likelihood
    assert best is not None  # there is at least one restart
    return mixture_log_densities(values, best).softmax(dim=1).to(groups)


def _maximise_expectation(groups: Tensor, shares: Tensor) -> Mixture:
    mixture, before = maximised(groups, shares), -math.inf
    for _ in range(MOST_ITERATIONS):
        log_densities = mixture_log_densities(groups, mixture)
        likelihood = float(log_densities.logsumexp(dim=1).mean())
        if likelihood - before < TOLERANCE * len(groups):
            break
        mixture, before = maximised(groups, log_densities.softmax(dim=1)), likelihood
    return mixture


def maximised(groups: Tensor, shares: Tensor, extra: Tensor | None = None) -> Mixture:
    """The likeliest mixture if groups ``(T, N, D)`` belong to components by shares ``(N, K)``.

    Args:
        groups: Codes ``(T, N, D)``.
        shares: ``(N, K)``; every row sums to 1.
        extra: Variances ``(K, D)`` to add: those by which draws scatter about the codes given.
    """
    versions, dimensions = len(groups), groups.shape[2]
    total = shares.sum(dim=0).clamp_min(1e-6)
    weight = total[:, None]
    means = shares.T @ groups.mean(dim=0) / weight
    flat, spread = groups.flatten(0, 1), shares.repeat(versions, 1) / versions
    aways = flat - means[:, None]
    within = torch.einsum("nk,knd,kne->kde", spread, aways, aways)
    average = within.sum(dim=0).diagonal() / total.sum() + 1e-6 * flat.var(dim=0) + 1e-9
    lent = dimensions * torch.diag(average)
    covariances = (within + lent) / (total + dimensions)[:, None, None]
    if extra is not None:
        covariances = covariances + torch.diag_embed(extra)
    factors = torch.linalg.cholesky(covariances)
    scales = factors.diagonal(dim1=1, dim2=2)
    mixing = torch.linalg.inv(factors) * scales[..., None]
    return Mixture((total / total.sum()).log(), means, 2 * scales.log(), mixing.tril(-1))
