"""Sources of contracts to compare: the schema folder, a commit, the record of a release."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen.errors import CodegenError, SchemaError, UsageError
from exec_server_codegen.json_documents import json_pointer, parse_json, read_json
from exec_server_codegen.schema_files import ERRORS_FILE, METHODS_FILE, read_revision, revision_of
from exec_server_codegen.text import compact_json

if TYPE_CHECKING:
    from pathlib import Path

    from exec_server_codegen.json_documents import JsonObject, Where
    from exec_server_codegen.schema import Revision

RECORDS: Final = "released"
"""Folder below the schema folder with one record per released revision."""

_ANNOTATIONS: Final = {"title", "description", "x-absent", "x-identifier"}
"""Keywords that are not part of the contract."""

_UNPROMISED: Final = {"summary", "description", "examples", "changes", "handling"}
"""Members of a method's row that are not part of the contract."""

_NAMED: Final = {"$defs", "properties", "mapping"}
"""Keywords whose objects have names as keys."""


@dataclass(frozen=True, slots=True)
class Contract:
    """A revision with the location of its files."""

    label: str
    """Name in messages, such as ``v1 at HEAD~1``."""

    revision: Revision
    file: str
    """Path of a record, or of a schema file with ``{}`` in place of revision and name."""

    @property
    def is_record(self) -> bool:
        """True for the record of a released revision."""
        return "{}" not in self.file

    def place(self, file: str, where: Where) -> tuple[str, str]:
        """Return the file and the JSON pointer of a place."""
        if self.is_record:
            return self.file, json_pointer("documents", file, *where)
        name, where = self.revision.place(file, where)
        return self.file.replace("{}", f"{name}/{file}"), json_pointer(*where)


def present(schema: Path, name: str) -> Contract:
    """Return the contract in the schema folder."""
    return Contract(name, read_revision(schema, name), str(schema / "{}"))


def at_commit(schema: Path, name: str, ref: str) -> Contract | None:
    """Return the contract at a commit; None if the commit has no revision of that name.

    Raises UsageError when the schema folder is in no git repository, or the commit is not there.
    """
    commit = _commit(schema, ref)
    documents = _documents_at(schema, name, commit, ref)
    if METHODS_FILE not in documents:
        return None
    base = documents[METHODS_FILE].get("extends")
    extended = (base, _documents_at(schema, base, commit, ref)) if isinstance(base, str) else None
    label = f"{name} at {ref}"
    return Contract(label, _revision(name, documents, label, extended), f"{ref}:{schema / '{}'}")


def _documents_at(schema: Path, name: str, commit: str, ref: str) -> dict[str, JsonObject]:
    """Return the files of a revision at a commit by name; empty if it has no such revision."""
    listing = _git(schema, "ls-tree", "-z", "--name-only", commit, f"{name}/")
    paths = sorted(path for path in listing.decode().split("\0") if path.endswith(".json"))
    return {
        path.rsplit("/", 1)[-1]: parse_json(
            _git(schema, "cat-file", "blob", f"{commit}:./{path}"), f"{ref}:{schema / path}"
        )
        for path in paths
    }


def _commit(schema: Path, ref: str) -> str:
    """Return the full name of a commit."""
    if not schema.is_dir():
        raise UsageError(f"no schema folder: {schema}")
    try:
        _git(schema, "rev-parse", "--git-dir")
    except CodegenError as error:
        raise UsageError(f"--against needs a git repository: {error}") from None
    arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    try:
        return _git(schema, *arguments).decode().strip()
    except CodegenError:
        raise UsageError(f"no such commit: {ref} (a shallow clone has only the newest)") from None


def _git(folder: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=False
        )
    except OSError as error:
        raise CodegenError(f"cannot run git: {error.strerror}") from None
    if done.returncode:
        raise CodegenError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def recorded_names(schema: Path) -> list[str]:
    """Return the released revisions in alphabetical order."""
    return sorted(path.stem for path in (schema / RECORDS).glob("*.json"))


def record_path(schema: Path, name: str) -> Path:
    """Return the path of the record of a released revision."""
    return schema / RECORDS / f"{name}.json"


def recorded(schema: Path, name: str) -> Contract:
    """Return the contract as it was released."""
    path = record_path(schema, name)
    if not path.is_file():
        known = ", ".join(recorded_names(schema)) or "none"
        raise UsageError(f"revision {name} is not released: no {path} (released: {known})")
    documents = read_json(path).get("documents")
    if not isinstance(documents, dict):
        raise SchemaError(f"{path}: expected the documents of a revision")
    return Contract(f"{name} as released", _revision(name, documents, str(path)), str(path))


def record_text(revision: Revision) -> str:
    """Return the record of a revision: its contract without prose."""
    methods, errors = revision.methods_document, revision.errors_document
    rows = [
        {
            keyword: [_situation(error) for error in value] if keyword == "errors" else value
            for keyword, value in row.items()
            if keyword not in _UNPROMISED
        }
        for row in methods["methods"]
    ]
    families = [
        {**row, "description": "", "errors": [_situation(error) for error in row["errors"]]}
        for row in methods["families"]
    ]
    kinds = [
        {**row, "description": "", "conditions": [_situation(it) for it in row["conditions"]]}
        for row in errors["errors"]
    ]
    documents = {
        METHODS_FILE: {"releases": methods["releases"], "families": families, "methods": rows},
        ERRORS_FILE: {"errors": kinds},
        **{
            area.file: {
                **({"x-envelope": True} if area.is_envelope else {}),
                "$defs": _wordless(area.definitions, are_names=True),
            }
            for area in revision.areas
        },
    }
    record = {
        "$comment": f"What revision {revision.name} has promised since its release. Written by "
        "`exec-server-codegen record`; not to be edited.",
        "documents": documents,
    }
    return compact_json(record) + "\n"


def _situation(row: JsonObject) -> JsonObject:
    return {keyword: value for keyword, value in row.items() if keyword != "message"}


def _wordless(value: Any, *, are_names: bool = False) -> Any:
    """Return a schema without annotations; with ``are_names`` its keys are names, not keywords."""
    if isinstance(value, list):
        return [_wordless(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item
        if key == "default" and not are_names
        else _wordless(item, are_names=key in _NAMED and not are_names)
        for key, item in value.items()
        if are_names or key not in _ANNOTATIONS
    }


def _revision(
    name: str,
    documents: dict[str, JsonObject],
    source: str,
    extended: tuple[str, dict[str, JsonObject]] | None = None,
) -> Revision:
    """Return the revision of documents that have not passed the linter."""
    try:
        revision = revision_of(name, documents, extended)
        # Reading the tables is what finds another form, as an early commit may have it.
        _ = revision.methods, revision.families, revision.errors
    except (AttributeError, KeyError, TypeError) as error:
        message = f"{source}: not of the form that this version compares: {error!r}"
        raise SchemaError(message) from None
    return revision
