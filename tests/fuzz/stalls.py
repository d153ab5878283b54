"""Messages that grow: how long each holds the server's event loop, and how its time grows.

For every method of every revision, every text, list and map of its params is doubled up to the
limit of a message, and so is what no method knows. ``python -m tests.fuzz.stalls`` exits 1 if a
message holds the loop for longer than MAX_STALL, or takes more than in proportion to its size.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.resources
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tests.fuzz.messages import REVISIONS
from tests.fuzz.server import Ended, Hung, WebSocketConnection, command, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_STALL: Final = 0.05
"""Seconds that a message may keep other clients waiting."""

MAX_STALL_OF_LONG: Final = 0.1
"""The same for a message of more than LONG bytes."""

LONG: Final = 32 * 1024 * 1024
MAX_MESSAGE: Final = 64 * 1024 * 1024
FIRST_SIZE: Final = 64 * 1024
TRIES: Final = 3
"""A stall that the machine makes does not come three times."""

MAX_GROWTH: Final = 3.0
"""Twice the size may take this many times as long; more is not linear."""

NOISE_SECONDS: Final = 0.3
"""Shorter times say nothing about growth."""

_FRAME_BYTES: Final = 8 * 1024 * 1024

# Nothing here leads out of the folder: each ".." takes away the "a" before it.
_UNITS: Final = ("x", "a/../", "%61/%2e%2E/", "/", " ", "*", "**/", "{a,", "[", "é", "\\", '"')

Build: TypeAlias = "Callable[[int], bytes]"


@dataclass(frozen=True)
class Case:
    """A message that can be made of about any size."""

    name: str
    build: Build


def method_cases(revision: str, folder: str) -> Iterator[Case]:
    """For each method, one case for each text, list and map of its params and kind of content."""
    text = importlib.resources.files(f"exec_server_protocol.{revision}").joinpath("schema.json")
    bundle = json.loads(text.read_text())
    samples = _Samples(bundle["$defs"], folder, is_native=revision in ("v0", "v1"))
    for method, entry in bundle["x-methods"].items():
        if "request" not in entry or entry["direction"] != "clientToServer":
            continue
        seen = set()
        for params in samples.of({"$ref": entry["params"]}, "", 0):
            for path in _places(params):
                shape = ".".join(str(key) for key in path)
                variant = json.dumps(_replaced(params, path, None), sort_keys=True)
                if (shape, variant) in seen:
                    continue
                seen.add((shape, variant))
                for kind, grow in _growths(_at(params, path)):
                    name = f"{revision} {method} {shape} {kind}"
                    yield Case(name, _grown(method, params, path, grow))


def envelope_cases() -> Iterator[Case]:
    """Cases that belong to no method."""
    start = b'{"id":1,"method":"x","params":'
    for name, unit in (
        ("empty lists", b"[],"),
        ("small objects", b'{"a":1},'),
        ("texts", b'"ab",'),
        ("fractions", b"1.5,"),
        ("escapes", b'"\\n\\u00e9",'),
        ("white space", b"\n \t"),
        ("digits", b"1"),
        ("one text", b'"'),
    ):
        yield Case(f"params of {name}", _repeated(start + b"[", unit, b"0]}"))
    for name, member in (("members", b'"k%d":0,'), ("members with escapes", b'"\\u006b%d":0,')):
        yield Case(f"params of {name}, one twice", _members(start + b"{", member))
    yield Case("nothing but brackets", _repeated(b"", b"[", b""))
    yield Case("a long text", _repeated(start + b'{"x":"', b"x", b'"}}'))
    yield Case("a long text of escapes", _repeated(start + b'{"x":"', b"\\u00e9", b'"}}'))
    yield Case("a long text beyond ASCII", _repeated(start + b'{"x":"', "é☃".encode(), b'"}}'))
    yield Case("a long id", _repeated(b'{"method":"x","id":"', b"x", b'"}'))
    yield Case("a long number", _repeated(b'{"method":"x","id":', b"1", b"}"))
    yield Case("a long method", _repeated(b'{"id":1,"method":"', b"x", b'"}'))
    yield Case("an answer", _repeated(b'{"result":[', b"[],", b"0]}"))
    yield Case("a list", _repeated(b"[", b"[],", b"0]"))


def _repeated(start: bytes, unit: bytes, end: bytes) -> Build:
    return lambda size: start + unit * max(1, (size - len(start) - len(end)) // len(unit)) + end


def _members(start: bytes, member: bytes) -> Build:
    def build(size: int) -> bytes:
        count = size // (len(member) + 5)
        return start + b"".join(member % number for number in range(count)) + b'"z":0,"z":0}}'

    return build


class _Samples:
    """Small values of schemas: together they have every member and every alternative."""

    def __init__(self, definitions: dict[str, Any], folder: str, *, is_native: bool) -> None:
        self._definitions = definitions
        self._path = f"{folder}/none" if is_native else f"file://{folder}/none"

    def of(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        if depth > 12:
            return [None]
        if "$ref" in schema:
            definition = schema["$ref"].rpartition("/")[2]
            return self.of(self._definitions[definition], name or definition, depth + 1)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                found = [self.of(option, name, depth + 1) for option in schema[choice]]
                return [value for values in found for value in values if value is not None]
        if "const" in schema:
            return [schema["const"]]
        if "enum" in schema:
            return [schema["enum"][0]]
        kind = schema.get("type", "null")
        if isinstance(kind, list):
            kind = kind[0]
        if kind == "object":
            return self._objects(schema, depth)
        if kind == "array":
            return [[value] for value in self.of(schema.get("items", {}), name, depth + 1)]
        if kind == "string":
            return [self._text(schema, name)]
        return [{"integer": 0, "number": 0, "boolean": False}.get(kind)]

    def _objects(self, schema: dict[str, Any], depth: int) -> list[Any]:
        properties = schema.get("properties", {})
        if not properties:
            values = schema.get("additionalProperties")
            if not isinstance(values, dict):
                return [{}]
            return [{"K": value} for value in self.of(values, "", depth + 1)]
        samples = {key: self.of(value, key, depth + 1) for key, value in properties.items()}
        base = {key: samples[key][0] for key in schema.get("required", ()) if samples[key]}
        return [{**base, key: value} for key, values in samples.items() for value in values] or [
            base
        ]

    def _text(self, schema: dict[str, Any], name: str) -> str:
        if schema.get("contentEncoding") == "base64":
            return "AAAA"
        lowered = name.lower()
        if "url" in lowered:
            return "http://127.0.0.1:1/"
        if "path" in lowered or "uri" in lowered or "cwd" in lowered or "root" in lowered:
            return self._path
        return "none"


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (str, list, dict)):
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*path, index))


def _at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def _replaced(value: Any, path: Sequence[Any], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    _at(value, path[:-1])[path[-1]] = new
    return value


def _growths(value: Any) -> list[tuple[str, Callable[[int], Any]]]:
    """The ways in which a value grows, each with what makes it of a size."""
    if isinstance(value, str):

        def text(unit: str) -> Callable[[int], str]:
            return lambda size: value + "/" + unit * (size // len(unit))

        if value == "AAAA":
            return [("base64", lambda size: "A" * (size // 4 * 4))]
        return [(repr(unit), text(unit)) for unit in _UNITS]
    if isinstance(value, list):
        item = json.dumps(value[0] if value else 0)
        return [("items", lambda size: [json.loads(item)] * (size // (len(item) + 2)))]
    inner = next(iter(value.values()), 0)
    entry = len(json.dumps(inner)) + 14
    return [
        (
            "members",
            lambda size: {**value, **{f"k{n:07}": inner for n in range(size // entry)}},
        )
    ]


def _grown(method: str, params: Any, path: tuple[Any, ...], grow: Callable[[int], Any]) -> Build:
    def build(size: int) -> bytes:
        message = {"id": 1, "method": method, "params": _replaced(params, path, grow(size))}
        return json.dumps(message, ensure_ascii=False).encode()

    return build


class Probe:
    """The second client, which measures the stalls."""

    def __init__(self, url: str, pid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.stall_probe", url, str(pid)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def longest(self) -> float:
        """The longest stall since the last call."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return float(self._read())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Watch:
    """A server, and what messages do to its event loop."""

    def __init__(self, url: str, pid: int, probe: Probe) -> None:
        self._url = url
        self._tasks = Path(f"/proc/{pid}/task")
        self._probe = probe
        self.worst: dict[str, float] = {}
        """Longest stall of each case, in seconds."""

    def measure(self, case: Case, size: int) -> tuple[float, float]:
        """Send a message; returns the longest stall and the processor time, in seconds."""
        message = case.build(size)[:MAX_MESSAGE]
        found = [self._send(message)]
        limit = MAX_STALL_OF_LONG if len(message) > LONG else MAX_STALL
        while found[-1][0] > limit and len(found) < TRIES:
            found.append(self._send(message))
        stall, seconds = min(found)
        self.worst[case.name] = max(stall, self.worst.get(case.name, 0.0))
        return stall, seconds

    def _send(self, message: bytes) -> tuple[float, float]:
        connection = WebSocketConnection(self._url)
        connection.handshake()
        connection.sync()
        self._probe.longest()
        begin = self._processor_seconds()
        with contextlib.suppress(Ended):
            connection.send_raw(_frames(message))
            connection.sync()
        seconds = self._processor_seconds() - begin
        connection.close()
        return self._probe.longest(), seconds

    def _processor_seconds(self) -> float:
        """Time for which the server has run so far, in all its threads that there still are."""
        total = 0
        for task in self._tasks.iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def faults_of(self, case: Case, sizes: Sequence[int]) -> list[str]:
        """Return the faults of a case."""
        faults = []
        before = 0.0
        for size in sizes:
            try:
                stall, seconds = self.measure(case, size)
            except Hung:
                return [*faults, f"{case.name}: no answer to {size:,} bytes"]
            if stall > (MAX_STALL_OF_LONG if size > LONG else MAX_STALL):
                faults.append(f"{case.name}: {size:,} bytes stall it for {stall * 1000:.0f} ms")
            if before and seconds > max(NOISE_SECONDS, MAX_GROWTH * before):
                faults.append(f"{case.name}: {size:,} bytes take {seconds / before:.1f} times more")
                break
            before = seconds
        return faults


def _frames(message: bytes) -> bytes:
    """The frames of a message, masked with zeros."""
    pieces = []
    for start in range(0, len(message), _FRAME_BYTES):
        payload = message[start : start + _FRAME_BYTES]
        opcode = (0 if start else 1) | (0x80 if start + _FRAME_BYTES >= len(message) else 0)
        pieces.append(struct.pack("!BBQ", opcode, 0x80 | 127, len(payload)) + bytes(4) + payload)
    return b"".join(pieces)


@contextlib.contextmanager
def watching(folder: str) -> Iterator[Watch]:
    """A server and a probe of it."""
    arguments = ("--listen", "ws://127.0.0.1:0", "--detached-seconds", "0")
    with running(command(folder, *arguments)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        probe = Probe(url, process.pid)
        try:
            yield Watch(url, process.pid, probe)
        finally:
            probe.close()


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.stalls", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=20_261_121, help="default: %(default)s")
    parser.add_argument("--max-bytes", type=int, default=MAX_MESSAGE, help="default: %(default)s")
    parser.add_argument("--only", default="", help="text in the names of the cases to run")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    sizes = [FIRST_SIZE]
    while sizes[-1] * 2 <= options.max_bytes:
        sizes.append(sizes[-1] * 2)
    faults: list[str] = []
    done = 0
    with tempfile.TemporaryDirectory() as folder, watching(folder) as watch:
        methods = [case for revision in REVISIONS for case in method_cases(revision, folder)]
        random.Random(options.seed).shuffle(methods)
        cases = [case for case in (*envelope_cases(), *methods) if options.only in case.name]
        for case in cases:
            if time.monotonic() > end:
                break
            done += 1
            for fault in watch.faults_of(case, sizes):
                print(f"WRONG: {fault}", file=sys.stderr, flush=True)
                faults.append(fault)
        worst = sorted(watch.worst.items(), key=lambda item: -item[1])[:10]
    print(f"seed {options.seed}: {done:,} of {len(cases):,} cases, up to {sizes[-1]:,} bytes")
    for name, stall in worst:
        print(f"{stall * 1000:7.1f} ms  {name}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
