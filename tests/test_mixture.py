"""The mixture prior against closed forms and torch's own, and planted clusters found without labels."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment

from explainer.errors import OptionError, TrainingError
from explainer.generators import GaussianMixtureVAE, load_generator
from explainer.generators.clustering import Mixture, mixture_log_densities
from explainer.generators.mixture import mixture_kl
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
    mixing = torch.randn(components, latent_dim, latent_dim, generator=random).tril(-1)
    return Mixture(log_weights, means, log_variances, mixing)


def round_prior(log_weights, means, log_variances):
    return Mixture(log_weights, means, log_variances, torch.zeros(*means.shape, means.shape[1]))


def test_with_one_standard_normal_component_the_term_is_the_closed_form():
    random = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 4, generator=random)
    many = [value.repeat(20_000, 1) for value in (mean, log_variance)]
    z = many[0] + (0.5 * many[1]).exp() * torch.randn(many[0].shape, generator=random)
    standard = torch.zeros(1, 4)
    estimate = mixture_kl(*many, z, mixture_log_densities(z, round_prior(torch.zeros(1), standard, standard)))
    assert float(estimate) == pytest.approx(float(gaussian_kl(mean, log_variance).sum()), rel=0.01)


def test_the_term_is_exactly_nothing_where_the_posterior_is_the_prior():
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(7, 4)
    densities = mixture_log_densities(
        z, round_prior(torch.zeros(2) - math.log(2), torch.zeros(2, 4), torch.zeros(2, 4))
    )
    assert float(mixture_kl(zero, zero, z, densities)) == pytest.approx(0, abs=1e-6)


def test_a_far_component_costs_its_weight():
    """A posterior equal to a component of weight 1/4, the other far away: the divergence is log 4."""
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    means = torch.stack([torch.zeros(3), torch.full((3,), 1000.0)])
    densities = mixture_log_densities(
        z, round_prior(torch.tensor([0.25, 0.75]).log(), means, torch.zeros(2, 3))
    )
    term = mixture_kl(torch.zeros(50, 3), torch.zeros(50, 3), z, densities)
    assert float(term) == pytest.approx(math.log(4), abs=1e-5)


def test_planted_clusters_are_found_without_labels():
    images, _ = shapes()
    generator = mixture().fit(images, steps=400, minutes=5, progress=False)
    fresh, fresh_kinds = shapes(200, seed=1)
    responsibilities = generator.cluster(fresh)
    assert responsibilities.shape == (200, 3)
    assert_allclose(responsibilities.sum(1), np.ones(200), atol=1e-5)
    assert accuracy(responsibilities, fresh_kinds) > 0.95
    assert generator.health(fresh).r2[0] > 0.8
    assert set(generator.history["phase"]) == {"warm-up", "mixture"}
    assert generator.history["components_used"].dropna().iloc[-1] > 2.5
    for component in range(3):  # what a component draws is filed under it
        drawn = generator.sample(20, component, seed=3)
        assert (generator.cluster(drawn).argmax(1) == component).float().mean() > 0.8
    whole = generator.cluster(generator.sample(90, seed=3)).argmax(1)
    assert torch.bincount(whole, minlength=3).min() > 10


def test_the_prior_survives_setting_and_saving(tmp_path):
    generator, prior = mixture(turns=0.1), random_prior()
    generator._set_prior(prior)
    for name, wanted in vars(prior).items():
        assert_allclose(getattr(generator.prior(), name).detach(), wanted, atol=1e-5)
    generator.eval().save(tmp_path / "model")
    loaded, images = load_generator(tmp_path / "model"), shapes(4)[0]
    assert isinstance(loaded, GaussianMixtureVAE)
    assert loaded.turns == 0.1
    assert torch.equal(loaded.cluster(images), generator.cluster(images))
    assert torch.equal(loaded.sample(3, 1), generator.sample(3, 1))


def test_an_image_and_the_image_turned_share_a_component():
    """The term of a pair is that of a group: log sum of products, half of it for each image."""
    generator = mixture(turns=0.3)
    generator._set_prior(random_prior())
    prepared = generator.prepare(shapes(6)[0])
    together = generator._with_versions(prepared, torch.Generator().manual_seed(0))
    assert together.shape == prepared.shape
    assert torch.equal(together[:3], prepared[:3])
    assert not torch.allclose(together[3:], prepared[:3], atol=0.01)
    mean, log_variance = generator.posterior(together)
    alone = mixture_log_densities(mean, generator.prior())
    weights = generator.prior().log_weights
    pairs = mixture_log_densities(mean.unflatten(0, (2, 3)), generator.prior())
    assert_allclose(pairs.detach(), (alone[:3] + alone[3:] - weights).detach(), rtol=1e-4)
    posterior = -0.5 * (log_variance + math.log(2 * math.pi)).sum(dim=1)
    wanted = (posterior[:3] + posterior[3:] - pairs.logsumexp(dim=1)).mean() / 2
    assert_allclose(mixture_kl(mean, log_variance, mean, pairs).detach(), wanted.detach(), rtol=1e-4)


def test_without_turns_images_stand_alone():
    generator = mixture(turns=0.0)
    means, log_variances = generator._posteriors(shapes(50)[0])
    assert means.shape == (1, 50, 4)
    assert log_variances.shape == (50, 4)
    assert mixture()._posteriors(shapes(50)[0])[0].shape == (5, 50, 4)
    loss, _ = generator.loss(
        generator.phases()[1], generator.prepare(shapes(4)[0]), torch.Generator().manual_seed(0), 1.0
    )
    assert torch.isfinite(loss)


def test_log_variances_are_bounded_and_weights_sum_to_one():
    generator = mixture()
    with torch.no_grad():
        generator.prior_log_variances.fill_(1e6)
        generator.prior_logits.copy_(torch.tensor([1e3, 0.0, -1e3]))
    prior = generator.prior()
    assert prior.log_variances.max() <= 5
    assert float(prior.log_weights.detach().exp().sum()) == pytest.approx(1)
    generator._set_prior(round_prior(prior.log_weights, prior.means, torch.full((3, 4), -99.0)))
    assert torch.isfinite(generator.prior_log_variances).all()


def test_the_prior_moves_a_tenth_as_far_as_the_networks():
    generator = mixture()
    optimiser = torch.optim.Adam(generator.parameters(), 1e-3)
    before = {name: value.detach().clone() for name, value in vars(generator.prior()).items()}
    bias = generator.to_code.layers[-1].bias
    bias_before = bias.detach().clone()
    z = generator.posterior(shapes(8)[0])[0]
    (-mixture_log_densities(z, generator.prior()).logsumexp(1).mean()).backward()
    optimiser.step()
    for name in ("means", "log_variances"):
        moved = (getattr(generator.prior(), name) - before[name]).detach().abs()
        assert_allclose(moved, np.full((3, 4), 1e-4), rtol=0.05)
    moved = (generator.prior().mixing - before["mixing"]).detach().abs()
    assert_allclose(moved, np.full((3, 4, 4), 1e-4) * np.tri(4, k=-1), rtol=0.05)
    assert_allclose((bias - bias_before).detach().abs()[:4], np.full(4, 1e-3), rtol=0.05)


def test_a_dead_component_shares_the_fullest_ones_place():
    generator = mixture()
    far = torch.stack([torch.zeros(4), torch.full((4,), 3.0), torch.full((4,), 90.0)])
    narrow = torch.full((3, 4), -2.0)
    generator._set_prior(round_prior(torch.tensor([0.6, 0.35, 0.05]).log(), far, narrow))
    generator.usage.copy_(torch.tensor([0.65, 0.35, 0.0]))
    noise = torch.Generator().manual_seed(0)
    generator.age.fill_(199)
    generator._revive(noise)
    assert generator.prior().means[2].mean() > 80  # not yet: it may still come alive
    generator.age.fill_(200)
    generator._revive(noise)
    prior = generator.prior()
    assert_allclose(prior.means[:2].detach(), far[:2], atol=1e-4)
    assert prior.means[2].norm() < 4
    assert prior.means[2].norm() > 0.01
    assert_allclose(prior.log_weights.exp().detach(), np.array([0.3, 0.35, 0.3]) / 0.95, atol=1e-4)
    assert_allclose(generator.usage, [0.325, 0.35, 0.325], atol=1e-6)


def test_the_start_is_where_the_codes_are():
    random = torch.Generator().manual_seed(0)
    places = torch.tensor([[-4.0], [0.0], [4.0]]).expand(3, 4)
    codes = places[torch.randint(3, (300,), generator=random)] + 0.3 * torch.randn(300, 4, generator=random)
    generator = mixture(restarts=5)
    generator._fit_prior(codes[None], torch.full_like(codes, math.log(0.01)))
    prior = generator.prior()
    assert_allclose(sorted(prior.means[:, 0].tolist()), [-4, 0, 4], atol=0.15)
    # 0.3 squared, and the 0.01 by which draws scatter about their means
    assert_allclose(prior.log_variances.exp().detach(), np.full((3, 4), 0.1), rtol=0.35)
    assert_allclose(generator.usage, np.full(3, 1 / 3), atol=0.07)


def test_divergence_per_dimension_is_that_of_the_nearest_component():
    generator = mixture()
    images = shapes(6)[0]
    mean, log_variance = generator.posterior(images)
    far = torch.stack([torch.zeros(4), torch.full((4,), 90.0), torch.full((4,), -90.0)])
    generator._set_prior(round_prior(torch.zeros(3) - math.log(3), far, torch.zeros(3, 4)))
    assert_allclose(
        generator.kl_per_dimension(images), gaussian_kl(mean, log_variance).detach(), rtol=1e-4, atol=1e-6
    )


def test_divergences_of_a_slanted_component_add_up_to_torchs():
    generator = mixture(components=1)
    generator._set_prior(
        Mixture(torch.zeros(1), *[value[:1] for value in list(vars(random_prior()).values())[1:]])
    )
    images, prior = shapes(6)[0], generator.prior()
    mean, log_variance = generator.posterior(generator.prepare(images))
    rows = torch.eye(4) + prior.mixing[0]
    precision = rows.T @ torch.diag((-prior.log_variances[0]).exp()) @ rows
    component = torch.distributions.MultivariateNormal(prior.means[0], precision_matrix=precision)
    posterior = torch.distributions.MultivariateNormal(mean, torch.diag_embed(log_variance.exp()))
    wanted = torch.distributions.kl_divergence(posterior, component).mean()
    assert_allclose(generator.kl_per_dimension(images).sum().detach(), wanted.detach(), rtol=1e-4)


def test_the_choice_of_the_component_is_information():
    """Every posterior is its component, and the eight are far apart: no dimension says a thing, log 8 do."""
    generator = mixture(components=8)
    means = 50 * torch.eye(8)[:, :4] - 50 * torch.eye(8)[:, 4:]
    generator._set_prior(round_prior(torch.full((8,), -math.log(8)), means, torch.zeros(8, 4)))
    generator.posterior = lambda prepared: (generator.prior().means.repeat(3, 1), torch.zeros(24, 4))
    images = shapes(24)[0]
    assert_allclose(generator.kl_per_dimension(images), np.zeros(4), atol=1e-4)
    assert float(generator.total_kl(images)) == pytest.approx(math.log(8), abs=1e-3)
    health = generator.health(images)
    assert health.information == pytest.approx((math.log(8), math.log(8)), abs=1e-3)
    assert health.total_kl == pytest.approx(math.log(8), abs=1e-3)
    assert "2.1 with the choice of component" in health.facts()[0]
    assert "holds only 2.1 nats" in health.sentence


def test_the_total_is_a_bound_on_the_divergence_from_the_mixture():
    generator = mixture()
    generator._set_prior(random_prior())
    images = shapes(6)[0]
    mean, log_variance = (value.detach() for value in generator.posterior(generator.prepare(images)))
    many = [value.repeat(5_000, 1) for value in (mean, log_variance)]
    z = many[0] + (0.5 * many[1]).exp() * torch.randn(
        many[0].shape, generator=torch.Generator().manual_seed(0)
    )
    exact = float(mixture_kl(*many, z, mixture_log_densities(z, generator.prior())).detach())
    assert exact - 0.02 < float(generator.total_kl(images)) < exact + math.log(3)


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
    with pytest.raises(OptionError, match="turns: must lie in"):
        mixture(turns=2.0)
    with pytest.raises(OptionError, match="component: does not exist"):
        mixture().sample(2, component=3)
    with pytest.raises(TrainingError, match="images: must be at least 5 for each of the 12 components"):
        mixture(components=12).fit(shapes(48)[0], steps=5, progress=False)
