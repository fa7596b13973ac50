"""From walked images to explanations: frames, their levels, checks, maps, and what is said of them.

Every number of an explanation is of the delivered frames: they are made once, and the classifier is asked
about them once more, so the table never rests on what the walk believed.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from explainer.axis_attribution import AxisAttribution, attribute_to_axes, walked_path
from explainer.checks import Thresholds, decide, default_identity, run_checks
from explainer.checks.walked import Picture, Walked
from explainer.explanation import Explanation
from explainer.fidelity_result import Fidelity
from explainer.image import resize
from explainer.replacement import fidelity
from explainer.saliency import SaliencyMap, saliency_maps
from explainer.saliency.attribution import SMOOTH
from explainer.settings import Settings, walk_record
from explainer.storage import sha256
from explainer.target import SCORE_TOLERANCE, Target
from explainer.walks import Scene, Walk, WalkResult

__all__ = ["assemble"]

TYPICAL = 64
NEEDS_TYPICAL = ("gradient_shap", f"gradient_shap{SMOOTH}")
"""Methods that compare the image with others: with samples of the generator."""

VERSIONS = ("progressive-explainer", "torch", "numpy", "scikit-image", "safetensors")


@torch.no_grad()
def assemble(
    scene: Scene,
    result: WalkResult,
    levels: Tensor,
    *,
    walk: Walk,
    settings: Settings,
    assumptions: tuple[str, ...] = (),
) -> list[Explanation]:
    """One explanation for every image of a scene.

    Args:
        scene: The images, seen through generator and classifier.
        result: Where the walk took them.
        levels: ``(L,)`` ascending, what was asked for.
        walk: The walk that was taken.
        settings: The options of the call.
        assumptions: What was assumed beyond what the scene shows, sentences.
    """
    origin = _provenance(scene, walk, levels, settings)
    originals = _pictures(scene, scene.images)
    bares = _pictures(scene, scene.generator.bare(scene.small))
    walks = []
    for row, (original, bare) in enumerate(zip(originals, bares, strict=True)):
        latents = result.latents[row]
        frames = _deliver(scene, latents, row)
        walks.append(
            Walked(
                scene=scene,
                row=row,
                latents=latents,
                frames=frames,
                table=_table(scene, row, latents, result.reasons[row], levels, frames, settings.thresholds),
                original=original,
                bare=bare,
                thresholds=settings.thresholds,
            )
        )
    identity = settings.identity or default_identity(scene.generator)
    found = run_checks(walks, identity=identity, thorough=settings.thorough, seed=settings.seed)
    maps = [_maps(walked, settings) for walked in walks]
    return [
        Explanation(
            target=scene.target.label,
            level_word=scene.target.level_word,
            tolerance=_tolerance(scene.target, settings.thresholds),
            frames=walked.table,
            images=walked.frames,
            latents=walked.latents.float().cpu(),
            original=walked.original,
            bare=walked.bare,
            outcome=_outcome(walked, result, walk),
            verdict=decide(checks),
            checks=checks,
            saliency=shown,
            fidelity=_fidelity(walked, shown, settings) if settings.fidelity else None,
            assumptions=(*_assumptions(scene, settings), *assumptions),
            provenance={**origin, "image": _fingerprint(walked.original.image)},
            channel_names=scene.generator.channel_names,
            attribution_by_axis=_by_axis(walked, levels),
        )
        for walked, checks, shown in zip(walks, found, maps, strict=True)
    ]


# -- what the walk delivered -----------------------------------------------------------------------------


def _pictures(scene: Scene, images: Tensor) -> list[Picture]:
    """What the classifier says of images of the scene, in the scene's order."""
    classifier, target = scene.classifier, scene.target
    scores = torch.cat([classifier.score(part, target) for part in images.split(scene.batch_size)])
    if target.measure == "value":
        names = [""] * len(images)
    else:
        names = [classifier.class_names[index] for index in classifier.predict(images).tolist()]
    return [
        Picture(image=image.float().cpu().clone(), score=score, level=level, class_name=name)
        for image, score, level, name in zip(
            images, scores.tolist(), target.to_level(scores).tolist(), names, strict=True
        )
    ]


def _deliver(scene: Scene, latents: Tensor, row: int) -> Tensor:
    """The frames ``(L, C, H, W)`` of one image, on the CPU."""
    parts = latents.split(scene.batch_size)
    rows = [torch.full((len(part),), row) for part in parts]
    return torch.cat([scene.deliver(*part).float().cpu() for part in zip(parts, rows, strict=True)])


def _table(
    scene: Scene,
    row: int,
    latents: Tensor,
    why: list[str],
    levels: Tensor,
    frames: Tensor,
    limits: Thresholds,
) -> pd.DataFrame:
    """One row per level; achieved is what the classifier says of the delivered frame."""
    target = scene.target
    scores, rounded = [], []
    for part in frames.split(scene.batch_size):
        shown = part.to(scene.images.device)
        units = scene.generator.normalise(shown)  # 8 bits of each channel's own range
        eight_bit = scene.generator.denormalise((units * 255).round() / 255)
        scores.append(scene.classifier.score(shown, target).double().cpu())
        rounded.append(scene.classifier.score(eight_bit, target).double().cpu())
    score = torch.cat(scores)
    achieved = target.to_level(score)
    reached = (achieved - levels).abs() <= _tolerance(target, limits)
    reasons = [
        "" if ok else reason or f"level {target.show(level)} not reached: {target.show(got)} achieved"
        for ok, reason, level, got in zip(
            reached.tolist(), why, levels.tolist(), achieved.tolist(), strict=True
        )
    ]  # fmt: skip
    return pd.DataFrame(
        {
            "level": levels.numpy(),
            "achieved": achieved.numpy(),
            "score": score.numpy(),
            "reached": reached.numpy(),
            "reason": reasons,
            "distance": (latents - scene.z[row]).norm(dim=1).double().cpu().numpy(),
            "rounded": target.to_level(torch.cat(rounded)).numpy(),
        }
    )


def _unit(target: Target) -> float:
    """What 1 in the thresholds of levels means: a probability of 1, or one interquartile range."""
    return target.tolerance / SCORE_TOLERANCE


def _tolerance(target: Target, limits: Thresholds) -> float:
    return limits.level_error * _unit(target)


# -- which pixels it is about ----------------------------------------------------------------------------


def _maps(walked: Walked, settings: Settings) -> dict[str, SaliencyMap]:
    """The maps of one image, the same whatever other images were walked with it."""
    found: dict[str, SaliencyMap] = {}
    for name in settings.saliency:
        typical = _typical(walked, settings.seed) if name in NEEDS_TYPICAL else None
        found |= saliency_maps(
            [name], walked.classifier, walked.image[0], walked.target,
            frames=walked.frames.to(walked.image.device), levels=walked.table["achieved"].tolist(),
            own=walked.original.level, reference=typical, batch_size=walked.scene.batch_size,
            seed=settings.seed,
        )  # fmt: skip
    return {name: replace(each, values=each.values.float().cpu()) for name, each in found.items()}


def _typical(walked: Walked, seed: int) -> Tensor:
    """Images to start from where the image itself would leave nothing to explain."""
    samples = walked.generator.sample(TYPICAL, seed=seed)
    size = walked.image.shape[-2:]
    return samples if samples.shape[-2:] == size else resize(samples, size).clamp(0, 1)


def _by_axis(walked: Walked, levels: Tensor) -> AxisAttribution | None:
    """How much of the change of the score each named axis made; None where that cannot be said."""
    scene, axes = walked.scene, walked.generator.axes
    if axes is None or not scene.classifier.differentiable:
        return None
    path = walked_path(scene, walked.row, walked.latents, levels)
    return attribute_to_axes(scene, [(walked.row, path)], axes)[0]


def _fidelity(walked: Walked, maps: Mapping[str, SaliencyMap], settings: Settings) -> Fidelity:
    """How soon the class of this one image is lost when pixels go in the order of each map."""
    target = walked.target
    return fidelity(
        walked.image, None, walked.classifier, {name: [each] for name, each in maps.items()},
        target=target.index if target.against is None else (target.against, target.index),
        batch_size=walked.scene.batch_size, seed=settings.seed,
    )  # fmt: skip


# -- what is said of it ----------------------------------------------------------------------------------


def _outcome(walked: Walked, result: WalkResult, walk: Walk) -> str:
    table, count = walked.table, len(walked.scene.images)
    reached = int(table["reached"].sum())
    effort = f"{result.gradients:.0f} gradients and {result.evaluations:.0f} further evaluations"
    each = f", on average over the {count} images walked together" if count > 1 else ""
    first = (
        f"From its own level {walked.target.show(walked.original.level)} the image was walked "
        f"({walk.name}) to {reached} of {len(table)} levels with {effort}{each}."
    )
    reasons = [reason for reason in table["reason"] if reason]
    return f"{first} {reasons[0][0].upper()}{reasons[0][1:]}." if reasons else first


def _assumptions(scene: Scene, settings: Settings) -> tuple[str, ...]:
    detail = settings.detail
    height, width = scene.images.shape[-2:]
    top, left, rows, columns = scene.region
    seen = (
        "all of it"
        if (rows, columns) == (height, width)
        else f"rows {top}-{top + rows}, columns {left}-{left + columns}"
    )
    channels, inner_height, inner_width = scene.generator.shape
    size = f"{inner_width}x{inner_height}"
    resized = "" if (height, width) == (inner_height, inner_width) else (
        f" The walk was made at {size} pixels; its frames were enlarged to {width}x{height} and carry the "
        "image's finer detail where they do not change it."
    )  # fmt: skip
    return (
        f"The classifier: {scene.classifier.preprocessing}",
        _of_the_score(scene.target),
        f"The generator ({scene.generator.kind}, {channels} channels, {size}) sees {seen}.{resized}",
        f"Carried detail: {detail:.0%} of what the code does not hold of this image is added to every frame, "
        "less where the walk changes it.",
        *_of_the_mask(scene),
        *_of_the_axes(scene, settings),
    )


def _of_the_mask(scene: Scene) -> tuple[str, ...]:
    if scene.allowed is None:
        return ()
    share = float((scene.allowed > 0).float().mean())
    return (f"Only {share:.0%} of the pixels were allowed to change; levels are of the masked frames.",)


def _of_the_axes(scene: Scene, settings: Settings) -> tuple[str, ...]:
    names = {"along": settings.along, "lock": settings.lock}
    said = {key: ", ".join(f'"{name}"' for name in given) for key, given in names.items() if given}
    sentences = []
    if "along" in said:
        sentences.append(
            f"The walk was held to {said['along']}: other ways to the levels were not looked for."
        )
    if "lock" in said:
        sentences.append(f"The walk was kept off {said['lock']}.")
    if scene.generator.axes is not None and not scene.classifier.differentiable:
        sentences.append("The classifier has no gradient, so the walk is not attributed to the named axes.")
    return tuple(sentences)


def _of_the_score(target: Target) -> str:
    if target.measure == "uncertainty":
        return (
            "A level is u, the entropy of the classes as a share of the highest there is; the score is its "
            "log-odds."
        )
    if target.measure == "value" and target.quartiles is not None:
        low, median, high = target.quartiles
        return (
            f"A level is the value of {target.label}; the score is its distance from {median:.4g} in units "
            f"of {high - low:.4g}, the median and interquartile range of the reference."
        )
    return f"The score is the log-odds of {target.label}; a level is its probability."


def _provenance(scene: Scene, walk: Walk, levels: Tensor, settings: Settings) -> dict[str, Any]:
    """Where all explanations of a scene come from."""
    return {
        "versions": {name: _version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "classifier": {
            "sha256": scene.classifier.fingerprint,
            "kind": scene.classifier.kind,
            "outputs": scene.classifier.outputs,
        },
        "target": {name: _plain(value) for name, value in asdict(scene.target).items()},
        "generator": {
            "source": scene.generator.source,
            "sha256": scene.generator.fingerprint,
            "kind": scene.generator.kind,
        },
        "options": {
            **walk_record(walk),
            **settings.record(),
            "levels": [round(level, 6) for level in levels.tolist()],
            "device": str(scene.images.device),
        },
        "thresholds": asdict(settings.thresholds),
    }


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value


def _fingerprint(image: Tensor) -> dict[str, Any]:
    return {"sha256": sha256(image.contiguous().numpy().tobytes()), "shape": list(image.shape)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
