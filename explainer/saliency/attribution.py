"""captum's attributions of the score, one way to call them all.

The method is captum's (Kokhlikyan et al. 2020, arXiv 2009.07896); what is done here is to ask for the right
number: the log-odds of the target with resizing and normalisation inside the graph, in batches, with every
random draw seeded, and the classifier left as it was found. A name followed by ``:smooth`` is SmoothGrad
(Smilkov et al. 2017, arXiv 1706.03825): the mean over noisy copies of the image.

===================  ========  ==================================================================
name                 gradient  reference
===================  ========  ==================================================================
saliency             yes       Simonyan et al. 2014, arXiv 1312.6034
input_x_gradient     yes       Shrikumar et al. 2016, arXiv 1605.01713
integrated_gradients yes       Sundararajan et al. 2017, arXiv 1703.01365
gradient_shap        yes       Lundberg & Lee 2017, arXiv 1705.07874
guided_backprop      yes       Springenberg et al. 2015, arXiv 1412.6806
deconvolution        yes       Zeiler & Fergus 2014, arXiv 1311.2901
deep_lift            yes       Shrikumar et al. 2017, arXiv 1704.02685
grad_cam             yes       Selvaraju et al. 2017, arXiv 1610.02391
occlusion            no        Zeiler & Fergus 2014, arXiv 1311.2901
feature_ablation     no        a grid of 8 x 8 patches, each replaced by the baseline
===================  ========  ==================================================================

The baseline is an image of each channel's mean: black is far from the data where a channel uses a narrow part
of its range.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from explainer.classifier import Classifier, Target
from explainer.errors import OptionError
from explainer.progress import quiet_tqdm
from explainer.saliency.base import SaliencyMap
from explainer.saliency.difference import require_gradient
from explainer.saliency.score_module import ScoreModule, hookable, named_layer, with_modules

__all__ = ["ATTRIBUTIONS", "attribute", "attribution_maps"]

GRID = 8
SMOOTH = ":smooth"
_HOOKS = (nn.ReLU,)
_RULES = (
    nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d, nn.Softmax,
)  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """What one call of captum is given."""

    module: ScoreModule
    images: Tensor
    baseline: Tensor
    reference: Tensor
    layer: nn.Module | None
    steps: int
    batch_size: int


@dataclass(frozen=True)
class Attribution:
    """One of captum's methods.

    Attributes:
        run: From the task to attributions ``(N, C or 1, h, w)``.
        caption: What a high value means; ``{target}`` is filled in.
        signed: Whether the sign has a meaning.
        evidence: Whether a positive value is evidence for the target, see :class:`SaliencyMap`.
        gradient: Whether it needs one.
        modules: Kinds of modules without which captum changes nothing and the map is the plain gradient's.
    """

    run: Callable[[_Task], Tensor]
    caption: str
    signed: bool = True
    evidence: bool = True
    gradient: bool = True
    modules: tuple[type[nn.Module], ...] = ()


def _gradient_method(name: str, **options: object) -> Callable[[_Task], Tensor]:
    def run(task: _Task) -> Tensor:
        from captum import attr

        return getattr(attr, name)(task.module).attribute(task.images, **options)

    return run


def _integrated_gradients(task: _Task) -> Tensor:
    from captum.attr import IntegratedGradients

    return IntegratedGradients(task.module).attribute(
        task.images, baselines=task.baseline, n_steps=task.steps, internal_batch_size=task.batch_size
    )


def _gradient_shap(task: _Task) -> Tensor:
    from captum.attr import GradientShap

    spread = float(0.09 * (task.reference.amax() - task.reference.amin()))
    return GradientShap(task.module).attribute(
        task.images, baselines=task.reference, n_samples=max(1, task.steps // 4), stdevs=spread
    )


def _deep_lift(task: _Task) -> Tensor:
    from captum.attr import DeepLift

    return DeepLift(task.module).attribute(task.images, baselines=task.baseline)


def _grad_cam(task: _Task) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    layer = task.layer
    assert layer is not None  # named_layer found one
    found = LayerGradCam(task.module, layer).attribute(task.images)
    if not isinstance(found, Tensor) or found.ndim != 4:
        raise OptionError(
            "layer", "must have one output (batch, channels, height, width)", received=type(layer).__name__,
            remedy="Name a convolution.",
        )  # fmt: skip
    return LayerAttribution.interpolate(found, tuple(task.images.shape[-2:]), interpolate_mode="bilinear")


def _occlusion(task: _Task) -> Tensor:
    from captum.attr import Occlusion

    channels, *sizes = task.images.shape[1:]
    window = [max(1, size // GRID) for size in sizes]
    strides = [max(1, size // 2) for size in window]
    return Occlusion(task.module).attribute(
        task.images, sliding_window_shapes=(channels, *window), strides=(channels, *strides),
        baselines=task.baseline,
    )  # fmt: skip


def _feature_ablation(task: _Task) -> Tensor:
    from captum.attr import FeatureAblation

    height, width = task.images.shape[-2:]
    rows = torch.arange(height, device=task.images.device) * min(GRID, height) // height
    columns = torch.arange(width, device=task.images.device) * min(GRID, width) // width
    patches = rows[:, None] * min(GRID, width) + columns
    return FeatureAblation(task.module).attribute(
        task.images, feature_mask=patches[None, None], baselines=task.baseline
    )


ATTRIBUTIONS: dict[str, Attribution] = {
    "saliency": Attribution(
        _gradient_method("Saliency", abs=True), "Size of the gradient of the score of {target}.",
        signed=False, evidence=False,
    ),
    "input_x_gradient": Attribution(
        _gradient_method("InputXGradient"), "Intensity times the gradient of the score of {target}."
    ),
    "integrated_gradients": Attribution(
        _integrated_gradients, "Part in the score of {target}, against an image of the channels' means."
    ),
    "gradient_shap": Attribution(
        _gradient_shap, "Part in the score of {target}, against images of the reference, averaged."
    ),
    "guided_backprop": Attribution(
        _gradient_method("GuidedBackprop"), "Gradient of the score of {target}, only where it rises.",
        evidence=False, modules=_HOOKS,
    ),
    "deconvolution": Attribution(
        _gradient_method("Deconvolution"), "Deconvolved score of {target}.", evidence=False, modules=_HOOKS
    ),
    "deep_lift": Attribution(
        _deep_lift, "Part in the score of {target}, against an image of the channels' means.", modules=_RULES
    ),
    "grad_cam": Attribution(_grad_cam, "Where a layer of the classifier finds {target}."),
    "occlusion": Attribution(
        _occlusion, "Loss of score of {target} when a patch is covered.", gradient=False
    ),
    "feature_ablation": Attribution(
        _feature_ablation, "Loss of score of {target} when a cell of a grid is covered.", gradient=False
    ),
}  # fmt: skip


def attribute(
    name: str,
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    reference: Tensor | None = None,
    steps: int = 32,
    smooth_samples: int = 16,
    smooth_noise: float = 0.1,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Attributions of the score by one of captum's methods.

    Args:
        name: A key of :data:`ATTRIBUTIONS`; with ``:smooth`` behind it SmoothGrad of a gradient method.
        classifier: Left as it was found.
        images: ``(N, C, H, W)`` in [0, 1].
        target: What the score is of.
        layer: Of ``grad_cam``: a module of the classifier or its name; the last convolution if None.
        reference: ``(M, C, H, W)``, typical images: the baseline is their mean intensity per channel, and
            ``gradient_shap`` starts from them. By default each image's own mean, and for ``gradient_shap``
            the images.
        steps: Points of the integral of ``integrated_gradients``; ``gradient_shap`` takes a quarter of them.
        smooth_samples: Noisy copies of SmoothGrad.
        smooth_noise: Its standard deviation, as a share of the range of the images.
        batch_size: Images at a time.
        seed: Of everything drawn at random.

    Returns:
        ``(N, C, H, W)`` float32 on the CPU. A map without channels of its own is spread evenly over them.

    Raises:
        OptionError: No such method or layer.
        ClassifierError: A method that needs a gradient, and a classifier that has none.
    """
    base, smooth = name.removesuffix(SMOOTH), name.endswith(SMOOTH)
    method = _method(name, base, smooth)
    quiet_tqdm()
    found = []
    with classifier.frozen(), torch.inference_mode(False), torch.enable_grad(), _seeded(seed), _quiet():
        if method.gradient:
            require_gradient(name, classifier, images)
        asked = with_modules(classifier) if method.modules else classifier
        module = ScoreModule(asked, target)
        with _out_of_place(module):
            place = named_layer(asked, layer) if base == "grad_cam" else None
            for part in images.detach().clone().split(batch_size):
                typical = part if reference is None else reference.to(part)
                axes = (2, 3) if reference is None else (0, 2, 3)
                task = _Task(
                    module=module,
                    images=part.clone().requires_grad_(method.gradient),
                    baseline=typical.mean(dim=axes, keepdim=True).expand_as(part),
                    reference=typical,
                    layer=place,
                    steps=steps,
                    batch_size=batch_size,
                )
                values = (
                    _smoothed(task, name, base, smooth_samples, smooth_noise) if smooth else method.run(task)
                )
                found.append(_per_channel(values.detach().float().cpu(), part.shape))
    return torch.cat(found)


def attribution_maps(
    name: str, classifier: Classifier, images: Tensor, target: Target, **options: object
) -> list[SaliencyMap]:
    """:func:`attribute`, one :class:`SaliencyMap` for each image; the options are the same."""
    values = attribute(name, classifier, images, target, **options)  # type: ignore[arg-type]
    base = name.removesuffix(SMOOTH)
    method = ATTRIBUTIONS[base]
    caption = method.caption.format(target=target.label)
    if name != base:
        caption += " Mean over noisy copies of the image."
    if method.modules and not hookable(with_modules(classifier), method.modules):
        plain = "input times gradient" if base == "deep_lift" else "the plain gradient"
        caption += f" The classifier has no module that captum's rule acts on: this is {plain}."
    return [SaliencyMap(name, each, method.signed, caption, method.evidence) for each in values]


def _method(name: str, base: str, smooth: bool) -> Attribution:
    if base not in ATTRIBUTIONS:
        raise OptionError(
            "saliency",
            "is not a known method",
            received=name,
            remedy=f"Choose from: {', '.join(ATTRIBUTIONS)}.",
        )
    if smooth and (not ATTRIBUTIONS[base].gradient or base == "grad_cam"):
        raise OptionError(
            "saliency", "cannot be smoothed over noisy copies", received=name,
            remedy=f'Choose "{base}", or smooth a gradient: "saliency{SMOOTH}".',
        )  # fmt: skip
    return ATTRIBUTIONS[base]


def _smoothed(task: _Task, name: str, base: str, samples: int, noise: float) -> Tensor:
    """captum's NoiseTunnel around the method; the noise is a share of the range of the images."""
    from captum import attr

    classes = {
        "saliency": "Saliency", "input_x_gradient": "InputXGradient", "guided_backprop": "GuidedBackprop",
        "deconvolution": "Deconvolution", "integrated_gradients": "IntegratedGradients",
        "deep_lift": "DeepLift", "gradient_shap": "GradientShap",
    }  # fmt: skip
    options: dict[str, object] = {}
    if base in ("integrated_gradients", "deep_lift"):
        options["baselines"] = task.baseline
    if base == "integrated_gradients":
        options["n_steps"] = task.steps
    if base == "gradient_shap":
        options |= {"baselines": task.reference, "n_samples": max(1, task.steps // 4)}
    spread = float(noise * (task.images.detach().amax() - task.images.detach().amin()))
    tunnel = attr.NoiseTunnel(getattr(attr, classes[base])(task.module))
    return tunnel.attribute(
        task.images,
        nt_type="smoothgrad",
        nt_samples=samples,
        nt_samples_batch_size=1,
        stdevs=spread,
        **options,
    )


def _per_channel(values: Tensor, shape: torch.Size) -> Tensor:
    """Attributions with the images' channels; what has one channel is spread evenly, so that sums stay."""
    if values.shape[1] == shape[1]:
        return values
    return values.expand(-1, shape[1], -1, -1) / shape[1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """captum draws from the global states of torch and numpy: set them, and put them back."""
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what captum says about hooks it sets and inputs it changes, and nothing else."""
    with warnings.catch_warnings():
        for said in ("Setting backward hooks on ReLU", r"Setting forward, backward hooks", "Input Tensor"):
            warnings.filterwarnings("ignore", message=said)
        yield


@contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Backward hooks and in-place operations exclude each other: switch the latter off, and on again."""
    changed = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    for part in changed:
        part.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in changed:
            part.inplace = True  # type: ignore[assignment]
