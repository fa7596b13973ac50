"""``audit``: many walks and the observed data, summed up per target and attribute. Read top to bottom::

per target ─► oracles of every attribute and of the target, trained or given
           ─► reference walks, and walks of every oracle with the target held
per classifier ─► walks of the classifier, what the oracles say of them, clusters, detail swap
per attribute ─► gates, forward, reverse, observed; over the whole table: q-values, verdicts
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from torch import Tensor

from explainer.bias import inputs
from explainer.bias.attributes import Attribute
from explainer.bias.confounding import Forward, Reverse, forward, reverse
from explainer.bias.discovery import describe_walks, find_clusters
from explainer.bias.findings import BiasReport, Comparison, Finding, Group
from explainer.bias.inputs import Model
from explainer.bias.oracles import Oracle, Part, fit_oracles, given_oracle, oracle_quality, scores_of
from explainer.bias.statistics import false_discovery, paired_difference
from explainer.bias.subgroups import observe
from explainer.bias.verdict import AuditThresholds, Verdict, decide, gates, weakest
from explainer.bias.walking import Crossing, Watched, cross, cross_oracle, straight_direction, watch
from explainer.checks.base import Thresholds
from explainer.checks.robustness import FEWEST_PAIRED, detail_swap
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.generators.zoo import fitting_generator, load_generator
from explainer.storage import sha256
from explainer.target import Target
from explainer.walks.base import Scene

__all__ = ["audit"]

REVERSED = 200
"""Walks of an oracle, and swaps of details, are made for at most this many of the audited images."""


@torch.inference_mode(mode=False)
def audit(
    images: object,
    classifier: Model | Mapping[str, Model],
    *,
    labels: ArrayLike,
    attributes: pd.DataFrame,
    oracles: Mapping[str, Model] | None = None,
    groups: ArrayLike | None = None,
    targets: Sequence[int | str] | None = None,
    reference: Model | None = None,
    compare_with: Model | Mapping[str, Model] | None = None,
    generator: Generator | str | Path = "auto",
    alpha: float = 0.05,
    n_images: int = 500,
    oracle_steps: int = 400,
    thresholds: AuditThresholds | None = None,
    seed: int = 0,
    progress: bool = True,
) -> BiasReport:
    """Find out whether a classifier uses attributes it should not use.

    Args:
        images: (N, C, H, W) in [0, 1] or uint8, or anything :func:`explainer.as_images` takes. All of them
            train the oracles; ``n_images`` of them are walked.
        classifier: A classifier, or several by name.
        labels: True classes (N,) as indices or names, or (N, K) 0 and 1 of a multi-label classifier; empty
            where unknown.
        attributes: One row per image; columns are binary, categorical or continuous. Empty cells are left
            out and counted.
        oracles: Models of attributes by the name of a column (of a categorical one: with a class for each
            category) or of a question ("site = b"), and of a target by its name; others are trained here.
        groups: Person, patient ... of each image (N,): intervals then rest on people, not on images.
        targets: Classes to audit; by default the positive class of a binary classifier, else all classes.
        reference: An unbiased classifier of the same target to compare with. Without one the target's own
            oracle takes its place.
        compare_with: More classifiers to audit on the same images; paired with the first.
        generator: A generator, the name of one in the zoo, a folder, or ``"auto"``.
        alpha: 1 - coverage of intervals, and the false-discovery rate over the whole table.
        n_images: Images walked at most, as many of each class as there are.
        oracle_steps: Optimiser steps of each half of the oracles.
        thresholds: Where evidence turns into a verdict.
        seed: Of the choice of images and the training of oracles.
        progress: Say on a terminal's stderr what is being done.

    Returns:
        The report. An attribute without enough evidence is ``"insufficient"``, never ``"not detected"``.

    Raises:
        OptionError: Labels, attributes or groups that do not belong to the images; an option out of range.
        ClassifierError: A classifier that cannot be explained, or a regression.
    """
    pixels = inputs.as_pixels(images)
    limits = AuditThresholds() if thresholds is None else thresholds
    people = inputs.as_groups(groups, len(pixels))
    asked, skipped = inputs.as_questions(attributes, len(pixels))
    models = inputs.as_models(classifier, compare_with)
    chosen = _generator(generator, pixels[:64])
    for model in models.values():
        model.check(pixels[:8])
    wanted = inputs.as_targets(next(iter(models.values())), targets)
    given = inputs.as_oracles(oracles, asked, wanted)
    unbiased = None if reference is None else inputs.wrapped(reference)
    table = _Table([], {}, {}, {})
    with _progress(progress) as say:
        for target in wanted:
            truth = inputs.truth_of(labels, next(iter(models.values())), target, len(pixels))
            say(f"training oracles of {len(asked)} attributes")
            rows = inputs.chosen_rows(truth, n_images, seed)
            evidence = _Evidence(
                chosen, pixels, asked, truth, people, rows, target, given, models, unbiased,
                limits, alpha, oracle_steps, seed,
            )  # fmt: skip
            for name, model in models.items():
                say(f"walking {name} across {target.label}")
                evidence.add(table, name, model)
    return BiasReport(
        findings=_judged(table, limits, alpha),
        comparisons=_comparisons(table.changed, list(models), people, alpha),
        clusters=table.clusters,
        warnings=table.warnings,
        skipped=tuple(skipped),
        thresholds=limits,
        provenance=_provenance(
            pixels, models, chosen, limits,
            {"seed": seed, "alpha": alpha, "n_images": n_images, "oracle_steps": oracle_steps},
        ),
    )  # fmt: skip


@dataclass
class _Table:
    """What has been found so far."""

    findings: list[Finding]
    changed: dict[tuple[str, str, str], tuple[NDArray, NDArray]]
    clusters: dict[str, tuple[Group, ...]]
    warnings: dict[str, str]


class _Evidence:
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
        if unbiased is None:
            self.reference = cross_oracle(generator, own, None, walked, rows)
        else:
            wanted = unbiased.target(target.index, walked[:1])
            self.reference = cross(generator, unbiased, wanted, walked, rows, levels=(0.1, 0.9))
        self.beside = watch(generator, self.reference, self.oracles, seed=seed)
        self.place = {row: position for position, row in enumerate(self.reference.rows.tolist())}
        self.names = list(models)
        watched = [(model, model.target(target.index, walked[:1])) for model in models.values()]
        fewer = rows[:REVERSED]
        with torch.no_grad():
            codes = torch.cat([generator.encode(part) for part in small.split(256)])
        self.back = [
            cross_oracle(
                generator, oracle, own, walked[: len(fewer)], fewer, watched=watched,
                straight=straight_direction(codes, question.values[rows], truth[rows]),
            )
            for oracle, question in zip(self.oracles[:-1], asked, strict=True)
        ]  # fmt: skip

    def add(self, table: _Table, name: str, model: Classifier) -> None:
        """Walk a classifier and add what is found to the table."""
        walked = self.images[torch.from_numpy(self.rows)]
        target = model.target(self.target.index, walked[:1])
        crossing = cross(self.generator, model, target, walked, self.rows)
        seen = watch(self.generator, crossing, self.oracles, seed=self.seed)
        with model.frozen(), torch.no_grad():
            parts = [model.score(part, target) for part in self.images.split(model.batch_size)]
        scores = torch.cat(parts).double().cpu().numpy()
        key = f"{name}, {self.target.label}"
        table.clusters[key] = tuple(self._clusters(crossing))
        table.warnings[key] = self._hidden(model, target, walked[:REVERSED])
        for number, question in enumerate(self.asked):
            ahead = self._forward(number, crossing, seen)
            back, expressed = self._reverse(number, name)
            table.findings.append(
                Finding(
                    classifier=name, target=self.target.label, attribute=question.name,
                    column=question.column, verdict=Verdict("insufficient", ""), p=weakest(ahead, back),
                    q=1.0, gates=self._gates(number, crossing, expressed), forward=ahead, reverse=back,
                    observed=observe(self.truth, scores, question.values, self.people, alpha=self.alpha),
                    oracle={"source": self.oracles[number].source, **self.quality[number]},
                    paths=_paths(crossing, seen.path[number]),
                )
            )  # fmt: skip
            flips = (seen.start[number] > 0.5) != (seen.end[number] > 0.5)
            done = crossing.crossed
            table.changed[name, self.target.label, question.name] = crossing.rows[done], flips[done]

    def _oracles(self, given: Mapping[str, Classifier], steps: int) -> list[Oracle]:
        """One oracle per attribute, and last the target's own."""
        ready: list[Oracle | None] = [given_oracle(given, question, self.images) for question in self.asked]
        mine = given.get(self.target.label)
        if mine is not None:
            mine.check(self.images[:8])
            index = 1 if mine.kind == "binary" else self.target.index
            own = Part(mine, mine.target(index, self.images[:1]), np.arange(len(self.images)))
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

    def _gates(self, number: int, crossing: Crossing, expressed: float) -> tuple[Any, ...]:
        quality = self.quality[number]
        return gates(
            crossings=int(crossing.crossed.sum()),
            kept=float(((crossing.bare > 0.5) == (crossing.level > 0.5)).mean()),
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
                self.beside.end[number, places],
            ),
            groups=self.people[crossing.rows[done]], margin=self.limits.present, alpha=self.alpha,
        )  # fmt: skip

    def _reverse(self, number: int, name: str) -> tuple[Reverse | None, float]:
        """Reverse evidence, and the share of the oracle's walks that reached its other side, target held."""
        back, which = self.back[number], self.names.index(name)
        still = np.abs(back.after[-1] - back.before[-1]) <= self.limits.held
        done = back.crossed & still
        expressed = float(done.mean()) if len(done) else float("nan")
        if done.sum() < 2:
            return None, expressed
        return reverse(
            before=back.before[which, done], after=back.after[which, done], direction=back.direction[done],
            held_before=back.before[-1, done], held_after=back.after[-1, done],
            groups=self.people[back.rows[done]], margin=self.limits.present, alpha=self.alpha,
        ), expressed  # fmt: skip

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

    @torch.no_grad()
    def _clusters(self, crossing: Crossing) -> list[Group]:
        """Groups of walks, and the attribute that tells each from the other walks."""
        done = np.flatnonzero(crossing.crossed)
        if len(done) < 2:
            return []
        kept = torch.from_numpy(done)
        direction, rows = crossing.direction[done], crossing.rows[done]
        start, end = crossing.start[kept], crossing.end[kept]
        sign = torch.from_numpy(direction).to(end)[:, None]
        before, after = (
            torch.cat([self.generator.decode(part) for part in codes.split(128)]) for codes in (start, end)
        )
        features, places = describe_walks((end - start) / self.generator.latent_std * sign, before, after)
        groups = []
        for cluster in find_clusters(features, places, direction, seed=self.seed):
            inside = np.isin(np.arange(len(done)), cluster.rows)
            others = ~inside & (direction == (1 if cluster.direction == "up" else -1))
            said, named = _shared(self.asked, rows[inside], rows[others], cluster.distinct)
            groups.append(Group(replace(cluster, rows=rows[cluster.rows]), said, named))
        return groups


def _shared(
    asked: Sequence[Attribute], inside: NDArray, others: NDArray, distinct: float
) -> tuple[str, str | None]:
    """What the walks of a cluster share, and the attribute that names it."""
    gaps = {}
    for question in asked:
        mine, theirs = question.values[inside], question.values[others]
        if not np.isnan(mine).all() and not np.isnan(theirs).all():
            gaps[question.name] = (float(np.nanmean(mine)), float(np.nanmean(theirs)))
    place = f"change their most peculiar place {distinct:.1f} times as much as the other walks"
    if not gaps:
        return f"{place}; no attribute is known of them", None
    name = max(gaps, key=lambda key: abs(gaps[key][0] - gaps[key][1]))
    mine, theirs = gaps[name]
    said = f'{place}; "{name}" holds for {mine:.0%} of them and {theirs:.0%} of the others'
    return said, name if abs(mine - theirs) >= 0.5 else None


def _paths(crossing: Crossing, oracle: NDArray) -> dict[str, list[float]]:
    """Mean levels along crossed walks, up and down."""
    return {
        f"{what}, {way}": values[crossing.crossed & (crossing.direction == sign)].mean(axis=0).tolist()
        for what, values in (("classifier", crossing.levels), ("oracle", oracle))
        for way, sign in (("up", 1), ("down", -1))
        if (crossing.crossed & (crossing.direction == sign)).any()
    }


def _judged(table: _Table, limits: AuditThresholds, alpha: float) -> tuple[Finding, ...]:
    """The findings with q-values over the whole table, and their verdicts."""
    corrected = false_discovery([finding.p for finding in table.findings])
    judged = []
    for finding, q in zip(table.findings, corrected, strict=True):
        verdict = decide(
            finding.gates, finding.forward, finding.reverse, q=q, thresholds=limits, alpha=alpha,
            hidden=table.warnings[f"{finding.classifier}, {finding.target}"],
        )  # fmt: skip
        judged.append(replace(finding, q=q, verdict=verdict))
    return tuple(judged)


def _comparisons(
    changed: Mapping[tuple[str, str, str], tuple[NDArray, NDArray]],
    names: Sequence[str],
    people: NDArray,
    alpha: float,
) -> tuple[Comparison, ...]:
    """The first classifier against every other, on images whose walks crossed under both."""
    compared = []
    for (name, target, attribute), (rows, outcomes) in changed.items():
        if name == names[0]:
            continue
        first_rows, first = changed[names[0], target, attribute]
        shared, mine, theirs = np.intersect1d(first_rows, rows, return_indices=True)
        if len(shared) >= 2:
            gap = paired_difference(first[mine], outcomes[theirs], people[shared], alpha=alpha)
            compared.append(Comparison(names[0], name, target, attribute, gap))
    return tuple(compared)


@contextmanager
def _progress(wanted: bool) -> Iterator[Any]:
    """A function that says what is being done, on stderr if that is a terminal."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield lambda doing: None
        return
    with console.status("auditing") as status:
        yield lambda doing: status.update(f"auditing: {doing}")


def _uncapitalised(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _generator(generator: Generator | str | Path, images: Tensor) -> Generator:
    if isinstance(generator, Generator):
        return generator.eval()
    return fitting_generator(images) if generator == "auto" else load_generator(generator)


def _provenance(
    pixels: Tensor,
    models: Mapping[str, Classifier],
    generator: Generator,
    limits: AuditThresholds,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    packages = ("progressive-explainer", "torch", "numpy", "fairlearn")
    return {
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in packages}},
        "images": {"count": len(pixels), "sha256": sha256(pixels.contiguous().numpy().tobytes())},
        "classifiers": {name: model.fingerprint for name, model in models.items()},
        "generator": {"source": generator.source, "sha256": generator.fingerprint, "kind": generator.kind},
        "options": dict(options),
        "thresholds": asdict(limits),
    }
