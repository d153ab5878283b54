"""JSON documents: reading them, places inside them, and the references of schemas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from exec_server_codegen.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JsonObject: TypeAlias = dict[str, Any]

Where: TypeAlias = tuple[str | int, ...]
"""Path inside a document."""


def read_json(path: Path) -> JsonObject:
    """Read one schema file, which must hold an object."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise SchemaError(f"{path}: the file is missing") from None
    except OSError as error:
        raise SchemaError(f"{path}: {error.strerror}") from None
    return parse_json(content, str(path))


def parse_json(content: bytes, source: str) -> JsonObject:
    """Parse a JSON object from UTF-8 text; ``source`` names it in errors."""
    try:
        document = json.loads(content.decode())
    except ValueError as error:
        raise SchemaError(f"{source}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise SchemaError(f"{source}: expected an object")
    return document


def json_pointer(*parts: str | int) -> str:
    """Return the JSON pointer of a place in a document."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def references(schema: object) -> Iterator[str]:
    """Yield every ``$ref`` in a schema, known shapes of free-form objects included."""
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def relinked(schema: Any, lead: Callable[[str], str]) -> Any:
    """Return the schema with ``lead`` applied to its references, those of unions included."""
    if isinstance(schema, list):
        return [relinked(item, lead) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result: JsonObject = {}
    for keyword, value in schema.items():
        if keyword == "$ref":
            result[keyword] = lead(value)
        elif keyword == "discriminator" and "mapping" in value:
            mapping = {tag: lead(target) for tag, target in value["mapping"].items()}
            result[keyword] = {**value, "mapping": mapping}
        else:
            result[keyword] = relinked(value, lead)
    return result
