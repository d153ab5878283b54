"""What can go wrong for a client.

    ExecServerError
    └── ClientError
        ├── ConnectFailed          there is no connection, or no handshake
        │   └── ConnectTimedOut    … within the time allowed; also a TimeoutError
        ├── ConnectionLost         there was one; also a ConnectionError
        │   └── SessionLost        it could not be resumed: the session's processes are gone
        ├── ServerError            the server answered with an error
        │   └── MethodUnknown      … because it does not have the method
        ├── BadAnswer              the server's answer has the wrong shape
        ├── Unsupported            the server's revision has no way to do it
        ├── InputRefused           the process takes no input (any more); also a BrokenPipeError
        ├── OutputLost             a reader of bytes would have skipped output
        ├── BodyTooFast            an HTTP body came faster than it was read
        ├── CommandFailed          a checked command exited with something else than 0
        └── CommandTimedOut        a command took too long and was killed; also a TimeoutError

What the operating system of the server refuses is raised as the ``OSError`` it would be here
(``FileNotFoundError``, ``PermissionError``, …), caused by the ``ServerError`` that told of it.
"""

from __future__ import annotations

import errno as _errno
import os
import re
from typing import TYPE_CHECKING, Final

from exec_server.client.display import shown_command
from exec_server.errors import ExecServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

_OS_ERROR: Final = re.compile(r" \(os error (?P<number>\d{1,5})\)$")

_UNSPAWNED: Final = re.compile(r"Unable to spawn .* because(?P<reason>.*)", re.DOTALL)
"""What codex says of a program that cannot be started on a terminal."""

_NAMED_ERROR: Final = re.compile(r"\((?P<name>E[A-Z]+): ")

NOT_FOUND: Final = -32004
METHOD_NOT_FOUND: Final = -32601
"""JSON-RPC codes that every revision gives the same meaning."""


class ClientError(ExecServerError):
    """Root of what the client raises on purpose."""


class ConnectFailed(ClientError):
    """No connection could be made, or the server refused it."""


class ConnectTimedOut(ConnectFailed, TimeoutError):
    """The connection or its handshake was not there in time."""


class ConnectionLost(ClientError, ConnectionError):
    """The connection ended."""

    def __init__(self, reason: str, *, was_sent: bool = True) -> None:
        super().__init__(reason)
        self.was_sent = was_sent
        """Whether the request that failed had been sent, and so may or may not have been done."""


class SessionLost(ConnectionLost):
    """The connection ended and the session could not be resumed; its processes are gone."""


class ServerError(ClientError):
    """The server answered a request with an error."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.method = method
        self.code = code
        """JSON-RPC error code, one of the revision's error table."""
        self.message = message
        """The server's words."""
        self.was_repeated = False
        """Whether the request was sent again after a lost connection, so that an earlier copy may
        be what this one collided with."""


class MethodUnknown(ServerError):
    """The server does not have the method."""


class BadAnswer(ClientError):
    """An answer cannot be read as what the revision says it is."""


class Unsupported(ClientError):
    """The server's revision has no way to do what was asked."""


class InputRefused(ClientError, BrokenPipeError):
    """The process takes no input: it has ended, or was started without."""


class OutputLost(ClientError):
    """Output is missing at this place of a byte stream; reading again goes on behind it.

    It was produced faster than it was read, and neither the client nor the server kept it.
    """

    def __init__(self, first_seq: int, last_seq: int) -> None:
        super().__init__(
            f"output was lost: events {first_seq} to {last_seq} are no longer retained"
        )
        self.first_seq = first_seq
        self.last_seq = last_seq


class BodyTooFast(ClientError):
    """A streamed HTTP body came faster than it was read, beyond what was to be kept of it."""


class CommandFailed(ClientError):
    """A command that was to be checked exited with something else than 0."""

    def __init__(self, argv: Sequence[str], returncode: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(f"command {shown_command(argv)!r} exited with {returncode}")
        self.argv = list(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


class CommandTimedOut(ClientError, TimeoutError):
    """A command took too long and was killed; what it had written by then is here."""

    def __init__(self, argv: Sequence[str], timeout: float, stdout: bytes, stderr: bytes) -> None:
        super().__init__(f"command {shown_command(argv)!r} was killed after {timeout:g} seconds")
        self.argv = list(argv)
        self.timeout = timeout
        self.stdout = stdout
        self.stderr = stderr


def server_error(method: str, code: int, message: str) -> ServerError:
    """The exception for an error answer."""
    kind = MethodUnknown if code == METHOD_NOT_FOUND else ServerError
    return kind(method, code, message)


def os_error(error: ServerError, path: str, second: str | None = None) -> OSError | None:
    """The ``OSError`` that an error answer tells of; None if it tells of something else.

    Servers write system errors as their text and number, ``Is a directory (os error 21)``, except
    codex of what it cannot start on a terminal. The text is the local one, because the real
    servers' C library words some differently.
    """
    number = _error_number(error)
    return None if number is None else OSError(number, os.strerror(number), path, None, second)


def _error_number(error: ServerError) -> int | None:
    match = _OS_ERROR.search(error.message)
    if match is not None:
        return int(match["number"])
    if error.code == NOT_FOUND:
        return _errno.ENOENT
    unspawned = _UNSPAWNED.match(error.message)
    if unspawned is None:
        return None
    reason = unspawned["reason"]
    named = _NAMED_ERROR.search(reason)
    if named is not None:
        return next(
            (code for code, name in _errno.errorcode.items() if name == named["name"]), None
        )
    if "it is a directory" in reason:
        # What the system says of it, when it is told to run one.
        return _errno.EACCES
    return _errno.ENOENT if "No viable candidates found in PATH" in reason else None
