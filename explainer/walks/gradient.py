"""The default walk: the gradient of the score with respect to the code.

Progressive exaggeration as latent optimisation on the delivered image; compare the trained exaggerator
of Singla et al. 2020 (arXiv 1911.00483) and latent shift (Cohen et al. 2021, arXiv 2102.09475), which
follows the gradient at the start in a straight line.
"""

from torch import Tensor

from explainer.errors import ClassifierError
from explainer.walks.scene import Scene
from explainer.walks.stepping import SteppingWalk

__all__ = ["GradientWalk", "require_gradient"]


class GradientWalk(SteppingWalk):
    """Trust-region steps along the gradient, taken anew at every point.

    Options are those of :class:`SteppingWalk`.
    """

    name = "gradient"

    def look(self, scene: Scene, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        require_gradient(scene, self.name)
        return scene.score_and_gradient(z, rows)

    def slope(self, scene: Scene, z: Tensor, rows: Tensor, previous: Tensor | None, step: int) -> Tensor:
        return scene.score_and_gradient(z, rows)[1]


def require_gradient(scene: Scene, name: str) -> None:
    """Raise for a classifier through which no gradient flows."""
    if not scene.classifier.differentiable:
        raise ClassifierError(
            "classifier",
            f"has no gradient, which the {name} walk needs",
            received=scene.classifier,
            remedy="Pass a torch module or a differentiable callable, or walk without one: EvolutionWalk().",
        )
