"""Progressive exaggeration under captum's conventions, on a walk that is known in closed form."""

from typing import Any

import pytest
import torch
from captum.attr import Attribution, Saliency
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn
from torch.testing import assert_close
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.captum_attribution import ProgressiveExaggeration
from explainer.errors import ClassifierError, ImageError, OptionError
from explainer.walks import EvolutionWalk


class Classes(nn.Module):
    """Three classes, linear in the image, with dropout that must not act."""

    def __init__(self, generator: LinearGenerator) -> None:
        super().__init__()
        random = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
        self.weight = nn.Parameter(3 * generator.basis @ random)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        logits = scale * self.dropout((images - 0.5).flatten(1)) @ self.weight
        return logits if shift is None else logits + shift


@pytest.fixture
def generator() -> LinearGenerator:
    return LinearGenerator().eval()


def binary(generator: LinearGenerator) -> LogisticClassifier:
    return LogisticClassifier(generator)


def test_it_is_an_attribution_of_captum_and_its_direction_is_the_weights(generator: LinearGenerator) -> None:
    network = binary(generator)
    method = ProgressiveExaggeration(network, generator)
    images = toy_images(3)
    before = images.clone()
    attributions = method.attribute(images)
    assert isinstance(method, Attribution)
    assert not method.has_convergence_delta()
    assert attributions.shape == images.shape
    assert torch.equal(images, before)
    cosine = nn.functional.cosine_similarity(attributions.flatten(1), network.weight[None], dim=1)
    assert_close(cosine, torch.ones(3), atol=1e-3, rtol=0)
    # w . (x_high - x_low) = logit(.95) - logit(.05)
    change = attributions.flatten(1) @ network.weight
    assert_close(change, torch.full((3,), 2 * 2.9444), atol=0.1, rtol=0)


def test_the_slope_is_the_gradient_where_the_score_is_linear(generator: LinearGenerator) -> None:
    network = binary(generator)
    images = toy_images(2)
    slope = ProgressiveExaggeration(network, generator).attribute(images, slope=True)
    gradient = Saliency(network).attribute(images.clone().requires_grad_(), abs=False)
    assert_close(slope, gradient, atol=2e-3, rtol=0)


def test_to_the_flipped_side_starts_from_the_image(generator: LinearGenerator) -> None:
    network = binary(generator)
    images = toy_images(6)
    start = network(images)
    assert 0 < int((start > 0).sum()) < 6
    flipped = ProgressiveExaggeration(network, generator).attribute(images, ends="flipped")
    change = flipped.flatten(1) @ network.weight
    goal = torch.where(start > 0, start + 2.9444, 2.9444 - start)  # always towards the target
    assert_close(change, goal.detach(), atol=0.05, rtol=0)


def three(generator: LinearGenerator) -> tuple[Classes, Tensor]:
    return Classes(generator), toy_images(4, seed=2)


@pytest.mark.parametrize(
    ("target", "each"),
    [
        (1, [1, 1, 1, 1]),
        ((1,), [(1,)] * 4),
        (torch.tensor(1), [1, 1, 1, 1]),
        (torch.tensor([1]), [1, 1, 1, 1]),
        (torch.tensor([0, 1, 2, 1]), [0, 1, 2, 1]),
        ([0, 1, 2, 1], [0, 1, 2, 1]),
        ([(0,), (2,), (1,), (1,)], [(0,), (2,), (1,), (1,)]),
    ],
)
def test_every_form_of_target_and_a_batch_is_as_good_as_one_by_one(
    generator: LinearGenerator, target: Any, each: list[Any]
) -> None:
    network, images = three(generator)
    method = ProgressiveExaggeration(network, generator)
    together = method.attribute(images, target=target)
    assert_close(
        method.attribute(images, target=target, internal_batch_size=3), together, atol=1e-5, rtol=1e-4
    )
    for row, one in enumerate(each):
        assert_close(
            method.attribute(images[row : row + 1], target=one)[0], together[row], atol=1e-5, rtol=1e-4
        )
    assert together.flatten(1).norm(dim=1).min() > 0.01


def test_a_tuple_comes_back_as_a_tuple_in_the_type_it_was(generator: LinearGenerator) -> None:
    network, images = three(generator)
    method = ProgressiveExaggeration(network, generator)
    (attributions,) = method.attribute((images.double(),), target=0)
    assert attributions.dtype == torch.float64
    assert_close(attributions.float(), method.attribute(images, target=0))
    assert torch.equal(method.attribute(images, target=0), method.attribute(images, target=0))


def test_arguments_follow_their_images(generator: LinearGenerator) -> None:
    network, images = three(generator)
    method = ProgressiveExaggeration(network, generator)
    shift = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    together = method.attribute(images, target=2, additional_forward_args=(shift, 0.7), ends="flipped")
    for row in range(4):
        alone = method.attribute(
            images[row : row + 1],
            target=2,
            additional_forward_args=(shift[row : row + 1], 0.7),
            ends="flipped",
        )
        assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
    without = method.attribute(images, target=2, ends="flipped")
    assert (without - together).abs().max() > 0.01
    assert_close(  # one tensor that is not one of a tuple
        method.attribute(images, target=2, additional_forward_args=shift),
        method.attribute(images, target=2, additional_forward_args=(shift,)),
    )


def test_inputs_may_be_normalised(generator: LinearGenerator) -> None:
    network, images = three(generator)
    plain = ProgressiveExaggeration(network, generator).attribute(images, target=1)

    def of_normalised(inputs: Tensor) -> Tensor:
        return network(inputs * 0.2 + 0.4)

    method = ProgressiveExaggeration(of_normalised, generator, mean=0.4, std=(0.2,))
    inputs = (images - 0.4) / 0.2
    assert_close(method.attribute(inputs, target=1), plain / 0.2, atol=1e-3, rtol=1e-3)
    slope = ProgressiveExaggeration(network, generator).attribute(images, target=1, slope=True)
    assert_close(method.attribute(inputs, target=1, slope=True), slope * 0.2, atol=1e-3, rtol=1e-3)


def test_outputs_of_more_dimensions_are_selected_by_a_tuple(generator: LinearGenerator) -> None:
    network, images = three(generator)

    def doubled(inputs: Tensor) -> Tensor:
        return torch.stack([network(inputs), 2 * network(inputs)], dim=1)

    method = ProgressiveExaggeration(doubled, generator)
    got = method.attribute(images, target=(1, 2))
    weight = 2 * network.weight[:, 2]
    assert_close(got.flatten(1) @ weight, torch.full((4,), 2 * 2.9444), atol=0.1, rtol=0)
    with pytest.raises(OptionError, match=r"must select one number of an output of shape \(2, 3\)"):
        method.attribute(images, target=1)


def test_the_model_and_the_generator_are_left_as_found(generator: LinearGenerator) -> None:
    network, images = three(generator)
    generator.train()
    network(images).sum().backward()
    network.weight.requires_grad_(False)
    gradient = network.weight.grad
    leaf = images.clone().requires_grad_()
    ProgressiveExaggeration(lambda inputs: network(inputs), generator).attribute(leaf, target=0)
    assert network.training
    assert network.dropout.training
    assert not network.weight.requires_grad
    assert network.weight.grad is gradient
    assert generator.training
    assert leaf.grad is None


def test_an_end_that_is_not_reached_is_counted(generator: LinearGenerator) -> None:
    network = binary(generator)
    method = ProgressiveExaggeration(lambda images: 1.5 * torch.tanh(network(images)), generator)
    with pytest.warns(UserWarning, match="4 of 4 ends were not reached; the closest frames were used"):
        attributions = method.attribute(toy_images(2))
    assert attributions.abs().max() > 0


# -- captum's own measures -----------------------------------------------------------------------------------


def test_infidelity_is_far_below_that_of_a_map_of_zeros(generator: LinearGenerator) -> None:
    network, images = three(generator)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        codes = torch.randn(len(inputs), 6, generator=torch.Generator().manual_seed(5))
        noise = 0.05 * (codes @ generator.basis.T).view_as(inputs)
        return noise, inputs - noise

    def log_odds(inputs: Tensor) -> Tensor:
        logits = network(inputs)
        return logits[:, 1] - logits[:, [0, 2]].logsumexp(dim=1)

    network.eval()
    slope = ProgressiveExaggeration(network, generator).attribute(images, target=1, slope=True)
    torch.manual_seed(0)
    ours = infidelity(log_odds, perturb, images, slope, n_perturb_samples=20)
    zero = infidelity(log_odds, perturb, images, torch.zeros_like(images), n_perturb_samples=20)
    wrong = infidelity(log_odds, perturb, images, -slope, n_perturb_samples=20)
    assert (ours < 0.5 * zero).all(), (ours, zero)
    assert (wrong > zero).all()
    difference = ProgressiveExaggeration(network, generator).attribute(images, target=1)
    scaled = infidelity(log_odds, perturb, images, difference, n_perturb_samples=20, normalize=True)
    assert (scaled < 0.5 * zero).all(), (scaled, zero)


def test_sensitivity_is_small_but_not_that_of_a_map_of_zeros(generator: LinearGenerator) -> None:
    network, images = three(generator)
    method = ProgressiveExaggeration(network, generator)
    torch.manual_seed(0)
    ours = sensitivity_max(method.attribute, images, n_perturb_samples=3, target=[0, 1, 2, 1], ends="flipped")
    assert ours.shape == (4,)
    assert (ours > 0).all()
    assert (ours < 0.5).all(), ours
    zeros = sensitivity_max(lambda inputs: (torch.zeros_like(inputs[0]),), images, n_perturb_samples=2)
    assert not zeros.nan_to_num(0).any()


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (
            (toy_images(1), toy_images(1)),
            {"target": 0},
            "inputs: must be one tensor.*additional_forward_args",
        ),
        (toy_images(1)[0], {"target": 0}, "inputs: must be one tensor"),
        ((toy_images(1) * 255).byte(), {"target": 0}, "inputs: must be floating-point numbers"),
        (
            toy_images(1) * 4 - 2,
            {"target": 0},
            r"inputs: must lie in \[0, 1\] after mean and std.*mean= and std=",
        ),
        (toy_images(1), {}, "target: is needed: forward_func returns several outputs"),
        (toy_images(1), {"target": 3}, r"target: fits no output of shape \(3,\) \(received 3\)"),
        (toy_images(2), {"target": [0]}, "target: must be an index, a tuple.*each of the 2 images"),
        (toy_images(1), {"target": "cat"}, "target: must be an index"),
        (
            toy_images(1),
            {"target": 0, "levels": (0.1, 0.5, 0.9)},
            "levels, ends, internal_batch_size: must be",
        ),
        (toy_images(1), {"target": 0, "ends": "low"}, "levels, ends"),
        (toy_images(1), {"target": 0, "levels": (0, 1)}, "levels: must be probabilities"),
    ],
)
def test_what_cannot_be_attributed_says_why(
    generator: LinearGenerator, inputs: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ImageError, OptionError), match=message):
        ProgressiveExaggeration(Classes(generator), generator).attribute(inputs, **options)


def test_functions_that_cannot_be_attributed_say_why(generator: LinearGenerator) -> None:
    network, images = three(generator)
    for function, message in (
        (lambda x: network(x).softmax(dim=1), "forward_func: returns probabilities.*before the softmax"),
        (lambda x: network(x).sum(), "forward_func: must return a tensor with one row for each"),
        (lambda x: network(x).detach(), "has no gradient, which the gradient walk needs"),
    ):
        with pytest.raises(ClassifierError, match=message):
            ProgressiveExaggeration(function, generator).attribute(images, target=1)
    with pytest.raises(OptionError, match="generator: must be a Generator"):
        ProgressiveExaggeration(network, "faces")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="walk: must be a Walk"):
        ProgressiveExaggeration(network, generator, walk="gradient")  # type: ignore[arg-type]
    for option in ({"std": 0.0}, {"mean": (0.1, 0.2)}):
        with pytest.raises(OptionError, match="must be one number or 1, one per channel"):
            ProgressiveExaggeration(network, generator, **option).attribute(images, target=0)  # type: ignore[arg-type]


def test_a_function_without_a_gradient_is_walked_without_one(generator: LinearGenerator) -> None:
    network, images = three(generator)

    def remote(inputs: Tensor, scale: float = 1.0) -> Tensor:
        return torch.tensor(network(inputs, scale=scale).tolist())

    method = ProgressiveExaggeration(remote, generator, walk=EvolutionWalk(seed=0))
    first = method.attribute(images[:2], target=torch.tensor([0, 2]))
    assert torch.equal(first, method.attribute(images[:2], target=torch.tensor([0, 2])))
    along = ProgressiveExaggeration(network, generator).attribute(images[:2], target=torch.tensor([0, 2]))
    assert torch.cosine_similarity(first.flatten(1), along.flatten(1), dim=1).min() > 0.8
