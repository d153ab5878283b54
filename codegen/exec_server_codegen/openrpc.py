"""The OpenRPC document of a revision, for other tools.

OpenRPC knows no direction: methods that the server sends carry ``x-direction: serverToClient``.
A method without a result is a notification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen.bundle import flat_definitions, rebased

if TYPE_CHECKING:
    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Method, Revision

OPENRPC_VERSION: Final = "1.3.2"
"""Version of the OpenRPC specification."""

_SCHEMAS: Final = "#/components/schemas/"
_ERRORS: Final = "#/components/errors/"


def openrpc_document(revision: Revision, comment: str) -> JsonObject:
    """Return the OpenRPC document of a revision; ``comment`` names its source."""
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": revision.title,
            "description": revision.description,
            "version": revision.releases[-1] if revision.releases else revision.name,
        },
        "x-comment": comment,
        "methods": [_method(revision, method) for method in revision.methods],
        "components": {
            "schemas": {
                name: schema
                for name, schema in flat_definitions(revision, _SCHEMAS).items()
                if not revision.definitions[name].area.is_envelope
            },
            "errors": {
                error.name: {"code": error.code, "message": error.description}
                for error in revision.errors
            },
        },
    }


def _method(revision: Revision, method: Method) -> JsonObject:
    row: JsonObject = {
        "name": method.name,
        "summary": method.summary,
        "description": method.description,
        "tags": [{"name": method.family}],
        "paramStructure": "by-name",
        "params": [
            {
                "name": name,
                "description": schema["description"],
                "required": name in method.params.required,
                "schema": rebased(schema, _SCHEMAS),
            }
            for name, schema in method.params.properties.items()
        ],
    }
    if method.result:
        row["result"] = {
            "name": method.result.name,
            "description": method.result.description,
            "schema": {"$ref": _SCHEMAS + method.result.name},
        }
    errors = revision.method_errors(method)
    if errors:
        row["errors"] = [{"$ref": _ERRORS + name} for name in errors]
    examples = [_example(method, example) for example in method.examples if "error" not in example]
    if examples:
        row["examples"] = examples
    row["x-direction"] = method.direction
    if method.since:
        row["x-since"] = method.since
    if method.until:
        row["x-until"] = method.until
    return row


def _example(method: Method, example: JsonObject) -> JsonObject:
    params: dict[str, Any] = example["params"] or {}
    pairing: JsonObject = {
        "name": example["summary"],
        "params": [{"name": name, "value": value} for name, value in params.items()],
    }
    if method.result:
        pairing["result"] = {"name": method.result.name, "value": example["result"]}
    return pairing
