"""Saliency by name: exact answers on a linear score, completeness, batches, and classifiers left as found."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.nn import functional

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError
from explainer.saliency import METHODS, Walked, saliency_batch, saliency_maps
from explainer.saliency.attribution import ATTRIBUTIONS, attribute
from explainer.saliency.difference import path_integrated, path_integrated_difference
from explainer.saliency.score_module import last_convolution, named_layer, with_modules

GRADIENT = [name for name, method in ATTRIBUTIONS.items() if method.gradient]
DETERMINISTIC = [name for name in ATTRIBUTIONS if name != "gradient_shap"]


class Linear(nn.Module):
    def __init__(self, shape: tuple[int, int, int] = (2, 8, 8)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).sum(dim=(1, 2, 3)) + 0.3


class Network(nn.Module):
    """A ReLU module that is used twice and works in place, and a functional one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.second(self.relu(self.first(images))))
        return self.head(functional.relu(functional.max_pool2d(x, 2)).mean(dim=(2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def linear() -> Classifier:
    return Classifier(Linear(), class_names=("no", "yes"))


@pytest.fixture
def network(images: Tensor) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        classifier = Classifier(Network())
    with torch.no_grad():
        classifier.model.head.weight.mul_(30)  # scores that move by more than rounding
    classifier.check(images)
    return classifier


def target_of(classifier: Classifier, images: Tensor):
    return classifier.target(1, images)


def path(images: Tensor) -> Tensor:
    """Five images on a bent path."""
    t = torch.linspace(0, 1, 5).view(-1, 1, 1, 1)
    return (1 - t) * images[0] + t * images[1] + t * (1 - t) * (images[2] - 0.5)


def test_linear_score_gives_the_known_maps(linear: Classifier, images: Tensor) -> None:
    target, weight = target_of(linear, images), linear.model.weight.detach()
    gap = images - images.mean(dim=(2, 3), keepdim=True)
    expected = {
        "saliency": weight.abs().expand_as(images), "input_x_gradient": weight * images,
        "integrated_gradients": weight * gap, "deep_lift": weight * gap,
    }  # fmt: skip
    for name, values in expected.items():
        found = attribute(name, linear, images, target)
        assert_allclose(found, values, atol=1e-5, err_msg=name)


def test_feature_ablation_is_the_loss_of_score_of_each_patch(linear: Classifier, images: Tensor) -> None:
    found = attribute("feature_ablation", linear, images, target_of(linear, images))
    gap = images - images.mean(dim=(2, 3), keepdim=True)
    # 8 x 8 pixels are 8 x 8 patches of one pixel, both channels together.
    lost = (linear.model.weight.detach() * gap).sum(dim=1, keepdim=True)
    assert_allclose(found, lost.expand_as(images), atol=1e-5)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_batched_equals_one_by_one_and_inputs_stay(name: str, network: Classifier, images: Tensor) -> None:
    target, before = target_of(network, images), images.clone()
    together = attribute(name, network, images, target)
    alone = torch.cat([attribute(name, network, image[None], target) for image in images])
    assert together.shape == images.shape
    assert_allclose(together, alone, atol=1e-5)
    assert_allclose(attribute(name, network, images, target, batch_size=2), together, atol=1e-5)
    assert torch.equal(images, before)
    assert not images.requires_grad


@pytest.mark.parametrize("name", [*ATTRIBUTIONS, "saliency:smooth", "gradient_shap:smooth"])
def test_the_classifier_and_the_random_states_are_left_as_found(
    name: str, network: Classifier, images: Tensor
) -> None:
    model = network.model.train()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    attribute(name, network, images, target_of(network, images), steps=4, smooth_samples=2)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight))
    assert model.relu.inplace is True
    hooks = [module._forward_hooks or module._backward_hooks for module in model.modules()]
    assert not any(hooks)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("name", ["gradient_shap", "saliency:smooth"])
def test_random_methods_follow_their_seed(name: str, network: Classifier, images: Tensor) -> None:
    target = target_of(network, images)
    first, again, other = (attribute(name, network, images, target, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_integrated_gradients_add_up_to_the_change_of_score(network: Classifier, images: Tensor) -> None:
    target = target_of(network, images)
    base = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    change = network.score(images, target) - network.score(base, target)
    found = attribute("integrated_gradients", network, images, target, steps=300)
    assert_allclose(found.sum(dim=(1, 2, 3)), change.detach(), atol=2e-3)


def test_deep_lift_adds_up_although_relus_are_functional_and_reused(images: Tensor) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Linear(128, 16), nn.Linear(16, 1), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            hidden = functional.relu(self.relu(self.first(x.flatten(1))) - 0.05)
            return self.second(hidden)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(Plain())
    target = classifier.target(1, images)
    base = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    change = (classifier.score(images, target) - classifier.score(base, target)).detach()
    assert float(change.abs().min()) > 1e-3
    found = attribute("deep_lift", classifier, images, target).sum(dim=(1, 2, 3))
    assert_allclose(found, change, rtol=1e-3, atol=1e-5)


def test_guided_backprop_reaches_functional_relus(images: Tensor) -> None:
    """One hidden unit with a negative output weight: only where the gradient is positive does it pass."""

    class Tiny(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            hidden = functional.relu(torch.stack([x[:, 0].sum(dim=(1, 2)), x[:, 1].sum(dim=(1, 2))], dim=1))
            return hidden[:, 0] - hidden[:, 1]

    classifier = Classifier(Tiny())
    found = attribute("guided_backprop", classifier, images, classifier.target(1, images))
    assert torch.equal(found[:, 0], torch.ones(3, 8, 8))
    assert torch.equal(found[:, 1], torch.zeros(3, 8, 8))
    assert torch.equal(
        attribute("saliency", classifier, images, classifier.target(1, images)), torch.ones(3, 2, 8, 8)
    )


def test_a_rule_without_its_modules_says_so(linear: Classifier, images: Tensor) -> None:
    target = target_of(linear, images)
    maps = saliency_batch(["guided_backprop", "deep_lift", "saliency:smooth"], linear, images, target)
    assert maps["guided_backprop"][0].caption.endswith(
        "no module that captum's rule acts on: this is the plain gradient."
    )
    assert "input times gradient" in maps["deep_lift"][0].caption
    assert "noisy copies" in maps["saliency:smooth"][0].caption


def test_a_model_that_cannot_be_traced_is_used_as_it_is(images: Tensor) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(dim=(1, 2, 3)) if x.sum() > 0 else -x.sum(dim=(1, 2, 3))

    classifier = Classifier(Branching())
    assert with_modules(classifier) is classifier
    assert with_modules(Classifier(lambda x: x.mean(dim=(1, 2, 3)))).model is not None
    found = attribute("guided_backprop", classifier, images, classifier.target(1, images))
    assert torch.equal(found, torch.ones_like(images))


def test_traced_twin_scores_the_same(network: Classifier, images: Tensor) -> None:
    target = target_of(network, images)
    assert_allclose(
        with_modules(network).score(images, target).detach(),
        network.score(images, target).detach(),
        atol=1e-6,
    )


def test_grad_cam_is_captums_on_the_layer_named_or_found(network: Classifier, images: Tensor) -> None:
    target = target_of(network, images)
    found = attribute("grad_cam", network, images, target)
    assert last_convolution(network) is network.model.second
    assert torch.equal(found, attribute("grad_cam", network, images, target, layer="second"))
    assert torch.equal(found, attribute("grad_cam", network, images, target, layer=network.model.second))
    assert not torch.allclose(found, attribute("grad_cam", network, images, target, layer="first"))
    assert_allclose(found[:, 0], found[:, 1])


def test_wrong_layers(network: Classifier, linear: Classifier, images: Tensor) -> None:
    target = target_of(network, images)
    with pytest.raises(OptionError, match=r"layer: is no part of the classifier \(received third\)"):
        attribute("grad_cam", network, images, target, layer="third")
    with pytest.raises(OptionError, match="layer: is no part of the classifier"):
        named_layer(network, nn.ReLU())
    with pytest.raises(OptionError, match="layer: must have one output"):
        attribute("grad_cam", network, images, target, layer="head")
    with pytest.raises(OptionError, match="layer: must be named: the classifier has no convolution"):
        attribute("grad_cam", linear, images, target_of(linear, images))


@pytest.mark.parametrize("name", GRADIENT)
def test_without_a_gradient_only_perturbations(name: str, images: Tensor) -> None:
    classifier = Classifier(lambda x: x.detach().mean(dim=(1, 2, 3)) - 0.5)
    target = target_of(classifier, images)
    with pytest.raises(ClassifierError, match=rf"saliency: {name} needs a gradient.*Choose .*occlusion"):
        attribute(name, classifier, images, target)
    assert attribute("occlusion", classifier, images, target).abs().sum() > 0


def test_another_error_of_the_classifier_is_not_taken_for_a_missing_gradient(images: Tensor) -> None:
    classifier = Classifier(nn.Linear(3, 1))
    target = Classifier(lambda x: x.mean(dim=(1, 2, 3))).target(1, images)
    with pytest.raises(ClassifierError, match="classifier: fails on images"):
        attribute("saliency", classifier, images, target)


def test_path_integral_adds_up_to_the_change_of_score(images: Tensor) -> None:
    weight = torch.linspace(-1, 1, 128).view(2, 8, 8)
    network = Classifier(lambda x: (weight * x).sum(dim=(1, 2, 3)).sin() + (x**3).mean(dim=(1, 2, 3)))
    target, frames = target_of(network, images), path(images)
    found = path_integrated_difference(frames, network, target, nodes=8)
    change = network.score(frames[-1:], target) - network.score(frames[:1], target)
    assert abs(float(change)) > 1e-3
    assert_allclose(found.sum(), change.item(), rtol=1e-4)
    maps = path_integrated(frames, [0.1, 0.2, 0.3, 0.5, 0.9], images[0], 0.4, network, target)
    assert "adds up to" in maps.caption
    assert maps.signed


def test_path_integral_of_a_linear_score_is_weight_times_change(linear: Classifier, images: Tensor) -> None:
    target, frames = target_of(linear, images), path(images)
    found = path_integrated_difference(frames, linear, target, nodes=1)
    assert_allclose(found, linear.model.weight.detach() * (frames[-1] - frames[0]), atol=1e-5)
    with pytest.raises(OptionError, match="nodes: must be at least 1"):
        path_integrated_difference(frames, linear, target, nodes=0)


def test_all_methods_by_name_for_one_image(network: Classifier, images: Tensor) -> None:
    target, frames = target_of(network, images), path(images)
    maps = saliency_maps(
        METHODS, network, images[0], target, frames=frames, levels=[0.1, 0.3, 0.5, 0.7, 0.9], own=0.4
    )
    assert tuple(maps) == METHODS
    for name, found in maps.items():
        assert found.name == name
        assert found.values.shape == images[0].shape
        assert found.values.dtype == torch.float32
        assert found.caption.endswith(".")
        assert bool((found.relevance() >= 0).all()) or found.evidence
    assert_allclose(maps["difference"].values, (frames[-1] - frames[0]).abs())


def test_relevance_of_evidence_keeps_its_sign(linear: Classifier, images: Tensor) -> None:
    names = ["input_x_gradient", "path_integrated"]
    target, levels = target_of(linear, images), [0.1, 0.3, 0.5, 0.7, 0.9]
    maps = saliency_maps(names, linear, images[0], target, frames=path(images), levels=levels)
    evidence, change = maps["input_x_gradient"], maps["path_integrated"]
    assert_allclose(evidence.relevance(), evidence.values.sum(dim=0))
    assert float(evidence.relevance().min()) < 0
    assert_allclose(change.relevance(), change.values.sum(dim=0).abs())
    assert_allclose(change.summed(), change.values.mean(dim=0))


def test_names_and_walks_are_checked(linear: Classifier, images: Tensor) -> None:
    target = target_of(linear, images)
    with pytest.raises(OptionError, match="saliency: must be a tuple of known methods"):
        saliency_batch(["magic"], linear, images, target)
    with pytest.raises(OptionError, match="walked: must be the walk of each image: difference"):
        saliency_batch(["difference"], linear, images, target)
    with pytest.raises(OptionError, match="received 1 walks of 3 images"):
        saliency_batch(["difference"], linear, images, target, walked=[Walked(images, [0.1, 0.5, 0.9], 0.5)])
    with pytest.raises(OptionError, match="saliency: cannot be smoothed"):
        attribute("occlusion:smooth", linear, images, target)
    with pytest.raises(OptionError, match="saliency: is not a known method"):
        attribute("magic", linear, images, target)
    assert saliency_batch([], linear, images, target) == {}
