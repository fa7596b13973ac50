"""The linear path begins at the principal components, which scikit-learn finds too."""

import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA

from explainer.generators import VAE, GaussianMixtureVAE, InfoMaxVAE, TwoStageVAE, load_generator
from explainer.generators.linear import LinearPath
from explainer.metrics import r2

SMALL = {"widths": (8, 16), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}


def blobs(count=400, channels=1, size=16):
    """Two discs whose places and brightnesses vary, with noise."""
    random = torch.Generator().manual_seed(0)
    grid = torch.arange(float(size))
    images = 0.02 * torch.randn(count, channels, size, size, generator=random)
    for _ in range(2):
        y, x, bright = torch.rand(3, count, 1, 1, 1, generator=random)
        away = (grid[:, None] - 3 - 9 * y) ** 2 + (grid - 3 - 9 * x) ** 2
        images = images + (0.2 + 0.4 * bright) * torch.exp(-away / 12)
    return images.clamp(0, 1)


def sharp(mean_and_variance):
    return mean_and_variance.chunk(2, dim=1)


def test_of_one_channel_it_is_probabilistic_principal_components():
    """The mean code is that of Tipping & Bishop; where sigma is small it rebuilds what PCA rebuilds."""
    images = blobs()
    path = LinearPath((1, 16, 16), 6)
    path.start(images)
    mean, log_variance = sharp(path(images).flatten(1))
    analysis = PCA(6, svd_solver="full").fit(images.flatten(1).double().numpy())
    left = (
        (
            images.flatten(1).double()
            - torch.from_numpy(
                analysis.inverse_transform(analysis.transform(images.flatten(1).double().numpy()))
            )
        )
        .square()
        .mean()
    )
    shares = torch.from_numpy(analysis.explained_variance_) * (399 / 400) / left
    assert_allclose(log_variance[0].exp().detach(), 1 / shares, rtol=0.02)
    assert_allclose(mean.detach().var(dim=0, correction=0), 1 - 1 / shares, rtol=0.02)
    rebuilt = path.decode(mean[:, :, None, None]).flatten(1)
    shrunk = analysis.transform(images.flatten(1).double().numpy()) * (1 - 1 / shares).numpy()
    assert_allclose(rebuilt.detach(), analysis.inverse_transform(shrunk), atol=2e-3)


def test_channels_are_weighed_by_what_is_left_of_them():
    """A faint channel counts as much as a bright one: sigma is per channel."""
    bright, faint = blobs(), blobs().flip(0)
    images = torch.cat([bright, 0.01 * faint], dim=1)
    path = LinearPath((2, 16, 16), 20)
    path.start(images)
    rebuilt = path.decode(sharp(path(images))[0])
    ours = r2(rebuilt.detach(), images)
    analysis = PCA(20).fit(images.flatten(1).numpy())
    plain = torch.from_numpy(analysis.inverse_transform(analysis.transform(images.flatten(1).numpy())))
    theirs = r2(plain.view_as(images).float(), images)
    assert ours.min() > 0.85
    assert theirs[1] < 0.5


def test_patches_are_images_of_their_own():
    images = blobs(60)
    parts = LinearPath((1, 16, 16), 5, patch=(8, 8))
    parts.start(images)
    tiles = images.unflatten(2, (2, 8)).unflatten(4, (2, 8)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    whole = LinearPath((1, 8, 8), 5)
    whole.load_state_dict(parts.state_dict())
    mean = sharp(parts(images))[0]
    assert mean.shape == (60, 5, 2, 2)
    alone = sharp(whole(tiles).flatten(1))[0]
    assert_allclose(mean.permute(0, 2, 3, 1).flatten(0, 2).detach(), alone.detach(), atol=1e-5)
    rebuilt = parts.decode(mean)
    assert rebuilt.shape == images.shape
    assert r2(rebuilt.detach(), images)[0] > 0.8


def test_few_images_leave_the_rest_of_the_code_at_the_prior():
    path = LinearPath((1, 16, 16), 60)
    path.start(blobs(10))
    mean, log_variance = sharp(path(blobs(10)).flatten(1))
    assert torch.isfinite(mean).all()
    assert not mean[:, 10:].any()
    assert not log_variance[:, 10:].any()


@pytest.mark.parametrize("kind", [VAE, InfoMaxVAE, GaussianMixtureVAE, TwoStageVAE])
def test_hardly_trained_every_kind_is_as_good_as_principal_components(kind):
    images, fresh = blobs(1000)[:700], blobs(1000)[700:]
    options = {"code_width": 16} if kind is TwoStageVAE else {}
    generator = kind((1, 16, 16), latent_dim=6, seed=1, **SMALL, **options)
    generator.fit(images, steps=40, minutes=5, progress=False)
    truth = generator.normalise(fresh).flatten(1).numpy()
    analysis = PCA(6).fit(generator.normalise(images).flatten(1).numpy())
    linear = torch.from_numpy(analysis.inverse_transform(analysis.transform(truth))).view_as(fresh)
    bound = float(r2(linear.float(), generator.normalise(fresh))[0])
    assert generator.health(fresh).r2[0] > 0.9 * bound
    assert sum(generator.health(fresh).kl) > 5


@pytest.mark.parametrize("kind", [VAE, TwoStageVAE])
def test_it_can_be_left_out_and_survives_saving(kind, tmp_path):
    images = blobs(8)
    for linear in (True, False):
        generator = kind((1, 16, 16), 4, linear=linear, widths=(8, 16), encoder_blocks=(0, 1),
                         decoder_blocks=(1, 1)).eval()  # fmt: skip
        assert any("linear" in name for name in generator.state_dict()) == linear
        generator.save(tmp_path / "model")
        again = load_generator(tmp_path / "model")
        assert torch.equal(again.encode(images), generator.encode(images))


def test_a_card_that_knows_of_no_linear_path_means_none(tmp_path):
    import json

    VAE((1, 16, 16), 4, linear=False, **SMALL).eval().save(tmp_path / "model")
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    del card["generator"]["options"]["linear"]
    (tmp_path / "model" / "card.json").write_text(json.dumps(card))
    assert load_generator(tmp_path / "model").linear is None
