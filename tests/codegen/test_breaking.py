"""Breaking changes between two contracts: every rule, with a small pair of schemas.

The contract of the tests has a type of its own for each side, so that a change of one shows what
follows from who sends the value.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from exec_server_codegen.breaking_changes import compare
from exec_server_codegen.breaking_rules import RULES, Severity
from exec_server_codegen.breaking_sources import recorded
from exec_server_codegen.cli import main
from exec_server_codegen.json_documents import json_pointer
from exec_server_codegen.schema_files import read_revision
from tests.support.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Documents = dict[str, Any]


def described(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "A thing.", **schema}


def an_object(required: str, *, closed: bool = False, **members: Any) -> dict[str, Any]:
    return described(
        {
            "type": "object",
            "properties": {name: described(schema) for name, schema in members.items()},
            "required": required.split(),
            "additionalProperties": not closed,
        }
    )


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def a_union(tag: str = "kind", **branches: str) -> dict[str, Any]:
    mapping = {value: f"#/$defs/{name}" for value, name in branches.items()}
    return described(
        {
            "oneOf": [ref(name) for name in branches.values()],
            "discriminator": {"propertyName": tag, "mapping": mapping},
        }
    )


def method(name: str, kind: str = "request", sender: str = "client", **more: Any) -> dict[str, Any]:
    stem = "".join(part.title() for part in name.split("/"))
    result = {"result": {"$ref": f"things.json#/$defs/{stem}Result"}} if kind == "request" else {}
    if kind == "request" and sender == "client":
        more["handling"] = {"ordering": "concurrent", "mayWait": True, "repeatable": False}
    return {
        "name": name,
        "kind": kind,
        "direction": "clientToServer" if sender == "client" else "serverToClient",
        "family": "thing",
        "summary": "Do it.",
        "description": "It is done.",
        "params": {"$ref": f"things.json#/$defs/{stem}Params"},
        "paramsPresence": "required",
        **result,
        "errors": [],
        "since": "0.1.0",
        **more,
    }


TEXT = {"type": "string"}
CONTRACT: Documents = {
    "methods.json": {
        "$schema": "../meta/methods.schema.json",
        "revision": "r1",
        "title": "Things",
        "description": "Things.",
        "releases": ["0.1.0", "0.2.0", "0.3.0"],
        "families": [
            {
                "name": "thing",
                "title": "Things",
                "description": "Things.",
                "errors": [{"error": "refused", "when": "It is Sunday.", "message": "no"}],
            },
            {"name": "other", "title": "Others", "description": "Others.", "errors": []},
        ],
        "methods": [
            method(
                "thing/make",
                errors=[{"error": "refused", "when": "It is there already.", "message": "no"}],
            ),
            method("thing/ping", paramsPresence="optional", since="0.2.0"),
            method("thing/told", "notification", "server"),
            method("thing/keep", "notification", "client", until="0.2.0"),
        ],
    },
    "errors.json": {
        "$schema": "../meta/errors.schema.json",
        "description": "Errors.",
        "errors": [
            {
                "name": name,
                "code": code,
                "description": "It went wrong.",
                "everyRequest": False,
                "conditions": [{"when": when, "message": "no"}],
            }
            for name, code, when in (
                ("refused", -1, "It is forbidden."),
                ("broken", -2, "It broke."),
            )
        ],
    },
    "other.json": {
        "$schema": DIALECT,
        "title": "Others",
        "description": "Others.",
        "$defs": {
            "Mode": described({"type": "string", "enum": ["fast", "slow"]}),
            "Path": described({"type": "string", "pattern": "^/"}),
        },
    },
    "things.json": {
        "$schema": DIALECT,
        "title": "Things",
        "description": "Things.",
        "$defs": {
            "ThingMakeParams": an_object(
                "name mode size path target blob hint",
                name=TEXT,
                mode={"$ref": "other.json#/$defs/Mode"},
                size={**ref("Size"), "x-unit": "bytes"},
                path={"$ref": "other.json#/$defs/Path"},
                target=ref("Target"),
                blob=ref("Blob"),
                hint={"anyOf": [TEXT, {"type": "null"}]},
                label={"anyOf": [TEXT, {"type": "null"}], "default": None},
                spare={"$ref": "other.json#/$defs/Mode", "default": "fast"},
                tags={"type": "array", "items": TEXT, "default": []},
                env={"type": "object", "additionalProperties": TEXT, "default": {}},
                options={**ref("Options"), "default": {}},
                late={"type": "boolean", "default": False, "x-since": "0.2.0"},
            ),
            "Size": described({"type": "integer", "minimum": 0, "maximum": 100}),
            "Target": a_union(file="FileTarget", name="NameTarget", link="LinkTarget"),
            "FileTarget": an_object("kind", kind={**TEXT, "const": "file"}),
            "NameTarget": an_object("kind", kind={**TEXT, "const": "name"}),
            "LinkTarget": an_object("kind", kind={**TEXT, "const": "link"}),
            "Blob": described({**TEXT, "format": "byte", "contentEncoding": "base64"}),
            "Options": described(
                {
                    "type": "object",
                    "x-shapes": [ref("OldOptions"), ref("NewOptions")],
                    "additionalProperties": True,
                }
            ),
            "OldOptions": an_object("", old={"type": "boolean", "default": False}),
            "NewOptions": an_object("", new={"type": "boolean", "default": False}),
            "ThingMakeResult": an_object(
                "id state count where origin detail",
                closed=True,
                id=TEXT,
                state=ref("State"),
                count={**ref("Count"), "x-unit": "bytes"},
                where=ref("Where"),
                origin=ref("Origin"),
                detail={"anyOf": [TEXT, {"type": "null"}]},
                note={**TEXT, "x-absent": "There is nothing to say."},
                marks={"type": "array", "items": TEXT, "default": []},
            ),
            "State": described({"type": "string", "enum": ["open", "shut"]}),
            "Count": described({"type": "integer", "minimum": 0, "maximum": 100}),
            "Where": described({"type": "string", "pattern": "^/"}),
            "Origin": a_union(file="FileOrigin", name="NameOrigin", link="LinkOrigin"),
            "FileOrigin": an_object("kind", closed=True, kind={**TEXT, "const": "file"}),
            "NameOrigin": an_object("kind", closed=True, kind={**TEXT, "const": "name"}),
            "LinkOrigin": an_object("kind", closed=True, kind={**TEXT, "const": "link"}),
            "ThingPingParams": an_object(""),
            "ThingPingResult": an_object("", closed=True),
            "ThingToldParams": an_object("text", closed=True, text=TEXT),
            "ThingKeepParams": an_object("text", text=TEXT),
        },
    },
}


def sample(documents: Documents, schema: dict[str, Any]) -> Any:
    """Some value of a type."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        found = (document["$defs"] for document in documents.values() if "$defs" in document)
        return sample(documents, next(them[name] for them in found if name in them))
    for keyword, pick in (("anyOf", 0), ("oneOf", 0), ("enum", 0)):
        if keyword in schema:
            choice = schema[keyword][pick]
            return choice if keyword == "enum" else sample(documents, choice)
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        members = schema.get("properties", {})
        return {name: sample(documents, members[name]) for name in schema.get("required", [])}
    plain = {"integer": schema.get("minimum", 0), "array": [], "boolean": True, "null": None}
    return plain.get(str(kind), "/")


class Schema:
    """A schema folder with the contract of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "schema/meta", folder / "meta")
        self.write("r1")

    def write(self, name: str, *edits: Callable[[Documents], object]) -> None:
        """Write the contract as a revision, with edits and with examples that fit."""
        documents = copy.deepcopy(CONTRACT)
        for edit in edits:
            edit(documents)
        documents["methods.json"]["revision"] = name
        for row in documents["methods.json"]["methods"]:
            example = {"summary": "Do it.", "params": sample(documents, row["params"])}
            if "result" in row:
                example["result"] = sample(documents, row["result"])
            row["examples"] = [example]
        shutil.rmtree(self.folder / name, ignore_errors=True)
        for file, document in documents.items():
            path = self.folder / name / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(document), encoding="utf-8")

    def run(self, *arguments: str) -> int:
        return main([arguments[0], "--schema", str(self.folder), *arguments[1:]])


@pytest.fixture
def schema(tmp_path: Path) -> Schema:
    return Schema(tmp_path / "schema")


def put(*path: Any) -> Callable[[Documents], object]:
    """Put the last argument at the path of the others, or append it there."""

    def edit(document: Any) -> None:
        for part in path[:-2]:
            document = document[part]
        if isinstance(document, list) and path[-2] == len(document):
            document.append(path[-1])
        else:
            document[path[-2]] = path[-1]

    return edit


def drop(*path: str | int) -> Callable[[Documents], object]:
    """Remove what stands at the path."""

    def edit(document: Any) -> object:
        for part in path[:-1]:
            document = document[part]
        return document.pop(path[-1])

    return edit


def both(*edits: Callable[[Documents], object]) -> Callable[[Documents], object]:
    return lambda document: [edit(document) for edit in edits]


DEFS = ("things.json", "$defs")
OTHER = ("other.json", "$defs")
METHODS = ("methods.json", "methods")
MAKE = (*DEFS, "ThingMakeParams")
MADE = (*DEFS, "ThingMakeResult")
REQUIRED = (*MAKE, "required")
ASKED = method("thing/ask", sender="server")
ASKED_TYPES = both(
    put(*DEFS, "ThingAskParams", an_object("")),
    put(*DEFS, "ThingAskResult", an_object("")),
)


def required(*path: Any) -> Callable[[Documents], object]:
    """Make the member at the path required."""

    def edit(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        document["required"].append(path[-1])
        document["properties"][path[-1]].pop("default", None)

    return edit


def optional(*path: Any) -> Callable[[Documents], object]:
    """Make the member at the path optional."""

    def edit(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        document["required"].remove(path[-1])
        document["properties"][path[-1]]["x-absent"] = "It is not there."

    return edit


def renamed(old: str, new: str) -> Callable[[Documents], object]:
    """Give a definition of things.json another name wherever it is named."""

    def edit(document: Documents) -> None:
        text = json.dumps(document["things.json"])
        text = text.replace(f'"#/$defs/{old}"', f'"#/$defs/{new}"')
        document["things.json"] = json.loads(text.replace(f'"{old}": {{', f'"{new}": {{'))

    return edit


def tagged(member: str, tag: str) -> dict[str, Any]:
    members: dict[str, Any] = {member: {**TEXT, "const": tag}}
    return an_object(member, **members)


Case = tuple["Callable[[Documents], object]", str, str]
"""The edit, the place as FILE:#POINTER (with `-` before it when it is one of the old contract), and
the message."""

BREAKING: dict[str, Case] = {
    "METHOD_REMOVED": (
        both(drop(*METHODS, 1), drop(*DEFS, "ThingPingParams"), drop(*DEFS, "ThingPingResult")),
        "-methods.json:#/methods/1",
        "thing/ping is gone (was request of the client)",
    ),
    "METHOD_KIND_CHANGED": (
        both(
            put(*METHODS, 2, method("thing/told", "request", "server")),
            put(*DEFS, "ThingToldResult", an_object("")),
        ),
        "methods.json:#/methods/2/kind",
        "thing/told: the kind was notification, is request",
    ),
    "DIRECTION_CHANGED": (
        put(*METHODS, 3, "direction", "serverToClient"),
        "methods.json:#/methods/3/direction",
        "thing/keep: the direction was clientToServer, is serverToClient",
    ),
    "SERVER_REQUEST_ADDED": (
        both(put(*METHODS, 4, ASKED), ASKED_TYPES),
        "methods.json:#/methods/4",
        "thing/ask is new (request of the server)",
    ),
    "PARAMS_PRESENCE_CHANGED": (
        put(*METHODS, 1, "paramsPresence", "required"),
        "methods.json:#/methods/1/paramsPresence",
        "thing/ping: the presence of params was optional, is required",
    ),
    "PARAMS_PRESENCE_CHANGED: relaxed by the server": (
        put(*METHODS, 2, "paramsPresence", "optional"),
        "methods.json:#/methods/2/paramsPresence",
        "thing/told: the presence of params was required, is optional",
    ),
    "METHOD_FAMILY_CHANGED": (
        put(*METHODS, 1, "family", "other"),
        "methods.json:#/methods/1/family",
        "thing/ping: the family was thing, is other",
    ),
    "ERROR_CODE_CHANGED": (
        put("errors.json", "errors", 1, "code", -3),
        "errors.json:#/errors/1",
        "broken: the code was -2, is -3",
    ),
    "ERROR_CODE_CHANGED: of a method's situation": (
        put(*METHODS, 0, "errors", 0, "error", "broken"),
        "methods.json:#/methods/0/errors",
        "thing/make: the answer to “It is there already” was refused (-1), is broken (-2)",
    ),
    "ERROR_CODE_CHANGED: of a family's situation": (
        put("methods.json", "families", 0, "errors", 0, "error", "broken"),
        "methods.json:#/families/0/errors",
        "any request of thing: the answer to “It is Sunday” was refused (-1), is broken (-2)",
    ),
    "ERROR_CODE_CHANGED: of a situation of every method": (
        both(
            put("errors.json", "errors", 0, "conditions", 0, "when", "It is late."),
            put("errors.json", "errors", 1, "conditions", 0, "when", "It is forbidden."),
        ),
        "errors.json:#/errors",
        "any request: the answer to “It is forbidden” was refused (-1), is broken (-2)",
    ),
    "ERROR_REMOVED": (
        drop("errors.json", "errors", 1),
        "-errors.json:#/errors/1",
        "broken is gone (was code -2)",
    ),
    "PARAM_REMOVED": (
        drop(*MAKE, "properties", "label"),
        "-things.json:#/$defs/ThingMakeParams/properties/label",
        "ThingMakeParams.label is gone (was optional, string or null)",
    ),
    "PARAM_REQUIRED_ADDED": (
        both(
            put(*MAKE, "properties", "writeName", described(TEXT)), put(*REQUIRED, 7, "writeName")
        ),
        "things.json:#/$defs/ThingMakeParams/properties/writeName",
        "ThingMakeParams.writeName is new (required, string)",
    ),
    "PARAM_NOW_REQUIRED": (
        required(*MAKE, "tags"),
        "things.json:#/$defs/ThingMakeParams/properties/tags",
        "ThingMakeParams.tags: the presence was optional, is required",
    ),
    "PARAM_TYPE_NARROWED: null": (
        put(*MAKE, "properties", "hint", described(TEXT)),
        "things.json:#/$defs/ThingMakeParams/properties/hint",
        "ThingMakeParams.hint: the type was string or null, is string",
    ),
    "PARAM_TYPE_NARROWED: choice": (
        put(*MAKE, "properties", "name", described({"$ref": "other.json#/$defs/Mode"})),
        "things.json:#/$defs/ThingMakeParams/properties/name",
        "ThingMakeParams.name: the type was string, is one of `fast`, `slow`",
    ),
    "PARAM_TYPE_NARROWED: closed": (
        put(*DEFS, "ThingPingParams", "maxProperties", 0),
        "things.json:#/$defs/ThingPingParams",
        "ThingPingParams: a member that is not described was ignored, is refused",
    ),
    "PARAM_TYPE_CHANGED": (
        put(*MAKE, "properties", "name", described({"type": "boolean"})),
        "things.json:#/$defs/ThingMakeParams/properties/name",
        "ThingMakeParams.name: the type was string, is boolean",
    ),
    "PARAM_TYPE_CHANGED: in a list": (
        put(*MAKE, "properties", "tags", "items", {"type": "boolean"}),
        "things.json:#/$defs/ThingMakeParams/properties/tags/items",
        "ThingMakeParams.tags: the type was string, is boolean",
    ),
    "PARAM_TYPE_CHANGED: in a map": (
        put(*MAKE, "properties", "env", "additionalProperties", {"type": "boolean"}),
        "things.json:#/$defs/ThingMakeParams/properties/env/additionalProperties",
        "ThingMakeParams.env: the type was string, is boolean",
    ),
    "PARAM_TYPE_CHANGED: map to object": (
        put(*MAKE, "properties", "env", described({**ref("OldOptions"), "default": {}})),
        "things.json:#/$defs/ThingMakeParams/properties/env",
        "ThingMakeParams.env: the type was map of string to string, is OldOptions",
    ),
    "PARAM_TYPE_CHANGED: another tag": (
        both(
            put(*DEFS, "Target", "discriminator", "propertyName", "type"),
            *(
                put(*DEFS, f"{tag.title()}Target", tagged("type", tag))
                for tag in ("file", "name", "link")
            ),
        ),
        "things.json:#/$defs/Target",
        "Target: the member that tells the objects was kind, is type",
    ),
    "PARAM_ENUM_VALUE_REMOVED": (
        drop(*OTHER, "Mode", "enum", 1),
        "other.json:#/$defs/Mode",
        "Mode: the value `slow` is gone",
    ),
    "PARAM_BRANCH_REMOVED": (
        both(
            put(*DEFS, "Target", a_union(file="FileTarget", link="LinkTarget")),
            drop(*DEFS, "NameTarget"),
        ),
        "things.json:#/$defs/Target",
        "Target: the object of `name` is gone",
    ),
    "PARAM_BRANCH_REMOVED: a known shape": (
        both(drop(*DEFS, "Options", "x-shapes", 0), drop(*DEFS, "OldOptions")),
        "things.json:#/$defs/Options",
        "Options: the shape OldOptions is gone",
    ),
    "PARAM_LIMIT_TIGHTENED: maximum": (
        put(*DEFS, "Size", "maximum", 99),
        "things.json:#/$defs/Size",
        "Size: the maximum was 100, is 99",
    ),
    "PARAM_LIMIT_TIGHTENED: minimum": (
        put(*DEFS, "Size", "minimum", 1),
        "things.json:#/$defs/Size",
        "Size: the minimum was 0, is 1",
    ),
    "PARAM_PATTERN_CHANGED": (
        put(*OTHER, "Path", "pattern", "^/+"),
        "other.json:#/$defs/Path",
        "Path: the pattern was `^/` of Path, is `^/+` of Path",
    ),
    "PARAM_PATTERN_CHANGED: added": (
        put(*MAKE, "properties", "name", described({"$ref": "other.json#/$defs/Path"})),
        "things.json:#/$defs/ThingMakeParams/properties/name",
        "ThingMakeParams.name: the pattern was none, is `^/` of Path",
    ),
    "RESULT_MEMBER_REMOVED": (
        both(drop(*MADE, "properties", "id"), drop(*MADE, "required", 0)),
        "-things.json:#/$defs/ThingMakeResult/properties/id",
        "ThingMakeResult.id is gone (was required, string)",
    ),
    "RESULT_MEMBER_REMOVED: of a notification": (
        put(*DEFS, "ThingToldParams", an_object("", closed=True)),
        "-things.json:#/$defs/ThingToldParams/properties/text",
        "ThingToldParams.text is gone (was required, string)",
    ),
    "RESULT_MEMBER_NOW_OPTIONAL": (
        optional(*MADE, "id"),
        "things.json:#/$defs/ThingMakeResult/properties/id",
        "ThingMakeResult.id: the presence was required, is optional",
    ),
    "RESULT_REQUIRED_MEMBER_ADDED": (
        both(put(*MADE, "properties", "pid", described(TEXT)), put(*MADE, "required", 6, "pid")),
        "things.json:#/$defs/ThingMakeResult/properties/pid",
        "ThingMakeResult.pid is new (required, string)",
    ),
    "RESULT_MEMBER_NOW_REQUIRED": (
        required(*MADE, "note"),
        "things.json:#/$defs/ThingMakeResult/properties/note",
        "ThingMakeResult.note: the presence was optional, is required",
    ),
    "RESULT_OPTIONAL_MEMBER_REMOVED": (
        drop(*MADE, "properties", "note"),
        "-things.json:#/$defs/ThingMakeResult/properties/note",
        "ThingMakeResult.note is gone (was optional, string)",
    ),
    "RESULT_TYPE_NARROWED": (
        put(*MADE, "properties", "detail", described(TEXT)),
        "things.json:#/$defs/ThingMakeResult/properties/detail",
        "ThingMakeResult.detail: the type was string or null, is string",
    ),
    "RESULT_TYPE_WIDENED": (
        put(*MADE, "properties", "id", described({"anyOf": [TEXT, {"type": "null"}]})),
        "things.json:#/$defs/ThingMakeResult/properties/id",
        "ThingMakeResult.id: the type was string, is string or null",
    ),
    "RESULT_TYPE_WIDENED: an object or null": (
        put(*MADE, "properties", "origin", described({"anyOf": [ref("Origin"), {"type": "null"}]})),
        "things.json:#/$defs/ThingMakeResult/properties/origin",
        "ThingMakeResult.origin: the type was Origin, is Origin or null",
    ),
    "RESULT_TYPE_CHANGED": (
        put(*MADE, "properties", "id", described({"type": "boolean"})),
        "things.json:#/$defs/ThingMakeResult/properties/id",
        "ThingMakeResult.id: the type was string, is boolean",
    ),
    "RESULT_ENUM_VALUE_ADDED": (
        put(*DEFS, "State", "enum", 2, "ajar"),
        "things.json:#/$defs/State",
        "State: the value `ajar` is new",
    ),
    "RESULT_ENUM_VALUE_REMOVED": (
        drop(*DEFS, "State", "enum", 0),
        "things.json:#/$defs/State",
        "State: the value `open` is gone",
    ),
    "RESULT_BRANCH_ADDED": (
        both(
            put(*DEFS, "Origin", "oneOf", 3, ref("PipeOrigin")),
            put(*DEFS, "Origin", "discriminator", "mapping", "pipe", "#/$defs/PipeOrigin"),
            put(*DEFS, "PipeOrigin", tagged("kind", "pipe")),
        ),
        "things.json:#/$defs/Origin",
        "Origin: the object of `pipe` is new",
    ),
    "RESULT_BRANCH_REMOVED": (
        both(
            put(*DEFS, "Origin", a_union(file="FileOrigin", link="LinkOrigin")),
            drop(*DEFS, "NameOrigin"),
        ),
        "things.json:#/$defs/Origin",
        "Origin: the object of `name` is gone",
    ),
    "RESULT_LIMIT_TIGHTENED": (
        put(*DEFS, "Count", "maximum", 99),
        "things.json:#/$defs/Count",
        "Count: the maximum was 100, is 99",
    ),
    "RESULT_LIMIT_LOOSENED": (
        drop(*DEFS, "Count", "minimum"),
        "things.json:#/$defs/Count",
        "Count: the minimum was 0, is none",
    ),
    "RESULT_PATTERN_CHANGED": (
        drop(*DEFS, "Where", "pattern"),
        "things.json:#/$defs/Where",
        "Where: the pattern was `^/` of Where, is none of Where",
    ),
    "DEFAULT_CHANGED": (
        put(*MAKE, "properties", "tags", "default", ["a"]),
        "things.json:#/$defs/ThingMakeParams/properties/tags",
        'ThingMakeParams.tags: the default was [], is ["a"]',
    ),
    "DEFAULT_CHANGED: of what servers send": (
        both(
            drop(*MADE, "properties", "marks", "default"),
            put(*MADE, "properties", "marks", "x-absent", "Unknown."),
        ),
        "things.json:#/$defs/ThingMakeResult/properties/marks",
        "ThingMakeResult.marks: the default was [], is none",
    ),
    "UNIT_CHANGED": (
        put(*MAKE, "properties", "size", "x-unit", "milliseconds"),
        "things.json:#/$defs/ThingMakeParams/properties/size",
        "ThingMakeParams.size: the unit was bytes, is milliseconds",
    ),
    "GENERATED_NAME_CHANGED": (
        renamed("FileTarget", "PathTarget"),
        "-things.json:#/$defs/FileTarget",
        "FileTarget: the name was FileTarget, is PathTarget",
    ),
    "GENERATED_MODULE_CHANGED": (
        both(
            lambda documents: documents["things.json"]["$defs"].update(
                Path=documents["other.json"]["$defs"].pop("Path")
            ),
            put(*MAKE, "properties", "path", described(ref("Path"))),
        ),
        "things.json:#/$defs/Path",
        "Path: the module was other, is things",
    ),
    "GENERATED_TYPE_CHANGED": (
        drop(*DEFS, "Blob", "format"),
        "things.json:#/$defs/Blob",
        "Blob: the Python type was bytes, is text",
    ),
}

COMPATIBLE: dict[str, Case] = {
    "METHOD_ADDED: request of the client": (
        both(put(*METHODS, 4, method("thing/ask")), ASKED_TYPES),
        "methods.json:#/methods/4",
        "thing/ask is new (request of the client)",
    ),
    "METHOD_ADDED: notification of the server": (
        both(
            put(*METHODS, 4, method("thing/ask", "notification", "server")),
            put(*DEFS, "ThingAskParams", an_object("", closed=True)),
        ),
        "methods.json:#/methods/4",
        "thing/ask is new (notification of the server)",
    ),
    "PARAMS_PRESENCE_RELAXED": (
        put(*METHODS, 1, "paramsPresence", "ignored"),
        "methods.json:#/methods/1/paramsPresence",
        "thing/ping: the presence of params was optional, is ignored",
    ),
    "ERROR_ADDED": (
        lambda documents: documents["errors.json"]["errors"].append(
            {**documents["errors.json"]["errors"][0], "name": "late", "code": -3}
        ),
        "errors.json:#/errors/2",
        "late is new (code -3)",
    ),
    "PARAM_ADDED": (
        put(*MAKE, "properties", "later", described({**TEXT, "default": ""})),
        "things.json:#/$defs/ThingMakeParams/properties/later",
        "ThingMakeParams.later is new (optional, string)",
    ),
    "PARAM_NOW_OPTIONAL": (
        optional(*MAKE, "name"),
        "things.json:#/$defs/ThingMakeParams/properties/name",
        "ThingMakeParams.name: the presence was required, is optional",
    ),
    "PARAM_TYPE_WIDENED": (
        put(*MAKE, "properties", "name", described({"anyOf": [TEXT, {"type": "null"}]})),
        "things.json:#/$defs/ThingMakeParams/properties/name",
        "ThingMakeParams.name: the type was string, is string or null",
    ),
    "PARAM_TYPE_WIDENED: any string": (
        put(*MAKE, "properties", "mode", described(TEXT)),
        "things.json:#/$defs/ThingMakeParams/properties/mode",
        "ThingMakeParams.mode: the type was one of `fast`, `slow`, is string",
    ),
    "PARAM_ENUM_VALUE_ADDED": (
        put(*OTHER, "Mode", "enum", 2, "idle"),
        "other.json:#/$defs/Mode",
        "Mode: the value `idle` is new",
    ),
    "PARAM_BRANCH_ADDED": (
        both(
            put(*DEFS, "Target", "oneOf", 3, ref("PipeTarget")),
            put(*DEFS, "Target", "discriminator", "mapping", "pipe", "#/$defs/PipeTarget"),
            put(*DEFS, "PipeTarget", tagged("kind", "pipe")),
        ),
        "things.json:#/$defs/Target",
        "Target: the object of `pipe` is new",
    ),
    "PARAM_BRANCH_ADDED: a known shape": (
        both(
            put(*DEFS, "Options", "x-shapes", 2, ref("NextOptions")),
            put(*DEFS, "NextOptions", an_object("")),
        ),
        "things.json:#/$defs/Options",
        "Options: the shape NextOptions is new",
    ),
    "PARAM_LIMIT_LOOSENED": (
        put(*DEFS, "Size", "maximum", 101),
        "things.json:#/$defs/Size",
        "Size: the maximum was 100, is 101",
    ),
    "PARAM_PATTERN_REMOVED": (
        drop(*OTHER, "Path", "pattern"),
        "other.json:#/$defs/Path",
        "Path: the pattern was `^/` of Path, is none of Path",
    ),
    "RESULT_MEMBER_ADDED": (
        put(*MADE, "properties", "later", described({**TEXT, "default": ""})),
        "things.json:#/$defs/ThingMakeResult/properties/later",
        "ThingMakeResult.later is new (optional, string)",
    ),
}

NARROWED: dict[str, Case] = {
    "first release of a method": (
        put(*METHODS, 1, "since", "0.3.0"),
        "methods.json:#/methods/1/since",
        "thing/ping: the first release was 0.2.0, is 0.3.0",
    ),
    "last release of a method": (
        put(*METHODS, 3, "until", "0.1.0"),
        "methods.json:#/methods/3/until",
        "thing/keep: the last release was 0.2.0, is 0.1.0",
    ),
    "a last release": (
        put(*METHODS, 1, "until", "0.3.0"),
        "methods.json:#/methods/1/until",
        "thing/ping: the last release was the revision's, is 0.3.0",
    ),
    "first release of a member": (
        put(*MAKE, "properties", "late", "x-since", "0.3.0"),
        "things.json:#/$defs/ThingMakeParams/properties/late/x-since",
        "ThingMakeParams.late: the first release was 0.2.0, is 0.3.0",
    ),
    "first release of a definition": (
        put(*DEFS, "OldOptions", "x-since", "0.2.0"),
        "things.json:#/$defs/OldOptions/x-since",
        "OldOptions: the first release was the revision's, is 0.2.0",
    ),
}


def report(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("case", BREAKING)
def test_a_breaking_change_is_found_at_its_place(
    case: str, schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, place, message = BREAKING[case]
    rule = case.partition(":")[0]
    schema.write("r2", edit)
    assert schema.run("breaking", "r1", "r2", "--format", "json") == 1
    found = report(capsys)
    (finding,) = (row for row in found if row["rule"] == rule and row["message"] == message)
    assert finding["severity"] == RULES[rule].severity
    assert (finding["old"], finding["new"]) == ("r1", "r2")
    side = "r1" if place.startswith("-") else "r2"
    assert f"{finding['file']}:#{finding['pointer']}" == (
        f"{schema.folder}/{side}/{place.removeprefix('-')}"
    )
    # Only the names of the definitions that an edit takes away may go along.
    assert {row["rule"] for row in found} <= {rule, "GENERATED_NAME_CHANGED"}


@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_compatible_change_breaks_nothing_and_belongs_into_the_record(
    case: str, schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, place, message = COMPATIBLE[case]
    rule = case.partition(":")[0]
    schema.write("r2", edit)
    assert schema.run("breaking", "r1", "r2", "--format", "json") == 0
    assert report(capsys) == []
    changes = compare(read_revision(schema.folder, "r1"), read_revision(schema.folder, "r2"))
    (change,) = changes
    assert (change.rule.id, change.message) == (rule, message)
    assert f"{change.file}:#{json_pointer(*change.where)}" == place

    assert schema.run("record", "r1") == 0
    schema.write("r1", edit)
    assert schema.run("breaking") == 1
    assert "the record of r1 lacks what was added" in capsys.readouterr().err
    assert schema.run("record") == 0
    assert schema.run("breaking") == 0
    schema.write("r1")
    assert schema.run("breaking") == 1, "what was recorded cannot be taken back"


@pytest.mark.parametrize("case", NARROWED)
def test_a_promise_for_fewer_releases_breaks_it_and_one_for_more_does_not(
    case: str, schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, place, message = NARROWED[case]
    schema.run("record", "r1")
    capsys.readouterr()
    schema.write("r1", edit)
    assert schema.run("breaking", "r1", "--format", "json") == 1
    (finding,) = report(capsys)
    assert (finding["rule"], finding["message"]) == ("AVAILABILITY_NARROWED", message)
    assert f"{finding['file']}:#{finding['pointer']}" == f"{schema.folder}/r1/{place}"

    (schema.folder / "released/r1.json").unlink()
    schema.run("record", "r1")
    schema.write("r1")
    assert schema.run("breaking", "--format", "json") == 1
    captured = capsys.readouterr()
    assert "the record of r1 lacks what was added" in captured.err
    wide = compare(recorded(schema.folder, "r1").revision, read_revision(schema.folder, "r1"))
    assert [change.rule.id for change in wide] == ["AVAILABILITY_WIDENED"]


def test_releases_of_two_revisions_are_not_compared(schema: Schema) -> None:
    schema.write("r2", NARROWED["first release of a method"][0])
    assert schema.run("breaking", "r1", "r2") == 0


def test_every_rule_is_proven_and_documented() -> None:
    cases = {case.partition(":")[0] for case in [*BREAKING, *COMPATIBLE]}
    elsewhere = {"AVAILABILITY_NARROWED", "AVAILABILITY_WIDENED", "REVISION_REMOVED"}
    assert cases | elsewhere == set(RULES)
    for case in COMPATIBLE:
        assert RULES[case.partition(":")[0]].severity is Severity.COMPATIBLE
    for rule in RULES.values():
        assert rule.description.endswith(".")


def test_prose_may_change(schema: Schema, capsys: pytest.CaptureFixture[str]) -> None:
    schema.run("record", "r1")
    schema.write(
        "r1",
        put(*MAKE, "description", "Another thing."),
        put(*MADE, "properties", "note", "x-absent", "It is unknown."),
        put(*METHODS, 0, "summary", "Do another thing."),
        put("errors.json", "errors", 0, "conditions", 0, "message", "never"),
    )
    assert schema.run("breaking") == 0
    assert capsys.readouterr().out.endswith("r1 as released → r1: nothing breaks\n")


def test_a_type_of_both_sides_is_judged_for_both(
    schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = put(*MADE, "properties", "state", described({"$ref": "other.json#/$defs/Mode"}))
    alone = both(shared, drop(*DEFS, "State"))
    schema.write("r1", alone)
    schema.write("r2", alone, drop(*OTHER, "Mode", "enum", 1))
    assert schema.run("breaking", "r1", "r2", "--format", "json") == 1
    rules = {row["rule"] for row in report(capsys)}
    assert rules == {"PARAM_ENUM_VALUE_REMOVED", "RESULT_ENUM_VALUE_REMOVED"}


def test_a_change_reached_by_many_paths_is_told_once(
    schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = put(*MAKE, "properties", "spare", described({**ref("Size"), "x-unit": "bytes"}))
    again = put(*MAKE, "properties", "spare", "default", 5)
    schema.write("r1", twice, again)
    schema.write("r2", twice, again, put(*DEFS, "Size", "maximum", 7))
    assert schema.run("breaking", "r1", "r2") == 1
    captured = capsys.readouterr()
    assert captured.out.count("PARAM_LIMIT_TIGHTENED") == 1
    assert captured.err == "exec-server-codegen: 1 breaking change (1 WIRE)\n"


def test_a_type_that_contains_itself_is_compared_once(
    schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    nested = put(*DEFS, "OldOptions", "properties", "more", described(ref("OldOptions")))
    absent = put(*DEFS, "OldOptions", "properties", "more", "x-absent", "There is no more.")
    schema.write("r1", nested, absent)
    schema.write("r2", nested, absent, drop(*DEFS, "OldOptions", "properties", "old"))
    assert schema.run("breaking", "r1", "r2", "--format", "json") == 1
    assert [row["message"] for row in report(capsys)] == [
        "OldOptions.old is gone (was optional, boolean)"
    ]


def test_params_that_receivers_ignore_may_change(schema: Schema) -> None:
    ignored = put(*METHODS, 3, "paramsPresence", "ignored")
    schema.write("r1", ignored)
    schema.write("r2", ignored, put(*DEFS, "ThingKeepParams", an_object("")))
    assert schema.run("breaking", "r1", "r2") == 0


@pytest.mark.parametrize(
    ("message", "side"),
    [("Request", "PARAM"), ("Response", "RESULT"), ("ErrorResponse", "RESULT")],
)
def test_the_envelope_is_compared_for_the_side_that_sends_the_message(
    schema: Schema, capsys: pytest.CaptureFixture[str], message: str, side: str
) -> None:
    def enveloped(id_type: Any) -> Callable[[Documents], object]:
        area = {"$schema": DIALECT, "title": "Envelope", "description": "Messages."}
        types = {message: an_object("id", id={**ref("Id"), "x-unit": "identifier"})}
        types["Id"] = described({"type": id_type})
        return put("jsonrpc.json", {**area, "x-envelope": True, "$defs": types})

    schema.write("r1", enveloped(["integer", "string"]))
    schema.write("r2", enveloped("integer"))
    assert schema.run("breaking", "r1", "r2", "--format", "json") == 1
    (finding,) = report(capsys)
    assert finding["rule"] == f"{side}_TYPE_NARROWED"
    assert finding["message"] == "Id: the type was integer or string, is integer"


def test_the_text_names_file_place_rule_severity_and_both_values(
    schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    schema.write("r2", put(*DEFS, "State", "enum", 2, "ajar"), renamed("FileTarget", "PathTarget"))
    assert schema.run("breaking", "r1", "r2") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{schema.folder}/r2/things.json:#/$defs/State: RESULT_ENUM_VALUE_ADDED (WIRE): "
        "State: the value `ajar` is new",
        f"{schema.folder}/r1/things.json:#/$defs/FileTarget: GENERATED_NAME_CHANGED (SOURCE): "
        "FileTarget: the name was FileTarget, is PathTarget",
    ]
    assert captured.err == "exec-server-codegen: 2 breaking changes (1 WIRE, 1 SOURCE)\n"


@pytest.mark.parametrize(
    ("ignored", "left"),
    [
        (["RESULT_ENUM_VALUE_ADDED"], ["GENERATED_NAME_CHANGED"]),
        (["SOURCE"], ["RESULT_ENUM_VALUE_ADDED"]),
        (["SOURCE", "RESULT_ENUM_VALUE_ADDED"], []),
        (["SOURCE", "WIRE"], []),
    ],
)
def test_rules_and_severities_are_ignored_on_request(
    schema: Schema, capsys: pytest.CaptureFixture[str], ignored: list[str], left: list[str]
) -> None:
    schema.write("r2", put(*DEFS, "State", "enum", 2, "ajar"), renamed("FileTarget", "PathTarget"))
    options = [word for name in ignored for word in ("--ignore", name)]
    assert schema.run("breaking", "r1", "r2", "--format", "json", *options) == bool(left)
    assert [row["rule"] for row in report(capsys)] == left


def test_a_record_never_shrinks(schema: Schema, capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.run("record", "r1") == 0
    path = schema.folder / "released/r1.json"
    before = path.read_bytes()
    schema.write("r1", BREAKING["PARAM_REMOVED"][0])
    assert schema.run("record") == 1
    captured = capsys.readouterr()
    assert "PARAM_REMOVED (WIRE): ThingMakeParams.label is gone" in captured.out
    assert captured.err.endswith("nothing written\n")
    assert path.read_bytes() == before
    assert schema.run("breaking", "--format", "json") == 1
    (finding,) = report(capsys)
    assert (finding["file"], finding["pointer"]) == (
        str(path),
        "/documents/things.json/$defs/ThingMakeParams/properties/label",
    )


def test_a_released_revision_cannot_go(schema: Schema, capsys: pytest.CaptureFixture[str]) -> None:
    schema.run("record", "r1")
    schema.write("r2")
    shutil.rmtree(schema.folder / "r1")
    capsys.readouterr()
    assert schema.run("breaking") == 1
    assert "REVISION_REMOVED (WIRE): r1 is gone\n" in capsys.readouterr().out


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Tests", "-c", "user.email=tests@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def committed(schema: Schema) -> Schema:
    """The schema as the one commit of a repository."""
    root = schema.folder.parent
    git(root, "init", "--initial-branch", "main")
    git(root, "add", "schema")
    git(root, "commit", "--message", "Add a schema")
    return schema


def test_a_revision_is_compared_with_what_it_was_at_a_commit(
    committed: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    assert committed.run("breaking", "--against", "HEAD", "r1") == 0
    assert capsys.readouterr().out == "r1 at HEAD → r1: nothing breaks\n"
    committed.write("r1", BREAKING["PARAM_REMOVED"][0])
    assert committed.run("breaking", "--against", "HEAD", "r1") == 1
    assert capsys.readouterr().out == (
        f"HEAD:{committed.folder}/r1/things.json:#/$defs/ThingMakeParams/properties/label: "
        "PARAM_REMOVED (WIRE): ThingMakeParams.label is gone (was optional, string or null)\n"
    )
    git(committed.folder, "commit", "--all", "--message", "Break it")
    assert committed.run("breaking", "--against", "main", "r1") == 0
    assert committed.run("breaking", "--against", "main~1", "r1", "--ignore", "PARAM_REMOVED") == 0


def test_without_names_the_released_revisions_are_compared_with_a_commit(
    committed: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    committed.write("r1", BREAKING["PARAM_REMOVED"][0])
    committed.write("r2")
    assert committed.run("breaking", "--against", "HEAD") == 0
    assert capsys.readouterr().err == "no revision is released; nothing to compare\n"
    assert committed.run("record", "r1", "r2") == 0
    capsys.readouterr()
    assert committed.run("breaking", "--against", "HEAD") == 1
    captured = capsys.readouterr()
    assert "PARAM_REMOVED" in captured.out
    assert "r2 is not there at HEAD; nothing to compare\n" in captured.err


def test_a_revision_that_went_since_a_commit_is_found(
    committed: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    committed.write("r2")
    shutil.rmtree(committed.folder / "r1")
    assert committed.run("breaking", "--against", "HEAD", "r1") == 1
    assert capsys.readouterr().out == (
        f"HEAD:{committed.folder}/r1/methods.json:#: REVISION_REMOVED (WIRE): r1 is gone\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "HEAD:{folder}/r1/methods.json: not JSON"),
        ("{}", "r1 at HEAD: not of the form that this version compares"),
    ],
)
def test_a_commit_of_another_form_is_named(
    committed: Schema, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (committed.folder / "r1/methods.json").write_text(content, encoding="utf-8")
    git(committed.folder, "commit", "--all", "--message", "Break the form")
    committed.write("r1")
    assert committed.run("breaking", "--against", "HEAD", "r1") == 1
    expected = message.format(folder=committed.folder)
    assert capsys.readouterr().err.startswith(f"exec-server-codegen: {expected}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r1", "r7"], "unknown revision: r7 (known: r1)"),
        (["r1"], "revision r1 is not released: no {folder}/released/r1.json (released: none)"),
        (["r1", "r1", "r1"], "give two revisions to compare, or --against"),
        (["r1", "r1", "--ignore", "METHOD_ADED"], "unknown rule: METHOD_ADED"),
        (["r1", "r1", "--ignore", "COMPATIBLE"], "unknown rule: COMPATIBLE"),
        (["--against", "v9", "r1"], "no such commit: v9 "),
        (["--against", "--all", "r1"], "argument --against: expected one argument"),
        (["--against", "HEAD", "r7"], "unknown revision: r7 (known: r1)"),
    ],
)
def test_a_wrong_command_line_ends_with_one_message_and_code_2(
    committed: Schema, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        code = committed.run("breaking", *arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message.format(folder=committed.folder) in captured.err.splitlines()[-1]


def test_a_folder_without_history_is_named(
    schema: Schema, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(schema.folder.parent.parent))
    assert schema.run("breaking", "--against", "HEAD", "r1") == 2
    assert "--against needs a git repository" in capsys.readouterr().err


def test_nothing_to_record_is_a_usage_error(
    schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schema.run("record") == 2
    assert "no revision is released; name the one to release" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"documents": {"methods.json": {}}}'])
def test_a_broken_record_is_named(
    schema: Schema, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    schema.run("record", "r1")
    path = schema.folder / "released/r1.json"
    path.write_text(content, encoding="utf-8")
    capsys.readouterr()
    assert schema.run("breaking") == 1
    assert capsys.readouterr().err.startswith(f"exec-server-codegen: {path}: ")


def test_a_schema_that_breaks_a_rule_of_its_own_is_not_compared(
    schema: Schema, capsys: pytest.CaptureFixture[str]
) -> None:
    schema.write("r2", drop(*MAKE, "description"))
    assert schema.run("breaking", "r1", "r2") == 1
    assert "missing-description" in capsys.readouterr().err


def test_the_released_revisions_of_the_repository_keep_their_promise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = ROOT / "schema"
    assert {"v0", "v1"} <= {path.stem for path in (folder / "released").glob("*.json")}
    assert main(["breaking", "--schema", str(folder)]) == 0, capsys.readouterr()
