"""Revisions that extend another: how files are laid over files, found in, and generated from."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from exec_server_codegen.cli import main
from exec_server_codegen.errors import SchemaError
from exec_server_codegen.extension import Extension, united
from exec_server_codegen.json_documents import json_pointer
from exec_server_codegen.lint import lint
from exec_server_codegen.schema_files import read_revision
from exec_server_protocol import draft, v2
from tests.support.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEMA = ROOT / "schema"

START = ("$defs", "ProcessStartParams", "properties")


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A copy of the schema to change."""
    return shutil.copytree(SCHEMA, tmp_path / "schema")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def row(document: Any, name: str) -> Any:
    """A row of a method table."""
    return next(one for one in document["methods"] if one["name"] == name)


# Laying values over values


@pytest.mark.parametrize(
    ("base", "own", "whole"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        (["a"], ["b"], ["a", "b"]),
        ([{"error": "x"}], [{"error": "y"}], [{"error": "x"}, {"error": "y"}]),
        (
            [{"name": "a", "n": 1}, {"name": "b"}],
            [{"name": "c"}, {"name": "b", "n": 2}],
            [{"name": "a", "n": 1}, {"name": "b", "n": 2}, {"name": "c"}],
        ),
        ({"a": [1]}, {"a": 2}, {"a": 2}),
        (1, {"a": 1}, {"a": 1}),
    ],
)
def test_an_extension_adds_and_rewords(base: Any, own: Any, whole: Any) -> None:
    assert united(base, own) == whole


def test_what_an_extension_does_not_say_is_as_in_the_base_but_for_releases() -> None:
    base, whole = read_revision(SCHEMA, "v2"), read_revision(SCHEMA, "draft")
    names = [method.name for method in base.methods]
    assert [method.name for method in whole.methods][: len(names)] == names
    assert whole.releases == []
    for method in whole.methods:
        assert (method.since, method.until, method.changes) == (None, None, [])
    assert "x-since" not in json.dumps([area.document for area in whole.areas])
    for name, definition in base.definitions.items():
        other = whole.definitions[name]
        assert other.area.file == definition.area.file
        assert list(other.properties)[: len(definition.properties)] == list(definition.properties)


def test_a_change_of_the_base_is_one_of_the_extension(schema: Path) -> None:
    member = {"description": "A new member.", "type": "string", "default": ""}
    edit(schema / "v2" / "process.json", lambda it: it["$defs"]["EnvPolicy"].update(x=1))
    edit(
        schema / "v2" / "process.json",
        lambda it: it["$defs"]["ProcessStartParams"]["properties"].update(later=member),
    )
    definitions = read_revision(schema, "draft").definitions
    assert definitions["EnvPolicy"].schema["x"] == 1
    assert definitions["ProcessStartParams"].properties["later"] == member
    assert "rows" in definitions["ProcessStartParams"].properties


# Finding places again


@pytest.mark.parametrize(
    ("where", "own"),
    [
        (("rows", 0), None),
        (("rows", 1), ("rows", 1)),
        (("rows", 1, "list", 0), None),
        (("rows", 1, "list", 1), ("rows", 1, "list", 0)),
        (("rows", 1, "text"), None),
        (("rows", 2), ("rows", 0)),
        (("rows", 2, "list", 0), ("rows", 0, "list", 0)),
        (("$defs", "A"), ("$defs", "A")),
        (("$defs", "A", "properties", "old"), None),
        (("$defs", "A", "properties", "new"), ("$defs", "A", "properties", "new")),
        (("$defs", "B", "absent"), ("$defs", "B")),
        (("$defs", "C"), None),
    ],
)
def test_a_place_of_the_whole_is_found_in_the_file_that_has_it(
    where: tuple[str | int, ...], own: tuple[str | int, ...] | None
) -> None:
    base = {
        "rows": [{"name": "a"}, {"name": "b", "list": [1], "text": "b"}],
        "$defs": {"A": {"properties": {"old": 1}}, "C": {}},
    }
    mine = {
        "rows": [{"name": "c", "list": [3]}, {"name": "b", "list": [2]}],
        "$defs": {"A": {"properties": {"new": 1}}, "B": {}},
    }
    extension = Extension("base", {"f": base}, {"f": mine, "g": {"x": 1}})
    assert extension.own_place("f", where) == own
    assert extension.own_place("g", ("x",)) == ("x",)
    assert extension.own_place("h", where) is None


# Linting

EMPTY_ARGV = {
    "error": "invalidParams",
    "when": "The list argv is empty.",
    "message": "argv must not be empty",
}

CHANGES: dict[str, tuple[str, Callable[[Any], object], str, str]] = {
    "a new row": (
        "methods.json",
        lambda it: row(it, "process/resize").pop("examples"),
        "missing-example",
        "/methods/4",
    ),
    "an example added to a row": (
        "methods.json",
        lambda it: row(it, "process/start")["examples"][0]["params"].update(rows=0),
        "invalid-example",
        "/methods/1/examples/0/params/rows",
    ),
    "a new definition": (
        "process.json",
        lambda it: it["$defs"]["TerminalDimension"].pop("description"),
        "missing-description",
        "/$defs/TerminalDimension",
    ),
    "a member added to a definition": (
        "process.json",
        lambda it: it["$defs"]["ProcessStartParams"]["properties"]["rows"].pop("x-unit"),
        "missing-unit",
        json_pointer(*START, "rows"),
    ),
    "a word repeated": (
        "process.json",
        lambda it: it["$defs"]["ProcessTerminateParams"].update(type="object"),
        "needless-copy",
        "/$defs/ProcessTerminateParams/type",
    ),
    "a row repeated": (
        "methods.json",
        lambda it: row(it, "process/write").update(family="process"),
        "needless-copy",
        "/methods/2/family",
    ),
    "an element of a list repeated": (
        "methods.json",
        lambda it: row(it, "process/start")["errors"].append(EMPTY_ARGV),
        "needless-copy",
        "/methods/1/errors/2",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_finding_is_where_the_extension_says_it(case: str, schema: Path) -> None:
    file, change, rule, pointer = CHANGES[case]
    edit(schema / "draft" / file, change)
    found = lint(schema, "draft")
    assert [(one.file, one.rule, one.pointer) for one in found] == [
        (str(schema / "draft" / file), rule, pointer)
    ]
    assert lint(schema, "v2") == []


def test_a_finding_about_what_the_base_says_is_there_and_told_once(
    schema: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the revisions that are looked at."""
    edit(schema / "v2" / "process.json", lambda it: it["$defs"]["EnvPolicy"].pop("description"))
    line = f"{schema}/v2/process.json:#/$defs/EnvPolicy: missing-description: has no description\n"
    for options in ([], ["--revision", "draft"]):
        assert main(["lint", "--schema", str(schema), *options]) == 1
        assert capsys.readouterr().out == line


@pytest.mark.parametrize("base", ["v9", "draft", "meta", 5])
def test_a_revision_extends_another_that_is_there(schema: Path, base: Any) -> None:
    edit(schema / "draft" / "methods.json", lambda it: it.update(extends=base))
    (finding,) = lint(schema, "draft")
    assert (finding.rule, finding.pointer) == ("unknown-base", "/extends")
    with pytest.raises(SchemaError, match=f"draft extends {base}"):
        read_revision(schema, "draft")


def test_a_revision_does_not_extend_an_extension(schema: Path) -> None:
    edit(schema / "v2" / "methods.json", lambda it: it.update(extends="v1"))
    (finding,) = lint(schema, "draft")
    assert (finding.rule, finding.message) == (
        "unknown-base",
        "draft extends v2, which itself extends another",
    )


@pytest.mark.parametrize("revision", ["v2", "draft"])
@pytest.mark.parametrize("content", ['{"$defs": ', '{"$defs": 5}', "[]", '{"$defs": {"Shell": 5}}'])
def test_a_broken_file_is_a_finding(
    schema: Path, capsys: pytest.CaptureFixture[str], revision: str, content: str
) -> None:
    (schema / revision / "environment.json").write_text(content, encoding="utf-8")
    assert main(["lint", "--schema", str(schema), "--revision", "draft"]) == 1
    assert f"{schema}/{revision}/environment.json:#" in capsys.readouterr().out


# Generating


def test_what_is_shared_has_one_model() -> None:
    """And what is not adds to the base's, so that it goes where that one does."""
    revision = read_revision(SCHEMA, "draft")
    shared = {name for name in revision.definitions if revision.is_shared(name)}
    assert {"ProcessReadResult", "FsOpenParams", "EnvPolicy", "UInt64"} <= shared
    for area in revision.model_areas:
        for name in area.definitions:
            mine = getattr(draft, name)
            assert getattr(importlib.import_module(f"{draft.__name__}.{area.module}"), name) is mine
            if name in shared:
                assert mine is getattr(v2, name)
    extended = {name for name in revision.definitions if revision.is_extended(name)}
    assert extended == {
        "EnvironmentCapabilities",
        "EnvironmentInfoResult",
        "InitializeResult",
        "ProcessStartParams",
        "ProcessTerminateParams",
        "ProcessTerminateResult",
    }
    for name in extended:
        assert issubclass(getattr(draft, name), getattr(v2, name))


def test_members_of_an_extended_model_have_the_order_of_the_schema() -> None:
    revision = read_revision(SCHEMA, "draft")
    for name in ("ProcessStartParams", "EnvironmentInfoResult"):
        fields = [field.encode_name for field in msgspec.structs.fields(getattr(draft, name))]
        assert fields == list(revision.definitions[name].properties)


def test_the_header_names_both_sources(schema: Path) -> None:
    sources = read_revision(schema, "draft").sources
    assert sources["process.json"].name == "schema/{v2,draft}/process.json"
    assert sources["http.json"].name == "schema/v2/http.json"
    assert sources["*"].name == "schema/{v2,draft}/*.json"
    for revision in ("v2", "draft"):
        before = {file: one.digest for file, one in sources.items()}
        path = schema / revision / "process.json"
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        sources = read_revision(schema, "draft").sources
        changed = {file for file, one in sources.items() if one.digest != before[file]}
        assert changed == {"process.json", "*"}


# Promises


def test_a_draft_promises_nothing(schema: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rename(document: Any) -> None:
        renamed = row(document, "process/resize")
        renamed["name"] = "process/setSize"
        for role in ("params", "result"):
            renamed[role]["$ref"] = f"process.json#/$defs/ProcessSetSize{role.capitalize()}"

    def rename_types(document: Any) -> None:
        definitions = document["$defs"]
        for end in ("Params", "Result"):
            definitions[f"ProcessSetSize{end}"] = definitions.pop(f"ProcessResize{end}")

    edit(schema / "draft" / "methods.json", rename)
    edit(schema / "draft" / "process.json", rename_types)
    assert main(["breaking", "--schema", str(schema)]) == 0
    capsys.readouterr()
    assert main(["record", "draft", "--schema", str(schema)]) == 2
    assert capsys.readouterr().err == (
        "exec-server-codegen: draft is a draft, which promises nothing\n"
    )
    assert not (schema / "released" / "draft.json").exists()


def test_a_draft_is_compared_with_what_it_was_at_a_commit(
    schema: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a change of what it extends is found there."""
    who = ["-c", "user.name=Tests", "-c", "user.email=tests@localhost"]
    for arguments in (["init"], ["add", "schema"], ["commit", "--message", "Add a schema"]):
        subprocess.run(
            ["git", *who, *arguments], cwd=schema.parent, check=True, capture_output=True
        )
    against = ["breaking", "--against", "HEAD", "draft", "--schema", str(schema)]
    assert main(against) == 0
    assert capsys.readouterr().out == "draft at HEAD → draft: nothing breaks\n"
    edit(
        schema / "v2" / "process.json",
        lambda it: it["$defs"]["ShellSnapshot"]["properties"].update(
            later={"description": "A new member.", "type": "boolean"}
        ),
    )
    edit(
        schema / "v2" / "process.json",
        lambda it: it["$defs"]["ShellSnapshot"]["required"].append("later"),
    )
    edit(
        schema / "draft" / "process.json",
        lambda it: it["$defs"]["TerminalDimension"].update(maximum=1000),
    )
    assert main([*against, "--format", "json"]) == 1
    found = {
        (one["rule"], one["file"], one["pointer"]) for one in json.loads(capsys.readouterr().out)
    }
    shell = "/$defs/ShellSnapshot/properties/later"
    assert ("PARAM_REQUIRED_ADDED", f"{schema}/v2/process.json", shell) in found
    size = "/$defs/TerminalDimension"
    assert ("PARAM_LIMIT_TIGHTENED", f"{schema}/draft/process.json", size) in found
