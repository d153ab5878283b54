"""Connection options, and the handshake that opens a session and selects its revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from exec_server.client.errors import METHOD_NOT_FOUND, ConnectFailed, MethodUnknown, ServerError
from exec_server.client.revisions import make_revision, newest_with

if TYPE_CHECKING:
    from exec_server.client.revisions.base import Revision
    from exec_server.client.rpc import RpcConnection
    from exec_server_protocol.caller import Caller

RevisionName: TypeAlias = Literal["auto", "v0", "v1", "v2", "draft"]
"""Protocol revision to use; ``auto`` selects the newest one that the server supports."""

CONNECT_SECONDS: Final = 10.0
INITIALIZE_SECONDS: Final = 10.0
"""Default time limits for a connection and for the handshake after it."""

RESUME_SECONDS: Final = 30.0
"""Default time limit for resuming; the real servers keep a detached session 10 to 80 seconds."""


_REFUSALS: Final = frozenset((METHOD_NOT_FOUND, -32600, -32602))
"""Codes of a server that does not accept the method or its params: method not found, invalid
request, invalid params. Any other error is about the file."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Connection options; see ``exec_server.client.connect``."""

    client_name: str
    revision: RevisionName
    session_id: str | None
    connect_timeout: float
    initialize_timeout: float
    resume_timeout: float
    request_timeout: float | None = None
    max_message_bytes: int | None = None


class InitializeResult(msgspec.Struct, rename="camel"):
    """Result of initialize, with the members of every revision."""

    session_id: str | None = None
    protocol_version: str | None = None
    environment_info: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def has_environment(self) -> bool:
        """True if the result describes the server's environment, from codex 0.150 on."""
        return bytes(self.environment_info) != b"null"


class _InitializeParams(msgspec.Struct, rename="camel"):
    """Params of initialize, the same in every revision; v0 ignores the second member."""

    client_name: str
    resume_session_id: str | None


class _Empty(msgspec.Struct):
    """Params without members, or a result of which no member is used."""


_PROBE_METHOD: Final = "fs/walk"
_PROBE_PARAMS: Final = {
    "path": "file:///",
    "options": {
        "maxDepth": 0,
        "maxDirectories": 1,
        "maxEntries": 1,
        "followDirectorySymlinks": False,
    },
}
"""The smallest walk: a v2 server lists at most one entry or reports an error other than
METHOD_NOT_FOUND. The method came with v2."""


async def initialize(
    connection: RpcConnection, options: Options, session_id: str | None
) -> InitializeResult:
    """Send initialize, to resume ``session_id`` if one is given."""
    params = _InitializeParams(options.client_name, session_id)
    return await connection.request("initialize", params, InitializeResult)


async def confirm(connection: RpcConnection) -> None:
    """Send the notification that ends the handshake."""
    await connection.notify("initialized", _Empty())


async def select_revision(
    connection: RpcConnection,
    caller: Caller,
    result: InitializeResult,
    requested: RevisionName,
    target: str,
) -> Revision:
    """Return the revision to use over ``caller``.

    Raises ConnectFailed if ``target`` does not support the requested revision, or is not an
    exec-server.
    """
    newest = await _newest_revision(connection, result, target)
    if requested == "auto":
        name = newest
    elif requested == newest or await _is_supported(connection, result, requested, newest):
        name = requested
    else:
        raise ConnectFailed(f"{target} does not support revision {requested}, only {newest}")
    return make_revision(name, caller, result.environment_info)


async def _newest_revision(connection: RpcConnection, result: InitializeResult, target: str) -> str:
    """Return the newest revision of the server, by its result of initialize.

    Only v0 names a protocol version and no session. The environment came with v2, and its
    capabilities distinguish the draft. Otherwise a method that came with v2 is tried.
    """
    if result.has_environment:
        return newest_with(result.environment_info)
    if result.session_id is None:
        if result.protocol_version is None:
            raise ConnectFailed(f"{target} is not an exec-server")
        return "v0"
    return "v2" if await _has_method(connection, _PROBE_METHOD, _PROBE_PARAMS) else "v1"


async def _is_supported(
    connection: RpcConnection, result: InitializeResult, requested: str, newest: str
) -> bool:
    """True if a server also supports a revision older than its newest one.

    This project's server takes the messages of every revision unless it is pinned to one. codex
    supports one revision per release, except that 0.141 takes the paths of v1 and of v2.
    """
    if requested == "draft" or (requested == "v2" and newest != "draft"):
        return False
    if requested == "v2":
        return True
    if requested == "v1":
        return newest != "v0" and await _takes_native_paths(connection)
    return await _has_method(connection, "command/exec/terminate", {"sessionId": ""})


async def _takes_native_paths(connection: RpcConnection) -> bool:
    """True if fs/getMetadata takes a native path, as in v1; v2 takes URIs only."""
    try:
        await connection.request("fs/getMetadata", {"path": "/"}, _Empty)
    except ServerError as error:
        return error.code not in _REFUSALS
    return True


async def _has_method(connection: RpcConnection, method: str, params: Any) -> bool:
    try:
        await connection.request(method, params, _Empty)
    except MethodUnknown:
        return False
    except ServerError:
        return True
    return True
