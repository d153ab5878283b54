"""The program ``codex-exec-server``, from its first moment to its last.

Clients start a server of their own over stdio and wait for it, so it is made to start fast.
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

_FAMILIES: Final = frozenset(
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
"""Of methods, and what else a client may not ask for."""


def run() -> NoReturn:
    """Run the server as a program of its own, and end it.

    Nothing is left to be cleaned up then but what the system does faster than the interpreter.
    """
    # Loading makes much that stays, and nothing that goes.
    gc.disable()
    lazy_imports.install(lazy_imports.SELDOM_USED | _FAMILIES)
    from exec_server.cli.server.main import main  # noqa: PLC0415 (what it loads is to be loaded late)

    try:
        code = main()
    except SystemExit as usage:
        code = usage.code if isinstance(usage.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
