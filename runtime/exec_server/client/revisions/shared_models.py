"""Conversions shared by v1 and v2, whose models are alike but distinct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from exec_server.client.errors import BadAnswer, InputRefused, ServerError
from exec_server.client.events import Closed, Exited, Output, Snapshot
from exec_server.client.lenient_decode import decoder
from exec_server.client.revisions.base import (
    BodyPiece,
    DirEntry,
    FileStatus,
    HttpHead,
)
from exec_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import msgspec

    from exec_server.client.events import PlacedEvent

_INVALID_REQUEST: Final = -32600

_NO_ENTRY_NAMES: Final = frozenset(("", ".", ".."))


class OutputModel(Protocol):
    """process/output, and a chunk of process/read."""

    @property
    def seq(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def chunk(self) -> bytes: ...


class ReadResultModel(Protocol):
    """The result of process/read."""

    @property
    def chunks(self) -> Sequence[OutputModel]: ...
    @property
    def next_seq(self) -> int: ...
    @property
    def exited(self) -> bool: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def closed(self) -> bool: ...


class MetadataModel(Protocol):
    """The result of fs/getMetadata."""

    @property
    def is_directory(self) -> bool: ...
    @property
    def is_file(self) -> bool: ...
    @property
    def is_symlink(self) -> bool: ...
    @property
    def created_at_ms(self) -> int: ...
    @property
    def modified_at_ms(self) -> int: ...


class EntryModel(Protocol):
    """An entry of fs/readDirectory."""

    @property
    def file_name(self) -> str: ...
    @property
    def is_directory(self) -> bool: ...
    @property
    def is_file(self) -> bool: ...


class HeaderModel(Protocol):
    """A header of an HTTP response."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...


class HttpResultModel(Protocol):
    """The result of http/request."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Sequence[HeaderModel]: ...
    @property
    def body_base64(self) -> bytes: ...


def event_decoders(
    output: type[msgspec.Struct], exited: type[msgspec.Struct], closed: type[msgspec.Struct]
) -> Mapping[str, Callable[[msgspec.Raw], tuple[str, PlacedEvent]]]:
    """Return the decoder of each notification about a process, by method."""
    decode_output: Callable[[msgspec.Raw], Any] = decoder(output)
    decode_exited: Callable[[msgspec.Raw], Any] = decoder(exited)
    decode_closed: Callable[[msgspec.Raw], Any] = decoder(closed)

    def read_output(params: msgspec.Raw) -> tuple[str, PlacedEvent]:
        model = decode_output(params)
        return model.process_id, Output(model.seq, model.stream, model.chunk)

    def read_exited(params: msgspec.Raw) -> tuple[str, PlacedEvent]:
        model = decode_exited(params)
        denied = getattr(model, "sandbox_denied", False)
        return model.process_id, Exited(model.seq, model.exit_code, denied)

    def read_closed(params: msgspec.Raw) -> tuple[str, PlacedEvent]:
        model = decode_closed(params)
        return model.process_id, Closed(model.seq)

    return {
        "process/output": read_output,
        "process/exited": read_exited,
        "process/closed": read_closed,
    }


def snapshot(result: ReadResultModel) -> Snapshot:
    """The result of process/read."""
    exit_code = result.exit_code
    if result.exited and exit_code is None:
        exit_code = -1
    return Snapshot(
        [Output(chunk.seq, chunk.stream, chunk.chunk) for chunk in result.chunks],
        result.next_seq,
        exit_code if result.exited else None,
        result.closed,
        getattr(result, "sandbox_denied", False),
    )


def check_write(process_id: str, status: str) -> None:
    """Raise InputRefused unless the bytes were taken; an unknown status counts as taken."""
    if status == "unknownProcess":
        raise InputRefused(f"the server has no process {process_id!r}")
    if status == "stdinClosed":
        raise InputRefused(
            f"process {process_id!r} has neither a terminal nor a piped standard input"
        )
    if status == "starting":
        raise InputRefused(f"process {process_id!r} is still being started")


def was_started_before(error: ServerError, process_id: str) -> bool:
    """Return True if a start failed because an earlier copy of the same request succeeded."""
    return (
        error.was_repeated
        and error.code == _INVALID_REQUEST
        and f"process {process_id} already exists" in error.message
    )


def file_status(result: MetadataModel) -> FileStatus:
    """The result of fs/getMetadata."""
    return FileStatus(
        is_dir=result.is_directory,
        is_file=result.is_file,
        is_symlink=result.is_symlink,
        size=getattr(result, "size", None),
        modified=result.modified_at_ms / 1000 if result.modified_at_ms else None,
        created=result.created_at_ms / 1000 if result.created_at_ms else None,
    )


def entries(models: Iterable[EntryModel]) -> list[DirEntry]:
    """The entries of fs/readDirectory. Raises BadAnswer for a name that leads elsewhere."""
    found = [DirEntry(model.file_name, model.is_directory, model.is_file) for model in models]
    for entry in found:
        if not is_entry_name(entry.name):
            raise BadAnswer(f"fs/readDirectory: '{printable(entry.name, 80)}' is not a file name")
    return found


def is_entry_name(name: str) -> bool:
    """True if a directory can have an entry of that name."""
    return name not in _NO_ENTRY_NAMES and "/" not in name and "\0" not in name


def http_head(result: HttpResultModel) -> HttpHead:
    """The result of http/request."""
    return HttpHead(
        status=result.status,
        headers=[(header.name, header.value) for header in result.headers],
        body=result.body_base64,
    )


def body_piece(model: Any) -> BodyPiece:
    """The params of http/request/bodyDelta."""
    return BodyPiece(
        request_id=model.request_id,
        seq=model.seq,
        data=model.delta_base64,
        is_last=model.done,
        error=model.error,
    )
