"""System call filters, evaluated as in the kernel."""

from __future__ import annotations

import struct

import pytest

from exec_server.engine.sandbox.seccomp import build_filter

ALLOW, DENY, KILL = 0x7FFF0000, 0x00050001, 0x80000000
AF_UNIX, AF_INET, AF_VSOCK = 1, 2, 40
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


STREAM, DATAGRAM, RAW, SEQUENCE, CLOSE_ON_EXEC = 1, 2, 3, 5, 0o2000000


def outcome(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return the result of a filter for a call (the subset of classic BPF in use)."""
    six = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *six)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator = place = 0
    while True:
        code, if_true, if_false, operand = instructions[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x06:
            return int(operand)
        else:
            holds = accumulator == operand if code == 0x15 else accumulator >= operand
            place += if_true if holds else if_false


def filter_for(machine: str, *, allows_network: bool) -> bytes:
    program = build_filter(allows_network=allows_network, machine=machine)
    assert program is not None
    return program


CALLS = {
    "x86_64": {
        "read": 0,
        "connect": 42,
        "ptrace": 101,
        "keyctl": 250,
        "socket": 41,
        "socketpair": 53,
    },
    "aarch64": {
        "read": 63,
        "connect": 203,
        "ptrace": 117,
        "keyctl": 219,
        "socket": 198,
        "socketpair": 199,
    },
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_calls_are_filtered_by_number_and_socket_family(machine: str) -> None:
    audit, calls = AUDIT[machine], CALLS[machine]
    closed = filter_for(machine, allows_network=False)
    opened = filter_for(machine, allows_network=True)
    for program, denial in ((closed, DENY), (opened, ALLOW)):
        assert outcome(program, audit, calls["read"]) == ALLOW
        assert outcome(program, audit, calls["connect"]) == denial
        assert outcome(program, audit, calls["ptrace"]) == denial
        assert outcome(program, audit, calls["keyctl"]) == denial
        for call in (calls["socket"], calls["socketpair"]):
            for kind in (STREAM, SEQUENCE, STREAM | CLOSE_ON_EXEC):
                assert outcome(program, audit, call, AF_UNIX, kind) == ALLOW
                assert outcome(program, audit, call, AF_INET, kind) == denial
                assert outcome(program, audit, call, AF_VSOCK, kind) == DENY
            for kind in (DATAGRAM, RAW, DATAGRAM | CLOSE_ON_EXEC):
                assert outcome(program, audit, call, AF_UNIX, kind) == denial
        for ring in (425, 426, 427):
            assert outcome(program, audit, ring) == DENY


def test_calls_of_another_architecture_kill_the_process() -> None:
    program = filter_for("x86_64", allows_network=True)
    assert outcome(program, 0x40000003, 0) == KILL
    assert outcome(program, AUDIT["x86_64"], 0x40000000 + 41) == KILL


def test_an_unsupported_machine_has_no_filter() -> None:
    assert build_filter(allows_network=True, machine="vax") is None
