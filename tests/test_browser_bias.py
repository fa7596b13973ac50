"""The report of an audit in a real browser: usable by keyboard, inert against hostile names, printed whole.

axe-core is not in the repository (it is large and has a licence of its own): the environment variable
AXE_CORE names its ``axe.min.js``; ``.ci/run`` fetches one.
"""

import csv
import io
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bias_record import HOSTILE, bias_pictures, bias_record, hostile_record
from browser import Browser
from test_page import page_data, replaced_pixels

from explainer.report import render_sheet, write_page
from explainer.report.bias_page import write_bias

pytestmark = pytest.mark.browser

OPEN_ALL = "document.querySelectorAll('details').forEach(each => { each.open = true; })"


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bias(bias_record(), tmp_path_factory.mktemp("page") / "audit.html", bias_pictures())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = bias_pictures(4, tuple(HOSTILE[:4]))
    record = hostile_record()
    named = record["findings"][0]
    theirs = {"classifier": named["classifier"], "target": named["target"]}
    walks = {"any key": [walk | theirs for walk in pictures["biased, smiling"]]}
    # the file has a name of that kind as well
    return write_bias(
        record, tmp_path_factory.mktemp("page") / "=1+1 <img src=x onerror=hacked()> {{7*7}}.html", walks
    )


def test_it_opens_without_a_request_or_a_complaint(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(OPEN_ALL)
    browser.run("Array.from(document.images, i => { i.loading = 'eager'; })")
    browser.run("Promise.all(Array.from(document.images, i => i.decode()))")
    assert browser.complaints() == []
    assert browser.requests() == {"file", "data"}
    assert browser.run("document.images.length") >= 4 * 11
    assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")


def test_what_a_page_asks_of_a_network_never_leaves(browser: Browser, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        page = tmp_path / "asks.html"
        page.write_text(f'<img src="http://127.0.0.1:{server.getsockname()[1]}/x.png">', encoding="utf-8")
        browser.open(page)
        with pytest.raises(TimeoutError):
            server.accept()
    assert browser.requests() == {"file", "http"}
    assert browser.complaints()


def test_the_slider_shows_the_same_frame_of_every_walk(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('#finding-1-walks-slider').focus()")
    browser.press("End", 35)
    large = "Array.from(document.querySelectorAll('#finding-1-walks .flip img'), i => i.src)"
    last = "Array.from(document.querySelectorAll('#finding-1-walks .film'),"
    last += " film => film.lastElementChild.querySelector('img').src)"
    assert browser.run(large) == browser.run(last)
    assert len(browser.run(large)) == 4
    caption = "document.querySelector('#finding-1-walks .flip figcaption').textContent"
    assert browser.run(caption) == "level 0.9 · classifier 0.90 · oracle 0.60"
    value = "document.querySelector('#finding-1-walks-slider').getAttribute('aria-valuetext')"
    assert browser.run(value) == "level 0.9"
    browser.press("ArrowLeft", 37)
    assert browser.run(value) == "level 0.7"
    browser.press("Home", 36)
    assert browser.run(value) == "original"
    assert browser.run("document.querySelectorAll('#finding-1-walks li.current').length") == 4


def column(browser: Browser, number: int) -> list[str]:
    rows = "Array.from(document.querySelector('#findings-table').tBodies[0].rows"
    return browser.run(f"{rows}, row => row.cells[{number}].textContent.trim().replace(/\\s+/g, ' '))")


def test_tables_sort_by_keyboard_and_say_so(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = column(browser, 2)
    button = "document.querySelectorAll('#findings-table .sort')"
    browser.run(f"{button}[2].focus()")
    browser.press("Enter", 13)
    assert column(browser, 2) == sorted(before)
    header = "document.querySelectorAll('#findings-table th')[2].getAttribute('aria-sort')"
    assert browser.run(header) == "ascending"
    assert browser.run("document.getElementById('sorted').textContent") == "Sorted by Attribute, ascending."
    browser.press("Enter", 13)
    assert column(browser, 2) == sorted(before, reverse=True)
    browser.run(f"{button}[4].click()")
    numbers = column(browser, 4)
    assert numbers[-1] == "–", "what is unknown comes last"
    assert [float(each.split("+")[1][:4]) if "+0.3" in each else 0.0 for each in numbers[:-1]] == [
        0,
        0,
        0,
        0,
        0.3,
    ]
    browser.run(f"{button}[4].click()")
    assert column(browser, 4)[0].startswith("+0.30")
    assert column(browser, 4)[-1] == "–"
    assert browser.run(header) is None
    # rows stay whole
    assert column(browser, 2)[0] == "gender"


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_downloads_are_what_was_found(browser: Browser, page: Path, tmp_path: Path, kind: str) -> None:
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.open(page)
    browser.run(f"document.querySelector('[data-download={kind}]').focus()")
    browser.press("Enter", 13)
    file = tmp_path / f"audit.{kind}"
    deadline = time.monotonic() + 30
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    text = file.read_text(encoding="utf-8")
    if kind == "json":
        assert json.loads(text) == bias_record()
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["attribute"] for row in rows] == ["gender", "age", "hat"] * 2
    assert browser.complaints() == []
    assert browser.requests() <= {"file", "data", "blob"}


def test_theme_is_that_of_every_page(browser: Browser, page: Path) -> None:
    surface = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, dark=True)
    browser.run("localStorage.clear()")
    browser.open(page, dark=True)
    assert browser.run(surface) == "rgb(18, 21, 26)"
    browser.run("document.getElementById('theme').click()")
    assert browser.run(surface) == "rgb(245, 246, 248)"
    browser.run("localStorage.clear()")


def test_the_keyboard_reaches_everything_in_order(browser: Browser, page: Path) -> None:
    browser.open(page)
    visited: list[str] = []
    for _ in range(60):
        browser.press("Tab", 9)
        visited.append(
            browser.run("(e => e.id || e.dataset.download || e.className || e.getAttribute('href')"
                        " || e.tagName)(document.activeElement)")
        )  # fmt: skip
    places = [
        visited.index(name)
        for name in ("skip", "pixels", "theme", "#matrix", "#provenance", "json", "csv", "sort")
    ]
    assert places == sorted(places)
    assert visited[0] == "skip"
    # a link in the table opens the finding it names and takes the focus along
    browser.run("document.querySelector('#findings-table a[href=\"#finding-4\"]').focus()")
    assert not browser.run("document.getElementById('finding-4').open")
    browser.press("Enter", 13)
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run("document.getElementById('finding-4').open")
    assert browser.run("document.activeElement.parentElement.id") == "finding-4"


def test_everything_has_a_name_and_the_headings_a_level(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(OPEN_ALL)
    assert browser.run("Array.from(document.images).filter(i => !i.alt).length") == 0
    plots = "Array.from(document.querySelectorAll('svg[role=img]'), each =>"
    plots += " each.querySelector('title').textContent.length > 5"
    plots += " && each.querySelector('desc').textContent.length > 9)"
    assert (
        browser.run(plots).count(True)
        == browser.run("document.querySelectorAll('svg[role=img]').length")
        > 10
    )
    levels = browser.run("Array.from(document.querySelectorAll('h1, h2, h3, h4'), h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    headers = "Array.from(document.querySelectorAll('th')).every(each => each.scope)"
    assert browser.run(headers)
    ids = browser.run("Array.from(document.querySelectorAll('[id]'), each => each.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [1280, 700, 390])
@pytest.mark.parametrize("kind", ["plain", "hostile"])
def test_no_width_makes_the_report_scroll_sideways(
    browser: Browser, page: Path, hostile: Path, kind: str, width: int
) -> None:
    browser.open(page if kind == "plain" else hostile, width=width)
    browser.run(OPEN_ALL)
    assert browser.run("document.documentElement.scrollWidth") <= width
    if kind == "plain":
        pictures = "Array.from(document.querySelectorAll('.film img'), i => i.getBoundingClientRect().width)"
        assert min(browser.run(pictures)) >= 90


def test_on_a_desktop_the_table_of_findings_needs_no_scrolling(browser: Browser, tmp_path: Path) -> None:
    record = bias_record()
    for found in record["findings"]:
        found |= {"classifier": "smile, confounded with gender", "attribute": "Mouth_Slightly_Open"}
    browser.open(write_bias(record, tmp_path / "audit.html"))
    table = "document.querySelector('#findings-table').parentElement"
    assert browser.run(f"{table}.scrollWidth <= {table}.clientWidth")


def test_hostile_names_stay_text(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    browser.run(OPEN_ALL)
    assert browser.complaints() == []
    assert browser.requests() == {"file", "data"}
    assert browser.run("window.hacked === undefined")
    assert browser.run("document.querySelectorAll('script').length") == 3
    assert (
        browser.run("document.querySelectorAll('svg svg, foreignObject, iframe, object, embed').length") == 0
    )
    kinds = "Array.from(new Set(Array.from(document.images, i => i.src.split(';')[0]))).sort()"
    assert browser.run(kinds) == ["data:image/png", "data:image/webp"]
    handlers = (
        "Array.from(document.querySelectorAll('*')).flatMap(e => Array.from(e.attributes, a => a.name))"
        ".filter(name => name.startsWith('on') || name === 'style')"
    )
    assert browser.run(handlers) == []
    assert browser.run("Array.from(document.links).every(a => a.getAttribute('href').startsWith('#'))")
    text = browser.run("document.body.innerText")
    assert "{{7*7}}" in text
    assert "49" not in text.replace("0.49", "")
    assert "<img src=x onerror=" in text
    assert "\u202e" not in text
    assert len(text) < 300_000, "ten kilobytes in every field are shortened"


def test_each_hostile_name_is_shown_as_it_is(browser: Browser, tmp_path: Path) -> None:
    record = bias_record()
    record["findings"] = [
        {**record["findings"][0], "classifier": name, "target": name, "attribute": name} for name in HOSTILE
    ]
    browser.open(write_bias(record, tmp_path / "audit.html"))
    assert browser.complaints() == []
    names = "Array.from(document.querySelectorAll('.finding > summary'),"
    names += " each => Array.from(each.querySelectorAll('bdi'), part => part.textContent))"
    for shown, name in zip(browser.run(names), HOSTILE, strict=True):
        visible = "".join(character if character.isprintable() else " " for character in name)
        expected = " ".join(visible.split())
        assert set(shown) == {expected if len(expected) <= 120 else expected[:119] + "…"}


def test_hostile_names_are_whole_and_harmless_in_what_is_downloaded(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    data = browser.run("JSON.parse(document.getElementById('report-json').textContent)")
    assert data == hostile_record()
    table = browser.run("JSON.parse(document.getElementById('report-csv').textContent)")
    cells = [cell for row in csv.reader(io.StringIO(table)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


def test_without_scripts_everything_can_be_read(browser: Browser, page: Path) -> None:
    browser.open(page, scripts=False)
    tree = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]

    def count(selector: str) -> int:
        return len(browser.call("DOM.querySelectorAll", nodeId=tree, selector=selector)["nodeIds"])

    assert count("#findings-table tbody tr") == 6
    assert count("details.finding") == 6
    assert count(".films .film img") > 40
    assert count("[data-needs-script]:not([hidden])") == 0


def test_print_shows_all_of_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    browser.call("Emulation.setEmulatedMedia", media="print")
    hidden = (
        "Array.from(document.querySelectorAll('.tools, .controls, .flip, .contents'), e => e.offsetParent)"
    )
    assert set(browser.run(hidden)) == {None}
    assert len(browser.call("Page.printToPDF", printBackground=True)["data"]) > 50_000
    browser.call("Emulation.setEmulatedMedia", media="")


def sheet(folder: Path) -> Path:
    """The page of a set of explanations."""
    data = page_data()
    strip = {
        "index": 0, "name": "a", "target": "Smiling", "status": "limits", "sentence": "Read the limits.",
        "outcome": "Three of four levels.", "original": data["original"], "frames": data["frames"],
        "channel_names": None, "tolerance": 0.02,
    }  # fmt: skip
    failed = {"index": 1, "name": "b", "kind": "ImageError", "sentence": "It is empty."}
    levels = [
        {"level": level, "walks": 2, "unreached": missed, "mean": level, "low": level - 0.01,
         "high": level + 0.02, "largest error": 0.02}
        for level, missed in ((0.1, 0), (0.9, 1))
    ]  # fmt: skip
    checked = {
        "verdict": {"status": "limits", "sentence": "Trust with limits."}, "walks": 2,
        "checks": [{"name": "calibration", "status": "limit", "sentence": "One is missed.",
                    "values": {"walks": 2}}],
        "closeness": "Codes are close.", "surrogate": [{"level": 0.9, "share": 0.8, "low": 0.5, "high": 1.0}],
        "statuses": {"identity": {"pass": 1, "limit": 1, "fail": 0, "info": 0}},
    }  # fmt: skip
    text = render_sheet(
        {
            "calibration": levels, "tolerance": 0.02, "checked": checked,
            "sentences": ["One of two."], "verdicts": {"trust": 0, "limits": 1, "distrust": 0}, "images": 2,
            "complete": True, "failed": [failed], "failed_count": 1, "explained": [strip],
            "explained_count": 1,
        }
    )  # fmt: skip
    path = folder / "sheet.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def axe() -> str:
    path = os.environ.get("AXE_CORE", "")
    if not Path(path).is_file():
        pytest.skip("AXE_CORE does not name an axe.min.js")
    return Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
@pytest.mark.parametrize("kind", ["audit", "explanation", "sheet"])
def test_axe_finds_nothing_serious(
    browser: Browser, page: Path, tmp_path: Path, axe: str, kind: str, width: int, dark: bool
) -> None:
    if kind == "explanation":
        page = write_page(page_data() | {"fidelity": replaced_pixels()}, tmp_path / "page.html")
    if kind == "sheet":
        page = sheet(tmp_path)
    browser.open(page, width=width, dark=dark)
    browser.run(OPEN_ALL)
    browser.run(axe)
    judged: dict[str, Any] = browser.run(
        "axe.run().then(result => ({violations: result.violations, passes: result.passes.map(p => p.id)}))"
    )
    serious = [
        (each["id"], node["html"][:200], node.get("failureSummary", "")[:300])
        for each in judged["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
    assert serious == []
    assert {"color-contrast", "image-alt", "heading-order"} <= set(judged["passes"])
