"""Operations of the client in the shapes of each protocol revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from exec_server.client.revisions.base import Revision
    from exec_server_protocol.caller import Caller


def make_revision(name: str, caller: Caller, environment_info: msgspec.Raw) -> Revision:
    """The revision of that name; loads its models and no others.

    ``environment_info`` is what the server told of its environment, or null.
    """
    if name == "draft":
        from exec_server.client.revisions.draft import Draft  # noqa: PLC0415

        return Draft(caller, environment_info)
    if name == "v2":
        from exec_server.client.revisions.v2 import V2  # noqa: PLC0415

        return V2(caller, environment_info)
    if name == "v1":
        from exec_server.client.revisions.v1 import V1  # noqa: PLC0415

        return V1(caller)
    from exec_server.client.revisions.v0 import V0  # noqa: PLC0415

    return V0(caller)


DRAFT_FLAGS: Final = frozenset(
    (
        "processResize",
        "processCloseStdin",
        "processTerminateMode",
        "processSnapshot",
        "processList",
    )
)
"""Capabilities of the draft that the client has a use for; each is used where its flag is true."""


class _EnvironmentInfo(msgspec.Struct):
    capabilities: dict[str, object] = {}


def newest_with(environment_info: msgspec.Raw) -> str:
    """Return ``draft`` or ``v2``, by the capabilities that a server reports."""
    try:
        flags = msgspec.json.decode(environment_info, type=_EnvironmentInfo).capabilities
    except msgspec.ValidationError:
        return "v2"
    return "draft" if any(flags.get(flag) is True for flag in DRAFT_FLAGS) else "v2"
