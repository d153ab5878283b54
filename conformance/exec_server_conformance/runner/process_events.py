"""What a server tells of one process, and the rules of each era for it.

From v1 on the events of a process are numbered 1, 2, 3, … without a gap; ``exited`` and ``closed``
come once each, ``closed`` with the highest number and nothing after it. v0 numbers nothing, has no
close, and output may follow the exit.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Protocol

from exec_server_conformance.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

Params = dict[str, Any]


class Sequence:
    """Numbered messages: numbers start from 1, none comes twice, and at the end none is missing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._params: dict[int, Params] = {}

    def add(self, params: Params) -> None:
        """Take a message in by its ``seq``."""
        seq = params["seq"]
        if seq < 1:
            raise Failure(f"seq {seq} of {self._name!r}: numbers start from 1")
        if seq in self._params:
            raise Failure(f"seq {seq} of {self._name!r} came twice")
        self._params[seq] = params

    @property
    def last(self) -> int:
        """The highest number so far, 0 before the first."""
        return max(self._params, default=0)

    @property
    def is_complete(self) -> bool:
        """Whether the numbers run without a gap."""
        return len(self._params) == self.last

    @property
    def missing(self) -> list[int]:
        """The numbers that have been passed over, so far."""
        return [seq for seq in range(1, self.last) if seq not in self._params]

    def in_order(self) -> list[Params]:
        """The messages by number."""
        return [self._params[seq] for seq in sorted(self._params)]


class ProcessEvents(Protocol):
    """The events of one process, as far as they have come."""

    def add(self, method: str, params: Params) -> None:
        """Take an event in; raises Failure if a rule forbids it."""
        ...

    def has(self, method: str) -> bool:
        """Whether the exit or the close has come, by the name of its notification."""
        ...

    @property
    def is_numbered(self) -> bool:
        """Whether numbers tell that nothing is missing."""
        ...

    @property
    def output(self) -> dict[str, bytes]:
        """The output so far, joined per stream."""
        ...

    @property
    def exit(self) -> Params | None:
        """What was told of the exit, once it was."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the last event has come."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the last event has come and none is missing before it."""
        ...

    @property
    def lacking(self) -> str:
        """What has not come so far, in words."""
        ...


class NumberedEvents:
    """The events of a process in v1 and later."""

    is_numbered = True

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id
        self._sequence = Sequence(process_id)
        self._once: dict[str, Params] = {}

    def add(self, method: str, params: Params) -> None:
        """Take an event in; raises Failure if a rule forbids it."""
        if self.has(method):
            raise Failure(f"second {method} of process {self._process_id!r}")
        self._sequence.add(params)
        if method != "process/output":
            self._once[method] = params
        closed = self._once.get("process/closed")
        if closed is not None and self._sequence.last > closed["seq"]:
            raise Failure(
                f"event {self._sequence.last} of process {self._process_id!r} is numbered after "
                "its close"
            )

    def has(self, method: str) -> bool:
        """Whether the exit or the close has come, by the name of its notification."""
        return method in self._once

    @property
    def output(self) -> dict[str, bytes]:
        """The output so far, joined per stream."""
        return _joined(params for params in self._sequence.in_order() if "chunk" in params)

    @property
    def exit(self) -> Params | None:
        """What was told of the exit, once it was."""
        return _without(self._once.get("process/exited"), "processId", "seq")

    @property
    def is_over(self) -> bool:
        """Whether the close has come."""
        return self.has("process/closed")

    @property
    def is_complete(self) -> bool:
        """Whether the close has come and nothing is missing before it."""
        if not self.is_over or not self._sequence.is_complete:
            return False
        if self.exit is None:
            raise Failure(f"process {self._process_id!r} closed without an exit")
        return True

    @property
    def lacking(self) -> str:
        """What has not come so far, in words."""
        ends = ("process/exited", "process/closed")
        lacking = [method for method in ends if not self.has(method)]
        missing = self._sequence.missing
        if missing:
            lacking.append(f"what is numbered {', '.join(map(str, missing[:5]))}")
        return " and ".join(lacking)


class UnnumberedEvents:
    """The events of a process in v0, where nothing tells whether more output comes."""

    is_numbered = False

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id
        self._output: list[Params] = []
        self._exit: Params | None = None

    def add(self, method: str, params: Params) -> None:
        """Take an event in; raises Failure if a rule forbids it."""
        if method == "command/exec/outputDelta":
            self._output.append(params)
        elif self._exit is None:
            self._exit = params
        else:
            raise Failure(f"second {method} of process {self._process_id!r}")

    def has(self, method: str) -> bool:
        """Whether the exit has come, by the name of its notification."""
        return method == "command/exec/exited" and self._exit is not None

    @property
    def output(self) -> dict[str, bytes]:
        """The output so far, joined per stream."""
        return _joined(self._output)

    @property
    def exit(self) -> Params | None:
        """What was told of the exit, once it was."""
        return _without(self._exit, "sessionId")

    @property
    def is_over(self) -> bool:
        """Whether the exit has come."""
        return self._exit is not None

    @property
    def is_complete(self) -> bool:
        """Whether the exit has come."""
        return self.is_over

    @property
    def lacking(self) -> str:
        """What has not come so far, in words."""
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
