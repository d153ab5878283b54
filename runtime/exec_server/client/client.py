"""The client: what can be asked of a server."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Final, Self, get_args

from exec_server.client import arguments
from exec_server.client import run as command
from exec_server.client.errors import (
    ClientError,
    ConnectionLost,
    MethodUnknown,
    ServerError,
    Unsupported,
    os_error,
)
from exec_server.client.event_sequencer import Feed
from exec_server.client.process import Process
from exec_server.client.revisions.base import Environment, Inherit, StartSpec
from exec_server.client.subscription import BUFFER_BYTES, Overflow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from exec_server.client.arguments import Data, Text
    from exec_server.client.events import ProcessInfo
    from exec_server.client.filesystem import FileSystem
    from exec_server.client.http import Http
    from exec_server.client.run import CompletedProcess
    from exec_server.client.session import Session


_ABOUT_PATHS: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP))
"""Errors of a start that may be about the program or about the working directory."""


class Client:
    """A session with a server. ``connect`` and its kin make it.

    Close it, or use it in ``async with``.

    It belongs to the event loop it was made in. Any number of tasks may use it at once.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._environment: Environment | None = None
        self._fs: FileSystem | None = None
        self._http: Http | None = None
        # Processes of other clients in the same session must not have the same names.
        self._id_prefix = os.urandom(4).hex()
        self._starts = 0

    @property
    def revision(self) -> str:
        """The revision of the protocol that is spoken: ``v0``, ``v1``, ``v2`` or ``draft``."""
        return self._session.revision.name

    @property
    def session_id(self) -> str | None:
        """Id to resume the session with; None if its revision has none."""
        return self._session.session_id

    @property
    def can_detach(self) -> bool:
        """Whether the session can be left, and taken up again by its id; see ``aclose``."""
        return self._session.can_resume

    @property
    def target(self) -> str:
        """What the client is connected to."""
        return self._session.target

    def __repr__(self) -> str:
        return f"<Client of {self.target}, revision {self.revision}>"

    async def environment(self) -> Environment:
        """What the server tells about its machine, asked once. Empty where it tells nothing."""
        if self._environment is None:
            try:
                self._environment = await self._session.revision.environment()
            except MethodUnknown:
                self._environment = Environment()
        return self._environment

    @property
    def fs(self) -> FileSystem:
        """The files of the server's machine."""
        if self._fs is None:
            from exec_server.client.filesystem import FileSystem  # noqa: PLC0415 (when needed)

            self._fs = FileSystem(self._session)
        return self._fs

    @property
    def http(self) -> Http:
        """HTTP requests from the server's machine."""
        if self._http is None:
            from exec_server.client.http import Http  # noqa: PLC0415 (when needed)

            self._http = Http(self._session)
        return self._http

    # Processes

    async def start(
        self,
        argv: Sequence[Text],
        *,
        cwd: Text | None = None,
        env: Mapping[str, Text] | Mapping[bytes, Text] | None = None,
        inherit: Inherit | None = None,
        tty: bool = False,
        size: tuple[int, int] | None = None,
        stdin: bool = False,
        arg0: str | None = None,
        process_id: str | None = None,
        buffer_bytes: int | None = BUFFER_BYTES,
        overflow: Overflow = "reread",
    ) -> Process:
        """Start a process.

        argv: program and arguments. Like those, ``cwd`` and ``env`` may be ``str``, ``bytes`` and
            paths; what is not UTF-8 is refused, because the protocol cannot carry it.
        cwd: its working directory; the server's own unless given.
        env: variables laid over the inherited ones.
        inherit: which of the server's variables it starts from: ``all``, ``core`` or ``none``.
            Names with KEY, SECRET or TOKEN in them are never inherited. All unless given; none
            in revision v0, which cannot inherit.
        tty: give it a terminal instead of pipes; ``size`` is its rows and columns.
        stdin: give it a pipe to write to instead of an empty standard input. A terminal can always
            be written to.
        arg0: the name the program sees itself called by.
        process_id: its id within the session; made up unless given.
        buffer_bytes, overflow: how much output is kept for a slow consumer, and what becomes of
            more; see ``exec_server.client.subscription``.

        Raises FileNotFoundError, PermissionError and so on if it cannot be started, whose
        ``filename`` is the program or ``cwd``; TypeError and ValueError for an argument that is not
        as described; ServerError if the server refuses otherwise. A cancelled start is undone.
        """
        argv = arguments.argv(argv)
        _check_output(buffer_bytes, overflow)
        if inherit is not None:
            arguments.choice("inherit", inherit, get_args(Inherit))
        self._starts += 1
        process_id = process_id or f"{self._id_prefix}-{self._starts}"
        spec = StartSpec(
            process_id=arguments.string("process_id", process_id),
            argv=argv,
            cwd=None if cwd is None else arguments.path("cwd", cwd),
            env=arguments.environment(env),
            inherit=inherit,
            tty=tty,
            pipe_stdin=stdin and not tty,
            arg0=None if arg0 is None else arguments.text("arg0", arg0),
            size=arguments.size(size, tty=tty),
        )
        feed = Feed(self._session, spec.process_id)
        process = Process(
            self._session, feed, argv, tty=tty, buffer_bytes=buffer_bytes, overflow=overflow
        )
        starting = asyncio.ensure_future(self._session.start(feed, spec))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._session.spawn(self._undo(starting, process))
            raise
        except ServerError as error:
            failure = await self._start_failure(error, spec)
            raise error if failure is None else failure from error
        return process

    async def _start_failure(self, error: ServerError, spec: StartSpec) -> OSError | None:
        """The ``OSError`` of a failed start, about the program or the working directory."""
        failure = os_error(error, spec.argv[0])
        if failure is None or spec.cwd is None or failure.errno not in _ABOUT_PATHS:
            return failure
        try:
            is_dir = (await self._session.revision.status(spec.cwd)).is_dir
        except ServerError as missing:
            return os_error(missing, spec.cwd) or failure
        except (Unsupported, ConnectionLost):
            failure.add_note(f"The working directory was {spec.cwd!r}.")
            return failure
        if not is_dir:
            return OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), spec.cwd)
        return failure

    async def _undo(self, starting: asyncio.Future[None], process: Process) -> None:
        """Kill a process that nobody wants any more, once it runs."""
        try:
            await starting
            await process.terminate()
        except (ClientError, OSError):
            return

    async def attach(
        self,
        process_id: str,
        *,
        tty: bool = False,
        buffer_bytes: int | None = BUFFER_BYTES,
        overflow: Overflow = "reread",
    ) -> Process:
        """A process of the session that was started earlier, from its oldest retained output on.

        For a resumed session. Raises ServerError if there is none of that id.
        """
        arguments.string("process_id", process_id)
        _check_output(buffer_bytes, overflow)
        feed = Feed(self._session, process_id)
        process = Process(
            self._session, feed, (), tty=tty, buffer_bytes=buffer_bytes, overflow=overflow
        )
        await self._session.adopt(feed)
        return process

    async def processes(self) -> list[ProcessInfo]:
        """The processes of the session in the order of their starts, whoever started them.

        Those that have ended are among them as long as the server retains their output. Raises
        Unsupported where the server cannot list them, which is before the draft.
        """
        return await self._session.revision.list_processes()

    async def run(
        self,
        argv: Sequence[Text],
        *,
        input: Data | None = None,  # noqa: A002
        timeout: float | None = None,
        check: bool = False,
        limit: int | None = None,
        cwd: Text | None = None,
        env: Mapping[str, Text] | Mapping[bytes, Text] | None = None,
        inherit: Inherit | None = None,
        tty: bool = False,
        size: tuple[int, int] | None = None,
        arg0: str | None = None,
    ) -> CompletedProcess:
        """Run a command to its end and return what it wrote, like ``subprocess.run``.

        input: what the command reads, and then its end. Where the revision cannot close a pipe, the
            command is run by ``/bin/sh`` behind ``head``, so that a program that does not exist
            exits with 127; revision v0 has no pipe to write to.
        timeout: seconds after which the command is killed and CommandTimedOut raised.
        check: raise CommandFailed unless the exit code is 0.
        limit: keep only that many bytes of each stream, the first ones.

        The rest is as in ``start``. A cancelled run kills the command. Its end is that of its
        output, which descendants may hold open.
        """
        argv = arguments.argv(argv)
        content = None if input is None else arguments.data("input", input)
        arguments.seconds("timeout", timeout)
        arguments.count("limit", limit)
        wrapped = argv
        if content and not tty and not self._session.revision.can_close_stdin:
            if arg0 is not None:
                raise ValueError("input and arg0 cannot be combined in this revision")
            wrapped = ["/bin/sh", "-c", command.FEED_SCRIPT, str(len(content)), *argv]
        process = await self.start(
            wrapped,
            cwd=cwd,
            env=env,
            inherit=inherit,
            tty=tty,
            size=size,
            stdin=bool(content),
            arg0=arg0,
            buffer_bytes=None,
        )
        try:
            completed = await command.finish(process, argv, content, timeout, limit)
        except BaseException:
            if process.returncode is None:
                self._session.spawn(self._kill(process))
            raise
        if check:
            completed.check_returncode()
        return completed

    async def _kill(self, process: Process) -> None:
        try:
            await process.terminate()
        except ClientError:
            return

    # Ending

    async def aclose(self, *, detach: bool = False) -> None:
        """End the session; its processes are killed. Returns when nothing of it is left here.

        With ``detach`` a WebSocket session is left as it is, for as long as the server keeps it:
        connect with its ``session_id`` to take it up again.
        """
        await self._session.aclose(detach=detach)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _check_output(buffer_bytes: int | None, overflow: str) -> None:
    arguments.count("buffer_bytes", buffer_bytes, least=1)
    arguments.choice("overflow", overflow, get_args(Overflow))
