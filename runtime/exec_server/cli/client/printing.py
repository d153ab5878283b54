"""Output of the commands: JSON, lines of text, and names of files."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
from typing import Any, Final

import msgspec

from exec_server.cli.client import terminal
from exec_server.client.display import TEXT_CHARACTERS, json_printable
from exec_server.printable import printable

ENCODING_ERRORS: Final = "exec-server"
"""Name of the error handler for standard output: names that are not UTF-8 keep their bytes, and
characters that the locale lacks are escaped."""


def prepare() -> None:
    """Let standard output encode any name, and reserve the descriptors of closed streams."""
    for fd in (terminal.STDIN, terminal.STDOUT, terminal.STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(terminal.STDOUT, "w", encoding="utf-8")
    codecs.register_error(ENCODING_ERRORS, _encode_name)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ENCODING_ERRORS)


def _encode_name(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    try:
        return part.encode("ascii", "surrogateescape"), error.end
    except UnicodeEncodeError:
        return part.encode("ascii", "backslashreplace"), error.end


def print_json(value: Any) -> None:
    """Print JSON on one line; ``bytes`` as base64, undecodable bytes of names as ``\\udcff``."""
    import json  # noqa: PLC0415 (msgspec refuses such names; few commands print JSON)

    builtins = msgspec.to_builtins(value)
    print(json_printable(json.dumps(builtins, ensure_ascii=False, separators=(",", ":"))))


def print_line(text: str) -> None:
    """Print a line of text, with control characters escaped."""
    print(printable(text))


def print_name(text: str) -> None:
    """Print a name on its own line, with control characters escaped on a terminal."""
    print(printable(text) if sys.stdout.isatty() else text)


class MessageFormatter(logging.Formatter):
    """Formatter of log records as one line each, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its newline."""
        return message_line(record.getMessage())


def message_line(message: str) -> str:
    """Return an error message as the line printed on standard error."""
    return f"exec-server: {printable(message, TEXT_CHARACTERS)}"
