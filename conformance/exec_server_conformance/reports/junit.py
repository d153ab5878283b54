"""JUnit XML report for CI services.

A play is a test case, a group of sessions a test suite. Known deviations and sessions that do not
apply are skipped tests; stale deviations are failures. ``system-out`` contains the wire trace of
failed plays. Drift is a property of the first test suite.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from msgspec import UNSET

from exec_server_conformance.runner import trace
from exec_server_conformance.runner.results import Outcome

if TYPE_CHECKING:
    from exec_server_conformance.runner.results import Play, Report

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_ELEMENTS = {
    Outcome.FAILED: "failure",
    Outcome.STALE: "failure",
    Outcome.ERROR: "error",
    Outcome.KNOWN: "skipped",
    Outcome.NOT_APPLICABLE: "skipped",
}


def render(report: Report) -> str:
    """Render a report."""
    root = ET.Element("testsuites", {"name": "exec-server-conformance", **_totals(report.plays)})
    plays = sorted(report.plays, key=lambda play: play.group)
    for group, members in groupby(plays, key=lambda play: play.group):
        _add_suite(root, group, list(members), report)
    if report.summary.no_server is not None:
        role = report.header.role
        suite = ET.SubElement(root, "testsuite", name=role, tests="1", errors="1")
        case = ET.SubElement(suite, "testcase", classname=role, name="can be run")
        ET.SubElement(case, "error", message=_text(report.summary.no_server))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_suite(root: ET.Element, group: str, plays: list[Play], report: Report) -> None:
    attributes = {"name": group, "timestamp": report.header.started, **_totals(plays)}
    suite = ET.SubElement(root, "testsuite", attributes)
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("suite", report.header.suite),
        ("target", report.header.target),
        ("revisions", " ".join(report.header.revisions)),
    ):
        ET.SubElement(properties, "property", name=name, value=_text(value))
    if not root.findall("testsuite/properties/property[@name='drift']"):
        for drift in report.drift:
            ET.SubElement(properties, "property", name="drift", value=_text(str(drift)))
    for play in plays:
        _add_case(suite, play)


def _add_case(suite: ET.Element, play: Play) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=play.group.replace("/", "."),
        name=play.name.removeprefix(f"{play.group}/"),
        time=f"{play.seconds:.3f}",
    )
    kind = _ELEMENTS.get(play.outcome)
    if kind is None:
        return
    reason = play.reason or ""
    if play.outcome is Outcome.KNOWN:
        reason = f"known deviation: {play.known_deviation}"
    element = ET.SubElement(case, kind, message=_text(reason), type=_type(play))
    if kind == "skipped":
        return
    element.text = _text(f"{play.description}\n{reason}")
    ET.SubElement(case, "system-out").text = _text("\n".join(trace.lines(play.trace)))


def _type(play: Play) -> str:
    return play.outcome if play.cause is UNSET else play.cause


def _totals(plays: list[Play]) -> dict[str, str]:
    kinds = Counter(_ELEMENTS.get(play.outcome) for play in plays)
    return {
        "tests": str(len(plays)),
        "failures": str(kinds["failure"]),
        "errors": str(kinds["error"]),
        "skipped": str(kinds["skipped"]),
        "time": f"{sum(play.seconds for play in plays):.3f}",
    }


def _text(text: str) -> str:
    """Replace characters that XML does not allow by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)
