"""A non-blocking byte stream over file descriptors, with a send queue that does not copy.

All transports are built on it: a socket is one descriptor for both directions, stdio is two. Reads
go into one buffer shared by all streams of the thread (the consumer copies what it keeps); writes
are ``writev`` calls with the objects that were queued. The transports of asyncio allocate a buffer
for every read and copy what they cannot send immediately.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from exec_server.transports.channel import StreamedMessage

log = logging.getLogger("exec_server")

HIGH_WATER: Final = 256 * 1024
"""Unsent bytes above which the owner is asked to pause writing."""

LOW_WATER: Final = 64 * 1024
"""Unsent bytes below which the owner may resume writing."""

TURN_SECONDS: Final = 0.0005
"""Time for which one stream may occupy the loop, apart from the message that it has begun: the
responses to a batch of small requests can be a thousand times its size."""

_GATHER_BYTES: Final = 512 * 1024
"""Bytes collected for one write: more than a socket buffer usually takes."""

_GATHER_PIECES: Final = 512
"""Pieces collected for one write. IOV_MAX is 1024 on Linux; a message adds a few at a time."""

_JOIN_BELOW: Final = 32 * 1024
"""Size below which joining the pieces costs less than a vector entry for each."""

_read_buffer: Final = memoryview(bytearray(256 * 1024))
_NOTHING: Final = memoryview(b"")


class StreamOwner(Protocol):
    """The transport that interprets the bytes of a stream."""

    def bytes_received(self, data: memoryview) -> None:
        """Take what was read; the buffer is reused as soon as this returns.

        Once the stream is ``throttled``, the rest must be kept: this is called again, with no
        bytes, when it no longer is.
        """
        ...

    def end_received(self) -> None:
        """Handle the end of the peer's sending side."""
        ...

    def stream_lost(self) -> None:
        """Handle a broken stream: nothing more can be read or sent."""
        ...

    def pause_writing(self) -> None:
        """The queue exceeded HIGH_WATER."""
        ...

    def resume_writing(self) -> None:
        """The queue fell to LOW_WATER after it had exceeded HIGH_WATER."""
        ...

    def all_sent(self) -> None:
        """Handle the empty queue that ``notify_when_empty`` asked for."""
        ...


class ByteStream:
    """Reads and writes two descriptors, which may be the same socket.

    The descriptors belong to the caller, which closes them after ``detach``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        read_fd: int,
        write_fd: int,
        owner: StreamOwner,
        max_unsent_bytes: int = sys.maxsize,
    ) -> None:
        """Nothing more is read from the peer while more than ``max_unsent_bytes`` are unsent.

        That bounds the memory for a peer that sends without ever reading the responses.
        """
        self._loop = loop
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._owner = owner
        # Reading resumes together with writing, at LOW_WATER.
        self._max_unsent_bytes = max(max_unsent_bytes, HIGH_WATER)
        self.throttled = False
        """True while nothing more may be taken from the peer."""
        self._turn_end = 0.0
        self._is_full = False
        self._is_paused = False
        self.sent_bytes = 0
        """Bytes written to the kernel so far."""
        self._always_ready = False
        self._reading = False
        self._writing = False
        self._lost = False
        self._corked = False
        self._flush_scheduled = False
        self._congested = False
        self._notify_when_empty = False
        # Pieces that are being written; of the first, part may have been written.
        self._current: deque[bytes | memoryview] = deque()
        self._current_bytes = 0
        self._long: StreamedMessage | None = None
        self._long_left = 0
        # Whole messages that are queued; before a StreamedMessage there is its header.
        self._replies: deque[bytes | StreamedMessage] = deque()
        self._notifications: deque[Sequence[bytes]] = deque()
        self._waiting_bytes = 0

    # Reading

    def start_reading(self) -> None:
        """Begin to deliver what the peer sends, or continue."""
        if self._reading or self._lost:
            return
        self._reading = True
        if not self._always_ready:
            try:
                self._loop.add_reader(self._read_fd, self._readable)
            except PermissionError:
                # epoll refuses regular files, which never block.
                self._always_ready = True
        if self._always_ready:
            self._loop.call_soon(self._read_ahead)

    def stop_reading(self) -> None:
        """Stop reading permanently."""
        self._stop_reading()
        self.throttled = False

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            if not self._always_ready:
                self._loop.remove_reader(self._read_fd)

    def pause_reading(self) -> None:
        """Read nothing from the peer until ``resume_reading``; see Channel."""
        self._is_paused = True
        self._throttle()

    def resume_reading(self) -> None:
        """Read from the peer again; see Channel."""
        self._is_paused = False
        self._throttle()

    def _throttle(self) -> None:
        """Stop reading, or continue, according to the current reasons."""
        if self._is_full or self._is_paused:
            if self._reading:
                self.throttled = True
                self._stop_reading()
        elif self.throttled:
            self._loop.call_soon(self._continue_reading)

    def is_turn_over(self) -> bool:
        """Return True if the owner must stop taking messages, to let the loop serve others.

        It gets the rest in the next turn of the loop, as after being ``throttled``.
        """
        if time.monotonic() < self._turn_end:
            return False
        if self._reading:
            self.throttled = True
            self._stop_reading()
            self._loop.call_soon(self._continue_reading)
        return self.throttled

    def _continue_reading(self) -> None:
        if not self.throttled or self._is_full or self._is_paused:
            return
        self.throttled = False
        self.start_reading()
        self._deliver(_NOTHING)

    def _read_ahead(self) -> None:
        if self._reading:
            self._readable()
            self._loop.call_soon(self._read_ahead)

    def _readable(self) -> None:
        try:
            count = self._read(_read_buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose()
            return
        if count:
            self._deliver(_read_buffer[:count])
        else:
            self.stop_reading()
            self._deliver(None)

    def _read(self, buffer: memoryview) -> int:
        """Read once; 0 at the end. Raises BlockingIOError if there is no data, or OSError."""
        return os.readv(self._read_fd, (buffer,))

    def _deliver(self, data: memoryview | None) -> None:
        """Pass data, or None for the end, to the owner; send its responses in one call."""
        self._corked = True
        self._turn_end = time.monotonic() + TURN_SECONDS
        try:
            if data is None:
                self._owner.end_received()
            else:
                self._owner.bytes_received(data)
        except Exception as error:  # a fault ends this connection, not the server
            log.error("connection dropped by an internal error: %r", error)
            self._lose()
        finally:
            self._corked = False
            if not self._lost:
                self._flush()

    # Writing

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that are queued and not yet written."""
        return self._current_bytes + self._waiting_bytes

    def queue_reply(self, pieces: Sequence[bytes]) -> None:
        """Queue one framed message ahead of the notifications."""
        if self._lost:
            return
        for piece in pieces:
            self._replies.append(piece)
            self._waiting_bytes += len(piece)
        self._after_queueing()

    def queue_streamed_reply(
        self, header: bytes, message: StreamedMessage, trailer: bytes = b""
    ) -> None:
        """Queue one framed message that is produced while it is sent."""
        if self._lost:
            message.finish()
            return
        self._replies.append(header)
        self._replies.append(message)
        self._waiting_bytes += len(header) + message.held_bytes
        if trailer:
            self._replies.append(trailer)
            self._waiting_bytes += len(trailer)
        self._after_queueing()

    def queue_notification(self, pieces: Sequence[bytes]) -> None:
        """Queue one framed message behind everything queued."""
        if self._lost:
            return
        self._notifications.append(pieces)
        self._waiting_bytes += sum(map(len, pieces))
        self._after_queueing()

    def notify_when_empty(self) -> None:
        """Call the owner's ``all_sent`` as soon as the queue is empty."""
        self._notify_when_empty = True
        if not self._flush_scheduled and not self._corked:
            self._schedule_flush()

    def _after_queueing(self) -> None:
        if self.unsent_bytes > HIGH_WATER and not self._congested:
            self._congested = True
            self._owner.pause_writing()
        if not self._is_full and self.unsent_bytes > self._max_unsent_bytes:
            self._is_full = True
            self._throttle()
        if not (self._corked or self._flush_scheduled or self._writing):
            self._schedule_flush()

    def send_now(self, pieces: Sequence[bytes]) -> None:
        """Queue one framed message and write it in this turn of the loop, if possible.

        It is for a peer that has nothing else to send and waits for the response.
        """
        was_corked, self._corked = self._corked, True
        self.queue_reply(pieces)
        self._corked = was_corked
        if not (was_corked or self._flush_scheduled or self._writing or self._lost):
            self._flush()

    def _schedule_flush(self) -> None:
        # In the next turn, so that everything produced in this one is sent in one call.
        self._flush_scheduled = True
        self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_scheduled = False
        if not self._lost:
            self._flush()

    def _fill_current(self) -> None:
        """Collect pieces to write: of the current message, then replies, then notifications."""
        current = self._current
        while self._current_bytes < _GATHER_BYTES and len(current) < _GATHER_PIECES:
            if self._long is not None:
                piece = self._long.next_piece()
                self._long_left -= len(piece)
                if self._long_left == 0:
                    finished, self._long = self._long, None
                    self._waiting_bytes -= finished.held_bytes
                    finished.finish()
                current.append(piece)
                self._current_bytes += len(piece)
            elif self._replies:
                item = self._replies.popleft()
                if isinstance(item, bytes):
                    self._waiting_bytes -= len(item)
                    self._current_bytes += len(item)
                    current.append(item)
                else:
                    self._long = item
                    self._long_left = item.length
            elif self._notifications:
                for piece in self._notifications.popleft():
                    size = len(piece)
                    self._waiting_bytes -= size
                    self._current_bytes += size
                    current.append(piece)
            else:
                return

    def _flush(self) -> None:
        current = self._current
        is_empty = False
        turn_end = time.monotonic() + TURN_SECONDS
        while True:
            try:
                self._fill_current()
            except OSError:
                self._lose()
                return
            if not current:
                is_empty = True
                break
            if self._current_bytes < _JOIN_BELOW and len(current) > 1:
                joined = b"".join(current)
                current.clear()
                current.append(joined)
            try:
                written = self._write(current)
            except (BlockingIOError, InterruptedError):
                self._start_writing()
                break
            except OSError:
                self._lose()
                return
            self._current_bytes -= written
            self.sent_bytes += written
            while written and current:
                first = current[0]
                if written >= len(first):
                    written -= len(first)
                    current.popleft()
                else:
                    current[0] = memoryview(first)[written:]
                    written = 0
            if time.monotonic() >= turn_end:
                # The peer reads as fast as this writes.
                if not (self._writing or self._flush_scheduled):
                    self._schedule_flush()
                break
        if is_empty and self._writing:
            self._writing = False
            self._loop.remove_writer(self._write_fd)
        if self._congested and self.unsent_bytes <= LOW_WATER:
            self._congested = False
            self._owner.resume_writing()
            if self._is_full:
                self._is_full = False
                self._throttle()
        if self._notify_when_empty and is_empty:
            self._notify_when_empty = False
            self._owner.all_sent()

    def _write(self, pieces: deque[bytes | memoryview]) -> int:
        """Write some of the pieces and return the number of bytes written.

        After BlockingIOError it is called again with the same bytes, possibly followed by more.
        """
        if len(pieces) == 1:
            return os.write(self._write_fd, pieces[0])
        return os.writev(self._write_fd, tuple(pieces))

    def send_goodbye(self) -> None:
        """Send what this kind of stream sends at its end; nothing by default."""

    def _start_writing(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._write_fd, self._flush)

    # Ending

    def _lose(self) -> None:
        self.detach()
        self._owner.stream_lost()

    def detach(self) -> None:
        """Stop reading and writing and drop what is queued; the descriptors remain open."""
        if self._lost:
            return
        self.stop_reading()
        self._lost = True
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._write_fd)
        if self._long is not None:
            self._long.finish()
            self._long = None
        for item in self._replies:
            if not isinstance(item, bytes):
                item.finish()
        self._replies.clear()
        self._notifications.clear()
        self._current.clear()
        self._current_bytes = self._waiting_bytes = 0
