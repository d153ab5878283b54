"""Lint rules about definitions: names, references, members and unions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen.lint_base import RevisionRules, nodes
from exec_server_codegen.models import INT64_MAX
from exec_server_codegen.schema_files import METHODS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.lint_base import Finding
    from exec_server_codegen.schema import Area, Definition


_ENVELOPE_ROOTS: Final = ("Request", "Notification", "Response", "ErrorResponse")
"""Definitions of the envelope that stand for whole messages."""


class DefinitionRules(RevisionRules):
    """Rules about the definitions of a revision."""

    def names(self) -> Iterator[Finding]:
        """Check the names of definitions across the files."""
        seen: dict[str, Area] = {}
        for area in self._revision.areas:
            for name in area.definitions:
                if name in seen:
                    message = f"{name} is already defined in {seen[name].file}"
                    yield self._at(area.file, "duplicate-definition", message, "$defs", name)
                seen.setdefault(name, area)
        for name, area in seen.items():
            stem = name.rstrip("0123456789")
            if stem != name and (stem in seen or stem == "Inline"):
                message = f"{name} is {stem} with a number; use a distinctive name"
                yield self._at(area.file, "numbered-definition", message, "$defs", name)
        if self._revision.methods_document["revision"] != self._revision.name:
            message = f"expected the name of the folder, {self._revision.name}"
            yield self._at(METHODS_FILE, "revision-name", message, "revision")

    def dangling_references(self) -> Iterator[Finding]:
        """Check that references resolve."""
        for area in self._revision.areas:
            for where, reference in _placed_references(area.document):
                if not self._leads_somewhere(reference, area.file):
                    yield self._at(
                        area.file, "unknown-reference", f"{reference} does not resolve", *where
                    )
        for where, reference in _placed_references(self._revision.methods_document["methods"]):
            if not self._leads_somewhere(reference, METHODS_FILE):
                message = f"{reference} does not resolve"
                yield self._at(METHODS_FILE, "unknown-reference", message, "methods", *where)

    def _leads_somewhere(self, reference: str, here: str) -> bool:
        file, _, pointer = reference.partition("#")
        found = re.fullmatch(r"/\$defs/(\w+)", pointer)
        if not found or found[1] not in self._revision.definitions:
            return False
        return self._revision.definitions[found[1]].area.file == (file or here)

    def patterns(self) -> Iterator[Finding]:
        """Check that patterns are regular expressions."""
        for name, definition in self._revision.definitions.items():
            try:
                re.compile(definition.schema.get("pattern", ""))
            except re.error as error:
                where = ("$defs", name, "pattern")
                yield self._at(definition.area.file, "invalid-pattern", str(error), *where)

    def reachability(self) -> Iterator[Finding]:
        """Check that every definition is used by a message."""
        definitions = self._revision.definitions
        todo = [method.params.name for method in self._revision.methods]
        todo += [method.result.name for method in self._revision.methods if method.result]
        todo += [name for name in _ENVELOPE_ROOTS if name in definitions]
        reached = self._reached(todo)
        for name, definition in definitions.items():
            if name not in reached:
                message = f"no message uses {name}"
                file = definition.area.file
                yield self._at(file, "unreachable-definition", message, "$defs", name)

    def members(self, definition: Definition) -> Iterator[Finding]:
        """Check the members of an object."""
        file, name = definition.area.file, definition.name
        for position, required in enumerate(definition.required):
            if required not in definition.properties:
                message = f"no member {required}"
                place = ("$defs", name, "required", position)
                yield self._at(file, "unknown-required", message, *place)
        for member, schema in definition.properties.items():
            where = ("$defs", name, "properties", member)
            if "default" in schema:
                yield from self._default(file, schema, *where)
            elif member not in definition.required and "x-absent" not in schema:
                message = "optional: add a default, or state in x-absent what its absence means"
                yield self._at(file, "missing-default", message, *where)
            if self._is_integer(schema) and "x-unit" not in schema:
                message = "an integer: state its unit in x-unit"
                yield self._at(file, "missing-unit", message, *where)
            for inner in (schema.get("items"), schema.get("additionalProperties")):
                if isinstance(inner, dict) and self._exceeds_int64(inner):
                    message = "unsigned 64-bit integers in a list or map are not checked by models"
                    yield self._at(file, "unchecked-bound", message, *where)

    def _default(self, file: str, schema: JsonObject, *where: str | int) -> Iterator[Finding]:
        for error in self._validator(schema).iter_errors(schema["default"]):
            yield self._at(file, "invalid-default", error.message, *where, "default")

    def _is_integer(self, schema: JsonObject) -> bool:
        # A `type` is a name or a list of names.
        return any("integer" in branch.get("type", []) for branch in self._branches(schema))

    def _exceeds_int64(self, schema: JsonObject) -> bool:
        return any(branch.get("maximum", 0) > INT64_MAX for branch in self._branches(schema))

    def union(self, definition: Definition) -> Iterator[Finding]:
        """Check the discriminator of a union."""
        if "oneOf" not in definition.schema:
            return
        discriminator = definition.schema["discriminator"]
        tag, mapping = discriminator["propertyName"], discriminator["mapping"]
        where = ("$defs", definition.name, "discriminator")
        branches = [branch["$ref"] for branch in definition.schema["oneOf"]]
        if sorted(mapping.values()) != sorted(branches):
            message = "the mapping does not name each branch of oneOf exactly once"
            yield self._at(definition.area.file, "union-tag", message, *where)
        for value, target in mapping.items():
            branch = self._revision.definitions.get(target.rsplit("/", 1)[-1])
            properties = branch.properties if branch else {}
            constant = properties.get(tag, {}).get("const")
            if branch is None or constant != value or tag not in branch.required:
                message = f"{target} has no required member {tag} with the constant {value!r}"
                yield self._at(definition.area.file, "union-tag", message, *where)


def _placed_references(value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for where, node in nodes(value):
        reference = node.get("$ref")
        if isinstance(reference, str):
            yield (*where, "$ref"), reference
