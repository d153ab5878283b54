"""Entries of writable directories that remain read-only, and the repositories of worktrees.

Their contents determine what other programs do later, for instance the hooks of a Git repository
(v2 sandbox).
"""

from __future__ import annotations

import os
from typing import Final

from exec_server.engine.files.regular_file import open_regular
from exec_server.engine.paths import from_native
from exec_server.errors import InvalidRequest

PROTECTED_NAMES: Final = (".git", ".agents", ".codex", ".aws")
"""Entries of a writable directory that remain read-only unless a rule names them. They are not
protected where the whole file system is writable."""

_MAX_GITDIR_BYTES: Final = 8192
"""Bytes read of a ``.git`` file: twice PATH_MAX, more than its only line can have."""


def find_git_directory(path: str) -> str | None:
    """Return the repository to which a ``.git`` file refers (gitrepository-layout), if any.

    Raises InvalidRequest if the file cannot be read without blocking.
    """
    try:
        descriptor = open_regular(path, "read", follow_symlinks=False)
    except BlockingIOError:
        raise InvalidRequest(
            f"sandbox: {path} cannot be read to protect its repository, because another process "
            "holds a lease on it"
        ) from None
    except PermissionError:
        return None  # not readable from within the sandbox either
    except (OSError, InvalidRequest) as error:
        raise InvalidRequest(
            f"sandbox: {path} cannot be read to protect its repository: {error}"
        ) from error
    with open(descriptor, "rb") as file:
        line = file.readline(_MAX_GITDIR_BYTES)
    word, _, target = line.rstrip(b"\r\n").partition(b": ")
    if word != b"gitdir" or not target:
        return None
    return os.path.join(os.path.dirname(path), from_native(target))
