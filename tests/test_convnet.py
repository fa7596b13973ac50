"""The small classifiers: architectures, augmentation, calibration, training."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.testing import assert_close

from explainer.classifier import Classifier
from explainer.convnet import (
    NETWORKS,
    ConvNet,
    PlainNet,
    as_float,
    augmented,
    binary_metrics,
    fit_classifier,
    fit_temperature,
)
from explainer.errors import OptionError, TrainingError


def bars(number: int, classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Grey noise with a bright horizontal bar in one of several places; the place is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(number, 1, 16, 16, generator=generator) * 0.5
    labels = torch.randint(classes, (number,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 + 4 * label : 5 + 4 * label] += 0.4
    return (images * 255).byte(), labels


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_size_and_number_of_channels(name: str, channels: int) -> None:
    network = NETWORKS[name](channels=channels, classes=4).eval()
    for size in ((16, 16), (64, 64), (40, 56)):
        images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
        outputs = network(images)
        assert outputs.shape == (2, 4)
        assert_close(network.head(network.features(images)), outputs)
        assert_close(network(images[:1]), outputs[:1], rtol=1e-4, atol=1e-5)  # batched equals unbatched


@pytest.mark.parametrize("name", NETWORKS)
def test_small_and_rebuilt_from_its_architecture(name: str) -> None:
    network = NETWORKS[name](channels=1, classes=3, width=8, depth=2)
    rebuilt = NETWORKS[name](**network.architecture)
    rebuilt.load_state_dict(network.state_dict())
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(rebuilt(images), network(images))
    assert 4 * sum(parameter.numel() for parameter in NETWORKS[name]().parameters()) < 1e6


def test_the_architectures_share_no_design_decision() -> None:
    def kinds(network: torch.nn.Module) -> set[str]:
        return {type(module).__name__ for module in network.modules()}

    assert "GroupNorm" in kinds(ConvNet())
    assert not kinds(ConvNet()) & kinds(PlainNet()) - {"Conv2d", "Linear"}


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture_errors(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        NETWORKS[name](width=0)
    assert str(caught.value) == "width: must be at least 1 (received 0). Pass width=1 or more."


# -- augmentation ----------------------------------------------------------------------------------------


def test_augmentation_is_seeded_and_leaves_its_input_alone() -> None:
    images = as_float(bars(6)[0])
    before = images.clone()
    first = augmented(images, torch.Generator().manual_seed(1))
    assert torch.equal(first, augmented(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, augmented(images, torch.Generator().manual_seed(2)))
    assert torch.equal(images, before)
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1


def test_augmentation_mirrors_half_of_the_images_and_only_if_asked() -> None:
    ramp = torch.linspace(0.2, 0.8, 32).expand(400, 1, 32, 32).contiguous()
    for flip, expected in ((True, 0.5), (False, 0.0)):
        moved = augmented(ramp, torch.Generator().manual_seed(0), flip=flip)
        mirrored = (moved[..., 16:].mean(dim=(1, 2, 3)) < moved[..., :16].mean(dim=(1, 2, 3))).double().mean()
        assert mirrored == pytest.approx(expected, abs=0.08)


def test_augmentation_shifts_by_at_most_a_sixteenth() -> None:
    dot = torch.full((300, 1, 32, 32), 0.2)
    dot[:, :, 16, 10] = 0.9
    moved = augmented(dot, torch.Generator().manual_seed(0), flip=False)
    peak = moved.flatten(1).argmax(1)
    visible = moved.flatten(1).amax(1) > 0.4
    rows, columns = peak[visible] // 32, peak[visible] % 32
    assert visible.double().mean() > 0.9  # the square hides a few
    assert set(rows.tolist()) == {14, 15, 16, 17, 18}
    assert set(columns.tolist()) == {8, 9, 10, 11, 12}


# -- metrics and calibration -----------------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    scores, labels = torch.tensor([2.0, -1.0, 0.5, -3.0, 7.0]), torch.tensor([1, 1, 0, 0, 1])
    metrics = binary_metrics(scores, labels, bins=2)
    p = scores.double().sigmoid()
    # bins [0, .5) and [.5, 1]: (p_1 + p_3 - 1) and (p_0 + p_2 + p_4 - 2)
    ece = (abs(p[1] + p[3] - 1) + abs(p[0] + p[2] + p[4] - 2)) / 5
    log_loss = -(p[0].log() + p[1].log() + (1 - p[2]).log() + (1 - p[3]).log() + p[4].log()) / 5
    assert metrics == {
        "n": 5,
        "accuracy": 0.6,
        "auc": pytest.approx(5 / 6),
        "log_loss": pytest.approx(log_loss.item()),
        "ece": pytest.approx(ece.item()),
        "score_median": 2.0,
        "score_99": pytest.approx(6.84),
        "score_above_6": 0.2,
    }


def test_one_class_has_no_area_under_the_curve() -> None:
    metrics = binary_metrics(torch.tensor([1.0, 2.0]), torch.tensor([1, 1]))
    assert math.isnan(metrics["auc"])
    assert metrics["accuracy"] == 1


def test_extreme_scores_have_finite_metrics() -> None:
    metrics = binary_metrics(torch.tensor([800.0, -800.0]), torch.tensor([1, 0]))
    assert metrics["log_loss"] == 0
    assert metrics["ece"] == 0


def test_a_planted_temperature_is_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, 1, generator=generator) * 2
    labels = (torch.rand(20_000, generator=generator) < truth[:, 0].sigmoid()).long()
    for planted in (0.5, 1.0, 3.0):
        assert fit_temperature(truth * planted, labels) == pytest.approx(planted, rel=0.05)


def test_the_temperature_is_that_of_sklearn() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(500, generator=generator) * 3
    labels = (torch.rand(500, generator=generator) < (scores / 2).sigmoid()).long()
    model = LogisticRegression(C=np.inf, fit_intercept=False).fit(scores[:, None].numpy(), labels.numpy())
    assert fit_temperature(scores[:, None], labels) == pytest.approx(1 / model.coef_.item(), rel=1e-3)


def test_temperature_of_several_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, 4, generator=generator) * 2
    labels = torch.multinomial(truth.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(2 * truth, labels) == pytest.approx(2, rel=0.05)


def test_label_noise_bounds_the_scores_of_a_perfect_classifier() -> None:
    outputs, labels = torch.tensor([[3.0], [-3.0]]), torch.tensor([1, 0])
    temperature = fit_temperature(outputs, labels, label_noise=0.02)
    assert 3 / temperature == pytest.approx(math.log(0.99 / 0.01), rel=1e-3)


# -- training --------------------------------------------------------------------------------------------


def fit(classes: int = 1, seed: int = 0, **options: object) -> tuple[ConvNet | PlainNet, dict]:
    places = max(2, classes)
    images, labels = bars(200, places)
    arguments = {"steps": 40, "batch_size": 32, "validation": bars(100, places, seed=1), **options}
    return fit_classifier(images, labels, classes=classes, seed=seed, flip=False, **arguments)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_class_is_learnt(name: str) -> None:
    network, report = fit(architecture=name, steps=60)
    assert type(network) is NETWORKS[name]
    assert not network.training
    assert report["architecture"] == name
    assert report["validation"]["n"] == 100
    assert report["validation"]["accuracy"] > 0.9
    # the report is that of the network that is returned: the temperature is inside
    images, labels = bars(100, seed=1)
    with torch.no_grad():
        scores = network(as_float(images))[:, 0]
    assert binary_metrics(scores, labels) == pytest.approx(report["validation"], rel=1e-4)
    assert fit_temperature(scores[:, None], labels, label_noise=0.02) == pytest.approx(1, rel=1e-2)
    Classifier(network).check(as_float(images))


def test_several_classes() -> None:
    network, report = fit(classes=3, steps=60)
    assert report["validation"]["accuracy"] > 0.9
    assert network.architecture["classes"] == 3


def test_deterministic_and_seeded_without_touching_the_global_state() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (fit(seed=seed, steps=6)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, same in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_float_and_uint8_images_train_the_same() -> None:
    images, labels = bars(50)
    validation_images, validation_labels = bars(50, seed=1)
    options = {"steps": 4, "batch_size": 8}
    one, _ = fit_classifier(images, labels, validation=(validation_images, validation_labels), **options)
    same, _ = fit_classifier(
        as_float(images), labels, validation=(as_float(validation_images), validation_labels), **options
    )
    assert torch.equal(one.head.weight, same.head.weight)


def test_soft_labels_are_learnt_as_probabilities() -> None:
    images, labels = bars(200)
    soft = 0.25 + 0.5 * labels.float()
    network, _ = fit_classifier(
        images, soft, validation=(images, soft), steps=60, flip=False, label_smoothing=0.0, label_noise=0.0
    )
    with torch.no_grad():
        probabilities = network(as_float(images))[:, 0].sigmoid()
    assert probabilities[labels == 1].mean().item() == pytest.approx(0.75, abs=0.1)
    assert probabilities[labels == 0].mean().item() == pytest.approx(0.25, abs=0.1)


def test_weights_choose_what_is_seen() -> None:
    """Half of the labels are wrong, and have no weight."""
    images, labels = bars(200)
    wrong = torch.arange(200) % 2 == 0
    planted = torch.where(wrong, 1 - labels, labels)
    options = {"validation": bars(100, seed=1), "steps": 40, "flip": False}
    _, report = fit_classifier(images, planted, weights=(~wrong).float(), **options)
    assert report["validation"]["accuracy"] > 0.9
    _, report = fit_classifier(images, planted, weights=wrong.float(), **options)
    assert report["validation"]["accuracy"] < 0.1


def test_progress_is_told() -> None:
    told: list[tuple[int, float]] = []
    fit(steps=3, progress=lambda step, loss: told.append((step, loss)))
    assert [step for step, _ in told] == [1, 2, 3]
    assert all(math.isfinite(loss) for _, loss in told)


def test_steps_that_are_not_finite_are_counted_and_then_an_error() -> None:
    images, labels = bars(100)
    broken = as_float(images)
    broken[0] = float("nan")
    options = {"validation": bars(50, seed=1), "steps": 20, "batch_size": 8, "augment": False}
    network, report = fit_classifier(broken, labels, **options)
    assert 0 < report["skipped_steps"] <= 10
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    with pytest.raises(TrainingError) as caught:
        fit_classifier(broken * float("nan"), labels, **options)
    assert str(caught.value) == (
        "images: gave steps that are not finite (received 11 of the first 11 steps). "
        "Look for NaN in the images and labels, or lower learning_rate."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"architecture": "resnet"},
            "architecture: is unknown (received resnet). Choose one of convnet, plain.",
        ),
        ({"steps": 0}, "steps: must be at least 1 (received 0). Pass steps=1 or more."),
        ({"batch_size": 0}, "batch_size: must be at least 1 (received 0). Pass batch_size=1 or more."),
        (
            {"label_smoothing": 1.0},
            "label_smoothing: must lie in [0, 1) (received 1.0). Use .05, or 0 for none.",
        ),
        ({"label_noise": -0.1}, "label_noise: must lie in [0, 1) (received -0.1). Use .05, or 0 for none."),
        (
            {"labels": torch.zeros(3)},
            "labels: must hold one label for each image of a batch (number, channels, height, width) "
            "(received images (4, 1, 16, 16) and labels (3,)). Pass as many labels as images, at least one.",
        ),
        (
            {"labels": torch.tensor([0, 1, 2, 1])},
            "labels: must lie in 0 ... 1 for 1 output(s) (received labels from 0 to 2). Number the classes "
            "from 0 and set classes= to their count (1 if there are two).",
        ),
        (
            {"labels": torch.tensor([0.0, 1.0, float("nan"), 1.0])},
            "labels: must lie in 0 ... 1 for 1 output(s) (received labels from nan to nan). Number the "
            "classes from 0 and set classes= to their count (1 if there are two).",
        ),
        (
            {"validation": (torch.zeros(0, 1, 16, 16), torch.zeros(0))},
            "validation: must hold one label for each image of a batch (number, channels, height, width) "
            "(received images (0, 1, 16, 16) and labels (0,)). Pass as many labels as images, at least one.",
        ),
        (
            {"weights": torch.zeros(4)},
            "weights: must hold one non-negative weight for each image, not all zero (received shape (4,) "
            "for 4 images). Pass weights of the shape of the labels.",
        ),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    images, labels = bars(4)
    arguments = {"labels": labels, "validation": (images, labels), "steps": 2, **options}
    with pytest.raises(OptionError) as caught:
        fit_classifier(images, **arguments)
    assert str(caught.value) == message
