"""An audit from the command line: a table in, files and an exit code out."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toys import LinearGenerator, LogisticClassifier

from explainer import audit_run, classifier_files, cli
from explainer.bias import AuditThresholds, BiasReport, Finding
from explainer.bias.verdict import Verdict
from explainer.classifier import Classifier
from explainer.errors import ImageError, OptionError


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty images of the toy generator, a label, two attributes and a person."""
    folder = tmp_path_factory.mktemp("audited")
    codes = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    images = LinearGenerator().decode(codes)
    for number, image in enumerate(images):
        Image.fromarray((255 * image[0]).round().byte().numpy()).save(folder / f"{number}.png")
    pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(80)],
            "y": np.where(codes @ torch.linspace(1, 2, 6) > 0, "yes", "no"),
            "a": (codes[:, 1] > 0).numpy(),
            "b": codes[:, 2].numpy(),
            "person": np.arange(80) // 2,
        }
    ).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def classifier() -> Classifier:
    return Classifier(LogisticClassifier(LinearGenerator()), kind="binary", class_names=("no", "yes"))


@pytest.fixture(scope="module")
def report(table: Path) -> BiasReport:
    return audit_run.audit_table(
        table, classifier(), label="y", attributes=["a", "b"], group="person", generator=LinearGenerator(),
        n_images=60, oracle_steps=5, progress=False,
    )  # fmt: skip


def with_verdicts(report: BiasReport, *statuses: str) -> BiasReport:
    findings: list[Finding] = []
    for finding, status in zip(report.findings, statuses, strict=True):
        values = {name: getattr(finding, name) for name in Finding.__dataclass_fields__}
        findings.append(Finding(**values | {"verdict": Verdict(status, f"It is {status}.")}))
    values = {name: getattr(report, name) for name in BiasReport.__dataclass_fields__}
    return BiasReport(**values | {"findings": tuple(findings)})


def test_a_table_is_audited(table: Path, report: BiasReport):
    assert [finding.attribute for finding in report.findings] == ["a", "b above " + report_median(table)]
    assert report.findings[0].forward is not None
    assert report.findings[0].forward.changed.groups < report.findings[0].forward.changed.n
    assert report.thresholds == AuditThresholds()
    # few images and hardly trained oracles: no verdict may come of that
    assert {finding.verdict.status for finding in report.findings} == {"insufficient"}


def test_what_is_to_be_shown_has_been_kept(report: BiasReport):
    """Pictures of the walks that each finding names, and no more than those and a cluster's."""
    for finding in report.findings:
        kept = {strip.row: strip for strip in report.pictures[f"{finding.classifier}, {finding.target}"]}
        shown = [row for rows in finding.shown.values() for row in rows]
        assert [len(finding.shown[kind]) for kind in ("worst", "median", "random")] == [2, 1, 2]
        assert set(shown) <= set(kept)
        assert all(finding.attribute in kept[row].oracles for row in shown)
    about = report.provenance
    assert about["groups"] == 40
    assert len(about["labels"]["sha256"]) == 64
    assert about["options"]["reference"] == "the target's own oracle"
    assert json.dumps(report.to_dict()).count("frames") == 0, "the JSON holds no pictures"


def report_median(table: Path) -> str:
    return f"{pd.read_csv(table)['b'].median():g}"


def test_files_are_written(report: BiasReport, tmp_path: Path):
    files = audit_run.write_report(report, tmp_path)
    assert set(files) == {"json", "junit", "markdown", "csv"}
    assert json.loads(Path(files["json"]).read_text())["schema"] == 1
    assert pd.read_csv(files["csv"])["changed"].tolist() == report.to_frame()["changed"].tolist()
    assert Path(files["markdown"]).read_text() == report.to_markdown()


@pytest.mark.parametrize(
    ("name", "label", "attributes", "message"),
    [
        ("no.csv", "y", ["a"], "data: does not exist"),
        ("table.csv", "z", ["a"], "data: has no column z"),
        ("table.csv", "y", ["a", "c"], "data: has no column c"),
    ],
)
def test_tables_that_cannot_be_audited(table: Path, name: str, label: str, attributes: list, message: str):
    with pytest.raises(OptionError, match=message):
        audit_run.read_audit_table(table.parent / name, label, attributes, None)


def test_images_of_several_sizes_are_brought_to_one(table: Path, tmp_path: Path):
    for number in range(80):
        with Image.open(table.parent / f"{number}.png") as image:
            image.resize((16, 16) if number % 2 else (32, 32)).save(tmp_path / f"{number}.png")
    (tmp_path / "table.csv").write_bytes(table.read_bytes())
    data, options = tmp_path / "table.csv", {"label": "y", "attributes": ["a"], "group": None}
    found = audit_run.audit_table(
        data,
        classifier(),
        generator=LinearGenerator(),
        n_images=40,
        oracle_steps=1,
        progress=False,
        **options,
    )
    assert found.provenance["images"]["count"] == 80
    with pytest.raises(OptionError, match=r"data: has images of several sizes.*--size"):
        audit_run.audit_table(data, classifier(), **options)
    with pytest.raises(ImageError, match="differs in shape"):
        audit_run.read_audit_table(data, "y", ["a"], None)


@pytest.mark.parametrize(
    ("statuses", "options", "code"),
    [
        (("not detected", "not detected"), [], 0),
        (("not detected", "insufficient"), [], 0),
        (("not detected", "insufficient"), ["--fail-on", "insufficient"], 4),
        (("confounded", "insufficient"), ["--fail-on", "insufficient"], 1),
        (("confounded", "insufficient"), ["--fail-on", "confounded"], 1),
        (("confounded", "insufficient"), ["--fail-on", "never"], 0),
        (("not detected", "not detected"), ["--fail-on", "sometimes"], 2),
    ],
)
def test_the_exit_code_says_what_was_found(
    report, table, tmp_path, monkeypatch, capsys, statuses, options, code
):
    asked = {}

    def audited(data, model, **given):
        asked.update(given, data=data)
        return with_verdicts(report, *statuses)

    monkeypatch.setattr(audit_run, "audit_table", audited)
    monkeypatch.setattr(classifier_files, "open_classifier", lambda word, about: classifier())
    arguments = ["audit", "--classifier", "mine:model", "--data", str(table), "--label", "y"]
    arguments += ["--attributes", "a, b", "--out", str(tmp_path / "out"), "--target", "1", *options]
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == code
    said = capsys.readouterr()
    if code == 2:
        assert "fail-on: is unknown" in said.err
        return
    assert asked["attributes"] == ("a", "b")
    assert asked["targets"] == [1]
    assert asked["group"] is None
    for status in statuses:
        assert f"It is {status}." in said.out
    assert (tmp_path / "out" / "audit.json").exists()


def test_the_page_is_written_with_the_command_that_made_it(report, table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit_run, "audit_table", lambda *_, **__: report)
    monkeypatch.setattr(classifier_files, "open_classifier", lambda word, about: classifier())
    arguments = ["audit", "--classifier", "m:f", "--data", str(table), "--label", "y", "--attributes", "a, b"]
    page = tmp_path / "new" / "audit page.html"
    pictures = []
    for more in ([], ["--no-images"]):
        with pytest.raises(SystemExit) as left:
            cli.main([*arguments, "--html", str(page), "--target", "1", "--target", "0", *more])
        assert left.value.code == 0
        text = page.read_text(encoding="utf-8")
        assert "explainer audit --classifier m:f --data" in text
        assert f"--html &#39;{page}&#39;" in text
        assert "--target 1 --target 0" in text
        assert ("--no-images" in text) == bool(more)
        pictures.append(text.count("data:image/webp"))
        assert "audit page.html" in capsys.readouterr().out.replace("\n", "")
    assert pictures[0] > 0 == pictures[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--no-images"], "no-images: is for a page, and none is asked for"),
     (["--html", "."], "html: is a folder, not a file")],
)  # fmt: skip
def test_a_page_that_cannot_be_is_refused_before_the_audit(table, monkeypatch, capsys, more, message):
    monkeypatch.setattr(audit_run, "audit_table", lambda *_, **__: pytest.fail("it was audited"))
    monkeypatch.setattr(classifier_files, "open_classifier", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(SystemExit) as left:
        cli.main(
            ["audit", "--classifier", "m:f", "--data", str(table), "--label", "y", "--attributes", "a", *more]
        )
    assert left.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_json_is_all_there_is_on_stdout(report, table, monkeypatch, capsys):
    monkeypatch.setattr(audit_run, "audit_table", lambda *_, **__: report)
    monkeypatch.setattr(classifier_files, "open_classifier", lambda word, about: classifier())
    with pytest.raises(SystemExit) as left:
        cli.main(
            [
                "audit",
                "--classifier",
                "m:f",
                "--data",
                str(table),
                "--label",
                "y",
                "--attributes",
                "a",
                "--json",
            ]
        )
    assert left.value.code == 0
    read = json.loads(capsys.readouterr().out)
    assert read["files"] == {}
    assert len(read["findings"]) == 2


def test_a_notebook_shows_a_verdict_for_each_question(report: BiasReport) -> None:
    judged = with_verdicts(report, "confounded", "insufficient")
    marked = dataclasses.replace(judged, skipped=("<age> was <empty>",))
    shown = marked._repr_html_()
    assert "✖ confounded" in shown
    assert "? insufficient" in shown
    assert "&lt;age&gt; was &lt;empty&gt;" in shown
    assert shown.count("<tr>") == 1 + len(marked.findings)
    assert "<script" not in shown
