"""The best state of a phase is kept: chosen by the bound, never lost, and measured without a trace."""

import math
import signal

import pytest
import torch
from numpy.testing import assert_allclose
from test_training import blobs
from torch import nn

from explainer.errors import OptionError
from explainer.generators import VAE, GaussianMixtureVAE, InfoMaxVAE, TwoStageVAE
from explainer.generators.selection import Selection

SHAPE = (1, 16, 16)
SMALL = {"widths": (8,), "encoder_blocks": (0,), "decoder_blocks": (0,)}


def vae():
    return VAE(SHAPE, 4, **SMALL)


def two_stage():
    return TwoStageVAE(SHAPE, 4, latent_channels=2, code_width=8, **SMALL)


KINDS = {
    "vae": vae,
    "infomax": lambda: InfoMaxVAE(SHAPE, 4, queue=8, **SMALL),
    "two-stage": two_stage,
    "mixture": lambda: GaussianMixtureVAE(SHAPE, 4, 3, restarts=2, **SMALL),
}


class Level(nn.Module):
    """Its bound is (level - 3)^2 in reconstruction and level in the KL term."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def terms(self, images: torch.Tensor, _: torch.Generator) -> dict[str, torch.Tensor]:
        return {"reconstruction_nats": (self.level - images.mean()) ** 2, "kl_nats": self.level,
                "mutual_information_nats": 100 * self.level}  # fmt: skip


def selection(beta=1.0, patience=None, count=8):
    images = torch.full((count, 1, 2, 2), 1.0)
    return Selection(images, beta=beta, patience=patience, batch_size=32, seed=0)


@pytest.mark.parametrize(("beta", "best"), [(0.0, 1.0), (1.0, 0.5), (3.0, 0.0)])
def test_the_best_state_is_that_of_the_least_bound_with_the_final_weight_and_without_information(beta, best):
    chosen, module = selection(beta), Level()
    for step, level in enumerate((0.0, 0.5, 1.0, 2.0), start=1):
        module.level.data.fill_(level)
        row = chosen.measure(module, module.terms, progress=step / 4, step=step)
        assert row["held_out_nats"] == pytest.approx((level - 1) ** 2 + beta * level)
    chosen.restore(module)
    assert module.level.item() == best
    assert module.training


def test_parts_weigh_as_many_images_as_they_hold():
    chosen, module = selection(beta=0.0, count=65), Level()
    chosen.images[:33] = 0.0  # the first part of two
    row = chosen.measure(module, module.terms, progress=1.0, step=1)
    assert row["held_out_nats"] == pytest.approx(32 / 65)


def test_a_twentieth_of_the_budget_lies_between_measurements_or_more_if_that_is_not_cheap():
    chosen, module = selection(count=240), Level()
    assert chosen.gap == 100  # 240 images cost 2.5 steps of 32: a fortieth of 100
    assert not chosen.due(0.049, 10_000)
    assert not chosen.due(0.05, 99)
    assert chosen.due(0.05, 100)
    chosen.measure(module, module.terms, progress=0.07, step=140)
    assert not chosen.due(0.09, 300)
    assert chosen.due(0.1, 300)


def test_patience_counts_measurements_since_the_best_and_survives_a_checkpoint():
    chosen, module = selection(beta=0.0, patience=2), Level()
    for level, over in ((0.0, False), (1.0, False), (0.5, False), (0.9, True)):
        module.level.data.fill_(level)
        chosen.measure(module, module.terms, progress=0.5, step=1)
        assert chosen.exhausted is over
    other = selection(beta=0.0, patience=2)
    other.load(chosen.state())
    assert other.exhausted
    other.restore(module)
    assert module.level.item() == 1.0


def test_values_that_are_not_finite_are_never_the_best():
    chosen, module = selection(), Level()
    module.level.data.fill_(math.nan)
    assert math.isnan(chosen.measure(module, module.terms, progress=1, step=1)["held_out_nats"])
    assert chosen.best_state is None


def test_a_loss_without_a_bound_keeps_the_last_state():
    chosen, module = selection(), Level()
    assert chosen.measure(module, lambda *_: {"mse": torch.zeros(())}, progress=1, step=1) == {}
    chosen.restore(module)
    assert chosen.best_state is None


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_leaves_no_trace_in_training(kind, monkeypatch):
    measured = KINDS[kind]().fit(blobs(), steps=40, progress=False)
    monkeypatch.setattr(Selection, "due", lambda *_: False)
    unmeasured = KINDS[kind]().fit(blobs(), steps=40, progress=False)
    losses = [each.history.dropna(subset="loss")["loss"].tolist() for each in (measured, unmeasured)]
    counts = [len(each.history["held_out_nats"].dropna()) for each in (measured, unmeasured)]
    assert counts[0] > counts[1] == len(measured.phases())  # the end is always measured
    if kind == "two-stage":  # the second stage learns on what is kept of the first
        losses = [values[:1] for values in losses]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_phase_logs_the_bound_in_nats_and_its_parts(kind):
    generator = KINDS[kind]().fit(blobs(), steps=40, progress=False)
    rows = generator.history.dropna(subset="held_out_nats")
    assert rows.groupby("phase")["step"].count().min() >= 2
    betas = rows["phase"].map({phase.name: phase.beta for phase in generator.phases()})
    assert_allclose(
        rows["held_out_nats"], rows["held_out_reconstruction_nats"] + betas * rows["held_out_kl_nats"]
    )
    for phase, of_phase in rows.groupby("phase"):
        assert of_phase["held_out_nats"].iloc[-1] < of_phase["held_out_nats"].iloc[0], phase


def spoiled(generator, after):
    """From some step on the loss is turned round: training makes everything worse."""
    loss, calls = generator.loss, []

    def turned(phase, *arguments):
        value, terms = loss(phase, *arguments)
        if value.requires_grad:
            calls.append(1)
        return (-value if len(calls) > after else value), terms

    generator.loss = turned
    return generator


def stopped_at(step, generator, folder, monkeypatch, **options):
    """The checkpoint of a run that Ctrl-C has stopped."""
    loss, calls = generator.loss, []

    def interrupted(*arguments):
        value, terms = loss(*arguments)
        if value.requires_grad:
            calls.append(1)
            if len(calls) == step:
                signal.raise_signal(signal.SIGINT)
        return value, terms

    generator.loss = interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            generator.fit(blobs(), progress=False, resume_from=folder, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    return torch.load(folder / "vae.ckpt", weights_only=True)


def kept(generator):
    rows = generator.history.dropna(subset="held_out_nats")
    return rows.loc[rows["held_out_nats"].idxmin()]


def test_training_that_gets_worse_ends_with_its_best_state():
    generator = spoiled(vae(), after=30).fit(blobs(), steps=70, progress=False)
    best, last = kept(generator), generator.history["held_out_nats"].iloc[-1]
    assert 25 < best["step"] < 55
    assert last > best["held_out_nats"] + 10
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    found = generator.loss(
        generator.phases()[0], generator.prepare(blobs()[order[:12]]), torch.Generator().manual_seed(0), 1.0
    )[1]
    bound = float(found["reconstruction_nats"] + found["kl_nats"])
    assert bound == pytest.approx(best["held_out_nats"], rel=1e-4)


def test_the_second_stage_learns_on_the_best_state_of_the_first(tmp_path):
    generator = spoiled(two_stage(), after=30)
    generator.fit(blobs(), steps=100, progress=False, resume_from=tmp_path)
    rows = generator.history[generator.history["phase"] == "stage 1"].dropna(subset="held_out_nats")
    assert 20 < rows.loc[rows["held_out_nats"].idxmin(), "step"] < 45
    for stage, module in (("stage-1", generator.stage1), ("stage-2", generator.stage2)):
        finished = torch.load(tmp_path / f"{stage}.ckpt", weights_only=True)
        assert finished["finished"]
        for name, value in module.state_dict().items():
            assert torch.equal(finished["state_dict"][f"trained.{name}"], value), name


def test_information_in_the_code_does_not_count_and_infomax_ends_early():
    generator = spoiled(KINDS["infomax"](), after=20).fit(blobs(), steps=200, progress=False)
    rows = generator.history.dropna(subset="held_out_nats")
    assert rows["step"].max() < 140
    assert len(rows[rows["step"] > kept(generator)["step"]]) == 5
    plain = spoiled(vae(), after=20).fit(blobs(), steps=80, progress=False)
    assert plain.history["step"].max() == 80
    impatient = spoiled(vae(), after=20).fit(blobs(), steps=80, patience=2, progress=False)
    assert impatient.history["step"].max() < 60


def test_only_kinds_with_information_end_early_by_themselves():
    assert [phase.patience for phase in KINDS["infomax"]().phases()] == [5]
    assert [phase.patience for phase in two_stage().phases()] == [None, None]
    informed = TwoStageVAE(SHAPE, 4, gamma=(0, 1), first_beta=0.1, beta=0.5, queue=8, **SMALL)
    assert [(phase.patience, phase.beta) for phase in informed.phases()] == [(None, 0.1), (5, 0.5)]
    with pytest.raises(OptionError, match=r"patience: must be at least 1 .*received 0"):
        vae().fit(blobs(), steps=4, patience=0, progress=False)


def test_ctrl_c_keeps_the_best_state_and_the_run_goes_on_from_the_latest(tmp_path, monkeypatch):
    whole = spoiled(vae(), after=30).fit(blobs(), steps=80, progress=False)
    checkpoint = stopped_at(60, spoiled(vae(), after=30), tmp_path, monkeypatch, steps=80)
    best = checkpoint["selection"]["best_state"]
    assert checkpoint["selection"]["best_step"] < 50 < checkpoint["global_step"] == 60
    latest = {name.removeprefix("trained."): value for name, value in checkpoint["state_dict"].items()}
    assert not all(torch.equal(value, latest[name]) for name, value in best.items())
    resumed = spoiled(vae(), after=0).fit(blobs(), steps=80, progress=False, resume_from=tmp_path)
    for name, value in whole.state_dict().items():
        assert_allclose(resumed.state_dict()[name], value, atol=1e-6, err_msg=name)
        if not name.startswith("latent"):
            assert_allclose(best[name], value, atol=1e-6, err_msg=name)
    for name in ("step", "held_out_nats", "loss"):
        assert_allclose(resumed.history[name], whole.history[name], rtol=1e-5, err_msg=name)


def test_a_run_that_was_stopped_after_its_last_step_is_concluded_and_not_trained(tmp_path, monkeypatch):
    """Between the last step and the mark that the phase is finished."""
    monkeypatch.setattr("explainer.generators.loop.CHECKPOINT_SECONDS", 0)
    whole = spoiled(vae(), after=20).fit(blobs(), steps=30, progress=False)

    def stop(_):
        raise RuntimeError("the power went out")

    with monkeypatch.context() as patched:
        patched.setattr("explainer.generators.loop.Loop.conclude", stop)
        with pytest.raises(RuntimeError, match="power"):
            spoiled(vae(), after=20).fit(blobs(), steps=30, progress=False, resume_from=tmp_path)
    assert torch.load(tmp_path / "vae.ckpt", weights_only=True)["global_step"] == 30
    resumed = spoiled(vae(), after=0).fit(blobs(), steps=30, progress=False, resume_from=tmp_path)
    for name, value in whole.state_dict().items():
        assert_allclose(resumed.state_dict()[name], value, atol=1e-6, err_msg=name)
    assert_allclose(resumed.history["held_out_nats"].dropna(), whole.history["held_out_nats"].dropna())


def test_minutes_that_are_over_end_with_the_best_state_of_the_run_so_far(tmp_path, monkeypatch):
    """How a stopped run is made a model without training it any further."""
    stopped = spoiled(vae(), after=30)
    best = stopped_at(60, stopped, tmp_path, monkeypatch, steps=400)["selection"]["best_state"]
    model = spoiled(vae(), after=0)
    model.fit(blobs(), steps=400, minutes=1e-4, progress=False, resume_from=tmp_path)
    assert model.history["step"].max() < 70
    for name, value in best.items():
        if not name.startswith("latent"):
            assert torch.equal(model.state_dict()[name], value), name
