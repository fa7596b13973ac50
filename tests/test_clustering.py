"""Mixtures of groups against torch's own distributions, and clusters that only versions of images reveal."""

import math

import torch
from numpy.testing import assert_allclose

from explainer.generators.clustering import Mixture, fit_mixture, maximised, mixture_log_densities, turned


def slanted(components=3, dimensions=4):
    random = torch.Generator().manual_seed(0)
    log_weights = torch.randn(components, generator=random).log_softmax(0)
    means, log_variances = torch.randn(2, components, dimensions, generator=random)
    return Mixture(
        log_weights, means, log_variances, torch.randn(components, dimensions, dimensions, generator=random)
    )


def torchs(mixture):
    rows = mixture.mixing.tril(-1) + torch.eye(mixture.means.shape[1])
    precision = rows.mT @ torch.diag_embed((-mixture.log_variances).exp()) @ rows
    return torch.distributions.MultivariateNormal(mixture.means, precision_matrix=precision)


def test_densities_are_torchs():
    mixture, z = slanted(), torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    wanted = mixture.log_weights + torchs(mixture).log_prob(z[:, None])
    assert_allclose(mixture_log_densities(z, mixture), wanted, rtol=1e-4)


def test_a_group_is_as_likely_as_its_members_together():
    mixture, groups = slanted(), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    wanted = mixture.log_weights + torchs(mixture).log_prob(groups[:, :, None]).sum(dim=0)
    assert_allclose(mixture_log_densities(groups, mixture), wanted, rtol=1e-4)


def test_draws_have_the_moments_of_their_component():
    mixture, random = slanted(), torch.Generator().manual_seed(1)
    drawn = mixture.draw(torch.full((40_000,), 1), torch.randn(40_000, 4, generator=random))
    assert_allclose(drawn.mean(dim=0), mixture.means[1], atol=0.15)
    scale = torchs(mixture).covariance_matrix[1]
    assert_allclose(drawn.T.cov() / scale.abs().max(), scale / scale.abs().max(), atol=0.03)


def test_the_likeliest_gaussian_is_the_moments():
    """One component and many codes: mean and covariance, but for what the average lends."""
    codes = torch.randn(1, 50_000, 3, generator=torch.Generator().manual_seed(0)).double()
    codes = codes @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.7], [0.0, 0.0, 1.0]]).double()
    extra = torch.full((1, 3), 0.5).double()
    mixture = maximised(codes, torch.ones(50_000, 1).double(), extra)
    rows = mixture.mixing[0] + torch.eye(3)
    precision = rows.T @ torch.diag((-mixture.log_variances[0]).exp()) @ rows
    assert_allclose(mixture.means[0], codes[0].mean(dim=0), atol=1e-9)
    assert_allclose(precision.inverse(), codes[0].T.cov() + 0.5 * torch.eye(3), atol=1e-3)


def test_versions_reveal_what_codes_alone_do_not():
    """Two things, each in two postures that lie further apart than the things do."""
    random = torch.Generator().manual_seed(0)
    thing, posture = torch.randint(2, (2, 400), generator=random)
    codes = torch.stack([thing.float(), 6.0 * posture], dim=1)

    def seen(postures):
        places = torch.stack([thing.float(), 6.0 * postures], dim=1)
        return places + 0.15 * torch.randn(codes.shape, generator=random)

    def agreement(shares):
        same = (shares.argmax(dim=1) == thing).double().mean()
        return max(float(same), 1 - float(same))

    groups = torch.stack([seen(posture), seen(1 - posture)])
    assert agreement(fit_mixture(groups[:1], 2, restarts=5)) < 0.7
    assert agreement(fit_mixture(groups, 2, restarts=5)) > 0.99


def test_the_fit_likeliest_on_held_out_codes_is_taken(monkeypatch):
    """Of a good and a bad start the good one, whichever comes first."""
    import explainer.generators.clustering as clustering

    codes = torch.tensor([-4.0, 0.0, 4.0]).repeat(40)[None, :, None] + torch.linspace(-0.1, 0.1, 120)[:, None]
    step = clustering._maximise_expectation
    for bad in (0, 1):
        calls = []

        def fit(groups, shares, bad=bad, calls=calls):
            calls.append(1)
            return step(groups, torch.full_like(shares, 1 / 3) if len(calls) - 1 == bad else shares)

        monkeypatch.setattr(clustering, "_maximise_expectation", fit)
        shares = fit_mixture(codes, 3, restarts=2)
        assert len(set(shares[:3].argmax(dim=1).tolist())) == 3
        assert len(calls) == 2


def test_turning_by_nothing_changes_nothing_and_there_and_back_little():
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(24.0), indexing="ij")
    image = torch.exp(-((rows - 12) ** 2 / 40 + (columns - 14) ** 2 / 15))[None, None]
    zero = torch.zeros(1)
    assert_allclose(turned(image, zero, zero), image, atol=1e-5)
    there = turned(image, zero + 0.25, zero)
    assert (there - image).abs().max() > 0.1
    assert (turned(there, zero - 0.25, zero) - image).abs().max() < 0.05
    sheared = turned(image, zero, zero + 0.25)
    assert (sheared - image).abs().max() > 0.1
    assert_allclose(sheared.sum(), image.sum(), rtol=0.01)  # a shear keeps areas


def test_a_quarter_turn_is_exact():
    image = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    quarter = turned(image, torch.tensor([math.pi / 2]), torch.zeros(1))
    assert_allclose(quarter, image.rot90(1, (2, 3)), atol=1e-4)
