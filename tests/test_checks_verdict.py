"""What is broken must not be trusted, for the right reason; what is sound must not be distrusted."""

import json

import pytest
import torch
from checked import broken_setups, failed, smooth_sprites, sound_setups, verdicts_of, walked_of
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.checks import Check, Thresholds, decide
from explainer.checks.base import UNMOVED
from explainer.checks.suite import run_checks, written
from explainer.checks.verdict import DECISIONS
from explainer.errors import ClassifierError, OptionError


@pytest.mark.parametrize(("case", "reasons"), [pytest.param(*b, id=b[0][0]) for b in broken_setups()])
def test_what_is_broken_is_distrusted_for_the_right_reason(case, reasons):
    _, generator, classifier, images = case
    for verdict, checks in verdicts_of(walked_of(generator, classifier, images)):
        assert verdict.status == "distrust"
        assert failed(checks) & reasons, verdict.sentence
        assert any(DECISIONS[name].reason in verdict.sentence for name in reasons)


def test_no_sound_set_up_is_distrusted():
    cases = list(sound_setups())
    assert len(cases) == 20
    for name, generator, classifier, images in cases:
        for verdict, _ in verdicts_of(walked_of(generator, classifier, images)):
            assert verdict.status != "distrust", f"{name}: {verdict.sentence}"


def test_a_constant_classifier_is_refused_by_name():
    images = smooth_sprites(20).images
    with pytest.raises(ClassifierError, match=r"same|constant"):
        walked_of(LinearGenerator(), lambda batch: batch.sum(dim=(1, 2, 3)) * 0 + 0.7, toy_images(2))
    assert images.shape == (20, 1, 32, 32)


@pytest.mark.parametrize("name", DECISIONS)
def test_the_table_decides_what_a_failure_leads_to(name):
    fine = Check("fine", "pass", "Fine.")
    status = decide([Check(name, "fail", "It failed."), fine]).status
    assert status == {"distrust": "distrust", "limits": "limits", "nothing": "trust"}[DECISIONS[name].worst]
    status = decide([Check(name, "limit", "So so."), fine]).status
    assert status == ("trust" if DECISIONS[name].worst == "nothing" else "limits")
    assert decide([Check(name, "info", "A number."), fine]).status == "trust"


def test_root_causes_come_first_and_each_reason_once():
    checks = [
        Check(name, "fail", f"{name}.") for name in ("compatibility", "detail swap", "reconstruction gap")
    ]
    verdict = decide([*checks, Check("decoder", "fail", "Dead."), Check("identity", "limit", "Lost.")])
    assert verdict.sentence == (
        "Do not trust this explanation: the generator does not answer to its code (decoder); the "
        "classifier reads "
        "what the generator does not express (reconstruction gap, detail swap); the walk did not get "
        "where it was "
        "asked to (compatibility)."
    )
    assert verdict.reasons[0] == "Dead."
    assert verdict.reasons[-1] == "Lost."


def test_a_check_of_ones_own_counts_as_it_says():
    assert decide([Check("mine", "fail", "No.")]).sentence.endswith("a check failed (mine).")


def test_nothing_checked_is_no_reason_to_trust():
    assert decide([]).status == "limits"
    assert decide([Check("a", "info", "A number.")]).sentence.endswith("nothing was checked.")


def test_a_walk_that_did_not_move_the_score_is_no_reason_to_trust():
    fine, lost = Check("fine", "pass", "Fine."), Check("identity", "limit", "Lost.")
    unmoved = [Check(name, "info", UNMOVED) for name in ("stability", "walk back")]
    verdict = decide([fine, *unmoved])
    assert verdict.status == "limits"
    assert verdict.sentence == "Trust this explanation with limits: the walk did not move the score."
    (reason,) = verdict.reasons
    assert reason.endswith("not measured: walk back, stability.") or reason.endswith("stability, walk back.")
    assert decide([lost, *unmoved]).reasons[0] == "Lost."
    assert decide([Check("decoder", "fail", "Dead."), *unmoved]).status == "distrust"


def test_a_walk_to_the_images_own_level_is_a_limit():
    generator = LinearGenerator().eval()
    classifier, images = LogisticClassifier(generator), toy_images(1, seed=4)
    own = float(torch.sigmoid(classifier(images).detach())[0])
    ((verdict, _),) = verdicts_of(walked_of(generator, classifier, images, levels=[own]))
    assert verdict.status == "limits"
    assert "did not move the score" in verdict.sentence


def test_what_could_not_be_measured_is_counted():
    checks = [Check("a", "pass", "Fine."), Check("walk back", "info", "Not measured: no gradient.")]
    assert decide([*checks, Check("b", "info", "A number.")]).sentence == (
        "Trust this explanation: no check found a fault, 1 passed, 1 could not be measured (walk back)."
    )


def test_a_walker_that_does_nothing_is_distrusted(monkeypatch):
    from explainer.checks import walk_back as module

    monkeypatch.setattr(module, "walk_to_scores", lambda scene, goals: (scene.z, scene.score0.double().cpu()))
    _, generator, classifier, images = next(sound_setups())
    for verdict, checks in verdicts_of(walked_of(generator, classifier, images)):
        assert checks["walk back"].values["score left"] == pytest.approx(1, abs=0.1)
        assert verdict.status == "distrust"
        assert failed(checks) == {"walk back"}
    lenient = walked_of(generator, classifier, images, thresholds=Thresholds(score_left=2.0))
    assert all("walk back" not in failed(checks) for _, checks in verdicts_of(lenient))


def test_only_a_surrogate_distilled_from_the_classifier_can_be_a_reason():
    fine = Check("fine", "pass", "Fine.")
    assert decide([Check("second network", "fail", "It disagrees."), fine]).status == "trust"
    assert decide([Check("surrogate", "fail", "It disagrees."), fine]).status == "distrust"


def test_thresholds_move_the_verdict():
    _, generator, classifier, images = next(sound_setups())
    strict = Thresholds(stable_limit=1.0)
    (verdict,) = {
        v.status for v, _ in verdicts_of(walked_of(generator, classifier, images, thresholds=strict))
    }
    assert verdict == "limits"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identity": float("nan")}, "must hold finite numbers, also for identity"),
        ({"gap_limit": "1"}, "must hold finite numbers, also for gap_limit"),
        ({"gap_limit": 3.0}, "must fail gap only beyond its limit"),
        ({"stable_limit": 0.1}, "must fail stable only beyond its limit .* Choose stable_limit above"),
    ],
)
def test_thresholds_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        Thresholds(**options)


def test_no_walks_no_checks():
    assert run_checks([]) == []


def test_a_classifier_that_is_not_finite_somewhere_is_distrusted_not_an_error():
    generator = LinearGenerator()

    class Breaking(LogisticClassifier):
        def forward(self, images):
            grain = (images[..., 1:] - images[..., :-1]).square().mean(dim=(1, 2, 3))
            score = super().forward(images)
            return torch.where(grain > limit, torch.nan, score)

    images = toy_images(1)
    limit = 10.0
    walked = walked_of(generator, Breaking(generator), images)
    ends = torch.stack([walked[0].frames[0], walked[0].frames[-1]])
    limit = float((ends[..., 1:] - ends[..., :-1]).square().mean(dim=(1, 2, 3)).max()) * 1.001
    ((verdict, checks),) = verdicts_of(walked)
    assert verdict.status == "distrust"
    assert checks["stability"].status == "fail"
    json.dumps([dict(check.values) for check in checks.values()], allow_nan=False)


def test_no_check_passes_on_a_number_that_is_not_finite():
    for status, expected in (("pass", "limit"), ("limit", "limit"), ("fail", "fail"), ("info", "info")):
        found = written(Check("mine", status, "So.", {"a": float("nan")}))
        assert (found.status, found.values["a"]) == (expected, "not finite")
    assert written(Check("mine", "pass", "So.", {"a": 1.0})).status == "pass"


def test_the_same_seed_finds_the_same_and_batched_equals_alone():
    _, generator, classifier, images = next(sound_setups())
    both = run_checks(walked_of(generator, classifier, images))
    assert run_checks(walked_of(generator, classifier, images)) == both
    for image, together in zip(images, both, strict=True):
        (alone,) = run_checks(walked_of(generator, classifier, image[None]))
        assert [check.name for check in alone] == [check.name for check in together]
        for one, other in zip(alone, together, strict=True):
            assert one.status == other.status
            for key, value in one.values.items():
                if isinstance(value, float):
                    assert value == pytest.approx(other.values[key], abs=2e-3), (one.name, key)


def test_what_is_drawn_is_of_each_image_its_own():
    """Also in another order, and not the same for two images."""
    _, generator, classifier, images = next(sound_setups())
    forth = run_checks(walked_of(generator, classifier, images))
    back = run_checks(walked_of(generator, classifier, images.flip(0)))[::-1]
    for name, key in (("compression", "noise passed"), ("random direction", "share"), ("stability", None)):
        for one, other in zip(forth, back, strict=True):
            first, second = (next(c for c in each if c.name == name) for each in (one, other))
            for label in [key] if key else first.values:
                assert first.values[label] == pytest.approx(second.values[label], rel=1e-3, abs=1e-5)
    passed = [next(c for c in each if c.name == "compression").values["noise passed"] for each in forth]
    assert passed[0] != passed[1]


def test_nothing_is_changed_by_checking():
    _, generator, classifier, images = next(sound_setups())
    walked = walked_of(generator, classifier, images)
    kept = (
        [each.frames.clone() for each in walked],
        images.clone(),
        generator.state_dict()["components"].clone(),
    )
    run_checks(walked)
    assert all(torch.equal(a, b.frames) for a, b in zip(kept[0], walked, strict=True))
    assert torch.equal(kept[1], images)
    assert torch.equal(kept[2], generator.state_dict()["components"])
