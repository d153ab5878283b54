"""Program of a sandboxed worker: performs the file operations that ``file_worker`` sends.

Run as a script whose arguments are the directories of the packages it needs. It inherits descriptor
3, a socket for requests and replies, served until the peer closes it; 4, the description of the
view; and 5, the host's /proc. See ``entry.check_view`` for the last two.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.engine.files.requests import Operation

SOCKET_FD: Final = 3
VIEW_FD: Final = 4
PROC_FD: Final = 5

STALE: Final = b"\2"
"""Reply instead of a result: a mount has disappeared, and the operation was not performed."""


def main() -> None:
    """Serve requests until the connection is closed."""
    # After the standard library, which must not be shadowed.
    sys.path += sys.argv[1:]
    from exec_server import lazy_imports  # noqa: PLC0415
    from exec_server.engine.sandbox.entry import check_view  # noqa: PLC0415

    mounts = Mounts(PROC_FD)
    problem = check_view(VIEW_FD, PROC_FD)
    if problem is not None:
        sys.exit(os.fsdecode(problem))
    # Only writing needs an event loop.
    lazy_imports.install(lazy_imports.SELDOM_USED | {"asyncio"})
    lazy_imports.load_msgspec()
    # With all arguments, because Python cannot ask the kernel for them inside the sandbox.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, SOCKET_FD) as channel:
        _serve(channel, mounts)


class Mounts:
    """The mounts of this process at its start.

    A mount disappears when another program removes or replaces the file or directory below it. Its
    id, inode or mode may then be reused by another one, but the list of all mounts changes.
    """

    def __init__(self, proc_fd: int) -> None:
        self._file = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        self._initial = self._read()

    def have_changed(self) -> bool:
        """Return True if anything was mounted, moved or unmounted."""
        return self._read() != self._initial

    def _read(self) -> bytes:
        os.lseek(self._file, 0, os.SEEK_SET)
        return b"".join(iter(lambda: os.read(self._file, 1 << 16), b""))


def _serve(channel: socket.socket, mounts: Mounts) -> None:
    import msgspec  # noqa: PLC0415

    from exec_server.engine.discovery.root_discovery import DiscoverRoot, FindPlugins  # noqa: PLC0415
    from exec_server.engine.files.path_guard import PATH_GUARD, ProtectedPaths  # noqa: PLC0415
    from exec_server.engine.files.requests import (  # noqa: PLC0415
        AnyOperation,
        OpenForRead,
        OpenRegular,
    )
    from exec_server.engine.sandbox.fd_socket import (  # noqa: PLC0415
        Failure,
        receive_packet,
        send_packet,
    )

    requests = tuple[AnyOperation | DiscoverRoot | FindPlugins, ProtectedPaths | None]
    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(requests).decode
    encode = msgspec.msgpack.encode
    while (packet := receive_packet(channel)) is not None:
        descriptors: list[int] = []
        try:
            operation, protected = decode(packet.content)
            if protected is not None:
                PATH_GUARD.load(protected)
            if mounts.have_changed():
                reply = STALE
            elif isinstance(operation, OpenForRead | OpenRegular):
                descriptors.append(operation.run())
                reply = b"\0"
            else:
                reply = b"\0" + encode(_perform(operation))
        except Exception as error:
            reply = b"\1" + encode(Failure.of(error))
        send_packet(channel, reply, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _perform(operation: Operation[object]) -> object:
    from exec_server.engine.files.operations import PendingWrite  # noqa: PLC0415

    result = operation.run()
    if isinstance(result, PendingWrite):
        import asyncio  # noqa: PLC0415

        asyncio.run(result.finish())
        return None
    return result


if __name__ == "__main__":
    main()
