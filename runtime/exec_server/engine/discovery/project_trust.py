"""Project roots and trust in a project's configuration (v2 environmentConfig/read).

The author of a repository controls its files. A project's configuration is used only if the user's
own configuration says ``trust_level = "trusted"`` for the directory, the project's root, or the
repository of the working tree.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from exec_server.engine import paths
from exec_server.engine.files import operations as files
from exec_server.engine.files.text_file import read_text
from exec_server.engine.paths import MAX_PATH_BYTES
from exec_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TrustLevel = Literal["trusted", "untrusted"]


_MAX_POINTER_BYTES: Final = 2 * MAX_PATH_BYTES
"""Maximum size of a git file that names a directory."""


class Checkout(msgspec.Struct, frozen=True):
    """A git working tree."""

    root: str
    repository: str | None
    """Root of the repository's main working tree: ``root`` itself unless it is a linked one. None
    if ``.git`` does not refer to the repository of a working tree."""

    def main_counterpart(self, directory: str) -> str | None:
        """Return this directory in the main working tree; None if ``root`` is the main one."""
        if self.repository is None or self.repository == self.root:
            return None
        if not f"{directory}/".startswith(f"{self.root}/"):
            return None
        return self.repository + directory.removeprefix(self.root)


class Project(msgspec.Struct, frozen=True):
    """The project of a working directory, and the trust levels set by the user."""

    root: str
    """Nearest directory with a marker, or the working directory if there is none."""
    checkout: Checkout | None
    levels: Mapping[str, TrustLevel]
    """Trust levels by path, from the user's configuration."""

    def trusts(self, directory: str) -> bool:
        """Return True if this directory may configure; the most specific level wins."""
        repository = None if self.checkout is None else self.checkout.repository
        for place in (directory, self.root, repository):
            for name in () if place is None else _names(place):
                level = self.levels.get(name)
                if level is not None:
                    return level == "trusted"
        return False


def find_project(cwd: str, markers: Iterable[str], levels: Mapping[str, TrustLevel]) -> Project:
    """Find the project that a directory, which need not exist, belongs to.

    ``markers`` are names of files or directories; a project's root has at least one of them.
    """
    names = [name for name in markers if "\0" not in name]
    root = next(
        (
            directory
            for directory in ancestors(cwd)
            if any(_is_marked(directory, name) for name in names)
        ),
        cwd,
    )
    return Project(root, _find_checkout(cwd), levels)


def ancestors(path: str) -> Iterable[str]:
    """Yield the path and all directories above it, up to the root."""
    above: str | None = path
    while above is not None:
        yield above
        above = paths.parent(above)


def _find_checkout(cwd: str) -> Checkout | None:
    for directory in ancestors(cwd):
        if _is_marked(directory, ".git"):
            return Checkout(directory, _main_tree(directory))
    return None


def _main_tree(root: str) -> str | None:
    """Return the main working tree of a working tree's repository.

    The ``.git`` of a linked tree is a file that names a directory in the main tree's
    ``.git/worktrees``. That directory must refer back to the tree, otherwise any directory could
    claim to belong to a trusted repository.
    """
    dot_git = f"{root}/.git"
    if _is_directory(dot_git):
        return root
    try:
        key, _, private = _read_pointer(dot_git).partition(":")
        private = files.canonicalize(paths.join(root, private.strip()))
        common = files.canonicalize(paths.join(private, _read_pointer(f"{private}/commondir")))
        known = paths.join(private, _read_pointer(f"{private}/gitdir"))
        is_known = files.canonicalize(known) == files.canonicalize(dot_git)
    except (OSError, EngineError, UnicodeDecodeError):
        return None
    main, name = os.path.split(common)
    if (
        key == "gitdir"
        and is_known
        and name == ".git"
        and os.path.dirname(private) == f"{common}/worktrees"
    ):
        return main
    return None


def _read_pointer(path: str) -> str:
    return read_text(path, _MAX_POINTER_BYTES).strip()


def _names(path: str) -> Iterable[str]:
    """Yield the names of a path in the configuration, the resolved one first."""
    with contextlib.suppress(OSError):
        yield paths.displayable(files.canonicalize(path))
    yield paths.displayable(path)


def _is_marked(directory: str, name: str) -> bool:
    """Return True if a directory has this entry; a directory ``.git`` must contain a repository."""
    entry = f"{directory}/{name}"
    if name == ".git" and _is_directory(entry):
        entry += "/HEAD"
    return os.path.exists(paths.to_native(entry))


def _is_directory(path: str) -> bool:
    return os.path.isdir(paths.to_native(path))
