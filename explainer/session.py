"""What one call holds on to while it goes through its images: classifier, generator, targets, device."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explainer.assembly import assemble
from explainer.checks.base import require_quantiles
from explainer.classifier import Classifier, Target
from explainer.errors import ClassifierError, GeneratorError, OptionError
from explainer.explanation import Explanation
from explainer.frozen import modules_within
from explainer.generators.base import Generator
from explainer.generators.zoo import fitting_generator, load_generator
from explainer.image import resize
from explainer.saliency.attribution import ATTRIBUTIONS, SMOOTH
from explainer.saliency.difference import require_gradient
from explainer.saliency.methods import WALKED
from explainer.settings import Settings
from explainer.storage import state_sha256
from explainer.walks import Scene, Walk, WalkResult, diverse_walks
from explainer.walks.stepping import SteppingWalk

__all__ = ["Plan", "Session", "require_device"]

REFERENCE_SAMPLES = 256


@dataclass(frozen=True)
class Plan:
    """What an image is walked with. Images of one plan and one size walk together.

    Attributes:
        generator: The generator that fits the image.
        target: What its score is of.
        assumptions: What had to be assumed to find them, sentences.
    """

    generator: Generator
    target: Target
    assumptions: tuple[str, ...] = ()


class Session:
    """A classifier and a generator, brought to one device, and the options of a call.

    Args:
        classifier: As for :func:`explain`; frozen by the caller.
        generator: A generator, the name or folder of one, or ``"auto"``.
        settings: The options.
        device: Where to compute; where the classifier's parameters are when omitted.

    Attributes:
        checked: Whether the classifier has been found sound.
    """

    def __init__(
        self,
        classifier: Classifier | nn.Module | Callable[[Tensor], Any],
        generator: Generator | str | Path,
        settings: Settings,
        device: str | torch.device | None,
    ) -> None:
        self.classifier = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        self.settings = settings
        self.device = _device(device, self.classifier)
        self.generator = _given(generator, self.device)
        self.checked = False
        self._load = functools.cache(load_generator)
        self._targets: dict[tuple[int, torch.Size], tuple[Target, tuple[str, ...]]] = {}

    def check(self, images: Tensor) -> None:
        """Find out, once, whether the classifier can be explained at all."""
        if not self.checked:
            self.classifier.check(images)
            for name in self.settings.saliency:
                base = name.removesuffix(SMOOTH)
                if base == "path_integrated" or (base in ATTRIBUTIONS and ATTRIBUTIONS[base].gradient):
                    require_gradient(name, self.classifier, images)
            self.checked = True

    def plan(self, image: Tensor) -> Plan:
        """What one image ``(1, C, H, W)`` is walked with.

        Raises:
            GeneratorError: No generator fits it.
            ClassifierError: No such target, or an output that is not finite.
            OptionError: Levels that the target does not have, or a quantile the generator does not store.
        """
        generator = self._generator(image)
        target, assumptions = self._target(image, generator)
        self.settings.levels_for(target)
        self._within(generator)
        require_quantiles(generator.quantiles, self.settings.thresholds)
        if self.settings.fidelity and target.measure != "probability":
            raise OptionError(
                "fidelity", "asks whether the class is kept, and the target is no class",
                received=target.level_word,
                remedy="Leave fidelity out, or explain a class.",
            )  # fmt: skip
        with torch.no_grad():
            if not bool(self.classifier.score(image, target).isfinite().all()):
                raise ClassifierError(
                    "classifier", "returns NaN or infinite outputs", received="1 image",
                    remedy="Look at the image, and at mean= and std= of the classifier.",
                )  # fmt: skip
        return Plan(generator, target, assumptions)

    def explain(self, images: Tensor, plan: Plan) -> list[Explanation]:
        """Walk images ``(N, C, H, W)`` of one plan together."""
        levels = self.settings.levels_for(plan.target)
        walk, said = self.settings.walker(differentiable=self.classifier.differentiable)
        settings = self.settings
        scene = Scene(
            plan.generator, self.classifier, plan.target, images,
            strength=settings.detail, allow=settings.allow, preserve=settings.preserve,
            within=self._within(plan.generator),
        )  # fmt: skip
        results = _walked(walk, scene, levels, settings.diverse)
        finish = partial(assemble, scene, levels=levels, walk=walk, assumptions=plan.assumptions + said)
        first = finish(results[0], settings=settings)
        others = [finish(result, settings=_of_another(settings)) for result in results[1:]]
        return [
            replace(explanation, alternatives=tuple(more))
            for explanation, *more in zip(first, *others, strict=True)
        ]

    def most_at_once(self, plan: Plan, shape: torch.Size, frame_bytes: int) -> int:
        """How many images ``(1, C, H, W)`` may walk together if their frames shall fit into so many bytes."""
        return max(1, frame_bytes // (4 * math.prod(shape) * len(self.settings.levels_for(plan.target))))

    def record(self) -> dict[str, Any]:
        """What tells this call from another on the same images, as plain values."""
        generator = self.generator
        return {
            **self.settings.whole_record(),
            "classifier": {
                "sha256": self.classifier.fingerprint,
                "outputs": self.classifier.outputs,
                "preprocessing": self.classifier.preprocessing,
            },
            "generator": "auto" if generator is None else state_sha256(_state(generator)),
        }

    def _within(self, generator: Generator) -> Tensor | None:
        """The directions ``along`` and ``lock`` leave; None if neither was asked for.

        Raises:
            OptionError: The generator has no axes of these names.
        """
        along, lock = self.settings.along, self.settings.lock
        if not along and not lock:
            return None
        if generator.axes is None:
            raise OptionError(
                "along" if along else "lock", "needs a generator with named axes",
                received=f"{generator.source}, which has none",
                remedy="Name them: name_axes(generator, images, Guidance().label(...)).",
            )  # fmt: skip
        return generator.axes.subspace(along, lock)

    def _generator(self, image: Tensor) -> Generator:
        if self.generator is None:
            return fitting_generator(image.cpu(), load=self._load).to(self.device)
        channels = self.generator.shape[0]
        if channels != image.shape[1]:
            raise GeneratorError(
                "generator", f"takes {channels} channels", received=f"image with {image.shape[1]}",
                remedy="Pass an image with those channels, or a generator of this image's.",
            )  # fmt: skip
        return self.generator

    def _target(self, image: Tensor, generator: Generator) -> tuple[Target, tuple[str, ...]]:
        """The target, found once unless it is the class predicted for each image."""
        spec, classifier = self.settings.target, self.classifier
        if spec is None and classifier.kind in ("multiclass", "multilabel"):
            return classifier.target(None, image), ()
        key = (id(generator), image.shape[-2:])
        if key not in self._targets:
            said: tuple[str, ...] = ()
            found = classifier.target(spec, image)
            if found.measure == "value" and found.quartiles is None:
                samples = generator.sample(REFERENCE_SAMPLES, seed=self.settings.seed)
                found = classifier.target(spec, image, reference=_as_large_as(samples, image))
                said = (
                    f"The classifier came without reference values: the median and interquartile range of "
                    f"{found.label} are those of {REFERENCE_SAMPLES} samples of the generator.",
                )
            self._targets[key] = found, said
        return self._targets[key]


def _state(generator: Generator) -> dict[str, Tensor]:
    """All tensors that decide what a generator does, those of its named axes too."""
    axes = {} if generator.axes is None else generator.axes.tensors()
    return {**generator.state_dict(), **{f"axes/{name}": tensor for name, tensor in axes.items()}}


def _of_another(settings: Settings) -> Settings:
    """What is asked of a further walk: what does not depend on the walk is said once, of the first."""
    return replace(settings, saliency=[name for name in settings.saliency if name in WALKED], fidelity=False)


def _walked(walk: Walk, scene: Scene, levels: Tensor, count: int) -> list[WalkResult]:
    """So many different walks of every image of the scene, the most natural first."""
    if count == 1:
        return [walk(scene, levels)]
    if not isinstance(walk, SteppingWalk):
        raise OptionError(
            "diverse", "needs a walk that steps along a slope", received=walk.name,
            remedy='Use walk="gradient" or walk="evolution".',
        )  # fmt: skip
    return diverse_walks(walk, scene, levels, count)


def _as_large_as(samples: Tensor, image: Tensor) -> Tensor:
    return samples if samples.shape[-2:] == image.shape[-2:] else resize(samples, image.shape[-2:])


def _given(generator: Generator | str | Path, device: torch.device) -> Generator | None:
    """The generator asked for, in evaluation mode on the device; None for whichever fits an image."""
    if generator == "auto" and isinstance(generator, str):
        return None
    if not isinstance(generator, Generator | str | Path):
        raise OptionError(
            "generator", "must be a generator, a name or a folder", received=type(generator).__name__,
            remedy='Pass "auto", the name of a zoo generator, a folder, or a TwoStageVAE.',
        )  # fmt: skip
    found = generator if isinstance(generator, Generator) else load_generator(generator)
    return found.eval().to(device)


def require_device(device: str | torch.device) -> torch.device:
    """The device, which must be there.

    Raises:
        OptionError: torch has no such device here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device it does not have
        raise OptionError(
            "device", "cannot be used here", received=device,
            remedy=f"Use cpu ({str(error).splitlines()[0]}).",
        ) from error  # fmt: skip


def _device(device: str | torch.device | None, classifier: Classifier) -> torch.device:
    """The device asked for, else the classifier's own."""
    if device is not None:
        return require_device(device)
    if classifier.device is not None:
        return classifier.device
    modules = modules_within(classifier.model)
    return next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
