"""Data model of a run, from which every report is written.

A *play* is the execution of one session over one transport. The JSON Lines report consists of these
structures, one per line: a ``run``, ``play`` lines sorted by name, ``drift`` lines and a
``summary``.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

FormatVersion = Literal[2]
"""Version of the report format; incremented when a member is removed or changes its meaning."""


class Outcome(StrEnum):
    """Result of a play."""

    PASSED = "passed"
    FAILED = "failed"
    KNOWN = "known"
    """Failed as described by a known deviation."""
    STALE = "stale"
    """Passed although a known deviation says that it fails."""
    NOT_APPLICABLE = "n/a"
    ERROR = "error"
    """No verdict: the server broke down, or the session itself is invalid."""


class Cause(StrEnum):
    """Party at fault and kind of fault when a play did not pass."""

    SERVER_VIOLATION = "server-violation"
    SERVER_NO_RESPONSE = "server-no-response"
    CLIENT_VIOLATION = "client-violation"
    CLIENT_NO_RESPONSE = "client-no-response"
    INVALID_SESSION = "invalid-session"


DriftKind = Literal["member", "flag", "enum-value", "notification"]
"""Kind of an unknown part of a message."""

Seconds = Annotated[float, Meta(ge=0, description="In seconds.")]
Count = Annotated[int, Meta(ge=0)]


class TraceEntry(msgspec.Struct, frozen=True, rename="camel"):
    """Message on the wire, redacted and truncated."""

    seconds: Annotated[
        float, Meta(ge=0, description="Time since the start of the session, in seconds.")
    ]
    connection: Annotated[str, Meta(description="Name of the connection within the session.")]
    direction: Annotated[
        Literal["sent", "received"], Meta(description="Direction from the suite's point of view.")
    ]
    text: Annotated[str, Meta(description="The message; invalid UTF-8 is replaced by U+FFFD.")]
    characters: Annotated[int, Meta(ge=0, description="Length of the complete message.")]


class Divergence(msgspec.Struct, frozen=True, rename="camel"):
    """First point at which the behaviour differs from the session."""

    message: Annotated[str, Meta(description="Expected and received value in words.")]
    where: Annotated[
        str | UnsetType, Meta(description="Path of the value, such as process/start.result.cwd.")
    ] = UNSET
    expected: Annotated[Any, Meta(description="Expected value; absent if there is none.")] = UNSET
    received: Annotated[Any, Meta(description="Received value; absent if there is none.")] = UNSET
    entry: Annotated[
        Count | UnsetType,
        Meta(description="Index in the trace of the offending message; absent if there is none."),
    ] = UNSET
    line: Annotated[
        Annotated[int, Meta(ge=1)] | UnsetType,
        Meta(description="Line of the session file; absent if there is none."),
    ] = UNSET
    kind: Annotated[
        str, Meta(description="Kind of the violation, as in files of known deviations.")
    ] = "rule"


class Play(msgspec.Struct, frozen=True, rename="camel", tag="play", tag_field="event"):
    """Result of one session over one transport."""

    session: Annotated[str, Meta(description="Name of the session: revision, group, name.")]
    transport: Literal["ws", "stdio"]
    description: Annotated[str, Meta(description="Behaviour that the session demonstrates.")]
    level: Literal["contract", "quirk"]
    methods: Annotated[list[str], Meta(description="Methods that the client calls, in order.")]
    outcome: Outcome
    seconds: Seconds = 0.0
    reason: Annotated[
        str | UnsetType,
        Meta(description="Reason of a failure, of an error or for not applying, in one line."),
    ] = UNSET
    cause: Cause | UnsetType = UNSET
    known_deviation: Annotated[
        str | UnsetType, Meta(description="Reason given by the known deviation.")
    ] = UNSET
    divergence: Divergence | UnsetType = UNSET
    tries: Annotated[int, Meta(ge=1, description="Number of tries; several if it is flaky.")] = 1
    trace: list[TraceEntry] = []

    @property
    def name(self) -> str:
        """Session name and transport."""
        return f"{self.session} [{self.transport}]"

    @property
    def revision(self) -> str:
        """Revision of the session."""
        return self.session.partition("/")[0]

    @property
    def group(self) -> str:
        """Revision and group of the session."""
        return self.session.rpartition("/")[0]


class RunHeader(msgspec.Struct, frozen=True, rename="camel", tag="run", tag_field="event"):
    """Description of the run and its target."""

    suite: Annotated[str, Meta(description="Version of the suite.")]
    target: Annotated[str, Meta(description="Command or URL of the target, redacted.")]
    started: Annotated[str, Meta(description="Start of the run, ISO 8601 in UTC.")]
    revisions: Annotated[
        list[str], Meta(description="Revisions that the target supports, oldest first.")
    ] = []
    capabilities: Annotated[
        list[str], Meta(description="Capability flags that the server enables.")
    ] = []
    server_version: Annotated[
        str | None, Meta(description="Codex release that the server is or stands in for.")
    ] = None
    format_version: FormatVersion = 2
    role: Annotated[
        Literal["server", "client"], Meta(description="Role in which the target was tested.")
    ] = "server"


class Drift(msgspec.Struct, frozen=True, rename="camel", tag="drift", tag_field="event"):
    """Unknown part of otherwise valid messages, which receivers ignore."""

    kind: DriftKind
    place: Annotated[str, Meta(description="Path, such as initialize.result.newMember.")]
    example: Annotated[Any, Meta(description="First value seen, redacted.")]
    sessions: Annotated[list[str], Meta(description="Names of the sessions, sorted.")]
    count: Annotated[int, Meta(ge=1, description="Number of occurrences.")]

    def __str__(self) -> str:
        count = f"{self.count} times in {len(self.sessions)} sessions"
        example = json.dumps(self.example, ensure_ascii=False)
        example = example if len(example) <= 80 else f"{example[:80]}…"
        return f"{self.kind} {self.place} = {example} ({count}, such as {self.sessions[0]})"


class Summary(msgspec.Struct, frozen=True, rename="camel", tag="summary", tag_field="event"):
    """Totals of the run."""

    counts: Annotated[dict[str, Count], Meta(description="Number of plays by outcome.")]
    seconds: Seconds
    exit_code: Annotated[int, Meta(ge=0, le=255)]
    interrupted: Annotated[bool, Meta(description="True if the run was interrupted.")] = False
    no_server: Annotated[
        str | None, Meta(description="Reason why the target could not be run; null if it could.")
    ] = None
    stale: Annotated[
        list[str], Meta(description="Globs of known deviations that no longer apply.")
    ] = []


class Report(msgspec.Struct, frozen=True):
    """Complete report of a run."""

    header: RunHeader
    plays: list[Play]
    summary: Summary
    drift: list[Drift] = []
