"""The table of connection states: complete, and without dead ends before the closed state."""

from __future__ import annotations

import itertools

import pytest

from exec_server.server.connection_state import (
    TRANSITIONS,
    ConnectionState,
    Event,
    Handshake,
    InvalidTransition,
    Lifetime,
)


def test_every_state_has_a_row_and_every_event_a_use() -> None:
    assert set(TRANSITIONS) == {*Handshake, *Lifetime}
    used = set(itertools.chain.from_iterable(TRANSITIONS.values()))
    assert used == set(Event)


def test_an_event_changes_either_the_handshake_or_the_lifetime() -> None:
    for state, row in TRANSITIONS.items():
        assert {type(following) for following in row.values()} <= {type(state)}
    handshake_events = {event for state in Handshake for event in TRANSITIONS[state]}
    lifetime_events = {event for state in Lifetime for event in TRANSITIONS[state]}
    assert not handshake_events & lifetime_events


def test_a_connection_that_completes_the_handshake_and_drains() -> None:
    state = ConnectionState()
    steps = []
    for event in (Event.SESSION_OPENED, Event.INITIALIZED, Event.INPUT_ENDED, Event.DRAINED):
        assert state.allows(event)
        state.advance(event)
        steps.append((state.handshake, state.lifetime))
    assert steps == [
        (Handshake.INITIALIZING, Lifetime.OPEN),
        (Handshake.READY, Lifetime.OPEN),
        (Handshake.READY, Lifetime.DRAINING),
        (Handshake.READY, Lifetime.CLOSED),
    ]


def test_the_handshake_goes_on_while_the_connection_drains() -> None:
    """A long message that arrived before the end of input is still served."""
    state = ConnectionState()
    state.advance(Event.INPUT_ENDED)
    state.advance(Event.SESSION_OPENED)
    assert (state.handshake, state.lifetime) == (Handshake.INITIALIZING, Lifetime.DRAINING)


@pytest.mark.parametrize(
    ("before", "event"),
    [
        ((), Event.INITIALIZED),
        ((Event.SESSION_OPENED,), Event.SESSION_OPENED),
        ((Event.CONNECTION_LOST,), Event.CONNECTION_LOST),
        ((), Event.DRAINED),
    ],
)
def test_an_event_that_the_table_does_not_have_is_refused(
    before: tuple[Event, ...], event: Event
) -> None:
    state = ConnectionState()
    for earlier in before:
        state.advance(earlier)
    unchanged = (state.handshake, state.lifetime)
    assert not state.allows(event)
    with pytest.raises(InvalidTransition, match=event.value):
        state.advance(event)
    assert (state.handshake, state.lifetime) == unchanged
