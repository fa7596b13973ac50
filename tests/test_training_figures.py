import numpy as np
import pandas as pd
import pytest

from explainer.errors import ImageError, OptionError
from explainer.report.training_figures import (
    history_figure,
    kl_figure,
    reconstruction_figure,
    sample_figure,
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
    assert {"reconstruction, nats per image", "KL divergence, nats per image", "mean squared error"} <= {
        axis.title.text for axis in figure.select_yaxes()
    }
    assert [note.text for note in figure.layout.annotations] == ["stage 1", "stage &lt;2&gt;"]
    only_second = next(trace for trace in figure.data if trace.name == "latent_mse")
    assert axis_of(figure, only_second).title.text == "squared error of latents"
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
    assert len(figure.data) == 6
    assert [note.text for note in figure.layout.annotations] == [
        "DNA, originals",
        "DNA, stage 1: MSE 0",
        "DNA, bare: MSE 0",
        "a&lt;b, originals",
        "a&lt;b, stage 1: MSE 0",
        "a&lt;b, bare: MSE 0.02",
    ]


def test_colour_images_have_one_row_per_stage_with_the_error_of_every_colour():
    images = np.full((2, 3, 16, 16), 0.5)
    redder = images.copy()
    redder[:, 0] += 0.1
    figure = reconstruction_figure(images, {"bare": redder})
    assert [note.text for note in figure.layout.annotations] == [
        "originals",
        "bare: MSE 0.01 (red), 0 (green), 0 (blue)",
    ]


def test_samples_have_a_row_or_one_for_every_channel():
    assert len(sample_figure(np.zeros((4, 3, 8, 8))).data) == 1
    named = sample_figure(np.zeros((4, 3, 8, 8)), channel_names=["a", "<b>", "c"])
    assert [note.text for note in named.layout.annotations] == ["a", "&lt;b&gt;", "c"]
    with pytest.raises(ImageError, match="samples: must be images"):
        sample_figure(np.zeros((0, 3, 8, 8)))


def test_every_term_has_the_axis_of_its_unit_and_channels_their_names():
    history = pd.DataFrame(
        {
            "phase": ["vae"], "step": [0], "kl_nats": [9.0], "kl_largest_nats": [3.0],
            "kl_median_nats": [1.0], "mutual_information_nats": [2.0], "active_units": [4.0],
            "mse": [0.1], "mse_channel_1": [0.2], "l1": [0.1], "mmd": [0.1], "features_mse": [0.3],
        }
    )  # fmt: skip
    figure = history_figure(history, channel_names=["DNA", "actin"])
    axes = {trace.name: axis_of(figure, trace).title.text for trace in figure.data}
    assert axes["kl_largest_nats"] == axes["kl_median_nats"] == "KL, nats per dimension"
    assert axes["kl_nats"] == "KL divergence, nats per image"
    assert axes["mutual_information_nats"] == "information I(x; z), nats"
    assert axes["mse of actin"] == axes["mse"] == "mean squared error"
    assert len(set(axes.values())) == 8
    assert "mse of channel 1" in {trace.name for trace in history_figure(history).data}


def test_the_bound_on_held_out_images_has_an_axis_of_its_own_and_the_best_is_marked():
    history = pd.DataFrame(
        {
            "phase": ["a", "a", "a", "a", "b", "b"],
            "step": [0, 10, 20, 30, 0, 9],
            "reconstruction_nats": [5.0, np.nan, np.nan, np.nan, 1.0, np.nan],
            "held_out_nats": [np.nan, 7.0, 4.0, 6.0, np.nan, np.inf],
            "held_out_reconstruction_nats": [np.nan, 6.0, 3.0, 5.0, np.nan, 2.0],
        }
    )
    figure = history_figure(history)
    axes = {trace.name: axis_of(figure, trace).title.text for trace in figure.data if trace.x[0] != 9}
    assert axes["held_out_nats"] == axes["state that is kept"] == "bound on held-out images, nats per image"
    held_out = next(trace for trace in figure.data if trace.name == "held_out_reconstruction_nats")
    training = next(trace for trace in figure.data if trace.name == "reconstruction_nats")
    assert held_out.yaxis == training.yaxis
    assert (held_out.mode, training.mode) == ("lines+markers", "lines")
    marks = [trace for trace in figure.data if trace.name == "state that is kept"]
    assert [(list(mark.x), list(mark.y)) for mark in marks] == [([20], [4.0])]


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
