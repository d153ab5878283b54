"""Paths of the server's machine as operands of commands."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from exec_server.cli.client.exit_codes import CommandError

if TYPE_CHECKING:
    from exec_server.client import Client

REMOTE_MARK: Final = ":"
"""Prefix of a remote path where local paths are possible too."""

HOME_MARK: Final = "~"
"""First component that stands for the home directory of the server's user."""


async def remote_path(client: Client, path: str) -> str:
    """Return an absolute remote path; relative ones are joined to the server's directory."""
    if posixpath.isabs(path):
        return path
    first, _, rest = path.partition("/")
    environment = await client.environment()
    base, path = (environment.home, rest) if first == HOME_MARK else (environment.cwd, path)
    if base is None:
        shown = path or "."
        raise CommandError(f"{shown}: the server reports no directory; use an absolute path")
    return posixpath.normpath(posixpath.join(base, path))
