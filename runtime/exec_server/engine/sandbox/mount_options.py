"""Command-line options of bubblewrap for a view."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from exec_server.engine.sandbox.kernel_settings import kernel_settings
from exec_server.engine.sandbox.sources import expectation, open_source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server.engine.sandbox.view import Mount, View


class MountOptions:
    """Options that set up namespaces and mounts, and the descriptors to which they refer."""

    def __init__(self, first_descriptor: int, descriptors: list[int]) -> None:
        """Add descriptors to ``descriptors``; in bubblewrap they start at ``first_descriptor``."""
        self.expected = bytearray()
        """Description of the mounts that ``entry`` verifies."""
        self._options = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent"]
        self._options += ("--disable-userns", "--cap-drop", "ALL")
        self._remounts: list[str] = []
        self._descriptors = descriptors
        self._next_descriptor = first_descriptor
        self._null: int | None = None

    def options(self) -> list[str]:
        """Return the options for all mounts added."""
        return [*self._options, *self._remounts]

    def add(self, mount: Mount) -> None:
        """Add a mount on top of the previous ones. Raises as ``open_source`` does."""
        path = mount.path
        source: int | None = None
        match mount.kind:
            case "read":
                source = open_source(path)
                self._options += ("--ro-bind-fd", self._pass(source), path)
            case "write":
                source = open_source(path)
                self._options += ("--bind-fd", self._pass(source), path)
            case "device":
                # bubblewrap accepts no descriptor here; ``entry`` detects a replaced file.
                source = open_source(path)
                self._options += ("--dev-bind", path, path)
            case "hidden":
                self._options += ("--tmpfs", path)
                self._remounts += ("--remount-ro", path)
            case "denied_directory":
                mode = "111" if mount.is_passable else "000"
                self._options += ("--perms", mode, "--tmpfs", path)
                self._remounts += ("--remount-ro", path)
            case "denied_file":
                self._options += ("--perms", "000", "--ro-bind-data", self._pass_null(), path)
            case "link":
                self._options += ("--symlink", mount.content, path)
            case "dev":
                self._options += ("--dev", path)
            case "proc":
                self._options += ("--proc", path)
                for name in kernel_settings():
                    self._options += ("--ro-bind-try", f"/proc/{name}", f"{path}/{name}")
        self.expected += expectation(mount, source)
        if mount.kind == "device" and source is not None:
            os.close(source)

    def _pass(self, descriptor: int) -> str:
        """Pass a descriptor to bubblewrap; return its number there."""
        self._descriptors.append(descriptor)
        self._next_descriptor += 1
        return str(self._next_descriptor - 1)

    def _pass_null(self) -> str:
        if self._null is None:
            self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return self._pass(self._null)


def outer_options(view: View, contested: Iterable[str]) -> list[str]:
    """Return the options of an outer bubblewrap, for use while mount points can be moved.

    bubblewrap creates a mount point that does not exist, through symbolic links and in the file
    system of the host. The outer sandbox therefore makes everything read-only, except for the
    directories that are writable anyway, in this view or for the programs that can move the mount
    points.
    """
    options = ["--unshare-user", "--die-with-parent", "--ro-bind", "/", "/"]
    for path in ("/dev", "/proc"):
        options += ("--dev-bind", path, path)
    writable = {*contested, *(mount.path for mount in view.mounts if mount.kind == "write")}
    for path in sorted(writable):
        if not any(path.startswith(f"{other}/") for other in writable):
            options += ("--bind", path, path)
    return options
