"""fidelity(): curves by hand, the same noise for all, controls, what cannot be had, and what is kept."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, ImageError, OptionError
from explainer.fidelity_result import Fidelity
from explainer.fillers import Filler
from explainer.replacement import fidelity
from explainer.saliency import SaliencyMap, saliency_batch
from explainer.storage import read_json, write_json

SIDE = 8


class Black(Filler):
    """Zeros: curves can then be computed by hand."""

    name = "black"

    def draw(self, rows: range, seed: int) -> Tensor:
        return torch.zeros(len(rows), *self.images.shape[1:])


class Quadrant(nn.Module):
    """The logit of bright against dark in the upper left quarter: 40 (mean - .5); it sees nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(40.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * (images[:, :, :4, :4].mean(dim=(1, 2, 3)) - 0.5)


def planted(count: int, channels: int = 2, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    stream = torch.Generator().manual_seed(seed)
    images = torch.rand(count, channels, SIDE, SIDE, generator=stream) * 0.3
    labels = np.arange(count) % 2
    images[labels == 1, :, :4, :4] += 0.6
    images[labels == 0, :, 4:, 4:] += 0.6
    return images, labels


def right_map(count: int) -> Tensor:
    relevance = torch.rand(count, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 0.1
    relevance[:, :4, :4] += 1
    return relevance


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(Quadrant(), class_names=("dark", "bright"))


@pytest.fixture(scope="module")
def found(classifier: Classifier) -> Fidelity:
    images, labels = planted(120)
    wrong = right_map(120).flip(dims=(1, 2))
    return fidelity(
        images, labels, classifier, {"right": right_map(120), "wrong": wrong}, draws=2, resamples=300
    )


def test_probability_by_hand(classifier: Classifier) -> None:
    """Flat images of 1: a share f of the quarter's 16 pixels turned black has the logit 40 (1 - f - .5)."""
    images = torch.ones(3, 2, SIDE, SIDE)
    found = fidelity(
        images,
        None,
        classifier,
        {"map": right_map(3)},
        filler=Black(images),
        steps=16,
        draws=1,
        resamples=100,
    )
    frame = found.to_frame()
    most = frame[
        (frame["method"] == "map") & (frame["measure"] == "probability") & (frame["order"] == "most")
    ]
    removed = np.minimum(np.linspace(0, 1, 17) * 64, 16) / 16
    assert_allclose(most["fraction"], np.linspace(0, 1, 17))
    assert_allclose(most["value"], 1 / (1 + np.exp(-40 * (0.5 - removed))), rtol=1e-5, atol=1e-8)
    least = frame[
        (frame["method"] == "map") & (frame["measure"] == "probability") & (frame["order"] == "least")
    ]
    assert_allclose(least["value"][:13], 1 / (1 + np.exp(-20.0)), rtol=1e-5)
    assert least["value"].iloc[-1] == pytest.approx(most["value"].iloc[-1])


def test_the_right_map_wins_and_the_wrong_one_loses(found: Fidelity) -> None:
    for measure in found.measures:
        against = {name: found.compare("right", name, measure) for name in (*found.controls, "wrong")}
        better = [name for name, row in against.items() if row["better"] and row["real"]]
        expected = set(against) - {"another image's right"}  # it is as right: the place is the same
        assert expected <= set(better), measure
        assert found.ranking(measure)["method"].iloc[-1] == "wrong"
    backwards = found.compare("wrong", "right")
    assert backwards["difference"] == -found.compare("right", "wrong")["difference"]
    assert not backwards["better"]
    sentences = found.sentences()
    assert "random order" in sentences[0]
    assert any(sentence.startswith("With nothing left accuracy is") for sentence in sentences)


def test_the_ends_are_shared_by_all(found: Fidelity) -> None:
    assert found.fractions[0] == 0
    assert found.fractions[-1] == 1
    assert (found.predictions[..., 0, :] == found.predicted).all()
    assert (found.predictions[..., -1, :] == found.predictions[:1, :1, :, -1, :]).all()
    assert (found.probability[..., -1, :] == found.probability[:1, :1, -1, :]).all()
    frame = found.to_frame()
    start = frame[(frame["measure"] == "accuracy") & (frame["fraction"] == 0)]
    assert_allclose(start["value"], 1.0)
    assert 0.4 < found.chance["accuracy by chance"] < 0.6
    information = frame[(frame["measure"] == "information about the label") & (frame["fraction"] == 0)]
    assert_allclose(information["value"], np.log(2), atol=0.01)


def test_the_table_of_curves_is_complete(found: Fidelity) -> None:
    frame = found.to_frame()
    names = (*found.methods, *found.controls)
    assert len(frame) == len(names) * 2 * 21 * 5  # the gain is an area only
    assert not frame.isna().any(axis=None)
    assert (frame["low"] <= frame["value"] + 1e-6).mean() > 0.99
    assert set(frame.loc[frame["control"], "method"]) == set(found.controls)
    assert found.controls == (
        "random order",
        "Sobel edges",
        "random phases of right",
        "another image's right",
    )
    areas = found.areas.set_index(["measure", "method"])
    curve = frame[
        (frame["method"] == "right") & (frame["order"] == "most") & (frame["measure"] == "accuracy")
    ]
    assert_allclose(areas.loc[("accuracy", "right"), "area"], np.trapezoid(curve["value"], curve["fraction"]))


def test_the_same_seed_the_same_result_whatever_the_batches(classifier: Classifier) -> None:
    images, labels = planted(10)
    before = images.clone()

    def run(**options):
        return fidelity(images, labels, classifier, {"map": right_map(10)}, resamples=100, steps=4, **options)

    first, again, batched, other = run(), run(), run(batch_size=3), run(seed=1)
    for one in (again, batched):
        assert np.array_equal(first.predictions, one.predictions)
        assert_allclose(first.probability, one.probability, atol=1e-6)
        pd.testing.assert_frame_equal(first.differences, one.differences, atol=1e-5)
    assert not np.allclose(first.probability, other.probability)
    assert torch.equal(images, before)
    assert first.settings["seeds"] != other.settings["seeds"]
    assert first.settings["asked"] == 10 * (1 + 2 + 2 * 5 * 2 * 3)


def test_few_images_have_no_accuracy_and_one_has_no_interval(classifier: Classifier) -> None:
    images, labels = planted(4)
    few = fidelity(images, labels, classifier, {"map": right_map(4)}, steps=4, draws=1, resamples=100)
    assert few.missing["accuracy"] == "4 images are too few: at least 100 are needed."
    assert "information about the label" in few.missing
    assert few.measures == ("probability", "class kept", "symmetric relevance gain")
    with pytest.raises(OptionError, match="measure: is not there: 4 images are too few"):
        few.ranking("accuracy")
    one = fidelity(images[:1], None, classifier, {"map": right_map(1)}, steps=4, draws=1, orders=("most",))
    assert one.missing["another image's map"] == "There is no other image."
    assert one.missing["accuracy"] == "No labels were given."
    assert one.differences.empty
    assert one.areas["low"].isna().all()
    assert one.measures == ("probability", "class kept")
    assert len(one.ranking("probability")) == 4
    with pytest.raises(OptionError, match="method, other: were not compared"):
        one.compare("map", "random order")


def test_evidence_is_turned_to_the_class_that_was_seen(classifier: Classifier) -> None:
    images, labels = planted(20)
    target = classifier.target("bright", images)
    maps = saliency_batch(["input_x_gradient"], classifier, images, target)
    turned = fidelity(images, labels, classifier, maps, steps=4, draws=1, resamples=100)
    relevance = torch.stack([each.values.sum(dim=0) for each in maps["input_x_gradient"]])
    sign = torch.where(torch.from_numpy(labels) == 1, 1.0, -1.0).view(-1, 1, 1)
    by_hand = fidelity(
        images, labels, classifier, {"input_x_gradient": sign * relevance}, steps=4, draws=1, resamples=100
    )
    assert np.array_equal(turned.probability[0], by_hand.probability[0])
    away = fidelity(images, labels, classifier, maps, target="dark", steps=4, draws=1, resamples=100)
    assert not np.array_equal(away.probability[0], turned.probability[0])


def test_magnitudes_are_not_turned(classifier: Classifier) -> None:
    images, _ = planted(4)
    relevance = right_map(4)
    maps = [SaliencyMap("m", -each[None], True, "x.") for each in relevance]
    found = fidelity(images, None, classifier, {"m": maps, "abs": relevance}, steps=4, draws=1, resamples=100)
    assert np.array_equal(found.probability[0], found.probability[1])


def test_superpixels_go_as_a_whole(classifier: Classifier) -> None:
    images, labels = planted(6)
    found = fidelity(
        images, labels, classifier, {"map": right_map(6)}, unit="superpixels", superpixel_count=9, steps=4,
        draws=1, resamples=100,
    )  # fmt: skip
    assert found.settings["unit"] == "superpixels"
    assert found.ranking("probability")["area"].between(0, 1).all()


@pytest.mark.parametrize("filler", ["blur", "mean", "marginal"])
def test_other_fillers(filler: str, classifier: Classifier) -> None:
    images, labels = planted(6)
    found = fidelity(images, labels, classifier, {"map": right_map(6)}, filler=filler, steps=4, resamples=100)
    assert found.settings["filler"] == filler
    assert found.compare("map", "random order")["difference"] < 0


def test_several_classes_and_labels_by_name() -> None:
    images, _ = planted(6, channels=3)
    classifier = Classifier(lambda x: x.mean(dim=(2, 3)) * 9, class_names=("red", "green", "blue"))
    relevance = torch.rand(6, 3, SIDE, SIDE)
    names = ["red", "blue", "green"] * 2
    found = fidelity(images, names, classifier, {"map": relevance}, steps=2, draws=1, resamples=100)
    assert found.labels.tolist() == [0, 2, 1, 0, 2, 1]
    with pytest.raises(OptionError, match=r"labels: hold names that are no classes \(received pink\)"):
        fidelity(images, ["pink"] * 6, classifier, {"map": relevance})
    maps = saliency_batch(["occlusion"], classifier, images, classifier.target("red", images))
    with pytest.raises(ClassifierError, match="target: must be named"):
        fidelity(images, None, classifier, maps)
    fidelity(images, None, classifier, maps, target="red", steps=2, draws=1, resamples=100)


def test_a_label_of_many_and_probabilities() -> None:
    images, labels = planted(4)

    def probabilities(x: Tensor) -> Tensor:
        bright = torch.sigmoid(40 * (x[:, :, :4, :4].mean(dim=(1, 2, 3)) - 0.5))
        return torch.stack([bright, 1 - bright], dim=1)

    several = Classifier(probabilities, kind="multilabel", outputs="probabilities", class_names=("a", "b"))
    options = {"steps": 2, "draws": 1, "resamples": 100}
    found = fidelity(images, labels, several, {"map": right_map(4)}, target="a", **options)
    assert found.predicted.tolist() == labels.tolist()
    with pytest.raises(ClassifierError, match="target: must be named: of several labels"):
        fidelity(images, labels, several, {"map": right_map(4)}, **options)
    exclusive = Classifier(probabilities, outputs="probabilities")
    found = fidelity(images, 1 - labels, exclusive, {"map": right_map(4)}, **options)
    assert found.predicted.tolist() == (1 - labels).tolist()
    values = Classifier(lambda x: x.mean(dim=(1, 2, 3)), kind="regression")
    with pytest.raises(ClassifierError, match="classifier: has no classes that could change"):
        fidelity(images, None, values, {"map": right_map(4)}, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"images": torch.rand(3, 8, 8)}, ImageError, "images: must be a floating-point tensor"),
        ({"saliencies": {}}, OptionError, "saliencies: must hold the maps of at least one method"),
        ({"saliencies": {"random order": right_map(4)}}, OptionError, "names a method like a control"),
        ({"saliencies": {"a": right_map(3)}}, OptionError, "a must have one map for each image"),
        ({"labels": [0, 1]}, OptionError, "labels: must be one class for each of the 4 images"),
        ({"labels": [0, 1, 2, 0]}, OptionError, r"labels: must lie in 0 ... 1 \(received 0 ... 2\)"),
        ({"labels": [0.2, 1, 1, 0]}, OptionError, "labels: must be classes, not probabilities"),
        ({"groups": [0, 1]}, OptionError, "groups: must name one group for each of 4 images"),
        ({"steps": 1}, OptionError, "steps: must be at least 2"),
        ({"draws": 0}, OptionError, "draws: must be at least 1"),
        ({"confidence": 1.0}, OptionError, "confidence: must lie between 0 and 1"),
        ({"unit": "voxels"}, OptionError, "unit: is not known"),
        ({"orders": ("least",)}, OptionError, 'orders: must be "most"'),
        ({"controls_for": "b"}, OptionError, "controls_for: is no method"),
        ({"filler": "snow"}, OptionError, "filler: is not known"),
    ],
)
def test_wrong_options(options: dict, error: type, text: str, classifier: Classifier) -> None:
    images, labels = planted(4)
    given = {"images": images, "labels": labels, "saliencies": {"a": right_map(4)}} | options
    with pytest.raises(error, match=text):
        fidelity(given.pop("images"), given.pop("labels"), classifier, given.pop("saliencies"), **given)


def test_it_is_kept_as_json_and_arrays(found: Fidelity, tmp_path) -> None:
    write_json(tmp_path / "record.json", found.record())
    loaded = Fidelity.from_record(
        read_json(tmp_path / "record.json", "record"),
        {name: torch.from_numpy(values) for name, values in found.arrays().items()},
    )
    pd.testing.assert_frame_equal(loaded.to_frame(), found.to_frame())
    pd.testing.assert_frame_equal(loaded.differences, found.differences)
    assert np.array_equal(loaded.predictions, found.predictions)
    assert loaded.settings == found.settings
    assert loaded.sentences() == found.sentences()
    assert repr(loaded) == repr(found)
    assert "2 methods, 4 controls, 120 images" in repr(found)


def test_it_shows_itself(found: Fidelity, tmp_path) -> None:
    shown = found._repr_html_()
    assert shown.startswith("<div><svg")
    assert "http" not in shown.replace("http://www.w3.org/2000/svg", "")
    page = found.to_html(tmp_path / "fidelity.html").read_text()
    assert "Ranking by accuracy" in page
    one = Fidelity.from_record(found.record() | {"methods": ["<b>"]}, found.arrays())
    assert "<b>" not in one._repr_html_()
