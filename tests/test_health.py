"""What health measures beside the channels: information, samples, a linear probe; and how it says so."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from test_training import blobs
from toys import LinearGenerator

from explainer.errors import OptionError
from explainer.generators import VAE
from explainer.generators.health import Health, measure_health
from explainer.generators.sample_quality import local_features, sample_quality
from explainer.metrics import Interval


class Known(LinearGenerator):
    """Codes of blobs that are known exactly, and samples that the test decides on."""

    def __init__(self, samples=None, noise=None):
        super().__init__(5)
        self.samples, self.noise = samples, noise

    def sample(self, count, *, seed=0):
        return super().sample(count, seed=seed) if self.samples is None else self.samples[:count]

    def posterior_of(self, images):
        if self.noise is None:
            return None
        mean = self.encode(images)
        return mean, torch.full_like(mean, math.log(self.noise))

    def kl_per_dimension(self, images):
        if self.noise is None:
            return super().kl_per_dimension(images)
        return torch.tensor([3.0, 1.0, 0.5, 0.005, 0.0])


def test_real_images_as_samples_reach_the_floor_and_blurred_ones_do_not():
    images, others = blobs(800), blobs(400, seed=1)
    real = sample_quality(Known(others), images)
    blurred = torch.nn.functional.avg_pool2d(others, 5, stride=1, padding=2, count_include_pad=False)
    blur = sample_quality(Known(blurred), images)
    noise = sample_quality(Known(torch.rand(400, 1, 16, 16)), images)
    assert real.count == 400
    assert real.dimensions == 32
    assert real.floor == blur.floor == noise.floor
    assert real.bare == blur.bare
    assert real.bare.estimate > real.floor.estimate  # five dimensions cannot hold a blob
    assert real.distance.estimate < 3 * real.floor.estimate
    assert blur.distance.low > blur.floor.high
    assert noise.distance.estimate > blur.distance.estimate
    assert real.distance.low <= real.distance.estimate <= real.distance.high


def test_features_of_flat_images_have_no_fine_bands_and_noise_has():
    flat, noise = local_features(torch.full((2, 3, 24, 20), 0.3)), local_features(torch.rand(2, 3, 24, 20))
    assert flat.shape == (2, 3 * 96)
    assert_allclose(flat[:, : 3 * 64], 0.3, atol=1e-6)
    assert_allclose(flat[:, 3 * 64 :], 0, atol=1e-6)
    assert noise[:, 3 * 64 :].min() > 0.01


def test_too_few_images_have_no_sample_quality_and_wild_samples_are_not_a_number():
    assert sample_quality(Known(), blobs(39)) is None
    wild = sample_quality(Known(torch.full((20, 1, 16, 16), float("nan"))), blobs(40))
    assert math.isnan(wild.distance.estimate)


def test_information_lies_between_what_tells_images_apart_and_the_divergence():
    sharp = measure_health(Known(noise=1e-8), blobs(60))
    low, high = sharp.information
    assert low == pytest.approx(math.log(60), abs=0.05)
    assert high == pytest.approx(4.505)
    assert sharp.active == 3
    vague = measure_health(Known(noise=1e6), blobs(60))
    assert vague.information[0] < 0.2
    assert measure_health(Known(), blobs(60)).information is None


def test_a_linear_probe_reads_labels_that_are_in_the_code_and_no_others():
    images = blobs(200)
    codes = Known().encode(images)
    labels = np.where(codes[:, 0] > codes[:, 0].median(), "right", "left")
    found = measure_health(Known(), images, labels).probe
    assert found.accuracy.estimate > 0.9
    assert found.most_frequent == 0.5
    shuffled = np.random.default_rng(0).permutation(labels)
    chance = measure_health(Known(), images, shuffled).probe
    assert chance.accuracy.low < 0.55
    assert measure_health(Known(), images).probe is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "labels: must be one for each of the 40 images .received shape .2,.*"),
        ([0] * 40, "labels: must be at least two classes with at least 5 images each .received 0: 40"),
        ([0] * 37 + [1] * 3, "received 0: 37, 1: 3"),
    ],
)
def test_labels_that_cannot_be_probed_are_refused(labels, message):
    with pytest.raises(OptionError, match=message):
        measure_health(Known(), blobs(40), labels)


def test_samples_far_from_the_images_are_named_with_the_cure():
    far = measure_health(Known(torch.rand(40, 1, 16, 16)), blobs(80))
    near = measure_health(Known(blobs(40, seed=1)), blobs(80))
    assert ("sampler=True" in far.sentence) == (far.status == "healthy")
    assert "sampler=True" not in near.sentence


def test_a_notebook_shows_the_verdict_the_channels_and_the_facts_escaped():
    health = Health(
        50, (0.1,), (0.9,), (0.8,), (2.0, 0.001),
        {"stage <1>": {"mse": (0.01,), "r2": (0.99,), "ssim": (0.9,)}},
        "healthy", "All is < well.", active=1, information=(3.9, 5.0),
    )  # fmt: skip
    shown = health._repr_html_()
    for part in ("<b style", "Healthy.", "All is &lt; well.", "stage &lt;1&gt;", "0.99", "(50 images)"):
        assert part in shown
    assert "The code holds 2.0 nats in 1 of 2 dimensions" in shown
    assert "at least 3.9 nats, where 50 images can show 3.9, and by at most 5.0" in shown
    assert [row[:2] for row in health.rows(["DNA"])] == [("stage <1>", "DNA"), ("bare", "DNA")]


def test_every_fact_is_a_sentence():
    images = blobs(60)
    generator = VAE((1, 16, 16), 3, widths=(8,), encoder_blocks=(0,), decoder_blocks=(0,))
    generator.fit(images, steps=2, progress=False)
    facts = generator.health(images, labels=[0, 1] * 30).facts()
    assert len(facts) == 4
    assert all(fact.endswith(".") for fact in facts)
    assert "Frechet distance of 3 local features" in facts[2]
    assert str(Interval(0.5, 0.4, 0.6, 0.95)) == "0.500 [0.400, 0.600]"


def test_channels_are_called_by_their_names() -> None:
    generator = VAE((2, 16, 16), 2, widths=(8,), linear=False).eval()
    generator.channel_names = ("DNA", "dark field")
    images = torch.rand(6, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    health = generator.health(images)
    assert [row[1] for row in health.rows()] == ["DNA", "dark field"]
    assert [row[1] for row in health.rows(("a", "b"))] == ["a", "b"]
    assert "<td>dark field</td>" in health._repr_html_()
    generator.channel_names = None
    assert [row[1] for row in generator.health(images).rows()] == ["0", "1"]


def test_a_folder_is_read_at_the_size_of_the_generator(tmp_path) -> None:
    images = blobs(40)
    for number, image in enumerate(images):
        pixels = Image.fromarray((255 * image[0]).round().byte().numpy())
        pixels.resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / f"{number:02d}.png")
    generator = VAE(tuple(images.shape[1:]), latent_dim=2, widths=(4,)).fit(images, steps=2, progress=False)
    of_folder, of_images = generator.health(tmp_path), generator.health(images)
    assert of_folder.status == of_images.status
    assert_allclose(of_folder.r2, of_images.r2, atol=0.05)
