"""A process table with a recording listener that checks the invariants of every process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.engine.processes.table import Execution, ProcessTable
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from types import TracebackType
    from typing import Self

    from exec_server.engine.processes.output_log import OutputChunk
    from exec_server.engine.processes.process import Process
    from exec_server.engine.processes.process_state import ExitStatus

P = ParamSpec("P")

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a loop of its own, within bounds."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), PATIENCE))

    return run


def open_fds() -> set[str]:
    """Return the open descriptors of this process with what they refer to."""
    fds = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return fds


def children() -> set[str]:
    """The pids of this process's children, zombies included."""
    pids: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        pids.update((task / "children").read_text().split())
    return pids


def is_running(pid: int) -> bool:
    """Return True if a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Told:
    """Events of one process that the listener received."""

    def __init__(self) -> None:
        self.chunks: list[OutputChunk] = []
        self.exit_seq = 0
        self.status: ExitStatus | None = None
        self.closed_seq = 0
        self.last_seq = 0
        self.after_exit = b""

    def text(self, stream: str | None = None) -> bytes:
        """Return the output so far, of one stream or of all."""
        return b"".join(c.data for c in self.chunks if stream in (None, c.stream))


class Gate:
    """FIFO at which a shell script waits, with ``read x <{gate}``, until the test opens it."""

    def __init__(self, path: str) -> None:
        os.mkfifo(path)
        self._path = path
        # Open for reading and writing, so that neither opening nor writing blocks.
        self._fd = os.open(path, os.O_RDWR)

    def __str__(self) -> str:
        return self._path

    def open(self) -> None:
        """Release one reader, present or future."""
        os.write(self._fd, b"go\n")

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._fd)


class Bench:
    """A process table under test.

    On exit, no process and no descriptor may be left.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._told: dict[Process[object], Told] = {}
        self._changed = asyncio.Event()
        self._count = 0
        self._resources = contextlib.ExitStack()
        self.on_event: Callable[[Process[object], str], None] | None = None

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self._fds = open_fds()
        self._children = children()
        self.table: ProcessTable[object] = ProcessTable(self, loop=self.loop, **self._options)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.table.aclose()
        self._resources.close()
        if error is None:
            assert open_fds() - self._fds == set()
            assert children() - self._children == set()

    # The listener

    def _take(self, process: Process[object], seq: int) -> Told:
        told = self._told.setdefault(process, Told())
        assert not told.closed_seq, "nothing follows closed"
        assert seq == told.last_seq + 1, "numbers are contiguous and in order"
        told.last_seq = seq
        assert process.next_seq == seq + 1
        self._changed.set()
        return told

    def on_output(self, process: Process[object], chunk: OutputChunk) -> None:
        told = self._take(process, chunk.seq)
        assert 0 < len(chunk.data) <= 65536
        told.chunks.append(chunk)
        if told.exit_seq:
            told.after_exit += chunk.data
        if self.on_event is not None:
            self.on_event(process, "output")

    def on_exited(self, process: Process[object], seq: int, status: ExitStatus) -> None:
        told = self._take(process, seq)
        assert not told.exit_seq, "an exit is told once"
        assert process.status == status
        told.exit_seq = seq
        told.status = status
        if self.on_event is not None:
            self.on_event(process, "exited")

    def on_closed(self, process: Process[object], seq: int) -> None:
        told = self._take(process, seq)
        assert told.exit_seq, "closed follows exited"
        assert process.closed
        told.closed_seq = seq
        if self.on_event is not None:
            self.on_event(process, "closed")

    # For the tests

    def start(
        self,
        argv: str | Sequence[str],
        process_id: str = "",
        *,
        execution: Execution = "direct",
        **spec: Any,
    ) -> Process[object]:
        """Start a process; a string is split as in a shell."""
        self._count += 1
        spec.setdefault("cwd", "/")
        spec.setdefault("env", ENV)
        words = shlex.split(argv) if isinstance(argv, str) else list(argv)
        return self.table.start(
            process_id or f"p{self._count}",
            SpawnSpec(argv=words, **spec),
            context=None,
            execution=execution,
        )

    def shell(self, script: str, **spec: Any) -> Process[object]:
        """Start a shell script."""
        return self.start(["/bin/sh", "-c", script], **spec)

    def gate(self) -> Gate:
        """Return a gate for one script."""
        directory = self._resources.enter_context(tempfile.TemporaryDirectory())
        return self._resources.enter_context(contextlib.closing(Gate(f"{directory}/gate")))

    def told(self, process: Process[object]) -> Told:
        """Return the events of a process received until now."""
        return self._told.setdefault(process, Told())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until an event makes the condition true."""
        while not condition():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)

    async def has_output(self, process: Process[object], text: bytes) -> None:
        """Wait until a process has written a text."""
        await self.until(lambda: text in self.told(process).text())

    async def has_exited(self, process: Process[object]) -> ExitStatus:
        """Wait until a process has exited."""
        await self.until(lambda: process.exited)
        assert process.status is not None
        return process.status

    async def has_closed(self, process: Process[object]) -> Told:
        """Wait until a process has closed."""
        await self.until(lambda: self.told(process).closed_seq > 0)
        return self.told(process)

    async def run(self, script: str, **spec: Any) -> bytes:
        """Return the output of a shell script."""
        return (await self.has_closed(self.shell(script, **spec))).text()

    async def turns(self, count: int = 20) -> None:
        """Let the event loop handle everything that has happened so far."""
        for _ in range(count):
            await asyncio.sleep(0)


async def within_bounds(awaitable: Awaitable[Any]) -> Any:
    """Return the result of an awaitable, within the timeout."""
    return await asyncio.wait_for(awaitable, PATIENCE)
