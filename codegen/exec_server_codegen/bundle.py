"""One JSON Schema for a whole revision: every definition, and every message by method.

Entry points, all below ``#/$defs``:

* the definitions of the areas under their own names (``ProcessStartParams``, ``Response`` …);
* per method its message: ``ProcessStartRequest`` and ``ProcessStartResponse``, or
  ``ProcessOutputNotification``;
* ``ClientMessage`` and ``ServerMessage``: anything that one side may send.

``x-methods`` maps each method to its entry points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen.errors import SchemaError
from exec_server_codegen.json_documents import relinked

if TYPE_CHECKING:
    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Method, Revision

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
DEFINITIONS: Final = "#/$defs/"


def bundled_schema(revision: Revision, comment: str) -> JsonObject:
    """Return the bundled schema of a revision; ``comment`` names its source."""
    definitions = flat_definitions(revision, DEFINITIONS)
    entry_points = {}
    for method in revision.methods:
        messages = _messages(method)
        entry_points[method.name] = {
            "direction": method.direction,
            "params": DEFINITIONS + method.params.name,
            **({"result": DEFINITIONS + method.result.name} if method.result else {}),
            **{kind: DEFINITIONS + name for kind, (name, _) in messages.items()},
        }
        _add(definitions, dict(messages.values()))
    _add(definitions, _unions(revision))
    return {
        "$schema": DIALECT,
        "$id": f"urn:exec-server-protocol:{revision.name}",
        "$comment": comment,
        "title": revision.title,
        "description": revision.description,
        "anyOf": [_ref("ClientMessage"), _ref("ServerMessage")],
        "x-methods": entry_points,
        "$defs": definitions,
    }


def flat_definitions(revision: Revision, prefix: str) -> JsonObject:
    """Return every definition by name, with references that start with ``prefix``."""
    return {
        name: rebased(definition.schema, prefix)
        for name, definition in revision.definitions.items()
    }


def rebased(schema: Any, prefix: str) -> Any:
    """Return the schema with its references moved to ``prefix``."""
    return relinked(schema, lambda reference: prefix + reference.rsplit("/", 1)[-1])


def _ref(name: str) -> JsonObject:
    return {"$ref": DEFINITIONS + name}


def _add(definitions: JsonObject, more: JsonObject) -> None:
    for name, schema in more.items():
        if name in definitions:
            raise SchemaError(f"the definition {name} has the name of a generated message")
        definitions[name] = schema


def _messages(method: Method) -> dict[str, tuple[str, JsonObject]]:
    """Return the messages of a method: name and schema by kind."""
    members: JsonObject = {
        "method": {"description": "Name of the method.", "const": method.name},
        "params": _params(method),
    }
    required = ["method", *(["params"] if method.params_presence == "required" else [])]
    if method.kind == "notification":
        notification = {
            "description": f"The notification {method.name}.",
            "type": "object",
            "properties": members,
            "required": required,
            "additionalProperties": True,
        }
        return {"notification": (f"{method.stem}Notification", notification)}
    request = {
        "description": f"The request {method.name}.",
        "type": "object",
        "properties": {
            "id": _ref("RequestId"),
            **members,
            "trace": {"anyOf": [_ref("TraceContext"), {"type": "null"}]},
        },
        "required": ["id", *required],
        "additionalProperties": True,
    }
    assert method.result is not None
    response = {
        "description": f"The answer to a {method.name} that succeeded.",
        "type": "object",
        "properties": {"id": _ref("RequestId"), "result": _ref(method.result.name)},
        "required": ["id", "result"],
        "additionalProperties": True,
    }
    return {
        "request": (f"{method.stem}Request", request),
        "response": (f"{method.stem}Response", response),
    }


def _params(method: Method) -> JsonObject:
    if method.params_presence == "ignored":
        return {"description": f"Ignored; senders write {method.params.name}."}
    if method.params_presence == "optional":
        return {"anyOf": [_ref(method.params.name), {"type": "null"}]}
    return _ref(method.params.name)


def _unions(revision: Revision) -> JsonObject:
    """Return the unions of the messages that each side sends."""
    unions: JsonObject = {}
    for side, direction in (("Client", "clientToServer"), ("Server", "serverToClient")):
        asked = any(
            method.kind == "request" and method.direction != direction
            for method in revision.methods
        )
        branches = [_ref("ErrorResponse")] if asked else []
        for method in revision.methods:
            for kind, (name, _) in _messages(method).items():
                answer = kind == "response"
                if (method.direction == direction) != answer:
                    branches.append(_ref(name))
        unions[f"{side}Message"] = {
            "description": f"Anything that a {side.lower()} may send.",
            "anyOf": branches,
        }
    return unions
