"""The stdio transport of the client: a server process that it starts and ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from exec_server.client.display import shown_command
from exec_server.client.limits import MESSAGE_BYTES
from exec_server.client.transports.server_process import ServerProcess
from exec_server.transports.stdio import StdioTransport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exec_server.transports.channel import Receiver

_JOIN_BELOW: Final = 4096


class StdioDialer:
    """Starts one server, which lives as long as its connection."""

    can_resume = False

    def __init__(
        self, argv: Sequence[str], *, cwd: str | None, env: Mapping[str, str] | None
    ) -> None:
        """``env`` is laid over this process's environment."""
        self._argv = argv
        self._cwd = cwd
        self._env = env
        self.target = f"stdio:{shown_command(argv)}"

    async def dial(self, receiver: Receiver) -> StdioClientTransport:
        """Start the server; see Dialer."""
        server = ServerProcess(self._argv, cwd=self._cwd, env=self._env)
        return StdioClientTransport(server, self.target, receiver)


class StdioClientTransport(StdioTransport):
    """The pipes of one server process; the server's end and the connection's are one."""

    has_violated = False  # what it breaks is reported by Receiver.refuse

    def __init__(self, server: ServerProcess, target: str, receiver: Receiver) -> None:
        self._server = server
        loop = asyncio.get_running_loop()
        self._ending: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._was_closed_here = False
        super().__init__(
            loop,
            server.stdout_fd,
            server.stdin_fd,
            lambda _: receiver,
            self._end_server,
            max_line_bytes=MESSAGE_BYTES,
        )
        self.peer = target

    @property
    def end_reason(self) -> str:
        """Reason why the connection ended; see Transport."""
        return "it was closed here" if self._was_closed_here else self._server.end_reason

    def limit_messages(self, max_bytes: int) -> None:
        """Refuse longer lines; see Transport."""
        self._max_line_bytes = max_bytes

    def send(self, message: bytes, *, at_once: bool = False) -> None:
        """Queue one line; see Transport."""
        queue = self._stream.send_now if at_once else self._stream.queue_reply
        queue((message + b"\n",) if len(message) < _JOIN_BELOW else (message, b"\n"))

    def pause_receiving(self) -> None:
        """Stop reading the pipe; see Transport."""
        self._stream.stop_reading()

    def resume_receiving(self) -> None:
        """Read the pipe again; see Transport."""
        if not self._closing:
            self._stream.start_reading()

    def close(self, reason: str = "", *, violation: bool = False) -> None:
        """Send what is queued, then end the server; see Transport."""
        self._was_closed_here = self._was_closed_here or not reason
        super().close(reason, violation=violation)

    def abort(self) -> None:
        """End the server now; see Transport."""
        self._was_closed_here = True
        self._end(orderly=False)
        self._finish()

    def end_received(self) -> None:
        """The server closed its output: see how it exits before the receiver is told."""
        self._see_it_exit()

    def stream_lost(self) -> None:
        """The server closed its input: see how it exits before the receiver is told."""
        self._see_it_exit()

    def _see_it_exit(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._after_end())

    async def _after_end(self) -> None:
        await self._server.wait_briefly()
        self._ending = None
        self._end(orderly=False)
        self._finish()

    def _end_server(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self._loop.create_task(self._server.end())
        self._ending.add_done_callback(lambda _: self._gone.set_result(None))

    async def wait_closed(self) -> None:
        """Return when the server is gone; see Transport."""
        await asyncio.shield(self._gone)
