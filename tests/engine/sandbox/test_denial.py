"""Heuristic for commands that failed because of their sandbox."""

from __future__ import annotations

import pytest

from exec_server.engine.processes.output_log import OutputChunk, StreamName
from exec_server.engine.sandbox.denial import looks_denied


@pytest.mark.parametrize(
    ("code", "pieces", "denied"),
    [
        (1, [("stderr", b"sh: cannot create x: Read-only file system\n")], True),
        (2, [("stdout", b"PERMISSION DENIED")], True),
        (1, [("pty", b"Operation not per"), ("pty", b"mitted")], True),
        (1, [("stdout", b"permission "), ("stderr", b"denied")], True),
        (1, [("stdout", b"permission "), ("stderr", b"x"), ("stdout", b"denied")], True),
        (1, [("stderr", b"denied"), ("stdout", b"permission ")], False),
        (1, [("stdout", b"permission\ndenied")], False),
        (0, [("stderr", b"permission denied")], False),
        (1, [("stderr", b"no such file")], False),
        (159, [], True),
        (101, [], False),
    ],
)
def test_failures_are_classified_by_exit_code_and_messages(
    code: int, pieces: list[tuple[StreamName, bytes]], denied: bool
) -> None:
    output = [OutputChunk(seq, stream, data) for seq, (stream, data) in enumerate(pieces, 1)]
    assert looks_denied(code, output) is denied
