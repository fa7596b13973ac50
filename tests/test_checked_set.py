"""What a set of explanations tells: the same from memory and from a folder, and only of what made it."""

import json

import numpy as np
import pytest
import torch
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer import Classifier, Explanations, SetChecks, check_set, explain, explain_many
from explainer.checks import Surrogate, Thresholds, calibrate_identity
from explainer.checks.compatibility import calibration_of
from explainer.errors import ModelFileError, OptionError
from explainer.report.charts import calibration_chart

LEVELS = [0.1, 0.5, 0.9]


@pytest.fixture(scope="module")
def generator():
    return LinearGenerator().eval()


@pytest.fixture(scope="module")
def model(generator):
    return Classifier(LogisticClassifier(generator), size=16)


@pytest.fixture(scope="module")
def found(model, generator):
    """Forty-four images that are explained, one of another size, and one that is none."""
    images = [*toy_images(44, seed=4), torch.full((1, 16, 16), float("nan"))]
    large = torch.nn.functional.interpolate(toy_images(1), size=(40, 40), mode="bicubic").clamp(0, 1)[0]
    return explain_many([*images, large], model, generator=generator, levels=LEVELS, saliency=())


@pytest.fixture(scope="module")
def checked(found, model, generator):
    return check_set(found, model, generator=generator)


class TestCalibration:
    def test_every_walk_is_in_it_and_those_without_one_are_counted(self, found):
        calibrated = found.calibration
        assert calibrated.walks == 45
        assert calibrated.unexplained == 1
        assert calibrated.table["level"].tolist() == LEVELS
        assert calibrated.table["walks"].tolist() == [45] * 3
        assert calibrated.unreached == 0
        achieved = found.to_frame().dropna(subset="level").groupby("level")["achieved"]
        assert calibrated.table["mean"].tolist() == pytest.approx(achieved.mean().tolist())
        assert "1 further images could not be explained" in calibrated.check(Thresholds()).sentence

    @pytest.mark.parametrize(("missing", "status"), [(0, "pass"), (1, "limit"), (4, "limit"), (5, "fail")])
    def test_images_without_a_walk_count_as_missed(self, missing, status):
        walks = [(LEVELS, LEVELS, [True] * 3)] * 4
        check = calibration_of(walks, unexplained=missing).check(Thresholds())
        assert check.status == status
        assert check.values["reached, of all images"] == pytest.approx(4 / (4 + missing))
        assert ("could not be explained" in check.sentence) == bool(missing)

    def test_missed_frames_are_counted_and_drawn(self, model, generator):
        strict = explain_many(
            toy_images(6, seed=4), model, generator=generator, levels=LEVELS, saliency=(),
            thresholds=Thresholds(level_error=1e-9),
        )  # fmt: skip
        calibrated = strict.calibration
        missed = int((~strict.to_frame()["reached"]).sum())
        assert calibrated.unreached == missed > 0
        figure = strict.calibration_figure()
        texts = [text for trace in figure.data for text in (trace.text or ())]
        assert sum(int(text.split()[0]) for text in texts) == missed
        crosses = calibration_chart(calibrated.table.to_dict("records"), tolerance=0.02).levels.markers
        assert [not each.reached for each in crosses] == (calibrated.table["unreached"] > 0).tolist()

    def test_the_figure_shows_means_and_spread(self, found):
        means = found.calibration_figure().data[2]
        assert list(means.x) == LEVELS
        table = found.calibration.table
        assert np.allclose(means.error_y.array, table["high"] - table["mean"])
        assert "probability of class 1" in found.calibration_figure().layout.xaxis.title.text

    def test_nothing_explained_has_none(self, model, generator):
        many = explain_many([torch.full((1, 16, 16), float("nan"))], model, generator=generator)
        assert many.calibration is None
        with pytest.raises(OptionError, match="explanations: hold no walk to draw"):
            many.calibration_figure()
        with pytest.raises(OptionError, match="explanations: hold no walk to check"):
            check_set(many, model, generator=generator)
        assert "Levels asked for and achieved" not in many._sheet(5)


class TestCheckSet:
    def test_sound_walks_are_trusted_as_a_set(self, checked):
        names = checked.to_frame()["check"].tolist()
        assert names == ["calibration", "composition", "detail swap", "realism"]
        assert checked.walks == 44  # those of the most frequent size
        assert checked.calibration.walks == 45
        assert checked.statuses.loc["compatibility"].sum() == 45
        status = {check.name: check.status for check in checked.checks}
        assert status["detail swap"] == "pass"
        assert status["calibration"] == "limit"  # one image has no walk
        assert checked.verdict.status != "distrust"
        assert checked.realism.features == "thumbnails and fine bands"

    def test_it_is_what_the_walks_themselves_give(self, checked, found):
        cosines = []
        for each in list(found)[:44]:
            z = LinearGenerator().encode(each.original.image[None])
            cosines.append(float(torch.cosine_similarity(z, each.latents).min()))
        assert checked.closeness["50 %"] == pytest.approx(np.median(cosines), abs=1e-3)

    def test_more_is_made_if_it_is_asked_for(self, found, model, generator):
        identity = calibrate_identity(generator.encode, toy_images(50, seed=9))
        of_set = check_set(
            list(found)[:20], model, generator=generator, identity=identity, balanced=model,
            oracles={"brightness": lambda images: images.mean(dim=(1, 2, 3))},
            surrogate=Surrogate(OneLogit(generator), 0.99, 100),
        )  # fmt: skip
        names = of_set.to_frame()["check"].tolist()
        assert names == ["calibration", "composition", "detail swap", "surrogate", "equal moves", "realism"]
        assert "Not measured: 20 walks" in of_set.checks[-1].sentence
        assert [share.estimate for _, share in of_set.surrogate][::2] == [1.0, 1.0]
        measures = of_set.control.table["measure"].tolist()
        assert measures[-2:] == ["change of brightness", "identity cosine"]

    def test_few_are_looked_at_evenly(self, found, model, generator):
        assert check_set(found, model, generator=generator, most=21).walks == 21
        with pytest.raises(OptionError, match="most: must be at least 1"):
            check_set(found, model, generator=generator, most=0)

    def test_walks_to_different_levels_are_not_mixed(self, found, model, generator):
        others = explain_many(
            toy_images(4, seed=8), model, generator=generator, levels=[0.2, 0.5, 0.7], saliency=()
        )
        of_set = check_set(
            [*list(others)[:4], *list(found)[:5]], model, generator=generator,
            surrogate=Surrogate(OneLogit(generator), 0.99, 100),
        )  # fmt: skip
        assert of_set.walks == 5
        assert [level for level, _ in of_set.surrogate] == LEVELS
        assert of_set.calibration.walks == 9

    def test_masked_walks_are_not_mixed_with_others_and_have_no_null_control(self, found, model, generator):
        allow = torch.ones(16, 16)
        allow[:, 0] = 0
        masked = explain_many(
            toy_images(4, seed=8), model, generator=generator, levels=LEVELS, saliency=(), allow=allow
        )
        of_set = check_set([*masked, *list(found)[:3]], model, generator=generator, balanced=model)
        assert of_set.walks == 4
        assert of_set.control is None
        (said,) = [check.sentence for check in of_set.checks if check.name == "equal moves"]
        assert said.startswith("Not measured: the explained walks had a mask")
        mixed = check_set([*masked, *list(found)[:5]], model, generator=generator, balanced=model)
        assert mixed.walks == 5
        assert mixed.control is not None

    def test_another_classifier_or_generator_is_refused(self, found, model, generator):
        other = Classifier(LogisticClassifier(generator, scale=8.0), size=16)
        with pytest.raises(OptionError, match="classifier: is not the one that was explained"):
            check_set(found, other, generator=generator)
        with pytest.raises(OptionError, match="generator: did not make these frames"):
            check_set(found, model, generator=LinearGenerator(seed=3).eval())
        with pytest.raises(OptionError, match="generator: of these explanations was given as an object"):
            check_set(found, model)

    def test_thresholds_can_be_others(self, found, model, generator):
        strict = check_set(found, model, generator=generator, thresholds=Thresholds(swap_limit=-1.0))
        assert {check.name: check.status for check in strict.checks}["detail swap"] == "limit"

    def test_other_thresholds_decide_the_calibration(self, found, model, generator):
        errors = found.to_frame().dropna(subset="level")["error"]
        least = float(errors.quantile(0.4))
        strict = check_set(found, model, generator=generator, most=2,
                           thresholds=Thresholds(level_error=least))  # fmt: skip
        assert strict.calibration.unreached == int((errors > least).sum()) > 0
        falling = found.calibrated(Thresholds(monotone=-1.0))
        assert falling.monotone.estimate == 0
        assert found.calibrated().unreached == found.calibration.unreached == 0

    def test_of_a_regression_they_are_in_quartile_ranges(self, generator):
        network = LogisticClassifier(generator)
        model = Classifier(lambda x: 40 * network(x), kind="regression", reference=[0.0, 20.0, 40.0], size=16)
        many = explain_many(toy_images(3), model, generator=generator, levels=[10.0, 30.0], saliency=())
        missed = [
            many.calibrated(Thresholds(level_error=largest)).unreached
            for largest in many.to_frame()["error"].max() / 40.0 * np.array([0.99, 1.01])
        ]
        assert [count > 0 for count in missed] == [True, False]

    def test_the_classifier_is_left_as_it_was(self, found, generator):
        network = LogisticClassifier(generator).train()
        check_set(list(found)[:3], Classifier(network, size=16), generator=generator)
        assert network.training
        assert network.weight.requires_grad


class OneLogit(torch.nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.inner = LogisticClassifier(generator)

    def forward(self, images):
        return self.inner(images)[:, None]


class TestThorough:
    def test_one_image_is_also_reconstructed_again_and_again(self, model, generator):
        image = toy_images(1)[0]
        names = [
            [check.name for check in explain(image, model, generator=generator, thorough=flag).checks]
            for flag in (False, True)
        ]
        assert names[1] == [*names[0], "composition"]
        with pytest.raises(OptionError, match="thorough: must be True or False"):
            explain(image, model, generator=generator, thorough=1)

    def test_many_are_checked_as_a_set_and_shown_so(self, tmp_path, model, generator):
        images = toy_images(5, seed=4)
        options = {"generator": generator, "levels": LEVELS, "saliency": (), "thorough": True}
        many = explain_many(images, model, **options)
        kept = explain_many(images, model, **options, out=tmp_path / "out")
        opened = Explanations.open(tmp_path / "out")
        assert isinstance(many.checked, SetChecks)
        assert kept.checked.sentences() == many.checked.sentences() == opened.checked.sentences()
        page = opened._sheet(5)
        assert "Checks of the set" in page
        assert many.checked.checks[0].sentence in page
        assert "Not measured: 5 images, of 20 needed." in page
        assert explain_many(images, model, **options, out=tmp_path / "out").checked is not None
        more = explain_many(toy_images(6, seed=4)[:6], model, **options, out=tmp_path / "more")
        assert more.checked.calibration.walks == 6

    def test_what_was_found_is_forgotten_when_images_are_added(self, tmp_path, model, generator):
        images = toy_images(5, seed=4)
        options = {"generator": generator, "levels": LEVELS, "saliency": (), "thorough": True}
        explain_many(images[:3], model, **options, out=tmp_path / "out")
        assert explain_many(images, model, **options, out=tmp_path / "out").checked.calibration.walks == 5

    def test_a_record_that_is_not_one_is_named(self, tmp_path, model, generator):
        explain_many(toy_images(2), model, generator=generator, levels=LEVELS, saliency=(), thorough=True,
                     out=tmp_path / "out")  # fmt: skip
        (tmp_path / "out" / "checked.json").write_text(json.dumps({"checks": []}))
        with pytest.raises(ModelFileError, match="has checks of the set that are not complete"):
            Explanations.open(tmp_path / "out")

    def test_all_failed_is_not_checked(self, model, generator):
        many = explain_many(
            [torch.full((1, 16, 16), float("nan"))], model, generator=generator, thorough=True
        )
        assert many.checked is None


def test_the_page_has_the_calibration_of_all(found):
    page = found._sheet(2)
    assert "Levels asked for and achieved" in page
    assert page.count('class="spread"') == len(LEVELS)
    assert "Checks of the set" not in page
