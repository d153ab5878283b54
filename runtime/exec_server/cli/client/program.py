"""Entry point of ``exec-server``, which imports rarely used modules lazily."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exec_server import lazy_imports

if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """Run the command line and exit."""
    lazy_imports.install(lazy_imports.SELDOM_USED)
    lazy_imports.load_msgspec()
    from exec_server.cli.client.main import main  # noqa: PLC0415 (what it loads is to be loaded late)

    sys.exit(main())
