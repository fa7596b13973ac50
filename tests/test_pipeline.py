import html
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer import Classifier, Explanation, explain, fidelity
from explainer.checks import Identity, Thresholds, calibrate_identity
from explainer.errors import (
    ClassifierError,
    GeneratorError,
    ImageError,
    ModelFileError,
    OptionError,
    OutputError,
)
from explainer.image import to_uint8
from explainer.walks import GradientWalk


@pytest.fixture(scope="module")
def generator():
    return LinearGenerator().eval()


@pytest.fixture(scope="module")
def classifier(generator):
    return LogisticClassifier(generator)


@pytest.fixture(scope="module")
def image():
    return toy_images(1, seed=4)[0]


@pytest.fixture(scope="module")
def explanation(image, classifier, generator):
    wrapped = Classifier(classifier, class_names=("dark", "bright"))
    return explain(image, wrapped, generator=generator)


def check_of(explanation, name):
    return next(check for check in explanation.checks if check.name == name)


class TestASoundExplanation:
    def test_it_can_be_trusted_and_says_so(self, explanation):
        assert explanation.verdict.status == "trust"
        assert (
            explanation.verdict.sentence == "Trust this explanation: no check found a fault, all 13 passed."
        )

    def test_ten_levels_ascend_and_are_reached(self, explanation):
        frames = explanation.frames
        assert_allclose(frames["level"], np.linspace(0.05, 0.95, 10))
        assert_allclose(frames["achieved"], frames["level"], atol=0.003)
        assert frames["reached"].all()
        assert (frames["reason"] == "").all()

    def test_frames_are_what_the_classifier_is_evaluated_on(self, explanation, classifier):
        with torch.no_grad():
            achieved = torch.sigmoid(classifier(explanation.images))
        assert_allclose(achieved, explanation.frames["achieved"], atol=1e-6)

    def test_shapes_and_types(self, explanation, image):
        assert explanation.images.shape == (10, 1, 16, 16)
        assert explanation.images.dtype == torch.float32
        assert torch.equal(explanation.original.image, image)
        assert explanation.latents.shape == (10, 6)
        assert explanation.target == "bright"
        assert explanation.original.class_name in {"dark", "bright"}

    def test_the_difference_is_that_of_the_ends(self, explanation):
        expected = (explanation.images[-1] - explanation.images[0]).abs()
        assert torch.equal(explanation.saliency["difference"].values, expected)

    def test_provenance_names_versions_hashes_and_options(self, explanation):
        provenance = explanation.provenance
        assert provenance["versions"]["torch"] == torch.__version__
        assert len(provenance["classifier"]["sha256"]) == 64
        assert provenance["options"]["walk"] == "gradient"
        assert provenance["options"]["seed"] == 0

    def test_everything_but_pixels_is_json(self, explanation):
        assert json.loads(json.dumps(explanation.to_dict(), allow_nan=False))["target"] == "bright"

    def test_its_repr_is_one_line(self, explanation):
        own = f"{explanation.original.level:.2f}"
        assert repr(explanation) == (
            f"Explanation(target='bright', original={own}, reached=10/10, verdict='trust')"
        )


def test_the_same_call_gives_the_same_bits(image, classifier, generator, explanation):
    again = explain(image, Classifier(classifier, class_names=("dark", "bright")), generator=generator)
    assert torch.equal(again.images, explanation.images)
    assert again.to_dict() == explanation.to_dict()


def test_another_target_walks_the_other_way(image, classifier, generator, explanation):
    wrapped = Classifier(classifier, class_names=("dark", "bright"))
    dark = explain(image, wrapped, generator=generator, target="dark")
    assert dark.target == "dark"
    assert_allclose(dark.images.flip(0), explanation.images, atol=2e-3)


def test_multiclass_explains_the_predicted_class_by_default(image, generator):
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(4 * generator.basis[:, :3].clone())

        def forward(self, images):
            return (images - 0.5).flatten(1) @ self.weight

    model = Three()
    found = explain(image, model, generator=generator)
    assert found.target == f"class {int(model(image[None]).argmax())}"
    pair = explain(image, model, generator=generator, target=(0, 2), levels=[0.2, 0.8])
    with torch.no_grad():
        logits = model(pair.images)
    assert_allclose(torch.sigmoid(logits[:, 2] - logits[:, 0]), [0.2, 0.8], atol=0.003)
    assert pair.target == "class 2 rather than class 0"


def test_a_large_image_is_explained_at_its_own_size(generator, classifier):
    large = nn.functional.interpolate(toy_images(1), size=(50, 50), mode="bicubic").clamp(0, 1)[0]
    found = explain(large, Classifier(classifier, size=16), generator=generator)
    assert found.images.shape == (10, 1, 50, 50)
    assert found.frames["reached"].all()
    assert found.bare.image.shape == (1, 16, 16)
    assert any("16x16" in sentence for sentence in found.assumptions)


def test_an_eight_bit_file_is_explained_like_its_tensor(tmp_path, image, classifier, generator):
    path = tmp_path / "image.png"
    Image.fromarray(to_uint8(image)).save(path)
    found = explain(path, classifier, generator=generator)
    assert_allclose(found.original.image, image, atol=0.5 / 255)


# -- the classifier is left as it was found ------------------------------------------------------------


def test_the_classifier_is_left_as_it_was_found(image, generator):
    model = LogisticClassifier(generator).train()
    model.weight.grad = torch.ones_like(model.weight)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    explain(image, model, generator=generator)
    assert model.training
    assert model.weight.requires_grad
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_also_after_an_exception(image, generator):
    class Failing(LogisticClassifier):
        calls = 0

        def forward(self, images):
            Failing.calls += 1
            if Failing.calls > 12:
                raise RuntimeError("out of memory")
            return super().forward(images)

    model = Failing(generator).train()
    with pytest.raises((RuntimeError, ClassifierError), match="out of memory"):
        explain(image, model, generator=generator)
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None


# -- broken parts must not be believed -----------------------------------------------------------------


class Shuffled(LinearGenerator):
    def _decode(self, codes):
        return super()._decode(codes[:, [3, 4, 5, 0, 1, 2]])


class Blind(LinearGenerator):
    def _encode(self, prepared):
        return 0 * super()._encode(prepared)


class Noisy(LinearGenerator):
    def _decode(self, codes):
        noise = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
        return super()._decode(codes) + 0.3 * noise


class Constant(LinearGenerator):
    def _decode(self, codes):
        return super()._decode(0 * codes)


@pytest.mark.parametrize("broken", [Shuffled, Blind, Noisy, Constant])
def test_a_broken_decoder_is_not_trusted_although_the_detail_hides_it(image, classifier, broken):
    generator = broken().eval()
    found = explain(image, classifier, generator=generator)
    assert found.verdict.status == "distrust"
    assert check_of(found, "reconstruction").status == "fail"
    z = generator.encode(image[None])
    assert_allclose(generator.decode(z, generator.detail(image[None], z)), image[None], atol=1e-6)


def test_a_constant_decoder_cannot_be_walked(image, classifier):
    found = explain(image, classifier, generator=Constant().eval())
    assert check_of(found, "compatibility").status == "fail"
    assert "the gradient vanished" in found.frames["reason"][0]


def test_a_generator_that_hides_what_the_classifier_reads_fails_the_gap(image, generator):
    """The classifier reads the noise that the code does not hold."""
    residual = (image[None] - generator.bare(image[None])).flatten()
    model = LogisticClassifier(generator)
    with torch.no_grad():
        model.weight += 8 * residual / residual.square().sum()
        model.offset.fill_(-4 - float((image.flatten() - 0.5) @ LogisticClassifier(generator).weight))
    found = explain(image, model, generator=generator)
    gap = check_of(found, "reconstruction gap")
    assert gap.status == "fail"
    assert "not in the code" in gap.sentence
    assert found.verdict.status == "distrust"


def test_an_unreachable_level_is_a_limit_with_its_reason(image, generator, classifier):
    class Ceiling(LogisticClassifier):
        def forward(self, images):
            return 2 * torch.tanh(super().forward(images))

    found = explain(image, Ceiling(generator), generator=generator)
    assert not found.frames["reached"].iloc[-1]
    assert "level 0.95 not reached" in found.frames["reason"].iloc[-1]
    assert found.verdict.status in {"limits", "distrust"}
    assert "not reached" in found.outcome


def test_an_image_unlike_the_training_images_is_not_trusted(generator, classifier):
    strange = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert check_of(explain(strange, classifier, generator=generator), "reconstruction").status == "fail"


def test_a_single_level_is_compared_with_the_original(image, classifier, generator):
    found = explain(image, classifier, generator=generator, levels=[0.95])
    saliency = found.saliency["difference"]
    assert torch.equal(saliency.values, (found.images[0] - found.original.image).abs())
    assert saliency.values.max() > 0.01
    assert "between the original at" in saliency.caption


def test_dense_levels_stay_monotone(image, classifier, generator):
    found = explain(image, classifier, generator=generator, levels=np.linspace(0.01, 0.99, 400))
    assert found.frames["reached"].all()
    assert found.frames["achieved"].is_monotonic_increasing


def test_it_works_inside_inference_mode(image, classifier, generator, explanation):
    with torch.inference_mode():
        found = explain(image, classifier, generator=generator)
    assert torch.equal(found.images, explanation.images)


def test_a_classifier_that_breaks_off_the_image_is_named(image, generator):
    class Breaking(LogisticClassifier):
        def forward(self, images):
            score = super().forward(images)
            return score + torch.where(score.detach() < own - 1, float("nan"), 0.0)

    own = float(LogisticClassifier(generator)(image[None]).detach())
    below = torch.sigmoid(torch.tensor([own - 2, own - 0.5])).tolist()
    found = explain(image, Breaking(generator), generator=generator, levels=below)
    assert found.frames["reached"].tolist() == [False, True]
    assert "not finite" in found.frames["reason"].iloc[0]


def test_the_table_and_the_check_use_the_same_threshold(image, classifier, generator):
    found = explain(image, classifier, generator=generator, thresholds=Thresholds(level_error=1e-12))
    check = check_of(found, "compatibility")
    assert found.frames["reached"].mean() == check.values["reached"] < 1


def test_thresholds_can_be_overridden(image, classifier, generator):
    strict = Thresholds(rounding=1e-9)
    found = explain(image, classifier, generator=generator, thresholds=strict)
    assert check_of(found, "8-bit frames").status == "limit"
    assert found.verdict.status == "limits"


# -- what cannot be explained is named -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"walk": "random"}, OptionError, "walk: is not known"),
        ({"detail": 2}, OptionError, r"detail: must lie in \[0, 1\]"),
        ({"saliency": "difference"}, OptionError, "saliency: must be a tuple"),
        ({"saliency": ("magic",)}, OptionError, "saliency: must be a tuple of known methods"),
        ({"levels": [0, 0.5]}, OptionError, "levels: must be probabilities"),
        ({"target": 7}, ClassifierError, "target"),
        ({"target": "cat"}, ClassifierError, "target"),
        ({"generator": 5}, OptionError, "generator: must be a generator, a name or a folder"),
        ({"thresholds": {}}, OptionError, "thresholds: must be a Thresholds"),
        ({"thresholds": Thresholds(error_limit=0.8)}, OptionError, "thresholds: names a quantile"),
        ({"detail": "all"}, OptionError, r"detail: must lie in \[0, 1\]"),
        ({"saliency": None}, OptionError, "saliency: must be a tuple"),
        ({"fidelity": "yes"}, OptionError, "fidelity: must be True or False"),
        ({"fidelity": True, "saliency": ()}, OptionError, "fidelity: needs the map of at least one method"),
        ({"identity": "faces"}, OptionError, r"identity: must be an Identity .received str"),
        (
            {"fidelity": True, "target": "uncertainty"},
            OptionError,
            "fidelity: asks whether the class is kept",
        ),
        ({"device": "abacus"}, OptionError, "device: cannot be used here"),
        ({"generator": "no such"}, OptionError, "source: is no generator"),
    ],
)
def test_options_outside_their_range(image, classifier, generator, options, error, message):
    with pytest.raises(error, match=message):
        explain(image, classifier, **{"generator": generator, **options})


@pytest.mark.parametrize("name", ["error_limit", "error_fail", "typicality_limit"])
def test_a_quantile_that_is_not_stored_is_named_before_the_walk(
    image, classifier, generator, name, monkeypatch
):
    monkeypatch.setattr(GradientWalk, "__call__", lambda *_: pytest.fail("it walked"))
    value = 0.96 if name == "error_fail" else 0.8
    with pytest.raises(OptionError, match="thresholds: names a quantile that the generator does not store"):
        explain(image, classifier, generator=generator, thresholds=Thresholds(**{name: value}))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 16, 16), float("nan")), "nan|NaN|finite"),
        (torch.full((1, 16, 16), 3.0), "range|scale|0, 1"),
        ("no such file.png", "file"),
    ],
)
def test_images_that_cannot_be_used(bad, message, classifier, generator):
    with pytest.raises(ImageError, match=message):
        explain(bad, classifier, generator=generator)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda images: images.mean((1, 2, 3)) * float("nan"), "finite|NaN"),
        (lambda images: images.sum((1, 2, 3)) * 0 + 1.5, "same|constant"),
        (lambda images: torch.softmax(images.flatten(1)[:, :3], 1), "probabilities"),
    ],
)
def test_classifiers_that_cannot_be_explained(image, generator, model, message):
    with pytest.raises(ClassifierError, match=message):
        explain(image, model, generator=generator)


def test_a_generator_of_other_channels_is_named(classifier, generator):
    with pytest.raises(GeneratorError, match=r"generator: takes 1 channels \(received image with 3\)"):
        explain(torch.rand(3, 16, 16), lambda images: classifier(images[:, :1]), generator=generator)


# -- maps, fidelity, identity -------------------------------------------------------------------------

MAPS = ("difference", "path_integrated", "integrated_gradients", "gradient_shap", "saliency:smooth")


@pytest.fixture(scope="module")
def mapped(image, classifier, generator):
    wrapped = Classifier(classifier, class_names=("dark", "bright"))
    return explain(image, wrapped, generator=generator, saliency=MAPS, fidelity=True)


class TestMapsAndFidelity:
    def test_the_maps_asked_for_are_there_in_their_order(self, mapped, explanation):
        assert tuple(mapped.saliency) == MAPS
        assert torch.equal(mapped.saliency["difference"].values, explanation.saliency["difference"].values)
        assert mapped.saliency["integrated_gradients"].evidence
        assert not mapped.saliency["difference"].evidence

    def test_a_linear_score_is_attributed_exactly(self, mapped, image, classifier):
        weight = classifier.weight.detach().view(1, 16, 16)
        expected = (image - image.mean()) * weight
        assert_allclose(mapped.saliency["integrated_gradients"].values, expected, atol=1e-5)
        ends = mapped.images[-1] - mapped.images[0]
        assert_allclose(mapped.saliency["path_integrated"].values, ends * weight, atol=1e-4)

    def test_methods_that_compare_images_compare_with_samples_of_the_generator(
        self, mapped, image, generator
    ):
        # Compared with the image itself nothing but the noise would be left.
        found = mapped.saliency["gradient_shap"].values.sum()
        weighted = mapped.saliency["integrated_gradients"].values.abs().sum()
        assert found.abs() > 0.02 * weighted

    def test_the_walk_and_its_checks_are_as_without_them(self, mapped, explanation):
        assert torch.equal(mapped.images, explanation.images)
        assert mapped.checks == explanation.checks
        assert explanation.fidelity is None

    def test_fidelity_is_that_of_the_function_on_this_image(self, mapped, image, classifier):
        wrapped = Classifier(classifier, class_names=("dark", "bright"))
        maps = {name: [each] for name, each in mapped.saliency.items()}
        expected = fidelity(image[None], None, wrapped, maps, target=1)
        assert_allclose(mapped.fidelity.probability, expected.probability, atol=1e-6)
        assert mapped.fidelity.measures == ("probability", "class kept", "symmetric relevance gain")
        assert mapped.fidelity.methods == MAPS

    def test_a_map_of_the_evidence_loses_the_class_before_a_random_order(self, mapped):
        areas = mapped.fidelity.ranking().set_index("method")["area"]
        assert areas["integrated_gradients"] < areas["random order"] - 0.1

    def test_kept_and_read_they_are_the_same(self, mapped, tmp_path):
        mapped.save(tmp_path / "kept")
        loaded = Explanation.load(tmp_path / "kept")
        assert loaded.to_dict() == mapped.to_dict()
        assert json.loads(json.dumps(mapped.to_dict(), allow_nan=False))["fidelity"]["methods"] == list(MAPS)
        for name, array in mapped.fidelity.arrays().items():
            read = loaded.fidelity.arrays()[name]
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)
        assert loaded.fidelity.ranking().equals(mapped.fidelity.ranking())
        for name in MAPS:
            assert torch.equal(loaded.saliency[name].relevance(), mapped.saliency[name].relevance())

    def test_the_page_shows_curves_areas_and_what_they_cannot_tell(self, mapped, explanation, tmp_path):
        page = mapped.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
        assert "Are the maps true?" in page
        assert page.count("<polyline") == 4 * (len(MAPS) + 3)
        for name in MAPS:
            assert f"<h3><bdi>{name}</bdi></h3>" in page
        rows = page[page.index('<table class="areas">') :].partition("</table>")[0]
        listed = re.findall(r"<bdi>(.+?)</bdi>", rows)
        assert listed == mapped.fidelity.ranking()["method"].tolist()
        assert rows.count("(control)") == 3
        assert "replaced by uniform noise, in 20 steps, mean of 2 draws" in " ".join(page.split())
        assert "Accuracy is missing: No labels were given." in page
        assert "Are the maps true?" not in explanation.to_html(tmp_path / "plain.html").read_text()

    def test_the_classifier_is_left_as_it_was(self, image, classifier, generator):
        before = {name: value.clone() for name, value in classifier.state_dict().items()}
        classifier.train()
        explain(image, classifier, generator=generator, levels=[0.9], saliency=MAPS, fidelity=True)
        assert classifier.training
        assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
        assert all(each.requires_grad and each.grad is None for each in classifier.parameters())

    def test_of_several_ways_the_first_carries_what_does_not_depend_on_the_way(self, image, generator):
        class Either(nn.Module):
            def forward(self, images):
                codes = (images - 0.5).flatten(1) @ generator.basis / 0.09
                return (2 * codes[:, :3]).logsumexp(dim=1) - 4

        names = ("difference", "saliency")
        found = explain(
            image, Either(), generator=generator, levels=[0.97], diverse=2, saliency=names, fidelity=True
        )
        assert tuple(found.saliency) == names
        assert found.fidelity is not None
        assert tuple(found.alternatives[0].saliency) == ("difference",)
        assert found.alternatives[0].fidelity is None


def test_a_regression_has_maps_but_no_class_to_keep(image, classifier, generator):
    wrapped = Classifier(classifier, kind="regression", class_names=["brightness"])
    found = explain(image, wrapped, generator=generator, saliency=("integrated_gradients",))
    assert tuple(found.saliency) == ("integrated_gradients",)
    with pytest.raises(OptionError, match=r"fidelity: asks whether .* .received value of brightness"):
        explain(image, wrapped, generator=generator, fidelity=True)


@pytest.mark.parametrize("name", ["path_integrated", "integrated_gradients", "saliency:smooth"])
def test_a_map_that_needs_a_gradient_is_refused_before_the_walk(image, generator, name):
    asked = 0

    def by_numbers(images):
        nonlocal asked
        asked += 1
        return torch.from_numpy(images.detach().numpy().mean(axis=(1, 2, 3)) - 0.5)

    wrapped = Classifier(by_numbers, kind="binary")
    with pytest.raises(ClassifierError, match=f"saliency: {name} needs a gradient"):
        explain(image, wrapped, generator=generator, saliency=(name,))
    assert asked < 12
    found = explain(image, wrapped, generator=generator, levels=[0.5], saliency=("occlusion",), fidelity=True)
    assert found.fidelity.methods == ("occlusion",)


class TestIdentity:
    def test_without_one_it_is_not_checked(self, explanation):
        assert "identity" not in {check.name for check in explanation.checks}
        assert explanation.provenance["options"]["identity"] is None

    def test_a_given_one_is_asked_and_named(self, image, classifier, generator):
        who = calibrate_identity(lambda images: images.flatten(1), toy_images(60), name="pixels as they are")
        found = explain(image, classifier, generator=generator, identity=who)
        check = check_of(found, "identity")
        assert "pixels as they are" in check.sentence
        assert found.provenance["options"]["identity"]["name"] == "pixels as they are"
        assert found.provenance["options"]["identity"]["calibrated"] is True
        assert len(found.checks) == 15

    def test_one_that_forgets_everybody_is_seen(self, image, classifier, generator):
        def turned(images):
            return torch.stack(
                [images.flatten(1).sum(dim=1) - image.sum() - 0.001, 0 * images[:, 0, 0, 0]], dim=1
            )

        who = Identity(turned, mean=torch.zeros(2), genuine=(0.5, 1.0), impostor=(-1.0, 0.0))
        found = explain(image, classifier, generator=generator, identity=who)
        assert check_of(found, "identity").status == "limit"

    def test_one_without_a_reference_says_so(self, image, classifier, generator):
        found = explain(image, classifier, generator=generator, identity=Identity(lambda x: x.flatten(1)))
        assert "uncalibrated" in check_of(found, "identity").sentence


def test_without_maps_of_captum_it_is_not_imported():
    script = """
import sys, torch
sys.path.insert(0, "tests")
from toys import LinearGenerator, LogisticClassifier, toy_images
from explainer import explain
generator = LinearGenerator()
explain(toy_images(1)[0], LogisticClassifier(generator), generator=generator, levels=[.9], progress=False)
print("captum" in sys.modules)
"""
    root = Path(__file__).parents[1]
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True
    )
    assert said.stdout.split() == ["False"]


# -- kept and shown ------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(tmp_path, explanation):
    explanation.save(tmp_path / "kept")
    loaded = Explanation.load(tmp_path / "kept")
    assert loaded.to_dict() == explanation.to_dict()
    for name in ("images", "latents"):
        assert torch.equal(getattr(loaded, name), getattr(explanation, name))
    assert torch.equal(loaded.saliency["difference"].values, explanation.saliency["difference"].values)
    assert loaded._page().keys() == explanation._page().keys()


def test_a_changed_or_missing_record_is_refused(tmp_path, explanation):
    with pytest.raises(ModelFileError, match="has no readable card or record"):
        Explanation.load(tmp_path)
    explanation.save(tmp_path / "kept")
    tensors = tmp_path / "kept" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelFileError, match="was changed after it was written"):
        Explanation.load(tmp_path / "kept")
    record = tmp_path / "kept" / "explanation.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 99}))
    with pytest.raises(ModelFileError, match="of another format"):
        Explanation.load(tmp_path / "kept")


def test_a_record_of_the_format_before_is_read(tmp_path, explanation):
    explanation.save(tmp_path / "kept")
    path = tmp_path / "kept" / "explanation.json"
    record = json.loads(path.read_text())
    assert record.pop("fidelity") is None
    del record["saliency"]["difference"]["evidence"]
    path.write_text(json.dumps(record | {"format": 2}))
    assert Explanation.load(tmp_path / "kept").to_dict() == explanation.to_dict()
    path.write_text(json.dumps(record | {"format": 1}))
    with pytest.raises(ModelFileError, match="of another format than 3"):
        Explanation.load(tmp_path / "kept")


def test_an_incomplete_record_is_named(tmp_path, explanation):
    explanation.save(tmp_path / "kept")
    path = tmp_path / "kept" / "explanation.json"
    record = json.loads(path.read_text())
    for name in ("sha256", "original", "checks", "target"):
        path.write_text(json.dumps({key: value for key, value in record.items() if key != name}))
        with pytest.raises(ModelFileError, match="has a record that is not complete"):
            Explanation.load(tmp_path / "kept")


def test_saving_over_something_else_is_refused(tmp_path, explanation):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="left alone"):
        explanation.save(tmp_path)


def test_page_and_animation_are_written(tmp_path, explanation):
    page = explanation.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert explanation.verdict.sentence in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    with Image.open(explanation.to_gif(tmp_path / "walk.gif")) as animation:
        assert animation.n_frames >= 10


def test_a_notebook_shows_verdict_and_pictures_without_script(explanation):
    shown = explanation._repr_html_()
    assert html.escape(explanation.verdict.sentence) in shown
    assert shown.count("<img ") == 1 + 7 + 1  # the original, frames, the map
    assert "<script" not in shown
    assert "http" not in shown
    assert len(shown) < 100_000


def test_the_slider_is_plain_plotly_with_a_frame_for_every_level(explanation):
    figure = explanation.slider()
    assert len(figure.frames) == len(explanation.frames)
    assert len(figure.layout.sliders[0].steps) == len(explanation.frames)
    assert type(figure).__name__ == "Figure"


def test_show_in_a_kernel_displays_the_whole_page(monkeypatch, explanation):
    displayed = []
    fake = types.ModuleType("IPython.display")
    fake.HTML, fake.display = str, displayed.append
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setattr("explainer.explanation.in_notebook", lambda: True)
    explanation.show()
    assert "<iframe" in displayed[0]


def test_show_opens_the_page_outside_of_notebooks(monkeypatch, explanation):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    explanation.show()
    assert opened[0].startswith("file://")


# -- other targets, other walks --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aged(image, classifier, generator):
    wrapped = Classifier(classifier, kind="regression", class_names=["age"], reference=(-1.0, 0.5, 3.0))
    return explain(image, wrapped, generator=generator)


class TestARegression:
    def test_levels_are_values_around_the_median_of_the_reference(self, aged, classifier):
        assert_allclose(aged.frames["level"], np.linspace(-3.5, 4.5, 10))
        with torch.no_grad():
            assert_allclose(classifier(aged.images), aged.frames["level"], atol=0.1 * aged.tolerance)
        assert aged.tolerance == pytest.approx(0.08)
        assert aged.frames["reached"].all()
        assert_allclose(aged.frames["score"], (aged.frames["achieved"] - 0.5) / 4, atol=1e-6)

    def test_it_speaks_of_values(self, aged, tmp_path):
        assert aged.level_word == "value of age"
        assert aged.original.class_name == ""
        assert "interquartile ranges" in check_of(aged, "reconstruction gap").sentence
        assert any("from 0.5 in units of 4" in sentence for sentence in aged.assumptions)
        page = aged.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
        assert "value of age" in page
        assert "class <bdi></bdi>" not in page
        aged.save(tmp_path / "kept")
        assert Explanation.load(tmp_path / "kept").to_dict() == aged.to_dict()

    def test_without_a_reference_samples_of_the_generator_are_one(self, image, classifier, generator):
        found = explain(image, Classifier(classifier, kind="regression"), generator=generator)
        with torch.no_grad():
            values = classifier(generator.sample(256)).numpy()
        assert_allclose(
            found.provenance["target"]["quartiles"], np.quantile(values, (0.25, 0.5, 0.75)), rtol=1e-5
        )
        assert "samples of the generator" in found.assumptions[-1]

    def test_thresholds_of_levels_are_shares_of_the_interquartile_range(self, image, classifier, generator):
        wrapped = Classifier(classifier, kind="regression", reference=(-1.0, 0.5, 3.0))
        strict = explain(image, wrapped, generator=generator, thresholds=Thresholds(level_error=0.01))
        assert strict.tolerance == pytest.approx(0.04)

    def test_levels_must_be_numbers(self, image, classifier, generator):
        wrapped = Classifier(classifier, kind="regression")
        with pytest.raises(OptionError, match="levels: must be finite values"):
            explain(image, wrapped, generator=generator, levels=[float("inf")])


def test_the_uncertainty_is_a_target(image, classifier, generator):
    found = explain(image, classifier, generator=generator, target="uncertainty", levels=[0.5, 0.9])
    with torch.no_grad():
        p = torch.sigmoid(classifier(found.images).double())
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()) / np.log(2)
    assert_allclose(entropy, [0.5, 0.9], atol=0.005)
    assert found.level_word == "uncertainty (share of maximal entropy)"
    assert any("entropy of the classes" in sentence for sentence in found.assumptions)


def without_gradient(classifier):
    return lambda images: classifier(images.detach()).detach().numpy()


def test_a_classifier_without_gradient_is_walked_by_evolution_and_says_so(image, classifier, generator):
    found = explain(image, without_gradient(classifier), generator=generator, levels=[0.2, 0.8])
    assert found.frames["reached"].all()
    assert "(evolution)" in found.outcome
    assert any("has no gradient: it was walked with the evolution walk" in s for s in found.assumptions)
    assert found.provenance["options"]["walk"] == "evolution"
    again = explain(image, without_gradient(classifier), generator=generator, levels=[0.2, 0.8])
    assert torch.equal(again.images, found.images)


def test_a_gradient_walk_that_was_passed_is_not_exchanged(image, classifier, generator):
    with pytest.raises(ClassifierError, match="has no gradient, which the gradient walk needs"):
        explain(image, without_gradient(classifier), generator=generator, walk=GradientWalk())


@pytest.mark.parametrize("walk", ["gradient", "linear", "evolution"])
def test_walks_by_name(image, classifier, generator, walk):
    found = explain(image, classifier, generator=generator, walk=walk, levels=[0.2, 0.8])
    assert found.provenance["options"]["walk"] == walk
    assert found.frames["reached"].all()


# -- control by the user ---------------------------------------------------------------------------------


def halves():
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1
    return mask


@pytest.mark.parametrize("options", [{"preserve": halves()}, {"allow": 1 - halves()}])
def test_a_mask_holds_and_the_table_is_of_the_masked_frames(image, classifier, generator, options):
    found = explain(image, classifier, generator=generator, levels=[0.3, 0.7], **options)
    assert torch.equal(found.images[..., :8], image[None, ..., :8].expand(2, -1, -1, -1))
    assert (found.images[..., 8:] - image[None, ..., 8:]).abs().max() > 0.01
    with torch.no_grad():
        assert_allclose(torch.sigmoid(classifier(found.images)), found.frames["achieved"], atol=1e-6)
    assert found.frames["reached"].all()
    assert any("Only 50% of the pixels were allowed to change" in s for s in found.assumptions)


def test_an_image_that_may_not_change_reaches_nothing_and_says_so(image, classifier, generator):
    found = explain(image, classifier, generator=generator, levels=[0.01, 0.99], preserve=torch.ones(16, 16))
    assert not found.frames["reached"].any()
    assert torch.equal(found.images[0], image)
    assert found.verdict.status == "distrust"


def test_sparse_walks_keep_dimensions_still(image, classifier, generator):
    found = explain(image, classifier, generator=generator, levels=[0.1, 0.9], sparsity=0.5)
    moved = (found.latents - generator.encode(image[None])).abs() > 1e-6
    assert moved.sum(dim=1).tolist() == [3, 3]
    assert found.frames["reached"].all()


@pytest.fixture(scope="module")
def diverse(image, generator):
    class Either(nn.Module):
        """Raised along the first or along the second column of the basis: two ways up, at right angles.

        The moves to two levels would span both columns, and leave no second way.
        """

        def forward(self, images):
            codes = (images - 0.5).flatten(1) @ generator.basis / 0.09
            own = (image[None] - 0.5).flatten(1) @ generator.basis / 0.09
            return torch.logsumexp(2 * (codes - own)[:, :2] * torch.tensor([1.2, 1.0]), dim=1) - 2

    return explain(image, Either(), generator=generator, levels=[0.9], diverse=2)


class TestDiverseExplanations:
    def test_both_ways_reach_their_levels_by_different_moves(self, diverse, image, generator):
        (other,) = diverse.alternatives
        assert diverse.frames["reached"].all()
        assert other.frames["reached"].all()
        start = generator.encode(image[None])
        moves = [(each.latents - start) for each in (diverse, other)]
        assert min(move.norm(dim=1).min() for move in moves) > 0.1
        assert torch.cosine_similarity(*moves, dim=1).abs().max() < 0.5
        # Each way is along its own column of the basis.
        assert moves[0][-1].abs().argmax() == 0
        assert moves[1][-1].abs().argmax() == 1

    def test_each_is_a_whole_explanation(self, diverse):
        (other,) = diverse.alternatives
        assert (other.frames["reason"] == "").all()
        assert other.provenance["image"] == diverse.provenance["image"]
        assert len(other.checks) == len(diverse.checks)
        assert other.alternatives == ()

    def test_they_are_kept_and_shown(self, diverse, tmp_path):
        diverse.save(tmp_path / "kept")
        loaded = Explanation.load(tmp_path / "kept")
        assert loaded.to_dict() == diverse.to_dict()
        assert torch.equal(loaded.alternatives[0].images, diverse.alternatives[0].images)
        page = diverse.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
        assert "Another way, 2 of 2" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preserve": torch.ones(3, 3)}, "preserve: must be a mask"),
        ({"allow": "all"}, "allow: must be a mask"),
        ({"sparsity": 1.5}, "sparsity, shorten: must lie in"),
        ({"sparsity": 0.5, "walk": GradientWalk()}, "sparsity: is an option of the gradient"),
        ({"diverse": 0}, "diverse: must be a whole number"),
        ({"diverse": 2, "walk": "linear"}, "diverse: needs a walk that steps"),
        ({"walk": "conditional"}, "walk: is not known .* ConditionalWalk.fit"),
    ],
)
def test_wrong_control_is_named(image, classifier, generator, options, message):
    with pytest.raises(OptionError, match=message):
        explain(image, classifier, generator=generator, **options)
