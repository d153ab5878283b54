"""The tree of generated files: render it, write it, compare it with the existing files."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exec_server_codegen.breaking_sources import recorded_names
from exec_server_codegen.bundle import bundled_schema
from exec_server_codegen.compatibility import compatibility_page
from exec_server_codegen.errors import CodegenError
from exec_server_codegen.models import PACKAGE
from exec_server_codegen.openrpc import openrpc_document
from exec_server_codegen.package import MARKER, package_files
from exec_server_codegen.reference import reference_pages
from exec_server_codegen.schema_files import META_DIRECTORY, read_revision, revision_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exec_server_codegen.json_documents import JsonObject

_UNMARKED: Final = {"py.typed"}
"""Generated files that are empty and so carry no marker."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Target folders of the generated files."""

    package: Path
    """Folder of the Python package."""

    docs: Path
    """Folder of the reference pages, with one subfolder per revision."""

    @property
    def compatibility(self) -> Path:
        """Compatibility page, next to the folder of the reference pages."""
        return self.docs.parent / "compatibility.md"


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that differs from what would be generated now."""

    path: Path
    kind: str
    """``changed``, ``missing`` or ``stale``."""

    diff: str
    """Unified diff from the existing file to the generated one."""


def render(schema: Path, revisions: Sequence[str], targets: Targets) -> dict[Path, str]:
    """Return every generated file by path, for the given revisions and what they share.

    The page that compares the revisions is among them when all are named.
    """
    chosen = [read_revision(schema, name) for name in revisions]
    root = targets.package / PACKAGE
    texts = package_files(chosen, revision_names(schema), _meta_digest(schema))
    files = {root / name: text for name, text in texts.items()}
    for revision in chosen:
        origin = revision.sources["*"]
        source = f"{MARKER} from {origin.name}, sha256 {origin.digest}"
        folder = root / revision.name
        files[folder / "schema.json"] = _json(bundled_schema(revision, source))
        files[folder / "openrpc.json"] = _json(openrpc_document(revision, source))
        for name, text in reference_pages(revision).items():
            files[targets.docs / revision.name / name] = text
    if set(revision_names(schema)) <= set(revisions):
        files[targets.compatibility] = compatibility_page(chosen, recorded_names(schema))
    return dict(sorted(files.items()))


def write(files: dict[Path, str], stale: Sequence[Path]) -> list[Path]:
    """Write changed files and remove stale ones; return the paths touched."""
    touched = []
    try:
        for path, text in files.items():
            content = text.encode()
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                touched.append(path)
        for path in stale:
            path.unlink()
            touched.append(path)
    except OSError as error:
        raise CodegenError(f"cannot write {error.filename}: {error.strerror}") from None
    return touched


def stale_files(
    schema: Path, files: dict[Path, str], revisions: Sequence[str], targets: Targets
) -> list[Path]:
    """Return files of an earlier generation that would no longer be written.

    Only the folders of the revisions named are looked at, and what they share; when every revision
    is named, also folders of revisions that are gone.
    """
    everything = set(revision_names(schema)) <= set(revisions)
    root = targets.package / PACKAGE
    folders = [root / name for name in revisions] + [targets.docs / name for name in revisions]
    candidates = set(_files_below(folders, deep=True))
    candidates |= set(_files_below([root, targets.docs], deep=everything))
    return sorted(path for path in candidates - set(files) if _is_generated(path))


def compare(files: dict[Path, str], stale: Sequence[Path]) -> list[Difference]:
    """Return the differences between the generated files and the existing ones."""
    differences = []
    for path, text in files.items():
        if not path.is_file():
            differences.append(Difference(path, "missing", _diff(path, "", text)))
            continue
        present = path.read_text(encoding="utf-8", errors="replace")
        if present != text:
            differences.append(Difference(path, "changed", _diff(path, present, text)))
    for path in stale:
        present = path.read_text(encoding="utf-8", errors="replace")
        differences.append(Difference(path, "stale", _diff(path, present, "")))
    return differences


def _files_below(folders: Sequence[Path], *, deep: bool) -> Iterator[Path]:
    for folder in folders:
        paths = folder.rglob("*") if deep else folder.glob("*")
        yield from (path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def _is_generated(path: Path) -> bool:
    if path.name in _UNMARKED:
        return False
    with path.open("rb") as file:
        return MARKER.encode() in file.read(4096)


def _diff(path: Path, present: str, wanted: str) -> str:
    lines = difflib.unified_diff(
        present.splitlines(keepends=True),
        wanted.splitlines(keepends=True),
        fromfile=f"{path} (present)",
        tofile=f"{path} (generated)",
    )
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def _json(document: JsonObject) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _meta_digest(schema: Path) -> str:
    """Return the SHA-256 of the metaschemas, concatenated in alphabetical order."""
    digest = hashlib.sha256()
    for path in sorted((schema / META_DIRECTORY).glob("*.json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
