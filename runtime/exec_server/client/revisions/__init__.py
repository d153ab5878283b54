"""What the client needs of a server, in the shapes of each revision of the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import msgspec

    from exec_server.client.revisions.base import Revision
    from exec_server_protocol.caller import Caller


def make_revision(name: str, caller: Caller, environment_info: msgspec.Raw) -> Revision:
    """The revision of that name; loads its models and no others.

    ``environment_info`` is what the server told of its environment, or null.
    """
    if name == "v2":
        from exec_server.client.revisions.v2 import V2  # noqa: PLC0415

        return V2(caller, environment_info)
    if name == "v1":
        from exec_server.client.revisions.v1 import V1  # noqa: PLC0415

        return V1(caller)
    from exec_server.client.revisions.v0 import V0  # noqa: PLC0415

    return V0(caller)
