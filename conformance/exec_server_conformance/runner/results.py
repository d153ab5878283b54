"""What came of a run: the model that every report is written from.

A *play* is one session over one transport. A report in JSON Lines is these structures, one a line:
a ``run``, its ``play`` lines in the order of their names, and a ``summary``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

FormatVersion = Literal[1]
"""Of the report; raised when a member changes its meaning or goes away."""


class Outcome(StrEnum):
    """How a play ended."""

    PASSED = "passed"
    FAILED = "failed"
    KNOWN = "known"
    """It failed as a known deviation says."""
    STALE = "stale"
    """It passed, like everything that a known deviation says would fail."""
    NOT_APPLICABLE = "n/a"
    ERROR = "error"
    """It could not be judged: the server broke down, or the session is wrong itself."""


class Blame(StrEnum):
    """Whose fault it is that a play did not pass."""

    SERVER = "server-sent-wrong"
    SILENCE = "server-never-answered"
    CLIENT = "client-did-wrong"
    CLIENT_SILENCE = "client-did-not-go-on"
    SUITE = "suite-expected-wrong"


Seconds = Annotated[float, Meta(ge=0, description="In seconds.")]
Count = Annotated[int, Meta(ge=0)]


class TraceEntry(msgspec.Struct, frozen=True, rename="camel"):
    """One message on the wire, without secrets, cut to a readable length."""

    seconds: Annotated[float, Meta(ge=0, description="Since the session began, in seconds.")]
    connection: Annotated[str, Meta(description="Name of the connection within the session.")]
    direction: Annotated[Literal["sent", "received"], Meta(description="As the suite sees it.")]
    text: Annotated[str, Meta(description="The message; bytes that are not UTF-8 as U+FFFD.")]
    characters: Annotated[int, Meta(ge=0, description="Length of the whole message.")]


class Divergence(msgspec.Struct, frozen=True, rename="camel"):
    """The first place where a play did not go as the session has it."""

    message: Annotated[str, Meta(description="What was expected and what came, in words.")]
    where: Annotated[
        str | UnsetType, Meta(description="Path to the value, such as process/start.result.cwd.")
    ] = UNSET
    expected: Annotated[Any, Meta(description="The expected value; absent if there is none.")] = (
        UNSET
    )
    received: Annotated[Any, Meta(description="The value that came; absent if nothing did.")] = (
        UNSET
    )
    entry: Annotated[
        Count | UnsetType,
        Meta(description="Index in the trace of the message that diverges; absent if none."),
    ] = UNSET
    line: Annotated[
        Annotated[int, Meta(ge=1)] | UnsetType,
        Meta(description="Line of the session file; absent if there is none."),
    ] = UNSET


class Play(msgspec.Struct, frozen=True, rename="camel", tag="play", tag_field="event"):
    """What came of one session over one transport."""

    session: Annotated[str, Meta(description="Name of the session: revision, group, name.")]
    transport: Literal["ws", "stdio"]
    description: Annotated[str, Meta(description="The behaviour that the session shows.")]
    level: Literal["contract", "quirk"]
    methods: Annotated[list[str], Meta(description="Methods that the client calls, in order.")]
    outcome: Outcome
    seconds: Seconds = 0.0
    reason: Annotated[
        str | UnsetType,
        Meta(description="Why it failed, does not apply or could not be judged, in one line."),
    ] = UNSET
    blame: Blame | UnsetType = UNSET
    known_deviation: Annotated[
        str | UnsetType, Meta(description="The reason that the known deviation gives.")
    ] = UNSET
    divergence: Divergence | UnsetType = UNSET
    trace: list[TraceEntry] = []

    @property
    def name(self) -> str:
        """Session and transport."""
        return f"{self.session} [{self.transport}]"

    @property
    def revision(self) -> str:
        """The revision that the session speaks."""
        return self.session.partition("/")[0]

    @property
    def group(self) -> str:
        """Revision and group of the session."""
        return self.session.rpartition("/")[0]


class RunHeader(msgspec.Struct, frozen=True, rename="camel", tag="run", tag_field="event"):
    """What was run, and against what."""

    suite: Annotated[str, Meta(description="Version of the suite.")]
    target: Annotated[str, Meta(description="The target's command or URL, without secrets.")]
    started: Annotated[str, Meta(description="When the run began, ISO 8601 in UTC.")]
    revisions: Annotated[
        list[str], Meta(description="Revisions that the target speaks, oldest first.")
    ] = []
    capabilities: Annotated[list[str], Meta(description="Flags that the server sets.")] = []
    server_version: Annotated[
        str | None, Meta(description="Codex release that the server is or stands in for.")
    ] = None
    format_version: FormatVersion = 1
    role: Annotated[
        Literal["server", "client"], Meta(description="What the target is, and was judged as.")
    ] = "server"


class Summary(msgspec.Struct, frozen=True, rename="camel", tag="summary", tag_field="event"):
    """How the run ended."""

    counts: Annotated[dict[str, Count], Meta(description="Plays by outcome.")]
    seconds: Seconds
    exit_code: Annotated[int, Meta(ge=0, le=255)]
    interrupted: Annotated[bool, Meta(description="Whether someone stopped the run.")] = False
    no_server: Annotated[
        str | None, Meta(description="Why the target could not be run, if it could not.")
    ] = None
    stale: Annotated[
        list[str], Meta(description="Globs of known deviations that nothing deviates by any more.")
    ] = []


class Report(msgspec.Struct, frozen=True):
    """A whole run."""

    header: RunHeader
    plays: list[Play]
    summary: Summary
