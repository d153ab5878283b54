"""Keys that a terminal session takes for itself: the escape ``~.`` and the detach keys."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from exec_server.cli.client.exit_codes import CommandError

ESCAPE_CHARACTER: Final = "~"
"""Default of ``--escape``, as in ssh."""

DETACH_KEYS: Final = "ctrl-p,ctrl-q"
"""Default of ``--detach-keys``, as in docker."""

NONE: Final = "none"
"""Value of both options that disables them."""

_QUIT: Final = b"."


class Action(Enum):
    """Action that the user requested."""

    QUIT = auto()
    DETACH = auto()


class KeyFilter:
    """Splits typed keys into those for the program and an action.

    The escape character counts at the start of a line only, where typing it twice sends it once.
    Keys that begin a sequence are held until the next key shows if they complete it.
    """

    def __init__(self, escape: bytes, detach: bytes) -> None:
        """``escape`` is one byte or empty, ``detach`` a sequence of keys or empty."""
        self._escape = escape
        self._detach = detach
        self._at_line_start = True
        self._held = b""

    def feed(self, keys: bytes) -> tuple[bytes, Action | None]:
        """Return the keys to send, and an action if the last of them asked for one."""
        sent = bytearray()
        for code in keys:
            key = bytes((code,))
            if self._escape and self._held == self._escape:
                self._held = b""
                if key == _QUIT:
                    return bytes(sent), Action.QUIT
                self._send(sent, self._escape)
                if key == self._escape:
                    continue
            elif self._held and self._detach.startswith(self._held + key):
                self._held += key
                if self._held == self._detach:
                    self._held = b""
                    return bytes(sent), Action.DETACH
                continue
            elif self._held:
                held, self._held = self._held, b""
                self._send(sent, held)
            if self._at_line_start and key == self._escape:
                self._held = key
            elif self._detach.startswith(key):
                if key == self._detach:
                    return bytes(sent), Action.DETACH
                self._held = key
            else:
                self._send(sent, key)
        return bytes(sent), None

    def _send(self, sent: bytearray, keys: bytes) -> None:
        sent += keys
        self._at_line_start = keys[-1:] in b"\r\n"


def parse_escape(text: str) -> bytes:
    """Return the escape character of an option, empty for ``none``."""
    if text == NONE:
        return b""
    if len(text) != 1 or not "!" <= text <= "~":
        raise CommandError(f"--escape {text}: expected one printable ASCII character or 'none'")
    return text.encode()


def parse_detach_keys(text: str) -> bytes:
    """Return the keys of an option such as ``ctrl-p,ctrl-q`` or ``ctrl-],d``."""
    if text == NONE:
        return b""
    keys = bytearray()
    for name in text.split(","):
        character = name.lower().removeprefix("ctrl-")
        if len(character) != 1 or not "!" <= character <= "~":
            raise CommandError(
                f"--detach-keys {text}: expected keys such as 'ctrl-p,ctrl-q' or 'none'"
            )
        is_control = name.lower() != character
        keys.append(ord(character.upper()) & 0x1F if is_control else ord(name))
    return bytes(keys)
