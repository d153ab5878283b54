"""Types of a contract as the comparison sees them: their JSON types, their form, their text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen.reference import type_text

if TYPE_CHECKING:
    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Definition, Revision


_ANYTHING: Final = frozenset({"array", "boolean", "integer", "null", "object", "string"})


@dataclass(frozen=True, slots=True)
class Type:
    """Type of a member, list item or map value, with its reference resolved."""

    name: str | None
    """Name of the definition; None for a type without one."""

    schema: JsonObject
    """The type, or its definition, without the null that may stand beside it."""

    is_nullable: bool
    words: str

    @property
    def kinds(self) -> frozenset[str]:
        """JSON types of the values."""
        return kinds_of(self.schema) | ({"null"} if self.is_nullable else set())

    @property
    def is_object(self) -> bool:
        """True for a named object or union of objects."""
        return self.name is not None and kinds_of(self.schema) == {"object"}


def read_type(revision: Revision, schema: JsonObject) -> Type:
    """Return the type of a member, list item or map value."""
    inner = schema["anyOf"][0] if "anyOf" in schema else schema
    name = inner["$ref"].rsplit("/", 1)[-1] if "$ref" in inner else None
    resolved = revision.resolve(inner["$ref"]).schema if name else inner
    return Type(name, resolved, "anyOf" in schema, type_words(schema))


def kinds_of(schema: JsonObject) -> frozenset[str]:
    """Return the JSON types of a schema's values."""
    if "oneOf" in schema:
        return frozenset({"object"})
    if "const" in schema:
        return frozenset({"string"})
    kinds = schema.get("type", _ANYTHING)
    return frozenset({kinds} if isinstance(kinds, str) else kinds)


def is_described(schema: JsonObject) -> bool:
    """Return True if a schema restricts its values."""
    return not schema.keys().isdisjoint({"type", "const", "oneOf"})


def form_of(schema: JsonObject) -> str:
    """Return the form of a type: ``union``, ``members``, ``map`` or ``scalar``."""
    if "oneOf" in schema:
        return "union"
    if schema.get("type") != "object":
        return "scalar"
    return "map" if isinstance(schema["additionalProperties"], dict) else "members"


def has_no_members(definition: Definition) -> bool:
    """Return True if the models reject every member; otherwise unknown ones are ignored."""
    return definition.schema.get("maxProperties") == 0


def choices_of(schema: JsonObject) -> list[str] | None:
    choices: list[str] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return choices


def type_words(schema: JsonObject) -> str:
    """Return the description of a type."""
    if "anyOf" in schema:
        return f"{type_words(schema['anyOf'][0])} or null"
    choices = choices_of(schema)
    if choices is not None:
        return "one of " + ", ".join(f"`{value}`" for value in choices)
    if form_of(schema) in ("union", "members"):
        return form_of(schema).replace("members", "object")
    kind: Any = schema.get("type")
    return " or ".join(kind) if isinstance(kind, list) else type_text(schema, str)


def pattern_text(type_: Type) -> str:
    pattern = f"`{type_.schema['pattern']}`" if "pattern" in type_.schema else "none"
    return f"{pattern} of {type_.name}" if type_.name else pattern
