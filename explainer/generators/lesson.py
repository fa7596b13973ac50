r"""What guidance adds to the loss of a generator that learns it, with axes :math:`q_i` and an origin m given.

With coordinates :math:`a_i = q_i \cdot (z - m)` of a code:

- ``told``: of labels :math:`(a_i - y)^2` with y in standard deviations, of 0 and 1 a logistic loss, of a
  ranking :math:`|\tanh(a_i - a_j) - \mathrm{sgn}|` of two images (AR-VAE, Pati & Lerch 2021, arXiv
  2004.05485, eq. 6), of a pair that its unchanged coordinates match and the changed ones grow, of anchors
  :math:`w\,\|\mu - \mathrm{anchor}\|^2`;
- ``spread``: what Gaussian processes (:mod:`explainer.generators.teacher`) make of labels and anchors for all
  other images, each weighed by how sure it is: with few labels, most of what can be known of the rest;
- ``moved``: codes of which one coordinate was moved, and in half of them the unnamed part exchanged for that
  of another image, are decoded and encoded, and must come back;
- ``obeyed``: the images decoded from these codes are read by the Gaussian processes, whose expected squared
  error :math:`(g_i - a_i)^2 + \mathrm{var}_i` must be small: the decoder draws a factor from its named
  coordinate and from nothing else. Encoder and decoder cannot agree on anything else here, since these
  readers are fixed; they are fitted to labelled images and to what the generator as it was makes of them;
- ``apart``: the squared correlations of a named coordinate with all other directions of the code;
- ``kept``: locked axes, and those there were before, keep their coordinates (distilled from the generator as
  it was), and an image is not reconstructed worse than it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from explainer.errors import OptionError
from explainer.generators.axes import NamedAxes
from explainer.generators.base import as_unit_interval
from explainer.generators.guidance import Anchors, Guidance, Lock
from explainer.generators.teacher import FEWEST_SPREAD, Teacher, describe, fit_teacher, some_of, teacher_of
from explainer.generators.told import Told, told
from explainer.generators.training import TrainableGenerator

__all__ = ["Lesson", "Weights"]

GUIDED = 32
LOGIT = 3.0
MARGIN = 1.0
REACH = 1.6
"""Standard deviations to either side that coordinates are moved: where nine tenths of a normal code lie."""


@dataclass(frozen=True)
class Weights:
    """What each part of the guidance counts, beside the generator's own loss in nats per pixel value."""

    told: float = 5.0
    spread: float = 10.0
    moved: float = 1.0
    obeyed: float = 5.0
    apart: float = 0.1
    kept: float = 2.0


class Lesson:
    """The parts of the loss that come from guidance.

    Args:
        before: The generator as it was.
        axes: Directions to learn; None for anchors alone.
        guidance: What was said.
        images: All images.
        places: Where each guided image is.
        codes: Codes ``(N, D)`` of all images in the generator as it was.
        weights: Of the parts.
        seed: Of the Gaussian processes.
    """

    def __init__(
        self,
        before: TrainableGenerator,
        axes: NamedAxes | None,
        guidance: Guidance,
        images: Tensor,
        places: dict[str, int],
        codes: Tensor,
        weights: Weights,
        seed: int,
    ) -> None:
        self.before, self.axes, self.weights, self.seed = before, axes, weights, seed
        rows = sorted(set(places.values()))
        at = {row: place for place, row in enumerate(rows)}
        self.guided = images[rows]
        inner = {each: at[row] for each, row in places.items()}
        self.told = told(guidance, inner)
        self.names = () if axes is None else axes.names
        self.anchors = self._anchors(guidance, inner, before.latent_dim)
        taught = {name for name, each in self.told.items() if any(part.basis for part in each)}
        locked = {name for lock in guidance.of(Lock) for name in lock.names}
        self.kept = [number for number, name in enumerate(self.names) if name in locked or name not in taught]
        described = describe(before.prepare(as_unit_interval(self.guided).to(codes.device)), codes[rows])
        self.teachers = {
            number: teacher
            for number, name in enumerate(self.names)
            if name not in locked
            and (teacher := teacher_of(self.told.get(name, []), described, seed)) is not None
        }
        self.readers = self._readers(described)
        self.placing = self._placing(described)
        self.scale = _scales(self.told, self.names)

    def __call__(
        self, guided: TrainableGenerator, batch: Tensor, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.weights
        terms: dict[str, tuple[float, Tensor]] = {}
        terms["guidance_told"] = weights.told, self._said(guided, noise)
        some = guided.prepare(batch[: max(2, len(batch) // 2)])  # the parts below cost several passes each
        with torch.no_grad():
            old = self.before._encode(some)
            was = (self.before._decode(old) - some).square().mean(dim=(1, 2, 3))
        z = guided._encode(some)
        error = (guided._decode(z) - some).square().mean(dim=(1, 2, 3))
        worse = functional.relu(error - was).mean() / was.mean().clamp_min(1e-8)
        if self.axes is None:
            terms["guidance_kept"] = weights.kept, worse
        else:
            a = self.axes.coordinates(z)
            held = (a - self.axes.coordinates(old))[:, self.kept].square()
            terms["guidance_kept"] = weights.kept, worse + (held.mean() if self.kept else 0.0)
            moved, obeyed = self._moved(guided, z, noise)
            terms["guidance_moved"] = weights.moved, moved
            terms["guidance_obeyed"] = weights.obeyed, obeyed
            terms["guidance_apart"] = weights.apart, _apart(z, self.axes)
        if self.teachers or self.placing:
            terms["guidance_spread"] = weights.spread, self._spread(z, describe(some, old))
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return loss, {name: value for name, (_, value) in terms.items()}

    # -- what was said of single images ----------------------------------------------------------------

    def _said(self, guided: TrainableGenerator, noise: torch.Generator) -> Tensor:
        """The loss of some of the statements."""
        device = guided.intensity.device
        chosen = torch.randperm(len(self.guided), generator=noise, device=noise.device)[:GUIDED].cpu()
        parts: list[Tensor] = []
        drawn = [self._drawn(each, chosen, noise) for name in self.names for each in self.told.get(name, [])]
        rows = torch.unique(torch.cat([chosen, *(each.flatten() for each in drawn)]))
        z = guided._encode(guided.prepare(as_unit_interval(self.guided[rows]).to(device)))
        at = torch.full((len(self.guided),), -1)
        at[rows] = torch.arange(len(rows))
        position = 0
        for number, name in enumerate(self.names):
            for each in self.told.get(name, []):
                use, position = drawn[position], position + 1
                if len(use) and self.axes is not None:
                    parts.append(self._of(each, self.axes.coordinates(z)[:, number], at, use, number))
        if self.anchors is not None:
            which, target, weight = self.anchors
            inside = at[which] >= 0
            gap = z[at[which[inside]]][:, : target.shape[1]] - target[inside].to(z)
            if len(gap):
                parts.append((weight[inside].to(z) * gap.square().sum(dim=1)).mean())
        return torch.stack(parts).mean() if parts else z.new_zeros(())

    def _drawn(self, each: Told, chosen: Tensor, noise: torch.Generator) -> Tensor:
        """Positions in a statement that this step looks at; of a ranking pairs, the lower first."""
        rows = torch.from_numpy(each.rows)
        if each.rows.ndim == 2:
            return rows[torch.randperm(len(rows), generator=noise, device=noise.device)[:16].cpu()]
        if each.basis == "ranking":
            two = torch.rand(16, len(rows), generator=noise, device=noise.device).cpu().argsort(dim=1)[:, :2]
            return rows[two.sort(dim=1).values]
        return rows[torch.isin(rows, chosen)]

    def _of(self, each: Told, a: Tensor, at: Tensor, use: Tensor, number: int) -> Tensor:
        """The loss of one statement; ``use`` are the guided images of it that were encoded."""
        if each.basis == "ranking":
            low, high = a[at[use[:, 0]]], a[at[use[:, 1]]]
            return (torch.tanh(high - low) - 1).abs().mean()
        if each.rows.ndim == 2:
            gap = a[at[use[:, 1]]] - a[at[use[:, 0]]]
            return functional.relu(MARGIN - gap).mean() if each.basis else gap.square().mean()
        values = dict(zip(each.rows.tolist(), each.values.tolist(), strict=True))
        known = torch.tensor([values[row] for row in use.tolist()]).to(a)
        found = a[at[use]]
        if each.basis == "binary labels":
            return functional.binary_cross_entropy_with_logits(LOGIT * found, known)
        mean, std = self.scale[number]
        return (found - (known - mean) / std).square().mean()

    def _anchors(
        self, guidance: Guidance, places: dict[str, int], dimensions: int
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        said = guidance.of(Anchors)
        if not said:
            return None
        widths = {len(place) for each in said for place in each.coordinates}
        if len(widths) > 1 or max(widths) > dimensions:
            raise OptionError(
                "guidance", f"anchors must all have as many coordinates, at most {dimensions}",
                received=sorted(widths), remedy="Anchor in the first dimensions of the code.",
            )  # fmt: skip
        return (
            torch.tensor([places[name] for each in said for name in each.ids]),
            torch.tensor([place for each in said for place in each.coordinates]),
            torch.tensor([weight for each in said for weight in each.weights]),
        )

    # -- what follows for all images --------------------------------------------------------------------

    def _spread(self, z: Tensor, described: dict[str, Tensor]) -> Tensor:
        """How far coordinates are from what the labels and anchors of other images make likely."""
        found = {} if self.axes is None else dict(enumerate(self.axes.coordinates(z).T))
        pairs = [(found[number], teacher) for number, teacher in self.teachers.items()]
        parts = []
        for a, teacher in pairs:
            guess, sure = (each.to(a) for each in teacher(described))
            parts.append((sure * _gap(a, teacher.likeliest(guess), teacher)).mean())
        for column, (teacher, mean, std) in enumerate(self.placing):
            guess, sure = (each.to(z) for each in teacher(described))
            place = mean + std * teacher.likeliest(guess)
            parts.append((sure * (z[:, column] - place).square()).mean())
        return torch.stack(parts).mean()

    def _placing(self, described: dict[str, Tensor]) -> list[tuple[Teacher, float, float]]:
        """A teacher for each coordinate of the anchors, with the mean and deviation of its places."""
        if self.anchors is None or len(self.anchors[0]) < FEWEST_SPREAD:
            return []
        which, places, _ = self.anchors
        found = []
        for column in places.double().numpy().T:
            std = float(column.std())
            if std > 0:
                used = some_of(column, self.seed)
                rows = which[used]
                shown = {name: block[rows.to(block.device)] for name, block in described.items()}
                teacher = fit_teacher(shown, (column[used] - column.mean()) / std)
                found.append((teacher, float(column.mean()), std))
        return found if len(found) == places.shape[1] else []

    @torch.no_grad()
    def _readers(self, described: dict[str, Tensor]) -> dict[int, Teacher]:
        """Teachers that have seen decoded images: fitted to labelled ones and to what the generator makes of
        them as it was."""
        if not self.teachers:
            return {}
        codes = described["code"]
        drawn = torch.cat([self.before._decode(part) for part in codes.split(128)])
        drawn = self.before.pad(self.before.crop(drawn))
        again = torch.cat([self.before._encode(part) for part in drawn.split(128)])
        both = {name: torch.stack([described[name], block]) for name, block in describe(drawn, again).items()}
        return {
            number: teacher
            for number in self.teachers
            if (teacher := teacher_of(self.told[self.names[number]], both, self.seed)) is not None
        }

    def _moved(self, guided: TrainableGenerator, z: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of moved codes: how far from them their decoded images are encoded, and are read by the readers."""
        assert self.axes is not None
        axes, count = self.axes, len(self.axes)
        draws = torch.rand(3, len(z), generator=noise, device=noise.device).to(z)
        which = (draws[0] * count).long().clamp_max(count - 1)
        place = REACH * (2 * draws[1] - 1)
        directions = axes.directions.to(z)
        start = z.detach()
        named, unnamed = axes.coordinates(start), axes.unnamed(start)
        named = named.scatter(1, which[:, None], place[:, None])
        # Half of them with the unnamed part of another image.
        unnamed = torch.where(draws[2][:, None] < 0.5, unnamed.roll(1, dims=0), unnamed)
        target = unnamed + (named - axes.coordinates(unnamed)) @ directions
        images = guided.pad(guided.crop(guided._decode(target)))
        back = guided._encode(images) - target
        gap, rest = back @ axes.read.to(z).T, axes.unnamed(back)
        returned = gap.square().mean() + rest.square().sum(dim=1).mean() / max(1, z.shape[1] - count) / 4
        parts = []
        if self.readers and self.weights.obeyed:
            coded = any("code" in reader.blocks for reader in self.readers.values())
            described = describe(images, self.before._encode(images) if coded else z)
            for number, reader in self.readers.items():
                guess, sure = (each.to(z) for each in reader(described))
                parts.append(_gap(named[:, number], guess, reader).mean())
                if reader.levels is None:  # of two values the middle is a place too, and not a doubt
                    parts[-1] = parts[-1] + reader.variance * (1 - sure).mean()
        return returned, torch.stack(parts).mean() if parts else z.new_zeros(())


def _gap(a: Tensor, guess: Tensor, teacher: Teacher) -> Tensor:
    """Squared distance of coordinates from what a teacher says: of labels in standard deviations, or of 0 and
    1, where a coordinate is a chance, from -1 to 1."""
    if teacher.levels != (0.0, 1.0):
        return (a - guess).square()
    return 4 * (torch.sigmoid(LOGIT * a) - guess).square()


def _apart(z: Tensor, axes: NamedAxes) -> Tensor:
    """Mean squared correlation of the named coordinates with each other and with the rest of the code."""
    whole = torch.cat([axes.coordinates(z), axes.unnamed(z)], dim=1)
    whole = (whole - whole.mean(dim=0)) / whole.std(dim=0).clamp_min(0.1)
    count = len(axes)
    correlation = whole[:, :count].T @ whole / len(z)
    off = correlation - functional.pad(torch.eye(count, device=z.device), (0, z.shape[1])).to(z) * correlation
    return off.square().sum() / (count * max(1, z.shape[1] - 1))


def _scales(told_of: dict[str, list[Told]], names: Sequence[str]) -> dict[int, tuple[float, float]]:
    """Mean and deviation of all labelled values of each axis."""
    scales = {}
    for number, name in enumerate(names):
        values = [each.values for each in told_of.get(name, []) if each.basis == "labels"]
        if values:
            joined = np.concatenate(values)
            scales[number] = float(joined.mean()), float(joined.std())
    return scales
