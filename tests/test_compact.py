"""What a notebook shows by itself: short, escaped, without script, and true to what was found."""

import re

import numpy as np
import pytest

from explainer.report.compact import (
    HEIGHT,
    MOST_FRAMES,
    VERDICTS,
    compact_explanation,
    compact_table,
    compact_verdict,
)

HOSTILE = "<script>alert('x')</script>"


def page(channels: int = 1, levels: int = 10, **changes: object) -> dict:
    """The plain data of a page, as an explanation gives it."""
    pixels = np.linspace(0, 1, channels * 32 * 24, dtype=np.float32).reshape(channels, 32, 24)
    frames = [
        {"image": pixels, "level": level, "achieved": level, "reached": level < 0.9}
        for level in np.linspace(0.05, 0.95, levels)
    ]
    return {
        "verdict": {
            "status": "limits",
            "sentence": "Trust with limits.",
            "reasons": ["stability: half survive"],
        },
        "target": {"label": "smiling"},
        "original": {"image": pixels, "level": 0.4},
        "frames": frames,
        "saliency": [
            {"name": "difference", "map": pixels[0] - 0.5, "signed": True},
            {"name": "other", "map": pixels[0], "signed": False},
        ],
        "channel_names": None,
        "tolerance": 0.02,
        "walk_sentence": "9 of 10 levels were reached.",
        **changes,
    }


def test_original_some_frames_and_the_first_map_are_shown() -> None:
    shown = compact_explanation(page())
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", shown)
    assert len(captions) == 1 + MOST_FRAMES + 1
    assert captions[0] == "original 0.40"
    assert captions[1] == "level 0.05"
    assert captions[-2] == "✕ 0.95, not reached"
    assert captions[-1] == "map: difference"
    assert set(re.findall(r' height="(\d+)"', shown)) == {str(HEIGHT)}
    assert "trust with limits" in shown
    assert "stability: half survive" in shown


@pytest.mark.parametrize(("channels", "names"), [(3, None), (3, ("a", "b", "c")), (5, None)])
def test_any_number_of_channels(channels: int, names: tuple[str, ...] | None) -> None:
    shown = compact_explanation(page(channels, channel_names=names))
    widths = {int(width) for width in re.findall(r' width="(\d+)"', shown)}
    assert (max(widths) > HEIGHT) == (names is not None or channels == 5)  # panels side by side


def test_few_frames_and_no_map() -> None:
    shown = compact_explanation(page(levels=2, saliency=[]))
    assert shown.count("<figcaption>") == 3


def test_nothing_runs_and_nothing_is_fetched() -> None:
    shown = compact_explanation(
        page(target={"label": HOSTILE}, walk_sentence=HOSTILE,
             verdict={"status": "distrust", "sentence": HOSTILE, "reasons": [HOSTILE]})
    )  # fmt: skip
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 4
    assert set(re.findall(r'src="(\w+):', shown)) == {"data"}


def test_a_flat_map_is_no_division_by_zero() -> None:
    flat = {"name": "flat", "map": np.zeros((32, 24)), "signed": False}
    assert "map: flat" in compact_explanation(page(saliency=[flat]))


@pytest.mark.parametrize("status", list(VERDICTS))
def test_a_verdict_has_a_sign_a_word_and_a_colour(status: str) -> None:
    shown = compact_verdict(status)
    assert re.fullmatch(r'<b style="color:#\w{6}">\S [\w ]+</b>', shown)


def test_a_table_escapes_its_heads() -> None:
    assert "&lt;b&gt;" in compact_table(["<b>", "why"], [["1", "2"]])
    assert compact_table(["a"], [["1"], ["2"]]).count("<tr>") == 3
