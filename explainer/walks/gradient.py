"""The default walk: the gradient of the score with respect to the code.

Progressive exaggeration as latent optimisation on the delivered image; compare the trained exaggerator
of Singla et al. 2020 (arXiv 1911.00483) and latent shift (Cohen et al. 2021, arXiv 2102.09475), which
follows the gradient at the start in a straight line.
"""

from torch import Tensor

from explainer.errors import ClassifierError
from explainer.walks.base import Scene, Walk

__all__ = ["GradientWalk"]


class GradientWalk(Walk):
    """Trust-region steps along the gradient, taken anew at every point.

    Args:
        radius: First trust radius, in prior standard deviations of the code.
        steps: Largest number of steps of one lane.
    """

    name = "gradient"

    def slope(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not scene.classifier.differentiable:
            raise ClassifierError(
                "classifier",
                "has no gradient, which the gradient walk needs",
                received=scene.classifier,
                remedy="Pass a torch module or a differentiable callable.",
            )
        return scene.score_and_gradient(z, rows)
