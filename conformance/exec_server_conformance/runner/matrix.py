"""Several servers in one run, side by side: which session passes on which.

A file of targets is TOML, a ``[[target]]`` table for each:

====================  ============================================================================
``name``              how it is called (default: the release of a peer)
``command``           the server's command, or
``url``               its ``ws://`` URL, or
``peer``              a fetched codex release, such as ``"0.139.0"``; ``"fetched"`` for all of them
``transports``        a list of ``ws`` and ``stdio`` (default: both; those that a peer has)
``server_version``    codex release that it stands in for (default: the newest; a peer's own)
``known_deviations``  file of known deviations, relative to this file (default: none; for a peer the
                      suite's own of that release, or of the last before it that has one)
====================  ============================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import jsonschema
import msgspec
from msgspec import UNSET, Meta, UnsetType

from exec_server_conformance import codex_binaries as peers
from exec_server_conformance.errors import SessionError
from exec_server_conformance.runner.known_deviations import Deviation, load_deviations
from exec_server_conformance.runner.results import Count, Outcome, Play, Report, Seconds
from exec_server_conformance.runner.session import Transport
from exec_server_conformance.runner.suite import ExitCode, Plan, Quiet, Suite
from exec_server_conformance.runner.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from exec_server_conformance.runner.session import Session

DEVIATIONS = Path(__file__).parents[1] / "deviations"
"""What codex releases are known to do differently."""

_TEXT = {"type": "string", "minLength": 1}

_TARGETS = jsonschema.Draft202012Validator(
    {
        "type": "object",
        "properties": {
            "target": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        **dict.fromkeys(("name", "command", "url", "known_deviations"), _TEXT),
                        "server_version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
                        "peer": {"type": "string", "pattern": r"^(\d+\.\d+\.\d+|fetched)$"},
                        "transports": {
                            "type": "array",
                            "items": {"enum": list(get_args(Transport))},
                            "minItems": 1,
                        },
                    },
                    "additionalProperties": False,
                    "oneOf": [{"required": [one]} for one in ("command", "url", "peer")],
                },
            }
        },
        "required": ["target"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True, slots=True)
class Column:
    """A server to run, as a file of targets names it."""

    name: str
    target: Target
    transports: tuple[Transport, ...]
    server_version: str | None
    deviations: tuple[Deviation, ...]


class Cell(msgspec.Struct, frozen=True, rename="camel"):
    """What came of a session on a server, over all transports."""

    outcome: Annotated[Outcome, Meta(description="The worst over the transports.")]
    transports: Annotated[
        list[str] | UnsetType, Meta(description="Those with that outcome; absent if all have it.")
    ] = UNSET
    reason: Annotated[str | UnsetType, Meta(description="Why, unless it passed.")] = UNSET


class Row(msgspec.Struct, frozen=True, rename="camel"):
    """A session on every server."""

    session: str
    description: str
    cells: Annotated[
        dict[str, Cell], Meta(description="By name of the server; absent where not played.")
    ]


class Server(msgspec.Struct, frozen=True, rename="camel"):
    """A server, and what its run came to."""

    name: str
    target: str
    revisions: list[str]
    counts: Annotated[dict[str, Count], Meta(description="Plays by outcome.")]
    seconds: Seconds
    exit_code: int
    no_server: str | None


class Matrix(msgspec.Struct, frozen=True, rename="camel"):
    """Sessions by servers."""

    suite: str
    servers: list[Server]
    rows: list[Row]

    @property
    def exit_code(self) -> ExitCode:
        """The worst of the servers': one that cannot be run, a failure, a stale deviation."""
        codes = {server.exit_code for server in self.servers}
        order = (ExitCode.INTERRUPTED, ExitCode.NO_SERVER, ExitCode.FAILED, ExitCode.STALE)
        return next((code for code in order if code in codes), ExitCode.PASSED)


def load_columns(path: Path) -> list[Column]:
    """Read a file of targets; raises SessionError naming what is wrong."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SessionError(f"{path}: {error}") from None
    wrong = jsonschema.exceptions.best_match(_TARGETS.iter_errors(document))
    if wrong is not None:
        hint = "needs exactly one of command, url and peer" if wrong.validator == "oneOf" else ""
        raise SessionError(f"{path}: {wrong.json_path}: {hint or wrong.message}")
    columns = [column for table in document["target"] for column in _columns(table, path.parent)]
    names = [column.name for column in columns]
    for name in names:
        if names.count(name) > 1:
            raise SessionError(f"{path}: there are two targets {name!r}")
    return columns


def _columns(table: dict[str, Any], directory: Path) -> Iterator[Column]:
    peer = table.get("peer")
    if peer == "fetched":
        for version in peers.fetched():
            yield _column({**table, "peer": version, "name": f"codex {version}"}, directory)
    else:
        yield _column(table, directory)


def _column(table: dict[str, Any], directory: Path) -> Column:
    command, version = table.get("command"), table.get("server_version")
    transports: Iterable[Any] = get_args(Transport)
    deviations = table.get("known_deviations") and directory / table["known_deviations"]
    if "peer" in table:
        version = table["peer"]
        try:
            command = shlex.join(peers.command(version))
        except peers.PeerError as error:
            raise SessionError(str(error)) from None
        transports = peers.transports(version)
        deviations = deviations or _own_deviations(version)
    return Column(
        name=table.get("name")
        or (f"codex {version}" if "peer" in table else command or table["url"]),
        target=Target(command, table.get("url")),
        transports=("ws",) if "url" in table else tuple(table.get("transports", transports)),
        server_version=version,
        deviations=tuple(load_deviations(deviations)) if deviations else (),
    )


def _own_deviations(version: str) -> Path | None:
    """The suite's file for a codex release, or for the last release before it that has one."""
    files = {path.stem.removeprefix("codex-"): path for path in DEVIATIONS.glob("codex-*.toml")}
    past = [one for one in files if peers.parse_version(one) <= peers.parse_version(version)]
    return files[max(past, key=peers.parse_version)] if past else None


def run(
    columns: Sequence[Column],
    sessions: Sequence[Session],
    *,
    jobs: int,
    timeout: float | None,
    tell: Callable[[Server], None],
) -> Matrix:
    """Play the sessions on one server after the other; ``tell`` is told of each when it is done.

    Ctrl-C ends it with what has come so far.
    """
    reports: dict[str, Report] = {}
    servers: list[Server] = []
    for column in columns:
        plan = Plan(
            target=column.target,
            sessions=sessions,
            transports=[one for one in column.transports if _is_used(one, sessions)],
            server_version=column.server_version,
            deviations=column.deviations,
            jobs=jobs,
            timeout=timeout,
        )
        suite = Suite(plan, Quiet())
        try:
            # A server that speaks another revision than every session leaves its column empty.
            with contextlib.suppress(SessionError):
                asyncio.run(suite.play())
            report = suite.report()
        except KeyboardInterrupt:
            report = suite.report(interrupted=True)
        reports[column.name] = report
        servers.append(_server(column.name, report))
        tell(servers[-1])
        if report.summary.interrupted:
            break
    suite_version = next(iter(reports.values())).header.suite
    return Matrix(suite_version, servers, list(_rows(reports)))


def _is_used(transport: Transport, sessions: Sequence[Session]) -> bool:
    return any(transport in session.transports for session in sessions)


def _server(name: str, report: Report) -> Server:
    header, summary = report.header, report.summary
    return Server(
        name,
        header.target,
        header.revisions,
        summary.counts,
        summary.seconds,
        summary.exit_code,
        summary.no_server,
    )


_WORST_FIRST = (
    Outcome.ERROR,
    Outcome.FAILED,
    Outcome.STALE,
    Outcome.KNOWN,
    Outcome.PASSED,
    Outcome.NOT_APPLICABLE,
)


def _rows(reports: dict[str, Report]) -> Iterator[Row]:
    plays: dict[str, dict[str, list[Play]]] = {}
    for name, report in reports.items():
        for play in report.plays:
            plays.setdefault(play.session, {}).setdefault(name, []).append(play)
    for session, by_server in sorted(plays.items()):
        description = next(iter(by_server.values()))[0].description
        yield Row(session, description, {name: _cell(one) for name, one in by_server.items()})


def _cell(plays: list[Play]) -> Cell:
    outcome = min((play.outcome for play in plays), key=_WORST_FIRST.index)
    having = [play for play in plays if play.outcome is outcome]
    return Cell(
        outcome=outcome,
        transports=UNSET if len(having) == len(plays) else [play.transport for play in having],
        reason=having[0].known_deviation or having[0].reason,
    )
