"""Planning of views: turns a policy into a list of mounts.

Mounts apply to the files to which paths lead, so every path is resolved first. A program that can
replace a symbolic link on a rule's path could change the meaning of that rule for later sandboxes.
Therefore a rule is refused if its path crosses a link in a directory that this policy, or an
earlier one, allows to write. For the same reason the directories between a writable directory and
a rule below it become mount points themselves: mount points cannot be renamed from within.

A path that must not be created needs a mount point, so ``View.placeholders`` lists the empty files
and directories that must exist while the view is in use. A view for reading only needs none.

Other programs may change the file system during planning. This cannot widen a view: every path is
examined only once and without following links, exposed files are opened by ``sources``, and
``entry`` compares the mounts with the plan from within the sandbox before they are used. Nothing
here blocks on other processes: files may be FIFOs or subject to a lease.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from exec_server.engine.paths import ancestors
from exec_server.engine.sandbox.access_map import AccessMap
from exec_server.engine.sandbox.live_views import LIVE_VIEWS
from exec_server.engine.sandbox.placeholders import is_placeholder
from exec_server.engine.sandbox.protected_names import PROTECTED_NAMES, find_git_directory
from exec_server.engine.sandbox.sources import Snapshot, replaced
from exec_server.engine.sandbox.view import EXPOSING, Mount, Placeholder, View
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server.engine.sandbox.policy import Access, Rule, SandboxPolicy
    from exec_server.engine.sandbox.view import Purpose

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # the directory itself, not a temporary file
"""Part of /dev that holds files; file operations use the one of the host."""

_PROCESS_FILE: Final = re.compile(r"/proc/[0-9]+(/|$)")


def plan_view(
    policy: SandboxPolicy, needs: Iterable[str] = (), *, purpose: Purpose = "run"
) -> View:
    """Return the view of a policy for the current state of the file system.

    ``needs`` are paths that must be readable. Raises InvalidRequest for a policy that cannot be
    enforced, or that denies a path in ``needs``.
    """
    return _ViewPlanner(policy, needs, purpose).view()


class _ViewPlanner:
    """Access rights, links and placeholders of one view under construction."""

    def __init__(self, policy: SandboxPolicy, needs: Iterable[str], purpose: Purpose) -> None:
        self._files = Snapshot()
        self._access = AccessMap()
        self._links: dict[str, str] = {}
        self._placeholders: dict[str, bool] = {}
        self._pins: set[str] = set()
        """Paths that become mount points even if they have the access of their parent."""
        self._absent: list[str] = []
        self._only_reads = purpose == "read"
        named = self._add_rules(policy)
        matched = self._add_patterns(policy)
        if self._only_reads:
            self._access.make_read_only()
        else:
            self._protect_names(named)
        self._expose(needs)
        if purpose != "run":
            self._expose_shared_memory()
        if not self._only_reads:
            for path in (*named, *matched):
                self._pin_ancestors(path)

    def view(self) -> View:
        """Return the result."""
        root = self._access.own("/")
        mounts: list[Mount] = []
        if root == "write":
            mounts += Mount("device", "/"), Mount("proc", "/proc")
        else:
            mounts += Mount("read" if root == "read" else "hidden", "/"), Mount("dev", "/dev")
            mounts += (Mount("proc", "/proc"),)
        mounts += (
            Mount("link", path, content)
            for path, content in self._links.items()
            if self._access.inherited(path) is None
        )
        paths = sorted({*self._access, *self._pins}, key=lambda path: (path.count("/"), path))
        mounts += filter(None, map(self._mount, paths))
        return View(
            mounts=tuple(mounts),
            placeholders=tuple(Placeholder(*item) for item in self._placeholders.items()),
            sources=tuple(
                self._files.identity(mount.path)
                for mount in mounts
                if mount.kind in EXPOSING and mount.path not in self._placeholders
            ),
            absent=tuple(self._absent),
        )

    def _mount(self, path: str) -> Mount | None:
        """Return the mount for one path, if one is required."""
        access = self._access.effective(path)
        if path == "/" or (access != "deny" and _is_virtual(path)):
            return None
        if access == self._access.inherited(path) and path not in self._pins:
            return None
        if access == "deny":
            if not self._files.is_directory(path):
                return Mount("denied_file", path)
            return Mount("denied_directory", path, is_passable=self._access.allows_below(path))
        if access == "read":
            return Mount("read", path)
        with_devices = self._access.own("/") == "write" or path.startswith("/dev/")
        return Mount("device" if with_devices else "write", path)

    # Rules

    def _add_rules(self, policy: SandboxPolicy) -> list[str]:
        """Add the rules for paths; return the resolved paths."""
        resolved = [(rule, *self._files.resolve(rule.path)) for rule in policy.rules]
        self._add_existing((rule, path) for rule, path, _ in resolved)
        crossing = [(rule, path, self._writable_link(links)) for rule, path, links in resolved]
        if any(link for _, _, link in crossing):
            self._access.clear()
            self._add_existing((rule, path) for rule, path, link in crossing if not link)
            for rule, path, link in crossing:
                if link and not self._is_redundant(rule, path):
                    raise _crosses(f"the rule for {rule.path} cannot be enforced", link)
        for rule, path, links in resolved:
            self._links.update(links)
            if rule.access != "write":
                self._enforce(rule, path)
        return [path for _, path, _ in resolved]

    def _add_existing(self, resolved: Iterable[tuple[Rule, str]]) -> None:
        for rule, path in resolved:
            if self._files.status(path) is not None:
                self._access.add(path, rule.access)

    def _writable_link(self, links: Iterable[str]) -> str | None:
        """Return the first of some links that a sandboxed program can or could have created."""
        for link in links:
            if self._access.inherited(link) == "write" or LIVE_VIEWS.could_write(link):
                return link
        return None

    def _is_redundant(self, rule: Rule, path: str) -> bool:
        """Return True if a rule has no effect on a view for reading only."""
        return (
            self._only_reads
            and rule.access != "deny"
            and self._access.effective(path) in ("read", "write")
        )

    def _enforce(self, rule: Rule, path: str) -> None:
        """Record what a restricting rule needs besides a mount."""
        if rule.access == "deny" and _PROCESS_FILE.match(path):
            raise InvalidRequest(
                f"sandbox: {rule.path} cannot be denied, because it belongs to a process outside "
                "of the sandbox, where only processes of the sandbox are visible"
            )
        status = self._files.status(path)
        if self._only_reads:
            return
        if status is None:
            if not rule.skips_missing:
                self._prevent_creation(path, rule.access)
        elif is_placeholder(status):
            self._placeholders[path] = stat.S_ISDIR(status.st_mode)

    def _prevent_creation(self, path: str, access: Access) -> None:
        """Prevent a missing path from being created."""
        above = next(above for above in ancestors(path) if self._files.status(above) is not None)
        exposed = self._access.effective(above)
        if exposed == "read" and access == "deny":
            self._absent.append(path)
        if exposed != "write":
            return
        if not self._files.is_directory(above):
            # A file in place of a parent directory prevents the creation as long as it stays.
            self._pins.add(above)
            self._pin_ancestors(above)
            return
        name = path[len(above) :].lstrip("/").partition("/")[0]
        path = os.path.join(above, name)
        self._access.add(path, access)
        self._placeholders.setdefault(path, name in PROTECTED_NAMES)

    def _pin_ancestors(self, path: str) -> None:
        """Make mount points of the directories between a writable directory and a rule below it."""
        if path not in self._access or self._access.own(path) == self._access.inherited(path):
            return
        for above in ancestors(path):
            if self._access.effective(above) != "write" or self._access.inherited(above) != "write":
                return  # not writable, or a mount point already
            self._pins.add(above)

    # Glob patterns

    def _add_patterns(self, policy: SandboxPolicy) -> list[str]:
        """Deny the paths that match the policy's patterns; return them."""
        if not policy.denied_patterns:
            return []
        # Few policies have patterns.
        from exec_server.engine.sandbox.globs import find_denied  # noqa: PLC0415

        found: list[str] = []
        for match in find_denied(policy.denied_patterns, policy.scan_depth, self._resolve_start):
            # The search follows no links, so a link in this path was created after it.
            above = os.path.dirname(match)
            if self._files.resolve(above)[0] != above:
                raise replaced(match)
            path, _ = self._files.resolve(match)
            if self._files.status(path) is not None:
                self._access.add(path, "deny")
                found.append(path)
        return found

    def _resolve_start(self, path: str) -> str:
        """Return the directory in which the search for a pattern starts."""
        start, links = self._files.resolve(path)
        link = self._writable_link(links)
        if link:
            raise _crosses(f"the glob patterns below {path} cannot be enforced", link)
        return start

    # Protected names

    def _protect_names(self, named: Iterable[str]) -> None:
        exempt = frozenset(named)
        for root in list(self._access):
            if self._access.own(root) != "write" or _is_virtual(root):
                continue
            if self._access.inherited(root) == "write" or not self._files.is_directory(root):
                continue
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
                "writable directory"
            )
        elif stat.S_ISREG(status.st_mode):
            self._protect_repository(path)
        self._access.replace(path, "read")

    def _protect_repository(self, path: str) -> None:
        """Protect the repository to which the ``.git`` file of a worktree refers."""
        target = find_git_directory(path)
        if target is None:
            return
        repository, links = self._files.resolve(target)
        link = self._writable_link(links)
        if link:
            raise _crosses(f"the repository of {path} cannot be kept read-only", link)
        is_writable = self._access.effective(repository) == "write"
        if is_writable and self._files.status(repository) is not None:
            self._access.replace(repository, "read")

    # Paths exposed for the sandbox itself

    def _expose(self, needs: Iterable[str]) -> None:
        if self._access.exposes_everything:
            return
        hidden: list[str] = []
        for need in needs:
            path, links = self._files.resolve(need)
            for step in (*links, path):
                if self._access.effective(step) == "deny":
                    raise InvalidRequest(
                        f"sandbox: {step} cannot be denied, because this server needs it to set up "
                        "sandboxes"
                    )
            self._links.update(links)
            if self._access.effective(path) is None:
                hidden.append(path)
        for path in hidden:
            self._access.add(path, "read")

    def _expose_shared_memory(self) -> None:
        if self._access.effective("/") == "write":
            return
        if self._access.effective(_SHARED_MEMORY) not in ("read", "write"):
            return
        if self._files.is_directory(_SHARED_MEMORY):
            self._pins.add(_SHARED_MEMORY)


def _is_virtual(path: str) -> bool:
    """Return True if a view has a new instance of the file system at a path."""
    return path in ("/dev", "/proc") or path.startswith("/proc/")


def _crosses(failure: str, link: str) -> InvalidRequest:
    return InvalidRequest(
        f"sandbox: {failure}, because its path crosses the symbolic link {link}, which sandboxed "
        "programs may replace"
    )
