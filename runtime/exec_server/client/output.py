"""Reading the output of a process as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server.client.errors import OutputLost
from exec_server.client.events import Gap, Output

if TYPE_CHECKING:
    from exec_server.client.subscription import Subscription

LINE_BYTES: Final = 1024 * 1024
"""The longest line that is looked for unless the caller says otherwise."""


class OutputReader:
    """One output stream of a process. ``Process.stdout`` and ``Process.stderr`` make it.

    Every method raises OutputLost where output is missing, once, and goes on behind it when called
    again; and ConnectionLost.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._buffer = bytearray()
        self._at_end = False

    async def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, as soon as there are any; by default everything up to the end.

        Empty at the end.
        """
        if size < 0:
            while await self._fill():
                pass
            size = len(self._buffer)
        elif not self._buffer and size:
            await self._fill()
        return self._take(size)

    async def readexactly(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises EOFError if there are fewer; they are still readable."""
        while len(self._buffer) < size:
            if not await self._fill():
                raise EOFError(f"the output ended after {len(self._buffer)} of {size} bytes")
        return self._take(size)

    async def readuntil(self, separator: bytes = b"\n", *, limit: int = LINE_BYTES) -> bytes:
        """Everything up to and with the separator; at the end what is left, which may be nothing.

        Raises ValueError if it is longer than ``limit`` bytes, which are still readable.
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
        """The next line with its newline; see ``readuntil``."""
        return await self.readuntil(limit=limit)

    def __aiter__(self) -> OutputReader:
        return self

    async def __anext__(self) -> bytes:
        """The next line with its newline."""
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _fill(self) -> bool:
        """Add what comes next to the buffer; false at the end."""
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
