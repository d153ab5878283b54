"""Findings of the linter, and the base of its rules about a whole revision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from exec_server_codegen.bundle import DEFINITIONS, DIALECT, flat_definitions, rebased
from exec_server_codegen.json_documents import json_pointer, references

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.schema import Revision


@dataclass(frozen=True, order=True, slots=True)
class Finding:
    """A place in a schema file that breaks a rule."""

    file: str
    pointer: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:#{self.pointer}: {self.rule}: {self.message}"


class RevisionRules:
    """Base of the rules that look at a whole revision."""

    def __init__(self, schema: Path, revision: Revision) -> None:
        self._schema = schema
        self._revision = revision
        self._definitions = flat_definitions(revision, DEFINITIONS)
        self._errors = {error.name: error for error in revision.errors}

    def _at(self, file: str, rule: str, message: str, *where: str | int) -> Finding:
        revision, there = self._revision.place(file, where)
        return Finding(str(self._schema / revision / file), json_pointer(*there), rule, message)

    def _reached(self, names: list[str]) -> set[str]:
        reached: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in reached:
                reached.add(name)
                schema = self._revision.definitions[name].schema
                todo += [reference.rsplit("/", 1)[-1] for reference in references(schema)]
        return reached

    def _branches(self, schema: JsonObject) -> Iterator[JsonObject]:
        for branch in schema.get("anyOf", [schema]):
            if "$ref" in branch:
                yield self._revision.resolve(branch["$ref"]).schema
            else:
                yield branch

    def _validator(self, schema: JsonObject) -> Draft202012Validator:
        return Draft202012Validator(
            {
                "$schema": DIALECT,
                **rebased(schema, DEFINITIONS),
                "$defs": self._definitions,
            }
        )


def nodes(value: Any, *where: str | int) -> Iterator[tuple[tuple[str | int, ...], JsonObject]]:
    """Yield every object of a document with its place, except in examples."""
    if isinstance(value, dict):
        yield where, value
        for name, item in value.items():
            if name != "examples":
                yield from nodes(item, *where, name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nodes(item, *where, index)
