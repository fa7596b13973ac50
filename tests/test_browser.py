"""The page in a real browser: nothing is requested, nothing fails, everything can be used by keyboard."""

import copy
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from test_page import HOSTILE, hostile_data, page_data, replaced_pixels

from explainer.report import embed_page, render_explanation, write_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(page_data(), tmp_path_factory.mktemp("page") / "page.html")


def readout(browser: Browser) -> str:
    return browser.run("document.getElementById('readout').textContent")


def test_page_opens_without_a_request_or_a_complaint(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.complaints() == []
    assert browser.requests() == {"file", "data"}
    assert browser.run("document.images.length") >= 4 * 3
    assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")
    order = browser.run("Array.from(document.querySelectorAll('main h2'), h => h.textContent.trim())")
    assert order == [
        "Verdict: Trust with limits", "The walk, frame by frame", "Compare one frame with the original",
        "Difference of every frame from the original", "Which pixels it is about",
        "Does the classifier follow?", "What the generator alone can draw", "Checks", "What was assumed",
        "Provenance", "Definitions",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [360, 1200])
def test_the_curves_of_replaced_pixels_fit_the_page(browser: Browser, tmp_path: Path, width: int) -> None:
    path = write_page(page_data() | {"fidelity": replaced_pixels()}, tmp_path / "page.html")
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    browser.open(path)
    assert browser.complaints() == []  # the policy forbids nothing that is there
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    inside = "const box = document.querySelector('.plots').getBoundingClientRect();"
    inside += "Array.from(document.querySelectorAll('.plots svg'), each => each.getBoundingClientRect())"
    inside += ".every(each => each.left >= box.left - 1 && each.right <= box.right + 1 && each.width > 200)"
    assert browser.run(inside)
    table = "document.querySelector('.areas').parentElement"
    assert browser.run(f"{table}.scrollWidth <= {table}.clientWidth")
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_policy_stops_a_foreign_script_style_and_request(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    spoiled = page.read_text(encoding="utf-8").replace(
        "</main>",
        "<script>window.foreign = 1</script><img src=x onerror='window.foreign = 2'>"
        "<p id=painted style='color: rgb(1, 2, 3)'></p><img src='http://127.0.0.1:9/x.png'></main>",
    )
    file = tmp_path / "spoiled.html"
    file.write_text(spoiled, encoding="utf-8")
    browser.open(file)
    assert browser.run("window.foreign === undefined")
    assert browser.run("getComputedStyle(document.getElementById('painted')).color") != "rgb(1, 2, 3)"
    assert len(browser.complaints()) >= 3  # the policy speaks up: the other tests could not pass by silence


def test_slider_follows_the_arrow_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('slider').focus()")
    browser.press("Home", 36)
    assert readout(browser) == "Frame 1 of 4: asked 0.05, achieved 0.05."
    first = browser.run("document.querySelector('#stage-frame .visible img').src")
    browser.press("ArrowRight", 39)
    assert readout(browser) == "Frame 2 of 4: asked 0.35, achieved 0.36."
    assert browser.run("document.querySelector('#stage-frame .visible img').src") != first
    browser.press("End", 35)
    assert readout(browser) == "Frame 4 of 4: asked 0.95, achieved 0.83, not reached."
    assert browser.run("document.querySelectorAll('#stage-frame > .visible').length") == 1
    assert browser.run("document.querySelectorAll('#stage-change > .visible').length") == 1
    value = "document.getElementById('slider').getAttribute('aria-valuetext')"
    assert browser.run(value) == "Frame 4 of 4, asked 0.95, achieved 0.83, not reached"
    assert browser.run("document.querySelector('label[for=slider]').textContent") == "Frame"
    last = browser.run("document.querySelector('.strip li:last-child img').src")
    assert browser.run("document.querySelector('#stage-frame .visible img').src") == last


def test_keyboard_reaches_every_control_in_order(browser: Browser, page: Path) -> None:
    browser.open(page)
    visited = []
    for _ in range(8):
        browser.press("Tab", 9)
        visited.append(browser.run("document.activeElement.id || document.activeElement.className"))
    assert visited[:6] == ["skip", "pixels", "theme", "play", "slider", "blink"]


def test_play_runs_and_pauses(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('play').focus()")
    before = readout(browser)
    browser.press("Enter", 13)
    assert browser.run("document.getElementById('play').textContent") == "Pause"
    deadline = time.monotonic() + 20
    while readout(browser) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert readout(browser) != before
    browser.press("Enter", 13)
    assert browser.run("document.getElementById('play').textContent") == "Play"
    stopped = readout(browser)
    time.sleep(0.9)
    assert readout(browser) == stopped


def test_blink_shows_the_original_in_place(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('blink').click()")
    assert browser.run("document.getElementById('blink').getAttribute('aria-pressed')") == "true"
    shown = "document.querySelector('#stage-frame > .visible img').src"
    assert browser.run(f"{shown} === document.querySelector('#stage-original img').src")
    browser.run("document.getElementById('blink').click()")
    assert not browser.run(f"{shown} === document.querySelector('#stage-original img').src")


def test_theme_follows_the_system_and_the_button(browser: Browser, page: Path) -> None:
    surface = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, dark=True)
    browser.run("localStorage.clear()")
    browser.open(page, dark=True)
    dark = browser.run(surface)
    browser.open(page)
    light = browser.run(surface)
    assert (light, dark) == ("rgb(245, 246, 248)", "rgb(18, 21, 26)")
    for expected in (light, dark, light):
        browser.run("document.getElementById('theme').click()")
        assert browser.run(surface) == expected
    browser.open(page, dark=True)
    browser.run("document.getElementById('theme').click()")
    assert browser.run(surface) == light
    browser.open(page, dark=True)
    assert browser.run(surface) == light, "the choice is kept"
    browser.run("localStorage.clear()")


def test_exact_pixels(browser: Browser, page: Path) -> None:
    browser.open(page)
    rendering = "getComputedStyle(document.querySelector('.panel img')).imageRendering"
    assert browser.run(rendering) == "auto"
    browser.run("document.getElementById('pixels').click()")
    assert browser.run(rendering) == "pixelated"


@pytest.mark.parametrize("width", [1280, 700, 380])
@pytest.mark.parametrize("kind", ["plain", "channels", "hostile"])
def test_no_width_makes_the_page_scroll_sideways(
    browser: Browser, tmp_path: Path, width: int, kind: str
) -> None:
    data = {"plain": page_data(), "channels": page_data(channels=4), "hostile": hostile_data()}[kind]
    browser.open(write_page(data, tmp_path / "page.html"), width=width)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    narrow = "Array.from(document.querySelectorAll('.strip img'), i => i.getBoundingClientRect().width)"
    assert min(browser.run(narrow)) >= 127


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_page(hostile_data(), tmp_path / "hostile.html"))
    assert browser.complaints() == []
    assert browser.requests() == {"file", "data"}
    assert browser.run("window.hacked === undefined")
    assert browser.run("document.querySelectorAll('script').length") == 1
    kinds = "Array.from(new Set(Array.from(document.images, i => i.src.split(';')[0]))).sort()"
    assert browser.run(kinds) == ["data:image/png", "data:image/webp"]
    handlers = (
        "Array.from(document.querySelectorAll('*')).flatMap(e => Array.from(e.attributes, a => a.name))"
        ".filter(name => name.startsWith('on') || name === 'style')"
    )
    assert browser.run(handlers) == []
    text = browser.run("document.body.innerText")
    assert "{{7*7}}" in text
    assert "<img src=x onerror=" in text
    assert "\u202e" not in text
    assert browser.run("Array.from(document.links).length") == 1, "only the skip link"
    assert len(text) < 150_000, "ten kilobytes in every field are shortened"


@pytest.mark.parametrize("name", HOSTILE)
def test_each_hostile_title_is_shown_as_it_is(browser: Browser, tmp_path: Path, name: str) -> None:
    data = page_data()
    data["title"] = name
    browser.open(write_page(data, tmp_path / "page.html"))
    assert browser.complaints() == []
    shown = browser.run("document.querySelector('h1').textContent")
    assert shown == browser.run("document.title")
    visible = "".join(character if character.isprintable() else " " for character in name)
    expected = " ".join(visible.split())
    assert shown == (expected if len(expected) <= 120 else expected[:119] + "…")


def test_without_scripts_the_page_is_still_whole(browser: Browser, page: Path) -> None:
    browser.open(page, scripts=False)
    tree = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
    frames = browser.call("DOM.querySelectorAll", nodeId=tree, selector="ol.strip:not(.changes) img")[
        "nodeIds"
    ]
    assert len(frames) == 4
    hidden = browser.call("DOM.querySelector", nodeId=tree, selector="section[data-needs-script][hidden]")
    assert hidden["nodeId"] != 0


def test_print_shows_what_is_folded_up(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
    assert len(browser.call("Page.printToPDF", printBackground=True)["data"]) > 10_000


def test_one_frame_and_many_channels_work(browser: Browser, tmp_path: Path) -> None:
    data = page_data(channels=5)
    data["frames"] = data["frames"][:1]
    browser.open(write_page(data, tmp_path / "page.html"))
    browser.run("document.getElementById('play').click()")
    assert browser.run("document.querySelectorAll('#stage-frame > .visible img').length") == 5
    names = browser.run("Array.from(document.querySelectorAll('.original .channel'), e => e.textContent)")
    assert names == ["DNA", "actin", "golgi", "spots", "membrane"]
    assert browser.complaints() == []


def test_embedded_in_a_notebook_the_page_works(browser: Browser, tmp_path: Path) -> None:
    host = tmp_path / "notebook.html"
    host.write_text(f"<!doctype html><body>{embed_page(render_explanation(page_data()))}", encoding="utf-8")
    browser.open(host)
    assert browser.complaints() == []
    assert browser.requests() <= {"file", "data", "about"}
    # Sandboxed, it has no access to the notebook around it, nor the notebook to it.
    assert browser.run("document.querySelector('iframe').contentDocument === null")


def test_every_picture_and_control_has_a_name(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("Array.from(document.images).filter(i => !i.alt).length") == 0
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "image", "img", "region", "table", "list")
    unnamed = []
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role in roles[:5] and not node.get("name", {}).get("value"):
            unnamed.append(role)
    assert unnamed == []
    levels = browser.run("Array.from(document.querySelectorAll('h1, h2, h3'), h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    ids = browser.run("Array.from(document.querySelectorAll('[id]'), e => e.id)")
    assert len(ids) == len(set(ids))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two CSS colours (WCAG 2)."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[4:-1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("status", ["trust", "limits", "distrust"])
def test_text_stands_out_from_its_background(
    browser: Browser, tmp_path: Path, dark: bool, status: str
) -> None:
    data = copy.deepcopy(page_data())
    data["verdict"]["status"] = status
    browser.open(write_page(data, tmp_path / "page.html"), dark=dark)
    pairs = browser.run(
        "['.verdict', '.checks'].flatMap(root => {"
        "const box = document.querySelector(root).closest('section');"
        "return Array.from(box.querySelectorAll('h2, p, li, .status'), e =>"
        " [getComputedStyle(e).color, getComputedStyle(box).backgroundColor]); })"
    )
    assert len(pairs) >= 10
    assert min(contrast(*pair) for pair in pairs) >= 4.5
