"""Which revisions of the protocol a server speaks, and what they take for granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.connection import Revision
    from exec_server.settings import Settings

PROTOCOLS: Final = ("auto", "v0", "v1", "v2", "draft")
"""What a server can be told to speak: every revision at once, or one alone."""


def revisions_of(protocol: str) -> Sequence[Revision]:
    """The revisions to speak, newest first; loads their models."""
    revisions: list[Revision] = []
    if protocol in ("auto", "draft"):
        # Extends v2, whose clients find in it what they know, down to the last member.
        from exec_server.handlers.draft import Draft  # noqa: PLC0415

        revisions.append(Draft())
    if protocol == "v2":
        from exec_server.handlers.v2 import V2  # noqa: PLC0415

        revisions.append(V2())
    if protocol in ("auto", "v1"):
        from exec_server.handlers.v1 import V1  # noqa: PLC0415

        revisions.append(V1(beside_newer=protocol == "auto"))
    if protocol in ("auto", "v0"):
        from exec_server.handlers.v0 import V0  # noqa: PLC0415

        revisions.append(V0())
    return revisions


def default_settings(protocol: str) -> Settings:
    """How long sessions and closed processes are kept where nobody says otherwise."""
    from exec_server.settings import Settings  # noqa: PLC0415

    if protocol == "v1":
        return Settings(detached_seconds=10.0, retention_seconds=30.0)
    return Settings()
