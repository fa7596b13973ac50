"""The few walks of an audit that are kept as pictures: the worst, the median and some at random.

An audit walks hundreds of images and keeps numbers of all. To be looked at it keeps, for each attribute, the
walks in which the oracle moved most and the one at the median of that, and for all of them the same walks
drawn at random: an audit that shows its strongest cases only would be no evidence. Memory is bounded: frames
have 8 bits and no side longer than ``LONGEST``, and no more than ``ROOM`` bytes are kept in all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from explainer.bias.walking import Crossing, Watched
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.target import Target
from explainer.walks.base import Scene

__all__ = ["Strip", "choose", "keep_strips"]

LONGEST = 160
ROOM = 96 * 2**20
KINDS = {"worst": 2, "median": 1, "random": 2}


@dataclass(frozen=True, eq=False)
class Strip:
    """One walk as pictures, and what was said of each.

    Attributes:
        row: Number of the image in the audited set.
        classifier: Its name.
        target: In words.
        direction: ``"up"`` or ``"down"``.
        crossed: Whether the walk reached the other side.
        original: (C, H, W), 8 bits.
        frames: The delivered images (L, C, H, W), 8 bits, by ascending level asked for.
        level: The classifier's level of the original.
        levels: Its levels (L,) of the frames.
        oracles: By attribute, the oracle's probability on the bare start and on the L bare frames.
        channel_names: Of the images; None for grey and RGB.
    """

    row: int
    classifier: str
    target: str
    direction: str
    crossed: bool
    original: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    level: float
    levels: tuple[float, ...]
    oracles: Mapping[str, tuple[float, ...]]
    channel_names: tuple[str, ...] | None = None


def choose(crossing: Crossing, seen: Watched, number: int, seed: int) -> dict[str, list[int]]:
    """Positions of the walks to show for one oracle, by the reason they are shown for.

    Only walks that crossed are chosen. The random ones depend on the images and the seed, not on the
    attribute nor on the classifier, so that they can be compared; worst and median may be among them.

    Args:
        crossing: The walks.
        seen: What the oracles say of them.
        number: Of the oracle.
        seed: Of the random ones.
    """
    done = np.flatnonzero(crossing.crossed)
    if not len(done):
        return {kind: [] for kind in KINDS}
    moved = np.abs(seen.end[number] - seen.start[number])[done]
    order = np.argsort(-moved, kind="stable")
    ticket = np.random.default_rng(seed).permutation(int(crossing.rows.max()) + 1)[crossing.rows[done]]
    return {
        "worst": done[order[: KINDS["worst"]]].tolist(),
        "median": [int(done[order[len(order) // 2]])],
        "random": done[np.argsort(ticket)[: KINDS["random"]]].tolist(),
    }


@torch.no_grad()
def keep_strips(
    generator: Generator,
    model: Classifier,
    target: Target,
    name: str,
    images: Tensor,
    crossing: Crossing,
    seen: Watched,
    attributes: Sequence[str],
    positions: Sequence[int],
    *,
    room: int = ROOM,
) -> tuple[Strip, ...]:
    """Draw some walks; as many as there is room for, in the order given.

    Args:
        generator: In evaluation mode.
        model: The classifier that was walked.
        target: What was walked.
        name: Of the classifier.
        images: The images that were walked (N, C, H, W) in [0, 1].
        crossing: Their walks.
        seen: What the oracles say of them, the attributes' first.
        attributes: Names of the attributes.
        positions: Of the walks to draw, among the N; twice the same is drawn once.
        room: Bytes that the pictures may take.
    """
    strips: list[Strip] = []
    for position in dict.fromkeys(positions):
        with model.frozen():
            scene = Scene(generator, model, target, images[position : position + 1].to(generator.latent_mean))
            codes = crossing.path[position]
            delivered = scene.deliver(codes, torch.zeros(len(codes), dtype=torch.long))
        frames = _small(torch.cat([scene.images, delivered]))
        room -= frames.nbytes
        if room < 0:
            break
        strips.append(
            Strip(
                row=int(crossing.rows[position]), classifier=name, target=target.label,
                direction="up" if crossing.direction[position] > 0 else "down",
                crossed=bool(crossing.crossed[position]), original=frames[0], frames=frames[1:],
                level=float(crossing.level[position]),
                levels=tuple(map(float, crossing.levels[position])),
                oracles={
                    attribute: (float(seen.start[number, position]),
                                *map(float, seen.path[number, position]))
                    for number, attribute in enumerate(attributes)
                },
                channel_names=generator.channel_names,
            )
        )  # fmt: skip
    return tuple(strips)


def _small(images: Tensor) -> NDArray[np.uint8]:
    """8-bit images, no side longer than the limit."""
    height, width = images.shape[-2:]
    scale = LONGEST / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        images = functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return (255 * images.clamp(0, 1)).round().byte().cpu().numpy()
