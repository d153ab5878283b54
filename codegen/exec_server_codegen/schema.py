"""The hand-written contract as objects: a revision with its areas, method table and error table.

``schema_files`` reads them and checks only what reading needs; the other rules are the linter's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exec_server_codegen import naming
from exec_server_codegen.errors import SchemaError
from exec_server_codegen.extension import place
from exec_server_codegen.json_documents import references

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server_codegen.extension import Extension
    from exec_server_codegen.json_documents import JsonObject, Where


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
        """True for the envelope, for which no models are generated."""
        return bool(self.document.get("x-envelope", False))

    @property
    def definitions(self) -> dict[str, JsonObject]:
        """Definitions by name, in the order of the file."""
        definitions: dict[str, JsonObject] = self.document.get("$defs", {})
        return definitions


@dataclass(frozen=True, slots=True)
class Definition:
    """A named definition and its area."""

    name: str
    area: Area
    schema: JsonObject

    @property
    def description(self) -> str:
        """Description of the definition."""
        return str(self.schema.get("description", ""))

    @property
    def properties(self) -> dict[str, JsonObject]:
        """Members of an object by wire name, in the order of the file."""
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
        """Prefix of the family's class names: ``process`` → ``Process``."""
        return naming.pascal(self.name)


@dataclass(frozen=True, slots=True)
class Method:
    """Row of the method table."""

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
        """Name in errors about the handshake; None to use the family's."""
        return self.row.get("stateName")

    @property
    def summary(self) -> str:
        """Summary, one sentence."""
        return str(self.row["summary"])

    @property
    def description(self) -> str:
        """Rules of the method, a few sentences."""
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
        """Changes of behaviour within the revision."""
        return list(self.row.get("changes", []))

    @property
    def examples(self) -> list[JsonObject]:
        """Examples: params with the result or error."""
        return list(self.row["examples"])

    @property
    def attribute(self) -> str:
        """Name of the method in the family's handler and client."""
        return naming.attribute(self.name)

    @property
    def stem(self) -> str:
        """Prefix of the names of the method's types."""
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
    """Source of a generated file."""

    name: str
    """Path of the schema file or files."""

    digest: str
    """SHA-256 of the files, concatenated by revision and name."""


@dataclass(slots=True)
class Revision:
    """One revision of the protocol."""

    name: str
    areas: list[Area]
    methods_document: JsonObject
    errors_document: JsonObject
    extension: Extension | None = None
    """Merge of the revision into the one that it extends; None if it extends none."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    """Source of each file, and of all of them as "*"; empty if not read from a schema folder."""

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
        """Return definitions and all that contain them, directly or indirectly."""
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
        """True for a draft, which may change at any time."""
        return bool(self.methods_document.get("draft", False))

    def is_shared(self, name: str) -> bool:
        """Return True if a definition and all that it contains is that of the extended revision."""
        return self.extension is not None and name not in self._own

    def is_extended(self, name: str) -> bool:
        """Return True if a definition differs from that of the extended revision."""
        if self.extension is None or name not in self._own:
            return False
        documents = self.extension.base_documents.values()
        return any(name in document.get("$defs", {}) for document in documents)

    def place(self, file: str, where: Where) -> tuple[str, Where]:
        """Return the revision whose file holds a place, and the place in that file."""
        return place(self.name, self.extension, file, where)

    @property
    def title(self) -> str:
        """Title of the revision in documents."""
        return str(self.methods_document["title"])

    @property
    def description(self) -> str:
        """Description of the revision, a few sentences."""
        return str(self.methods_document["description"])

    @property
    def releases(self) -> list[str]:
        """Codex releases that changed something within the revision, oldest first.

        Empty when no release ever spoke the revision.
        """
        return list(self.methods_document["releases"])

    @property
    def definitions(self) -> dict[str, Definition]:
        """Every definition by name; names are unique within a revision."""
        return self._definitions

    @property
    def model_areas(self) -> list[Area]:
        """Areas for which models are generated."""
        return [area for area in self.areas if not area.is_envelope]

    @property
    def families(self) -> list[Family]:
        """Method families in the order of the table."""
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
        """Return the definition that a ``$ref`` refers to."""
        file, _, pointer = reference.partition("#")
        name = pointer.removeprefix("/$defs/")
        definition = self._definitions.get(name)
        if definition is None or (file and definition.area.file != file):
            raise SchemaError(f"{self.name}: $ref leads nowhere: {reference}")
        return definition

    def state_name(self, method: Method) -> str | None:
        """Return the name of a method in errors about the handshake; None if it needs none."""
        families = {family.name: family for family in self.families}
        return method.state_name or families[method.family].state_name

    def method_errors(self, method: Method) -> list[str]:
        """Return the names of the errors of a method, in the order of the error table.

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


def release_key(release: str) -> list[int]:
    """Return the sort key of a release."""
    return [int(part) for part in release.split(".")]
