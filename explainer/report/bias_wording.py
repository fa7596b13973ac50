"""What the report of an audit calls its findings: neutral words, which others may replace.

An audit supports evidence for something or does not; it certifies nothing. Words that would turn a finding
into a certificate are refused.
"""

from collections.abc import Mapping
from types import MappingProxyType

from explainer.errors import OptionError

__all__ = ["WORDING", "chosen_wording"]

WORDING: Mapping[str, str] = MappingProxyType(
    {
        "title": "Confounder audit",
        "subtitle": "Does the classifier use attributes it should not use?",
        "confounded": "Evidence for confounding",
        "not_detected": "Not detected",
        "insufficient": "Insufficient evidence",
        "verdict_confounded": "Supports evidence for confounding",
        "verdict_insufficient": "Insufficient evidence on at least one attribute",
        "verdict_not_detected": "No confounding detected within the bounds stated",
        "caution": "This is evidence about these classifiers, one generator and one set of images. It does "
        "not say why a classifier does what it does, and it is no statement about law or policy.",
        "note": "",
    }
)
"""The words, by what they are for; ``note`` is a sentence of your own under the verdict."""

REFUSED = ("complian", "complies", "conform", "approved", "guarantee", "certif")


def chosen_wording(wording: Mapping[str, str] | None) -> dict[str, str]:
    """All words, with those given in the place of the package's own.

    Args:
        wording: By the names of :data:`WORDING`.

    Raises:
        OptionError: A name that there is not, no text, or a word that certifies.

    >>> chosen_wording({"title": "Audit of model 7"})["title"]
    'Audit of model 7'
    """
    given = dict(wording or {})
    unknown = sorted(set(given) - set(WORDING))
    if unknown:
        raise OptionError(
            "wording", "has a name that the report has no place for", received=unknown,
            remedy=f"Use some of {', '.join(WORDING)}.",
        )  # fmt: skip
    for name, text in given.items():
        if not isinstance(text, str):
            raise OptionError(
                "wording", f'must hold text for "{name}"', received=text, remedy="Pass a string."
            )
        if any(word in text.lower() for word in REFUSED):
            raise OptionError(
                "wording", "would turn evidence into a certificate", received=text,
                remedy='Say what the evidence supports: an audit can show no "compliance".',
            )  # fmt: skip
    return {**WORDING, **given}
