"""The cost of what a server reads and matches, against its size.

Each case repeats some words of a format, which makes the nesting, the backtracking and the lists
that parsers are slow with. A larger case may cost more in proportion, and not more; while the
server works on it, another connection is answered.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tests.fuzz.server import WebSocketConnection, command, memory_bytes, running

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

GROWTH: Final = 4
"""Ratio of the sizes of a case."""

SUPERLINEAR: Final = 8
"""Ratio of their costs that is half way to a quadratic one."""

NOISE_SECONDS: Final = 0.1
"""Processor time, counted in ticks of 10 ms, of which the growth says nothing."""

MAX_WAIT_SECONDS: Final = 0.25
"""Longest that another connection may wait, on a machine that has other work to do."""

MAX_MEMORY_BYTES: Final = 128 * 1024 * 1024
"""Most memory that one case may add."""

TREE: Final = "/a" * 60
"""Directories that patterns are matched with."""

Request = dict[str, Any]


class Format(msgspec.Struct, frozen=True):
    """A kind of file or member, and the words to make one of."""

    name: str
    words: tuple[str, ...]
    size: int
    """Of the largest case, in characters."""
    request: Callable[[str], Request]
    """Prepare a case, and return the request that makes the server read it."""


class Slow(Exception):
    """A case cost too much; says which and what."""


def formats(folder: str) -> list[Format]:
    """All formats, with their files below a folder that is the server's CODEX_HOME."""

    def file(path: str, method: str, params: Request) -> Callable[[str], Request]:
        def request(text: str) -> Request:
            place = Path(folder, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            return {"method": method, "params": params}

        return request

    discover = ("capabilities/discoverV2", {"cwd": "file:///"})
    plugin = "plugins/cache/m/p/1"
    configure = (
        "environmentConfig/read",
        {"cwd": f"file://{folder}/w", "configPaths": [["a"], ["t"]], "requirementsPaths": []},
    )
    yaml = (
        "a",
        "b: ",
        "- ",
        "? ",
        "[",
        "]",
        "{",
        "}",
        ": ",
        " ",
        "\n",
        "\n  ",
        "\t",
        "#",
        " #",
        "'",
        '"',
        "\\",
        "&a ",
        "*a ",
        "!",
        "!!str ",
        ">",
        "|",
        "%",
        "@",
        "<<: ",
        "é",
        "1.5",
    )
    toml = (
        "a",
        ".",
        " = ",
        "1",
        ",",
        "[",
        "]",
        "{",
        "}",
        "\n",
        '"',
        "'",
        '"""',
        "'''",
        "\\n",
        "#",
        "_",
    )
    json_words = (
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"a"',
        '"name"',
        '"mcpServers"',
        "1",
        "1e300",
        "\\u0041",
        " ",
    )
    wildcards = ("a", "/", "*", "**/", "?", "[ab]", "[!a]", "{a,b}", "{", "}", ",", "\\", "..", ".")
    return [
        Format("SKILL.md", yaml, 30_000, file("skills/s/SKILL.md", *discover)),
        Format("openai.yaml", yaml, 30_000, file("skills/s/agents/openai.yaml", *discover)),
        Format(
            "plugin.json",
            json_words,
            500_000,
            file(f"{plugin}/.codex-plugin/plugin.json", *discover),
        ),
        Format("config.toml", toml, 250_000, file("config.toml", *configure)),
        Format(
            ".git", ("gitdir: ", "/", "..", "a", "\n", " "), 250_000, file("w/.git", *configure)
        ),
        Format("deny glob", wildcards, 4_000 - len(folder), lambda text: _denying(folder, text)),
        Format("env pattern", ("A", "*", "?", "_", ".", "[", "a"), 250, _filtering),
        Format("rule path", ("a", "/", "..", ".", "%2e", "%41", "é"), 60_000, _ruling),
        Format("cwd", ("a", "/", "..", ".", "%2e", "%41", "é"), 60_000, _reading_in),
    ]


def _sandbox(*entries: Request) -> Request:
    return {
        "permissions": {
            "type": "managed",
            "file_system": {"type": "restricted", "entries": list(entries)},
            "network": "restricted",
        },
        "windowsSandboxLevel": "disabled",
    }


def _denying(folder: str, text: str) -> Request:
    glob = {"type": "glob_pattern", "pattern": f"{folder}/{text}"}
    root = {"type": "special", "value": {"kind": "root"}}
    sandbox = _sandbox({"path": root, "access": "read"}, {"path": glob, "access": "deny"})
    return {"method": "fs/getMetadata", "params": {"path": "file:///", "sandbox": sandbox}}


def _ruling(text: str) -> Request:
    path = {"type": "path", "path": f"file:///{text}"}
    sandbox = _sandbox({"path": path, "access": "read"})
    return {"method": "fs/getMetadata", "params": {"path": "file:///", "sandbox": sandbox}}


def _filtering(text: str) -> Request:
    policy = {
        "inherit": "none",
        "ignoreDefaultExcludes": True,
        "exclude": [],
        "set": {"A" * 4000: ""},
        "includeOnly": [text] * 100,
    }
    params = {
        "processId": "p",
        "argv": ["/no/such/program"],
        "cwd": "file:///",
        "env": {},
        "tty": False,
        "envPolicy": policy,
    }
    return {"method": "process/start", "params": params}


def _reading_in(text: str) -> Request:
    params = {"cwd": f"file:///{text}", "configPaths": [["a"]], "requirementsPaths": []}
    return {"method": "environmentConfig/read", "params": params}


class CostFuzzer:
    """Sends cases of growing size, over one connection, and measures over another."""

    def __init__(self, chance: random.Random, folder: str) -> None:
        self._chance = chance
        self._folder = folder
        self._count = 0
        self.longest_wait = 0.0
        """Seconds that the other connection waited for an answer at most."""

    def run(self, cases: int) -> Iterator[str]:
        """Run so many cases, and yield what is wrong with any."""
        Path(self._folder + TREE).mkdir(parents=True, exist_ok=True)
        known = formats(self._folder)
        argv = command(self._folder, "--listen", "ws://127.0.0.1:0")
        with running(argv, CODEX_HOME=self._folder, HOME=self._folder) as process:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            server = _Server(process.pid, WebSocketConnection(url), WebSocketConnection(url))
            for number in range(cases):
                try:
                    self._try(server, known[number % len(known)])
                except Slow as slow:
                    yield str(slow)
            server.close()

    def _try(self, server: _Server, kind: Format) -> None:
        before, unit, after = ("".join(self._words(kind, most)) for most in (2, 4, 2))
        opening = "---\n" if kind.name == "SKILL.md" else ""
        closing = "\n---\n" if kind.name == "SKILL.md" else ""
        seconds: list[float] = []
        for size in (kind.size // GROWTH**2, kind.size // GROWTH, kind.size):
            middle = unit * ((size - len(before) - len(after)) // len(unit))
            request = kind.request(opening + before + middle + after + closing)
            shown = f"{kind.name} of {size} characters: {before!r}, {unit!r} repeated, {after!r}"
            memory = memory_bytes(server.pid)
            spent, waited = self._least(server, request)
            self.longest_wait = max(self.longest_wait, waited)
            if waited > MAX_WAIT_SECONDS:
                raise Slow(f"{shown}: another connection waited {waited:.2f} s")
            if memory_bytes(server.pid) - memory > MAX_MEMORY_BYTES:
                raise Slow(f"{shown}: took more than {MAX_MEMORY_BYTES // 2**20} MiB")
            if seconds and spent > max(NOISE_SECONDS, SUPERLINEAR * seconds[-1]):
                raise Slow(f"{shown}: took {spent:.2f} s, and a quarter of it {seconds[-1]:.2f} s")
            seconds.append(spent)

    def _words(self, kind: Format, most: int) -> list[str]:
        return self._chance.choices(kind.words, k=self._chance.randint(most // 4, most))

    def _least(self, server: _Server, request: Request) -> tuple[float, float]:
        """The least of up to three costs and waits: other work on the machine does not count."""
        spent = waited = float("inf")
        for _ in range(3):
            self._count += 1
            seconds, wait = server.measure({"id": f"c{self._count}", **request})
            spent, waited = min(spent, seconds), min(waited, wait)
            if spent <= NOISE_SECONDS and waited <= MAX_WAIT_SECONDS:
                break
        return spent, waited


class _Server:
    """A server, a connection that gives it work, and one that waits meanwhile."""

    def __init__(self, pid: int, busy: WebSocketConnection, other: WebSocketConnection) -> None:
        self.pid = pid
        self._busy = busy
        self._other = other
        for connection in (busy, other):
            connection.handshake()
            connection.sync()

    def measure(self, request: Request) -> tuple[float, float]:
        """Return the processor time that a request takes, and the longest wait meanwhile."""
        failures: list[Exception] = []

        def work() -> None:
            try:
                self._busy.send(json.dumps(request).encode())
                self._busy.settle({request["id"]})
            except Exception as error:
                failures.append(error)

        before = self._processor_seconds()
        thread = threading.Thread(target=work)
        thread.start()
        longest = 0.0
        while thread.is_alive():
            begin = time.monotonic()
            self._other.sync()
            longest = max(longest, time.monotonic() - begin)
        thread.join()
        if failures:
            raise failures[0]
        return self._processor_seconds() - before, longest

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Drop both connections."""
        self._busy.close()
        self._other.close()
