"""A second network that learnt from the classifier alone: does it see the walks end where they were asked to?

A walk may move the classifier by what no other network reads. A network trained on *labels* need not follow a
biased classifier, so its disagreement says nothing; one *distilled from the classifier*, of another
architecture, on images of the generator that no walk has chosen, should follow it wherever it reads
pictures. It agrees only if it ends on the requested side (the non-adversarial rate of counterfactuals).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from explainer.checks.base import Check, Thresholds, status_below
from explainer.checks.walked import Walked
from explainer.convnet import ConvNet, PlainNet, fit_classifier
from explainer.errors import ClassifierError, OptionError
from explainer.metrics import Interval, wilson_interval
from explainer.walks.scene import Scene

__all__ = ["Surrogate", "fit_surrogate", "held_out", "surrogate_curve", "surrogate_sides"]

JITTER = 0.5
HELD_OUT = 0.15
FEWEST, FEWEST_IMAGES = 100, 8


@dataclass(frozen=True)
class Surrogate:
    """A network distilled from a classifier.

    Attributes:
        network: From images ``(N, C, H, W)`` at the generator's size to one logit.
        faithful: Share of held-out samples, of images it has not seen, on which it is on the classifier's
            side of .5; balanced over the sides.
        samples: Number of samples it was trained on.
    """

    network: ConvNet | PlainNet
    faithful: float
    samples: int

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Log-odds ``(N,)`` of images at the generator's size."""
        return torch.cat([self.network(part)[:, 0] for part in images.split(256)])


@torch.no_grad()
def surrogate_samples(scene: Scene, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images of a scene's generator that no walk has chosen, and the classifier's levels of them.

    Half are samples of the prior (of the codes' own mean and deviation), half are the scene's images, carried
    detail included, with their codes moved at random by half a deviation.

    Returns:
        Images ``(N, C, H, W)``, levels ``(N,)``, and of which image each was made ``(N,)``; -1 for a sample
        of the prior.
    """
    generator, random = scene.generator, torch.Generator().manual_seed(seed)
    free = count // 2
    noise = torch.randn(count, generator.latent_dim, generator=random).to(scene.z)
    rows = torch.randint(len(scene.images), (count - free,), generator=random)
    prior = generator.latent_mean + generator.latent_std * noise[:free]
    around = scene.z[rows] + JITTER * generator.latent_std * noise[free:]
    parts, levels = [], []
    for codes in prior.split(scene.batch_size):
        parts.append(generator.decode(codes))
        levels.append(scene.classifier.level(parts[-1], scene.target))
    for codes, members in zip(around.split(scene.batch_size), rows.split(scene.batch_size), strict=True):
        delivered = scene.deliver(codes, members)
        parts.append(generator.resized(delivered))
        levels.append(scene.classifier.level(delivered, scene.target))
    return torch.cat(parts).cpu(), torch.cat(levels).cpu(), torch.cat([torch.full((free,), -1), rows])


def held_out(owners: Tensor, *, seed: int = 0) -> Tensor:
    """Which samples are set aside: all that were made of some images, and as large a share of the others.

    Args:
        owners: Which image each was made of ``(N,)``, -1 for none.
        seed: Of the choice.

    >>> owners = torch.tensor([-1] * 20 + [0, 1, 2, 3] * 5)
    >>> aside = held_out(owners)
    >>> sorted(set(owners[aside].tolist()) & set(owners[~aside].tolist()))  # of images: none in both
    [-1]
    """
    random = torch.Generator().manual_seed(seed)
    images = owners[owners >= 0].unique()
    chosen = images[torch.randperm(len(images), generator=random)[: max(1, round(HELD_OUT * len(images)))]]
    free = torch.nonzero(owners < 0)[:, 0]
    aside = torch.isin(owners, chosen)
    aside[free[torch.randperm(len(free), generator=random)[: round(HELD_OUT * len(free))]]] = True
    return aside


def fit_surrogate(
    scene: Scene, *, samples: int = 2000, steps: int = 800, architecture: str = "plain", seed: int = 0
) -> Surrogate:
    """Distil the classifier of a scene into another network; takes about a minute, so it is never a default.

    Args:
        scene: Images the classifier is explained on, at least a few dozen, before any walk.
        samples: Images to distil on.
        steps: Optimiser steps.
        architecture: Of the surrogate, a key of :data:`explainer.convnet.NETWORKS`; another than the
            classifier's own.
        seed: Of samples and training.

    Raises:
        ClassifierError: A regression, which has no sides.
        OptionError: Too few samples.
    """
    if scene.target.measure == "value":
        raise ClassifierError(
            "target", "has no sides to end on", received="a value of a regression",
            remedy='Explain the event you care about as a class: kind="binary" with the logit of it.',
        )  # fmt: skip
    if samples < FEWEST:
        raise OptionError(
            "samples", f"must be at least {FEWEST}", received=samples, remedy="2000 suit images of 64 pixels."
        )
    if len(scene.images) < FEWEST_IMAGES:
        raise OptionError(
            "scene", f"must hold at least {FEWEST_IMAGES} images: some are set aside",
            received=len(scene.images), remedy="Pass more images, or leave the surrogate out.",
        )  # fmt: skip
    images, levels, owners = surrogate_samples(scene, samples, seed=seed)
    kept_out = held_out(owners, seed=seed)
    aside, training = torch.nonzero(kept_out)[:, 0], torch.nonzero(~kept_out)[:, 0]
    network, _ = fit_classifier(
        images[training],
        levels[training],
        validation=(images[aside], levels[aside]),
        architecture=architecture,
        steps=steps,
        label_smoothing=0.0,
        label_noise=0.0,
        augment=False,
        seed=seed,
    )
    network.requires_grad_(False)
    found = Surrogate(network, 0.0, len(training))
    agreed = (found.score(images[aside]) > 0) == (levels[aside] > 0.5)
    # Balanced over the sides, so that always saying the more frequent one is not faithful.
    sides = [agreed[side] for side in (levels[aside] > 0.5, levels[aside] <= 0.5) if bool(side.any())]
    faithful = float(np.mean([float(side.double().mean()) for side in sides])) if len(sides) == 2 else 0.0
    return Surrogate(network, faithful, len(training))


def surrogate_sides(walked: Sequence[Walked], surrogate: Surrogate) -> Tensor:
    """Whether the surrogate sees each frame on the side of .5 that was asked for, ``(N, L)``."""
    generator = walked[0].generator
    sides = []
    for each in walked:
        small = generator.resized(each.frames.to(each.small)).cpu()
        wanted = torch.tensor(each.table["level"].to_numpy()) > 0.5
        sides.append((surrogate.score(small) > 0) == wanted)
    return torch.stack(sides)


def surrogate_curve(
    walked: Sequence[Walked], surrogate: Surrogate, thresholds: Thresholds
) -> tuple[list[tuple[float, Interval]], Check]:
    """Share of walks that the surrogate sees on the requested side, at every level, and what follows.

    Levels that were not reached count as disagreement. The check is about the two ends, where the side is
    clear; near .5 nobody can agree.

    Returns:
        Pairs (level, share with its Wilson interval), and the check.

    Raises:
        OptionError: The walks are not to the same levels.
    """
    levels = walked[0].table["level"].tolist()
    for others in (each.table["level"].tolist() for each in walked):
        if len(others) != len(levels) or not np.allclose(others, levels, rtol=0, atol=1e-6):
            raise OptionError(
                "walked", "must be to the same levels", received=f"{levels} and {others}",
                remedy="Check walks to other levels apart.",
            )  # fmt: skip
    sides = surrogate_sides(walked, surrogate)
    sides &= torch.stack([torch.tensor(each.table["reached"].to_numpy()) for each in walked])
    curve = [
        (level, wilson_interval(int(column.sum()), len(column)))
        for level, column in zip(levels, sides.T, strict=True)
    ]
    values: dict[str, float | str] = {"faithful": surrogate.faithful, "walks": float(len(walked))}
    values |= {f"agrees at {level:.2f}": share.estimate for level, share in curve}
    if surrogate.faithful < thresholds.surrogate_faithful:
        said = (
            f"The surrogate agrees with the classifier on only {surrogate.faithful:.0%} of held-out "
            "samples: it "
            "cannot be asked."
        )
        return curve, Check("surrogate", "info", said, values)
    worst = min(curve[0][1].estimate, curve[-1][1].estimate)
    status = status_below(worst, thresholds.surrogate_limit, thresholds.surrogate_fail)
    said = (
        f"A network distilled from the classifier sees {curve[0][1].estimate:.0%} of {len(walked)} walks "
        "end on the "
        f"requested side at the lowest level and {curve[-1][1].estimate:.0%} at the highest"
    )
    if status == "fail":
        said += ": the walk moves this classifier alone"
    return curve, Check("surrogate", status, f"{said}.", values)
