"""A process that was started: its events, its output, its input and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as _signal
from typing import TYPE_CHECKING, Final, Self

from exec_server.client import arguments
from exec_server.client.display import shown_command
from exec_server.client.errors import InputRefused, ServerError, Unsupported
from exec_server.client.output import OutputReader
from exec_server.client.subscription import BUFFER_BYTES, Overflow, Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from exec_server.client.arguments import Data
    from exec_server.client.event_sequencer import Feed
    from exec_server.client.events import Excerpts, ProcessEvent, Snapshot
    from exec_server.client.session import Session

WRITE_BYTES: Final = 256 * 1024
"""What one message writes; longer input is cut, each piece sent when the last was taken."""

INTERRUPT_CHARACTER: Final = b"\x03"
END_OF_FILE_CHARACTER: Final = b"\x04"
"""What a terminal makes SIGINT and the end of input of."""

_INTERNAL_ERROR: Final = -32603


class Process:
    """A process on the server. ``Client.start`` makes it.

    Iterate over it for its events in order, or read ``stdout`` and ``stderr`` as bytes; it is one
    or the other. Used as an asynchronous context manager it is killed at the end if it still runs.
    """

    def __init__(
        self,
        session: Session,
        feed: Feed,
        argv: Sequence[str],
        *,
        tty: bool,
        buffer_bytes: int | None = BUFFER_BYTES,
        overflow: Overflow = "reread",
    ) -> None:
        self._session = session
        self._feed = feed
        self.argv: list[str] = list(argv)
        """Program and arguments; empty if it was started by somebody else."""
        self.tty: bool = tty
        """Whether it has a terminal."""
        self._events = Subscription(feed, buffer_bytes=buffer_bytes, overflow=overflow)
        self._is_iterated = False
        self._readers: tuple[OutputReader, OutputReader] | None = None
        self._write_lock = asyncio.Lock()
        # Unique for the life of the process, whoever else writes to it.
        self._write_token = os.urandom(6).hex()
        self._writes = 0
        self._is_line_begun = False
        self._is_stdin_closed = False

    @property
    def id(self) -> str:
        """The process's id within the session."""
        return self._feed.process_id

    @property
    def returncode(self) -> int | None:
        """Exit code; None while the process runs, as far as is known here."""
        return None if self._feed.exited is None else self._feed.exited.code

    @property
    def sandbox_denied(self) -> bool:
        """Whether it ended, and seems to have failed because of its sandbox (v2)."""
        return self._feed.exited is not None and self._feed.exited.sandbox_denied

    def __repr__(self) -> str:
        program = shown_command(self.argv)
        return f"<Process {self.id!r} {program!r} returncode={self.returncode}>"

    # Output

    def __aiter__(self) -> Self:
        if self._readers is not None:
            raise RuntimeError("the process is being read through stdout or stderr")
        self._is_iterated = True
        return self

    async def __anext__(self) -> ProcessEvent:
        """The next event, in order.

        Raises ConnectionLost after the last event that came before the connection was lost.
        """
        event = await self._events.next()
        if event is None:
            raise StopAsyncIteration
        return event

    @property
    def stdout(self) -> OutputReader:
        """Standard output, or everything that a terminal shows, as bytes."""
        return self._split()[0]

    @property
    def stderr(self) -> OutputReader:
        """Standard error as bytes; empty for a process with a terminal."""
        return self._split()[1]

    def _split(self) -> tuple[OutputReader, OutputReader]:
        if self._readers is None:
            if self._is_iterated:
                raise RuntimeError("the events of the process are being iterated over")
            self._readers = (
                OutputReader(self._events.split(("stdout", "pty"))),
                OutputReader(self._events.split(("stderr",))),
            )
            self._events.close()
        return self._readers

    async def read(
        self, after_seq: int = 0, *, max_bytes: int | None = None, wait: float = 0.0
    ) -> Snapshot:
        """Output that the server retains, with a number above ``after_seq``, and the state now.

        ``max_bytes`` bounds the output, but its first piece comes whole. With nothing to tell yet,
        neither output nor an end with a number above ``after_seq``, up to ``wait`` seconds are
        waited for some. Does not consume events. Raises Unsupported in revision v0.
        """
        arguments.count("after_seq", after_seq)
        arguments.count("max_bytes", max_bytes)
        arguments.seconds("wait", wait)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait
        while True:
            seen = self._feed.next_seq
            snapshot = await self._session.read(self.id, after_seq, max_bytes)
            has_news = snapshot.exit_code is not None and after_seq < snapshot.next_seq - 1
            if snapshot.outputs or snapshot.closed or has_news or loop.time() >= give_up_at:
                return snapshot
            # Waited for here: a server may serve nothing else while a request waits.
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._feed.wait_beyond(max(seen, snapshot.next_seq))
            except TimeoutError:
                give_up_at = 0

    async def excerpts(self) -> Excerpts:
        """How its output begins and ends, and its state now; does not consume events.

        Raises Unsupported before the draft.
        """
        return await self._session.revision.excerpts(self.id)

    # Input

    async def write(self, data: Data) -> None:
        """Write to the terminal or the piped standard input; returns when the server has taken it.

        Concurrent writes do not mix. What was under way when a connection was lost is written once
        (v2), or the write fails with ConnectionLost and may have been done (v1, v0).

        Raises InputRefused if the process takes no input.
        """
        data = arguments.data("data", data)
        async with self._write_lock:
            if self._is_stdin_closed:
                raise InputRefused(
                    f"process {self.id!r}: its standard input was closed by close_stdin"
                )
            self._is_line_begun = not data.endswith((b"\n", END_OF_FILE_CHARACTER))
            for start in range(0, len(data), WRITE_BYTES):
                self._writes += 1
                piece = data[start : start + WRITE_BYTES] if len(data) > WRITE_BYTES else data
                try:
                    await self._session.revision.write(
                        self.id, piece, f"{self._write_token}-{self._writes}"
                    )
                except ServerError as error:
                    if error.code == _INTERNAL_ERROR:
                        raise InputRefused(f"process {self.id!r}: {error.message}") from error
                    raise

    @property
    def can_close_stdin(self) -> bool:
        """Whether ``close_stdin`` ends a pipe in this revision."""
        return self._session.revision.can_close_stdin

    async def close_stdin(self) -> None:
        """End the standard input, behind everything written.

        Of a terminal it is the end-of-file character, which the program may take differently.
        Raises Unsupported where the revision cannot close a pipe; ``Client.run`` with ``input``
        works everywhere.
        """
        if self.tty:
            # Within a line, the first one only hands over what has been written of it.
            await self.write(END_OF_FILE_CHARACTER * (2 if self._is_line_begun else 1))
            return
        async with self._write_lock:
            await self._session.revision.close_stdin(self.id)
            self._is_stdin_closed = True

    async def resize(self, rows: int, cols: int) -> None:
        """Set the size of the terminal. Raises Unsupported where the revision cannot."""
        arguments.size((rows, cols), tty=True)
        await self._session.revision.resize(self.id, rows, cols)

    # Ending

    async def signal(self, signum: int) -> None:
        """Send a signal to the process group.

        SIGKILL works everywhere, SIGINT in v2 and for a process with a terminal. Raises Unsupported
        otherwise.
        """
        if signum == _signal.SIGKILL:
            await self.terminate()
        elif signum != _signal.SIGINT:
            raise Unsupported(
                f"revision {self._session.revision.name} has no message for "
                f"{_signal.Signals(signum).name}"
            )
        elif self.tty and not self._session.revision.has_interrupt:
            await self.write(INTERRUPT_CHARACTER)
        else:
            await self._session.revision.interrupt(self.id)

    async def terminate(self, *, graceful: float | None = None) -> bool:
        """Kill the process group; returns whether the process ran.

        With ``graceful`` it is first asked to end, and killed that many seconds later; Unsupported
        is raised where the revision cannot.
        """
        arguments.seconds("graceful", graceful)
        grace_ms = None if graceful is None else round(graceful * 1000)
        return await self._session.revision.terminate(self.id, grace_ms)

    async def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when the process has ended; its output need not be consumed.

        Raises TimeoutError after ``timeout`` seconds, and ConnectionLost.
        """
        arguments.seconds("timeout", timeout)
        async with asyncio.timeout(timeout):
            return (await self._feed.wait_exited()).code

    async def wait_closed(self, timeout: float | None = None) -> int:
        """Like ``wait``, but until its output has ended as well, which descendants may hold."""
        arguments.seconds("timeout", timeout)
        async with asyncio.timeout(timeout):
            await self._feed.wait_closed()
        return (await self._feed.wait_exited()).code

    async def communicate(
        self,
        input: Data | None = None,  # noqa: A002
        timeout: float | None = None,
    ) -> tuple[bytes, bytes]:
        """Write ``input`` and end it, and return all of standard output and standard error.

        Raises Unsupported for input that cannot be ended, see ``close_stdin``; TimeoutError after
        ``timeout`` seconds, when the process goes on running.
        """
        content = None if input is None else arguments.data("input", input)
        arguments.seconds("timeout", timeout)
        if input is not None and not self.tty and not self.can_close_stdin:
            raise Unsupported(
                f"revision {self._session.revision.name} cannot close standard input; "
                "Client.run(input=…) can give a program its input"
            )
        tasks = [asyncio.create_task(reader.read()) for reader in (self.stdout, self.stderr)]
        if content is not None:
            tasks.append(asyncio.create_task(self._feed_input(content)))
        try:
            async with asyncio.timeout(timeout):
                stdout, stderr = (await asyncio.gather(*tasks))[:2]
        finally:
            for task in tasks:
                task.cancel()
        return stdout, stderr

    async def _feed_input(self, data: bytes) -> bytes:
        """Write all of the input and end it, unless the program does not want it."""
        with contextlib.suppress(InputRefused):
            await self.write(data)
            await self.close_stdin()
        return data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._feed.exited is None and self._feed.failure is None:
            await self.terminate()
        self._events.close()
