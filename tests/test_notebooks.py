"""The notebooks as they are committed: numbered, without outputs, honest; `make docs` executes them."""

import ast
import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> dict:
    return json.loads(request.param.read_text(encoding="utf-8"))


def text_of(notebook: dict, kind: str) -> str:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == kind]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def test_they_are_numbered() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == sorted({path.name[:3] for path in NOTEBOOKS})
    assert all(re.fullmatch(r"\d\d_[a-z_]+\.ipynb", path.name) for path in NOTEBOOKS)
    assert len(NOTEBOOKS) == 7


def test_no_outputs_no_counts_no_metadata(notebook: dict) -> None:
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_each_says_what_is_seen_and_what_not_to_conclude(notebook: dict) -> None:
    prose = text_of(notebook, "markdown")
    assert prose.startswith("# ")
    assert "not to conclude" in prose
    for link in re.findall(r"\]\(([^)#:]+\.(?:ipynb|md))\)", prose):
        assert (REPOSITORY / "notebooks" / link).exists(), link


def test_they_need_only_what_comes_along(notebook: dict) -> None:
    allowed = {"explainer", "numpy", "pandas", "skimage", "sklearn", "time", "torch", "plotly", "pathlib"}
    for node in ast.walk(ast.parse(text_of(notebook, "code"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= allowed
