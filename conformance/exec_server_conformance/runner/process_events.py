"""Events of a process, and the ordering rules of each revision.

From v1 the events of a process are numbered 1, 2, 3, … without gaps; ``exited`` and ``closed``
occur once each, and ``closed`` has the highest number. v0 has neither numbers nor ``closed``, and
output may follow the exit.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Protocol

from exec_server_conformance.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

Params = dict[str, Any]


class Sequence:
    """Numbered messages: numbers start from 1, are unique, and have no gaps at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._params: dict[int, Params] = {}

    def add(self, params: Params) -> None:
        """Add a message by its ``seq``; raise Failure for an invalid or repeated number."""
        seq = params["seq"]
        if seq < 1:
            raise Failure(f"seq {seq} of {self._name!r}: numbers start from 1")
        if seq in self._params:
            raise Failure(f"seq {seq} of {self._name!r} came twice")
        self._params[seq] = params

    @property
    def last(self) -> int:
        """Highest number so far; 0 before the first message."""
        return max(self._params, default=0)

    @property
    def is_complete(self) -> bool:
        """True if the numbers have no gaps."""
        return len(self._params) == self.last

    @property
    def missing(self) -> list[int]:
        """Numbers missing below the highest one."""
        return [seq for seq in range(1, self.last) if seq not in self._params]

    def in_order(self) -> list[Params]:
        """Return the messages sorted by number."""
        return [self._params[seq] for seq in sorted(self._params)]


class ProcessEvents(Protocol):
    """Events of one process received so far."""

    def add(self, method: str, params: Params) -> None:
        """Add an event; raise Failure if it violates an ordering rule."""
        ...

    def has(self, method: str) -> bool:
        """Return True if the exit or close notification named ``method`` has been received."""
        ...

    @property
    def is_numbered(self) -> bool:
        """True if events are numbered, so that completeness can be determined."""
        ...

    @property
    def output(self) -> dict[str, bytes]:
        """Output received so far, joined per stream."""
        ...

    @property
    def exit(self) -> Params | None:
        """Params of the exit notification; None before it."""
        ...

    @property
    def is_over(self) -> bool:
        """True if the last event has been received."""
        ...

    @property
    def is_complete(self) -> bool:
        """True if the last event and all events before it have been received."""
        ...

    @property
    def missing_description(self) -> str:
        """Description of the events that are still missing."""
        ...


class NumberedEvents:
    """Events of a process in v1 and later."""

    is_numbered = True

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id
        self._sequence = Sequence(process_id)
        self._once: dict[str, Params] = {}

    def add(self, method: str, params: Params) -> None:
        """Add an event; raise Failure if it violates an ordering rule."""
        if self.has(method):
            raise Failure(f"second {method} of process {self._process_id!r}")
        self._sequence.add(params)
        if method != "process/output":
            self._once[method] = params
        closed = self._once.get("process/closed")
        if closed is not None and self._sequence.last > closed["seq"]:
            raise Failure(
                f"event {self._sequence.last} of process {self._process_id!r} has a number after "
                "that of its close"
            )

    def has(self, method: str) -> bool:
        """Return True if the exit or close notification named ``method`` has been received."""
        return method in self._once

    @property
    def output(self) -> dict[str, bytes]:
        """Output received so far, joined per stream."""
        return _joined(params for params in self._sequence.in_order() if "chunk" in params)

    @property
    def exit(self) -> Params | None:
        """Params of the exit notification; None before it."""
        return _without(self._once.get("process/exited"), "processId", "seq")

    @property
    def is_over(self) -> bool:
        """True if process/closed has been received."""
        return self.has("process/closed")

    @property
    def is_complete(self) -> bool:
        """True if process/closed and everything before it have been received."""
        if not self.is_over or not self._sequence.is_complete:
            return False
        if self.exit is None:
            raise Failure(f"process {self._process_id!r} closed without an exit")
        return True

    @property
    def missing_description(self) -> str:
        """Description of the events that are still missing."""
        ends = ("process/exited", "process/closed")
        missing_description = [method for method in ends if not self.has(method)]
        missing = self._sequence.missing
        if missing:
            missing_description.append(f"the events numbered {', '.join(map(str, missing[:5]))}")
        return " and ".join(missing_description)


class UnnumberedEvents:
    """Events of a process in v0, which has no end marker for output."""

    is_numbered = False

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id
        self._output: list[Params] = []
        self._exit: Params | None = None

    def add(self, method: str, params: Params) -> None:
        """Add an event; raise Failure if it violates an ordering rule."""
        if method == "command/exec/outputDelta":
            self._output.append(params)
        elif self._exit is None:
            self._exit = params
        else:
            raise Failure(f"second {method} of process {self._process_id!r}")

    def has(self, method: str) -> bool:
        """Return True if the exit notification named ``method`` has been received."""
        return method == "command/exec/exited" and self._exit is not None

    @property
    def output(self) -> dict[str, bytes]:
        """Output received so far, joined per stream."""
        return _joined(self._output)

    @property
    def exit(self) -> Params | None:
        """Params of the exit notification; None before it."""
        return _without(self._exit, "sessionId")

    @property
    def is_over(self) -> bool:
        """True if the exit notification has been received."""
        return self._exit is not None

    @property
    def is_complete(self) -> bool:
        """True if the exit notification has been received."""
        return self.is_over

    @property
    def missing_description(self) -> str:
        """Description of the events that are still missing."""
        return "" if self.is_over else "command/exec/exited"


def _joined(chunks: Iterable[Params]) -> dict[str, bytes]:
    streams: dict[str, bytearray] = {}
    for params in chunks:
        streams.setdefault(params["stream"], bytearray()).extend(base64.b64decode(params["chunk"]))
    return {stream: bytes(data) for stream, data in streams.items()}


def _without(params: Params | None, *names: str) -> Params | None:
    if params is None:
        return None
    return {name: value for name, value in params.items() if name not in names}
