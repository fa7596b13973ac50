"""The report of an audit as text: everything is in it, nothing is made up, and what cannot be is refused."""

import csv
import html
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from bias_record import HOSTILE, bias_pictures, bias_record, hostile_record

from explainer.errors import OptionError, OutputError
from explainer.report.bias_charts import forward_chart, interval_chart, reverse_chart
from explainer.report.bias_page import finding_columns, render_bias, write_bias
from explainer.report.bias_strips import Album
from explainer.report.bias_wording import WORDING, chosen_wording
from explainer.report.document import script_data
from explainer.report.spreadsheet import csv_text


@pytest.fixture(scope="module")
def page() -> str:
    return render_bias(bias_record(), bias_pictures())


def text_of(page: str) -> str:
    """What a reader sees, roughly: no tags, no style, no data."""
    body = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def block(page: str, kind: str) -> Any:
    (found,) = re.findall(f'<script type="application/json" id="report-{kind}">(.*?)</script>', page)
    return json.loads(found)


def test_every_part_of_an_audit_is_there(page: str) -> None:
    heads = re.findall(r'<h2 id="([a-z]+)"', page)
    assert heads == [
        "verdict", "matrix", "table", "conditions", "gate", "details", "axes", "compared", "clusters",
        "limits", "definitions", "provenance",
    ]  # fmt: skip
    said = text_of(page)
    for words in (
        "Supports evidence for confounding",
        "6 findings: evidence for confounding 1, not detected 4, insufficient evidence 1.",
        "forward +0.22 to +0.32 reverse +0.30 [+0.25, +0.35] over the reference +0.26 [+0.21, "
        "+0.31] q = 0.002",
        "shift over the reference 0.29 [0.24, 0.34]", "beyond 0.05, by itself and over the reference (lower",
        "moves the classifier less than 0.05, also over the reference (all upper bounds)",
        "not met unknown, needs 0.85",
        "clean, smiling : the classifier reads what cannot be shown.", "Not asked: beard: 3 images with it",
        "No two walks crossed", "label yes, attribute no (worst)", "No attribute names it", "0" * 64,
        "demographic parity, difference 0.10 [0.02, 0.18]", "biased − clean , smiling", "4" * 64,
        "command none: called from Python",
        "one below 0.1 may be there", "most change: upper left", "3 images without an answer are left out",
    ):  # fmt: skip
        assert words in said, words


@pytest.mark.parametrize(
    "word", ["complian", "complies", "conform", "approved", "certif", "guarantee", "proof", "proves"]
)
def test_wording_certifies_nothing(page: str, word: str) -> None:
    assert word not in text_of(page).lower()


def test_the_gravest_verdict_stands_on_top_and_its_finding_first() -> None:
    for status, words in (
        ("confounded", WORDING["verdict_confounded"]), ("insufficient", WORDING["verdict_insufficient"]),
        ("not detected", WORDING["verdict_not_detected"]),
    ):  # fmt: skip
        record = bias_record()
        for found in record["findings"][1:]:
            found["verdict"] = "not detected"
        record["findings"][0]["verdict"] = status
        page = render_bias(record)
        assert f"</span>{words}</h2>" in page
    record["findings"].reverse()
    record["findings"][2]["verdict"] = "confounded"
    details = re.findall(r'<details class="box finding" id="(finding-\d)"( open)?', render_bias(record))
    assert details[0] == ("finding-3", " open")
    assert [is_open for _, is_open in details[1:]] == [""] * 5


def test_pictures_are_those_named_with_what_was_said_of_them(page: str) -> None:
    labels = re.findall(r'<div class="walk-strip" role="group" aria-label="([^"]+)"', page)
    # the finding without walks shows none; the clusters' and the compared walks are there as well
    assert labels[:4] == [
        f"{reason}, gender, biased, smiling"
        for reason in ("Largest change, image 7", "Largest change and drawn at random, image 3",
                       "Median change, image 5", "Drawn at random, image 9")
    ]  # fmt: skip
    assert labels.count("An example, image 3, group of walks 1") == 1
    assert [label for label in labels if label.startswith(("biased", "clean"))] == [
        "biased, image 3, biased and clean", "clean, image 3, biased and clean"
    ]  # fmt: skip
    assert len(labels) == len(set(labels))
    first = page[page.index('class="film"') : page.index("</ol>", page.index('class="film"'))]
    assert text_of(first).replace("classifier", "\nclassifier").split("\n")[1:3] == [
        "classifier 0.20 ○ oracle 0.40 ○ change from the original; full colour is ±0.74 of the range "
        "level 0.1 ",
        "classifier 0.10 ○ oracle 0.40 ○ level 0.3 ",
    ]
    assert first.count("data:image/webp") == 6 + 5


def test_without_images_no_pixel_is_in_it() -> None:
    page = render_bias(bias_record(), bias_pictures(), images=False)
    assert "data:image/webp" not in page
    assert '<div class="walk-strip"' not in page
    assert "This page was written without pictures." in page
    # nor does a report whose audit kept none promise any
    assert "data:image/webp" not in render_bias(bias_record())


def test_pictures_stop_at_the_budget_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = render_bias(bias_record(), bias_pictures())
    monkeypatch.setattr("explainer.report.bias_page.PICTURES", 40_000)
    page = render_bias(bias_record(), bias_pictures())
    assert 0 < page.count('class="walk-strip"') < whole.count('class="walk-strip"')
    left = whole.count('class="walk-strip"') - page.count('class="walk-strip"')
    assert f"{left} walks are left out to keep the page small" in page
    monkeypatch.setattr("explainer.report.bias_page.PICTURES", 10)
    page = render_bias(bias_record() | {"pictures_left_out": 3}, bias_pictures())
    assert 'class="walk-strip"' not in page
    asked = whole.count('class="walk-strip"')
    assert f"{asked} walks are left out to keep the page small" in page
    assert "Of 3 more walks the audit kept no pictures" in page
    assert "kept no pictures" not in whole
    monkeypatch.setattr("explainer.report.bias_page.MOST_DETAILED", 2)
    page = render_bias(bias_record())
    assert page.count('<details class="box finding"') == 2
    assert "The 2 gravest of 6" in page
    assert 'href="#finding-6"' not in page, "no link to what is not there"


def test_what_is_not_detected_bears_no_tick(page: str) -> None:
    body = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    assert body.count('class="state info"') > 4
    assert not re.search(r'class="(state |verdict )?trust"', body)


def test_a_comparison_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text_of(render_bias(bias_record(), bias_pictures()))
    assert "The first" not in whole
    assert "the same image are shown" not in whole
    monkeypatch.setattr("explainer.report.bias_page.MOST_COMPARED", 2)
    monkeypatch.setattr("explainer.report.bias_page.MOST_PAIRED", 0)
    page = text_of(render_bias(bias_record(), bias_pictures()))
    assert "The first 2 of 3 attributes; all are in the table below." in page
    assert "for the first 0 comparisons only, and not for 1 more" in page


def test_a_paired_image_is_drawn_at_random_or_not_at_all() -> None:
    record = bias_record()
    for found in record["findings"]:
        found["shown"] = {"worst": [7], "median": [5], "random": [2]}
    page = render_bias(record, bias_pictures())
    assert "One image, drawn at random" not in page
    assert "image 7, gender, biased" in page


def test_commas_in_names_do_not_mix_walks_up() -> None:
    record, kept = bias_record(), bias_pictures()["biased, smiling"]
    record["findings"] = record["findings"][:1]
    record["findings"][0] |= {"classifier": "a, b", "target": "c"}
    record["comparisons"], record["clusters"] = [], {}
    theirs = {"a, b, c": [walk | {"classifier": "a", "target": "b, c"} for walk in kept]}
    assert 'class="walk-strip"' not in render_bias(record, theirs)
    mine = {"a, b, c": [walk | {"classifier": "a, b", "target": "c"} for walk in kept]}
    assert render_bias(record, mine).count('class="walk-strip"') == 4


@pytest.mark.parametrize(("channels", "names"), [(1, None), (3, None), (5, ("a", "b", "c", "d", "<e>"))])
def test_any_number_of_channels(channels: int, names: tuple[str, ...] | None) -> None:
    page = render_bias(bias_record(), bias_pictures(channels, names))
    width = re.search(r'<ol class="film">.*?<img [^>]*width="(\d+)" height="(\d+)"', page, re.DOTALL)
    assert width is not None
    assert int(width[1]) == pytest.approx(int(width[2]) * (channels if channels == 5 else 1), rel=0.1)
    assert ("a, b, c, d, &lt;e&gt;" in page) == (channels == 5)


def test_downloads_hold_the_whole_record_and_a_safe_table() -> None:
    record = hostile_record()
    page = render_bias(record, {})
    assert block(page, "json") == record
    rows = list(csv.DictReader(io.StringIO(block(page, "csv"))))
    assert len(rows) == 6
    assert float(rows[0]["changed"]) == record["findings"][0]["forward"]["changed"]["value"]
    assert rows[1]["changed"] == rows[1]["reverse over reference low"] == ""
    over = record["findings"][0]["reverse"]["over_reference"]
    assert float(rows[0]["reverse over reference low"]) == over["low"]
    cells = [cell for row in rows for cell in row.values()]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t"))]
    assert [cell for cell in cells if cell.startswith("-")] == [
        row[name] for row in rows for name in row if row[name].startswith("-")
    ]
    assert all(float(cell) < 0 for cell in cells if cell.startswith("-")), "only numbers begin with a minus"


def test_the_walks_are_said_in_words_where_the_generator_has_named_axes(page: str) -> None:
    (section,) = re.findall(r'<h2 id="axes">.*?</section>', page, flags=re.DOTALL)
    said = text_of(section)
    for words in (
        '50 % of the move is "gender" (towards "female"), -10 % is "age", against it, and 60 % is unnamed.',
        "biased, smiling", "score by +3.000 comes from, along these walks from 0.20 to 0.80",
        "gender 50 % +1.500 +0.900 female", "age −10 % −0.300 +0.200", "unnamed 60 % +1.800",
        "the parts miss 0.12 % of the change", "No verdict rests on this",
    ):  # fmt: skip
        assert words in said, words
    assert 'href="#axes"' in page
    nameless = bias_record() | {"attribution_by_axis": {}}
    assert "The walks in words" not in render_bias(nameless, {})


def test_hostile_text_is_escaped_wherever_it_stands() -> None:
    page = render_bias(hostile_record(), {})
    assert page.count("<script") == 3
    assert page.count("</script>") == 3
    visible = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for raw in ("<img src=x", "<svg onload", '"window.hacked', "\u202e", "x" * 2000):
        assert raw not in visible
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in ids), "ids are our own"
    assert "{{7*7}}" in visible


def test_script_data_cannot_end_its_block() -> None:
    text = "</script><!--<script>&'\u2028\u2029" + chr(0xD800)
    data = str(script_data([text]))
    assert not set(data) & set("<>&'\u2028\u2029")
    assert json.loads(data) == [text]


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), (" =1", "' =1"), ("-1", "'-1"), ("\t=1", "' =1"), ("a;=1+1", "a;'=1+1"),
     ("a\r=1+1", "a =1+1"), ("\r=1+1", "' =1+1"), ("a\r\n;\n@b", "a ; '@b"), ('a"",  -x()', "a\"\",  '-x()"),
     ("by +0.3 [-0.1, +0.2]; so", "by +0.3 [-0.1, +0.2]; so"), ("a;-2 +cmd|'x'!A0", "a;'-2 +cmd|'x'!A0"),
     ("\uff1d1", "'\uff1d1"),
     (-1.5, "-1.5"),
     (7, "7"), (None, ""), (float("inf"), ""), ("a=1", "a=1"), ("nul\x00", "nul")],
)  # fmt: skip
def test_cells_of_a_spreadsheet(value: object, cell: str) -> None:
    (read,) = list(csv.DictReader(io.StringIO(csv_text(["=name"], [{"=name": value}]) + " ")))[:1]
    assert read["'=name"] == cell


def test_a_cell_stays_a_cell_whatever_it_holds() -> None:
    text = csv_text(["a", "b"], [{"a": "x\r=1+1", "b": 2}, {"a": 'y"\r\n=2', "b": -3}])
    assert "\r" not in text
    assert text.splitlines() == ["a,b", "x =1+1,2", '"y"" \'=2",-3']
    for separator in ";,":
        rows = csv.reader(io.StringIO(csv_text(["a"], [{"a": "a;=1+1"}])), delimiter=separator)
        assert not [cell for row in rows for cell in row if cell.startswith("=")]


def test_words_can_be_chosen_but_not_certify() -> None:
    page = render_bias(bias_record(), wording={"confounded": "Speaks for <use>", "note": "Read by {{us}}."})
    assert "Speaks for &lt;use&gt;" in page
    assert "Read by {{us}}." in page
    for wording, message in (
        ({"titel": "x"}, "wording: has a name that the report has no place for"),
        ({"title": 3}, 'wording: must hold text for "title"'),
        *(
            ({"note": f"This model {word}."}, "wording: would turn evidence into a certificate")
            for word in ("is COMPLIANT", "complies", "Conforms", "is approved", "is guaranteed fair")
        ),
    ):
        with pytest.raises(OptionError, match=message):
            chosen_wording(wording)  # type: ignore[arg-type]


def test_charts_lie_where_the_numbers_are() -> None:
    found = bias_record()["findings"][0]
    chart = forward_chart(found["paths"], "up")
    assert chart is not None
    left, top, right, bottom = chart.frame
    null, classifier, oracle, random = chart.lines
    assert [line.kind for line in chart.lines] == ["null", "classifier", "oracle", "random"]
    for (x, y), level in zip(classifier.marks, (0.1, 0.3, 0.5, 0.7, 0.9), strict=True):
        assert x == pytest.approx(left + level * (right - left), abs=0.01)
        assert y == pytest.approx(bottom - level * (bottom - top), abs=0.01)
    assert oracle.marks[0][1] == pytest.approx(bottom - 0.4 * (bottom - top), abs=0.01)
    assert oracle.band is not None
    assert len(oracle.band.split()) == 10
    assert null.marks[1][0] == classifier.marks[-1][0]
    assert random.whiskers[0][1] > random.whiskers[0][2], "the lower end is lower on the page"
    assert chart.rows[0] == ["0.10", "0.10", "0.40 [0.30, 0.50]"]
    assert chart.rows[5] == ["reference at 0.10", "–", "0.44 [0.40, 0.48]"]
    assert "0.40 to 0.60" in chart.description
    assert forward_chart({}, "up") is None
    turned = reverse_chart(found["paths"], "down")
    assert turned is not None
    assert turned.rows[1] == ["the classifier", "0.40 [0.30, 0.50]", "0.70 [0.60, 0.80]"]
    assert reverse_chart({}, "down") is None


def test_the_axis_of_effects_holds_zero_margins_and_ends() -> None:
    effects = [
        ("up", {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9}),
        ("gone", {"value": None}),
        ("none", None),
    ]
    chart = interval_chart([*effects, ("open", {"value": -0.1, "low": None, "high": None, "n": 2})], [0.5])
    assert chart is not None
    assert [bar[1] for bar in chart.bars] == ["up", "open"]
    _, _, low, value, high, said = chart.bars[0]
    assert value - low == pytest.approx(high - value, abs=0.02)
    assert chart.zero < low < value < high < chart.margins[0] < chart.frame[2]
    assert chart.bars[1][2] == chart.bars[1][3] == chart.bars[1][4] < chart.zero
    assert said == "+0.20 [+0.10, +0.30], n = 9"
    assert interval_chart([("none", None)]) is None


def test_a_strip_without_its_oracle_shows_none() -> None:
    walk = bias_pictures()["biased, smiling"][0]
    before = walk["frames"].copy()
    album = Album(10**7)
    strip = album.strip(walk, "gender", walk["levels"])
    assert [frame["oracle"] for frame in strip["frames"]] == ["0.40", "0.40", "0.45", "0.50", "0.55", "0.60"]
    assert [frame["oracle_yes"] for frame in strip["frames"]] == [False] * 4 + [True] * 2
    assert {frame["oracle"] for frame in album.strip(walk, "beard", walk["levels"])["frames"]} == {None}
    assert (album.shown, album.left_out) == (2, 0)
    assert Album(10).strip(walk, None, walk["levels"]) is None
    assert np.array_equal(walk["frames"], before)


def test_what_is_no_report_is_refused(tmp_path) -> None:
    record = bias_record()
    record["findings"] = []
    with pytest.raises(OptionError, match="findings: must hold at least one finding"):
        render_bias(record)
    record = bias_record()
    record["findings"][2]["verdict"] = "fine"
    with pytest.raises(OptionError, match="findings: must have one of the verdicts"):
        render_bias(record)
    with pytest.raises(OutputError, match="which is not a folder"):
        write_bias(bias_record(), tmp_path / "no" / "audit.html")
    assert finding_columns({"findings": []}) == (
        ["classifier", "target", "attribute", "verdict", "sentence", "p", "q"], []
    )  # fmt: skip


def test_nothing_is_written_twice_differently() -> None:
    assert render_bias(bias_record(), bias_pictures()) == render_bias(bias_record(), bias_pictures())
    assert len(HOSTILE) == len(set(HOSTILE))
