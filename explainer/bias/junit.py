"""An audit as a JUnit report, so that a pipeline shows each attribute as a test."""

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

__all__ = ["as_junit"]


def as_junit(record: Mapping[str, Any]) -> str:
    """JUnit XML: confounded is a failure, insufficient evidence and what was not asked are skipped, not
    detected passes.

    Args:
        record: :meth:`explainer.bias.findings.BiasReport.to_dict`.
    """
    suites = ElementTree.Element("testsuites", name="confounder audit")
    for classifier in dict.fromkeys(finding["classifier"] for finding in record["findings"]):
        cases = [finding for finding in record["findings"] if finding["classifier"] == classifier]
        counts = {
            status: sum(case["verdict"] == status for case in cases)
            for status in ("confounded", "insufficient")
        }
        suite = ElementTree.SubElement(
            suites, "testsuite", name=_clean(classifier), tests=str(len(cases)), errors="0",
            failures=str(counts["confounded"]), skipped=str(counts["insufficient"]),
        )  # fmt: skip
        for case in cases:
            said = _clean(case["sentence"])
            entry = ElementTree.SubElement(
                suite, "testcase", classname=_clean(f"{classifier}.{case['target']}"),
                name=_clean(case["attribute"]),
            )  # fmt: skip
            if case["verdict"] == "confounded":
                ElementTree.SubElement(entry, "failure", type="confounded", message=said).text = said
            elif case["verdict"] == "insufficient":
                ElementTree.SubElement(entry, "skipped", message=said)
            else:
                ElementTree.SubElement(entry, "system-out").text = said
    if record["skipped"]:
        count = str(len(record["skipped"]))
        suite = ElementTree.SubElement(
            suites, "testsuite", name="not asked", tests=count, errors="0", failures="0", skipped=count
        )
        for sentence in record["skipped"]:
            entry = ElementTree.SubElement(
                suite, "testcase", classname="not asked", name=_clean(sentence.split(":")[0])
            )
            ElementTree.SubElement(entry, "skipped", message=_clean(sentence))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
