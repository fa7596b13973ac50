"""What takes the place of pixels: ranges, seeds, masks, a generator that inpaints."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from toys import LinearGenerator, toy_images

from explainer.errors import GeneratorError, OptionError
from explainer.fillers import FILLERS, Inpainting, Mean, UniformNoise, make_filler


@pytest.fixture
def images() -> Tensor:
    """Two channels of very different ranges."""
    stream = torch.Generator().manual_seed(0)
    low = torch.tensor([0.0, 0.7]).view(1, 2, 1, 1)
    return low + torch.tensor([0.004, 0.2]).view(1, 2, 1, 1) * torch.rand(6, 2, 12, 12, generator=stream)


@pytest.mark.parametrize("name", FILLERS)
def test_contract(name: str, images: Tensor) -> None:
    filler, before = make_filler(name, images), images.clone()
    drawn = filler.draw(range(6), 5)
    assert drawn.shape == images.shape
    assert drawn.dtype == images.dtype
    # The same for the same image and seed, however many are drawn together.
    assert torch.equal(drawn[2:4], filler.draw(range(2, 4), 5))
    assert torch.equal(drawn, filler.draw(range(6), 6)) != filler.random
    for channel in range(2):
        assert drawn[:, channel].min() >= images[:, channel].min() - 1e-7
        assert drawn[:, channel].max() <= images[:, channel].max() + 1e-7
    mask = torch.zeros(6, 12, 12, dtype=torch.bool)
    mask[:, :3] = True
    filled = filler.fill(drawn, images, mask)
    assert torch.equal(filled[:, :, 3:], images[:, :, 3:])
    assert torch.equal(filled[:, :, :3], drawn[:, :, :3])
    assert torch.equal(images, before)


def test_uniform_noise_fills_the_range_of_each_channel(images: Tensor) -> None:
    drawn = UniformNoise(images).draw(range(6), 0)
    for channel, width in enumerate((0.004, 0.2)):
        assert_allclose(drawn[:, channel].std(), width / 12**0.5, rtol=0.06)


def test_marginal_takes_pixels_of_other_images_at_the_same_place() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1) / 8 + torch.arange(9.0).view(1, 1, 3, 3) / 1000
    drawn = make_filler("marginal", images).draw(range(5), 0)
    source = ((drawn - images[:1]) * 8).round()
    assert_allclose(drawn, source / 8 + images[:1], atol=1e-6)
    assert not bool((source == torch.arange(5.0).view(5, 1, 1, 1)).any())
    with pytest.raises(OptionError, match="filler: needs other images"):
        make_filler("marginal", images[:1])


def test_mean_and_blur(images: Tensor) -> None:
    assert_allclose(Mean(images).draw(range(1), 0)[0, :, 0, 0], images.mean(dim=(0, 2, 3)), rtol=1e-6)
    blurred = make_filler("blur", images).draw(range(6), 0)
    assert float(blurred.std(dim=(2, 3)).max()) < float(images.std(dim=(2, 3)).max()) / 2


def test_inpainting_restores_what_the_generator_knows() -> None:
    generator = LinearGenerator().eval()
    images = generator.decode(0.3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    filler = make_filler(generator, images)
    assert filler.name == "inpainting"
    mask = torch.zeros(4, 16, 16, dtype=torch.bool)
    mask[:, 4:8, 4:8] = True
    hole = Mean(images).fill(filler.draw(range(4), 0), images, mask)
    filled = filler.fill(filler.draw(range(4), 0), images, mask)
    assert torch.equal(filled[:, 0][~mask], images[:, 0][~mask])
    missed = (filled - images).abs()[:, 0][mask].mean()
    assert float(missed) < 0.05 * float((hole - images).abs()[:, 0][mask].mean())
    nothing = torch.zeros_like(mask)
    assert torch.equal(filler.fill(filler.draw(range(4), 0), images, nothing), images)


def test_wrong_fillers(images: Tensor) -> None:
    generator = LinearGenerator().eval()
    with pytest.raises(OptionError, match=r"filler: is not known \(received snow\)"):
        make_filler("snow", images)
    with pytest.raises(GeneratorError, match="filler: is a generator of shape"):
        make_filler(generator, images)
    with pytest.raises(GeneratorError, match="does not see all of the images"):
        make_filler(generator, torch.rand(2, 1, 16, 32))
    with pytest.raises(OptionError, match="rounds: must be at least 1"):
        Inpainting(toy_images(2), generator, rounds=0)
    given = Mean(images)
    assert make_filler(given, images) is given
