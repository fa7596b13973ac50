"""The contract of every generator, and what is particular to each kind."""

import json
import math

import pytest
import torch
from numpy.testing import assert_allclose
from toys import LinearGenerator

from explainer.errors import GeneratorError, ModelFileError, OptionError
from explainer.generators import VAE, GaussianMixtureVAE, InfoMaxVAE, TwoStageVAE, load_generator
from explainer.generators.base import gate
from explainer.generators.networks import Decoder, Encoder, split_gaussian
from explainer.generators.objectives import (
    gaussian_kl,
    laplacian_distance,
    laplacian_pyramid,
    sigma_reconstruction,
)

SMALL = {"widths": (8, 8), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}
KINDS = {
    "vae": lambda shape: VAE(shape, 5, **SMALL),
    "spatial vae": lambda shape: VAE(shape, latent_channels=3, **SMALL),
    "infomax": lambda shape: InfoMaxVAE(shape, 5, queue=8, **SMALL),
    "spatial infomax": lambda shape: InfoMaxVAE(shape, bound="jsd", latent_channels=3, **SMALL),
    "two-stage": lambda shape: TwoStageVAE(shape, 5, latent_channels=3, code_width=8, **SMALL),
    "mixture": lambda shape: GaussianMixtureVAE(shape, 5, 3, **SMALL),
    "linear": lambda shape: LinearGenerator(5),
}
TRAINABLE = ("vae", "spatial vae", "infomax", "spatial infomax", "two-stage", "mixture")


def built(kind, shape=(1, 16, 16), seed=0):
    """A generator with random weights everywhere, also where training starts from zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = KINDS[kind](shape)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return generator.requires_grad_(False).eval()


def images_of(shape=(1, 16, 16), count=4):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    def test_shapes_and_ranges(self, kind):
        generator, images = built(kind), images_of()
        z = generator.encode(images)
        assert z.shape == (4, generator.latent_dim)
        for decoded in (generator.decode(z), generator.bare(images), generator.sample(4)):
            assert decoded.shape == images.shape
            assert decoded.min() >= 0
            assert decoded.max() <= 1

    def test_with_its_own_detail_an_unmoved_image_is_itself(self, kind):
        generator, images = built(kind), images_of()
        z = generator.encode(images)
        assert_allclose(generator.decode(z, generator.detail(images, z)), images, atol=2e-6)

    def test_without_detail_an_unmoved_image_is_bare(self, kind):
        generator, images = built(kind), images_of()
        z = generator.encode(images)
        delivered = generator.decode(z, generator.detail(images, z, strength=0.0))
        assert_allclose(delivered, generator.bare(images), atol=2e-6)
        assert not torch.allclose(delivered, images, atol=0.01)

    def test_details_can_be_indexed_like_the_images(self, kind):
        generator, images = built(kind), images_of()
        z = generator.encode(images)
        detail, rows = generator.detail(images, z), torch.tensor([2, 0])
        moved = z + 0.5
        assert_allclose(
            generator.decode(moved[rows], detail[rows]), generator.decode(moved, detail)[rows], atol=1e-5
        )

    def test_batched_equals_unbatched(self, kind):
        generator, images = built(kind), images_of()
        apart = torch.cat([generator.encode(image[None]) for image in images])
        assert_allclose(generator.encode(images), apart, atol=1e-5)
        assert_allclose(
            generator.bare(images), torch.cat([generator.bare(i[None]) for i in images]), atol=1e-5
        )

    def test_inputs_are_not_changed(self, kind):
        generator, images = built(kind), images_of()
        z = generator.encode(images)
        kept, kept_z = images.clone(), z.clone()
        generator.decode(z + 1, generator.detail(images, z))
        assert torch.equal(images, kept)
        assert torch.equal(z, kept_z)

    def test_the_delivered_image_has_a_gradient_in_the_code(self, kind):
        generator, images = built(kind), images_of()
        z = generator.encode(images)
        leaf = (z + 0.1).requires_grad_(True)
        generator.decode(leaf, generator.detail(images, z)).mean().backward()
        assert leaf.grad.abs().max() > 0

    def test_sampling_depends_on_the_seed_alone(self, kind):
        generator = built(kind)
        assert torch.equal(generator.sample(2, seed=5), generator.sample(2, seed=5))
        assert not torch.equal(generator.sample(2, seed=5), generator.sample(2, seed=6))

    def test_another_shape_is_refused(self, kind):
        with pytest.raises(GeneratorError, match=r"images: must be \(N, 1, 16, 16\)"):
            built(kind).encode(torch.zeros(1, 1, 20, 16))

    @pytest.mark.parametrize("strength", [-0.1, 1.1])
    def test_a_strength_outside_its_range_is_refused(self, kind, strength):
        generator, images = built(kind), images_of()
        with pytest.raises(GeneratorError, match=r"detail: must lie in \[0, 1\]"):
            generator.detail(images, generator.encode(images), strength)

    def test_half_the_detail_lies_between_bare_and_image(self, kind):
        generator, images = built(kind), images_of()
        z = generator.encode(images)
        half = generator.decode(z, generator.detail(images, z, strength=0.5))
        to_image, to_bare = (half - images).norm(), (half - generator.bare(images)).norm()
        whole = (images - generator.bare(images)).norm()
        assert 0 < to_image < whole
        assert 0 < to_bare < whole


@pytest.mark.parametrize("kind", TRAINABLE)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 30), (4, 33, 47)])
def test_sizes_the_network_cannot_halve_are_padded_and_cropped_back(kind, shape):
    generator, images = built(kind, shape), images_of(shape, 2)
    z = generator.encode(images)
    assert generator.decode(z).shape == images.shape
    assert_allclose(generator.decode(z, generator.detail(images, z)), images, atol=2e-6)


@pytest.mark.parametrize("kind", TRAINABLE)
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    generator, images = built(kind), images_of()
    generator.quantiles = {"bare": {"0.5": 0.1, "1": 0.2}}
    generator.channel_names = ("brightfield",)
    generator.save(tmp_path / "model")
    loaded = load_generator(tmp_path / "model")
    assert torch.equal(loaded.encode(images), generator.encode(images))
    assert torch.equal(loaded.bare(images), generator.bare(images))
    assert loaded.quantiles == generator.quantiles
    assert loaded.channel_names == ("brightfield",)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_halves_the_file_and_hardly_moves_the_image(tmp_path):
    generator, images = built("two-stage"), images_of()
    generator.save(tmp_path / "full")
    generator.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "generator.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    assert_allclose(load_generator(tmp_path / "half").bare(images), generator.bare(images), atol=2e-3)


def test_unusable_model_folders_are_named(tmp_path):
    built("vae").save(tmp_path / "model")
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    with pytest.raises(OptionError, match="source: is no generator"):
        load_generator(tmp_path / "nowhere")
    for change, message in (
        ({"format": 99}, "has a card of another format"),
        ({"generator": None}, "has no generator"),
        ({"generator": {**card["generator"], "kind": "gan"}}, "is of an unknown kind"),
        (
            {"generator": {**card["generator"], "options": {"shape": [1, 16, 16], "latent_dim": 7}}},
            "does not have",
        ),
    ):
        (tmp_path / "model" / "card.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(ModelFileError, match=message):
            load_generator(tmp_path / "model")


@pytest.mark.parametrize("shape", [(3, 64), (3, 8, 64), (0, 64, 64)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(GeneratorError, match="shape: must be"):
        VAE(shape)


@pytest.mark.parametrize("kind", [VAE, TwoStageVAE])
@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 16, 16, 16)])
def test_blocks_follow_the_widths(kind, widths):
    generator = kind((1, 32, 32), 4, widths=widths)
    first = generator if kind is VAE else generator.stage1
    assert first.encoder_blocks == (0, 1, 1, 1)[: len(widths)]
    assert first.decoder_blocks == ((1, 1, 1, 1) if kind is VAE else (1, 2, 2, 2))[: len(widths)]
    assert generator.decode(generator.encode(torch.zeros(1, 1, 32, 32))).shape == (1, 1, 32, 32)


def test_impossible_options_are_refused():
    with pytest.raises(GeneratorError, match="latent_dim: must be at least 1"):
        VAE((1, 32, 32), 0)
    with pytest.raises(OptionError, match="must be equally long"):
        VAE((1, 32, 32), 4, widths=(8, 8), encoder_blocks=(1,), decoder_blocks=(1, 1))


def test_the_gate_is_one_where_nothing_changed_and_closes_where_much_did():
    y = torch.zeros(1, 3, 16, 16)
    changed = y.clone()
    changed[..., 6:10, 6:10] = 0.5
    mask = gate(changed, y, tau=0.03)
    assert mask[..., 0, 0] == 1
    assert mask[..., 8, 8] < 1e-3


def test_a_ghost_is_left_without_the_gate_and_gone_with_it():
    """A dark spot that the code half explains must vanish when the code removes it."""
    y0 = torch.full((1, 1, 16, 16), 0.8)
    y0[..., 4:12, 4:12] = 0.4  # what the generator makes of the spot
    image = torch.full((1, 1, 16, 16), 0.8)
    image[..., 4:12, 4:12] = 0.2  # the spot itself
    moved = torch.full((1, 1, 16, 16), 0.8)  # the code says: no spot
    ghost = moved + (image - y0)
    gated = moved + gate(moved, y0, 0.03) * (image - y0)
    assert ghost[0, 0, 8, 8] == pytest.approx(0.6)
    assert gated[0, 0, 8, 8] == pytest.approx(0.8, abs=1e-3)


def test_no_gradient_runs_through_the_gate():
    y = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    assert not gate(y, torch.zeros(1, 1, 8, 8), 0.1).requires_grad


def test_fine_detail_of_a_large_image_fades_where_the_frame_changes_it():
    generator = built("vae")
    generator.tau = 0.05
    small = torch.full((1, 1, 16, 16), 0.5)
    stripes = 0.1 * (-1.0) ** torch.arange(64).view(1, 1, 1, 64)
    large = 0.5 + stripes.expand(1, 1, 64, 64)
    frame = small.clone()
    frame[..., :8, :] = 0.9  # the upper half becomes bright
    delivered = generator.at_full_size(frame, small, large)
    assert_allclose(delivered[..., 48:, :], large[..., 48:, :], atol=1e-3)
    assert delivered[..., 4:16, :].std() < 0.02
    assert torch.equal(generator.at_full_size(frame, small, small), frame)


def test_intensities_are_mapped_by_the_stored_percentiles_and_back():
    generator = built("vae")
    generator.intensity.copy_(torch.tensor([[0.2], [0.6]]))
    images = images_of()
    assert_allclose(generator.normalise(images), (images - 0.2) / 0.4, atol=1e-6)
    assert_allclose(generator.denormalise(generator.normalise(images)), images, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "region"),
    [((64, 64), (0, 0, 64, 64)), ((100, 140), (0, 20, 100, 100)), ((140, 100), (20, 0, 100, 100))],
)
def test_the_region_is_the_largest_central_part(size, region):
    assert KINDS["vae"]((1, 32, 32)).region(size) == region


# -- objectives: hand-solved values --------------------------------------------------------------------


def test_kl_of_a_gaussian_matches_torch():
    mean, log_variance = torch.randn(50, 3), torch.randn(50, 3)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean(0)
    assert_allclose(gaussian_kl(mean, log_variance), expected, rtol=1e-5)


def test_reconstruction_is_the_likelihood_at_the_best_sigma_of_each_channel():
    images, rebuilt = torch.rand(8, 2, 6, 6), torch.rand(8, 2, 6, 6)
    nats, mse = sigma_reconstruction(images, rebuilt)
    sigma = mse.sqrt()
    normal = torch.distributions.Normal(rebuilt, sigma.view(1, 2, 1, 1))
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi)) * 72
    assert float(nats) == pytest.approx(
        float(-normal.log_prob(images).sum((1, 2, 3)).mean() - constant), rel=1e-3
    )
    worse = [
        -torch.distributions.Normal(rebuilt, sigma.view(1, 2, 1, 1) * k).log_prob(images).sum()
        for k in (0.8, 1.25)
    ]
    assert all(other > -normal.log_prob(images).sum() for other in worse)


def test_sigma_has_a_floor_so_that_perfection_is_finite():
    nats, _ = sigma_reconstruction(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
    assert float(nats) == pytest.approx(16 * -6, abs=1)


def test_the_laplacian_pyramid_adds_up_to_the_image():
    image = torch.rand(1, 1, 32, 32)
    *bands, rest = laplacian_pyramid(image, 3)
    for band in reversed(bands):
        rest = torch.nn.functional.interpolate(rest, size=band.shape[-2:], mode="bilinear") + band
    assert_allclose(rest, image, atol=1e-6)


def test_the_laplacian_distance_of_a_constant_offset_is_the_offset():
    assert float(
        laplacian_distance(torch.zeros(2, 1, 32, 32), torch.full((2, 1, 32, 32), 0.25))
    ) == pytest.approx(0.25)


def test_log_variances_are_bounded_but_never_flat():
    wild = torch.tensor([[0.0, 1e4]], requires_grad=True)
    _, log_variance = split_gaussian(wild)
    assert log_variance.item() <= 10
    mild = torch.tensor([[0.0, 8.0]], requires_grad=True)
    split_gaussian(mild)[1].sum().backward()
    assert mild.grad[0, 1] > 0.1


def test_the_decoder_undoes_the_encoders_halvings():
    encoder, decoder = Encoder(3, (8, 16), (0, 1)), Decoder(3, (8, 16), (1, 1))
    maps = encoder(torch.rand(1, 3, 32, 48))
    assert maps.shape == (1, 16, 8, 12)
    assert decoder(maps).shape == (1, 3, 32, 48)


def test_stage_weights_default_to_the_evidence_bound_and_are_kept(tmp_path):
    sizes = {"latent_dim": 4, "widths": (8, 8), "encoder_blocks": (0, 0), "decoder_blocks": (0, 0)}
    plain = TwoStageVAE((2, 32, 32), **sizes, code_width=8)
    assert (plain.stage1.beta, plain.beta, plain.shared_sigma) == (1.0, 1.0, False)
    other = TwoStageVAE((2, 32, 32), **sizes, code_width=8, first_beta=0.1, beta=0.5, shared_sigma=True)
    other.save(tmp_path / "model")
    again = load_generator(tmp_path / "model")
    assert (again.stage1.beta, again.beta, again.shared_sigma) == (0.1, 0.5, True)
    with pytest.raises(OptionError, match=r"first_beta, beta: must be positive .*\(0, 1.0\)"):
        TwoStageVAE((2, 32, 32), **sizes, first_beta=0)


def test_a_shared_sigma_weighs_the_errors_of_all_channels_alike():
    generator = VAE((2, 32, 32), latent_dim=4)
    images = torch.zeros(3, 2, 32, 32)
    rebuilt = torch.tensor([0.1, 0.01]).view(1, 2, 1, 1).expand_as(images)
    kl = torch.tensor(7.0)
    for shared, expected in ((False, (0.1, 0.01)), (True, (math.sqrt(0.00505),) * 2)):
        loss, terms = generator.image_loss(images, rebuilt, kl, 0.5, shared_sigma=shared)
        nats = 1024 * sum(0.5 + math.log(sigma) for sigma in expected)
        assert float(terms["reconstruction_nats"]) == pytest.approx(nats, rel=0.01)
        assert float(loss) == pytest.approx((float(terms["reconstruction_nats"]) + 3.5) / 2048, rel=1e-5)
