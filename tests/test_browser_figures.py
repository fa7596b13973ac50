"""Figures of plotly in a real browser: the slider of a static page moves, and phones are not widened."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from test_figures import frames

from explainer.report.figures import difference_figure, slider_figure
from explainer.report.training_figures import training_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


def box(browser: Browser, selector: str) -> dict[str, float]:
    return browser.run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")


def test_the_slider_of_a_static_page_shows_another_frame(browser: Browser, tmp_path: Path) -> None:
    shown = frames()
    path = tmp_path / "slider.html"
    slider_figure(shown, original=shown[0]).write_html(path, include_plotlyjs=True)
    browser.open(path)
    assert browser.requests() <= {"file", "data", "blob"}
    second = "document.querySelector('.js-plotly-plot')._fullData[1].source"
    before = browser.run(second)
    rail = box(browser, ".slider-rail-touch-rect")
    place = {"x": rail["right"] - 4, "y": rail["y"] + rail["height"] / 2, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, **place)
    browser.run("new Promise(done => setTimeout(done, 400))")
    assert browser.run("document.querySelector('.slider-label').textContent") == (
        "asked 0.90, achieved 0.80, not reached"
    )
    assert browser.run(second) != before


def test_the_toolbar_does_not_lie_over_what_is_written(browser: Browser, tmp_path: Path) -> None:
    shown = frames()
    for name, figure, words in (
        ("slider", slider_figure(shown, original=shown[0]), ".annotation"),
        ("map", difference_figure(np.eye(4), name="a map with a rather long title"), ".gtitle"),
    ):
        path = tmp_path / f"{name}.html"
        figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": True})
        browser.open(path)
        assert box(browser, ".modebar-group")["bottom"] <= box(browser, words)["top"] + 1, name


def test_the_page_of_a_training_is_not_wider_than_a_phone(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "training.html"
    shown = frames()
    path.write_text(
        training_page("A model", ["It is healthy."], {"Frames": slider_figure(shown, original=shown[0])}),
        encoding="utf-8",
    )
    browser.open(path, width=390)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(
        "document.querySelector('.wide').scrollWidth > document.querySelector('.wide').clientWidth"
    )
