"""File operations that are confined as a client asks, each carried out inside of the sandbox.

The view of a policy is planned anew for every operation, and a worker that sees exactly this view
carries it out. A worker is a Python process, slow to start, so it is kept for a moment: clients
work on many files at a time. What the kernel lets it do is what it is allowed; nothing here judges
a path. What it opens it hands over, so large files are read and written by this process, through
descriptors that the sandbox has granted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

import exec_server
from exec_server.engine.cancellation import run_in_thread
from exec_server.engine.files.requests import OpenForRead, OpenRegular
from exec_server.engine.processes.spawn import INTERPRETER, SpawnSpec, spawn
from exec_server.engine.sandbox import bubblewrap, sandboxed_files_worker
from exec_server.engine.sandbox.bubblewrap import Bubblewrap, Confinement
from exec_server.engine.sandbox.fd_socket import Failure, receive_packet, send_packet
from exec_server.engine.sandbox.live_views import LIVE_VIEWS
from exec_server.errors import OperationFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.engine.files.requests import Operation
    from exec_server.engine.processes.spawn import Child
    from exec_server.engine.sandbox.fd_socket import Packet
    from exec_server.engine.sandbox.live_views import Places
    from exec_server.engine.sandbox.policy import SandboxPolicy
    from exec_server.engine.sandbox.view import Purpose, View

IDLE_SECONDS: Final = 2.0
"""How long a worker waits for more to do. Not long: the placeholders of one that writes are there
for all to see."""

_ATTEMPTS: Final = 5
"""At an operation whose worker has lost a mount: one that is new has lost it to a race."""

MAX_WORKERS: Final = 4
"""Of one client; the one that was idle for longest makes room."""

R = TypeVar("R")


class ConfinedFiles:
    """The workers of one client. To be used on one event loop, one operation after the other."""

    def __init__(self) -> None:
        self._workers: dict[View, _Worker] = {}
        self._ending: set[_Worker] = set()

    async def run(self, policy: SandboxPolicy, operation: Operation[R]) -> R:
        """Carry out an operation under a policy.

        Raises what the operation raises; InvalidRequest if the policy cannot be kept here;
        OperationFailed if the worker fails.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_Stale):
                return await self._run_once(policy, operation)
        raise OperationFailed(
            "sandbox: files that it protects are replaced all the time; try again later"
        )

    async def _run_once(self, policy: SandboxPolicy, operation: Operation[R]) -> R:
        wrapper = bubblewrap.require()
        purpose: Purpose = "write" if operation.changes_files() else "read"
        plan = functools.partial(wrapper.plan, policy, _package_paths(), purpose=purpose)
        view = await run_in_thread(plan)
        worker = self._workers.pop(view, None)
        if worker is None:
            while len(self._workers) >= MAX_WORKERS:
                self._end(next(iter(self._workers)))
            worker = _Worker(wrapper, view, self._forget)
        self._workers[view] = worker  # the last one is the one that was used last
        try:
            return await worker.run(operation)
        except (asyncio.CancelledError, _Stale):
            # The answer to what was cancelled would be taken for that to the next.
            self._end(view)
            raise
        finally:
            worker.expire_in(IDLE_SECONDS, functools.partial(self._expire, view, worker))

    def _expire(self, view: View, worker: _Worker) -> None:
        if self._workers.get(view) is worker:
            self._end(view)

    def _end(self, view: View) -> None:
        worker = self._workers.pop(view, None)
        if worker is not None:
            self._ending.add(worker)
            worker.end()

    def _forget(self, worker: _Worker) -> None:
        """A worker has ended."""
        self._ending.discard(worker)
        if self._workers.get(worker.view) is worker:
            del self._workers[worker.view]

    async def aclose(self) -> None:
        """End every worker; none is left when this returns."""
        for view in list(self._workers):
            self._end(view)
        while self._ending:
            await next(iter(self._ending)).ended.wait()


class _Stale(Exception):
    """The mounts of a worker are not those that its view was planned with."""


class _Worker:
    """One confined process that carries out one operation at a time."""

    def __init__(
        self, wrapper: Bubblewrap, view: View, on_ended: Callable[[_Worker], None]
    ) -> None:
        """Start it. Raises OSError for lack of resources."""
        self.view = view
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._on_ended = on_ended
        self._waiting: asyncio.Future[Packet] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._generation = -1
        self._confinement = Confinement(view, runs_program=False)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._child = self._start(wrapper, theirs)
        except BaseException:
            self._channel.close()
            self._confinement.close()
            raise
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel.fileno(), self._on_packet)
        self._loop.add_reader(self._child.pidfd, self._on_exit)

    def _start(self, wrapper: Bubblewrap, theirs: socket.socket) -> Child:
        script = os.path.abspath(sandboxed_files_worker.__file__)
        self._confinement.descriptors.append(os.dup(theirs.fileno()))
        argv = [*INTERPRETER, script, *_package_roots()]
        return spawn(
            SpawnSpec(
                argv=wrapper.wrap(argv, self.view, self._confinement, allows_network=False),
                cwd="/",
                env={},
                confinement=self._confinement,
            )
        )

    async def run(self, operation: Operation[R]) -> R:
        """Carry out one operation; see ConfinedFiles. Raises _Stale if it has to be another's."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._waiting = self._loop.create_future()
        try:
            # With an empty buffer and one packet at a time, sending never has to wait.
            send_packet(self._channel, msgspec.msgpack.encode((operation, self._changed_places())))
            packet = await self._waiting
        except OSError as error:
            raise self._failed() from error
        finally:
            self._waiting = None
        if packet.content == sandboxed_files_worker.STALE:
            raise _Stale
        try:
            return _result_of(operation, packet)
        except msgspec.MsgspecError as error:
            raise OperationFailed(f"sandbox: the worker answers nonsense: {error}") from error

    def _changed_places(self) -> Places | None:
        """What it has to know about other sandboxes, unless it knows already."""
        if self._generation == LIVE_VIEWS.generation:
            return None
        self._generation = LIVE_VIEWS.generation
        return LIVE_VIEWS.snapshot(self.view)

    def expire_in(self, seconds: float, expire: Callable[[], None]) -> None:
        """Call ``expire`` if nothing is to be done for some seconds."""
        if not self.ended.is_set():
            self._expiry = self._loop.call_later(seconds, expire)

    def end(self) -> None:
        """Kill it; its end follows."""
        if not self.ended.is_set():
            os.killpg(self._child.pid, signal.SIGKILL)

    def _on_packet(self) -> None:
        try:
            packet = receive_packet(self._channel)
        except BlockingIOError:
            return
        except OSError:
            packet = None
        if packet is None:
            self._loop.remove_reader(self._channel.fileno())
        elif self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(packet)
        else:
            _close_all(packet)

    def _on_exit(self) -> None:
        with contextlib.suppress(ChildProcessError):
            if not os.waitpid(self._child.pid, os.WNOHANG)[0]:
                return
        if self._expiry is not None:
            self._expiry.cancel()
        for descriptor in (self._channel.fileno(), self._child.pidfd):
            self._loop.remove_reader(descriptor)
        self._channel.close()
        self.ended.set()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._failed())
        for descriptor in (self._child.pidfd, self._child.stdout, self._child.stderr):
            os.close(descriptor)
        self._confinement.close()
        self._on_ended(self)

    def _failed(self) -> OperationFailed:
        """What became of it, in its own words."""
        said = ""
        with contextlib.suppress(OSError):
            said = os.read(self._child.stderr, 4096).decode(errors="replace").strip()
        reason = said.splitlines()[-1] if said else "it has ended"
        return OperationFailed(f"sandbox: the worker for file operations failed: {reason}")


def _result_of(operation: Operation[R], packet: Packet) -> R:
    """What a packet says; the descriptors in it that nobody takes are closed."""
    if packet.content.startswith(b"\1"):
        _close_all(packet)
        raise msgspec.msgpack.decode(packet.content[1:], type=Failure).error()
    if isinstance(operation, OpenForRead | OpenRegular):
        if len(packet.descriptors) == 1:
            opened: Any = packet.descriptors[0]
            return opened  # type: ignore[no-any-return]
        _close_all(packet)
        raise OperationFailed("sandbox: the worker has opened nothing")
    _close_all(packet)
    result: R = msgspec.msgpack.decode(packet.content[1:], type=operation.result)
    return result


def _close_all(packet: Packet) -> None:
    for descriptor in packet.descriptors:
        os.close(descriptor)


def _package_paths() -> tuple[str, ...]:
    """What a worker imports besides the standard library."""
    return tuple(os.path.dirname(package) for package in _packages())


def _package_roots() -> list[str]:
    """Where it finds that."""
    return list(dict.fromkeys(map(os.path.dirname, _package_paths())))


def _packages() -> tuple[str, ...]:
    return tuple(
        os.path.abspath(file)
        for file in (exec_server.__file__, msgspec.__file__)
        if file is not None
    )
