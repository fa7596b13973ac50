"""The page as text: complete, self-contained, escaped, and refused when a field is wrong."""

import base64
import copy
import hashlib
import html
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from explainer.errors import ImageError, OptionError, OutputError
from explainer.report import document, embed_page, render_explanation, write_page
from explainer.report.charts import level_chart, nice_ticks
from explainer.report.output import write_file
from explainer.report.panels import image_panels

HOSTILE = [
    '<img src=x onerror="window.hacked = 1">',
    "</script><script>window.hacked = 2</script>",
    "</style></title></textarea><svg onload=window.hacked=3>",
    "{{7*7}} {% for x in range(9) %}x{% endfor %} ${7*7}",
    '" onmouseover="window.hacked=4" x=\'',
    "javascript:window.hacked=5",
    "\u202eevil\u202c שלום \u2066x\u2069",
    "one\ntwo\r\nthree\ttab\x00nul\x1b[31m",
    "long " + "x" * 10_000,
    "-->]]><!--<![CDATA[",
]
NAMES = ["DNA", "actin", "golgi", "spots", "membrane"]


def page_data(channels: int = 3, size: int = 16) -> dict[str, Any]:
    """A small explanation: four frames, of which the last did not reach its level."""
    rng = np.random.default_rng(0)
    image = rng.random((channels, size, size)).astype(np.float32)
    asked, achieved = [0.05, 0.35, 0.65, 0.95], [0.05, 0.36, 0.65, 0.83]
    frames = [
        {
            "image": np.clip(image + 0.2 * (level - 0.5), 0, 1),
            "level": level,
            "achieved": got,
            "score": float(np.log(got / (1 - got))),
            "reached": abs(level - got) <= 0.02,
            "reason": "" if abs(level - got) <= 0.02 else "the gradient vanished at 0.83",
        }
        for level, got in zip(asked, achieved, strict=True)
    ]
    return {
        "title": "Explanation of a test",
        "package_version": "0.1.0",
        "verdict": {"status": "limits", "sentence": "Read the limits.", "reasons": ["One level is missing."]},
        "target": {"label": "Smiling", "from_name": "Serious"},
        "level_word": "probability of Smiling",
        "original": {"image": image, "level": 0.4, "class_name": "Serious"},
        "bare": {"image": 0.9 * image, "level": 0.42, "class_name": "Smiling"},
        "frames": frames,
        "saliency": [
            {"name": "Difference", "map": rng.random((size, size)), "signed": False, "caption": "Change."},
            {
                "name": "Gradient",
                "map": rng.normal(size=(size, size)),
                "signed": True,
                "caption": "Slope.",
                "unit": "score per pixel",
            },
        ],
        "checks": [
            {"name": "Consistency", "status": "pass", "sentence": "It fits.", "values": {"SSIM": 0.7}},
            {"name": "Compatibility", "status": "limit", "sentence": "Nearly.", "values": {"error": 0.12}},
            {"name": "Realism", "status": "fail", "sentence": "It does not.", "values": {"distance": 9}},
            {"name": "Cosine", "status": "info", "sentence": "It is high.", "values": {}},
        ],
        "assumptions": ["Images are resized to 64 × 64 pixels."],
        "provenance": {"seed": 0, "versions": {"torch": "2.13.0"}, "levels": [0.05, 0.35], "none": None},
        "channel_names": None if channels in (1, 3) else NAMES[:channels],
        "walk_sentence": "Three of four levels were reached.",
    }


def hostile_data(channels: int = 4) -> dict[str, Any]:
    """The same, with all hostile strings in every field that takes a string."""
    everything = " ".join(HOSTILE)
    data = page_data(channels)

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            spoiled = {name: spoil(item, name) for name, item in value.items()}
            if key in ("values", "provenance", "versions"):
                spoiled |= {f"{text} {index}": text for index, text in enumerate(HOSTILE)}
            return spoiled
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return everything if isinstance(value, str) and key != "status" else value

    data = spoil(data)
    data["channel_names"] = HOSTILE[:channels]
    data["verdict"]["reasons"] = list(HOSTILE)
    data["assumptions"] = list(HOSTILE)
    return data


class Outline(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def rendered() -> str:
    return render_explanation(page_data())


def text_of(rendered: str) -> str:
    return " ".join(Outline(rendered).text.split())


def test_verdict_comes_first_as_icon_word_and_sentence(rendered: str) -> None:
    main = rendered.index("<main")
    assert (
        main
        < rendered.index("Trust with limits")
        < rendered.index("Read the limits.")
        < rendered.index("One level is missing.")
        < rendered.index("The walk, frame by frame")
    )
    assert rendered.index('<svg class="icon"', main) < rendered.index("Trust with limits")


@pytest.mark.parametrize(
    ("status", "word"),
    [("trust", "Trust"), ("limits", "Trust with limits"), ("distrust", "Do not trust")],
)
def test_each_verdict_has_its_word(status: str, word: str) -> None:
    data = page_data()
    data["verdict"]["status"] = status
    text = render_explanation(data)
    assert f'<section class="verdict {status}"' in text
    assert f"Verdict: </span>{word}</h2>" in text


def test_every_fact_is_written_out(rendered: str) -> None:
    text = text_of(rendered)
    for expected in (
        "asked 0.35 achieved 0.36",
        "Not reached the gradient vanished at 0.83",
        "3 of 4",
        "class Serious",
        "away from Serious",
        "The class differs: Serious on the original, Smiling on the bare reconstruction.",
        "score per pixel",
        "in shares of the full range",
        "Passed Consistency",
        "Limited Compatibility",
        "Failed Realism",
        "For information Cosine",
        "SSIM 0.7",
        "Images are resized to 64 × 64 pixels.",
        "torch 2.13.0",
        "levels 0.05, 0.35",
        "4 0.95 0.83 −0.120 +1.586 ✕ not reached",
        "Three of four levels were reached.",
        "progressive-explainer 0.1.0",
    ):
        assert expected in text, expected


def test_only_missed_frames_are_marked_as_missed(rendered: str) -> None:
    assert rendered.count('class="frame missed"') == 1
    assert rendered.count('class="frame reached"') == 3
    assert rendered.count('<path class="miss"') == 1
    assert rendered.count('<circle class="hit"') == 3


def test_nothing_in_the_page_points_outside(rendered: str) -> None:
    outline = Outline(rendered)
    for tag, attributes in outline.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attributes.get(name)
            if value is not None:
                assert value.startswith(("data:image/", "#")), (tag, value[:80])
        assert "style" not in attributes
    assert not re.search(r"url\((?!#)|@import|https?://", rendered.split("</style>")[0])
    assert "http-equiv" in rendered


def test_policy_allows_only_the_style_and_script_it_holds(rendered: str) -> None:
    outline = Outline(rendered)
    policy = next(a["content"] for t, a in outline.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        bodies = re.findall(f"<{tag}>(.*?)</{tag}>", rendered, flags=re.DOTALL)
        assert len(bodies) == 1
        digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_small_pictures_are_stored_without_loss(rendered: str) -> None:
    data = page_data()
    frame = data["frames"][1]["image"]
    source = next(
        attributes["src"]
        for tag, attributes in Outline(rendered).tags
        if tag == "img" and (attributes["alt"] or "").startswith("Frame 2 of 4")
    )
    assert source is not None
    stored = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))
    assert_array_equal(stored, image_panels(frame)[0].pixels)


def test_large_pictures_are_shrunk_and_the_page_says_so() -> None:
    data = page_data()
    large = np.zeros((3, 600, 900), dtype=np.float32)
    data["frames"] = [{**data["frames"][0], "image": large}]
    data["original"]["image"] = data["bare"]["image"] = large
    rendered = render_explanation(data)
    assert "Pictures are 600 × 900 pixels and shown here with the longer side at 512." in text_of(rendered)
    assert 'width="512" height="341"' in rendered
    assert "Laid over the original" not in rendered, "a map of another size cannot be laid over it"


def test_size_stays_far_below_a_plotting_library() -> None:
    data = page_data(size=64)
    data["frames"] = [data["frames"][index % 4] for index in range(10)]
    assert len(render_explanation(data)) < 1_000_000  # noise: the worst that can be compressed


def test_same_data_give_the_same_page_and_stay_unchanged() -> None:
    data = page_data()
    before = copy.deepcopy(data)
    assert render_explanation(data) == render_explanation(data)
    assert_array_equal(data["original"]["image"], before["original"]["image"])
    assert data.keys() == before.keys()
    assert data["checks"] == before["checks"]


def test_channels_with_names_get_a_panel_each_and_dim_ones_say_their_range() -> None:
    data = page_data(channels=4)
    for part in (data["original"], data["bare"], *data["frames"]):
        part["image"] = np.asarray(part["image"]) * np.array([1, 0.004, 1, 1])[:, None, None]
    rendered = render_explanation(data)
    text = text_of(rendered)
    assert rendered.count("Frame 1 of 4: asked 0.05, achieved 0.05, actin") == 1
    assert "Dim channels are brightened alike in every picture; black to white is actin 0" in text
    assert "in shares of the displayed range" in text
    assert "golgi 0 to" not in text


def test_dim_channel_shows_its_change() -> None:
    """A change that fills a dim channel's own range must not fade beside a bright channel."""
    data = page_data(channels=4)
    dim = np.zeros((4, 8, 8), dtype=np.float32)
    dim[1, :4] = 0.004
    data["original"]["image"] = data["bare"]["image"] = dim
    changed = dim.copy()
    changed[1] = 0.004 - dim[1]
    data["frames"] = [{**data["frames"][0], "image": changed}]
    data["saliency"] = []
    rendered = render_explanation(data)
    assert "−1" in text_of(rendered)
    source = next(
        attributes["src"]
        for tag, attributes in Outline(rendered).tags
        if tag == "img" and attributes["alt"] == "Difference of frame 1 from the original, actin"
    )
    assert source is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))
    assert pixels[0, 0].tolist() == [0, 74, 144]  # darker: the blue end
    assert pixels[7, 0].tolist() == [129, 42, 0]  # brighter: the orange end


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_hostile_strings_are_escaped_in_every_field(channels: int) -> None:
    rendered = render_explanation(hostile_data(channels))
    outline = Outline(rendered)
    assert sum(tag == "script" for tag, _ in outline.tags) == 1
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    known = set(
        "html head meta title style body a header div h1 h2 h3 bdi p button span main section svg circle "
        "path rect ul ol li dl dt dd figure figcaption img label input noscript details summary desc text "
        "clippath polygon table caption thead tbody tr th td strong footer script".split()
    )
    assert {tag for tag, _ in outline.tags} <= known
    assert "49" not in re.findall(r"\{\{7\*7\}\}|49", outline.text)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", rendered)
    assert "x" * 1300 not in rendered


def test_lone_surrogates_can_be_written(tmp_path: Path) -> None:
    data = page_data()
    data["title"] = "a\ud800b"
    assert "a\ufffdb" in write_page(data, tmp_path / "page.html").read_text(encoding="utf-8")


def test_numbers_that_are_not_finite_are_shown_in_words() -> None:
    data = page_data()
    data["frames"][0] |= {
        "achieved": float("nan"),
        "score": float("nan"),
        "reached": False,
        "reason": "no level",
    }
    data["original"]["level"] = float("nan")
    data["saliency"][0]["map"][3, 3] = np.nan
    data["checks"][0]["values"] = {"SSIM": float("nan"), "kept": np.bool_(True), "count": np.int64(3)}
    text = text_of(render_explanation(data))
    assert "achieved not a number" in text
    assert "SSIM not a number" in text
    assert "kept yes" in text
    assert "count 3" in text
    assert "nan" not in text.lower().split()


def test_regression_levels_have_their_own_scale() -> None:
    data = page_data()
    for frame, level in zip(data["frames"], (-40.0, 0.0, 120.0, 1000.0), strict=True):
        frame |= {"level": level, "achieved": level, "score": level, "reached": True}
    data["original"]["level"], data["bare"]["level"], data["tolerance"] = 3.25, 3.5, 14.0
    rendered = render_explanation(data)
    assert "asked 1000 achieved 1000" in text_of(rendered)
    assert "±14 counts as reached" in text_of(rendered)


def test_without_tolerance_there_is_no_band() -> None:
    data = page_data()
    assert 'class="band"' in render_explanation(data)
    data["tolerance"] = None
    assert 'class="band"' not in render_explanation(data)


def test_empty_lists_leave_no_empty_sections() -> None:
    data = page_data()
    data["saliency"], data["checks"], data["assumptions"], data["provenance"] = [], [], [], {}
    data["verdict"]["reasons"] = []
    data["target"]["from_name"] = None
    text = text_of(render_explanation(data))
    assert "Which pixels it is about" not in text
    assert "Nothing beyond the values given." in text


def test_slider_starts_on_the_reached_frame_farthest_from_the_original(rendered: str) -> None:
    assert 'data-selected="0"' in rendered
    data = page_data()
    data["original"]["level"] = 0.05
    assert 'data-selected="2"' in render_explanation(data), "the last frame did not reach its level"


def test_wrong_data_are_named() -> None:
    data = page_data()
    del data["checks"]
    with pytest.raises(OptionError, match=r"^data: lacks checks \(received .*\). Pass every field.$"):
        render_explanation(data)
    data = page_data()
    data["verdict"]["status"] = "good"
    with pytest.raises(OptionError, match=r"verdict: must have one of the statuses trust, limits, distrust"):
        render_explanation(data)
    data = page_data()
    data["checks"][0]["status"] = "ok"
    with pytest.raises(OptionError, match=r"checks: must have one of the statuses .*received ok"):
        render_explanation(data)
    data = page_data()
    data["frames"] = []
    with pytest.raises(OptionError, match="frames: must hold at least one frame"):
        render_explanation(data)
    data = page_data()
    data["frames"][0]["image"] = np.zeros((16, 16))
    with pytest.raises(ImageError, match=r"must have shape \(channels, height, width\)"):
        render_explanation(data)
    data = page_data()
    data["channel_names"] = ["one"]
    with pytest.raises(ImageError, match="channel_names: must name every one of the 3 channels"):
        render_explanation(data)


def test_a_name_missing_in_a_template_is_an_error() -> None:
    values = {**page_data(), "policy": ""}
    with pytest.raises(jinja2.UndefinedError):
        document._environment().from_string("{{ verdict.nothing }}").render(values)


def test_page_is_written_whole(tmp_path: Path, rendered: str) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    assert write_page(page_data(), path) == path
    assert path.read_text(encoding="utf-8") == rendered
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^path: is a folder \(received .*\). Add a file name to it.$"):
        write_file(tmp_path, b"")
    with pytest.raises(OutputError, match=r"which is not a folder .*Create the folder first"):
        write_file(tmp_path / "missing" / "page.html", b"")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="which is not a folder"):
        write_file(tmp_path / "file" / "page.html", b"")
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        write_file(tmp_path / ("x" * 300), b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"cannot be written: No space left on device .*free space"):
        write_file(path, b"new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_embedded_page_is_one_attribute(rendered: str) -> None:
    frame = embed_page(rendered)
    outline = Outline(frame)
    assert [tag for tag, _ in outline.tags] == ["iframe"]
    attributes = outline.tags[0][1]
    assert attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == rendered
    assert html.unescape(frame.split('srcdoc="')[1].split('"')[0]) == rendered


def test_chart_places_are_exact() -> None:
    chart = level_chart([0.0, 0.5], [0.5, float("nan")], [True, False], original=0.25, tolerance=0.1)
    left, top, right, bottom = chart.frame
    assert (chart.markers[0].x, chart.markers[0].y) == (left, (top + bottom) / 2)
    assert len(chart.markers) == 1, "a level that is not a number has no place"
    assert chart.original == pytest.approx(bottom - (bottom - top) / 4, abs=0.01)
    assert chart.identity == (left, bottom, right, top)
    assert [label for _, _, label in chart.ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_chart_of_equal_levels_has_a_scale() -> None:
    chart = level_chart([7.0], [7.0], [True], original=7.0, tolerance=None)
    assert chart.band is None
    assert 0 < chart.markers[0].x < chart.size
    assert [float(label) for _, _, label in chart.ticks] == nice_ticks(6, 8)


def replaced_pixels() -> dict[str, Any]:
    """What replacing pixels did: one map and one control, in two steps."""
    rows = [("a map", False, 0.2), ("<b>random</b>", True, 0.6)]
    curves = pd.DataFrame(
        [
            {"method": name, "control": control, "order": order, "fraction": fraction, "measure": measure,
             "value": 1 - fraction, "low": np.nan, "high": np.nan}
            for name, control, _ in rows
            for order in ("most", "least")
            for measure in ("probability", "class kept")
            for fraction in (0.0, 0.5, 1.0)
        ]
    )  # fmt: skip
    return {
        "curves": curves,
        "rows": [{"method": name, "control": c, "area": area, "gain": -0.1} for name, c, area in rows],
        "sentences": ["Accuracy <is> missing."],
        "filler": "blur", "unit": "pixels", "steps": 2, "draws": 1, "images": 1, "class_name": "Serious",
    }  # fmt: skip


def test_replaced_pixels_are_drawn_and_listed_and_nothing_in_them_is_markup() -> None:
    text = render_explanation(page_data() | {"fidelity": replaced_pixels()})
    section = text[text.index('aria-labelledby="fidelity"') :].partition("</section>")[0]
    assert section.count('role="img"') == 4
    assert "probability, least relevant first" in section
    assert "<b>" not in section
    assert "&lt;b&gt;random&lt;/b&gt;" in section
    assert "Accuracy &lt;is&gt; missing." in section
    assert "0.200" in section
    assert "−0.100" in section
    assert " style=" not in section  # the policy forbids it
    assert 'aria-labelledby="fidelity"' not in render_explanation(page_data())


def test_what_is_wrong_comes_first_among_the_checks() -> None:
    data = page_data()
    given = copy.deepcopy(data["checks"])
    text = render_explanation(data)
    checks = text[text.index('<ul class="checks">') :].partition("</section>")[0]
    assert re.findall(r'<li class="(\w+)">', checks) == ["fail", "limit", "pass", "info"]
    counts = text[text.index('class="counts"') :].partition("</p>")[0]
    said = re.findall(r"\d [a-z ]+", re.sub(r"<svg.*?</svg>", "", counts, flags=re.S))
    assert [word.strip() for word in said] == ["1 failed", "1 limited", "1 passed", "1 for information"]
    assert data["checks"] == given
