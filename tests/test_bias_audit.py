"""The whole audit on toys whose truth is known in closed form: codes are read off exactly.

Images are ``.5 + B z`` and models read single codes, so it is known what every walk moves: a classifier of
``4 z0`` moves z0 alone, one of ``4 z0 + 4 z1`` both, and a tag outside the span of B cannot be drawn at all.
"""

import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from toys import SHAPE, LinearGenerator

from explainer.bias import AuditThresholds, BiasReport, audit
from explainer.bias.inputs import truth_of
from explainer.classifier import Classifier
from explainer.errors import ClassifierError, OptionError, OutputError

NAMES = ("no", "yes")
COUNT = 320


class Readout(nn.Module):
    """``s = sum_k w_k z_k + tag w_tag``, from pixels."""

    def __init__(self, generator: LinearGenerator, weights: dict[int, float], tag: float = 0.0) -> None:
        super().__init__()
        direction = sum(weight * generator.basis[:, k] / 0.09 for k, weight in weights.items())
        self.weight = nn.Parameter(direction + tag * tag_direction(generator))

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight


class Entangled(LinearGenerator):
    """Codes u with ``z = M u``: what moves z0 moves z1 as well."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.eye(6)
        self.mix[1, 0] = 1.0

    def _encode(self, prepared: Tensor) -> Tensor:
        return super()._encode(prepared) @ torch.linalg.inv(self.mix).T

    def _decode(self, codes: Tensor) -> Tensor:
        return super()._decode(codes @ self.mix.T)


def tag_direction(generator: LinearGenerator) -> Tensor:
    """A pattern of length 1 that no code can draw."""
    pattern = torch.randn(256, generator=torch.Generator().manual_seed(9))
    span = generator.basis / 0.3
    pattern = pattern - span @ (span.T @ pattern)
    return pattern / pattern.norm()


def model(weights: dict[int, float], tag: float = 0.0) -> Classifier:
    return Classifier(Readout(LinearGenerator(), weights, tag), kind="binary", class_names=NAMES)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor, Tensor]:
    """Images, codes, and which of them carry the tag."""
    generator, random = LinearGenerator(), torch.Generator().manual_seed(3)
    codes = torch.randn(COUNT, 6, generator=random)
    tagged = torch.rand(COUNT, generator=random) < 0.5
    images = generator.decode(codes) + 0.8 * tagged[:, None, None, None] * tag_direction(generator).view(
        SHAPE
    )
    return images, codes, tagged


def run(data, classifier, *, columns=(1,), oracles=None, generator=None, **options) -> BiasReport:
    images, codes, tagged = data
    table = pd.DataFrame({f"z{k}": (codes[:, k] > 0).numpy() for k in columns})
    if "tag" in options:
        options.pop("tag")
        table["tag"] = tagged.numpy()
    given = {f"z{k}": model({k: 4.0}) for k in columns} | (oracles or {})
    if "targets" not in options:
        given = {"yes": model({0: 4.0})} | given
    options = {"n_images": 240, "progress": False, "reference": model({0: 4.0})} | options
    return audit(
        images, classifier, labels=(codes[:, 0] > 0).numpy().astype(int), attributes=table, oracles=given,
        generator=generator or LinearGenerator(), **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(data) -> BiasReport:
    """A clean classifier and one that reads z1 as well, asked about z1 and z2."""
    return run(data, {"clean": model({0: 4.0}), "biased": model({0: 4.0, 1: 4.0})}, columns=(1, 2))


def of(report: BiasReport, classifier: str, attribute: str):
    (found,) = [f for f in report.findings if (f.classifier, f.attribute) == (classifier, attribute)]
    return found


def test_what_is_read_is_confounded_and_nothing_else(both):
    said = {(f.classifier, f.attribute): f.verdict.status for f in both.findings}
    assert said == {
        ("clean", "z1"): "not detected", ("clean", "z2"): "not detected",
        ("biased", "z1"): "confounded", ("biased", "z2"): "not detected",
    }  # fmt: skip
    assert repr(both) == "BiasReport(3 not detected, 1 confounded)"
    assert [f.attribute for f in both.confounded] == ["z1"]


def test_the_effects_are_those_of_the_closed_form(data, both):
    found = of(both, "biased", "z1")
    # The walk of 4 z0 + 4 z1 goes along (1, 1): to level .1 or .9, z1 moves by (goal - s) / 8.
    codes = data[1].double()
    s = 4 * (codes[:, 0] + codes[:, 1])
    end = codes[:, 1] + (torch.where(s > 0, -1, 1) * np.log(9) - s) / 8
    flips = ((end > 0) != (codes[:, 1] > 0)).double().mean()
    assert found.forward.changed.value == pytest.approx(float(flips), abs=0.06)  # 240 of the 320
    assert found.forward.floor.value == 0
    assert found.forward.over_reference.value == pytest.approx(found.forward.changed.value)
    # it goes where the classifier goes
    assert found.forward.with_target.value > 5 * found.forward.against_target.value
    assert found.forward.one_sided < 1e-6
    assert found.forward.slope > 0.2
    assert found.forward.spearman == pytest.approx(1, abs=0.01)
    assert found.reverse.moved.low > 0.3
    assert found.reverse.held < 1e-3
    clean = of(both, "clean", "z1")
    assert clean.forward.changed.value == 0
    assert clean.reverse.moved.value == pytest.approx(0, abs=1e-3)
    assert clean.forward.relative_change < 0.01


def test_the_reverse_effect_has_the_sign_of_the_reading(data):
    found = run(data, model({0: 4.0, 1: -4.0})).findings[0]
    assert found.verdict.status == "confounded"
    assert found.reverse.moved.high < -0.3
    assert found.forward.against_target.value > found.forward.with_target.value


def test_q_values_are_those_of_the_whole_table(both):
    expected = stats.false_discovery_control([finding.p for finding in both.findings])
    assert [finding.q for finding in both.findings] == pytest.approx(list(expected))
    assert of(both, "biased", "z1").q > of(both, "biased", "z1").p


def test_the_negative_class_may_be_the_target(data):
    """Its oracle is the class of that name, whichever it is of the model's."""
    found = run(data, model({0: 4.0, 1: 4.0}), targets=["no"], oracles={"no": model({0: 4.0})}).findings[0]
    assert found.target == "no"
    assert found.verdict.status == "confounded"
    assert found.reverse.moved.high < -0.3
    assert found.reverse.held < 1e-3


def test_an_entangled_generator_accuses_no_clean_classifier(data):
    found = run(data, model({0: 4.0}), generator=Entangled()).findings[0]
    assert found.forward.over_floor.low > 0.05  # alone it would accuse
    assert found.forward.over_reference.high < 0.1
    assert abs(found.reverse.moved.value) < 0.01
    assert found.verdict.status != "confounded"


def test_a_given_reference_takes_the_place_of_the_oracle(data):
    biased = model({0: 4.0, 1: 4.0})
    found = run(data, biased, reference=biased).findings[0]
    assert found.forward.over_reference.value == 0
    assert found.verdict.status == "insufficient"  # no worse than what it is compared with, but it responds
    assert "The reference moves as well" in found.verdict.sentence


def test_what_the_generator_cannot_draw_is_insufficient(data):
    report = run(
        data, {"reads the tag": model({0: 4.0}, tag=12.0), "does not": model({0: 4.0})},
        oracles={"tag": model({}, tag=20.0)}, tag=True,
    )  # fmt: skip
    for name in ("reads the tag", "does not"):
        found = of(report, name, "tag")
        assert found.verdict.status == "insufficient"
        failed = {gate.name for gate in found.gates if not gate.met}
        assert {"oracle", "expressible"} <= failed
    # what is not in the code is not in the walks of anything else either
    assert "cannot show" in report.warnings["reads the tag, yes"]
    assert report.warnings["does not, yes"] == ""
    assert of(report, "reads the tag", "z1").verdict.status == "insufficient"
    assert of(report, "does not", "z1").verdict.status == "not detected"


def test_people_not_images_are_counted(data):
    images, codes, _ = data
    twice = (images.repeat_interleave(2, 0), codes.repeat_interleave(2, 0), data[2].repeat_interleave(2))
    biased = model({0: 4.0, 1: 4.0})
    apart = run(twice, biased, n_images=640).findings[0].forward.changed
    people = np.repeat(np.arange(COUNT), 2).astype(str)
    together = run(twice, biased, n_images=640, groups=people).findings[0].forward.changed
    assert together.value == apart.value
    assert apart.groups == apart.n
    assert together.groups == apart.n / 2
    assert together.high - together.low == pytest.approx(np.sqrt(2) * (apart.high - apart.low), rel=0.05)


def test_comparisons_are_paired_with_the_first(data):
    report = run(data, model({0: 4.0, 1: 4.0}), compare_with=model({0: 4.0}))
    (compared,) = report.comparisons
    assert (compared.first, compared.second) == ("classifier", "compared")
    assert compared.difference.value == pytest.approx(report.findings[0].forward.changed.value, abs=0.01)
    assert compared.difference.low > 0.2


def test_changes_are_those_of_the_walks_that_crossed(data):
    (finding,) = run(data, model({0: 4.0, 1: 4.0})).findings
    assert len(finding.changes) == finding.forward.changed.n
    assert finding.changes.mean() == finding.forward.changed.value
    assert finding.changes.index.is_unique
    assert finding.changes.index.max() < COUNT


def test_what_failed_a_gate_is_not_tested(data):
    """It can be no finding, so it makes the others neither more nor less sure."""
    alone = run(data, model({0: 4.0, 1: 4.0})).findings[0]
    report = run(
        data,
        model({0: 4.0, 1: 4.0}),
        columns=(1, 2),
        oracles={"z2": model({3: 4.0})},  # a bad oracle of z2
    )
    good, bad = report.findings
    assert not all(gate.met for gate in bad.gates)
    assert good.q == pytest.approx(2 * alone.p, rel=1e-6)
    assert bad.q == 1


def test_a_second_classifier_answers_by_the_name_of_the_class(data):
    """Its classes are in another order: it is the class of that name that is audited, not of that number."""
    swapped = Classifier(
        Readout(LinearGenerator(), {0: -4.0, 1: -4.0}), kind="binary", class_names=NAMES[::-1]
    )
    report = run(data, {"one": model({0: 4.0, 1: 4.0}), "other": swapped})
    one, other = report.findings
    assert other.target == one.target == "yes"
    assert other.verdict.status == one.verdict.status == "confounded"
    assert other.reverse.moved.value == pytest.approx(one.reverse.moved.value, abs=1e-4)


@pytest.mark.parametrize("option", ["compare_with", "reference"])
def test_other_classifiers_are_looked_at_too(data, option):
    regression = Classifier(Readout(LinearGenerator(), {0: 4.0}), kind="regression")
    with pytest.raises(ClassifierError, match="is a regression, which an audit does not walk"):
        run(data, model({0: 4.0}), **{option: regression})


def test_a_classifier_that_fails_on_some_images_is_said_before_anything_is_walked(data):
    bright = data[0][8:].flatten(1)[:, 0].quantile(0.97)

    class Breaks(Readout):
        def forward(self, images: Tensor) -> Tensor:
            scores = super().forward(images)
            return torch.where(images.flatten(1)[:, 0] > bright, torch.nan, scores)

    assert not (data[0][:8].flatten(1)[:, 0] > bright).any()  # those that are looked at first
    count = int((data[0].flatten(1)[:, 0] > bright).sum())
    broken = Classifier(Breaks(LinearGenerator(), {0: 4.0}), kind="binary", class_names=NAMES)
    with pytest.raises(ClassifierError, match=f"late: must give a finite score.*{count} of 320 are not"):
        run(data, {"first": model({0: 4.0}), "late": broken})


@pytest.mark.parametrize(
    ("names", "labels", "wanted"),
    [
        (("no", "yes"), [0, 1, 1], [0, 1, 1]),
        (("no", "yes"), ["no", "yes", "1"], [0, 1, 1]),
        (("no", "yes"), ["1.0", None, "0.0"], [1, np.nan, 0]),
        (("1", "2"), ["1", "2", "1"], [0, 1, 0]),
        (("1", "2"), [1, 2, 1], [0, 1, 0]),
        (("v1.0", "v2.0"), ["v1.0", "v2.0", "v2.0"], [0, 1, 1]),
        (("no", "yes"), [False, True, True], [0, 1, 1]),
    ],
)
def test_labels_are_names_or_numbers_of_classes(names, labels, wanted):
    classifier = Classifier(Readout(LinearGenerator(), {0: 4.0}), kind="binary", class_names=names)
    target = classifier.target(1, torch.full((1, *SHAPE), 0.5))
    given = np.array(labels, dtype=object if None in labels else None)
    np.testing.assert_array_equal(truth_of(given, classifier, target, 3), wanted)


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (("no", "yes"), [1, 2, 1], r"holds a class .* \(received 2\).*0 \(no\), 1 \(yes\)"),
        (("no", "yes"), [0.0, 0.5, 1.0], r"received 0.5"),
        (("1", "2"), [0, 1, 1], r"received 0\).*Use the names of its classes"),
        (("1", "2"), ["0", "1", "1"], r"received 0\)"),
        (("no", "yes"), ["no", "maybe", "yes"], r"received maybe"),
    ],
)
def test_labels_that_are_no_classes_are_refused(names, labels, said):
    classifier = Classifier(Readout(LinearGenerator(), {0: 4.0}), kind="binary", class_names=names)
    target = classifier.target(1, torch.full((1, *SHAPE), 0.5))
    with pytest.raises(OptionError, match=said):
        truth_of(labels, classifier, target, 3)


def test_names_that_read_alike_are_refused(data):
    with pytest.raises(OptionError, match="two names that read alike"):
        run(data, {1: model({0: 4.0}), "1": model({0: 4.0})})
    with pytest.raises(OptionError, match=r"cannot be told apart.*a, yes"):
        run(data, {"a": model({0: 4.0})}, targets=["yes", "yes"])


def test_a_classifier_without_a_gradient_is_walked_all_the_same(data):
    readout = Readout(LinearGenerator(), {0: 4.0, 1: 4.0})
    blind = Classifier(lambda x: torch.from_numpy(readout(x).detach().numpy()), class_names=NAMES)
    assert run(data, blind, n_images=130, thresholds=AuditThresholds(crossings=60)).confounded


def test_an_oracle_without_a_gradient_is_refused(data):
    readout = Readout(LinearGenerator(), {1: 4.0})
    blind = Classifier(lambda x: torch.from_numpy(readout(x).detach().numpy()), class_names=NAMES)
    with pytest.raises(ClassifierError, match='without a gradient for "z1"'):
        run(data, model({0: 4.0}), oracles={"z1": blind})


def test_images_of_another_size_than_the_generators(data):
    large = nn.functional.interpolate(data[0], scale_factor=2, mode="nearest")

    class Small(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(nn.functional.avg_pool2d(images, images.shape[-1] // 16))

    def wide(weights: dict[int, float]) -> Classifier:
        return Classifier(Small(Readout(LinearGenerator(), weights)), kind="binary", class_names=NAMES)

    report = run(
        (large, *data[1:]), wide({0: 4.0, 1: 4.0}),
        oracles={"z1": wide({1: 4.0}), "yes": wide({0: 4.0})}, reference=wide({0: 4.0}), n_images=160,
    )  # fmt: skip
    assert report.findings[0].verdict.status == "confounded"


def test_the_same_seed_gives_the_same_report_and_the_classifier_is_left_as_it_was(data):
    clean = model({0: 4.0})
    clean.model.train()
    first = run(data, clean, n_images=60, seed=5).to_dict()
    with torch.no_grad():
        assert run(data, clean, n_images=60, seed=5).to_dict() == first
    assert run(data, clean, n_images=60, seed=6).to_dict() != first
    assert clean.model.training
    assert all(parameter.requires_grad for parameter in clean.model.parameters())


def test_several_targets_and_empty_answers(data):
    images, codes, _ = data
    labels = torch.stack([codes[:, 0] > 0, codes[:, 2] > 0], dim=1).numpy().astype(float)

    class Two(nn.Module):
        def __init__(self, second: dict[int, float]) -> None:
            super().__init__()
            self.first = Readout(LinearGenerator(), {0: 4.0})
            self.second = Readout(LinearGenerator(), second)

        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([self.first(images), self.second(images)], dim=1)

    table = pd.DataFrame({"z1": np.where(codes[:, 1] > 0, 1.0, 0.0)})
    table.loc[:9, "z1"] = np.nan
    report = audit(
        images, Classifier(Two({2: 4.0, 1: 4.0}), kind="multilabel", class_names=("p", "q")), labels=labels,
        reference=Classifier(Two({2: 4.0}), kind="multilabel", class_names=("p", "q")),
        attributes=table, generator=LinearGenerator(), n_images=220, progress=False,
        oracles={"z1": model({1: 4.0}), "p": model({0: 4.0}), "q": model({2: 4.0})},
    )  # fmt: skip
    assert [(f.target, f.verdict.status) for f in report.findings] == [
        ("p", "not detected"), ("q", "confounded")
    ]  # fmt: skip
    assert all(finding.observed.missing == 10 for finding in report.findings)


def test_oracles_that_are_trained_here_find_it_too(data):
    images, codes, _ = data
    before = images.clone()
    report = audit(
        images, {"clean": model({0: 4.0}), "biased": model({0: 4.0, 1: 4.0})}, n_images=120,
        labels=np.where(codes[:, 0] > 0, "yes", "no"), attributes=pd.DataFrame({"z1": codes[:, 1] > 0}),
        generator=LinearGenerator(), oracle_steps=120, progress=False,
        thresholds=AuditThresholds(crossings=50, oracle_auc=0.6, expressible=0.3),
    )  # fmt: skip
    assert torch.equal(images, before)
    assert of(report, "biased", "z1").oracle["source"] == "trained here in two halves, 120 steps each"
    assert of(report, "biased", "z1").reverse.moved.low > of(report, "clean", "z1").reverse.moved.high
    assert of(report, "clean", "z1").verdict.status != "confounded"


class Marking(LinearGenerator):
    """Its last code draws a square in the top left corner, and nothing else does."""

    def __init__(self) -> None:
        super().__init__()
        mark = torch.zeros(16, 16)
        mark[:3, :3] = 1.0
        columns = torch.cat([mark.reshape(-1, 1), self.basis[:, :5]], dim=1)
        basis = torch.linalg.qr(columns).Q * 0.3
        basis[:, 0] *= basis[0, 0].sign()
        self.basis = torch.cat([basis[:, 1:], basis[:, :1]], dim=1)


class Shortcut(nn.Module):
    """``s = 4 z0 + 5 max(z5, 0)``, from pixels: a mark speaks for the class, no mark says nothing."""

    def __init__(self, generator: LinearGenerator, mark: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(generator.basis[:, [0, 5]] / 0.09)
        self.mark = mark

    def forward(self, images: Tensor) -> Tensor:
        z0, z5 = ((images - 0.5).flatten(1) @ self.weight).unbind(dim=1)
        return 4 * z0 + self.mark * z5.clamp_min(0)


def test_a_mark_that_no_attribute_names_is_found_among_the_walks():
    generator, random = Marking(), torch.Generator().manual_seed(5)
    codes = torch.randn(COUNT, 6, generator=random)
    marked = (codes[:, 0] > 0) & (torch.rand(COUNT, generator=random) < 0.5)
    codes[:, 5] = torch.where(marked, 1.5, -1.0) + 0.05 * torch.randn(COUNT, generator=random)
    images, labels = generator.decode(codes), (codes[:, 0] > 0).numpy().astype(int)

    def read(mark: float) -> Classifier:
        return Classifier(Shortcut(generator, mark), kind="binary", class_names=NAMES)

    z1 = Readout(generator, {1: 4.0})
    report = audit(
        images, {"reads it": read(3.0), "does not": read(0.0)}, labels=labels, progress=False,
        attributes=pd.DataFrame({"z1": (codes[:, 1] > 0).numpy()}), generator=generator, n_images=COUNT,
        oracles={"z1": Classifier(z1, kind="binary"), "yes": read(0.0)}, reference=read(0.0),
    )  # fmt: skip
    assert report.clusters["does not, yes"] == ()
    (group,) = report.clusters["reads it, yes"]
    assert set(group.cluster.rows) <= set(np.flatnonzero(marked.numpy()))
    assert len(group.cluster.rows) > 0.9 * marked.sum()
    assert group.cluster.direction == "down"
    assert group.attribute is None
    assert group.shares.startswith("change one place (top left) alike, and it alone makes")
    (written,) = report.to_dict()["clusters"]["reads it, yes"]
    assert written["region"] == list(group.cluster.region)
    assert written["effect"] > written["effect_others"] + 0.1


# -- what is written -----------------------------------------------------------------------------------------


def test_the_table_has_a_row_per_finding(both):
    frame = both.to_frame()
    assert len(frame) == 4
    assert {"verdict", "changed", "changed low", "over reference n", "reverse high", "q"} <= set(frame)


def test_json_holds_everything_and_no_nan(both, tmp_path):
    path = both.to_json(tmp_path / "audit.json")
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert read["schema"] == 1
    assert set(read) == {
        "schema", "findings", "comparisons", "clusters", "warnings", "skipped", "thresholds", "provenance",
        "attribution_by_axis", "pictures_left_out",
    }  # fmt: skip
    finding = read["findings"][0]
    assert finding["verdict"] == "not detected"
    assert set(finding["forward"]["changed"]) == {"value", "low", "high", "n", "groups", "p", "margin"}
    assert [row["answer"] for row in finding["observed"]["groups"]] == [0, 1]
    assert len(read["provenance"]["images"]["sha256"]) == 64
    with pytest.raises(OutputError, match="cannot be written"):
        both.to_json(tmp_path / "nowhere" / "audit.json")


def test_junit_fails_what_is_confounded(both, tmp_path):
    suites = ElementTree.parse(both.to_junit(tmp_path / "audit.xml")).getroot()
    assert [(s.get("name"), s.get("tests"), s.get("failures")) for s in suites] == [
        ("clean", "2", "0"), ("biased", "2", "1")
    ]  # fmt: skip
    (failure,) = suites.iter("failure")
    assert "Supports evidence for confounding" in failure.get("message")


def test_markdown_is_one_table_with_a_sentence_each(both):
    text = both.to_markdown()
    assert text.startswith("## Confounder audit\n")
    assert sum(line.startswith("| ") for line in text.splitlines()) == 5
    assert "✖ confounded" in text
    assert "○ not detected" in text


def test_names_cannot_break_what_is_written(data, tmp_path):
    report = run(data, {"a|b\n<script>": model({0: 4.0})}, n_images=40)
    assert "<script>" not in report.to_markdown()
    assert len([line for line in report.to_markdown().splitlines() if line.startswith("| a")]) == 1
    ElementTree.parse(report.to_junit(tmp_path / "audit.xml"))
    assert report.findings[0].verdict.status == "insufficient"  # 40 walks are not 100


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [1, 2]}, "groups: must name one group for each of the 320 images"),
        ({"oracles": {"z9": nn.Identity()}}, "oracles: answer for no attribute and no target"),
        ({"n_images": 1}, "n_images: must be a whole number of at least 2"),
        ({"n_images": 2.5}, r"n_images: must be a whole number of at least 2 \(received 2.5"),
        ({"alpha": 1.0}, r"alpha: must lie in \(0, 1\)"),
        ({"seed": -1}, "seed: must be a whole number of at least 0"),
        ({"oracle_steps": 0}, "oracle_steps: must be a whole number of at least 1"),
        ({"reference": None}, 'oracles: has a model to hold "yes", but there is nothing to compare with'),
        ({"targets": "yes"}, "targets: must be a list"),
        ({"compare_with": {"classifier": nn.Identity()}}, "compare_with: names a classifier twice"),
    ],
)
def test_options_that_cannot_be(data, options, message):
    with pytest.raises(OptionError, match=message):
        run(data, model({0: 4.0}), **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(COUNT), 'labels: must hold "yes" and others'),
        (np.zeros(3), "labels: must hold one class for each"),
        (np.array(["yes", "perhaps"] * (COUNT // 2)), "labels: holds a class that the classifier does not"),
    ],
)
def test_labels_that_cannot_be(data, labels, message):
    with pytest.raises(OptionError, match=message):
        audit(
            data[0], model({0: 4.0}), labels=labels, attributes=pd.DataFrame({"a": [0, 1] * (COUNT // 2)}),
            generator=LinearGenerator(), progress=False,
        )  # fmt: skip


def test_a_regression_is_refused(data):
    regression = Classifier(Readout(LinearGenerator(), {0: 1.0}), kind="regression", reference=(0, 1, 2))
    with pytest.raises(ClassifierError, match="is a regression"):
        run(data, regression)
