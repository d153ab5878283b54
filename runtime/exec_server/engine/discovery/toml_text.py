"""Parsing and writing TOML in linear time, whatever its content."""

from __future__ import annotations

import json
import tomllib
from datetime import date, time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_TOML_BYTES: Final = 1024 * 1024
"""Maximum size of a file: two seconds of parsing at worst, and far above usual sizes."""

MAX_TOML_DEPTH: Final = 128
"""Maximum nesting of tables and arrays; more than codex's parser accepts."""

_MAX_KEY_WORK: Final = 2_000_000
"""Maximum effort for dotted keys, see ``parse``: 0.1 s, and room for 1,400 lines with dots."""

_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

Table = dict[str, Any]


class TooComplicated(ValueError):
    """The document is too expensive to parse."""


def parse(text: str) -> Table:
    """Return the content of a document. Raises ValueError, or its subclass TooComplicated."""
    # The parser's effort for a key is quadratic in its parts, and each line below a header costs as
    # much as the header has parts. A line has at most one more part than dots.
    lines = text.split("\n")
    dots = max(line.count(".") for line in lines)
    if dots * (dots + len(lines)) > _MAX_KEY_WORK:
        raise TooComplicated("keys have too many parts")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise TooComplicated("values are nested too deeply") from None
    level: list[Any] = [document]
    for _ in range(MAX_TOML_DEPTH + 1):
        level = [inner for value in level for inner in _containers(value)]
        if not level:
            return document
    raise TooComplicated("values are nested too deeply")


def _containers(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value
    return [inner for inner in values if isinstance(inner, dict | list)]


def dump(document: Mapping[str, Any]) -> str:
    """Return the text of a document returned by ``parse``, or of a part of it."""
    return "".join(_tables("", document)).removeprefix("\n")


def _tables(header: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table's own values, then its subtables, each preceded by an empty line."""
    below: list[tuple[str, str, Any]] = []
    for key, value in table.items():
        name = _key(key)
        if isinstance(value, dict):
            below.append((name, "[{}]", value))
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            below += ((name, "[[{}]]", item) for item in value)
        else:
            yield f"{name} = {_value(value)}\n"
    for name, brackets, value in below:
        inner = f"{header}.{name}" if header else name
        is_implied = value and all(isinstance(item, dict) for item in value.values())
        if not is_implied or brackets == "[[{}]]":
            yield f"\n{brackets.format(inner)}\n"
        yield from _tables(inner, value)


def _key(name: str) -> str:
    return name if name and _BARE.issuperset(name) else _string(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    assert isinstance(value, int | float)
    return str(value)


def _string(text: str) -> str:
    # JSON has the same escapes, but does not escape DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
