"""Measures against references (scikit-image, scipy, published examples) and against closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import linalg, stats
from skimage.metrics import structural_similarity

from explainer.errors import ImageError, OptionError
from explainer.metrics import (
    Interval,
    auc,
    bootstrap_mean,
    cluster_bootstrap,
    frechet_distance,
    frechet_distance_of_gaussians,
    mse,
    newcombe_interval,
    r2,
    ssim,
    wilson_interval,
)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and their noised copies, (4, 3, 24, 33)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 6, 8, generator=generator)
    references = torch.nn.functional.interpolate(coarse, (24, 33), mode="bilinear")
    noise = torch.randn(references.shape, generator=generator) * torch.tensor([0.02, 0.1, 0.3])[:, None, None]
    return (references + noise).clamp(0, 1), references


class TestMse:
    def test_known_values_per_image_and_channel(self):
        references = torch.zeros(2, 2, 3, 5)
        images = references.clone()
        images[0, 1] = 0.5
        images[1, 0, 0, 0] = 1.0
        assert_allclose(mse(images, references), [[0, 0.25], [1 / 15, 0]], rtol=1e-6)

    def test_differentiable_and_inputs_unchanged(self, pair):
        images, references = pair[0].clone().requires_grad_(), pair[1]
        mse(images, references).sum().backward()
        assert_allclose(images.grad, 2 * (pair[0] - references) / (24 * 33), rtol=1e-4, atol=1e-7)
        assert torch.equal(images.detach(), pair[0])

    @pytest.mark.parametrize("function", [mse, r2, ssim])
    def test_hostile_inputs(self, function, pair):
        images, references = pair
        with pytest.raises(ImageError, match=r"one shape \(received \(4, 3, 24, 33\) and \(4, 1, 24, 33\)\)"):
            function(images, references[:, :1])
        with pytest.raises(ImageError, match="batch dimension"):
            function(images[0], references[0])
        with pytest.raises(ImageError, match=r"floating point \(received torch.uint8"):
            function(images.to(torch.uint8), references)


class TestR2:
    def test_definition_per_channel(self, pair):
        images, references = (x.double() for x in pair)
        for c in range(3):
            x, y = images[:, c].numpy(), references[:, c].numpy()
            expected = 1 - ((x - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
            assert_allclose(r2(images, references)[c], expected, rtol=1e-10)

    def test_landmarks(self, pair):
        _, references = pair
        assert_allclose(r2(references, references), [1, 1, 1])
        assert_allclose(r2(references.mean(0).expand_as(references), references), [0, 0, 0], atol=1e-6)
        assert (r2(1 - references, references) < -0.5).all()

    def test_mean_image_of_training(self, pair):
        _, references = pair
        mean_image = torch.full((3, 24, 33), 0.5)
        assert_allclose(r2(mean_image.expand_as(references), references, mean_image=mean_image), 0, atol=1e-6)
        with pytest.raises(ImageError, match=r"mean_image: must have the shape \(3, 24, 33\)"):
            r2(references, references, mean_image=mean_image[0])

    def test_constant_channel_is_undefined_and_leaves_the_others(self, pair):
        _, references = pair
        references = references.clone()
        references[:, 1] = 0.1
        assert r2(references, references).isnan().tolist() == [False, True, False]


class TestSsim:
    @pytest.mark.parametrize("data_range", [1.0, 0.3, 255.0])
    def test_equals_scikit_image(self, pair, data_range):
        images, references = pair
        ours = ssim(images * data_range, references * data_range, data_range=data_range)
        theirs = [
            [
                structural_similarity(
                    (x * data_range).double().numpy(),
                    (y * data_range).double().numpy(),
                    data_range=data_range,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
                for x, y in zip(image, reference, strict=True)
            ]
            for image, reference in zip(images, references, strict=True)
        ]
        assert ours.shape == (4, 3)
        assert_allclose(ours, theirs, atol=2e-5)
        assert (ours[:, 0] > ours[:, 1]).all()
        assert (ours[:, 1] > ours[:, 2]).all()

    def test_float32_does_not_cancel_on_a_large_offset(self, pair):
        images, references = (x + 1000 for x in pair)
        exact = ssim(images.double(), references.double())
        assert_allclose(ssim(images, references), exact, atol=2e-3)

    def test_identical_is_one_and_symmetric(self, pair):
        images, references = pair
        assert_allclose(ssim(references, references), 1, atol=1e-5)
        assert_allclose(ssim(images, references), ssim(references, images), atol=1e-5)
        assert (ssim(1 - references, references) < 0.5).all()

    def test_batched_equals_unbatched(self, pair):
        images, references = pair
        one_by_one = torch.cat([ssim(x[None], y[None]) for x, y in zip(images, references, strict=True)])
        assert_allclose(ssim(images, references), one_by_one, atol=1e-6)

    def test_range_per_channel(self, pair):
        scale = torch.tensor([1.0, 10.0, 0.1])
        images, references = (x * scale[:, None, None] for x in pair)
        assert_allclose(ssim(images, references, data_range=scale), ssim(*pair), atol=1e-5)

    def test_gradient(self):
        generator = torch.Generator().manual_seed(1)
        images, references = torch.rand(2, 1, 1, 12, 12, generator=generator, dtype=torch.float64)
        torch.autograd.gradcheck(lambda x: ssim(x, references), images.requires_grad_(), fast_mode=True)

    def test_smallest_size(self):
        images = torch.rand(1, 1, 11, 11, generator=torch.Generator().manual_seed(0))
        assert_allclose(ssim(images, images), 1, atol=1e-5)
        with pytest.raises(ImageError, match="at least 11 pixels"):
            ssim(images[..., :10], images[..., :10])

    @pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, torch.ones(2)])
    def test_wrong_range(self, pair, data_range):
        with pytest.raises(
            OptionError, match="data_range: must be one positive number, or one for each of 3"
        ):
            ssim(*pair, data_range=data_range)


class TestFrechet:
    def test_closed_form_of_commuting_gaussians(self):
        deviations, reference_deviations = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
        mean, reference_mean = np.array([0.0, 1.0, -2.0]), np.array([1.0, 1.0, 0.0])
        rotation = stats.ortho_group.rvs(3, random_state=0)
        covariance, reference_covariance = (
            rotation @ np.diag(d**2) @ rotation.T for d in (deviations, reference_deviations)
        )
        expected = ((mean - reference_mean) ** 2).sum() + ((deviations - reference_deviations) ** 2).sum()
        distance = frechet_distance_of_gaussians(mean, covariance, reference_mean, reference_covariance)
        assert_allclose(distance, expected, rtol=1e-10)

    def test_matrix_square_root_when_covariances_do_not_commute(self):
        stream = np.random.default_rng(0)
        first = stream.normal(size=(200, 5)) @ stream.normal(size=(5, 5))
        second = stream.normal(size=(300, 5)) @ stream.normal(size=(5, 5)) + 1
        covariance, reference = (np.cov(x, rowvar=False) for x in (first, second))
        root = linalg.sqrtm(covariance @ reference).real
        expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(covariance + reference - 2 * root)
        assert_allclose(frechet_distance(first, second), expected, rtol=1e-9)
        moments = (first.mean(0), covariance, second.mean(0), reference)
        assert_allclose(frechet_distance_of_gaussians(*moments), expected, rtol=1e-9)
        assert_allclose(frechet_distance(second, first), expected, rtol=1e-9)

    def test_large_samples_find_the_planted_distance(self):
        stream = np.random.default_rng(0)
        first, second = stream.normal(size=(20_000, 2)), stream.normal([3, 0], [1, 2], size=(20_000, 2))
        assert_allclose(frechet_distance(first, second), 9 + 1, rtol=0.03)

    def test_a_shift_alone_and_identity_with_fewer_images_than_features(self):
        features = np.random.default_rng(0).normal(size=(10, 40)) * 1e3
        assert frechet_distance(features, features) <= 1e-6
        assert_allclose(frechet_distance(features, features + 2), 160, rtol=1e-6)

    def test_constant_features(self):
        assert frechet_distance(np.ones((3, 2)), np.ones((5, 2))) == 0
        assert_allclose(frechet_distance(np.ones((3, 2)), np.zeros((5, 2))), 2)

    def test_tensors_are_welcome(self):
        features = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
        assert_allclose(frechet_distance(features, features + 1), 3, rtol=1e-5)

    def test_hostile_inputs(self):
        good, wrong = np.random.default_rng(0).normal(size=(2, 6, 3))
        wrong[2, 1] = np.nan
        with pytest.raises(OptionError, match=r"reference_features: must be finite \(received 1 of 18"):
            frechet_distance(good, wrong)
        with pytest.raises(OptionError, match="features: must hold at least 2 rows"):
            frechet_distance(good[:1], good)
        with pytest.raises(OptionError, match="must have the 3 features of the first set"):
            frechet_distance(good, good[:, :2])
        with pytest.raises(OptionError, match="features: must be two-dimensional"):
            frechet_distance(good[0], good)
        with pytest.raises(OptionError, match=r"reference_covariance: must be positive semi-definite .*-1"):
            frechet_distance_of_gaussians([0, 0], np.eye(2), [0, 0], np.diag([1, -1]))
        with pytest.raises(OptionError, match="covariance: must be a symmetric"):
            frechet_distance_of_gaussians([0, 0], [[1, 1], [0, 1]], [0, 0], np.eye(2))


class TestRates:
    @pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 200), (41, 100), (200, 200)])
    @pytest.mark.parametrize("confidence", [0.9, 0.95])
    def test_wilson_formula(self, successes, trials, confidence):
        z = stats.norm.ppf((1 + confidence) / 2)
        rate = successes / trials
        centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = z / (1 + z**2 / trials) * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
        interval = wilson_interval(successes, trials, confidence=confidence)
        assert interval.estimate == rate
        assert_allclose([interval.low, interval.high], [centre - half, centre + half], atol=1e-12)

    def test_coverage_at_a_rate_near_zero(self):
        counts = np.arange(201)
        intervals = [wilson_interval(int(k), 200) for k in counts]
        covers = np.array([i.low <= 0.01 <= i.high for i in intervals])
        assert 0.93 < stats.binom.pmf(counts, 200, 0.01)[covers].sum() < 0.99

    # Newcombe (1998), table II, method 10.
    @pytest.mark.parametrize(
        ("counts", "low", "high"),
        [
            ((56, 70, 48, 80), 0.0524, 0.3339),
            ((9, 10, 3, 10), 0.1705, 0.8090),
            ((6, 7, 2, 7), 0.0582, 0.8062),
            ((5, 56, 0, 29), -0.0381, 0.1926),
            ((0, 10, 0, 20), -0.1611, 0.2775),
            ((10, 10, 0, 20), 0.6791, 1.0),
        ],
    )
    def test_newcombe_published(self, counts, low, high):
        interval = newcombe_interval(*counts)
        assert_allclose([interval.low, interval.high], [low, high], atol=6e-5)
        assert_allclose(interval.estimate, counts[0] / counts[1] - counts[2] / counts[3])
        swapped = newcombe_interval(*counts[2:], *counts[:2])
        assert_allclose([swapped.low, swapped.high], [-interval.high, -interval.low])

    def test_hostile_counts(self):
        with pytest.raises(OptionError, match=r"trials: must be at least 1.*empty"):
            wilson_interval(0, 0)
        with pytest.raises(OptionError, match=r"successes: must lie between 0 and trials = 3 \(received 4\)"):
            wilson_interval(4, 3)
        with pytest.raises(OptionError, match=r"successes: must be a whole number \(received 0.5\)"):
            wilson_interval(0.5, 3)
        with pytest.raises(OptionError, match="successes: must be a whole number"):
            wilson_interval(math.nan, 3)
        with pytest.raises(OptionError, match="confidence"):
            newcombe_interval(1, 2, 1, 2, confidence=95)


class TestBootstrap:
    def test_agrees_with_the_t_interval_on_normal_data(self):
        values = np.random.default_rng(0).normal(2, 1, size=400)
        interval = bootstrap_mean(values)
        expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
        assert_allclose([interval.low, interval.high], expected, atol=0.01)
        assert_allclose(interval.estimate, values.mean())

    def test_seeded_and_nested_in_confidence(self):
        values = np.random.default_rng(1).exponential(size=50)
        assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
        assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
        widths = [i.high - i.low for i in (bootstrap_mean(values, confidence=c) for c in (0.5, 0.9, 0.99))]
        assert all(narrow < wide for narrow, wide in pairwise(widths))

    def test_bca_follows_the_skew_and_methods_differ(self):
        values = np.random.default_rng(1).exponential(size=30)
        skewed, plain = bootstrap_mean(values), bootstrap_mean(values, method="percentile")
        assert skewed.high > plain.high
        assert skewed.low > plain.low

    def test_equal_values_have_a_point_interval(self):
        assert bootstrap_mean([0.3, 0.3, 0.3]) == Interval(0.3, 0.3, 0.3, 0.95)

    def test_many_values_fit_into_memory(self):
        interval = bootstrap_mean(np.linspace(0, 1, 5000), resamples=200)
        assert_allclose(interval.high - interval.low, 2 * 1.96 * math.sqrt(1 / 12 / 5000), rtol=0.25)

    def test_hostile_inputs(self):
        with pytest.raises(OptionError, match=r"values: must be finite \(received 2 of 3"):
            bootstrap_mean([1.0, math.nan, math.inf])
        with pytest.raises(OptionError, match="at least 2 values"):
            bootstrap_mean([1.0])


class TestClusterBootstrap:
    def test_groups_of_one_are_the_ordinary_bootstrap(self):
        values = np.random.default_rng(0).normal(size=200)
        clustered = cluster_bootstrap(values, np.arange(200), resamples=4000)
        plain = bootstrap_mean(values, method="percentile")
        assert_allclose([clustered.low, clustered.high], [plain.low, plain.high], atol=0.02)

    def test_copies_are_not_evidence(self):
        people = np.random.default_rng(0).normal(size=60)
        once = cluster_bootstrap(people, np.arange(60))
        ninefold = cluster_bootstrap(np.repeat(people, 9), np.repeat(np.arange(60), 9))
        assert_allclose([ninefold.low, ninefold.high], [once.low, once.high], atol=1e-9)
        naive = bootstrap_mean(np.repeat(people, 9))
        assert_allclose((once.high - once.low) / (naive.high - naive.low), 3, rtol=0.1)

    def test_order_of_rows_and_names_of_groups_do_not_matter(self):
        stream = np.random.default_rng(0)
        values, groups = stream.integers(0, 9, size=60).astype(float), stream.integers(0, 12, size=60)
        order = stream.permutation(60)
        names = np.array([f"person {g:02d}" for g in groups])
        assert cluster_bootstrap(values, groups) == cluster_bootstrap(values[order], names[order])

    def test_any_statistic_of_several_columns(self):
        stream = np.random.default_rng(0)
        labels = np.tile([0, 1], 100)
        scores = labels + stream.normal(size=200)
        interval = cluster_bootstrap(
            np.column_stack([labels, scores]),
            np.repeat(np.arange(50), 4),
            statistic=lambda rows: auc(rows[:, 0], rows[:, 1]),
            resamples=300,
        )
        assert interval.estimate == auc(labels, scores)
        assert interval.low < stats.norm.cdf(1 / math.sqrt(2)) < interval.high
        assert 0.05 < interval.high - interval.low < 0.3

    def test_undefined_resamples_are_not_dropped(self):
        rows = np.array([[0, 0.1], [0, 0.3], [1, 0.7]])
        interval = cluster_bootstrap(
            rows, [1, 2, 3], statistic=lambda r: auc(r[:, 0], r[:, 1]), resamples=100
        )
        assert interval.estimate == 1
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)

    def test_hostile_inputs(self):
        with pytest.raises(OptionError, match="groups: must name one group for each of the 3 rows"):
            cluster_bootstrap([1, 2, 3], ["a", "b"])
        with pytest.raises(OptionError, match="groups: must hold at least 2 groups"):
            cluster_bootstrap([1, 2, 3], ["a"] * 3)
        with pytest.raises(OptionError, match="values: must be finite"):
            cluster_bootstrap([1, 2, math.nan], ["a", "b", "c"])


class TestAuc:
    def test_is_the_share_of_ordered_pairs(self):
        stream = np.random.default_rng(0)
        labels, scores = stream.integers(0, 2, size=40), stream.integers(0, 6, size=40)
        positive, negative = scores[labels == 1][:, None], scores[labels == 0]
        expected = ((positive > negative) + 0.5 * (positive == negative)).mean()
        assert_allclose(auc(labels, scores), expected)
        assert_allclose(auc(labels == 1, -scores), 1 - expected)

    def test_one_class_is_undefined(self):
        assert math.isnan(auc([1, 1, 1], [0.2, 0.3, 0.4]))

    def test_hostile_inputs(self):
        with pytest.raises(OptionError, match=r"labels: must hold one 0 or 1 .*\[-1.0, 1.0\]"):
            auc([-1, 1], [0.1, 0.2])
        with pytest.raises(OptionError, match="for each of the 3 scores"):
            auc([0, 1], [0.1, 0.2, 0.3])
        with pytest.raises(OptionError, match="scores: must be finite"):
            auc([0, 1], [0.1, math.nan])
