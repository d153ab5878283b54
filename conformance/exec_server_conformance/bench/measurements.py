"""Measurements: each returns its figures for one round."""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from exec_server_conformance.bench.channel import ANSWER, Channel
from exec_server_conformance.bench.subject import REVISIONS, Revision, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server_conformance.bench.subject import Subject

IN_FLIGHT = 128
"""Maximum number of pipelined requests; codex from 0.133 hangs after a larger burst over WebSocket.
"""

BATCH = IN_FLIGHT // 32
"""Requests sent at once: a fraction of the window, so that the server is never idle."""

PROCESSES_IN_FLIGHT = 8

WALK_ENTRIES = 10_000

BETWEEN_PROBES_BYTES = 256 * 1024
"""Data received between two probes: more than one message, so that output is in progress."""

MEGABYTE = 1_000_000
CLOSED = b'"process/closed"'
CLOSED_TAIL_BYTES = 256
"""Upper bound of the size of a closed notification with its frame."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Amount of work in one round."""

    rounds: int
    seconds: float
    """Duration of a round of requests, in seconds."""
    latencies: int
    """Number of processes started sequentially per round."""
    processes: int
    """Number of processes started concurrently per round."""
    probes: int
    """Number of small requests per round during bulk output."""
    pipe_megabytes: int
    pty_megabytes: int
    files: int
    """Number of reads of the 1 MB file per round."""
    walks: int
    """Number of walks of the tree per round."""


FULL = Scale(
    rounds=5,
    seconds=0.6,
    latencies=40,
    processes=300,
    probes=300,
    pipe_megabytes=200,
    pty_megabytes=40,
    files=60,
    walks=10,
)
QUICK = Scale(
    rounds=3,
    seconds=0.15,
    latencies=8,
    processes=60,
    probes=60,
    pipe_megabytes=50,
    pty_megabytes=10,
    files=15,
    walks=3,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """Target for the ratio of our figure to codex's."""

    limit: float
    relation: Literal["at least", "at most"]

    def met(self, ratio: float) -> bool:
        """Return True if a ratio meets the target."""
        return ratio >= self.limit if self.relation == "at least" else ratio <= self.limit

    def __str__(self) -> str:
        """Format the target for the report."""
        return f"{'≥' if self.relation == 'at least' else '≤'} {self.limit:g}×"


Bars: TypeAlias = Mapping[Revision, Bar]


@dataclass(frozen=True, slots=True)
class Figure:
    """Row of the report."""

    name: str
    unit: str
    bars: Bars = field(default_factory=dict, hash=False)
    best_client: bool = False
    """Compare with the client variant that is faster with codex, since bulk output depends on
    Nagle's algorithm.
    """


@dataclass(frozen=True, slots=True)
class Measurement:
    """Measurement: its figures, and the function that performs one round."""

    name: str
    figures: tuple[Figure, ...]
    run: Callable[[Subject, Scale], tuple[float, ...]]
    transports: tuple[Transport, ...] = ("ws", "stdio")
    revisions: tuple[Revision, ...] = ("v1", "v2")


def _message(**members: object) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def _start(subject: Subject, name: str, *argv: str, tty: bool = False) -> bytes:
    return _message(
        id=1,
        method="process/start",
        params={
            "processId": name,
            "argv": argv,
            "cwd": subject.path(Path("/")),
            "env": {"PATH": "/usr/bin:/bin"},
            "tty": tty,
        },
    )


def _terminate(name: str) -> bytes:
    return _message(id=2, method="process/terminate", params={"processId": name})


def _requests_per_second(channel: Channel, method: str, params: object, seconds: float) -> float:
    """Keep up to IN_FLIGHT requests pipelined for ``seconds``; return answers per second."""
    batch = b"".join(
        channel.frame(_message(id=1000 + index, method=method, params=params))
        for index in range(BATCH)
    )
    begin = time.perf_counter()
    sent = answered = 0
    while sent < IN_FLIGHT:
        channel.send(batch)
        sent += BATCH
    while True:
        answered += channel.count(ANSWER)
        if time.perf_counter() - begin >= seconds:
            break
        while sent - answered <= IN_FLIGHT - BATCH:
            channel.send(batch)
            sent += BATCH
    while answered < sent:
        answered += channel.count(ANSWER)
    elapsed = time.perf_counter() - begin
    channel.refuse_errors()
    return answered / elapsed


def _process_reads(subject: Subject, scale: Scale) -> tuple[float, ...]:
    name = subject.new_name()
    subject.channel.send(subject.channel.frame(_start(subject, name, "sleep", "60")))
    subject.channel.wait_for(ANSWER)
    subject.channel.refuse_errors()
    params = {"processId": name, "afterSeq": None, "maxBytes": None, "waitMs": 0}
    rate = _requests_per_second(subject.channel, "process/read", params, scale.seconds)
    subject.channel.send(subject.channel.frame(_terminate(name)))
    subject.channel.wait_for(ANSWER, CLOSED)
    return (rate,)


def _process_terminates(subject: Subject, scale: Scale) -> tuple[float, ...]:
    params = {"processId": "unknown"}
    return (_requests_per_second(subject.channel, "process/terminate", params, scale.seconds),)


def _get_metadata(subject: Subject, scale: Scale) -> tuple[float, ...]:
    path = subject.scratch / "small"
    path.write_bytes(b"x")
    params = {"path": subject.path(path)}
    return (_requests_per_second(subject.channel, "fs/getMetadata", params, scale.seconds),)


def _process_latency(subject: Subject, scale: Scale, *, tty: bool) -> tuple[float, ...]:
    channel = subject.channel
    latencies = []
    for _ in range(scale.latencies):
        frame = channel.frame(_start(subject, subject.new_name(), "/bin/true", tty=tty))
        begin = time.perf_counter()
        channel.send(frame)
        channel.wait_for(ANSWER, CLOSED)
        latencies.append(time.perf_counter() - begin)
    return (statistics.median(latencies) * 1000,)


def _process_rate(subject: Subject, scale: Scale, *, tty: bool) -> tuple[float, ...]:
    channel = subject.channel
    waiting = [
        channel.frame(_start(subject, subject.new_name(), "/bin/true", tty=tty))
        for _ in range(scale.processes)
    ]
    begin = time.perf_counter()
    channel.send(b"".join(waiting[:PROCESSES_IN_FLIGHT]))
    del waiting[:PROCESSES_IN_FLIGHT]
    closed = 0
    while closed < scale.processes:
        ended = channel.count(CLOSED)
        closed += ended
        if ended and waiting:
            channel.send(b"".join(waiting[:ended]))
            del waiting[:ended]
    return (scale.processes / (time.perf_counter() - begin),)


def _output(subject: Subject, megabytes: int, *, tty: bool) -> tuple[float, ...]:
    channel = subject.channel
    script = f"dd if=/dev/zero bs=100000 count={megabytes * 10} 2>/dev/null"
    frame = channel.frame(_start(subject, subject.new_name(), "/bin/sh", "-c", script, tty=tty))
    begin = time.perf_counter()
    channel.send(frame)
    received = channel.wait_for_last(CLOSED, CLOSED_TAIL_BYTES)
    elapsed = time.perf_counter() - begin
    if received < megabytes * MEGABYTE * 4 // 3:
        channel.refuse_errors()
        raise AssertionError(f"{megabytes} MB of output came as {received} bytes only")
    return (megabytes * MEGABYTE / elapsed / MEGABYTE,)


def _read_file(subject: Subject, size: int, times: int) -> tuple[float, ...]:
    channel = subject.channel
    path = subject.scratch / f"read-{size}"
    if not path.exists():
        path.write_bytes(bytes(range(250)) * (size // 250))
    frame = channel.frame(_message(id=3, method="fs/readFile", params={"path": subject.path(path)}))
    begin = time.perf_counter()
    for _ in range(times):
        channel.send(frame)
        channel.wait_for_bytes(size * 4 // 3, (b"}}", b"}}\n"))
    return (size * times / (time.perf_counter() - begin) / MEGABYTE,)


def _write_file(subject: Subject, size: int) -> tuple[float, ...]:
    channel = subject.channel
    path = subject.scratch / "written"
    data = base64.b64encode(bytes(range(250)) * (size // 250)).decode()
    frame = channel.frame(
        _message(
            id=4, method="fs/writeFile", params={"path": subject.path(path), "dataBase64": data}
        )
    )
    begin = time.perf_counter()
    channel.send(frame)
    channel.wait_for(ANSWER)
    elapsed = time.perf_counter() - begin
    channel.refuse_errors()
    path.unlink()
    return (size / elapsed / MEGABYTE,)


def _walk(subject: Subject, scale: Scale) -> tuple[float, ...]:
    """Walk a tree of WALK_ENTRIES entries, a hundred per directory."""
    channel = subject.channel
    root = subject.scratch / "tree"
    if not root.exists():
        for number in range(WALK_ENTRIES // 100):
            directory = root / f"directory-{number}"
            directory.mkdir(parents=True)
            for name in range(99):
                (directory / f"file-{name}.txt").touch()
    options = {
        "maxDepth": 6,
        "maxDirectories": 2000,
        "maxEntries": 20_000,
        "followDirectorySymlinks": True,
        "pruneHiddenDirectories": True,
    }
    frame = channel.frame(
        _message(id=5, method="fs/walk", params={"path": subject.path(root), "options": options})
    )
    times = []
    for _ in range(scale.walks):
        begin = time.perf_counter()
        channel.send(frame)
        channel.wait_for_bytes(
            WALK_ENTRIES * 50, (b'"truncated":false}}', b'"truncated":false}}\n')
        )
        times.append(time.perf_counter() - begin)
    return (WALK_ENTRIES / statistics.median(times),)


def _flood(subject: Subject, scale: Scale) -> tuple[float, ...]:
    """Measure small requests on a connection that carries bulk output.

    A server may delay output while requests arrive, so some output is received before each request.
    """
    channel = subject.channel
    name = subject.new_name()
    channel.send(channel.frame(_start(subject, name, "/bin/dd", "if=/dev/zero", "bs=100000")))
    channel.wait_for(b'"process/output"', ANSWER)
    probe = channel.frame(_terminate("unknown"))
    latencies = []
    for _ in range(scale.probes):
        channel.drain(BETWEEN_PROBES_BYTES)
        begin = time.perf_counter()
        channel.send(probe)
        channel.wait_for(ANSWER)
        latencies.append(time.perf_counter() - begin)
    channel.send(channel.frame(_terminate(name)))
    channel.wait_for(CLOSED)
    hundredths = statistics.quantiles(latencies, n=100)
    return statistics.median(latencies) * 1000, hundredths[98] * 1000


def _idle_memory(subject: Subject, _scale: Scale) -> tuple[float, ...]:
    server = subject.target.start()
    try:
        channel = server.connect()
        channel.send(channel.frame(_terminate("unknown")))
        channel.wait_for(ANSWER)
        memory = server.memory()
        channel.close()
    finally:
        server.close()
    return memory.resident / 2**20, memory.anonymous / 2**20


def _start_up(subject: Subject, _scale: Scale) -> tuple[float, ...]:
    server = subject.target.start()
    server.close()
    return (server.seconds_to_listening * 1000,)


_REQUESTS: Bars = {"v1": Bar(1.0, "at least"), "v2": Bar(1.5, "at least")}
_PROCESSES: Bars = {"v1": Bar(2.0, "at least"), "v2": Bar(4.0, "at least")}
_TWICE: Bars = dict.fromkeys(REVISIONS, Bar(2.0, "at least"))
_HALF: Bars = dict.fromkeys(REVISIONS, Bar(0.5, "at most"))

MEASUREMENTS = (
    Measurement(
        "requests-read", (Figure("process/read pipelined", "req/s", _REQUESTS),), _process_reads
    ),
    Measurement(
        "requests-terminate",
        (Figure("process/terminate (unknown) pipelined", "req/s", _REQUESTS),),
        _process_terminates,
    ),
    Measurement(
        "requests-metadata",
        (Figure("fs/getMetadata pipelined", "req/s", _REQUESTS),),
        _get_metadata,
    ),
    Measurement(
        "latency-pipe",
        (Figure("start /bin/true (pipe) → closed, p50", "ms"),),
        lambda subject, scale: _process_latency(subject, scale, tty=False),
    ),
    Measurement(
        "latency-pty",
        (Figure("start /bin/true (pty) → closed, p50", "ms"),),
        lambda subject, scale: _process_latency(subject, scale, tty=True),
    ),
    Measurement(
        "rate-pipe",
        (Figure("/bin/true (pipe), 8 in flight", "proc/s", _PROCESSES),),
        lambda subject, scale: _process_rate(subject, scale, tty=False),
    ),
    Measurement(
        "rate-pty",
        (Figure("/bin/true (pty), 8 in flight", "proc/s", _PROCESSES),),
        lambda subject, scale: _process_rate(subject, scale, tty=True),
    ),
    Measurement(
        "output-pipe",
        (Figure("output over a pipe", "MB/s", _TWICE, best_client=True),),
        lambda subject, scale: _output(subject, scale.pipe_megabytes, tty=False),
    ),
    Measurement(
        "output-pty",
        (Figure("output over a pty", "MB/s", best_client=True),),
        lambda subject, scale: _output(subject, scale.pty_megabytes, tty=True),
    ),
    Measurement(
        "read-1mb",
        (Figure("fs/readFile 1 MB", "MB/s", _TWICE),),
        lambda subject, scale: _read_file(subject, MEGABYTE, scale.files),
    ),
    Measurement(
        "read-100mb",
        (Figure("fs/readFile 100 MB", "MB/s", _TWICE),),
        lambda subject, _scale: _read_file(subject, 100 * MEGABYTE, 1),
    ),
    Measurement(
        "write-40mb",
        (Figure("fs/writeFile 40 MB", "MB/s"),),
        lambda subject, _scale: _write_file(subject, 40 * MEGABYTE),
    ),
    Measurement(
        "walk",
        (Figure("fs/walk, 10,000 entries", "entries/s", {"v2": Bar(1.0, "at least")}),),
        _walk,
        revisions=("v2",),
    ),
    Measurement(
        "flood",
        (
            Figure("small request under flood, p50", "ms", _HALF),
            Figure("small request under flood, p99", "ms", _HALF),
        ),
        _flood,
    ),
    Measurement(
        "memory",
        (Figure("idle, resident", "MiB"), Figure("idle, anonymous", "MiB")),
        _idle_memory,
    ),
    Measurement("start-up", (Figure("start to listening", "ms"),), _start_up, ("ws",)),
)
