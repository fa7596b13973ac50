"""The optional terms of the loss, the same for every kind, and information in either of two stages."""

import pytest
import torch
from numpy.testing import assert_allclose
from test_training import blobs
from torch import nn

from explainer.classifier import Classifier
from explainer.convnet import ConvNet
from explainer.errors import OptionError
from explainer.generators import VAE, GaussianMixtureVAE, InfoMaxVAE, TwoStageVAE, load_generator
from explainer.generators.objectives import maximum_mean_discrepancy
from explainer.generators.perception import perception
from explainer.generators.vae import reparametrise

SHAPE = (1, 16, 16)
SMALL = {"widths": (8, 8), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}
KINDS = {
    "vae": lambda **options: VAE(SHAPE, 4, **SMALL, **options),
    "infomax": lambda **options: InfoMaxVAE(SHAPE, 4, queue=8, **SMALL, **options),
    "two-stage": lambda **options: TwoStageVAE(SHAPE, 4, latent_channels=3, code_width=8, **SMALL, **options),
    "mixture": lambda **options: GaussianMixtureVAE(SHAPE, 4, 2, restarts=2, **SMALL, **options),
}


def first_terms(generator, phase=-1, count=8):
    """Loss and terms of one batch in one phase, with noise that is always the same."""
    generator.train()
    loss, terms = generator.loss(
        generator.phases()[phase], blobs(count), torch.Generator().manual_seed(0), ramp=1.0
    )
    return float(loss.detach()), {name: float(value.detach()) for name, value in terms.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_each_term_adds_its_weight_times_its_distance(kind):
    plain, terms = first_terms(KINDS[kind](laplacian=0.0))
    assert "l1" not in terms
    for name in ("l1", "laplacian"):
        loss, terms = first_terms(KINDS[kind](**{"laplacian": 0.0, name: 3.0}))
        assert terms[name] > 0
        assert loss == pytest.approx(plain + 3 * terms[name], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_discrepancy_of_codes_and_prior_is_minimised(kind):
    plain, _ = first_terms(KINDS[kind]())
    loss, terms = first_terms(KINDS[kind](mmd=5.0))
    assert terms["mmd"] > 0
    assert loss == pytest.approx(plain + 5 * terms["mmd"], rel=1e-4)


def test_training_on_the_discrepancy_brings_the_codes_to_the_prior():
    images, noise = blobs(), torch.Generator().manual_seed(0)
    apart = {}
    for mmd in (0.0, 5.0):
        generator = VAE(SHAPE, 2, beta=0.0, mmd=mmd, seed=1, linear=False, **SMALL)
        generator.fit(images, steps=120, progress=False)
        codes = reparametrise(*generator.posterior_of(images), noise)
        apart[mmd] = float(maximum_mean_discrepancy(codes, torch.randn(240, 2, generator=noise)))
    assert apart[5.0] < 0.5 * apart[0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_options_that_were_not_asked_for_are_not_in_the_card_and_others_come_back(kind, tmp_path):
    assert not {"l1", "features", "mmd", "sampler"} & set(KINDS[kind]().options())
    KINDS[kind](l1=0.5, mmd=2.0, features=0.25).save(tmp_path / "m")
    loaded = load_generator(tmp_path / "m")
    assert {name: loaded.options()[name] for name in ("l1", "features", "mmd")} == {
        "l1": 0.5, "features": 0.25, "mmd": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["l1", "features", "mmd", "laplacian"])
def test_negative_weights_are_refused(kind, name):
    with pytest.raises(OptionError, match=f"{name}: must not be negative"):
        KINDS[kind](**{name: -0.999})


# -- features of a classifier ----------------------------------------------------------------------------


def test_features_are_what_the_last_linear_layer_reads_in_standard_deviations():
    network = ConvNet(channels=1, width=8, depth=2).eval()
    images = blobs(60)
    with torch.no_grad():
        expected = network.features(images)
    with perception(Classifier(network), images.split(16)) as perceive:
        found = perceive(images).detach()
    scale = expected.std(dim=0, correction=0)
    read = scale > 1e-6
    assert_allclose(found[:, read], (expected / scale)[:, read], rtol=1e-4, atol=1e-5)
    assert_allclose(found[:, read].std(dim=0, correction=0), torch.ones(int(read.sum())), atol=1e-4)


def test_without_a_linear_layer_the_outputs_are_the_features():
    with perception(nn.Sequential(nn.AvgPool2d(16), nn.Flatten()), [blobs(20)]) as perceive:
        means = blobs(20).mean(dim=(1, 2, 3))
        assert_allclose(perceive(blobs(20))[:, 0], means / means.std(correction=0), rtol=1e-4)


class Middle(nn.Module):
    """Reads the brightness of the four central pixels only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)

    def forward(self, images):
        return self.head(images[:, :, 7:9, 7:9].mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", ["vae", "two-stage"])
def test_reconstructions_keep_what_the_classifier_reads(kind):
    images, classifier = blobs(), Middle()
    before = [parameter.clone() for parameter in classifier.parameters()]
    lost = {}
    for weight in (0.0, 3.0):
        generator = KINDS[kind](features=weight, seed=1)
        given = {"classifier": classifier} if weight else {}
        generator.fit(images, steps=160, progress=False, **given)
        middle = (generator.bare(images) - images)[:, :, 7:9, 7:9].mean(dim=(1, 2, 3))
        lost[weight] = float(middle.square().mean())
    assert "features_mse" in generator.history
    assert lost[3.0] < 0.7 * lost[0.0]
    assert classifier.training
    assert not classifier.head._forward_pre_hooks
    for parameter, kept in zip(classifier.parameters(), before, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter, kept)
    assert all(module.perceive is None for module in generator.modules() if isinstance(module, VAE))


def test_a_classifier_is_given_if_and_only_if_its_features_are_wanted():
    with pytest.raises(OptionError, match="classifier: is needed for the features"):
        VAE(SHAPE, 4, features=0.1, **SMALL).fit(blobs(), steps=1, progress=False)
    with pytest.raises(OptionError, match=r"classifier: would not be used .received Middle.* features=.1"):
        VAE(SHAPE, 4, **SMALL).fit(blobs(), steps=1, progress=False, classifier=Middle())


# -- information in either stage -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gamma", "bound"), [((1.0, 0.0), "infonce"), ((0.0, 1.0), "nwj"), ((0.5, 2.0), "jsd")]
)
def test_either_stage_may_maximise_information_and_is_saved_with_its_critic(gamma, bound, tmp_path):
    generator = KINDS["two-stage"](gamma=gamma, bound=bound, queue=16)
    generator.fit(blobs(60), steps=4, progress=False)
    history = generator.history.groupby("phase")["mutual_information_nats"].count()
    assert [bool(history[f"stage {stage}"]) for stage in (1, 2)] == [weight > 0 for weight in gamma]
    critics = {name.split(".")[0] for name in generator.state_dict() if "critic" in name}
    assert critics == {f"stage{stage}" for stage, weight in enumerate(gamma, start=1) if weight}
    generator.save(tmp_path / "m")
    loaded = load_generator(tmp_path / "m")
    assert (loaded.gamma, loaded.bound, loaded.queue) == (gamma, bound, 16)
    assert torch.equal(loaded.bare(blobs(3)), generator.bare(blobs(3)))


def test_information_lowers_the_loss_by_its_weight():
    plain, _ = first_terms(KINDS["two-stage"]())
    loss, terms = first_terms(KINDS["two-stage"](gamma=(0, 3), bound="nwj"))
    assert loss == pytest.approx(plain - 3 * terms["mutual_information_nats"] / 256, rel=1e-4)


def test_other_weights_of_information_are_refused():
    for gamma in ((1.0,), (1.0, -1.0), (0.0, float("nan"))):
        with pytest.raises(OptionError, match="gamma: must be two weights, of stage 1 and stage 2"):
            KINDS["two-stage"](gamma=gamma)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [(0.0, 0.0), (1.0, 1.0)])
def test_a_second_stage_of_three_dimensions_does_not_collapse(gamma):
    """The source's case: three dimensions to be plotted. The blobs have three true ones."""
    generator = TwoStageVAE(SHAPE, 3, latent_channels=4, code_width=16, gamma=gamma, **SMALL)
    health = generator.fit(blobs(), steps=300, minutes=5, progress=False).health(blobs(60, seed=1))
    assert health.status == "healthy"
    assert min(health.kl) > 0.5
    assert health.r2[0] > 0.6
