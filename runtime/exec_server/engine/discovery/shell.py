"""The default shell for commands (environment/info)."""

from __future__ import annotations

import os
import pwd
import shutil
from typing import Final

import msgspec

_KNOWN_SHELLS: Final = ("bash", "zsh", "sh")
"""Shells whose command-line syntax clients rely on."""


class Shell(msgspec.Struct, frozen=True):
    """Name and path of a shell."""

    name: str
    """``bash``, ``zsh`` or ``sh``."""
    path: str
    """Absolute native path."""


def login_shell() -> Shell:
    """Return the login shell of the server's user, whatever $SHELL says (v1 environment/info).

    Without a passwd entry, or if its shell does not exist or is not a known one (a nologin program,
    fish), return bash if it is installed, else sh.
    """
    try:
        path = pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        path = ""
    name = os.path.basename(path)
    if name in _KNOWN_SHELLS and os.path.isabs(path) and os.path.isfile(path):
        return Shell(name, path)
    bash = shutil.which("bash") or shutil.which("bash", path=os.defpath)
    if bash is not None and os.path.isabs(bash):
        return Shell("bash", bash)
    return Shell("sh", "/bin/sh")
