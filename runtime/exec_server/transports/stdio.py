"""The stdio transport: one JSON message per line on two descriptors.

Lines end in ``\\n`` (``\\r\\n`` is tolerated); blank lines are skipped. A line that is not UTF-8
ends the connection, because the byte stream can no longer be trusted. A line over the limit is
skipped and answered with an error, because its end can still be found.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from exec_server.transports.channel import LONG_MESSAGE_BYTES
from exec_server.transports.stream import ByteStream
from exec_server.transports.utf8 import InvalidUtf8, Utf8Check, first_invalid_byte

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from exec_server.transports.channel import Receiver, StreamedMessage

FLUSH_SECONDS: Final = 2.0
"""Time for which the peer may read nothing of the last responses while the connection closes."""

_LONGEST_BLANK: Final = 64
"""Size of a line above which only ASCII white space counts as blank."""

_SPACE: Final = " \t\r\n\v\f\x1c\x1d\x1e\x85"
_NEWLINE: Final = 0x0A


class StdioTransport:
    """One connection over a pair of descriptors, until ``on_closed`` is called."""

    peer = "exec-server stdio"
    message_kind = "JSON-RPC"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        read_fd: int,
        write_fd: int,
        on_open: Callable[[StdioTransport], Receiver],
        on_closed: Callable[[], None],
        *,
        max_line_bytes: int = sys.maxsize,
        max_unsent_bytes: int = sys.maxsize,
    ) -> None:
        self._loop = loop
        self._fds = (read_fd, write_fd)
        self._was_blocking = [os.get_blocking(fd) for fd in self._fds]
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._on_closed = on_closed
        self._max_line_bytes = max_line_bytes
        self._partial = bytearray()
        self._searched = 0
        self._line_bytes = 0
        self._check: Utf8Check | None = None
        self._skipping = False
        self._closing = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._stream = ByteStream(loop, read_fd, write_fd, self, max_unsent_bytes)
        self._receiver: Receiver | None = on_open(self)
        self._stream.start_reading()

    # Channel

    @property
    def sent_bytes(self) -> int:
        """Bytes that have left so far; see Channel."""
        return self._stream.sent_bytes

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that wait to be sent; see Channel."""
        return self._stream.unsent_bytes

    def send_reply(self, pieces: Sequence[bytes]) -> None:
        """Queue one message ahead of the notifications; see Channel."""
        if len(pieces) == 1:
            self._stream.queue_reply((pieces[0] + b"\n",))
        else:
            self._stream.queue_reply((*pieces, b"\n"))

    def send_streamed_reply(self, message: StreamedMessage) -> None:
        """Queue one message that is produced while it is sent; see Channel."""
        self._stream.queue_streamed_reply(b"", message, b"\n")

    def send_notification(self, pieces: Sequence[bytes]) -> None:
        """Queue one message behind everything; see Channel."""
        self._stream.queue_notification((*pieces, b"\n"))

    def pause_reading(self) -> None:
        """Deliver no more messages until ``resume_reading``; see Channel."""
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Deliver messages again; see Channel."""
        self._stream.resume_reading()

    def close(self, reason: str, *, violation: bool = False) -> None:
        """Send what is queued, then close; lines cannot convey the reason. See Channel."""
        if self._closing:
            return
        self._closing = True
        self._stream.stop_reading()
        self._end(orderly=False)
        self._await_flush()
        self._stream.notify_when_empty()

    def _await_flush(self) -> None:
        """Finish after the peer has read nothing for FLUSH_SECONDS; ``all_sent`` may be earlier."""
        sent_bytes = self._stream.sent_bytes

        def check() -> None:
            if self._stream.sent_bytes == sent_bytes:
                self._finish()
            else:
                self._await_flush()

        self._timer = self._loop.call_later(FLUSH_SECONDS, check)

    # StreamOwner

    def bytes_received(self, data: memoryview) -> None:
        """Split what was read into lines; see StreamOwner."""
        partial = self._partial
        partial += data
        start = 0
        while not self._closing and not self._stream.throttled:
            end = partial.find(_NEWLINE, max(start, self._searched))
            if end < 0:
                break
            if self._skipping:
                self._skipping = False
            else:
                self._take_line(memoryview(partial)[start:end].tobytes())
            self._line_bytes = 0
            start = end + 1
        del partial[:start]
        if self._stream.throttled:
            self._searched = 0
            return
        self._searched = len(partial)
        if self._skipping:
            partial.clear()
            self._searched = 0
        elif self._line_bytes + len(partial) >= LONG_MESSAGE_BYTES:
            self._take_beginning()

    def _take_beginning(self) -> None:
        """Pass on the beginning of a long line, or more of it."""
        part = bytes(self._partial)
        self._partial.clear()
        self._searched = 0
        if not self._line_bytes:
            part = part.lstrip()  # the line may be blank
        self._line_bytes += len(part)
        if self._line_bytes > self._max_line_bytes:
            self._skip_line()
        elif part:
            self._deliver_part(part, is_last=False)

    def _take_line(self, line: bytes) -> None:
        """Pass on a whole line, or the rest of a long one."""
        if self._line_bytes + len(line) > self._max_line_bytes:
            self._skip_line()
            self._skipping = False
        elif self._check is not None:
            self._deliver_part(line, is_last=True)
        elif len(line) < LONG_MESSAGE_BYTES:
            self._deliver(line)
        elif line := line.lstrip():
            self._deliver_part(line, is_last=True)

    def _skip_line(self) -> None:
        self._check = None
        self._line_bytes = 0
        self._skipping = True
        if self._receiver is not None:
            self._receiver.refuse(f"line exceeds {self._max_line_bytes} bytes")

    def _deliver_part(self, part: bytes, *, is_last: bool) -> None:
        if self._receiver is None:
            return
        if self._check is None:
            self._check = Utf8Check()
        try:
            self._check.feed(part, is_last=is_last)
        except InvalidUtf8 as error:
            self.close(f"{error} of a line", violation=True)
            return
        if is_last:
            self._check = None
        self._receiver.receive_part(part, is_last=is_last)

    def _deliver(self, line: bytes) -> None:
        if self._receiver is None:
            return
        if (position := first_invalid_byte(line)) is not None:
            self.close(f"invalid UTF-8 at byte {position} of a line", violation=True)
        elif len(line) >= _LONGEST_BLANK:
            if not line.isspace():
                self._receiver.receive(line)
        elif line.decode().strip(_SPACE):
            self._receiver.receive(line)

    def end_received(self) -> None:
        """Take the last line, which may lack its newline, and let the connection drain."""
        if not self._skipping and not self._closing and (self._partial or self._check is not None):
            self._take_line(bytes(self._partial))
            self._partial.clear()
        self._end(orderly=True)

    def stream_lost(self) -> None:
        """Close, as the peer no longer reads; see StreamOwner."""
        self._end(orderly=False)
        self._finish()

    def pause_writing(self) -> None:
        """Pass backpressure on to the connection; see StreamOwner."""
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        """Release the backpressure; see StreamOwner."""
        if self._receiver is not None:
            self._receiver.resume_writing()

    def all_sent(self) -> None:
        """Close, as the kernel has the last byte; see StreamOwner."""
        self._finish()

    # Ending

    def _end(self, *, orderly: bool) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.ended(orderly=orderly)

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._stream.detach()
        for fd, was_blocking in zip(self._fds, self._was_blocking, strict=True):
            os.set_blocking(fd, was_blocking)
        self._on_closed()
