"""Messages made from the schemas of all revisions, and what can be done to them.

What is made up stays where it can do no harm: programs, paths and URLs come from a short list, and
what a mutation has made of them is looked at before it is sent.
"""

from __future__ import annotations

import base64
import copy
import importlib.resources
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

REVISIONS: Final = ("v0", "v1", "v2", "draft")

Make: TypeAlias = "Callable[[], Any]"

ODD_VALUES: Final[list[Any]] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e300,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**40,
    "",
    "\0",
    "x" * 5000,
    "é☃\U0001f600",
    "\ud800",
    "../..",
    [],
    [[]],
    {},
    {"": None},
    {"type": "x"},
]

_NAMES: Final = ("p", "q", "r", "", "Ünï", "a b")
_PROGRAMS: Final[tuple[list[str], ...]] = (
    ["true"],
    ["false"],
    ["cat"],
    ["echo", "x"],
    ["sleep", "0.01"],
    ["sleep", "1000"],
    ["head", "-c", "100000", "/dev/zero"],
    ["no such program"],
    [],
)
_URL: Final = "http://127.0.0.1:1/"

_LEFT_OUT: Final = re.compile(r"[\t\n\r]|^[\x00-\x20]+")

_MAX_DEPTH: Final = 6


@dataclass(frozen=True)
class Schema:
    """The client's requests of one revision, as what makes params for each."""

    requests: dict[str, Make]


class Generator:
    """Makes messages of every revision, whose effects stay inside a folder."""

    def __init__(self, chance: random.Random, folder: str) -> None:
        self._chance = chance
        self._folder = folder
        self._schemas = {revision: self._schema(revision) for revision in REVISIONS}

    def message(self, identifier: str, revisions: Sequence[str]) -> dict[str, Any]:
        """A request that a client of some of the revisions may send."""
        schema = self._schemas[self._chance.choice(revisions)]
        method = self._chance.choice(list(schema.requests))
        return {"id": identifier, "method": method, "params": schema.requests[method]()}

    @staticmethod
    def encoded(message: dict[str, Any]) -> bytes:
        """The message as it is."""
        return json.dumps(message).encode()

    def mutated(self, message: dict[str, Any]) -> bytes:
        """The message with some faults: in its values, its members, or its bytes."""
        chance = self._chance
        for _ in range(chance.choice((0, 1, 1, 2, 4))):
            self._change_a_value(message)
        data = json.dumps(message, ensure_ascii=chance.random() < 0.5).encode(
            errors="surrogatepass"
        )
        if chance.random() < 0.4:
            return self._change_bytes(data)
        return data

    def is_safe(self, data: bytes) -> bool:
        """Return True if all effects that the message could have stay inside the folder."""
        try:
            message = json.loads(data, strict=False)
        except (ValueError, RecursionError):
            return True  # no message at all
        strings: list[str] = []
        if isinstance(message, dict) and isinstance(message.get("method"), str):
            del message["method"]
        left = [message]
        while left:
            value = left.pop()
            if isinstance(value, dict):
                left += value.values()
                strings += value
            elif isinstance(value, list):
                left += value
            elif isinstance(value, str):
                strings.append(value)
        return all(self._is_harmless(text) for text in strings)

    def _is_harmless(self, text: str) -> bool:
        # What URL parsers leave out or resolve on their way to a path.
        plain = unquote(_LEFT_OUT.sub("", text)).strip()
        lowered = plain.lower()
        if "://" in lowered and not lowered.startswith("file:"):
            return text == _URL
        if lowered.startswith(("/", "\\", "~", "file:")):
            allowed = (self._folder, f"file://{self._folder}", "/usr/bin:/bin", "/dev/zero")
            return ".." not in plain and plain.startswith(allowed)
        return True

    @staticmethod
    def is_violation(data: bytes) -> bool:
        """Return True if the message ends the connection by contract.

        It is no text, or well-formed but no request.
        """
        try:
            message = json.loads(data.decode())
        except UnicodeDecodeError:
            return True
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict):
            return False
        return "id" not in message or "method" not in message

    # Mutations

    def _change_a_value(self, message: dict[str, Any]) -> None:
        """Replace, remove or add something somewhere."""
        chance = self._chance
        place: Any = message
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                return
            key = chance.choice(keys)
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and chance.random() < 0.7:
                place = inner
                continue
            break
        kind = chance.randrange(5)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[chance.choice(("extra", "id", "params", "jsonrpc", "trace"))] = self._odd()
        elif kind == 2 and isinstance(inner, str):
            start = chance.randrange(len(inner) + 1)
            place[key] = (
                inner[:start] + chance.choice(("", "\n", '"', "%00", "x" * 70)) + inner[start:]
            )
        elif kind == 3:
            place[key] = [inner]
        else:
            place[key] = self._odd()

    def _odd(self) -> Any:
        return copy.deepcopy(self._chance.choice(ODD_VALUES))

    def _change_bytes(self, data: bytes) -> bytes:
        """Flip, cut, repeat or insert bytes."""
        chance = self._chance
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            start = chance.randrange(len(changed) + 1)
            kind = chance.randrange(5)
            if kind == 0 and start < len(changed):
                changed[start] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del changed[start : start + chance.choice((1, 2, 20))]
            elif kind == 2:
                changed[start:start] = changed[start : start + 30]
            elif kind == 3:
                changed[start:start] = chance.randbytes(chance.choice((1, 3)))
            else:
                changed[start:start] = chance.choice(
                    (
                        b"{",
                        b"}",
                        b"[" * 200,
                        b'"',
                        b"\\",
                        b"\\u0000",
                        b"9" * 30,
                        b",",
                        b"\xff",
                        b"\r",
                    )
                )
        return bytes(changed)

    # What the schemas describe

    def _schema(self, revision: str) -> Schema:
        text = (
            importlib.resources.files(f"exec_server_protocol.{revision}")
            .joinpath("schema.json")
            .read_text()
        )
        bundle = json.loads(text)
        maker = _Maker(
            self._chance, bundle["$defs"], self._folder, is_native=revision in ("v0", "v1")
        )
        return Schema(
            {
                method: maker.of({"$ref": entry["params"]}, method, 0)
                for method, entry in bundle["x-methods"].items()
                if "request" in entry and entry["direction"] == "clientToServer"
            }
        )


class _Maker:
    """Turns schemas into functions that make what they describe."""

    def __init__(
        self, chance: random.Random, definitions: dict[str, Any], folder: str, *, is_native: bool
    ) -> None:
        self._chance = chance
        self._definitions = definitions
        prefix = folder if is_native else f"file://{folder}"
        self._paths = [prefix, *(f"{prefix}/{name}" for name in ("f", "g", "d", "d/x", "no/such"))]

    def of(self, schema: dict[str, Any], name: str, depth: int) -> Make:
        """Return the strategy for values of a schema; ``name`` is the member that they are for."""
        if depth > 2 * _MAX_DEPTH:
            return lambda: None
        special = self._special(name)
        if special is not None:
            return special
        if "$ref" in schema:
            definition = schema["$ref"].rpartition("/")[2]
            return self.of(self._definitions[definition], definition, depth)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                makers = [self.of(option, name, depth + 1) for option in schema[choice]]
                return self._one_of(makers)
        if "const" in schema:
            return lambda: schema["const"]
        if "enum" in schema:
            return lambda: self._chance.choice(schema["enum"])
        return self._of_type(schema, schema.get("type", "null"), name, depth)

    def _one_of(self, makers: Sequence[Make]) -> Make:
        def make() -> Any:
            return self._chance.choice(makers)()

        return make

    def _of_type(self, schema: dict[str, Any], kind: str, name: str, depth: int) -> Make:
        chance = self._chance
        if kind == "object":
            return self._of_object(schema, name, depth)
        if kind == "array":
            if depth > _MAX_DEPTH:
                return list
            item = self.of(schema.get("items", {"type": "null"}), f"{name}[]", depth + 1)
            return lambda: [item() for _ in range(chance.choice((0, 1, 1, 3)))]
        if kind in ("integer", "number"):
            return lambda: chance.choice((0, 1, 7, 100, 70_000))
        if kind == "boolean":
            return lambda: chance.random() < 0.5
        if kind == "string":
            if schema.get("contentEncoding") == "base64":
                return lambda: base64.b64encode(
                    chance.randbytes(chance.choice((0, 1, 5, 3000)))
                ).decode()
            return lambda: chance.choice(_NAMES)
        return lambda: None

    def _of_object(self, schema: dict[str, Any], name: str, depth: int) -> Make:
        chance = self._chance
        required = set(schema.get("required", ()))
        members = {
            key: self.of(value, key, depth + 1)
            for key, value in schema.get("properties", {}).items()
            if key in required or depth <= _MAX_DEPTH
        }
        return lambda: {
            key: make() for key, make in members.items() if key in required or chance.random() < 0.4
        }

    def _special(self, name: str) -> Make | None:
        """Members whose values do something."""
        chance = self._chance
        if name in ("processId", "handleId", "requestId", "sessionId"):
            return lambda: chance.choice(_NAMES)
        if name == "argv":
            return lambda: list(chance.choice(_PROGRAMS))
        if name == "env":
            return lambda: {"PATH": "/usr/bin:/bin"}
        if name == "url":
            return lambda: _URL
        if name == "resumeSessionId":
            return lambda: None
        if name == "waitMs":
            return lambda: chance.choice((None, 0, 1, 2**64 - 1))
        if name in {"path", "cwd"} or name.endswith(("Path", "Uri")):
            return lambda: chance.choice(self._paths)
        return None
