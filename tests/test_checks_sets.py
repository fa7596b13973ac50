"""What is said of a set: realism, detail swap, surrogate, and all of it together."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from checked import PrincipalComponents, read_through, smooth_sprites, tag_reader, walked_of
from numpy.testing import assert_allclose
from toys import LinearGenerator, toy_images

from explainer.checks import SetChecks, Thresholds, decide, fit_surrogate, realism, run_checks, run_set_checks
from explainer.checks.ends import Ends
from explainer.checks.nulls import equal_moves_control
from explainer.checks.realism import kernel_distance
from explainer.checks.robustness import detail_swap, swapped
from explainer.checks.surrogate import Surrogate, surrogate_curve, surrogate_samples, surrogate_sides
from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError
from explainer.generators.sample_quality import local_features
from explainer.image import resize
from explainer.walks import Scene

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


def replaced(scene, model, images=None):
    """The scene with another classifier, and perhaps other images."""
    wrapped = Classifier(model, size=scene.generator.shape[1])
    images = scene.images if images is None else images
    return Scene(scene.generator, wrapped, wrapped.target(None, images), images)


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
        own = found.halvings[found.halvings["set"] == "real images"]["kernel"]
        assert own.min() < 0 < own.max()

    def test_frames_are_judged_by_what_real_images_have_from_each_other(self, planted):
        images = planted.images[:120]
        blurred = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
        found = [realism(images, some, blurred, local_features, name="bands") for some in (images, blurred)]
        same, other = (each.check(LIMITS) for each in found)
        assert (same.status, other.status) == ("pass", "limit")
        assert "bands" in same.sentence
        assert "as a set the frames are not distributed like real images" in other.sentence
        assert other.values["kernel, frames, detail 1"] > other.values["distance of real halves"]
        assert found[1].check(Thresholds(realism=1.0)).status == "limit"
        assert decide([other]).status == "limits"
        with pytest.raises(OptionError, match="splits: must be at least 1"):
            realism(images, images, images, local_features, splits=0)

    def test_real_images_pass_as_often_as_the_quantile_says(self):
        """Frames that are further draws of the same distribution: the judgement must hardly ever fire."""
        random = torch.Generator().manual_seed(0)
        fired = 0
        for _ in range(30):
            images, frames = torch.randn(2, 60, 4, 1, 1, generator=random)
            fired += realism(images, frames, frames, lambda x: x.flatten(1)).check(LIMITS).status == "limit"
        assert fired <= 3

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

    def test_what_reads_both_is_found_although_the_code_moves_it_too(self):
        """Half of the score's variance is the tag's, which a walk of the other half does not show."""
        reader, tagged, clean = tag_reader()
        planted = smooth_sprites(300, seed=4, channels=3)
        unaware = PrincipalComponents(planted.images)
        shade = read_through(unaware, planted.images, planted.labels)
        both = torch.cat([tagged[:30], clean[:30]])
        scene = walked_of(unaware, lambda x: shade(x) + reader(x), both, levels=[0.1, 0.9])[0].scene
        check = detail_swap(scene, LIMITS)
        assert check.status in ("limit", "fail")
        assert check.values["low"] > 0.3
        assert detail_swap(replaced(scene, shade), LIMITS).status == "pass"

    def test_of_a_larger_image_only_the_change_of_code_is_put_in(self, planted, generator, classifier):
        large = torch.nn.functional.interpolate(planted.images[:3], scale_factor=2.0, mode="bicubic")
        scene = replaced(walked_of(generator, classifier, planted.images[:1])[0].scene, classifier, large)
        same = swapped(scene, torch.zeros(3, *generator.shape), torch.arange(3))
        assert_allclose(same, large.clamp(0, 1), atol=1e-6)
        moved = generator.decode(scene.z.roll(1, 0)) - generator.decode(scene.z)
        other = swapped(scene, moved, torch.arange(3))
        assert_allclose(other, (large + resize(moved, (64, 64))).clamp(0, 1), atol=1e-5)

    def test_what_is_too_fine_for_the_generator_is_found_too(self, planted, generator):
        """A grid of single pixels on half of the larger images, which shrinking blurs to nothing."""
        large = torch.nn.functional.interpolate(planted.images[:40], scale_factor=2.0)
        grid = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float() - 0.5
        large[::2] = (large[::2] + 0.1 * grid).clamp(0, 1)
        reader = Classifier(lambda x: 400 * ((x * grid).mean(dim=(1, 2, 3)) - 0.0125))
        fine = Scene(generator, reader, reader.target(None, large), large)
        assert detail_swap(fine, LIMITS).status == "fail"
        assert torch.equal(large, fine.images)

    def test_a_classifier_that_says_the_same_of_all_is_not_measured(self, walked):
        flat = Classifier(lambda images: 0 * images.sum(dim=(1, 2, 3)))
        scene = Scene(walked[0].generator, flat, walked[0].target, walked[0].scene.images)
        check = detail_swap(scene, LIMITS)
        assert check.status == "info"
        assert "says the same of every image" in check.sentence


class TestSurrogate:
    def test_samples_are_labelled_by_the_classifier(self, walked, classifier):
        images, levels, owners = surrogate_samples(walked[0].scene, 40)
        assert images.shape == (40, 1, 32, 32)
        with torch.no_grad():
            assert_allclose(torch.sigmoid(classifier(images)[:, 0]), levels, atol=1e-5)
        assert levels.std() > 0.1
        assert (owners == -1).sum() == 20
        assert set(owners[20:].tolist()) <= set(range(24))

    def test_a_faithful_one_sees_the_walks_end_where_they_were_asked_to(self, walked):
        found = fit_surrogate(walked[0].scene, samples=300, steps=90)
        assert 220 < found.samples < 280
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

    def test_walks_to_different_levels_have_no_curve(self, walked):
        few = replace(walked[1], table=walked[1].table.iloc[[0, 2]])
        moved = replace(walked[1], table=walked[1].table.assign(level=[0.2, 0.5, 0.95]))
        for other in (few, moved):
            with pytest.raises(OptionError, match="walked: must be to the same levels"):
                surrogate_curve([walked[0], other], Surrogate(torch.nn.Flatten(), 0.9, 100), LIMITS)

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
    assert of_set.verdict.status == "trust"
    assert of_set.to_frame()["check"].tolist() == ["calibration", "composition", "detail swap"]
    assert of_set.sentences()[0] == of_set.verdict.sentence
    assert "closeness in the generator" in str(of_set)


def test_what_was_found_of_a_set_is_read_as_it_was_written(walked):
    far = Ends.of(walked).far()
    bare = torch.cat([walked[0].generator.decode(part) for part in far.codes.split(64)])
    twice = [torch.cat([each, each]) for each in (far.images, far.frames, bare)]
    shades = realism(*twice, lambda images: images.flatten(1)[:, :8], splits=2)
    control = equal_moves_control(far, walked[0].classifier)
    curve, _ = surrogate_curve(walked, Surrogate(torch.nn.Flatten(), 0.9, 100), LIMITS)
    found = run_set_checks(walked, run_checks(walked), realism=shades, control=control)
    found = replace(found, surrogate=tuple(curve))
    read = SetChecks.from_record(json.loads(json.dumps(found.record(), allow_nan=False)))
    assert read.record() == found.record()
    assert read.sentences() == found.sentences()
    assert [check.name for check in read.checks][-2:] == ["realism", "equal moves"]


@pytest.fixture(scope="module")
def control():
    """The explained classifier reads two dimensions of a linear code evenly, the balanced one the first."""
    generator = LinearGenerator().eval()
    first, second = (40 * generator.basis[:, dimension] for dimension in (0, 1))

    def along(weight):
        return lambda images: (images - 0.5).flatten(1) @ weight

    walked = walked_of(generator, along(first + second), toy_images(24, seed=4), levels=[0.05, 0.95])
    return equal_moves_control(
        Ends.of(walked).far(), Classifier(along(first)), measures={"the second": along(second)},
        identity=lambda a, b: torch.cosine_similarity(a.flatten(1), b.flatten(1)),
    )  # fmt: skip


class TestEqualMoves:
    """A classifier that also reads the shade, beside one of the same question that does not."""

    def test_what_only_the_explained_classifier_moves_stands_out(self, control):
        rows = control.table.set_index("measure")
        second, score = rows.loc["change of the second"], rows.loc["change of the explained score"]
        assert second["low"] > 0
        assert second["walk"] == pytest.approx(score["walk"] / 2, rel=0.02)
        assert second["balanced"] == pytest.approx(0, abs=0.02)

    def test_it_is_told_and_not_judged(self, control):
        check = control.check()
        assert check.status == "info"
        assert "change of the second" in check.sentence
        assert "identity cosine" in check.sentence
        assert check.values["walks"] == 24

    def test_a_classifier_held_against_itself_differs_in_nothing(self, walked):
        found = equal_moves_control(Ends.of(walked).far(), walked[0].classifier)
        scores = found.table.set_index("measure").loc["change of the explained score"]
        assert scores["walk"] == pytest.approx(scores["balanced"], rel=0.1)

    def test_what_cannot_be_reached_is_no_control(self, walked):
        flat = Classifier(lambda images: 1e-6 * images.mean(dim=(1, 2, 3)))
        assert equal_moves_control(Ends.of(walked).far(), flat) is None
