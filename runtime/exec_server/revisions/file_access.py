"""File operations of a connection, performed in the server or in a sandbox."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from exec_server.engine.cancellation import run_in_thread
from exec_server.engine.files.operations import PendingWrite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.engine.files.requests import Operation
    from exec_server.engine.sandbox.policy import SandboxPolicy
    from exec_server.engine.sandbox.sandboxed_files import SandboxedFiles

E = TypeVar("E")
R = TypeVar("R")


_SLICE: Final = 2000
"""Entries of a listing converted in one turn of the event loop, in about a millisecond."""


async def in_turns(convert: Callable[[Sequence[E]], list[R]], found: Sequence[E]) -> list[R]:
    """Convert a listing of any length in slices, between which the loop serves others."""
    converted = convert(found[:_SLICE])
    for start in range(_SLICE, len(found), _SLICE):
        await asyncio.sleep(0)
        converted += convert(found[start : start + _SLICE])
    return converted


class FileAccess:
    """The file operations of one connection."""

    def __init__(self) -> None:
        self._sandboxed: SandboxedFiles | None = None

    async def run(self, operation: Operation[R], policy: SandboxPolicy | None) -> R:
        """Run an operation, under a policy if there is one, and return its result.

        A slow operation does not block the event loop, and stops early if this is cancelled.
        Pending data of a write is written.
        """
        if policy is not None:
            if self._sandboxed is None:
                # Imports what starts processes, which few clients need for files.
                from exec_server.engine.sandbox.sandboxed_files import SandboxedFiles  # noqa: PLC0415

                self._sandboxed = SandboxedFiles()
            return await self._sandboxed.run(policy, operation)
        if operation.takes_long():
            result = await run_in_thread(operation.run)
        else:
            result = operation.run()
        if isinstance(result, PendingWrite):
            await result.finish()
        return result

    async def aclose(self) -> None:
        """Close the sandboxes."""
        if self._sandboxed is not None:
            await self._sandboxed.aclose()
