"""What ends a command early, and the exit codes of that; docker's, where docker has one."""

from __future__ import annotations

from typing import Final

from exec_server.errors import ExecServerError

FAILED: Final = 1
"""A file could not be read, written or listed."""

TROUBLE: Final = 125
"""The command line, the server or the connection is at fault, not the program that was run."""

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

SIGNALLED: Final = 128
"""Added to the number of a signal that ended a program, or this one."""


class CommandError(ExecServerError):
    """A command cannot be done; its text is for whoever typed it."""

    def __init__(self, message: str, code: int = TROUBLE) -> None:
        super().__init__(message)
        self.code = code
        """What to exit with."""


def describe(error: OSError) -> str:
    """What the operating system, here or there, refused."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"
