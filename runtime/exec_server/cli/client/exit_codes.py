"""Exit codes, which are those of docker where it has one, and the error that selects one."""

from __future__ import annotations

from typing import Final

from exec_server.errors import ExecServerError

FAILED: Final = 1
"""A file could not be read, written or listed."""

TROUBLE: Final = 125
"""The command line, the server or the connection failed, not the program that was run."""

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

SIGNALLED: Final = 128
"""Added to the number of the signal that ended a program or this command."""


class CommandError(ExecServerError):
    """The command cannot be carried out; the text is shown to the user."""

    def __init__(self, message: str, code: int = TROUBLE) -> None:
        super().__init__(message)
        self.code = code
        """Exit code of the command."""


def describe(error: OSError) -> str:
    """Return the text of an error of the local or the remote operating system."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"
