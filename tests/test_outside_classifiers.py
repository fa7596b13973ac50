"""Classifiers of others: 224 px networks, Hugging Face, scikit-learn, ONNX Runtime, remote callables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.testing import assert_close
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, DependencyError, ModelFileError, OptionError
from explainer.pipeline import explain

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def photographs(count: int = 3, size: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def digits(classes: int = 10) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Rows of 64 pixels from 0 to 16, their labels, and the same as images in [0, 1]."""
    data = load_digits(n_class=classes)
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    return data.data, data.target, images


def logit(p: np.ndarray) -> Tensor:
    return torch.tensor(np.log(p) - np.log1p(-p), dtype=torch.float32)


# -- torch networks of 224 px ------------------------------------------------------------------------------


class Residual(nn.Module):
    """A residual network in the manner of timm: stem, stages, global average, head; 224 px only."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, stride=4, padding=3, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.down = nn.Conv2d(8, 16, 1, stride=4)
        self.head = nn.Linear(16 * 14 * 14, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.down(torch.relu(x + self.block(x))).flatten(1))


def residual() -> Residual:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Residual()


def test_a_224_px_network_with_imagenet_statistics_explains_images_of_any_size() -> None:
    network = residual()
    classifier = Classifier(network, size=224, **IMAGENET)
    given = photographs(2, size=64).requires_grad_()
    classifier.check(given)
    target = classifier.target(3, given)
    score = classifier.score(given, target)
    score.sum().backward()
    with torch.no_grad():
        mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
        enlarged = nn.functional.interpolate(given, (224, 224), mode="bilinear", antialias=True)
        logits = network.eval()((enlarged - mean) / std)
    rest = logits[:, [0, 1, 2, 4]].logsumexp(dim=1)
    assert_close(score.detach(), logits[:, 3] - rest, atol=1e-4, rtol=1e-4)
    assert classifier.differentiable
    assert classifier.kind == "multiclass"
    assert given.grad is not None
    assert given.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_a_wrong_input_size_is_named_with_what_to_say() -> None:
    with pytest.raises(
        ClassifierError, match=r"fails on images of shape \(1, 3, 64, 64\).*Say with size= and"
    ):
        Classifier(residual()).check(photographs(1, size=64))


# -- Hugging Face ------------------------------------------------------------------------------------------


def vision_transformer() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=3, id2label={0: "cat", 1: "dog", 2: "owl"},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.ViTForImageClassification(config)


def test_a_hugging_face_model_is_asked_for_its_logits() -> None:
    model = vision_transformer()
    names = list(model.config.id2label.values())
    classifier = Classifier(model, size=32, mean=0.5, std=0.5, class_names=names)
    given = photographs(2, size=48).requires_grad_()
    classifier.check(given)
    score = classifier.score(given, classifier.target(("cat", "owl"), given))
    score.sum().backward()
    with torch.no_grad():
        resized = nn.functional.interpolate(given, (32, 32), mode="bilinear", antialias=True)
        logits = model.eval()(pixel_values=(resized - 0.5) / 0.5).logits
    assert_close(score.detach(), logits[:, 2] - logits[:, 0], atol=1e-5, rtol=1e-4)
    assert classifier.differentiable
    assert given.grad is not None
    assert given.grad.abs().max() > 0


class Answer:
    def __init__(self, logits: object) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: Answer(logits),
        lambda logits: {"loss": None, "logits": logits},
        lambda logits: (logits,),
        lambda logits: Answer(logits.detach().numpy()),
        lambda logits: logits.tolist(),
    ],
)
def test_logits_are_found_in_what_is_returned(wrap: Callable[[Tensor], object]) -> None:
    def means(images: Tensor) -> Tensor:
        return 8 * images.mean(dim=(2, 3)) - 4

    got = Classifier(lambda images: wrap(means(images))).raw(photographs())
    assert_close(got, means(photographs()))


@pytest.mark.parametrize(
    "returned", [[[1.0, 2.0], [3.0]], ["a", "b", "c"], (torch.ones(3), torch.ones(3)), {}]
)
def test_what_holds_no_numbers_is_refused(returned: object) -> None:
    with pytest.raises(ClassifierError, match="must return a tensor or an array of numbers"):
        Classifier(lambda images: returned).raw(photographs())


# -- scikit-learn ------------------------------------------------------------------------------------------


def test_ten_digits_in_a_pipeline() -> None:
    rows, labels, images = digits()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(rows, labels)
    classifier = Classifier.from_sklearn(model, range=(0, 16))
    classifier.check(images[:4])
    assert (classifier.size, classifier.kind, classifier.outputs) == ((8, 8), "multiclass", "probabilities")
    assert classifier.class_names == tuple("0123456789")
    assert not classifier.differentiable
    assert_close(classifier.predict(images[:50]), torch.tensor(model.predict(rows[:50])))
    target = classifier.target("3", images)
    p = model.predict_proba(rows[:50])[:, 3]
    assert_close(classifier.score(images[:50], target), logit(p.clip(1e-7)), atol=2e-3, rtol=1e-3)
    with pytest.raises(ClassifierError, match="has no gradient"):
        classifier.score(images[:1].clone().requires_grad_(), target)


def test_two_classes_are_binary_and_the_second_of_classes_is_positive() -> None:
    rows, labels, images = digits(2)
    names = np.where(labels == 1, "aye", "nay")  # sorted: aye, nay
    model = LogisticRegression(C=1e-4).fit(rows, names)
    classifier = Classifier.from_sklearn(model, range=(0, 16), batch_size=7)
    classifier.check(images[:4])
    target = classifier.target(None, images)
    assert (classifier.kind, target.name, classifier.class_names) == ("binary", "nay", ("aye", "nay"))
    assert_close(classifier.level(images, target), torch.tensor(model.predict_proba(rows)[:, 1]).float())
    assert [classifier.class_name(image) for image in images[:6]] == list(model.predict(rows[:6]))


def test_the_order_of_pixels_and_channels_is_that_of_training() -> None:
    images = photographs(40, size=4)
    red_corner = (images[:, 0, 0, 0] > 0.5).int().numpy()
    for layout, rows in (
        ("NHWC", images.permute(0, 2, 3, 1).reshape(40, -1).numpy()),
        ("NCHW", images.flatten(1).numpy()),
    ):
        model = LogisticRegression(C=100).fit(rows, red_corner)
        classifier = Classifier.from_sklearn(model, layout=layout)
        assert (classifier.size, classifier.target(None, images).index) == ((4, 4), 1)
        assert_close(
            classifier.level(images, classifier.target(1)),
            torch.tensor(model.predict_proba(rows)[:, 1]).float(),
        )


def test_several_answers_are_labels() -> None:
    rows, labels, images = digits(4)
    both = np.stack([labels % 2, labels // 2], axis=1)
    forest = RandomForestClassifier(n_estimators=5, random_state=0).fit(rows, both)
    listed = Classifier.from_sklearn(forest, range=(0, 16), class_names=("odd", "large"))
    columns = Classifier.from_sklearn(
        OneVsRestClassifier(LogisticRegression(max_iter=300)).fit(rows, both), range=(0, 16)
    )
    assert (listed.kind, columns.kind) == ("multilabel", "multilabel")
    want = np.stack([part[:, 1] for part in forest.predict_proba(rows[:9])], axis=1)
    assert_close(listed.raw(images[:9]), torch.tensor(want).float())
    assert columns.raw(images[:9]).shape == (9, 2)
    four = RandomForestClassifier(n_estimators=2, random_state=0).fit(
        rows, np.stack([labels, labels], axis=1)
    )
    with pytest.raises(ClassifierError, match="one of them has not two classes"):
        Classifier.from_sklearn(four, range=(0, 16)).raw(images[:1])


def test_a_regressor_is_a_regression() -> None:
    rows, labels, images = digits(4)
    model = Ridge().fit(rows, labels)
    classifier = Classifier.from_sklearn(model, range=(0, 16), reference=labels)
    assert classifier.kind == "regression"
    assert classifier.target(None, images[:1]).quartiles == tuple(np.quantile(labels, (0.25, 0.5, 0.75)))
    assert_close(classifier.raw(images[:5])[:, 0], torch.tensor(model.predict(rows[:5])).float())


class Remote:
    """Not of scikit-learn: only predict_proba is alike."""

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        p = rows.mean(axis=1, keepdims=True)
        return np.concatenate([1 - p, p], axis=1)


def test_anything_with_predict_proba_will_do_if_the_size_is_said() -> None:
    classifier = Classifier.from_sklearn(Remote(), size=(4, 6), channels=1)
    classifier.check(photographs(2, channels=1))
    assert (classifier.kind, classifier.size) == ("multiclass", (4, 6))
    with pytest.raises(OptionError, match=r"size: cannot be told.*\(received no number\). Pass size="):
        Classifier.from_sklearn(Remote())


def fitted(features: int) -> LogisticRegression:
    rows = np.random.default_rng(0).random((6, features))
    return LogisticRegression().fit(rows, [0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier.from_sklearn(LogisticRegression()), "model: is not fitted .*Call its fit"),
        (lambda: Classifier.from_sklearn(LinearSVC()), "gives no probabilities.*CalibratedClassifierCV"),
        (lambda: Classifier.from_sklearn(fitted(60)), "size: cannot be told.*60 pixels"),
        (
            lambda: Classifier.from_sklearn(fitted(64), size=7),
            r"size: is that of 49 pixels, and the model takes 64 \(received size 7x7, 1 channel\)",
        ),
        (lambda: Classifier.from_sklearn(fitted(48)), 'layout: is needed for rows of 3 channels.*"NHWC" if'),
        (lambda: Classifier.from_sklearn(fitted(48), size=4), "layout: is needed for rows of 3 channels"),
        (lambda: Classifier.from_sklearn(fitted(64), layout="CHW"), "layout: is unknown"),
        (lambda: Classifier.from_sklearn(fitted(64), range=(1, 0)), "range: must ascend"),
        (
            lambda: Classifier(fitted(64)),
            r"must be a module or a callable.*Use Classifier.from_sklearn\(model\)",
        ),
        (
            lambda: Classifier(fitted(64).predict_proba).raw(photographs(1, 8, 1)),
            r"fails on images of shape \(1, 1, 8, 8\).*Use Classifier.from_sklearn\(model\), which flattens",
        ),
    ],
)
def test_estimators_that_cannot_be_used_say_why(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ClassifierError, OptionError), match=message):
        make()


# -- ONNX Runtime ------------------------------------------------------------------------------------------


def session(
    shape: tuple[object, ...] = ("batch", 3, 8, 8),
    *,
    dtype: str = "FLOAT",
    layout: str = "NCHW",
    extra: bool = False,
    outputs: tuple[str, ...] = ("logits",),
    path: Path | None = None,
) -> Any:
    """Channel means times 8; with an extra input it is added; further outputs are doubled."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    kind = getattr(TensorProto, dtype)
    inputs = [helper.make_tensor_value_info("images", kind, shape)]
    nodes = [helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT)]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    nodes.append(helper.make_node("Constant", [], ["axes"], value_ints=axes))
    nodes.append(helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0))
    nodes.append(helper.make_node("Constant", [], ["eight"], value_float=8.0))
    last = "means"
    if extra:
        inputs.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, (1, 3)))
        nodes.append(helper.make_node("Add", ["means", "bias"], ["biased"]))
        last = "biased"
    for name in outputs:
        nodes.append(helper.make_node("Mul", [last, "eight"], [name]))
        last = name
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (shape[0], 3)) for name in outputs]
    graph = helper.make_graph(nodes, "means", inputs, shown)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    if path is not None:
        path.write_bytes(model.SerializeToString())
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {}),
        ({"shape": (2, 3, 8, 8)}, {}),  # a fixed batch, and 5 images
        ({"shape": (None, None, None, None)}, {"layout": "NCHW", "size": 8}),
        ({"shape": ("n", 8, 8, 3), "layout": "NHWC"}, {}),
        ({"dtype": "DOUBLE"}, {}),
        ({"dtype": "FLOAT16"}, {}),
        ({"outputs": ("logits", "twice")}, {"output": "logits"}),
        ({"extra": True}, {"input": "images", "feeds": {"bias": np.zeros((1, 3), np.float32)}}),
        ({"extra": True}, {"feeds": {"bias": np.zeros((1, 3), np.float32)}}),
    ],
)
def test_sessions_of_every_form_answer_alike(options: dict[str, Any], given: dict[str, Any]) -> None:
    classifier = Classifier.from_onnx(session(**options), class_names=("r", "g", "b"), **given)
    images = photographs(5, size=8)
    before = images.clone()
    classifier.check(images)
    half = options.get("dtype") == "FLOAT16"
    assert_close(classifier.raw(images), 8 * images.mean(dim=(2, 3)), atol=0.01 if half else 1e-5, rtol=1e-4)
    assert_close(classifier.raw(images[:1]), classifier.raw(images)[:1])
    assert torch.equal(images, before)
    assert (classifier.size, classifier.kind, classifier.differentiable) == ((8, 8), "multiclass", False)
    assert classifier.predict(images).tolist() == images.mean(dim=(2, 3)).argmax(dim=1).tolist()


def test_bytes_are_given_as_bytes_and_floats_of_255_by_std() -> None:
    images = (photographs(2, size=8) * 255).round() / 255
    for form, options in (("UINT8", {}), ("FLOAT", {"std": 1 / 255})):
        classifier = Classifier.from_onnx(session(dtype=form), **options)
        assert_close(classifier.raw(images), 8 * 255 * images.mean(dim=(2, 3)), rtol=1e-5, atol=0)


def test_a_file_is_opened_resized_for_and_fingerprinted(tmp_path: Path) -> None:
    path = tmp_path / "means.onnx"
    session(path=path)
    classifier = Classifier.from_onnx(path)
    assert_close(
        classifier.raw(photographs(2, size=16)).mean(), 8 * photographs(2, size=16).mean(), atol=1e-2, rtol=0
    )
    assert len(classifier.fingerprint) == 64
    assert Classifier.from_onnx(session()).fingerprint == "unavailable: a session"
    assert repr(classifier).startswith("Classifier(OnnxSession('images' -> 'logits'), kind=")


def test_a_session_that_does_not_fit_says_why(tmp_path: Path) -> None:
    bias = {"bias": np.zeros((1, 3), np.float32)}
    for options, given, message in (
        ({"outputs": ("a", "b")}, {}, "output: must be named: the model has 2.*Choose one of a, b"),
        ({}, {"output": "c"}, "output: is not there.*Choose one of logits"),
        ({"extra": True}, {}, "input: must be named: the model has 2.*images, bias"),
        (
            {"extra": True},
            {"input": "images"},
            "feeds: must hold an array for each of the other inputs: bias",
        ),
        ({"extra": True}, {"input": "pixels", "feeds": bias}, "input: is not there.*Choose one of images"),
        ({"shape": (1, 3, 8, 3)}, {}, r"layout: cannot be told from the shape .*\[1, 3, 8, 3\]"),
        ({}, {"layout": "HWC"}, "layout: is unknown"),
        (
            {},
            {"size": 16},
            r"size: is fixed to \(8, 8\) by the model \(received \(16, 16\)\). Leave size out",
        ),
        ({}, {"channels": 1}, "channels: is fixed to 3 by the model"),
        ({"dtype": "INT64"}, {}, r'does not take images at its input "images" \(received tensor\(int64\)'),
    ):
        with pytest.raises((ClassifierError, OptionError), match=message):
            Classifier.from_onnx(session(**options), **given)
    loose = Classifier.from_onnx(session(shape=("n", "c", 8, 8), extra=True), feeds=bias, layout="NCHW")
    with pytest.raises(ClassifierError, match=r"fails on images of shape \(1, 5, 8, 8\)"):
        loose.raw(photographs(1, 8, 5))
    with pytest.raises(OptionError, match=r"Use Classifier.from_onnx\(model\)"):
        Classifier(session())
    with pytest.raises(ModelFileError, match="cannot be read"):
        Classifier.from_onnx(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match="is not a file that ONNX Runtime can run"):
        Classifier.from_onnx(tmp_path / "broken.onnx")


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"progressive-explainer\[onnx\]"):
        Classifier.from_onnx(tmp_path / "model.onnx")


# -- remote callables --------------------------------------------------------------------------------------


def serve(body: bytes) -> bytes:
    """A service: JSON in, JSON out."""
    images = np.array(json.loads(body)["images"])
    return json.dumps({"logits": (8 * images.mean(axis=(2, 3)) - 4).tolist()}).encode()


def post(images: Tensor) -> list[list[float]]:
    answer: dict[str, list[list[float]]] = json.loads(serve(json.dumps({"images": images.tolist()}).encode()))
    return answer["logits"]


def test_a_remote_callable_answers_through_json() -> None:
    calls = []
    classifier = Classifier(lambda images: calls.append(len(images)) or post(images), size=8, batch_size=4)
    images = photographs(10, size=8)
    classifier.check(images[:2])
    calls.clear()
    target = classifier.target(2, images)
    level = classifier.level(images, target)
    assert calls == [4, 4, 2]
    logits = 8 * images.mean(dim=(2, 3)) - 4
    assert_close(level, torch.softmax(logits, dim=1)[:, 2])
    assert not classifier.differentiable


def test_a_service_that_is_down_is_named() -> None:
    def down(images: Tensor) -> Tensor:
        raise ConnectionRefusedError("nobody listens")

    with pytest.raises(ClassifierError, match=r"ConnectionRefusedError: nobody listens.*does not answer"):
        Classifier(down).check(photographs(1))


# -- end to end: explained by the walk that asks for scores alone --------------------------------------------


def sklearn_toy() -> Classifier:
    pixels = toy_images(200, seed=3).flatten(1)
    network = LogisticClassifier(LinearGenerator())
    labels = (network(pixels.view(-1, 1, 16, 16)) > 0).int().numpy()
    return Classifier.from_sklearn(LogisticRegression(C=100, max_iter=1000).fit(pixels.numpy(), labels))


def remote_toy() -> Classifier:
    network = LogisticClassifier(LinearGenerator())

    def post(images: Tensor) -> list[float]:
        body = json.loads(json.dumps(images.tolist()))
        with torch.no_grad():
            answer: list[float] = json.loads(json.dumps(network(torch.tensor(body)).tolist()))
        return answer

    return Classifier(post)


def onnx_toy() -> Classifier:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    network = LogisticClassifier(LinearGenerator())
    weight = network.weight.detach().numpy()[:, None]
    bias = (network.offset - 0.5 * network.weight.sum()).detach().numpy().reshape(1)
    nodes = [
        helper.make_node("Flatten", ["x"], ["rows"]),
        helper.make_node("Gemm", ["rows", "weight", "bias"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 16, 16])
    shown = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    weights = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "logistic", [given], [shown], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return Classifier.from_onnx(
        runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    )


@pytest.mark.parametrize("make", [sklearn_toy, onnx_toy, remote_toy])
def test_a_classifier_without_a_gradient_is_explained(make: Callable[[], Classifier]) -> None:
    classifier = make()
    image = toy_images(1, seed=7)[0]
    found = explain(
        image, classifier, generator=LinearGenerator().eval(), levels=[0.1, 0.5, 0.9], progress=False, seed=1
    )
    assert found.frames["reached"].all(), found.frames
    assert_close(
        classifier.level(found.images, classifier.target(1)).double(),
        torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), atol=0.02, rtol=0,
    )  # fmt: skip
    assert any("no gradient" in said for said in found.assumptions)
    # Without a gradient it finds the direction all the same: the weights.
    difference = (found.images[2] - found.images[0]).flatten()
    weight = LogisticClassifier(LinearGenerator()).weight.detach()
    assert torch.cosine_similarity(difference, weight, dim=0) > 0.9
