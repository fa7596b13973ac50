r"""The amortised walk: a small network learns the moves, so a frame costs one forward pass.

The trained exaggerator of Singla et al. 2020 (arXiv 1911.00483), with a frozen generator in place of a
conditional GAN. The head :math:`g` of :mod:`explainer.walks.head` is asked twice: from the image's code for
its *anchor*, the point of score 0, where the classifier's score and slope are computed, and from there, one
pass a frame, for every level; a level nearer to the image's own score is asked for from its own code. So an
image costs two gradients, and its frames one pass each.

It is trained on delivered images with

.. math:: \mathrm{BCE}(s(z'), p) + .02\, \|z' - z\|^2 + \|g(z', s_a) - a\|^2 / D + \|g(a, s_a) - a\|^2
          + .5\, \|z' - z^*\|^2

for moves from ``a`` (an image's code ``z`` or its anchor) to levels p drawn at random: compatibility with
the classifier, small moves, walking back (self-consistency), and staying where nothing is asked, which is 0
by the head's form. The last term is not the paper's: :math:`z^*` is the point nearest to ``z`` on the level
set that is wanted, linearised at ``z'`` (the step of :mod:`explainer.walks.stepping`). The gradient of the
score, which the first term needs anyway, so teaches all dimensions of the move. A regression has the squared
error of its score in place of the first term.

Decoder and classifier are what costs. So every point at which they were asked is kept with its score and
slope, and the head learns from all of them again and again: asked for the score that was found there, the
point is an answer. Near it the score is taken as linear, and a point counts the less the further the head has
moved away from it.

The frames of one pass are then brought to their level *along the head's own path*: where neighbouring frames
bracket it, by interpolation; beyond the last, by asking for more. The few images whose path ends before the
goal are walked by the gradient instead; the result counts it.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from explainer.classifier import Classifier
from explainer.errors import ModelFileError, OptionError, TrainingError
from explainer.generators.base import Generator
from explainer.storage import new_folder, read_json, read_tensors, write_json, write_tensors
from explainer.target import Target, TargetSpec
from explainer.walks.base import Goals, Lanes, Walk
from explainer.walks.gradient import GradientWalk, require_gradient
from explainer.walks.head import Head
from explainer.walks.placing import Lane
from explainer.walks.scene import Scene

__all__ = ["ConditionalWalk"]

CARD = "walk.json"
_WEIGHTS = "head.safetensors"
_SHORT_MOVES = 0.02
_NEAREST = 0.5
_LESSONS = 10  # updates of the head for each batch the classifier is asked about
_LESSON = 224  # earlier points in each of them
_MOST_DRAWS = 8  # rounds of asking for more than the wanted score
_GROWTH = 1.25


class Points(NamedTuple):
    """Codes ``(M, D)`` with their scores ``(M,)`` and the scores' slopes ``(M, D)``."""

    codes: Tensor
    scores: Tensor
    slopes: Tensor

    def of(self, rows: Tensor) -> "Points":
        return Points(*(each[rows] for each in self))


class ConditionalWalk(Walk):
    """A trained head, for one generator and one target of one classifier.

    Made by :meth:`fit` or :meth:`load`.

    Args:
        head: The network.
        target: What it walks to.
        generator: Fingerprint of its generator.
        training: What is known of its training.
    """

    name = "conditional"
    aim = 0.5
    settles = True

    def __init__(self, head: Head, target: Target, generator: str, training: dict[str, Any]) -> None:
        self.head = head.eval().requires_grad_(False)
        self.target, self.generator, self.training = target, generator, training

    def options(self) -> dict[str, Any]:
        return {"width": self.head.width, "training": self.training}

    @classmethod
    def fit(
        cls,
        generator: Generator,
        classifier: Classifier,
        images: Tensor,
        *,
        target: TargetSpec | Target = None,
        steps: int = 200,
        batch_size: int = 32,
        width: int = 128,
        learning_rate: float = 3e-3,
        strength: float = 1.0,
        seed: int = 0,
    ) -> "ConditionalWalk":
        """Train a head; generator and classifier stay as they are.

        Args:
            generator: Frozen here.
            classifier: Likewise; it must have a gradient.
            images: ``(N, C, H, W)`` in [0, 1] like those to be explained, some hundred.
            target: As in :meth:`Classifier.target`, or its answer.
            steps: Optimiser steps (Adam, cosine).
            batch_size: Images of one step.
            width: Of the head's hidden layers.
            learning_rate: First learning rate.
            strength: Of the carried detail.
            seed: Of weights, levels and order.

        Raises:
            OptionError: Options that are not positive.
            ClassifierError: No such target, or no gradient.
            TrainingError: No step had a finite gradient.
        """
        if min(steps, batch_size, width) < 1 or not learning_rate > 0:
            raise OptionError(
                "steps, batch_size, width, learning_rate",
                "must be positive",
                received=(steps, batch_size, width, learning_rate),
                remedy="Try steps=200, batch_size=32, width=128, learning_rate=.003.",
            )
        began = time.perf_counter()
        classifier.check(images[:4])
        with classifier.frozen():
            goal = target if isinstance(target, Target) else classifier.target(target, images)
            scene = Scene(generator, classifier, goal, images, strength=strength)
            require_gradient(scene, cls.name)
            head = Head(scene.z.shape[1], width, seed=seed).to(scene.z)
            loss = _train(head, scene, steps, batch_size, learning_rate, seed)
        training = {
            "images": len(images), "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate,
            "strength": strength, "seed": seed, "loss": loss, "seconds": time.perf_counter() - began,
        }  # fmt: skip
        return cls(head, goal, generator.fingerprint, training)

    # -- the walk ------------------------------------------------------------------------------------

    def anchors(self, scene: Scene) -> Points:
        """Where the head takes the scene's images to have score 0, and what the classifier says there."""
        self._require(scene)
        starts = Points(scene.z, scene.score0, scene.slope0)
        with torch.no_grad():
            codes = scene.z + self.head.to(scene.z)(*starts, torch.zeros_like(scene.score0))
        return Points(codes, *scene.score_and_gradient(codes, torch.arange(len(codes))))

    @torch.no_grad()
    def codes(self, scene: Scene, rows: Tensor, wanted: Tensor, anchors: Points | None = None) -> Tensor:
        """The head's codes ``(M, D)`` of the images ``rows`` for wanted scores ``(M,)``: one pass.

        ``anchors`` are those of the scene, where they are known.
        """
        anchor = (anchors or self.anchors(scene)).of(rows)
        start = Points(scene.z, scene.score0, scene.slope0).of(rows)
        wanted = wanted.to(scene.z)
        near = (wanted - start.scores).abs() < (wanted - anchor.scores).abs()
        near |= ~(anchor.scores.isfinite() & anchor.slopes.isfinite().all(dim=1))
        begin = Points(
            torch.where(near[:, None], start.codes, anchor.codes),
            torch.where(near, start.scores, anchor.scores),
            torch.where(near[:, None], start.slopes, anchor.slopes),
        )
        return begin.codes + self.head.to(scene.z)(*begin, wanted)

    def lanes(self, scene: Scene, goals: Goals, wanted: Tensor) -> Lanes:
        anchors = self.anchors(scene)
        lanes: Lanes = {
            key: Lane(
                [scene.z[key[0]]], [float(scene.score0[key[0]])], [torch.full_like(scene.z[0], torch.nan)]
            )
            for key in sorted(goals)
        }
        asked = [
            (key, want)
            for key, lane in lanes.items()
            for want in (wanted.tolist() if key[1] > 0 else wanted.flip(0).tolist())
            if key[1] * (want - lane.scores[0]) > 0
        ]
        self._follow(scene, anchors, lanes, asked, stretch=1.0)
        request = dict(goals)
        stretch = 1.0
        for number in range(_MOST_DRAWS):
            short = [key for key, goal in goals.items() if key[1] * (lanes[key].scores[-1] - goal) < 0]
            if not short:
                break
            for key in short:
                missing = goals[key] - lanes[key].scores[-1]
                request[key] += 1.2 * missing + 0.2 * key[1] if math.isfinite(missing) else 0.0
            # Asking for more may not help a head that was never asked for so much: then go on straight.
            stretch *= _GROWTH if number >= _MOST_DRAWS // 2 else 1.0
            self._follow(scene, anchors, lanes, [(key, request[key]) for key in short], stretch=stretch)
        missed = {k: goal for k, goal in goals.items() if k[1] * (lanes[k].scores[-1] - goal) < 0}
        if missed:
            lanes.update(GradientWalk().lanes(scene, missed, wanted))
        return lanes

    def _follow(
        self,
        scene: Scene,
        anchors: Points,
        lanes: Lanes,
        asked: list[tuple[tuple[int, int], float]],
        *,
        stretch: float,
    ) -> None:
        """Points of the head's paths, added to their lanes where they go on."""
        rows = torch.tensor([image for (image, _), _ in asked])
        codes = self.codes(
            scene, rows, torch.tensor([want for _, want in asked], dtype=torch.float64), anchors
        )
        codes = scene.z[rows] + stretch * (codes - scene.z[rows])
        scores = scene.score(codes, rows).tolist()
        for (key, _), code, score in zip(asked, codes, scores, strict=True):
            if math.isfinite(score) and key[1] * (score - lanes[key].scores[-1]) > 0:
                lanes[key].add(code, score)

    def _require(self, scene: Scene) -> None:
        require_gradient(scene, self.name)
        if scene.z.shape[1] != self.head.latent_dim or scene.generator.fingerprint != self.generator:
            raise OptionError(
                "walk",
                "was trained with another generator",
                received=f"one with codes of {scene.z.shape[1]} dimensions, "
                f"fingerprint {scene.generator.fingerprint[:12]}",
                remedy="Train it again with ConditionalWalk.fit.",
            )
        if scene.target != self.target:
            raise OptionError(
                "walk",
                f'was trained for "{self.target.label}"',
                received=scene.target.label,
                remedy="Train one for this target with ConditionalWalk.fit.",
            )

    # -- files -----------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the head into a new folder: its weights as safetensors, the rest as JSON.

        Raises:
            OutputError: The folder cannot be written, or holds something else.
        """
        with new_folder(folder, marker=CARD) as place:
            digest = write_tensors(place / _WEIGHTS, self.head.state_dict())
            write_json(
                place / CARD,
                {
                    "format": 2,
                    "walk": self.name,
                    "latent_dim": self.head.latent_dim,
                    "width": self.head.width,
                    "target": asdict(self.target),
                    "generator": self.generator,
                    "training": self.training,
                    "sha256": digest,
                },
            )

    @classmethod
    def load(cls, folder: str | Path) -> "ConditionalWalk":
        """Read what :meth:`save` wrote.

        Raises:
            ModelFileError: Files missing, changed, or of something else.
        """
        place = Path(folder)
        card = read_json(place / CARD, "walk")
        try:
            if card["format"] != 2:
                raise ValueError(f"its format is {card['format']}, not 2")
            head = Head(int(card["latent_dim"]), int(card["width"]))
            target = dict(card["target"])
            quartiles = target.pop("quartiles")
            known = Target(**target, quartiles=None if quartiles is None else tuple(quartiles))
            generator, training = str(card["generator"]), dict(card["training"])
            weights = read_tensors(place / _WEIGHTS, str(card["sha256"]), "walk")
            head.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                "walk", "is not a saved conditional walk", received=place, remedy=f"Save it again ({error})."
            ) from error
        return cls(head, known, generator, training)


def _train(head: Head, scene: Scene, steps: int, batch_size: int, learning_rate: float, seed: int) -> float:
    """Train in place; returns the mean loss of the last tenth of the steps."""
    random = torch.Generator().manual_seed(seed)
    starts = Points(scene.z, scene.score0, scene.slope0)
    usable = (starts.scores.isfinite() & starts.slopes.isfinite().all(dim=1)).nonzero().flatten().cpu()
    if not len(usable):
        raise TrainingError(
            "classifier",
            "has no finite gradient on these images, so there is nothing to learn from",
            received=f"{len(scene.z)} images",
            remedy="Check its outputs on these images.",
        )
    head.mean.copy_(scene.z.mean(dim=0))
    head.std.copy_(scene.z.std(dim=0, correction=0).clamp_min(1e-3))
    head.steepness.copy_(starts.slopes[usable].square().sum(dim=1).median().clamp_min(1e-12))
    trained = list(head.parameters())
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    is_value = scene.target.measure == "value"
    known: list[_Seen] = []
    losses: list[float] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        if step % 2 == 0 or not known:  # to the anchors, or near them
            rows = usable[torch.randint(len(usable), (min(batch_size, len(usable)),), generator=random)]
            begin = starts.of(rows)
            wanted = torch.randn(len(rows), generator=random).to(scene.z) / 2
        else:  # from there to the levels
            rows, begin = known[-1].rows, Points(known[-1].moved, known[-1].score, known[-1].slope)
            share = torch.rand(len(rows), generator=random)
            wanted = (3 * share - 1.5 if is_value else torch.logit(0.03 + 0.94 * share)).to(scene.z)
        with torch.no_grad():
            moved = begin.codes + head(*begin, wanted)
        score, slope = scene.score_and_gradient(moved, rows)
        usual = (score.isfinite() & slope.isfinite().all(dim=1)).nonzero().flatten()
        if len(usual):
            seen = (*begin, moved, score, slope, wanted)
            known.append(_Seen(rows[usual.cpu()], *(each[usual] for each in seen)))
        if not known:
            continue
        past = _Seen(*(torch.cat(each) for each in zip(*known, strict=True)))
        for _ in range(_LESSONS):
            drawn = torch.randint(len(past.rows), (_LESSON,), generator=random)
            again = _Seen(*(each[drawn.to(each.device)] for each in past))
            # Asked for the score that was found there, its point is an answer, whatever was asked for then.
            near = again.score + torch.randn(_LESSON, generator=random).to(again.score) / 2
            again = again._replace(wanted=near)
            lesson = _Seen(*(torch.cat(pair) for pair in zip(again, known[-1], strict=True)))
            loss = _loss(head, scene, lesson, is_value)
            # Not backward(): nothing but the head may gather gradients.
            for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
        losses.append(float(loss.detach()))
    if not losses:
        raise TrainingError(
            "classifier",
            "has no finite gradient on the images' walks, so nothing was learnt",
            received=f"{steps} steps",
            remedy="Check its outputs on these images.",
        )
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


class _Seen(NamedTuple):
    """Where the classifier was asked: images ``rows``, codes, scores and slopes before the move and after it,
    and the scores that were wanted.
    """

    rows: Tensor
    begin: Tensor
    own: Tensor
    begin_slope: Tensor
    moved: Tensor
    score: Tensor
    slope: Tensor
    wanted: Tensor


def _loss(head: Head, scene: Scene, seen: _Seen, is_value: bool) -> Tensor:
    """The formula of the module, with the score linearised where it was seen."""
    z = scene.z[seen.rows]
    with torch.enable_grad():
        moved = seen.begin + head(seen.begin, seen.own, seen.begin_slope, seen.wanted)
        aside = moved - seen.moved
        score = seen.score + (aside * seen.slope).sum(dim=1)
        trust = torch.exp(-aside.detach().square().sum(dim=1))
        compatible = (
            (score - seen.wanted).square()
            if is_value
            else functional.binary_cross_entropy_with_logits(
                score, torch.sigmoid(seen.wanted), reduction="none"
            )
        )
        nearest = _nearest(z, moved.detach(), seen.wanted - score.detach(), seen.slope)
        back = moved + head(moved, score.detach(), seen.slope, seen.own)
        each = (
            compatible
            + _SHORT_MOVES * (moved - z).square().sum(dim=1)
            + _NEAREST * (moved - nearest).square().sum(dim=1)
            + (back - seen.begin).square().sum(dim=1) / z.shape[1]
        )
        return (trust * each).mean()


def _nearest(z: Tensor, moved: Tensor, gap: Tensor, slope: Tensor) -> Tensor:
    """Where the linearised level set that is wanted comes nearest to ``z``, at most 1 from ``moved``."""
    steepness = slope.square().sum(dim=1).clamp_min(1e-12)
    along = (slope * (moved - z)).sum(dim=1) + gap
    step = z + (along / steepness)[:, None] * slope - moved
    return moved + step / step.norm(dim=1, keepdim=True).clamp_min(1.0)
