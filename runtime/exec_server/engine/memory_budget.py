"""Accounting of the memory that a server holds for one client.

All bytes that are buffered for a client are counted: pending requests, input queued for processes,
and contents that are collected before they can be sent. Buffers that can be neither refused nor
deferred are only counted, which leaves less room for the others.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Final

from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

VALUE_BYTES: Final = 64
"""Memory of a short string or number in Python, independent of its length on the wire."""


class MemoryBudget:
    """Number of bytes held for one client, and its limit."""

    def __init__(
        self, max_bytes: int = sys.maxsize, count_unsent: Callable[[], int] | None = None
    ) -> None:
        """``count_unsent`` returns the number of bytes in the client's send buffer."""
        self.max_bytes = max_bytes
        self._count_unsent = count_unsent
        self._bytes = 0

    @cached_property
    def reading(self) -> asyncio.Lock:
        """Lock for reading contents of unknown length.

        It limits a client to one such read per turn of the event loop.
        """
        import asyncio  # noqa: PLC0415 (slow to import, and few clients read such contents)

        return asyncio.Lock()

    @property
    def held_bytes(self) -> int:
        """Number of bytes held at the moment, including the send buffer."""
        return self._bytes + (0 if self._count_unsent is None else self._count_unsent())

    def has_room(self, size: int) -> bool:
        """Return True if ``size`` more bytes are within the limit."""
        return self.held_bytes + size <= self.max_bytes

    def check_room(self, size: int) -> None:
        """Raise InvalidRequest if ``size`` more bytes would exceed the limit."""
        if not self.has_room(size):
            raise InvalidRequest(
                f"the server holds at most {self.max_bytes} bytes for a client at a time"
            )

    def charge(self, size: int) -> None:
        """Count bytes. Raises InvalidRequest if they would exceed the limit."""
        self.check_room(size)
        self._bytes += size

    def add(self, size: int) -> None:
        """Count bytes even if they exceed the limit."""
        self._bytes += size

    def release(self, size: int) -> None:
        """Undo ``charge`` or ``add``."""
        self._bytes -= size
