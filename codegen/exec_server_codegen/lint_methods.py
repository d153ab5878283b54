"""Lint rules about the tables: methods, families, errors, releases and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exec_server_codegen.bundle import DEFINITIONS
from exec_server_codegen.json_documents import read_json, references
from exec_server_codegen.lint_base import RevisionRules, nodes
from exec_server_codegen.schema import release_key
from exec_server_codegen.schema_files import ERRORS_FILE, METHODS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server_codegen.json_documents import JsonObject
    from exec_server_codegen.lint_base import Finding
    from exec_server_codegen.schema import Definition, Method


class TableRules(RevisionRules):
    """Rules about the method and error tables of a revision."""

    def releases(self) -> Iterator[Finding]:
        """Check that the releases that are named exist and are in order."""
        known = self._revision.releases
        if sorted(known, key=release_key) != known:
            message = "the releases are not in order"
            yield self._at(METHODS_FILE, "unknown-release", message, "releases")
        documents = [(area.file, area.document) for area in self._revision.areas]
        documents.append((METHODS_FILE, self._revision.methods_document))
        for file, document in documents:
            for where, node in nodes(document):
                for keyword in ("x-since", "x-until", "since", "until", "release"):
                    release = node.get(keyword)
                    if isinstance(release, str) and release not in known:
                        message = f"{release} is not a release of the revision"
                        yield self._at(file, "unknown-release", message, *where, keyword)
                since = node.get("x-since", node.get("since"))
                until = node.get("x-until", node.get("until"))
                if not isinstance(since, str) or not isinstance(until, str):
                    continue
                if release_key(since) > release_key(until):
                    message = f"until {until} is before since {since}"
                    yield self._at(file, "unknown-release", message, *where)

    def tables(self) -> Iterator[Finding]:
        """Check the rows of the tables for collisions."""
        document, errors = self._revision.methods_document, self._revision.errors_document
        for file, table, rows in (
            (METHODS_FILE, "families", document["families"]),
            (METHODS_FILE, "methods", document["methods"]),
            (ERRORS_FILE, "errors", errors["errors"]),
        ):
            for index, name in _repeated([row["name"] for row in rows]):
                message = f"{name} is already in the table"
                yield self._at(file, "duplicate-name", message, table, index, "name")
        for index, code in _repeated([row["code"] for row in errors["errors"]]):
            message = f"{code} is the code of another error"
            yield self._at(ERRORS_FILE, "duplicate-code", message, "errors", index, "code")
        methods = self._revision.methods
        for index, key in _repeated([(method.family, method.attribute) for method in methods]):
            message = f"the family {key[0]} already has a method with the attribute {key[1]}"
            yield self._at(METHODS_FILE, "duplicate-name", message, "methods", index, "name")
        for index, family in enumerate(document["families"]):
            for position, error in enumerate(family["errors"]):
                where = ("families", index, "errors", position, "error")
                yield from self._error_name(error["error"], *where)

    def _error_name(self, name: str, *where: str | int) -> Iterator[Finding]:
        if name not in self._errors:
            message = f"{name} is not in {ERRORS_FILE}"
            yield self._at(METHODS_FILE, "unknown-error", message, *where)

    def method(self, index: int, method: Method) -> Iterator[Finding]:
        """Row of the method table."""
        if method.family not in {family.name for family in self._revision.families}:
            message = f"{method.family} is not in the table of families"
            yield self._at(METHODS_FILE, "unknown-family", message, "methods", index, "family")
        for position, error in enumerate(method.errors):
            where: tuple[str | int, ...] = ("methods", index, "errors", position, "error")
            yield from self._error_name(error["error"], *where)
        for role, definition in (("params", method.params), ("result", method.result)):
            expected = method.stem + role.capitalize()
            if definition is not None and definition.name != expected:
                message = f"the {role} of {method.name} are named {expected}"
                yield self._at(METHODS_FILE, "type-name", message, "methods", index, role)
        received = method.params if method.direction == "clientToServer" else method.result
        if received is not None:
            yield from self._received(received)
        yield from self._handling(index, method)
        for position, example in enumerate(method.examples):
            where = ("methods", index, "examples", position)
            yield from self._example(method, example, *where)

    def _handling(self, index: int, method: Method) -> Iterator[Finding]:
        """Check what a row says about the handling of a request."""
        where = ("methods", index, "handling")
        large = method.handling.get("largeResult")
        if large is not None and method.result is not None:
            names = large["member"].split("/")
            if not self._is_base64(method.result, names):
                message = f"{method.result.name} has no base64 member {large['member']}"
                yield self._at(
                    METHODS_FILE, "large-result", message, *where, "largeResult", "member"
                )
        covering = method.handling.get("coveredBy")
        if covering is not None and self._lacks_method(covering, method.name):
            message = f"the revision {covering} has no {method.name}"
            yield self._at(METHODS_FILE, "covering-revision", message, *where, "coveredBy")

    def _is_base64(self, definition: Definition, names: list[str]) -> bool:
        """Return True if a path leads to a base64 member, of an object or of a list's objects."""
        schema = definition.properties.get(names[0], {})
        if len(names) == 1:
            return bool(schema.get("$ref", "").endswith("/Base64"))
        items = schema.get("items", {})
        return "$ref" in items and self._is_base64(self._revision.resolve(items["$ref"]), names[1:])

    def _lacks_method(self, revision: str, name: str) -> bool:
        """Return True if the schema folder has the revision, but without the method."""
        path = self._schema / revision / METHODS_FILE
        return path.is_file() and all(row["name"] != name for row in read_json(path)["methods"])

    def _received(self, root: Definition) -> Iterator[Finding]:
        """Check a type that a server receives: a client's params or results."""
        for name in sorted(self._reached([root.name])):
            definition = self._revision.definitions[name]
            file = definition.area.file
            if definition.schema.get("additionalProperties") is False:
                message = f"reachable from {root.name}: types that a server receives must be open"
                yield self._at(file, "closed-params", message, "$defs", name)
            for member, schema in definition.properties.items():
                if name == root.name and self._lacks_identifier(member, schema):
                    message = "an id: state in x-identifier if the server keeps it"
                    where = ("$defs", name, "properties", member)
                    yield self._at(file, "missing-identifier", message, *where)
                has_base64 = any(ref.endswith("/Base64") for ref in references(schema))
                is_plain = any(
                    branch.get("$ref", "").endswith("/Base64")
                    for branch in schema.get("anyOf", [schema])
                )
                if has_base64 and (name != root.name or not is_plain):
                    message = f"base64 must be a direct member of {root.name}"
                    where = ("$defs", name, "properties", member)
                    yield self._at(file, "nested-base64", message, *where)

    def _lacks_identifier(self, member: str, schema: JsonObject) -> bool:
        is_text = any(branch.get("type") == "string" for branch in self._branches(schema))
        return member.endswith("Id") and is_text and "x-identifier" not in schema

    def _example(self, method: Method, example: JsonObject, *where: str | int) -> Iterator[Finding]:
        optional = method.params_presence == "optional" and example["params"] is None
        if not optional and method.params_presence != "ignored":
            yield from self._value(method.params, example["params"], *where, "params")
        answers = [role for role in ("result", "error") if role in example]
        if method.kind == "notification":
            if answers:
                message = "an example of a notification has neither result nor error"
                yield self._at(METHODS_FILE, "invalid-example", message, *where)
        elif len(answers) != 1:
            message = "an example of a request has either a result or an error"
            yield self._at(METHODS_FILE, "invalid-example", message, *where)
        if method.result is not None and "result" in example:
            yield from self._value(method.result, example["result"], *where, "result")
        if "error" in example:
            yield from self._error_name(example["error"]["name"], *where, "error", "name")

    def _value(self, definition: Definition, value: Any, *where: str | int) -> Iterator[Finding]:
        for error in self._validator({"$ref": DEFINITIONS + definition.name}).iter_errors(value):
            place = (*where, *error.absolute_path)
            yield self._at(METHODS_FILE, "invalid-example", error.message, *place)


def _repeated(values: list[Any]) -> Iterator[tuple[int, Any]]:
    """Yield index and value of each element that occurs earlier in the list."""
    for index, value in enumerate(values):
        if value in values[:index]:
            yield index, value
