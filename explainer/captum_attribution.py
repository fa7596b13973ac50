r"""Progressive exaggeration as a method of captum, with captum's conventions.

Each image is walked to a low and a high level of its target, and the attribution is the signed difference of
the two ends, in the units of the inputs,

.. math:: A = x_{high} - x_{low}

positive where a pixel becomes brighter when the target becomes likelier. With ``slope=True`` it is scaled to

.. math:: A = (s_{high} - s_{low})\, \frac{x_{high} - x_{low}}{\|x_{high} - x_{low}\|^2}

the smallest linear function of the pixels that explains the change of the score along the walk: its unit is
that of a gradient, which is what ``captum.metrics.infidelity`` compares with. It adds up to the change of the
score by construction, so a convergence delta would say nothing, and there is none.

The score of a class is its log-odds against the others; of a single output, or of an output selected by a
tuple, it is the output itself. (Singla et al. 2020, arXiv 1911.00483.)
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from explainer.classifier import Classifier
from explainer.errors import ClassifierError, ImageError, OptionError
from explainer.generators.base import Generator
from explainer.walks import GradientWalk, Scene, Walk
from explainer.walks.base import require_levels

__all__ = ["ProgressiveExaggeration"]

Selection: TypeAlias = int | tuple[int, ...]
CaptumTarget: TypeAlias = Selection | Tensor | list[int] | list[tuple[int, ...]] | None
Images: TypeAlias = Tensor | tuple[Tensor, ...]

SLACK = 0.25
"""How far outside [0, 1] images are clamped: the perturbations of a sensitivity are, a wrong scale is not."""


class ProgressiveExaggeration(Attribution):
    """Attribution by walking images in the latent space of a generator.

    Args:
        forward_func: A module or callable that returns logits, (batch,), (batch, 1), (batch, classes) or more
            dimensions. It is left as it was found.
        generator: A trained generator with the channels of the images, any size.
        mean: What was subtracted from images in [0, 1] to make the inputs: one number or one per channel.
        std: What they were then divided by.
        walk: How to walk; along the gradient when omitted. ``EvolutionWalk()`` needs no gradient.

    Raises:
        OptionError: A generator or walk that is none.

    >>> from explainer.generators.vae import VAE
    >>> method = ProgressiveExaggeration(lambda images: images.mean(dim=(1, 2, 3)), VAE((1, 16, 16), seed=0))
    >>> method.get_name(), method.has_convergence_delta(), method.multiplies_by_inputs
    ('Progressive Exaggeration', False, False)
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        generator: Generator,
        *,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        walk: Walk | None = None,
    ) -> None:
        super().__init__(forward_func)
        for name, value, kind in (("generator", generator, Generator), ("walk", walk, Walk)):
            if not isinstance(value, kind) and (name, value) != ("walk", None):
                raise OptionError(
                    name, f"must be a {kind.__name__}", received=type(value).__name__,
                    remedy='Pass for instance load_generator("faces"), and GradientWalk() or nothing.',
                )  # fmt: skip
        self.generator, self.mean, self.std = generator, mean, std
        self.walk = GradientWalk() if walk is None else walk

    @log_usage(part_of_slo=True)
    @torch.inference_mode(mode=False)
    def attribute(
        self,
        inputs: Images,
        target: CaptumTarget = None,
        additional_forward_args: object = None,
        *,
        levels: tuple[float, float] = (0.05, 0.95),
        ends: Literal["both", "flipped"] = "both",
        slope: bool = False,
        internal_batch_size: int = 64,
    ) -> Images:
        """Signed differences between the ends of the walks.

        Args:
            inputs: (batch, channels, height, width), or a tuple that holds this one tensor.
            target: The output to attribute, as in captum: an index or tuple of indices for all images, a
                tensor or a list of one for each image; None if there is one output per image.
            additional_forward_args: Further arguments of ``forward_func``, one or a tuple. Tensors with one
                row per image follow their images; everything else is passed as it is.
            levels: Probabilities of the target at the two ends.
            ends: ``"both"``; or ``"flipped"``: from the image to the end on the other side of 1/2.
            slope: Scale each attribution to a change of score per unit of the inputs.
            internal_batch_size: Images walked at a time.

        Returns:
            Attributions of the shape, type and place of the inputs; a tuple if they were one. An end that was
            not reached is replaced by the closest frame, with a warning that counts these.

        Raises:
            ImageError: Inputs that are not one batch of images in [0, 1] after ``mean`` and ``std``.
            OptionError: An option outside its range, or a target that fits no output.
            ClassifierError: ``forward_func`` has no gradient that the walk needs, or returns probabilities.
        """
        given = _only(inputs)
        wanted = require_levels(levels)
        if len(wanted) != 2 or ends not in ("both", "flipped") or internal_batch_size < 1:
            raise OptionError(
                "levels, ends, internal_batch_size", "must be two levels, both or flipped, at least 1",
                received=(levels, ends, internal_batch_size), remedy="The defaults are (.05, .95), both, 64."
            )  # fmt: skip
        score = _Score(self.forward_func, _per_image(target, len(given)), additional_forward_args, len(given))
        mean, std = (
            _per_channel(value, name, given) for name, value in (("mean", self.mean), ("std", self.std))
        )
        pixels = _in_range(given.detach().clone().float() * std + mean)
        classifier = Classifier(
            score, kind="binary", mean=mean.flatten().tolist(), std=std.flatten().tolist()
        )
        was_training = self.generator.training
        missed, parts = 0, []
        self.generator.eval()
        try:
            with classifier.frozen():
                classifier.check(pixels[:1])
                for chosen in torch.arange(len(given)).split(internal_batch_size):
                    score.images = chosen
                    part, far = self._walked(classifier, score, pixels[chosen], wanted, std, ends, slope)
                    parts.append(part)
                    missed += far
        finally:
            self.generator.train(was_training)
        if missed:
            warnings.warn(
                f"{missed} of {2 * len(given)} ends were not reached; the closest frames were used",
                stacklevel=2,
            )
        attributions = torch.cat(parts).to(given)
        return (attributions,) if isinstance(inputs, tuple) else attributions

    def _walked(
        self,
        classifier: Classifier,
        score: "_Score",
        images: Tensor,
        levels: Tensor,
        std: Tensor,
        ends: str,
        slope: bool,
    ) -> tuple[Tensor, int]:
        """Differences for some images in [0, 1], and how many ends were not reached."""
        rows = torch.arange(len(images))
        scene = _Scene(self.generator, classifier, classifier.target(1), images, score)
        latents = self.walk(scene, levels).latents
        frames, scores = [], []
        with torch.no_grad():
            for end in (0, 1):
                frames.append(scene.deliver(latents[:, end], rows))
                scores.append(classifier.score(frames[-1], scene.target))
        achieved = scene.target.to_level(torch.stack(scores, dim=1)).cpu()
        far = (achieved - levels).abs() > scene.target.tolerance
        if ends == "flipped":
            start = scene.score0
            for end, own in ((0, start < 0), (1, start >= 0)):  # here the image itself is this end
                frames[end] = torch.where(own.view(-1, 1, 1, 1), images, frames[end])
                scores[end] = torch.where(own, start, scores[end])
                far[:, end] &= ~own.cpu()
        difference = (frames[1] - frames[0]) / std
        if slope:
            length = difference.square().sum(dim=(1, 2, 3)).clamp_min(1e-12)
            difference = difference * ((scores[1] - scores[0]) / length).view(-1, 1, 1, 1)
        return difference, int(far.sum())


class _Scene(Scene):
    """A scene that tells the score which images the frames it is given belong to."""

    def __init__(
        self, generator: Generator, classifier: Classifier, target: Any, images: Tensor, score: "_Score"
    ) -> None:
        self._rows_of = score
        super().__init__(generator, classifier, target, images)

    def deliver(self, z: Tensor, rows: Tensor, *, full: bool = False) -> Tensor:
        self._rows_of.rows = rows
        return super().deliver(z, rows, full=full)


class _Score:
    """Score (batch,) of frames: each frame with the target and the arguments of the image it belongs to.

    Attributes:
        images: Positions in the inputs of the images that are walked.
        rows: For each frame, which of these images it belongs to; None: all to the first.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        targets: list[Selection] | None,
        arguments: object,
        count: int,
    ) -> None:
        self.forward_func, self.targets, self.count = forward_func, targets, count
        packed = arguments if isinstance(arguments, tuple) else (arguments,)
        self.arguments = () if arguments is None else packed
        self.images = torch.arange(count)
        self.rows: Tensor | None = None

    def __call__(self, frames: Tensor) -> Tensor:
        rows = torch.zeros(len(frames), dtype=torch.long) if self.rows is None else self.rows
        where = self.images[rows.cpu()]
        outputs = self.forward_func(frames, *(self._of(argument, where) for argument in self.arguments))
        outputs = getattr(outputs, "logits", outputs)
        if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != len(frames):
            raise ClassifierError(
                "forward_func", f"must return a tensor with one row for each of the {len(frames)} inputs",
                received=getattr(outputs, "shape", type(outputs).__name__),
                remedy="Return logits of shape (batch,), (batch, 1) or (batch, classes).",
            )  # fmt: skip
        if self.targets is None:
            if outputs[0].numel() != 1:
                raise OptionError(
                    "target", "is needed: forward_func returns several outputs", received="None",
                    remedy=f"Pass the index of one of the {outputs.shape[1]} outputs.",
                )  # fmt: skip
            return outputs.flatten()
        targets = [self.targets[index] for index in where.tolist()]
        try:
            if outputs.ndim == 2 and outputs.shape[1] > 1 and all(isinstance(one, int) for one in targets):
                return _log_odds(outputs, torch.tensor(targets, device=outputs.device))
            picked = [(one,) if isinstance(one, int) else one for one in targets]
            chosen = torch.stack([outputs[(row, *one)] for row, one in enumerate(picked)])
        except IndexError as error:
            raise OptionError(
                "target", f"fits no output of shape {tuple(outputs.shape[1:])}", received=targets[0],
                remedy="Pass an index of a class, or a tuple with one index per dimension.",
            ) from error  # fmt: skip
        if chosen.ndim != 1:
            raise OptionError(
                "target", f"must select one number of an output of shape {tuple(outputs.shape[1:])}",
                received=targets[0], remedy="Pass a tuple with one index per dimension.",
            )  # fmt: skip
        return chosen

    def _of(self, argument: object, where: Tensor) -> object:
        """An argument for frames that belong to some of the inputs."""
        if isinstance(argument, Tensor) and argument.ndim > 0 and len(argument) == self.count:
            return argument[where.to(argument.device)]
        return argument


def _log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Log-odds (batch,) of one class for each row against the others."""
    if bool(((classes < 0) | (classes >= logits.shape[1])).any()):
        raise IndexError
    probable = logits.detach()
    if bool((probable >= 0).all() and ((probable.sum(dim=1) - 1).abs() < 1e-4).all()):
        raise ClassifierError(
            "forward_func", "returns probabilities: they are positive and sum to 1",
            received=probable[0].tolist(), remedy="Return the values before the softmax.",
        )  # fmt: skip
    own = logits.gather(1, classes[:, None])
    rest = logits.scatter(1, classes[:, None], -torch.inf).logsumexp(dim=1)
    return own[:, 0] - rest


def _only(inputs: Images) -> Tensor:
    """The one batch of images among the inputs."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(parts) != 1 or not isinstance(parts[0], Tensor) or parts[0].ndim != 4 or not len(parts[0]):
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        raise ImageError(
            "inputs", "must be one tensor (batch, channels, height, width)", received=shapes,
            remedy="Pass what is no image as additional_forward_args.",
        )  # fmt: skip
    if not parts[0].is_floating_point():
        raise ImageError(
            "inputs", "must be floating-point numbers", received=parts[0].dtype, remedy="Divide bytes by 255."
        )
    return parts[0]


def _per_image(target: CaptumTarget, count: int) -> list[Selection] | None:
    """The output to attribute for each image."""
    if target is None:
        return None
    if isinstance(target, Tensor) and target.ndim <= 1 and not target.is_floating_point():
        indices: list[int] = target.flatten().tolist()
        target = indices[0] if len(indices) == 1 else indices
    if isinstance(target, int) or (isinstance(target, tuple) and all(isinstance(one, int) for one in target)):
        return [target] * count
    if (
        isinstance(target, list)
        and len(target) == count
        and all(isinstance(one, int | tuple) for one in target)
    ):
        return list(target)
    raise OptionError(
        "target", f"must be an index, a tuple of indices, or one of these for each of the {count} images",
        received=target, remedy="Pass for instance target=1, or a tensor of class indices.",
    )  # fmt: skip


def _per_channel(value: float | Sequence[float], name: str, images: Tensor) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float32, device=images.device).flatten()
    if len(numbers) not in (1, images.shape[1]) or (name == "std" and not bool((numbers > 0).all())):
        raise OptionError(
            name, f"must be one number or {images.shape[1]}, one per channel", received=value,
            remedy="Pass those the inputs were normalised with; std is above 0.",
        )  # fmt: skip
    return numbers.view(-1, 1, 1)


def _in_range(images: Tensor) -> Tensor:
    low, high = float(images.min()), float(images.max())
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise ImageError(
            "inputs", "must lie in [0, 1] after mean and std",
            received=f"values from {low:.3g} to {high:.3g}",
            remedy="Pass to ProgressiveExaggeration the mean= and std= the inputs were normalised with.",
        )  # fmt: skip
    return images.clamp(0, 1)
