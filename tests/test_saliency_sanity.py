"""Maps must change with the model, and lie where the truth was planted."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError
from explainer.saliency import SaliencyMap, saliency_batch
from explainer.saliency.sanity import (
    infidelity,
    label_randomisation,
    parameter_randomisation,
    sensitivity,
)
from explainer.saliency.truth import intersection_over_union, localisation, pointing_game, relevance_mass


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(576, 8)
            )
            self.head = nn.Linear(8, 1)
            self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.head(self.body(images).tanh())


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def gradient_maps(images: Tensor):
    def maps(classifier: Classifier) -> list[SaliencyMap]:
        return saliency_batch(["saliency"], classifier, images, classifier.target(1, images))["saliency"]

    return maps


def image_maps(images: Tensor):
    """What an edge detector does: it never asks the classifier."""
    return lambda classifier: [SaliencyMap("edges", image, False, "Edges.") for image in images]


def test_a_gradient_changes_with_the_parameters_and_the_model_stays(images: Tensor) -> None:
    classifier = Classifier(Net())
    before = classifier.fingerprint
    state = torch.get_rng_state()
    found = parameter_randomisation(gradient_maps(images), classifier)
    assert classifier.fingerprint == before
    assert torch.equal(torch.get_rng_state(), state)
    assert found.changed
    assert "changes with the model" in found.sentence
    assert found.table["layer"].tolist() == ["head", "body.3", "body.0", "the model"]
    assert found.table["correlation"].iloc[-1] < 0.5
    again = parameter_randomisation(gradient_maps(images), classifier)
    assert again.table.equals(found.table)
    grouped = parameter_randomisation(gradient_maps(images), classifier, stages=2)
    assert grouped.table["layer"].tolist() == ["head to body.3", "body.0 to the model"]


def test_a_map_of_the_image_is_flagged_in_words(images: Tensor) -> None:
    found = parameter_randomisation(image_maps(images), Classifier(Net()))
    assert not found.changed
    assert_allclose(found.table["correlation"], 1.0)
    assert_allclose(found.table["ssim"], 1.0, atol=1e-6)
    assert found.sentence.endswith("It shows the image, not the model.")


def test_labels_may_be_random_by_a_model_or_a_function(images: Tensor) -> None:
    classifier = Classifier(Net(0))
    found = label_randomisation(gradient_maps(images), classifier, Classifier(Net(5)))
    trained = label_randomisation(gradient_maps(images), classifier, lambda: Classifier(Net(5)))
    assert found.table.equals(trained.table)
    assert found.changed
    same = label_randomisation(gradient_maps(images), classifier, Classifier(Net(0)))
    assert not same.changed
    assert "trained on random labels" in same.sentence


def test_blank_maps_agree_with_nothing(images: Tensor) -> None:
    blank = [SaliencyMap("blank", torch.zeros(1, 12, 12), False, "Nothing.")] * 4
    found = label_randomisation(lambda classifier: blank, Classifier(Net()), Classifier(Net()))
    assert found.table["correlation"].tolist() == [0.0]


def test_only_modules_with_parameters_can_be_randomised(images: Tensor) -> None:
    with pytest.raises(ClassifierError, match="must be a module"):
        parameter_randomisation(image_maps(images), Classifier(lambda x: x.mean(dim=(1, 2, 3))))
    with pytest.raises(ClassifierError, match="has no parameters to randomise"):
        parameter_randomisation(image_maps(images), Classifier(nn.Flatten()))


def test_infidelity_of_the_exact_gradient_of_a_linear_score_is_zero(images: Tensor) -> None:
    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.linspace(-1, 1, 144).view(12, 12)).sum(dim=(1, 2, 3))

    classifier = Classifier(Linear())
    target = classifier.target(1, images)
    exact = torch.linspace(-1, 1, 144).view(1, 1, 12, 12).expand_as(images)
    assert_allclose(infidelity(exact, classifier, images, target), 0, atol=1e-6)
    # Only proportions count; a wrong map does not predict the score.
    assert_allclose(infidelity(7 * exact, classifier, images, target), 0, atol=1e-6)
    assert float(infidelity(exact.flip(2), classifier, images, target).min()) > 5e-3
    assert_allclose(sensitivity("saliency", classifier, images, target), 0, atol=1e-6)
    assert float(sensitivity("input_x_gradient", classifier, images, target).min()) > 0
    with pytest.raises(OptionError, match="name: draws at random"):
        sensitivity("gradient_shap", classifier, images, target)


def test_truth_measures_by_hand() -> None:
    relevance = torch.tensor([[[4.0, 3.0], [2.0, 1.0]], [[0.0, -5.0], [1.0, 4.0]]])
    masks = torch.tensor([[[True, False], [True, False]], [[True, False], [False, False]]])
    assert pointing_game(relevance, masks).tolist() == [1.0, 0.0]
    assert_allclose(relevance_mass(relevance, masks), [0.6, 0.0])
    assert_allclose(intersection_over_union(relevance, masks), [1 / 3, 0.0])
    ties = torch.ones(1, 2, 2)
    assert pointing_game(ties, masks[:1]).tolist() == [0.5]
    with pytest.raises(OptionError, match="masks: must have the shape"):
        relevance_mass(relevance, masks[:1])


def test_localisation_finds_the_planted_region_and_counts_blank_maps() -> None:
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    masks[:5, 2:5, 3:6] = True  # the sixth image has nothing planted
    right = [SaliencyMap("right", mask[None].float() + 0.01, False, "x.") for mask in masks]
    blank = [SaliencyMap("blank", torch.zeros(1, 8, 8), False, "x.") for _ in masks]
    table = localisation({"right": right, "blank": blank}, masks).set_index(["method", "measure"])
    assert table["images"].unique().tolist() == [5]
    assert_allclose(table.loc[("right", "intersection over union"), "mean"], 1.0)
    assert_allclose(table.loc[("right", "pointing game"), "mean"], 1.0)
    assert_allclose(table.loc[("right", "relevance mass accuracy"), "mean"], 9 * 1.01 / (9 + 0.64), rtol=1e-4)
    assert table.loc["blank", "blank"].tolist() == [5, 5, 5]
    assert table.loc[("blank", "relevance mass accuracy"), "mean"] == 0
    assert_allclose(table["chance"].xs("pointing game", level=1), 9 / 64, rtol=1e-5)
    with pytest.raises(OptionError, match="masks: must hold planted pixels"):
        localisation({"right": right[5:]}, masks[5:])
