"""Process notifications and exit codes that several revisions share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from exec_server import jsonrpc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import msgspec

    from exec_server.engine.processes.output_log import OutputChunk, StreamName
    from exec_server.engine.processes.process import Process
    from exec_server.engine.processes.process_state import ExitStatus


SPLICE_BYTES: Final = 2048
"""Output above this is spliced into its message instead of passing through the JSON encoder."""


def output_message(
    method: str, params: Callable[[bytes], msgspec.Struct], data: bytes
) -> Sequence[bytes]:
    """Encode a notification in pieces; the member ``chunk`` of its params holds ``data``."""
    if len(data) < SPLICE_BYTES:
        return (jsonrpc.notification(method, params(data)),)
    return jsonrpc.splice_base64(jsonrpc.notification(method, params(b"")), "chunk", (data,))


class OutputParams(Protocol):
    """A revision's model of process/output."""

    def __call__(
        self, *, process_id: str, seq: int, stream: StreamName, chunk: bytes
    ) -> msgspec.Struct:
        """Create the params."""
        ...


class ClosedParams(Protocol):
    """A revision's model of process/closed."""

    def __call__(self, *, process_id: str, seq: int) -> msgspec.Struct:
        """Create the params."""
        ...


class NumberedEvents:
    """Notifications that are the same since v1, encoded with the models of one revision."""

    __slots__ = ()

    output_params: ClassVar[OutputParams]
    closed_params: ClassVar[ClosedParams]

    def output(self, process: Process[object], chunk: OutputChunk) -> Sequence[bytes]:
        """Encode process/output."""
        return output_message(
            "process/output",
            lambda data: self.output_params(
                process_id=process.id, seq=chunk.seq, stream=chunk.stream, chunk=data
            ),
            chunk.data,
        )

    def closed(self, process: Process[object], seq: int) -> bytes:
        """Encode process/closed."""
        params = self.closed_params(process_id=process.id, seq=seq)
        return jsonrpc.notification("process/closed", params)


def exit_code_without_signals(process: Process[object], status: ExitStatus) -> int:
    """Return the exit code, or for any signal -1 on pipes and 1 on a terminal (v0, v1)."""
    if status.code is not None:
        return status.code
    return 1 if process.tty else -1


def exit_code_of_signals(process: Process[object], status: ExitStatus) -> int:
    """Return the exit code, or for signal n 128 + n on pipes and 1 on a terminal (v2)."""
    if status.signal is None:
        assert status.code is not None
        return status.code
    return 1 if process.tty else 128 + status.signal
