"""The sessions as pytest items; see pytest_plugin."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import pytest

from exec_server_conformance.errors import TargetError
from exec_server_conformance.runner import trace
from exec_server_conformance.runner.known_deviations import check_named, load_deviations, stale
from exec_server_conformance.runner.results import Outcome, Play
from exec_server_conformance.runner.selection import Choice
from exec_server_conformance.runner.server_probe import ask
from exec_server_conformance.runner.session import SESSIONS, Transport, load_all
from exec_server_conformance.runner.suite import ExitCode, Plan, Quiet, Suite
from exec_server_conformance.runner.target import Target

if TYPE_CHECKING:
    from exec_server_conformance.runner.session import Session

_PROPERTY = "exec_server_play"
"""Name under which an item tells what came of it, also to the process that sums up."""


class _Failed(Exception):
    """A play that did not pass."""

    def __init__(self, play: Play) -> None:
        super().__init__(play.reason)
        self.play = play


class SessionItem(pytest.Item):
    """One session over one transport."""

    def __init__(self, *, session_file: Session, plan: Plan, **rest: Any) -> None:
        super().__init__(**rest)
        self._file = session_file
        self._plan = plan

    def runtest(self) -> None:
        """Play it."""
        suite = Suite(self._plan, Quiet())
        asyncio.run(suite.play())
        report = suite.report()
        if report.summary.no_server is not None:
            _end(report.summary.no_server)
        (play,) = report.plays
        self.user_properties.append((_PROPERTY, [play.session, play.transport, play.outcome.value]))
        if play.outcome is Outcome.NOT_APPLICABLE:
            pytest.skip(play.reason or "")
        if play.outcome is Outcome.KNOWN:
            pytest.xfail(play.known_deviation or "")
        # Whether a deviation is stale shows when everything that it names has been played.
        if play.outcome not in (Outcome.PASSED, Outcome.STALE):
            raise _Failed(play)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any) -> Any:
        """What was expected, what came, and the wire."""
        if isinstance(excinfo.value, _Failed):
            play = excinfo.value.play
            return "\n".join([play.description, play.reason or "", *trace.lines(play.trace)])
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The session file."""
        return self._file.path, 0, self.name


class _Folder(pytest.Collector):
    """The parent of the items."""

    def collect(self) -> list[pytest.Item]:
        """Nothing: the items are made all at once."""
        return []


class Sessions:
    """Adds the sessions to a run, and sums up; raises ConformanceError for what cannot be used."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        everything = load_all(SESSIONS)
        chosen = Choice.of_options(lambda name: option(f"exec_server_{name}"))
        self._sessions = chosen.of(everything)
        known = option("exec_server_known_deviations")
        deviations = load_deviations(Path(known)) if known else []
        if known:
            check_named(Path(known), deviations, everything)
        transport = "ws" if option("exec_server_url") else option("exec_server_transport")
        self._plan = Plan(
            target=Target(option("exec_server_cmd"), option("exec_server_url")),
            sessions=(),
            transports=[one for one in get_args(Transport) if transport in ("both", one)],
            server_version=option("exec_server_version"),
            deviations=deviations,
        )
        self._outcomes: dict[tuple[str, Transport], Outcome] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """Add an item for each session of the server's revisions, over each transport."""
        try:
            abilities = asyncio.run(ask(self._plan.target, self._plan.transports[0]))
        except TargetError as error:
            _end(str(error))
        folder = _Folder.from_parent(session, name="exec-server-conformance", nodeid="exec-server")
        items += [
            SessionItem.from_parent(
                folder,
                name=f"{file.name}[{transport}]",
                session_file=file,
                plan=replace(
                    self._plan, sessions=(file,), transports=(transport,), abilities=abilities
                ),
            )
            for file in self._sessions
            for transport in file.transports
            if transport in self._plan.transports and file.revision in abilities.revisions
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what came of an item."""
        for name, value in report.user_properties:
            if name == _PROPERTY:
                play: Any = value
                self._outcomes[play[0], play[1]] = Outcome(play[2])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the known deviations that nothing deviates by any more."""
        for entry in self._stale():
            terminalreporter.write_line(
                f"STALE known deviation {entry.sessions!r}: no session it names fails", red=True
            )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run for stale deviations."""
        if session.exitstatus == pytest.ExitCode.OK and self._stale():
            session.exitstatus = ExitCode.STALE

    def _stale(self) -> list[Any]:
        passed = {
            play: Outcome.PASSED if outcome is Outcome.STALE else outcome
            for play, outcome in self._outcomes.items()
        }
        return stale(self._plan.deviations, passed)


def _end(reason: str) -> NoReturn:
    pytest.exit(f"the server could not be run: {reason}", returncode=ExitCode.NO_SERVER)
