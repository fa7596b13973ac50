"""One interface for all kinds, from training to a loaded model, with images no network halves evenly."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from explainer.errors import GeneratorError, OptionError
from explainer.generators import (
    VAE,
    Adapter,
    GaussianMixtureVAE,
    InfoMaxVAE,
    TwoStageVAE,
    load_generator,
)
from explainer.generators.training import TrainableGenerator

SMALL = {"widths": (8, 8), "encoder_blocks": (0, 0), "decoder_blocks": (0, 0)}
TWO = {"latent_channels": 3, "code_width": 8, **SMALL}
KINDS = {
    "vae": lambda shape: VAE(shape, 5, **SMALL),
    "vae with a map": lambda shape: VAE(shape, latent_channels=3, **SMALL),
    "vae with a sampler": lambda shape: VAE(shape, 5, sampler=True, **SMALL),
    "infomax": lambda shape: InfoMaxVAE(shape, 5, queue=8, **SMALL),
    "two-stage": lambda shape: TwoStageVAE(shape, 5, **TWO),
    "two-stage infomax": lambda shape: TwoStageVAE(shape, 3, gamma=(1, 1), queue=8, **TWO),
    "mixture": lambda shape: GaussianMixtureVAE(shape, 5, 3, restarts=2, **SMALL),
}
SHAPES = [(1, 28, 28), (2, 18, 25)]


def images_of(shape: tuple[int, int, int], count: int = 60) -> Tensor:
    """Smooth images: a gradient that turns and a level, in every channel another one."""
    random = torch.Generator().manual_seed(0)
    channels, height, width = shape
    turns = 6.3 * torch.rand(count, channels, 1, 1, generator=random)
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    levels = torch.rand(count, channels, 1, 1, generator=random)
    return 0.5 + 0.2 * (levels - 0.5) + 0.3 * (turns.sin() * rows + turns.cos() * columns) / 1.5


class Halves(nn.Module):
    """An autoencoder of another package: it keeps every second pixel."""

    def encode(self, images: Tensor) -> Tensor:
        return images[..., ::2, ::2]

    def decode(self, codes: Tensor) -> Tensor:
        return codes.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


def used(generator: TrainableGenerator | Adapter, images: Tensor) -> None:
    """What an explanation does with a generator, whatever its kind."""
    z = generator.encode(images[:4])
    assert z.shape == (4, generator.latent_dim)
    detail = generator.detail(images[:4], z)
    assert_allclose(generator.decode(z, detail), images[:4], atol=3e-6)
    assert_allclose(generator.decode(z), generator.bare(images[:4]), atol=1e-6)
    assert_allclose(
        generator.decode(z[1:2] + 1, detail[1:2]), generator.decode(z + 1, detail)[1:2], atol=1e-5
    )
    leaf = z.clone().requires_grad_(True)
    generator.decode(leaf, detail).square().sum().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    samples = generator.sample(3, seed=1)
    assert samples.shape == (3, *generator.shape)
    assert torch.equal(samples, generator.sample(3, seed=1))
    for values in (samples, generator.decode(z + 3), generator.bare(images[:4])):
        assert values.min() >= 0
        assert values.max() <= 1
    health = generator.health(images[:20])
    assert health.images == 20
    assert len(health.r2) == len(health.ssim) == generator.shape[0]
    assert health.status in ("healthy", "weak", "collapsed")
    assert {"bare", "unexplained", "typicality"} <= generator.quantiles.keys()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_trained_used_saved_loaded_and_continued(kind, shape, tmp_path):
    images = images_of(shape)
    kept = images.clone()
    given = {"steps": 6, "minutes": 5.0, "seed": 3, "devices": "cpu", "progress": False, "batch_size": 8}
    generator = KINDS[kind](shape).fit(images, resume_from=tmp_path / "run", **given)
    assert torch.equal(images, kept)
    assert not generator.training
    assert {"phase", "step", "loss", "held_out_nats"} <= set(generator.history)
    used(generator, images)

    generator.save(tmp_path / "model")
    loaded = load_generator(tmp_path / "model")
    assert type(loaded) is type(generator)
    assert loaded.quantiles == generator.quantiles
    for name, value in generator.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(loaded.bare(images[:4]), generator.bare(images[:4]))
    assert torch.equal(loaded.sample(2), generator.sample(2))

    streamed = KINDS[kind](shape).fit(TensorDataset(images), **given)
    assert_allclose(streamed.intensity, generator.intensity, atol=1e-4)
    assert streamed.history["step"].tolist() == generator.history["step"].tolist()
    assert torch.isfinite(streamed.bare(images[:4])).all()
    if shape == SHAPES[0]:
        last = sorted(phase.name for phase in generator.phases())[-1].replace(" ", "-")
        resumed = KINDS[kind](shape).fit(images, resume_from=tmp_path / "run", **given)
        for name, value in generator.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name
        assert torch.load(tmp_path / "run" / f"{last}.ckpt", weights_only=True)["finished"]


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 18, 26)])
def test_an_adapted_model_is_used_in_the_same_way_and_says_who_trains_and_saves_it(shape, tmp_path):
    images = images_of(shape)
    generator = Adapter(Halves(), shape).calibrate(images)
    used(generator, images)
    with pytest.raises(GeneratorError, match=r"fit: an adapted model is trained where .*Call calibrate"):
        generator.fit(images, steps=5)
    with pytest.raises(GeneratorError, match=r"save: an adapted model is saved by .*wrap it again"):
        generator.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    again = Adapter(Halves(), shape).calibrate(images)
    assert again.quantiles == generator.quantiles
    assert torch.equal(again.latent_mean, generator.latent_mean)


@pytest.mark.parametrize("kind", KINDS)
def test_several_devices_are_refused_with_the_remedy(kind):
    message = (
        r'devices: must be one device: a run is not split over several .*Pass for example devices="cuda"'
    )
    with pytest.raises(OptionError, match=message):
        KINDS[kind]((1, 28, 28)).fit(images_of((1, 28, 28)), steps=1, devices=["cpu", "cpu"], progress=False)
