"""``audit``: many walks and the observed data, summed up per target and attribute. Read top to bottom::

per target ─► oracles of every attribute and of the target, trained or given
           ─► reference walks, and walks of every oracle with the target held
per classifier ─► walks of the classifier, what the oracles say of them, clusters, detail swap
per attribute ─► gates, forward, reverse, observed; over the whole table: q-values, verdicts
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from explainer.bias import inputs
from explainer.bias.evidence import Evidence, Table
from explainer.bias.findings import BiasReport, Comparison, Finding
from explainer.bias.inputs import Model
from explainer.bias.statistics import false_discovery, paired_difference
from explainer.bias.verdict import AuditThresholds, decide
from explainer.bias.walking import LEVELS
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.generators.zoo import fitting_generator, load_generator
from explainer.progress import told
from explainer.storage import sha256

__all__ = ["audit"]


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
            oracle takes its place, which is then trained here.
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
    inputs.require_options(n_images, oracle_steps, alpha, seed)
    pixels = inputs.as_pixels(images)
    limits = AuditThresholds() if thresholds is None else thresholds
    people = inputs.as_groups(groups, len(pixels))
    asked, skipped = inputs.as_questions(attributes, len(pixels))
    models = inputs.as_models(classifier, compare_with)
    unbiased = None if reference is None else inputs.wrapped(reference)
    everyone = models if unbiased is None else {**models, "reference": unbiased}
    inputs.require_classes(everyone)
    for model in everyone.values():
        model.check(pixels[:8])
    wanted = inputs.as_targets(next(iter(models.values())), targets)
    inputs.require_distinct(list(models), wanted)
    given = inputs.as_oracles(oracles, asked, wanted, unbiased, pixels)
    inputs.require_scores(everyone, wanted[0], pixels)
    chosen = _generator(generator, pixels[:64])
    compared = "the target's own oracle" if unbiased is None else "given"
    table = Table([], {}, {}, {})
    with _progress(progress) as say:
        for target in wanted:
            truth = inputs.truth_of(labels, next(iter(models.values())), target, len(pixels))
            say(f"training oracles of {len(asked)} attributes")
            rows = inputs.chosen_rows(truth, n_images, seed)
            evidence = Evidence(
                chosen, pixels, asked, truth, people, rows, target, given, models, unbiased,
                limits, alpha, oracle_steps, seed,
            )  # fmt: skip
            for name, model in models.items():
                say(f"walking {name} across {target.label}")
                evidence.add(table, name, model)
    return BiasReport(
        findings=_judged(table, limits, alpha),
        comparisons=_comparisons(table.findings, list(models), people, alpha),
        clusters=table.clusters,
        warnings=table.warnings,
        skipped=tuple(skipped),
        thresholds=limits,
        provenance=_provenance(
            pixels, models, chosen, limits,
            {
                "seed": seed, "alpha": alpha, "n_images": n_images, "oracle_steps": oracle_steps,
                "levels": list(LEVELS), "reference": compared,
            },
        ) | {"labels": _hashed(labels, attributes), "groups": len(np.unique(people))},
        pictures=table.pictures,
        pictures_left_out=table.left_out,
        attribution_by_axis=table.axes,
    )  # fmt: skip


def _judged(table: Table, limits: AuditThresholds, alpha: float) -> tuple[Finding, ...]:
    """The findings with q-values over all that were tested, and their verdicts."""
    corrected = false_discovery(
        [finding.p if all(gate.met for gate in finding.gates) else 1.0 for finding in table.findings]
    )
    judged = []
    for finding, q in zip(table.findings, corrected, strict=True):
        verdict = decide(
            finding.gates, finding.forward, finding.reverse, q=q, thresholds=limits, alpha=alpha,
            hidden=table.warnings[f"{finding.classifier}, {finding.target}"],
        )  # fmt: skip
        judged.append(replace(finding, q=q, verdict=verdict))
    return tuple(judged)


def _comparisons(
    findings: Sequence[Finding], names: Sequence[str], people: NDArray, alpha: float
) -> tuple[Comparison, ...]:
    """The first classifier against every other, on images whose walks crossed under both."""
    of_first = {
        (each.target, each.attribute): each.changes for each in findings if each.classifier == names[0]
    }
    compared = []
    for each in findings:
        if each.classifier == names[0]:
            continue
        both = pd.concat([of_first[each.target, each.attribute], each.changes], axis=1, join="inner")
        if len(both) >= 2:
            mine, theirs = both.to_numpy(dtype=bool).T
            gap = paired_difference(mine, theirs, people[both.index], alpha=alpha)
            compared.append(Comparison(names[0], each.classifier, each.target, each.attribute, gap))
    return tuple(compared)


@contextmanager
def _progress(wanted: bool) -> Iterator[Any]:
    """A function that says what is being done, where somebody watches."""
    with told(wanted, "auditing") as say:
        yield say


def _generator(generator: Generator | str | Path, images: Tensor) -> Generator:
    if isinstance(generator, Generator):
        return generator.eval()
    return fitting_generator(images) if generator == "auto" else load_generator(generator)


def _hashed(labels: ArrayLike, attributes: pd.DataFrame) -> dict[str, str]:
    """Hash of what the images were said to be."""
    table = attributes.to_csv(index=False) + repr(np.asarray(labels).tolist())
    return {"sha256": sha256(table.encode("utf-8", "surrogatepass"))}


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
