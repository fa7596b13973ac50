"""What the benchmarks of the zoo's models share: their training scripts, walks, rates, reconstructions."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.metrics import r2, ssim, wilson_interval
from explainer.walks import GradientWalk, Scene

__all__ = ["levels_of", "reconstruction", "script", "share", "walked"]


def script(name: str) -> ModuleType:
    """``models/<name>/train.py`` as a module."""
    path = Path(__file__).parents[1] / "models" / name / "train.py"
    spec = importlib.util.spec_from_file_location(f"{name}_train", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def share(hits: Tensor) -> dict[str, float | int]:
    """A rate with its Wilson interval."""
    interval = wilson_interval(int(hits.sum()), len(hits))
    return {"rate": interval.estimate, "low": interval.low, "high": interval.high, "n": len(hits)}


@torch.no_grad()
def walked(
    generator: Generator, classifier: Classifier, images: Tensor, levels: Tensor, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Delivered frames ``(N, L, C, H, W)`` and the levels ``(N, L)`` they achieve."""
    classifier.check(images[:4])
    with classifier.frozen():
        target = classifier.target(None, images)
        scene = Scene(generator, classifier, target, images, strength=strength)
        latents = GradientWalk()(scene, levels).latents
        rows = torch.arange(len(images)).repeat_interleave(len(levels))
        parts = zip(latents.flatten(0, 1).split(256), rows.split(256), strict=True)
        frames = torch.cat([scene.deliver(z, row) for z, row in parts])
        achieved = torch.cat([classifier.level(part, target) for part in frames.split(256)])
    return frames.unflatten(0, latents.shape[:2]), achieved.unflatten(0, latents.shape[:2])


@torch.no_grad()
def levels_of(classifier: Classifier, frames: Tensor) -> Tensor:
    """Levels ``(N, L)`` that another classifier gives to frames ``(N, L, C, H, W)``."""
    target = classifier.target(None, frames[:1, 0])
    parts = frames.flatten(0, 1).split(256)
    return torch.cat([classifier.level(part, target) for part in parts]).unflatten(0, frames.shape[:2])


@torch.no_grad()
def reconstruction(
    generator: Generator, training: Tensor, images: Tensor, channels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Both stages per channel in the generator's units, beside what needs no generator.

    Args:
        generator: With two stages.
        training: Images the principal components and the mean image are taken from.
        images: ``(N, C, H, W)`` in [0, 1], unseen.
        channels: Their names.
    """
    truth, learnt = generator.normalise(images), generator.normalise(training)
    pca = PCA(generator.latent_dim, svd_solver="randomized", random_state=0)
    pca.fit(learnt.flatten(1).numpy())
    linear = pca.inverse_transform(pca.transform(truth.flatten(1).numpy()))
    taps = torch.exp(-torch.arange(-4, 5).float().square() / 2)
    kernel = (taps[:, None] * taps / taps.sum() ** 2).expand(len(channels), 1, 9, 9)
    padded = functional.pad(truth, (4, 4, 4, 4), mode="replicate")
    rebuilt = {
        "stage 1": torch.cat(
            [generator.stage_reconstructions(part)["stage 1"] for part in images.split(128)]
        ),
        "bare": generator.normalise(torch.cat([generator.bare(part) for part in images.split(128)])),
        f"PCA with {generator.latent_dim} components": torch.from_numpy(linear).view_as(truth).float(),
        "mean image": learnt.mean(dim=0, keepdim=True).expand_as(truth),
        "blur of one pixel": functional.conv2d(padded, kernel, groups=len(channels)),
    }
    return {
        name: {
            **{
                f"R2 {channel}": value
                for channel, value in zip(channels, r2(each, truth).tolist(), strict=True)
            },
            **{
                f"SSIM {channel}": value
                for channel, value in zip(
                    channels, ssim(each.clamp(0, 1), truth.clamp(0, 1)).mean(dim=0).tolist(), strict=True
                )
            },
        }
        for name, each in rebuilt.items()
    }
