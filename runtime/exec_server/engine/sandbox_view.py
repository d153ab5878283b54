"""The file system as something confined sees it: a policy turned into a list of mounts.

Mounts work on the files that paths lead to, so every path is resolved first. Whoever can change a
link on the way could change what a rule means the next time, so a rule is refused whose path passes
through a link in a place where the policy allows writing. For the same reason the directories
between such a place and a rule below it become mounts of their own: those cannot be renamed from
within.

What must not come to exist needs something to mount upon. ``View.placeholders`` names the empty
files and directories that have to be there as long as the view is used.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from exec_server.engine.paths import from_native, to_native
from exec_server.engine.sandbox_placeholders import is_placeholder
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exec_server.engine.sandbox_policy import Access, SandboxPolicy

PROTECTED_NAMES: Final = (".git", ".agents", ".codex", ".aws")
"""Entries of a writable directory that stay read-only unless a rule names them: what is in there
decides what other programs do later (v2 sandbox). Not so where everything may be written."""

_MAX_LINKS: Final = 40
"""On one path; as the kernel has it."""

_PRECEDENCE: Final[dict[Access, int]] = {"read": 0, "write": 1, "deny": 2}

MountKind = Literal[
    "read", "write", "device", "hidden", "denied_directory", "denied_file", "link", "dev", "proc"
]
"""``read``, ``write``, ``device``: what is there, read-only, writable, or writable together with
its device files; ``hidden``: an empty directory; ``denied_directory``: cannot even be listed;
``denied_file``: cannot be opened; ``link``: a symbolic link; ``dev``, ``proc``: made anew."""

_SHOWING: Final = frozenset(("read", "write", "device"))


class Mount(msgspec.Struct, frozen=True):
    """One step in making a view."""

    kind: MountKind
    path: str
    content: str = ""
    """Where a link leads."""
    is_passable: bool = False
    """Whether there is something below a denied directory that can be reached."""


class Placeholder(msgspec.Struct, frozen=True):
    """What has to exist, empty, so that nothing else can come to exist in its place."""

    path: str
    is_directory: bool


class View(msgspec.Struct, frozen=True):
    """What is to be mounted, in this order. Equal views show the same files in the same way."""

    mounts: tuple[Mount, ...]
    placeholders: tuple[Placeholder, ...]
    sources: tuple[tuple[int, int], ...]
    """Device and inode of what is shown, in the order of the mounts, without placeholders."""


def plan_view(policy: SandboxPolicy, needs: Iterable[str] = ()) -> View:
    """What a policy comes to at this moment; ``needs`` are paths that have to be readable.

    Raises InvalidRequest for a policy that cannot be kept, or that denies what is needed.
    """
    return _Plan(policy, needs).view()


class _Plan:
    """What may be done where, by resolved path."""

    def __init__(self, policy: SandboxPolicy, needs: Iterable[str]) -> None:
        self._access: dict[str, Access] = {}
        self._links: dict[str, str] = {}
        self._placeholders: dict[str, bool] = {}
        self._pins: set[str] = set()
        named = self._take_rules(policy)
        self._take_patterns(policy)
        self._protect_names(named)
        self._show(needs)
        for path in named:
            self._pin_above(path)

    def view(self) -> View:
        root = self._access.get("/")
        mounts: list[Mount] = []
        if root == "write":
            mounts += Mount("device", "/"), Mount("proc", "/proc")
        else:
            mounts += Mount("read" if root == "read" else "hidden", "/"), Mount("dev", "/dev")
            mounts += (Mount("proc", "/proc"),)
        mounts += (
            Mount("link", path, content)
            for path, content in self._links.items()
            if self._above(path) is None
        )
        paths = sorted({*self._access, *self._pins}, key=lambda path: (path.count("/"), path))
        mounts += filter(None, map(self._mount, paths))
        return View(
            mounts=tuple(mounts),
            placeholders=tuple(Placeholder(*item) for item in self._placeholders.items()),
            sources=tuple(
                _identity(mount.path)
                for mount in mounts
                if mount.kind in _SHOWING and mount.path not in self._placeholders
            ),
        )

    def _at(self, path: str) -> Access | None:
        """What may be done with a resolved path; None if it is hidden."""
        for candidate in (path, *_ancestors(path)):
            access = self._access.get(candidate)
            if access is not None:
                return access
        return None

    def _above(self, path: str) -> Access | None:
        return self._at(os.path.dirname(path))

    def _set(self, path: str, access: Access) -> None:
        before = self._access.get(path)
        if before is None or _PRECEDENCE[access] > _PRECEDENCE[before]:
            self._access[path] = access

    def _take_rules(self, policy: SandboxPolicy) -> list[str]:
        """Enter the rules for paths; returns what these lead to."""
        named: list[str] = []
        missing: list[tuple[str, Access]] = []
        crossed: list[tuple[str, str]] = []
        for rule in policy.rules:
            path, links = _resolve(rule.path)
            named.append(path)
            self._links.update(links)
            crossed += [(rule.path, link) for link in links]
            status = _status(path)
            if status is not None:
                self._set(path, rule.access)
                if rule.access != "write" and is_placeholder(status):
                    self._placeholders[path] = stat.S_ISDIR(status.st_mode)
            elif rule.access != "write" and not rule.skips_missing:
                missing.append((path, rule.access))
        for rule_path, link in crossed:
            if self._above(link) == "write":
                raise InvalidRequest(
                    f"sandbox: the rule for {rule_path} cannot be kept, because it crosses the "
                    f"symbolic link {link}, which may be written"
                )
        for path, access in missing:
            self._keep_missing(path, access)
        return named

    def _keep_missing(self, path: str, access: Access) -> None:
        """See to it that a path which does not exist cannot come to exist."""
        above = next(above for above in _ancestors(path) if os.path.lexists(to_native(above)))
        if self._at(above) != "write" or not os.path.isdir(to_native(above)):
            return
        name = path[len(above) :].lstrip("/").partition("/")[0]
        path = os.path.join(above, name)
        self._set(path, access)
        self._placeholders.setdefault(path, name in PROTECTED_NAMES)

    def _take_patterns(self, policy: SandboxPolicy) -> None:
        if not policy.denied_patterns:
            return
        # Loads a glob library, which few policies need.
        from exec_server.engine.sandbox_globs import find_denied  # noqa: PLC0415

        for match in find_denied(policy.denied_patterns, policy.scan_depth):
            path, _ = _resolve(match)
            if os.path.lexists(to_native(path)):
                self._set(path, "deny")

    def _protect_names(self, named: Iterable[str]) -> None:
        exempt = frozenset(named)
        for root, access in list(self._access.items()):
            if access != "write" or self._above(root) == "write" or _is_made_anew(root):
                continue
            if os.path.isdir(to_native(root)):
                for name in PROTECTED_NAMES:
                    path = f"{root}/{name}"
                    if path not in exempt:
                        self._protect(path)

    def _protect(self, path: str) -> None:
        if path in self._access:
            return
        status = _status(path)
        if status is None or is_placeholder(status):
            self._placeholders[path] = True
        elif stat.S_ISLNK(status.st_mode):
            raise InvalidRequest(
                f"sandbox: {path} cannot be kept read-only, because it is a symbolic link in a "
                "directory that may be written"
            )
        elif stat.S_ISREG(status.st_mode):
            self._protect_repository(path)
        self._access[path] = "read"

    def _protect_repository(self, path: str) -> None:
        """Protect what the ``.git`` file of a worktree stands for."""
        target = _git_directory(path)
        if target is None:
            return
        repository, _ = _resolve(target)
        if self._at(repository) == "write" and os.path.lexists(to_native(repository)):
            self._access[repository] = "read"

    def _show(self, needs: Iterable[str]) -> None:
        hidden: list[str] = []
        for need in needs:
            path, links = _resolve(need)
            for step in (*links, path):
                if self._at(step) == "deny":
                    raise InvalidRequest(
                        f"sandbox: it denies {step}, which this server needs to confine anything"
                    )
            self._links.update(links)
            if self._at(path) is None:
                hidden.append(path)
        for path in hidden:
            self._set(path, "read")

    def _pin_above(self, path: str) -> None:
        """Mount the directories between a writable place and a rule below it."""
        if path not in self._access or self._access[path] == self._above(path):
            return
        for above in _ancestors(path):
            if self._at(above) != "write" or self._above(above) != "write":
                return  # outside what may be written, or a mount already
            self._pins.add(above)

    def _mount(self, path: str) -> Mount | None:
        """The step for one path, if there is anything to do."""
        access = self._at(path)
        if path == "/" or (access != "deny" and _is_made_anew(path)):
            return None
        if access == self._above(path) and path not in self._pins:
            return None
        if access == "deny":
            if not os.path.isdir(to_native(path)):
                return Mount("denied_file", path)
            is_passable = any(
                access != "deny" and below.startswith(f"{path}/")
                for below, access in self._access.items()
            )
            return Mount("denied_directory", path, is_passable=is_passable)
        if access == "read":
            return Mount("read", path)
        with_devices = self._access.get("/") == "write" or path.startswith("/dev/")
        return Mount("device" if with_devices else "write", path)


def _is_made_anew(path: str) -> bool:
    """Whether a view has its own instead of what is there."""
    return path in ("/dev", "/proc") or path.startswith("/proc/")


def _ancestors(path: str) -> Iterator[str]:
    """The directories above a path, the nearest first."""
    while path != "/":
        path = os.path.dirname(path)
        yield path


def _resolve(path: str) -> tuple[str, dict[str, str]]:
    """Follow every link of an absolute path; returns what it leads to, and the links.

    What does not exist is taken as it is written. Raises InvalidRequest if there is no end to it.
    """
    links: dict[str, str] = {}
    followed = 0
    real = ""
    ahead = deque(path.split("/"))
    while ahead:
        component = ahead.popleft()
        if component in ("", "."):
            continue
        if component == "..":
            real = os.path.dirname(real)
            continue
        here = f"{real}/{component}"
        try:
            content = from_native(os.readlink(to_native(here)))
        except OSError:
            real = here
            continue
        followed += 1
        if followed > _MAX_LINKS:
            raise InvalidRequest(f"sandbox: too many symbolic links on the path {path}")
        links[here] = content
        ahead.extendleft(reversed(content.split("/")))
        if content.startswith("/"):
            real = ""
    return real or "/", links


def _git_directory(path: str) -> str | None:
    """Where a ``.git`` file says that the repository is (gitrepository-layout)."""
    try:
        with open(to_native(path), "rb") as file:
            line = file.readline(8192)
    except OSError:
        return None
    word, _, target = line.rstrip(b"\r\n").partition(b": ")
    if word != b"gitdir" or not target:
        return None
    return os.path.join(os.path.dirname(path), from_native(target))


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(to_native(path))
    except OSError:
        return None


def _identity(path: str) -> tuple[int, int]:
    status = _status(path)
    return (0, 0) if status is None else (status.st_dev, status.st_ino)
