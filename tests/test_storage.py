import json

import pytest
import torch

from explainer.errors import ModelFileError, OutputError
from explainer.storage import new_folder, read_json, read_tensors, write_json, write_tensors


def test_tensors_come_back_exactly_and_half_precision_as_float32(tmp_path):
    tensors = {"weight": torch.rand(3, 4), "count": torch.tensor(7)}
    digest = write_tensors(tmp_path / "a", tensors)
    back = read_tensors(tmp_path / "a", digest, "model")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    digest = write_tensors(tmp_path / "b", tensors, half=True)
    halved = read_tensors(tmp_path / "b", digest, "model")
    assert halved["weight"].dtype == torch.float32
    assert torch.equal(halved["weight"], tensors["weight"].half().float())
    assert halved["count"] == 7


def test_a_changed_weight_file_is_refused(tmp_path):
    path = tmp_path / "weights"
    digest = write_tensors(path, {"weight": torch.zeros(3)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match="model: was changed after it was written"):
        read_tensors(path, digest, "model")


def test_a_missing_or_foreign_weight_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="has no readable weights"):
        read_tensors(tmp_path / "none", "0", "model")
    path = tmp_path / "pickle"
    path.write_bytes(b"not safetensors")
    from explainer.storage import sha256

    with pytest.raises(ModelFileError, match="is not a safetensors file"):
        read_tensors(path, sha256(b"not safetensors"), "model")


def test_a_folder_appears_only_when_complete(tmp_path):
    target = tmp_path / "model"

    def interrupted():
        with new_folder(target, marker="card.json") as place:
            write_json(place / "card.json", {})
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_complete_folder_survives_an_interrupted_replacement(tmp_path):
    target = tmp_path / "model"
    with new_folder(target, marker="card.json") as place:
        write_json(place / "card.json", {"version": 1})
    with pytest.raises(KeyboardInterrupt), new_folder(target, marker="card.json"):
        raise KeyboardInterrupt
    assert json.loads((target / "card.json").read_text()) == {"version": 1}
    with new_folder(target, marker="card.json") as place:
        write_json(place / "card.json", {"version": 2})
    assert json.loads((target / "card.json").read_text()) == {"version": 2}
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(OutputError, match=r"holds no card.json, so it is left alone"),
        new_folder(tmp_path, marker="card.json"),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="is the working directory"), new_folder(".", marker="card.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    import os

    target = tmp_path / "model"
    with new_folder(target, marker="card.json") as place:
        write_json(place / "card.json", {"version": 1})
    replace = os.replace

    def failing(source, destination):
        if str(source).endswith("new"):
            raise OSError(28, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr("os.replace", failing)
    with (
        pytest.raises(OutputError, match=r"cannot be written to .*No space left"),
        new_folder(target, marker="card.json") as place,
    ):
        write_json(place / "card.json", {"version": 2})
    assert json.loads((target / "card.json").read_text()) == {"version": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_below_a_file_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot be written to"),
        new_folder(tmp_path / "file" / "model", marker="x"),
    ):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_record_that_is_not_a_json_object_is_named(tmp_path, content):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"model: (has no readable|is not a JSON object)"):
        read_json(tmp_path / "card.json", "model")
