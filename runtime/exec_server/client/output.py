"""Output of a process as a byte stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server.client.errors import OutputLost
from exec_server.client.events import Gap, Output

if TYPE_CHECKING:
    from exec_server.client.subscription import Subscription

LINE_BYTES: Final = 1024 * 1024
"""Default limit of a line: far above the lines of logs, and small enough to hold many."""


class OutputReader:
    """One output stream of a process: ``Process.stdout`` or ``Process.stderr``.

    Every method raises ConnectionLost, and OutputLost where output is missing; the next call
    continues after the gap.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._buffer = bytearray()
        self._at_end = False

    @property
    def buffered(self) -> bytes:
        """Output that has arrived here and has not been returned, after a cancelled read."""
        return bytes(self._buffer)

    async def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes as soon as any are available; by default all of the stream.

        Returns an empty object at the end.
        """
        if size < 0:
            while await self._fill():
                pass
            size = len(self._buffer)
        elif not self._buffer and size:
            await self._fill()
        return self._take(size)

    async def readexactly(self, size: int) -> bytes:
        """Return exactly ``size`` bytes. Raises EOFError if the stream ends first.

        The bytes before the end remain readable.
        """
        while len(self._buffer) < size:
            if not await self._fill():
                raise EOFError(f"the output ended after {len(self._buffer)} of {size} bytes")
        return self._take(size)

    async def readuntil(self, separator: bytes = b"\n", *, limit: int = LINE_BYTES) -> bytes:
        """Return data up to and including the separator, or up to the end of the stream.

        Raises ValueError if it exceeds ``limit`` bytes, which remain readable.
        """
        searched = 0
        while True:
            found = self._buffer.find(separator, searched, limit)
            if found >= 0:
                return self._take(found + len(separator))
            if len(self._buffer) >= limit:
                raise ValueError(f"no {separator!r} in {limit} bytes")
            searched = max(0, len(self._buffer) - len(separator) + 1)
            if not await self._fill():
                return self._take(len(self._buffer))

    async def readline(self, *, limit: int = LINE_BYTES) -> bytes:
        """Return the next line with its newline; see ``readuntil``."""
        return await self.readuntil(limit=limit)

    def __aiter__(self) -> OutputReader:
        return self

    async def __anext__(self) -> bytes:
        """Return the next line with its newline."""
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _fill(self) -> bool:
        """Append the next output to the buffer; false at the end."""
        while not self._at_end:
            event = await self._subscription.next()
            if event is None:
                self._at_end = True
            elif type(event) is Output:
                self._buffer += event.data
                return True
            elif type(event) is Gap:
                raise OutputLost(event.first_seq, event.last_seq)
        return False
