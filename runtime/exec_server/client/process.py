"""A process on the server: its events, output, input and end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as _signal
from typing import TYPE_CHECKING, Final, Self

from exec_server.client import arguments
from exec_server.client.display import shown_command
from exec_server.client.errors import CommandTimedOut, InputRefused, ServerError, Unsupported
from exec_server.client.output import OutputReader
from exec_server.client.subscription import BUFFER_BYTES, Overflow, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from exec_server.client.arguments import Data
    from exec_server.client.event_sequencer import EventSequencer
    from exec_server.client.events import Excerpts, ProcessEvent, Snapshot
    from exec_server.client.session import Session

WRITE_BYTES: Final = 256 * 1024
"""Bytes written by one message. Longer input is split, and each piece waits for the answer to the
one before, so that a terminal with a full buffer holds the writer back."""

INTERRUPT_CHARACTER: Final = b"\x03"
END_OF_FILE_CHARACTER: Final = b"\x04"
"""Characters that a terminal turns into SIGINT and the end of file."""

_INTERNAL_ERROR: Final = -32603


class Process:
    """A process on the server. ``Client.start`` returns it.

    Either iterate over its events in order, or read ``stdout`` and ``stderr`` as bytes. As an
    asynchronous context manager it kills the process on exit if it still runs.
    """

    def __init__(
        self,
        session: Session,
        sequencer: EventSequencer,
        argv: Sequence[str],
        *,
        tty: bool,
        buffer_bytes: int | None = BUFFER_BYTES,
        overflow: Overflow = "reread",
    ) -> None:
        self._session = session
        self._sequencer = sequencer
        self.argv: list[str] = list(argv)
        """Program and arguments; empty for a process that was attached to."""
        self.tty: bool = tty
        """True if the process has a terminal."""
        self._events = Subscription(sequencer, buffer_bytes=buffer_bytes, overflow=overflow)
        self._is_iterated = False
        self._readers: tuple[OutputReader, OutputReader] | None = None
        self._write_lock = asyncio.Lock()
        # Distinguishes the writes of this client from those of others to the same process.
        self._write_token = os.urandom(6).hex()
        self._writes = 0
        self._is_line_begun = False
        self._is_stdin_closed = False

    @property
    def id(self) -> str:
        """Id of the process within the session."""
        return self._sequencer.process_id

    @property
    def returncode(self) -> int | None:
        """Exit code; None until the exit has been reported."""
        return None if self._sequencer.exited is None else self._sequencer.exited.code

    @property
    def sandbox_denied(self) -> bool:
        """True if the process seems to have failed because of its sandbox (v2)."""
        return self._sequencer.exited is not None and self._sequencer.exited.sandbox_denied

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
        """Return the next event, in order.

        Raises ConnectionLost after the last event that arrived before the connection was lost.
        """
        event = await self._events.next()
        if event is None:
            raise StopAsyncIteration
        return event

    @property
    def stdout(self) -> OutputReader:
        """Standard output, or the output of the terminal, as bytes."""
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
        self,
        after_seq: int = 0,
        *,
        max_bytes: int | None = None,
        wait: float = 0.0,
        timeout: float | None = None,
    ) -> Snapshot:
        """Return output that the server retains, above ``after_seq``, and the current state.

        ``max_bytes`` bounds the output, except that its first chunk is never split. Without output
        or exit above ``after_seq``, wait up to ``wait`` seconds for one. ``timeout`` bounds each
        request to the server. Does not consume events. Raises Unsupported in revision v0.
        """
        arguments.seconds("timeout", timeout)
        arguments.count("after_seq", after_seq)
        arguments.count("max_bytes", max_bytes)
        arguments.seconds("wait", wait)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait
        while True:
            seen = self._sequencer.next_seq
            async with self._deadline(timeout, "read from"):
                snapshot = await self._session.processes.read(self.id, after_seq, max_bytes)
            has_news = snapshot.exit_code is not None and after_seq < snapshot.next_seq - 1
            if snapshot.outputs or snapshot.closed or has_news or loop.time() >= give_up_at:
                return snapshot
            # The client waits, because a server may serve nothing else while a request does.
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._sequencer.wait_beyond(max(seen, snapshot.next_seq))
            except TimeoutError:
                give_up_at = 0

    async def excerpts(self, *, timeout: float | None = None) -> Excerpts:
        """Return the beginning and the end of the output, and the current state.

        Does not consume events. Raises Unsupported before the draft.
        """
        async with self._deadline(timeout, "read from"):
            return await self._session.revision.excerpts(self.id)

    # Input

    async def write(self, data: Data, *, timeout: float | None = None) -> None:
        """Write to the terminal or the piped standard input; return when the server has taken it.

        Concurrent writes do not mix. A write in flight when the connection is lost is carried out
        once (v2), or fails with ConnectionLost and may have been carried out (v1, v0).

        Raises InputRefused if the process takes no input, and RequestTimedOut, after which part of
        the data may have been written.
        """
        data = arguments.data("data", data)
        async with self._deadline(timeout, "write to"), self._write_lock:
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
        """True if ``close_stdin`` can close a pipe in this revision."""
        return self._session.revision.can_close_stdin

    async def close_stdin(self, *, timeout: float | None = None) -> None:
        """Close the standard input after all data written so far.

        On a terminal, send the end-of-file character, which the program may interpret. Raises
        Unsupported where the revision cannot close a pipe; ``Client.run`` with ``input`` works in
        v1 and later.
        """
        if self.tty:
            # Within a line, the first character only submits the line so far.
            end = END_OF_FILE_CHARACTER * (2 if self._is_line_begun else 1)
            await self.write(end, timeout=timeout)
            return
        async with self._deadline(timeout, "close the standard input of"), self._write_lock:
            await self._session.revision.close_stdin(self.id)
            self._is_stdin_closed = True

    async def resize(self, rows: int, cols: int, *, timeout: float | None = None) -> None:
        """Set the size of the terminal. Raises Unsupported before the draft."""
        arguments.size((rows, cols), tty=True)
        async with self._deadline(timeout, "resize"):
            await self._session.revision.resize(self.id, rows, cols)

    # Ending

    async def signal(self, signum: int, *, timeout: float | None = None) -> None:
        """Send a signal to the process group.

        SIGKILL works in every revision, SIGINT in v2 and for a process with a terminal. Raises
        Unsupported otherwise.
        """
        if signum == _signal.SIGKILL:
            await self.terminate(timeout=timeout)
        elif signum != _signal.SIGINT:
            raise Unsupported(
                f"revision {self._session.revision.name} has no message for "
                f"{_signal.Signals(signum).name}"
            )
        elif self.tty and not self._session.revision.has_interrupt:
            await self.write(INTERRUPT_CHARACTER, timeout=timeout)
        else:
            async with self._deadline(timeout, "interrupt"):
                await self._session.revision.interrupt(self.id)

    async def terminate(
        self, *, graceful: float | None = None, timeout: float | None = None
    ) -> bool:
        """Kill the process group; return true if the process was running.

        With ``graceful``, send SIGTERM first and SIGKILL that many seconds later. Raises
        Unsupported for it before the draft.
        """
        arguments.seconds("graceful", graceful)
        grace_ms = None if graceful is None else round(graceful * 1000)
        async with self._deadline(timeout, "terminate"):
            return await self._session.revision.terminate(self.id, grace_ms)

    @contextlib.asynccontextmanager
    async def _deadline(self, timeout: float | None, action: str) -> AsyncIterator[None]:
        """Bound a request about this process; see ``Session.deadline``."""
        arguments.seconds("timeout", timeout)
        async with self._session.deadline(timeout, f"{action} process {self.id!r}"):
            yield

    async def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to exit and return its exit code; output need not be consumed.

        Raises TimeoutError after ``timeout`` seconds (default: no limit), and ConnectionLost.
        """
        async with self._wait(timeout, "has not exited"):
            return (await self._sequencer.wait_exited()).code

    async def wait_closed(self, timeout: float | None = None) -> int:
        """Like ``wait``, but wait for the end of the output too, which descendants may keep open.

        Raises TimeoutError after ``timeout`` seconds (default: no limit), and ConnectionLost.
        """
        async with self._wait(timeout, "has not closed its output"):
            await self._sequencer.wait_closed()
            return (await self._sequencer.wait_exited()).code

    @contextlib.asynccontextmanager
    async def _wait(self, timeout: float | None, state: str) -> AsyncIterator[None]:
        arguments.seconds("timeout", timeout)
        try:
            async with asyncio.timeout(timeout) as scope:
                yield
        except TimeoutError:
            if timeout is None or not scope.expired():
                raise
            raise TimeoutError(f"process {self.id!r} {state} after {timeout:g} seconds") from None

    async def communicate(
        self,
        input: Data | None = None,  # noqa: A002
        timeout: float | None = None,
    ) -> tuple[bytes, bytes]:
        """Write ``input``, close it, and return all of standard output and standard error.

        Raises Unsupported for input that cannot be closed, see ``close_stdin``. After ``timeout``
        seconds (default: no limit), raises CommandTimedOut with the output so far; the process
        continues to run, and a further call returns that output again.
        """
        content = None if input is None else arguments.data("input", input)
        arguments.seconds("timeout", timeout)
        if input is not None and not self.tty and not self.can_close_stdin:
            raise Unsupported(
                f"revision {self._session.revision.name} cannot close standard input; "
                "Client.run(input=…) can give a program its input"
            )
        readers = (self.stdout, self.stderr)
        tasks = [asyncio.create_task(reader.read()) for reader in readers]
        if content is not None:
            tasks.append(asyncio.create_task(self._feed_input(content)))
        try:
            async with asyncio.timeout(timeout) as scope:
                stdout, stderr = (await asyncio.gather(*tasks))[:2]
        except TimeoutError:
            if timeout is None or not scope.expired():
                raise
            stdout, stderr = (reader.buffered for reader in readers)
            raise CommandTimedOut(
                self.argv, timeout, stdout, stderr, "it continues to run"
            ) from None
        finally:
            for task in tasks:
                task.cancel()
        return stdout, stderr

    async def _feed_input(self, data: bytes) -> bytes:
        """Write the input and close it, unless the program closes its end first."""
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
        if self._sequencer.exited is None and self._sequencer.failure is None:
            await self.terminate()
        self._events.close()
