"""Holding back signals while a sandboxed program is being started.

The helper that sets up a sandbox blocks all signals until the program itself runs. A signal sent
earlier would be lost or would end the helper, so signals are queued until the confinement reports
that they reach the program.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from exec_server.engine.processes.event_waiters import release

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.engine.processes.spawn import Confinement


class SignalGate:
    """The gate of one sandboxed process: closed until its program can receive signals."""

    __slots__ = ("_confinement", "_held", "_loop", "_opened", "_send")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        confinement: Confinement,
        send: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._confinement = confinement
        self._send = send
        self._held: list[int] = []
        self._opened: asyncio.Future[None] = loop.create_future()

    @property
    def is_open(self) -> bool:
        """True once signals reach the program, or the process is released."""
        return self._opened.done()

    def watch(self) -> None:
        """Open the gate as soon as the confinement reports that signals arrive."""
        self._loop.add_reader(self._confinement.go_ahead, self.open)

    def hold(self, signum: int) -> None:
        """Queue a signal until the gate opens."""
        self._held.append(signum)

    async def wait(self) -> None:
        """Wait until the gate is open."""
        await asyncio.shield(self._opened)

    def open(self) -> None:
        """Open the gate and send the queued signals. Idempotent."""
        self._loop.remove_reader(self._confinement.go_ahead)
        release(self._opened)
        held, self._held = self._held, []
        for signum in held:
            self._send(signum)

    def close(self) -> None:
        """Release the confinement when its process has ended."""
        self.open()
        self._confinement.close()
