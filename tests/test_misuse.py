"""Wrong use is found and named; right use is not complained about."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from explainer.errors import ClassifierError, ImageError
from explainer.misuse import as_outputs, check_outputs

Raw = Callable[[Tensor], Tensor]


def images(number: int = 2) -> Tensor:
    return torch.rand(number, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def means(x: Tensor) -> Tensor:
    """(batch, 3) a different number for each channel."""
    return x.mean(dim=(2, 3))


def red(x: Tensor) -> Tensor:
    return means(x)[:, :1]


def check(
    raw: Raw,
    *,
    kind: str = "binary",
    outputs: str = "logits",
    differentiable: bool = True,
    given: Tensor | None = None,
) -> None:
    given = images() if given is None else given
    check_outputs(raw, given, kind=kind, outputs=outputs, differentiable=differentiable)


def message(raw: Raw, **options: object) -> str:
    with pytest.raises(ClassifierError) as caught:
        check(raw, **options)
    return str(caught.value)


@pytest.mark.parametrize("number", [1, 2, 9])
@pytest.mark.parametrize(
    ("raw", "options"),
    [
        (lambda x: red(x) * 8 - 4, {}),
        (lambda x: means(x) * 8 - 4, {"kind": "multiclass"}),
        (lambda x: (8 * means(x)).log_softmax(1), {"kind": "multiclass"}),
        (lambda x: (8 * means(x)).softmax(1), {"kind": "multiclass", "outputs": "probabilities"}),
        (lambda x: (8 * means(x) - 4).sigmoid(), {"kind": "multilabel", "outputs": "probabilities"}),
        (lambda x: red(x).sigmoid(), {"kind": "regression"}),
        # so sure that float32 says 1 for every real image
        (lambda x: (8000 * red(x) - 800).sigmoid(), {"outputs": "probabilities"}),
        # logits of an unsure classifier: between 0 and 1 on every image, black and white included
        (lambda x: 0.5 + 0.01 * red(x), {}),
        (lambda x: 0.5 + 0.01 * red(x), {"differentiable": False}),
        (lambda x: 0.5 + 0.4 * torch.tanh(red(x)) + 0.01 * red(x), {}),
        (lambda x: 0.3 + 0.01 * means(x), {"kind": "multiclass"}),
        (lambda x: 0.3 + 0.01 * means(x), {"kind": "multilabel"}),
        # standardises each image, hence NaN on black and white ones
        (lambda x: 8 * (x[:, 0, 0, :1] - red(x)) / x.std(dim=(1, 2, 3))[:, None], {}),
    ],
)
def test_right_use(raw: Raw, options: dict[str, object], number: int) -> None:
    check(raw, **options, given=images(number))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize("slope", [0.1, 8.0, 1000.0])
def test_probabilities_given_as_logits(slope: float, differentiable: bool, number: int) -> None:
    options = {"differentiable": differentiable, "given": images(number)}
    assert (
        'outputs: is "logits", but the outputs are probabilities: they lie in [0, 1] and sum to 1 (received '
    ) in message(lambda x: (slope * means(x)).softmax(1), kind="multiclass", **options)
    text = message(lambda x: (slope * (red(x) - 0.4)).sigmoid(), **options)
    assert (
        'outputs: is "logits", but the outputs are probabilities: they never leave [0, 1] (received ' in text
    )
    assert text.endswith('Pass outputs="probabilities", or better return the values before the sigmoid.')
    text = message(lambda x: (slope * (means(x) - 0.4)).sigmoid(), kind="multilabel", **options)
    assert text.endswith('Pass outputs="probabilities", or better return the values before the sigmoid.')


def test_probabilities_of_labels_given_as_logits_of_classes() -> None:
    text = message(lambda x: (8 * means(x) - 4).sigmoid(), kind="multiclass")
    assert 'Pass kind="multilabel", outputs="probabilities"' in text


def test_logits_given_as_probabilities() -> None:
    text = message(lambda x: red(x) * 8 - 4, outputs="probabilities")
    assert text.startswith(
        'outputs: is "probabilities", but values lie outside [0, 1] (received values from -4 to 4'
    )
    assert text.endswith('Pass outputs="logits".')


def test_probabilities_that_do_not_sum_to_one() -> None:
    text = message(lambda x: (8 * means(x) - 4).sigmoid(), kind="multiclass", outputs="probabilities")
    assert text.startswith(
        'outputs: is "probabilities", but those of the classes do not sum to 1 (received sums from'
    )
    assert text.endswith('Pass kind="multilabel" if each class is answered on its own.')


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    def raw(x: Tensor) -> Tensor:
        outputs = means(x)
        outputs[1:, 2] = value
        return outputs

    assert message(raw, kind="multiclass", given=images(3)) == (
        "classifier: returns NaN or infinite outputs (received 2 of 3 images, the first at index 1). "
        "Check its weights, and mean= and std=: it is given images in [0, 1]."
    )


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_constant(number: int, outputs: str) -> None:
    text = message(lambda x: 0 * means(x) + 0.25, kind="multilabel", outputs=outputs, given=images(number))
    assert text.startswith(
        "classifier: returns the same output for different images (received (0.25, 0.25, 0.25) for "
    )
    assert text.endswith(
        "Check that its weights are loaded, and mean=, std= and size= those of its training."
    )


def test_random() -> None:
    generator = torch.Generator().manual_seed(0)
    text = message(lambda x: red(x) + torch.rand(len(x), 1, generator=generator))
    assert text.startswith("classifier: gives different outputs for the same images (received outputs up to ")
    assert text.endswith(
        "Switch off dropout and random augmentation inside it, or pass the nn.Module itself, "
        "which is evaluated in evaluation mode."
    )


def test_dependent_on_the_batch() -> None:
    text = message(lambda x: 8 * (red(x) - red(x).mean()))
    assert text.startswith(
        "classifier: gives an image another output when it is in a batch with others (received"
    )


def test_images_on_another_scale() -> None:
    with pytest.raises(ImageError) as caught:
        check(red, given=255 * images())
    assert str(caught.value).startswith("images: must lie in [0, 1] (received values from ")
    with pytest.raises(ImageError, match="values from nan to nan"):
        check(red, given=images() * float("nan"))


def test_deterministic_and_without_traces() -> None:
    given = images()
    seen: list[Tensor] = []

    def raw(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return 0.5 + 0.01 * red(x)

    before = torch.random.get_rng_state()
    check(raw, given=given)
    first, seen = seen, []
    check(raw, given=given)
    assert all(torch.equal(one, other) for one, other in zip(first, seen, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(given, images())
    assert not given.requires_grad


def test_outputs_of_every_right_form() -> None:
    column = torch.tensor([[1.0], [2.0]])
    assert torch.equal(as_outputs(column[:, 0], 2), column)
    assert torch.equal(as_outputs(column, 2), column)
    assert torch.equal(as_outputs(column[:, 0].numpy(), 2), column)
    assert as_outputs(np.ones((2, 5)), 2).shape == (2, 5)


def test_arrays_are_copied() -> None:
    buffer = np.ones((2, 1), dtype=np.float32)
    outputs = as_outputs(buffer, 2)
    buffer[:] = 7
    assert outputs.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (2, 3, 1), (2, 0), (2, 4, 8, 8)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClassifierError) as caught:
        as_outputs(torch.zeros(shape), 2)
    assert str(caught.value) == (
        "classifier: must return outputs of shape (batch,), (batch, 1) or (batch, outputs) (received "
        f"{shape} for 2 images). Keep the batch dimension (squeeze(1), not squeeze()) and average over "
        "positions."
    )


@pytest.mark.parametrize(
    "returned", [None, (torch.zeros(2), torch.zeros(2)), {"scores": 1}, np.array(["a", "b"])]
)
def test_wrong_type(returned: object) -> None:
    with pytest.raises(ClassifierError) as caught:
        as_outputs(returned, 2)
    assert str(caught.value) == (
        f"classifier: must return a tensor or an array of numbers (received {type(returned).__name__}). "
        "Wrap it, for instance lambda images: model(images)[0]."
    )


@pytest.mark.parametrize("returned", [torch.tensor([0, 1]), np.array([0, 1]), np.array([True, False])])
def test_class_labels(returned: object) -> None:
    with pytest.raises(ClassifierError) as caught:
        as_outputs(returned, 2)
    assert "returns whole numbers, which say nothing of how sure it is" in str(caught.value)
    assert str(caught.value).endswith('(predict_proba) together with outputs="probabilities".')
