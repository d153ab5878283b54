"""The states of a connection, and the events that change them.

Two things happen to a connection independently of each other: its client performs the handshake,
and its transport ends. A request that arrived whole before the end of input is still served while
the connection drains, under the rules of the handshake as far as it got.

Handshake::

    NEW           no session; only initialize is served
    INITIALIZING  initialize succeeded; waiting for the notification ``initialized``
    READY         every method is served; ``initialized`` may be repeated

Lifetime::

    OPEN          messages arrive, responses and notifications are sent
    DRAINING      the peer ended its side in an orderly way and may still read: pending requests
                  are completed and their responses sent
    CLOSED        nothing is sent any more

``TRANSITIONS`` is the only place that says which event leads from which state to which. An event
that is missing for a state is not allowed there and raises InvalidTransition.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping


class Handshake(enum.Enum):
    """Progress of the handshake."""

    NEW = "new"
    INITIALIZING = "initializing"
    READY = "ready"


class Lifetime(enum.Enum):
    """Progress from the first message to the end."""

    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Event(enum.Enum):
    """An occurrence that may change a state."""

    SESSION_OPENED = "a session was created or resumed"
    INITIALIZED = "the notification initialized was received"
    INPUT_ENDED = "the peer ended its side in an orderly way"
    CONNECTION_LOST = "the transport closed or broke"
    DRAINED = "nothing is pending any more, or time is up"


State: TypeAlias = Handshake | Lifetime

TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    Handshake.NEW: {Event.SESSION_OPENED: Handshake.INITIALIZING},
    Handshake.INITIALIZING: {Event.INITIALIZED: Handshake.READY},
    Handshake.READY: {Event.INITIALIZED: Handshake.READY},
    Lifetime.OPEN: {
        Event.INPUT_ENDED: Lifetime.DRAINING,
        Event.CONNECTION_LOST: Lifetime.CLOSED,
    },
    Lifetime.DRAINING: {Event.DRAINED: Lifetime.CLOSED},
    Lifetime.CLOSED: {Event.DRAINED: Lifetime.CLOSED},
}
"""The next state by state and event."""


class InvalidTransition(Exception):
    """An event that is not allowed in the state that it concerns."""


class ConnectionState:
    """The two states of one connection."""

    __slots__ = ("handshake", "lifetime")

    def __init__(self) -> None:
        self.handshake = Handshake.NEW
        self.lifetime = Lifetime.OPEN

    def advance(self, event: Event) -> None:
        """Change the state that the event concerns. Raises InvalidTransition."""
        for state in (self.handshake, self.lifetime):
            following = TRANSITIONS[state].get(event)
            if isinstance(following, Handshake):
                self.handshake = following
                return
            if isinstance(following, Lifetime):
                self.lifetime = following
                return
        raise InvalidTransition(f"{event.value}, but the connection is {self}")

    def allows(self, event: Event) -> bool:
        """Return True if the event is allowed now."""
        return event in TRANSITIONS[self.handshake] or event in TRANSITIONS[self.lifetime]

    def __str__(self) -> str:
        return f"{self.handshake.value} and {self.lifetime.value}"
