"""Test an installed wheel from an empty folder, in an environment of its own.

    python -I tests/wheel_check.py CHECKOUT

The wheel must hold every file of the checkout's explainer/ and models/, nothing may come from the
checkout, and the command must work from start to page.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path


def shipped(folder: Path) -> set[str]:
    """Relative names of the files below a folder, without what Python and editors leave behind."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def same_files(installed: Path, checkout: Path, ignore: Callable[[str], bool] = lambda name: False) -> None:
    wanted, found = shipped(checkout), {name for name in shipped(installed) if not ignore(name)}
    if wanted != found:
        sys.exit(
            f"{installed}: missing {sorted(wanted - found)}, not in the checkout {sorted(found - wanted)}"
        )


def run(*words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run the installed command and return its stdout."""
    done = subprocess.run([str(Path(sys.prefix, "bin", "explainer")), *words], capture_output=True, text=True)
    if done.returncode not in codes:
        sys.exit(f"explainer {' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main(checkout: Path) -> None:
    if any(Path.cwd().iterdir()):
        sys.exit("start this from an empty folder, or what lies there shadows the wheel")
    import explainer

    home = Path(explainer.__file__).parent
    models = Path(str(resources.files("explainer._models")))
    for folder in (home, models):
        if not folder.is_relative_to(sys.prefix) or folder.is_relative_to(checkout):
            sys.exit(f"explainer comes from {folder}, not from the wheel in {sys.prefix}")
    same_files(home, checkout / "explainer", ignore=lambda name: name.startswith("_models/"))
    same_files(models, checkout / "models")

    version = metadata.version("progressive-explainer")
    assert explainer.__version__ == version == run("--version").strip()
    assert "Usage" in run("--help")
    names = {card["name"] for card in json.loads(run("models", "--json"))}
    assert {"faces", "faces/smile"} <= names, names
    result = json.loads(run("demo", "--json", codes=(0, 1)))  # 1: a verdict, not a failure
    for path in result["files"].values():
        assert Path(path).stat().st_size > 10_000, path
    verdict = result["verdict"]["status"]
    print(f"the wheel of progressive-explainer {version} works; the demo's verdict: {verdict}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
