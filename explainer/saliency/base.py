"""A saliency map and what it means."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["SaliencyMap"]


@dataclass(frozen=True)
class SaliencyMap:
    """One map of one image.

    Attributes:
        name: The method.
        values: ``(C, H, W)`` float32 at the size of the image, CPU.
        signed: Whether negative values mean the opposite of positive ones.
        caption: What a high value means, a sentence.
    """

    name: str
    values: Tensor
    signed: bool
    caption: str

    def summed(self) -> Tensor:
        """The mean over channels, ``(H, W)``."""
        return self.values.mean(dim=0)
