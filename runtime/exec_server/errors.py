"""The exception tree of the runtime.

    ExecServerError
    ├── EngineError            an operation could not be done; says why in words for people
    │   ├── InvalidArgument    an argument is well-typed but unusable (an empty argv, a bad URL)
    │   ├── InvalidRequest     the state or a rule forbids it (a duplicate process id)
    │   │   └── SessionAttached    the session to resume has a connection
    │   ├── NotFound           the thing named does not exist
    │   └── OperationFailed    everything else the operating system or a peer made fail
    │       └── SpawnFailed        a program could not be started, for a reason without an errno
    ├── MalformedMessage       the peer sent input that is no JSON-RPC message
    ├── ProtocolViolation      the peer broke the protocol; the connection ends
    ├── UsageError             the person at the command line asked for something impossible
    └── ClientError            what a client of a server meets; see exec_server.client.errors

JSON-RPC codes appear only at the connection edge, where a revision maps these classes to its own
error table. An ``OSError`` may pass through the engine unwrapped: its errno is the information.
"""

import os


def system_text(errno: int) -> str:
    """Return the text for clients of an operating system's error."""
    return f"{os.strerror(errno)} (os error {errno})"


class ExecServerError(Exception):
    """Root of every error this package raises on purpose."""


class EngineError(ExecServerError):
    """An operation could not be done; ``str(error)`` is the message for the client."""

    kind: str | None = None
    """Machine-readable kind, for revisions that send one (``error.data.kind``)."""


class InvalidArgument(EngineError):
    """An argument is well-typed but unusable: an empty argv, a relative path, a bad URL."""


class InvalidRequest(EngineError):
    """The state or a rule forbids the request: a duplicate process id, a copy into itself."""


class SessionAttached(InvalidRequest):
    """The session to resume has a connection already."""

    def __init__(self, session_id: str, revision: str) -> None:
        super().__init__(f"session {session_id} is already attached to another connection")
        self.revision = revision
        """Revision in use by the session's client; determines the error code."""


class NotFound(EngineError):
    """The thing named does not exist."""


class OperationFailed(EngineError):
    """The operating system or a remote peer made the operation fail."""


class SpawnFailed(OperationFailed):
    """A program could not be started, for a reason that is no error of the operating system."""


class MalformedMessage(ExecServerError):
    """Input that is no JSON-RPC message; ``str(error)`` says what was found."""


class ProtocolViolation(ExecServerError):
    """The peer broke the protocol in a way that ends the connection."""


class UsageError(ExecServerError):
    """The command line asks for something impossible; ends with exit code 1 or 2, no traceback."""
