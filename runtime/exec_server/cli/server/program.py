"""Entry point of the program ``codex-exec-server``.

Clients that start a server for themselves wait for it, so start-up time matters.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING, Final

from exec_server import lazy_imports

if TYPE_CHECKING:
    from typing import NoReturn

_HANDLERS: Final = frozenset(
    (
        "exec_server.engine.processes.pty",
        "exec_server.revisions.draft.process",
        "exec_server.revisions.v1.filesystem",
        "exec_server.revisions.v1.http",
        "exec_server.revisions.v1.process",
        "exec_server.revisions.v2.capabilities",
        "exec_server.revisions.v2.config",
        "exec_server.revisions.v2.filesystem",
        "exec_server.revisions.v2.http",
        "exec_server.revisions.v2.process",
        "exec_server.revisions.v2.sandbox",
    )
)
"""Modules of methods that a client may not use."""


def run() -> NoReturn:
    """Run the server and exit.

    Skips the interpreter's clean-up, which the operating system does faster.
    """
    # Imports create only long-lived objects, so the collector is off meanwhile.
    gc.disable()
    lazy_imports.install(lazy_imports.SELDOM_USED | _HANDLERS)
    from exec_server.cli.server.main import main  # noqa: PLC0415 (after lazy imports are installed)

    try:
        code = main()
    except SystemExit as usage:
        code = usage.code if isinstance(usage.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
