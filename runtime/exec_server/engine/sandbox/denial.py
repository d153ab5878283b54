"""Heuristic for commands that failed because of their sandbox (v2, ``sandboxDenied``)."""

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
"""Messages, in lower case, of commands that were denied access."""

_KILLED_BY_FILTER: Final = 128 + 31
"""Exit code of a shell whose command was killed by SIGSYS."""


def looks_denied(exit_code: int, output: Iterable[OutputChunk]) -> bool:
    """Return True if exit code and retained output suggest that the sandbox denied access.

    Messages are searched in each stream, and in all output in the order of its arrival.
    """
    if exit_code == 0:
        return False
    if exit_code == _KILLED_BY_FILTER:
        return True
    in_order: list[bytes] = []
    streams: dict[str, list[bytes]] = {}
    for chunk in output:
        in_order.append(chunk.data)
        streams.setdefault(chunk.stream, []).append(chunk.data)
    candidates = [*streams.values(), in_order] if len(streams) > 1 else streams.values()
    texts = (b"".join(chunks).lower() for chunks in candidates)
    return any(message in text for text in texts for message in DENIAL_TEXTS)
