"""The models that ship with the package: whole, honest about what fits, and good enough for a demo."""

import json
import shutil

import pytest
import torch
from skimage.data import astronaut, chelsea, coffee, rocket

from explainer import as_image, explain, load_classifier, load_generator
from explainer.errors import GeneratorError, ModelFileError, OptionError
from explainer.generators.zoo import fitting_generator, list_models, misfit


def face(half=60, size=None):
    crop = astronaut()[max(0, 115 - half) : 115 + half, max(0, 224 - half) : 224 + half]
    return as_image(crop.copy())


@pytest.fixture(scope="module")
def explanation():
    return explain(face(), load_classifier("faces/smile"))


def test_the_cards_name_data_licence_limits_and_metrics():
    (card,) = [card for card in list_models() if card["name"] == "faces"]
    assert card["licence"]
    assert len(card["limits"]) >= 3
    assert card["generator"]["test"]["stage 1"]["ssim"][0] > 0.88
    assert card["classifiers"]["smile"]["test"]["auc"] > 0.95


def test_the_astronauts_smile_is_walked_to_every_level(explanation):
    assert explanation.frames["reached"].all()
    assert explanation.verdict.status in {"trust", "limits"}
    assert explanation.original.class_name == "smiling"
    assert explanation.provenance["generator"]["source"] == "faces"


def test_a_second_opinion_agrees_at_both_ends(explanation):
    second = load_classifier("faces/smile-second")
    ends = second.level(explanation.images[[0, -1]], second.target(None, explanation.images))
    assert ends[0] < 0.5 < ends[1]


def test_the_change_is_where_the_mouth_is_and_not_in_the_corners(explanation):
    change = explanation.saliency["difference"].summed()
    mouth, corners = change[75:105, 35:85].mean(), torch.cat([change[:20, :20], change[-20:, :20]]).mean()
    assert mouth > 2 * corners


@pytest.mark.parametrize("half", [80, 110])
def test_a_wider_crop_does_not_fit_and_the_error_shows_by_how_much(half):
    message = r"no generator of the zoo fits this image: .*faces: its region .* is reconstructed with error"
    with pytest.raises(GeneratorError, match=message):
        fitting_generator(face(half)[None])


def test_noise_and_other_channels_do_not_fit():
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(GeneratorError, match="no generator of the zoo fits"):
        fitting_generator(noise)
    with pytest.raises(GeneratorError, match="faces takes 3 channels"):
        fitting_generator(noise[:, :2])


@pytest.mark.parametrize("name", ["cells", "faces"])
def test_images_are_routed_to_the_generator_of_their_kind(name):
    samples = load_generator(name).sample(6, seed=1)
    for image in samples:
        assert fitting_generator(image[None]).source == name
    assert fitting_generator(face()[None]).source == "faces"


def test_cells_are_no_faces_and_faces_no_cells():
    cells, faces = load_generator("cells"), load_generator("faces")
    sample = cells.sample(4, seed=2)
    for wrong, images in ((faces, sample), (cells, face()[None]), (cells, faces.sample(4, seed=2))):
        ratio, said = misfit(wrong, images)
        assert ratio > 1.5
        assert "held-out" in said
    # what 8 bits leave of a cell, or a cell that was stretched to its own range, is none
    stretched = (sample - sample.amin((2, 3), keepdim=True)) / (
        sample.amax((2, 3), keepdim=True) - sample.amin((2, 3), keepdim=True)
    )
    for image in [*stretched, (sample[0] * 255).round() / 255]:
        with pytest.raises(GeneratorError, match="no generator of the zoo fits"):
            fitting_generator(image[None])


@pytest.mark.parametrize("value", [0.0, 0.01, 0.5, 1.0])
def test_blank_images_fit_nothing_though_they_are_easily_reconstructed(value):
    with pytest.raises(GeneratorError, match="missing all of its variance"):
        fitting_generator(torch.full((1, 3, 64, 64), value))


@pytest.mark.parametrize("photograph", [chelsea, coffee, rocket])
def test_photographs_of_other_things_fit_nothing(photograph):
    with pytest.raises(GeneratorError, match="no generator of the zoo fits"):
        fitting_generator(as_image(photograph().copy())[None])


def test_the_walk_from_g1_to_g2_raises_the_dna():
    generator, classifier = load_generator("cells"), load_classifier("cells/g1-g2")
    # Cells nearer to the mean than samples of the prior are: one of these has more DNA than any real G2.
    noise = torch.randn(3, generator.latent_dim, generator=torch.Generator().manual_seed(1))
    for image in generator.decode(generator.latent_mean + 0.7 * generator.latent_std * noise):
        explanation = explain(image, classifier)
        assert explanation.frames["reached"].all()
        assert explanation.channel_names == ("brightfield", "PI (DNA)", "darkfield")
        assert explanation.provenance["generator"]["source"] == "cells"
        dna = explanation.images[:, 1].double().sum(dim=(1, 2))
        assert dna[-1] - dna[0] > 5_000 / 65535


def test_the_cells_card_says_what_it_reached():
    (card,) = [card for card in list_models() if card["name"] == "cells"]
    assert "BSD-3" in card["licence"]
    assert len(card["limits"]) >= 3
    test = card["generator"]["test"]
    assert test["n"] == 429
    assert len(test["bare"]["r2"]) == len(test["stage 1"]["ssim"]) == 3
    entry = card["classifiers"]["g1-g2"]
    assert entry["test"]["auc"] > 0.95
    classifier = load_classifier("cells/g1-g2")
    assert "divided by the standard deviation" in classifier.preprocessing
    assert classifier.class_names == ("G1", "G2")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(OptionError, match=r"is not in the zoo .*faces/smile"):
        load_classifier("faces/age")
    with pytest.raises(OptionError, match=r"Choose one of the zoo \(.*faces"):
        load_generator("fungi")
    with pytest.raises(OptionError):
        load_classifier("fungi/edible")


def test_a_folder_in_the_working_directory_never_stands_in_for_the_zoo(tmp_path, monkeypatch):
    from explainer import VAE

    monkeypatch.chdir(tmp_path)
    VAE((3, 64, 64), 4, widths=(8, 8), encoder_blocks=(0, 0), decoder_blocks=(0, 0)).save("faces")
    assert load_generator("faces").kind == "two-stage"
    assert load_generator("./faces").kind == "vae"
    assert fitting_generator(face()[None]).kind == "two-stage"


def test_cards_that_are_not_complete_are_named(tmp_path, repository):
    folder = tmp_path / "faces"
    shutil.copytree(repository / "models" / "faces", folder)
    card = json.loads((folder / "card.json").read_text())
    del card["generator"]["sha256"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match="has a card that is not complete"):
        load_generator(folder)


def test_a_tampered_zoo_folder_is_refused(tmp_path, repository):
    folder = tmp_path / "faces"
    shutil.copytree(repository / "models" / "faces", folder)
    load_generator(folder)
    card = json.loads((folder / "card.json").read_text())
    card["generator"]["sha256"] = "0" * 64
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match="generator: was changed after it was written"):
        load_generator(folder)
