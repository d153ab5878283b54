"""Exceptions of the suite, grouped by who has to act on them.

ConformanceError
├── SessionError         a session or configuration file is invalid
├── ReportError          a report cannot be written or read
├── TargetError          the target cannot be started or reached
└── Failure              the target violated the contract
    ├── SchemaViolation  a message does not validate against the schema
    ├── Mismatch         a value differs from the expected one
    └── NoResponse       an expected message did not arrive
        ├── Unresponsive    the server no longer answers any request
        └── ServerCrashed   the server process terminated abnormally
"""

from __future__ import annotations

from typing import Any, Final

FAILURE_KINDS: Final = ("value", "schema", "rule", "no-response", "unresponsive", "crash")
"""Kinds of contract violations, as named in files of known deviations."""


class ConformanceError(Exception):
    """Base class of all errors raised by this package."""


class SessionError(ConformanceError):
    """Invalid session, scenario or configuration file; the message names the file and line."""


class ReportError(ConformanceError):
    """Report that cannot be written or read; the message names the file."""


class TargetError(ConformanceError):
    """Target that cannot be started or reached."""


class Failure(ConformanceError):
    """Contract violation by the target; the message names the expected and received value."""

    line: int = 1
    """Line of the session file that was being executed."""

    kind: str = "rule"
    """Kind of the violation; one of FAILURE_KINDS."""

    where: str = ""
    """Place of the violation, such as a path to a value or an awaited message; may be empty."""

    entry: int | None = None
    """Index in the trace of the offending message; None if there is none."""


class SchemaViolation(Failure):
    """A message does not validate against the schema; ``where`` is the path to the value."""

    kind = "schema"

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.where = where


class Mismatch(Failure):
    """A value differs from the expected one.

    ``where`` is the path to the differing part; ``expected`` and ``received`` are that part.
    """

    kind = "value"

    def __init__(self, text: str, where: str, expected: Any, received: Any) -> None:
        super().__init__(text)
        self.where = where
        self.expected = expected
        self.received = received


class NoResponse(Failure):
    """An expected message did not arrive in time, or the connection was closed before it did."""

    kind = "no-response"

    def __init__(self, text: str, where: str = "") -> None:
        super().__init__(text)
        self.where = where


class Unresponsive(NoResponse):
    """The server no longer answers any request."""

    kind = "unresponsive"


class ServerCrashed(NoResponse):
    """The server process was terminated by a signal or exited with an error."""

    kind = "crash"
