r"""The saliency of progressive exaggeration: the absolute difference of the two ends of the walk.

.. math:: S = |x_{high} - x_{low}|

(Singla et al. 2020, arXiv 1911.00483.)
"""

from torch import Tensor

from explainer.saliency.base import SaliencyMap

__all__ = ["difference"]


def difference(frames: Tensor, levels: tuple[float, float]) -> SaliencyMap:
    """Absolute difference between the last and the first frame.

    Args:
        frames: ``(L, C, H, W)``, levels ascending.
        levels: Achieved levels of the first and the last frame, for the caption.
    """
    low, high = levels
    return SaliencyMap(
        name="difference",
        values=(frames[-1] - frames[0]).abs(),
        signed=False,
        caption=f"Absolute change of intensity between the frames at {low:.2f} and {high:.2f}.",
    )
