"""The parts of the audit: questions, weights, oracles, gates and verdicts, subgroups, clusters."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn import metrics as fairlearn
from numpy.testing import assert_allclose
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn
from toys import LinearGenerator, LogisticClassifier, toy_images

from explainer.bias.attributes import Attribute, balanced_weights, questions, raked_weights
from explainer.bias.confounding import forward, reverse
from explainer.bias.oracles import Oracle, Part, fit_oracles, given_oracle, oracle_quality, scores_of
from explainer.bias.subgroups import observe
from explainer.bias.verdict import AuditThresholds, decide, gates, weakest
from explainer.bias.walking import HeldWalk, cross, cross_oracle, typical_difference
from explainer.classifier import Classifier
from explainer.errors import OptionError
from explainer.metrics import newcombe_interval, wilson_interval

# -- questions and weights -----------------------------------------------------------------------------------


def test_what_is_left_out_of_a_table_is_said():
    table = pd.DataFrame(
        {"site": [f"s{k % 15:02d}" for k in range(600)], "none": [None] * 600, "age": np.arange(600.0)}
    )
    asked, skipped = questions(table)
    assert [question.name for question in asked][:2] == ["site = s00", "site = s01"]
    assert len(asked) == 13
    assert skipped == [
        "site: 3 rarer categories (120 images); only the 12 most common ones are asked about",
        "none: every cell is empty",
    ]


def test_columns_become_questions():
    table = pd.DataFrame(
        {
            "hat": [True, False, None, True] * 20,
            "sex": ["f", "m"] * 40,
            "age": np.arange(80.0),
            "site": ["a", "b", "c", None] * 20,
            "code": [3, 7] * 40,
            "rare": [1] + [0] * 79,
            "one": ["x"] * 80,
        }
    )
    asked, skipped = questions(table)
    assert [(q.name, q.kind) for q in asked] == [
        ("hat", "binary"), ("sex = m", "binary"), ("age above 39.5", "continuous"),
        ("site = a", "categorical"), ("site = b", "categorical"), ("site = c", "categorical"),
        ("code = 7", "binary"),
    ]  # fmt: skip
    assert np.isnan(asked[0].values[2])
    assert asked[0].values[:2].tolist() == [1, 0]
    assert np.isnan(asked[3].values[3])
    assert asked[6].values[:2].tolist() == [0, 1]
    assert any("rare: 1 images with it and 79 without" in sentence for sentence in skipped)
    assert any(sentence.startswith("one") for sentence in skipped)


def test_balanced_weights_make_the_target_useless():
    stream = np.random.default_rng(0)
    y = (stream.random(500) < 0.3).astype(float)
    a = np.where(stream.random(500) < 0.2 + 0.6 * y, 1.0, 0.0)
    a[:20] = np.nan
    weights = balanced_weights(y, a)
    assert (weights[:20] == 0).all()
    cells = [weights[(y == i) & (a == j)].sum() for i in (0, 1) for j in (0, 1)]
    assert_allclose(cells, cells[0])


def test_raked_weights_undo_several_associations_at_once():
    stream = np.random.default_rng(1)
    y = (stream.random(2000) < 0.4).astype(float)
    attributes = [np.where(stream.random(2000) < 0.5 + d * (2 * y - 1), 1.0, 0.0) for d in (0.2, -0.3, 0.0)]
    attributes[2][:100] = np.nan
    weights = raked_weights(y, attributes)
    assert weights.mean() == pytest.approx(1, abs=0.02)
    for a in attributes:
        known = ~np.isnan(a)
        correlation = np.cov(y[known], a[known], aweights=weights[known])[0, 1]
        assert abs(correlation) < 0.01
        assert known.all() or abs(np.cov(y[known], a[known])[0, 1]) < 0.02
    assert abs(np.cov(y, attributes[0])[0, 1]) > 0.05  # it was there before


def test_an_attribute_with_an_empty_cell_is_left_out_of_the_raking():
    y = np.array([0.0] * 50 + [1.0] * 50)
    assert_allclose(raked_weights(y, [y.copy()]), 1)


# -- oracles -------------------------------------------------------------------------------------------------


class Bright(nn.Module):
    """Logits of which quarter of the image is how bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * (nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) - 0.5)


def test_trained_oracles_judge_only_images_they_have_not_seen():
    stream = torch.Generator().manual_seed(0)
    lit = torch.rand(160, 2, generator=stream) < 0.5
    images = 0.4 + 0.1 * torch.rand(160, 1, 16, 16, generator=stream)
    images[:, :, :8, :8] += 0.4 * lit[:, 0, None, None, None]
    images[:, :, 8:, 8:] += 0.4 * lit[:, 1, None, None, None]
    people = np.repeat(np.arange(40), 4)
    question = Attribute("lit", "lit", "binary", lit[:, 0].numpy().astype(float))
    truth = lit[:, 1].numpy().astype(float)
    found = fit_oracles(images, [question], truth, people, resized=lambda x: x, steps=60, seed=0)
    again = fit_oracles(images, [question], truth, people, resized=lambda x: x, steps=60, seed=0)
    rows = np.arange(160)
    scores = scores_of(found, images, rows)
    assert_allclose(scores, scores_of(again, images, rows))
    halves = [set(people[part.rows]) for part in found[0].parts]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(range(40))
    assert oracle_quality(scores[0], question.values, truth)["least"] > 0.9
    assert oracle_quality(scores[1], truth, question.values)["least"] > 0.9
    one_by_one = np.concatenate([scores_of(found, images[i : i + 1], [i]) for i in range(6)], axis=1)
    assert_allclose(one_by_one, scores[:, :6], atol=1e-5)


def test_a_model_of_several_classes_answers_for_a_categorical_column():
    images = toy_images(30)
    site = Classifier(Bright(), class_names=("a", "b", "c", "d"))
    asked, _ = questions(pd.DataFrame({"site": ["a", "b", "c", "d"] * 30}))
    found = [given_oracle({"site": site}, question, images) for question in asked]
    scores = scores_of(found, images, np.arange(30))
    target = site.target("c")
    assert_allclose(scores[2], site.score(images, target).numpy(), rtol=1e-5)
    with pytest.raises(OptionError, match='"site" has no class "z"'):
        given_oracle({"site": site}, replace(asked[0], positive="z", name="site = z"), images)


def test_oracle_quality_is_within_each_class_and_unknown_without_both_answers():
    scores = np.array([1.0, -1, 2, -2, 3, 1])
    answers = np.array([1.0, 0, 0, 1, 1, np.nan])
    found = oracle_quality(scores, answers, np.array([0.0, 0, 1, 1, 0, 1]))
    assert found["AUC within 0"] == 1
    assert found["AUC within 1"] == 0
    assert found["error within 1"] == 1
    assert found["least"] == 0
    assert np.isnan(oracle_quality(scores, np.ones(6), np.array([0, 1, 0, 1, 0, 1]))["least"])


# -- walks ---------------------------------------------------------------------------------------------------


def readout(generator: LinearGenerator, weights: dict[int, float]) -> LogisticClassifier:
    """A classifier of a weighted sum of codes."""
    model = LogisticClassifier(generator)
    with torch.no_grad():
        model.weight.copy_(sum(weight * generator.basis[:, k] / 0.09 for k, weight in weights.items()))
    return model


def test_a_held_walk_leaves_the_held_score_where_it_is():
    generator, images = LinearGenerator(), toy_images(24)
    walked = Classifier(LogisticClassifier(generator), kind="binary")
    other = LogisticClassifier(generator)
    with torch.no_grad():
        other.weight.copy_(generator.basis @ torch.tensor([4.0, 0, 0, 0, 0, 4]))
    held = Classifier(other, kind="binary")
    target = walked.target(1, images[:1])
    kept = held.target(1, images[:1])
    crossing = cross(
        generator, walked, target, images, np.arange(24), walk=HeldWalk(held, kept), watched=[(held, kept)]
    )
    assert crossing.crossed.all()
    assert_allclose(crossing.before[0], crossing.after[0], atol=1e-3)
    free = cross(generator, walked, target, images, np.arange(24), watched=[(held, kept)])
    assert np.abs(free.after[0] - free.before[0]).mean() > 0.05
    assert_allclose(crossing.levels[:, 2], 0.5, atol=0.02)
    ends = np.where(crossing.direction > 0, 0.9, 0.1)
    achieved = np.where(crossing.direction > 0, crossing.levels[:, -1], crossing.levels[:, 0])
    assert_allclose(achieved, ends, atol=0.02)


def test_a_typical_difference_is_taken_whole_and_the_held_score_brought_back():
    generator, images = LinearGenerator(), toy_images(24)
    walked = Classifier(readout(generator, {2: 4.0}), kind="binary")
    held = Classifier(readout(generator, {0: 4.0, 2: 1.0}), kind="binary")
    target, kept = walked.target(1, images[:1]), held.target(1, images[:1])
    difference = 5 * torch.eye(6)[2] + torch.eye(6)[1]
    walk = HeldWalk(held, kept, difference)
    crossing = cross(
        generator, walked, target, images, np.arange(24), walk=walk, levels=(0.1, 0.9), watched=[(held, kept)]
    )
    moved = (crossing.end - crossing.start) * torch.from_numpy(crossing.direction).float()[:, None]
    assert crossing.crossed.all()
    assert_allclose(moved[:, 1:3].numpy(), np.tile([1.0, 5.0], (24, 1)), atol=1e-4)  # the whole of it
    assert_allclose(crossing.before[0], crossing.after[0], atol=1e-3)
    assert_allclose(moved[:, 0].numpy(), -5 / 4, atol=1e-3)  # and back by what z2 moved what is held


def test_where_the_typical_difference_does_not_arrive_the_walk_follows_the_held_gradient():
    generator, images = LinearGenerator(), toy_images(24)
    walked = Classifier(readout(generator, {2: 4.0}), kind="binary")
    held = Classifier(readout(generator, {0: 4.0, 2: 1.0}), kind="binary")
    target, kept = walked.target(1, images[:1]), held.target(1, images[:1])
    apart = cross(
        generator, walked, target, images, np.arange(24), walk=HeldWalk(held, kept, torch.eye(6)[1]),
        levels=(0.1, 0.9), watched=[(held, kept)],
    )  # fmt: skip
    without = cross(
        generator, walked, target, images, np.arange(24), walk=HeldWalk(held, kept), levels=(0.1, 0.9),
        watched=[(held, kept)],
    )  # fmt: skip
    assert apart.crossed.all()
    assert_allclose(apart.path.numpy(), without.path.numpy(), atol=1e-5)
    assert_allclose(apart.before[0], apart.after[0], atol=1e-3)


def test_the_witness_is_the_model_of_the_other_half_unless_one_is_given():
    generator, images, rows = LinearGenerator(), toy_images(20), np.arange(20)
    walked = Classifier(readout(generator, {2: 4.0}), kind="binary")
    first, second = (Classifier(readout(generator, {0: 4.0, 2: w}), kind="binary") for w in (0.0, 1.0))

    def part(model: Classifier, some: np.ndarray) -> Part:
        return Part(model, model.target(1, images[:1]), some)

    oracle = Oracle((part(walked, rows),), "given")
    halves = Oracle((part(first, rows[:10]), part(second, rows[10:])), "trained")
    difference = 5 * torch.eye(6)[2]
    crossing = cross_oracle(generator, oracle, halves, images, rows, difference=difference)
    moved = np.abs(crossing.after - crossing.before).mean(axis=1)
    assert moved[-1] < 1e-3  # held
    assert moved[-2] > 0.05  # the other half reads z2 differently
    alone = cross_oracle(generator, oracle, Oracle(halves.parts[:1], "one"), images, rows[:10])
    assert np.isnan(alone.after[-2]).all()
    own = (first, first.target(1, images[:1]))
    given = cross_oracle(generator, oracle, Oracle(halves.parts[:1], "one"), images, rows[:10], witness=own)
    assert_allclose(given.after[-2], given.after[-1])


def test_the_typical_difference_is_the_attributes_at_a_held_target():
    stream = np.random.default_rng(0)
    y = (stream.random(2000) < 0.5).astype(float)
    a = np.where(stream.random(2000) < 0.2 + 0.6 * y, 1.0, 0.0)
    codes = stream.normal(size=(2000, 4))
    codes[:, 0] += 2 * y
    codes[:, 1] += 3 * a
    found = typical_difference(torch.from_numpy(codes), a, y)
    assert_allclose(found.numpy(), [0, 3, 0, 0], atol=0.15)
    assert typical_difference(torch.from_numpy(codes), y, y) is None


# -- evidence and verdicts -----------------------------------------------------------------------------------


def evidence(
    changes: float, moves: float, floor: float = 0.0, beside: float = 0.0, n: int = 400, witness: float = 0.0
):
    """Forward and reverse evidence with these shares and this mean move."""

    def first(share: float) -> np.ndarray:
        return np.where(np.arange(n) < round(share * n), 0.9, 0.1)

    start = np.full(n, 0.1)
    path = np.linspace(start, first(changes), 5, axis=1)
    ahead = forward(
        original=np.where(np.arange(n)[::-1] < round(floor * n), 0.9, 0.1), start=start, end=first(changes),
        random=start, direction=np.ones(n), oracle_path=path,
        reference=(np.ones(n, bool), start, first(beside), np.ones(n)),
        classifier_path=np.tile([0.1, 0.3, 0.5, 0.7, 0.9], (n, 1)), groups=np.arange(n),
    )  # fmt: skip
    spread = 0.1 * np.where(np.arange(n) % 2, 1, -1)
    back = reverse(
        before=np.full(n, 0.5), after=0.5 + moves + spread, direction=np.ones(n), held_before=start,
        held_after=start, groups=np.arange(n), beside=witness + 0.1 * np.where(np.arange(n) // 2 % 2, 1, -1),
    )  # fmt: skip
    return ahead, back


FINE = {
    "crossings": 100, "kept": 0.8, "oracle_auc": 0.9, "oracle_auc_bare": 0.85, "target_auc_bare": 0.85,
    "expressible": 0.8,
}  # fmt: skip


def judged(ahead, back, measured=None, *, q: float = 0.0, hidden: str = ""):
    limits = AuditThresholds()
    checked = gates(**FINE | (measured or {}), thresholds=limits)
    return decide(checked, ahead, back, q=q, hidden=hidden, thresholds=limits)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (evidence(0.3, 0.3), "confounded"),
        (evidence(0.3, -0.3), "confounded"),
        (evidence(0.0, 0.0), "not detected"),
        (evidence(0.3, 0.0), "not detected"),  # it does not respond: the generator is entangled
        (evidence(0.3, 0.045), "insufficient"),  # it may respond
        (evidence(0.0, 0.045), "not detected"),
        (evidence(0.0, 0.3), "confounded"),  # its own walks go another way
        (evidence(0.3, 0.3, beside=0.28), "confounded"),
        (evidence(0.3, 0.3, witness=0.3), "insufficient"),  # the reference does it too: entangled
        (evidence(0.3, 0.3, witness=0.28), "insufficient"),
        (evidence(0.3, 0.03, witness=-0.3), "not detected"),  # by itself it does not move
        (evidence(0.3, 0.0, beside=0.3), "not detected"),
        (evidence(0.0, 0.07, n=10), "insufficient"),  # from below .05 to above .10
        (evidence(0.0, 0.0, n=6), "insufficient"),  # upper bound above .10
    ],
)
def test_verdicts(given, status):
    assert judged(*given).status == status


@pytest.mark.parametrize(
    "measured",
    [
        {"crossings": 99}, {"kept": 0.79}, {"oracle_auc": 0.84}, {"oracle_auc_bare": float("nan")},
        {"target_auc_bare": 0.84}, {"expressible": 0.79}, {"expressible": float("nan")},
    ],
)  # fmt: skip
def test_each_gate_alone_makes_the_evidence_insufficient(measured):
    for given in (evidence(0.3, 0.3), evidence(0.0, 0.0)):
        assert judged(*given).status != "insufficient"
        assert judged(*given, measured).status == "insufficient"
    met = [gate.met for gate in gates(**FINE | measured, thresholds=AuditThresholds())]
    assert met.count(False) == 1


def test_the_table_and_the_detail_swap_have_their_say():
    assert judged(*evidence(0.3, 0.3), q=0.06).status == "insufficient"
    assert judged(*evidence(0.0, 0.0), q=0.06).status == "not detected"
    found = judged(*evidence(0.0, 0.0), hidden="the classifier reads what the generator cannot show")
    assert found.status == "insufficient"
    assert "cannot show" in found.sentence
    assert judged(*evidence(0.3, 0.3), hidden="it does").status == "confounded"
    assert judged(None, None).status == "insufficient"


def test_the_p_value_of_a_verdict_is_that_of_its_weakest_part():
    ahead, back = evidence(0.3, 0.06)
    assert weakest(ahead, back) == max(back.moved.p, back.over_reference.p) > 0
    assert weakest(ahead, None) == 1


def test_forward_evidence_by_hand():
    found = forward(
        original=np.array([0.2, 0.8, 0.3, 0.9]), start=np.array([0.4, 0.4, 0.6, 0.9]),
        end=np.array([0.7, 0.8, 0.2, 0.8]), random=np.array([0.4, 0.6, 0.6, 0.9]),
        direction=np.array([1.0, -1, -1, 1]),
        oracle_path=np.array([[0.4, 0.5, 0.7], [0.8, 0.5, 0.4], [0.2, 0.5, 0.6], [0.9, 0.9, 0.8]]),
        classifier_path=np.tile([0.1, 0.5, 0.9], (4, 1)),
        reference=(
            np.array([True, True, False, True]), np.full(4, 0.4), np.array([0.6, 0.4, 0.9, 0.4]),
            np.array([1.0, 1, -1, -1]),
        ),
        groups=np.arange(4),
    )  # fmt: skip
    assert found.changed.value == 0.75
    assert found.floor.value == 0.5  # images 1 and 2
    assert found.over_floor.value == 0.25
    assert found.over_reference.n == 3
    assert found.over_reference.value == pytest.approx(2 / 3 - 1 / 3)
    assert found.with_target.value == 0.5  # 0 gained going up, 2 lost going down
    assert found.against_target.value == 0.25  # 1 gained going down
    assert found.random.value == 0.25
    assert found.shift.value == pytest.approx((0.3 - 0.4 + 0.4 - 0.1) / 4)
    assert found.shift_over_reference.value == pytest.approx((0.3 - 0.4 - 0.1 - 0.2) / 3)
    assert found.slope == pytest.approx((0.3 - 0.4 + 0.4 - 0.1) / 0.8 / 4)
    assert found.relative_change == pytest.approx((0.3 + 0.4 + 0.4 + 0.1) / 4 / 0.8)


def test_what_the_reference_does_too_is_taken_off_the_reverse_effect():
    stream = np.random.default_rng(0)
    common, up = stream.normal(0, 0.1, 400), np.where(np.arange(400) % 2, 1.0, -1.0)
    options = {
        "before": np.zeros(400), "direction": up, "held_before": None, "held_after": None,
        "groups": np.arange(400),
    }  # fmt: skip
    found = reverse(after=0.2 * up + common, beside=common, **options)
    assert found.over_reference.value == pytest.approx(0.2, abs=0.002)
    assert found.over_reference.high - found.over_reference.low < 0.1 * (found.moved.high - found.moved.low)
    same = reverse(after=0.2 * up + common, beside=0.2 * up + common, **options)
    assert same.moved.low > 0.15
    assert same.over_reference.value == pytest.approx(0, abs=1e-6)
    noise = reverse(after=0.2 * up, beside=common, **options)  # a reference of nothing takes nothing away
    assert noise.over_reference.value == pytest.approx(0.2, abs=0.01)
    assert reverse(after=up, **options).over_reference is None


def test_thresholds_have_ranges():
    with pytest.raises(OptionError, match=r"kept must lie in \[0, 1.0\]"):
        AuditThresholds(kept=2)


# -- subgroups -----------------------------------------------------------------------------------------------


def test_subgroups_are_fairlearns_and_sklearns():
    stream = np.random.default_rng(0)
    y, a = (stream.random((2, 300)) < [[0.4], [0.3]]).astype(float)
    scores = stream.normal(size=300) + 1.5 * y + 0.8 * a
    found = observe(y, scores, a, np.arange(300))
    predicted = (scores > 0).astype(int)
    for _, row in found.groups.iterrows():
        mine = a == row["answer"]
        assert row["count"] == mine.sum()
        assert row["accuracy"] == pytest.approx(accuracy_score(y[mine], predicted[mine]))
        assert row["AUC"] == pytest.approx(roc_auc_score(y[mine], scores[mine]))
        hits = int(((predicted == 1) & mine & (y == 1)).sum())
        wilson = wilson_interval(hits, int((mine & (y == 1)).sum()))
        assert_allclose(
            [row[f"true positive rate{end}"] for end in ("", " low", " high")],
            [wilson.estimate, wilson.low, wilson.high],
        )
    odds = fairlearn.equalized_odds_difference(y, predicted, sensitive_features=a)
    assert found.equalised_odds == pytest.approx(odds)
    parity = fairlearn.demographic_parity_difference(y, predicted, sensitive_features=a)
    assert abs(found.demographic_parity[0]) == pytest.approx(parity)
    chosen = [(int(predicted[a == k].sum()), int((a == k).sum())) for k in (1, 0)]
    newcombe = newcombe_interval(*chosen[0], *chosen[1])
    assert_allclose(found.demographic_parity, [newcombe.estimate, newcombe.low, newcombe.high])
    gap = np.corrcoef(predicted, a)[0, 1] - np.corrcoef(y, a)[0, 1]
    assert found.correlation_difference == pytest.approx(gap)


def test_a_group_of_one_class_has_no_auc_and_what_is_empty_is_counted():
    y = np.array([0.0, 1] * 30 + [1.0] * 30)
    a = np.array([0.0] * 60 + [1.0] * 30)
    a[:4] = np.nan
    scores = np.where(y > 0, 1.0, -1.0)
    scores[60:75] = -1
    found = observe(y, scores, a, np.arange(90))
    assert found.missing == 4
    assert np.isnan(found.groups.set_index("answer").loc[1, "AUC"])
    assert found.groups.set_index("answer").loc[0, "AUC"] == 1
    assert np.isnan(found.equalised_odds)
    assert found.worst == "label 1, attribute 1"
    assert found.cells["count"].tolist() == [28, 0, 28, 30]


def test_an_oracle_asks_only_its_parts():
    images = toy_images(4)
    model = Classifier(Bright(), kind="multilabel")
    part = Part(model, model.target(0, images[:1]), np.array([0, 2]))
    scores = scores_of([Oracle((part,), "given")], images, np.arange(4))
    assert np.isnan(scores[0]).tolist() == [False, True, False, True]
