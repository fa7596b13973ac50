"""Curves from torchcam and Quantus where these are right: one channel, no ties, a constant baseline."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from explainer.classifier import Classifier
from explainer.fillers import Filler
from explainer.replacement import fidelity

SIDE, STEPS, GREY = 20, 20, 0.25


class Constant(Filler):
    name = "constant"

    def draw(self, rows: range, seed: int) -> Tensor:
        return torch.full((len(rows), *self.images.shape[1:]), GREY)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(384, 3)]
        with torch.no_grad():
            layers[-1].weight.mul_(20)  # so that the curves move
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    relevance = torch.stack([torch.randperm(SIDE**2, generator=stream) for _ in range(6)]).float()
    return torch.rand(6, 1, SIDE, SIDE, generator=stream), relevance.view(6, SIDE, SIDE)


def curves(network: nn.Module, images: Tensor, relevance: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Ours: probability of the first class, most and least relevant first, ``(fractions, N)``."""
    found = fidelity(
        images, None, Classifier(network), {"map": relevance}, filler=Constant(images), steps=STEPS, draws=1,
        resamples=100,
    )  # fmt: skip
    return found.probability[0, 0], found.probability[0, 1]


def test_torchcam_deletion_and_insertion(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("torchcam.metrics")
    images, relevance = data

    class Given:
        """Stands for a CAM extractor: it answers with the maps it was given."""

        def __init__(self) -> None:
            self.model = network

        def __call__(self, *_: object, **__: object) -> list[Tensor]:
            return [relevance]

        def fuse_cams(self, maps: list[Tensor]) -> Tensor:
            return maps[0]

        @contextmanager
        def _hooks_off(self) -> Iterator[None]:
            yield

    metric = metrics.DeletionInsertionMetric(
        Given(), lambda logits: logits.softmax(dim=1), steps=STEPS, baseline=torch.tensor(GREY)
    )
    metric.update(images)
    most, least = curves(network, images, relevance)
    fractions = np.linspace(0, 1, STEPS + 1)
    found = metric.summary()
    assert_allclose(np.trapezoid(most, fractions, axis=0).mean(), found["deletion_auc"], atol=1e-5)
    # Insertion puts the most relevant back first: read backwards it takes the least relevant away first.
    assert_allclose(np.trapezoid(least, fractions, axis=0).mean(), found["insertion_auc"], atol=1e-5)
    assert abs(found["deletion_auc"] - found["insertion_auc"]) > 1e-3


def test_quantus_pixel_flipping(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    quantus = pytest.importorskip("quantus")
    images, relevance = data
    with torch.no_grad():
        labels = network(images).argmax(dim=1).numpy()
    metric = quantus.PixelFlipping(
        features_in_step=SIDE**2 // STEPS, normalise=False, perturb_baseline=GREY, disable_warnings=True
    )
    theirs = metric(
        model=network, x_batch=images.numpy(), y_batch=labels, a_batch=relevance[:, None].numpy(),
        device="cpu", channel_first=True, softmax=True,
    )  # fmt: skip
    most, _ = curves(network, images, relevance)
    assert_allclose(most[1:].T, np.asarray(theirs), atol=1e-5)
    assert float(np.ptp(most, axis=0).min()) > 1e-3
