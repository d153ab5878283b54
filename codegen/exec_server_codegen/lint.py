"""The rules of the schema files.

The metaschemas hold the rules about the form of a file; a subschema's ``x-rule`` names the rule
that it stands for. The rules about how the files hang together are functions here:

==========================  ====================================================================
``invalid-json``            the file is JSON, and an object
``unknown-base``            a revision extends one that is there and stands by itself
``needless-copy``           a revision that extends another does not repeat what that one says
``metaschema``              the file has the form that its metaschema describes
``definition-name``         definitions are named in PascalCase
``member-name``             members are named in camelCase
``missing-description``     whatever has a name has a description
``description-form``        a description is made of whole sentences
``anonymous-branch``        objects, unions and choices have names
``nullable-form``           ``anyOf`` means a type or null
``missing-example``         every method has an example
``missing-release``         a method of a released revision says since when it is there
``method-kind``             requests have a result, notifications none
``method-handling``         requests of the client say how they are handled, and nothing else does
``large-result``            a large member of a result is base64
``covering-revision``       a method is covered by a revision that has it
``numbered-definition``     no definition is another's name with a number behind it
``duplicate-definition``    a name stands for one definition in a revision
``unknown-reference``       a ``$ref`` leads to a definition
``unreachable-definition``  every definition is used by a message
``invalid-pattern``         a pattern is a regular expression
``unknown-required``        what is required is a member
``missing-default``         an optional member says what its absence means
``invalid-default``         a default fits its member
``missing-identifier``      an id in a client's params says if its length is limited
``missing-unit``            an integer says what it counts
``union-tag``               the objects of a union are told apart as the union says
``unchecked-bound``         unsigned 64-bit integers stand where the models can check them
``nested-base64``           base64 of a client's params stands at the top, where the models say so
``closed-params``           what a server receives is open to unknown members
``unknown-release``         releases are releases of the revision, in order
``revision-name``           the method table is that of its folder
``duplicate-name``          methods, families and errors have names of their own
``duplicate-code``          an error code stands for one error
``unknown-family``          the family of a method is in the table
``unknown-error``           an error that is named is in the error table
``type-name``               params and results are named for their method
``invalid-example``         an example validates
==========================  ====================================================================
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError as InvalidMetaschema

from exec_server_codegen.bundle import DEFINITIONS, DIALECT, flat_definitions, rebased
from exec_server_codegen.errors import SchemaError
from exec_server_codegen.extension import Extension, place
from exec_server_codegen.models import INT64_MAX
from exec_server_codegen.schema import (
    ERRORS_FILE,
    META_DIRECTORY,
    METHODS_FILE,
    base_of,
    json_pointer,
    read_documents,
    read_json,
    read_revision,
    references,
    release_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jsonschema.exceptions import ValidationError

    from exec_server_codegen.extension import Where
    from exec_server_codegen.schema import Area, Definition, JsonObject, Method, Revision

_METASCHEMAS: Final = {
    METHODS_FILE: "methods.schema.json",
    ERRORS_FILE: "errors.schema.json",
    "*": "area.schema.json",
}

_ENVELOPE_ROOTS: Final = ("Request", "Notification", "Response", "ErrorResponse")
"""Definitions of the envelope that stand for whole messages."""


@dataclass(frozen=True, order=True, slots=True)
class Finding:
    """A place in a schema file that breaks a rule."""

    file: str
    pointer: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:#{self.pointer}: {self.rule}: {self.message}"


def lint(schema: Path, revision: str) -> list[Finding]:
    """Every finding in the files of a revision, in the order of files and pointers.

    The rules about how files hang together run only when each file has the right form. A revision
    that extends another is checked as a whole, once there is nothing to find in the other.
    """
    findings: list[Finding] = []
    documents = _read(schema, revision, findings)
    try:
        base = base_of(schema, revision, documents.get(METHODS_FILE, {}))
    except SchemaError as error:
        path = str(schema / revision / METHODS_FILE)
        return [*findings, Finding(path, "/extends", "unknown-base", str(error))]
    extension = None
    if base is not None:
        if found := lint(schema, base):
            return found
        extension = Extension(base, read_documents(schema / base), documents)
        documents = extension.documents
        for file, where in extension.repetitions():
            path, message = str(schema / revision / file), f"{base} says so already"
            findings.append(Finding(path, json_pointer(*where), "needless-copy", message))
    elif not (schema / revision / ERRORS_FILE).is_file():
        path = str(schema / revision / ERRORS_FILE)
        findings.append(Finding(path, "", "invalid-json", "the file is missing"))
    for file, document in documents.items():
        for rule, where, message in _broken_forms(schema, file, document):
            name, there = place(revision, extension, file, where)
            path = str(schema / name / file)
            findings.append(Finding(path, json_pointer(*there), rule, message))
    if not findings:
        findings += _check_meaning(schema, read_revision(schema, revision))
    return sorted(set(findings))


def _read(schema: Path, revision: str, findings: list[Finding]) -> dict[str, JsonObject]:
    """The files of a revision by name, as far as they can be read; adds what hinders it."""
    folder = schema / revision
    documents = {}
    for path in sorted({*folder.glob("*.json"), folder / METHODS_FILE}):
        try:
            documents[path.name] = read_json(path)
        except SchemaError as unreadable:
            message = str(unreadable).removeprefix(f"{path}: ")
            findings.append(Finding(str(path), "", "invalid-json", message))
    return documents


def _broken_forms(
    schema: Path, file: str, document: JsonObject
) -> Iterator[tuple[str, Where, str]]:
    """Rule, place and message of what the metaschema of a file finds."""
    metaschema = schema / META_DIRECTORY / _METASCHEMAS.get(file, _METASCHEMAS["*"])
    try:
        yield from _violations(json.dumps(read_json(metaschema)), json.dumps(document))
    except InvalidMetaschema as error:
        raise SchemaError(f"{metaschema}: {error.message}") from None


@functools.cache
def _violations(metaschema: str, document: str) -> list[tuple[str, Where, str]]:
    """Rule, place and message of what a metaschema finds in a document, both as JSON text.

    Validation in Python takes a while; a process that lints again pays for changed files alone.
    """
    errors = _validator(metaschema).iter_errors(json.loads(document))
    return [_broken_form(error) for error in errors]


@functools.cache
def _validator(metaschema: str) -> Draft202012Validator:
    """The validator of a metaschema, itself checked once."""
    schema = json.loads(metaschema)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _broken_form(error: ValidationError) -> tuple[str, Where, str]:
    """The rule that a violation of a metaschema stands for, with place and message."""
    where = [*error.absolute_path]
    if "propertyNames" in error.absolute_schema_path:
        where.append(str(error.instance))
    if isinstance(error.schema, dict) and "x-rule" in error.schema:
        return error.schema["x-rule"], tuple(where), error.schema["x-message"]
    return "metaschema", tuple(where), error.message


def _check_meaning(schema: Path, revision: Revision) -> Iterator[Finding]:
    """The rules about how the files of a revision hang together."""
    checks = _Checks(schema, revision)
    yield from checks.names()
    unusable = [*checks.dangling_references(), *checks.patterns()]
    yield from unusable
    if unusable:
        return
    yield from checks.reachability()
    for definition in revision.definitions.values():
        yield from checks.members(definition)
        yield from checks.union(definition)
    yield from checks.releases()
    yield from checks.tables()
    for index, method in enumerate(revision.methods):
        yield from checks.method(index, method)


class _Checks:
    """The rules of one revision."""

    def __init__(self, schema: Path, revision: Revision) -> None:
        self._schema = schema
        self._revision = revision
        self._definitions = flat_definitions(revision, DEFINITIONS)
        self._errors = {error.name: error for error in revision.errors}

    def _at(self, file: str, rule: str, message: str, *where: str | int) -> Finding:
        revision, there = self._revision.place(file, where)
        return Finding(str(self._schema / revision / file), json_pointer(*there), rule, message)

    def names(self) -> Iterator[Finding]:
        """Names of definitions across the files."""
        seen: dict[str, Area] = {}
        for area in self._revision.areas:
            for name in area.definitions:
                if name in seen:
                    message = f"{name} is defined in {seen[name].file} already"
                    yield self._at(area.file, "duplicate-definition", message, "$defs", name)
                seen.setdefault(name, area)
        for name, area in seen.items():
            stem = name.rstrip("0123456789")
            if stem != name and (stem in seen or stem == "Inline"):
                message = f"{name} is {stem} with a number; say what sets it apart"
                yield self._at(area.file, "numbered-definition", message, "$defs", name)
        if self._revision.methods_document["revision"] != self._revision.name:
            message = f"the folder is {self._revision.name}"
            yield self._at(METHODS_FILE, "revision-name", message, "revision")

    def dangling_references(self) -> Iterator[Finding]:
        """References that lead nowhere."""
        for area in self._revision.areas:
            for where, reference in _placed_references(area.document):
                if not self._leads_somewhere(reference, area.file):
                    yield self._at(area.file, "unknown-reference", f"no {reference}", *where)
        for where, reference in _placed_references(self._revision.methods_document["methods"]):
            if not self._leads_somewhere(reference, METHODS_FILE):
                message = f"no {reference}"
                yield self._at(METHODS_FILE, "unknown-reference", message, "methods", *where)

    def _leads_somewhere(self, reference: str, here: str) -> bool:
        file, _, pointer = reference.partition("#")
        found = re.fullmatch(r"/\$defs/(\w+)", pointer)
        if not found or found[1] not in self._revision.definitions:
            return False
        return self._revision.definitions[found[1]].area.file == (file or here)

    def patterns(self) -> Iterator[Finding]:
        """Patterns that are no regular expressions."""
        for name, definition in self._revision.definitions.items():
            try:
                re.compile(definition.schema.get("pattern", ""))
            except re.error as error:
                where = ("$defs", name, "pattern")
                yield self._at(definition.area.file, "invalid-pattern", str(error), *where)

    def reachability(self) -> Iterator[Finding]:
        """Definitions that no message uses."""
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

    def members(self, definition: Definition) -> Iterator[Finding]:
        """The members of an object."""
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
                message = "optional: give a default, or say in x-absent what its absence means"
                yield self._at(file, "missing-default", message, *where)
            if self._is_integer(schema) and "x-unit" not in schema:
                message = "an integer: say in x-unit what it counts or names"
                yield self._at(file, "missing-unit", message, *where)
            for inner in (schema.get("items"), schema.get("additionalProperties")):
                if isinstance(inner, dict) and self._exceeds_int64(inner):
                    message = "unsigned 64-bit integers in a list or map are not checked by models"
                    yield self._at(file, "unchecked-bound", message, *where)

    def _default(self, file: str, schema: JsonObject, *where: str | int) -> Iterator[Finding]:
        for error in self._validator(schema).iter_errors(schema["default"]):
            yield self._at(file, "invalid-default", error.message, *where, "default")

    def _branches(self, schema: JsonObject) -> Iterator[JsonObject]:
        for branch in schema.get("anyOf", [schema]):
            if "$ref" in branch:
                yield self._revision.resolve(branch["$ref"]).schema
            else:
                yield branch

    def _is_integer(self, schema: JsonObject) -> bool:
        # A `type` is a name or a list of names.
        return any("integer" in branch.get("type", []) for branch in self._branches(schema))

    def _exceeds_int64(self, schema: JsonObject) -> bool:
        return any(branch.get("maximum", 0) > INT64_MAX for branch in self._branches(schema))

    def union(self, definition: Definition) -> Iterator[Finding]:
        """How the objects of a union are told apart."""
        if "oneOf" not in definition.schema:
            return
        discriminator = definition.schema["discriminator"]
        tag, mapping = discriminator["propertyName"], discriminator["mapping"]
        where = ("$defs", definition.name, "discriminator")
        branches = [branch["$ref"] for branch in definition.schema["oneOf"]]
        if sorted(mapping.values()) != sorted(branches):
            message = "the mapping does not name the branches of oneOf, each once"
            yield self._at(definition.area.file, "union-tag", message, *where)
        for value, target in mapping.items():
            branch = self._revision.definitions.get(target.rsplit("/", 1)[-1])
            properties = branch.properties if branch else {}
            constant = properties.get(tag, {}).get("const")
            if branch is None or constant != value or tag not in branch.required:
                message = f"{target} has no required member {tag} with the constant {value!r}"
                yield self._at(definition.area.file, "union-tag", message, *where)

    def releases(self) -> Iterator[Finding]:
        """Releases named anywhere."""
        known = self._revision.releases
        if sorted(known, key=release_key) != known:
            message = "the releases are not in order"
            yield self._at(METHODS_FILE, "unknown-release", message, "releases")
        documents = [(area.file, area.document) for area in self._revision.areas]
        documents.append((METHODS_FILE, self._revision.methods_document))
        for file, document in documents:
            for where, node in _nodes(document):
                for keyword in ("x-since", "x-until", "since", "until", "release"):
                    release = node.get(keyword)
                    if isinstance(release, str) and release not in known:
                        message = f"{release} is no release of the revision"
                        yield self._at(file, "unknown-release", message, *where, keyword)
                since = node.get("x-since", node.get("since"))
                until = node.get("x-until", node.get("until"))
                if not isinstance(since, str) or not isinstance(until, str):
                    continue
                if release_key(since) > release_key(until):
                    message = f"until {until} is before since {since}"
                    yield self._at(file, "unknown-release", message, *where)

    def tables(self) -> Iterator[Finding]:
        """Rows that get in each other's way."""
        document, errors = self._revision.methods_document, self._revision.errors_document
        for file, table, rows in (
            (METHODS_FILE, "families", document["families"]),
            (METHODS_FILE, "methods", document["methods"]),
            (ERRORS_FILE, "errors", errors["errors"]),
        ):
            for index, name in _repeated([row["name"] for row in rows]):
                message = f"{name} is in the table already"
                yield self._at(file, "duplicate-name", message, table, index, "name")
        for index, code in _repeated([row["code"] for row in errors["errors"]]):
            message = f"{code} is the code of another error"
            yield self._at(ERRORS_FILE, "duplicate-code", message, "errors", index, "code")
        methods = self._revision.methods
        for index, key in _repeated([(method.family, method.attribute) for method in methods]):
            message = f"the family {key[0]} has a method that becomes {key[1]} already"
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
        """One row of the method table."""
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
        """What a server receives: a client's params, and its results."""
        for name in sorted(self._reached([root.name])):
            definition = self._revision.definitions[name]
            file = definition.area.file
            if definition.schema.get("additionalProperties") is False:
                message = f"{root.name} lead here, and what a server receives is open"
                yield self._at(file, "closed-params", message, "$defs", name)
            for member, schema in definition.properties.items():
                if name == root.name and self._lacks_identifier(member, schema):
                    message = "an id: say in x-identifier if the server keeps it"
                    where = ("$defs", name, "properties", member)
                    yield self._at(file, "missing-identifier", message, *where)
                has_base64 = any(ref.endswith("/Base64") for ref in references(schema))
                is_plain = any(
                    branch.get("$ref", "").endswith("/Base64")
                    for branch in schema.get("anyOf", [schema])
                )
                if has_base64 and (name != root.name or not is_plain):
                    message = f"base64 below the top of {root.name}"
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
                message = "a notification is not answered"
                yield self._at(METHODS_FILE, "invalid-example", message, *where)
        elif len(answers) != 1:
            message = "a request is answered with a result or with an error"
            yield self._at(METHODS_FILE, "invalid-example", message, *where)
        if method.result is not None and "result" in example:
            yield from self._value(method.result, example["result"], *where, "result")
        if "error" in example:
            yield from self._error_name(example["error"]["name"], *where, "error", "name")

    def _value(self, definition: Definition, value: Any, *where: str | int) -> Iterator[Finding]:
        for error in self._validator({"$ref": DEFINITIONS + definition.name}).iter_errors(value):
            place = (*where, *error.absolute_path)
            yield self._at(METHODS_FILE, "invalid-example", error.message, *place)

    def _validator(self, schema: JsonObject) -> Draft202012Validator:
        return Draft202012Validator(
            {
                "$schema": DIALECT,
                **rebased(schema, DEFINITIONS),
                "$defs": self._definitions,
            }
        )


def _nodes(value: Any, *where: str | int) -> Iterator[tuple[tuple[str | int, ...], JsonObject]]:
    """Every object of a document with its place, but for the examples."""
    if isinstance(value, dict):
        yield where, value
        for name, item in value.items():
            if name != "examples":
                yield from _nodes(item, *where, name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nodes(item, *where, index)


def _placed_references(value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for where, node in _nodes(value):
        reference = node.get("$ref")
        if isinstance(reference, str):
            yield (*where, "$ref"), reference


def _repeated(values: list[Any]) -> Iterator[tuple[int, Any]]:
    """Index and value of what stands in the list already."""
    for index, value in enumerate(values):
        if value in values[:index]:
            yield index, value
