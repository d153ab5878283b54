"""Valid and invalid values of every type, made from the bundled schema of a revision.

``valid`` is a hypothesis strategy for the values of a definition. ``invalid`` spoils a valid object
in every way that its schema tells: a member missing, of a wrong type, out of its bounds, null.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Iterator

JsonObject = dict[str, Any]

WRONG: Final[tuple[Any, ...]] = (None, True, 7, 1.5, "text", [], [7], {}, {"a": 1})
"""A value of each JSON type, and a list and an object that hold something."""


def load(revision: str, name: str) -> JsonObject:
    """A JSON document of a revision's package."""
    file = importlib.resources.files(f"exec_server_protocol.{revision}").joinpath(name)
    document: JsonObject = json.loads(file.read_text(encoding="utf-8"))
    return document


_NATIVE: Final = "^/"
_URI: Final = "^ *[A-Za-z][A-Za-z0-9+.-]*:"
_UUID: Final = r"^[0-9A-Fa-f]{8}(-?)(?:[0-9A-Fa-f]{4}\1){3}[0-9A-Fa-f]{12}$"

_MISFITS: Final[dict[str, list[Any]]] = {
    _NATIVE: ["", ".", "~", "a/b", "file:///a"],
    _URI: ["", ".", "~", "a/b", "/a", "//a:b", "file/a", "1:a"],
    _UUID: ["", "x", "0199a213-81c0-7800-8aa1-bbab2a035a5"],
}
"""Strings that do not fit a pattern."""


class Payloads:
    """Values of the types of one revision."""

    def __init__(self, revision: str) -> None:
        self.schema = load(revision, "schema.json")
        self.definitions: JsonObject = self.schema["$defs"]
        self._validators: dict[str, Draft202012Validator] = {}
        self._receiver: JsonObject | None = None

    def validator(self, name: str) -> Draft202012Validator:
        """The validator of one definition of the bundled schema."""
        if name not in self._validators:
            root = {**self.schema, "$ref": f"#/$defs/{name}"}
            del root["anyOf"]
            self._validators[name] = Draft202012Validator(root)
        return self._validators[name]

    def receives(self, name: str, value: Any) -> bool:
        """Return True if a value is valid for a receiver, which ignores unknown members."""
        if self._receiver is None:
            self._receiver = _opened(self.schema)
        root = {**self._receiver, "$ref": f"#/$defs/{name}"}
        del root["anyOf"]
        return Draft202012Validator(root).is_valid(value)

    def resolved(self, schema: JsonObject) -> JsonObject:
        """The schema itself, or what its reference leads to."""
        while "$ref" in schema:
            schema = self.definitions[schema["$ref"].rsplit("/", 1)[-1]]
        return schema

    def valid(self, name: str) -> st.SearchStrategy[Any]:
        """Values of a definition."""
        return self._values({"$ref": f"#/$defs/{name}"})

    def _values(self, schema: JsonObject) -> st.SearchStrategy[Any]:
        schema = self.resolved(schema)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return st.one_of([self._values(branch) for branch in schema[keyword]])
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        match schema.get("type"):
            case "null":
                return st.none()
            case "boolean":
                return st.booleans()
            case "integer":
                return _integers(schema["minimum"], schema["maximum"])
            case "string":
                return _strings(schema)
            case "array":
                return st.lists(self._values(schema["items"]), max_size=3)
            case "object":
                return self._objects(schema)
        return st.one_of(st.none(), st.text(max_size=5))

    def _objects(self, schema: JsonObject) -> st.SearchStrategy[Any]:
        if isinstance(schema["additionalProperties"], dict):
            values = self._values(schema["additionalProperties"])
            return st.dictionaries(st.text(max_size=5), values, max_size=3)
        members = (
            {name: self._values(member) for name, member in schema["properties"].items()}
            if ("properties" in schema)
            else {}
        )
        required = set(schema.get("required", []))
        return st.fixed_dictionaries(
            {name: values for name, values in members.items() if name in required},
            optional={name: values for name, values in members.items() if name not in required},
        )

    def invalid(self, name: str, value: JsonObject) -> Iterator[tuple[str, Any]]:
        """Yield invalid variants of a valid object of a definition, each with its fault."""
        schema = self.definitions[name]
        for wrong in WRONG:
            if not isinstance(wrong, dict):
                yield f"{name} is {wrong!r}", wrong
        for member in schema.get("required", []):
            yield (
                f"{member} is missing",
                {key: item for key, item in value.items() if key != member},
            )
        for member, member_schema in schema.get("properties", {}).items():
            for wrong in (*WRONG, *self._beyond(member_schema)):
                spoiled = {**value, member: wrong}
                if not self.receives(name, spoiled):
                    yield f"{member} is {wrong!r}", spoiled

    def _beyond(self, schema: JsonObject) -> list[Any]:
        """Values just out of the bounds of a member."""
        beyond: list[Any] = []
        for branch in schema.get("anyOf", [schema]):
            resolved = self.resolved(branch)
            if "minimum" in resolved:
                beyond += [resolved["minimum"] - 1, resolved["maximum"] + 1, 2**200]
            if resolved.get("format") == "byte":
                beyond += ["a", "aGk", "aGk==", "!!!!", "a G k =", "aGk=\n"]
            beyond += _MISFITS.get(resolved.get("pattern", ""), [])
            if "enum" in resolved:
                beyond += ["", resolved["enum"][0].upper(), resolved["enum"][0] + " "]
        return beyond


def _opened(schema: Any) -> Any:
    """The schema with closed objects opened, but for those that may hold nothing."""
    if isinstance(schema, list):
        return [_opened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {keyword: _opened(value) for keyword, value in schema.items()}
    if opened.get("additionalProperties") is False:
        opened["additionalProperties"] = True
    return opened


def holds(whole: Any, part: Any) -> bool:
    """Return True if ``whole`` is ``part``, with or without more members in its objects."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and holds(whole[name], item) for name, item in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return type(whole) is type(part) and whole == part


def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    edges = st.sampled_from(sorted({low, high, max(0, low), min(2**63, high)}))
    return st.one_of(edges, st.integers(low, high))


def _strings(schema: JsonObject) -> st.SearchStrategy[str]:
    if schema.get("format") == "byte":
        return st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode())
    if schema.get("pattern") == _NATIVE:
        return st.text(max_size=8).map("/".__add__)
    if schema.get("pattern") == _URI:
        return st.text(max_size=8).map("file:///".__add__)
    if schema.get("pattern") == _UUID:
        return st.uuids().map(str)
    return st.text(max_size=8)
