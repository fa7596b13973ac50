"""Checks of single walks on toys that are solved by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checked import PrincipalComponents, read_through, smooth_sprites, walked_of
from numpy.testing import assert_allclose
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.checks import Thresholds
from explainer.checks.compatibility import calibration, rounding, saturation
from explainer.checks.consistency import composition, reconstruction, reconstruction_gap, reencoded
from explainer.checks.draws import image_seeds
from explainer.checks.ends import Ends, kept_share
from explainer.checks.nulls import equal_score_moves, random_directions, random_moves
from explainer.checks.robustness import jpeg, noisy, shifted, stability
from explainer.checks.soundness import channel_response, code_cycle, noise_passed
from explainer.checks.walk_back import scene_of_ends, walk_back, walk_to_scores
from explainer.classifier import Classifier
from explainer.errors import OptionError
from explainer.walks import Scene

LIMITS = Thresholds()


@pytest.fixture(scope="module")
def generator():
    return LinearGenerator().eval()


@pytest.fixture(scope="module")
def classifier(generator):
    return LogisticClassifier(generator)


@pytest.fixture(scope="module")
def walked(generator, classifier):
    return walked_of(generator, classifier, toy_images(3, seed=4))


@pytest.fixture(scope="module")
def ends(walked):
    return Ends.of(walked)


def slope_of(generator, classifier):
    """ds/dz of the toy, the same everywhere."""
    return (generator.basis.T @ classifier.weight).detach()


class TestEnds:
    def test_both_ends_of_every_walk_the_lower_first(self, walked, ends):
        assert ends.image.tolist() == [0, 0, 1, 1, 2, 2]
        assert_allclose(ends.wanted, np.log([0.05 / 0.95, 0.95 / 0.05] * 3), atol=1e-6)
        assert_allclose(ends.scores, ends.wanted, atol=0.1)
        assert torch.equal(ends.frames[1], walked[0].frames[-1])

    def test_the_far_end_moved_the_most(self, ends):
        far = ends.far()
        change = (ends.scores - ends.start).abs().view(3, 2)
        assert_allclose((far.scores - far.start).abs(), change.amax(dim=1))

    def test_an_end_at_the_images_own_level_is_no_walk(self, generator, classifier):
        images = toy_images(1, seed=4)
        own = float(torch.sigmoid(classifier(images).detach())[0])
        walked = walked_of(generator, classifier, images, levels=[own, 0.95])
        assert Ends.of(walked).wanted.tolist() == pytest.approx([np.log(19)])
        nothing = Ends.of(walked_of(generator, classifier, images, levels=[own]))
        assert len(nothing) == len(nothing.far()) == 0

    def test_kept_share(self, ends):
        assert_allclose(kept_share(ends, ends.scores), 1)
        assert_allclose(kept_share(ends, ends.start), 0)
        assert_allclose(kept_share(ends, (ends.scores + ends.start) / 2), 0.5)


class TestSoundness:
    def test_a_linear_decoder_responds_as_its_basis_says(self, generator):
        found = channel_response(generator, codes=4000)
        assert_allclose(found, generator.basis.norm(dim=1).mean(), rtol=0.03)

    def test_noise_passes_a_projection_as_root_of_dimensions(self, generator):
        passed = float(noise_passed(generator, toy_images(200)).mean())
        assert passed == pytest.approx((6 / 256) ** 0.5, rel=0.05)

    def test_the_code_of_a_projection_is_kept(self, walked):
        assert all(check.values["distance"] < 1e-3 for check in code_cycle(walked, LIMITS))


class TestConsistency:
    def test_composition_of_a_projection_does_not_drift(self, generator):
        check = composition(generator, toy_images(4), LIMITS)
        assert check.status == "pass"
        assert check.values["error 10 times"] == pytest.approx(check.values["error once"], rel=1e-3)

    def test_composition_of_what_drifts_is_a_limit(self):
        class Drifting(LinearGenerator):
            def _encode(self, prepared):
                return 1.3 * super()._encode(prepared)

        check = composition(Drifting(), toy_images(4), LIMITS)
        assert check.status == "limit"
        assert check.values["growth"] > 10

    def test_a_flat_channel_is_lost_whatever_held_out_images_did(self, generator):
        small = toy_images(1)
        flat = torch.full_like(small, float(small.mean()) + 0.1)
        check = reconstruction(generator, small, LIMITS, flat)
        assert check.status == "fail"
        assert check.values["variance missed channel 0"] > 1
        assert "more than a flat picture would" in check.sentence

    def test_the_far_end_is_encoded_as_a_new_image(self, walked, ends):
        far = ends.far()
        codes = far.scene.generator.encode(far.frames)
        for check in reencoded(walked, far, codes, LIMITS):
            assert check.status == "pass"
            assert check.values["kept with detail"] == pytest.approx(1, abs=0.01)
            assert check.values["kept bare"] == pytest.approx(1, abs=0.01)
        halfway = (codes + far.scene.z[far.rows]) / 2
        for check in reencoded(walked, far, halfway, LIMITS):
            assert check.values["kept with detail"] == pytest.approx(0.5, abs=0.01)
        for check in reencoded(walked, far, far.scene.z[far.rows], LIMITS):
            assert check.status == "fail"
            assert "not in the code" in check.sentence

    @pytest.mark.parametrize("name", ["a", ""])
    @pytest.mark.parametrize("score", [np.nan, np.inf])
    def test_a_score_of_the_reconstruction_that_is_not_finite_fails(self, name, score):
        check = reconstruction_gap(1.0, score, name, name, LIMITS)
        assert check.status == "fail"
        assert "no finite score" in check.sentence

    @pytest.mark.parametrize("which", ["with detail", "bare"])
    def test_a_score_of_the_far_end_that_is_not_finite_fails(self, walked, ends, which, monkeypatch):
        far = ends.far()
        if which == "bare":
            monkeypatch.setattr(Ends, "score", lambda self, images: torch.full((len(images),), torch.nan))
        else:
            monkeypatch.setattr(
                Scene, "score", lambda self, codes, rows: torch.full((len(codes),), torch.nan)
            )
        for check in reencoded(walked, far, far.scene.generator.encode(far.frames), LIMITS):
            assert check.status == "fail"


class TestWalkBack:
    def test_every_image_gets_to_a_score_of_its_own_by_the_smallest_move(self, generator, classifier, walked):
        scene = walked[0].scene
        goals = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
        codes, scores = walk_to_scores(scene, goals)
        assert_allclose(scores, goals, atol=0.25)
        slope = slope_of(generator, classifier)
        moves = (scores - scene.score0.double())[:, None] * (slope / slope.square().sum())
        assert_allclose(codes - scene.z, moves, atol=1e-3)

    def test_the_original_comes_back(self, walked, ends):
        far = ends.far()
        for check in walk_back(walked, far, scene_of_ends(far), LIMITS):
            assert check.status == "pass"
            assert check.values["ratio"] < 0.05

    def test_what_does_not_come_back_fails(self, walked, ends):
        """Goals far beyond the original: what comes back is another image."""
        far = ends.far()
        beyond = replace(far, start=far.scores + 4 * (far.start - far.scores))
        checks = walk_back(walked, beyond, scene_of_ends(far), LIMITS)
        assert {check.status for check in checks} == {"fail"}
        assert_allclose([check.values["ratio"] for check in checks], 3, atol=0.1)

    def test_a_score_that_does_not_come_back_is_said(self, walked, ends):
        far = ends.far()
        unreachable = replace(far, start=far.start + torch.nan)
        for check in walk_back(walked, unreachable, scene_of_ends(far), LIMITS):
            assert check.status == "fail"
            assert "could not be walked back" in check.sentence

    def test_what_may_not_change_stays_on_the_way_back(self, generator, classifier):
        allow = torch.ones(16, 16)
        allow[:8] = 0
        walked = walked_of(generator, classifier, toy_images(2, seed=4), levels=[0.2, 0.8], allow=allow)
        far = Ends.of(walked).far()
        arrived = scene_of_ends(far)
        codes, _ = walk_to_scores(arrived, far.start)
        with torch.no_grad():
            back = arrived.deliver(codes, torch.arange(2))
        assert torch.equal(back[..., :8, :], far.images[..., :8, :])
        assert not torch.equal(back[..., 8:, :], far.frames[..., 8:, :])

    def test_without_a_gradient_it_is_not_measured(self, generator, classifier):
        walked = walked_of(generator, classifier, toy_images(1))
        ends = Ends.of(walked)
        ends.scene.classifier._differentiable = False
        (check,) = walk_back(walked, ends, ends.scene, LIMITS)
        assert check.status == "info"
        assert "no gradient" in check.sentence

    def test_a_flat_score_is_left_where_it_is(self, generator):
        flat = Classifier(lambda images: 1e-9 * images.sum(dim=(1, 2, 3)))
        scene = Scene(generator, flat, flat.target(None, toy_images(1)), toy_images(2))
        codes, _ = walk_to_scores(scene, torch.tensor([3.0, 3.0]))
        assert torch.equal(codes, scene.z)


class TestStability:
    def test_what_is_done_to_the_images(self, generator):
        images = toy_images(50)
        difference = noisy(generator, images, range(50)) - images
        assert difference.std() == pytest.approx(0.02, rel=0.1)
        moved = shifted(images)
        assert torch.equal(moved[..., 1:, 1:], images[..., :-1, :-1])
        assert torch.equal(moved[..., 0, 1:], images[..., 0, :-1])
        assert 0 < float((jpeg(generator, images) - images).abs().mean()) < 0.02

    def test_jpeg_keeps_values_beyond_the_stored_range(self):
        images = smooth_sprites(100, channels=3).images
        narrow = PrincipalComponents(images)
        narrow.intensity.copy_(torch.tensor([[0.4] * 3, [0.5] * 3]))
        assert float((jpeg(narrow, images) - images).abs().mean()) < 0.02

    def test_the_change_by_noise_is_that_of_the_weights(self, generator, classifier, walked, ends):
        checks = stability(walked, ends, LIMITS)
        drawn = image_seeds(ends.images)
        for image, check in enumerate(checks):
            mine = ends.image == image
            changes = torch.stack(
                [
                    (classifier(noisy(generator, ends.frames, seeds)) - ends.scores).abs().detach()
                    for seeds in ([seed + draw for seed in drawn] for draw in range(4))
                ]
            ).amax(dim=0)
            far = ends.far()
            scale = torch.minimum((far.scores - far.start).abs(), torch.tensor(2 * np.log(19)))[ends.image]
            expected = float((1 - changes / scale)[mine].min())
            assert check.values["kept under noise"] == pytest.approx(expected, abs=0.01)
            assert "kept under shift" not in check.values  # white noise, shifted, is another image

    def test_a_walk_that_moved_nothing_is_not_measured(self, generator, classifier):
        images = toy_images(1, seed=4)
        own = float(torch.sigmoid(classifier(images).detach())[0])
        walked = walked_of(generator, classifier, images, levels=[own])
        (check,) = stability(walked, Ends.of(walked), LIMITS)
        assert check.status == "info"


class TestNulls:
    def test_random_moves_are_as_long(self):
        moves = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
        found = random_moves(moves, draws=3, seed=1)
        assert_allclose(found.norm(dim=2), moves.norm(dim=1).expand(3, 5), rtol=1e-5)
        assert not torch.allclose(found[0], found[1])

    def test_a_random_direction_does_what_geometry_says(self, walked, ends):
        """The mean of |cos| with a fixed direction in 6 dimensions is 2 Gamma(3) / (sqrt(pi) Gamma(2.5)
        5)."""
        checks = random_directions(walked, ends.far(), LIMITS, draws=3000)
        for check in checks:
            assert check.values["share"] == pytest.approx(0.34, abs=0.02)
            assert check.status == "pass"

    def test_equal_moves_change_the_other_score_by_as_much(self, generator, ends):
        far = ends.far()
        other = LogisticClassifier(generator, scale=2.0, offset=-1.0)
        with torch.no_grad():
            other.weight.copy_(2.0 * generator.basis @ torch.linspace(2, -1, 6))
        moved = equal_score_moves(far, Classifier(other))
        assert_allclose(moved.asked, far.scores - far.start)
        assert bool(moved.reached.all())
        with torch.no_grad():
            change = other(moved.frames) - other(far.images)
        assert_allclose(change, moved.change, atol=1e-3)


class TestCompatibility:
    def test_calibration_counts_what_was_not_reached(self):
        achieved = [[0.1, 0.5, 0.9], [0.11, 0.45, 0.9], [0.2, 0.15, 0.9], [0.1, 0.5, 0.7]]
        found = calibration([0.1, 0.5, 0.9], achieved, 0.02)
        assert found.table["unreached"].tolist() == [1, 2, 1]
        assert found.table["reached"].tolist() == [3, 2, 3]
        assert found.monotone.estimate == 0.75
        assert_allclose(found.table["largest error"], [0.1, 0.35, 0.2])
        check = found.check(LIMITS)
        assert check.status == "limit"
        assert check.values["unreached"] == 4
        assert "4 missed their level" in check.sentence
        assert calibration([0.1, 0.9], [[0.1, 0.9]], 0.02).check(LIMITS).status == "pass"
        assert calibration([0.1, 0.9], [[0.5, 0.5]], 0.02).check(LIMITS).status == "fail"

    def test_rounding_that_decides_the_level_fails(self):
        assert [rounding([0.5], [0.5 + d], LIMITS).status for d in (0.01, 0.1, 0.4)] == [
            "pass",
            "limit",
            "fail",
        ]

    def test_saturation_is_a_matter_of_log_odds(self, generator, classifier):
        image = toy_images(1)
        own = abs(float(classifier(image).detach()))
        for wanted, status in ((3.0, "pass"), (15.0, "limit"), (60.0, "fail")):
            model = LogisticClassifier(generator)
            scale = wanted / own
            (walked,) = walked_of(generator, lambda x, m=model, k=scale: k * m(x), image)
            check = saturation(walked, LIMITS)
            assert check.status == status
        assert "saturated" in check.sentence

    def test_a_regression_does_not_saturate(self, generator, classifier):
        model = Classifier(classifier, kind="regression", reference=(-1.0, 0.0, 1.0))
        (walked,) = walked_of(generator, model, toy_images(1), levels=[-1.0, 1.0])
        assert saturation(walked, LIMITS).status == "info"


def test_the_checks_of_a_regression_are_those_of_a_classifier(generator, classifier):
    from explainer.checks import decide, run_checks

    model = Classifier(classifier, kind="regression", reference=(-1.0, 0.0, 1.0))
    walked = walked_of(generator, model, toy_images(2), levels=[-2.0, 0.0, 2.0])
    for checks in run_checks(walked, thorough=True):
        assert decide(checks).status == "trust", decide(checks).reasons
        assert checks[-1].name == "composition"


def test_three_channels_are_read_through_their_units():
    planted = smooth_sprites(100, channels=3)
    generator = PrincipalComponents(planted.images)
    model = read_through(generator, planted.images, planted.labels)
    with torch.no_grad():
        bare = generator.decode(generator.encode(planted.images))
    assert_allclose(model(bare).detach(), model(planted.images).detach(), atol=0.5)


def test_errors_of_what_cannot_be_swapped(walked):
    from explainer.checks.robustness import detail_swap

    with pytest.raises(OptionError, match="must hold at least 20 images"):
        detail_swap(walked[0].scene, LIMITS)
