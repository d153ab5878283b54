"""Validation of messages against the bundled schema of a revision.

The protocol is open: receivers ignore unknown members. Known members are validated strictly, and
unknown members and enumeration values are returned as additions.

A server that supports several revisions may answer with members that another of its revisions
defines for the same type. A contract for such a server allows those members, with the types of the
other revision.
"""

from __future__ import annotations

import base64
import json
import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jsonschema
from jsonschema.validators import extend

import exec_server_protocol
from exec_server_conformance.errors import SchemaViolation
from exec_server_conformance.runner.findings import Addition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server_conformance.runner.results import DriftKind

Json = Any

REVISIONS = exec_server_protocol.REVISIONS
"""Revisions with a schema, oldest first."""


def bundle(revision: str) -> dict[str, Any]:
    """Return the bundled schema of a revision; ``x-methods`` contains its method table."""
    path = Path(exec_server_protocol.__file__).with_name(revision) / "schema.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


_ANNOTATIONS: Final = ("description", "x-unit")
"""Keywords without effect on validation; each costs time."""


def _pattern(
    _: jsonschema.Draft202012Validator, pattern: str, value: Json, schema: Json
) -> Iterator[jsonschema.exceptions.ValidationError]:
    """Validate ``pattern``; its ``$`` is the end of the string, unlike in Python.

    Base64 is validated by decoding, which is ten times as fast for large data.
    """
    if not isinstance(value, str):
        return
    if schema.get("contentEncoding") == "base64" and _is_base64(value):
        return
    expression = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
    if re.search(expression, value) is None:
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _is_base64(value: str) -> bool:
    """Return True for canonical base64."""
    try:
        return base64.b64encode(base64.b64decode(value)).decode("ascii") == value
    except ValueError:
        return False


_Validator: Final = extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"pattern": _pattern}
)


class Contract:
    """Schema of the messages of a revision."""

    def __init__(self, revision: str, others: tuple[str, ...] = ()) -> None:
        own = bundle(revision)
        self.methods: dict[str, dict[str, Any]] = own["x-methods"]
        self._definitions: dict[str, Json] = own["$defs"]
        for other in reversed(others):  # the newest revision has the most complete types
            self._allow_members_of(other)
        self._definitions = {name: _closed(one) for name, one in self._definitions.items()}
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}

    def _allow_members_of(self, revision: str) -> None:
        definitions = {
            name: _with_references_to(revision, definition)
            for name, definition in bundle(revision)["$defs"].items()
        }
        for name, definition in definitions.items():
            own = self._definitions.get(name)
            if own is not None and "properties" in own and "properties" in definition:
                own["properties"] = definition["properties"] | own["properties"]
        self._definitions |= {
            f"{revision}.{name}": definition for name, definition in definitions.items()
        }

    def check(self, pointer: str, message: Json, what: str, name: str = "") -> list[Addition]:
        """Validate a message against a definition and return its additions.

        Raises SchemaViolation, whose place begins with ``name``.
        """
        additions: list[Addition] = []
        violations = []
        for error in self._errors(pointer, message):
            found = _additions(error)
            if found is None:
                violations.append(error)
            else:
                additions += found
        self._refuse(violations, what, name)
        return additions

    def check_part(self, pointer: str, message: Json, what: str) -> None:
        """Raise SchemaViolation unless the message can be completed to a valid one."""
        errors = self._errors(pointer, message)
        self._refuse([error for error in errors if not _is_about_absence(error)], what)

    def described(self, pointer: str, message: Json) -> Json:
        """Return a message without unknown members."""
        message = deepcopy(message)
        for error in list(self._errors(pointer, message)):
            for addition in _additions(error) or ():
                if addition.kind != "enum-value":
                    parent = message
                    for part in addition.path[:-1]:
                        parent = parent[part]
                    parent.pop(addition.path[-1], None)
        return message

    def _errors(
        self, pointer: str, message: Json
    ) -> Iterator[jsonschema.exceptions.ValidationError]:
        if pointer not in self._validators:
            self._validators[pointer] = _Validator(
                {"$defs": self._definitions, "allOf": [self._in_place({"$ref": pointer})]}
            )
        return self._validators[pointer].iter_errors(message)

    def _in_place(self, schema: Json, *above: str) -> Json:
        """Return a schema with references replaced by the definitions.

        This saves a third of the validation time. Recursive definitions, those in ``above``, remain
        references.
        """
        if isinstance(schema, list):
            return [self._in_place(one, *above) for one in schema]
        if not isinstance(schema, dict):
            return schema
        kept = {
            name: self._in_place(one, *above)
            for name, one in schema.items()
            if name not in _ANNOTATIONS or not isinstance(one, str)
        }
        reference = schema.get("$ref")
        if not isinstance(reference, str) or reference in above:
            return kept
        del kept["$ref"]
        kept.pop("default", None)
        definition = self._definitions[reference.removeprefix("#/$defs/")]
        definition = self._in_place(definition, *above, reference)
        return {"allOf": [definition], **kept} if kept else definition

    def _refuse(
        self, errors: list[jsonschema.exceptions.ValidationError], what: str, name: str = ""
    ) -> None:
        error = jsonschema.exceptions.best_match(errors)
        if error is not None:
            text = f"{what} violates the schema at {error.json_path}: {error.message[:300]}"
            raise SchemaViolation(text, name + error.json_path.removeprefix("$"))


def _additions(error: jsonschema.exceptions.ValidationError) -> list[Addition] | None:
    """Return the unknown parts that cause an error; None if the error has another cause."""
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        assert isinstance(error.instance, dict)
        assert isinstance(error.schema, dict)
        unknown = error.instance.keys() - error.schema.get("properties", {}).keys()
        kind: DriftKind = "flag" if path[-1:] == ("capabilities",) else "member"
        return [Addition(kind, (*path, name), error.instance[name]) for name in sorted(unknown)]
    if error.validator == "enum" and isinstance(error.schema, dict):
        is_open = error.schema.get("x-open-enum") is True and isinstance(error.instance, str)
        return [Addition("enum-value", path, error.instance)] if is_open else None
    if error.validator not in ("anyOf", "oneOf"):
        return None
    branches: dict[Any, list[list[Addition] | None]] = {}
    for one in error.context or ():
        branches.setdefault(one.relative_schema_path[0], []).append(_additions(one))
    open_branches = [
        [addition for found in branch if found is not None for addition in found]
        for branch in branches.values()
        if None not in branch
    ]
    return min(open_branches, key=len, default=None)


def _closed(schema: Json) -> Json:
    """Return a schema that is closed to unknown members, so that validation finds them."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) or schema.get("maxProperties") == 0:
        closed["additionalProperties"] = False
        closed.pop("maxProperties", None)
    return closed


def _is_about_absence(error: jsonschema.exceptions.ValidationError) -> bool:
    """Return True if the error is caused by missing members."""
    if error.validator not in ("anyOf", "oneOf"):
        return error.validator == "required"
    branches: dict[Any, list[bool]] = {}
    for one in error.context or ():
        branches.setdefault(one.relative_schema_path[0], []).append(_is_about_absence(one))
    return any(all(branch) for branch in branches.values())


@cache
def contract(revision: str, others: tuple[str, ...] = ()) -> Contract:
    """Return the contract of a revision for a server that also supports ``others``."""
    return Contract(revision, others)


def _with_references_to(revision: str, value: Json) -> Json:
    """Return a schema whose references point to the definitions of a revision."""
    if isinstance(value, dict):
        return {
            name: one.replace("#/$defs/", f"#/$defs/{revision}.")
            if name == "$ref" and isinstance(one, str)
            else _with_references_to(revision, one)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_with_references_to(revision, one) for one in value]
    return value
