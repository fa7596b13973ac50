"""Fine-tuning to guidance: planted statements are learnt, what is locked stays, and what was good too."""

import numpy as np
import pytest
import torch
from toys import LinearGenerator, toy_images

from explainer.errors import OptionError, TrainingError
from explainer.generators import (
    VAE,
    GaussianMixtureVAE,
    Guidance,
    InfoMaxVAE,
    TwoStageVAE,
    load_generator,
    name_axes,
)
from explainer.generators.guiding import Weights, _set_aside, guide
from explainer.generators.lesson import Lesson
from explainer.synthetic import sprites

SMALL = {"widths": (8, 16), "encoder_blocks": (0, 0), "decoder_blocks": (0, 0)}


@pytest.fixture(scope="module")
def planted():
    return sprites(300, size=16, seed=0)


@pytest.fixture(scope="module")
def trained(planted):
    return VAE((1, 16, 16), 4, **SMALL).fit(planted.images, steps=60, batch_size=16, progress=False)


def correlation(generator, planted, name):
    codes = generator.encode(planted.images)
    found = generator.axes.coordinates(codes)[:, generator.axes.index(name)].numpy()
    return np.corrcoef(found, planted.factors[name])[0, 1]


def moved_monotonically(generator, planted, name):
    """Share of images that the axis, moved in five steps, makes brighter at every one."""
    codes = generator.encode(planted.images)
    low, _, high = generator.axes.axes[generator.axes.index(name)].span
    brightest = [
        generator.decode(generator.axes.moved(codes, name, place.expand(len(codes)))).flatten(1).amax(dim=1)
        for place in torch.linspace(low, high, 5)
    ]
    return float((torch.stack(brightest).diff(dim=0) > 0).all(dim=0).float().mean())


def test_labels_are_learnt_better_than_a_direction_can_say(planted, trained):
    ids = list(range(80))
    guidance = Guidance().label("shade", ids, planted.factors["shade"][:80])
    frozen = name_axes(trained, planted.images, guidance)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    guided = guide(
        trained, planted.images, guidance, steps=120, batch_size=16, learning_rate=3e-3, progress=False
    )
    fresh = sprites(200, size=16, seed=5)
    assert correlation(guided, fresh, "shade") > max(0.8, correlation(frozen, fresh, "shade") + 0.2)
    assert moved_monotonically(guided, fresh, "shade") > 0.9
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, state[name])
    assert trained.axes is None
    record = guided.axes.record
    assert record["mode"] == "fine-tune"
    # Four dimensions and 120 steps: what the shade took from the code is not yet made up for.
    assert record["R2 after"][0] > record["R2 before"][0] - 0.25
    assert {"guidance_told", "guidance_moved", "guidance_obeyed", "guidance_spread"} <= set(guided.history)


def test_anchored_images_go_to_their_place_and_the_code_may_have_no_names(planted):
    trained = VAE((1, 16, 16), 2, **SMALL).fit(planted.images, steps=40, batch_size=16, progress=False)
    bright = (planted.factors["shade"] > 0.65).to_numpy()
    ids = list(range(150))
    places = [(2.0, 0.0) if bright[row] else (-2.0, 0.0) for row in ids]
    guided = guide(
        trained, planted.images, Guidance().anchor(ids, places), steps=150, batch_size=16,
        learning_rate=3e-3, progress=False,
    )  # fmt: skip
    assert guided.axes is None
    side = guided.encode(planted.images[150:])[:, 0].numpy() > 0
    clear = (planted.factors["shade"] - 0.65).abs().to_numpy()[150:] > 0.12
    assert (side == bright[150:])[clear].mean() > 0.87


def test_a_locked_axis_stays_while_another_is_learnt(planted, trained):
    ids = list(range(60))
    first = name_axes(trained, planted.images, Guidance().label("x", ids, planted.factors["x"][:60]))
    before = first.axes.coordinates(first.encode(planted.images))[:, 0]
    more = Guidance().lock(["x"]).label("shade", ids, planted.factors["shade"][:60])
    guided = guide(first, planted.images, more, steps=60, batch_size=16, progress=False)
    after = guided.axes.coordinates(guided.encode(planted.images))[:, guided.axes.index("x")]
    assert np.corrcoef(before, after)[0, 1] > 0.95
    loose = guide(
        first, planted.images, more, steps=60, batch_size=16, progress=False,
        weights=Weights(kept=0.0, moved=0.0, told=30.0),
    )  # fmt: skip
    drifted = loose.axes.coordinates(loose.encode(planted.images))[:, loose.axes.index("x")]
    assert np.corrcoef(before, drifted)[0, 1] < np.corrcoef(before, after)[0, 1]


def test_rankings_pairs_and_zeros_and_ones_are_learnt(planted, trained):
    shade = planted.factors["shade"].to_numpy()
    order = np.argsort(shade[:40])
    guidance = (
        Guidance()
        .rank("shade", order.tolist())
        .label("right", list(range(80)), (planted.factors["x"][:80] > 0.5).astype(float))
    )
    for row in range(0, 40, 2):
        low, high = sorted((100 + row, 101 + row), key=lambda each: shade[each])
        guidance = guidance.pair(low, high, changed=["shade"])
    guided = guide(
        trained, planted.images, guidance, steps=120, batch_size=16, learning_rate=3e-3, progress=False
    )
    assert correlation(guided, planted, "shade") > 0.8
    a = guided.axes.coordinates(guided.encode(planted.images))[:, guided.axes.index("right")].numpy()
    assert ((a > 0) == (planted.factors["x"] > 0.5))[80:].mean() > 0.92


@pytest.mark.parametrize("kind", [InfoMaxVAE, TwoStageVAE, GaussianMixtureVAE])
def test_every_kind_can_be_guided_saved_and_loaded(kind, planted, tmp_path):
    options = {"components": 2, "restarts": 1} if kind is GaussianMixtureVAE else {}
    if kind is TwoStageVAE:
        options = {"latent_channels": 2, "code_width": 8}
    generator = kind((1, 16, 16), 4, **options, **SMALL)
    generator.fit(planted.images, steps=10, batch_size=8, progress=False)
    guidance = Guidance().label("shade", list(range(30)), planted.factors["shade"][:30])
    guided = guide(generator, planted.images, guidance, steps=4, batch_size=8, progress=False)
    changed = [
        name
        for name, value in guided.state_dict().items()
        if not torch.equal(value, generator.state_dict()[name])
    ]
    assert changed
    if kind is TwoStageVAE:
        assert not [name for name in changed if name.startswith("stage1")]
    guided.save(tmp_path / "g")
    back = load_generator(tmp_path / "g")
    torch.testing.assert_close(back.encode(planted.images[:3]), guided.encode(planted.images[:3]))
    assert back.axes.record == guided.axes.record


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(planted, trained, tmp_path):
    guidance = Guidance().label("shade", list(range(30)), planted.factors["shade"][:30])
    options = {"steps": 6, "batch_size": 8, "progress": False}
    first = guide(trained, planted.images, guidance, resume_from=tmp_path, **options)
    again = guide(trained, planted.images, guidance, resume_from=tmp_path, **options)
    torch.testing.assert_close(first.encode(planted.images[:2]), again.encode(planted.images[:2]))
    assert (tmp_path / "guidance.ckpt").exists()


def test_what_cannot_be_trained_is_refused(planted, trained):
    said = Guidance().label("shade", [0, 1], [0.0, 1.0])
    with pytest.raises(OptionError, match="generator: cannot be trained here"):
        guide(LinearGenerator(), toy_images(50), said)
    with pytest.raises(OptionError, match="steps, batch_size"):
        guide(trained, planted.images, said, steps=0)
    with pytest.raises(OptionError, match="anchors must all have as many coordinates, at most 4"):
        guide(trained, planted.images, Guidance().anchor(["0"], [[0.0] * 5]))
    with pytest.raises(OptionError, match="is about 1 images that are not there"):
        guide(trained, planted.images, Guidance().anchor(["x"], [[0.0]]))


def test_checkpoints_of_other_guidance_are_refused(planted, trained, tmp_path):
    options = {"steps": 2, "batch_size": 8, "progress": False, "resume_from": tmp_path}
    guide(trained, planted.images, Guidance().label("shade", [0, 1], [0.0, 1.0]), **options)
    with pytest.raises(TrainingError, match="run with other guidance"):
        guide(trained, planted.images, Guidance().label("shade", [0, 1], [1.0, 0.0]), **options)


QUICK = {"steps": 2, "batch_size": 8, "progress": False}


@pytest.mark.parametrize("anchored", [False, True])
def test_guidance_of_all_images_is_measured_on_guided_ones(planted, trained, anchored):
    images, ids = planted.images[:60], list(range(60))
    x = planted.factors["x"][:60]
    said = Guidance().anchor(ids, [(each, 0.0) for each in x]) if anchored else Guidance().label("x", ids, x)
    guided = guide(trained, images, said, **QUICK)
    record = guided.history.attrs["guidance"]
    assert record["held-out images"] == record["measured images trained on"] == 5
    assert set(guided.quantiles) == {"bare", "unexplained", "typicality"}
    assert anchored or guided.axes.record["measured images trained on"] == 5


@pytest.mark.parametrize("free", [0, 1, 4, 5, 60])
def test_what_is_set_aside_is_not_trained_on_unless_it_is_guided(free):
    guided = set(range(100 - free))
    held, training = (set(rows.tolist()) for rows in _set_aside(100, guided, 0))
    assert len(held) == 5
    assert held | training == set(range(100))
    assert held & training <= guided
    assert len(held & training) == max(0, 5 - free)


def test_anchors_without_names_are_measured_too(planted, trained):
    guided = guide(trained, planted.images, Guidance().anchor([0, 1], [(-1.0, 0.0), (1.0, 0.0)]), **QUICK)
    record = guided.history.attrs["guidance"]
    assert guided.axes is None
    assert len(record["R2 before"]) == len(record["R2 after"]) == 1
    assert record["health"].count(": ") >= 1
    assert record["held-out images"] == 15
    assert "measured images trained on" not in record


def test_a_run_without_a_finite_loss_is_no_success(planted, trained, monkeypatch):
    monkeypatch.setattr(
        Lesson,
        "__call__",
        lambda self, guided, batch, noise: (torch.tensor(torch.nan, requires_grad=True), {}),
    )
    with pytest.raises(TrainingError, match="learning_rate: too many steps had no finite gradient"):
        guide(trained, planted.images, Guidance().label("x", [0, 1], [0.0, 1.0]), **QUICK)


def test_checkpoints_of_a_generator_with_other_axes_are_refused(planted, trained, tmp_path):
    said = Guidance().label("shade", [0, 1], [0.0, 1.0])
    first, second = (name_axes(trained, planted.images, Guidance().name(axis, "a")) for axis in (0, 1))
    guide(first, planted.images, said, resume_from=tmp_path, **QUICK)
    with pytest.raises(TrainingError, match="run with other axes"):
        guide(second, planted.images, said, resume_from=tmp_path, **QUICK)


def test_an_interrupted_run_ends_as_if_it_had_not_been(planted, trained, tmp_path, monkeypatch):
    guidance = Guidance().label("shade", list(range(30)), planted.factors["shade"][:30])
    options = {"steps": 8, "batch_size": 8, "progress": False}
    whole = guide(trained, planted.images, guidance, **options)
    monkeypatch.setattr("explainer.generators.loop.CHECKPOINT_SECONDS", 0)
    lesson, calls = Lesson.__call__, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("the power went out")
        return lesson(*arguments)

    monkeypatch.setattr(Lesson, "__call__", failing)
    with pytest.raises(RuntimeError, match="power"):
        guide(trained, planted.images, guidance, resume_from=tmp_path, **options)
    resumed = guide(trained, planted.images, guidance, resume_from=tmp_path, **options)
    assert len(calls) == 5 + 4
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("said", "options", "problem"),
    [
        (Guidance(), {}, "guidance: says nothing that could be learnt"),
        (Guidance().pair(0, 1, changed=[]), {}, "guidance: says nothing that could be learnt"),
        (Guidance().lock(["nope"]), {}, "guidance: locks an axis that the generator does not have"),
        (Guidance().name(0, "x"), {"minutes": 0}, "minutes, learning_rate: must be positive and finite"),
        (Guidance().name(0, "x"), {"learning_rate": -1.0}, "minutes, learning_rate: must be positive"),
    ],
)
def test_what_would_train_for_nothing_is_refused_before(planted, trained, said, options, problem):
    with pytest.raises(OptionError) as caught:
        guide(trained, planted.images, said, **QUICK, **options)
    assert str(caught.value).startswith(problem)
