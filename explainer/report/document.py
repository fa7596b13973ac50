"""What every page of this package is made of: one base template, one policy, filters that clean names.

A page is one HTML file that needs no network. Every string from outside is escaped by jinja2, freed from
control characters and shortened; the page's policy allows no request at all, and only the one style sheet
and the one script whose hashes it names. ``base.css`` and ``base.js`` hold what all pages share; each kind of
page adds its own.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from explainer.report.strip import format_level

__all__ = ["clean_name", "own_version", "render_page", "script_data"]

# Explicit direction marks can make text read as something else; other controls have no business in a page.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
_SURROGATES = re.compile("[\ud800-\udfff\ufffe\uffff]")


def _clean(value: object, longest: int) -> str:
    """The value as one line of harmless characters, at most `longest` of them."""
    text = _SURROGATES.sub("\ufffd", _CONTROLS.sub(" ", str(value)))
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def clean_name(value: object) -> str:
    """A name from outside: class, channel, map.

    >>> clean_name("a\\n\\u202eb")
    'a b'
    """
    return _clean(value, 120)


def _prose(value: object) -> str:
    """A sentence from outside."""
    return _clean(value, 1200)


def _number(value: object) -> str:
    """A value of a check or of the provenance.

    >>> [_number(value) for value in (True, 3, .123456, "adam", None, float("nan"))]
    ['yes', '3', '0.1235', 'adam', 'none', 'not a number']
    """
    if value is None:
        return "none"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return "not a number" if math.isnan(value) else f"{float(value):.4g}"
    return _clean(value, 400)


def _signed(value: object) -> str:
    """A number with its sign, to be read in a column.

    >>> [_signed(value) for value in (.0041, -2.5, 12.0, float("nan"))]
    ['+0.004', '−2.500', '+12.000', 'not a number']
    """
    number = float(value)  # type: ignore[arg-type]
    return "not a number" if math.isnan(number) else f"{number:+.3f}".replace("-", "−")


def _rounded(value: object) -> str:
    """An effect or a rate: two decimals.

    >>> [_rounded(value) for value in (-0.004, -0.25, 0.1, None, float("nan"))]
    ['0.00', '−0.25', '0.10', 'not known', 'not known']
    """
    if value is None or math.isnan(number := float(value)):  # type: ignore[arg-type]
        return "not known"
    return "0.00" if abs(number) < 0.005 else f"{number:.2f}".replace("-", "−")


def _chance(value: object) -> str:
    """A p-value or a q-value, with what stands before it.

    >>> [_chance(value) for value in (1.0, 0.0314, 7.6e-6, 0.0)]
    ['= 1', '= 0.031', '= 0.0000076', '< 0.000001']
    """
    number = float(value)  # type: ignore[arg-type]
    if number < 1e-6:
        return "< 0.000001"
    return f"= {number:.2g}" if number >= 1e-3 else f"= {number:.7f}"


def _error(value: object, tolerance: float | None = None) -> str:
    """A signed difference of levels, with the decimals that the tolerance asks for.

    >>> _error(0.0041), _error(-0.000012, tolerance=1e-5)
    ('+0.004', '−0.00001')
    """
    number = float(value)  # type: ignore[arg-type]
    if math.isnan(number) or tolerance is None or 0.002 <= tolerance <= 0.2:
        return _signed(number)
    return f"{'−' if number < 0 else '+'}{format_level(abs(number), tolerance)}"


def _environment(tolerance: float | None = None) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("explainer.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": clean_name, "prose": _prose}
    environment.filters |= {"number": _number, "signed": _signed}
    environment.filters |= {"rounded": _rounded, "chance": _chance}
    environment.filters["level"] = partial(format_level, tolerance=tolerance)
    environment.filters["error"] = partial(_error, tolerance=tolerance)
    environment.tests["nested"] = lambda value: isinstance(value, Mapping)
    environment.tests["listed"] = lambda value: isinstance(value, list | tuple)
    return environment


def _hash(text: str) -> str:
    """The source expression with which a policy allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def script_data(value: object) -> Markup:
    """The value as JSON for a data block of a page: nothing in it can end the block or begin another.

    >>> print(script_data({"</script>": "<!--\u2028"}))
    {"\\u003c/script\\u003e": "\\u003c!--\\u2028"}
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(", ", ": "))
    # Markup is right here only because these characters, which JSON has in strings alone, are gone.
    for letter in "<>&'":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def own_version() -> str:
    """The version of this package as it is installed."""
    try:
        return version("progressive-explainer")
    except PackageNotFoundError:
        return "not installed"


def render_page(kind: str, values: Mapping[str, Any]) -> str:
    """Renders a template that extends the common base: policy, style, script, light and dark, print, phone.

    Args:
        kind: Name of the template; a style sheet and a script of that name go after those of the base.
        values: What it shows; a missing name is an error.

    Returns:
        A whole HTML document with no reference to any other file.
    """
    environment = _environment(values.get("tolerance"))
    sources = environment.loader
    assert sources is not None  # set just above
    own = set(environment.list_templates())

    def joined(ending: str) -> str:
        names = [name for name in (f"base.{ending}", f"{kind}.{ending}") if name in own]
        return "".join(sources.get_source(environment, name)[0] for name in names)

    style, script = joined("css"), joined("js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(f"{kind}.html.j2").render(
        # Markup is right here only because these files are the package's own.
        **values, policy=policy, style=Markup(style), script=Markup(script),
    )  # fmt: skip
