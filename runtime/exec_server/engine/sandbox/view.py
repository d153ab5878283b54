"""The file system as something confined sees it: a policy turned into a list of mounts.

Mounts work on the files that paths lead to, so every path is resolved first. A program that can
change a link on the way could change what a rule means the next time, so a rule is refused whose
path passes through a link in a place where the policy allows writing, or an earlier one did. For
the same reason the directories between such a place and a rule below it become mounts of their own:
those cannot be renamed from within.

What must not come to exist needs something to mount upon. ``View.placeholders`` names the empty
files and directories that have to be there as long as the view is used. A view for reading alone
has nothing to protect, so it needs none of them.

Planning looks at the file system while other programs change it. That cannot widen a view: every
path is looked at once and never by way of a link, what is shown is opened by ``sources``,
and ``entry`` compares inside, before it counts. Nothing here waits for another program:
what is opened may be a FIFO or have a lease on it.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from exec_server.engine.files.regular_file import open_regular
from exec_server.engine.paths import from_native
from exec_server.engine.sandbox.grants import GRANTS
from exec_server.engine.sandbox.placeholders import is_placeholder
from exec_server.engine.sandbox.sources import SHOWING, Snapshot, changed
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exec_server.engine.sandbox.policy import Access, Rule, SandboxPolicy

PROTECTED_NAMES: Final = (".git", ".agents", ".codex", ".aws")
"""Entries of a writable directory that stay read-only unless a rule names them: what is in there
decides what other programs do later (v2 sandbox). Not so where everything may be written."""

Purpose = Literal["run", "write", "read"]
"""What a view is for: a program, a file operation, or one that only reads."""

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # is the place itself
"""Part of /dev that holds files; file operations see those of outside."""

_PROCESS_FILE: Final = re.compile(r"/proc/[0-9]+(/|$)")

_MAX_GITDIR_BYTES: Final = 8192
"""Of a ``.git`` file: a path of PATH_MAX, twice."""

_PRECEDENCE: Final[dict[Access, int]] = {"read": 0, "write": 1, "deny": 2}

MountKind = Literal[
    "read", "write", "device", "hidden", "denied_directory", "denied_file", "link", "dev", "proc"
]
"""``read``, ``write``, ``device``: what is there, read-only, writable, or writable together with
its device files; ``hidden``: an empty directory; ``denied_directory``: cannot even be listed;
``denied_file``: cannot be opened; ``link``: a symbolic link; ``dev``, ``proc``: made anew."""


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
    absent: tuple[str, ...] = ()
    """Denied paths where nothing is, in directories that are shown but cannot be written."""


def plan_view(
    policy: SandboxPolicy, needs: Iterable[str] = (), *, purpose: Purpose = "run"
) -> View:
    """Turn a policy into a view, for the files of this moment.

    ``needs`` are paths that have to be readable. Raises InvalidRequest for a policy that cannot be
    kept, or that denies what is needed.
    """
    return _Plan(policy, needs, purpose).view()


class _Plan:
    """What may be done where, by resolved path."""

    def __init__(self, policy: SandboxPolicy, needs: Iterable[str], purpose: Purpose) -> None:
        self._files = Snapshot()
        self._access: dict[str, Access] = {}
        self._links: dict[str, str] = {}
        self._placeholders: dict[str, bool] = {}
        self._pins: set[str] = set()
        self._absent: list[str] = []
        self._only_reads = purpose == "read"
        named = self._take_rules(policy)
        matched = self._take_patterns(policy)
        if self._only_reads:
            self._show_without_writing()
        else:
            self._protect_names(named)
        self._show(needs)
        if purpose != "run":
            self._show_shared_memory()
        if not self._only_reads:
            for path in (*named, *matched):
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
                self._files.identity(mount.path)
                for mount in mounts
                if mount.kind in SHOWING and mount.path not in self._placeholders
            ),
            absent=tuple(self._absent),
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
        resolved = [(rule, *self._files.resolve(rule.path)) for rule in policy.rules]
        self._enter(resolved)
        crossing = [(rule, path, self._writable_link(links)) for rule, path, links in resolved]
        if any(link for _, _, link in crossing):
            self._access.clear()
            self._enter(
                one for one, (_, _, link) in zip(resolved, crossing, strict=True) if not link
            )
            for rule, path, link in crossing:
                if link and not self._is_idle(rule, path):
                    raise InvalidRequest(
                        f"sandbox: the rule for {rule.path} cannot be kept, because it crosses "
                        f"the symbolic link {link}, which a sandbox allows to change"
                    )
        for rule, path, links in resolved:
            self._links.update(links)
            if rule.access != "write":
                self._keep(rule, path)
        return [path for _, path, _ in resolved]

    def _enter(self, resolved: Iterable[tuple[Rule, str, dict[str, str]]]) -> None:
        for rule, path, _ in resolved:
            if self._files.status(path) is not None:
                self._set(path, rule.access)

    def _writable_link(self, links: Iterable[str]) -> str | None:
        """The first of some links that may be written, or may have been, if there is one."""
        for link in links:
            if self._above(link) == "write" or GRANTS.could_write(link):
                return link
        return None

    def _is_idle(self, rule: Rule, path: str) -> bool:
        """True if a rule changes nothing about reading, and nothing else is asked."""
        return self._only_reads and rule.access != "deny" and self._at(path) in ("read", "write")

    def _keep(self, rule: Rule, path: str) -> None:
        """Prepare for a rule that must hold for what a path leads to, or does not lead to yet."""
        if rule.access == "deny" and _PROCESS_FILE.match(path):
            raise InvalidRequest(
                f"sandbox: {rule.path} cannot be denied, because it belongs to a process outside, "
                "and only processes inside are visible"
            )
        status = self._files.status(path)
        if self._only_reads:
            return
        if status is None:
            if not rule.skips_missing:
                self._keep_missing(path, rule.access)
        elif is_placeholder(status):
            self._placeholders[path] = stat.S_ISDIR(status.st_mode)

    def _keep_missing(self, path: str, access: Access) -> None:
        """See to it that a path which does not exist cannot come to exist."""
        above = next(above for above in _ancestors(path) if self._files.status(above) is not None)
        shown = self._at(above)
        if shown == "read" and access == "deny":
            self._absent.append(path)
        if shown != "write":
            return
        if not self._files.is_directory(above):
            # It is in the way, and stays there.
            self._pins.add(above)
            self._pin_above(above)
            return
        name = path[len(above) :].lstrip("/").partition("/")[0]
        path = os.path.join(above, name)
        self._set(path, access)
        self._placeholders.setdefault(path, name in PROTECTED_NAMES)

    def _take_patterns(self, policy: SandboxPolicy) -> list[str]:
        """Deny what the patterns match; returns what that is."""
        if not policy.denied_patterns:
            return []
        # Loads a glob library, which few policies need.
        from exec_server.engine.sandbox.globs import find_denied  # noqa: PLC0415

        found: list[str] = []
        for match in find_denied(policy.denied_patterns, policy.scan_depth, self._start_of_search):
            # The search followed no link, so one on the way has come since then.
            above = os.path.dirname(match)
            if self._files.resolve(above)[0] != above:
                raise changed(match)
            path, _ = self._files.resolve(match)
            if self._files.status(path) is not None:
                self._set(path, "deny")
                found.append(path)
        return found

    def _start_of_search(self, path: str) -> str:
        start, links = self._files.resolve(path)
        link = self._writable_link(links)
        if link:
            raise InvalidRequest(
                f"sandbox: the glob patterns below {path} cannot be kept, because they cross the "
                f"symbolic link {link}, which a sandbox allows to change"
            )
        return start

    def _protect_names(self, named: Iterable[str]) -> None:
        exempt = frozenset(named)
        for root, access in list(self._access.items()):
            if access != "write" or self._above(root) == "write" or _is_made_anew(root):
                continue
            if self._files.is_directory(root):
                for name in PROTECTED_NAMES:
                    path = f"{root}/{name}"
                    if path not in exempt:
                        self._protect(path)

    def _protect(self, path: str) -> None:
        if path in self._access:
            return
        status = self._files.status(path)
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
        repository, links = self._files.resolve(target)
        link = self._writable_link(links)
        if link:
            raise InvalidRequest(
                f"sandbox: the repository of {path} cannot be kept read-only, because it is "
                f"reached through the symbolic link {link}, which a sandbox allows to change"
            )
        if self._at(repository) == "write" and self._files.status(repository) is not None:
            self._access[repository] = "read"

    def _show_without_writing(self) -> None:
        self._access = {
            path: "read" if access == "write" else access for path, access in self._access.items()
        }

    def _show_shared_memory(self) -> None:
        if self._at("/") != "write" and self._at(_SHARED_MEMORY) in ("read", "write"):
            status = self._files.status(_SHARED_MEMORY)
            if status is not None and stat.S_ISDIR(status.st_mode):
                self._pins.add(_SHARED_MEMORY)

    def _show(self, needs: Iterable[str]) -> None:
        hidden: list[str] = []
        for need in needs:
            path, links = self._files.resolve(need)
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
            if not self._files.is_directory(path):
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


def _git_directory(path: str) -> str | None:
    """Where a ``.git`` file says that the repository is (gitrepository-layout).

    Raises InvalidRequest if that cannot be found out at once.
    """
    try:
        descriptor = open_regular(path, "read", follow_symlinks=False)
    except BlockingIOError:
        raise InvalidRequest(
            f"sandbox: {path} cannot be read to protect its repository, because a program has a "
            "lease on it"
        ) from None
    except PermissionError:
        return None  # closed to what is confined, too
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
