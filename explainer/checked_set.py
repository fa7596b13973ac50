"""``check_set``: what a set of explanations can tell that none of them can alone.

The walks are not made again. Codes and frames are those of the explanations, and classifier and generator are
asked about them once more; that these are the ones that made them is seen by what they say.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explainer.checks.base import Thresholds
from explainer.checks.ends import Ends
from explainer.checks.identity import Identity
from explainer.checks.nulls import NullControl, equal_moves_control
from explainer.checks.realism import FEWEST, Realism, realism
from explainer.checks.sets import SetChecks, count_statuses, not_measured, run_set_checks
from explainer.checks.suite import default_identity
from explainer.checks.surrogate import Surrogate, fit_surrogate
from explainer.checks.walked import Walked
from explainer.classifier import Classifier
from explainer.errors import OptionError
from explainer.explanation import Explanation
from explainer.explanations import Explanations
from explainer.generators.base import Generator
from explainer.generators.sample_quality import local_features
from explainer.result_folder import Outcome
from explainer.session import Session
from explainer.settings import Settings
from explainer.target import Target, TargetSpec
from explainer.walks import Scene

__all__ = ["check_set"]

MOST = 200
COMPOSED = 16
HELD_BYTES = 2**30
"""Of the explanations that are held at once: of larger images fewer are looked at."""

COMPARED = 4
SCORE_SLACK, PIXEL_SLACK = 0.05, 5e-3

TOO_FEW_ARRIVED = "fewer than two walks of the balanced classifier arrived"
UNMASKED_ALONE = "the explained walks had a mask, which is not kept, so walks beside them would have none"


@torch.inference_mode(mode=False)
def check_set(
    explanations: Explanations | Sequence[Explanation | Outcome],
    classifier: Classifier | nn.Module | Callable[[Tensor], Any],
    *,
    generator: Generator | str | Path = "auto",
    identity: Identity | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    surrogate: Surrogate | bool = False,
    balanced: Classifier | nn.Module | None = None,
    balanced_target: TargetSpec = None,
    oracles: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    thresholds: Thresholds | None = None,
    most: int = MOST,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> SetChecks:
    """Calibration, composition, detail swap, closeness and realism of a set; more if it is asked for.

    The calibration, and how often each check passed, are of all explanations. The other checks are of one
    target, generator, size of image, strength of detail and tuple of levels, with a mask or without one: the
    most frequent of them.

    Args:
        explanations: What :func:`explain_many` returned, or read from a folder; also a list of explanations.
        classifier: That of the explanations.
        generator: That of the explanations; ``"auto"`` for one of the zoo, which they name.
        identity: An embedding whose features realism is measured in, and whose cosines the null control
            tells; by default that of the zoo for its faces.
        features: From images ``(N, C, H, W)`` at the generator's size to features ``(N, F)`` for realism; by
            default those of the identity, else thumbnails and fine bands.
        surrogate: A network distilled from the classifier, or True to distil one, which takes minutes.
        balanced: A classifier of the same question trained on balanced data, to be walked by the changes of
            score of these walks (:func:`explainer.convnet.fit_classifier` trains one).
        balanced_target: Its target, as for :func:`explain`.
        oracles: By name, from images at their own size to numbers ``(N,)``: what the null control tells
            beside.
        thresholds: By default those of the explanations. Others decide the calibration and the checks of
            the set; the checks of the single walks, which are counted, are not made again.
        most: Explanations looked at, at most, evenly spread; fewer of large images.
        seed: Of everything drawn at random.
        device: Where to compute; by default where the classifier's parameters are.

    Returns:
        What was found, with its verdict, table and sentences. Give it to the ``checked`` of
        :class:`Explanations` to have it on their page.

    Raises:
        OptionError: No explanation, or a classifier or generator that did not make them.
    """
    found = explanations if isinstance(explanations, Explanations) else Explanations(list(explanations))
    if len(found.failed) == len(found):
        raise OptionError(
            "explanations", "hold no walk to check", received=f"{len(found)} images, all without one",
            remedy="Look at failed for what went wrong.",
        )  # fmt: skip
    chosen = _chosen(found, most)
    origin = chosen[0].provenance
    masked = _kind(origin).masked
    session = Session(
        classifier, _named_generator(generator, origin), Settings(identity=identity, seed=seed), device
    )
    limits = thresholds if thresholds is not None else Thresholds(**origin["thresholds"])
    calibrated = found.calibrated(thresholds)
    assert session.generator is not None  # it was named
    with session.classifier.frozen():
        scene = _scene(session, session.generator, chosen)
        _require_same(scene, chosen)
        walked = [
            Walked(
                scene,
                row,
                each.latents.to(scene.z),
                each.images,
                each.frames,
                each.original,
                each.bare,
                limits,
            )
            for row, each in enumerate(chosen)
        ]
        far = Ends.of(walked).far()
        known = identity or default_identity(session.generator)
        if surrogate is True:
            surrogate = fit_surrogate(scene, seed=seed)
        real = _realism(far, known, features, seed)
        control = (
            None
            if balanced is None or masked
            else _control(far, balanced, balanced_target, known, oracles, limits, seed)
        )
        missing = []
        if real is None:
            missing.append(not_measured("realism", f"{len(far)} walks that moved the score, of 40 needed"))
        if balanced is not None and control is None:
            missing.append(not_measured("equal moves", UNMASKED_ALONE if masked else TOO_FEW_ARRIVED))
        of_set = run_set_checks(
            walked,
            [each.checks for each in chosen],
            surrogate=surrogate or None,
            realism=real,
            control=control,
            further=missing,
            calibrated=calibrated,
            statuses=count_statuses(
                (check["name"], check["status"])
                for record in found.records()
                if "verdict" in record
                for check in record["checks"]
            ),
            composed=COMPOSED,
            seed=seed,
        )
    return of_set


# -- which of them -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """What walks must have in common to be one scene."""

    target: str
    generator: str
    shape: tuple[int, ...]
    detail: float
    levels: tuple[float, ...]
    masked: bool


def _chosen(found: Explanations, most: int) -> list[Explanation]:
    """Explanations of the most frequent kind, evenly spread."""
    if most < 1:
        raise OptionError("most", "must be at least 1", received=most, remedy=f"The default is {MOST}.")
    kinds: dict[_Kind, list[int]] = {}
    for place, record in enumerate(found.records()):
        if "verdict" in record:
            kinds.setdefault(_kind(record["provenance"]), []).append(place)
    kind, places = max(kinds.items(), key=lambda each: len(each[1]))
    first = found[places[0]]
    assert isinstance(first, Explanation)  # only those have a verdict
    held = 4 * int(np.prod(kind.shape)) * (len(first.images) + 2)
    count = min(most, len(places), max(1, HELD_BYTES // held))
    picked = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
    return [each for place in picked if isinstance(each := found[places[place]], Explanation)]


def _kind(provenance: Mapping[str, Any]) -> _Kind:
    generator, options = provenance["generator"], provenance["options"]
    return _Kind(
        json.dumps(provenance["target"], sort_keys=True),
        f"{generator['source']} {generator['sha256']}",
        tuple(provenance["image"]["shape"]),
        float(options["detail"]),
        tuple(options["levels"]),
        options.get("allow") is not None or options.get("preserve") is not None,
    )


def _named_generator(generator: Generator | str | Path, origin: Mapping[str, Any]) -> Generator | str | Path:
    if generator != "auto" or not isinstance(generator, str):
        return generator
    source = origin["generator"]["source"]
    if source == "given":
        raise OptionError(
            "generator", "of these explanations was given as an object, so it cannot be found",
            received="auto", remedy="Pass the generator that they were made with.",
        )  # fmt: skip
    return str(source)


# -- the scene, once more ----------------------------------------------------------------------------------


def _scene(session: Session, generator: Generator, chosen: Sequence[Explanation]) -> Scene:
    images = torch.stack([each.original.image for each in chosen]).to(session.device)
    session.check(images[:COMPARED])
    target = Target.from_record(chosen[0].provenance["target"])
    detail = float(chosen[0].provenance["options"]["detail"])
    return Scene(generator, session.classifier, target, images, strength=detail)


@torch.no_grad()
def _require_same(scene: Scene, chosen: Sequence[Explanation]) -> None:
    """See that classifier and generator say what they said when the walks were made.

    Raises:
        OptionError: They do not.
    """
    some = chosen[:COMPARED]
    device = scene.images.device
    scores = scene.classifier.score(scene.images[: len(some)], scene.target).double().cpu()
    known = torch.tensor([each.original.score for each in some], dtype=torch.float64)
    off = (scores - known).abs() - SCORE_SLACK * (1 + known.abs())
    if not bool((off <= 0).all()):
        worst = int(off.nan_to_num(torch.inf).argmax())
        raise OptionError(
            "classifier", "is not the one that was explained",
            received=f"a score of {scores[worst]:.3f} where the explanation has {known[worst]:.3f}",
            remedy="Pass the classifier of the explanations, with the same size, mean and std.",
        )  # fmt: skip
    if _kind(some[0].provenance).masked:
        return  # the mask is not kept, so the frames cannot be made again
    codes = torch.stack([each.latents[-1] for each in some]).to(scene.z)
    frames = torch.stack([each.images[-1] for each in some]).to(device)
    made = scene.deliver(codes, torch.arange(len(some)))
    error = float((made - frames).abs().mean())
    if not error <= PIXEL_SLACK:
        raise OptionError(
            "generator", "did not make these frames", received=f"a mean difference of {error:.3f} in [0, 1]",
            remedy="Pass the generator of the explanations.",
        )  # fmt: skip


# -- what is measured besides ------------------------------------------------------------------------------


@torch.no_grad()
def _realism(
    far: Ends, identity: Identity | None, features: Callable[[Tensor], Tensor] | None, seed: int
) -> Realism | None:
    """Of the far ends, at the generator's size; None of too few."""
    if len(far) < 2 * FEWEST:
        return None
    generator, scene = far.scene.generator, far.scene
    name = "given network"
    if features is None and identity is not None:
        features, name = identity.features, identity.name
    if features is None:
        features, name = (
            lambda images: local_features(generator.normalise(images)),
            "thumbnails and fine bands",
        )
    bare = torch.cat([generator.decode(part) for part in far.codes.split(scene.batch_size)])
    frames = torch.cat([generator.resized(part) for part in far.frames.split(scene.batch_size)])
    return realism(scene.small[far.rows], frames, bare, features, name=name, seed=seed)


def _control(
    far: Ends,
    balanced: Classifier | nn.Module,
    target: TargetSpec,
    identity: Identity | None,
    oracles: Mapping[str, Callable[[Tensor], Tensor]] | None,
    limits: Thresholds,
    seed: int,
) -> NullControl | None:
    if not len(far):
        return None
    other = balanced if isinstance(balanced, Classifier) else Classifier(balanced)
    generator = far.scene.generator

    def cosines(images: Tensor, frames: Tensor) -> Tensor:
        assert identity is not None  # asked only then
        return identity.cosines(generator.resized(images), generator.resized(frames))

    return equal_moves_control(
        far, other, target, measures=oracles, identity=cosines if identity is not None else None,
        thresholds=limits, seed=seed,
    )  # fmt: skip
