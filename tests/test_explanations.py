"""Many images: each as on its own, none lost to another, on disk through a kill, summed up honestly."""

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer import Classifier, Explanation, Explanations, Outcome, explain, explain_many
from explainer.checks import Thresholds, calibrate_identity
from explainer.errors import ClassifierError, ImageError, ModelFileError, OptionError, OutputError
from explainer.image import to_uint8
from explainer.metrics import wilson_interval

LEVELS = [0.1, 0.5, 0.9]


@pytest.fixture(scope="module")
def generator():
    return LinearGenerator().eval()


@pytest.fixture(scope="module")
def model(generator):
    return LogisticClassifier(generator)


@pytest.fixture(scope="module")
def images():
    return toy_images(7, seed=4)


@pytest.fixture(scope="module")
def mixed(images):
    """Good, NaN, of other channels, larger, and no image at all."""
    large = nn.functional.interpolate(images[:1], size=(40, 40), mode="bicubic").clamp(0, 1)[0]
    return [images[0], torch.full((1, 16, 16), float("nan")), images[1], torch.rand(3, 16, 16), large,
            "no such file.png", images[2]]  # fmt: skip


def run(images, model, generator, **options):
    options = {"generator": generator, "levels": LEVELS, "batch_size": 3, **options}
    wrapped = model if isinstance(model, Classifier) else Classifier(model, size=16)
    return explain_many(images, wrapped, **options)


@pytest.fixture(scope="module")
def found(mixed, model, generator):
    return run(mixed, model, generator)


def same(one, other):
    """Whether two results are the same to the last bit."""
    if isinstance(one, Outcome) or isinstance(other, Outcome):
        return one == other
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.latents, other.latents)
        and json.dumps(one.to_dict()) == json.dumps(other.to_dict())
    )


class TestEachImageAsOnItsOwn:
    def test_frames_and_levels_are_those_of_explain(self, found, mixed, model, generator):
        for index in (0, 2, 4, 6):
            alone = explain(mixed[index], Classifier(model, size=16), generator=generator, levels=LEVELS)
            together = found[index]
            assert_allclose(together.images, alone.images, atol=1e-5)
            assert_allclose(together.frames["achieved"], alone.frames["achieved"], atol=1e-5)
            assert together.verdict.status == alone.verdict.status
            assert [check.status for check in together.checks] == [check.status for check in alone.checks]
            assert_allclose(
                together.saliency["difference"].values, alone.saliency["difference"].values, atol=1e-5
            )

    def test_an_image_keeps_its_place_and_name(self, found):
        assert found[2].provenance["image"]["index"] == 2
        assert found[2].provenance["image"]["name"] == "images[2]"
        assert found[5].name == "no such file.png"

    def test_the_same_call_gives_the_same_bits(self, found, mixed, model, generator):
        again = run(mixed, model, generator)
        assert all(same(*pair) for pair in zip(found, again, strict=True))

    def test_inputs_stay_as_they_were(self, images, model, generator):
        before = images.clone()
        run(images, model, generator)
        assert torch.equal(images, before)

    def test_each_image_is_walked_to_the_class_predicted_for_it(self, images, generator):
        class Three(nn.Module):
            def forward(self, batch):
                return (batch - 0.5).flatten(1) @ (4 * generator.basis[:, :3])

        model = Classifier(Three())
        many = run(images, model, generator, target=None)
        predicted = [f"class {int(Three()(image[None]).argmax())}" for image in images]
        assert [each.target for each in many] == predicted
        assert len(set(predicted)) > 1
        assert many.summary().reached == 1

    def test_a_regression_has_one_reference_for_all(self, images, model, generator):
        wrapped = Classifier(model, kind="regression", class_names=["brightness"])
        many = run(images, wrapped, generator, levels=None)
        assert len({tuple(each.provenance["target"]["quartiles"]) for each in many}) == 1
        assert many.summary().reached == 1
        assert any("256 samples of the generator" in sentence for sentence in many[0].assumptions)


class TestNoImageIsLostToAnother:
    def test_every_image_has_its_result_in_order(self, found):
        kinds = [type(result).__name__ for result in found]
        assert kinds == ["Explanation", "Outcome", "Explanation", "Outcome", "Explanation", "Outcome",
                         "Explanation"]  # fmt: skip

    def test_an_outcome_says_what_was_wrong_and_what_to_do(self, found):
        assert found[1].kind == "ImageError"
        assert "holds NaN or infinite values" in found[1].sentence
        assert found[3].kind == "GeneratorError"
        assert "Pass an image with those channels" in found[3].sentence
        assert [outcome.index for outcome in found.failed] == [1, 3, 5]

    def test_an_error_inside_the_classifier_is_one_images_own(self, images, generator):
        class Picky(LogisticClassifier):
            """Fails for one image, and only on the way: the batch must be taken apart."""

            def forward(self, batch):
                own = (batch - images[3]).abs().amax(dim=(1, 2, 3))
                if bool(((own > 1e-3) & (own < 0.05)).any()):
                    raise RuntimeError("no such thing")
                return super().forward(batch)

        many = run(images, Classifier(Picky(generator)), generator, batch_size=7)
        assert [outcome.index for outcome in many.failed] == [3]
        assert "no such thing" in many[3].sentence
        assert many.summary().reached == 1

    def test_an_image_whose_output_is_not_finite_is_its_own_failure(self, images, generator):
        class Blind(LogisticClassifier):
            def forward(self, batch):
                score = super().forward(batch)
                hit = (batch - images[4]).abs().amax(dim=(1, 2, 3)) < 1e-6
                return torch.where(hit, torch.full_like(score, float("nan")), score)

        many = run(images, Classifier(Blind(generator)), generator)
        assert [outcome.index for outcome in many.failed] == [4]
        assert "NaN or infinite outputs" in many[4].sentence

    def test_a_data_set_that_raises_over_one_image(self, images, model, generator):
        class Torn:
            def __len__(self):
                return 4

            def __getitem__(self, index):
                if index == 2:
                    raise KeyError("lost")
                return images[index]

        many = run(Torn(), model, generator)
        assert [(outcome.index, outcome.kind) for outcome in many.failed] == [(2, "KeyError")]

    def test_a_corrupt_file_in_the_middle_of_a_folder(self, tmp_path, images, model, generator):
        for index, image in enumerate(images[:3]):
            Image.fromarray(to_uint8(image)).save(tmp_path / f"{index}.png")
        (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
        many = run(tmp_path, model, generator)
        assert [type(each).__name__ for each in many] == ["Explanation", "Outcome", "Explanation"]
        assert many[1].name == str(tmp_path / "1.png")


class TestWhatFitsNoImageIsRaised:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"target": "cat"}, ClassifierError, "target: is not the name of a class"),
            ({"levels": [0.0, 0.5]}, OptionError, "levels: must be probabilities"),
            ({"levels": "high"}, OptionError, "levels: must be finite values"),
            ({"walk": "random"}, OptionError, "walk: is not known"),
            ({"batch_size": 0}, OptionError, "batch_size: must be at least 1"),
            ({"generator": "no such"}, OptionError, "source: is no generator"),
            ({"thresholds": {}}, OptionError, "thresholds: must be a Thresholds"),
            ({"thresholds": Thresholds(error_limit=0.8)}, OptionError, "names a quantile"),
        ],
    )
    def test_options(self, images, model, generator, options, error, message):
        with pytest.raises(error, match=message):
            run(images, model, **{"generator": generator, **options})

    @pytest.mark.parametrize("empty", [[], torch.zeros(0, 1, 16, 16)])
    def test_no_images(self, model, generator, empty):
        with pytest.raises(ImageError, match="images: is empty"):
            run(empty, model, generator)

    def test_a_classifier_that_fails_on_every_image_of_the_first_batch(self, images, generator):
        with pytest.raises(ClassifierError, match="NaN or infinite outputs"):
            run(images, Classifier(lambda batch: batch.mean((1, 2, 3)) * float("nan")), generator)

    def test_the_classifier_is_left_as_it_was_found(self, images, generator):
        model = LogisticClassifier(generator).train()
        with pytest.raises(ClassifierError):
            run(images, Classifier(model), generator, target="cat")
        assert model.training
        assert model.weight.requires_grad


# -- a list, a table, a summary, a page --------------------------------------------------------------------


class TestTheWhole:
    def test_it_is_a_list(self, found):
        assert len(found) == 7
        assert isinstance(found[-1], Explanation)
        assert isinstance(found[1:4], Explanations)
        assert [type(each) for each in found[1:4]] == [type(found[index]) for index in (1, 2, 3)]
        assert repr(found) == "Explanations(7 images, 3 failed)"
        with pytest.raises(IndexError):
            found[7]

    def test_one_row_for_every_image_and_level(self, found):
        frame = found.to_frame()
        assert len(frame) == 4 * len(LEVELS) + 3
        assert frame["image"].tolist() == [0] * 3 + [1] + [2] * 3 + [3] + [4] * 3 + [5] + [6] * 3
        assert_allclose(frame.query("image == 2")["achieved"], found[2].frames["achieved"])
        failed = frame[frame["verdict"] == "failed"]
        assert not failed["reached"].any()
        assert failed["achieved"].isna().all()
        assert failed["reason"].str.contains("ImageError|GeneratorError").all()

    def test_levels_not_reached_are_counted(self, images, generator):
        class Ceiling(LogisticClassifier):
            def forward(self, batch):
                return 1.5 * torch.tanh(super().forward(batch))  # at most .82

        many = run(images, Classifier(Ceiling(generator)), generator)
        summary, frame = many.summary(), many.to_frame()
        assert summary.levels == len(frame) == 21
        assert summary.levels_reached == int(frame["reached"].sum()) < 21
        whole = frame.groupby("image")["reached"].all()
        assert summary.complete == wilson_interval(int(whole.sum()), 7)
        assert summary.mean_error == pytest.approx(frame["error"].mean())
        assert frame.loc[~frame["reached"], "reason"].str.contains("not reached").all()

    def test_the_summary_of_the_mixed_set(self, found):
        summary = found.summary()
        assert (summary.images, summary.failed, summary.levels, summary.levels_reached) == (7, 3, 12, 12)
        assert {kind: count for kind, (count, _) in summary.failures.items()} == {
            "ImageError": 2, "GeneratorError": 1,
        }  # fmt: skip
        assert sum(summary.verdicts.values()) == 4
        assert summary.monotone == 1
        assert "every level of 100.0% of the images (95 % interval 51.0% to 100.0%)" in str(summary)

    def test_a_summary_of_failures_alone(self, model, generator):
        many = run([torch.full((1, 16, 16), float("nan"))], model, generator)
        summary = many.summary()
        assert summary.complete is None
        assert np.isnan(summary.reached)
        assert "ImageError, 1:" in str(summary)
        assert many.to_frame()["verdict"].tolist() == ["failed"]
        assert "Images without an explanation" in many._sheet(5)

    def test_the_notebook_view_is_short_and_escaped(self, model, generator):
        many = run([toy_images(1)[0], "<script>.png"], model, generator)
        shown = many._repr_html_()
        assert len(shown) < 2000
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown

    def test_the_page_shows_each_image_with_its_verdict(self, tmp_path, found):
        page = found.to_html(tmp_path / "index.html").read_text(encoding="utf-8")
        outline = Outline(page)
        assert outline.strips == 4
        assert outline.pictures == 4 * (1 + len(LEVELS))
        assert outline.sources == {"data:image"}
        assert "no such file.png" in page
        assert all(each.verdict.sentence in page for each in found if isinstance(each, Explanation))

    def test_the_page_is_capped_and_spread(self, found):
        outline = Outline(found._sheet(2))
        assert outline.strips == 2
        assert "2 of 4 images, evenly spread" in " ".join(found._sheet(2).split())
        with pytest.raises(OptionError, match="most: must be at least 1"):
            found.to_html("page.html", most=0)

    def test_a_hostile_name_stays_text(self, model, generator):
        many = run([toy_images(1)[0], '"><img src=x onerror=alert(1)>.png'], model, generator)
        assert Outline(many._sheet(5)).handlers == 0


class Outline(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.strips = self.pictures = self.handlers = 0
        self.sources = set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.strips += tag == "div" and values.get("class") == "thumbs"
        self.pictures += tag == "img"
        self.handlers += any(name.startswith("on") for name in values)
        if tag == "img":
            self.sources.add(values["src"].split("/")[0])


# -- on disk -----------------------------------------------------------------------------------------------


class TestOnDisk:
    def test_it_is_what_would_have_been_in_memory(self, tmp_path, mixed, model, generator, found):
        kept = run(mixed, model, generator, out=tmp_path / "out")
        assert all(same(*pair) for pair in zip(kept, found, strict=True))
        opened = Explanations.open(tmp_path / "out")
        assert all(same(*pair) for pair in zip(opened, found, strict=True))
        assert opened.complete
        assert opened.summary() == found.summary()
        pd.testing.assert_frame_equal(opened.to_frame(), found.to_frame())
        assert opened[3:5].to_frame()["image"].unique().tolist() == [3, 4]
        assert f"folder='{tmp_path / 'out'}'" in repr(opened)
        assert opened.failed == found.failed

    def test_an_image_is_read_when_it_is_asked_for(self, tmp_path, images, model, generator):
        run(images, model, generator, out=tmp_path / "out")
        opened = Explanations.open(tmp_path / "out")
        spoiled = next((tmp_path / "out").glob("chunk-*/00000002/tensors.safetensors"))
        spoiled.write_bytes(b"nothing")
        assert opened[1].verdict.status == "trust"
        assert opened.summary().images == 7
        with pytest.raises(ModelFileError, match="was changed after it was written"):
            opened[2]

    def test_a_finished_run_is_not_repeated(self, tmp_path, images, model, generator):
        run(images, model, generator, out=tmp_path / "out")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
        again = run(images, model, generator, out=tmp_path / "out")
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
        assert len(again) == 7

    def test_an_interrupted_run_goes_on_with_another_batch_size(self, tmp_path, images, model, generator):
        def breaking():
            yield from images[:5]
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError):
            run(breaking(), model, generator, out=tmp_path / "out")
        opened = Explanations.open(tmp_path / "out")
        assert (len(opened), opened.complete) == (3, False)
        assert "interrupted" in repr(opened)
        assert "The run was interrupted" in opened._sheet(1)
        whole = run(iter(images), model, generator, out=tmp_path / "out", batch_size=2)
        assert [each.provenance["image"]["index"] for each in whole] == list(range(7))
        chunks = sorted(path.name for path in (tmp_path / "out").glob("chunk-*"))
        assert chunks == ["chunk-00000000", "chunk-00000003", "chunk-00000005"]

    def test_more_images_are_added(self, tmp_path, images, model, generator):
        run(images[:4], model, generator, out=tmp_path / "out")
        assert len(run(images, model, generator, out=tmp_path / "out")) == 7

    @pytest.mark.parametrize(
        ("options", "named"),
        [({"levels": [0.2]}, "levels"), ({"seed": 3}, "seed"), ({"detail": 0.5}, "detail"),
         ({"target": "class 0"}, "target"), ({"thresholds": Thresholds(rounding=0.1)}, "thresholds")],
    )  # fmt: skip
    def test_other_settings_are_refused(self, tmp_path, images, model, generator, options, named):
        run(images[:2], model, generator, out=tmp_path / "out")
        with pytest.raises(OutputError, match=f"out: was begun with another {named} "):
            run(images[:2], model, generator, out=tmp_path / "out", **options)

    def test_another_classifier_or_generator_is_refused(self, tmp_path, images, model, generator):
        run(images[:2], model, generator, out=tmp_path / "out")
        with pytest.raises(OutputError, match="another classifier"):
            run(images[:2], LogisticClassifier(generator, scale=2), generator, out=tmp_path / "out")
        with pytest.raises(OutputError, match="another generator"):
            run(images[:2], model, LinearGenerator(seed=1), out=tmp_path / "out")

    def test_other_images_are_refused(self, tmp_path, images, model, generator):
        run(images[:4], model, generator, out=tmp_path / "out")
        with pytest.raises(OutputError, match="was begun with other images"):
            run(images.flip(0), model, generator, out=tmp_path / "out")
        with pytest.raises(OutputError, match="no image where"):
            run(images[:2], model, generator, out=tmp_path / "out")
        assert len(Explanations.open(tmp_path / "out")) == 4

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path, images, model, generator):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(OutputError, match="left alone"):
            run(images, model, generator, out=tmp_path)
        with pytest.raises(OutputError):
            run(images, model, generator, out=tmp_path / "notes.txt" / "out")
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_a_place_that_can_no_longer_be_written_keeps_what_is_there(
        self, tmp_path, images, model, generator, monkeypatch
    ):
        run(images[:3], model, generator, out=tmp_path / "out")

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.write_bytes", full)
            with pytest.raises(OutputError, match="No space left on device"):
                run(images, model, generator, out=tmp_path / "out")
        assert len(Explanations.open(tmp_path / "out")) == 3
        assert not list((tmp_path / "out").glob(".chunk-*"))
        assert len(run(images, model, generator, out=tmp_path / "out")) == 7

    def test_a_missing_chunk_or_record_is_named(self, tmp_path, images, model, generator):
        out = tmp_path / "out"
        run(images, model, generator, out=out)
        record = json.loads((out / "chunk-00000003" / "chunk.json").read_text())
        (out / "chunk-00000003" / "chunk.json").write_text(json.dumps({"start": 3}))
        with pytest.raises(ModelFileError, match="has a chunk that is not complete"):
            Explanations.open(out)
        (out / "chunk-00000003" / "chunk.json").write_text(json.dumps(record))
        (out / "chunk-00000000").rename(out / "elsewhere")
        with pytest.raises(ModelFileError, match="lacks the chunk that begins with image 0"):
            Explanations.open(out)
        (out / "run.json").write_text(json.dumps({"format": 99}))
        with pytest.raises(ModelFileError, match="of another format"):
            Explanations.open(out)
        with pytest.raises(ModelFileError, match="no readable"):
            Explanations.open(tmp_path)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from toys import LinearGenerator, LogisticClassifier, toy_images
from explainer import Classifier, explain_many
generator = LinearGenerator().eval()
def slowly():
    for image in toy_images(12, seed=9):
        time.sleep({pause})
        yield image
found = explain_many(slowly(), Classifier(LogisticClassifier(generator)), generator=generator,
                     levels=[.1, .9], batch_size=2, out={out!r}, progress=False)
print(len(found))
"""


def test_a_run_killed_at_any_moment_goes_on_without_losing_or_repeating(tmp_path, generator):
    out = tmp_path / "out"
    tests = os.path.dirname(__file__)
    done = []
    for chunks in (1, 3):
        code = KILLED.format(tests=tests, out=str(out), pause=0.05)
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 90
        while len(list(out.glob("chunk-*"))) < chunks:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        done.append({path: path.stat().st_mtime_ns for path in out.glob("chunk-*/*/*")})
        opened = Explanations.open(out)
        assert not opened.complete
        assert all(isinstance(each, Explanation) for each in opened)
    assert done[0].items() <= done[1].items()  # what was written is not written again
    (out / ".chunk-00000099-half").mkdir()
    images = toy_images(12, seed=9)
    model = Classifier(LogisticClassifier(generator))
    options = {"generator": generator, "levels": [0.1, 0.9], "batch_size": 2}
    whole = explain_many(iter(images), model, out=out, **options)
    assert {path: path.stat().st_mtime_ns for path in done[1]} == done[1]
    assert whole.complete
    assert not list(out.glob(".chunk-*"))
    straight = explain_many(images, model, **options)
    assert len(whole) == 12
    assert all(same(*pair) for pair in zip(whole, straight, strict=True))


MAPS = ("difference", "integrated_gradients", "gradient_shap", "saliency:smooth")


@pytest.fixture(scope="module")
def options():
    who = calibrate_identity(lambda images: images.flatten(1), toy_images(60), name="pixels", size=(16, 16))
    return {"saliency": MAPS, "fidelity": True, "identity": who}


class TestMapsFidelityAndIdentityOfMany:
    def test_each_image_has_those_it_would_have_alone(self, images, model, generator, options):
        many = run(images[:3], model, generator, **options)
        for image, together in zip(images[:3], many, strict=True):
            wrapped = Classifier(model, size=16)
            alone = explain(image, wrapped, generator=generator, levels=LEVELS, **options)
            assert tuple(together.saliency) == MAPS
            for name in MAPS:
                assert_allclose(
                    together.saliency[name].values, alone.saliency[name].values, atol=1e-4, err_msg=name
                )
            assert together.fidelity.settings["images"] == 1
            assert_allclose(together.fidelity.probability[1], alone.fidelity.probability[1], atol=1e-3)
            assert [check.status for check in together.checks] == [check.status for check in alone.checks]
            assert "identity" in {check.name for check in together.checks}

    def test_a_run_that_was_stopped_goes_on_to_the_same(self, images, model, generator, options, tmp_path):
        whole = run(images[:4], model, generator, batch_size=2, out=tmp_path / "whole", **options)
        run(images[:2], model, generator, batch_size=2, out=tmp_path / "begun", **options)
        resumed = run(images[:4], model, generator, batch_size=2, out=tmp_path / "begun", **options)
        for one, other in zip(whole, resumed, strict=True):
            assert same(one, other)
            np.testing.assert_array_equal(one.fidelity.predictions, other.fidelity.predictions)
        assert resumed.summary() == whole.summary()
        assert "4 images explained" in resumed.to_html(tmp_path / "index.html").read_text(encoding="utf-8")

    def test_another_identity_is_another_run(self, images, model, generator, options, tmp_path):
        run(images[:1], model, generator, out=tmp_path / "out", **options)
        other = calibrate_identity(
            lambda images: images.flatten(1), toy_images(50), name="pixels", size=(16, 16)
        )
        with pytest.raises(OutputError, match="begun with another identity"):
            run(images[:1], model, generator, out=tmp_path / "out", **options | {"identity": other})
        with pytest.raises(OutputError, match="begun with another fidelity"):
            run(images[:1], model, generator, out=tmp_path / "out", **options | {"fidelity": False})

    @pytest.mark.parametrize(
        ("wrong", "error", "said"),
        [
            ({"fidelity": True, "target": "uncertainty"}, OptionError, "fidelity: asks whether"),
            ({"saliency": ("magic",)}, OptionError, "saliency: must be a tuple of known"),
            ({"identity": 3}, OptionError, "identity: must be an Identity"),
        ],
    )
    def test_what_fits_no_image_is_an_error_and_not_an_outcome(
        self, images, model, generator, wrong, error, said
    ):
        with pytest.raises(error, match=said):
            run(images[:2], model, generator, levels=[0.5], **wrong)

    def test_a_classifier_without_a_gradient_is_an_error_where_a_map_needs_one(self, images, generator):
        def by_numbers(batch):
            return torch.from_numpy(batch.detach().numpy().mean(axis=(1, 2, 3)) - 0.5)

        wrapped = Classifier(by_numbers, kind="binary")
        with pytest.raises(ClassifierError, match="saliency: saliency needs a gradient"):
            run(images[:2], wrapped, generator, saliency=("saliency",))
