"""The schema folder: its revisions, and the files that each is read from."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from exec_server_codegen.errors import SchemaError, UsageError
from exec_server_codegen.extension import Extension
from exec_server_codegen.json_documents import read_json
from exec_server_codegen.schema import Area, Revision, Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from exec_server_codegen.json_documents import JsonObject

METHODS_FILE: Final = "methods.json"
ERRORS_FILE: Final = "errors.json"
META_DIRECTORY: Final = "meta"


def revision_key(name: str) -> tuple[bool, int, str]:
    """Return the sort key of a revision: oldest first, those without a number last."""
    found = re.fullmatch(r"v(\d+)", name)
    return found is None, int(found[1]) if found else 0, name


def revision_names(schema: Path) -> list[str]:
    """Return the revisions in a schema folder, oldest first."""
    if not schema.is_dir():
        raise UsageError(f"no schema folder: {schema}")
    names = [path.parent.name for path in schema.glob(f"*/{METHODS_FILE}")]
    if not names:
        raise UsageError(f"no revision in the schema folder: {schema} (no */{METHODS_FILE})")
    return sorted(names, key=revision_key)


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
    """Return the source of each file of a revision, and of all of them as "*"."""
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
    """Return the files of a folder by name."""
    return {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}


def base_of(schema: Path, name: str, methods_document: JsonObject) -> str | None:
    """Return the revision that a revision extends; None if it extends none.

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
    """Build a revision from its documents by file name, both tables included.

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
