"""Small calibrated classifiers that are trained here: for the zoo, for oracles, for second opinions.

Two architectures that share no design decision, so that one can be asked for an opinion on what the
other was walked to:

* :class:`ConvNet`: strided 3x3 convolutions, residual, GroupNorm and SiLU, average pooling. Smooth, so
  its gradient is worth walking along.
* :class:`PlainNet`: 5x5 convolutions, max-pooling and ReLU, no normalisation, no residual, a head that
  sees a coarse 4x4 grid instead of an average.

A saturated classifier makes long walks, so :func:`fit_classifier` trains with smoothed labels,
``y (1 - e) + e / K`` (Szegedy et al., CVPR 2016), and divides the outputs by the temperature ``T`` that
minimises the negative log-likelihood of the validation labels (Guo et al., ICML 2017), these taken to be
a little noisy; ``T`` is folded into the last layer, so the trained network is an ordinary one.
"""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from explainer.errors import OptionError, TrainingError
from explainer.metrics import auc

__all__ = ["NETWORKS", "ConvNet", "PlainNet", "binary_metrics", "fit_classifier"]

WARM_UP_STEPS = 100
EMA_DECAY = 0.998
TEMPERATURE_RANGE = (0.05, 20.0)


class ResidualStage(nn.Module):
    """Halve the resolution, then refine with one pre-activation residual convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels_in), channels_in)
        self.reduce = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        self.residual_norm = nn.GroupNorm(_groups(channels_out), channels_out)
        self.residual = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(functional.silu(self.norm(x)))
        return x + self.residual(functional.silu(self.residual_norm(x)))


class ConvNet(nn.Module):
    """Residual network of strided convolutions for images of any size from 16 pixels.

    Args:
        channels: Channels of the images.
        classes: Outputs; 1 is a binary classifier with one logit.
        width: Channels of the first stage; each stage doubles them, up to six times the width.
        depth: Stages; each halves the resolution.

    >>> network = ConvNet(channels=3)
    >>> network(torch.zeros(2, 3, 64, 64)).shape, network.features(torch.zeros(2, 3, 32, 48)).shape
    (torch.Size([2, 1]), torch.Size([2, 96]))
    >>> sum(parameter.numel() for parameter in network.parameters())
    209857
    """

    def __init__(self, channels: int = 3, classes: int = 1, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        _require_positive(channels=channels, classes=classes, width=width, depth=depth)
        self.architecture: dict[str, int] = {
            "channels": channels,
            "classes": classes,
            "width": width,
            "depth": depth,
        }
        widths = [min(width * 2**stage, 6 * width) for stage in range(depth)]
        self.stem = nn.Conv2d(channels, widths[0], 5, stride=2, padding=2)
        pairs = itertools.pairwise(widths)
        self.stages = nn.Sequential(*(ResidualStage(before, after) for before, after in pairs))
        self.norm = nn.GroupNorm(_groups(widths[-1]), widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        x = self.stages(self.stem(2 * images - 1))
        return functional.silu(self.norm(x)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width) in [0, 1]."""
        return self.head(self.features(images))


class PlainNet(nn.Module):
    """Plain 5x5 network with max-pooling, for opinions that are independent of :class:`ConvNet`.

    Args:
        channels: Channels of the images.
        classes: Outputs; 1 is a binary classifier with one logit.
        width: Channels of the first layer; each layer doubles them.
        depth: Layers; each halves the resolution.

    >>> network = PlainNet(channels=1, classes=10)
    >>> network(torch.zeros(2, 1, 40, 40)).shape, network.features(torch.zeros(2, 1, 28, 28)).shape
    (torch.Size([2, 10]), torch.Size([2, 768]))
    """

    def __init__(self, channels: int = 3, classes: int = 1, width: int = 12, depth: int = 3) -> None:
        super().__init__()
        _require_positive(channels=channels, classes=classes, width=width, depth=depth)
        self.architecture: dict[str, int] = {
            "channels": channels,
            "classes": classes,
            "width": width,
            "depth": depth,
        }
        widths = [channels, *(width * 2**layer for layer in range(depth))]
        pairs = itertools.pairwise(widths)
        layers = [nn.Conv2d(before, after, 5, padding=2) for before, after in pairs]
        for layer in layers:
            # Without normalisation torch's default initialisation lets the signal die out.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(widths[-1] * 16, classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        x = 2 * images - 1
        for layer in self.layers:
            x = functional.max_pool2d(functional.relu(layer(x)), 2)
        return functional.adaptive_avg_pool2d(x, 4).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width) in [0, 1]."""
        return self.head(self.features(images))


NETWORKS: dict[str, type[ConvNet] | type[PlainNet]] = {"convnet": ConvNet, "plain": PlainNet}


def fit_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    validation: tuple[Tensor, Tensor],
    architecture: str = "convnet",
    classes: int = 1,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    label_smoothing: float = 0.05,
    label_noise: float = 0.02,
    weights: Tensor | None = None,
    augment: bool = True,
    flip: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> tuple[ConvNet | PlainNet, dict[str, Any]]:
    """Train a small calibrated classifier; the same seed gives the same network.

    Args:
        images: Training images (number, channels, height, width), uint8 or float in [0, 1].
        labels: (number,) class indices, or for one output probabilities in [0, 1] as soft targets.
        validation: Images and labels of the same kind, for the temperature and the report.
        architecture: A key of :data:`NETWORKS`.
        classes: Outputs; 1 is a binary classifier with one logit.
        steps: Optimiser steps (AdamW, warm-up and cosine, exponential moving average of the weights).
        batch_size: Images per step.
        learning_rate: Peak learning rate.
        label_smoothing: Share of each label that is spread evenly over the classes, in [0, 1).
        label_noise: Share of the validation labels taken to be random when the temperature is chosen, in
            [0, 1): labels are never all right, and it keeps scores on easy images from running away.
        weights: (number,) relative frequency with which each image is drawn; evenly when omitted.
        augment: Shift, change brightness and contrast, and blank a small square at random.
        flip: Mirror half of the images left to right; only together with ``augment``.
        seed: Seed of the initialisation, the batches and the augmentation.
        device: Where to train; the network is returned there.
        progress: Called with the step and its loss after each step.

    Returns:
        The network in evaluation mode, and a report with the step counts, the temperature and the
        metrics on the validation images.

    Raises:
        OptionError: An option outside its range, or images and labels that do not belong together.
        TrainingError: More than one step in ten had a loss or a gradient that is not finite.
    """
    _check_options(images, labels, validation, architecture, classes, steps, batch_size, weights)
    _check_shares(label_smoothing=label_smoothing, label_noise=label_noise)
    device = torch.device(device)
    # Modules initialise from the global random state: fork it, so that the caller's is untouched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = NETWORKS[architecture](channels=images.shape[1], classes=classes).to(device).train()
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.ones(len(images)) if weights is None else weights.double()
    skipped = 0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps)
        chosen = torch.multinomial(draw, batch_size, replacement=True, generator=generator)
        batch = as_float(images[chosen])
        if augment:
            batch = augmented(batch, generator, flip=flip)
        targets = labels[chosen].to(device)
        loss = _loss(network(batch.to(device)), targets, label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if torch.isfinite(loss) and torch.isfinite(norm):
            optimiser.step()
            _average_into(averaged, network, min(EMA_DECAY, (1 + step) / (10 + step)))
        else:
            skipped += 1
            if skipped > max(10, steps // 10):
                raise TrainingError(
                    "images",
                    "gave steps that are not finite",
                    received=f"{skipped} of the first {step + 1} steps",
                    remedy="Look for NaN in the images and labels, or lower learning_rate.",
                )
        if progress is not None:
            progress(step + 1, loss.item())
    averaged.eval()
    outputs = _outputs(averaged, validation[0].to(device)).cpu()
    temperature = fit_temperature(outputs, validation[1], label_noise=label_noise)
    with torch.no_grad():
        averaged.head.weight.div_(temperature)
        averaged.head.bias.div_(temperature)
    report = {
        "architecture": architecture,
        "steps": steps,
        "skipped_steps": skipped,
        "batch_size": batch_size,
        "label_smoothing": label_smoothing,
        "label_noise": label_noise,
        "seed": seed,
        "temperature": temperature,
        "validation": _metrics(outputs / temperature, validation[1]),
    }
    return averaged.requires_grad_(True), report


def as_float(images: Tensor) -> Tensor:
    """Images in [0, 1] as float32; uint8 is divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def augmented(images: Tensor, generator: torch.Generator, *, flip: bool = True) -> Tensor:
    """Randomly mirrored, shifted, re-lit and partly blanked copies of the images, all on the CPU.

    Args:
        images: (batch, channels, height, width) in [0, 1].
        generator: Source of all randomness.
        flip: Mirror half of the images left to right.

    Returns:
        Images of the same shape in [0, 1].
    """
    batch, channels, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator)

    def shifted(length: int) -> Tensor:
        reach = max(1, length // 16)
        offsets = torch.randint(-reach, reach + 1, (batch, 1), generator=generator)
        return (torch.arange(length) + offsets).clamp(0, length - 1)

    rows, columns = shifted(height), shifted(width)
    if flip:
        mirrored = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = rows[:, :, None] * width + columns[:, None, :]
    moved = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, channels, -1))
    moved = moved.view_as(images)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    lit = (moved - mean) * uniform(0.7, 1.3) + mean + uniform(-0.15, 0.15)
    side_y, side_x = max(1, height // 5), max(1, width // 5)
    top, left = uniform(-1, 1) * height, uniform(0, 1) * width  # above the image half of the time
    y, x = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    blank = (y >= top) & (y < top + side_y) & (x >= left) & (x < left + side_x)
    return torch.where(blank, mean, lit).clamp(0, 1)


def fit_temperature(outputs: Tensor, labels: Tensor, *, label_noise: float = 0.0) -> float:
    """Temperature by which to divide outputs (number, classes) so that their log-loss is smallest.

    Args:
        outputs: Logits (number, classes).
        labels: (number,) class indices, or for one output probabilities.
        label_noise: Share of the labels taken to be random.

    >>> overconfident = torch.tensor([[8.0], [8.0], [8.0], [-8.0]])
    >>> round(fit_temperature(overconfident, torch.tensor([1, 1, 0, 0])), 2)  # right in three of four
    7.28
    """

    def loss(log_temperature: float) -> float:
        return _loss(outputs.double() / math.exp(log_temperature), labels, label_noise).item()

    low, high = (math.log(bound) for bound in TEMPERATURE_RANGE)
    return math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x)


def binary_metrics(scores: Tensor, labels: Tensor, *, bins: int = 15) -> dict[str, float]:
    """Accuracy, area under the ROC curve, log-loss and calibration error of log-odds.

    The expected calibration error is sum_b n_b / n |mean p_b - mean y_b| over bins of equal width of the
    predicted probability (Naeini et al., AAAI 2015).

    Args:
        scores: Log-odds of the positive class (number,).
        labels: (number,) 0 or 1; probabilities are cut at 0.5.
        bins: Bins of the calibration error.

    Returns:
        ``n``, ``accuracy``, ``auc`` (NaN if only one class is present), ``log_loss``, ``ece``, and of the
        absolute score the median, the 99th percentile and the share above 6.

    >>> metrics = binary_metrics(torch.tensor([2.0, -1.0, 0.5, -3.0]), torch.tensor([1, 0, 0, 0]))
    >>> metrics["n"], metrics["accuracy"], metrics["auc"], round(metrics["ece"], 4)
    (4, 0.75, 1.0, 0.2645)
    """
    log_odds = scores.detach().double().flatten().cpu()
    score, probability = log_odds.numpy(), log_odds.sigmoid().numpy()
    label = (labels.detach().double().flatten().cpu().numpy() > 0.5).astype(int)
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=probability - label, minlength=bins)
    return {
        "n": len(label),
        "accuracy": float(((score > 0) == label).mean()),
        "auc": auc(label, score),
        "log_loss": float(np.logaddexp(0, np.where(label == 1, -score, score)).mean()),
        "ece": float(np.abs(gaps).sum() / len(label)),
        "score_median": float(np.median(np.abs(score))),
        "score_99": float(np.quantile(np.abs(score), 0.99)),
        "score_above_6": float((np.abs(score) > 6).mean()),
    }


def _metrics(outputs: Tensor, labels: Tensor) -> dict[str, float]:
    if outputs.shape[1] == 1:
        return binary_metrics(outputs[:, 0], labels)
    accuracy = (outputs.argmax(1) == labels).double().mean().item()
    return {"n": len(labels), "accuracy": accuracy, "log_loss": _loss(outputs, labels, 0.0).item()}


def _loss(outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    if outputs.shape[1] > 1:
        return functional.cross_entropy(outputs, labels.long(), label_smoothing=label_smoothing)
    targets = labels.to(outputs.dtype) * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets)


@torch.no_grad()
def _outputs(network: nn.Module, images: Tensor, batch_size: int = 256) -> Tensor:
    return torch.cat([network(as_float(batch)) for batch in images.split(batch_size)])


def _schedule(step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / min(WARM_UP_STEPS, steps))
    return warm_up * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _average_into(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for target, source in zip(averaged.parameters(), network.parameters(), strict=True):
        target.lerp_(source, 1 - decay)


def _groups(channels: int) -> int:
    return math.gcd(channels, 8)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise OptionError(name, "must be at least 1", received=value, remedy=f"Pass {name}=1 or more.")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise OptionError(name, "must lie in [0, 1)", received=share, remedy="Use .05, or 0 for none.")


def _check_options(
    images: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor],
    architecture: str,
    classes: int,
    steps: int,
    batch_size: int,
    weights: Tensor | None,
) -> None:
    if architecture not in NETWORKS:
        raise OptionError(
            "architecture",
            "is unknown",
            received=architecture,
            remedy=f"Choose one of {', '.join(NETWORKS)}.",
        )
    _require_positive(classes=classes, steps=steps, batch_size=batch_size)
    for name, pictures, answers in (("labels", images, labels), ("validation", *validation)):
        if pictures.ndim != 4 or answers.shape != pictures.shape[:1] or len(answers) == 0:
            raise OptionError(
                name,
                "must hold one label for each image of a batch (number, channels, height, width)",
                received=f"images {tuple(pictures.shape)} and labels {tuple(answers.shape)}",
                remedy="Pass as many labels as images, at least one.",
            )
        low, high = answers.min().item(), answers.max().item()
        if not 0 <= low <= high <= max(1, classes - 1):
            raise OptionError(
                name,
                f"must lie in 0 ... {max(1, classes - 1)} for {classes} output(s)",
                received=f"labels from {low:g} to {high:g}",
                remedy="Number the classes from 0 and set classes= to their count (1 if there are two).",
            )
    if weights is not None and (
        weights.shape != labels.shape or not (weights >= 0).all() or weights.sum() == 0
    ):
        raise OptionError(
            "weights",
            "must hold one non-negative weight for each image, not all zero",
            received=f"shape {tuple(weights.shape)} for {len(labels)} images",
            remedy="Pass weights of the shape of the labels.",
        )
