"""The page on classifiers is run from top to bottom, with small models in the place of large ones."""

import contextlib
import io
import json
import re
import sys
import types
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from explainer.generators.vae import VAE

BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.S)


def network(size: int, classes: int = 3) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(3, 4, 4, stride=4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * (size // 4) ** 2, classes),
        )
        return nn.Sequential(*layers).eval()


def stand_in_for_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_size": (3, 224, 224)}
    timm = types.ModuleType("timm")
    timm.create_model = lambda name, pretrained: network(224)  # type: ignore[attr-defined]
    timm.data = types.SimpleNamespace(resolve_model_data_config=lambda model: imagenet)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)


def write_vision_transformer(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, id2label={0: "cat", 1: "dog", 2: "owl"},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)


def write_onnx(path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    given, shown = value("x", TensorProto.FLOAT, ["n", 3, 32, 32]), value("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "pool", [given], [shown])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def serve(url: str, body: bytes, timeout: float) -> io.BytesIO:
    logits = 8 * torch.tensor(json.loads(body)["images"]).mean(dim=(2, 3))
    return io.BytesIO(json.dumps({"probabilities": logits.softmax(dim=1).tolist()}).encode())


def test_every_block_runs_and_prints_what_the_page_says(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_timm(monkeypatch)
    write_vision_transformer(tmp_path / "my-vit")
    write_onnx(tmp_path / "model.onnx")
    monkeypatch.setattr(urllib.request, "urlopen", serve)
    monkeypatch.chdir(tmp_path)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    space: dict[str, Any] = {
        "images": images,
        "network": network(32),
        "generator": VAE((3, 32, 32), latent_dim=8, seed=0),
    }
    blocks = BLOCK.findall((repository / "docs" / "classifiers.md").read_text(encoding="utf-8"))
    assert len(blocks) == 8
    for source, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*ends were not reached"
            )  # the generator is not trained
            exec(compile(source, "docs/classifiers.md", "exec"), space)
        assert printed.getvalue() == expected, source
