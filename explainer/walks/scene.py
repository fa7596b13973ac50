"""What a walk sees: codes in, delivered images and their scores out."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from explainer.classifier import Classifier
from explainer.errors import OptionError
from explainer.generators.base import Generator
from explainer.target import Target

__all__ = ["Scene"]

BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""What a module is evaluated on: the next larger of these."""


class Scene:
    """Some images, seen through a generator and a classifier: latents in, delivered images and scores out.

    Images of another size than the generator's are delivered at their own, see
    :meth:`Generator.at_full_size`. An image of another aspect ratio is walked in its central part.

    Where the image may not change (``allow``, ``preserve``) the delivered image *is* the image. The mask is
    laid on before the classifier is asked, so a level that is reached is reached with the mask on.

    Args:
        generator: In evaluation mode.
        classifier: Frozen by the caller.
        target: What the score is of.
        images: ``(N, C, H, W)`` in [0, 1], any size.
        strength: Of the carried detail, 0 to 1.
        batch_size: Images evaluated at once.
        allow: Where the image may change, ``(H, W)`` for all or ``(N, 1, H, W)``, 0 to 1 (in between the
            change is scaled); everywhere when omitted.
        preserve: Where it may not, likewise; taken off ``allow``.
        within: Orthonormal directions ``(M, D)`` in which codes may move; every direction when omitted.

    Attributes:
        z: Codes ``(N, D)`` of the images.
        score0: Scores ``(N,)`` of the delivered images before any move.
        evaluations: Number of images whose score was computed.
        gradients: Number of images whose gradient was computed.
    """

    def __init__(
        self,
        generator: Generator,
        classifier: Classifier,
        target: Target,
        images: Tensor,
        *,
        strength: float = 1.0,
        batch_size: int = 128,
        allow: object = None,
        preserve: object = None,
        within: Tensor | None = None,
    ) -> None:
        self.generator, self.classifier, self.target = generator, classifier, target
        self.images, self.batch_size = images, batch_size
        self.region = generator.region((images.shape[-2], images.shape[-1]))
        self.allowed = _allowed(images, allow, preserve)
        self.evaluations = self.gradients = 0
        with torch.no_grad():
            self.small = generator.resized(images)
            self.z = generator.encode(self.small)
            self.detail = generator.detail(self.small, self.z, strength)
        self.within = None if within is None else within.to(self.z)
        self.score0 = self.score(self.z, torch.arange(len(images)))

    @cached_property
    def slope0(self) -> Tensor:
        """Gradients ``(N, D)`` of the scores before any move; computed when first asked for."""
        return self.score_and_gradient(self.z, torch.arange(len(self.images)))[1]

    def deliver(self, z: Tensor, rows: Tensor, *, full: bool = False) -> Tensor:
        """Delivered images ``(M, C, H, W)`` of codes ``(M, D)`` that belong to the images ``rows``.

        With ``full`` gradients run through the gates of the carried detail too.
        """
        frames = self.generator.decode(z, replace(self.detail[rows], full=full))
        originals = self.images[rows]
        delivered = self.generator.at_full_size(frames, self.small[rows], originals, full=full)
        if self.allowed is None:
            return delivered
        return torch.lerp(originals, delivered, self.allowed[rows].to(delivered))

    @torch.no_grad()
    def score(self, z: Tensor, rows: Tensor) -> Tensor:
        """Scores ``(M,)`` of the delivered images."""
        self.evaluations += len(z)
        scores = [
            self.classifier.score(self.deliver(part, members), self.target)[:count]
            for part, members, count in self.batches(z, rows)
        ]
        return torch.cat(scores)

    def score_and_gradient(self, z: Tensor, rows: Tensor, *, full: bool = False) -> tuple[Tensor, Tensor]:
        """Scores ``(M,)`` and their gradients ``(M, D)`` with respect to the codes.

        Of a scene whose codes may move ``within`` some directions only, the part of the gradient in them;
        with ``full`` all of the gradient, through the gates of the carried detail too.
        """
        self.gradients += len(z)
        scores, gradients = [], []
        with torch.enable_grad():
            for part, members, count in self.batches(z, rows):
                leaf = part.detach().requires_grad_(True)
                score = self.classifier.score(self.deliver(leaf, members, full=full), self.target)
                gradients.append(torch.autograd.grad(score.sum(), leaf)[0][:count])
                scores.append(score.detach()[:count])
        found = torch.cat(gradients)
        return torch.cat(scores), found if full else self.allowed_part(found)

    def allowed_part(self, moves: Tensor) -> Tensor:
        """The part of moves ``(..., D)`` in the directions codes may move in."""
        return moves if self.within is None else moves @ self.within.T @ self.within

    def batches(self, z: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Codes and their images in batches, and how many of each batch are meant.

        torch's convolutions keep what they compiled for every batch size they ever saw, so the memory of a
        long run would grow with the lanes that leave: a module sees few sizes, its last row repeated. Others
        may be paid by the query.
        """
        for part, members in zip(z.split(self.batch_size), rows.split(self.batch_size), strict=True):
            count = len(part)
            if isinstance(self.classifier.model, nn.Module):
                size = next((size for size in BATCH_SIZES if size >= count), count)
                last = torch.arange(size).clamp_max(count - 1)
                part, members = part[last], members[last]
            yield part, members, count


def _allowed(images: Tensor, allow: object, preserve: object) -> Tensor | None:
    """Share ``(N, 1, H, W)`` of its change that each pixel takes; None if all take all."""
    if allow is None and preserve is None:
        return None
    allowed = torch.ones(len(images), 1, *images.shape[-2:], device=images.device)
    if allow is not None:
        allowed = allowed * _mask("allow", allow, images)
    if preserve is not None:
        allowed = allowed * (1 - _mask("preserve", preserve, images))
    return allowed


def _mask(argument: str, given: object, images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    try:
        mask = torch.as_tensor(given, dtype=torch.float32, device=images.device)
    except (TypeError, ValueError, RuntimeError):
        mask = images.new_empty(0)
    fits = mask.shape in ((height, width), (1, 1, height, width), (len(images), 1, height, width))
    if not fits or not bool(((mask >= 0) & (mask <= 1)).all()):
        raise OptionError(
            argument,
            f"must be a mask ({height}, {width}) or ({len(images)}, 1, {height}, {width}), from 0 to 1",
            received=f"shape {tuple(mask.shape)}" + (" with values outside" if fits else ""),
            remedy="Resize it to the image; 1 marks what it speaks of.",
        )
    return mask
