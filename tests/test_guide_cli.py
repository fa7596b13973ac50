"""``explainer guide``: look, say, name or fit, look again; what it prints and writes, and how it ends."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from explainer import cli
from explainer.generators import VAE, Guidance, load_generator
from explainer.image import to_uint8
from explainer.report.latent_map import HEADER
from explainer.synthetic import sprites

COUNT = 60


@pytest.fixture(scope="module")
def planted():
    return sprites(COUNT, size=16, seed=0)


@pytest.fixture(scope="module")
def folder(planted, tmp_path_factory):
    """Images in a folder, a table of them, an array, a generator, and what is said of them."""
    place = tmp_path_factory.mktemp("guide")
    (place / "photos").mkdir()
    for row, image in enumerate(planted.images):
        Image.fromarray(to_uint8(image)).save(place / "photos" / f"{row:02d}.png")
    paths = [f"photos/{row:02d}.png" for row in range(COUNT)]
    pd.DataFrame({"path": paths, "who": [f"cell {row}" for row in range(COUNT)]}).to_csv(
        place / "table.csv", index=False
    )
    np.savez(place / "all.npz", images=planted.images.numpy())
    generator = VAE((1, 16, 16), 4, widths=(8, 16), encoder_blocks=(0, 0), decoder_blocks=(0, 0))
    generator.fit(planted.images, steps=20, batch_size=16, progress=False).save(place / "model")
    values = planted.factors["x"][:40].tolist()
    for name, called in (("said", "{:02d}.png"), ("of_table", "cell {}"), ("of_array", "{}")):
        said = Guidance().label("place", [called.format(row) for row in range(40)], values)
        said.name(None, "place", low="left", high="[right]").save(place / f"{name}.csv")
    return place


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    return stopped.value.code


def test_a_look_makes_a_map_with_the_names_of_files(folder, tmp_path, capsys) -> None:
    page = tmp_path / "new" / "map.html"
    assert run("guide", folder / "model", "--data", folder / "photos", "--map", page, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"images": COUNT, "axes": None, "files": {"map": str(page)}}
    text = page.read_text(encoding="utf-8")
    assert all(f"{row:02d}.png" in text for row in range(COUNT))


@pytest.mark.parametrize(
    ("data", "said", "more"),
    [("photos", "said", ()), ("table.csv", "of_table", ("--ids", "who")), ("all.npz", "of_array", ())],
)
def test_axes_are_named_in_seconds(folder, tmp_path, capsys, data, said, more) -> None:
    out = tmp_path / "named"
    words = ["guide", folder / "model", "--data", folder / data, "--guidance", folder / f"{said}.csv", *more]
    assert run(*words, "--post-hoc", "--out", out) == 0
    printed = capsys.readouterr().out
    assert '"place" (left to [right]): from labels, held-out correlation' in printed
    named = load_generator(out)
    assert named.axes.names == ("place",)
    assert named.axes.record["mode"] == "post-hoc"
    with Image.open(out / "axis_1.png") as strip:
        assert strip.size == (7 * 64, 64 + HEADER)


def test_a_generator_is_fine_tuned_and_the_map_is_along_its_axes(folder, tmp_path, planted, capsys) -> None:
    said = Guidance.load(folder / "said.csv").label("shade", ["00.png", "01.png"], [0.2, 0.7])
    said.save(tmp_path / "more.json")
    out, page = tmp_path / "guided", tmp_path / "map.html"
    code = run(
        "guide", folder / "model", "--data", folder / "photos", "--guidance", tmp_path / "more.json",
        "--out", out, "--steps", 3, "--map", page, "--axes", "place, shade", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert [axis["name"] for axis in found["axes"]["axes"]] == ["place", "shade"]
    assert found["axes"]["record"]["steps"] == 3
    assert set(found["files"]) == {"model", "axis 1", "axis 2", "map"}
    assert "place: left" in page.read_text(encoding="utf-8")
    assert not out.with_name("guided.checkpoints").exists()
    before, after = (load_generator(place).encode(planted.images[:4]) for place in (folder / "model", out))
    assert float((before - after).abs().max()) > 1e-4


def test_anchors_need_no_names(folder, tmp_path, capsys) -> None:
    rows = "\n".join(f"{row:02d}.png,1,{2 * (row % 2) - 1},0" for row in range(10))
    (tmp_path / "anchors.csv").write_text(f"Unique_id,delta,x_anchor,y_anchor\n{rows}\n")
    words = ["guide", folder / "model", "--data", folder / "photos", "--guidance", tmp_path / "anchors.csv"]
    assert run(*words, "--out", tmp_path / "guided", "--steps", 2, "--quiet") == 0
    printed = capsys.readouterr().out
    assert "The code has no named axes; anchored images were moved." in printed
    assert "R2 of 5 images set aside: " in printed
    assert "\nHealth " in printed
    assert run(*words, "--out", tmp_path / "again", "--steps", 2, "--quiet", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["axes"] is None
    assert len(found["guidance"]["R2 before"]) == 1
    assert run(*words, "--out", tmp_path / "other", "--post-hoc") == 2
    assert "has anchors, which move the codes" in capsys.readouterr().err


def test_ctrl_c_leaves_checkpoints_to_go_on_from(folder, tmp_path, capsys, monkeypatch) -> None:
    from explainer.generators import guiding

    def stopped(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(guiding, "guide", stopped)
    words = ["guide", folder / "model", "--data", folder / "photos", "--guidance", folder / "said.csv"]
    assert run(*words, "--out", tmp_path / "guided") == 130
    assert "The same command goes on where it was." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "guidance, map: leave nothing to do"),
        (("--guidance", "said.csv"), "out: is missing"),
        (("--out", "new"), "guidance: is missing"),
        (("--guidance", "said.csv", "--out", "photos"), "out: is taken"),
        (("--guidance", "none.csv", "--out", "new"), "guidance: cannot be read"),
        (("--guidance", "of_table.csv", "--out", "new"), "guidance: is about 40 images that are not there"),
        (("--guidance", "said.csv", "--out", "new", "--axes", "place,x"), "axes: are those of a map"),
        (
            ("--guidance", "said.csv", "--out", "new", "--map", "m.html", "--axes", "place,x"),
            'axes: names no axis (received x). Pass two of: "place", as A,B.',
        ),
        (("--map", "map.html", "--axes", "place"), "axes: needs a generator with named axes"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_its_remedy(folder, capsys, monkeypatch, words, said) -> None:
    monkeypatch.chdir(folder)
    assert run("guide", "model", "--data", "photos", *words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert not (folder / "new").exists()
