"""The hand-written contract as objects: a revision with its areas, method table and error table.

Reading checks only what reading needs; every other rule is the linter's (``lint``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen import naming
from exec_server_codegen.errors import SchemaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

JsonObject = dict[str, Any]

METHODS_FILE: Final = "methods.json"
ERRORS_FILE: Final = "errors.json"
META_DIRECTORY: Final = "meta"


@dataclass(frozen=True, slots=True)
class Area:
    """One schema file with definitions, such as ``process.json``."""

    file: str
    document: JsonObject

    @property
    def module(self) -> str:
        """Name of the generated module."""
        return self.file.removesuffix(".json")

    @property
    def title(self) -> str:
        """Heading of the area in the reference pages."""
        return str(self.document.get("title", self.module))

    @property
    def is_envelope(self) -> bool:
        """Whether the area holds the messages themselves, which no models are generated for."""
        return bool(self.document.get("x-envelope", False))

    @property
    def definitions(self) -> dict[str, JsonObject]:
        """The definitions by name, in the order of the file."""
        definitions: dict[str, JsonObject] = self.document.get("$defs", {})
        return definitions


@dataclass(frozen=True, slots=True)
class Definition:
    """A named definition and where it stands."""

    name: str
    area: Area
    schema: JsonObject

    @property
    def description(self) -> str:
        """What the definition stands for, in words."""
        return str(self.schema.get("description", ""))

    @property
    def properties(self) -> dict[str, JsonObject]:
        """The members of an object by wire name, in their order on the wire."""
        properties: dict[str, JsonObject] = self.schema.get("properties", {})
        return properties

    @property
    def required(self) -> list[str]:
        """Wire names of the members that must be present."""
        return list(self.schema.get("required", []))


@dataclass(frozen=True, slots=True)
class Family:
    """Methods that belong together and that one handler serves."""

    name: str
    title: str
    description: str
    state_name: str | None
    errors: list[JsonObject]

    @property
    def class_stem(self) -> str:
        """``process`` → ``Process``, the start of the family's class names."""
        return naming.pascal(self.name)


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the method table."""

    row: JsonObject
    params: Definition
    result: Definition | None

    @property
    def name(self) -> str:
        """Name on the wire, such as ``process/start``."""
        return str(self.row["name"])

    @property
    def kind(self) -> str:
        """``request`` or ``notification``."""
        return str(self.row["kind"])

    @property
    def direction(self) -> str:
        """``clientToServer`` or ``serverToClient``."""
        return str(self.row["direction"])

    @property
    def family(self) -> str:
        """Name of the family."""
        return str(self.row["family"])

    @property
    def state_name(self) -> str | None:
        """How state errors name the method; None when as its family."""
        return self.row.get("stateName")

    @property
    def summary(self) -> str:
        """What the method does, in one sentence."""
        return str(self.row["summary"])

    @property
    def description(self) -> str:
        """The rules of the method, in a few sentences."""
        return str(self.row["description"])

    @property
    def params_presence(self) -> str:
        """``required``, ``optional`` (absent and null are an empty object) or ``ignored``."""
        return str(self.row["paramsPresence"])

    @property
    def errors(self) -> list[JsonObject]:
        """The method's own error conditions."""
        return list(self.row["errors"])

    @property
    def since(self) -> str | None:
        """First release that has the method; None when no release speaks the revision."""
        return self.row.get("since")

    @property
    def until(self) -> str | None:
        """Last release that has the method; None when the revision's last one does."""
        return self.row.get("until")

    @property
    def changes(self) -> list[JsonObject]:
        """How the behaviour changed within the revision."""
        return list(self.row.get("changes", []))

    @property
    def examples(self) -> list[JsonObject]:
        """Params with the result or the error that answers them."""
        return list(self.row["examples"])

    @property
    def attribute(self) -> str:
        """Name of the method in the family's handler and client."""
        return naming.attribute(self.name)

    @property
    def stem(self) -> str:
        """Start of the names of the method's types."""
        return naming.pascal(self.name)


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the error table."""

    name: str
    code: int
    description: str
    every_request: bool
    conditions: list[JsonObject]


@dataclass(slots=True)
class Revision:
    """Everything the schema says about one revision of the protocol."""

    name: str
    areas: list[Area]
    methods_document: JsonObject
    errors_document: JsonObject
    digests: dict[str, str]
    _definitions: dict[str, Definition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for area in self.areas:
            for name, schema in area.definitions.items():
                self._definitions.setdefault(name, Definition(name, area, schema))

    @property
    def title(self) -> str:
        """Title of the revision in documents."""
        return str(self.methods_document["title"])

    @property
    def description(self) -> str:
        """What the revision is, in a few sentences."""
        return str(self.methods_document["description"])

    @property
    def releases(self) -> list[str]:
        """The codex releases that changed something within the revision, oldest first.

        Empty when no release ever spoke the revision.
        """
        return list(self.methods_document["releases"])

    @property
    def definitions(self) -> dict[str, Definition]:
        """Every definition by name; names are unique within a revision."""
        return self._definitions

    @property
    def model_areas(self) -> list[Area]:
        """The areas that models are generated for."""
        return [area for area in self.areas if not area.is_envelope]

    @property
    def families(self) -> list[Family]:
        """The method families in the order of the table."""
        return [
            Family(
                name=row["name"],
                title=row["title"],
                description=row["description"],
                state_name=row.get("stateName"),
                errors=row["errors"],
            )
            for row in self.methods_document["families"]
        ]

    @property
    def methods(self) -> list[Method]:
        """The method table."""
        rows = self.methods_document["methods"]
        return [
            Method(
                row=row,
                params=self.resolve(row["params"]["$ref"]),
                result=self.resolve(row["result"]["$ref"]) if "result" in row else None,
            )
            for row in rows
        ]

    @property
    def errors(self) -> list[ErrorKind]:
        """The error table."""
        return [
            ErrorKind(
                name=row["name"],
                code=row["code"],
                description=row["description"],
                every_request=row["everyRequest"],
                conditions=row["conditions"],
            )
            for row in self.errors_document["errors"]
        ]

    @property
    def digest(self) -> str:
        """SHA-256 over the schema files of the revision, put together in the order of names."""
        return self.digests["*"]

    def resolve(self, reference: str) -> Definition:
        """The definition that a ``$ref`` leads to."""
        file, _, pointer = reference.partition("#")
        name = pointer.removeprefix("/$defs/")
        definition = self._definitions.get(name)
        if definition is None or (file and definition.area.file != file):
            raise SchemaError(f"{self.name}: $ref leads nowhere: {reference}")
        return definition

    def state_name(self, method: Method) -> str | None:
        """How errors about the handshake's state name a method; None when it needs no state."""
        families = {family.name: family for family in self.families}
        return method.state_name or families[method.family].state_name

    def method_errors(self, method: Method) -> list[str]:
        """Names of the errors that answer a method, in the order of the error table.

        What any request may be answered with is said of a server, not of a client.
        """
        if method.kind != "request":
            return []
        families = {family.name: family for family in self.families}
        named = {row["error"] for row in [*method.errors, *families[method.family].errors]}
        to_server = method.direction == "clientToServer"
        return [
            error.name
            for error in self.errors
            if (error.every_request and to_server) or error.name in named
        ]


def revision_names(schema: Path) -> list[str]:
    """The revisions in a schema folder, in the order of their names."""
    if not schema.is_dir():
        raise UsageError(f"no schema folder: {schema}")
    names = sorted(path.parent.name for path in schema.glob(f"*/{METHODS_FILE}"))
    if not names:
        raise UsageError(f"no revision in the schema folder: {schema} (no */{METHODS_FILE})")
    return names


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
    """The object that UTF-8 text holds; ``source`` is what errors call the text."""
    try:
        document = json.loads(content.decode())
    except ValueError as error:
        raise SchemaError(f"{source}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise SchemaError(f"{source}: expected an object")
    return document


def read_revision(schema: Path, name: str) -> Revision:
    """Read the files of one revision."""
    folder = schema / name
    if not (folder / METHODS_FILE).is_file():
        known = ", ".join(revision_names(schema))
        raise UsageError(f"unknown revision: {name} (known: {known})")
    paths = sorted(folder.glob("*.json"))
    whole = hashlib.sha256()
    digests = {}
    for path in paths:
        content = path.read_bytes()
        whole.update(content)
        digests[path.name] = hashlib.sha256(content).hexdigest()
    digests["*"] = whole.hexdigest()
    documents = {path.name: read_json(path) for path in paths}
    if ERRORS_FILE not in documents:
        raise SchemaError(f"{folder / ERRORS_FILE}: the file is missing")
    return revision_of(name, documents, digests)


def revision_of(
    name: str, documents: Mapping[str, JsonObject], digests: dict[str, str]
) -> Revision:
    """A revision from its documents by file name, the two tables among them."""
    return Revision(
        name=name,
        areas=[
            Area(file, document)
            for file, document in documents.items()
            if file not in (METHODS_FILE, ERRORS_FILE)
        ],
        methods_document=documents[METHODS_FILE],
        errors_document=documents[ERRORS_FILE],
        digests=digests,
    )


def release_key(release: str) -> list[int]:
    """What sorts releases from old to new."""
    return [int(part) for part in release.split(".")]


def json_pointer(*parts: str | int) -> str:
    """The JSON pointer of a place in a document."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def references(schema: object) -> Iterator[str]:
    """Every ``$ref`` inside a schema, the documented shapes of free-form objects included."""
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)
