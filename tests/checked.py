"""Walks ready to be checked, and generators and classifiers that are sound or broken on purpose."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from toys import LinearGenerator, LogisticClassifier

from explainer.checks import Check, Thresholds, Verdict, decide, run_checks
from explainer.checks.walked import Picture, Walked
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.generators.feed import feed
from explainer.generators.training import store_codes, store_intensity
from explainer.generators.zoo import load_classifier, load_generator
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
    allow: Tensor | None = None,
) -> list[Walked]:
    """Walk images as ``explain`` does, and lay down what checks may look at."""
    wrapped = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
    wrapped.check(images)
    chosen = wrapped.target(target, images)
    asked = require_levels(levels, chosen)
    scene = Scene(generator.eval(), wrapped, chosen, images, allow=allow)
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
        store_intensity(self, feed(training, "training", shape, 1), seed=0)
        flat = self.normalise(training).flatten(1)
        self.register_buffer("mean", flat.mean(dim=0))
        _, singular, axes = torch.linalg.svd(flat - self.mean, full_matrices=False)
        scale = singular[:latent_dim] / len(flat) ** 0.5
        self.register_buffer("components", axes[:latent_dim] * scale[:, None])
        self.register_buffer("inverse", axes[:latent_dim].T / scale)
        self.training_images, self.held_out = training, held_out
        self.measured_again().eval()

    def measured_again(self) -> "PrincipalComponents":
        """With the quantiles of what it does now: a broken generator that does not know it is."""
        parts = [feed(images, "images", self.shape, 1) for images in (self.training_images, self.held_out)]
        store_codes(self, *parts)
        return self

    def _encode(self, prepared: Tensor) -> Tensor:
        return (prepared.flatten(1) - self.mean) @ self.inverse

    def _decode(self, codes: Tensor) -> Tensor:
        return (codes @ self.components + self.mean).view(-1, *self.shape)


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
        store_codes(
            self, feed(images[20:], "images", self.shape, 1), feed(images[:20], "images", self.shape, 1)
        )

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
    """The linear classifier of labels that reads the generator's components; |s| is about ``strength``."""
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


Case = tuple[str, Generator, Classifier | nn.Module, Tensor]


def sound_setups(seed: int = 0) -> Iterator[Case]:
    """Twenty set-ups in which nothing is wrong: name, generator, classifier, images.

    The thresholds were chosen with those of seed 0 in sight, see ``benchmarks/checks.py`` for others.
    """
    for label in ("shade", "scale", "x", "y", "orientation"):
        planted = smooth_sprites(label=label, seed=seed + 1)
        for latent_dim in (8, 24):
            generator = PrincipalComponents(planted.images[40:], latent_dim)
            classifier = read_through(generator, planted.images[40:], planted.labels[40:])
            yield f"sprites, {label}, {latent_dim} components", generator, classifier, planted.images[:2]
    for label in ("shade", "scale"):
        planted = smooth_sprites(label=label, seed=seed + 2, channels=3)
        generator = PrincipalComponents(planted.images[40:])
        classifier = read_through(generator, planted.images[40:], planted.labels[40:])
        yield f"colour sprites, {label}", generator, classifier, planted.images[:2]
    for toy in range(seed, seed + 4):
        linear = LinearGenerator(seed=toy)
        images = linear.decode(torch.randn(2, 6, generator=torch.Generator().manual_seed(toy)))
        yield f"linear toy, seed {toy}", linear, LogisticClassifier(linear), images
    faces = load_generator("faces")
    for number, name in enumerate(("smile", "smile-second", "gender", "smile-confounded")):
        sample = faces.sample(1, seed=seed + number)
        yield f"faces/{name} on a decoded sample", faces, load_classifier(f"faces/{name}"), sample


def broken_setups() -> Iterator[tuple[Case, set[str]]]:
    """Set-ups in which one thing is wrong, and the checks one of which must say so."""
    planted = smooth_sprites(seed=2, channels=3)
    training, images = planted.images[40:], planted.images[:3]
    sound = PrincipalComponents(training)
    classifier = read_through(sound, training, planted.labels[40:])
    generators: dict[str, tuple[Callable[[], Generator], set[str]]] = {
        "shuffled decoder": (lambda: Shuffled(training), {"code cycle", "reconstruction"}),
        "constant decoder": (lambda: Constant(training), {"decoder"}),
        "noise latent": (lambda: NoiseLatent(training), {"code cycle"}),
        "dead channel": (lambda: DeadChannel(training), {"decoder"}),
    }
    for name, (make, reasons) in generators.items():
        yield (name, make(), classifier, images), reasons
        yield (f"{name}, measured broken", make().measured_again(), classifier, images), reasons
    yield ("identity map", IdentityMap(training), classifier, images), {"compression"}
    weight, offset = classifier.weight.detach(), classifier.offset
    saturated = Linear(weight, offset, scale=200.0)
    yield ("saturated classifier", sound, saturated, images), {"saturation", "stability"}
    yield (
        ("almost constant classifier", sound, Linear(1e-3 * weight, 1e-3 * offset), images),
        {"compatibility"},
    )
    grain = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    grain = grain * 150 * weight.norm() / grain.norm()
    brittle = Linear(weight + grain, offset - float(training.flatten(1).mean(dim=0) @ grain))
    yield ("brittle classifier", sound, brittle, images), {"stability", "8-bit frames"}
    reader, tagged, clean = tag_reader()
    unaware = PrincipalComponents(smooth_sprites(seed=4, channels=3).images)
    gap = {"reconstruction gap"}
    yield ("reads a tag, on tagged images", unaware, reader, tagged[:3]), gap
    yield ("reads a tag, on clean images", unaware, reader, clean[:3]), {"compatibility"}


def tag_reader() -> tuple[Linear, Tensor, Tensor]:
    """A classifier of the bright cross in the corner alone, images that have it, and images that do not."""
    planted = smooth_sprites(seed=3, batch_mark=0.5, channels=3)
    tagged = torch.tensor(planted.attributes["batch_mark"].tolist())
    where = planted.masks["batch_mark"][tagged].float().mean(dim=0) > 0.5
    weight = where.float().expand(3, -1, -1).flatten() / (3 * where.sum())
    score = planted.images.flatten(1) @ weight
    low, high = float(score[~tagged].mean()), float(score[tagged].mean())
    reader = Linear(6 * weight / (high - low), -3 * (high + low) / (high - low))
    return reader, planted.images[tagged], planted.images[~tagged]
