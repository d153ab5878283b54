"""The ``sandbox`` of a request, as a policy of the engine.

What restricts nothing is no policy: permissions that are ``disabled`` or ``external``, and managed
ones that leave everything open. What does restrict is enforced or refused.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from exec_server.engine import path_uri
from exec_server.engine.paths import normalize
from exec_server.engine.sandbox_policy import Places, Rule, SandboxPolicy
from exec_server.errors import InvalidArgument, InvalidRequest
from exec_server_protocol.v2.sandbox import (
    DisabledPermissions,
    ExternalPermissions,
    GlobFileSystemPath,
    MinimalPlace,
    PlainFileSystemPath,
    ProjectRootsPlace,
    RestrictedFileSystem,
    RootPlace,
    SlashTmpPlace,
    TmpdirPlace,
    WorkingDirectoryPlace,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server_protocol.v2.sandbox import (
        FileSystemEntry,
        ManagedPermissions,
        Sandbox,
        SpecialPlace,
    )

_OPEN: Final = (DisabledPermissions, ExternalPermissions)
"""Permissions that are no business of this server."""


def policy_for_files(sandbox: Sandbox | None) -> SandboxPolicy | None:
    """What a file operation may touch; None if nothing restricts it.

    Raises InvalidArgument for permissions that mean nothing, InvalidRequest for what cannot be
    enforced here.
    """
    if sandbox is None or isinstance(sandbox.permissions, _OPEN):
        return None
    policy = _policy(sandbox, sandbox.permissions, None, os.environ.get("TMPDIR"))
    return None if policy.leaves_files_open else _enforceable(sandbox, policy)


def policy_for_process(
    sandbox: Sandbox | None, cwd: str, env: Mapping[str, str]
) -> SandboxPolicy | None:
    """What a process may touch that starts in ``cwd``; None if nothing restricts it.

    Raises as ``policy_for_files``.
    """
    if sandbox is None or isinstance(sandbox.permissions, _OPEN):
        return None
    policy = _policy(sandbox, sandbox.permissions, cwd, env.get("TMPDIR"))
    is_open = policy.leaves_files_open and policy.allows_network
    return None if is_open else _enforceable(sandbox, policy)


def _enforceable(sandbox: Sandbox, policy: SandboxPolicy) -> SandboxPolicy:
    if sandbox.use_legacy_landlock:
        raise InvalidRequest("sandbox: useLegacyLandlock: this server does not use Landlock")
    return policy


def _policy(
    sandbox: Sandbox, permissions: ManagedPermissions, cwd: str | None, tmpdir: str | None
) -> SandboxPolicy:
    """``cwd`` is what takes the place of a directory that the sandbox does not name."""
    allows_network = permissions.network == "enabled"
    file_system = permissions.file_system
    if not isinstance(file_system, RestrictedFileSystem):
        return SandboxPolicy((Rule("/", "write"),), allows_network=allows_network)
    places = _places(sandbox, cwd, tmpdir)
    rules: list[Rule] = []
    patterns: list[str] = []
    for entry in file_system.entries:
        match entry.path:
            case GlobFileSystemPath(pattern=pattern):
                # A pattern grants nothing, it only takes away (as in the released servers).
                if entry.access in ("deny", "none"):
                    patterns.append(_absolute(pattern, _home(sandbox), places))
            case PlainFileSystemPath(path=uri):
                rules.append(_rule(path_uri.parse(uri), entry))
            case _:
                paths = _find(entry.path.value, places)
                rules += (_rule(path, entry) for path in paths)
    return SandboxPolicy(
        tuple(rules), tuple(patterns), file_system.glob_scan_max_depth, allows_network
    )


def _rule(path: str, entry: FileSystemEntry) -> Rule:
    access = "deny" if entry.access == "none" else entry.access
    return Rule(path, access, skips_missing=entry.missing_path_behavior == "skip")


def _places(sandbox: Sandbox, cwd: str | None, tmpdir: str | None) -> Places:
    context = sandbox if sandbox.policy_context is None else sandbox.policy_context
    temporary = [path_uri.parse(uri) for uri in sandbox.temporary_directories or ()]
    if tmpdir is not None and tmpdir.startswith("/"):
        temporary.append(normalize(tmpdir))
    return Places(
        cwd=cwd if context.cwd is None else path_uri.parse(context.cwd),
        project_roots=tuple(map(path_uri.parse, context.workspace_roots)),
        temporary=tuple(dict.fromkeys(temporary)),
    )


def _find(place: SpecialPlace, places: Places) -> list[str]:
    match place:
        case RootPlace():
            return places.find("root")
        case MinimalPlace():
            return places.find("minimal")
        case TmpdirPlace():
            return places.find("tmpdir")
        case SlashTmpPlace():
            return places.find("slash_tmp")
        case ProjectRootsPlace(subpath=subpath):
            _require_cwd(places)
            return places.find("project_roots", subpath)
        case WorkingDirectoryPlace(subpath=subpath):
            _require_cwd(places)
            return places.find("current_working_directory", subpath)
        case _:
            return []


def _home(sandbox: Sandbox) -> str:
    if sandbox.user_home_dir is None:
        return os.path.expanduser("~")
    return path_uri.parse(sandbox.user_home_dir)


def _absolute(pattern: str, home: str, places: Places) -> str:
    if pattern.startswith("~/"):
        pattern = home + pattern[1:]
    if not pattern.startswith("/"):
        pattern = f"{_require_cwd(places)}/{pattern}"
    return normalize(pattern)


def _require_cwd(places: Places) -> str:
    if places.cwd is None:
        raise InvalidArgument("file system sandbox context with dynamic permissions requires cwd")
    return places.cwd


def refuse_for_files(sandbox: Sandbox | None) -> None:
    """Return if the sandbox restricts no file operation; raises InvalidRequest if it does."""
    if policy_for_files(sandbox) is not None:
        raise InvalidRequest(
            "sandbox: its permissions restrict the file system, which this server cannot enforce"
        )
