"""The map of a code in a real browser: a lasso gives ids, and nothing leaves the page."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from toys import LinearGenerator, toy_images

from explainer.report.latent_map import latent_map, latent_page

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=hacked()>"
IDS = [HOSTILE, *(f"img-{row}" for row in range(1, 12))]


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    figure = latent_map(LinearGenerator(latent_dim=2), toy_images(12), ["a", "b"] * 6, ids=IDS)
    return latent_page(figure, tmp_path_factory.mktemp("map") / "map.html")


def drag(browser: Browser, corners: list[tuple[float, float]]) -> None:
    """Draw with the mouse through corners of the plotting area, in shares of it."""
    area = browser.run(
        "(() => { const r = document.querySelector('#map .nsewdrag').getBoundingClientRect();"
        " return [r.x, r.y, r.width, r.height]; })()"
    )
    places = [(area[0] + x * area[2], area[1] + y * area[3]) for x, y in corners]
    for number, (x, y) in enumerate(places):
        kinds = ["mouseMoved", "mousePressed"] if number == 0 else ["mouseMoved"]
        for kind in kinds:
            button = (
                {"button": "left", "buttons": 1, "clickCount": 1} if number or kind != "mouseMoved" else {}
            )
            browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
    browser.call(
        "Input.dispatchMouseEvent", type="mouseReleased", x=places[-1][0], y=places[-1][1], button="left",
        clickCount=1,
    )  # fmt: skip


def chosen(browser: Browser, count: int) -> list[str]:
    deadline = time.monotonic() + 10
    while True:
        found = json.loads(browser.run("document.getElementById('ids').value"))
        if len(found) == count or time.monotonic() > deadline:
            return list(found)
        time.sleep(0.05)


def test_a_lasso_gives_the_ids_and_pictures_of_what_is_inside(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("window.hacked = () => { window.wasHacked = true; }")
    assert browser.run("document.getElementById('ids').value") == "[]"
    edge = [(0.002, 0.002), (0.998, 0.002), (0.998, 0.998), (0.002, 0.998), (0.002, 0.01)]
    drag(browser, edge)
    assert sorted(chosen(browser, 12)) == sorted(IDS)
    titles = browser.run("Array.from(document.querySelectorAll('#chosen img'), each => each.title)")
    assert sorted(titles) == sorted(IDS)
    assert browser.run("window.wasHacked") is None
    assert not browser.complaints()
    assert browser.requests() == {"file", "data"}


def test_no_button_sends_the_images_anywhere(browser: Browser, page: Path) -> None:
    browser.open(page)
    titles = browser.run(
        "Array.from(document.querySelectorAll('#map .modebar-btn'), each => each.dataset.title)"
    )
    assert "Lasso Select" in titles
    assert not [title for title in titles if "Share" in title or "Cloud" in title or "Edit" in title]
