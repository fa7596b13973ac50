"""Measures of images, feature sets, rates and means, as pure functions.

Errors of images (``x`` an image, ``y`` its reference, ``c`` a channel)::

    MSE_c = mean over pixels of (x_c - y_c)^2
    R2_c  = 1 - MSE_c / Var_c         Var_c: mean squared deviation of the references from the mean image
    SSIM  = (2 mu_x mu_y + C1)(2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(s_x^2 + s_y^2 + C2))

with moments in a Gaussian window (11 pixels, sigma 1.5), C1 = (.01 L)^2, C2 = (.03 L)^2 and L the data
range (Wang et al., IEEE TIP 13:600, 2004). Two Gaussians are apart by the squared Frechet distance
(Dowson & Landau, J. Multivariate Anal. 12:450, 1982)::

    d^2 = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

Rates have Wilson's interval and differences of two independent rates Newcombe's, which keep their
coverage near 0 and 1 where a percentile bootstrap does not. Repeated people or patients are resampled
as a whole (cluster bootstrap). A measure that is undefined is NaN where this is documented and an error
otherwise; NaN in the data is an error, never dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from explainer.errors import ImageError, OptionError

__all__ = [
    "Interval",
    "auc",
    "bootstrap_mean",
    "cluster_bootstrap",
    "frechet_distance",
    "frechet_distance_of_gaussians",
    "mse",
    "newcombe_interval",
    "r2",
    "ssim",
    "wilson_interval",
]

SSIM_WINDOW = 11


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Args:
        estimate: The value on the data as they are.
        low: Lower bound.
        high: Upper bound.
        confidence: Nominal coverage, e.g. .95.

    >>> print(Interval(0.5, 0.4, 0.6, 0.95))
    0.500 [0.400, 0.600]
    """

    estimate: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mse(images: Tensor, references: Tensor) -> Tensor:
    """Mean squared error of every channel of every image.

    Args:
        images: (N, C, H, W), in any units.
        references: (N, C, H, W), in the same units.

    Returns:
        (N, C); ``.mean(0)`` is MSE_c of the batch. Differentiable.

    Raises:
        ImageError: If the two are not batches of one shape.

    >>> mse(torch.full((1, 2, 4, 4), 0.5), torch.tensor([0.5, 0.3])[None, :, None, None].expand(1, 2, 4, 4))
    tensor([[0.0000, 0.0400]])
    """
    _check_pair(images, references)
    return (images - references).square().mean((2, 3))


def r2(images: Tensor, references: Tensor, *, mean_image: Tensor | None = None) -> Tensor:
    """Share of the references' variance that the images hold, per channel, over the whole batch.

    0 is what the mean image scores in place of every image (the sign of a collapsed generator), 1 is
    perfect, below 0 is worse than the mean image. Comparable with the explained variance of a PCA.

    Args:
        images: (N, C, H, W), in any units.
        references: (N, C, H, W), in the same units.
        mean_image: (C, H, W), e.g. of the training images; by default the mean of ``references``,
            which needs many of them.

    Returns:
        (C,); NaN for a channel in which the references do not vary. Differentiable.

    Raises:
        ImageError: If shapes do not agree.

    >>> references = torch.rand(50, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> r2(references.mean(0).expand(50, 2, 4, 4), references).abs() < 1e-6
    tensor([True, True])
    """
    _check_pair(images, references)
    centre = references.mean(0) if mean_image is None else mean_image
    if centre.shape != references.shape[1:]:
        raise ImageError(
            "mean_image",
            f"must have the shape {tuple(references.shape[1:])} of one image",
            received=tuple(centre.shape),
            remedy="Pass the mean over the training images, references.mean(0).",
        )
    variance = (references - centre).square().mean((0, 2, 3))
    # A constant reference leaves rounding in its mean; that is no variance.
    rounding = (4 * torch.finfo(references.dtype).eps * references.abs().amax((0, 2, 3))) ** 2
    ratio = 1 - (images - references).square().mean((0, 2, 3)) / variance
    return torch.where(variance > rounding, ratio, torch.full_like(ratio, float("nan")))


def ssim(images: Tensor, references: Tensor, *, data_range: float | Tensor = 1.0) -> Tensor:
    """Structural similarity of every channel of every image.

    Equal to ``skimage.metrics.structural_similarity(..., gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``: only windows that lie inside the image count.

    Args:
        images: (N, C, H, W), height and width at least 11 pixels.
        references: (N, C, H, W).
        data_range: Largest minus smallest possible value: one number, or one per channel (C,).

    Returns:
        (N, C), at most 1. Differentiable.

    Raises:
        ImageError: If the two are not batches of one shape or smaller than the window.
        OptionError: If ``data_range`` is not positive.

    >>> noise = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> round(ssim(noise, noise).item(), 4), round(ssim(noise, 1 - noise).item(), 2)
    (1.0, -0.98)
    """
    _check_pair(images, references)
    channels = images.shape[1]
    if min(images.shape[2:]) < SSIM_WINDOW:
        raise ImageError(
            "images",
            f"must be at least {SSIM_WINDOW} pixels high and wide for SSIM",
            received=tuple(images.shape),
            remedy="Enlarge the images first or use mse().",
        )
    span = torch.as_tensor(data_range, dtype=images.dtype, device=images.device)
    if span.numel() not in (1, channels) or not (span > 0).all() or not span.isfinite().all():
        raise OptionError(
            "data_range",
            f"must be one positive number, or one for each of {channels} channels",
            received=data_range,
            remedy="Pass 1.0 for images in [0, 1].",
        )
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    window = torch.exp(-((offsets / 1.5) ** 2) / 2)
    window = window / window.sum()

    def blur(values: Tensor) -> Tensor:
        flat = values.flatten(0, 1)[:, None]
        flat = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
        return flat[:, 0].unflatten(0, values.shape[:2])

    # (Co)variances do not depend on the offset; near zero mean, float32 does not cancel.
    offset = references.mean((2, 3), keepdim=True)
    x, y = images - offset, references - offset
    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    spread = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    mean_x, mean_y = mean_x + offset, mean_y + offset
    c1, c2 = ((k * span).square().reshape(1, -1, 1, 1) for k in (0.01, 0.03))
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (spread + c2))
    return similarity.mean((2, 3))


def frechet_distance(features: ArrayLike, reference_features: ArrayLike) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features.

    **Never call it FID** unless the features are those of the Inception network of that paper; with a
    local classifier's features it is "FD-local". It is biased upwards for few images, so compare only
    values from equal numbers of them.

    Args:
        features: (N, F), N at least 2, on any scale.
        reference_features: (M, F), M at least 2.

    Returns:
        The distance, not negative, in squared units of the features. Singular covariances (fewer
        images than features) are no difficulty.

    Raises:
        OptionError: If shapes do not agree or a value is not finite.

    >>> features = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet_distance(features, features + [2.0, 0.0, 0.0]), 6)
    4.0
    """
    means, factors = [], []
    for argument, given in (("features", features), ("reference_features", reference_features)):
        values = _matrix(argument, given)
        if len(values) < 2:
            raise OptionError(
                argument, "must hold at least 2 rows", received=values.shape, remedy="Pass more images."
            )
        means.append(values.mean(0))
        # R'R is the covariance, never formed: squaring would halve the digits.
        factors.append(np.linalg.qr(values - values.mean(0), mode="r") / np.sqrt(len(values) - 1))
    return _frechet(means[0], factors[0], means[1], factors[1], "reference_features")


def frechet_distance_of_gaussians(
    mean: ArrayLike, covariance: ArrayLike, reference_mean: ArrayLike, reference_covariance: ArrayLike
) -> float:
    """Squared Frechet distance between two Gaussians given by their moments, e.g. stored ones.

    Args:
        mean: (F,).
        covariance: (F, F), symmetric, positive semi-definite.
        reference_mean: (F,).
        reference_covariance: (F, F).

    Returns:
        The distance, not negative; in one dimension (m_1 - m_2)^2 + (s_1 - s_2)^2.

    Raises:
        OptionError: If shapes do not agree, a value is not finite or a matrix is no covariance.

    >>> round(frechet_distance_of_gaussians([0.0], [[4.0]], [3.0], [[1.0]]), 6)
    10.0
    """
    means, factors = [], []
    given = (("", mean, covariance), ("reference_", reference_mean, reference_covariance))
    for prefix, centre, spread in given:
        matrix = _matrix(f"{prefix}covariance", spread)
        vector = _matrix(f"{prefix}mean", np.atleast_2d(np.asarray(centre)))[0]
        scale = max(float(np.abs(matrix).max(initial=0)), np.finfo(float).tiny)
        if matrix.shape != (len(vector),) * 2 or np.abs(matrix - matrix.T).max() > 1e-6 * scale:
            raise OptionError(
                f"{prefix}covariance",
                f"must be a symmetric matrix of the mean's length {len(vector)}",
                received=f"shape {matrix.shape}",
                remedy="Pass np.cov(features, rowvar=False).",
            )
        eigenvalues, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        if eigenvalues[0] < -1e-6 * scale:
            raise OptionError(
                f"{prefix}covariance",
                "must be positive semi-definite",
                received=f"an eigenvalue of {eigenvalues[0]:.3g}",
                remedy="Pass np.cov(features, rowvar=False).",
            )
        means.append(vector)
        factors.append(np.sqrt(np.maximum(eigenvalues, 0))[:, None] * vectors.T)
    return _frechet(means[0], factors[0], means[1], factors[1], "reference_mean")


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Rate with Wilson's score interval (J. Am. Stat. Assoc. 22:209, 1927).

    Args:
        successes: Number of successes.
        trials: Number of trials, at least 1.
        confidence: Coverage in (0, 1).

    Returns:
        The rate and its bounds in [0, 1].

    Raises:
        OptionError: If the counts are impossible.

    >>> print(wilson_interval(0, 200))
    0.000 [0.000, 0.019]
    """
    _check_confidence(confidence)
    for argument, count in (("successes", successes), ("trials", trials)):
        if not float(count).is_integer():
            raise OptionError(argument, "must be a whole number", received=count, remedy="Pass a count.")
    if trials < 1:
        problem = "must be at least 1: the rate of an empty group is undefined"
        raise OptionError("trials", problem, received=trials, remedy="Report the group as empty.")
    if not 0 <= successes <= trials:
        problem = f"must lie between 0 and trials = {trials}"
        raise OptionError("successes", problem, received=successes, remedy="Pass a count, not a rate.")
    bounds = stats.binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(bounds.low), float(bounds.high), confidence)


def newcombe_interval(
    successes: int, trials: int, reference_successes: int, reference_trials: int, *, confidence: float = 0.95
) -> Interval:
    """Difference of two independent rates, rate - reference rate, with Newcombe's interval.

    Method 10 of Newcombe (Stat. Med. 17:873, 1998), a hybrid of the two Wilson intervals [l, u]::

        d - sqrt((p_1 - l_1)^2 + (u_2 - p_2)^2)  ...  d + sqrt((u_1 - p_1)^2 + (p_2 - l_2)^2)

    Not for two rates on the same images: those are paired.

    Args:
        successes: Number of successes of the first group.
        trials: Size of the first group.
        reference_successes: Number of successes of the group it is compared with.
        reference_trials: Size of that group.
        confidence: Coverage in (0, 1).

    Returns:
        The difference and its bounds in [-1, 1].

    Raises:
        OptionError: If the counts are impossible.

    >>> interval = newcombe_interval(56, 70, 48, 80)  # the paper's example (a)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.0524, 0.3339)
    """
    rate = wilson_interval(successes, trials, confidence=confidence)
    reference = wilson_interval(reference_successes, reference_trials, confidence=confidence)
    difference = rate.estimate - reference.estimate
    below = np.hypot(rate.estimate - rate.low, reference.high - reference.estimate)
    above = np.hypot(rate.high - rate.estimate, reference.estimate - reference.low)
    return Interval(difference, float(difference - below), float(difference + above), confidence)


def bootstrap_mean(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
    method: Literal["BCa", "percentile", "basic"] = "BCa",
) -> Interval:
    """Mean of independent values with a bootstrap interval (``scipy.stats.bootstrap``).

    For rates use ``wilson_interval``, for repeated people or patients ``cluster_bootstrap``.

    Args:
        values: (N,), N at least 2, e.g. one paired difference per image.
        confidence: Coverage in (0, 1).
        resamples: Number of resamples.
        seed: Seed of the resampling.
        method: Kind of interval; BCa corrects for bias and skew (Efron, 1987).

    Returns:
        The mean and its bounds; all three are equal if the values are.

    Raises:
        OptionError: If there are fewer than 2 values or one is not finite.

    >>> print(bootstrap_mean(np.arange(20.0)))
    9.500 [6.950, 11.950]
    """
    _check_confidence(confidence)
    numbers = _vector("values", values, at_least=2)
    mean = float(numbers.mean())
    if np.ptp(numbers) == 0:  # BCa is undefined: the jackknife does not vary
        return Interval(float(numbers[0]), float(numbers[0]), float(numbers[0]), confidence)
    result = stats.bootstrap(
        (numbers,),
        np.mean,
        vectorized=True,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(numbers)),  # bounds the memory, jackknife included
        method=method,
        rng=np.random.default_rng(seed),
    )
    bounds = result.confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high), confidence)


def cluster_bootstrap(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    statistic: Callable[[NDArray], float] = np.mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Statistic of values that come in groups, with a percentile interval over resampled groups.

    Whole groups are drawn with replacement, with all their rows, so several images of one person do
    not pass for independent evidence. With fewer than about 20 groups the interval is too narrow.

    Args:
        values: (N,) or (N, K): one row per image.
        groups: (N,): person or patient of each row.
        statistic: Function from resampled rows to a number, such as
            ``lambda rows: auc(rows[:, 0], rows[:, 1])``.
        confidence: Coverage in (0, 1).
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The statistic and its bounds; the bounds are NaN if the statistic is NaN in any resample.

    Raises:
        OptionError: If there are fewer than 2 groups, lengths differ or a value is not finite.

    >>> people = np.repeat(np.arange(25), 4)
    >>> copies = np.repeat(np.random.default_rng(0).normal(size=25), 4)  # 4 equal images of each person
    >>> print(cluster_bootstrap(copies, people))
    -0.073 [-0.423, 0.256]
    >>> print(bootstrap_mean(copies))  # as if they were 100 people
    -0.073 [-0.244, 0.090]
    """
    _check_confidence(confidence)
    rows = np.asarray(values, dtype=np.float64)
    _vector("values", rows.ravel(), at_least=1)
    members = np.asarray(groups)
    if members.ndim != 1 or rows.ndim not in (1, 2) or len(members) != len(rows):
        raise OptionError(
            "groups",
            f"must name one group for each of the {len(rows)} rows of values",
            received=f"shape {members.shape}",
            remedy="Pass one person or patient per image.",
        )
    names, index = np.unique(members, return_inverse=True)
    if len(names) < 2:
        received = f"{len(names)} group"
        raise OptionError(
            "groups", "must hold at least 2 groups", received=received, remedy="Use more people."
        )
    order = np.argsort(index, kind="stable")
    rows_of = np.split(order, np.flatnonzero(np.diff(index[order])) + 1)
    stream = np.random.default_rng(seed)
    replicates = np.empty(resamples)
    for i in range(resamples):
        drawn = stream.integers(len(names), size=len(names))
        replicates[i] = statistic(rows[np.concatenate([rows_of[group] for group in drawn])])
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(rows)), float(low), float(high), confidence)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of a binary classifier; ties count half.

    Args:
        labels: (N,), 0 or 1 (or booleans).
        scores: (N,), higher for class 1: log-odds or probabilities.

    Returns:
        The area in [0, 1]; .5 is chance. NaN if the labels hold one class only: it is undefined there,
        so show such a group with its counts.

    Raises:
        OptionError: If lengths differ, a label is not 0 or 1 or a score is not finite.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    truth = _vector("labels", labels, at_least=1)
    numbers = _vector("scores", scores, at_least=1)
    if len(truth) != len(numbers) or not np.isin(truth, (0, 1)).all():
        raise OptionError(
            "labels",
            f"must hold one 0 or 1 for each of the {len(numbers)} scores",
            received=f"{len(truth)} labels, values {np.unique(truth)[:5].tolist()}",
            remedy="Binarise the labels first.",
        )
    if truth.min() == truth.max():
        return float("nan")
    return float(roc_auc_score(truth, numbers))


def _frechet(
    mean: NDArray, factor: NDArray, reference_mean: NDArray, reference_factor: NDArray, argument: str
) -> float:
    """Squared distance from means (F,) and factors R with R'R = covariance."""
    if len(mean) != len(reference_mean):
        problem = f"must have the {len(mean)} features of the first set"
        remedy = "Compute both with the same network."
        raise OptionError(argument, problem, received=len(reference_mean), remedy=remedy)
    # tr (S1 S2)^(1/2) is the sum of the singular values of R1 R2': no root of a product that is not
    # symmetric, hence no complex parts.
    overlap = np.linalg.svd(factor @ reference_factor.T, compute_uv=False).sum()
    traces = (factor**2).sum() + (reference_factor**2).sum()
    return max(float(((mean - reference_mean) ** 2).sum() + traces - 2 * overlap), 0.0)


def _check_pair(images: Tensor, references: Tensor) -> None:
    if images.ndim != 4 or images.shape != references.shape or not images.numel():
        raise ImageError(
            "images",
            "and references must be batches (N, C, H, W) of one shape",
            received=f"{tuple(images.shape)} and {tuple(references.shape)}",
            remedy="Add a batch dimension with image[None], or resize one of them.",
        )
    if not (images.is_floating_point() and references.is_floating_point()):
        raise ImageError(
            "images",
            "and references must be floating point",
            received=f"{images.dtype} and {references.dtype}",
            remedy="Convert them with as_images().",
        )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise OptionError("confidence", "must lie in (0, 1)", received=confidence, remedy="Pass e.g. .95.")


def _vector(argument: str, given: ArrayLike, *, at_least: int) -> NDArray[np.float64]:
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 1 or len(values) < at_least:
        problem = f"must be one-dimensional with at least {at_least} values"
        received = f"shape {values.shape}"
        raise OptionError(argument, problem, received=received, remedy="Pass one number per image.")
    _check_finite(argument, values)
    return values


def _matrix(argument: str, given: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        received = f"shape {values.shape}"
        raise OptionError(argument, "must be two-dimensional", received=received, remedy="Flatten the rest.")
    _check_finite(argument, values)
    return values


def _check_finite(argument: str, values: NDArray) -> None:
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise OptionError(
            argument,
            "must be finite",
            received=f"{wrong} of {values.size} values NaN or infinite",
            remedy="Count and report them, then leave those images out.",
        )
