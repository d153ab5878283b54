"""List the sessions that no mutant fails: ``python -m tests.support.mutants.survey [--all]``.

Each mutant plays the session that its entry names, and those that no mutant before it failed; with
``--all`` it plays every session. One server serves all sessions of a mutant and a revision, but for
those that need one of their own, which only ``--all`` plays.

Mutants that fail even the shortest session tell nothing of the others: what they fail does not
count. Exit code 1 if a mutant is caught by none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from exec_server_conformance.cli import SESSIONS
from exec_server_conformance.errors import Failure, TargetError
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.session import load_all
from exec_server_conformance.runner.target import Server, Target
from tests.support.checkout import ROOT
from tests.support.mutants.catalogue import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from exec_server_conformance.runner.session import Session, Transport

SHORTEST = "handshake/basic"

LONGEST_SECONDS = 5.0
"""Time limit of a mutant in a session."""

SLOW_SECONDS = 20.0
"""Sessions that may take longer than this are about long times."""

AT_A_TIME = 24
"""Sessions at a time on one server: they mostly wait."""

MUTANTS_AT_A_TIME = 3
"""Many mutants are found by waiting in vain."""

OWN_SERVERS = 4
"""Servers at a time for the sessions that need one of their own."""


def command(name: str, revision: str) -> str:
    """The command of a mutant that speaks one revision."""
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = ("env", f"PYTHONPATH={os.pathsep.join(paths)}")
    arguments = (name, "--protocol", revision)
    return shlex.join([*environment, sys.executable, "-m", "tests.support.mutants", *arguments])


async def failed_by(name: str, sessions: Collection[Session], timeout: float | None) -> set[str]:
    """The names of the sessions that a mutant fails."""
    found: set[str] = set()
    for revision in sorted({session.revision for session in sessions}):
        own = [session for session in sessions if session.revision == revision]
        shared = [one for one in own if "ws" in one.transports and not one.needs_own_server]
        found |= await _failed_on_one_server(command(name, revision), shared, timeout)
        alone = [one for one in own if one not in shared]
        target = Target(command(name, revision))
        found |= await _failed(alone, target, OWN_SERVERS, timeout)
    return found


async def _failed_on_one_server(
    command_line: str, sessions: Collection[Session], timeout: float | None
) -> set[str]:
    """Play sessions over WebSocket against one server, and again what was left when it died."""
    found: set[str] = set()
    left = list(sessions)
    while left:
        server = Server(Target(command_line), "ws")
        try:
            await server.start([], {})
            found |= await _failed(left, Target(url=server.url), AT_A_TIME, timeout)
        finally:
            died = await server.exit_status(0) is not None
            await server.stop()
        if not died:
            break
        left = [one for one in left if one.name not in found]
    return found


async def _failed(
    sessions: Iterable[Session], target: Target, at_a_time: int, timeout: float | None
) -> set[str]:
    found: set[str] = set()
    gate = asyncio.Semaphore(at_a_time)

    async def play(session: Session) -> None:
        transport: Transport = "ws" if target.url else session.transports[-1]
        async with gate:
            player = Player(session, target, transport, timeout=timeout)
            try:
                await player.play()
                if player.findings.drift:
                    found.add(session.name)
            except (Failure, TargetError):
                found.add(session.name)

    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(play(session))
    return found


class Survey:
    """Results of the mutants that have played."""

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self._sessions = {session.name: session for session in load_all(SESSIONS)}
        self._revisions = {mutant.caught_by.partition("/")[0] for mutant in MUTANTS.values()}
        self._offered = [
            name
            for name, session in self._sessions.items()
            if session.revision in self._revisions and (everything or not session.needs_own_server)
        ]
        self._catchers: dict[str, list[str]] = defaultdict(list)
        self._survivors: list[str] = []

    async def run(self) -> int:
        """Play, and print what came; returns the exit code."""
        offered = [self._sessions[name] for name in self._offered]
        for name in sorted(await failed_by("none", offered, None)):
            print(f"not judged: {name} fails without a fault")
            self._offered.remove(name)
        gate = asyncio.Semaphore(MUTANTS_AT_A_TIME)

        async def play(name: str, mutant: Mutant) -> None:
            async with gate:
                await self._play(name, mutant)

        # The first alone, for after it there is less to play.
        first, *rest = MUTANTS.items()
        await play(*first)
        async with asyncio.TaskGroup() as group:
            for name, mutant in rest:
                group.create_task(play(name, mutant))
        unfailed = [name for name in self._offered if name not in self._catchers]
        print(f"\nSessions that no mutant fails: {len(unfailed)} of {len(self._offered)}")
        for name in unfailed:
            print(f"  {name}: {self._sessions[name].description}")
        for name in self._survivors:
            mutant = MUTANTS[name]
            print(f"SURVIVED {name}: {mutant.fault}, yet {mutant.caught_by} passes")
        return 1 if self._survivors else 0

    async def _play(self, name: str, mutant: Mutant) -> None:
        chosen = {one for one in self._offered if self._everything or one not in self._catchers}
        shortest = {f"{revision}/{SHORTEST}" for revision in self._revisions}
        chosen |= {mutant.caught_by, *shortest}
        sessions = [self._sessions[one] for one in sorted(chosen)]
        failed = await failed_by(name, sessions, LONGEST_SECONDS)
        if mutant.caught_by not in failed:
            self._survivors.append(name)
        is_broad = bool(failed & shortest)
        for session in () if is_broad else failed:
            self._catchers[session].append(name)
        what = "everything" if is_broad else mutant.caught_by
        print(f"{name:32} fails {len(failed):3} of {len(chosen):3}, {what}", flush=True)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mutants.survey", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every session against every mutant")
    began = time.monotonic()
    code = asyncio.run(Survey(everything=parser.parse_args().all).run())
    print(f"{len(MUTANTS)} mutants in {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
