"""The rules of the wire find what they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from websockets.frames import Frame, Opcode

from .wire import Record, Tap, Wire

if TYPE_CHECKING:
    from .wire import Sender

_START = {"id": 1, "method": "process/start", "params": {"processId": "p"}}
_OUTPUT = {"processId": "p", "stream": "stdout", "chunk": "aGk=", "seq": 1}
_EXITED = {"processId": "p", "seq": 2, "exitCode": 0}
_CLOSED = {"processId": "p", "seq": 3}


def _notification(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"method": method, "params": params}


def _wire(*from_server: dict[str, Any]) -> Wire:
    """A trace of a process that was started on connection 0, and what the server sent then."""
    wire = Wire()
    wire.add(Record(0, "client", _START))
    for message in from_server:
        wire.add(Record(0, "server", message))
    return wire


def test_an_orderly_trace() -> None:
    """Notifications may come in any order, and before the answer to the start."""
    wire = _wire(
        _notification("process/exited", _EXITED),
        _notification("process/output", _OUTPUT),
        _notification("process/closed", _CLOSED),
        {"id": 1, "result": {"processId": "p"}},
    )
    assert wire.faults() == []
    assert wire.output("p") == b"hi"


def test_a_session_taken_over() -> None:
    """The connection that takes a process over may begin anywhere, but may leave nothing out."""
    wire = _wire(_notification("process/output", _OUTPUT))
    wire.add(Record(1, "server", _notification("process/closed", {"processId": "p", "seq": 8})))
    assert wire.faults() == []
    wire.add(Record(1, "server", _notification("process/closed", {"processId": "p", "seq": 10})))
    assert wire.faults() == ["seq of process p is not contiguous: [8, 10]"]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ({"id": 1, "error": {"code": -32601, "message": "unknown"}}, "is not implemented"),
        ({"id": 2, "result": {}}, "an answer to no request"),
        ({"id": 3, "method": "ask/me", "params": {}}, "a request to the client"),
        (_notification("process/odd", {}), "an unknown notification"),
        ({"method": "process/closed"}, "without params"),
        (_notification("process/closed", {"processId": "p", "seq": "1"}), "usable 'seq'"),
        (_notification("process/output", {**_OUTPUT, "stream": "stdlog"}), "unknown stream"),
        (_notification("process/output", {**_OUTPUT, "seq": 2}), "not contiguous"),
        (_notification("process/exited", {"processId": "p", "seq": 1}), "usable 'exitCode'"),
    ],
)
def test_a_fault(message: dict[str, Any], fault: str) -> None:
    """Each of these alone would break a client, and is named."""
    found = _wire(message).faults()
    assert any(fault in said for said in found), found


@pytest.mark.parametrize("sender", ["client", "server"])
def test_tapping(sender: Sender) -> None:
    """Messages are found in a stream of bytes however it is cut, in fragments and between pings."""
    mask = sender == "client"
    stream = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + b"".join(
        frame.serialize(mask=mask)
        for frame in (
            Frame(Opcode.TEXT, b'{"id"', fin=False),
            Frame(Opcode.PING, b""),
            Frame(Opcode.CONT, b":1}"),
            Frame(Opcode.TEXT, b"[]"),
            Frame(Opcode.BINARY, b'{"id":2}'),
        )
    )
    wire = Wire()
    tap = Tap(wire, 0, sender)
    passed = [message for byte in stream for message in tap.feed(bytes([byte]))]
    assert passed == [{"id": 1}, {"id": 2}]
    assert wire.violations == [f"the {sender} sent no JSON object: b'[]'"]
    assert tap.feed(b"\xff" * 16) == []
    assert len(wire.violations) == 2
