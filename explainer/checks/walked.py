"""One image and the walk that was made of it: all that a check or a saliency map may look at."""

from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from explainer.checks.base import Thresholds
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.target import Target
from explainer.walks.scene import Scene

__all__ = ["Picture", "Walked"]


@dataclass(frozen=True)
class Picture:
    """An image and what the classifier says of it.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1], CPU.
        score: Score of the target: log-odds, or a regression's value in interquartile ranges.
        level: Level of the target: a probability, or the value of a regression.
        class_name: The predicted class; empty for a regression.
    """

    image: Tensor
    score: float
    level: float
    class_name: str


@dataclass(frozen=True)
class Walked:
    """One image of a scene after its walk.

    Attributes:
        scene: The scene, which may hold other images too.
        row: Which of its images this is.
        latents: Codes ``(L, D)`` of the frames, on the scene's device.
        frames: The delivered frames ``(L, C, H, W)`` at the size of the image, float32 in [0, 1], CPU.
        table: One row per frame, as :attr:`Explanation.frames` describes it.
        original: The image at its own size.
        bare: Its bare reconstruction at the generator's size.
        thresholds: Where checks turn from pass to limit to fail.
    """

    scene: Scene
    row: int
    latents: Tensor
    frames: Tensor
    table: pd.DataFrame
    original: Picture
    bare: Picture
    thresholds: Thresholds

    @property
    def generator(self) -> Generator:
        return self.scene.generator

    @property
    def classifier(self) -> Classifier:
        return self.scene.classifier

    @property
    def target(self) -> Target:
        return self.scene.target

    @property
    def image(self) -> Tensor:
        """The image ``(1, C, H, W)`` at its own size, on the scene's device."""
        return self.scene.images[self.row : self.row + 1]

    @property
    def small(self) -> Tensor:
        """The image ``(1, C, H, W)`` as the generator sees it."""
        return self.scene.small[self.row : self.row + 1]

    @property
    def z(self) -> Tensor:
        """The code ``(D,)`` of the image."""
        return self.scene.z[self.row]
