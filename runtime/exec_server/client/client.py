"""The client: processes, files and HTTP requests of one session."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
from typing import TYPE_CHECKING, Final, Self, get_args

from exec_server.client import arguments
from exec_server.client import run as command
from exec_server.client.display import shown_command
from exec_server.client.errors import (
    ClientError,
    CommandTimedOut,
    ConnectionLost,
    MethodUnknown,
    RequestTimedOut,
    ServerError,
    Unsupported,
    os_error,
)
from exec_server.client.event_sequencer import EventSequencer
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
"""Errors of a start that may concern the program or the working directory."""


class Client:
    """A session with a server, returned by ``connect`` and the other connect functions.

    Close it, or use it in ``async with``.

    It belongs to the event loop it was made in. Any number of tasks may use it at once.

    Calls that wait for an answer of the server take a ``timeout`` in seconds, and raise
    RequestTimedOut when it has passed; the request may still be carried out. Without one, the
    ``timeout`` given to ``connect`` applies, which is unlimited by default. ``math.inf`` removes
    the limit of one call.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._environment: Environment | None = None
        self._fs: FileSystem | None = None
        self._http: Http | None = None
        # Ids must differ from those of other clients in the same session.
        self._id_prefix = os.urandom(4).hex()
        self._starts = 0

    @property
    def revision(self) -> str:
        """Protocol revision in use: ``v0``, ``v1``, ``v2`` or ``draft``."""
        return self._session.revision.name

    @property
    def session_id(self) -> str | None:
        """Id to resume the session with; None if its revision has none."""
        return self._session.session_id

    @property
    def can_detach(self) -> bool:
        """True if the session can be left and resumed by its id; see ``aclose``."""
        return self._session.can_resume

    @property
    def target(self) -> str:
        """Name of the server in error messages, without credentials."""
        return self._session.target

    def __repr__(self) -> str:
        return f"<Client of {self.target}, revision {self.revision}>"

    async def environment(self, *, timeout: float | None = None) -> Environment:
        """Return the description of the server's machine, empty if the server has none.

        It is requested once.
        """
        arguments.seconds("timeout", timeout)
        if self._environment is None:
            try:
                async with self._session.deadline(timeout, "environment"):
                    self._environment = await self._session.revision.environment()
            except MethodUnknown:
                self._environment = Environment()
        return self._environment

    @property
    def fs(self) -> FileSystem:
        """Files of the server's machine."""
        if self._fs is None:
            from exec_server.client.filesystem import FileSystem  # noqa: PLC0415 (when needed)

            self._fs = FileSystem(self._session)
        return self._fs

    @property
    def http(self) -> Http:
        """HTTP requests made by the server."""
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
        timeout: float | None = None,
    ) -> Process:
        """Start a process.

        argv: program and arguments. Arguments, ``cwd`` and ``env`` may be ``str``, ``bytes`` or
            paths. They must be UTF-8, because the protocol carries nothing else.
        cwd: working directory; default: the server's own, or ``/`` if the server reports none.
        env: variables that are added to the inherited ones or replace them. Unlike the ``env`` of
            ``subprocess``, it does not replace the whole environment; ``inherit="none"`` does.
        inherit: variables inherited from the server: ``all``, ``core`` or ``none``. Names that
            contain KEY, SECRET or TOKEN are never inherited. Default: ``all``, but ``none`` in
            revision v0, which cannot inherit.
        tty: run the process on a terminal instead of pipes; ``size`` is its rows and columns.
        stdin: open a pipe to the standard input of the process instead of an empty one. A
            terminal is always writable.
        arg0: name that the program receives as ``argv[0]``.
        process_id: id within the session; default: a unique one.
        buffer_bytes, overflow: size of the output queue, and the policy when it is full; see
            ``exec_server.client.subscription``.

        Raises FileNotFoundError, PermissionError and so on if the process cannot be started, whose
        ``filename`` is the program or ``cwd``; TypeError and ValueError for an invalid argument;
        ServerError if the server refuses otherwise. A cancelled start is rolled back.
        """
        arguments.seconds("timeout", timeout)
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
        sequencer = EventSequencer(self._session.processes, spec.process_id)
        process = Process(
            self._session, sequencer, argv, tty=tty, buffer_bytes=buffer_bytes, overflow=overflow
        )
        starting = asyncio.ensure_future(self._session.processes.start(sequencer, spec))
        try:
            async with self._session.deadline(timeout, f"start of {shown_command(argv)!r}"):
                await asyncio.shield(starting)
        except (asyncio.CancelledError, RequestTimedOut):
            self._session.spawn(self._roll_back(starting, process))
            raise
        except ServerError as error:
            failure = await self._start_failure(error, spec)
            raise error if failure is None else failure from error
        return process

    async def _start_failure(self, error: ServerError, spec: StartSpec) -> OSError | None:
        """Return the ``OSError`` of a failed start, about the program or the working directory."""
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

    async def _roll_back(self, starting: asyncio.Future[None], process: Process) -> None:
        """Kill the process of a cancelled start as soon as it runs."""
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
        timeout: float | None = None,
    ) -> Process:
        """Return a process that was started earlier in a resumed session.

        Its events begin with the oldest retained output. Raises ServerError if the session has no
        process of that id.
        """
        arguments.seconds("timeout", timeout)
        arguments.string("process_id", process_id)
        _check_output(buffer_bytes, overflow)
        sequencer = EventSequencer(self._session.processes, process_id)
        process = Process(
            self._session, sequencer, (), tty=tty, buffer_bytes=buffer_bytes, overflow=overflow
        )
        async with self._session.deadline(timeout, f"attach to process {process_id!r}"):
            await self._session.processes.adopt(sequencer)
        return process

    async def processes(self, *, timeout: float | None = None) -> list[ProcessInfo]:
        """Return the processes of the session, of every client, in the order of their starts.

        Processes that have ended are included while the server retains their output. Raises
        Unsupported before the draft.
        """
        arguments.seconds("timeout", timeout)
        async with self._session.deadline(timeout, "list of processes"):
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
        """Run a command to completion and return its output, like ``subprocess.run``.

        input: standard input of the command. Where the revision cannot close a pipe, the command
            is run by ``/bin/sh`` behind ``head``, so that a program that does not exist exits with
            127; revision v0 has no pipe to write to.
        timeout: seconds after which the command is killed and CommandTimedOut raised, with the
            output so far. The limit is kept within 0.5 seconds even if the server does not answer.
        check: raise CommandFailed unless the exit code is 0.
        limit: maximum number of bytes kept of each stream, from its start; default: no limit.

        The other parameters are those of ``start``. A cancelled run kills the command. It is
        complete when its output has ended, which descendants may keep open.
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
        capture = command.Capture(limit)
        process: Process | None = None
        try:
            async with asyncio.timeout(timeout) as scope:
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
                completed = await command.finish(process, argv, content, capture)
        except TimeoutError:
            if timeout is None or not scope.expired():
                raise
            outcome = "the server has not confirmed its start"
            if process is not None:
                outcome = await command.kill(process, capture)
                self._kill_soon(process)
            raise CommandTimedOut(argv, timeout, capture.stdout, capture.stderr, outcome) from None
        except BaseException:
            if process is not None:
                self._kill_soon(process)
            raise
        if check:
            completed.check_returncode()
        return completed

    def _kill_soon(self, process: Process) -> None:
        """Kill a process in the background unless it is known to have ended."""
        if process.returncode is None:
            self._session.spawn(self._kill(process))

    async def _kill(self, process: Process) -> None:
        with contextlib.suppress(ClientError):
            await process.terminate(timeout=math.inf)

    # Ending

    async def aclose(self, *, detach: bool = False) -> None:
        """End the session and kill its processes; return when its connection is closed.

        With ``detach`` a WebSocket session is left as it is, for as long as the server keeps it:
        connect with its ``session_id`` to resume it.
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
