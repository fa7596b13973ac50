"""What a benchmark of generators trains and measures: images, runs that are kept, and measures of one run."""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "cells"))
from train import SIZE, mirrored, read_cells

from explainer.convnet import fit_classifier
from explainer.generators import VAE, GaussianMixtureVAE
from explainer.generators.base import Generator
from explainer.generators.objectives import encoded_information
from explainer.generators.training import TrainableGenerator
from explainer.generators.vae import reparametrise
from explainer.metrics import frechet_distance, r2

TRAINED = 12_000
MEASURED = 4000
PROBED = 2000
FEATURES = 32
CLASSES = 10


@dataclass(frozen=True)
class Images:
    """A set of images with the labels that only measures look at.

    Attributes:
        name: Shown in the results.
        training: ``(N, C, H, W)``, uint8 or floats in [0, 1].
        test: ``(M, C, H, W)``, floats in [0, 1].
        training_labels: ``(N,)`` class indices.
        test_labels: ``(M,)``.
    """

    name: str
    training: Tensor
    test: Tensor
    training_labels: np.ndarray
    test_labels: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.training.shape[1:]
        return channels, height, width


def read_mnist(path: Path, *, split: str) -> Images:
    """MNIST in an order that has nothing to do with the digits; ``val`` is 4,000 of the training images."""
    random = np.random.default_rng(0)
    with np.load(path) as archive:
        images, labels = archive["x_train"], archive["y_train"]
        order = random.permutation(len(images))
        images, labels = images[order], labels[order]
        if split == "test":
            chosen = random.permutation(len(archive["x_test"]))[:MEASURED]
            held_out, truth = archive["x_test"][chosen], archive["y_test"][chosen]
        else:
            held_out, truth = images[:MEASURED], labels[:MEASURED]
            images, labels = images[MEASURED:], labels[MEASURED:]
        images, labels = images[:TRAINED], labels[:TRAINED]  # short budgets see no more
    measured = torch.from_numpy(held_out)[:, None].float() / 255
    return Images("MNIST", torch.from_numpy(images)[:, None], measured, labels, truth)


def read_jurkat(path: Path, labels: Path, *, split: str) -> Images:
    """The cells; the labels are whether a cell is past the doubling of its DNA, or unknown (-1)."""
    training, rows = read_cells(path, labels, "train")
    test, test_rows = read_cells(path, labels, split)
    of_phase = {"G1": 0, "G2": 1}
    known = [table["phase"].map(of_phase).fillna(-1).to_numpy(int) for table in (rows, test_rows)]
    return Images("cells", training, test, *known)


class Work:
    """Finished runs, one JSON line each, so that a benchmark that was killed goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            text = path.read_text(encoding="utf-8")
            for line in text.splitlines():
                with contextlib.suppress(
                    json.JSONDecodeError
                ):  # the last line of a killed run may be cut off
                    row = json.loads(line)
                    self.rows[row["run"]] = row
            if text and not text.endswith("\n"):
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")

    def do(self, run: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a run, from the file or computed now."""
        if run not in self.rows:
            before = time.process_time()
            row = _finite({"run": run, **compute(), "processor seconds": time.process_time() - before})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            self.rows[run] = row
            print(json.dumps(row), flush=True)
        return self.rows[run]


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for numbers that are not finite, and how many there were: JSON has no NaN."""
    lost = sum(isinstance(value, float) and not np.isfinite(value) for value in row.values())
    kept = {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in row.items()
    }
    return {**kept, "numbers not finite": lost} if lost else kept


def floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def principal_components(images: Images, dimensions: int) -> dict[str, Any]:
    """Test R2 per channel of as many principal components, in the units of a generator's losses."""
    generator = VAE(images.shape, dimensions)
    some = floats(images.training[:10_000])
    bounds = np.quantile(some.transpose(0, 1).flatten(1).numpy()[:, ::7], [0.001, 0.999], axis=1)
    generator.intensity.copy_(torch.from_numpy(bounds).float())
    truth = generator.normalise(images.test)
    analysis = PCA(dimensions, svd_solver="randomized", random_state=0)
    analysis.fit(generator.normalise(some).flatten(1).numpy())
    linear = analysis.inverse_transform(analysis.transform(truth.flatten(1).numpy()))
    each = r2(torch.from_numpy(linear).float().view_as(truth), truth).tolist()
    return {"R2 per channel": each, "R2": float(np.mean(each))}


def reconstruction(generator: TrainableGenerator, images: Images) -> dict[str, Any]:
    """Health on the test images, and what went wrong in training."""
    health = generator.health(images.test)
    return {
        "R2": float(np.mean(health.r2)),
        "R2 per channel": list(health.r2),
        "SSIM per channel": list(health.ssim),
        "KL in nats": float(sum(health.kl)) if health.total_kl is None else health.total_kl,
        "status": health.status,
        "skipped steps": generator.skipped_steps,
    }


@torch.no_grad()
def codes_of(generator: Generator, images: Tensor) -> Tensor:
    return torch.cat([generator.encode(floats(part)) for part in images.split(250)])


@torch.no_grad()
def information(generator: VAE, images: Images) -> dict[str, float]:
    """Bounds of I(x; z) from below and above, and what a linear probe reads of the class."""
    parts = [generator.posterior(generator.prepare(part)) for part in images.test.split(250)]
    mean, log_variance = (torch.cat(each) for each in zip(*parts, strict=True))
    z = reparametrise(mean, log_variance, torch.Generator().manual_seed(0))
    probe = LogisticRegression(max_iter=300)
    training = codes_of(generator, images.training[:PROBED]).numpy()
    centre, spread = training.mean(axis=0), training.std(axis=0) + 1e-6
    probe.fit((training - centre) / spread, images.training_labels[:PROBED])
    totals = [generator.total_kl(part) * len(part) for part in images.test.split(250)]
    return {
        "I(x; z) in nats, at least": float(encoded_information(mean, log_variance, z)),
        "I(x; z) in nats, at most (KL)": float(torch.stack(totals).sum() / len(images.test)),
        "linear probe": float(probe.score((mean.numpy() - centre) / spread, images.test_labels)),
    }


def accuracy(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Share of images in the right cluster under the best naming of the clusters (Hungarian method)."""
    size = max(int(clusters.max()), int(labels.max())) + 1
    table = np.zeros((size, size))
    np.add.at(table, (clusters, labels), 1)
    return float(table[linear_sum_assignment(-table)].sum() / len(labels))


class WatchedMixture(GaussianMixtureVAE):
    """A mixture that lets scikit-learn's cluster the codes it starts from, before it goes on."""

    images: Images
    peer: dict[str, float]

    def _fit_prior(self, means: Tensor, log_variances: Tensor) -> None:
        codes, test = means[0].numpy(), codes_of(self, self.images.test).numpy()
        peer = GaussianMixture(self.components, n_init=self.restarts, reg_covar=1e-4, random_state=0)
        self.peer = {"accuracy of scikit-learn's mixture": accuracy(peer.fit(codes).predict(test),
                                                                    self.images.test_labels)}  # fmt: skip
        super()._fit_prior(means, log_variances)
        self.peer["accuracy at the start"] = self.measured()

    def measured(self) -> float:
        parts = [self.cluster(part).argmax(dim=1) for part in self.images.test.split(250)]
        return accuracy(torch.cat(parts).numpy(), self.images.test_labels)


class Features:
    """What a classifier trained here sees in images: its penultimate layer, reduced to 32 dimensions."""

    def __init__(self, images: Images, *, steps: int) -> None:
        known, judged = images.training_labels >= 0, images.test_labels >= 0
        self.bounds: tuple[Tensor, Tensor] | None = None
        training, test = floats(images.training[torch.from_numpy(known)]), images.test
        if images.name == "cells":
            low, high = test.amin(dim=(0, 2, 3), keepdim=True), test.amax(dim=(0, 2, 3), keepdim=True)
            self.bounds = (low, high - low)
            assert test.shape[-2:] == SIZE
        labels = torch.from_numpy(images.training_labels[known])
        truth = torch.from_numpy(images.test_labels[judged])
        binary = self.bounds is not None
        given = mirrored(self._scaled(training)) if binary else training
        self.network, report = fit_classifier(
            given,
            labels.float().repeat(4) if binary else labels,
            validation=(self._scaled(test[torch.from_numpy(judged)]), truth.float() if binary else truth),
            classes=1 if binary else CLASSES,
            augment=not binary,
            flip=False,
            steps=steps,
        )
        self.report = report["validation"]
        self.reduction = PCA(FEATURES, random_state=0).fit(self._raw(test))
        self.real = self.reduction.transform(self._raw(test))

    def _scaled(self, images: Tensor) -> Tensor:
        return images if self.bounds is None else ((images - self.bounds[0]) / self.bounds[1]).clamp(0, 1)

    @torch.no_grad()
    def _raw(self, images: Tensor) -> np.ndarray:
        parts = [self.network.features(self._scaled(part)) for part in images.split(250)]
        return torch.cat(parts).numpy()

    def distance(self, images: Tensor, *, resamples: int = 50) -> dict[str, float]:
        """Frechet distance of images from as many real ones, with a bootstrap interval over both."""
        given = self.reduction.transform(self._raw(images))
        count = min(len(given), len(self.real))
        given, real = given[:count], self.real[:count]
        random = np.random.default_rng(0)
        replicates = [
            frechet_distance(
                given[random.integers(count, size=count)], real[random.integers(count, size=count)]
            )
            for _ in range(resamples)
        ]
        distance = frechet_distance(given, real)
        # Resampled sets are further apart than fresh ones would be: the shift is taken back.
        low, high = np.quantile(replicates, [0.025, 0.975]) - np.mean(replicates) + distance
        return {"distance": distance, "low": max(0.0, float(low)), "high": float(high), "n": count}
