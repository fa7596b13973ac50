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
        evidence: Whether a positive value says that the pixel, as it is in this image, speaks for the target
            (input x gradient and its kin). Then pixels are ranked by the signed value, turned to the class
            the image was given; otherwise by the magnitude.
    """

    name: str
    values: Tensor
    signed: bool
    caption: str
    evidence: bool = False

    def summed(self) -> Tensor:
        """The mean over channels, ``(H, W)``: the sum up to a constant, in the units of one channel."""
        return self.values.mean(dim=0)

    def relevance(self) -> Tensor:
        """What pixels are ranked by, ``(H, W)``: the sum over channels, its magnitude unless evidence."""
        total = self.values.sum(dim=0)
        return total if self.evidence else total.abs()
