"""Which sessions a mutant fails, and which none does: ``python -m mutants.survey [--all]``.

Each mutant plays the session that its entry names, and those that no mutant before it failed; with
``--all`` it plays every session. One server serves all sessions of a mutant and a revision, but for
those that need one of their own, which only ``--all`` plays.

Mutants that fail even the shortest session tell nothing of the others: what they fail does not
count. Exit code 1 if a mutant is caught by none.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from exec_server_conformance.cli import SESSIONS
from exec_server_conformance.errors import Failure, TargetError
from exec_server_conformance.player import Player
from exec_server_conformance.session import load_all
from exec_server_conformance.target import Server, Target
from mutants.catalogue import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from exec_server_conformance.session import Session, Transport

SHORTEST = "handshake/basic"

LONGEST_SECONDS = 5.0
"""How long a mutant may hang in a session."""

SLOW_SECONDS = 20.0
"""Sessions that may take longer than this are about long times."""

AT_A_TIME = 24
"""Sessions at a time: they mostly wait."""


def command(name: str, revision: str) -> str:
    """The command of a mutant that speaks one revision."""
    here = Path(__file__).parents[1]
    environment = ("env", f"PYTHONPATH={here}")
    return shlex.join([*environment, sys.executable, "-m", "mutants", name, "--protocol", revision])


async def failed_by(name: str, sessions: Collection[Session]) -> set[str]:
    """The names of the sessions that a mutant fails."""
    found: set[str] = set()
    for revision in sorted({session.revision for session in sessions}):
        own = [session for session in sessions if session.revision == revision]
        shared = [one for one in own if "ws" in one.transports and not one.needs_own_server]
        found |= await _failed_on_one_server(name, revision, shared)
        alone = [one for one in own if one not in shared]
        target = Target(command(name, revision))
        found |= await _failed(alone, target, 4)
    return found


async def _failed_on_one_server(
    name: str, revision: str, sessions: Collection[Session]
) -> set[str]:
    """Play sessions over WebSocket against one server, and again what was left when it died."""
    found: set[str] = set()
    left = list(sessions)
    while left:
        server = Server(Target(command(name, revision)), "ws")
        try:
            await server.start([], {})
            found |= await _failed(left, Target(url=server.url), AT_A_TIME)
        finally:
            died = await server.exit_status(0) is not None
            await server.stop()
        if not died:
            break
        # Whoever was playing when it died has failed, too: only one of them at a time can tell.
        left = [one for one in left if one.name not in found]
    return found


async def _failed(sessions: Iterable[Session], target: Target, at_a_time: int) -> set[str]:
    found: set[str] = set()
    gate = asyncio.Semaphore(at_a_time)

    async def play(session: Session) -> None:
        transport: Transport = "ws" if target.url else session.transports[-1]
        async with gate:
            player = Player(session, target, transport, timeout=LONGEST_SECONDS)
            try:
                await player.play()
            except (Failure, TargetError):
                found.add(session.name)

    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(play(session))
    return found


async def survey(*, everything: bool) -> int:
    """Play, and print what came; returns the exit code."""
    sessions = {
        session.name: session
        for session in load_all(SESSIONS)
        if session.timeout_seconds <= SLOW_SECONDS and session.until is None
    }
    offered = {
        name: one for name, one in sessions.items() if everything or not one.needs_own_server
    }
    speaks = {MUTANTS[name].caught_by.partition("/")[0] for name in MUTANTS}
    offered = {name: one for name, one in offered.items() if one.revision in speaks}
    right = await failed_by("none", list(offered.values()))
    for name in sorted(right):
        print(f"not judged: {name} fails without a fault")
        del offered[name]
    catchers: dict[str, list[str]] = defaultdict(list)
    survivors, broad = [], []
    for name, mutant in MUTANTS.items():
        caught_by = await _caught_by(name, mutant, sessions, offered, catchers, everything)
        if mutant.caught_by not in caught_by:
            survivors.append(name)
        is_broad = any(f"{revision}/{SHORTEST}" in caught_by for revision in speaks)
        broad += [name] if is_broad else []
        if not is_broad:
            for session in caught_by:
                catchers[session].append(name)
        print(f"{name:32} {len(caught_by):4} {'all' if is_broad else mutant.caught_by}", flush=True)
    unfailed = sorted(set(offered) - set(catchers))
    print(f"\nSessions that no mutant fails: {len(unfailed)} of {len(offered)}")
    print("".join(f"  {name}: {offered[name].description}\n" for name in unfailed), end="")
    for name in survivors:
        print(f"SURVIVED {name}: {MUTANTS[name].fault}; {MUTANTS[name].caught_by} passes")
    return 1 if survivors else 0


async def _caught_by(
    name: str,
    mutant: Mutant,
    sessions: dict[str, Session],
    offered: dict[str, Session],
    catchers: dict[str, list[str]],
    everything: bool,
) -> set[str]:
    chosen = {one for one in offered if everything or one not in catchers}
    chosen |= {mutant.caught_by, f"{mutant.caught_by.partition('/')[0]}/{SHORTEST}"}
    return await failed_by(name, [sessions[one] for one in sorted(chosen)])


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mutants.survey", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every session against every mutant")
    began = time.monotonic()
    code = asyncio.run(survey(everything=parser.parse_args().all))
    print(f"{len(MUTANTS)} mutants in {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
