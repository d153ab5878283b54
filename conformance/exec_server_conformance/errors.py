"""What can go wrong in the suite, told apart by who must act.

ConformanceError
├── SessionError     a session file is wrong: whoever wrote it must mend it
├── TargetError      the server under test cannot be run at all
└── Failure          the server under test did something a session forbids
"""


class ConformanceError(Exception):
    """Root of the errors of this package."""


class SessionError(ConformanceError):
    """A session or scenario file cannot be used; the text names the file and line."""


class TargetError(ConformanceError):
    """The server under test cannot be started or reached."""


class Failure(ConformanceError):
    """The server under test broke the contract; the text says what was expected and what came."""
