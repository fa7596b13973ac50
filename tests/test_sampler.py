"""The second VAE on the codes: it draws what the codes are, not what the prior says."""

import pytest
import torch
from numpy.testing import assert_allclose
from test_training import blobs

from explainer.errors import GeneratorError, OptionError
from explainer.generators import VAE, GaussianMixtureVAE, InfoMaxVAE, TwoStageVAE, load_generator
from explainer.generators.sampler import CodeSampler

SMALL = {"widths": (8, 8), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1), "sampler": True}
KINDS = {
    "vae": lambda: VAE((1, 16, 16), 4, **SMALL),
    "infomax": lambda: InfoMaxVAE((1, 16, 16), 4, queue=8, **SMALL),
    "two-stage": lambda: TwoStageVAE((1, 16, 16), 4, latent_channels=3, code_width=8, **SMALL),
    "mixture": lambda: GaussianMixtureVAE((1, 16, 16), 4, 2, restarts=2, **SMALL),
}


def two_places(count=2000):
    """Codes at -3 and at 3 of the first dimension, nothing in the second, with a posterior of .1 and 1."""
    sides = torch.where(torch.rand(count, generator=torch.Generator().manual_seed(0)) < 0.5, -3.0, 3.0)
    mean = torch.stack([sides, torch.zeros(count)], dim=1)
    return mean, torch.tensor([0.01, 1.0]).log().expand(count, 2).contiguous()


def test_codes_of_two_places_are_drawn_there_and_not_in_between():
    sampler = CodeSampler(2, width=64)
    rows = sampler.fit(*two_places(), steps=800, seed=0)
    z = sampler.draw(2000, torch.Generator().manual_seed(1))
    near = ((z[:, 0].abs() - 3).abs() < 0.5).float().mean()
    assert near > 0.55
    assert abs(float((z[:, 0] > 0).float().mean()) - 0.5) < 0.08
    assert float(z[:, 1].std()) == pytest.approx(1, abs=0.1)
    gaussian = 3 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    assert ((gaussian[:, 0].abs() - 3).abs() < 0.5).float().mean() < 0.25
    assert [row["step"] for row in rows] == list(range(0, 800, 25))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_before_much_is_learnt_it_draws_from_the_gaussian_of_the_codes():
    sampler, random = CodeSampler(3, width=8), torch.Generator().manual_seed(0)
    mean = torch.tensor([5.0, -2.0, 0.0]) + torch.tensor([0.5, 3.0, 1.0]) * torch.randn(
        5000, 3, generator=random
    )
    sampler.fit(mean, torch.full_like(mean, -4.0), steps=1, seed=0)
    z = sampler.draw(5000, random)
    assert_allclose(z.mean(0), mean.mean(0), atol=0.2)
    assert_allclose(z.std(0), mean.std(0), rtol=0.12)


def test_the_same_seed_fits_the_same_weights_and_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    first, second, other = (CodeSampler(2, width=8) for _ in range(3))
    for sampler, seed in ((first, 0), (second, 0), (other, 1)):
        sampler.fit(*two_places(100), steps=20, seed=seed)
    states = [sampler.state_dict() for sampler in (first, second, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["sigma"], states[2]["sigma"])
    assert torch.equal(torch.get_rng_state(), before)


def test_no_more_than_its_most_steps_are_taken(monkeypatch):
    monkeypatch.setattr("explainer.generators.sampler.MOST_STEPS", 30)
    assert len(CodeSampler(2, width=8).fit(*two_places(100), steps=10**9, seed=0)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_have_one_that_is_saved_and_loaded(kind, tmp_path):
    generator = KINDS[kind]().fit(blobs(100), steps=30, progress=False)
    assert generator.history["phase"].iloc[-1] == "sampler"
    samples = generator.sample(3, seed=1)
    assert torch.equal(samples, generator.sample(3, seed=1, prior="sampler"))
    assert not torch.equal(samples, generator.sample(3, seed=1, prior="standard"))
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    generator.save(tmp_path / "model")
    loaded = load_generator(tmp_path / "model")
    assert torch.equal(loaded.sample(3, seed=1), samples)
    assert loaded.sampler.sigma.min() > 0


def test_without_one_nothing_is_saved_of_it_and_asking_for_it_is_an_error(tmp_path):
    generator = VAE((1, 16, 16), 4, widths=(8,), encoder_blocks=(0,), decoder_blocks=(0,))
    assert "sampler" not in generator.options()
    assert not any(name.startswith("sampler") for name in generator.state_dict())
    assert torch.equal(generator.sample(2), generator.sample(2, prior="standard"))
    with pytest.raises(GeneratorError, match=r"prior: there is no sampler .*sampler=True"):
        generator.sample(2, prior="sampler")
    with pytest.raises(OptionError, match=r"prior: is unknown .received uniform"):
        generator.sample(2, prior="uniform")


def test_components_of_a_mixture_are_still_drawn_from_alone():
    generator = KINDS["mixture"]()
    assert torch.equal(generator.sample(3, 1), generator.sample(3, 1, prior="standard"))
    assert not torch.equal(generator.sample(3), generator.sample(3, prior="standard"))
