"""The one direction of imports, what may be imported at all, and what `import explainer` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import explainer

REPOSITORY = Path(__file__).resolve().parents[1]

# A module imports only from entries before its own; inside a folder from left to right.
ORDER = """
    errors progress storage dicom_files image_files image image_sets image_stream drawing synthetic metrics
    counterfactual frozen preprocessing target misuse estimators onnx_session exported_program classifier
    convnet
    generators.axes generators.base generators.networks generators.linear generators.objectives
    generators.sampler generators.feed generators.perception generators.sample_quality generators.health
    generators.selection generators.loop generators.training generators.vae generators.infomax
    generators.two_stage generators.clustering generators.mixture generators.guidance
    generators.told generators.teacher generators.directions generators.lesson generators.guiding
    generators.adapters generators.cards generators.zoo classifier_files
    walks.scene walks.placing walks.base walks.stepping walks.gradient walks.linear walks.evolution
    walks.head walks.conditional walks.diverse walks.cluster
    checks.base checks.draws checks.walked checks.ends checks.soundness checks.consistency
    checks.compatibility checks.walk_back checks.embedding checks.identity checks.realism
    checks.robustness checks.surrogate
    checks.nulls checks.verdict checks.suite checks.sets
    saliency.base saliency.difference saliency.score_module saliency.attribution saliency.methods
    saliency.sanity saliency.truth
    report.output report.panels report.strip report.compact report.document report.charts
    report.axis_table report.figures
    report.latent_map report.training_figures report.fidelity_chart report.page report.sheet
    report.fidelity_figures report.spreadsheet report.bias_wording report.bias_charts report.bias_strips
    report.bias_page
    fillers mutual_information pixel_order replacement_curves paired_comparison fidelity_result replacement
    axis_attribution explanation result_folder explanations settings assembly session checked_set
    pipeline
    captum_attribution
    bias.statistics bias.attributes bias.oracles bias.walking bias.confounding bias.verdict
    bias.subgroups bias.discovery bias.paths bias.pictures bias.junit bias.markdown bias.findings
    bias.inputs bias.evidence bias.audit audit_run training_run
    cli.terminal cli.completion cli.options cli.explain cli.demo cli.health cli.train cli.guide
    cli.fidelity cli.audit cli.models cli.application __main__
""".split()
FOLDERS = {name.split(".")[0] for name in ORDER if "." in name}

# torchvision has no working build beside a CPU torch; unpickling a downloaded model runs its code.
FORBIDDEN = {"torchvision", "pickle"}
# Packages of the extras and of notebooks: imported inside the function that needs them.
OPTIONAL = {
    "IPython",
    "pydicom",
    "dlib",
    "face_recognition_models",
    "onnx",
    "onnxruntime",
    "diffusers",
    "transformers",
    "timm",
    "ray",
    "pyarrow",
}


def modules() -> list[Path]:
    return sorted(path for path in (REPOSITORY / "explainer").rglob("*.py") if path.name != "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY / "explainer").with_suffix("").parts)


def imported(source: str, module: str) -> set[str]:
    """Absolute names of what a module imports anywhere in it, down to files and folders of ours."""
    package = ["explainer", *module.split(".")[:-1]]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                base = package[: len(package) - node.level + 1]
                origin = ".".join([*base, origin] if origin else base)
            for alias in node.names:
                # `from explainer.walks import gradient` means the file, `import walk` from there the folder
                full = f"{origin}.{alias.name}"
                is_module = (
                    full.removeprefix("explainer.") in ORDER or full.removeprefix("explainer.") in FOLDERS
                )
                names.add(full if is_module or origin == "explainer" else origin)
    return names


def wrong_imports(source: str, module: str) -> list[str]:
    """What a module imports against the one direction."""
    wrong = []
    for name in sorted(imported(source, module)):
        if name.split(".")[0] != "explainer" or name == "explainer.__version__":
            continue
        inner = name.removeprefix("explainer").removeprefix(".")
        if inner in FOLDERS:  # re-exports of its __init__: all of the folder
            positions = [ORDER.index(entry) for entry in ORDER if entry.startswith(inner + ".")]
        elif inner in ORDER:
            positions = [ORDER.index(inner)]
        else:
            positions = [len(ORDER)]
        if max(positions) >= ORDER.index(module):
            wrong.append(name)
    return wrong


def outer_packages(source: str, *, top_level_only: bool) -> set[str]:
    """First names of all imported packages; at top level includes `if` and `try`, not functions."""
    found = set()

    def visit(node: ast.AST) -> None:
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_each_module_imports_only_from_entries_before_it(path: Path) -> None:
    module = dotted(path)
    assert module in ORDER, f"explainer/{module.replace('.', '/')}.py has no place in the order of imports"
    assert wrong_imports(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("source", "module", "wrong"),
    [
        ("from explainer.errors import ImageError", "image", []),
        ("from .errors import ImageError", "image", []),
        ("from . import errors", "image", []),
        ("import explainer.errors", "image", []),
        ("from explainer.generators.base import Generator", "generators.vae", []),
        ("from explainer.generators import base", "generators.vae", []),
        ("from explainer.generators import VAE", "walks.base", []),
        ("from explainer import __version__", "explanation", []),
        ("import numpy", "errors", []),
        ("from explainer.pipeline import explain", "image", ["explainer.pipeline"]),
        ("def f():\n    from explainer.pipeline import explain", "image", ["explainer.pipeline"]),
        ("from ..pipeline import explain", "walks.base", ["explainer.pipeline"]),
        ("from .vae import VAE", "generators.base", ["explainer.generators.vae"]),
        ("from explainer.generators import VAE", "generators.zoo", ["explainer.generators"]),
        ("from explainer.generators import zoo", "generators.vae", ["explainer.generators.zoo"]),
        ("from explainer import explain", "cli.demo", ["explainer.explain"]),
        ("import explainer", "cli.demo", ["explainer"]),
        ("from explainer.image import as_image", "image", ["explainer.image"]),
        ("import explainer._models", "cli.models", ["explainer._models"]),
    ],
)
def test_wrong_direction_is_found(source: str, module: str, wrong: list[str]) -> None:
    assert wrong_imports(source, module) == wrong


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_nothing_forbidden_is_imported_and_extras_only_inside_functions(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert outer_packages(source, top_level_only=False) & FORBIDDEN == set()
    assert outer_packages(source, top_level_only=True) & OPTIONAL == set()


def test_outer_packages_sees_into_functions_only_when_told() -> None:
    source = "if True:\n    import timm\ndef f():\n    import torchvision.io\n"
    assert outer_packages(source, top_level_only=True) == {"timm"}
    assert outer_packages(source, top_level_only=False) == {"timm", "torchvision"}


def test_docstring_lists_exactly_what_exists() -> None:
    listed: list[str] = []
    for line in (explainer.__doc__ or "").splitlines():
        words = line.split()
        if not line.startswith("    ") or not words:
            continue
        if words[0].endswith(".py"):
            listed.append(words[0].removesuffix(".py"))
        elif words[0].endswith("/"):
            listed += [words[0].replace("/", ".") + word[:-3] for word in words[1:] if word.endswith(".py")]
    assert listed == [name for name in ORDER if name in {dotted(path) for path in modules()}]


def in_new_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["explainer", "explainer.cli"])
def test_import_is_quick_and_silent(name: str) -> None:
    heavy = {"torch", "captum", "lightning", "sklearn", "skimage", "scipy", "pandas", "plotly", "numpy"}
    assert in_new_interpreter(f"import sys, {name}; print(sorted({heavy!r} & sys.modules.keys()))") == "[]"


@pytest.mark.parametrize("name", explainer.__all__)
def test_public_names_are_found_and_documented(name: str) -> None:
    value = getattr(explainer, name)
    assert name in dir(explainer)
    assert isinstance(value, str) or value.__doc__


def test_public_names_come_from_their_homes() -> None:
    from explainer.image import as_image

    assert explainer.as_image is as_image
    assert explainer.errors.__name__ == "explainer.errors"
    assert set(explainer.__all__) - {"errors", "__version__"} == set(explainer._HOMES)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'explainer' has no attribute 'explian'"):
        _ = explainer.explian


def test_version_is_that_of_the_installed_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", {"progressive-explainer": "1.2.3"}.__getitem__)
    assert explainer._version() == "1.2.3"
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert explainer._version() == "0+unknown"
