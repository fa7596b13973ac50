"""Is the image, and what the walk makes of it, within what the generator can say?

Data consistency of Singla et al. 2020 (arXiv 1911.00483), measured on ``bare``: with carried detail the
reconstruction is the image itself, so an error measured with detail could not fail.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from explainer import metrics
from explainer.checks.base import UNMOVED, Check, Thresholds, status_below, stored_quantile
from explainer.checks.ends import Ends, kept_share
from explainer.checks.soundness import channel_names_of
from explainer.checks.walked import Walked
from explainer.generators.base import Generator

__all__ = [
    "code_typicality",
    "composition",
    "latent_closeness",
    "reconstruction",
    "reconstruction_gap",
    "reencoded",
]

TIMES = 10


@torch.no_grad()
def reconstruction(
    generator: Generator, small: Tensor, thresholds: Thresholds, bare: Tensor | None = None
) -> Check:
    """Error of ``bare``, per channel, against the generator's own quantiles of held-out images.

    A channel that misses more than its own variance is not reconstructed, whatever held-out images did: their
    quantiles are those of a broken generator, if it is broken.

    Args:
        generator: The generator.
        small: One image ``(1, C, H, W)`` at the generator's size.
        thresholds: See :class:`Thresholds`.
        bare: ``generator.bare(small)``, if it is at hand.
    """
    bare = generator.bare(small) if bare is None else bare
    target, rebuilt = generator.normalise(small), generator.normalise(bare)
    mse = metrics.mse(rebuilt, target)[0]
    ssim = metrics.ssim(rebuilt.clamp(0, 1), target.clamp(0, 1))[0]
    error = float(mse.mean())
    missed = mse / target[0].var(dim=(1, 2), correction=0).clamp_min(1e-9)
    # A blank channel has no variance to miss, and an error that nobody sees in it is none.
    lost = (missed > thresholds.variance_missed) & (mse > thresholds.blank)
    names = channel_names_of(generator)
    values: dict[str, float | str] = {"mse": error}
    for name, channel_mse, channel_ssim, share in zip(
        names, mse.tolist(), ssim.tolist(), missed.tolist(), strict=True
    ):
        values[f"mse {name}"], values[f"ssim {name}"] = channel_mse, channel_ssim
        values[f"variance missed {name}"] = share
    if bool(lost.any()):
        which = ", ".join(name for name, flag in zip(names, lost.tolist(), strict=True) if flag)
        return Check(
            "reconstruction",
            "fail",
            f"The generator does not fit the image: in {which} its reconstruction without carried detail "
            "misses "
            f"{float(missed.max()):.0%} of the image's own variance, more than a flat picture would.",
            values,
        )
    quantiles = generator.quantiles.get("bare")
    if not quantiles:
        return Check(
            "reconstruction",
            "limit",
            "The generator stores no errors of held-out images to compare with.",
            values,
        )
    usual, limit, worst = (
        stored_quantile(quantiles, share) for share in (0.5, thresholds.error_limit, thresholds.error_fail)
    )
    values |= {"held-out median": usual, "held-out limit": limit, "held-out worst": worst}
    said = (
        f"reconstructed without carried detail with an error of {error:.4f}; "
        f"held-out images have {usual:.4f} (median)"
    )
    share = thresholds.error_limit
    if error <= limit:
        return Check(
            "reconstruction", "pass", f"The image is {said}, {share:.0%} of them up to {limit:.4f}.", values
        )
    if error <= worst:
        return Check(
            "reconstruction",
            "limit",
            f"The image is unusual for the generator: {said}, {share:.0%} of them up to {limit:.4f}.",
            values,
        )
    return Check(
        "reconstruction",
        "fail",
        f"The generator does not fit the image: it is {said}, the worst {worst:.4f}.",
        values,
    )


def reconstruction_gap(
    original_score: float, bare_score: float, original_class: str, bare_class: str, thresholds: Thresholds
) -> Check:
    """What the classifier makes of ``bare`` against what it makes of the image.

    Args:
        original_score: Score of the image.
        bare_score: Score of its bare reconstruction.
        original_class: Class of the image; empty for a regression.
        bare_class: Class of the bare reconstruction.
        thresholds: See :class:`Thresholds`.
    """
    change = bare_score - original_score
    values: dict[str, float | str] = {
        "score": original_score, "score on bare": bare_score,
        "class": original_class, "class on bare": bare_class,
    }  # fmt: skip
    if not math.isfinite(change):
        said = (
            "Reconstruction alone leaves no finite score: the classifier cannot be read on what was rebuilt."
        )
        return Check("reconstruction gap", "fail", said, values)
    if not original_class:
        sentence = f"Reconstruction alone moves the value by {change:+.2f} interquartile ranges."
        return Check(
            "reconstruction gap", "limit" if abs(change) > thresholds.gap_limit else "pass", sentence, values
        )
    moved = f"the score (log-odds) moves by {change:+.2f}"
    if original_class != bare_class:
        sentence = (
            f"Reconstruction alone changes the class from {original_class} to {bare_class}; {moved}. "
            "Part of what the classifier reads is not in the code."
        )
        return Check(
            "reconstruction gap", "fail" if abs(change) > thresholds.gap_fail else "limit", sentence, values
        )
    if abs(change) > thresholds.gap_limit:
        sentence = f"Reconstruction alone keeps the class {original_class}, but {moved}."
        return Check("reconstruction gap", "limit", sentence, values)
    return Check(
        "reconstruction gap",
        "pass",
        f"Reconstruction alone keeps the class {original_class}; {moved}.",
        values,
    )


@torch.no_grad()
def code_typicality(generator: Generator, latents: Tensor, thresholds: Thresholds) -> Check:
    """Do the ends of the walk stay where codes of real images lie?

    Args:
        generator: The generator.
        latents: Codes ``(L, D)`` of the frames.
        thresholds: See :class:`Thresholds`.
    """
    distances = generator.typicality(latents)
    furthest = float(distances.max())
    quantiles = generator.quantiles.get("typicality")
    if not quantiles:
        return Check(
            "typical codes",
            "limit",
            "The generator stores no codes of held-out images to compare with.",
            {"furthest": furthest},
        )
    limit, largest = (stored_quantile(quantiles, share) for share in (thresholds.typicality_limit, 1.0))
    values: dict[str, float | str] = {
        "furthest": furthest,
        "held-out limit": limit,
        "held-out largest": largest,
    }
    said = (
        f"the furthest frame lies {furthest:.2f} standard deviations out (root mean square), "
        f"held-out images up to {largest:.2f}"
    )
    if furthest <= limit:
        return Check("typical codes", "pass", f"Every frame's code is typical: {said}.", values)
    if furthest <= thresholds.typicality_fail * largest:
        return Check("typical codes", "limit", f"The walk leaves the codes of real images: {said}.", values)
    return Check(
        "typical codes", "fail", f"The walk ends far from the code of any real image: {said}.", values
    )


@torch.no_grad()
def reencoded(walked: Sequence[Walked], far: Ends, codes: Tensor, thresholds: Thresholds) -> list[Check]:
    """Does the far end keep its score when it is encoded again, with the original's detail and with none?

    With its own detail it would be itself, so this could not fail.

    Args:
        walked: The walks.
        far: Their far ends.
        codes: Codes ``(E, D)`` of the far ends' frames, encoded as new images.
        thresholds: See :class:`Thresholds`.
    """
    scene = far.scene
    with_detail = kept_share(far, scene.score(codes, far.rows).double().cpu())
    bare = torch.cat([scene.generator.decode(part) for part in codes.split(scene.batch_size)])
    bare_start = torch.tensor([walked[image].bare.score for image in far.image.tolist()], dtype=torch.float64)
    without = kept_share(far, far.score(bare), bare_start)
    found = {
        image: (a, b)
        for image, a, b in zip(far.image.tolist(), with_detail.tolist(), without.tolist(), strict=True)
    }
    checks = []
    for image in range(len(walked)):
        if image not in found:
            checks.append(_no_move("re-encoding"))
            continue
        kept, kept_bare = found[image]
        status = status_below(max(kept, kept_bare), thresholds.reencoded_limit, thresholds.reencoded_fail)
        if not math.isfinite(kept + kept_bare):
            status = "fail"  # max() drops a NaN
        if status == "pass" and min(kept, kept_bare) < thresholds.reencoded_limit:
            status = "limit"
        said = (
            f"Encoded and decoded again, the far end keeps {kept:.0%} of its change of score with the "
            "original's "
            f"detail and {kept_bare:.0%} without any"
        )
        if status == "fail":
            said += ": what moved the classifier is not in the code"
        values: dict[str, float | str] = {"kept with detail": kept, "kept bare": kept_bare}
        checks.append(Check("re-encoding", status, f"{said}.", values))
    return checks


@torch.no_grad()
def composition(generator: Generator, small: Tensor, thresholds: Thresholds, *, times: int = TIMES) -> Check:
    """Mean absolute error of ``bare`` applied once and ``times`` times, in normalised units.

    Composition of Monteiro et al. 2023 (arXiv 2303.01274) with the null intervention.

    Args:
        generator: The generator.
        small: Images ``(N, C, H, W)`` at the generator's size.
        thresholds: See :class:`Thresholds`.
        times: How often.
    """
    target, again = generator.normalise(small), small
    errors = []
    for _ in range(times):
        again = generator.bare(again)
        errors.append(float((generator.normalise(again) - target).abs().mean()))
    first, last = errors[0], errors[-1]
    growth = last / max(first, 1e-9)
    # An error that nobody can see may grow by any factor.
    status = "pass" if growth <= thresholds.drift_limit or last < thresholds.drift_visible else "limit"
    return Check(
        "composition",
        "pass" if status == "pass" else "limit",
        f"Reconstructed once, images differ by {first:.3f} (mean absolute, of their range), {times} "
        "times in a "
        f"row by {last:.3f}.",
        {"error once": first, f"error {times} times": last, "growth": growth},
    )


def _no_move(name: str) -> Check:
    return Check(name, "info", UNMOVED, {})


def latent_closeness(z: Tensor, latents: Tensor) -> Check:
    """Cosine between the codes of the image and of its frames (latent space closeness, not identity).

    Args:
        z: Code ``(D,)`` of the image.
        latents: Codes ``(L, D)`` of the frames.
    """
    cosines = torch.cosine_similarity(z[None], latents, dim=1)
    lengths = (latents - z).norm(dim=1)
    lowest, longest = float(cosines.min()), float(lengths.max())
    return Check(
        "latent closeness",
        "info",
        f"The codes of image and frames have a cosine of at least {lowest:.2f}; the longest move is "
        f"{longest:.1f} prior standard deviations. This is closeness in the generator, not identity.",
        {"lowest cosine": lowest, "longest move": longest},
    )
