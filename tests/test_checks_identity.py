"""Identity: planted individuals, what cosines mean, the zoo's network, one trained without labels."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from checked import walked_of
from numpy.testing import assert_allclose
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.checks import Identity, Thresholds, calibrate_identity, default_identity, load_identity
from explainer.checks.embedding import EmbeddingNet, discriminant, fit_embedding, recoloured
from explainer.checks.ends import Ends
from explainer.checks.identity import (
    cosine_quantiles,
    dlib_identity,
    fit_identity,
    identity_kept,
    pair_cosines,
)
from explainer.checks.suite import run_checks
from explainer.errors import DependencyError, ModelFileError, OptionError, TrainingError
from explainer.generators.zoo import load_generator
from explainer.settings import Settings

LIMITS = Thresholds()


@pytest.fixture(scope="module")
def walked():
    generator = LinearGenerator().eval()
    return walked_of(generator, LogisticClassifier(generator), toy_images(3, seed=4))


@pytest.fixture(scope="module")
def ends(walked):
    return Ends.of(walked)


def codes_of(images):
    """An embedding of the toy's images: their codes, far from the origin."""
    return LinearGenerator().encode(images) + 10


def planted(people=30, photographs=3, spread=0.3, seed=0):
    """Images of individuals whose codes differ by much, each several times."""
    random = torch.Generator().manual_seed(seed)
    who = torch.arange(people).repeat_interleave(photographs)
    codes = torch.randn(people, 6, generator=random)[who]
    codes = codes + spread * torch.randn(len(who), 6, generator=random)
    return LinearGenerator().decode(codes), who.tolist()


class TestCalibration:
    def test_a_raw_cosine_means_nothing_and_a_centred_one_does(self):
        images, who = planted()
        raw = torch.nn.functional.normalize(codes_of(images), dim=1)
        assert float((raw @ raw.T).median()) > 0.9
        identity = calibrate_identity(codes_of, images, who)
        assert identity.calibrated
        assert identity.share_above(0.5) < 0.2
        assert identity.share_above(0.5, of="genuine") > 0.95
        assert_allclose(identity.mean, codes_of(images).mean(dim=0))

    def test_quantiles_are_those_of_the_pairs(self):
        images, who = planted()
        identity = calibrate_identity(codes_of, images, who)
        genuine, impostor = pair_cosines(codes_of(images) - identity.mean, np.array(who))
        assert (len(genuine), len(impostor)) == (30 * 3, 90 * 89 // 2 - 90)
        assert identity.genuine == cosine_quantiles(genuine)
        assert identity.share_above(0.5) == pytest.approx((impostor > 0.5).mean(), abs=0.01)

    def test_without_names_the_genuine_pairs_are_copies(self):
        images, _ = planted(photographs=1)
        identity = calibrate_identity(codes_of, images)
        assert "augmented copies" in identity.pairs
        assert np.median(identity.genuine) > np.median(identity.impostor)

    @pytest.mark.parametrize(
        ("reference", "individuals", "message"),
        [
            (toy_images(2), None, "must hold at least three images"),
            (toy_images(4), [1, 2], "one name for each"),
            (toy_images(4), [1, 2, 3, 4], "0 genuine and 6 impostor pairs"),
            (toy_images(4), [1, 1, 1, 1], "6 genuine and 0 impostor pairs"),
        ],
    )
    def test_references_that_cannot_be_used(self, reference, individuals, message):
        with pytest.raises(OptionError, match=message):
            calibrate_identity(codes_of, reference, individuals)

    @pytest.mark.parametrize(
        ("embedding", "reference", "message"),
        [
            ("x", toy_images(4), r"embedding: must turn .*received str 'x'.*load_identity"),
            (
                codes_of,
                toy_images(4).numpy(),
                r"reference: must be a tensor .*ndarray \(4, 1, 16, 16\).*numpy",
            ),
            (codes_of, "folder", "reference: must be a tensor .*received str.*Read a folder with as_images"),
            (codes_of, toy_images(1)[0], r"reference: must be a tensor .*Tensor \(1, 16, 16\)"),
        ],
    )
    def test_arguments_of_another_kind(self, embedding, reference, message):
        with pytest.raises(OptionError, match=message):
            calibrate_identity(embedding, reference)

    def test_an_embedding_that_returns_no_features_is_named(self):
        with pytest.raises(
            OptionError, match=r"identity: must turn images .*received Tensor \(3, 1, 16, 16\)"
        ):
            Identity(lambda images: images).features(toy_images(3))

    def test_images_are_resized_for_the_embedding(self):
        seen = []
        Identity(lambda images: (seen.append(images.shape), images.flatten(1))[1], size=(8, 8)).features(
            toy_images(2)
        )
        assert seen == [(2, 1, 8, 8)]


class Normalised(torch.nn.Module):
    """An embedding that behaves differently while it trains, on images of 16 pixels."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(256)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.norm(images.flatten(1)))


class TestTheEmbedding:
    @pytest.mark.parametrize("wrap", [lambda network: network, lambda network: lambda x: network(x)])
    def test_it_is_evaluated_and_left_as_it_was(self, wrap):
        network, images = Normalised().train(), toy_images(8)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        identity = Identity(wrap(network))
        assert torch.equal(identity.features(images), identity.features(images))
        assert_allclose(identity.features(images), images.flatten(1), atol=1e-4)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(module.training for module in network.modules())
        assert network.norm.weight.requires_grad

    def test_it_gets_images_where_it_is_and_the_features_come_back(self):
        class Elsewhere(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

            def forward(self, images):
                seen.append(images.device.type)
                return torch.ones(len(images), 2)

        seen = []
        found = Identity(Elsewhere()).features(toy_images(3))
        assert (seen, found.device.type) == (["meta"], "cpu")
        there = Identity(lambda images: torch.ones(len(images), 2)).features(toy_images(3).to("meta"))
        assert there.device.type == "meta"

    def test_two_that_differ_in_their_parameters_differ_in_their_record(self):
        first, second = Settings(identity=Identity(Normalised())), Settings(identity=Identity(Normalised()))
        assert first.record() == second.record()
        with torch.no_grad():
            second.identity.embedding.norm.bias.add_(1)
        assert first.record() != second.record()


class TestTheCheck:
    def test_a_walk_keeps_who_its_code_says(self, walked, ends):
        """On the toy the cosine between codes is known."""
        images, who = planted(people=200)
        identity = calibrate_identity(codes_of, images, who)
        checks = identity_kept(walked, ends, identity, Thresholds(strangers=0.3, genuine=0.0))
        for image, check in enumerate(checks):
            own = walked[image].z + 10 - identity.mean
            expected = torch.cosine_similarity(
                own[None], ends.codes[ends.image == image] + 10 - identity.mean, dim=1
            )
            assert check.values["lowest cosine"] == pytest.approx(float(expected.min()), abs=0.02)
            assert check.status == ("pass" if check.values["lowest cosine"] > 0.5 else "limit")

    def test_exactly_the_critical_value_is_lost(self, walked, ends):
        sides = Identity(
            lambda images: torch.ones(len(images), 2), "sides", torch.zeros(2), (0.0, 1.0), (-1.0, 0.4)
        )
        (first, *_) = identity_kept(walked, ends, sides, Thresholds(identity=1.0))
        assert first.status == "limit"
        assert "does not keep the individual" in first.sentence
        (first, *_) = identity_kept(walked, ends, sides, Thresholds(identity=0.999))
        assert first.status == "pass"

    def test_a_cosine_that_strangers_reach_tells_nothing(self, walked, ends):
        blind = Identity(
            lambda images: torch.ones(len(images), 2), "blind", torch.zeros(2), (0.0, 1.0), (0.6, 1.0)
        )
        (first, *_) = identity_kept(walked, ends, blind, LIMITS)
        assert first.status == "limit"
        assert "100.0% of strangers: too many" in first.sentence

    def test_less_alike_than_nearly_all_genuine_pairs_is_a_limit(self, walked, ends):
        """Also above the critical value; and not where the genuine pairs are too few to know their tail."""

        def alike(images):  # every frame has a cosine of .8 with its image
            angle = torch.arange(len(images)) >= 3
            return torch.stack([torch.where(angle, 0.8, 1.0), torch.where(angle, 0.6, 0.0)], dim=1)

        for low, pairs, status in ((0.7, 100, "pass"), (0.9, 100, "limit"), (0.9, 19, "pass")):
            genuine = tuple(np.linspace(low, 1.0, 101))
            identity = Identity(
                alike, "alike", torch.zeros(2), genuine, (-1.0, 0.4), independent=(pairs, 100)
            )
            (first, *_) = identity_kept(walked, ends, identity, LIMITS)
            assert first.values["lowest cosine"] == pytest.approx(0.8, abs=1e-6)
            assert first.status == status
        (first, *_) = identity_kept(walked, ends, identity, Thresholds(genuine=0.1))
        assert first.status == "limit"
        assert "below that of 90% of genuine pairs (0.91)" in first.sentence

    def test_too_few_strangers_to_know_their_tail_decide_nothing(self, walked, ends):
        images, who = planted(people=30)
        few = calibrate_identity(codes_of, images, who)
        assert few.independent == (30, 15)
        (first, *_) = identity_kept(walked, ends, few, Thresholds(strangers=0.06, genuine=0.0))
        wide = Thresholds(strangers=0.3, genuine=0.0)
        assert identity_kept(walked, ends, few, wide)[0].status in ("pass", "limit")
        assert first.status == "info" or "too many" in first.sentence
        apart = Identity(codes_of, "apart", few.mean, few.genuine, (-1.0, 0.1), independent=(30, 15))
        (first, *_) = identity_kept(walked, ends, apart, LIMITS)
        assert first.status == "info"
        assert "only 15 pairs share nobody: too few to tell a share of 5%" in first.sentence

    def test_tails_are_bounds_and_not_interpolated(self):
        identity = Identity(codes_of, genuine=(0.0, 0.5, 1.0), impostor=(-1.0, 0.0, 0.6))
        assert [identity.share_above(c) for c in (-2, -1, -0.5, 0, 0.5, 0.6)] == [1, 1, 1, 0.5, 0.5, 0]
        found = [identity.share_above(c, of="genuine") for c in (-1, 0, 0.2, 0.5, 0.7, 1, 2)]
        assert found == [1, 1, 0.5, 0.5, 0, 0, 0]

    def test_uncalibrated_is_said_and_decides_nothing(self, walked, ends):
        (first, *_) = identity_kept(walked, ends, Identity(codes_of), LIMITS)
        assert first.status == "info"
        assert "uncalibrated: without reference images this number means nothing" in first.sentence

    @pytest.mark.parametrize("row", [3, 4])
    def test_a_cosine_that_is_not_finite_never_passes(self, walked, ends, row):
        """The features are those of three images, then of the lower and upper end of each."""

        def breaking(images):
            found = torch.ones(len(images), 2)
            found[row] = torch.nan
            return found

        broken = Identity(breaking, "broken", torch.zeros(2), (0.0, 1.0), (-1.0, 0.4))
        first, second, _ = identity_kept(walked, ends, broken, LIMITS)
        assert (first.status, second.status) == ("limit", "pass")
        assert "no finite features" in first.sentence

    def test_it_is_one_of_the_checks_if_asked_for(self, walked):
        with_identity = run_checks(walked, identity=Identity(codes_of))
        assert "identity" in {check.name for check in with_identity[0]}
        assert "identity" not in {check.name for check in run_checks(walked)[0]}


class TestTheDiscriminant:
    def test_what_varies_within_is_whitened(self):
        """With no ridge the covariance within individuals becomes the identity matrix."""
        random = torch.Generator().manual_seed(0)
        who = torch.arange(500).repeat_interleave(2)
        mixing = torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.5, 0.2]])
        within = torch.randn(1000, 3, generator=random) @ mixing
        features = 5 * torch.randn(500, 3, generator=random)[who] + within
        matrix = discriminant(features, who, ridge=1e-9)
        moved = features @ matrix
        apart = moved[::2] - moved[1::2]
        covariance = (
            apart.T @ apart / len(apart) / 2**1.5
        )  # a difference of two; and the fourth root of 2, squared
        assert_allclose(covariance, torch.eye(3), atol=0.05)

    def test_without_a_repeated_individual_there_is_none(self):
        with pytest.raises(OptionError, match="must name at least one individual twice"):
            discriminant(torch.randn(3, 2), torch.arange(3))


class TestWithoutLabels:
    def test_copies_become_more_alike_than_images(self):
        images, _ = planted(people=60, photographs=1)
        identity = fit_identity(images, steps=20)
        assert identity.calibrated
        assert np.median(identity.genuine) > np.median(identity.impostor) + 0.2

    def test_the_same_seed_gives_the_same_network_and_the_global_state_is_left(self):
        images = toy_images(40)
        state = torch.get_rng_state()
        first, second = (fit_embedding(images, steps=2) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(a, second.state_dict()[name]) for name, a in first.state_dict().items())
        assert not torch.equal(fit_embedding(images, steps=2, seed=1).head.weight, first.head.weight)

    def test_the_centre_is_the_mean_embedding(self):
        images = toy_images(40)
        network = fit_embedding(images, steps=2)
        with torch.no_grad():
            assert_allclose(network.centre, network(images).mean(dim=0), atol=1e-5)

    def test_what_none_can_be_trained_on(self):
        with pytest.raises(TrainingError, match=r"images: must be at least 50: .*received 49"):
            fit_identity(toy_images(49))
        with pytest.raises(OptionError, match=r"images: must be a tensor .*Read a folder with as_images"):
            fit_identity("folder")

    def test_too_few_images_or_steps(self):
        with pytest.raises(TrainingError, match="must be at least 40"):
            fit_embedding(toy_images(39))
        with pytest.raises(OptionError, match="steps, batch_size: must be at least 1 and 2"):
            fit_embedding(toy_images(40), steps=0)

    def test_a_mirrored_network_does_not_tell_left_from_right(self):
        images = toy_images(3)
        network = EmbeddingNet(channels=1, mirrored=True).eval()
        with torch.no_grad():
            assert_allclose(network(images), network(images.flip(3)), atol=1e-6)
        assert EmbeddingNet(**network.architecture).mirrored

    def test_recoloured_images_stay_in_range(self):
        images = toy_images(20).expand(-1, 3, -1, -1)
        found = recoloured(images, torch.Generator().manual_seed(0))
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert not torch.equal(found, images)


class TestTheZoo:
    def test_the_faces_have_one_that_tells_people_apart(self, repository):
        identity = load_identity("faces")
        card = json.loads((repository / "models" / "faces" / "card.json").read_text())["identity"]
        assert identity.calibrated
        assert (repository / "models" / "faces" / card["file"]).stat().st_size <= 1_000_000
        assert card["test"]["auc"] >= 0.90
        assert card["test"]["strangers above .5"] <= 0.02
        assert identity.share_above(0.5) <= 0.02

    def test_it_is_the_default_for_the_zoos_faces_only(self):
        assert default_identity(load_generator("faces")).name == "faces/identity"
        assert default_identity(LinearGenerator()) is None

    def test_a_sample_is_like_itself_and_unlike_others(self):
        identity = load_identity("faces")
        faces = load_generator("faces").sample(6, seed=1)
        assert float(identity.cosines(faces, (0.95 * faces + 0.02)).min()) > 0.9
        assert float(identity.cosines(faces, faces.roll(1, 0)).mean()) < 0.5

    @pytest.mark.parametrize("name", ["cells", "no such"])
    def test_what_the_zoo_does_not_have(self, name):
        with pytest.raises(OptionError, match="identity: is not in the zoo"):
            load_identity(name)

    def test_a_card_that_does_not_fit_its_weights_is_named(self, monkeypatch):
        from explainer.checks import identity as module

        card = {"identity": {"architecture": {"dims": 3}, "file": "identity.safetensors", "sha256": "0"}}
        monkeypatch.setattr(module, "read_json", lambda *_: card)
        monkeypatch.setattr(module, "read_tensors", lambda *_: {})
        with pytest.raises(ModelFileError, match="has a card that does not describe its weights"):
            load_identity("faces")


@pytest.mark.skipif(importlib.util.find_spec("dlib") is None, reason="the extra faces is not installed")
def test_dlibs_network_is_centred_too():
    faces = load_generator("faces").sample(6, seed=1)
    identity = dlib_identity(faces, [0, 0, 1, 1, 2, 2])
    assert identity.features(faces).shape == (6, 128)
    assert_allclose(identity.features(faces).mean(dim=0), 0, atol=1e-5)


def test_without_dlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dlib", None)
    with pytest.raises(DependencyError, match=r"Install progressive-explainer\[faces\]"):
        dlib_identity(toy_images(3))
