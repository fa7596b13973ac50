import numpy as np
import pandas as pd
import pytest

from explainer.errors import ImageError, OptionError
from explainer.report.training_figures import (
    history_figure,
    kl_figure,
    reconstruction_figure,
    training_page,
)

HISTORY = pd.DataFrame(
    {
        "phase": ["stage 1", "stage 1", "stage <2>"],
        "step": [0, 25, 0],
        "loss": [1.0, 0.5, 0.4],
        "reconstruction_nats": [100.0, -50.0, -60.0],
        "kl_nats": [9.0, 8.0, 7.0],
        "mse": [0.2, 0.1, 0.05],
        "latent_mse": [np.nan, np.nan, 0.9],
    }
)


def axis_of(figure, trace):
    return figure.layout[trace.yaxis.replace("y", "yaxis")]


def test_terms_are_drawn_by_phase_and_unit_and_only_errors_on_a_logarithmic_scale():
    figure = history_figure(HISTORY)
    drawn = {(trace.name, trace.xaxis): trace for trace in figure.data}
    assert len(figure.data) == 4 + 5
    first = {trace.name: trace for trace in figure.data if trace.y[0] == HISTORY.iloc[0][trace.name]}
    assert list(first["mse"].x) == [0, 25]
    assert list(first["mse"].y) == [0.2, 0.1]
    scales = {trace.name: axis_of(figure, trace).type for trace in figure.data}
    assert {name for name, scale in scales.items() if scale == "log"} == {"mse", "latent_mse"}
    assert first["mse"].yaxis != first["kl_nats"].yaxis != first["reconstruction_nats"].yaxis
    assert {"reconstruction, nats per image", "nats per image", "mean squared error"} <= {
        axis.title.text for axis in figure.select_yaxes()
    }
    assert [note.text for note in figure.layout.annotations] == ["stage 1", "stage &lt;2&gt;"]
    assert sum(trace.showlegend for trace in figure.data) == len({name for name, _ in drawn})


def test_a_history_without_rows_or_columns_is_refused():
    for history in (HISTORY[:0], HISTORY.drop(columns="phase"), pd.DataFrame()):
        with pytest.raises(OptionError, match="history: must have the columns phase and step, and rows"):
            history_figure(history)


def test_dimensions_are_ranked_and_the_used_ones_counted():
    figure = kl_figure([0.5, 0.001, 2.0])
    assert list(figure.data[0].y) == [2.0, 0.5, 0.001]
    assert list(figure.data[0].customdata) == [2, 0, 1]
    assert figure.layout.title.text == "2.5 nats in 3 dimensions, 2 of them used (above 0.01 nats)"
    assert len(set(figure.data[0].marker.color)) == 2
    with pytest.raises(OptionError, match="kl: must hold one number per dimension"):
        kl_figure([])


def test_every_stage_has_a_row_and_the_error_of_every_channel_over_all_images():
    images = np.full((10, 2, 16, 16), 0.5)
    worse = images.copy()
    worse[:5, 1] += 0.2  # half of the images: .04 / 2
    figure = reconstruction_figure(
        images, {"stage 1": images, "bare": worse}, channel_names=["DNA", "a<b"], most=2
    )
    assert len(figure.data) == 3
    assert [note.text for note in figure.layout.annotations] == [
        "originals",
        "stage 1: MSE 0 (channel DNA), 0 (channel a&lt;b)",
        "bare: MSE 0 (channel DNA), 0.02 (channel a&lt;b)",
    ]


def test_images_that_do_not_match_are_refused():
    with pytest.raises(ImageError, match=r"originals: must be images"):
        reconstruction_figure(np.zeros((3, 8, 8)), {})
    with pytest.raises(ImageError, match=r"reconstructions\['bare'\]: must have the shape of the originals"):
        reconstruction_figure(np.zeros((2, 1, 8, 8)), {"bare": np.zeros((2, 3, 8, 8))})


def test_the_page_is_one_file_with_one_copy_of_the_library_and_nothing_unescaped():
    figures = {"a < b": kl_figure([1.0]), "history": history_figure(HISTORY)}
    page = training_page("<script>x</script>", ["1 < 2"], figures)
    assert "<script>x</script>" not in page
    assert "<p>1 &lt; 2</p>" in page
    assert "<h2>a &lt; b</h2>" in page
    assert "<script src=" not in page
    assert "cdn.plot.ly" not in training_page("t", [], {"kl": kl_figure([1.0])}).split("plotly.js v")[0]
    assert page.count("plotly.js v") == 1
