"""The chest X-rays' zoo as it is shipped."""

import torch

from explainer import explain, load_classifier, load_generator
from explainer.generators.zoo import fitting_generator, list_models


def test_the_chest_card_says_what_it_reached():
    (card,) = [card for card in list_models() if card["name"] == "chest"]
    assert "CC BY 4.0" in card["data"]
    assert any("not a diagnostic" in limit for limit in card["limits"])
    test = card["generator"]["test"]
    assert test["n"] == 652
    assert test["stage 1"]["ssim"][0] >= 0.90
    for entry in card["classifiers"].values():
        assert entry["test"]["auc"] > 0.95
        assert entry["class_names"] == ["NORMAL", "PNEUMONIA"]


def test_samples_are_routed_to_it_and_walked_to_both_sides():
    generator, classifier = load_generator("chest"), load_classifier("chest/pneumonia")
    image = generator.sample(1, seed=1)[0]
    assert fitting_generator(image[None]).source == "chest"
    explanation = explain(image, classifier, levels=[0.1, 0.9])
    assert explanation.frames["reached"].all()
    second = load_classifier("chest/pneumonia-second")
    low, high = second.score(explanation.images, second.target(None, explanation.images)).tolist()[
        :: len(explanation.images) - 1
    ]
    assert low < high


def test_noise_does_not_fit():
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    generator = load_generator("chest")
    assert float(generator.unexplained(noise)) > generator.quantiles["unexplained"]["0.975"]
