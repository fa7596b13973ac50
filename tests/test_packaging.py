"""setup.cfg against the tree; the wheel itself is tested by wheel_check.py, which .ci/run starts."""

import configparser
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip() and not line.startswith("#")]


def canonical(requirement: str) -> str:
    """The canonical name of a distribution, without extras and versions."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ;]", requirement)[0]).lower()


def test_every_package_folder_is_listed(setup: configparser.ConfigParser) -> None:
    folders = {path.parent for path in (REPOSITORY / "explainer").rglob("*.py")}
    packages = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    listed = lines(setup["options"]["packages"])
    assert sorted(listed) == sorted({*packages, "explainer._models"})
    assert lines(setup["options"]["package_dir"]) == ["explainer._models = models"]


def test_every_package_folder_has_an_init_file(setup: configparser.ConfigParser) -> None:
    for package in lines(setup["options"]["packages"]):
        folder = "models" if package == "explainer._models" else package.replace(".", "/")
        assert (REPOSITORY / folder / "__init__.py").is_file(), folder


def test_constraints_pin_every_dependency_of_the_package_and_its_tests(
    setup: configparser.ConfigParser,
) -> None:
    pinned = {}
    for line in lines((REPOSITORY / "constraints.txt").read_text(encoding="utf-8")):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
        name, version = line.split("==")
        pinned[canonical(name)] = version
    wanted = lines(setup["options"]["install_requires"])
    for extra in ("test", "docs", "dicom"):
        wanted += lines(setup["options.extras_require"][extra])
    assert {canonical(requirement) for requirement in wanted} - pinned.keys() == set()
    assert pinned["torch"] == "2.13.0"


def test_nothing_brings_torchvision(setup: configparser.ConfigParser) -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    requirements = setup["options"]["install_requires"] + "".join(setup["options.extras_require"].values())
    assert "torchvision" not in constraints + requirements


def test_every_third_party_import_is_a_declared_dependency(setup: configparser.ConfigParser) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        from test_imports import modules, outer_packages
    finally:
        sys.path.pop(0)
    distribution = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
    found = set()
    for path in modules():
        found |= outer_packages(path.read_text(encoding="utf-8"), top_level_only=True)
    outside = found - set(sys.stdlib_module_names) - {"explainer"}
    declared = {canonical(requirement) for requirement in lines(setup["options"]["install_requires"])}
    assert {canonical(distribution.get(name, name)) for name in outside} - declared == set()
