"""Walks ready to be checked, and generators and classifiers that are sound or broken on purpose."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from explainer.checks import Check, Thresholds, Verdict, decide, run_checks
from explainer.checks.walked import Picture, Walked
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.generators.training import store_codes, store_intensity
from explainer.synthetic import sprites
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import require_levels

LEVELS = tuple(np.linspace(0.05, 0.95, 10).tolist())


@torch.no_grad()
def walked_of(
    generator: Generator,
    classifier: Classifier | nn.Module,
    images: Tensor,
    levels: Sequence[float] = LEVELS,
    thresholds: Thresholds | None = None,
    target: int | None = None,
) -> list[Walked]:
    """Walk images as ``explain`` does, and lay down what checks may look at."""
    wrapped = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
    wrapped.check(images)
    chosen = wrapped.target(target, images)
    asked = require_levels(levels, chosen)
    scene = Scene(generator.eval(), wrapped, chosen, images)
    result = GradientWalk()(scene, asked)
    originals, bares = _pictures(scene, images), _pictures(scene, generator.bare(scene.small))
    walked = []
    for row, latents in enumerate(result.latents):
        frames = scene.deliver(latents, torch.full((len(latents),), row)).float()
        eight_bit = generator.denormalise((generator.normalise(frames) * 255).round() / 255)
        score = wrapped.score(frames, chosen).double()
        achieved = chosen.to_level(score)
        table = pd.DataFrame(
            {
                "level": asked.numpy(),
                "achieved": achieved.numpy(),
                "score": score.numpy(),
                "reached": ((achieved - asked).abs() <= chosen.tolerance).numpy(),
                "reason": result.reasons[row],
                "distance": (latents - scene.z[row]).norm(dim=1).double().numpy(),
                "rounded": chosen.to_level(wrapped.score(eight_bit, chosen).double()).numpy(),
            }
        )
        limits = thresholds or Thresholds()
        walked.append(Walked(scene, row, latents, frames, table, originals[row], bares[row], limits))
    return walked


def verdicts_of(walked: Sequence[Walked], **options: object) -> list[tuple[Verdict, dict[str, Check]]]:
    """Verdict and checks by name of every walk."""
    found = run_checks(walked, **options)
    return [(decide(checks), {check.name: check for check in checks}) for checks in found]


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.status == "fail"}


def _pictures(scene: Scene, images: Tensor) -> list[Picture]:
    scores = scene.classifier.score(images, scene.target)
    levels = scene.target.to_level(scores)
    names = [""] * len(images)
    if scene.target.measure != "value":
        names = [scene.classifier.class_names[index] for index in scene.classifier.predict(images).tolist()]
    return [
        Picture(image.clone(), score, level, name)
        for image, score, level, name in zip(images, scores.tolist(), levels.tolist(), names, strict=True)
    ]


class PrincipalComponents(Generator):
    """The linear generator of given images: whitened principal components, solved, not trained."""

    kind = "pca"

    def __init__(self, images: Tensor, latent_dim: int = 12) -> None:
        shape = tuple(images.shape[1:])
        super().__init__(shape, latent_dim, multiple=1, tau=0.3)
        held_out, training = images[: len(images) // 5], images[len(images) // 5 :]
        store_intensity(self, training, seed=0)
        flat = self.normalise(training).flatten(1)
        self.register_buffer("mean", flat.mean(dim=0))
        _, singular, axes = torch.linalg.svd(flat - self.mean, full_matrices=False)
        scale = singular[:latent_dim] / len(flat) ** 0.5
        self.register_buffer("axes", axes[:latent_dim] * scale[:, None])
        self.register_buffer("inverse", axes[:latent_dim].T / scale)
        store_codes(self, training, held_out)
        self.training_images, self.held_out = training, held_out
        self.eval()

    def measured_again(self) -> "PrincipalComponents":
        """With the quantiles of what it does now: a broken generator that does not know it is."""
        store_codes(self, self.training_images, self.held_out)
        return self

    def _encode(self, prepared: Tensor) -> Tensor:
        return (prepared.flatten(1) - self.mean) @ self.inverse

    def _decode(self, codes: Tensor) -> Tensor:
        return (codes @ self.axes + self.mean).view(-1, *self.shape)


class Shuffled(PrincipalComponents):
    def _decode(self, codes: Tensor) -> Tensor:
        return super()._decode(codes.roll(1, dims=1))


class Constant(PrincipalComponents):
    def _decode(self, codes: Tensor) -> Tensor:
        return super()._decode(0 * codes)


class NoiseLatent(PrincipalComponents):
    """Codes that have nothing to do with the image."""

    def _encode(self, prepared: Tensor) -> Tensor:
        seeds = (prepared.double().flatten(1).sum(dim=1) * 1e4).long().abs().tolist()
        return torch.stack(
            [torch.randn(self.latent_dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )


class DeadChannel(PrincipalComponents):
    def _decode(self, codes: Tensor) -> Tensor:
        images = super()._decode(codes)
        dead = self.mean.view(1, *self.shape)[:, 1:2].expand(len(images), -1, -1, -1)
        return torch.cat([images[:, :1], dead, images[:, 2:]], dim=1)


class IdentityMap(Generator):
    """The code is the image: everything can be said."""

    kind = "identity"

    def __init__(self, images: Tensor) -> None:
        shape = tuple(images.shape[1:])
        super().__init__(shape, int(np.prod(shape)), multiple=1, tau=0.3)
        store_codes(self, images[20:], images[:20])

    def _encode(self, prepared: Tensor) -> Tensor:
        return prepared.flatten(1)

    def _decode(self, codes: Tensor) -> Tensor:
        return codes.view(-1, *self.shape)


class Linear(nn.Module):
    """``s = (w . x + b) * scale``; weights are a ridge regression of labels, or given."""

    def __init__(self, weight: Tensor, offset: float, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten().clone())
        self.offset, self.scale = offset, scale

    def forward(self, images: Tensor) -> Tensor:
        return ((images.flatten(1) @ self.weight + self.offset) * self.scale)[:, None]


def read_through(
    generator: PrincipalComponents, images: Tensor, labels: Tensor, strength: float = 2.5
) -> Linear:
    """The linear classifier of labels that reads the generator's components only; scores of about ``strength``."""
    z = PrincipalComponents._encode(generator, generator.prepare(images))
    design = torch.cat([z, torch.ones(len(z), 1)], dim=1)
    found = torch.linalg.lstsq(design, 2.0 * labels.float()[:, None] - 1).solution[:, 0]
    found = found * strength / (design @ found).abs().mean()
    low, high = generator.intensity
    span = (high - low).view(-1, 1, 1).expand(generator.shape).flatten()
    base = low.view(-1, 1, 1).expand(generator.shape).flatten()
    weight = generator.inverse @ found[:-1]
    offset = float(found[-1] - generator.mean @ weight - (base / span) @ weight)
    return Linear(weight / span, offset)


def smooth_sprites(count: int = 400, *, seed: int = 0, channels: int = 1, label: str = "shade", **options):
    """Sprites of 32 pixels."""
    return sprites(count, size=32, channels=channels, seed=seed, label=label, **options)
