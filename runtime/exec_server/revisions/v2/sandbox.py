"""Conversion of the ``sandbox`` of a request to a policy of the engine.

Permissions that are ``disabled`` or ``external``, and managed ones without restrictions, give no
policy. Restrictions are enforced or refused.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeAlias

from exec_server.engine import path_uri
from exec_server.engine.native_text import environment
from exec_server.engine.paths import normalize
from exec_server.engine.sandbox.policy import (
    MAX_RULES,
    Rule,
    SandboxPolicy,
    SpecialPaths,
    check_number,
)
from exec_server.errors import InvalidArgument, InvalidRequest
from exec_server.revisions.file_rules import EntryReader
from exec_server_protocol.v2.sandbox import (
    DisabledPermissions,
    ExternalPermissions,
    RestrictedFileSystem,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exec_server_protocol.v2.sandbox import ManagedPermissions, Sandbox

ReadPath: TypeAlias = "Callable[[str, str], str]"

_OPEN: Final = (DisabledPermissions, ExternalPermissions)
"""Permissions that this server does not have to enforce."""


def policy_for_files(sandbox: Sandbox | None) -> SandboxPolicy | None:
    """Return the policy of a file operation; None if it is unrestricted.

    Raises InvalidArgument for invalid permissions, InvalidRequest for those that cannot be
    enforced.
    """
    if sandbox is None or isinstance(sandbox.permissions, _OPEN):
        return None
    policy = _policy(
        sandbox, sandbox.permissions, None, environment().get("TMPDIR"), read_path=_path_for_files
    )
    return None if policy.leaves_files_open else _enforceable(sandbox, policy)


def policy_for_process(sandbox: Sandbox, cwd: str, env: Mapping[str, str]) -> SandboxPolicy | None:
    """Return the policy of a process that starts in ``cwd``; None if it is unrestricted.

    Raises as ``policy_for_files``; the paths of other systems are malformed here.
    """
    if sandbox.windows_sandbox_level == "mxc":
        error = InvalidArgument("native MXC is unavailable on this executor")
        error.kind = "sandboxUnavailable"
        raise error
    if isinstance(sandbox.permissions, _OPEN):
        return None
    try:
        policy = _policy(
            sandbox, sandbox.permissions, cwd, env.get("TMPDIR"), read_path=_path_for_process
        )
    except InvalidArgument as error:
        error.kind = "sandboxPreparation"
        raise
    is_open = policy.leaves_files_open and policy.allows_network
    return None if is_open else _enforceable(sandbox, policy)


def _enforceable(sandbox: Sandbox, policy: SandboxPolicy) -> SandboxPolicy:
    if sandbox.use_legacy_landlock:
        raise InvalidRequest("sandbox: useLegacyLandlock: this server does not use Landlock")
    return policy


def _path_for_files(uri: str, _role: str) -> str:
    return path_uri.parse(uri)


def _path_for_process(uri: str, role: str) -> str:
    try:
        return path_uri.parse(uri)
    except InvalidRequest as error:
        raise InvalidArgument(
            f"failed to prepare process sandbox: invalid sandbox {role}: {error}"
        ) from None


def _policy(
    sandbox: Sandbox,
    permissions: ManagedPermissions,
    cwd: str | None,
    tmpdir: str | None,
    *,
    read_path: ReadPath,
) -> SandboxPolicy:
    """Read the policy; ``cwd`` is used where the sandbox names no working directory.

    ``read_path`` converts a URI to a native path; its second argument is the role of the path.
    """
    allows_network = permissions.network == "enabled"
    file_system = permissions.file_system
    if not isinstance(file_system, RestrictedFileSystem):
        return SandboxPolicy((Rule("/", "write"),), allows_network=allows_network)
    reader = EntryReader(
        places=_places(sandbox, cwd, tmpdir, read_path),
        home=_home(sandbox, read_path),
        read_path=lambda uri: read_path(uri, "permission path"),
        no_cwd=InvalidArgument("file system sandbox context with dynamic permissions requires cwd"),
    )
    rules, patterns = reader.rules(file_system.entries)
    return SandboxPolicy(rules, patterns, file_system.glob_scan_max_depth, allows_network)


def _places(
    sandbox: Sandbox, cwd: str | None, tmpdir: str | None, read_path: ReadPath
) -> SpecialPaths:
    context = sandbox if sandbox.policy_context is None else sandbox.policy_context
    check_number("workspace roots", len(context.workspace_roots), MAX_RULES)
    check_number("temporary directories", len(sandbox.temporary_directories or ()), MAX_RULES)
    temporary = [
        read_path(uri, "temporary directory") for uri in sandbox.temporary_directories or ()
    ]
    if tmpdir is not None and tmpdir.startswith("/"):
        temporary.append(normalize(tmpdir))
    return SpecialPaths(
        cwd=cwd if context.cwd is None else read_path(context.cwd, "policy cwd"),
        project_roots=tuple(read_path(uri, "workspace root") for uri in context.workspace_roots),
        temporary=tuple(dict.fromkeys(temporary)),
    )


def _home(sandbox: Sandbox, read_path: ReadPath) -> str:
    if sandbox.user_home_dir is None:
        return os.path.expanduser("~")
    return read_path(sandbox.user_home_dir, "user home directory")
