"""What is said of a set: realism, detail swap, surrogate, and all of it together."""

import numpy as np
import pytest
import torch
from checked import PrincipalComponents, read_through, smooth_sprites, tag_reader, walked_of
from numpy.testing import assert_allclose

from explainer.checks import Thresholds, fit_surrogate, realism, run_checks, run_set_checks
from explainer.checks.realism import kernel_distance
from explainer.checks.robustness import detail_swap
from explainer.checks.surrogate import Surrogate, surrogate_curve, surrogate_samples, surrogate_sides
from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError

LIMITS = Thresholds()


@pytest.fixture(scope="module")
def planted():
    return smooth_sprites(300, seed=1)


@pytest.fixture(scope="module")
def generator(planted):
    return PrincipalComponents(planted.images[40:])


@pytest.fixture(scope="module")
def classifier(planted, generator):
    return read_through(generator, planted.images[40:], planted.labels[40:])


@pytest.fixture(scope="module")
def walked(planted, generator, classifier):
    return walked_of(generator, classifier, planted.images[:24], levels=[0.05, 0.5, 0.95])


class TestRealism:
    def test_the_kernel_distance_is_that_of_its_moments(self):
        """A feature that is 0 or 1, with rates p and q: all its moments are its rate, so d2 = 7 (p - q)^2."""
        random = np.random.default_rng(0)
        x, y = (random.random(size=(1000, 1)) < rate for rate in (0.5, 0.9))
        found = kernel_distance(x, y)
        assert found.low < 7 * 0.4**2 < found.high
        assert found.estimate == pytest.approx(7 * 0.4**2, rel=0.15)

    def test_it_has_no_bias_and_its_interval_covers(self):
        random = np.random.default_rng(0)
        found = [
            kernel_distance(random.normal(size=(40, 3)), random.normal(size=(40, 3))) for _ in range(200)
        ]
        estimates = np.array([each.estimate for each in found])
        assert abs(estimates.mean()) < 3 * estimates.std() / len(estimates) ** 0.5
        assert np.mean([each.low <= 0 <= each.high for each in found]) > 0.9
        assert estimates.min() < 0

    def test_the_jackknife_is_that_of_leaving_rows_out(self):
        random = np.random.default_rng(1)
        x, y = random.normal(size=(6, 2)), random.normal(size=(5, 2))

        def plain(a, b):
            inner = lambda u, v: (u @ v / 2 + 1) ** 3  # noqa: E731
            xx = np.mean([inner(u, v) for i, u in enumerate(a) for j, v in enumerate(a) if i != j])
            yy = np.mean([inner(u, v) for i, u in enumerate(b) for j, v in enumerate(b) if i != j])
            return xx + yy - 2 * np.mean([inner(u, v) for u in a for v in b])

        left_x = np.array([plain(np.delete(x, i, 0), y) for i in range(6)])
        left_y = np.array([plain(x, np.delete(y, i, 0)) for i in range(5)])
        variance = (
            5 / 6 * ((left_x - left_x.mean()) ** 2).sum() + 4 / 5 * ((left_y - left_y.mean()) ** 2).sum()
        )
        found = kernel_distance(x, y)
        assert found.estimate == pytest.approx(plain(x, y))
        assert found.high - found.estimate == pytest.approx(1.959964 * variance**0.5)

    def test_noise_is_further_from_real_images_than_they_are_from_each_other(self, planted):
        images = planted.images[:100]
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        found = realism(images, images, noise, lambda batch: batch[:, :, ::8, ::8].flatten(1))
        assert found.images == 50
        assert found.frechet["frames, detail 1"] == pytest.approx(found.frechet["real images"])
        assert found.frechet["frames, detail 0"] > 2 * found.frechet["real images"]
        assert found.kernel["frames, detail 0"].low > 0
        assert found.kernel["real images"].low < 0 < found.kernel["real images"].high

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (np.zeros((2, 2)), np.zeros((5, 2)), "at least 3 rows each"),
            (np.zeros((5, 2)), np.zeros((5, 3)), "at least 3 rows each"),
            (np.full((5, 2), np.nan), np.zeros((5, 2)), "must be finite"),
        ],
    )
    def test_features_that_cannot_be_compared(self, x, y, message):
        with pytest.raises(OptionError, match=message):
            kernel_distance(x, y)

    def test_too_few_images(self, planted):
        few = planted.images[:10]
        with pytest.raises(OptionError, match="must be at least 40"):
            realism(few, few, few, torch.flatten)


class TestDetailSwap:
    def test_what_reads_the_code_does_not_follow_the_detail(self, walked):
        check = detail_swap(walked[0].scene, LIMITS)
        assert check.status == "pass"
        assert check.values["low"] < 0.3

    def test_what_reads_a_tag_that_the_code_does_not_hold_does(self):
        reader, tagged, clean = tag_reader()
        unaware = PrincipalComponents(smooth_sprites(300, seed=4, channels=3).images)
        walked = walked_of(unaware, reader, torch.cat([tagged[:15], clean[:15]]), levels=[0.1, 0.9])
        check = detail_swap(walked[0].scene, LIMITS)
        assert check.status == "fail"
        assert check.values["low"] > 0.5
        assert "what the code does not hold" in check.sentence

    def test_a_classifier_that_says_the_same_of_all_is_not_measured(self, walked):
        scene = walked[0].scene
        kept, scene.score0 = scene.score0, torch.zeros_like(scene.score0)
        check = detail_swap(scene, LIMITS)
        scene.score0 = kept
        assert check.status == "info"


class TestSurrogate:
    def test_samples_are_labelled_by_the_classifier(self, walked, classifier):
        images, levels = surrogate_samples(walked[0].scene, 40)
        assert images.shape == (40, 1, 32, 32)
        with torch.no_grad():
            assert_allclose(torch.sigmoid(classifier(images)[:, 0]), levels, atol=1e-5)
        assert levels.std() > 0.1

    def test_a_faithful_one_sees_the_walks_end_where_they_were_asked_to(self, walked):
        found = fit_surrogate(walked[0].scene, samples=400, steps=50)
        assert found.samples == 340
        curve, check = surrogate_curve(walked, found, Thresholds(surrogate_faithful=0.7))
        assert [level for level, _ in curve] == [0.05, 0.5, 0.95]
        assert found.faithful > 0.7
        assert check.status == "pass", check.sentence

    def test_it_agrees_only_on_the_requested_side(self, walked):
        class Says(torch.nn.Module):
            def forward(self, images):
                return torch.ones(len(images), 1)

        yes = Surrogate(Says(), 0.9, 100)
        sides = surrogate_sides(walked, yes)
        assert sides.double().mean(dim=0).tolist() == [0.0, 0.0, 1.0]
        curve, check = surrogate_curve(walked, yes, LIMITS)
        assert curve[0][1].estimate == 0
        assert check.status == "fail"
        assert "moves this classifier alone" in check.sentence
        _, unfaithful = surrogate_curve(walked, Surrogate(Says(), 0.6, 100), LIMITS)
        assert unfaithful.status == "info"
        assert "cannot be asked" in unfaithful.sentence

    def test_what_cannot_be_distilled(self, walked, generator, classifier, planted):
        with pytest.raises(OptionError, match="samples: must be at least 100"):
            fit_surrogate(walked[0].scene, samples=10)
        model = Classifier(classifier, kind="regression", reference=(-1.0, 0.0, 1.0))
        regression = walked_of(generator, model, planted.images[:1], levels=[-1.0, 1.0])
        with pytest.raises(ClassifierError, match="has no sides to end on"):
            fit_surrogate(regression[0].scene)


def test_a_set_is_summed_up(walked):
    found = run_checks(walked)
    of_set = run_set_checks(walked, found)
    assert [check.name for check in of_set.checks] == ["calibration", "composition", "detail swap"]
    assert of_set.statuses.sum(axis=1).eq(24).all()
    assert list(of_set.statuses.columns) == ["pass", "limit", "fail", "info"]
    assert of_set.statuses.loc["compatibility", "pass"] == 24
    assert of_set.calibration.table["reached"].tolist() == [24, 24, 24]
    lowest = [float(torch.cosine_similarity(w.z[None], w.latents, dim=1).min()) for w in walked]
    assert of_set.closeness["50 %"] == pytest.approx(np.median(lowest))
    assert of_set.surrogate == ()
    few = run_set_checks(walked[:2], found[:2], surrogate=None)
    assert few.calibration.walks == 2
