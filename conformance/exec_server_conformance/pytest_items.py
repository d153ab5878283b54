"""pytest items for the sessions; see pytest_plugin."""

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
from exec_server_conformance.runner.server_probe import probe
from exec_server_conformance.runner.session import SESSIONS, Transport, load_all
from exec_server_conformance.runner.suite import ExitCode, NullListener, Plan, Suite
from exec_server_conformance.runner.target import Target

if TYPE_CHECKING:
    from exec_server_conformance.runner.session import Session

_PROPERTY = "exec_server_play"
"""Name of the user property that carries an item's outcome to the controlling process."""


class _Failed(Exception):
    """A session that did not pass."""

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
        """Run the session."""
        suite = Suite(self._plan, NullListener())
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
        # A deviation can be judged stale only after every session that it matches has run.
        if play.outcome not in (Outcome.PASSED, Outcome.STALE):
            raise _Failed(play)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any) -> Any:
        """Return the description, the reason and the wire trace of a failed session."""
        if isinstance(excinfo.value, _Failed):
            play = excinfo.value.play
            return "\n".join([play.description, play.reason or "", *trace.lines(play.trace)])
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the session file as the location of the test."""
        return self._file.path, 0, self.name


class _Folder(pytest.Collector):
    """Parent node of the items."""

    def collect(self) -> list[pytest.Item]:
        """Return no items: they are added when the collection is modified."""
        return []


class Sessions:
    """Adds the sessions to a test run and reports stale deviations.

    Raises ConformanceError for options that cannot be used.
    """

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
        """Add an item for each session of the server's revisions over each transport."""
        try:
            features = asyncio.run(probe(self._plan.target, self._plan.transports[0]))
        except TargetError as error:
            _end(str(error))
        folder = _Folder.from_parent(session, name="exec-server-conformance", nodeid="exec-server")
        items += [
            SessionItem.from_parent(
                folder,
                name=f"{file.name}[{transport}]",
                session_file=file,
                plan=replace(
                    self._plan, sessions=(file,), transports=(transport,), features=features
                ),
            )
            for file in self._sessions
            for transport in file.transports
            if transport in self._plan.transports and file.revision in features.revisions
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of an item."""
        for name, value in report.user_properties:
            if name == _PROPERTY:
                play: Any = value
                self._outcomes[play[0], play[1]] = Outcome(play[2])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report the stale deviations."""
        for entry in self._stale():
            terminalreporter.write_line(
                f"STALE known deviation {entry.sessions!r}: none of its sessions fails", red=True
            )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run if a deviation is stale."""
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
