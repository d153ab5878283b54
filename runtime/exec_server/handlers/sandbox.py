"""The ``sandbox`` object of a request: run what is unrestricted, refuse what cannot be enforced.

Three shapes have been sent over time (codex 0.121, 0.124, from 0.128); the object is taken as it
comes and only one question is asked: does it restrict anything? Ignoring a restriction would run
with more rights than the client meant to give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exec_server.errors import InvalidArgument, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPEN_PROFILES: Final = frozenset(("disabled", "external"))
_OPEN_POLICIES: Final = frozenset(("danger-full-access", "external-sandbox"))


def refuse_restrictive(sandbox: Mapping[str, Any] | None) -> None:
    """Return if the sandbox restricts nothing here.

    Raises InvalidRequest if it restricts something, InvalidArgument if it says neither.
    """
    if sandbox is None:
        return
    if "permissions" in sandbox:
        _check_permissions(sandbox["permissions"])
    elif "sandboxPolicy" in sandbox:
        policy = _object(sandbox["sandboxPolicy"], "sandbox.sandboxPolicy")
        kind = policy.get("type")
        if kind not in _OPEN_POLICIES:
            raise _refusal(f"sandboxPolicy type {kind!r}")
    else:
        raise InvalidArgument("sandbox: missing field `permissions`")


def _check_permissions(value: object) -> None:
    permissions = _object(value, "sandbox.permissions")
    kind = permissions.get("type")
    if kind in _OPEN_PROFILES:
        return
    if kind not in (None, "managed"):
        raise InvalidArgument(
            f"sandbox.permissions.type: expected `managed`, `disabled` or `external`, got {kind!r}"
        )
    if not _leaves_files_open(permissions.get("file_system")):
        raise _refusal("permissions restrict the file system")


def _leaves_files_open(file_system: object) -> bool:
    """Whether every path may be written; the network does not matter to file calls."""
    if not isinstance(file_system, dict):
        return False
    if file_system.get("type") == "unrestricted":
        return True
    entries = file_system.get("entries")
    return (
        isinstance(entries, list)
        and any(_opens_root(entry) for entry in entries)
        and all(isinstance(entry, dict) and entry.get("access") == "write" for entry in entries)
    )


def _opens_root(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("path") == {
        "type": "special",
        "value": {"kind": "root"},
    }


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: expected an object")
    return value


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest(f"sandbox: {why}, which this server cannot enforce")
