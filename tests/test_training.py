import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from explainer.errors import OptionError, TrainingError
from explainer.generators import VAE, TwoStageVAE
from explainer.generators.base import as_unit_interval
from explainer.generators.feed import feed

SMALL = {"widths": (8, 16), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}


def blobs(count=240, size=16, seed=0):
    """A bright blob that moves and changes its size: three true dimensions."""
    random = np.random.default_rng(seed)
    y, x, r = random.uniform(4, 12, count), random.uniform(4, 12, count), random.uniform(1.5, 3, count)
    rows, columns = np.mgrid[:size, :size]
    squared = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
    images = 0.1 + 0.8 * np.exp(-squared / (2 * r[:, None, None] ** 2))
    return torch.from_numpy(images[:, None]).float()


def vae(seed=0, **options):
    return VAE((1, 16, 16), 6, seed=seed, **SMALL, **options)


def two_stage(seed=0):
    return TwoStageVAE((1, 16, 16), 6, latent_channels=4, code_width=16, seed=seed, **SMALL)


@pytest.mark.parametrize("make", [vae, two_stage])
def test_training_learns_and_health_says_so(make):
    generator = make().fit(blobs(), steps=300, minutes=5, progress=False)
    health = generator.health(blobs(60, seed=1))
    assert health.status == "healthy"
    assert min(health.r2) > 0.7
    assert sum(health.kl) > 5
    assert generator.skipped_steps == 0
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    if make is two_stage:
        assert health.stages["stage 1"]["mse"][0] < health.mse[0]


def test_the_history_names_its_terms_in_units():
    generator = two_stage().fit(blobs(), steps=60, minutes=5, progress=False)
    assert set(generator.history["phase"]) == {"stage 1", "stage 2"}
    assert {"reconstruction_nats", "kl_nats", "mse", "laplacian", "latent_mse"} <= set(generator.history)


def test_the_notes_loss_collapses_and_is_diagnosed(monkeypatch):
    """Mean squared error plus the KL divergence, literally: the code dies, and health names it."""

    def literal(self, prepared, reconstruction, kl, beta):
        mse = (prepared - reconstruction).square().mean()
        return mse + beta * kl, {"mse": mse, "kl_nats": kl}

    monkeypatch.setattr(VAE, "image_loss", literal)
    health = vae().fit(blobs(), steps=150, minutes=5, progress=False).health(blobs(60, seed=1))
    assert health.status == "collapsed"
    assert "sigma" in health.sentence


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    first, second, other = (vae().fit(blobs(), steps=30, seed=s, progress=False) for s in (0, 0, 1))
    states = [generator.state_dict() for generator in (first, second, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_initial_weights_depend_on_the_constructors_seed_alone():
    torch.manual_seed(1)
    first = two_stage(seed=5).state_dict()
    torch.manual_seed(2)
    second, other = two_stage(seed=5).state_dict(), two_stage(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_global_randomness_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    vae().fit(blobs(), steps=5, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_interrupted_run_continues_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = two_stage().fit(blobs(), steps=40, minutes=5, progress=False)
    monkeypatch.setattr("explainer.generators.loop.CHECKPOINT_SECONDS", 0)
    interrupted = two_stage()
    loss, calls = interrupted.loss, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 31:  # in the second phase
            raise RuntimeError("the power went out")
        return loss(*arguments)

    monkeypatch.setattr(interrupted, "loss", failing)
    with pytest.raises(RuntimeError, match="power"):
        interrupted.fit(blobs(), steps=40, minutes=5, progress=False, resume_from=tmp_path)
    resumed = two_stage().fit(blobs(), steps=40, minutes=5, progress=False, resume_from=tmp_path)
    for name, value in whole.state_dict().items():
        assert_allclose(resumed.state_dict()[name], value, atol=1e-6, err_msg=name)


def test_checkpoints_of_another_run_are_refused(tmp_path):
    vae().fit(blobs(), steps=10, progress=False, resume_from=tmp_path)
    for options, name in (({"steps": 20}, "steps"), ({"seed": 1}, "seed")):
        with pytest.raises(
            TrainingError, match=f"resume_from: holds the checkpoints of a run with other {name}"
        ):
            vae().fit(blobs(), **{"steps": 10, **options}, progress=False, resume_from=tmp_path)
    with pytest.raises(TrainingError, match="with other images"):
        vae().fit(1 - blobs(), steps=10, progress=False, resume_from=tmp_path)
    with pytest.raises(TrainingError, match="with other options"):
        vae(beta=2.0).fit(blobs(), steps=10, progress=False, resume_from=tmp_path)


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the checkpoint ran code",))


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path):
    vae().fit(blobs(), steps=10, progress=False, resume_from=tmp_path)
    torch.save({"global_step": 3, "state_dict": Payload()}, tmp_path / "vae.ckpt")
    with pytest.raises(TrainingError, match=r"resume_from: holds a damaged checkpoint .*: Weights only"):
        vae().fit(blobs(), steps=10, progress=False, resume_from=tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    vae().fit(blobs(), steps=10, progress=False, resume_from=tmp_path)
    whole = (tmp_path / "vae.ckpt").read_bytes()
    for damaged in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        (tmp_path / "vae.ckpt").write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"resume_from: holds a damaged checkpoint .*vae.ckpt"):
            vae().fit(blobs(), steps=10, progress=False, resume_from=tmp_path)
    torch.save({"global_step": 3, "state_dict": {}}, tmp_path / "vae.ckpt")
    with pytest.raises(TrainingError, match="it is not one of this phase"):
        vae().fit(blobs(), steps=10, progress=False, resume_from=tmp_path)


def test_more_minutes_do_not_train_a_finished_stage_again(tmp_path, monkeypatch):
    """Stage 1 ends early, by the clock; stage 2, which is stopped in the middle, has learned on it."""
    monkeypatch.setattr("explainer.generators.loop.CHECKPOINT_SECONDS", 0)
    stopped = two_stage()
    loss = stopped.loss

    def failing(phase, *arguments):
        if phase.name == "stage 2":
            raise RuntimeError("the power went out")
        return loss(phase, *arguments)

    monkeypatch.setattr(stopped, "loss", failing)
    with pytest.raises(RuntimeError, match="power"):
        stopped.fit(blobs(), steps=400, minutes=0.02, progress=False, resume_from=tmp_path)
    before = torch.load(tmp_path / "stage-1.ckpt", weights_only=True)
    assert before["global_step"] < 200
    resumed = two_stage()
    resumed.fit(blobs(), steps=400, minutes=5, progress=False, resume_from=tmp_path)
    for name, value in resumed.stage1.state_dict().items():
        assert torch.equal(value, before["state_dict"][f"trained.{name}"]), name
    assert resumed.history["phase"].iloc[-1] == "stage 2"


def test_a_small_code_that_reconstructs_well_is_not_called_collapsed():
    level = torch.linspace(0.1, 0.9, 240)[torch.randperm(240, generator=torch.Generator().manual_seed(0))]
    images = level.view(-1, 1, 1, 1) * torch.linspace(0.2, 1, 16).expand(240, 1, 16, 16)
    generator = VAE((1, 16, 16), 1, **SMALL).fit(images, steps=300, progress=False)
    health = generator.health(images)
    assert sum(health.kl) < 6
    assert health.r2[0] > 0.9
    assert health.status == "healthy"


def test_steps_without_a_finite_gradient_are_skipped_and_counted():
    generator = vae()
    loss, calls = generator.loss, []

    def sometimes_infinite(*arguments):
        calls.append(1)
        value, terms = loss(*arguments)
        return (value * float("nan") if len(calls) in (5, 9) else value), terms

    generator.loss = sometimes_infinite
    generator.fit(blobs(), steps=40, progress=False)
    assert generator.skipped_steps == 2
    assert all(torch.isfinite(value).all() for value in generator.state_dict().values())


def test_a_run_of_nothing_but_bad_steps_is_an_error():
    generator = vae()
    loss = generator.loss
    generator.loss = lambda *arguments: (loss(*arguments)[0] * float("inf"), {})
    with pytest.raises(TrainingError, match="too many steps had no finite gradient"):
        generator.fit(blobs(), steps=40, progress=False)


def test_a_short_run_of_nothing_but_bad_steps_is_an_error_too():
    generator = vae()
    loss = generator.loss
    generator.loss = lambda *arguments: (loss(*arguments)[0] * float("nan"), {})
    with pytest.raises(TrainingError, match=r"too many steps had no finite gradient"):
        generator.fit(blobs(), steps=8, progress=False)


def test_percentiles_codes_and_errors_are_stored():
    images = blobs()
    generator = vae().fit(images, steps=100, progress=False)
    low, high = generator.intensity[:, 0]
    assert 0.09 < low < 0.11
    assert 0.85 < high < 0.91
    codes = generator.encode(images)
    assert_allclose(generator.latent_mean, codes.mean(0), atol=0.2)
    quantiles = generator.quantiles["bare"]
    assert 0 < quantiles["0.5"] < quantiles["0.95"] <= quantiles["1"]
    typical = generator.typicality(codes)
    assert typical.square().mean() == pytest.approx(1, abs=0.15)


def test_the_minutes_cap_stops_the_run_and_anneals_it():
    generator = vae().fit(blobs(), steps=1_000_000, minutes=0.05, progress=False)
    assert len(generator.history) > 0
    assert generator.history["step"].max() < 1_000_000


def test_unsigned_integers_are_divided_by_their_types_maximum():
    assert as_unit_interval(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0, 0.2, 1]
    )
    assert as_unit_interval(torch.tensor([65535], dtype=torch.uint16)).item() == 1
    stored = (blobs() * 255).round().to(torch.uint8)
    generator = vae().fit(stored.numpy(), steps=5, progress=False)
    assert generator.intensity[1, 0] < 0.95


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(39, 1, 16, 16), "images: must be at least 40 images of shape"),
        (torch.rand(50, 3, 16, 16), "images: must be at least 40 images of shape"),
        (torch.rand(50, 1, 16, 16) * 3, r"images: must be finite and lie in \[0, 1\]"),
        (torch.full((50, 1, 16, 16), float("nan")), r"images: must be finite and lie in \[0, 1\]"),
        (torch.full((50, 1, 16, 16), 0.5), "images: channel 0 is constant"),
        (torch.ones(50, 1, 16, 16, dtype=torch.int64), "images: must be floats in .0, 1., uint8 or uint16"),
        (torch.ones(50, 1, 16, 16, dtype=torch.bool), "images: must be floats in .0, 1., uint8 or uint16"),
    ],
)
def test_unusable_images_are_named(images, message):
    with pytest.raises(TrainingError, match=message):
        vae().fit(images, steps=5, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0}, {"minutes": 0}, {"batch_size": 0}, {"learning_rate": -1},
        {"minutes": math.nan}, {"minutes": math.inf},
        {"learning_rate": math.nan}, {"learning_rate": math.inf},
    ],
)  # fmt: skip
def test_budgets_must_be_positive(options):
    with pytest.raises(OptionError, match="must be positive"):
        vae().fit(blobs(), **options, progress=False)


def test_the_linear_path_starts_from_fewer_images_if_they_are_large(monkeypatch):
    generator, sizes = vae(), []
    monkeypatch.setattr(generator.linear, "start", lambda images: sizes.append(len(images)))
    images = feed(blobs(), "images", (1, 16, 16), 40)
    generator.begin(generator.phases()[0], images)
    monkeypatch.setattr("explainer.generators.vae.START_VALUES", 100 * 256)
    generator.begin(generator.phases()[0], images)
    monkeypatch.setattr("explainer.generators.vae.START_VALUES", 256)
    generator.begin(generator.phases()[0], images)
    assert sizes == [240, 100, 40]


def test_channels_have_errors_of_their_own_under_a_shared_sigma():
    generator = VAE((2, 16, 16), 3, **SMALL)
    prepared = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    rebuilt = prepared + torch.tensor([0.1, 0.3]).view(1, 2, 1, 1)
    for shared in (False, True):
        terms = generator.image_loss(prepared, rebuilt, torch.tensor(0.0), 1.0, shared_sigma=shared)[1]
        assert float(terms["mse_channel_0"]) == pytest.approx(0.01, rel=1e-4)
        assert float(terms["mse_channel_1"]) == pytest.approx(0.09, rel=1e-4)
        assert float(terms["mse"]) == pytest.approx(0.05, rel=1e-4)


def test_many_samples_are_decoded_a_few_at_a_time(monkeypatch):
    generator, sizes = vae().eval(), []
    decode = generator._decode
    monkeypatch.setattr(generator, "_decode", lambda codes: sizes.append(len(codes)) or decode(codes))
    samples = generator.sample(150)
    assert sizes == [64, 64, 22]
    noise = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))
    assert_allclose(samples.detach(), generator.decode(noise).detach(), atol=1e-6)
