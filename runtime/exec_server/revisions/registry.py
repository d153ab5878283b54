"""The protocol revisions that a server can serve, and their default settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.revisions.interface import BoundRevision, ConnectionContext, Revision
    from exec_server.settings import Settings

PROTOCOLS: Final = ("auto", "v0", "v1", "v2", "draft")
"""Values of ``--protocol``: all revisions together, or a single one."""


class _Unloaded:
    """A revision whose models and handlers are imported when a connection needs them."""

    def __init__(self, name: str, load: Callable[[], Revision]) -> None:
        self.name = name
        self._load = load

    def bind(self, connection: ConnectionContext) -> BoundRevision:
        """Create the handlers of one connection; see Revision."""
        return self._load().bind(connection)


def revisions_of(protocol: str) -> Sequence[Revision]:
    """Return the revisions to serve, newest first.

    The newest is imported immediately, as every connection begins with it.
    """
    if protocol == "auto":
        # The draft extends v2 and serves v2's clients, so v2 itself is not needed.
        older = (_Unloaded("v1", lambda: _v1(beside_newer=True)), _Unloaded("v0", _v0))
        return (_draft(), *older)
    load = {"draft": _draft, "v2": _v2, "v1": lambda: _v1(beside_newer=False), "v0": _v0}
    return (load[protocol](),)


def _draft() -> Revision:
    from exec_server.revisions.draft import Draft  # noqa: PLC0415

    return Draft()


def _v2() -> Revision:
    from exec_server.revisions.v2 import V2  # noqa: PLC0415

    return V2()


def _v1(*, beside_newer: bool) -> Revision:
    from exec_server.revisions.v1 import V1  # noqa: PLC0415

    return V1(beside_newer=beside_newer)


def _v0() -> Revision:
    from exec_server.revisions.v0 import V0  # noqa: PLC0415

    return V0()


def default_settings(protocol: str) -> Settings:
    """Return the default settings: the released v1 servers have other timeouts than v2."""
    from exec_server.settings import Settings  # noqa: PLC0415

    if protocol == "v1":
        return Settings(detached_seconds=10.0, retention_seconds=30.0)
    return Settings()
