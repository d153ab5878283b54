"""The program ``exec-server``, which loads late what few of its commands use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exec_server import late_modules

if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """Run the command line as a program of its own."""
    late_modules.install(late_modules.SELDOM_USED)
    late_modules.load_msgspec()
    from exec_server.command.main import main  # noqa: PLC0415 (what it loads is to be loaded late)

    sys.exit(main())
