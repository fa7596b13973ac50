"""Autoencoders of other packages as generators: what encode may return, units, calibration, errors."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from toys import LinearGenerator, toy_images

from explainer.errors import DependencyError, GeneratorError, ModelFileError, OptionError, TrainingError
from explainer.generators import Adapter, from_diffusers, from_pythae

SHAPE = (2, 16, 24)


class Autoencoder(nn.Module):
    """A code of 3 x 4 x 6 that holds a quarter of each image: decode(encode(x)) is a blur of x."""

    def __init__(self, form="tensor", low=-1.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.down, self.up = nn.Conv2d(2, 3, 4, stride=4), nn.ConvTranspose2d(3, 2, 4, stride=4)
        self.dropout = nn.Dropout(0.5)
        self.form, self.low, self.seen = form, low, []

    def encode(self, images):
        self.seen.append((float(images.min()), float(images.max())))
        code = self.dropout(self.down(images))
        log_variance = torch.full_like(code, -2.0)
        normal = torch.distributions.Normal(code, (0.5 * log_variance).exp())
        return {
            "tensor": lambda: code,
            "pair": lambda: (code, log_variance),
            "one": lambda: (code,),
            "normal": lambda: normal,
            "posterior": lambda: SimpleNamespace(
                latent_dist=SimpleNamespace(mode=lambda: code, logvar=log_variance)
            ),
            "mean": lambda: SimpleNamespace(latent_dist=SimpleNamespace(mean=code)),
            "embedding": lambda: SimpleNamespace(embedding=code, log_covariance=log_variance),
            "list of three": lambda: (code, code, code),
            "a word": lambda: "code",
        }[self.form]()

    def decode(self, code):
        return SimpleNamespace(sample=self.up(code).tanh())


def images_of(count=4, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def adapted(form="tensor"):
    return Adapter(Autoencoder(form), SHAPE, range=(-1, 1))


@pytest.mark.parametrize("form", ["tensor", "pair", "one", "normal", "posterior", "mean", "embedding"])
def test_whatever_encode_returns_the_code_is_its_centre_flattened(form):
    generator, images = adapted(form), images_of()
    model = Autoencoder().eval()
    assert generator.latent_dim == 3 * 4 * 6
    assert generator.code_shape == (3, 4, 6)
    expected = model.down(2 * images - 1).flatten(1).detach()
    assert_allclose(generator.encode(images).detach(), expected, atol=1e-6)
    assert_allclose(
        generator.bare(images), (model.up(expected.view(-1, 3, 4, 6)).tanh().detach() + 1) / 2, atol=1e-6
    )


@pytest.mark.parametrize("form", ["pair", "normal", "posterior", "embedding"])
def test_the_divergence_is_known_where_there_is_a_variance(form):
    generator, images = adapted(form), images_of()
    code = generator.encode(images)
    expected = 0.5 * (code.square() + np.exp(-2) - 1 + 2).mean(0).detach()
    assert_allclose(generator.kl_per_dimension(images), expected, rtol=1e-4)
    assert generator.health(images).kl != ()


@pytest.mark.parametrize("form", ["tensor", "mean"])
def test_without_a_variance_there_is_no_divergence(form):
    assert adapted(form).kl_per_dimension(images_of()).shape == (0,)
    assert adapted(form).health(images_of()).kl == ()


@pytest.fixture(scope="module")
def generator():
    generator = adapted("pair").calibrate(0.2 + 0.5 * images_of(60))
    assert generator.intensity[0, 0] > 0.15
    return generator


class TestContract:
    """What every generator must do, on a calibrated adapter (its intensity units are not [0, 1])."""

    def test_shapes_ranges_and_units(self, generator):
        images = images_of()
        z = generator.encode(images)
        for decoded in (generator.decode(z), generator.bare(images), generator.sample(4)):
            assert decoded.shape == images.shape
            assert decoded.min() >= 0
            assert decoded.max() <= 1
        assert_allclose(generator.encode(images).detach(), adapted().encode(images).detach(), atol=1e-5)
        assert_allclose(generator.bare(images), adapted().bare(images), atol=1e-5)

    def test_with_its_own_detail_an_unmoved_image_is_itself(self, generator):
        images = images_of()
        z = generator.encode(images)
        assert_allclose(generator.decode(z, generator.detail(images, z)).detach(), images, atol=2e-6)
        bare = generator.decode(z, generator.detail(images, z, strength=0.0)).detach()
        assert_allclose(bare, generator.bare(images), atol=2e-6)
        assert not torch.allclose(bare, images, atol=0.01)

    def test_batched_equals_unbatched_and_details_are_indexed(self, generator):
        images = images_of()
        z, rows = generator.encode(images), torch.tensor([2, 0])
        detail = generator.detail(images, z)
        assert_allclose(
            z.detach(), torch.cat([generator.encode(i[None]) for i in images]).detach(), atol=1e-5
        )
        assert_allclose(
            generator.decode(z[rows] + 0.5, detail[rows]).detach(),
            generator.decode(z + 0.5, detail)[rows].detach(),
            atol=1e-5,
        )

    def test_the_delivered_image_has_a_gradient_in_the_code(self, generator):
        images = images_of()
        z = generator.encode(images).detach()
        leaf = (z + 0.1).requires_grad_(True)
        generator.decode(leaf, generator.detail(images, z)).mean().backward()
        assert leaf.grad.abs().max() > 0

    def test_samples_come_from_the_calibrated_codes_by_the_seed_alone(self, generator):
        assert torch.equal(generator.sample(2, seed=5), generator.sample(2, seed=5))
        assert not torch.equal(generator.sample(2, seed=5), generator.sample(2, seed=6))

    def test_another_shape_is_refused(self, generator):
        with pytest.raises(GeneratorError, match=r"images: must be \(N, 2, 16, 24\)"):
            generator.encode(torch.zeros(1, 2, 24, 24))


def test_the_model_is_left_as_it_was_and_evaluated_without_dropout():
    model = Autoencoder().train()
    generator = Adapter(model, SHAPE)
    images = images_of()
    assert torch.equal(generator.encode(images), generator.encode(images))
    assert model.training
    assert model.dropout.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not generator.encode(images).requires_grad


def test_the_range_is_what_the_model_sees():
    model = Autoencoder()
    generator = Adapter(model, SHAPE, range=(-2, 4))
    generator.encode(torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)]))
    assert model.seen[-1] == (-2.0, 4.0)


def test_calibration_stores_what_fit_stores():
    """An adapted linear generator is that generator: same codes, same errors, held-out quantiles of them."""
    linear, images = LinearGenerator(), toy_images(80)
    generator = Adapter(linear, (1, 16, 16)).calibrate(images)
    codes = linear.encode(images)
    assert_allclose(generator.latent_mean, codes.mean(0), atol=1e-5)
    assert_allclose(generator.latent_std, codes.std(0), atol=1e-5)
    errors = generator.bare_error(images)
    assert generator.quantiles["bare"]["0.5"] == pytest.approx(float(errors.median()), rel=0.1)
    assert generator.quantiles["bare"]["1"] == pytest.approx(float(errors.max()))
    assert generator.typicality(codes).square().mean() == pytest.approx(1, abs=0.05)
    assert generator.health(images).status == "healthy"
    stored = (images * 255).round().to(torch.uint8).numpy()
    assert_allclose(
        Adapter(linear, (1, 16, 16)).calibrate(stored).latent_mean, generator.latent_mean, atol=0.05
    )


def test_what_cannot_be_calibrated_on_is_named():
    generator = adapted()
    with pytest.raises(TrainingError, match="images: must be at least 40 images"):
        generator.calibrate(images_of(39))
    with pytest.raises(TrainingError, match=r"images: must be finite and lie in \[0, 1\]"):
        generator.calibrate(2 * images_of(40))
    assert generator.quantiles == {}


def test_sizes_the_model_cannot_halve_are_padded_and_cropped_back():
    generator = Adapter(Autoencoder(), (2, 18, 21), range=(-1, 1), multiple=4)
    images = images_of(shape=(2, 18, 21))
    assert generator.code_shape == (3, 5, 6)
    z = generator.encode(images)
    assert_allclose(generator.decode(z, generator.detail(images, z)).detach(), images, atol=2e-6)


class Half:
    def encode(self, images):
        return images.flatten(1)


class Wrong(Half):
    def __init__(self, **methods):
        self.__dict__.update(methods)

    def decode(self, code):
        return code.view(-1, *SHAPE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Half(), "model: has no method decode"),
        (object(), "model: has no method encode and no method decode"),
        (Autoencoder("list of three"), "model: encodes to something that no code can be read from .* tuple"),
        (Autoencoder("a word"), r"no code can be read from \(received str\)"),
        (Wrong(encode=lambda x: (x, x[:1])), "no code can be read from .*a pair of shapes"),
        (Wrong(encode=lambda x: x.mean()), "model: must encode two images to two codes"),
        (Wrong(encode=lambda x: x.flatten(1).long()), r"to two codes \(received torch.int64 \(2, 768\)\)"),
        (Wrong(encode=lambda x: x / {}["scale"]), "model: cannot encode images of shape .*KeyError"),
        (Wrong(decode=lambda z: z.view(1, 2, 3)), "model: cannot decode images of shape .*RuntimeError"),
        (Wrong(decode=lambda z: z), r"model: must decode to images of shape \(2, 16, 24\)"),
        (Wrong(decode=lambda z: None), r"no images can be read from \(received NoneType\)"),
    ],
)
def test_a_model_that_does_not_fit_is_named(model, message):
    with pytest.raises(GeneratorError, match=message):
        Adapter(model, SHAPE)


@pytest.mark.parametrize("bounds", [(1, 0), (0, 0), (0, float("inf")), (0, 1, 2), 3])
def test_an_impossible_range_is_refused(bounds):
    with pytest.raises(OptionError, match=r"range: must be \(low, high\), both finite"):
        Adapter(Autoencoder(), SHAPE, range=bounds)


# -- other packages ------------------------------------------------------------------------------------


class Encoder(nn.Linear):
    def forward(self, images):
        code = super().forward(images.flatten(1))
        return SimpleNamespace(embedding=code, log_covariance=torch.zeros_like(code))


class Decoder(nn.Linear):
    def forward(self, code):
        return SimpleNamespace(reconstruction=super().forward(code).sigmoid().view(-1, *SHAPE))


def test_a_model_of_pythae_is_its_encoder_and_decoder():
    model = nn.Module()
    model.encoder, model.decoder = Encoder(768, 5), Decoder(5, 768)
    generator, images = from_pythae(model, SHAPE), images_of()
    assert_allclose(generator.encode(images), model.encoder(images).embedding.detach(), atol=1e-6)
    assert generator.kl_per_dimension(images).shape == (5,)
    assert {id(parameter) for parameter in generator.parameters()} == {id(p) for p in model.parameters()}
    assert generator.source == "pythae Module"
    del model.decoder
    with pytest.raises(GeneratorError, match="model: has no decoder"):
        from_pythae(model, SHAPE)


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(DependencyError, match=r"diffusers: cannot be .*progressive-explainer\[huggingface\]"):
        from_diffusers(Autoencoder(), SHAPE)


@pytest.fixture(scope="module")
def autoencoder_kl():
    try:
        with warnings.catch_warnings(action="ignore"):
            from diffusers import AutoencoderKL
    except ImportError as error:
        pytest.skip(f"diffusers cannot be imported: {error}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=2, block_out_channels=(8, 16), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip


@pytest.mark.filterwarnings("default")
def test_an_autoencoder_kl_is_a_generator(autoencoder_kl, tmp_path):
    generator = from_diffusers(autoencoder_kl, (3, 17, 16))
    images = images_of(shape=(3, 17, 16))
    assert generator.code_shape == (2, 9, 8)
    z = generator.encode(images)
    with torch.no_grad():
        expected = autoencoder_kl.encode(2 * generator.pad(images) - 1).latent_dist.mode().flatten(1)
    assert_allclose(z.detach(), expected, atol=1e-5)
    assert_allclose(generator.decode(z, generator.detail(images, z)).detach(), images, atol=2e-6)
    assert sum(generator.kl_per_dimension(images)) > 0
    autoencoder_kl.save_pretrained(tmp_path / "kl")
    loaded = from_diffusers(tmp_path / "kl", (3, 17, 16))
    assert_allclose(loaded.encode(images).detach(), z.detach(), atol=1e-5)


@pytest.mark.filterwarnings("default")
def test_what_is_no_autoencoder_kl_is_named(autoencoder_kl, tmp_path):
    with pytest.raises(GeneratorError, match=r"autoencoder: must be an AutoencoderKL .received Autoencoder"):
        from_diffusers(Autoencoder(), SHAPE)
    with pytest.raises(ModelFileError, match=r"autoencoder: is not a folder with a config.json"):
        from_diffusers("stabilityai/sd-vae-ft-mse", SHAPE)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="autoencoder: cannot be read"):
        from_diffusers(tmp_path, SHAPE)
    with pytest.raises(GeneratorError, match="model: cannot encode images of shape"):
        from_diffusers(autoencoder_kl, (1, 16, 16))
