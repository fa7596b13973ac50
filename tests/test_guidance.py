"""What a person says of a code: statements, files, errors; and named axes of a generator as it is."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from toys import LinearGenerator, toy_images

from explainer.errors import GeneratorError, ModelFileError, OptionError, OutputError
from explainer.generators import VAE, Axis, Guidance, NamedAxes, load_generator, name_axes
from explainer.generators.directions import codes_of, find_axes
from explainer.generators.guidance import COLUMNS, Anchors


def everything():
    return (
        Guidance()
        .name(3, "nucleus size", low="small, or tiny", high='"large"')
        .label("shade", ["a", "b", 3], [0.1, 1 / 3, -2e-17])
        .rank("age", ["c", "a", "b"])
        .pair("a", "b", changed=["shade", "age"])
        .pair("b", "c", changed=[])
        .anchor(["a", "b"], [(-2.5, 0.1), (2, 1 / 7)], weight=[1, 0.5])
        .lock(["mouth", "age"])
    )


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_guidance_comes_back_from_a_file_exactly(tmp_path, ending):
    path = everything().save(tmp_path / f"guidance.{ending}")
    assert Guidance.load(path) == everything()


def test_statements_are_appended_and_nothing_is_changed():
    first = Guidance().rank("age", ["a", "b"])
    second = first.lock(["age"])
    assert len(first.statements) == 1
    assert second.statements[:1] == first.statements
    assert (first + first.lock(["x"])).statements[1:] == first.lock(["x"]).statements


def test_names_and_images_are_listed_once_in_order():
    assert everything().names == ("nucleus size", "shade", "age")
    assert everything().ids == ("a", "b", "3", "c")


def test_the_original_table_of_anchors_is_read():
    text = "Unique_id,delta,x_anchor,y_anchor\nimg_7.png,1,-2.5,0\nimg_8.png,0,9,9\n12,0.25,1e-3,4\n"
    (anchors,) = Guidance.parse(text).of(Anchors)
    assert anchors == Anchors(("img_7.png", "12"), ((-2.5, 0.0), (0.001, 4.0)), (1.0, 0.25))


HEAD = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2", "row 1: lacks the columns statement"),
        (f"{HEAD}\n0,lable,x,a,,1,,,", 'row 2, column "kind": is unknown'),
        (f"{HEAD}\n0,label,x,a,,1,,,\n0,label,x,b,,two,,,", 'row 3, column "value": must be a finite number'),
        (f"{HEAD}\n0,label,x,a,,1,,,\n0,label,y,b,,2,,,", 'row 3, column "axis": differs'),
        (f"{HEAD}\n0,label,x,a,,1,,,\n0,rank,x,b,,2,,,", 'row 3, column "kind": differs'),
        (f"{HEAD}\n0,label,x,a,,1,,,\n0,label,x,b,,1,,,", 'rows 2 to 3, column "value": are all the same'),
        (f"{HEAD}\n0,label,x,a,,1,,,\n0,label,x,a,,2,,,", 'rows 2 to 3, column "id": entry 1 is named twice'),
        (f"{HEAD}\n0,rank,x,a,,1,,,\n0,rank,x,b,,1,,,", 'row 2, column "value": two images have one place'),
        (f"{HEAD}\n0,name,x,,,0.5,,,", 'row 2, column "value": must be the number of a dimension'),
        (f"{HEAD}\n0,name,x,,,1,,,\n0,name,y,,,1,,,", 'row 3, column "statement": a name takes one row'),
        (f"{HEAD}\n0,name, ,,,1,,,", 'row 2, column "axis": must be a name'),
        (f"{HEAD}\n0,anchor,,a,,1 x,1,,", 'row 2, column "value": must be a finite number'),
        (f"{HEAD}\n0,anchor,,a,,1 2,0,,", 'row 2, column "weight": must be positive'),
        ("Unique_id,delta,x_anchor,y_anchor\na,1,x,0", 'row 2, column "x_anchor": must be a finite number'),
        ("Unique_id,delta,x_anchor,y_anchor\na,-1,0,0", 'row 2, column "delta": must not be negative'),
        ("Unique_id,delta,x_anchor,y_anchor\na,1,0,0\na,1,0,0", 'row 3, column "Unique_id": comes twice'),
        ("Unique_id,delta,x_anchor,y_anchor\n,1,0,0", 'row 2, column "Unique_id": is empty'),
        ("Unique_id,delta,x_anchor,y_anchor\na,0,0,0", 'column "delta": anchors no image'),
        ('{"rows": 3}', "is not a JSON file of guidance"),
        ('{"format": 99, "rows": []}', "is a JSON file of another format than 1 (received 99)"),
        (f"{HEAD}\n0,rank,x,{'a' * 200_000},,0,,,", "line 2: is no CSV (received field larger"),
    ],
)
def test_errors_of_a_file_name_the_row_and_the_column(text, said):
    with pytest.raises(OptionError) as caught:
        Guidance.parse(text)
    assert str(caught.value).startswith(f"guidance: {said}")


@pytest.mark.parametrize(
    ("say", "said"),
    [
        (lambda g: g.name(-1, "x"), "axis: must be the number of a dimension"),
        (lambda g: g.name(1, ""), "name: must be a name"),
        (lambda g: g.label("x", ["a", "b"], [1]), "values: must be one for each of the 2 ids"),
        (lambda g: g.label("x", ["a", "b"], [1, np.nan]), "values: entry 1 is not a finite number"),
        (lambda g: g.label("x", ["a", "a"], [1, 2]), "ids: entry 1 is named twice"),
        (lambda g: g.label("x", "ab", [1, 2]), "ids: must be a list of ids"),
        (lambda g: g.label("x", 5, [1, 2]), "ids: must be a list of ids (received 5)"),
        (lambda g: g.label("x", ["a"], [1]), "ids: must be at least 2"),
        (lambda g: g.label("x", ["a", "b"], 0.5), "values: must be a list of numbers (received 0.5)"),
        (lambda g: g.rank("x", None), "ids: must be a list of ids (received None)"),
        (lambda g: g.pair("a", "b", changed=None), "changed: must be a list of names (received None)"),
        (lambda g: g.pair("a", "b", changed=[3]), "changed: must be a name (received 3)"),
        (lambda g: g.lock(None), "axes: must be a list of names (received None)"),
        (
            lambda g: g.anchor(["a", "b"], [(1, 2), 3]),
            "coordinates[1]: must be a list of numbers (received 3)",
        ),
        (lambda g: g.anchor(["a"], 3), "coordinates: must be a list of numbers"),
        (lambda g: g.anchor(["a"], []), "coordinates: must be one place"),
        (lambda g: g.anchor(["a"], [(1, 2)], weight=None), "weight: must be a list of numbers"),
        (lambda g: g.pair("a", "b", changed="x"), "changed: must be a list of names"),
        (lambda g: g.anchor(["a", "b"], [(1, 2), (3,)]), "coordinates: must be one place"),
        (lambda g: g.anchor(["a"], [(1, 2)], weight=-1), "weight: must be positive"),
        (lambda g: g.lock("x"), "axes: must be a list of names"),
        (lambda g: g.save("x.txt"), "path: must end in .csv or .json"),
    ],
)
def test_errors_of_a_call_name_the_argument(say, said):
    with pytest.raises(OptionError) as caught:
        say(Guidance())
    assert str(caught.value).startswith(said)


def test_numbers_of_arrays_and_tensors_are_numbers():
    said = Guidance().anchor(["a", "b"], [(0.5, 2), (-1, 0)], 0.5).name(1, "x").label("x", ["a", "b"], [0, 2])
    for kind in (np.float32, np.float64):
        places = np.array([(0.5, 2), (-1, 0)], dtype=kind)
        given = Guidance().anchor(["a", "b"], places, kind(0.5)).name(np.int64(1), "x")
        assert given.label("x", ["a", "b"], np.array([0, 2], dtype=kind)) == said
    assert Guidance().anchor(["a", "b"], torch.tensor([[0.5, 2], [-1, 0]]), torch.tensor(0.5)) == Guidance(
        said.statements[:1]
    )
    one = Guidance().anchor(["a", "b"], [(0.5, 2), (0.5, 2)])
    for place in ([np.float32(0.5), np.float32(2)], np.array([0.5, 2]), torch.tensor([0.5, 2])):
        assert Guidance().anchor(["a", "b"], place) == one
    assert type(Guidance().name(np.int64(1), "x").statements[0].axis) is int


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_odd_ids_come_back_from_a_file_as_they_were(tmp_path, ending):
    odd = [" a", "a", "\ta ", "b\rc", "b\nc", 'd "e", f', "g\r\nh"]
    said = Guidance().rank("x", odd)
    assert Guidance.load(said.save(tmp_path / f"guidance.{ending}")) == said
    assert Guidance.parse(said.to_csv()) == said


def test_files_with_other_ends_of_lines_are_read(tmp_path):
    said = everything()
    (tmp_path / "windows.csv").write_bytes(said.to_csv().replace("\n", "\r\n").encode())
    assert Guidance.load(tmp_path / "windows.csv") == said


def test_a_file_that_is_missing_or_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OptionError, match="guidance: cannot be read"):
        Guidance.load(tmp_path / "none.csv")
    with pytest.raises(OutputError, match="cannot be written"):
        Guidance().save(tmp_path / "none" / "guidance.csv")


# -- named axes ------------------------------------------------------------------------------------------


def planted(count=200, dimensions=6, seed=0):
    """Codes, and two directions that are not orthogonal with the values that follow them."""
    random = np.random.default_rng(seed)
    codes = torch.from_numpy(random.standard_normal((count, dimensions))).float()
    first = np.eye(dimensions)[0]
    second = np.array([0.3, 0.9, 0, 0, 0, 0.1])
    return codes, first, second, codes.numpy() @ first, codes.numpy() @ second


def test_directions_are_the_orthonormal_ones_nearest_to_what_the_labels_follow():
    codes, first, second, a, b = planted()
    ids = list(range(100))
    said = Guidance().label("a", ids, 5 + 2 * a[:100]).label("b", ids, b[:100])
    axes = find_axes(codes, said, orthonormal=True)
    w = np.stack([first, second / np.linalg.norm(second)])
    left, _, right = np.linalg.svd(w, full_matrices=False)
    assert_allclose(axes.directions.numpy(), left @ right, atol=1e-3)
    assert_allclose((axes.directions @ axes.directions.T).numpy(), np.eye(2), atol=1e-5)
    assert [axis.measure for axis in axes.axes] == ["correlation"] * 2
    assert min(axis.quality for axis in axes.axes) > 0.95
    alone = find_axes(codes, Guidance().label("a", ids, 5 + 2 * a[:100])).axes[0]
    assert_allclose(
        [alone.slope, alone.offset],
        [2 * float(codes[:, 0].std(correction=0)), 5 + 2 * float(codes[:, 0].mean())],
        atol=0.02,
    )


def test_axes_are_read_by_what_labels_follow_and_moved_by_what_changes_with_them_alone():
    codes, first, second, *_ = planted(2000)
    codes[:, 3] += 0.8 * codes[:, 1]  # a dimension that goes with another
    a, b = codes.numpy() @ first, codes.numpy() @ second
    ids = list(range(150))
    axes = find_axes(codes, Guidance().label("a", ids, a[:150]).label("b", ids, b[:150]))
    found = axes.coordinates(codes).double().numpy()
    assert_allclose(np.corrcoef(found[:, 0], a)[0, 1], 1, atol=1e-3)
    assert_allclose(np.corrcoef(found[:, 1], b)[0, 1], 1, atol=1e-3)
    assert_allclose(found.std(axis=0), 1, atol=0.02)
    assert np.corrcoef(a, b)[0, 1] > 0.25  # which orthonormal directions could not both follow
    assert_allclose((axes.readings @ axes.directions.T).numpy(), np.eye(2), atol=1e-5)
    covariance = np.cov(codes.numpy().T)
    w = axes.readings.double().numpy()
    expected = np.linalg.solve(w @ covariance @ w.T, w @ covariance)
    assert_allclose(axes.directions.numpy(), expected, atol=0.02)
    assert float(axes.directions[1, 3]) > 0.5  # what goes along is moved along, though nothing is read there


def test_labels_that_mean_nothing_are_not_called_good():
    codes, *_ = planted()
    noise = np.random.default_rng(5).standard_normal(100)
    (axis,) = find_axes(codes, Guidance().label("noise", list(range(100)), noise)).axes
    assert abs(axis.quality) < 0.3
    assert axis.count == 100


def test_an_image_of_two_statements_is_not_judged_by_an_axis_that_was_fitted_to_it():
    codes = torch.randn(200, 80, generator=torch.Generator().manual_seed(0))
    noise = np.random.default_rng(5).standard_normal(100)
    said = Guidance().label("noise", list(range(100)), noise).rank("noise", np.argsort(noise).tolist())
    (axis,) = find_axes(codes, said).axes
    assert abs(axis.quality) < 0.3
    assert axis.count == 100


def test_labels_of_which_one_alone_differs_are_followed_and_not_judged():
    generator, images = LinearGenerator(), toy_images(60)
    values = np.zeros(40)
    values[7] = 5.0
    (axis,) = name_axes(generator, images, Guidance().label("rare", list(range(40)), values)).axes.axes
    assert axis.slope > 0
    assert axis.measure == ""


def test_pairs_are_judged_where_neither_image_was_fitted_to():
    codes = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    said = Guidance()
    for row in range(99):  # a chain: every image but two is in two pairs
        said = said.pair(row, row + 1, changed=["noise"])
    (axis,) = find_axes(codes, said).axes
    assert 5 <= axis.count < 99
    assert axis.quality < 0.2


def test_a_dimension_that_axes_there_are_already_move_is_refused_by_name():
    codes, _first, _second, a, b = planted()
    ids = list(range(100))
    said = Guidance().label("a", ids, a[:100] + 0.5 * b[:100])
    before = find_axes(codes, said)
    with pytest.raises(OptionError) as caught:
        find_axes(codes, Guidance().name(1, "first"), before=before)
    assert str(caught.value).startswith("guidance: names a dimension that another axis")
    assert '"a"' in str(caught.value)
    assert '"first"' in str(caught.value)
    both = find_axes(codes, said.name(1, "first"))  # the remedy
    assert_allclose((both.read @ both.directions.T).numpy(), np.eye(2), atol=1e-5)


def test_what_a_locked_axis_says_of_an_image_does_not_depend_on_the_others_passed():
    codes, _first, _second, a, _ = planted()
    before = find_axes(codes, Guidance().label("a", list(range(100)), a[:100]))
    others = codes + 1.7  # of other images, so with another mean
    said = Guidance().lock(["a"]).label("c", list(range(100)), others[:100, 2].numpy())
    for orthonormal in (False, True):
        after = find_axes(others, said, before=before, orthonormal=orthonormal)
        torch.testing.assert_close(
            after.coordinates(codes)[:, 0], before.coordinates(codes)[:, 0], atol=1e-4, rtol=0
        )
        assert abs(float(after.coordinates(others)[:, 1].mean())) < 1e-4
        axis = after.axes[0]
        value = axis.slope * after.coordinates(codes)[:, 0].numpy() + axis.offset
        assert_allclose(value, a, atol=0.2)


def test_a_lock_and_more_said_of_the_same_axis_are_refused():
    codes, *_, a, _b = planted()
    ids = list(range(100))
    before = find_axes(codes, Guidance().label("a", ids, a[:100]))
    for said, problem in (
        (Guidance().lock(["a"]).label("a", ids, a[:100]), "guidance: locks an axis and says more of it"),
        (Guidance().lock(["a"]).name(3, "a"), "guidance: locks an axis and makes another dimension of it"),
    ):
        with pytest.raises(OptionError) as caught:
            find_axes(codes, said, before=before)
        assert str(caught.value).startswith(problem)


def test_zeros_and_ones_rankings_and_pairs_find_the_direction_too():
    codes, first, _, a, _ = planted()
    order = np.argsort(a[:40])
    guidance = {
        "accuracy": Guidance().label("x", list(range(100)), (a[:100] > 0).astype(float)),
        "rank correlation": Guidance().rank("x", order.tolist()),
        "share of the difference": _pairs(codes, first),
    }
    for measure, said in guidance.items():
        moved = codes.clone()
        if measure == "share of the difference":
            moved[100:] = moved[:100] + 1.5 * torch.from_numpy(first).float()
        axes = find_axes(moved, said)
        assert float(axes.directions[0] @ torch.from_numpy(first).float() / axes.directions[0].norm()) > 0.9
        assert axes.axes[0].measure == measure
        assert axes.axes[0].quality > 0.85


def _pairs(codes, first):
    guidance = Guidance()
    for row in range(30):
        guidance = guidance.pair(row, 100 + row, changed=["x"])
    return guidance


def test_a_pair_that_did_not_change_in_an_axis_turns_it_away():
    codes, _first, _, a, _b = planted()
    both = a + 0.8 * codes[:, 2].numpy()  # labels that follow two dimensions
    said = Guidance().label("x", list(range(60)), both[:60])
    pairs = said
    moved = codes.clone()
    for row in range(100, 140):
        moved[row + 40] = moved[row]
        moved[row + 40, 2] += 3
        pairs = pairs.pair(row, row + 40, changed=["other"])
    without = find_axes(moved, said).readings[0]
    held = find_axes(moved, pairs)
    reading = held.readings[held.index("x")]
    assert abs(float(reading[2] / reading.norm())) < 0.4 * abs(float(without[2] / without.norm()))


def test_named_dimensions_and_axes_there_were_keep_their_directions():
    codes, _first, _second, _a, b = planted()
    ids = list(range(100))
    before = find_axes(codes, Guidance().name(4, "fourth", low="l", high="h"))
    assert_allclose(before.directions.numpy(), np.eye(6)[[4]])
    assert str(before.axes[0]) == '"fourth" (l to h): from dimension'
    more = find_axes(codes, Guidance().label("b", ids, b[:100]).lock(["fourth"]), before=before)
    assert more.names == ("fourth", "b")
    assert_allclose(more.directions[0].numpy(), np.eye(6)[4], atol=1e-6)
    assert abs(float(more.directions[1, 4])) < 1e-6
    learnt = find_axes(
        codes, Guidance().label("b", ids, b[:100]).lock(["fourth"]), before=before, orthonormal=True
    )
    assert learnt.readings is None
    assert abs(float(learnt.directions[1, 4])) < 1e-6


def test_axes_beside_oblique_ones_leave_them_alone():
    codes, _first, _second, a, b = planted()
    ids = list(range(100))
    before = find_axes(codes, Guidance().label("a", ids, a[:100]).label("b", ids, b[:100]))
    third = codes[:100, 2].numpy() + 0.5 * a[:100]
    for orthonormal in (False, True):
        more = find_axes(codes, Guidance().label("c", ids, third), before=before, orthonormal=orthonormal)
        torch.testing.assert_close(more.directions[:2], before.directions)
        torch.testing.assert_close(more.read[:2], before.read)
        assert_allclose((more.read @ more.directions.T).numpy(), np.eye(3), atol=1e-5)
        assert (more.axes[0].slope, more.axes[0].quality) == (before.axes[0].slope, before.axes[0].quality)


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        (Guidance(), "guidance: names no axis"),
        (Guidance().label("x", ["0", "nobody"], [0, 1]), "guidance: is about 1 images that are not there"),
        (Guidance().name(9, "x"), "guidance: names a dimension that a code of 6 does not have"),
        (Guidance().name(None, "x"), "guidance: names an axis that nothing else is said of"),
        (Guidance().lock(["x"]).name(0, "y"), "guidance: locks an axis that the generator does not have"),
        (
            Guidance().name(0, "x").name(0, "y"),
            "guidance: asks for axes that this generator cannot tell apart",
        ),
    ],
)
def test_what_cannot_be_named_is_refused(guidance, said):
    with pytest.raises((OptionError, GeneratorError)) as caught:
        find_axes(planted()[0], guidance)
    assert str(caught.value).startswith(said)


def test_two_names_for_one_thing_are_refused():
    codes, _, _, a, _ = planted()
    ids = list(range(100))
    with pytest.raises(GeneratorError, match=r'"a" and "b", cosine 1\.00'):
        find_axes(codes, Guidance().label("a", ids, a[:100]).label("b", ids, a[:100] + 1))


def test_ids_must_be_one_for_each_image():
    with pytest.raises(OptionError, match="ids: must be 200 different ones"):
        find_axes(planted()[0], Guidance().name(0, "x"), ids=["a"])


def test_a_named_copy_decodes_as_before_and_the_original_has_no_axes():
    generator, images = LinearGenerator(), toy_images(60)
    values = codes_of(generator, images)[:, 2].tolist()
    ids = [f"img-{row}" for row in range(60)]
    named = name_axes(generator, images, Guidance().label("third", ids, values), ids=ids)
    assert generator.axes is None
    assert named.axes.names == ("third",)
    reading = named.axes.readings[0]
    assert_allclose((reading / reading.norm()).abs().numpy(), np.eye(6)[2], atol=0.01)
    torch.testing.assert_close(named.bare(images), generator.bare(images))
    assert named.axes.record["mode"] == "post-hoc"


@pytest.mark.parametrize("levels", [(0, 1), (1, 3)])
def test_labels_of_two_values_spread_to_other_images_whatever_the_values(levels):
    generator, images = LinearGenerator(), toy_images(60)
    values = np.where(codes_of(generator, images)[:, 2] > 0, *levels[::-1])
    named = name_axes(generator, images, Guidance().label("third", list(range(40)), values[:40]))
    reading = named.axes.readings[0]
    assert float(reading[2] / reading.norm()) > 0.7


def test_anchors_need_training():
    with pytest.raises(OptionError, match="has anchors, which move the codes"):
        name_axes(LinearGenerator(), toy_images(4), Guidance().anchor(["0"], [(0, 0)]))


def test_moving_along_one_axis_leaves_the_others_and_the_rest():
    codes, *_, a, b = planted()
    ids = list(range(100))
    axes = find_axes(codes, Guidance().label("a", ids, a[:100]).label("b", ids, b[:100]))
    moved = axes.moved(codes, "b", torch.full((200,), 1.25))
    before, after = axes.coordinates(codes), axes.coordinates(moved)
    assert_allclose(after[:, 1].numpy(), 1.25, atol=1e-5)
    assert_allclose(after[:, 0].numpy(), before[:, 0].numpy(), atol=1e-5)
    assert_allclose(axes.unnamed(moved).numpy(), axes.unnamed(codes).numpy(), atol=1e-5)
    assert_allclose((axes.unnamed(codes) @ axes.read.T).numpy(), 0, atol=1e-5)


def test_a_walk_along_oblique_axes_keeps_to_them_and_a_lock_keeps_what_is_read():
    read = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    axes = NamedAxes(
        (Axis("a"), Axis("b")), torch.zeros(3), torch.tensor([[1.0, -0.75, 0.0], [0.0, 1.25, 0.0]]),
        readings=read,
    )  # fmt: skip
    (along,) = axes.subspace(["a"], [])
    assert_allclose(along.abs().numpy(), [0.8, 0.6, 0], atol=1e-6)
    free = axes.subspace([], ["b"])
    assert_allclose((free @ free.T).numpy(), np.eye(2), atol=1e-6)
    assert_allclose((free @ read[1]).numpy(), 0, atol=1e-6)


def test_the_directions_along_and_lock_leave():
    axes = NamedAxes((Axis("a"), Axis("b")), torch.zeros(4), torch.eye(4)[:2])
    assert axes.subspace(["b"], []).tolist() == [[0, 1, 0, 0]]
    free = axes.subspace([], ["a"])
    assert_allclose((free.T @ free).numpy(), np.diag([0, 1, 1, 1]), atol=1e-6)
    assert axes.subspace([], []).tolist() == torch.eye(4).tolist()
    for along, lock, said in (
        (["c"], [], 'along: names no axis (received c). Named are: "a", "b".'),
        (["a"], ["a"], "along, lock: must not name the same axis"),
        ("a", [], "along: must be a list of names"),
    ):
        with pytest.raises(OptionError) as caught:
            axes.subspace(along, lock)
        assert str(caught.value).startswith(said)
    everywhere = NamedAxes((Axis("a"), Axis("b")), torch.zeros(2), torch.eye(2))
    with pytest.raises(OptionError, match="lock: leaves no direction"):
        everywhere.subspace([], ["a", "b"])


def test_axes_must_be_orthonormal_and_have_names_of_their_own():
    with pytest.raises(GeneratorError, match="must be 2 orthonormal rows"):
        NamedAxes((Axis("a"), Axis("b")), torch.zeros(2), torch.ones(2, 2))
    with pytest.raises(GeneratorError, match="must be 1 rows with readings dual to them, of 2 dimensions"):
        NamedAxes((Axis("a"),), torch.zeros(2), torch.eye(2)[:1], readings=torch.eye(2)[1:])
    with pytest.raises(OptionError, match="names two axes"):
        NamedAxes((Axis("a"), Axis("a")), torch.zeros(2), torch.eye(2))


def small():
    return VAE((1, 16, 16), 4, widths=(4, 8), encoder_blocks=(0, 0), decoder_blocks=(0, 0)).eval()


def test_a_guided_generator_comes_back_with_its_axes_and_its_card_tells_of_them(tmp_path):
    images = toy_images(50)
    generator = small()
    values = images.mean(dim=(1, 2, 3)).tolist()
    guidance = (
        Guidance().label("light", list(range(50)), values).name(None, "light", low="dim", high="bright")
    )
    named = name_axes(generator, images, guidance.name(1, "first"))
    named.save(tmp_path / "g")
    back = load_generator(tmp_path / "g")
    assert back.axes.axes[0] == named.axes.axes[0]
    assert str(back.axes) == str(named.axes)
    torch.testing.assert_close(back.axes.directions, named.axes.directions)
    torch.testing.assert_close(back.axes.readings, named.axes.readings)
    card = json.loads((tmp_path / "g" / "card.json").read_text())["generator"]["axes"]
    assert [axis["name"] for axis in card["axes"]] == ["light", "first"]
    assert card["axes"][0]["high"] == "bright"
    assert card["axes"][1]["quality"] is None
    assert card["record"]["mode"] == "post-hoc"
    (tmp_path / "g" / "axes.safetensors").write_bytes(b"else")
    with pytest.raises(ModelFileError, match="axes: was changed"):
        load_generator(tmp_path / "g")


def test_a_card_without_all_of_its_axes_is_named(tmp_path):
    named = name_axes(small(), toy_images(20), Guidance().name(0, "x"))
    named.save(tmp_path / "g")
    path = tmp_path / "g" / "card.json"
    card = json.loads(path.read_text())
    del card["generator"]["axes"]["record"]
    path.write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match="not complete"):
        load_generator(tmp_path / "g")
