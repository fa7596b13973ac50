r"""The saliency of progressive exaggeration: the absolute difference of the two ends of the walk.

.. math:: S = |x_{high} - x_{low}|

(Singla et al. 2020, arXiv 1911.00483.)
"""

from collections.abc import Sequence

from torch import Tensor

from explainer.saliency.base import SaliencyMap

__all__ = ["difference"]

SAME_LEVEL = 0.01


def difference(frames: Tensor, levels: Sequence[float], original: Tensor, own: float) -> SaliencyMap:
    """Absolute difference between the two ends of the walk: the last and the first frame.

    Where all frames are at one level (only one was asked for, or reached), the original is the other end.

    Args:
        frames: ``(L, C, H, W)``, levels ascending.
        levels: Achieved levels of the frames.
        original: ``(C, H, W)``.
        own: Its level.

    >>> import torch
    >>> dark, bright = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    >>> difference(bright, [0.9], dark[0], 0.2).caption
    'Absolute change of intensity between the original at 0.20 and the frame at 0.90.'
    """
    low, high = levels[0], levels[-1]
    if high - low < SAME_LEVEL:
        other, ends = original, f"the original at {own:.2f} and the frame at {high:.2f}"
    else:
        other, ends = frames[0], f"the frames at {low:.2f} and {high:.2f}"
    return SaliencyMap(
        name="difference",
        values=(frames[-1] - other).abs(),
        signed=False,
        caption=f"Absolute change of intensity between {ends}.",
    )
