"""Figures of saliency and fidelity: what is drawn, with which scale, and that names cannot become markup."""

import sys
import types

import numpy as np
import pandas as pd
import pytest

from explainer.errors import DependencyError, OptionError
from explainer.report.fidelity_chart import fidelity_svg
from explainer.report.fidelity_figures import (
    channels_figure,
    curves_figure,
    fidelity_page,
    overlay_figure,
    ranking_figure,
    write_figure,
)

NAMES = {"difference": False, "<i>other</i>": False, "random order": True}


def curves(measures=("probability", "accuracy", "information about the label"), bands=True) -> pd.DataFrame:
    rows = []
    for name, control in NAMES.items():
        for measure in measures:
            for order in ("most", "least"):
                for fraction in (0.0, 0.5, 1.0):
                    value = 0.5 * (1 - fraction)
                    spread = 0.1 if bands else np.nan
                    rows.append(
                        (name, control, order, fraction, measure, value, value - spread, value + spread)
                    )
    columns = ["method", "control", "order", "fraction", "measure", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def test_curves_have_a_line_per_method_and_bands_where_there_are_intervals() -> None:
    figure = curves_figure(curves(), chance=0.4)
    lines = [trace for trace in figure.data if trace.fill is None]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(lines) == 3 * 3 * 2 + 2  # and the line of chance in both plots of accuracy
    assert len(bands) == 2 * 3 * 2  # the first method and the control
    assert sum(bool(trace.showlegend) for trace in lines) == len(NAMES) + 1
    assert [note.text for note in figure.layout.annotations] == [
        "most relevant first",
        "least relevant first",
    ]
    assert figure.layout.yaxis.range == (0, 1.02)
    assert figure.layout.yaxis5.range == pytest.approx((0, 1.05 * 0.6))
    assert not any("<i>" in (trace.name or "") for trace in lines)
    assert not [trace for trace in curves_figure(curves(bands=False)).data if trace.fill == "toself"]
    with pytest.raises(OptionError, match="curves: must hold curves"):
        curves_figure(curves().head(0))


def test_ranking_puts_the_best_on_top() -> None:
    areas = pd.DataFrame(
        {
            "measure": ["probability"] * 3 + ["symmetric relevance gain"] * 3, "method": list("abc") * 2,
            "area": [0.2, 0.6, 0.4] * 2, "low": [0.1, 0.5, 0.3] * 2, "high": [0.3, 0.7, 0.5] * 2,
        }
    )  # fmt: skip
    figure = ranking_figure(areas, ["c"], {"probability": True, "symmetric relevance gain": False})
    assert list(figure.data[0].y) == ["b", "c", "a"]  # plotly draws from below
    assert list(figure.data[1].y) == ["a", "c", "b"]
    assert list(figure.data[0].marker.color) == ["#1f6fb2", "#ffffff", "#1f6fb2"] or (
        figure.data[0].marker.color[1] == "#ffffff"
    )
    assert np.allclose(figure.data[0].error_x.array, 0.1)
    bare = ranking_figure(areas.assign(low=np.nan), [], {"probability": True})
    assert bare.data[0].error_x.array is None


def test_overlays_and_channels() -> None:
    image = np.linspace(0, 1, 3 * 16 * 16).reshape(3, 16, 16)
    signed, unsigned = np.linspace(-1, 1, 256).reshape(16, 16), np.eye(16)
    figure = overlay_figure(image, {"a": (signed, True), "b": (unsigned, False)})
    pictures = [trace for trace in figure.data if trace.type == "image"]
    bars = [trace.marker.colorbar.title.text for trace in figure.data if trace.type == "scatter"]
    assert len(pictures) == 3
    assert [note.text for note in figure.layout.annotations] == ["image", "a ±", "b"]
    assert bars == ["unsigned: none to most", "signed ±: against to for"]
    named = channels_figure(image, {"b": (np.stack([unsigned] * 3), False)}, channel_names=["x", "y", "z"])
    assert [note.text for note in named.layout.annotations][3:] == ["b, x", "b, y", "b, z"]
    assert channels_figure(image[:1], {"b": (unsigned[None], False)}).layout.annotations[0].text == "image, 1"
    with pytest.raises(OptionError, match="maps: a must have the size of the image"):
        overlay_figure(image, {"a": (signed[:4], True)})
    with pytest.raises(OptionError, match="maps: a must have the shape of the image"):
        channels_figure(image, {"a": (signed, True)})
    with pytest.raises(OptionError, match="maps: must hold at least one map"):
        overlay_figure(image, {})


def test_the_small_chart_is_svg_with_safe_names() -> None:
    chart = fidelity_svg(curves())
    assert chart.startswith("<svg")
    assert chart.count("<polyline") == 3 * 2  # only probability of the default measures is there
    assert chart.count("<polygon") == 2
    assert "<i>" not in chart
    assert "nan" not in fidelity_svg(curves(bands=False))
    many = pd.concat([curves(bands=False).assign(method=f"m{k}", control=False) for k in range(12)])
    assert fidelity_svg(many).count("stroke-dasharray") == 2 * (2 + 1)


def test_figures_are_written_as_html_or_png(tmp_path, monkeypatch) -> None:
    figure = curves_figure(curves())
    page = write_figure(figure, tmp_path / "curves.html").read_text()
    assert "plotly" in page
    assert 'src="http' not in page
    with pytest.raises(OptionError, match=r"path: must end in .html or .png"):
        write_figure(figure, tmp_path / "curves.svg")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(DependencyError, match="path: needs kaleido"):
        write_figure(figure, tmp_path / "curves.png")
    monkeypatch.setitem(sys.modules, "kaleido", types.ModuleType("kaleido"))
    monkeypatch.setattr(type(figure), "to_image", lambda self, **options: b"\x89PNG")
    assert write_figure(figure, tmp_path / "curves.png").read_bytes() == b"\x89PNG"


def test_the_page_holds_everything_and_escapes(tmp_path) -> None:
    table = pd.DataFrame({"method": ["<b>"], "area": [0.12345]})
    path = fidelity_page([curves_figure(curves())], {"<u>": table}, ["a < b"], tmp_path / "page.html")
    text = path.read_text()
    assert "Ranking by &lt;u&gt;" in text
    assert "a &lt; b" in text
    assert "&lt;b&gt;" in text
    assert "0.123" in text
    assert "<b>" not in text[text.index("<table") :]
