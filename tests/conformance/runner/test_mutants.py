"""Every mutant of our server is caught by the session that its entry names, and by its fault."""

from __future__ import annotations

import asyncio

import pytest

from exec_server_conformance.cli import SESSIONS
from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.session import load
from exec_server_conformance.runner.target import Target
from tests.support.mutants.catalogue import MUTANTS, Transport
from tests.support.mutants.survey import command

CAUGHT_SECONDS = 8.0
"""A mutant that says too little is caught when this is over; the right server needs far less."""


def play(session_name: str, mutant: str, transport: Transport, timeout: float | None) -> set[str]:
    """Run a session and return the places of its drift."""
    session = load(SESSIONS / f"{session_name}.jsonl")
    target = Target(command(mutant, session.revision))
    player = Player(session, target, transport, timeout=timeout)
    asyncio.run(player.play())
    return {place for _, place in player.findings.drift}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_detected(name: str) -> None:
    mutant = MUTANTS[name]
    if mutant.drift:
        assert play(mutant.caught_by, name, mutant.transport, None) == {mutant.drift}
        return
    with pytest.raises(Failure):
        play(mutant.caught_by, name, mutant.transport, CAUGHT_SECONDS)


@pytest.mark.parametrize(
    ("session", "transport"),
    sorted({(mutant.caught_by, mutant.transport) for mutant in MUTANTS.values()}),
)
def test_session_passes_without_a_fault(session: str, transport: Transport) -> None:
    assert play(session, "none", transport, None) == set()
