r"""How well a generator does, measured on images it has not seen, with a verdict in words.

For every channel, in the generator's normalised units: the mean squared error of ``bare``,
:math:`R^2_c = 1 - \mathrm{MSE}_c / \mathrm{Var}_c` against the mean image, and SSIM. For every latent
dimension: the KL divergence from the prior, in nats. Active units alone do not show a collapse, so the
verdict looks at the information in the code *and* at what is reconstructed.

The KL divergence is the information of images and codes plus what the codes of all images together differ
from the prior (Hoffman & Johnson 2016): :math:`\mathrm{KL} = I(x; z) + \mathrm{KL}[q(z) \| p(z)]`. So the
information lies below it, and above what tells N images apart, which can see no more than log N
(:func:`explainer.generators.objectives.encoded_information`); both ends are given.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from explainer import metrics
from explainer.errors import OptionError
from explainer.generators.base import Generator
from explainer.generators.objectives import ACTIVE_NATS, encoded_information
from explainer.generators.sample_quality import SampleQuality, sample_quality

__all__ = ["Health", "Probe", "measure_health"]

COLLAPSED_NATS = 5.0
BLURRED_R2 = 0.5
FAR_SAMPLES = 2.0
FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """What a linear classifier reads of labels from the codes.

    Attributes:
        accuracy: On images it was not fitted to (five folds), with Wilson's interval.
        most_frequent: The share of the most frequent label, what a guess would reach.
    """

    accuracy: metrics.Interval
    most_frequent: float


@dataclass(frozen=True)
class Health:
    """The state of a generator.

    Attributes:
        images: Number of images measured.
        mse: Per channel, normalised units squared.
        r2: Per channel, 1 is perfect, 0 is no better than the mean image.
        ssim: Per channel, 1 is perfect.
        kl: Per latent dimension, nats; empty where the generator has no posterior variance.
        stages: The same measures of inner stages, by name.
        status: ``"healthy"``, ``"weak"`` or ``"collapsed"``.
        sentence: The verdict in words, with the remedy.
        active: Dimensions with more than a hundredth of a nat; None without posterior variances.
        information: Lower and upper bound on I(x; z) in nats; the lower one can be at most log N.
        samples: Samples of the prior beside the images; None for fewer than 40 images.
        probe: A linear classifier on the codes, if labels were given.
        total_kl: Nats of the whole code, with what belongs to no dimension, as the choice of a component of
            a mixture; None where that is the sum of ``kl``.
        channel_names: Of the generator, if it has any.
    """

    images: int
    mse: tuple[float, ...]
    r2: tuple[float, ...]
    ssim: tuple[float, ...]
    kl: tuple[float, ...]
    stages: dict[str, dict[str, tuple[float, ...]]]
    status: str
    sentence: str
    active: int | None = None
    information: tuple[float, float] | None = None
    samples: SampleQuality | None = None
    probe: Probe | None = None
    total_kl: float | None = None
    channel_names: tuple[str, ...] = ()

    def facts(self) -> list[str]:
        """What was measured beside the channels, as sentences."""
        said = []
        if self.active is not None:
            used = f"{self.active} of {len(self.kl)} dimensions"
            total = "" if self.total_kl is None else f", {self.total_kl:.1f} with the choice of component"
            said.append(
                f"The code holds {sum(self.kl):.1f} nats in {used}{total} (KL divergence from the prior)."
            )
        if self.information is not None:
            low, high = self.information
            full = math.log(self.images)
            limit = f", where {self.images:,} images can show {full:.1f}" if low > 0.95 * full else ""
            said.append(
                f"It tells images apart by at least {low:.1f} nats{limit}, and by at most {high:.1f} "
                "(mutual information of image and code)."
            )
        if self.samples is not None:
            said.append(
                f"Samples are {_interval(self.samples.distance)} from {self.samples.count} images, bare "
                f"reconstructions of as many others {_interval(self.samples.bare)}, these themselves "
                f"{_interval(self.samples.floor)} (Frechet distance of {self.samples.dimensions} local "
                "features)."
            )
        if self.probe is not None:
            said.append(
                f"A linear classifier reads the labels from the code with accuracy {self.probe.accuracy}; "
                f"the most frequent one makes up {self.probe.most_frequent:.3f}."
            )
        return said

    def rows(self, channel_names: Sequence[str] = ()) -> list[tuple[str, str, float, float, float]]:
        """Stage, channel, MSE, R2 and SSIM of every stage and channel, ``bare`` last."""
        names = channel_names or self.channel_names
        whole = {"mse": self.mse, "r2": self.r2, "ssim": self.ssim}
        return [
            (stage, names[channel] if names else str(channel), *values)
            for stage, measured in {**self.stages, "bare": whole}.items()
            for channel, values in enumerate(zip(*(measured[key] for key in whole), strict=True))
        ]

    def _repr_html_(self) -> str:
        """What notebooks show."""
        colour = {"healthy": "#2e7d32", "weak": "#b26a00", "collapsed": "#b3261e"}[self.status]
        verdict = f'<b style="color:{colour}">{html.escape(self.status.capitalize())}.</b>'
        heads = "".join(f"<th>{head}</th>" for head in ("reconstruction", "channel", "MSE", "R²", "SSIM"))
        rows = "".join(
            f"<tr><td>{html.escape(stage)}</td><td>{html.escape(channel)}</td>"
            + "".join(f"<td>{value:.3g}</td>" for value in values)
            + "</tr>"
            for stage, channel, *values in self.rows()
        )
        facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in self.facts())
        return (
            f"<div><p>{verdict} {html.escape(self.sentence)} ({self.images:,} images)</p>"
            f"<table><tr>{heads}</tr>{rows}</table><ul>{facts}</ul></div>"
        )


def _interval(found: metrics.Interval) -> str:
    return f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"


def reconstruction_quality(images: Tensor, reconstructions: Tensor) -> dict[str, tuple[float, ...]]:
    """MSE, R2 and SSIM per channel of ``(N, C, H, W)`` in normalised units."""
    ssim = metrics.ssim(reconstructions.clamp(0, 1), images.clamp(0, 1))
    return {
        "mse": tuple(metrics.mse(reconstructions, images).mean(dim=0).tolist()),
        "r2": tuple(metrics.r2(reconstructions, images).tolist()),
        "ssim": tuple(ssim.mean(dim=0).tolist()),
    }


def _verdict(
    r2: tuple[float, ...],
    information: float | None,
    samples: SampleQuality | None,
    names: tuple[str, ...] = (),
) -> tuple[str, str]:
    if any(not np.isfinite(value) for value in (*r2, information or 0.0)):
        return "collapsed", "The reconstruction is not finite: train again with a smaller learning rate."
    if information is not None and information < COLLAPSED_NATS and float(np.mean(r2)) < BLURRED_R2:
        return "collapsed", (
            f"The code holds only {information:.1f} nats: it has collapsed. The usual cause is a "
            "reconstruction term that is too weak (a fixed sigma of 1, or the mean squared error plus KL): "
            "use the calibrated sigma of VAE, or a smaller beta."
        )
    worst = min(range(len(r2)), key=lambda channel: r2[channel])
    if r2[worst] < BLURRED_R2:
        channel = names[worst] if names else worst
        return "weak", (
            f"Channel {channel} is reconstructed with R2 {r2[worst]:.2f} only: train longer, use a larger "
            "latent_dim, or treat what is seen in this channel with care."
        )
    said = f"Every channel is reconstructed with R2 of at least {math.floor(1000 * r2[worst]) / 1000}."
    if samples is not None and samples.distance.low > FAR_SAMPLES * samples.bare.estimate:
        said += " Its samples are not like images. That matters only to sample: sampler=True, or --sampler."
    return "healthy", said


@torch.no_grad()
def measure_health(
    generator: Generator, images: Tensor, labels: ArrayLike | None = None, *, batch_size: int = 128
) -> Health:
    """Measure a generator on images ``(N, C, H, W)`` in [0, 1] it was not trained on.

    Args:
        generator: The generator.
        images: The images.
        labels: One class for each image, ``(N,)``, for the linear probe.
        batch_size: Images at a time.

    Raises:
        OptionError: Labels that are not one for each image, of at least two classes with five images each.
    """
    classes = None if labels is None else _classes(labels, len(images))
    truth, bare, divergences, totals, codes = [], [], [], [], []
    posteriors: list[tuple[Tensor, Tensor]] = []
    layers: dict[str, list[Tensor]] = {}
    for batch in images.split(batch_size):
        truth.append(generator.normalise(batch))
        bare.append(generator.normalise(generator.bare(batch)))
        for name, reconstruction in generator.stage_reconstructions(batch).items():
            layers.setdefault(name, []).append(reconstruction)
        divergences.append(generator.kl_per_dimension(batch) * len(batch))
        totals.append(generator.total_kl(batch) * len(batch))
        posterior = generator.posterior_of(batch)
        codes.append(generator.encode(batch) if posterior is None else posterior[0])
        posteriors += [] if posterior is None else [posterior]
    target = torch.cat(truth)
    quality = reconstruction_quality(target, torch.cat(bare))
    kl = (torch.stack(divergences).sum(0) / len(images)).tolist() if divergences[0].numel() else []
    total = float(torch.stack(totals).sum() / len(images)) if kl else None
    samples = sample_quality(generator, images, batch_size=batch_size)
    names = tuple(generator.channel_names or ())
    status, sentence = _verdict(quality["r2"], total, samples, names)
    return Health(
        images=len(images),
        kl=tuple(kl),
        stages={name: reconstruction_quality(target, torch.cat(parts)) for name, parts in layers.items()},
        status=status,
        sentence=sentence,
        active=sum(value > ACTIVE_NATS for value in kl) if kl else None,
        information=_information(posteriors, total) if total is not None and posteriors else None,
        samples=samples,
        probe=None if classes is None else _probe(torch.cat(codes), classes),
        channel_names=names,
        total_kl=None if total is None or math.isclose(total, sum(kl), abs_tol=1e-4) else total,
        **quality,
    )


def _information(posteriors: list[tuple[Tensor, Tensor]], kl: float) -> tuple[float, float]:
    """Lower and upper bound on I(x; z), nats."""
    mean, log_variance = (torch.cat(parts).cpu() for parts in zip(*posteriors, strict=True))
    epsilon = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    low = float(encoded_information(mean, log_variance, mean + (0.5 * log_variance).exp() * epsilon))
    return max(low, 0.0), kl


def _classes(labels: ArrayLike, count: int) -> np.ndarray:
    """Labels as whole numbers from 0."""
    values = np.asarray(labels)
    if values.shape != (count,):
        raise OptionError(
            "labels", f"must be one for each of the {count} images", received=f"shape {values.shape}",
            remedy="Pass the classes in the order of the images.",
        )  # fmt: skip
    names, classes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(names) < 2 or counts.min() < FOLDS:
        raise OptionError(
            "labels", f"must be at least two classes with at least {FOLDS} images each",
            received=", ".join(f"{name}: {number}" for name, number in zip(names, counts, strict=True)),
            remedy="Leave rare classes out, or put values that are not classes into bins.",
        )  # fmt: skip
    return classes


def _probe(codes: Tensor, classes: np.ndarray) -> Probe:
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    predicted = cross_val_predict(linear, codes.cpu().double().numpy(), classes, cv=folds)
    right = int((predicted == classes).sum())
    return Probe(
        metrics.wilson_interval(right, len(classes)), float(np.bincount(classes).max() / len(classes))
    )
