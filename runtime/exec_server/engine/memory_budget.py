"""The memory that a server holds for one client, counted in one place.

Whatever keeps bytes for a client while something else has to happen counts them here: requests
that wait, input queued for processes, contents that are collected before they can be sent. What
cannot be refused or put off is only counted, so that everything else has to do without.
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
"""Memory that a short text or number takes in Python, whatever its length on the wire."""


class MemoryBudget:
    """Bytes held for one client, and how many there may be."""

    def __init__(
        self, max_bytes: int = sys.maxsize, count_unsent: Callable[[], int] | None = None
    ) -> None:
        """``count_unsent`` returns the bytes that wait to be sent to the client."""
        self.max_bytes = max_bytes
        self._count_unsent = count_unsent
        self._bytes = 0

    @cached_property
    def reading(self) -> asyncio.Lock:
        """Held while contents of endless length are read.

        So a client has one turn of the event loop, however many of them it asks for.
        """
        import asyncio  # noqa: PLC0415 (takes a while to load, and few clients read such contents)

        return asyncio.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes held at the moment, those that wait to be sent included."""
        return self._bytes + (0 if self._count_unsent is None else self._count_unsent())

    def has_room(self, size: int) -> bool:
        """Return True if so many more bytes may be held."""
        return self.held_bytes + size <= self.max_bytes

    def check_room(self, size: int) -> None:
        """Raise InvalidRequest if so many more bytes may not be held."""
        if not self.has_room(size):
            raise InvalidRequest(
                f"the server holds at most {self.max_bytes} bytes for a client at a time"
            )

    def charge(self, size: int) -> None:
        """Count bytes that are about to be held. Raises InvalidRequest if there is no room."""
        self.check_room(size)
        self._bytes += size

    def add(self, size: int) -> None:
        """Count bytes that are held already, room or not."""
        self._bytes += size

    def release(self, size: int) -> None:
        """Count bytes no longer that ``charge`` or ``add`` has counted."""
        self._bytes -= size
