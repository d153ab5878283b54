"""Guessing whether a confined command failed because of its sandbox (v2, ``sandboxDenied``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server.engine.output_log import OutputChunk

DENIAL_TEXTS: Final = (
    b"operation not permitted",
    b"permission denied",
    b"read-only file system",
    b"seccomp",
    b"sandbox",
    b"landlock",
    b"failed to write file",
)
"""What commands say, in any case of letters, when something was refused them."""

_KILLED_BY_FILTER: Final = 128 + 31
"""Exit code of a command that SIGSYS has ended."""


def looks_denied(exit_code: int, output: Iterable[OutputChunk]) -> bool:
    """Whether an exit code and what is retained of the output, each stream for itself, look so."""
    if exit_code == 0:
        return False
    if exit_code == _KILLED_BY_FILTER:
        return True
    streams: dict[str, list[bytes]] = {}
    for chunk in output:
        streams.setdefault(chunk.stream, []).append(chunk.data)
    said = (b"".join(pieces).lower() for pieces in streams.values())
    return any(text in stream for stream in said for text in DENIAL_TEXTS)
