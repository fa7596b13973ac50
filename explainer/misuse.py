"""Wrong use of a classifier, found by looking at its outputs.

:func:`as_outputs` judges the form of one answer, :func:`check_outputs` what the numbers mean. The latter
looks at the images themselves, at noisy copies of them and at a few extreme images (inverted, black, white,
noise), because outputs of one image prove little: logits of an unsure classifier may well lie in [0, 1].
Probabilities of several classes betray themselves by summing to 1 on all of them. One output that stays in
[0, 1] is pushed out along its gradient, x <- x + (goal - f) g / ||g||^2: a logit leaves the interval, a
probability cannot.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from explainer.errors import ClassifierError, ImageError

__all__ = ["as_outputs", "check_outputs"]

MOST_IMAGES = 4
NOISE = 0.1
PUSHES = 12
ROUNDING = 1e-4  # by which a probability may miss [0, 1]
SUM_ROUNDING = 1e-2  # by which probabilities may miss a sum of 1
SAME = 1e-3  # relative difference between two evaluations that is still numerics

Raw = Callable[[Tensor], Tensor]


def as_outputs(returned: object, batch: int) -> Tensor:
    """Outputs (batch, outputs) of what a model returned for a batch.

    Args:
        returned: Anything; (batch,), (batch, 1) or (batch, outputs) floating-point numbers are right: a
            tensor, an array, nested lists of numbers as JSON has them, or any of these as the ``logits`` of
            what was returned (Hugging Face), or as the only element of a tuple.
        batch: Images the model was given.

    Raises:
        ClassifierError: Something else.

    >>> as_outputs(torch.tensor([0.5, 2.0]), batch=2)
    tensor([[0.5000],
            [2.0000]])
    """
    returned = _unwrapped(returned)
    if isinstance(returned, np.ndarray) and returned.dtype.kind in "fiub":
        returned = torch.tensor(returned)  # a copy: the model may use its array again
    if not isinstance(returned, Tensor):
        raise ClassifierError(
            "classifier",
            "must return a tensor or an array of numbers",
            received=type(returned).__name__,
            remedy="Wrap it, for instance lambda images: model(images)[0].",
        )
    if not returned.is_floating_point():
        raise ClassifierError(
            "classifier",
            "returns whole numbers, which say nothing of how sure it is",
            received=str(returned.dtype),
            remedy="Return its logits, or its probabilities (predict_proba) together with "
            'outputs="probabilities".',
        )
    if returned.ndim in (1, 2) and len(returned) == batch and returned.numel() > 0:
        return returned.reshape(batch, -1)
    raise ClassifierError(
        "classifier",
        "must return outputs of shape (batch,), (batch, 1) or (batch, outputs)",
        received=f"{tuple(returned.shape)} for {batch} image{'s' if batch > 1 else ''}",
        remedy="Keep the batch dimension (squeeze(1), not squeeze()) and average over positions.",
    )


def _unwrapped(returned: object) -> object:
    """The numbers in what a model returned."""
    if isinstance(returned, Mapping) and "logits" in returned:
        returned = returned["logits"]
    elif not isinstance(returned, Tensor | np.ndarray) and getattr(returned, "logits", None) is not None:
        returned = returned.logits  # type: ignore[attr-defined]
    if isinstance(returned, tuple) and len(returned) == 1 and isinstance(returned[0], Tensor | np.ndarray):
        return returned[0]
    if isinstance(returned, list):
        rows = [row if isinstance(row, list) else [row] for row in returned]
        numbers = all(isinstance(value, int | float) for row in rows for value in row)
        if numbers and len({len(row) for row in rows}) == 1:
            return np.array(returned, dtype=np.float64)
    return returned


def check_outputs(raw: Raw, images: Tensor, *, kind: str, outputs: str, differentiable: bool) -> None:
    """Raise for outputs that cannot be explained as they are; return nothing if all is well.

    Args:
        raw: From images (batch, channels, height, width) to raw outputs (batch, outputs).
        images: Real images in [0, 1]; the first four are used.
        kind: ``"binary"``, ``"multiclass"``, ``"multilabel"`` or ``"regression"``.
        outputs: What the outputs are said to be: ``"logits"`` or ``"probabilities"``.
        differentiable: Whether the gradient of ``raw`` reaches the images.

    Raises:
        ImageError: Images outside [0, 1].
        ClassifierError: Outputs that are not finite, differ from call to call or with the other images
            of the batch, are the same for all images, or are not what ``outputs`` says.
    """
    images = images[:MOST_IMAGES].detach()
    low, high = images.min().item(), images.max().item()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ImageError(
            "images",
            "must lie in [0, 1]",
            received=f"values from {low:.4g} to {high:.4g}",
            remedy="Read them with as_images; the classifier's own scale belongs in mean= and std=.",
        )
    with torch.no_grad():
        on_images = raw(images)
        _check_finite(on_images)
        _check_repeatable(on_images, again=raw(images), alone=raw(images[:1]))
        on_probes = torch.cat([on_images, raw(_probes(images))])
    on_probes = on_probes[on_probes.isfinite().all(dim=1)]
    _check_varied(on_probes)
    if kind == "regression":
        return
    if outputs == "probabilities":
        _check_probabilities(on_probes, kind)
    elif _in_unit_interval(on_probes):
        _check_logits(raw, images, on_probes, kind, differentiable)


def _probes(images: Tensor) -> Tensor:
    """Noisy copies of the images and four extreme images."""
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator).to(like)

    noisy = (images + NOISE * (2 * noise(images) - 1)).clamp(0, 1)
    first = images[:1]
    extremes = [1 - first, torch.zeros_like(first), torch.ones_like(first), noise(first)]
    return torch.cat([noisy, *extremes])


def _check_finite(outputs: Tensor) -> None:
    broken = (~outputs.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise ClassifierError(
            "classifier",
            "returns NaN or infinite outputs",
            received=f"{len(broken)} of {len(outputs)} images, the first at index {broken[0]}",
            remedy="Check its weights, and mean= and std=: it is given images in [0, 1].",
        )


def _check_repeatable(outputs: Tensor, *, again: Tensor, alone: Tensor) -> None:
    def differs(first: Tensor, second: Tensor) -> bool:
        return not torch.allclose(first, second, rtol=SAME, atol=SAME * outputs.abs().max().item())

    if differs(outputs, again):
        raise ClassifierError(
            "classifier",
            "gives different outputs for the same images",
            received=f"outputs up to {(outputs - again).abs().max().item():.3g} apart in two calls",
            remedy="Switch off dropout and random augmentation inside it, or pass the nn.Module itself, "
            "which is evaluated in evaluation mode.",
        )
    if differs(outputs[:1], alone):
        raise ClassifierError(
            "classifier",
            "gives an image another output when it is in a batch with others",
            received=f"outputs up to {(outputs[:1] - alone).abs().max().item():.3g} apart",
            remedy="Put its batch normalisation in evaluation mode, or pass the nn.Module itself; outputs "
            "must be normalised within each image, not over the batch.",
        )


def _check_varied(outputs: Tensor) -> None:
    spread = (outputs.amax(dim=0) - outputs.amin(dim=0)).max().item()
    if spread <= 1e-6 * outputs.abs().max().item():
        raise ClassifierError(
            "classifier",
            "returns the same output for different images",
            received=f"{_short(outputs[0])} for {len(outputs)} images, black, white and noise among them",
            remedy="Check that its weights are loaded, and mean=, std= and size= those of its training.",
        )


def _check_probabilities(outputs: Tensor, kind: str) -> None:
    if not _in_unit_interval(outputs):
        raise ClassifierError(
            "outputs",
            'is "probabilities", but values lie outside [0, 1]',
            received=f"values from {outputs.min().item():.4g} to {outputs.max().item():.4g}",
            remedy='Pass outputs="logits".',
        )
    sums = outputs.sum(dim=1)
    if kind == "multiclass" and (sums - 1).abs().max().item() > SUM_ROUNDING:
        raise ClassifierError(
            "outputs",
            'is "probabilities", but those of the classes do not sum to 1',
            received=f"sums from {sums.min().item():.4g} to {sums.max().item():.4g}",
            remedy='Pass kind="multilabel" if each class is answered on its own.',
        )


def _check_logits(raw: Raw, images: Tensor, outputs: Tensor, kind: str, differentiable: bool) -> None:
    """Raise unless outputs that lie in [0, 1] on all probes are logits all the same."""
    received = f"values from {outputs.min().item():.4g} to {outputs.max().item():.4g}"
    sums_to_one = outputs.shape[1] > 1 and (outputs.sum(dim=1) - 1).abs().max().item() < SUM_ROUNDING
    if kind == "multiclass" and sums_to_one:
        raise ClassifierError(
            "outputs",
            'is "logits", but the outputs are probabilities: they lie in [0, 1] and sum to 1',
            received=received,
            remedy='Pass outputs="probabilities", or better return the values before the softmax.',
        )
    if not _leaves_unit_interval(raw, images, differentiable):
        labels = 'kind="multilabel", ' if kind == "multiclass" else ""
        raise ClassifierError(
            "outputs",
            'is "logits", but the outputs are probabilities: they never leave [0, 1]',
            received=received,
            remedy=f'Pass {labels}outputs="probabilities", or better return the values before the sigmoid.',
        )


def _leaves_unit_interval(raw: Raw, images: Tensor, differentiable: bool) -> bool:
    """Whether images, not bound to [0, 1], can be found whose outputs are outside [0, 1]."""
    if not differentiable:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(images.shape, generator=generator).to(images)
        with torch.no_grad():
            return any(not _in_unit_interval(raw(scale * noise)) for scale in (1, 10, 100, 1000))
    for goal in (1.5, -0.5):
        x = images
        for _ in range(PUSHES):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                output = raw(x)
                (gradient,) = torch.autograd.grad(output[:, 0].sum(), x)
            if not _in_unit_interval(output):
                return True
            gap = (goal - output[:, 0].detach()).view(-1, 1, 1, 1)
            length = gradient.square().sum(dim=(1, 2, 3), keepdim=True)
            # Where the gradient has vanished the step would not be finite: stay.
            x = x + torch.where(length > 1e-30, gap * gradient / length.clamp_min(1e-30), 0.0)
    return False


def _in_unit_interval(outputs: Tensor) -> bool:
    """Whether all finite outputs lie in [0, 1]."""
    finite = outputs[outputs.isfinite()]
    return bool(((finite >= -ROUNDING) & (finite <= 1 + ROUNDING)).all())


def _short(row: Tensor) -> str:
    values = ", ".join(f"{value:.4g}" for value in row[:4].tolist())
    return f"({values}{', ...' if len(row) > 4 else ''})"
