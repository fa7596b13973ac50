"""The site: links are rewritten as its pages need them, and what it says of other packages is so."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"


@pytest.fixture
def as_in_site(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delitem(sys.modules, "links", raising=False)
    return importlib.import_module("links").as_in_site


@pytest.mark.parametrize(
    ("page", "written", "wanted"),
    [
        ("limits", "[models](../models/faces/README.md)", "[models](/zoo/faces.md)"),
        ("notebooks/01", "[models](../../models/cells/README.md#limits)", "[models](/zoo/cells.md#limits)"),
        ("notebooks/04", "[measured](../docs/audit.md)", "[measured](../audit.md)"),
        ("zoo/faces", "[walks](../../docs/walks.md)", "[walks](../walks.md)"),
        ("zoo/faces", "[the program](train.py)", "`the program`"),
        (
            "zoo/faces",
            "[paper](https://arxiv.org/abs/1911.00483)",
            "[paper](https://arxiv.org/abs/1911.00483)",
        ),
        ("zoo/faces", "[below](#limits)", "[below](#limits)"),
        (
            "walks",
            "[a batch](batches.md), [the program](train.py)",
            "[a batch](batches.md), [the program](train.py)",
        ),
    ],
)
def test_links_lead_where_pages_of_the_site_lie(as_in_site, tmp_path, page, written, wanted):
    assert as_in_site(page, f"See {written}.", tmp_path) == f"See {wanted}."


def test_a_pattern_of_the_index_that_matches_nothing_is_left_out(as_in_site, tmp_path):
    (tmp_path / "guidance.md").touch()
    assert as_in_site("index", "guidance*\nnothing*\nmethod", tmp_path) == "guidance*\nmethod"
    assert as_in_site("method", "nothing*", tmp_path) == "nothing*"


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {line.rstrip("*") for line in index.splitlines() if re.fullmatch(r"[\w/]+\*?", line)}
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= listed


def test_warnings_are_errors_where_the_site_is_built():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    builds = [line for line in makefile.splitlines() if "-m sphinx" in line]
    assert len(builds) == 2
    assert all(" -W " in line for line in builds)
    assert "make docs" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_what_is_said_of_captum_is_so():
    import captum.attr
    import captum.metrics
    from captum._utils.models import Model
    from captum.attr._utils.attribution import Attribution

    bases = {"LLM", "RemoteLLM", "LimeBase", "NoiseTunnel", "DataLoader"}
    found = {
        name for name in captum.attr.__all__
        if inspect.isclass(kind := getattr(captum.attr, name)) and issubclass(kind, Attribution)
        and not name.endswith("Attribution") and name not in bases and not issubclass(kind, Model)
    }  # fmt: skip
    layers = {name for name in found if name.startswith(("Layer", "InternalInfluence"))}
    neurons = {name for name in found if name.startswith("Neuron")}
    page = (DOCS / "comparison.md").read_text(encoding="utf-8")
    said = re.search(r"\((\d+) classes of inputs, (\d+) of layers, (\d+) of neurons\)", page)
    assert said is not None
    assert [int(number) for number in said.groups()] == [
        len(found - layers - neurons), len(layers), len(neurons)
    ]  # fmt: skip
    assert f"| {len(found)} methods: of inputs, layers, neurons |" in page
    assert {"infidelity", "sensitivity_max"} <= set(captum.metrics.__all__)
    from explainer.saliency.methods import METHODS, WALKED

    assert len(set(METHODS) - set(WALKED)) == 10, "ten of its methods are available here by name"


@pytest.mark.parametrize(
    "place",
    [
        "fairlearn.metrics:MetricFrame",
        "fairlearn.reductions:ExponentiatedGradient",
        "fairlearn.postprocessing:ThresholdOptimizer",
        "fairlearn.adversarial:AdversarialFairnessClassifier",
        "latentshift.cf.latent_shift:LatentShift",
        "latentshift.alignment:compute_alignment",
        "quantus:AVAILABLE_METRICS",
    ],
)
def test_what_is_said_of_others_is_where_the_page_says(place):
    module, _, name = place.partition(":")
    if module.partition(".")[0] != "fairlearn":  # comes with the tests
        pytest.importorskip(module, exc_type=ImportError)
    found = getattr(importlib.import_module(module), name)
    if name == "AVAILABLE_METRICS":
        assert sum(map(len, found.values())) == 37
        assert len(found) == 6


def test_the_paper_that_nobody_identified_is_not_cited():
    page = (DOCS / "comparison.md").read_text(encoding="utf-8")
    assert "77 pages, which **they do not identify**" in page
