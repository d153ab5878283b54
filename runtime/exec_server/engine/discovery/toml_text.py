"""Reading and writing TOML in time linear in its length, whatever is in it."""

from __future__ import annotations

import json
import tomllib
from datetime import date, time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_TOML_BYTES: Final = 1024 * 1024
"""Largest file that is read: two seconds' work at worst, and hundreds of times a usual one."""

MAX_TOML_DEPTH: Final = 128
"""Most tables and arrays in each other; more than codex's reader takes."""

_MAX_KEY_WORK: Final = 2_000_000
"""Most work for dotted keys, see ``parse``: 0.1 s, and room for a text of 1,400 sentences."""

_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

Table = dict[str, Any]


class TooComplicated(ValueError):
    """The text is TOML, or may be, but would be too much work."""


def parse(text: str) -> Table:
    """Return the content of a document. Raises ValueError, of which TooComplicated is one kind."""
    # The parser's effort for a key is the square of its parts, and each line below a header costs
    # as much as that has parts. No line can have more parts than dots and one.
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
    """Return the text of a document that ``parse`` has returned, or of a part of one."""
    return "".join(_tables("", document)).removeprefix("\n")


def _tables(header: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table's own values, then its subtables, each with an empty line before."""
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
    # JSON has the same escapes, but lets DEL stand.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
