"""The page about who speaks what: complete, and true to the schema and to the command."""

from __future__ import annotations

import json
import re

import pytest

from exec_server_codegen.breaking_rules import RULES
from exec_server_codegen.cli import main
from exec_server_codegen.compatibility import CAPABILITIES, compatibility_page
from exec_server_codegen.reference import anchor
from exec_server_codegen.schema_files import read_revision, revision_names
from tests.support.checkout import ROOT

SCHEMA = ROOT / "schema"
PAGE = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
REVISIONS = [read_revision(SCHEMA, name) for name in revision_names(SCHEMA)]


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", text, re.MULTILINE)


def section(heading: str) -> str:
    """Return the text below a heading, up to the next of its level."""
    level = re.escape(heading.split(" ", maxsplit=1)[0])
    found = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^{level} |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found, heading
    return found[1]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def table() -> dict[str, dict[str, str]]:
    """The marks of each method by release."""
    lines = [line for line in section("## Methods by release").splitlines() if line[:1] == "|"]
    releases = cells(lines[0])[1:]
    rows = {}
    for line in lines[3:]:
        name, *marks = cells(line)
        assert len(marks) == len(releases)
        rows[name.partition("]")[0].lstrip("[")] = dict(zip(releases, marks, strict=True))
    return rows


def test_every_method_that_a_release_has_is_in_the_table() -> None:
    spoken = {
        method.name for revision in REVISIONS if revision.releases for method in revision.methods
    }
    assert set(table()) == spoken


def test_every_release_that_changed_something_has_a_column() -> None:
    releases = [name.removesuffix(".0") for revision in REVISIONS for name in revision.releases]
    assert list(table()["initialize"]) == releases


@pytest.mark.parametrize(
    ("method", "marks"),
    [
        ("initialized", {"0.121": "+", "0.139": "·", "0.140": "·", "0.169": "·"}),
        ("http/request", {"0.121": "", "0.124": "+", "0.128": "·"}),
        ("process/start", {"0.121": "+", "0.124": "Δ", "0.128": "·"}),
        ("process/read", {"0.124": "·", "0.128": "Δ", "0.130": "·"}),
        ("fs/join", {"0.133": "", "0.137": "+", "0.139": "·", "0.140": "", "0.169": ""}),
        ("environment/info", {"0.137": "", "0.139": "+", "0.140": "·"}),
        ("process/signal", {"0.139": "", "0.140": "+"}),
        ("process/write", {"0.141": "·", "0.142": "Δ", "0.143": "·"}),
        ("fs/walk", {"0.142": "", "0.143": "+", "0.144": "Δ"}),
        ("fs/createDirectory", {"0.148": "Δ", "0.149": "Δ", "0.150": "Δ"}),
    ],
)
def test_the_marks_tell_what_the_releases_were_measured_to_have(
    method: str, marks: dict[str, str]
) -> None:
    row = table()[method]
    assert {release: row[release] for release in marks} == marks


def test_every_change_that_a_method_tells_is_in_its_release() -> None:
    for revision in REVISIONS:
        for method in revision.methods:
            for change in method.changes:
                notes = section(f"### codex {change['release']}")
                assert f"[{method.name}](reference/{revision.name}/" in notes
                assert change["description"] in notes


def test_members_and_shapes_come_and_go_in_their_release() -> None:
    assert "- `ProcessStartParams.pipeStdin` is new.\n" in section("### codex 0.124.0")
    assert "- The shape `SandboxContext` is new.\n" in section("### codex 0.128.0")
    assert "- The shape `ProfileSandboxContext` is gone.\n" in section("### codex 0.128.0")
    assert "- fs/join is gone.\n" in section("### codex 0.140.0")


def test_every_capability_flag_is_listed_with_its_meaning() -> None:
    flags = section("## Capability flags")
    for revision in REVISIONS:
        if CAPABILITIES in revision.definitions:
            for name, schema in revision.definitions[CAPABILITIES].properties.items():
                row = next(line for line in flags.splitlines() if f"`{name}`" in line)
                assert cells(row)[3] == schema["description"]
    assert "| `fsWatchMissing` | v2 | 0.166.0 |" in flags
    assert "| `networkProxyLaunch` | v2 | 0.145.0 |" in flags
    names = re.findall(r"^\| `(\w+)`", flags, re.MULTILINE)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("old", "new"), [("v0", "v1"), ("v1", "v2")])
def test_the_page_lists_what_the_command_finds(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["breaking", old, new, "--schema", str(SCHEMA), "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    text = section(f"## From {old} to {new}")
    for finding in findings:
        message = finding["message"].replace("|", "\\|")
        assert f"| {message} | {finding['rule']} |\n" in text
    breaking = text.partition("### COMPATIBLE")[0]
    assert len(re.findall(r"^\| (?!Change|--).*\|$", breaking, re.MULTILINE)) == len(findings)


def test_every_rule_is_explained() -> None:
    for rule in RULES.values():
        assert f"| {rule.id} | {rule.description} |\n" in section(f"### {rule.severity} rules")


def test_every_link_leads_to_a_heading() -> None:
    for target, fragment in re.findall(r"\]\(([\w./]*)#?([\w-]*)\)", PAGE):
        path = ROOT / "docs" / target if target else ROOT / "docs/compatibility.md"
        text = path.read_text(encoding="utf-8")
        anchors = [anchor(heading) for heading in headings(text)]
        assert not fragment or fragment in anchors, f"{target}#{fragment}"


def test_no_two_headings_are_alike() -> None:
    assert len(headings(PAGE)) == len(set(headings(PAGE)))


def test_a_released_revision_is_called_released() -> None:
    page = compatibility_page(REVISIONS, ["v1"])
    rows = page.partition("## Revisions\n")[2].partition("\n\nA *released*")[0].splitlines()[3:]
    answers = {cells(row)[0].partition("]")[0].lstrip("["): cells(row)[2] for row in rows}
    assert answers == {"v0": "no", "v1": "yes", "v2": "no", "draft": "draft"}
