"""``explain`` and ``explain_many``: from images and a classifier to explanations.

Read top to bottom it is the data flow::

    image ─► Session.check (can this classifier be explained?)
          ─► Session.plan (which generator fits, which target?)
          ─► Session.explain: Scene ─► Walk ─► assemble ─► Explanation
          ─► check_set (if thorough): what only the set can tell

Many images are read one by one, planned one by one, and walked together in groups of one plan and one size.
What goes wrong over one image is its own outcome and nobody else's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explainer.checked_set import check_set
from explainer.checks import Thresholds
from explainer.checks.identity import Identity
from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError, OutputError
from explainer.explanation import Explanation
from explainer.explanations import Explanations, Outcome
from explainer.generators.base import Generator
from explainer.image import as_image
from explainer.image_stream import UNREADABLE, Item, count, digest, stream
from explainer.progress import Say, told
from explainer.result_folder import ResultFolder, Stored
from explainer.session import Plan, Session
from explainer.settings import Levels, Mask, Settings
from explainer.target import TargetSpec
from explainer.walks import Walk

__all__ = ["DEFAULT_LEVELS", "explain", "explain_many"]

DEFAULT_LEVELS = tuple(np.linspace(0.05, 0.95, 10).tolist())
FRAME_BYTES = 256 * 2**20
"""Of the frames of images that walk together: larger images walk in smaller groups."""


@torch.inference_mode(mode=False)
def explain(
    image: object,
    classifier: Classifier | nn.Module | Callable[[Tensor], Any],
    *,
    generator: Generator | str | Path = "auto",
    target: TargetSpec = None,
    levels: Levels | None = None,
    walk: str | Walk = "gradient",
    detail: float = 1.0,
    saliency: Sequence[str] = ("difference",),
    thresholds: Thresholds | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    allow: Mask | None = None,
    preserve: Mask | None = None,
    sparsity: float = 0.0,
    diverse: int = 1,
    identity: Identity | None = None,
    fidelity: bool = False,
    thorough: bool = False,
    along: Sequence[str] = (),
    lock: Sequence[str] = (),
    towards: str | int | None = None,
) -> Explanation:
    """Walk an image until the classifier's output has moved where it was asked to, and check the walk.

    Progressive exaggeration (Singla et al., ICLR 2020, arXiv 1911.00483) on a frozen generator.

    Args:
        image: A path, PIL image, array or tensor; see :func:`explainer.as_image`. Any size: the walk is
            made at the generator's size, and the difference is added to the image at its own.
        classifier: A :class:`Classifier`, or a module or callable, which is wrapped with its defaults. It
            is left as it was found: mode, gradients, hooks, device.
        generator: A generator (it is put in evaluation mode, on the device), the name of one in the zoo, a
            folder, or ``"auto"``: the one of the zoo that has the image's channels and that it fits better
            than the worst fortieth of its held-out images; see :mod:`explainer.generators.zoo`.
        target: A class by index or name, or ``(a, b)``: from a towards b; a value of a regression;
            ``"uncertainty"``. By default the positive class of a binary classifier, the only value of a
            regression, else the class predicted for the image.
        levels: Levels of the target to walk to, whatever the image's own is: probabilities (or
            uncertainties) strictly between 0 and 1, by default ten from .05 to .95; values of a regression,
            by default ten from one interquartile range below the median to one above.
        walk: ``"gradient"``, ``"linear"``, ``"evolution"``, or a :class:`Walk`, such as a fitted
            :class:`ConditionalWalk`. A classifier without a gradient is walked with the evolution walk.
        detail: Strength of the carried detail: 1 keeps all of the image that the code does not hold, 0
            shows bare reconstructions (an image larger than the generator's keeps what is too fine for it).
        saliency: Maps to make, of :data:`explainer.saliency.METHODS`: ``"difference"`` of the two ends of the
            walk, ``"path_integrated"``, or one of captum's, made from the classifier alone.
        thresholds: Where the checks turn from pass to limit to fail.
        seed: Of everything drawn at random. The gradient walk draws nothing.
        device: Where to compute; by default where the classifier's parameters are.
        progress: Say on a terminal's stderr what is being done.
        allow: Where the image may change: mask ``(H, W)`` at its size, from 0 to 1. The classifier is asked
            about the masked frames, so a level that is reached is reached with the mask on.
        preserve: Where the image may not change, likewise.
        sparsity: Share of the code's dimensions that stay still, 0 to 1.
        diverse: Number of different explanations; those beyond the first are its ``alternatives``.
        identity: Who is who, for the check that the frames still show the same individual; see
            :mod:`explainer.checks.identity`. By default that of the zoo for its faces, else none.
        fidelity: Also replace pixels in the order of each map, see :func:`explainer.fidelity`: of one image
            there are the curves of its class's probability and of whether the class is kept.
        thorough: Also make the checks that cost about as much as the walk: the image reconstructed ten times
            in a row. What only a set of images can tell is in :func:`explainer.check_set`.
        along: Named axes of the generator to walk along, and nowhere else; see
            :mod:`explainer.generators.guidance`. The gradient, linear and evolution walks can.
        lock: Named axes not to walk along; what they say of the image stays.
        towards: A cluster of a :class:`GaussianMixtureVAE`, by name or number: the walk goes straight to its
            middle, and a level is reached if the score passes it on the way.

    Returns:
        The explanation. A level that could not be reached is in its frames with the reason.

    Raises:
        ImageError: The image cannot be used as it is.
        ClassifierError: The classifier cannot be explained as it is.
        GeneratorError: No generator fits, or the one given has another number of channels.
        OptionError: An option outside its range.
    """
    picture = as_image(image).clone()
    limits = Thresholds() if thresholds is None else thresholds
    settings = Settings(
        target, levels, walk, detail, saliency, limits, seed, allow, preserve, sparsity, diverse, identity,
        fidelity, thorough, along, lock, towards,
    )  # fmt: skip
    session = Session(classifier, generator, settings, device)
    with session.classifier.frozen(), told(progress, "explaining") as say:
        images = picture[None].to(session.device)
        say("checking the classifier")
        session.check(images)
        say("fitting the generator to the image")
        plan = session.plan(images)
        say("walking and checking the walk")
        return session.explain(images, plan)[0]


@torch.inference_mode(mode=False)
def explain_many(
    images: object,
    classifier: Classifier | nn.Module | Callable[[Tensor], Any],
    *,
    generator: Generator | str | Path = "auto",
    target: TargetSpec = None,
    levels: Levels | None = None,
    walk: str | Walk = "gradient",
    detail: float = 1.0,
    saliency: Sequence[str] = ("difference",),
    thresholds: Thresholds | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    allow: Mask | None = None,
    preserve: Mask | None = None,
    sparsity: float = 0.0,
    diverse: int = 1,
    identity: Identity | None = None,
    fidelity: bool = False,
    thorough: bool = False,
    along: Sequence[str] = (),
    lock: Sequence[str] = (),
    towards: str | int | None = None,
    batch_size: int = 32,
    out: str | Path | None = None,
) -> Explanations:
    """Explain many images, each as :func:`explain` would on its own, walked together in batches.

    Images are read when their batch begins, so a folder or a data set of any size needs the memory of one
    batch; without ``out`` the explanations themselves are kept in memory. With ``out`` each batch is written
    when it is done. The process may be killed at any moment; the same call goes on after the last batch
    that was written. Images done before are read again, to make sure that they are the same.

    Args:
        images: Batch ``(N, C, H, W)``, list of anything :func:`explain` takes, folder of image files,
            .zip, .npz, .csv or DataFrame with a column of paths, data set, or any other iterable; sizes may
            differ. See :func:`explainer.image_stream.stream`.
        classifier: As for :func:`explain`; so are the options that are not listed here.
        generator: As for :func:`explain`; ``"auto"`` chooses for each image.
        target: As for :func:`explain`; by default of each image its own.
        levels: As for :func:`explain`.
        walk: As for :func:`explain`.
        detail: As for :func:`explain`.
        saliency: As for :func:`explain`.
        thresholds: As for :func:`explain`.
        seed: As for :func:`explain`.
        device: As for :func:`explain`.
        progress: As for :func:`explain`.
        allow: As for :func:`explain`; one mask, of the size of the images.
        preserve: As for :func:`explain`; likewise.
        sparsity: As for :func:`explain`.
        diverse: As for :func:`explain`.
        identity: As for :func:`explain`; the same for all images.
        fidelity: As for :func:`explain`, of each image its own; of many together :func:`explainer.fidelity`.
        thorough: As for :func:`explain`, and at the end :func:`explainer.check_set` with its defaults, whose
            result is the ``checked`` of what is returned, and on its page.
        along: As for :func:`explain`.
        lock: As for :func:`explain`.
        towards: As for :func:`explain`.
        batch_size: Images read, walked and written together; fewer walk together if they are large.
        out: Folder to write to, new, empty, or begun by the same call.

    Returns:
        An :class:`Explanation` for each image, in their order, or an :class:`Outcome` for an image that
        could not be explained.

    Raises:
        ImageError: There are no images, or they are none of the above.
        ClassifierError: The classifier fails on every image of the first batch, or has no such target.
        OptionError: An option outside its range.
        OutputError: ``out`` holds something else, was begun with other settings or other images, or cannot
            be written to. What was written before is kept.
    """
    limits = Thresholds() if thresholds is None else thresholds
    settings = Settings(
        target, levels, walk, detail, saliency, limits, seed, allow, preserve, sparsity, diverse, identity,
        fidelity, thorough, along, lock, towards,
    )  # fmt: skip
    if not isinstance(batch_size, int) or batch_size < 1:
        raise OptionError("batch_size", "must be at least 1", received=batch_size, remedy="32 suits 64 px.")
    session = Session(classifier, generator, settings, device)
    items, total = stream(images), count(images)
    of = "" if total is None else f" of {total:,}"
    folder = None if out is None else ResultFolder.begin(out, session.record())
    kept: list[Explanation | Outcome] = []
    with session.classifier.frozen(), told(progress, "explaining") as say:
        done = 0 if folder is None else _skip_done(items, folder, say)
        failed = 0
        for batch in _batches(items, batch_size):
            say(f"{done:,}{of} images done" + (f", {failed:,} failed" if failed else ""))
            results = _explain_batch(session, batch)
            done += len(batch)
            failed += sum(isinstance(result, Outcome) for _, result in results)
            if folder is None:
                kept += [result for _, result in results]
            else:
                named = zip(batch, results, strict=True)
                folder.append([(item.name, mark, result) for item, (mark, result) in named])
    if folder is None:
        found = Explanations(kept)
    else:
        folder.finish()
        found = Explanations(Stored(folder.entries), complete=True, folder=folder.folder)
    if not thorough:
        return found
    with told(progress, "explaining") as say:
        say("checking the set")
        return _set_checked(found, session, folder)


# -- one batch ---------------------------------------------------------------------------------------------


def _explain_batch(session: Session, batch: Sequence[Item]) -> list[tuple[str, Explanation | Outcome]]:
    """What tells each image from another, and what became of it."""
    marks: dict[int, str] = {}
    results: dict[int, Explanation | Outcome] = {}
    groups: dict[tuple[Plan, torch.Size], list[tuple[Item, Tensor]]] = {}
    unsound: list[ClassifierError] = []
    for item in batch:
        try:
            picture = item.load()
        except UNREADABLE as error:
            marks[item.index], results[item.index] = digest(error), _outcome(item, error)
            continue
        marks[item.index] = digest(picture)
        image = picture[None].to(session.device)
        try:
            session.check(image)
            plan = session.plan(image)
        except UNREADABLE as error:
            _raise_if_general(error)
            results[item.index] = _outcome(item, error)
            if isinstance(error, ClassifierError):
                unsound.append(error)
        else:
            groups.setdefault((plan, image.shape), []).append((item, image))
    if unsound and not session.checked:
        raise unsound[0]
    for (plan, shape), members in groups.items():
        most = session.most_at_once(plan, shape, FRAME_BYTES)
        for start in range(0, len(members), most):
            results |= _explain_group(session, plan, members[start : start + most])
    return [(marks[item.index], results[item.index]) for item in batch]


def _explain_group(
    session: Session, plan: Plan, members: Sequence[tuple[Item, Tensor]]
) -> dict[int, Explanation | Outcome]:
    """Images of one plan and one size together; if that fails, by halves, down to the image at fault."""
    try:
        explanations = session.explain(torch.cat([image for _, image in members]), plan)
    except UNREADABLE as error:
        _raise_if_general(error)
        if len(members) == 1:
            item = members[0][0]
            return {item.index: _outcome(item, error)}
        middle = len(members) // 2
        first = _explain_group(session, plan, members[:middle])
        return first | _explain_group(session, plan, members[middle:])
    return {
        item.index: _named(explanation, item)
        for (item, _), explanation in zip(members, explanations, strict=True)
    }


def _raise_if_general(error: Exception) -> None:
    """Raise an error that is not about one image: an option that fits none of them."""
    of_target = isinstance(error, ClassifierError) and error.argument in ("target", "reference", "saliency")
    of_size = isinstance(error, OptionError) and error.argument in ("allow", "preserve")
    if of_target or (isinstance(error, OptionError) and not of_size):
        raise error


def _outcome(item: Item, error: Exception) -> Outcome:
    return Outcome.of(item.index, item.name, error)


def _named(explanation: Explanation, item: Item) -> Explanation:
    """The explanation with the place and name of its image."""
    image = {**explanation.provenance["image"], "index": item.index, "name": item.name}
    return replace(explanation, provenance={**explanation.provenance, "image": image})


def _set_checked(found: Explanations, session: Session, folder: ResultFolder | None) -> Explanations:
    """The explanations with the checks of the set, made now or by an earlier call that went as far."""
    if folder is not None:
        found = Explanations.open(folder.folder)
    if found.checked is not None or len(found.failed) == len(found):
        return found
    checked = check_set(
        found, session.classifier, generator="auto" if session.generator is None else session.generator,
        identity=session.settings.identity, seed=session.settings.seed, device=session.device,
    )  # fmt: skip
    if folder is not None:
        folder.write_checked(checked.record())
    return Explanations(found.results, complete=True, folder=found.folder, checked=checked)


# -- the stream --------------------------------------------------------------------------------------------


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _skip_done(items: Iterator[Item], folder: ResultFolder, say: Say) -> int:
    """Go past the images that the folder holds already, which must be the same.

    Raises:
        OutputError: They are not.
    """
    for entry in folder.entries:
        say(f"comparing image {entry.index + 1:,} of {len(folder.entries):,} done before")
        item = next(items, None)
        if item is None or item.digest() != entry.digest:
            raise OutputError(
                "out", "was begun with other images",
                received=f"{'no image' if item is None else item.name} where {entry.name} was",
                remedy="Choose a new folder, or pass the images of the first call.",
            )  # fmt: skip
    return len(folder.entries)
