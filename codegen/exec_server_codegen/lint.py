"""The rules of the schema files.

The metaschemas hold the rules about the form of a file; a subschema's ``x-rule`` names the rule
that it stands for. The rules about the consistency of the files are methods of
DefinitionRules and TableRules:

==========================  ====================================================================
``invalid-json``            the file is JSON, and an object
``unknown-base``            a revision extends an existing one that extends none
``needless-copy``           a revision that extends another does not repeat its values
``metaschema``              the file has the form that its metaschema describes
``definition-name``         definitions are named in PascalCase
``member-name``             members are named in camelCase
``missing-description``     everything with a name has a description
``description-form``        a description consists of whole sentences
``anonymous-branch``        objects, unions and choices have names
``nullable-form``           ``anyOf`` means a type or null
``missing-example``         every method has an example
``missing-release``         a method of a released revision states its first release
``method-kind``             requests have a result, notifications none
``method-handling``         requests of the client have ``handling``, and no other methods
``large-result``            a large member of a result is base64
``covering-revision``       a method is covered by a revision that has it
``numbered-definition``     no definition is named like another with a number
``duplicate-definition``    a name stands for one definition in a revision
``unknown-reference``       a ``$ref`` leads to a definition
``unreachable-definition``  every definition is used by a message
``invalid-pattern``         a pattern is a regular expression
``unknown-required``        required names are members
``missing-default``         an optional member says what its absence means
``invalid-default``         a default fits its member
``missing-identifier``      an id in a client's params states if its length is limited
``missing-unit``            an integer has a unit
``union-tag``               the objects of a union have its tag
``unchecked-bound``         unsigned 64-bit integers are where the models can check them
``nested-base64``           base64 in a client's params is a direct member
``closed-params``           what a server receives is open to unknown members
``unknown-release``         releases belong to the revision and are in order
``revision-name``           the method table is that of its folder
``duplicate-name``          methods, families and errors have names of their own
``duplicate-code``          an error code stands for one error
``unknown-family``          the family of a method is in the table
``unknown-error``           a referenced error is in the error table
``type-name``               params and results are named for their method
``invalid-example``         an example validates
==========================  ====================================================================
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError as InvalidMetaschema

from exec_server_codegen.errors import SchemaError
from exec_server_codegen.extension import Extension, place
from exec_server_codegen.json_documents import json_pointer, read_json
from exec_server_codegen.lint_base import Finding
from exec_server_codegen.lint_definitions import DefinitionRules
from exec_server_codegen.lint_methods import TableRules
from exec_server_codegen.schema_files import (
    ERRORS_FILE,
    META_DIRECTORY,
    METHODS_FILE,
    base_of,
    read_documents,
    read_revision,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jsonschema.exceptions import ValidationError

    from exec_server_codegen.json_documents import JsonObject, Where
    from exec_server_codegen.schema import Revision

_METASCHEMAS: Final = {
    METHODS_FILE: "methods.schema.json",
    ERRORS_FILE: "errors.schema.json",
    "*": "area.schema.json",
}


def lint(schema: Path, revision: str) -> list[Finding]:
    """Return every finding in the files of a revision, ordered by file and pointer.

    The rules about consistency run only when each file has the right form. A revision
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
            path, message = str(schema / revision / file), f"{base} has the same value"
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
    """Return the readable files of a revision by name; add a finding for each other one."""
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
    """Yield rule, place and message of each violation of a file's metaschema."""
    metaschema = schema / META_DIRECTORY / _METASCHEMAS.get(file, _METASCHEMAS["*"])
    try:
        yield from _violations(json.dumps(read_json(metaschema)), json.dumps(document))
    except InvalidMetaschema as error:
        raise SchemaError(f"{metaschema}: {error.message}") from None


@functools.cache
def _violations(metaschema: str, document: str) -> list[tuple[str, Where, str]]:
    """Return rule, place and message of each violation of a metaschema, both as JSON text.

    Validation in Python takes a while; a process that lints again pays for changed files alone.
    """
    errors = _validator(metaschema).iter_errors(json.loads(document))
    return [_broken_form(error) for error in errors]


@functools.cache
def _validator(metaschema: str) -> Draft202012Validator:
    """Return the validator of a metaschema, which is checked once."""
    schema = json.loads(metaschema)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _broken_form(error: ValidationError) -> tuple[str, Where, str]:
    """Return the rule, place and message of a violation of a metaschema."""
    where = [*error.absolute_path]
    if "propertyNames" in error.absolute_schema_path:
        where.append(str(error.instance))
    if isinstance(error.schema, dict) and "x-rule" in error.schema:
        return error.schema["x-rule"], tuple(where), error.schema["x-message"]
    return "metaschema", tuple(where), error.message


def _check_meaning(schema: Path, revision: Revision) -> Iterator[Finding]:
    """Check the rules about the consistency of a revision's files."""
    definitions, tables = DefinitionRules(schema, revision), TableRules(schema, revision)
    yield from definitions.names()
    unusable = [*definitions.dangling_references(), *definitions.patterns()]
    yield from unusable
    if unusable:
        return
    yield from definitions.reachability()
    for definition in revision.definitions.values():
        yield from definitions.members(definition)
        yield from definitions.union(definition)
    yield from tables.releases()
    yield from tables.tables()
    for index, method in enumerate(revision.methods):
        yield from tables.method(index, method)
