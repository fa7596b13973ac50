"""``audit``: many walks and the observed data, summed up per target and attribute. Read top to bottom."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from torch import Tensor, nn

from explainer.bias.attributes import Attribute, Oracle, fit_oracle, oracle_quality, questions
from explainer.bias.confounding import (
    AuditThresholds,
    Forward,
    Gate,
    Reverse,
    Verdict,
    decide,
    forward,
    gates,
    reverse,
)
from explainer.bias.discovery import Cluster, describe_walks, find_clusters
from explainer.bias.statistics import Effect, false_discovery, paired_difference
from explainer.bias.subgroups import Observed, observe
from explainer.bias.walking import Crossing, cross, cross_oracle
from explainer.classifier import Classifier, Target
from explainer.errors import ClassifierError, OptionError
from explainer.generators.base import Generator
from explainer.generators.zoo import fitting_generator, load_generator
from explainer.image import as_images
from explainer.storage import sha256

__all__ = ["BiasReport", "Comparison", "Finding", "audit"]

Model = Classifier | nn.Module | Callable[[Tensor], Any]
REVERSED = 200
"""Walks of an oracle are made for at most this many of the audited images."""


@dataclass(frozen=True, eq=False)
class Finding:
    """Everything known of one classifier, target and attribute.

    Attributes:
        classifier: Its name.
        target: In words.
        attribute: In words.
        column: Of the table of attributes.
        verdict: Confounded, not detected or insufficient evidence, and why.
        gates: The conditions of a verdict.
        forward: What the oracle does when the classifier is walked; None if no walk crossed.
        reverse: What the classifier does when the oracle is walked; None if no walk crossed.
        observed: Group by group, without walks.
        oracle: Where the oracle comes from and how good it is within each class.
        paths: Mean probabilities of classifier and oracle along the walks, up and down, for plots.
    """

    classifier: str
    target: str
    attribute: str
    column: str
    verdict: Verdict
    gates: tuple[Gate, ...]
    forward: Forward | None
    reverse: Reverse | None
    observed: Observed
    oracle: Mapping[str, float | str]
    paths: Mapping[str, list[float]]


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images: how much more often the first one's walks change the attribute."""

    first: str
    second: str
    target: str
    attribute: str
    difference: Effect


@dataclass(frozen=True, eq=False)
class BiasReport:
    """The result of an audit.

    Attributes:
        findings: One for each classifier, target and attribute.
        comparisons: Classifiers on the same images, paired.
        clusters: Groups of walks no attribute names, by classifier and target.
        skipped: What could not be asked, sentences.
        thresholds: Where evidence turned into verdicts.
        provenance: Versions, seed, options, hashes and counts.
    """

    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...]
    clusters: Mapping[str, tuple[Cluster, ...]]
    skipped: tuple[str, ...]
    thresholds: AuditThresholds
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        counts = pd.Series([finding.verdict.status for finding in self.findings]).value_counts()
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"BiasReport({said})"

    @property
    def confounded(self) -> tuple[Finding, ...]:
        """The findings whose verdict is ``"confounded"``."""
        return tuple(finding for finding in self.findings if finding.verdict.status == "confounded")

    def to_frame(self) -> pd.DataFrame:
        """One row per finding: verdict, effects with intervals, q-values, counts."""
        rows = []
        for finding in self.findings:
            row: dict[str, Any] = {
                "classifier": finding.classifier, "target": finding.target, "attribute": finding.attribute,
                "verdict": finding.verdict.status, "sentence": finding.verdict.sentence,
            }  # fmt: skip
            effects: dict[str, Effect | None] = {}
            if finding.forward is not None:
                effects |= {
                    "changed": finding.forward.changed, "floor": finding.forward.floor,
                    "over floor": finding.forward.over_floor,
                    "over reference": finding.forward.over_reference,
                }  # fmt: skip
            if finding.reverse is not None:
                effects["reverse"] = finding.reverse.moved
            for name, effect in effects.items():
                if effect is not None:
                    row |= {
                        name: effect.value, f"{name} low": effect.low, f"{name} high": effect.high,
                        f"{name} n": effect.n, f"{name} q": effect.q,
                    }  # fmt: skip
            rows.append(row)
        return pd.DataFrame(rows)


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
        labels: True classes (N,) as indices, or (N, K) 0 and 1 of a multi-label classifier.
        attributes: One row per image; columns are binary, categorical or continuous. Empty cells are left
            out.
        oracles: Models of attributes by the name of a column, where they exist; others are trained here.
        groups: Person, patient ... of each image (N,): intervals then rest on people, not on images.
        targets: Classes to audit; by default the positive class of a binary classifier, else all classes.
        reference: An unbiased classifier of the same target to compare with. Without one, classifiers trained
            here balanced over each attribute take its place.
        compare_with: More classifiers to audit on the same images; paired with the first.
        generator: A generator, the name of one in the zoo, a folder, or ``"auto"``.
        alpha: 1 - coverage of intervals, and the false-discovery rate over the whole table.
        n_images: Images walked at most, as many of each class as there are.
        oracle_steps: Optimiser steps of each half of each oracle.
        thresholds: Where evidence turns into a verdict.
        seed: Of the choice of images and the training of oracles.
        progress: Say on a terminal's stderr what is being done.

    Returns:
        The report. An attribute without enough evidence is ``"insufficient"``, never ``"not detected"``.

    Raises:
        OptionError: Labels, attributes or groups that do not belong to the images; an option out of range.
        ClassifierError: A classifier that cannot be explained, or a regression.
    """
    pixels = _pixels(images)
    limits = AuditThresholds() if thresholds is None else thresholds
    people = _groups(groups, len(pixels))
    asked, skipped = _questions(attributes, len(pixels))
    models = _models(classifier, compare_with, reference)
    console = Console(stderr=True)
    chosen_generator = _generator(generator, pixels[:64])
    small = torch.cat([chosen_generator.resized(part) for part in pixels.split(256)])
    with console.status("auditing") if progress and console.is_terminal else _Silent() as status:
        findings: list[Finding] = []
        crossings: dict[tuple[str, str], Crossing] = {}
        changed: dict[tuple[str, str, str], tuple[NDArray, NDArray]] = {}
        clusters: dict[str, tuple[Cluster, ...]] = {}
        first = next(iter(models.values()))
        first.check(small[:8])
        for target in _targets(first, targets):
            truth = _truth(labels, first, target, len(pixels))
            rows = _choose(truth, n_images, seed)
            walked = small[torch.from_numpy(rows)]
            for name, model in models.items():
                status.update(f"auditing: walking {name} across {target.name}")
                crossing = cross(
                    chosen_generator, model, model.target(target.index, walked[:1]), walked, rows
                )
                crossings[name, target.name] = crossing
                clusters[f"{name}, {target.label}"] = tuple(_clusters(chosen_generator, crossing, seed))
            for question in asked:
                status.update(f"auditing: {question.name} and {target.name}")
                evidence = _Evidence(
                    chosen_generator, small, question, truth, people, rows,
                    _given(oracles, question), limits, alpha, oracle_steps, seed,
                )  # fmt: skip
                unbiased = crossings.get(("reference", target.name))
                for name, model in models.items():
                    if name == "reference":
                        continue
                    finding, outcome = evidence.finding(
                        name, model, target, crossings[name, target.name], unbiased
                    )
                    findings.append(finding)
                    changed[name, target.label, question.name] = outcome
    return BiasReport(
        findings=_judged(findings, limits, alpha),
        comparisons=_comparisons(changed, list(models), people, alpha),
        clusters=clusters,
        skipped=tuple(skipped),
        thresholds=limits,
        provenance=_provenance(pixels, models, chosen_generator, seed, alpha, n_images, oracle_steps, limits),
    )


class _Evidence:
    """What one attribute needs, measured once and used for every classifier of a target."""

    def __init__(
        self,
        generator: Generator,
        images: Tensor,
        question: Attribute,
        truth: NDArray,
        people: NDArray,
        rows: NDArray,
        oracle: Classifier | None,
        limits: AuditThresholds,
        alpha: float,
        steps: int,
        seed: int,
    ) -> None:
        self.generator, self.images, self.question, self.truth = generator, images, question, truth
        self.people, self.rows, self.limits, self.alpha = people, rows, limits, alpha
        answers = question.values
        self.oracle = (
            fit_oracle(images, answers, truth, people, steps=steps, seed=seed)
            if oracle is None
            else Oracle.given(oracle, len(images))
        )
        # The same seed makes the same halves, so that whoever is walked has been seen by neither model.
        self.balanced = fit_oracle(images, truth, answers, people, steps=steps, seed=seed)
        some = images[torch.from_numpy(rows)]
        bare = torch.cat([generator.bare(part) for part in some.split(128)])
        scores, bare_scores = self.oracle.score(some, rows), self.oracle.score(bare, rows)
        self.original = 1 / (1 + np.exp(-scores))
        self.quality = oracle_quality(scores, answers[rows], truth[rows])
        self.bare_quality = oracle_quality(bare_scores, answers[rows], truth[rows])
        fewer = rows[: min(len(rows), REVERSED)]
        self.back = cross_oracle(
            generator, self.oracle, self.balanced, images[torch.from_numpy(fewer)], fewer
        )
        self.reference = cross_oracle(generator, self.balanced, None, images[torch.from_numpy(fewer)], fewer)

    def finding(
        self, name: str, model: Classifier, target: Target, crossing: Crossing, unbiased: Crossing | None
    ) -> tuple[Finding, tuple[NDArray, NDArray]]:
        """The finding, and for each crossed walk its row and whether the attribute changed."""
        rows, decode = self.rows, self.generator.decode
        start = self.oracle.level(_decoded(decode, crossing.start), rows)
        end = self.oracle.level(_decoded(decode, crossing.end), rows)
        path = np.stack(
            [
                self.oracle.level(_decoded(decode, crossing.path[:, i]), rows)
                for i in range(crossing.path.shape[1])
            ],
            axis=1,
        )
        wanted = model.target(target.index, crossing.first[:1])
        own = np.stack(
            [
                _levels(model, wanted, _decoded(decode, crossing.path[:, i]))
                for i in range(crossing.path.shape[1])
            ],
            axis=1,
        )
        done = crossing.crossed
        beside = self.reference if unbiased is None else unbiased
        pair = self._pair(beside)
        paired = done & np.isin(rows, pair["rows"])
        position = {row: i for i, row in enumerate(pair["rows"].tolist())}
        ahead = None
        if done.sum() >= 2:
            ahead = forward(
                original=self.original[done], start=start[done], end=end[done],
                direction=crossing.direction[done], oracle_path=path[done], classifier_path=own[done],
                reference=None, groups=self.people[rows[done]], margin=self.limits.present, alpha=self.alpha,
            )  # fmt: skip
            if paired.sum() >= 2:
                places = [position[row] for row in rows[paired].tolist()]
                moved = ((start > 0.5) != (end > 0.5))[paired]
                ahead = replace(
                    ahead,
                    over_reference=paired_difference(
                        moved, pair["changed"][places], self.people[rows[paired]],
                        margin=self.limits.present, alpha=self.alpha,
                    ),
                )  # fmt: skip
        back, expressed = self._reverse(model, target)
        bare = _decoded(decode, crossing.start)
        kept = float(
            ((_levels(model, wanted, bare) > 0.5) == (_levels(model, wanted, crossing.first) > 0.5)).mean()
        )
        checked = gates(
            crossings=int(done.sum()), kept=kept, oracle_auc=self.quality["least"],
            oracle_auc_bare=self.bare_quality["least"], expressible=expressed, thresholds=self.limits,
        )  # fmt: skip
        paths = {
            f"{what}, {way}": values[done & (crossing.direction == sign)].mean(axis=0).tolist()
            for what, values in (("classifier", own), ("oracle", path))
            for way, sign in (("up", 1), ("down", -1))
            if (done & (crossing.direction == sign)).any()
        }
        with model.frozen():
            scores = torch.cat([model.score(part, wanted) for part in self.images.split(256)])
        finding = Finding(
            classifier=name, target=target.label, attribute=self.question.name, column=self.question.column,
            verdict=Verdict("insufficient", ""), gates=checked, forward=ahead, reverse=back,
            observed=observe(
                self.truth, scores.double().cpu().numpy(), self.question.values, self.people, alpha=self.alpha
            ),
            oracle={
                "source": self.oracle.source, **self.quality,
                **{f"{key}, bare": value for key, value in self.bare_quality.items()},
            },
            paths=paths,
        )  # fmt: skip
        return finding, (rows[done], ((start > 0.5) != (end > 0.5))[done])

    def _pair(self, beside: Crossing) -> dict[str, NDArray]:
        """Of crossed reference walks: their rows, and whether the attribute changed in them."""
        start = self.oracle.level(_decoded(self.generator.decode, beside.start), beside.rows)
        end = self.oracle.level(_decoded(self.generator.decode, beside.end), beside.rows)
        return {
            "rows": beside.rows[beside.crossed],
            "changed": ((start > 0.5) != (end > 0.5))[beside.crossed],
        }

    def _reverse(self, model: Classifier, target: Target) -> tuple[Reverse | None, float]:
        """Reverse evidence, and the share of the oracle's walks that reached its other side."""
        done = self.back.crossed
        if done.sum() < 2:
            return None, float(done.mean())
        kept = torch.from_numpy(np.flatnonzero(done))
        rows = self.back.rows[done]
        first, last = self.back.first[kept], self.back.last[kept]
        wanted = model.target(target.index, first[:1])
        return reverse(
            before=_levels(model, wanted, first),
            after=_levels(model, wanted, last),
            direction=self.back.direction[done],
            held_before=self.balanced.level(first, rows),
            held_after=self.balanced.level(last, rows),
            groups=self.people[rows],
            margin=self.limits.present,
            alpha=self.alpha,
        ), float(done.mean())


def _judged(findings: Sequence[Finding], limits: AuditThresholds, alpha: float) -> tuple[Finding, ...]:
    """The findings with q-values over the whole table, and their verdicts."""
    places: list[tuple[int, str]] = []
    effects: list[Effect] = []
    for number, finding in enumerate(findings):
        if finding.forward is not None:
            places.append((number, "over_floor"))
            effects.append(finding.forward.over_floor)
            if finding.forward.over_reference is not None:
                places.append((number, "over_reference"))
                effects.append(finding.forward.over_reference)
        if finding.reverse is not None:
            places.append((number, "moved"))
            effects.append(finding.reverse.moved)
    corrected = dict(zip(places, false_discovery(effects), strict=True))
    judged = []
    for number, finding in enumerate(findings):
        ahead, back = finding.forward, finding.reverse
        if ahead is not None:
            ahead = replace(ahead, over_floor=corrected[number, "over_floor"])
            if ahead.over_reference is not None:
                ahead = replace(ahead, over_reference=corrected[number, "over_reference"])
        if back is not None:
            back = replace(back, moved=corrected[number, "moved"])
        verdict = decide(finding.gates, ahead, back, thresholds=limits, alpha=alpha)
        judged.append(replace(finding, forward=ahead, reverse=back, verdict=verdict))
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
        first_rows, first_outcomes = changed[names[0], target, attribute]
        shared, mine, theirs = np.intersect1d(first_rows, rows, return_indices=True)
        if len(shared) >= 2:
            difference = paired_difference(
                first_outcomes[mine], outcomes[theirs], people[shared], alpha=alpha
            )
            compared.append(Comparison(names[0], name, target, attribute, difference))
    return tuple(compared)


@torch.no_grad()
def _clusters(generator: Generator, crossing: Crossing, seed: int) -> list[Cluster]:
    done = torch.from_numpy(np.flatnonzero(crossing.crossed))
    if len(done) < 40:
        return []
    direction = torch.from_numpy(crossing.direction)[done]
    moves = (crossing.end - crossing.start)[done] / generator.latent_std * direction[:, None].to(crossing.end)
    before, after = (_decoded(generator.decode, codes[done]) for codes in (crossing.start, crossing.end))
    features, places = describe_walks(moves, before, after)
    found = find_clusters(features, places, direction.numpy(), seed=seed)
    return [replace(cluster, rows=crossing.rows[done.numpy()[cluster.rows]]) for cluster in found]


@torch.no_grad()
def _decoded(decode: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    return torch.cat([decode(part) for part in codes.split(256)])


def _levels(model: Classifier, target: Target, images: Tensor) -> NDArray[np.float64]:
    with model.frozen():
        return model.level(images, target).double().cpu().numpy()


# -- what comes in ---------------------------------------------------------------------------------------


class _Silent:
    """A status line that says nothing."""

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, _: str) -> None:
        return None


def _pixels(images: object) -> Tensor:
    if isinstance(images, Tensor) and images.ndim == 4 and images.dtype == torch.uint8:
        return images.float() / 255
    return as_images(images)


def _groups(groups: ArrayLike | None, count: int) -> NDArray:
    if groups is None:
        return np.arange(count)
    people = np.asarray(groups)
    if people.shape != (count,) or pd.isna(people).any():
        raise OptionError(
            "groups", f"must name one group for each of the {count} images", received=f"shape {people.shape}",
            remedy="Pass the person or patient of every image, without empty cells.",
        )  # fmt: skip
    return people


def _questions(attributes: pd.DataFrame, count: int) -> tuple[list[Attribute], list[str]]:
    asked, skipped = questions(attributes)
    if len(attributes) != count:
        raise OptionError(
            "attributes", f"must have one row for each of the {count} images",
            received=f"{len(attributes)} rows", remedy="Pass the rows of the images, in their order.",
        )  # fmt: skip
    if not asked:
        raise OptionError(
            "attributes", "leave nothing to ask", received="; ".join(skipped),
            remedy="Pass more images, or attributes that vary.",
        )  # fmt: skip
    return asked, skipped


def _wrapped(model: Model) -> Classifier:
    return model if isinstance(model, Classifier) else Classifier(model)


def _models(
    classifier: Model | Mapping[str, Model],
    compare_with: Model | Mapping[str, Model] | None,
    reference: Model | None,
) -> dict[str, Classifier]:
    given: dict[str, Model] = (
        dict(classifier) if isinstance(classifier, Mapping) else {"classifier": classifier}
    )
    if compare_with is not None:
        more = compare_with if isinstance(compare_with, Mapping) else {"compared": compare_with}
        twice = set(given) & set(more)
        if twice:
            raise OptionError(
                "compare_with", "names a classifier twice", received=sorted(twice), remedy="Rename one."
            )
        given |= dict(more)
    if reference is not None:
        given["reference"] = reference
    if not given:
        raise OptionError("classifier", "is empty", received="{}", remedy="Pass at least one classifier.")
    return {name: _wrapped(model) for name, model in given.items()}


def _given(oracles: Mapping[str, Model] | None, question: Attribute) -> Classifier | None:
    for name in (question.name, question.column):
        if oracles and name in oracles:
            if question.kind == "categorical" and name == question.column:
                continue  # one binary model cannot answer for several categories
            return _wrapped(oracles[name])
    return None


def _targets(model: Classifier, targets: Sequence[int | str] | None) -> list[Target]:
    if model.kind == "regression":
        raise ClassifierError(
            "classifier", "is a regression, which an audit does not walk", received="kind='regression'",
            remedy='Audit the event you care about as a class: kind="binary" with the logit of it.',
        )  # fmt: skip
    if targets is not None:
        return [model.target(spec) for spec in targets]
    if model.kind == "binary":
        return [model.target(1)]
    return [model.target(index) for index in range(len(model.class_names))]


def _truth(labels: ArrayLike, model: Classifier, target: Target, count: int) -> NDArray[np.float64]:
    values = np.asarray(labels, dtype=np.float64)
    if values.ndim == 2 and model.kind == "multilabel":
        values = values[:, target.index]
    elif values.ndim == 1:
        values = np.where(np.isnan(values), np.nan, values == target.index)
    if values.shape != (count,):
        raise OptionError(
            "labels", f"must hold one class for each of the {count} images",
            received=f"shape {np.shape(labels)}", remedy="Pass class indices, in the order of the images.",
        )  # fmt: skip
    if len(np.unique(values[~np.isnan(values)])) < 2:
        raise OptionError(
            "labels", f"are all the same for {target.name}", received=np.unique(values).tolist(),
            remedy="Pass images of the class and of others.",
        )  # fmt: skip
    return values


def _choose(truth: NDArray, n_images: int, seed: int) -> NDArray[np.int64]:
    """Rows to walk: as many of each class as there are, up to half of ``n_images`` each, in random order."""
    if n_images < 2:
        raise OptionError("n_images", "must be at least 2", received=n_images, remedy="500 is usual.")
    stream = np.random.default_rng(seed)
    classes = [stream.permutation(np.flatnonzero(truth == y)) for y in (0, 1)]
    few = min(len(rows) for rows in classes)
    each = max(n_images // 2, n_images - few) if few < n_images // 2 else n_images // 2
    return stream.permutation(np.concatenate([rows[: min(each, len(rows))] for rows in classes]))


def _generator(generator: Generator | str | Path, images: Tensor) -> Generator:
    if isinstance(generator, Generator):
        return generator.eval()
    return fitting_generator(images) if generator == "auto" else load_generator(generator)


def _provenance(
    pixels: Tensor,
    models: Mapping[str, Classifier],
    generator: Generator,
    seed: int,
    alpha: float,
    n_images: int,
    oracle_steps: int,
    limits: AuditThresholds,
) -> dict[str, Any]:
    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in ("progressive-explainer", "torch", "numpy", "fairlearn")},
        },
        "images": {"count": len(pixels), "sha256": sha256(pixels.contiguous().numpy().tobytes())},
        "classifiers": {name: model.fingerprint for name, model in models.items()},
        "generator": {"source": generator.source, "sha256": generator.fingerprint, "kind": generator.kind},
        "options": {"seed": seed, "alpha": alpha, "n_images": n_images, "oracle_steps": oracle_steps},
        "thresholds": asdict(limits),
    }
