"""The VAE with information: the critic finds planted information, and the term acts on the encoder alone."""

import math

import pytest
import torch
from numpy.testing import assert_allclose
from test_training import blobs

from explainer.errors import OptionError, TrainingError
from explainer.generators import VAE, InfoMaxVAE
from explainer.generators.infomax import BOUNDS, InformationCritic

SMALL = {"widths": (8, 16), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}


def infomax(seed=0, **options):
    return InfoMaxVAE((1, 16, 16), 6, seed=seed, **SMALL, **options)


def said_and_meant(count, random):
    """Flat images of a Gaussian brightness, and codes that share 0.8 nats with it."""
    x, noise = torch.randn(2, count, 1, generator=random)
    rho = math.sqrt(1 - math.exp(-2 * 0.8))
    return x.view(-1, 1, 1, 1).expand(-1, 1, 16, 16), rho * x + math.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_critic_finds_the_planted_information(bound):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = InformationCritic((1, 16, 16), 1, bound=bound, queue=256)
    random = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(critic.parameters(), 1e-3)
    for _ in range(300):
        objective, _ = critic.information(*said_and_meant(64, random))
        optimiser.zero_grad()
        (-objective).backward()
        optimiser.step()
    critic.eval()
    with torch.no_grad():
        _, terms = critic.information(*said_and_meant(1000, random))
        images, codes = said_and_meant(1000, random)
        _, shuffled = critic.information(images, codes.roll(1, 0))
    assert 0.5 < float(terms["mutual_information_nats"]) < 0.9
    assert float(shuffled["mutual_information_nats"]) < 0
    if bound == "jsd":
        assert 0.2 < float(terms["jensen_shannon_nats"]) < 2 * math.log(2)


def test_the_queue_keeps_the_latest_codes_and_only_while_training():
    critic = InformationCritic((1, 16, 16), 2, queue=5)
    images = torch.rand(3, 1, 16, 16)
    for step in range(1, 4):
        critic.information(images, torch.full((3, 2), float(step)))
    assert sorted(critic.past[:, 0].tolist()) == [2, 2, 3, 3, 3]
    critic.information(images, torch.full((3, 2), math.nan))
    assert torch.isfinite(critic.past).all()
    critic.eval().information(images, torch.full((3, 2), 9.0))
    assert 9 not in critic.past
    critic.train().information(torch.rand(8, 1, 16, 16), torch.arange(16.0).view(8, 2))
    assert sorted(critic.past[:, 0].tolist()) == [6, 8, 10, 12, 14]


def test_an_empty_queue_is_not_compared_with():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = InformationCritic((1, 16, 16), 2, queue=100)
    images, z = torch.rand(4, 1, 16, 16), torch.randn(4, 2)
    plain = InformationCritic((1, 16, 16), 2, queue=0)
    plain.load_state_dict({**critic.state_dict(), "past": torch.zeros(0, 2)})
    first, _ = critic.information(images, z)
    assert_allclose(first.detach(), plain.information(images, z)[0].detach())
    second, _ = critic.information(images, z)
    # The same four codes stand in the queue: every pair now has a rival of equal score, and log 2 is gained.
    assert_allclose(second.detach(), first.detach(), atol=1e-6)
    assert int(plain.seen) == 0


@pytest.mark.parametrize("bound", BOUNDS)
def test_encoder_and_critic_climb_and_the_decoder_does_not_feel_it(bound):
    """The gradient of the loss is the VAE's minus gamma times that of the information, per pixel value."""
    generator = infomax(gamma=2.0, bound=bound).requires_grad_(True).train()
    prepared, phase = blobs(16), generator.phases()[0]

    def gradients(gamma):
        generator.gamma = gamma
        generator.critic.past.zero_()
        generator.critic.seen.zero_()
        generator.zero_grad()
        loss, terms = generator.loss(phase, prepared, torch.Generator().manual_seed(0), 1.0)
        loss.backward()
        return loss, terms, {name: p.grad.clone() for name, p in generator.named_parameters()}

    loss, terms, with_it = gradients(2.0)
    plain, _, without = gradients(0.0)
    name = "jensen_shannon_nats" if bound == "jsd" else "mutual_information_nats"
    assert_allclose(loss.detach(), (plain - 2 * terms[name] / 256).detach(), rtol=1e-5)
    changed = {
        name.removesuffix(".weight").removesuffix(".bias")
        if name.startswith("linear")
        else name.split(".")[0]
        for name in with_it
        if not torch.allclose(with_it[name], without[name], atol=1e-9)
    }
    assert changed == {"encoder", "to_code", "critic", "linear.encoder"}
    assert all(not without[name].any() for name in without if name.startswith("critic"))


@pytest.mark.parametrize("bound", BOUNDS)
def test_training_learns_and_the_terms_are_apart(bound):
    generator = infomax(bound=bound).fit(blobs(), steps=250, minutes=5, progress=False)
    health = generator.health(blobs(60, seed=1))
    assert health.status == "healthy"
    assert min(health.r2) > 0.7
    assert generator.skipped_steps == 0
    history = generator.history.dropna(subset="loss")
    assert {"reconstruction_nats", "kl_nats", "mse", "mutual_information_nats"} <= set(history)
    assert history["mutual_information_nats"].iloc[-1] > history["mutual_information_nats"].iloc[0] + 0.5


def test_without_weight_it_is_the_vae_bit_for_bit():
    plain = VAE((1, 16, 16), 6, **SMALL)
    informed = infomax(gamma=0.0)
    prepared, phase = blobs(8), informed.phases()[0]
    losses = [g.loss(phase, prepared, torch.Generator().manual_seed(0), 1.0)[0] for g in (plain, informed)]
    assert torch.equal(*losses)


def test_the_term_revives_a_code_that_a_large_beta_has_put_to_sleep():
    images = blobs()
    asleep = infomax(gamma=0.0, beta=60.0).fit(images, steps=200, minutes=5, progress=False)
    awake = infomax(gamma=60.0, beta=60.0).fit(images, steps=200, minutes=5, progress=False)
    assert awake.kl_per_dimension(images).sum() > asleep.kl_per_dimension(images).sum() + 0.5


def test_the_same_seed_gives_the_same_weights_and_a_resumed_run_too(tmp_path, monkeypatch):
    whole = infomax().fit(blobs(), steps=30, minutes=5, progress=False)
    monkeypatch.setattr("explainer.generators.loop.CHECKPOINT_SECONDS", 0)
    interrupted = infomax()
    loss, calls = interrupted.loss, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 20:
            raise RuntimeError("the power went out")
        return loss(*arguments)

    monkeypatch.setattr(interrupted, "loss", failing)
    with pytest.raises(RuntimeError, match="power"):
        interrupted.fit(blobs(), steps=30, minutes=5, progress=False, resume_from=tmp_path)
    resumed = infomax().fit(blobs(), steps=30, minutes=5, progress=False, resume_from=tmp_path)
    for name, value in whole.state_dict().items():
        assert_allclose(resumed.state_dict()[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": "mine"}, "bound: is unknown"),
        ({"queue": -1}, "queue: must not be negative"),
        ({"gamma": -1.0}, "gamma: must not be negative"),
        ({"gamma": math.nan}, "gamma: must not be negative"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        infomax(**options)


def test_one_image_has_no_strangers():
    with pytest.raises(TrainingError, match="batch_size: must be at least 2 for bound='jsd'"):
        infomax(bound="jsd").critic.information(torch.rand(1, 1, 16, 16), torch.zeros(1, 6))
