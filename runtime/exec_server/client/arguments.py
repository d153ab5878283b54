"""Arguments of the client's callers, checked before anything is sent.

Each error names the parameter. Values of variables, tokens and headers are never part of it.
"""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection

Text: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
"""An argument, a variable or a path, as ``subprocess`` takes them; ``bytes`` are UTF-8."""

Data: TypeAlias = "bytes | bytearray | memoryview"
"""Bytes to send."""


def text(name: str, value: Any) -> str:
    """A text that JSON can carry: UTF-8 without null characters."""
    found = _fspath(name, value)
    try:
        decoded = found.decode() if isinstance(found, bytes) else found
        decoded.encode()
    except UnicodeError:
        raise ValueError(f"{name}: it is not UTF-8, which the protocol cannot carry") from None
    return _without_null(name, decoded)


def path(name: str, value: Any) -> str:
    """A path whose undecodable bytes are surrogates, as ``os.fsdecode`` makes them."""
    return _without_null(name, os.fsdecode(_fspath(name, value)))


def absolute(name: str, value: Any) -> str:
    """The same, which must be absolute."""
    found = path(name, value)
    if not posixpath.isabs(found):
        raise ValueError(f"{name}: paths on the server are absolute, not {found!r}")
    return found


def _fspath(name: str, value: Any) -> str | bytes:
    try:
        found: str | bytes = os.fspath(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name}: expected str, bytes or a path, not {kind}") from None
    return found


def _without_null(name: str, value: str) -> str:
    if "\0" in value:
        raise ValueError(f"{name}: it contains a null character")
    return value


def argv(value: Any) -> list[str]:
    """Program and arguments."""
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(
            f"argv: expected a sequence of arguments, not {kind}; for a shell use ['sh', '-c', …]"
        )
    found = [text(f"argv[{index}]", argument) for index, argument in enumerate(value)]
    if not found:
        raise ValueError("argv: expected a program and its arguments, not an empty sequence")
    return found


def environment(value: Any) -> dict[str, str]:
    """Variables by name."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"env: expected a mapping, not {type(value).__name__}")
    found = {}
    for key, one in value.items():
        name = text("env: a name", key)
        if not name or "=" in name:
            raise ValueError(f"env: {name.partition('=')[0]!r} with '=' is not a variable's name")
        found[name] = text(f"env[{name!r}]", one)
    return found


def data(name: str, value: Any) -> bytes:
    """Bytes-like objects as bytes."""
    if type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{name}: expected bytes, not {type(value).__name__}")


def string(name: str, value: Any) -> str:
    """A string that JSON can carry."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeError:
        raise ValueError(f"{name}: it is not UTF-8, which the protocol cannot carry") from None
    return value


def seconds(name: str, value: Any) -> None:
    """A duration of zero or more seconds; None is no limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected seconds, not {type(value).__name__}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name}: expected zero or more seconds, not {value}")


def count(name: str, value: Any, *, least: int = 0) -> None:
    """A whole number, of at least ``least``; None is no limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name}: expected {least} or more, not {value}")


def choice(name: str, value: Any, choices: Collection[str]) -> None:
    """One of a few strings."""
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(sorted(choices))
        raise ValueError(f"{name}: expected one of {expected}, not {value!r}")


def size(value: Any, *, tty: bool) -> tuple[int, int] | None:
    """Rows and columns of a terminal, each of one to 65535."""
    if value is None:
        return None
    if not tty:
        raise ValueError("size: only a process with a terminal has a size; give tty=True")
    try:
        rows, cols = value
    except (TypeError, ValueError):
        raise TypeError("size: expected rows and columns") from None
    for name, number in (("size[0]", rows), ("size[1]", cols)):
        count(name, number, least=1)
        if number is None or number > 65535:
            raise ValueError(f"{name}: expected 1 to 65535, not {number}")
    return rows, cols


def token(value: Any) -> str | None:
    """A bearer token without the white space around it, as a file may have it."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"token: expected str, not {type(value).__name__}")
    found = value.strip()
    if not found or not all(" " <= character <= "~" for character in found):
        raise ValueError("token: expected printable ASCII characters")
    return found


def headers(value: Any) -> list[tuple[str, str]]:
    """Header lines, from a mapping or from pairs."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"headers: expected a mapping or pairs, not {type(value).__name__}")
    found = []
    for pair in value.items() if isinstance(value, Mapping) else value:
        try:
            name, content = pair
        except (TypeError, ValueError):
            raise TypeError("headers: expected pairs of a name and a value") from None
        name = string("headers: a name", name)
        found.append((name, string(f"headers[{name!r}]", content)))
    return found
