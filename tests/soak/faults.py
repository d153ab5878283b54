"""Faults of the system that a server meets: no space, descriptors, processes or terminals left, or
its clock jumps, or strangers take what it has.

Each fault has a server of its own. It must refuse what it cannot do with a reason, go on, and
recover.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak import load
from tests.soak.client import Client, Refused, Server, Tally, connected, running
from tests.soak.strangers import tls_strangers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NOBODY = 65534

_READ = "-all,+dac_read_search"
_AS_NOBODY = (
    "setpriv",
    f"--reuid={_NOBODY}",
    "--clear-groups",
    # The program may be where only root can go.
    f"--inh-caps={_READ}",
    f"--ambient-caps={_READ}",
    f"--bounding-set={_READ}",
)


def _limited(which: int, value: int) -> Callable[[], None]:
    """Code that a process runs before it becomes the server."""
    return lambda: resource.setrlimit(which, (value, value))


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


async def no_space(tally: Tally, folder: Path) -> str:
    """ENOSPC on a disk of its own, or EFBIG where none can be had."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    is_mounted = _succeeds(mount)
    limit = None if is_mounted else _limited(resource.RLIMIT_FSIZE, 200_000)
    try:
        with running(preexec_fn=limit) as server:
            async with connected(server.url, tally) as client:
                small = base64.b64encode(b"old" * 1000).decode()
                large = base64.b64encode(b"new" * 200_000).decode()
                path = f"{disk}/file"
                await client.call("fs/writeFile", {"path": path, "dataBase64": small})
                for _ in range(20):
                    try:
                        await client.call("fs/writeFile", {"path": path, "dataBase64": large})
                        tally.faults.append("a file found room on a full disk")
                    except Refused as refusal:
                        tally.expect(
                            "os error 28" in str(refusal) or "os error 27" in str(refusal),
                            f"no space: {refusal}",
                        )
                found = await client.call("fs/readFile", {"path": path})
                tally.expect(found["dataBase64"] == small, "a full disk cost an old file")
                tally.expect(os.listdir(disk) == ["file"], f"left over: {os.listdir(disk)}")
    finally:
        if is_mounted:
            tally.expect(_succeeds(["umount", str(disk)]), "the disk is still in use")
    return "ENOSPC" if is_mounted else "EFBIG"


async def no_descriptors(tally: Tally, folder: Path) -> str:
    """EMFILE: starts are refused, connections wait; both go on when there are some again."""
    with running(preexec_fn=_limited(resource.RLIMIT_NOFILE, 64)) as server:
        async with connected(server.url, tally) as client:
            starts = _Starts(client, tally)
            await starts.until_refused("os error 24")
            waiting = asyncio.ensure_future(_try_to_connect(server, tally))
            await starts.end()
            tally.expect(await waiting, "no connection when there were descriptors again")
            await client.start("again", "true")
            await client.closed("again")
    return "EMFILE"


async def _try_to_connect(server: Server, tally: Tally) -> bool:
    async with connected(server.url, tally) as client:
        await client.call("process/terminate", {"processId": "nobody"})
    return True


async def no_processes(tally: Tally, folder: Path) -> str:
    """EAGAIN from fork. Root is never refused, so the server runs as another user then."""
    user, prefix = (_NOBODY, _AS_NOBODY) if os.geteuid() == 0 else (os.geteuid(), ())
    limit = _limited(resource.RLIMIT_NPROC, threads_of(user) + 20)
    with running(prefix=prefix, preexec_fn=limit) as server:
        async with connected(server.url, tally) as client:
            starts = _Starts(client, tally)
            await starts.until_refused("os error 11")
            await starts.end()
            await client.start("again", "true")
            await client.closed("again")
    return "EAGAIN"


def threads_of(user: int) -> int:
    """Return the number of a user's threads, which is what the limit counts."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == user:
                total += len(os.listdir(process / "task"))
    return total


async def no_terminals(tally: Tally, folder: Path) -> str:
    """A private set of terminals that holds four; none where such a thing cannot be had."""
    script = (
        "mount -t devpts -o newinstance,max=4,ptmxmode=666 devpts /dev/pts && "
        'mount --bind /dev/pts/ptmx /dev/ptmx && exec "$@"'
    )
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    if not _succeeds([*prefix, "true"]):
        return "no terminals: not tried, mounting is not allowed"
    with running(prefix=prefix) as server:
        async with connected(server.url, tally) as client:
            starts = _Starts(client, tally, tty=True)
            await starts.until_refused("os error 28")
            await starts.end()
            await client.start("again", "true", tty=True)
            await client.closed("again")
    return "terminals used up"


async def clock_jumps(tally: Tally, folder: Path) -> str:
    """A wall clock that jumps by years: nothing is dropped, forgotten or kept for it."""
    with running(program=(sys.executable, "-m", "tests.soak.jumping_clock")) as server:
        chance = random.Random(0)
        await asyncio.gather(*(load.work(server, tally, chance, folder) for _ in range(2)))
    return "clock jumps"


class _Starts:
    """Processes that are started until there is no more room."""

    def __init__(self, client: Client, tally: Tally, *, tty: bool = False) -> None:
        self._client = client
        self._tally = tally
        self._tty = tty
        self._names: list[str] = []

    async def until_refused(self, expected: str) -> None:
        """Start processes until a refusal says what was expected."""
        for number in range(200):
            name = f"s{number}"
            try:
                await self._client.start(name, "sleep", "1000", tty=self._tty)
            except Refused as refusal:
                self._tally.expect(expected in str(refusal), f"expected {expected}: {refusal}")
                return
            self._names.append(name)
        self._tally.faults.append(f"nothing was refused with {expected}")

    async def end(self) -> None:
        """End all that were started."""
        for name in self._names:
            await self._client.call("process/terminate", {"processId": name})
            await self._client.closed(name)


FAULTS = (no_space, no_descriptors, no_processes, no_terminals, clock_jumps, tls_strangers)


async def all_faults(tally: Tally, folder: Path) -> list[str]:
    """Try each; returns what was tried."""
    tried = []
    for fault in FAULTS:
        place = folder / fault.__name__
        place.mkdir()
        with contextlib.suppress(asyncio.CancelledError):
            tried.append(await fault(tally, place))
    return tried
