"""Guessing whether a confined command failed because of its sandbox (v2, ``sandboxDenied``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server.engine.processes.output_log import OutputChunk

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
    """Whether an exit code and the retained output, each stream and all in order, look so."""
    if exit_code == 0:
        return False
    if exit_code == _KILLED_BY_FILTER:
        return True
    in_order: list[bytes] = []
    streams: dict[str, list[bytes]] = {}
    for chunk in output:
        in_order.append(chunk.data)
        streams.setdefault(chunk.stream, []).append(chunk.data)
    views = [*streams.values(), in_order] if len(streams) > 1 else streams.values()
    said = (b"".join(pieces).lower() for pieces in views)
    return any(text in view for view in said for text in DENIAL_TEXTS)
