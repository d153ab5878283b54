"""Shapes of definitions in a notation short enough for tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exec_server_codegen.schema import Definition


def members(definition: Definition) -> str:
    """The members in their order on the wire: ``!`` required, ``?`` may be null."""
    return " ".join(
        name
        + ("!" if name in definition.required else "")
        + ("?" if {"type": "null"} in schema.get("anyOf", []) else "")
        for name, schema in definition.properties.items()
    )
