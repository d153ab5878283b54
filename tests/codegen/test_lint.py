"""Every rule of the schema linter, each by a schema that breaks it and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exec_server_codegen import lint as lint_module
from exec_server_codegen.cli import main
from exec_server_codegen.lint import lint
from tests.support.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = ROOT / "schema"

Break = tuple[str, str, "Callable[[Any], object]", str]


def definition(**schema: Any) -> dict[str, Any]:
    return {
        "description": "A thing.",
        "type": "object",
        "properties": {},
        "additionalProperties": True,
        **schema,
    }


def drop(*path: str | int) -> Callable[[Any], object]:
    """Remove what stands at the path."""

    def edit(document: Any) -> object:
        for part in path[:-1]:
            document = document[part]
        return document.pop(path[-1])

    return edit


def put(*path: Any) -> Callable[[Any], object]:
    """Put the last argument at the path of the others."""

    def edit(document: Any) -> None:
        for part in path[:-2]:
            document = document[part]
        if isinstance(document, list) and path[-2] == len(document):
            document.append(path[-1])
        else:
            document[path[-2]] = path[-1]

    return edit


START = ("$defs", "ProcessStartParams", "properties")
READ = ("$defs", "ProcessReadParams")

BREAKS: dict[str, Break] = {
    "metaschema: unknown keyword": (
        "metaschema",
        "process.json",
        put("$defs", "EnvPolicy", "minProperties", 1),
        "/$defs/EnvPolicy",
    ),
    "metaschema: table row": (
        "metaschema",
        "methods.json",
        put("methods", 0, "direction", "sideways"),
        "/methods/0/direction",
    ),
    "metaschema: error code": (
        "metaschema",
        "errors.json",
        put("errors", 0, "code", "-32600"),
        "/errors/0/code",
    ),
    "definition-name": (
        "definition-name",
        "environment.json",
        put("$defs", "shell", definition()),
        "/$defs/shell",
    ),
    "member-name": (
        "member-name",
        "environment.json",
        put("$defs", "Shell", "properties", "Name", {"description": "A.", "type": "string"}),
        "/$defs/Shell/properties/Name",
    ),
    "missing-description: definition": (
        "missing-description",
        "process.json",
        drop("$defs", "OutputChunk", "description"),
        "/$defs/OutputChunk",
    ),
    "missing-description: member": (
        "missing-description",
        "process.json",
        drop(*START, "argv", "description"),
        "/$defs/ProcessStartParams/properties/argv",
    ),
    "missing-description: method": (
        "missing-description",
        "methods.json",
        drop("methods", 2, "description"),
        "/methods/2",
    ),
    "missing-description: family": (
        "missing-description",
        "methods.json",
        drop("families", 1, "description"),
        "/families/1",
    ),
    "missing-description: error": (
        "missing-description",
        "errors.json",
        drop("errors", 1, "description"),
        "/errors/1",
    ),
    "description-form": (
        "description-form",
        "process.json",
        put(*START, "argv", "description", "the arguments"),
        "/$defs/ProcessStartParams/properties/argv/description",
    ),
    "anonymous-branch: object as a member": (
        "anonymous-branch",
        "process.json",
        put(*START, "size", {"description": "A.", "properties": {}, "default": {}}),
        "/$defs/ProcessStartParams/properties/size",
    ),
    "anonymous-branch: choice as a member": (
        "anonymous-branch",
        "process.json",
        put(*START, "mode", {"description": "A.", "enum": ["a"], "default": "a"}),
        "/$defs/ProcessStartParams/properties/mode",
    ),
    "anonymous-branch: object that may be null": (
        "anonymous-branch",
        "process.json",
        put(*START, "envPolicy", "anyOf", 0, {"properties": {}}),
        "/$defs/ProcessStartParams/properties/envPolicy/anyOf/0",
    ),
    "anonymous-branch: items": (
        "anonymous-branch",
        "process.json",
        put("$defs", "ProcessReadResult", "properties", "chunks", "items", {"oneOf": []}),
        "/$defs/ProcessReadResult/properties/chunks/items",
    ),
    "anonymous-branch: map of anything": (
        "anonymous-branch",
        "process.json",
        drop(*START, "env", "additionalProperties"),
        "/$defs/ProcessStartParams/properties/env",
    ),
    "anonymous-branch: union": (
        "anonymous-branch",
        "sandbox.json",
        put("$defs", "SandboxPolicy", "oneOf", 0, {"type": "object"}),
        "/$defs/SandboxPolicy/oneOf/0",
    ),
    "anonymous-branch: definition": (
        "anonymous-branch",
        "session.json",
        put("$defs", "InitializedParams", "anyOf", []),
        "/$defs/InitializedParams",
    ),
    "anonymous-branch: params": (
        "anonymous-branch",
        "methods.json",
        put("methods", 0, "params", {"type": "object"}),
        "/methods/0/params",
    ),
    "nullable-form": (
        "nullable-form",
        "process.json",
        put(*START, "arg0", "anyOf", [{"type": "null"}, {"type": "string"}]),
        "/$defs/ProcessStartParams/properties/arg0/anyOf/1",
    ),
    "missing-example: none": (
        "missing-example",
        "methods.json",
        drop("methods", 2, "examples"),
        "/methods/2",
    ),
    "missing-example: empty": (
        "missing-example",
        "methods.json",
        put("methods", 2, "examples", []),
        "/methods/2/examples",
    ),
    "method-kind: request without result": (
        "method-kind",
        "methods.json",
        drop("methods", 2, "result"),
        "/methods/2",
    ),
    "method-kind: notification with result": (
        "method-kind",
        "methods.json",
        put("methods", 1, "result", {"$ref": "session.json#/$defs/InitializeResult"}),
        "/methods/1",
    ),
    "method-handling: request of the client without it": (
        "method-handling",
        "methods.json",
        drop("methods", 2, "handling"),
        "/methods/2",
    ),
    "method-handling: notification with it": (
        "method-handling",
        "methods.json",
        put(
            *("methods", 1, "handling"),
            {"ordering": "concurrent", "mayWait": False, "repeatable": False},
        ),
        "/methods/1",
    ),
    "large-result: no such member": (
        "large-result",
        "methods.json",
        put("methods", 3, "handling", "largeResult", "member", "chunks/text"),
        "/methods/3/handling/largeResult/member",
    ),
    "large-result: no base64": (
        "large-result",
        "methods.json",
        put("methods", 3, "handling", "largeResult", "member", "nextSeq"),
        "/methods/3/handling/largeResult/member",
    ),
    "covering-revision": (
        "covering-revision",
        "methods.json",
        put("methods", 3, "handling", "coveredBy", "v0"),
        "/methods/3/handling/coveredBy",
    ),
    "missing-identifier": (
        "missing-identifier",
        "process.json",
        drop(*START, "processId", "x-identifier"),
        "/$defs/ProcessStartParams/properties/processId",
    ),
    "numbered-definition": (
        "numbered-definition",
        "environment.json",
        lambda document: document["$defs"].update(
            Shell1=document["$defs"]["Shell"],
            Shell=definition(
                properties={
                    "next": {"description": "A.", "$ref": "#/$defs/Shell1", "x-absent": "B."}
                }
            ),
        ),
        "/$defs/Shell1",
    ),
    "duplicate-definition": (
        "duplicate-definition",
        "session.json",
        put("$defs", "Shell", definition()),
        "/$defs/Shell",
    ),
    "unknown-reference: area": (
        "unknown-reference",
        "process.json",
        put("$defs", "OutputChunk", "properties", "seq", "$ref", "scalars.json#/$defs/Seq"),
        "/$defs/OutputChunk/properties/seq/$ref",
    ),
    "unknown-reference: wrong file": (
        "unknown-reference",
        "process.json",
        put("$defs", "OutputChunk", "properties", "seq", "$ref", "#/$defs/UInt64"),
        "/$defs/OutputChunk/properties/seq/$ref",
    ),
    "unknown-reference: method": (
        "unknown-reference",
        "methods.json",
        put("methods", 0, "params", {"$ref": "session.json#/$defs/Initialize"}),
        "/methods/0/params/$ref",
    ),
    "unreachable-definition": (
        "unreachable-definition",
        "environment.json",
        put("$defs", "Machine", definition()),
        "/$defs/Machine",
    ),
    "invalid-pattern": (
        "invalid-pattern",
        "scalars.json",
        put("$defs", "AbsolutePath", "pattern", "^(/"),
        "/$defs/AbsolutePath/pattern",
    ),
    "unknown-required": (
        "unknown-required",
        "sandbox.json",
        put("$defs", "SpecialPlace", "required", 1, "name"),
        "/$defs/SpecialPlace/required/1",
    ),
    "missing-default": (
        "missing-default",
        "process.json",
        drop(*START, "pipeStdin", "default"),
        "/$defs/ProcessStartParams/properties/pipeStdin",
    ),
    "invalid-default": (
        "invalid-default",
        "process.json",
        put(*START, "pipeStdin", "default", 0),
        "/$defs/ProcessStartParams/properties/pipeStdin/default",
    ),
    "missing-unit: inline": (
        "missing-unit",
        "http.json",
        drop("$defs", "HttpRequestResult", "properties", "status", "x-unit"),
        "/$defs/HttpRequestResult/properties/status",
    ),
    "missing-unit: by reference": (
        "missing-unit",
        "process.json",
        drop(*READ, "properties", "waitMs", "x-unit"),
        "/$defs/ProcessReadParams/properties/waitMs",
    ),
    "union-tag: mapping": (
        "union-tag",
        "sandbox.json",
        drop("$defs", "SandboxPolicy", "discriminator", "mapping", "read-only"),
        "/$defs/SandboxPolicy/discriminator",
    ),
    "union-tag: constant": (
        "union-tag",
        "sandbox.json",
        put("$defs", "ReadOnlyPolicy", "properties", "type", "const", "readonly"),
        "/$defs/SandboxPolicy/discriminator",
    ),
    "unchecked-bound": (
        "unchecked-bound",
        "process.json",
        put(
            *READ,
            "properties",
            "seqs",
            {
                "description": "A.",
                "type": "array",
                "items": {"$ref": "scalars.json#/$defs/UInt64"},
                "default": [],
            },
        ),
        "/$defs/ProcessReadParams/properties/seqs",
    ),
    "nested-base64": (
        "nested-base64",
        "http.json",
        put(
            "$defs",
            "HttpHeader",
            "properties",
            "raw",
            {"description": "A.", "$ref": "scalars.json#/$defs/Base64", "default": ""},
        ),
        "/$defs/HttpHeader/properties/raw",
    ),
    "closed-params": (
        "closed-params",
        "process.json",
        put("$defs", "EnvPolicy", "additionalProperties", False),
        "/$defs/EnvPolicy",
    ),
    "unknown-release: member": (
        "unknown-release",
        "process.json",
        put(*START, "pipeStdin", "x-since", "0.123.0"),
        "/$defs/ProcessStartParams/properties/pipeStdin/x-since",
    ),
    "unknown-release: method": (
        "unknown-release",
        "methods.json",
        put("methods", 0, "since", "0.1.0"),
        "/methods/0/since",
    ),
    "unknown-release: order": (
        "unknown-release",
        "methods.json",
        lambda document: document["releases"].reverse(),
        "/releases",
    ),
    "unknown-release: until before since": (
        "unknown-release",
        "sandbox.json",
        put("$defs", "SandboxContext", "x-until", "0.121.0"),
        "/$defs/SandboxContext",
    ),
    "missing-release": (
        "missing-release",
        "methods.json",
        drop("methods", 3, "since"),
        "/methods/3",
    ),
    "revision-name": (
        "revision-name",
        "methods.json",
        put("revision", "v2"),
        "/revision",
    ),
    "duplicate-name: family": (
        "duplicate-name",
        "methods.json",
        lambda document: document["families"].append(document["families"][0]),
        "/families/5/name",
    ),
    "duplicate-name: attribute": (
        "duplicate-name",
        "methods.json",
        lambda document: document["methods"].append(
            {
                **document["methods"][1],
                "name": "session/initialized",
                "params": {"$ref": "session.json#/$defs/SessionInitializedParams"},
            }
        ),
        "/methods/22/name",
    ),
    "duplicate-code": (
        "duplicate-code",
        "errors.json",
        put("errors", 4, "code", -32603),
        "/errors/4/code",
    ),
    "unknown-family": (
        "unknown-family",
        "methods.json",
        put("methods", 0, "family", "session"),
        "/methods/0/family",
    ),
    "unknown-error: method": (
        "unknown-error",
        "methods.json",
        put("methods", 2, "errors", 0, "error", "badParams"),
        "/methods/2/errors/0/error",
    ),
    "unknown-error: family": (
        "unknown-error",
        "methods.json",
        put("families", 2, "errors", 0, "error", "badParams"),
        "/families/2/errors/0/error",
    ),
    "unknown-error: example": (
        "unknown-error",
        "methods.json",
        put("methods", 2, "examples", 2, "error", "name", "taken"),
        "/methods/2/examples/2/error/name",
    ),
    "invalid-example: params": (
        "invalid-example",
        "methods.json",
        put("methods", 2, "examples", 0, "params", "tty", "no"),
        "/methods/2/examples/0/params/tty",
    ),
    "invalid-example: result": (
        "invalid-example",
        "methods.json",
        put("methods", 2, "examples", 0, "result", {"processId": 1}),
        "/methods/2/examples/0/result/processId",
    ),
    "invalid-example: no answer": (
        "invalid-example",
        "methods.json",
        drop("methods", 2, "examples", 0, "result"),
        "/methods/2/examples/0",
    ),
    "invalid-example: answered notification": (
        "invalid-example",
        "methods.json",
        put("methods", 1, "examples", 0, "result", {}),
        "/methods/1/examples/0",
    ),
}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A copy of the schema to break."""
    return shutil.copytree(SCHEMA, tmp_path / "schema")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("case", BREAKS)
def test_a_broken_rule_is_the_one_finding(case: str, schema: Path) -> None:
    rule, file, change, pointer = BREAKS[case]
    if case == "duplicate-name: attribute":
        params = put("$defs", "SessionInitializedParams", definition())
        edit(schema / "v1" / "session.json", params)
    edit(schema / "v1" / file, change)
    findings = lint(schema, "v1")
    assert [(finding.rule, finding.pointer) for finding in findings] == [(rule, pointer)]
    assert Path(findings[0].file) == schema / "v1" / file


def test_a_type_that_is_not_named_for_its_method_is_found(schema: Path) -> None:
    params = {"$ref": "process.json#/$defs/ProcessWriteParams"}
    edit(schema / "v1" / "methods.json", put("methods", 5, "params", params))
    rules = {finding.rule for finding in lint(schema, "v1")}
    assert "type-name" in rules


def test_what_a_client_answers_is_open_as_its_params_are(schema: Path) -> None:
    closed = put("$defs", "NetworkPolicyRequestResult", "additionalProperties", False)
    edit(schema / "v2" / "network.json", closed)
    findings = [(finding.rule, finding.pointer) for finding in lint(schema, "v2")]
    assert findings == [("closed-params", "/$defs/NetworkPolicyRequestResult")]


def test_a_file_that_is_not_json_is_a_finding(schema: Path) -> None:
    (schema / "v1" / "http.json").write_text('{"$defs": ', encoding="utf-8")
    (schema / "v1" / "session.json").write_text("[]", encoding="utf-8")
    (schema / "v1" / "errors.json").unlink()
    findings = lint(schema, "v1")
    assert [(Path(finding.file).name, finding.rule) for finding in findings] == [
        ("errors.json", "invalid-json"),
        ("http.json", "invalid-json"),
        ("session.json", "invalid-json"),
    ]


def test_every_documented_rule_is_proven_by_a_broken_schema() -> None:
    lines = str(lint_module.__doc__).splitlines()
    documented = {line.split("``")[1] for line in lines if line.startswith("``")}
    proven = {rule for rule, *_ in BREAKS.values()} | {"type-name", "invalid-json"}
    proven |= {"needless-copy", "unknown-base"}  # test_extension
    assert documented == proven


def test_a_finding_is_one_line_and_fails_the_command(
    schema: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(schema / "v1" / "process.json", drop(*START, "argv", "description"))
    assert main(["lint", "--schema", str(schema)]) == 1
    captured = capsys.readouterr()
    assert captured.out == (
        f"{schema}/v1/process.json:#/$defs/ProcessStartParams/properties/argv: "
        "missing-description: has no description\n"
    )
    assert captured.err == "exec-server-codegen: 1 finding in the schema\n"


def test_a_sound_schema_passes_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--schema", str(SCHEMA), "--revision", "v1"]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r"\S+/v1: \d+ methods, \d+ definitions, no findings\n", out)
