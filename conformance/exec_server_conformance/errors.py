"""What can go wrong in the suite, told apart by who must act.

ConformanceError
├── SessionError     a session file is wrong: whoever wrote it must mend it
├── ReportError      a report cannot be written or read: whoever asked for it must say where
├── TargetError      the server under test cannot be run at all
└── Failure          the server under test did something a session forbids
    ├── Mismatch     it sent a value other than the expected one
    └── Silence      it did not send what it should have
        ├── Muteness     and answers nothing else either
        └── Death        because its process ended
"""

from __future__ import annotations

from typing import Any


class ConformanceError(Exception):
    """Root of the errors of this package."""


class SessionError(ConformanceError):
    """A session or scenario file cannot be used; the text names the file and line."""


class ReportError(ConformanceError):
    """A report cannot be written or read; the text names the file."""


class TargetError(ConformanceError):
    """The server under test cannot be started or reached."""


class Failure(ConformanceError):
    """The server under test broke the contract; the text says what was expected and what came."""

    line: int = 1
    """Line of the session file that was played."""

    entry: int | None = None
    """Index in the trace of the message that broke it."""


class Mismatch(Failure):
    """A value is not the expected one.

    ``where`` is the path to the part that differs; ``expected`` and ``received`` are that part.
    """

    def __init__(self, text: str, where: str, expected: Any, received: Any) -> None:
        super().__init__(text)
        self.where = where
        self.expected = expected
        self.received = received


class Silence(Failure):
    """What was expected did not come in time, or the server ended the connection before."""


class Muteness(Silence):
    """The server does not answer anything any more."""


class Death(Silence):
    """The server's process ended by a signal or with an error; nothing excuses that."""
