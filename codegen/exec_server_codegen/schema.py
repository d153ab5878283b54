"""The hand-written contract as objects: a revision with its areas, method table and error table.

Reading checks only what reading needs; every other rule is the linter's (``lint``).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen import naming
from exec_server_codegen.errors import SchemaError, UsageError
from exec_server_codegen.extension import Extension, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from exec_server_codegen.extension import Where

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
    def handling(self) -> JsonObject:
        """Treatment of a client's request besides its types; empty for any other method."""
        handling: JsonObject = self.row.get("handling", {})
        return handling

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


@dataclass(frozen=True, slots=True)
class Source:
    """What a generated file comes from."""

    name: str
    """Path of the schema file or files."""

    digest: str
    """SHA-256 over them, put together in the order of the revisions and of names."""


@dataclass(slots=True)
class Revision:
    """Everything the schema says about one revision of the protocol."""

    name: str
    areas: list[Area]
    methods_document: JsonObject
    errors_document: JsonObject
    extension: Extension | None = None
    """How the revision came to be if it extends another, whose parts it then has as well."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    """Where each file comes from, and "*", all of it; empty if not from a schema folder."""

    _definitions: dict[str, Definition] = field(default_factory=dict)
    _own: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for area in self.areas:
            for name, schema in area.definitions.items():
                self._definitions.setdefault(name, Definition(name, area, schema))
        if self.extension is not None:
            for document in self.extension.own_documents.values():
                self._own |= document.get("$defs", {}).keys()
            self._own = self._leading_to(self._own)

    def _leading_to(self, names: set[str]) -> set[str]:
        """Definitions that contain one of some definitions, however deep, and those themselves."""
        contains = {
            name: {reference.rsplit("/", 1)[-1] for reference in references(definition.schema)}
            for name, definition in self._definitions.items()
        }
        reached: set[str] = set()
        while names - reached:
            reached |= names
            names = {name for name, inner in contains.items() if inner & reached}
        return reached

    @property
    def is_draft(self) -> bool:
        """Whether it promises nothing and may change at any time."""
        return bool(self.methods_document.get("draft", False))

    def is_shared(self, name: str) -> bool:
        """Whether a definition is, with everything in it, that of the extended revision."""
        return self.extension is not None and name not in self._own

    def is_extended(self, name: str) -> bool:
        """Whether a definition is another one than that of the extended revision."""
        if self.extension is None or name not in self._own:
            return False
        documents = self.extension.base_documents.values()
        return any(name in document.get("$defs", {}) for document in documents)

    def place(self, file: str, where: Where) -> tuple[str, Where]:
        """The revision in whose file something stands, and where."""
        return place(self.name, self.extension, file, where)

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


def revision_key(name: str) -> tuple[bool, int, str]:
    """What sorts revisions from old to new, those without a number last."""
    found = re.fullmatch(r"v(\d+)", name)
    return found is None, int(found[1]) if found else 0, name


def revision_names(schema: Path) -> list[str]:
    """The revisions in a schema folder, oldest first."""
    if not schema.is_dir():
        raise UsageError(f"no schema folder: {schema}")
    names = [path.parent.name for path in schema.glob(f"*/{METHODS_FILE}")]
    if not names:
        raise UsageError(f"no revision in the schema folder: {schema} (no */{METHODS_FILE})")
    return sorted(names, key=revision_key)


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
    """Read the files of one revision, and those of the one that it extends."""
    if not (schema / name / METHODS_FILE).is_file():
        known = ", ".join(revision_names(schema))
        raise UsageError(f"unknown revision: {name} (known: {known})")
    documents = read_documents(schema / name)
    base = base_of(schema, name, documents[METHODS_FILE])
    extended = read_documents(schema / base) if base is not None else None
    if extended is None and ERRORS_FILE not in documents:
        raise SchemaError(f"{schema / name / ERRORS_FILE}: the file is missing")
    revision = revision_of(name, documents, None if base is None else (base, extended or {}))
    revision.sources = _sources(schema, [name] if base is None else [base, name])
    return revision


def _sources(schema: Path, revisions: Sequence[str]) -> dict[str, Source]:
    """Where each file of a revision comes from, and "*", all of it."""
    paths = [path for name in revisions for path in sorted((schema / name).glob("*.json"))]
    files = {"*": paths}
    for path in paths:
        files.setdefault(path.name, []).append(path)
    sources = {}
    for file, parts in files.items():
        folders = list(dict.fromkeys(path.parent.name for path in parts))
        folder = folders[0] if len(folders) == 1 else f"{{{','.join(folders)}}}"
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()
        sources[file] = Source(f"schema/{folder}/{'*.json' if file == '*' else file}", digest)
    return sources


def read_documents(folder: Path) -> dict[str, JsonObject]:
    """The files of a folder by name."""
    return {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}


def base_of(schema: Path, name: str, methods_document: JsonObject) -> str | None:
    """The revision that a revision extends; None if it stands by itself.

    Raises SchemaError unless that is another one, which stands by itself.
    """
    base = methods_document.get("extends")
    if base is None:
        return None
    table = schema / str(base) / METHODS_FILE
    if base == name or not table.is_file():
        raise SchemaError(f"{name} extends {base}, which is no other revision")
    if "extends" in read_json(table):
        raise SchemaError(f"{name} extends {base}, which itself extends another")
    return str(base)


def revision_of(
    name: str,
    documents: Mapping[str, JsonObject],
    extended: tuple[str, Mapping[str, JsonObject]] | None = None,
) -> Revision:
    """A revision from its documents by file name, the two tables among them.

    ``extended`` is the revision that it extends, with that one's documents.
    """
    extension = None if extended is None else Extension(*extended, documents)
    whole = documents if extension is None else extension.documents
    return Revision(
        name=name,
        areas=[
            Area(file, document)
            for file, document in whole.items()
            if file not in (METHODS_FILE, ERRORS_FILE)
        ],
        methods_document=whole[METHODS_FILE],
        errors_document=whole[ERRORS_FILE],
        extension=extension,
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


def relinked(schema: Any, lead: Callable[[str], str]) -> Any:
    """The schema with its references, also those of unions' tags, as ``lead`` makes them."""
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
