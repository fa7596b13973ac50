"""The ends of the walks of one scene, all in one batch: what most checks are about.

A walk has two ends, its frames of the lowest and of the highest level, unless one of them is at the
image's own level, which is no walk. The *far* end is the one whose score moved the most.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explainer.checks.walked import Walked
from explainer.walks.scene import Scene

__all__ = ["Ends", "kept_share"]

LEAST_CHANGE = 1e-3
"""Change of a score that can be divided by."""


@dataclass(frozen=True)
class Ends:
    """Ends of walks, one row each.

    Attributes:
        scene: The scene of all of them.
        rows: Which image of the scene each end belongs to, ``(E,)``.
        image: Which of the walked images that were given each end belongs to, ``(E,)``.
        codes: ``(E, D)``.
        frames: Delivered frames ``(E, C, H, W)`` at the size of the images.
        scores: What the classifier says of the frames, ``(E,)`` float64.
        start: What it says of the images, ``(E,)`` float64.
        wanted: Scores of the levels asked for, ``(E,)`` float64.
    """

    scene: Scene
    rows: Tensor
    image: Tensor
    codes: Tensor
    frames: Tensor
    scores: Tensor
    start: Tensor
    wanted: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, walked: Sequence[Walked]) -> "Ends":
        """Both ends of every walk, the lower one first; all walks must be of one scene."""
        scene = walked[0].scene
        device = scene.images.device
        picked = [
            (image, position)
            for image, each in enumerate(walked)
            for position in sorted({0, len(each.table) - 1})
            if _moved(each, position)
        ]
        table = [walked[image].table.iloc[position] for image, position in picked]
        levels = torch.tensor([float(row["level"]) for row in table], dtype=torch.float64)
        codes = [walked[image].latents[position] for image, position in picked]
        frames = [walked[image].frames[position] for image, position in picked]
        images = [image for image, _ in picked]
        return cls(
            scene=scene,
            rows=torch.tensor([walked[image].row for image in images], dtype=torch.long),
            image=torch.tensor(images, dtype=torch.long),
            codes=torch.stack(codes) if codes else scene.z[:0],
            frames=torch.stack(frames).to(device) if frames else scene.images[:0],
            scores=torch.tensor([float(row["score"]) for row in table], dtype=torch.float64),
            start=torch.tensor([walked[image].original.score for image in images], dtype=torch.float64),
            wanted=scene.target.to_score(levels),
        )

    def pick(self, chosen: Tensor) -> "Ends":
        """Some of the ends."""
        values = {
            name: getattr(self, name)[chosen]
            for name in ("rows", "image", "codes", "frames", "scores", "start", "wanted")
        }
        return Ends(scene=self.scene, **values)

    def far(self) -> "Ends":
        """Of every walk the end whose score moved the most."""
        change = (self.scores - self.start).abs()
        best: dict[int, int] = {}
        for position, image in enumerate(self.image.tolist()):
            if image not in best or change[position] > change[best[image]]:
                best[image] = position
        return self.pick(torch.tensor(sorted(best.values()), dtype=torch.long))

    @property
    def images(self) -> Tensor:
        """The images ``(E, C, H, W)`` at their own size."""
        return self.scene.images[self.rows]

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """What the classifier says of images ``(M, C, H, W)``: ``(M,)`` float64 on the CPU."""
        parts = images.split(self.scene.batch_size)
        return torch.cat(
            [self.scene.classifier.score(part, self.scene.target).double().cpu() for part in parts]
        )


def kept_share(ends: Ends, after: Tensor, start: Tensor | None = None) -> Tensor:
    """How much of the walk's move of the score is left: ``(after - start) / (score - start)``, ``(E,)``.

    Args:
        ends: The ends.
        after: Scores ``(E,)`` of what became of the ends.
        start: Scores of what became of the images; by default those of the images themselves.
    """
    before = ends.start if start is None else start
    return (after - before) / (ends.scores - ends.start)


def _moved(walked: Walked, position: int) -> bool:
    """Whether a frame is further from the image, in score, than a level may be off."""
    target, row = walked.target, walked.table.iloc[position]
    own = walked.original.level
    away = abs(float(row["achieved"]) - own) > walked.thresholds.moved * target.tolerance
    return away and abs(float(row["score"]) - walked.original.score) > LEAST_CHANGE
