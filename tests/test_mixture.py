"""The mixture prior against closed forms and torch's own, and planted clusters found without labels."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment

from explainer.errors import OptionError, TrainingError
from explainer.generators import GaussianMixtureVAE, load_generator
from explainer.generators.mixture import mixture_kl, mixture_log_densities
from explainer.generators.objectives import gaussian_kl

SMALL = {"widths": (8, 16), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}


def mixture(seed=0, components=3, latent_dim=4, **options):
    return GaussianMixtureVAE((1, 16, 16), latent_dim, components, seed=seed, **SMALL, **options)


def shapes(count=300, seed=0):
    """A disc, a bar or a frame, of varying place and brightness, with noise; and which of the three."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, count)
    rows, columns = np.mgrid[:16, :16]
    y, x = (axis - random.uniform(7, 8, (count, 1, 1)) for axis in (rows, columns))
    far = np.maximum(abs(y), abs(x))
    drawn = np.stack([y**2 + x**2 < 16, (abs(y) < 1.5) & (abs(x) < 6), (far > 5) & (far < 7)])
    bright = drawn[kinds, np.arange(count)] * random.uniform(0.5, 0.8, (count, 1, 1))
    images = 0.1 + bright + 0.03 * random.standard_normal(bright.shape)
    return torch.from_numpy(images.clip(0, 1)[:, None]).float(), kinds


def accuracy(responsibilities, kinds):
    """Share in the right cluster, under the best naming of the clusters."""
    table = np.zeros((3, 3))
    np.add.at(table, (responsibilities.argmax(1).numpy(), kinds), 1)
    return table[linear_sum_assignment(-table)].sum() / len(kinds)


def random_prior(components=3, latent_dim=4):
    random = torch.Generator().manual_seed(0)
    log_weights = torch.randn(components, generator=random).log_softmax(0)
    means, log_variances = torch.randn(2, components, latent_dim, generator=random)
    return log_weights, means, log_variances


def test_the_density_of_the_mixture_is_torchs():
    log_weights, means, log_variances = random_prior()
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    components = torch.distributions.Independent(
        torch.distributions.Normal(means, (0.5 * log_variances).exp()), 1
    )
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=log_weights), components
    )
    ours = mixture_log_densities(z, log_weights, means, log_variances)
    assert_allclose(ours.logsumexp(1), reference.log_prob(z), rtol=1e-5)
    assert_allclose(ours[:, 1], log_weights[1] + components.log_prob(z[:, None])[:, 1], rtol=1e-5)


def test_with_one_standard_normal_component_the_term_is_the_closed_form():
    random = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 4, generator=random)
    many = [value.repeat(20_000, 1) for value in (mean, log_variance)]
    z = many[0] + (0.5 * many[1]).exp() * torch.randn(many[0].shape, generator=random)
    standard = torch.zeros(1, 4)
    estimate = mixture_kl(*many, z, mixture_log_densities(z, torch.zeros(1), standard, standard))
    assert float(estimate) == pytest.approx(float(gaussian_kl(mean, log_variance).sum()), rel=0.01)


def test_the_term_is_exactly_nothing_where_the_posterior_is_the_prior():
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(7, 4)
    densities = mixture_log_densities(z, torch.zeros(2) - math.log(2), torch.zeros(2, 4), torch.zeros(2, 4))
    assert float(mixture_kl(zero, zero, z, densities)) == pytest.approx(0, abs=1e-6)


def test_a_far_component_costs_its_weight():
    """A posterior equal to a component of weight 1/4, the other far away: the divergence is log 4."""
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    means = torch.stack([torch.zeros(3), torch.full((3,), 1000.0)])
    densities = mixture_log_densities(z, torch.tensor([0.25, 0.75]).log(), means, torch.zeros(2, 3))
    term = mixture_kl(torch.zeros(50, 3), torch.zeros(50, 3), z, densities)
    assert float(term) == pytest.approx(math.log(4), abs=1e-5)


def test_planted_clusters_are_found_without_labels():
    images, _ = shapes()
    generator = mixture(latent_dim=3).fit(images, steps=400, minutes=5, progress=False)
    fresh, fresh_kinds = shapes(200, seed=1)
    responsibilities = generator.cluster(fresh)
    assert responsibilities.shape == (200, 3)
    assert_allclose(responsibilities.sum(1), np.ones(200), atol=1e-5)
    assert accuracy(responsibilities, fresh_kinds) > 0.95
    assert generator.health(fresh).r2[0] > 0.8
    assert set(generator.history["phase"]) == {"warm-up", "mixture"}
    assert generator.history["components_used"].iloc[-1] > 2.5
    for component in range(3):  # what a component draws is filed under it
        drawn = generator.sample(20, component, seed=3)
        assert (generator.cluster(drawn).argmax(1) == component).float().mean() > 0.8
    whole = generator.cluster(generator.sample(90, seed=3)).argmax(1)
    assert torch.bincount(whole, minlength=3).min() > 10


def test_the_prior_survives_setting_and_saving(tmp_path):
    generator, prior = mixture(), random_prior()
    generator._set_prior(*prior)
    for said, wanted in zip(generator.prior(), prior, strict=True):
        assert_allclose(said.detach(), wanted, atol=1e-5)
    generator.eval().save(tmp_path / "model")
    loaded, images = load_generator(tmp_path / "model"), shapes(4)[0]
    assert isinstance(loaded, GaussianMixtureVAE)
    assert torch.equal(loaded.cluster(images), generator.cluster(images))
    assert torch.equal(loaded.sample(3, 1), generator.sample(3, 1))


def test_log_variances_are_bounded_and_weights_sum_to_one():
    generator = mixture()
    with torch.no_grad():
        generator.prior_log_variances.fill_(1e6)
        generator.prior_logits.copy_(torch.tensor([1e3, 0.0, -1e3]))
    log_weights, _, log_variances = generator.prior()
    assert log_variances.max() <= 5
    assert float(log_weights.detach().exp().sum()) == pytest.approx(1)
    generator._set_prior(log_weights, generator.prior()[1], torch.full((3, 4), -99.0))
    assert torch.isfinite(generator.prior_log_variances).all()


def test_the_prior_moves_a_tenth_as_far_as_the_networks():
    generator = mixture()
    optimiser = torch.optim.Adam(generator.parameters(), 1e-3)
    before = [value.detach().clone() for value in generator.prior()]
    bias = generator.to_code.layers[-1].bias
    bias_before = bias.detach().clone()
    z = generator.posterior(shapes(8)[0])[0]
    (-mixture_log_densities(z, *generator.prior()).logsumexp(1).mean()).backward()
    optimiser.step()
    for value, old in zip(generator.prior()[1:], before[1:], strict=True):
        assert_allclose((value - old).detach().abs(), np.full((3, 4), 1e-4), rtol=0.05)
    assert_allclose((bias - bias_before).detach().abs()[:4], np.full(4, 1e-3), rtol=0.05)


def test_a_dead_component_shares_the_fullest_ones_place():
    generator = mixture()
    far = torch.stack([torch.zeros(4), torch.full((4,), 3.0), torch.full((4,), 90.0)])
    generator._set_prior(torch.tensor([0.6, 0.35, 0.05]).log(), far, torch.full((3, 4), -2.0))
    generator.usage.copy_(torch.tensor([0.65, 0.35, 0.0]))
    noise = torch.Generator().manual_seed(0)
    generator.age.fill_(199)
    generator._revive(noise)
    assert generator.prior()[1][2].mean() > 80  # not yet: it may still come alive
    generator.age.fill_(200)
    generator._revive(noise)
    log_weights, means, _ = generator.prior()
    assert_allclose(means[:2].detach(), far[:2], atol=1e-4)
    assert means[2].norm() < 4
    assert means[2].norm() > 0.01
    assert_allclose(log_weights.exp().detach(), np.array([0.3, 0.35, 0.3]) / 0.95, atol=1e-4)
    assert_allclose(generator.usage, [0.325, 0.35, 0.325], atol=1e-6)


def test_the_start_is_the_fit_likeliest_on_held_out_codes(monkeypatch):
    """Of a good and a bad fit the good one is taken, whichever comes first."""
    import sklearn.mixture

    random = torch.Generator().manual_seed(0)
    places = torch.tensor([[-4.0], [0.0], [4.0]]).expand(3, 4)
    codes = places[torch.randint(3, (300,), generator=random)] + 0.3 * torch.randn(300, 4, generator=random)

    class Fit(sklearn.mixture.GaussianMixture):
        def fit(self, values, labels=None):
            return super().fit(values if self.random_state == 7 else values[:4] * 0.01)

    monkeypatch.setattr(sklearn.mixture, "GaussianMixture", Fit)
    monkeypatch.setattr("explainer.generators.mixture.STARTS", (("full", "kmeans"),))
    for seeds in ([7, 1], [1, 7]):
        generator = mixture(restarts=2)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, chosen=seeds: torch.tensor(chosen))
            generator._fit_prior(codes, torch.full_like(codes, math.log(0.01)))
        _, means, log_variances = generator.prior()
        assert_allclose(sorted(means[:, 0].tolist()), [-4, 0, 4], atol=0.15)
        # 0.3 squared, and the 0.01 by which draws scatter about their means
        assert_allclose(log_variances.exp().detach(), np.full((3, 4), 0.1), rtol=0.35)
        assert_allclose(generator.usage, np.full(3, 1 / 3), atol=0.07)


def test_divergence_per_dimension_is_that_of_the_nearest_component():
    generator = mixture()
    images = shapes(6)[0]
    mean, log_variance = generator.posterior(images)
    far = torch.stack([torch.zeros(4), torch.full((4,), 90.0), torch.full((4,), -90.0)])
    generator._set_prior(torch.zeros(3) - math.log(3), far, torch.zeros(3, 4))
    assert_allclose(
        generator.kl_per_dimension(images), gaussian_kl(mean, log_variance).detach(), rtol=1e-4, atol=1e-6
    )


def test_the_same_seed_gives_the_same_weights_and_a_resumed_run_too(tmp_path, monkeypatch):
    images = shapes(120)[0]
    whole = mixture().fit(images, steps=40, minutes=5, progress=False)
    monkeypatch.setattr("explainer.generators.loop.CHECKPOINT_SECONDS", 0)
    interrupted = mixture()
    loss, calls = interrupted.loss, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 31:  # in the second phase
            raise RuntimeError("the power went out")
        return loss(*arguments)

    monkeypatch.setattr(interrupted, "loss", failing)
    with pytest.raises(RuntimeError, match="power"):
        interrupted.fit(images, steps=40, minutes=5, progress=False, resume_from=tmp_path)
    resumed = mixture().fit(images, steps=40, minutes=5, progress=False, resume_from=tmp_path)
    for name, value in whole.state_dict().items():
        assert_allclose(resumed.state_dict()[name], value, atol=1e-5, err_msg=name)


def test_impossible_options_are_refused():
    for options in ({"components": 0}, {"restarts": 0}):
        with pytest.raises(OptionError, match="components, restarts: must be at least 1"):
            mixture(**options)
    for share in (0.0, 1.0):
        with pytest.raises(OptionError, match="warm_up: must lie between 0 and 1"):
            mixture(warm_up=share)
    with pytest.raises(OptionError, match="component: does not exist"):
        mixture().sample(2, component=3)
    with pytest.raises(TrainingError, match="images: must be at least 5 for each of the 12 components"):
        mixture(components=12).fit(shapes(48)[0], steps=5, progress=False)
