"""Every saliency method by name: ours from a walk, captum's from the classifier alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainer.classifier import Classifier, Target
from explainer.errors import OptionError
from explainer.generators.base import Generator
from explainer.saliency.attribution import ATTRIBUTIONS, SMOOTH, attribution_maps
from explainer.saliency.base import SaliencyMap
from explainer.saliency.difference import difference, path_integrated
from explainer.walks import GradientWalk, Scene, Walk

__all__ = ["METHODS", "WALKED", "Walked", "require_methods", "saliency_batch", "saliency_maps", "walk_images"]

WALKED = ("difference", "path_integrated")
"""Methods that are made from a walk."""

METHODS = (*WALKED, *ATTRIBUTIONS)


@dataclass(frozen=True)
class Walked:
    """The frames of one image's walk.

    Attributes:
        frames: ``(L, C, H, W)``, levels ascending.
        levels: Achieved levels of the frames.
        own: Level of the original.
    """

    frames: Tensor
    levels: Sequence[float]
    own: float


@torch.no_grad()
def walk_images(
    generator: Generator,
    classifier: Classifier,
    images: Tensor,
    target: Target,
    levels: Tensor,
    *,
    walk: Walk | None = None,
    batch_size: int = 64,
) -> list[Walked]:
    """Walk several images, for the methods that are made from it.

    Args:
        generator: In evaluation mode.
        classifier: Differentiable; left as it was found.
        images: ``(N, C, H, W)`` in [0, 1].
        target: What the score is of.
        levels: Ascending, see :func:`explainer.walks.base.require_levels`.
        walk: The gradient walk if None.
        batch_size: Images walked together.
    """
    walker = GradientWalk() if walk is None else walk
    found = []
    classifier.check(images[:4])
    with classifier.frozen():
        for part in images.split(batch_size):
            scene = Scene(generator, classifier, target, part, batch_size=batch_size)
            own = classifier.level(part, target).tolist()
            for row, codes in enumerate(walker(scene, levels).latents):
                frames = scene.deliver(codes, torch.full((len(codes),), row))
                found.append(Walked(frames, classifier.level(frames, target).tolist(), own[row]))
    return found


def require_methods(names: object) -> tuple[str, ...]:
    """The names of known methods, each once.

    Raises:
        OptionError: Not a tuple or list of known names.
    """
    known = isinstance(names, tuple | list) and all(
        isinstance(name, str) and name.removesuffix(SMOOTH) in METHODS for name in names
    )
    if not known:
        raise OptionError(
            "saliency", "must be a tuple of known methods", received=names,
            remedy=f"Choose from {', '.join(METHODS)}, a gradient method with {SMOOTH} behind it; "
            "() makes none, on the command line none.",
        )  # fmt: skip
    return tuple(dict.fromkeys(names))  # type: ignore[call-overload]


def saliency_batch(
    names: Sequence[str],
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    walked: Sequence[Walked] | None = None,
    layer: str | nn.Module | None = None,
    reference: Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, list[SaliencyMap]]:
    """Maps of several images by several methods.

    Args:
        names: From :data:`METHODS`; a gradient method with ``:smooth`` behind it is SmoothGrad.
        classifier: Left as it was found.
        images: ``(N, C, H, W)`` in [0, 1].
        target: What the score is of.
        walked: The walk of each image, for ``"difference"`` and ``"path_integrated"``.
        layer: Of ``"grad_cam"``; the last convolution if None.
        reference: Typical images ``(M, C, H, W)`` for baselines.
        batch_size: Images at a time.
        seed: Of everything drawn at random.

    Returns:
        For each name one map per image.

    Raises:
        OptionError: An unknown method, or no walk where one is needed.
        ClassifierError: A method that needs a gradient, and a classifier that has none.
    """
    chosen = require_methods(names)
    needing = [name for name in chosen if name in WALKED]
    if needing and (walked is None or len(walked) != len(images)):
        raise OptionError(
            "walked", f"must be the walk of each image: {needing[0]} is made from it",
            received="None" if walked is None else f"{len(walked)} walks of {len(images)} images",
            remedy="Pass frames and levels, or leave that method out.",
        )  # fmt: skip
    maps: dict[str, list[SaliencyMap]] = {}
    for name in chosen:
        if name in WALKED:
            assert walked is not None  # checked above
            maps[name] = [
                _from_walk(name, walk, image, classifier, target, batch_size)
                for walk, image in zip(walked, images, strict=True)
            ]
        else:
            maps[name] = attribution_maps(
                name, classifier, images, target, layer=layer, reference=reference,
                batch_size=batch_size, seed=seed,
            )  # fmt: skip
    return maps


def saliency_maps(
    names: Sequence[str],
    classifier: Classifier,
    image: Tensor,
    target: Target,
    *,
    frames: Tensor | None = None,
    levels: Sequence[float] = (),
    own: float = 0.5,
    layer: str | nn.Module | None = None,
    reference: Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, SaliencyMap]:
    """Maps of one image ``(C, H, W)`` by several methods; the rest is as in :func:`saliency_batch`.

    Args:
        names: From :data:`METHODS`.
        classifier: Left as it was found.
        image: ``(C, H, W)`` in [0, 1].
        target: What the score is of.
        frames: Delivered frames ``(L, C, H, W)`` of the walk, levels ascending.
        levels: Their achieved levels.
        own: Level of the image itself.
        layer: Of ``"grad_cam"``.
        reference: Typical images for baselines.
        batch_size: Images at a time.
        seed: Of everything drawn at random.
    """
    walked = None if frames is None else [Walked(frames, levels, own)]
    maps = saliency_batch(
        names, classifier, image[None], target, walked=walked, layer=layer, reference=reference,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    return {name: each[0] for name, each in maps.items()}


def _from_walk(
    name: str, walk: Walked, image: Tensor, classifier: Classifier, target: Target, batch_size: int
) -> SaliencyMap:
    if name == "difference":
        return difference(walk.frames, walk.levels, image, walk.own)
    return path_integrated(
        walk.frames, walk.levels, image, walk.own, classifier, target, batch_size=batch_size
    )
