"""Carries out file operations inside a sandbox, for ``sandboxed_files`` outside of it.

Run as a script with the directories of the packages it needs, and with descriptor 3, a socket of
packets over which requests and replies come and go until the other side closes it, 4, where the
view is described, and 5, the /proc of outside; see ``sandbox_entry.check_view``.
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
"""Reply instead of a result: the view has fallen apart, and nothing was done."""


def main() -> None:
    """Serve until there is nobody to serve."""
    # Behind the standard library, which must not be replaced by what lies about somewhere.
    sys.path += sys.argv[1:]
    from exec_server import lazy_imports  # noqa: PLC0415
    from exec_server.engine.sandbox.entry import check_view  # noqa: PLC0415

    mounts = Mounts(PROC_FD)
    wrong = check_view(VIEW_FD, PROC_FD)
    if wrong is not None:
        sys.exit(os.fsdecode(wrong))
    # Only what is written needs an event loop.
    lazy_imports.install(lazy_imports.SELDOM_USED | {"asyncio"})
    lazy_imports.load_msgspec()
    import msgspec  # noqa: PLC0415

    from exec_server.engine.discovery.root_discovery import DiscoverRoot, FindPlugins  # noqa: PLC0415
    from exec_server.engine.files.requests import (  # noqa: PLC0415
        AnyOperation,
        OpenForRead,
        OpenRegular,
    )
    from exec_server.engine.sandbox.fd_socket import Failure, receive_packet, send_packet  # noqa: PLC0415
    from exec_server.engine.sandbox.live_views import LIVE_VIEWS, Places  # noqa: PLC0415

    requests = tuple[AnyOperation | DiscoverRoot | FindPlugins, Places | None]
    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(requests).decode
    encode = msgspec.msgpack.encode
    # All that Python would ask the kernel about it, which does not answer in here.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, SOCKET_FD) as channel:
        while (packet := receive_packet(channel)) is not None:
            descriptors: list[int] = []
            try:
                operation, places = decode(packet.content)
                if places is not None:
                    LIVE_VIEWS.load(places)
                if mounts.have_changed():
                    reply = STALE
                elif isinstance(operation, OpenForRead | OpenRegular):
                    descriptors.append(operation.run())
                    reply = b"\0"
                else:
                    reply = b"\0" + encode(_carry_out(operation))
            except Exception as error:
                reply = b"\1" + encode(Failure.of(error))
            send_packet(channel, reply, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


class Mounts:
    """The mounts of this process, as they are when it starts.

    One is gone when another program removes or replaces the file or directory below it. Its own
    number, inode or mode may then be those of another; but the list of all mounts tells.
    """

    def __init__(self, proc_fd: int) -> None:
        self._file = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        self._before = self._read()

    def have_changed(self) -> bool:
        """True once anything is mounted in another place, or not any more."""
        return self._read() != self._before

    def _read(self) -> bytes:
        os.lseek(self._file, 0, os.SEEK_SET)
        return b"".join(iter(lambda: os.read(self._file, 1 << 16), b""))


def _carry_out(operation: Operation[object]) -> object:
    from exec_server.engine.files.operations import PendingWrite  # noqa: PLC0415

    result = operation.run()
    if isinstance(result, PendingWrite):
        import asyncio  # noqa: PLC0415

        asyncio.run(result.finish())
        return None
    return result


if __name__ == "__main__":
    main()
