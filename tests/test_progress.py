"""What is said while work is done: where somebody watches, and only there."""

import sys
import types
from typing import Any

import pytest

from explainer import progress


class Handle:
    """What IPython's display returns for a display that can be updated."""

    def __init__(self, shown: list[str]) -> None:
        self.shown = shown

    def update(self, text: str) -> None:
        self.shown.append(text)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A kernel, and what its cell was told to show."""
    shown: list[str] = []

    def display(text: str, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(text)
        return Handle(shown)

    ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    module.HTML, module.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_a_cell_has_one_line_that_is_gone_at_the_end(cell: list[str]) -> None:
    with progress.told(True, "explaining") as say:
        say("image <3>")
        say("almost", 0.75)
    assert cell[0] == "<span>explaining ...</span>"
    assert cell[1] == "<span>explaining: image &lt;3&gt;</span>"
    assert cell[2].startswith('<progress value="0.750" max="1">')
    assert cell[2].endswith("explaining: almost (75%)</span>")
    assert cell[-1] == progress.EMPTY
    assert len(cell) == 4


def test_the_line_is_gone_after_an_error(cell: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), progress.told(True, "explaining"):
        raise ZeroDivisionError
    assert cell[-1] == progress.EMPTY


def test_unwanted_nothing_is_shown(cell: list[str]) -> None:
    with progress.told(False, "explaining") as say:
        say("image 3", 0.5)
    assert cell == []


def test_without_terminal_and_kernel_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not progress.in_notebook()
    with progress.told(True, "explaining") as say:
        say("image 3", 0.5)
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_a_terminal_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def console(**options: Any) -> Any:
        from rich.console import Console

        return Console(**options, force_terminal=True)

    monkeypatch.setattr(progress, "Console", console)
    with progress.told(True, "explaining") as say:
        say("image 3", 0.5)
    printed = capsys.readouterr()
    assert "explaining" in printed.err
    assert printed.out == ""


def test_ipython_at_a_prompt_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = types.ModuleType("IPython")
    prompt.get_ipython = lambda: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", prompt)
    assert not progress.in_notebook()


@pytest.mark.parametrize("place", ["terminal", "notebook"])
def test_a_training_is_told_from_start_to_end(
    place: str, cell: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from explainer import VAE
    from explainer.generators import loop

    def console(**options: Any) -> Any:
        from rich.console import Console

        return Console(**options, force_terminal=True)

    if place == "terminal":
        monkeypatch.setattr(loop, "Console", console)
        monkeypatch.setattr(loop, "in_notebook", lambda: False)
    generator = VAE((1, 16, 16), latent_dim=2, widths=(4, 4, 4))
    generator.fit(torch.rand(48, 1, 16, 16, generator=torch.Generator().manual_seed(0)), steps=3)
    if place == "terminal":
        assert "step 3" in capsys.readouterr().err
    else:
        assert any("step 1" in line for line in cell)
        assert cell[-1] == progress.EMPTY


def test_bars_come_without_advice(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    def imported(name: str) -> None:
        import warnings

        assert name == "tqdm.auto"
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    monkeypatch.setattr("importlib.import_module", imported)
    progress.quiet_tqdm()
    assert [str(warning.message) for warning in recwarn] == ["another"]
