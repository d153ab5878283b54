"""Comparison of several servers: results per session and server.

A targets file is TOML with a ``[[target]]`` table for each server:

====================  ============================================================================
``name``              display name (default: the codex release, command or URL)
``command``           command that runs the server, or
``url``               ``ws://`` URL of a running server, or
``peer``              downloaded codex release, such as ``"0.139.0"``; ``"fetched"`` for all of them
``transports``        list of ``ws`` and ``stdio`` (default: all that the server supports)
``server_version``    codex release that it stands in for (default: the newest; a peer's own)
``known_deviations``  file of known deviations, relative to this file (default: none; for a peer the
                      suite's file for that release, or for the closest earlier release)
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

from exec_server_conformance import codex_binaries
from exec_server_conformance.errors import SessionError
from exec_server_conformance.runner.known_deviations import Deviation, load_deviations
from exec_server_conformance.runner.results import Count, Outcome, Play, Report, Seconds
from exec_server_conformance.runner.session import Transport
from exec_server_conformance.runner.suite import ExitCode, NullListener, Plan, Suite
from exec_server_conformance.runner.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from exec_server_conformance.runner.session import Session

DEVIATIONS = Path(__file__).parents[1] / "deviations"
"""Directory of the known deviations of codex releases."""

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
    """Server described by a targets file."""

    name: str
    target: Target
    transports: tuple[Transport, ...]
    server_version: str | None
    deviations: tuple[Deviation, ...]


class Cell(msgspec.Struct, frozen=True, rename="camel"):
    """Result of a session on one server over all transports."""

    outcome: Annotated[Outcome, Meta(description="Most severe outcome over the transports.")]
    transports: Annotated[
        list[str] | UnsetType,
        Meta(description="Transports with that outcome; absent if all have it."),
    ] = UNSET
    reason: Annotated[
        str | UnsetType, Meta(description="Reason of an outcome other than passed.")
    ] = UNSET


class Row(msgspec.Struct, frozen=True, rename="camel"):
    """Results of a session on all servers."""

    session: str
    description: str
    cells: Annotated[
        dict[str, Cell],
        Meta(description="Results by server name; absent if the session was not run."),
    ]


class Server(msgspec.Struct, frozen=True, rename="camel"):
    """A server and the totals of its run."""

    name: str
    target: str
    revisions: list[str]
    counts: Annotated[dict[str, Count], Meta(description="Number of plays by outcome.")]
    seconds: Seconds
    exit_code: int
    no_server: str | None


class Matrix(msgspec.Struct, frozen=True, rename="camel"):
    """Results of all sessions on all servers."""

    suite: str
    servers: list[Server]
    rows: list[Row]

    @property
    def exit_code(self) -> ExitCode:
        """Most severe exit code of all servers: cannot be run, failed, stale."""
        codes = {server.exit_code for server in self.servers}
        order = (ExitCode.INTERRUPTED, ExitCode.NO_SERVER, ExitCode.FAILED, ExitCode.STALE)
        return next((code for code in order if code in codes), ExitCode.PASSED)


def load_columns(path: Path) -> list[Column]:
    """Read a targets file; raise SessionError if it is invalid."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SessionError(f"{path}: {error}") from None
    wrong = jsonschema.exceptions.best_match(_TARGETS.iter_errors(document))
    if wrong is not None:
        hint = "requires exactly one of command, url and peer" if wrong.validator == "oneOf" else ""
        raise SessionError(f"{path}: {wrong.json_path}: {hint or wrong.message}")
    columns = [column for table in document["target"] for column in _columns(table, path.parent)]
    names = [column.name for column in columns]
    for name in names:
        if names.count(name) > 1:
            raise SessionError(f"{path}: duplicate target {name!r}")
    return columns


def _columns(table: dict[str, Any], directory: Path) -> Iterator[Column]:
    peer = table.get("peer")
    if peer == "fetched":
        for version in codex_binaries.fetched():
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
            command = shlex.join(codex_binaries.command(version))
        except codex_binaries.CodexBinaryError as error:
            raise SessionError(str(error)) from None
        transports = codex_binaries.transports(version)
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
    """Return the suite's file for a codex release, or for the closest earlier release; None if
    none.
    """
    files = {path.stem.removeprefix("codex-"): path for path in DEVIATIONS.glob("codex-*.toml")}
    past = [
        one
        for one in files
        if codex_binaries.parse_version(one) <= codex_binaries.parse_version(version)
    ]
    return files[max(past, key=codex_binaries.parse_version)] if past else None


def run(
    columns: Sequence[Column],
    sessions: Sequence[Session],
    *,
    jobs: int,
    timeout: float | None,
    report_server: Callable[[Server], None],
) -> Matrix:
    """Run the sessions on one server after the other.

    ``report_server`` is called after each server. Ctrl-C returns the results so far.
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
        suite = Suite(plan, NullListener())
        try:
            # A server of a revision without selected sessions has an empty column.
            with contextlib.suppress(SessionError):
                asyncio.run(suite.play())
            report = suite.report()
        except KeyboardInterrupt:
            report = suite.report(interrupted=True)
        reports[column.name] = report
        servers.append(_server(column.name, report))
        report_server(servers[-1])
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
