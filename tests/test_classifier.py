"""One way to ask any classifier, which is left as it was found."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.testing import assert_close

from explainer.classifier import Classifier, Target
from explainer.errors import ClassifierError, ImageError, OptionError


def images(number: int = 3, size: int = 8) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(0))


def means(x: Tensor) -> Tensor:
    return 8 * x.mean(dim=(2, 3)) - 4


class Network(nn.Module):
    """A network with everything that behaves differently while it is trained."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5)
            )
            self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


class StopError(Exception):
    pass


def in_training() -> Network:
    """A network in the middle of its training, one part of it in evaluation mode."""
    network = Network()
    network(images(8)).sum().backward()
    network.body[1].eval()
    network.head.bias.requires_grad_(False)
    network.head.register_forward_hook(lambda module, inputs, output: None)
    return network


def state(network: nn.Module) -> list[object]:
    return [
        [module.training for module in network.modules()],
        [(id(p), p.requires_grad, id(p.grad), p.data_ptr(), str(p.device)) for p in network.parameters()],
        [p.grad.tolist() for p in network.parameters()],
        {name: value.tolist() for name, value in network.state_dict().items()},
        [list(module._forward_hooks) for module in network.modules()],
    ]


# -- left as found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: lambda x: network(x)])
def test_every_question_leaves_the_model_as_found(
    wrap: Callable[[nn.Module], Callable[[Tensor], Tensor]],
) -> None:
    network = in_training()
    before, seed = state(network), torch.random.get_rng_state()
    classifier = Classifier(wrap(network), mean=0.5, std=0.5)
    classifier.check(images())
    target = classifier.target(None, images())
    given = images().requires_grad_()
    classifier.score(given, target).sum().backward()
    classifier.level(images(), target)
    classifier.predict(images())
    classifier.class_name(images()[0])
    assert state(network) == before
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert given.grad is not None
    assert given.grad.abs().sum() > 0


def test_left_as_found_after_an_exception_in_the_model() -> None:
    class Failing(Network):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise StopError

    network = Failing()
    Network.forward(network, images()).sum().backward()
    before = state(network)
    classifier = Classifier(network)
    for ask in (
        classifier.raw,
        classifier.predict,
        classifier.check,
        lambda x: classifier.raw(x.requires_grad_()),
    ):
        with pytest.raises(StopError):
            ask(images())
        assert state(network) == before


def test_frozen_contexts_nest_and_restore_after_an_exception() -> None:
    network = in_training()
    before = state(network)
    classifier = Classifier(network)

    def fail_inside() -> None:
        with classifier.frozen() as inner:
            assert inner is classifier
            with classifier.frozen():
                classifier.raw(images())
            assert not any(module.training for module in network.modules())
            assert not any(parameter.requires_grad for parameter in network.parameters())
            raise StopError

    with pytest.raises(StopError):
        fail_inside()
    assert state(network) == before
    with classifier.frozen():  # and again, the depth was counted down
        assert not network.training
    assert state(network) == before


def test_inputs_are_not_changed() -> None:
    given = images()
    Classifier(lambda x: means(x.sub_(0.5).mul_(2))).raw(given)
    assert torch.equal(given, images())
    leaf = images().requires_grad_()
    Classifier(lambda x: means(x.sub_(0.5))).raw(leaf).sum().backward()
    assert torch.equal(leaf.detach(), images())


def test_evaluation_mode_and_batch_independence() -> None:
    classifier = Classifier(Network().train(), batch_size=2)
    target = classifier.target(None, images())
    together = classifier.level(images(5), target)
    alone = torch.cat([classifier.level(image[None], target) for image in images(5)])
    assert_close(together, alone)
    assert torch.equal(together, classifier.level(images(5), target))


# -- scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "kind", "names", "default"),
    [
        (lambda x: means(x)[:, 0], {}, "binary", ("class 0", "class 1"), 1),
        (lambda x: means(x)[:, :1], {"class_names": ["smiling"]}, "binary", ("not smiling", "smiling"), 1),
        (means, {}, "multiclass", ("class 0", "class 1", "class 2"), 1),
        (means, {"kind": "multilabel"}, "multilabel", ("label 0", "label 1", "label 2"), 1),
        (lambda x: means(x)[:, 0], {"kind": "regression"}, "regression", ("value",), 0),
        (
            lambda x: means(x)[:, :1],
            {"kind": "multilabel", "class_names": ["hat"]},
            "multilabel",
            ("hat",),
            0,
        ),
    ],
)
def test_kinds(
    model: Callable[[Tensor], Tensor],
    options: dict[str, object],
    kind: str,
    names: tuple[str, ...],
    default: int,
) -> None:
    classifier = Classifier(model, **options)
    picture = torch.tensor([0.2, 0.6, 0.3]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    target = classifier.target(None, picture)
    assert classifier.kind == kind
    assert classifier.class_names == names
    assert target == Target(
        default, None, names[default], None, "value" if kind == "regression" else "probability"
    )
    logits = torch.tensor([-2.4, 0.8, -1.6])
    expected = {
        "binary": logits[0],
        "multiclass": logits[1] - logits[[0, 2]].logsumexp(0),
        "multilabel": logits[default],
        "regression": logits[0],
    }[kind]
    assert_close(classifier.score(picture, target), expected[None])
    level = classifier.level(picture, target)
    assert_close(level, expected[None] if kind == "regression" else expected.sigmoid()[None])


def test_probabilities_give_the_scores_of_the_logits() -> None:
    for kind, model, squashed in (
        ("multiclass", means, lambda x: means(x).softmax(1)),
        ("multilabel", means, lambda x: means(x).sigmoid()),
        ("binary", lambda x: means(x)[:, 0], lambda x: means(x)[:, 0].sigmoid()),
    ):
        logits, probabilities = (
            Classifier(model, kind=kind),
            Classifier(squashed, kind=kind, outputs="probabilities"),
        )
        for spec in (0, 1, (0, 1)):
            target = logits.target(spec, images())
            assert_close(probabilities.score(images(), target), logits.score(images(), target))
        assert torch.equal(probabilities.predict(images()), logits.predict(images()))
        probabilities.check(images())


def test_predicted_classes() -> None:
    picture = torch.tensor([0.2, 0.6, 0.3]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    pictures = torch.cat([picture, picture.flip(1), picture.roll(1, dims=1)])
    classifier = Classifier(means, class_names=("red", "green", "blue"), batch_size=2)
    assert classifier.predict(pictures).tolist() == [1, 1, 2]
    assert classifier.predict(pictures).dtype == torch.int64
    assert classifier.class_name(pictures[0]) == "green"
    assert classifier.class_name(pictures[2:]) == "blue"
    binary = Classifier(lambda x: means(x)[:, 0], class_names=("not red", "red"))
    assert binary.predict(torch.cat([picture, 1 - picture])).tolist() == [0, 1]


def test_size_mean_and_std_are_inside_the_graph() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])

    def model(x: Tensor) -> Tensor:
        assert x.shape[2:] == (4, 4)
        return (x.mean(dim=(2, 3)) * weight).sum(1)

    classifier = Classifier(model, size=4, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    target = classifier.target(None, flat)
    score = classifier.score(flat, target)
    assert_close(score, torch.tensor([(0.4 / 0.5) * 1 + (0.3 / 1.0) * 2 + (0.2 / 2.0) * 3]))
    (gradient,) = torch.autograd.grad(score.sum(), flat)
    # d score / d image = weight / std spread over the pixels, whatever the resize does in between
    assert_close(gradient.sum(dim=(2, 3)), torch.tensor([[2.0, 2.0, 1.5]]))
    assert classifier.size == (4, 4)
    assert classifier.preprocessing.startswith(
        "Images in [0, 1] are resized to 4x4 (bilinear, antialiased), "
    )


def test_half_and_double_precision_models() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        network = Network(2).to(dtype)
        classifier = Classifier(network)
        raw = classifier.raw(images().requires_grad_())
        assert raw.dtype == torch.float32
        assert_close(raw, Classifier(Network(2)).raw(images()), rtol=0.05, atol=0.05, check_dtype=True)
        assert next(network.parameters()).dtype == dtype


def test_numpy_and_sklearn() -> None:
    rows = images(40).flatten(1).numpy()
    model = LogisticRegression(C=100).fit(rows, rows[:, 0] > 0.5)
    classifier = Classifier(
        lambda x: model.predict_proba(np.asarray(x).reshape(len(x), -1)), outputs="probabilities"
    )
    classifier.check(images())
    target = classifier.target(1, images())
    assert not classifier.differentiable
    assert_close(
        classifier.score(images(), target),
        torch.tensor(model.decision_function(images().flatten(1).numpy())),
        rtol=1e-3,
        atol=1e-4,
        check_dtype=False,
    )
    with torch.no_grad():  # asking for no gradient is fine, also for images that would have one
        assert classifier.score(images().requires_grad_(), target).shape == (3,)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: means(x.detach()),
        lambda x: torch.from_numpy(means(x).numpy()),
        lambda x: np.asarray(x).mean(axis=(2, 3)),
        lambda x: (x > 0.5).float().mean(dim=(2, 3)),
        torch.no_grad()(means),
        torch.inference_mode()(means),
    ],
)
def test_no_gradient(model: Callable[[Tensor], object]) -> None:
    classifier = Classifier(model)
    with pytest.raises(ClassifierError) as caught:
        classifier.raw(images().requires_grad_())
    assert str(caught.value) == (
        "classifier: has no gradient with respect to the images (received function). Compute its outputs "
        "with torch operations on the tensor it is given, without detach(), no_grad() or numpy in between."
    )
    assert not classifier.differentiable
    assert classifier.raw(images()).shape == (3, 3)


def test_gradient_is_found_in_any_mode() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        classifier = Classifier(Network())
        with mode():
            classifier.check(images())
        assert classifier.differentiable
        assert classifier.raw(images().requires_grad_()).requires_grad


# -- wrong use -------------------------------------------------------------------------------------------


def test_check_accepts_an_untrained_network() -> None:
    for outputs in (1, 3):
        classifier = Classifier(Network(outputs))
        assert classifier.check(images(1)) is None
        assert classifier.differentiable


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: means(x).softmax(1), 'outputs: is "logits", but the outputs are probabilities'),
        (lambda x: means(x)[:, 0].sigmoid(), 'outputs: is "logits", but the outputs are probabilities'),
        (lambda x: means(x) * float("nan"), "classifier: returns NaN or infinite outputs"),
        (lambda x: means(x) * 0, "classifier: returns the same output for different images"),
        (lambda x: x, "classifier: must return outputs of shape"),
        (
            lambda x: nn.functional.dropout(means(x)),
            "classifier: gives different outputs for the same images",
        ),
        (lambda x: means(x).argmax(1), "classifier: returns whole numbers"),
    ],
)
def test_check_names_what_is_wrong(model: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        Classifier(model).check(images())
    assert str(caught.value).startswith(message)


def test_a_failing_model_is_named_with_its_own_words() -> None:
    with pytest.raises(ClassifierError) as caught:
        Classifier(Network()).raw(images()[:, :1])
    text = str(caught.value)
    assert text.startswith(
        "classifier: fails on images of shape (3, 1, 8, 8) (received RuntimeError: Given groups=1"
    )
    assert text.endswith("pass images that have them, or say it with channels=: a grey image is repeated.")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert Classifier(Network(), channels=3).raw(images()[:, :1]).shape == (3, 1)


def test_another_number_of_outputs() -> None:
    classifier = Classifier(lambda x: means(x)[:, : len(x)])
    classifier.raw(images(2))
    with pytest.raises(
        ClassifierError, match=r"returned 2 outputs before and now another number .received 3."
    ):
        classifier.raw(images(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "binary"},
            'kind: is "binary", which does not fit the number of outputs (received 3). Binary is',
        ),
        (
            {"class_names": ("a", "b")},
            "class_names: must hold 3 names for 3 outputs (received 2: a, b). Pass one name per class, in "
            "the order of the outputs.",
        ),
    ],
)
def test_options_that_do_not_fit_the_outputs(options: dict[str, object], message: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        Classifier(means, **options).raw(images())
    assert str(caught.value).startswith(message)


def test_binary_options_that_do_not_fit() -> None:
    with pytest.raises(
        ClassifierError, match=r"must hold two names .negative, positive. for 1 output .received 3: a, b"
    ):
        Classifier(lambda x: means(x)[:, 0], class_names=("a", "b", "c")).raw(images())
    with pytest.raises(
        ClassifierError, match=r'is "multiclass", which does not fit the number of outputs .received 1'
    ):
        Classifier(lambda x: means(x)[:, 0], kind="multiclass").raw(images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": 3},
            "model: must be a module or a callable (received int). Pass for instance model.forward.",
        ),
        (
            {"kind": "ordinal"},
            "kind: is unknown (received ordinal). Choose one of "
            "auto, binary, multiclass, multilabel, regression.",
        ),
        (
            {"outputs": "softmax"},
            "outputs: is unknown (received softmax). Choose one of logits, probabilities.",
        ),
        (
            {"kind": "regression", "outputs": "probabilities"},
            "outputs: of a regression are values, not probabilities (received probabilities). Leave outputs "
            'out, or pass kind="binary".',
        ),
        (
            {"class_names": ("a", "a")},
            "class_names: must be a list of different names (received ('a', 'a')). "
            "Give each class its own name.",
        ),
        (
            {"class_names": "smiling"},
            "class_names: must be a list of different names (received 'smiling'). "
            "Give each class its own name.",
        ),
        ({"batch_size": 0}, "batch_size: must be at least 1 (received 0). Pass for instance 256."),
        ({"size": -1}, "size: must be (height, width) in pixels (received -1). Pass for instance size=224."),
    ],
)
def test_option_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Classifier(**{"model": means, **options})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "received"),
    [
        (images()[0], "Tensor (3, 8, 8) of torch.float32"),
        (images(3)[:0], "Tensor (0, 3, 8, 8) of torch.float32"),
        ((255 * images()).byte(), "Tensor (3, 3, 8, 8) of torch.uint8"),
        (images().numpy(), "ndarray"),
    ],
)
def test_images_that_are_no_batch(given: object, received: str) -> None:
    classifier = Classifier(means)
    for ask in (classifier.raw, classifier.predict, classifier.check):
        with pytest.raises(ImageError) as caught:
            ask(given)
        assert str(caught.value) == (
            f"images: must be a floating-point tensor (batch, channels, height, width) "
            f"(received {received}). "
            "Pass the result of as_images, or as_image(...)[None] for one image."
        )


def test_one_image_is_one_class_name() -> None:
    with pytest.raises(ImageError) as caught:
        Classifier(means).class_name(images())
    assert str(caught.value) == "image: must be one image (received 3). Use predict() for several."


def test_a_regression_has_no_classes() -> None:
    with pytest.raises(ClassifierError) as caught:
        Classifier(lambda x: means(x)[:, 0], kind="regression").predict(images())
    assert str(caught.value) == (
        'classifier: has no classes (received kind="regression"). Use level() instead.'
    )


@pytest.mark.parametrize("name", ["class_names", "differentiable"])
def test_not_known_yet(name: str) -> None:
    classifier = Classifier(means)
    assert classifier.kind == "auto"
    with pytest.raises(ClassifierError) as caught:
        getattr(classifier, name)
    assert str(caught.value) == (
        f"{name}: is not known before the classifier has seen an image (received no image yet). "
        "Call check(images) with one or a few images first."
    )


# -- targets ---------------------------------------------------------------------------------------------


def test_targets() -> None:
    classifier = Classifier(means, class_names=("red", "green", "blue"))
    picture = torch.tensor([0.2, 0.6, 0.3]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert classifier.target("blue") == Target(2, None, "blue", None)  # no image was needed
    assert classifier.target(None, picture) == Target(1, None, "green", None)
    assert classifier.target(("red", "blue"), picture).label == "blue rather than red"
    with pytest.raises(ClassifierError) as caught:
        classifier.target(None)
    assert str(caught.value) == (
        "target: is the class predicted for the images, so they are needed (received no images). "
        "Pass images, or an index or name as the target."
    )
    with pytest.raises(ClassifierError, match="the images are predicted as different classes"):
        classifier.target(None, torch.cat([picture, picture.roll(1, dims=1)]))


def test_a_binary_target_can_be_either_class() -> None:
    classifier = Classifier(lambda x: means(x)[:, 0], class_names=("no", "yes"))
    yes, no = classifier.target("yes", images()), classifier.target("no", images())
    assert torch.equal(classifier.score(images(), yes), -classifier.score(images(), no))
    assert torch.equal(
        classifier.score(images(), classifier.target(("no", "yes"))), classifier.score(images(), yes)
    )


# -- provenance ------------------------------------------------------------------------------------------


def test_fingerprint_names_the_weights() -> None:
    network, same = Network(), Network()
    before = Classifier(network).fingerprint
    assert len(before) == 64
    assert Classifier(same).fingerprint == before
    with torch.no_grad():
        network.head.bias[0] += 1e-6
    assert Classifier(network).fingerprint != before
    assert len(Classifier(Network().bfloat16()).fingerprint) == 64
    assert Classifier(means).fingerprint == "unavailable: not a module"


def test_repr() -> None:
    assert repr(Classifier(Network())) == "Classifier(Network, kind='auto', outputs='logits')"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_device() -> None:
    network = in_training()
    before = state(network)
    raw = Classifier(network, device="cuda").raw(images())
    assert raw.device.type == "cpu"
    assert state(network) == before


def test_a_regression_has_its_unit_from_values_or_from_images():
    images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    value = lambda batch: torch.stack([batch.mean(dim=(1, 2, 3)), batch.amax(dim=(1, 2, 3))], 1)  # noqa: E731
    expected = tuple(value(images)[:, 0].double().quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist())
    given = Classifier(value, kind="regression", reference=value(images), class_names=("mean", "peak"))
    assert given.target("mean", images).quartiles == pytest.approx(expected)
    derived = Classifier(value, kind="regression", class_names=("mean", "peak"))
    assert derived.target("mean", images).quartiles is None
    target = derived.target("mean", images, reference=images)
    assert target.quartiles == pytest.approx(expected)
    assert_close(derived.level(images, target), value(images)[:, 0])
    assert_close(derived.score(images, target), target.to_score(value(images)[:, 0]))


def test_a_reference_is_for_a_regression_only():
    with pytest.raises(OptionError, match=r'reference: is for a regression only.*kind="auto"'):
        Classifier(lambda images: images, reference=[1.0, 2.0, 3.0, 4.0])
    with pytest.raises(OptionError, match="reference: must hold finite values"):
        Classifier(lambda images: images, kind="regression", reference=[1.0])
