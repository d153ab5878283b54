"""Options of the program, after the command line was parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server.cli.server.listen_options import ListenConfig


class ServerOptions(msgspec.Struct, frozen=True):
    """Options of ``codex-exec-server``; the defaults are those of an empty command line."""

    protocol: str = "auto"
    """One of ``registry.PROTOCOLS``."""
    listen: ListenConfig | None = None
    """Configuration of the listener; None to serve one client on stdin and stdout."""
    settings: Mapping[str, Any] | None = None
    """Fields of Settings that differ from the revision's defaults."""
    exit_on_stdin_close: bool = False
    """True if a listening server stops at the end of stdin."""
    verbose: bool = False
    """True to log connections that end with an error."""
