"""The request to shut a server down, which may come before the server exists."""

from __future__ import annotations

import asyncio


class ShutdownEvent:
    """Set by signals and the like; the server drains once it is set."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self.is_urgent = False
        """True after a second request: the server then waits for nothing."""

    def request(self) -> None:
        """Request the shutdown; the second time, without waiting for pending work."""
        self.is_urgent = self.is_requested
        self._requested.set()

    @property
    def is_requested(self) -> bool:
        """True once the shutdown was requested."""
        return self._requested.is_set()

    async def wait(self) -> None:
        """Return when the shutdown is requested."""
        await self._requested.wait()
