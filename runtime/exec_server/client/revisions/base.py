"""Operations of a client in terms that are independent of revisions.

A revision turns these calls into its own messages by way of its generated stubs, and its
notifications into events. What it has no message for it does not override, so that the caller is
told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal, NoReturn, TypeAlias

import msgspec

from exec_server.client.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exec_server.client.events import Excerpts, PlacedEvent, ProcessInfo, Snapshot
    from exec_server_protocol.table import Method

Inherit: TypeAlias = Literal["all", "core", "none"]
"""Which variables of the server's environment a process starts from; ``core`` is HOME, LANG,
LC_ALL, LC_CTYPE, LOGNAME, PATH, SHELL, TEMP, TMP, TMPDIR and USER."""


WALK_DEPTH: Final = 64
WALK_DIRECTORIES: Final = 10_000
WALK_ENTRIES: Final = 50_000
"""Maximum number of levels, directories and entries of a listed tree; servers allow no more."""


class StartSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process to start."""

    process_id: str
    """The client's name for it; a revision in which the server names processes ignores it."""
    argv: Sequence[str]
    cwd: str | None
    """Native path; None is the server's own directory."""
    env: Mapping[str, str]
    """Variables laid over what is inherited."""
    inherit: Inherit | None
    """None is everything that the revision can inherit."""
    tty: bool
    pipe_stdin: bool
    arg0: str | None
    size: tuple[int, int] | None
    """Rows and columns of the terminal; None is the server's choice."""


class FileStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a path. All three kinds are false for a pipe, a socket or a device."""

    is_dir: bool
    """True if it leads to a directory."""
    is_file: bool
    """True if it leads to a regular file."""
    is_symlink: bool
    """True if the path itself is a symbolic link; the other members describe its target."""
    size: int | None
    """Bytes; None where the revision does not tell (v1)."""
    modified: float | None
    """Seconds since 1970; None where the system does not tell."""
    created: float | None
    """Seconds since 1970; None where the system does not tell, which is usual."""


class DirEntry(msgspec.Struct, frozen=True):
    """One name in a directory; the kinds are those of what a symbolic link leads to."""

    name: str
    """Name without the directory; bytes that are not UTF-8 appear as U+FFFD."""
    is_dir: bool
    """True if it is a directory."""
    is_file: bool
    """True if it is a regular file."""


class TreeEntry(msgspec.Struct, frozen=True):
    """A regular file or a directory of a tree."""

    path: str
    """Absolute native path, by the names that the walk came by."""
    is_dir: bool
    """True if it is a directory; otherwise it is a regular file."""


class TreeError(msgspec.Struct, frozen=True):
    """A place of a tree that could not be looked at."""

    path: str
    """Absolute native path."""
    message: str
    """Description of the error."""


class Tree(msgspec.Struct, frozen=True):
    """Contents of a directory at every depth."""

    entries: list[TreeEntry]
    """Breadth first, each directory's in the order of their names."""
    errors: list[TreeError]
    """Paths that could not be listed."""
    truncated: bool
    """True if the listing is incomplete because of a limit."""


class HttpExchange(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP request for the server to make."""

    method: str
    url: str
    headers: Sequence[tuple[str, str]]
    body: bytes | None
    timeout_ms: int | None
    follow_redirects: bool
    request_id: str
    stream: bool


class HttpHead(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP response; of a streamed one without its body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class BodyPiece(msgspec.Struct, frozen=True, kw_only=True):
    """The next piece of a streamed HTTP body."""

    request_id: str
    seq: int
    data: bytes
    is_last: bool
    error: str | None


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a server's machine; None or empty where its release does not report them."""

    shell_name: str | None = None
    """Name of the recommended shell, such as ``bash``."""
    shell_path: str | None = None
    """Native path of the recommended shell."""
    cwd: str | None = None
    """Native path of the server's working directory."""
    home: str | None = None
    """Native path of the home directory of the server's user."""
    temp_dir: str | None = None
    """Native path of the directory for temporary files."""
    platform: str | None = None
    """``linux``, ``macos`` or ``windows``."""
    version: str | None = None
    """Version of the server program."""
    capabilities: frozenset[str] = frozenset()
    """Capability flags of the server, by their names on the wire."""


class Revision:
    """A revision of the protocol, as a client uses it over one session."""

    name: ClassVar[str]
    has_sessions: ClassVar[bool] = True
    """True if a session outlives its connection."""
    numbers_events: ClassVar[bool] = True
    """True if events carry sequence numbers and output can be read again."""
    names_processes: ClassVar[bool] = True
    """True if the client chooses process ids; otherwise the server does."""
    methods: ClassVar[Mapping[str, Method]]
    """Method table of the revision."""

    # Notifications

    def event(self, method: str, params: msgspec.Raw) -> tuple[str, PlacedEvent] | None:
        """Return the process and the event of a notification; None for any other notification."""
        raise NotImplementedError

    def body_piece(self, method: str, params: msgspec.Raw) -> BodyPiece | None:
        """The piece of an HTTP body that a notification brings; None for any other."""
        return None

    async def drain_output(self, process_id: str) -> None:
        """Wait for all output of an exited process, where no notification reports its end."""
        raise NotImplementedError

    # Processes

    async def start(self, spec: StartSpec) -> str:
        """Start a process; returns its id."""
        raise NotImplementedError

    async def read(
        self, process_id: str, after_seq: int, max_bytes: int | None, wait_ms: int
    ) -> Snapshot:
        """Retained output with a higher number, and the state of the process."""
        self._unsupported("reading output again")

    async def excerpts(self, process_id: str) -> Excerpts:
        """Beginning and end of the output, and the state of the process."""
        self._unsupported("excerpts of the output")

    async def list_processes(self) -> list[ProcessInfo]:
        """The processes of the session."""
        self._unsupported("listing processes")

    async def write(self, process_id: str, data: bytes, write_id: str) -> None:
        """Queue bytes for the standard input or the terminal."""
        raise NotImplementedError

    async def terminate(self, process_id: str, grace_ms: int | None) -> bool:
        """Kill the process group, with ``grace_ms`` only after asking it to end; whether it ran."""
        raise NotImplementedError

    has_interrupt: bool = False
    """True if ``interrupt`` is supported."""

    async def interrupt(self, process_id: str) -> None:
        """Send SIGINT to the process group."""
        self._unsupported("signals")

    can_close_stdin: bool = False
    """True if ``close_stdin`` is supported."""

    async def close_stdin(self, process_id: str) -> None:
        """End the standard input."""
        self._unsupported("closing standard input")

    async def resize(self, process_id: str, rows: int, cols: int) -> None:
        """Set the size of the terminal."""
        self._unsupported("resizing a terminal")

    # Environment

    async def environment(self) -> Environment:
        """Return facts about the server's machine."""
        return Environment()

    # Files

    async def read_file(self, path: str) -> bytes:
        """The content of a file."""
        self._unsupported("files")

    async def write_file(self, path: str, data: bytes) -> None:
        """Create a file or replace its content."""
        self._unsupported("files")

    async def create_directory(self, path: str, *, recursive: bool) -> None:
        """Create a directory."""
        self._unsupported("files")

    async def status(self, path: str) -> FileStatus:
        """Return the status of a path."""
        self._unsupported("files")

    async def read_directory(self, path: str) -> list[DirEntry]:
        """The entries of a directory."""
        self._unsupported("files")

    has_tree: bool = False
    """True if ``tree`` is supported."""

    async def tree(self, path: str, *, follow_symlinks: bool, prune_hidden: bool) -> Tree:
        """Return the contents of a directory at every depth, up to the limits above."""
        self._unsupported("listing a tree")

    async def remove(self, path: str, *, recursive: bool, force: bool) -> None:
        """Remove a file or a tree."""
        self._unsupported("files")

    async def copy(self, source: str, destination: str, *, recursive: bool) -> None:
        """Copy a file, a link or a tree."""
        self._unsupported("files")

    async def canonicalize(self, path: str) -> str:
        """The path without symbolic links."""
        self._unsupported("resolving paths")

    can_stream_reads: bool = False
    """True if files can be read in blocks."""

    async def can_stream_writes(self) -> bool:
        """True if files can be written in blocks."""
        return False

    async def open_file(self, handle_id: str, path: str, *, writes: bool) -> None:
        """Open a file to read, or to write anew, in blocks."""
        self._unsupported("open files")

    async def read_block(self, handle_id: str, offset: int, length: int) -> bytes:
        """A block of an open file, shorter only at its end; at most 1 MiB."""
        self._unsupported("open files")

    async def write_block(self, handle_id: str, offset: int, data: bytes) -> None:
        """Write a block of 1 byte to 1 MiB to an open file."""
        self._unsupported("open files")

    async def close_file(self, handle_id: str) -> None:
        """Close an open file."""
        self._unsupported("open files")

    # HTTP

    async def http(self, exchange: HttpExchange) -> HttpHead:
        """Let the server make an HTTP request."""
        self._unsupported("HTTP requests")

    def _unsupported(self, what: str) -> NoReturn:
        raise Unsupported(f"revision {self.name} has no messages for {what}")
