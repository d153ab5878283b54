"""The metaschemas, and the schema files that they check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from exec_server_codegen import lint
from exec_server_codegen.schema_files import read_revision, revision_names
from tests.support.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = ROOT / "schema"
METASCHEMAS = sorted((SCHEMA / "meta").glob("*.json"))
AREAS = [
    pytest.param(area.document, id=f"{name}/{area.file}")
    for name in revision_names(SCHEMA)
    for area in read_revision(SCHEMA, name).areas
]


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


@pytest.mark.parametrize("path", METASCHEMAS, ids=lambda path: path.name)
def test_a_metaschema_is_a_valid_schema(path: Path) -> None:
    Draft202012Validator.check_schema(load(path))


@pytest.mark.parametrize("path", METASCHEMAS, ids=lambda path: path.name)
def test_every_rule_of_a_metaschema_is_worded_and_documented(path: Path) -> None:
    rules = [node for node in nodes(load(path)) if "x-rule" in node]
    assert rules
    for node in rules:
        assert node["x-message"]
        assert f"``{node['x-rule']}``" in str(lint.__doc__)


@pytest.mark.parametrize("name", revision_names(SCHEMA))
def test_the_schema_files_of_a_revision_keep_every_rule(name: str) -> None:
    assert lint.lint(SCHEMA, name) == []


@pytest.mark.parametrize("document", AREAS)
def test_an_area_is_a_valid_schema(document: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(document)
    for definition in document["$defs"].values():
        assert definition["description"].endswith(".")
        for member in definition.get("properties", {}).values():
            assert member["description"].endswith(".")
