"""System call filter of sandboxed programs (seccomp(2)), in classic BPF, as bubblewrap takes it.

Denied calls fail with EPERM. Calls of a foreign architecture, which have other numbers, kill the
process (SIGSYS).
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from typing import Final

import msgspec

_RETURN_ALLOW: Final = 0x7FFF0000
_RETURN_ERRNO: Final = 0x00050000 | errno.EPERM
_RETURN_KILL_PROCESS: Final = 0x80000000

_LOAD: Final = 0x20
"""BPF_LD | BPF_W | BPF_ABS"""
_AND: Final = 0x54
"""BPF_ALU | BPF_AND | BPF_K"""
_JUMP_IF_EQUAL: Final = 0x15
"""BPF_JMP | BPF_JEQ | BPF_K"""
_JUMP_IF_AT_LEAST: Final = 0x35
"""BPF_JMP | BPF_JGE | BPF_K"""
_RETURN: Final = 0x06
"""BPF_RET | BPF_K"""

# Offsets in struct seccomp_data (linux/seccomp.h); for arguments, of the low half.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST_ARGUMENT: Final = 16
_SECOND_ARGUMENT: Final = 24

_X32_NUMBERS: Final = 0x40000000
"""Lowest number of the x32 variants of x86-64 system calls."""

_AF_UNIX: Final = 1
_AF_VSOCK: Final = 40
"""Sockets between a virtual machine and its host, independent of any network namespace."""

_SOCKET_TYPE_MASK: Final = 0xF
"""SOCK_TYPE_MASK; the other bits are SOCK_CLOEXEC and SOCK_NONBLOCK."""
_CONNECTED_TYPES: Final = (1, 5)
"""SOCK_STREAM, SOCK_SEQPACKET. Sockets of other types, even those of a pair, can send to the
address in a message (sendmsg(2)), which a filter cannot read. Unix sockets treat SOCK_RAW as
SOCK_DGRAM."""

_ALWAYS_DENIED: Final = ("io_uring_setup", "io_uring_enter", "io_uring_register")
"""Requests in a ring would bypass this filter, because they are not system calls."""

_DENIED_WITHOUT_NETWORK: Final = (
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "connect",
    "accept",
    "accept4",
    "bind",
    "listen",
    "getsockname",
    "getpeername",
    "shutdown",
    "sendto",
    "sendmmsg",
    "recvmmsg",
    "setsockopt",
    "getsockopt",
    "add_key",
    "request_key",
    "keyctl",
)
"""They are denied on Unix sockets, too, because programs outside of the sandbox may listen on
these. Connected sockets, inherited or created by socketpair, can be read and written (v2 sandbox).
Keyrings are inherited from this server, so their contents can be read outside."""

_SOCKET_CALLS: Final = ("socket", "socketpair")
"""Calls whose first argument is the family of a socket, and whose second is its type."""


class _Architecture(msgspec.Struct, frozen=True):
    """Numbers of system calls on one architecture."""

    audit: int
    """linux/audit.h"""
    numbers: dict[str, int]
    """asm/unistd.h"""


_IO_URING: Final = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}

_ARCHITECTURES: Final = {
    "x86_64": _Architecture(
        0xC000003E,
        _IO_URING
        | {
            "socket": 41,
            "connect": 42,
            "accept": 43,
            "sendto": 44,
            "shutdown": 48,
            "bind": 49,
            "listen": 50,
            "getsockname": 51,
            "getpeername": 52,
            "socketpair": 53,
            "setsockopt": 54,
            "getsockopt": 55,
            "ptrace": 101,
            "accept4": 288,
            "recvmmsg": 299,
            "sendmmsg": 307,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
        },
    ),
    "aarch64": _Architecture(
        0xC00000B7,
        _IO_URING
        | {
            "ptrace": 117,
            "socket": 198,
            "socketpair": 199,
            "bind": 200,
            "listen": 201,
            "accept": 202,
            "connect": 203,
            "getsockname": 204,
            "getpeername": 205,
            "sendto": 206,
            "setsockopt": 208,
            "getsockopt": 209,
            "shutdown": 210,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "accept4": 242,
            "recvmmsg": 243,
            "sendmmsg": 269,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
        },
    ),
}


@functools.cache
def build_filter(*, allows_network: bool, machine: str | None = None) -> bytes | None:
    """Return the filter as an array of struct sock_filter; None for an unsupported machine.

    ``machine`` is a hardware name as in uname(2), by default that of this machine.
    """
    architecture = _ARCHITECTURES.get(machine or os.uname().machine)
    if architecture is None:
        return None
    names = _ALWAYS_DENIED if allows_network else _ALWAYS_DENIED + _DENIED_WITHOUT_NETWORK
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_IF_EQUAL, architecture.audit, if_true=1),
        _instruction(_RETURN, _RETURN_KILL_PROCESS),
        _instruction(_LOAD, _NUMBER),
        _instruction(_JUMP_IF_AT_LEAST, _X32_NUMBERS, if_false=1),
        _instruction(_RETURN, _RETURN_KILL_PROCESS),
    ]
    for name in names:
        program += (
            _instruction(_JUMP_IF_EQUAL, architecture.numbers[name], if_false=1),
            _instruction(_RETURN, _RETURN_ERRNO),
        )
    check_socket = _check_any_socket() if allows_network else _check_unix_socket()
    for name in _SOCKET_CALLS:
        program += (
            _instruction(_JUMP_IF_EQUAL, architecture.numbers[name], if_false=len(check_socket)),
            *check_socket,
        )
    program.append(_instruction(_RETURN, _RETURN_ALLOW))
    return b"".join(program)


def _check_any_socket() -> list[bytes]:
    """Return the instructions that allow all families of sockets but AF_VSOCK."""
    return [
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_JUMP_IF_EQUAL, _AF_VSOCK, if_true=1),
        _instruction(_RETURN, _RETURN_ALLOW),
        _instruction(_RETURN, _RETURN_ERRNO),
    ]


def _check_unix_socket() -> list[bytes]:
    """Return the instructions that allow only connection-oriented Unix sockets."""
    stream, sequence = _CONNECTED_TYPES
    return [
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_JUMP_IF_EQUAL, _AF_UNIX, if_false=4),
        _instruction(_LOAD, _SECOND_ARGUMENT),
        _instruction(_AND, _SOCKET_TYPE_MASK),
        _instruction(_JUMP_IF_EQUAL, stream, if_true=2),
        _instruction(_JUMP_IF_EQUAL, sequence, if_true=1),
        _instruction(_RETURN, _RETURN_ERRNO),
        _instruction(_RETURN, _RETURN_ALLOW),
    ]


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return a struct sock_filter (linux/filter.h); jumps are relative to the next instruction."""
    return struct.pack("=HBBI", code, if_true, if_false, operand)
