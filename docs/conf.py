"""The site: Sphinx over the Markdown of this folder, the notebooks, and the docstrings.

    make docs        executes the notebooks too
    make docs-quick  leaves them as they are

Nothing in the built pages reaches the network: formulas are MathML, drawings are committed as SVG, and the
theme brings its own scripts and uses the system's fonts. Warnings are errors.
"""

import html
import os
import shutil
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

import latex2mathml.converter
import typer
from docutils import nodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
sys.path.insert(0, str(HERE))

from links import as_in_site  # noqa: E402

project = "progressive-explainer"
author = "the progressive-explainer authors"
copyright = "the progressive-explainer authors, BSD-3-Clause"
version = release = installed_version(project)

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types stand in the signatures; docstrings do not repeat them
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

nb_execution_mode = "force" if os.environ.get("NOTEBOOKS") == "execute" else "off"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ.setdefault("PLOTLY_RENDERER", "notebook")  # plotly.js goes into the page, none is fetched


def _bring_in() -> None:
    """Copy what lies elsewhere in the repository to where Sphinx reads; git ignores the copies."""
    for name, files in {
        "notebooks": sorted(REPOSITORY.glob("notebooks/*.ipynb")),
        "zoo": sorted(REPOSITORY.glob("models/*/README.md")),
    }.items():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in files:
            target = folder / (f"{file.parent.name}.md" if file.name == "README.md" else file.name)
            shutil.copyfile(file, target)


def _write_manual() -> None:
    """What ``explainer --help`` and the help of every command print."""
    from explainer.cli.application import app

    names = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    words = {"explainer": [], **{f"explainer {name}": [name] for name in names}}
    environment = {**os.environ, "TERMINAL_WIDTH": "84", "COLUMNS": "84", "NO_COLOR": "1"}
    sections = []
    for title, command in words.items():
        call = [sys.executable, "-m", "explainer", *command, "--help"]
        printed = subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout
        lines = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
        sections.append(f"## {title}\n\n```text\n{lines}\n```\n")
    (HERE / "zoo" / "command_line.txt").write_text("\n".join(sections), encoding="utf-8")


_bring_in()
_write_manual()


def _inside(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = as_in_site(docname, source[0], HERE)


def _mathml(self: object, node: nodes.Element) -> None:
    """A formula as MathML, which browsers draw themselves."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    formula = latex2mathml.converter.convert(node.astext(), display=display)
    wrapped = f'<div class="formula">{formula}</div>' if display == "block" else formula
    self.body.append(f"<!-- {html.escape(node.astext())} -->{wrapped}")  # type: ignore[attr-defined]
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Hooks of this site."""
    app.connect("source-read", _inside)
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))


html_math_renderer = "mathml"
