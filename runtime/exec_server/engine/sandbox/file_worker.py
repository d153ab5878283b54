"""A sandboxed worker process for file operations, as seen from the server."""

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
from exec_server.engine.files.path_guard import PATH_GUARD
from exec_server.engine.files.requests import OpenForRead, OpenRegular
from exec_server.engine.processes.spawn import INTERPRETER, SpawnSpec, spawn
from exec_server.engine.sandbox import file_worker_main
from exec_server.engine.sandbox.fd_socket import Failure, receive_packet, send_packet
from exec_server.engine.sandbox.live_views import closed_paths
from exec_server.engine.sandbox.resources import SandboxResources
from exec_server.errors import OperationFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.engine.files.path_guard import ProtectedPaths
    from exec_server.engine.files.requests import Operation
    from exec_server.engine.processes.spawn import Child
    from exec_server.engine.sandbox.bubblewrap import Bubblewrap
    from exec_server.engine.sandbox.fd_socket import Packet
    from exec_server.engine.sandbox.view import View

R = TypeVar("R")

_ERROR_BYTES: Final = 4096
"""Standard error read from a worker that has failed; only its last line is reported."""


class StaleView(Exception):
    """The mounts of a worker are no longer those of its view."""


class FileWorker:
    """A process that performs one file operation at a time."""

    def __init__(
        self, bubblewrap: Bubblewrap, view: View, on_exited: Callable[[FileWorker], None]
    ) -> None:
        """Start the process. Raises OSError for lack of resources."""
        self.view = view
        self.exited = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._on_exited = on_exited
        self._reply: asyncio.Future[Packet] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._generation = -1
        self._resources = SandboxResources(view, runs_program=False)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._child = self._start(bubblewrap, theirs)
        except BaseException:
            self._channel.close()
            self._resources.close()
            raise
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel.fileno(), self._on_packet)
        self._loop.add_reader(self._child.pidfd, self._on_exit)

    def _start(self, bubblewrap: Bubblewrap, theirs: socket.socket) -> Child:
        script = os.path.abspath(file_worker_main.__file__)
        self._resources.descriptors.append(os.dup(theirs.fileno()))
        argv = bubblewrap.wrap_argv(
            [*INTERPRETER, script, *_import_path()],
            self.view,
            self._resources,
            allows_network=False,
        )
        return spawn(SpawnSpec(argv=argv, cwd="/", env={}, confinement=self._resources))

    @property
    def is_busy(self) -> bool:
        """True while an operation is in progress."""
        return self._reply is not None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    async def run(self, operation: Operation[R]) -> R:
        """Perform an operation, and raise what it raises.

        Raises StaleView if a new worker is needed, OperationFailed if this one fails.
        """
        if self._expiry is not None:
            self._expiry.cancel()
        self._reply = self._loop.create_future()
        try:
            # Sending does not block: the buffer is empty, and there is one packet at a time.
            request = operation, self._updated_guard()
            send_packet(self._channel, msgspec.msgpack.encode(request))
            packet = await self._reply
        except OSError as error:
            raise self._failure() from error
        finally:
            self._reply = None
        if packet.content == file_worker_main.STALE:
            raise StaleView
        try:
            return _decode_result(operation, packet)
        except msgspec.MsgspecError as error:
            raise OperationFailed(
                f"sandbox: invalid reply from the file worker: {error}"
            ) from error

    def _updated_guard(self) -> ProtectedPaths | None:
        """Return the paths that the worker must not change, unless it knows them already."""
        if self._generation == PATH_GUARD.generation:
            return None
        self._generation = PATH_GUARD.generation
        # For paths that are closed to the worker, the kernel returns the more accurate error.
        return PATH_GUARD.snapshot(closed_paths(self.view))

    def expire_in(self, seconds: float, expire: Callable[[], None]) -> None:
        """Call ``expire`` if there is no operation for some seconds."""
        if not self.exited.is_set():
            self._expiry = self._loop.call_later(seconds, expire)

    def kill(self) -> None:
        """Kill the process; ``exited`` is set when it has exited."""
        if not self.exited.is_set():
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
        elif self._reply is not None and not self._reply.done():
            self._reply.set_result(packet)
        else:
            _close_descriptors(packet)

    def _on_exit(self) -> None:
        with contextlib.suppress(ChildProcessError):
            if not os.waitpid(self._child.pid, os.WNOHANG)[0]:
                return
        if self._expiry is not None:
            self._expiry.cancel()
        for descriptor in (self._channel.fileno(), self._child.pidfd):
            self._loop.remove_reader(descriptor)
        self._channel.close()
        self.exited.set()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(self._failure())
        for descriptor in (self._child.pidfd, self._child.stdout, self._child.stderr):
            os.close(descriptor)
        self._resources.close()
        self._on_exited(self)

    def _failure(self) -> OperationFailed:
        """Return the error for a worker that has failed, with its last line of standard error."""
        text = ""
        with contextlib.suppress(OSError):
            text = os.read(self._child.stderr, _ERROR_BYTES).decode(errors="replace").strip()
        reason = text.splitlines()[-1] if text else "it exited"
        return OperationFailed(f"sandbox: the worker for file operations failed: {reason}")


def _decode_result(operation: Operation[R], packet: Packet) -> R:
    """Return the result in a reply; unexpected descriptors are closed."""
    if packet.content.startswith(b"\1"):
        _close_descriptors(packet)
        raise msgspec.msgpack.decode(packet.content[1:], type=Failure).error()
    if isinstance(operation, OpenForRead | OpenRegular):
        if len(packet.descriptors) == 1:
            opened: Any = packet.descriptors[0]
            return opened  # type: ignore[no-any-return]
        _close_descriptors(packet)
        raise OperationFailed("sandbox: invalid reply from the file worker: no open file")
    _close_descriptors(packet)
    result: R = msgspec.msgpack.decode(packet.content[1:], type=operation.result)
    return result


def _close_descriptors(packet: Packet) -> None:
    for descriptor in packet.descriptors:
        os.close(descriptor)


@functools.cache
def package_paths() -> tuple[str, ...]:
    """Return the directories of the packages that a worker imports, except the standard library."""
    return tuple(
        os.path.dirname(os.path.abspath(file))
        for file in (exec_server.__file__, msgspec.__file__)
        if file is not None
    )


def _import_path() -> list[str]:
    """Return the directories in which a worker finds these packages."""
    return list(dict.fromkeys(map(os.path.dirname, package_paths())))
