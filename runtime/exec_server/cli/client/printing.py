"""Printing what servers name: JSON, tables for people, and names for people or programs."""

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
    """Make standard output take any name, and keep connections off closed standard streams."""
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
    """Print a line for people; what a terminal would obey is escaped."""
    print(printable(text))


def print_name(text: str) -> None:
    """Print a name on a line of its own: as it is for programs, escaped on a terminal."""
    print(printable(text) if sys.stdout.isatty() else text)


class MessageFormatter(logging.Formatter):
    """Log records as the messages of this program: one line each, nothing to obey in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end."""
        return message_line(record.getMessage())


def message_line(message: str) -> str:
    """An error message as the line that is printed on standard error."""
    return f"exec-server: {printable(message, TEXT_CHARACTERS)}"
