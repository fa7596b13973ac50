"""The evidence on one target: oracles and walks made once, and what every classifier adds to the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainer.axis_attribution import AxisAttribution, attribute_to_axes, pooled
from explainer.bias.attributes import Attribute
from explainer.bias.confounding import Forward, Reverse, forward, reverse
from explainer.bias.discovery import Cluster, Region, describe_changes, find_clusters, place_name
from explainer.bias.findings import Finding, Group
from explainer.bias.inputs import counterpart
from explainer.bias.oracles import Oracle, Part, fit_oracles, given_oracle, oracle_quality, scores_of
from explainer.bias.paths import forward_paths, reverse_paths
from explainer.bias.pictures import ROOM, Strip, choose, keep_strips
from explainer.bias.subgroups import observe
from explainer.bias.verdict import AuditThresholds, Gate, Verdict, gates, weakest
from explainer.bias.walking import (
    Crossing,
    Watched,
    cross,
    cross_oracle,
    region_effects,
    typical_difference,
    watch,
)
from explainer.checks.base import Thresholds
from explainer.checks.robustness import FEWEST_PAIRED, detail_swap
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.target import Target
from explainer.walks.base import Scene

__all__ = ["Evidence", "Table"]

ATTRIBUTED = 64
"""Walks that are attributed to the named axes of the generator."""

REVERSED = 300
"""Walks of an oracle, and swaps of details, are made for at most this many of the audited images."""
EXAMPLES = 3
"""Pictures that are kept of each cluster of walks."""


@dataclass
class Table:
    """What has been found so far."""

    findings: list[Finding]
    clusters: dict[str, tuple[Group, ...]]
    warnings: dict[str, str]
    pictures: dict[str, tuple[Strip, ...]]
    axes: dict[str, AxisAttribution] = field(default_factory=dict)
    left_out: int = 0
    """Walks that were to be pictured, but there was no room for them."""

    @property
    def room(self) -> int:
        """Bytes that are left for pictures."""
        strips = [strip for kept in self.pictures.values() for strip in kept]
        return ROOM - sum(strip.original.nbytes + strip.frames.nbytes for strip in strips)


class Evidence:
    """What one target needs, measured once and used for every classifier."""

    def __init__(
        self,
        generator: Generator,
        images: Tensor,
        asked: Sequence[Attribute],
        truth: NDArray,
        people: NDArray,
        rows: NDArray,
        target: Target,
        given: Mapping[str, Classifier],
        models: Mapping[str, Classifier],
        unbiased: Classifier | None,
        limits: AuditThresholds,
        alpha: float,
        steps: int,
        seed: int,
    ) -> None:
        self.generator, self.images, self.asked, self.truth = generator, images, asked, truth
        self.people, self.rows, self.target = people, rows, target
        self.limits, self.alpha, self.seed = limits, alpha, seed
        self.oracles = self._oracles(given, steps)
        own = self.oracles[-1]
        walked = images[torch.from_numpy(rows)]
        small = torch.cat([generator.resized(part) for part in walked.split(256)])
        bare = torch.cat([generator.bare(part) for part in small.split(128)])
        scores, bare_scores = (scores_of(self.oracles, some, rows) for some in (small, bare))
        self.original = 1 / (1 + np.exp(-scores))
        self.quality = [self._quality(number, scores, bare_scores) for number in range(len(asked))]
        witness = None
        if unbiased is None:
            self.reference = cross_oracle(generator, own, None, walked, rows)
        else:
            witness = unbiased, counterpart(unbiased, target, walked)
            self.reference = cross(generator, *witness, walked, rows, levels=(0.1, 0.9))
        self.beside = watch(generator, self.reference, self.oracles, seed=seed)
        self.place = {row: position for position, row in enumerate(self.reference.rows.tolist())}
        self.names = list(models)
        watched = [(model, counterpart(model, target, walked)) for model in models.values()]
        fewer = rows[:REVERSED]
        with torch.no_grad():
            codes = torch.cat([generator.encode(part) for part in small.split(256)])
        self.back = [
            cross_oracle(
                generator, oracle, own, walked[: len(fewer)], fewer, watched=watched, witness=witness,
                difference=typical_difference(codes, question.values[rows], truth[rows]),
            )
            for oracle, question in zip(self.oracles[:-1], asked, strict=True)
        ]  # fmt: skip

    def add(self, table: Table, name: str, model: Classifier) -> None:
        """Walk a classifier and add what is found to the table."""
        walked = self.images[torch.from_numpy(self.rows)]
        target = counterpart(model, self.target, walked)
        crossing = cross(self.generator, model, target, walked, self.rows)
        seen = watch(self.generator, crossing, self.oracles, seed=self.seed)
        with model.frozen(), torch.no_grad():
            parts = [model.score(part, target) for part in self.images.split(model.batch_size)]
        scores = torch.cat(parts).double().cpu().numpy()
        key = f"{name}, {self.target.label}"
        table.clusters[key] = tuple(self._clusters(model, target, walked, crossing))
        table.warnings[key] = self._hidden(model, target, walked[:REVERSED])
        shown = [choose(crossing, seen, number, self.seed) for number in range(len(self.asked))]
        drawn = self._pictures(name, model, target, crossing, seen, shown, table, key)
        table.pictures[key] = (*table.pictures.get(key, ()), *drawn)
        named = self._by_axis(model, target, walked, crossing)
        if named is not None:
            table.axes[key] = named
        done = crossing.crossed
        for number, question in enumerate(self.asked):
            ahead = self._forward(number, crossing, seen)
            back, expressed, along = self._reverse(number, name)
            flips = (seen.start[number] > 0.5) != (seen.end[number] > 0.5)
            table.findings.append(
                Finding(
                    classifier=name, target=self.target.label, attribute=question.name,
                    column=question.column, verdict=Verdict("insufficient", ""), p=weakest(ahead, back),
                    q=1.0, gates=self._gates(number, crossing, expressed), forward=ahead, reverse=back,
                    observed=observe(self.truth, scores, question.values, self.people, alpha=self.alpha),
                    oracle={"source": self.oracles[number].source, **self.quality[number]},
                    paths=forward_paths(
                        crossing, seen, self.reference, self.beside, number, self.people, self.alpha
                    ) | along,
                    shown={
                        kind: crossing.rows[positions].tolist() for kind, positions in shown[number].items()
                    },
                    changes=pd.Series(flips[done], index=crossing.rows[done]),
                )
            )  # fmt: skip

    def _oracles(self, given: Mapping[str, Classifier], steps: int) -> list[Oracle]:
        """One oracle per attribute, and last the target's own."""
        ready: list[Oracle | None] = [given_oracle(given, question, self.images) for question in self.asked]
        mine = given.get(self.target.label)
        if mine is not None:
            name = self.target.label
            asked = name if name in mine.class_names else 1 if mine.kind == "binary" else self.target.index
            own = Part(mine, mine.target(asked), np.arange(len(self.images)))
            ready.append(Oracle((own,), "given"))
        else:
            ready.append(None)
        if all(oracle is not None for oracle in ready):
            return [oracle for oracle in ready if oracle is not None]
        small = torch.cat([self.generator.resized(part) for part in self.images.split(256)])
        trained = fit_oracles(
            small, self.asked, self.truth, self.people, resized=self.generator.resized, steps=steps,
            seed=self.seed,
        )  # fmt: skip
        return [found or made for found, made in zip(ready, trained, strict=True)]

    def _quality(self, number: int, scores: NDArray, bare: NDArray) -> dict[str, float]:
        """Of an attribute's oracle within the classes, and of the target's within the attribute's answers."""
        truth, answers = self.truth[self.rows], self.asked[number].values[self.rows]
        return {
            **oracle_quality(scores[number], answers, truth),
            **{f"{key}, bare": value for key, value in oracle_quality(bare[number], answers, truth).items()},
            "target, least, bare": oracle_quality(bare[-1], truth, answers)["least"],
        }

    def _gates(self, number: int, crossing: Crossing, expressed: float) -> tuple[Gate, ...]:
        quality = self.quality[number]
        return gates(
            crossings=int(crossing.crossed.sum()),
            kept=float(
                (((crossing.bare > 0.5) == (crossing.level > 0.5)) & np.isfinite(crossing.bare)).mean()
            ),
            oracle_auc=quality["least"], oracle_auc_bare=quality["least, bare"],
            target_auc_bare=quality["target, least, bare"], expressible=expressed, thresholds=self.limits,
        )  # fmt: skip

    def _forward(self, number: int, crossing: Crossing, seen: Watched) -> Forward | None:
        done = np.flatnonzero(crossing.crossed)
        if len(done) < 2:
            return None
        places = np.array([self.place[row] for row in crossing.rows[done].tolist()])
        return forward(
            original=self.original[number, done], start=seen.start[number, done], end=seen.end[number, done],
            random=seen.random[number, done], direction=crossing.direction[done],
            oracle_path=seen.path[number, done], classifier_path=crossing.levels[done],
            reference=(
                self.reference.crossed[places], self.beside.start[number, places],
                self.beside.end[number, places], self.reference.direction[places],
            ),
            groups=self.people[crossing.rows[done]], margin=self.limits.present, alpha=self.alpha,
        )  # fmt: skip

    def _pictures(
        self,
        name: str,
        model: Classifier,
        target: Target,
        crossing: Crossing,
        seen: Watched,
        shown: Sequence[Mapping[str, list[int]]],
        table: Table,
        key: str,
    ) -> tuple[Strip, ...]:
        """The walks that somebody will want to look at: of every attribute, and some of every cluster."""
        place = {row: position for position, row in enumerate(crossing.rows.tolist())}
        wanted = [position for kinds in shown for chosen in kinds.values() for position in chosen]
        for group in table.clusters[key]:
            wanted += [place[row] for row in group.cluster.rows[:EXAMPLES].tolist()]
        kept = keep_strips(
            self.generator, model, target, name, self.images[torch.from_numpy(self.rows)], crossing, seen,
            [question.name for question in self.asked], wanted, room=table.room,
        )  # fmt: skip
        table.left_out += len(set(wanted)) - len(kept)
        # as the findings name it: a second classifier may call its classes otherwise
        return tuple(replace(strip, target=self.target.label) for strip in kept)

    def _reverse(self, number: int, name: str) -> tuple[Reverse | None, float, dict[str, list[float]]]:
        """Reverse evidence, the share of walks that arrived with the target held, and their mean paths."""
        back, which = self.back[number], self.names.index(name)
        still = np.abs(back.after[-1] - back.before[-1]) <= self.limits.held
        done = back.crossed & still
        expressed = float(done.mean()) if len(done) else float("nan")
        if done.sum() < 2:
            return None, expressed, {}
        paths = reverse_paths(back, which, done, self.people, self.alpha)
        beside = (back.after[-2] - back.before[-2])[done]
        return reverse(
            beside=None if np.isnan(beside).any() else beside,
            before=back.before[which, done], after=back.after[which, done], direction=back.direction[done],
            held_before=back.before[-1, done], held_after=back.after[-1, done],
            groups=self.people[back.rows[done]], margin=self.limits.present, alpha=self.alpha,
        ), expressed, paths  # fmt: skip

    def _hidden(self, model: Classifier, target: Target, images: Tensor) -> str:
        """The warning of the detail swap, or nothing."""
        if len(images) < FEWEST_PAIRED:
            return ""
        with model.frozen():
            scene = Scene(self.generator, model, target, images.to(self.generator.latent_mean))
            check = detail_swap(scene, Thresholds(), seed=self.seed)
        if check.status not in ("limit", "fail"):
            return ""
        return f"the classifier reads what the generator cannot show ({_uncapitalised(check.sentence)})"

    def _by_axis(
        self, model: Classifier, target: Target, images: Tensor, crossing: Crossing
    ) -> AxisAttribution | None:
        """What the walks that crossed did along the named axes of the generator, the mean of some of them."""
        axes = self.generator.axes
        done = np.flatnonzero(crossing.crossed)[:ATTRIBUTED]
        if axes is None or not model.differentiable or not len(done):
            return None
        paths = [(place, _on_the_way(crossing, row)) for place, row in enumerate(done.tolist())]
        with model.frozen():
            chosen = images[torch.from_numpy(done)].to(self.generator.latent_mean)
            scene = Scene(self.generator, model, target, chosen)
            return pooled(attribute_to_axes(scene, paths, axes))

    @torch.no_grad()
    def _clusters(self, model: Classifier, target: Target, images: Tensor, crossing: Crossing) -> list[Group]:
        """Groups of walks, and the attribute that tells each from the other walks."""
        done = np.flatnonzero(crossing.crossed)
        if len(done) < 2:
            return []
        kept = torch.from_numpy(done)
        direction, rows = crossing.direction[done], crossing.rows[done]
        start, end = crossing.start[kept], crossing.end[kept]
        sign = torch.from_numpy(direction).to(end)[:, None]
        moves = ((end - start) / self.generator.latent_std * sign).double().cpu().numpy()
        changes = [
            describe_changes(self.generator.decode(before), self.generator.decode(after))
            for before, after in zip(start.split(128), end.split(128), strict=True)
        ]

        def effects(chosen: NDArray[np.int64], region: Region) -> NDArray[np.float64]:
            return region_effects(self.generator, model, target, images, crossing, done[chosen], region)

        groups = []
        for cluster in find_clusters(
            moves, np.concatenate(changes), direction, effects, people=self.people[rows], seed=self.seed
        ):
            inside = np.isin(np.arange(len(done)), cluster.rows)
            others = ~inside & (direction == (1 if cluster.direction == "up" else -1))
            said, named = _shared(self.asked, rows[inside], rows[others], cluster)
            groups.append(Group(replace(cluster, rows=rows[cluster.rows]), said, named))
        return groups


def _on_the_way(crossing: Crossing, row: int) -> Tensor:
    """Codes ``(P, D)`` of one walk, from its start over the levels beyond the image's own to its end."""
    up = crossing.direction[row] > 0
    along = range(crossing.path.shape[1]) if up else range(crossing.path.shape[1] - 1, -1, -1)
    own, sign = crossing.level[row], crossing.direction[row]
    passed = [crossing.path[row, k] for k in along if sign * (crossing.levels[row, k] - own) > 0]
    return torch.stack([crossing.start[row], *passed])


def _shared(
    asked: Sequence[Attribute], inside: NDArray, others: NDArray, cluster: Cluster
) -> tuple[str, str | None]:
    """What the walks of a cluster share, and the attribute that names it."""
    gaps = {}
    for question in asked:
        mine, theirs = question.values[inside], question.values[others]
        if not np.isnan(mine).all() and not np.isnan(theirs).all():
            gaps[question.name] = (float(np.nanmean(mine)), float(np.nanmean(theirs)))
    place = f"change their most peculiar place {cluster.distinct:.1f} times as much as the other walks"
    if cluster.region is not None:
        place = (
            f"change one place ({place_name(cluster.region)}) alike, and it alone makes {cluster.effect:.0%} "
            f"of the change of the score ({cluster.effect_others:.0%} in the other walks)"
        )
    if not gaps:
        return f"{place}; no attribute is known of them", None
    name = max(gaps, key=lambda key: abs(gaps[key][0] - gaps[key][1]))
    mine, theirs = gaps[name]
    said = f'{place}; "{name}" holds for {mine:.0%} of them and {theirs:.0%} of the others'
    return said, name if abs(mine - theirs) >= 0.5 else None


def _uncapitalised(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")
