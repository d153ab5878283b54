"""Whose project it is: where a project begins, and whether its configuration may be used.

A project's files come from whoever wrote the repository. They configure something only where the
user's own configuration says ``trust_level = "trusted"`` for the directory, for the project's root,
or for the repository that it is checked out of (v2 environmentConfig/read).
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
"""Largest file of git that names a directory."""


class Checkout(msgspec.Struct, frozen=True):
    """A working tree of git."""

    root: str
    repository: str | None
    """Root of the repository's main working tree: ``root`` itself unless it is a linked one. None
    where ``.git`` leads nowhere, or to something else than a working tree's repository."""

    def main_counterpart(self, directory: str) -> str | None:
        """Where the main working tree has this directory of a linked one; None in the main one."""
        if self.repository is None or self.repository == self.root:
            return None
        if not f"{directory}/".startswith(f"{self.root}/"):
            return None
        return self.repository + directory.removeprefix(self.root)


class Project(msgspec.Struct, frozen=True):
    """The project of a working directory, and what the user thinks of it."""

    root: str
    """Begins where the nearest marker is, or at the working directory where there is none."""
    checkout: Checkout | None
    levels: Mapping[str, TrustLevel]
    """By path, as the user's configuration has them."""

    def trusts(self, directory: str) -> bool:
        """Whether what this directory says may be used; the most special level counts."""
        repository = None if self.checkout is None else self.checkout.repository
        for place in (directory, self.root, repository):
            for name in () if place is None else _names(place):
                level = self.levels.get(name)
                if level is not None:
                    return level == "trusted"
        return False


def find_project(cwd: str, markers: Iterable[str], levels: Mapping[str, TrustLevel]) -> Project:
    """Find the project that a directory, which need not exist, belongs to.

    ``markers`` are names of files or directories of which a project's root has at least one.
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
    """The main working tree of the repository that a working tree belongs to.

    A linked tree's ``.git`` is a file, which names a directory of its own in the main tree's
    ``.git/worktrees``. The repository must know of the tree: else any directory could claim to
    belong to one that is trusted.
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
    """What a path may be called in the configuration: its real name first."""
    with contextlib.suppress(OSError):
        yield paths.displayable(files.canonicalize(path))
    yield paths.displayable(path)


def _is_marked(directory: str, name: str) -> bool:
    """Whether a directory has this entry; a directory ``.git`` counts if it holds a repository."""
    entry = f"{directory}/{name}"
    if name == ".git" and _is_directory(entry):
        entry += "/HEAD"
    return os.path.exists(paths.to_native(entry))


def _is_directory(path: str) -> bool:
    return os.path.isdir(paths.to_native(path))
