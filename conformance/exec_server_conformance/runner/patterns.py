"""Comparison of values with expectations, and creation of expectations from values.

An expectation is JSON. Objects match if every expected member matches (unknown members are reported
by the schema check); arrays match element by element; an object with one of these members is a
pattern:

    {"$type": "integer" | "string" | "boolean" | "array" | "object" | "any"}    value of the type
    {"$regex": "…"}                                        a string that matches completely
    {"$unordered": […]}                                    the elements in any order
    {"$contains": […]}                                     the elements in this order, among others
    {"$chunks": {"stdout": "text", …}}                     output chunks joined per stream, and no
                                                           other stream

``error.message`` is not compared.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from exec_server_conformance.errors import Failure, Mismatch, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server_conformance.runner.session import Step

Json = Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "integer": int,
    "string": str,
    "boolean": bool,
    "array": list,
    "object": dict,
    "any": object,
}


def text_of(data: bytes) -> str:
    """Return bytes as text if they are UTF-8, else as ``base64:…``."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()
    return f"{len(data)} × {text[0]!r}" if len(text) > 200 and text == text[0] * len(text) else text


def show(value: Json) -> str:
    """Format a value for a failure message, truncated to a readable length."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def joined_chunks(chunks: list[dict[str, Any]]) -> dict[str, str]:
    """Join the output chunks of process/read per stream."""
    streams: dict[str, bytes] = {}
    for chunk in chunks:
        data = base64.b64decode(chunk["chunk"])
        streams[chunk["stream"]] = streams.get(chunk["stream"], b"") + data
    return {stream: text_of(data) for stream, data in streams.items()}


def _raise(mismatch: Mismatch) -> None:
    raise mismatch


def match(
    expected: Json, actual: Json, where: str, report: Callable[[Mismatch], None] = _raise
) -> None:
    """Compare a value; call ``report`` with a Mismatch for each difference, by default raise it."""
    if isinstance(expected, dict):
        pattern = next((name for name in expected if name.startswith("$")), None)
        if pattern is not None:
            try:
                _match_pattern(pattern, expected[pattern], actual, where)
            except Mismatch as mismatch:
                report(mismatch)
            return
        if not isinstance(actual, dict):
            report(_mismatch(where, expected, actual))
            return
        for name, value in expected.items():
            if name == "message" and where.endswith("error"):
                continue
            if name not in actual:
                words = f"a member {name!r} such as {show(value)}"
                report(_mismatch(where, {name: value}, actual, words))
                continue
            match(value, actual[name], f"{where}.{name}", report)
        return
    if isinstance(expected, list):
        if not isinstance(actual, list):
            report(_mismatch(where, expected, actual))
            return
        try:
            _match_length(expected, actual, where)
        except Mismatch as mismatch:
            report(mismatch)
            return
        for index, value in enumerate(expected):
            match(value, actual[index], f"{where}[{index}]", report)
        return
    if type(expected) is not type(actual) or expected != actual:
        report(_mismatch(where, expected, actual))


def _match_length(expected: list[Json], actual: list[Json], where: str) -> None:
    if len(expected) == len(actual):
        return
    missing = [one for one in expected if not any(_matches(one, other) for other in actual)]
    unexpected = [one for one in actual if not any(_matches(other, one) for other in expected)]
    text = f"{where}: expected {len(expected)} elements, got {len(actual)}"
    if missing:
        text += f"; missing: {show(missing)}"
    if unexpected:
        text += f"; unexpected: {show(unexpected)}"
    raise Mismatch(text, where, expected, actual)


def match_streams(
    expected: Json,
    actual: dict[str, str],
    where: str,
    report: Callable[[Mismatch], None] = _raise,
) -> None:
    """Compare output per stream; unexpected streams are differences."""
    match(expected, actual, where, report)
    others = set(actual) - set(expected)
    if others:
        report(_mismatch(where, expected, actual, f"nothing on {', '.join(sorted(others))}"))


def _mismatch(where: str, expected: Json, actual: Json, words: str | None = None) -> Mismatch:
    """Build a Mismatch; ``words`` replaces the JSON of the expected value in the message."""
    if words is None:
        shown, got = _readable(where, expected, actual)
    else:
        shown, got = words, show(actual)
    return Mismatch(f"{where}: expected {shown}, got {got}", where, expected, actual)


def _readable(where: str, expected: Json, actual: Json) -> tuple[str, str]:
    """Format two values; base64 is decoded, and long texts start near the difference."""
    if not isinstance(expected, str) or not isinstance(actual, str):
        return show(expected), show(actual)
    if where.endswith(_BASE64_MEMBERS):
        with contextlib.suppress(ValueError):
            decoded = [text_of(base64.b64decode(one)) for one in (expected, actual)]
            first, second = _from_difference(*decoded)
            return f"base64 of {first}", second
    return _from_difference(expected, actual)


def _from_difference(expected: str, actual: str) -> tuple[str, str]:
    """Format two texts without a long common prefix."""
    pairs = enumerate(zip(expected, actual, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(expected), len(actual)))
    if same <= _LONG_CHARACTERS:
        return show(expected), show(actual)
    start = same - _CONTEXT_CHARACTERS
    return f"{show(expected[start:])} from character {start} on", show(actual[start:])


_BASE64_MEMBERS = ("dataBase64", "bodyBase64", "chunk")

_LONG_CHARACTERS = 80
"""Maximum length of a common prefix that is shown."""

_CONTEXT_CHARACTERS = 20
"""Length of the common prefix that is shown as context."""


def _match_pattern(pattern: str, value: Json, actual: Json, where: str) -> None:
    if pattern == "$type":
        kind = _TYPES[value]
        if not isinstance(actual, kind) or (value == "integer" and isinstance(actual, bool)):
            raise _mismatch(where, {pattern: value}, actual, f"any {value}")
    elif pattern == "$regex":
        if not isinstance(actual, str) or re.fullmatch(value, actual) is None:
            raise _mismatch(where, {pattern: value}, actual, f"a string like {value!r}")
    elif pattern == "$unordered":
        if not isinstance(actual, list):
            raise _mismatch(where, {pattern: value}, actual, "an array")
        _match_length(value, actual, where)
        match(sorted(value, key=show), sorted(actual, key=show), where)
    elif pattern == "$contains":
        if not isinstance(actual, list):
            raise _mismatch(where, {pattern: value}, actual, "an array")
        rest = iter(actual)
        for element in value:
            if not any(_matches(element, one) for one in rest):
                raise _mismatch(where, {pattern: value}, actual, f"{show(element)} in order")
    elif pattern == "$chunks":
        if not isinstance(actual, list):
            raise _mismatch(where, {pattern: value}, actual, "output chunks")
        match_streams(value, joined_chunks(actual), where)
    else:
        raise SessionError(f"{where}: unknown pattern {pattern}")


def _matches(expected: Json, actual: Json) -> bool:
    try:
        match(expected, actual, "element")
    except Failure:
        return False
    return True


_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_URI: Json = {"$regex": "file:///.*"}

_VOLATILE: dict[str, Json] = {
    "sessionId": {"$regex": _UUID},
    "modifiedAtMs": {"$type": "integer"},
    "createdAtMs": {"$type": "integer"},
    "nextSeq": {"$type": "integer"},
    "shell": {"$type": "object"},
    "capabilities": {"$type": "object"},
    "cwd": _URI,
    "tempDir": _URI,
    "temporaryDirectories": {"$type": "array"},
    "platformOs": {"$type": "string"},
    "warnings": {"$type": "array"},
    "layers": {"$type": "array"},
    "userHomeDir": _URI,
    "codexHomeDir": _URI,
    "hostname": {"$type": "string"},
}
"""Members whose values depend on the server or the machine."""

_BUILD_SPECIFIC = {"executorVersion", "providerId", "prependPathDirs"}
"""Optional members that depend on the server's build."""

_COMPARED_HEADERS = re.compile(r"x-.*|content-type|content-encoding|location")


_PORT = re.compile(r"(127\.0\.0\.1|\[::1\]):\d+")
"""Loopback port within a message, which differs between runs."""

_REPEAT = re.compile(r"\$\{repeat:(\d+):([^}]*)\}")


def substitute(value: Json, placeholders: dict[str, str]) -> Json:
    """Replace placeholders by their values; ``placeholders`` maps values to placeholders.

    ``${repeat:N:TEXT}`` expands to N times the text.
    """
    if isinstance(value, str):
        for text, place in placeholders.items():
            value = value.replace(place, text)
        return _REPEAT.sub(lambda found: int(found[1]) * found[2], value)
    if isinstance(value, list):
        return [substitute(one, placeholders) for one in value]
    if isinstance(value, dict):
        return {
            substitute(name, placeholders): substitute(one, placeholders)
            for name, one in value.items()
        }
    return value


def generalise(value: Json, placeholders: dict[str, str], member: str = "") -> Json:
    """Make an expectation from a recorded value; ``placeholders`` maps variable texts to names."""
    if isinstance(value, str) and value in placeholders:
        return placeholders[value]
    if member in _VOLATILE and _matches(_VOLATILE[member], value):
        return _VOLATILE[member]
    if member == "error" and isinstance(value, str):
        return {"$type": "string"}  # A message for people.
    if isinstance(value, dict):
        general = {
            name: generalise(one, placeholders, name)
            for name, one in value.items()
            if name not in _BUILD_SPECIFIC
        }
        if value.get("isDirectory") is True and "size" in value:
            general["size"] = {"$type": "integer"}  # Depends on the file system.
        return general
    if isinstance(value, list):
        if member == "chunks":
            return {"$chunks": generalise(joined_chunks(value), placeholders)}
        items = [generalise(one, placeholders) for one in value]
        if member == "headers":
            return {"$contains": [one for one in items if _COMPARED_HEADERS.fullmatch(one["name"])]}
        has_order = any("path" in one for one in value if isinstance(one, dict))
        if member == "entries" and not has_order:
            return {"$unordered": sorted(items, key=show)}
        return items
    if isinstance(value, str):
        for place, name in placeholders.items():
            value = value.replace(place, name)
        if member == "message":
            value = _PORT.sub(r"\1:PORT", value)
    return value


def fill_in(step: Step, actual: Json, placeholders: dict[str, str]) -> None:
    """Store the generalised value as the expectation of a step, unless the step overrides it."""
    if "overrides" not in step.members:
        step.members["expect"] = generalise(actual, placeholders)
