"""The ``sandbox`` of a request: run what is unrestricted, refuse what cannot be enforced.

Ignoring a restriction would run with more rights than the client meant to give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec_server.errors import InvalidRequest
from exec_server_protocol.v2.sandbox import (
    ManagedPermissions,
    RootPlace,
    SpecialFileSystemPath,
    UnrestrictedFileSystem,
)

if TYPE_CHECKING:
    from exec_server_protocol.v2.sandbox import FileSystemAccess, FileSystemEntry, Sandbox


def refuse_for_files(sandbox: Sandbox | None) -> None:
    """Return if the sandbox restricts no file operation; raises InvalidRequest if it does."""
    if sandbox is None or not isinstance(sandbox.permissions, ManagedPermissions):
        return
    if not _leaves_files_open(sandbox.permissions.file_system):
        raise _refusal("its permissions restrict the file system")


def refuse_for_process(sandbox: Sandbox | None) -> None:
    """Return if the sandbox restricts no process; raises InvalidRequest if it does."""
    refuse_for_files(sandbox)
    if (
        sandbox is not None
        and isinstance(sandbox.permissions, ManagedPermissions)
        and sandbox.permissions.network != "enabled"
    ):
        raise _refusal("its permissions restrict the network")


def _leaves_files_open(file_system: FileSystemAccess) -> bool:
    if isinstance(file_system, UnrestrictedFileSystem):
        return True
    entries = file_system.entries
    return any(map(_is_root, entries)) and all(entry.access == "write" for entry in entries)


def _is_root(entry: FileSystemEntry) -> bool:
    return isinstance(entry.path, SpecialFileSystemPath) and isinstance(entry.path.value, RootPlace)


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest(f"sandbox: {why}, which this server cannot enforce")
