"""Bounds on the mutual information and the maximum mean discrepancy, against known values."""

import math

import pytest
import torch
from numpy.testing import assert_allclose

from explainer.errors import OptionError
from explainer.generators.objectives import (
    encoded_information,
    info_nce,
    jensen_shannon,
    maximum_mean_discrepancy,
    nwj,
)


def gaussians(count, correlation, dimensions=2, seed=0):
    """Correlated pairs, their mutual information in nats, and the log density ratio of all pairs."""
    random = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, count, dimensions, generator=random, dtype=torch.double)
    y = correlation * x + math.sqrt(1 - correlation**2) * noise
    spread = 1 - correlation**2
    squared = (y[None] - correlation * x[:, None]).square() / spread - y[None].square()
    ratio = -0.5 * (squared + math.log(spread)).sum(dim=2)
    return x, y, -0.5 * dimensions * math.log(spread), ratio


# -- mutual information --------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_with_the_best_critic_the_bounds_reach_the_information_of_gaussians(correlation):
    _, _, truth, ratio = gaussians(2000, correlation)
    assert float(info_nce(ratio)) == pytest.approx(truth, abs=0.05)
    assert float(nwj(1 + ratio)) == pytest.approx(truth, abs=0.05)


def test_the_jensen_shannon_estimate_is_the_divergence():
    """Twice JS(p, q) by its definition, E_p log 2p/(p+q) + E_q log 2q/(p+q), from the known densities."""
    _, _, _, ratio = gaussians(2000, 0.8)
    strangers = ratio[~torch.eye(2000, dtype=torch.bool)]
    together = (2 / (1 + (-ratio.diagonal()).exp())).log().mean()
    apart = (2 / (1 + strangers.exp())).log().mean()
    assert float(jensen_shannon(ratio)) == pytest.approx(float(together + apart), abs=1e-6)
    assert 0.3 < float(jensen_shannon(ratio)) < 2 * math.log(2)


@pytest.mark.parametrize(
    "wrong", [lambda ratio: 0.3 * ratio, lambda ratio: -ratio, lambda ratio: ratio.roll(1, 0)]
)
@pytest.mark.parametrize("bound", [info_nce, lambda ratio: nwj(1 + ratio), jensen_shannon])
def test_a_worse_critic_says_less(bound, wrong):
    _, _, _, ratio = gaussians(1000, 0.9)
    assert bound(wrong(ratio)) < bound(ratio) - 0.05


def test_only_info_nce_does_not_mind_a_constant():
    _, _, _, ratio = gaussians(1000, 0.9)
    assert_allclose(info_nce(ratio + 2), info_nce(ratio), atol=1e-9)
    assert nwj(3 + ratio) < nwj(1 + ratio) - 1
    assert jensen_shannon(2 + ratio) < jensen_shannon(ratio) - 0.1


def test_info_nce_ends_at_the_logarithm_of_the_codes_compared_and_a_queue_lifts_it():
    x, y, truth, ratio = gaussians(64, 0.999, dimensions=4)
    assert truth > math.log(64) + 5
    alone = info_nce(ratio)
    assert math.log(64) - 0.1 < float(alone) <= math.log(64)
    _, past, _, _ = gaussians(4000, 0.999, dimensions=4, seed=1)
    spread = 1 - 0.999**2
    more = torch.cat([y, past])
    squared = (more[None] - 0.999 * x[:, None]).square() / spread - more[None].square()
    queued = info_nce(-0.5 * squared.sum(2))
    assert math.log(4064) - 0.5 < float(queued) <= math.log(4064)


def test_clamped_nwj_cannot_explode():
    scores = 1000 * torch.eye(8) - 500
    scores[0, 1] = 1000.0  # one stranger that is taken for the pair
    assert torch.isfinite(nwj(scores))
    assert float(nwj(1000 * torch.eye(8) - 500)) == pytest.approx(10, abs=1e-3)
    assert float(nwj(1000 * torch.eye(8) - 500, limit=3)) == pytest.approx(3 - math.exp(-4), abs=1e-6)


@pytest.mark.parametrize("bound", [info_nce, nwj, jensen_shannon])
def test_maximising_a_bound_joins_the_pairs_and_parts_the_strangers(bound):
    scores = torch.zeros(4, 6, requires_grad=True)
    bound(scores).backward()
    assert (scores.grad.diagonal() > 0).all()
    assert (scores.grad[~torch.eye(4, 6, dtype=torch.bool)] < 0).all()


def test_the_information_of_an_encoder_is_that_of_its_channel():
    """Codes x + noise of Gaussian x: the information is half the logarithm of 1 + signal over noise."""
    random = torch.Generator().manual_seed(0)
    mean, noise = torch.randn(2, 3000, 1, generator=random)
    log_variance = torch.full_like(mean, math.log(0.25))
    information = encoded_information(mean, log_variance, mean + 0.5 * noise)
    assert float(information) == pytest.approx(0.5 * math.log(5), abs=0.03)


def test_the_information_of_a_collapsed_encoder_is_nothing_and_of_a_perfect_one_the_logarithm():
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert float(encoded_information(torch.zeros(50, 3), torch.zeros(50, 3), z)) == pytest.approx(0, abs=1e-6)
    sharp = torch.full((50, 3), -10.0)
    assert float(encoded_information(z, sharp, z)) == pytest.approx(math.log(50), abs=1e-6)


def test_the_information_of_an_encoder_uses_each_images_own_variance():
    mean, z = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [2.0]])
    variance = torch.tensor([[1.0], [4.0]])
    densities = torch.distributions.Normal(mean.T, variance.sqrt().T).log_prob(z)
    expected = torch.log_softmax(densities, dim=1).diagonal().mean() + math.log(2)
    assert float(encoded_information(mean, variance.log(), z)) == pytest.approx(float(expected), abs=1e-6)


# -- distances of distributions ------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
class TestMaximumMeanDiscrepancy:
    def test_equal_samples_have_none_and_others_some(self, kernel):
        z = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
        assert float(maximum_mean_discrepancy(z, z.flip(0), kernel=kernel)) == pytest.approx(0, abs=1e-6)
        assert maximum_mean_discrepancy(z, z + 0.5, kernel=kernel) > 1e-3

    def test_it_falls_as_the_distributions_approach(self, kernel):
        first, second = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(0))
        moved = [float(maximum_mean_discrepancy(first, second + by, kernel=kernel)) for by in (3, 1, 0.3, 0)]
        assert moved == sorted(moved, reverse=True)
        assert moved[2] > moved[3]
        wider = [float(maximum_mean_discrepancy(first, second * by, kernel=kernel)) for by in (4, 2, 1)]
        assert wider == sorted(wider, reverse=True)

    def test_it_equals_its_definition_written_slowly(self, kernel):
        random = torch.Generator().manual_seed(0)
        first, second = torch.randn(5, 3, generator=random), torch.randn(7, 3, generator=random) + 1

        def similarity(a, b, c):
            squared = sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))
            return c / (c + squared) if kernel == "imq" else math.exp(-squared / c)

        def mean(a, b):
            values = [similarity(p, q, 6 * s) for p in a for q in b for s in (0.5, 2.0)]
            return sum(values) / len(values)

        expected = mean(first, first) + mean(second, second) - 2 * mean(first, second)
        assert_allclose(
            maximum_mean_discrepancy(first, second, kernel=kernel, scales=(0.5, 2.0)), expected, atol=1e-6
        )

    def test_descending_it_brings_the_samples_together(self, kernel):
        """The right sign: a loss with a positive weight of it pulls the codes to the prior."""
        first, second = torch.randn(2, 100, 2, generator=torch.Generator().manual_seed(0))
        first = (first + 3).requires_grad_(True)
        maximum_mean_discrepancy(first, second, kernel=kernel).backward()
        step = -first.grad.mean(0)
        assert (step < 0).all()

    def test_its_gradient_is_finite_where_codes_coincide(self, kernel):
        z = torch.zeros(4, 2, requires_grad=True)
        maximum_mean_discrepancy(z, torch.zeros(3, 2), kernel=kernel).backward()
        assert torch.isfinite(z.grad).all()


def test_kernels_and_scales_must_make_sense():
    z = torch.zeros(2, 2)
    with pytest.raises(OptionError, match="kernel: is unknown"):
        maximum_mean_discrepancy(z, z, kernel="linear")
    for scales in ((), (1.0, -1.0)):
        with pytest.raises(OptionError, match="scales: must be positive"):
            maximum_mean_discrepancy(z, z, scales=scales)
