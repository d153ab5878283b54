"""Conversion of the ``sandbox`` of v1's file methods to a policy of the engine.

Clients have sent three shapes over time, all with native paths: a ``sandboxPolicy`` (codex 0.121),
``permissions`` with lists of readable and writable paths (0.124), and typed ``permissions`` as in
v2 (from 0.128). Unrestricted permissions give no policy; restrictions are enforced or refused.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from exec_server.engine.native_text import environment
from exec_server.engine.paths import normalize
from exec_server.engine.sandbox.policy import (
    MINIMAL_PATHS,
    Rule,
    SandboxPolicy,
    SpecialPaths,
    bounded,
)
from exec_server.errors import InvalidArgument, InvalidRequest
from exec_server.revisions.file_rules import EntryReader
from exec_server_protocol.v2.sandbox import (
    DisabledPermissions,
    ExternalPermissions,
    GlobFileSystemPath,
    NetworkAccess,
    SpecialFileSystemPath,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")


class _NativePath(msgspec.Struct, frozen=True, tag_field="type", tag="path"):
    path: str


class _Entry(msgspec.Struct, frozen=True):
    path: _NativePath | GlobFileSystemPath | SpecialFileSystemPath
    access: Literal["read", "write", "deny", "none"]
    missing_path_behavior: Literal["skip"] | None = None


# From 0.128


class _Unrestricted(msgspec.Struct, frozen=True, tag_field="type", tag="unrestricted"):
    pass


class _Restricted(msgspec.Struct, frozen=True, tag_field="type", tag="restricted"):
    entries: list[_Entry]
    glob_scan_max_depth: int | None = None


class _Managed(msgspec.Struct, frozen=True, tag_field="type", tag="managed"):
    file_system: _Unrestricted | _Restricted
    network: NetworkAccess


_Permissions: TypeAlias = DisabledPermissions | ExternalPermissions | _Managed


# 0.124


class _ListedFiles(msgspec.Struct, frozen=True):
    entries: list[_Entry] = []  # msgspec copies it
    read: list[str] | None = None
    write: list[str] | None = None


class _Profile(msgspec.Struct, frozen=True):
    file_system: _ListedFiles | None = None


# 0.121


class _FullAccess(msgspec.Struct, frozen=True, tag_field="type", tag="full-access"):
    pass


class _SomeAccess(msgspec.Struct, frozen=True, tag_field="type", tag="restricted"):
    include_platform_defaults: bool = True
    readable_roots: list[str] = []


class _ReadOnly(msgspec.Struct, frozen=True, tag_field="type", tag="read-only"):
    access: _FullAccess | _SomeAccess = _FullAccess()


class _WorkspaceWrite(msgspec.Struct, frozen=True, tag_field="type", tag="workspace-write"):
    writable_roots: list[str] = []
    read_only_access: _FullAccess | _SomeAccess = _FullAccess()
    exclude_tmpdir_env_var: bool = False
    exclude_slash_tmp: bool = False


class _DangerFullAccess(msgspec.Struct, frozen=True, tag_field="type", tag="danger-full-access"):
    pass


class _ExternalSandbox(msgspec.Struct, frozen=True, tag_field="type", tag="external-sandbox"):
    pass


_Policy: TypeAlias = _ReadOnly | _WorkspaceWrite | _DangerFullAccess | _ExternalSandbox

_OPEN: Final = (DisabledPermissions, ExternalPermissions, _DangerFullAccess, _ExternalSandbox)
"""Permissions that this server does not have to enforce."""


def policy_of(sandbox: Mapping[str, Any] | None) -> SandboxPolicy | None:
    """Return the policy of a file operation; None if it is unrestricted.

    Raises InvalidArgument for a sandbox of unknown shape, InvalidRequest for one that cannot be
    enforced.
    """
    if sandbox is None:
        return None
    if "permissions" in sandbox:
        policy = _policy_of_permissions(sandbox["permissions"], sandbox.get("cwd"))
    elif "sandboxPolicy" in sandbox:
        policy = _policy_of_policy(sandbox["sandboxPolicy"])
    else:
        raise InvalidArgument("sandbox: missing field `permissions`")
    if policy is None or policy.leaves_files_open:
        return None
    if sandbox.get("useLegacyLandlock"):
        raise InvalidRequest("sandbox: useLegacyLandlock: this server does not use Landlock")
    return policy


def _policy_of_permissions(permissions: object, cwd: object) -> SandboxPolicy | None:
    reader = _reader(cwd)
    if isinstance(permissions, dict) and "type" in permissions:
        typed: Any = _convert(permissions, _Permissions, "permissions")
        if isinstance(typed, _OPEN):
            return None
        if isinstance(typed.file_system, _Unrestricted):
            return SandboxPolicy((Rule("/", "write"),))
        rules, patterns = reader.rules(typed.file_system.entries)
        return SandboxPolicy(rules, patterns, typed.file_system.glob_scan_max_depth)
    listed = _convert(permissions, _Profile, "permissions").file_system or _ListedFiles()
    rules, patterns = reader.rules(listed.entries)
    reading = (Rule(normalize(path), "read") for path in listed.read or ())
    writing = (Rule(normalize(path), "write") for path in listed.write or ())
    return SandboxPolicy(bounded(itertools.chain(rules, reading, writing)), patterns)


def _policy_of_policy(value: object) -> SandboxPolicy | None:
    policy: Any = _convert(value, _Policy, "sandboxPolicy")
    if isinstance(policy, _OPEN):
        return None
    if isinstance(policy, _ReadOnly):
        return SandboxPolicy(bounded(_readable(policy.access)))
    # The shape has no working directory, so the server's own is meant.
    writable = [*policy.writable_roots, os.getcwd()]
    if not policy.exclude_slash_tmp:
        writable.append("/tmp")  # noqa: S108  # the directory itself is meant
    if not policy.exclude_tmpdir_env_var:
        writable += _temporary()
    rules = (Rule(normalize(path), "write") for path in writable)
    return SandboxPolicy(bounded(itertools.chain(_readable(policy.read_only_access), rules)))


def _readable(access: _FullAccess | _SomeAccess) -> Iterable[Rule]:
    if isinstance(access, _FullAccess):
        return [Rule("/", "read")]
    defaults = MINIMAL_PATHS if access.include_platform_defaults else ()
    return (Rule(normalize(path), "read") for path in (*access.readable_roots, *defaults))


def _reader(cwd: object) -> EntryReader:
    if cwd is not None and not isinstance(cwd, str):
        raise InvalidArgument("sandbox.cwd: expected an absolute path or null")
    directory = None if cwd is None else normalize(cwd)
    return EntryReader(
        places=SpecialPaths(directory, () if directory is None else (directory,), _temporary()),
        home=os.path.expanduser("~"),
        read_path=normalize,
        no_cwd=InvalidRequest("file system sandbox context with dynamic permissions requires cwd"),
    )


def _temporary() -> tuple[str, ...]:
    tmpdir = environment().get("TMPDIR", "")
    return (normalize(tmpdir),) if tmpdir.startswith("/") else ()


def _convert(value: object, shape: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"sandbox.{where}: {error}") from None
