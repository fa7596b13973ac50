"""The commands train and health: end to end, stopped and continued, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from test_training import blobs

from explainer import cli
from explainer.errors import OptionError, OutputError, TrainingError
from explainer.generators import VAE, load_generator
from explainer.generators.health import Health
from explainer.training_run import Settings, checkpoints_of, health_as_dict, prepare, train

QUICK = ("--size", "16", "--latent-dim", "4", "--kind", "vae")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred blobs of 16 x 16 pixels as PNG files."""
    folder = tmp_path_factory.mktemp("blobs")
    for number, image in enumerate(blobs(100)):
        pixels = (255 * image[0].numpy()).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def ends_with(*words: object) -> int:
    with pytest.raises(SystemExit) as ending:
        cli.main([str(word) for word in words])
    return int(ending.value.code or 0)


def test_train_and_health_end_to_end(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "model"
    code = ends_with("train", "--data", folder, "--out", out, *QUICK, "--steps", "40", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert code == (printed["health"]["status"] == "collapsed")
    assert printed["folder"] == str(out)
    assert printed["images"] == 95
    assert printed["health"]["images"] == 5
    assert {path.name for path in out.iterdir()} == {
        "card.json",
        "generator.safetensors",
        "history.csv",
        "training.html",
    }
    assert os.listdir(tmp_path) == ["model"]
    history = pd.read_csv(out / "history.csv")
    assert history.dropna(subset="loss")["step"].tolist() == [0, 25]
    page = (out / "training.html").read_text(encoding="utf-8")
    assert "Training of model" in page
    assert "<script src=" not in page
    generator = load_generator(out)
    assert (generator.shape, generator.latent_dim) == ((1, 16, 16), 4)

    code = ends_with("health", out, "--data", folder, "--json", "--most", "50")
    measured = json.loads(capsys.readouterr().out)
    assert measured["images"] == 50
    assert len(measured["kl"]) == 4
    assert code == (measured["status"] == "collapsed")
    ends_with("health", out, "--data", folder)
    table = capsys.readouterr().out
    assert all(word in table for word in ("bare", "ssim", "The code holds", "dimensions", "(100 images)"))

    assert ends_with("train", "--data", folder, "--out", out, *QUICK) == 2
    assert "out: is a model already" in capsys.readouterr().err


def test_rectangular_images_a_sampler_and_a_linear_probe(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "wide"
    words = ("--size", "16", "--width", "20", "--kind", "vae", "--latent-dim", "3", "--steps", "5")
    assert ends_with("train", "--data", folder, "--out", out, *words, "--sampler", "--json") in (0, 1)
    capsys.readouterr()
    generator = load_generator(out)
    assert generator.shape == (1, 16, 20)
    assert generator.sampler is not None
    table = tmp_path / "set.csv"
    rows = {
        "path": [folder / f"{number}.png" for number in range(100)],
        "side": ["left"] * 50 + ["right"] * 50,
    }
    pd.DataFrame(rows).to_csv(table, index=False)
    ends_with("health", out, "--data", table, "--labels", "side", "--most", "50", "--json")
    probe = json.loads(capsys.readouterr().out)["probe"]
    assert 0 <= probe["accuracy"]["low"] <= probe["accuracy"]["high"] <= 1
    ends_with("health", out, "--data", table, "--labels", "side")
    assert "A linear classifier reads the labels" in capsys.readouterr().out
    assert ends_with("health", out, "--data", table, "--labels", "age") == 2
    assert (
        "labels: is no column of the table (received age). Choose one of: path, side."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(("status", "code"), [("healthy", 0), ("weak", 0), ("collapsed", 1)])
def test_health_ends_with_1_if_collapsed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, status: str, code: int
) -> None:
    VAE((1, 16, 16), 4, widths=(8,), encoder_blocks=(0,), decoder_blocks=(0,)).save(tmp_path / "m")
    found = Health(5, (0.1,), (float("nan"),), (0.2,), (), {}, status, "A [bold] verdict.")
    monkeypatch.setattr(VAE, "health", lambda self, images, labels: found)
    assert ends_with("health", tmp_path / "m", "--data", folder) == code
    assert f"{status.capitalize()} A [bold] verdict. (5 images)" in capsys.readouterr().out
    assert ends_with("health", tmp_path / "m", "--data", folder, "--json") == code
    assert json.loads(capsys.readouterr().out)["r2"] == [None]


def test_health_as_dict_is_json() -> None:
    health = Health(
        5, (0.1,), (float("-inf"),), (0.2,), (), {"stage 1": {"mse": (0.3,)}}, "weak", "It is weak."
    )
    assert health_as_dict(health) == {
        "images": 5, "mse": [0.1], "r2": [None], "ssim": [0.2], "kl": [],
        "stages": {"stage 1": {"mse": [0.3]}}, "status": "weak", "sentence": "It is weak.",
        "active": None, "information": None, "samples": None, "probe": None, "total_kl": None,
        "channel_names": [],
    }  # fmt: skip


def test_other_channels_are_refused_by_health(folder: Path, tmp_path: Path, capsys) -> None:
    VAE((3, 16, 16), 4, widths=(8,), encoder_blocks=(0,), decoder_blocks=(0,)).save(tmp_path / "m")
    assert ends_with("health", tmp_path / "m", "--data", folder) == 2
    assert "data: must have the 3 channels of the generator (received 1)" in capsys.readouterr().err


CODE = """
import signal, sys
import explainer.generators.loop as loop
from explainer.cli import main
loop.CHECKPOINT_SECONDS = 0
signal.signal(signal.SIGINT, signal.default_int_handler)
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_continues_to_the_same_model(
    folder: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "stopped"
    words = ["train", "--data", str(folder), *QUICK, "--steps", "60", "--flip"]
    running = subprocess.Popen(
        [sys.executable, "-c", CODE, *words, "--out", str(out)], stderr=subprocess.PIPE, text=True
    )
    checkpoints = checkpoints_of(out)
    deadline = time.monotonic() + 120
    while not (checkpoints / "vae.ckpt").exists():
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(number)
    said = running.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert running.returncode == 130
        assert said == f"Stopped To continue: explainer train --out {out} --resume\n"
    assert not out.exists()

    assert ends_with(*words, "--out", out) == 2
    assert "out: has the checkpoints of an unfinished run" in capsys.readouterr().err
    assert ends_with("train", "--out", out, "--resume", "--steps", "100") == 2
    assert "resume_from: holds the checkpoints of a run with other steps" in capsys.readouterr().err
    assert ends_with("train", "--out", out, "--resume") in (0, 1)
    assert not checkpoints.exists()
    assert ends_with(*words, "--out", tmp_path / "whole") in (0, 1)
    states = [load_generator(tmp_path / name).state_dict() for name in ("stopped", "whole")]
    for name, value in states[0].items():
        assert_allclose(value, states[1][name], atol=1e-6, err_msg=name)
    histories = [pd.read_csv(tmp_path / name / "history.csv") for name in ("stopped", "whole")]
    assert histories[0]["step"].tolist() == histories[1]["step"].tolist()
    assert sorted(os.listdir(tmp_path)) == ["stopped", "whole"]


def test_ctrl_c_is_answered_at_the_end_of_the_step_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small() -> VAE:
        return VAE((1, 16, 16), 4, widths=(8, 8), encoder_blocks=(0, 1), decoder_blocks=(0, 1))

    whole = small().fit(blobs(), steps=60, progress=False)
    stopped, handler = small(), signal.default_int_handler
    before = signal.signal(signal.SIGINT, handler)  # ignored, where the tests run in the background
    loss, calls = stopped.loss, []

    def interrupted(*arguments):
        value, terms = loss(*arguments)
        if value.requires_grad:  # not while held-out images are measured
            calls.append(1)
            if len(calls) == 30:
                signal.raise_signal(signal.SIGINT)
        return value, terms

    monkeypatch.setattr(stopped, "loss", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(blobs(), steps=60, progress=False, resume_from=tmp_path)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 30
    kept = torch.load(tmp_path / "vae.ckpt", weights_only=True)
    assert kept["global_step"] == 30
    assert 0 < kept["elapsed"] < 60
    assert sorted(os.listdir(tmp_path)) == ["run.json", "vae.ckpt"]
    resumed = small().fit(blobs(), steps=60, progress=False, resume_from=tmp_path)
    for name, value in whole.state_dict().items():
        assert_allclose(resumed.state_dict()[name], value, atol=1e-6, err_msg=name)
    assert resumed.history.dropna(subset="loss")["step"].tolist() == [0, 25, 50]


def test_data_that_cannot_be_trained_on_leaves_nothing_behind(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    np.savez(tmp_path / "few.npz", images=np.zeros((20, 16, 16), np.uint8))
    out = tmp_path / "model"
    assert ends_with("train", "--data", tmp_path / "few.npz", "--out", out, *QUICK) == 2
    assert "data: must be at least 45 images" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["few.npz"]
    assert ends_with("train", "--data", tmp_path / "absent", "--out", out, *QUICK) == 2
    assert "data: does not exist" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["few.npz"]


def test_ctrl_c_before_training_says_that_nothing_began(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("explainer.training_run.open_image_set", stopped)
    assert ends_with("train", "--data", folder, "--out", tmp_path / "m") == 130
    assert capsys.readouterr().err == "Stopped Training had not begun.\n"


class TestPrepare:
    def test_what_is_not_given_is_the_default(self, tmp_path: Path) -> None:
        assert prepare(tmp_path / "m", {"data": "x", "steps": 7}, resume=False) == Settings("x", steps=7)

    def test_a_continued_run_has_its_own_settings_but_minutes_may_change(self, tmp_path: Path) -> None:
        begun = checkpoints_of(tmp_path / "m")
        begun.mkdir()
        (begun / "settings.json").write_text('{"data": "x", "kind": "vae", "minutes": 1.0, "seed": 3}')
        found = prepare(tmp_path / "m", {"minutes": 9.0}, resume=True)
        assert found == Settings("x", kind="vae", minutes=9.0, seed=3)
        with pytest.raises(OptionError, match="out: has the checkpoints of an unfinished run"):
            prepare(tmp_path / "m", {"data": "x"}, resume=False)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "data: is missing"),
            ({"kind": "gan"}, "kind: is unknown .received gan.. Choose one of: vae, infomax, two-stage, mix"),
            ({"steps": 0}, "steps, minutes: must be positive"),
            ({"minutes": float("nan")}, "steps, minutes: must be positive"),
            ({"size": 8}, "size, width: must be at least 16"),
        ],
    )
    def test_impossible_settings_are_refused(self, tmp_path: Path, given: dict, message: str) -> None:
        with pytest.raises(OptionError, match=message):
            prepare(tmp_path / "m", given and {"data": "x", **given}, resume=False)

    def test_nothing_to_continue(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="resume: there is nothing to continue"):
            prepare(tmp_path / "m", {"data": "x"}, resume=True)

    def test_places_of_others_are_left_alone(self, tmp_path: Path) -> None:
        for name in ("mine", "m.checkpoints"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "thesis.txt").write_text("do not lose this")
        with pytest.raises(OutputError, match="out: is taken"):
            prepare(tmp_path / "mine", {"data": "x"}, resume=False)
        with pytest.raises(OutputError, match="which holds something else"):
            prepare(tmp_path / "m", {"data": "x"}, resume=False)
        with pytest.raises(OutputError, match="out: is taken"):
            prepare(tmp_path / "mine" / "thesis.txt", {"data": "x"}, resume=False)


def test_the_number_of_images_that_is_needed_is_named(tmp_path):
    np.savez(tmp_path / "few.npz", images=np.random.default_rng(0).random((44, 16, 16)).astype(np.float32))
    settings = Settings(data=str(tmp_path / "few.npz"), size=16)
    with pytest.raises(TrainingError, match=r"data: must be at least 45 images.*received 44"):
        train(settings, tmp_path / "model", progress=False)
    assert not (tmp_path / "model.checkpoints").exists()
