r"""Do the frames still show the same individual?

A raw cosine of embeddings means nothing: those of two strangers can lie above .8. So every embedding is
centred on the mean of its reference images,

.. math:: \cos(e(x) - m, e(x') - m) > 0.5

(strictly, the critical value of Singla et al. 2020), and the quantiles of the cosines of *genuine* pairs (two
images of one individual) and of *impostors* (two individuals) are stored with it: they say what .5 means.
Without reference images an embedding is uncalibrated, which is what the check then says. Closeness in the
generator's latent space is not identity.

A frame passes if its cosine exceeds the critical value, if hardly any stranger does, and if the cosine is
not below what nearly all genuine pairs have. Pairs of a few images depend on each other: what counts is how
many of them share nobody. With fewer than 1 / p of these the share p of a tail cannot be told, and then the
check decides nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from explainer.checks.base import UNMOVED, Check, Thresholds
from explainer.checks.embedding import EmbeddingNet, fit_embedding, recoloured
from explainer.checks.ends import Ends
from explainer.checks.walked import Walked
from explainer.convnet import as_float, augmented
from explainer.errors import DependencyError, ModelFileError, OptionError, TrainingError
from explainer.frozen import frozen, modules_within
from explainer.image import resize
from explainer.storage import read_json, read_tensors

__all__ = [
    "Identity",
    "calibrate_identity",
    "cosine_quantiles",
    "dlib_identity",
    "fit_identity",
    "identity_kept",
    "load_identity",
    "pair_cosines",
]

Embedding = Callable[[Tensor], Tensor]
SHARES = np.linspace(0, 1, 101)
MOST_PAIRS = 20_000
DLIB_SIZE = 150
FEWEST_TO_FIT = 50


@dataclass(frozen=True)
class Identity:
    """An embedding, and what its cosines mean.

    Attributes:
        embedding: From images ``(N, C, H, W)`` in [0, 1] to features ``(N, F)``.
        name: Shown in the check.
        mean: Mean embedding ``(F,)`` of reference images; without it the identity is uncalibrated.
        genuine: Evenly spaced quantiles (0 to 1) of the cosines of genuine pairs; empty if there were none.
        impostor: The same of pairs of different individuals.
        pairs: What the genuine pairs were, in words.
        size: (height, width) the embedding takes; None if any.
        independent: How many genuine and how many impostor pairs there are that share nobody; None if that
            is not known.
    """

    embedding: Embedding
    name: str = "given embedding"
    mean: Tensor | None = None
    genuine: tuple[float, ...] = ()
    impostor: tuple[float, ...] = ()
    pairs: str = ""
    size: tuple[int, int] | None = None
    independent: tuple[int, int] | None = None

    @property
    def calibrated(self) -> bool:
        """Whether the embedding has a reference, so that its cosines mean something."""
        return self.mean is not None and bool(self.genuine) and bool(self.impostor)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features ``(N, F)`` of images ``(N, C, H, W)``, centred if there is a reference.

        The embedding is asked where it is, in evaluation mode, and left as it was; the features lie where the
        images do.
        """
        modules = modules_within(self.embedding)
        parameters = (parameter for module in modules for parameter in module.parameters())
        device = next((parameter.device for parameter in parameters), images.device)
        parts = []
        for part in images.split(256):
            given = part if self.size is None else resize(part, self.size).clamp(0, 1)
            with frozen(modules):
                found = self.embedding(given.to(device))
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(part):
                raise OptionError(
                    "identity", "must turn images (N, C, H, W) into features (N, F)",
                    received=f"{type(found).__name__} {tuple(getattr(found, 'shape', ()))}",
                    remedy="Flatten what the embedding returns, one row per image.",
                )  # fmt: skip
            parts.append(found.float().to(images.device))
        values = torch.cat(parts)
        return values if self.mean is None else values - self.mean.to(values)

    def cosines(self, images: Tensor, others: Tensor) -> Tensor:
        """Cosines ``(N,)`` between images and others, pair by pair."""
        one, other = self.features(torch.cat([images, others])).chunk(2)
        return torch.cosine_similarity(one, other, dim=1)

    def share_above(self, cosine: float, *, of: str = "impostor") -> float:
        """Share of the impostor pairs, at most, or of the genuine, at least, more alike than a cosine.

        Between two stored quantiles nothing is interpolated: of impostors the larger share is told, of
        genuine pairs the smaller.

        >>> identity = Identity(torch.flatten, impostor=tuple(np.linspace(-1, 0.5, 101)))
        >>> identity.share_above(0.2), identity.share_above(0.201), identity.share_above(0.499)
        (0.2, 0.2, 0.01)
        """
        quantiles = self.impostor if of == "impostor" else self.genuine
        steps = len(quantiles) - 1
        side: Literal["left", "right"] = "right" if of == "impostor" else "left"
        below = int(np.searchsorted(quantiles, cosine + (1e-9 if of == "impostor" else -1e-9), side=side))
        # Impostors: the largest quantile that is not above the cosine; genuine: the smallest not below it.
        position = max(0, below - 1) if of == "impostor" else min(steps, below)
        return round(1 - position / steps, 6)


def calibrate_identity(
    embedding: Embedding,
    reference: Tensor,
    individuals: Sequence[Any] | None = None,
    *,
    name: str = "given embedding",
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> Identity:
    """An identity from any embedding and reference images.

    Args:
        embedding: From images ``(N, C, H, W)`` in [0, 1] to features ``(N, F)``.
        reference: Images ``(N, C, H, W)`` like those to be explained, uint8 or float; individuals that the
            embedding was not trained on.
        individuals: Who is on each; without them every image is somebody else, and the genuine pairs are
            augmented copies, which are more alike than two photographs.
        name: Shown in the check.
        size: (height, width) the embedding takes.
        seed: Of the pairs and the augmentation.

    Raises:
        OptionError: No embedding, no tensor of images, fewer than three of them, or no pair of either kind.
    """
    if not callable(embedding):
        raise OptionError(
            "embedding", "must turn images (N, C, H, W) into features (N, F)",
            received=f"{type(embedding).__name__} {embedding!r}",
            remedy="Pass a module or function; load_identity loads one of the zoo by name.",
        )  # fmt: skip
    _require_images("reference", reference)
    images = as_float(reference).cpu()
    if len(images) < 3 or (individuals is not None and len(individuals) != len(images)):
        count = "none" if individuals is None else len(individuals)
        raise OptionError(
            "reference", "must hold at least three images, and individuals one name for each",
            received=f"{len(images)} images, individuals: {count}",
            remedy="Pass some hundred images.",
        )  # fmt: skip
    raw = Identity(embedding, name, size=size).features(images)
    mean = raw.mean(dim=0)
    centred = raw - mean
    if individuals is None:
        who = np.arange(len(images))
        generator = torch.Generator().manual_seed(seed)
        copies = recoloured(augmented(images, generator, flip=False), generator)
        copied = Identity(embedding, name, mean, size=size).features(copies)
        genuine = torch.cosine_similarity(centred, copied, dim=1).numpy()
        pairs = "augmented copies of one image"
        apart = len(images)
        _, impostor = pair_cosines(centred, who, seed=seed)
    else:
        who = np.asarray(individuals)
        genuine, impostor = pair_cosines(centred, who, seed=seed)
        pairs = "two images of one individual"
        apart = int((np.unique(who, return_counts=True)[1] > 1).sum())
    if not len(genuine) or not len(impostor):
        raise OptionError(
            "individuals", "must hold two images of one of them, and two of them",
            received=f"{len(genuine)} genuine and {len(impostor)} impostor pairs",
            remedy="Pass more images, or leave individuals out.",
        )  # fmt: skip
    return Identity(
        embedding,
        name,
        mean,
        cosine_quantiles(genuine),
        cosine_quantiles(impostor),
        pairs,
        size,
        independent=(apart, len(np.unique(who)) // 2),
    )


def _require_images(argument: str, images: object) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = f" {tuple(images.shape)}" if isinstance(images, Tensor | np.ndarray) else ""
        raise OptionError(
            argument, "must be a tensor (N, C, H, W)", received=f"{type(images).__name__}{shape}",
            remedy="Read a folder with as_images; torch.from_numpy turns an array into a tensor.",
        )  # fmt: skip


def pair_cosines(
    features: Tensor, individuals: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of all genuine pairs, and of impostor pairs, at most 20,000 of each, drawn at random."""
    values = functional.normalize(features.double(), dim=1)
    cosines = (values @ values.T).numpy()
    first, second = np.triu_indices(len(values), 1)
    same = individuals[first] == individuals[second]
    stream = np.random.default_rng(seed)

    def some(chosen: np.ndarray) -> np.ndarray:
        index = np.flatnonzero(chosen)
        if len(index) > MOST_PAIRS:
            index = stream.choice(index, MOST_PAIRS, replace=False)
        return cosines[first[index], second[index]]

    return some(same), some(~same)


def cosine_quantiles(cosines: np.ndarray) -> tuple[float, ...]:
    """101 quantiles, ascending, rounded to five digits so that a card stays readable."""
    return tuple(round(float(value), 5) for value in np.quantile(cosines, SHARES))


def fit_identity(images: Tensor, *, steps: int = 600, flip: bool = False, seed: int = 0) -> Identity:
    """An identity trained on a user's own images, without labels; about two minutes at 64 pixels.

    Two augmented copies of an image are one individual, two images are two, see
    :mod:`explainer.checks.embedding`. A fifth of the images is set aside for the quantiles.

    Args:
        images: ``(N, C, H, W)``, uint8 or float in [0, 1], at least 50; aligned, one individual each.
        steps: Optimiser steps.
        flip: Whether a mirrored image is the same individual.
        seed: Of everything drawn at random.

    Raises:
        OptionError: No tensor of images.
        TrainingError: Too few images.
    """
    _require_images("images", images)
    if len(images) < FEWEST_TO_FIT:
        raise TrainingError(
            "images", f"must be at least {FEWEST_TO_FIT}: a fifth is set aside", received=len(images),
            remedy="Pass more images, or calibrate_identity with an embedding that is trained already.",
        )  # fmt: skip
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    aside = len(images) // 5
    network = fit_embedding(images[order[aside:]], steps=steps, flip=flip, seed=seed)
    return calibrate_identity(network, images[order[:aside]], name="embedding of the images' own", seed=seed)


def load_identity(name: str = "faces") -> Identity:
    """An identity of the zoo.

    Args:
        name: A model of the zoo that has one: ``"faces"``.

    Raises:
        OptionError: No such model, or it has no identity.
        ModelFileError: Its weights are not those the card names.
    """
    folder: Any = files("explainer._models") / str(name)
    entry = read_json(folder / "card.json", "identity").get("identity") if folder.is_dir() else None
    if entry is None:
        raise OptionError(
            "identity", "is not in the zoo", received=name,
            remedy='Pass "faces", an Identity, or train one with fit_identity.',
        )  # fmt: skip
    try:
        network = EmbeddingNet(**entry["architecture"])
        network.load_state_dict(read_tensors(folder / entry["file"], entry["sha256"], "identity"))
        genuine, impostor, size = entry["genuine"], entry["impostor"], entry["size"]
        apart = entry["validation"]["independent pairs"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise ModelFileError(
            "identity", "has a card that does not describe its weights", received=name,
            remedy=f"Train it again ({type(error).__name__}: {error}).",
        ) from error  # fmt: skip
    network.requires_grad_(False).eval()
    return Identity(
        network,
        f"{name}/identity",
        network.centre,
        tuple(genuine),
        tuple(impostor),
        "two photographs of one person",
        (size[0], size[1]),
        (apart[0], apart[1]),
    )


def dlib_identity(reference: Tensor, individuals: Sequence[Any] | None = None, *, seed: int = 0) -> Identity:
    """The ResNet of dlib (128 features), centred on reference faces; needs the extra ``faces``.

    The images are taken to be aligned faces: they are enlarged to 150 pixels, no face is searched for.

    Raises:
        DependencyError: dlib or its weights are not installed.
    """
    try:
        import dlib
        import face_recognition_models
    except ImportError as error:
        raise DependencyError(
            "identity", "needs dlib and its weights", received=str(error),
            remedy="Install progressive-explainer[faces].",
        ) from error  # fmt: skip
    network = dlib.face_recognition_model_v1(face_recognition_models.face_recognition_model_location())

    def embedding(images: Tensor) -> Tensor:
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        found = [network.compute_face_descriptor(np.ascontiguousarray(each)) for each in pixels]
        return torch.tensor(np.array(found), dtype=torch.float32)

    return calibrate_identity(
        embedding, reference, individuals, name="dlib", size=(DLIB_SIZE, DLIB_SIZE), seed=seed
    )


@torch.no_grad()
def identity_kept(
    walked: Sequence[Walked], ends: Ends, identity: Identity, thresholds: Thresholds
) -> list[Check]:
    """Cosine between the image and both ends of its walk, against the critical value and what it means.

    The embedding sees what the generator sees, at the generator's size.

    Args:
        walked: The walks.
        ends: Their ends.
        identity: The embedding.
        thresholds: See :class:`Thresholds`.
    """
    generator, scene = ends.scene.generator, ends.scene
    lowest: dict[int, float] = {}
    if len(ends):
        members = torch.tensor([each.row for each in walked])
        # Every image once, although it has two ends.
        features = identity.features(torch.cat([scene.small[members], generator.resized(ends.frames)]))
        originals, frames = features[: len(members)], features[len(members) :]
        cosines = torch.cosine_similarity(originals[ends.image], frames, dim=1)
        for image, cosine in zip(ends.image.tolist(), cosines.tolist(), strict=True):
            # min() keeps or drops a NaN by its place; once there is one, no cosine is the lowest.
            so_far = lowest.get(image, 1.0)
            lowest[image] = min(cosine, so_far) if math.isfinite(cosine + so_far) else math.nan
    return [_judged(lowest.get(image), identity, thresholds) for image in range(len(walked))]


def _judged(cosine: float | None, identity: Identity, thresholds: Thresholds) -> Check:
    if cosine is None:
        return Check("identity", "info", UNMOVED, {})
    values: dict[str, float | str] = {"embedding": identity.name, "lowest cosine": cosine}
    if not identity.calibrated:
        return Check(
            "identity",
            "info",
            f"Image and ends have a cosine of at least {cosine:.2f} in the {identity.name}, which is "
            "uncalibrated: "
            "without reference images this number means nothing.",
            values,
        )
    if not math.isfinite(cosine):
        said = f"Image or ends have no finite features in the {identity.name}: who they show is not known."
        return Check("identity", "limit", said, values)
    critical = thresholds.identity
    strangers = identity.share_above(critical)
    genuine = identity.share_above(critical, of="genuine")
    values |= {
        "genuine above": genuine,
        "strangers above": strangers,
        **_marks("genuine", identity.genuine),
        **_marks("strangers", identity.impostor),
    }
    said = (
        f"Image and ends have a centred cosine of at least {cosine:.2f} ({identity.name}); above "
        f"{critical:g} lie at least {genuine:.0%} of genuine pairs ({identity.pairs}) and at most "
        f"{strangers:.1%} of strangers"
    )
    if strangers > thresholds.strangers:
        return Check("identity", "limit", f"{said}: too many for it to tell individuals apart.", values)
    few_genuine, few_strangers = _too_few(identity, thresholds)
    if identity.independent is not None:
        values |= dict(
            zip(("genuine pairs", "pairs of strangers"), map(float, identity.independent), strict=True)
        )
        if few_strangers:
            return Check(
                "identity",
                "info",
                f"{said}, of whom only {identity.independent[1]} pairs share nobody: too few to tell a share "
                f"of {thresholds.strangers:.0%}, so it decides nothing.",
                values,
            )
    if not cosine > critical:
        return Check("identity", "limit", f"{said}: the walk does not keep the individual.", values)
    usual = float(np.quantile(identity.genuine, thresholds.genuine))
    if not few_genuine and cosine < usual:
        return Check(
            "identity",
            "limit",
            f"{said}: the cosine is below that of {1 - thresholds.genuine:.0%} of genuine pairs "
            f"({usual:.2f}).",
            values,
        )
    return Check("identity", "pass", f"{said}.", values)


def _too_few(identity: Identity, thresholds: Thresholds) -> tuple[bool, bool]:
    """Whether the tails of genuine pairs and of strangers cannot be told from so few pairs."""
    if identity.independent is None:
        return False, False
    genuine, strangers = identity.independent
    return genuine * thresholds.genuine < 1, strangers * thresholds.strangers < 1


def _marks(name: str, quantiles: Sequence[float]) -> Mapping[str, float | str]:
    marks = np.quantile(quantiles, [0.05, 0.5, 0.95]).tolist()
    return {f"{name} {share}": mark for share, mark in zip(("5 %", "50 %", "95 %"), marks, strict=True)}
