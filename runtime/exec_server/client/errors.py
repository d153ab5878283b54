"""Exceptions of the client.

    ExecServerError
    └── ClientError
        ├── ConnectFailed          connection or handshake failed
        │   └── ConnectTimedOut    connection or handshake timed out; also a TimeoutError
        ├── ConnectionLost         established connection lost; also a ConnectionError
        │   └── SessionLost        session not resumed; its processes are gone
        ├── RequestTimedOut        no answer within the time limit; also a TimeoutError
        ├── ServerError            error answer of the server
        │   └── MethodUnknown      method not implemented by the server
        ├── BadAnswer              answer of the wrong shape
        ├── Unsupported            operation missing in the server's revision
        ├── InputRefused           standard input closed or absent; also a BrokenPipeError
        ├── OutputLost             output missing from a byte stream
        ├── BodyTooFast            HTTP body received faster than it was read
        ├── CommandFailed          checked command with an exit code other than 0
        └── CommandTimedOut        command exceeded its time limit; also a TimeoutError

Errors of the server's operating system are raised as the ``OSError`` that a local call would raise
(``FileNotFoundError``, ``PermissionError``, …), with the ``ServerError`` as the cause.
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
"""Message of codex about a program that cannot be started on a terminal."""

_NAMED_ERROR: Final = re.compile(r"\((?P<name>E[A-Z]+): ")

NOT_FOUND: Final = -32004
METHOD_NOT_FOUND: Final = -32601
"""JSON-RPC error codes with the same meaning in every revision."""


class ClientError(ExecServerError):
    """Base class of the exceptions of the client."""


class ConnectFailed(ClientError):
    """The connection could not be established, or the server refused it."""


class ConnectTimedOut(ConnectFailed, TimeoutError):
    """The connection or its handshake did not complete within the time limit."""


class ConnectionLost(ClientError, ConnectionError):
    """The connection ended."""

    def __init__(self, reason: str, *, was_sent: bool = True) -> None:
        super().__init__(reason)
        self.was_sent = was_sent
        """True if the request had been sent, so that it may have been carried out."""


class SessionLost(ConnectionLost):
    """The session could not be resumed after a lost connection; its processes are gone."""


class RequestTimedOut(ClientError, TimeoutError):
    """The server did not answer a request within the time limit.

    The request may still be carried out.
    """

    def __init__(self, action: str, target: str, timeout: float) -> None:
        super().__init__(f"{action}: no answer from {target} within {timeout:g} seconds")
        self.timeout = timeout


class ServerError(ClientError):
    """The server answered a request with an error."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.method = method
        self.code = code
        """JSON-RPC error code, one of the revision's error table."""
        self.message = message
        """Message of the server."""
        self.was_repeated = False
        """True if the request was repeated after a lost connection, so that it may have collided
        with its first copy."""


class MethodUnknown(ServerError):
    """The server does not implement the method."""


class BadAnswer(ClientError):
    """The answer does not have the shape that the revision defines."""


class Unsupported(ClientError):
    """The server's revision lacks the operation."""


class InputRefused(ClientError, BrokenPipeError):
    """The process takes no input: it has ended, or has no open standard input."""


class OutputLost(ClientError):
    """Output is missing from a byte stream; the next read continues after the gap.

    The output was produced faster than it was read, and is no longer retained by the server.
    """

    def __init__(self, first_seq: int, last_seq: int) -> None:
        super().__init__(
            f"output was lost: events {first_seq} to {last_seq} are no longer retained"
        )
        self.first_seq = first_seq
        self.last_seq = last_seq


class BodyTooFast(ClientError):
    """A streamed HTTP body exceeded its buffer because it was read too slowly."""


class CommandFailed(ClientError):
    """A checked command exited with a code other than 0."""

    def __init__(self, argv: Sequence[str], returncode: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(f"command {shown_command(argv)!r} exited with {returncode}")
        self.argv = list(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


class CommandTimedOut(ClientError, TimeoutError):
    """A command exceeded its time limit; ``stdout`` and ``stderr`` hold its output so far."""

    def __init__(
        self, argv: Sequence[str], timeout: float, stdout: bytes, stderr: bytes, outcome: str
    ) -> None:
        """``outcome`` states what became of the command."""
        super().__init__(
            f"command {shown_command(argv)!r} timed out after {timeout:g} seconds; {outcome}"
        )
        self.argv = list(argv)
        self.timeout = timeout
        self.stdout = stdout
        self.stderr = stderr


def server_error(method: str, code: int, message: str) -> ServerError:
    """Return the exception for an error answer."""
    kind = MethodUnknown if code == METHOD_NOT_FOUND else ServerError
    return kind(method, code, message)


def os_error(error: ServerError, path: str, second: str | None = None) -> OSError | None:
    """Return the ``OSError`` that an error answer reports, or None if it reports another error.

    Servers report system errors by text and number, ``Is a directory (os error 21)``, except that
    codex words failed starts on a terminal differently. The text of the exception is the local
    one, because C libraries differ in theirs.
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
        # execve fails with EACCES for a directory.
        return _errno.EACCES
    return _errno.ENOENT if "No viable candidates found in PATH" in reason else None
