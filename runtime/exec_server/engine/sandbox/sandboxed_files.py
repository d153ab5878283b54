"""Sandboxed file operations, each performed by a worker process inside the sandbox.

The view of a policy is planned anew for every operation, and the operation is sent to a worker
with exactly this view. Workers are Python processes, which are slow to start, so they are kept for
a short time: clients usually operate on many files in a row. Access is enforced by the kernel; no
code here checks paths. Workers pass opened files to the server, which reads and writes large files
through these descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from exec_server.engine.cancellation import run_in_thread
from exec_server.engine.sandbox import bubblewrap
from exec_server.engine.sandbox.file_worker import FileWorker, StaleView, package_paths
from exec_server.errors import OperationFailed

if TYPE_CHECKING:
    from exec_server.engine.files.requests import Operation
    from exec_server.engine.sandbox.policy import SandboxPolicy
    from exec_server.engine.sandbox.view import Purpose, View

IDLE_SECONDS: Final = 2.0
"""Time after which an idle worker is ended. It is short because placeholders of a worker that
writes are visible to all programs."""

_ATTEMPTS: Final = 5
"""Attempts at an operation whose worker has lost a mount. A new worker loses one only in a race."""

MAX_WORKERS: Final = 4
"""Workers of one client; beyond the limit the least recently used one is ended."""

R = TypeVar("R")


class SandboxedFiles:
    """The workers of one client, for use on one event loop with one operation at a time."""

    def __init__(self) -> None:
        self._workers: dict[View, FileWorker] = {}
        self._exiting: set[FileWorker] = set()

    async def run(self, policy: SandboxPolicy, operation: Operation[R]) -> R:
        """Perform an operation under a policy, and raise what it raises.

        Raises InvalidRequest if the policy cannot be enforced, OperationFailed if the worker fails.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(StaleView):
                return await self._run_once(policy, operation)
        raise OperationFailed(
            "sandbox: protected files are being replaced continuously; try again later"
        )

    async def _run_once(self, policy: SandboxPolicy, operation: Operation[R]) -> R:
        wrapper = bubblewrap.require()
        purpose: Purpose = "write" if operation.changes_files() else "read"
        plan = partial(wrapper.plan, policy, package_paths(), purpose=purpose)
        view = await run_in_thread(plan)
        worker = self._workers.pop(view, None)
        if worker is None:
            while len(self._workers) >= MAX_WORKERS:
                self._end(next(iter(self._workers)))
            worker = FileWorker(wrapper, view, self._on_exited)
        self._workers[view] = worker  # last in the order of use
        try:
            return await worker.run(operation)
        except (asyncio.CancelledError, StaleView):
            # Its reply to a cancelled operation would be taken for that to the next one.
            self._end(view)
            raise
        finally:
            worker.expire_in(IDLE_SECONDS, partial(self._expire, view, worker))

    def _expire(self, view: View, worker: FileWorker) -> None:
        if self._workers.get(view) is worker:
            self._end(view)

    def _end(self, view: View) -> None:
        worker = self._workers.pop(view, None)
        if worker is not None:
            self._exiting.add(worker)
            worker.kill()

    def _on_exited(self, worker: FileWorker) -> None:
        self._exiting.discard(worker)
        if self._workers.get(worker.view) is worker:
            del self._workers[worker.view]

    async def aclose(self) -> None:
        """Kill all workers, and wait until they have exited."""
        for view in list(self._workers):
            self._end(view)
        while self._exiting:
            await next(iter(self._exiting)).exited.wait()
