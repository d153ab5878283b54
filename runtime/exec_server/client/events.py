"""Events of a process, in the order of their sequence numbers."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec


class Output(msgspec.Struct, frozen=True, gc=False):
    """The process wrote something; where one piece ends and the next begins means nothing."""

    seq: int
    """Place among the events of the process, from 1."""

    stream: str
    """``stdout``, ``stderr`` or, of a process with a terminal, ``pty``; a newer server may have
    more."""

    data: bytes
    """Bytes that the process wrote."""


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Missing output: it was no longer retained when it was requested."""

    first_seq: int
    """Number of the first event that is missing."""

    last_seq: int
    """Number of the last event that is missing."""


class Exited(msgspec.Struct, frozen=True, gc=False):
    """The process ended; output of its descendants may still follow."""

    seq: int
    """Place among the events; 0 if it was learned without its place, after a lost connection."""

    code: int
    """Exit code. Death by a signal is -1 or, of a process with a terminal, 1 in revision v1;
    128 and the signal's number, or 1, in v2."""

    sandbox_denied: bool = False
    """True if it seems to have failed because of its sandbox (v2)."""


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The process ended and all its output has been seen; nothing follows."""

    seq: int
    """Place among the events, always the last one."""


PlacedEvent: TypeAlias = Output | Exited | Closed
"""Events that carry a sequence number."""

ProcessEvent: TypeAlias = PlacedEvent | Gap
"""Events that iteration over a process yields."""

UNPLACED: Final = 0
"""The sequence number of an event whose place is not known."""


class Excerpt(msgspec.Struct, frozen=True):
    """Beginning and end of an output stream, as much of it as the server keeps."""

    head: bytes
    """Beginning of the output."""

    omitted: int
    """Number of bytes missing between the two; with 0 the whole output is both joined."""

    tail: bytes
    """End of the output, as far as it is not in ``head``."""


class Excerpts(msgspec.Struct, frozen=True):
    """Beginning and end of the output of a process, and its state at that moment."""

    stdout: Excerpt
    """Standard output, or everything that a terminal showed."""

    stderr: Excerpt
    """Standard error; empty with a terminal."""

    next_seq: int
    """Number of the first event that is not in it: ``Process.read(next_seq - 1)`` goes on there."""

    exit_code: int | None
    """Exit code; None while the process runs."""

    closed: bool
    """True if the process has ended and the server has read all its output."""


class ProcessInfo(msgspec.Struct, frozen=True):
    """A process of the session, including those that other clients started."""

    id: str
    """Its id within the session, to attach to it with."""

    pid: int
    """Process id on the server's machine; it may be reused once the process has ended."""

    argv: list[str]
    """Program and arguments."""

    tty: bool
    """True if it has a terminal."""

    exit_code: int | None
    """Exit code; None while the process runs."""

    closed: bool
    """True if it has ended and the server has read all its output."""


class Snapshot(msgspec.Struct, frozen=True):
    """Retained output, and the state of the process at that moment."""

    outputs: list[Output]
    """Retained output, oldest first. A first number above the one asked for means that older output
    is no longer retained."""

    next_seq: int
    """One above the last output returned; without any, the next number that the process will use.
    """

    exit_code: int | None
    """Exit code; None while the process runs."""

    closed: bool
    """True if the process has ended and the server has read all its output."""

    sandbox_denied: bool = False
    """True if the process seems to have failed because of its sandbox (v2)."""
