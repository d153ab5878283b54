"""The processes of a scenario: found by a mark in their environment, or by where they run."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

MARK = "PEER_SCENARIO"
"""The variable whose value names the scenario that a process belongs to."""


def belonging(directory: Path) -> dict[int, str]:
    """The living processes that work below a directory or carry its mark: command lines by pid."""
    mark = f"{MARK}={directory}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        with suppress(OSError):  # it ended meanwhile
            works_below = (entry / "cwd").readlink().is_relative_to(directory)
            if works_below or mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:  # a zombie has none
                    found[int(entry.name)] = command
    return found


def kill_group(pid: int) -> None:
    """Kill a process group, if it is there."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def kill(pid: int) -> None:
    """Kill a process, if it is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
