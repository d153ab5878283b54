"""Configuration files of codex, with the error texts of the released servers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from exec_server.engine import paths
from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.discovery import toml_text
from exec_server.engine.discovery.toml_text import MAX_TOML_BYTES
from exec_server.engine.files.text_file import read_text
from exec_server.errors import EngineError, system_text

if TYPE_CHECKING:
    from exec_server.engine.discovery.toml_text import Table

_AT: Final = re.compile(r"(?s)(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")


class ConfigError(Exception):
    """A configuration file cannot be used; the message names it and says why."""


class ConfigReader(NamedTuple):
    """Reads files of one kind, with the error texts of the released servers."""

    kind: str
    malformed: str

    def read(self, path: str) -> Table:
        """Return the parsed file, empty if it does not exist."""
        check_cancelled()
        shown = paths.displayable(path)
        try:
            text = read_text(path, MAX_TOML_BYTES)
        except FileNotFoundError:
            return {}
        except OSError as error:
            reason = system_text(error.errno or 0)
            raise ConfigError(f"Failed to read {self.kind} {shown}: {reason}") from None
        except UnicodeDecodeError as error:
            count = error.end - error.start
            reason = f"invalid utf-8 sequence of {count} bytes from index {error.start}"
            raise ConfigError(f"Failed to read {self.kind} {shown}: {reason}") from None
        except EngineError as error:
            raise ConfigError(f"Failed to read {self.kind} {shown}: {error}") from None
        try:
            return toml_text.parse(text)
        except toml_text.TooComplicated as error:
            line, column, reason = 1, 1, str(error)
        except ValueError as error:
            line, column, reason = _locate(str(error), text)
        raise ConfigError(
            self.malformed.format(path=shown, line=line, column=column, reason=reason)
        )


CONFIG: Final = ConfigReader("config file", "{path}:{line}:{column}: {reason}")
PROJECT: Final = ConfigReader(
    "project config file",
    "Error parsing project config file {path}: "
    "TOML parse error at line {line}, column {column}: {reason}",
)
PROJECT_HOOKS: Final = ConfigReader(
    "project hooks config file",
    "Error parsing project hooks config file {path}: "
    "TOML parse error at line {line}, column {column}: {reason}",
)
REQUIREMENTS: Final = ConfigReader(
    "requirements file",
    "failed to parse requirements layer {path}: "
    "TOML parse error at line {line}, column {column}: {reason}",
)


def _locate(message: str, text: str) -> tuple[int, int, str]:
    """Return line, column (both from 1) and reason of a message of the TOML parser."""
    match = _AT.fullmatch(message)
    if match is None:  # a number of more digits than Python converts
        return 1, 1, message
    if match[2] is not None:
        return int(match[2]), int(match[3]), match[1]
    return text.count("\n") + 1, len(text) - text.rfind("\n"), match[1]
