"""The reference pages: nothing left out, and every link leads somewhere."""

from __future__ import annotations

import json
import re

import pytest

import exec_server_protocol
from exec_server_codegen.reference import anchor
from exec_server_codegen.schema_files import read_revision
from tests.support.checkout import ROOT

REVISIONS = exec_server_protocol.REVISIONS
FENCE = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages(revision: str) -> dict[str, str]:
    folder = ROOT / "docs/reference" / revision
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_link_leads_to_a_heading(revision: str) -> None:
    texts = pages(revision)
    anchors = {
        name: [anchor(heading) for heading in headings(text)] for name, text in texts.items()
    }
    for name, text in texts.items():
        for target, fragment in re.findall(r"\]\(([\w.]*)#?([\w-]*)\)", text):
            assert (target or name) in texts, f"{name}: {target}"
            assert not fragment or fragment in anchors[target or name], f"{name}: #{fragment}"


@pytest.mark.parametrize("revision", REVISIONS)
def test_no_page_has_two_headings_of_one_name(revision: str) -> None:
    for text in pages(revision).values():
        names = headings(text)
        assert len(names) == len(set(names))


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_method_error_and_member_is_on_a_page(revision: str) -> None:
    schema = read_revision(ROOT / "schema", revision)
    texts = pages(revision)
    for method in schema.methods:
        page = texts[f"{method.family}.md"]
        assert f"\n## {method.name}\n" in page
        assert method.summary in page
        for definition in (method.params, method.result):
            for member, member_schema in definition.properties.items() if definition else ():
                row = next(line for line in page.splitlines() if line.startswith(f"| `{member}` |"))
                assert row.count("|") == 8
                assert member_schema["description"] in page
    for error in schema.errors:
        assert f"\n## {error.name}\n\nCode {error.code}. " in texts["errors.md"]
    shared = set(schema.definitions) - {
        definition.name
        for method in schema.methods
        for definition in (method.params, method.result)
        if definition
    }
    for name in shared:
        assert f"\n### {name}\n" in texts["types.md"]


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_example_on_a_page_is_a_message(revision: str) -> None:
    schema = read_revision(ROOT / "schema", revision)
    messages = [
        json.loads(block) for text in pages(revision).values() for block in FENCE.findall(text)
    ]
    expected = sum(
        len(method.examples) * (2 if method.kind == "request" else 1) for method in schema.methods
    )
    assert len(messages) == expected
    for message in messages:
        assert "method" in message or {"id", "result"} == set(message) or "error" in message
