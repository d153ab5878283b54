"""Reading the output streams of a process from the event loop, with a pause shared by many."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from exec_server.engine.processes.output_stream import PipeStream, PtyStream

_DRAIN_BYTES: Final = 1024 * 1024
"""Bytes drained from a stream when its process has exited: as much as a pipe can hold, but no more,
so that a descendant that keeps writing cannot delay the exit event."""


class OutputPause:
    """Backpressure on all processes of a table: while it is set, output stays in the pipes."""

    def __init__(self) -> None:
        self.is_set = False
        self._callbacks: list[Callable[[], object]] = []

    def set(self) -> None:
        """Stop reading until ``clear``."""
        self.is_set = True

    def clear(self) -> None:
        """Resume reading where it stopped."""
        self.is_set = False
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_clear(self, callback: Callable[[], object]) -> None:
        """Call back once, from within the next ``clear``."""
        self._callbacks.append(callback)

    def forget_callbacks(self) -> None:
        """Drop all callbacks."""
        self._callbacks.clear()


class OutputReader:
    """The output streams of one process."""

    __slots__ = ("_loop", "_on_data", "_on_end", "_pause", "streams")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pause: OutputPause,
        streams: Sequence[PipeStream | PtyStream],
        on_data: Callable[[PipeStream | PtyStream, bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        """Call ``on_data`` for each read, and ``on_end`` when a stream has ended by itself."""
        self.streams = streams
        self._loop = loop
        self._pause = pause
        self._on_data = on_data
        self._on_end = on_end

    @property
    def is_open(self) -> bool:
        """True while a stream is open."""
        return any(stream.is_open for stream in self.streams)

    def start(self) -> None:
        """Watch the streams. Raises OSError if the kernel refuses; then call ``close``."""
        for stream in self.streams:
            self._watch(stream)

    def drain(self) -> None:
        """Read the output written so far, unless reading is paused."""
        for stream in self.streams:
            self._drain(stream)

    def close(self) -> None:
        """Close the streams that are still open."""
        for stream in self.streams:
            self._close(stream)

    def _watch(self, stream: PipeStream | PtyStream) -> None:
        self._loop.add_reader(stream.fd, self._on_readable, stream)

    def _watch_again(self, stream: PipeStream | PtyStream) -> None:
        if stream.is_open:
            self._watch(stream)

    def _on_readable(self, stream: PipeStream | PtyStream) -> None:
        if self._pause.is_set:
            # Only streams that have output are touched, so a pause is free for all others.
            self._loop.remove_reader(stream.fd)
            self._pause.on_clear(partial(self._watch_again, stream))
            return
        data = stream.read()
        if data:
            self._on_data(stream, data)
        elif data is not None:
            self._close(stream)
            self._on_end()

    def _drain(self, stream: PipeStream | PtyStream) -> None:
        remaining = _DRAIN_BYTES
        while remaining > 0 and stream.is_open and not self._pause.is_set:
            data = stream.read()
            if data is None:
                return
            if not data:
                self._close(stream)
                return
            remaining -= len(data)
            self._on_data(stream, data)

    def _close(self, stream: PipeStream | PtyStream) -> None:
        if stream.is_open:
            self._loop.remove_reader(stream.fd)
            stream.close()
