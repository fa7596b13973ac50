import json
import re
import sys

import pytest


@pytest.fixture
def tables(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import tables

    yield tables
    sys.modules.pop("tables")


def test_the_results_page_shows_the_committed_results(repository, tables):
    assert (repository / "docs" / "results.md").read_text(encoding="utf-8") == tables.page()


def test_every_page_shows_the_committed_results_it_names(repository, tables):
    for document in repository.glob("docs/*.md"):
        text = document.read_text(encoding="utf-8")
        assert text == tables.filled(text), f"{document.name}: run python benchmarks/tables.py"


def test_a_page_is_filled_with_the_result_it_names(tables):
    text = tables.filled("a\n<!-- results: cells_walk -->\nold\n<!-- end -->\nb")
    assert "old" not in text
    assert "G1 to .95: PI crosses the middle" in text
    assert text.startswith("a\n")
    assert text.endswith("<!-- end -->\nb")


def test_the_readme_shows_the_committed_results(repository, tables):
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert text == tables.readme(text)


def test_the_committed_results_reach_what_they_had_to_or_say_why_not(repository, tables):
    for name in tables.TARGETS:
        result = json.loads(
            (repository / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8")
        )
        missed = {(name, row[0]) for row in tables.met(result) if not row[-1]}
        explained = {place for place in tables.MISSED if place[0] == name}
        assert missed == explained, "explain what is missed in MISSED, and nothing that is met"


def test_links_between_documents_lead_somewhere(repository):
    assert list(repository.glob("docs/*.md"))
    for document in [
        repository / "README.md",
        *repository.glob("docs/*.md"),
        *repository.glob("models/*/README.md"),
    ]:
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_every_zoo_weight_is_named_with_its_hash_and_small_enough(repository):
    cards = list(repository.glob("models/*/card.json"))
    assert cards
    for card_file in cards:
        card = json.loads(card_file.read_text(encoding="utf-8"))
        entries = [card["generator"], *card["classifiers"].values()]
        entries += [card["identity"]] if "identity" in card else []
        files = {path.name for path in card_file.parent.glob("*.safetensors")}
        assert files == {entry["file"] for entry in entries}
        assert all(len(entry["sha256"]) == 64 for entry in entries)
        assert all((card_file.parent / name).stat().st_size <= 8_000_000 for name in files)
        assert {"licence", "data", "limits", "summary"} <= card.keys()
