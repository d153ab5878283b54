"""The contract of a revision, as the suite holds messages against it: its bundled schema.

A server that speaks several revisions at once cannot always know which one a client means, so it
may answer with members that another of its revisions describes for the same type. A contract made
for such a server allows those members, typed as the other revision has them.
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
from exec_server_conformance.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = Any

REVISIONS = exec_server_protocol.REVISIONS
"""The revisions that the suite has a contract for, oldest first."""


def bundle(revision: str) -> dict[str, Any]:
    """The bundled schema of a revision, with its method table below ``x-methods``."""
    path = Path(exec_server_protocol.__file__).with_name(revision) / "schema.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


_ANNOTATIONS: Final = ("description", "x-unit")
"""Keywords that forbid nothing; there is a cost to look at each."""


def _pattern(
    _: jsonschema.Draft202012Validator, pattern: str, value: Json, schema: Json
) -> Iterator[jsonschema.exceptions.ValidationError]:
    """The keyword of that name, whose ``$`` is the end, where Python's may be before a line feed.

    Base64, of which there may be megabytes, is known by decoding it, ten times as fast.
    """
    if not isinstance(value, str):
        return
    if schema.get("contentEncoding") == "base64" and _is_base64(value):
        return
    expression = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
    if re.search(expression, value) is None:
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _is_base64(value: str) -> bool:
    """Whether it is what some bytes are in base64, to the last bit."""
    try:
        return base64.b64encode(base64.b64decode(value)).decode("ascii") == value
    except ValueError:
        return False


_Validator: Final = extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"pattern": _pattern}
)


class Contract:
    """What messages of a revision look like."""

    def __init__(self, revision: str, others: tuple[str, ...] = ()) -> None:
        own = bundle(revision)
        self.methods: dict[str, dict[str, Any]] = own["x-methods"]
        self._definitions: dict[str, Json] = own["$defs"]
        for other in reversed(others):  # the newest knows most of what a member may hold
            self._allow_members_of(other)
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

    def check(self, pointer: str, message: Json, what: str) -> None:
        """Raise Failure unless a message validates against a definition."""
        self._refuse(self._errors(pointer, message), what)

    def check_part(self, pointer: str, message: Json, what: str) -> None:
        """Raise Failure unless what there is of a message may be part of one that validates."""
        errors = self._errors(pointer, message)
        self._refuse((error for error in errors if not _is_about_absence(error)), what)

    def described(self, pointer: str, message: Json) -> Json:
        """A message without the members that no definition describes."""
        message = deepcopy(message)
        for error in list(self._errors(pointer, message)):
            if error.validator == "additionalProperties":
                assert isinstance(error.instance, dict)
                assert isinstance(error.schema, dict)
                for name in error.instance.keys() - error.schema.get("properties", {}).keys():
                    del error.instance[name]
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
        """A piece of schema with definitions in place of the references to them.

        Validation takes two thirds of the time so. What contains itself, a definition that is one
        of those ``above``, stays a reference.
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

    def _refuse(self, errors: Iterator[jsonschema.exceptions.ValidationError], what: str) -> None:
        error = jsonschema.exceptions.best_match(errors)
        if error is not None:
            raise Failure(f"{what} violates the schema at {error.json_path}: {error.message[:300]}")


def _is_about_absence(error: jsonschema.exceptions.ValidationError) -> bool:
    """Whether an error would go away with members that are not there."""
    if error.validator not in ("anyOf", "oneOf"):
        return error.validator == "required"
    branches: dict[Any, list[bool]] = {}
    for one in error.context or ():
        branches.setdefault(one.relative_schema_path[0], []).append(_is_about_absence(one))
    return any(all(branch) for branch in branches.values())


@cache
def contract(revision: str, others: tuple[str, ...] = ()) -> Contract:
    """The contract of a revision, for a server that speaks the others as well."""
    return Contract(revision, others)


def _with_references_to(revision: str, value: Json) -> Json:
    """A piece of schema with its references led to the definitions of a revision."""
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
