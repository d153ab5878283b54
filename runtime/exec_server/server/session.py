"""Sessions: the state of a client that outlives its connections.

A session owns processes. One connection at a time is attached to it and receives the notifications
of the processes. When the connection ends, the session is detached: its processes continue, their
output is retained, and the session can be resumed until it expires; then its processes are killed.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Final, Protocol

from exec_server.engine.memory_budget import MemoryBudget
from exec_server.engine.processes.orphan_reaper import END_SECONDS, OrphanReaper
from exec_server.engine.processes.output_log import CHUNK_COST
from exec_server.engine.processes.table import REAP_SECONDS, ProcessTable
from exec_server.errors import InvalidRequest, SessionAttached
from exec_server.revisions.accepted_writes import AcceptedWrites
from exec_server.server.memory import UnusedMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.engine.processes.output_log import OutputChunk
    from exec_server.engine.processes.process import Process
    from exec_server.engine.processes.process_state import ExitStatus
    from exec_server.engine.processes.watchdog import Watchdog
    from exec_server.revisions.interface import NotificationEncoder
    from exec_server.settings import Settings

log = logging.getLogger("exec_server")

_WRITE_BYTES: Final = 256
"""Approximate memory of one remembered write: a tuple, a short name, and two entries for it."""

_CHECKS_PER_LIMIT: Final = 8
"""Checks for as much memory as a small limit allows, so that it is not exceeded by much."""

_CHECK_BYTES: Final = 1024 * 1024
"""Memory that detached sessions take up between two checks; each check reads all sizes."""


class Attachment(Protocol):
    """A connection, as the session that it is attached to sees it."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that wait to be sent."""
        ...

    def notify(self, pieces: Sequence[bytes]) -> None:
        """Send an encoded notification, in pieces."""
        ...


class Session:
    """The processes of one client, and the connection attached to it, if any."""

    def __init__(
        self,
        watchdog: Watchdog | None,
        reaper: OrphanReaper | None,
        settings: Settings,
        revision: str,
        on_retained: Callable[[int], None],
    ) -> None:
        """``on_retained`` is called with the size of each chunk that only the session gets."""
        self.id = str(uuid.uuid4())
        self.revision = revision
        """Revision that the client used last."""
        self.attachment: Attachment | None = None
        self._reaper = reaper
        self._on_retained = on_retained
        self._tag: int | None = None
        self.memory = MemoryBudget(settings.max_held_bytes, self._count_unsent)
        self.accepted_writes = AcceptedWrites(settings.remembered_writes)
        self.processes: ProcessTable[NotificationEncoder] = ProcessTable(
            self,
            loop=asyncio.get_running_loop(),
            memory=self.memory,
            watchdog=watchdog,
            tag=self._take_tag,
            retained_bytes=settings.retained_bytes,
            retained_chunks=settings.retained_chunks,
            max_retained_bytes=settings.max_retained_bytes,
            retention_seconds=settings.retention_seconds,
            write_queue_bytes=settings.write_queue_bytes,
            max_running=settings.max_processes,
            executions=settings.executions,
        )

    def _count_unsent(self) -> int:
        return 0 if self.attachment is None else self.attachment.unsent_bytes

    @property
    def held_bytes(self) -> int:
        """Approximate memory that the session takes."""
        writes = len(self.accepted_writes) * _WRITE_BYTES
        return self.processes.retained_bytes + self.memory.held_bytes + writes

    def on_output(self, process: Process[NotificationEncoder], chunk: OutputChunk) -> None:
        """Notify the attached connection, or else the registry; see ProcessEvents."""
        if self.attachment is not None:
            self.attachment.notify(process.context.output(process, chunk))
        else:
            self._on_retained(len(chunk.data))

    def on_exited(
        self, process: Process[NotificationEncoder], seq: int, status: ExitStatus
    ) -> None:
        """Notify the attached connection; see ProcessEvents."""
        if self.attachment is not None:
            self.attachment.notify((process.context.exited(process, seq, status),))

    def on_closed(self, process: Process[NotificationEncoder], seq: int) -> None:
        """Notify the attached connection; see ProcessEvents."""
        message = process.context.closed(process, seq)
        if self.attachment is not None and message is not None:
            self.attachment.notify((message,))

    def _take_tag(self) -> int | None:
        """Return the tag of the session's processes, created with the first one."""
        if self._tag is None and self._reaper is not None:
            self._tag = self._reaper.new_tag()
        return self._tag

    async def aclose(self) -> None:
        """End all processes, and those that they have left behind."""
        await self.processes.aclose()
        if self._reaper is not None and self._tag is not None:
            await self._reaper.end(self._tag)


class SessionRegistry:
    """The sessions of a server."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, watchdog: Watchdog | None, settings: Settings
    ) -> None:
        """With a ``watchdog``, orphans are adopted and unused memory is returned.

        Both affect the whole operating system process.
        """
        self._loop = loop
        self._watchdog = watchdog
        self._reaper = (
            None if watchdog is None else OrphanReaper(loop, watchdog.groups, watchdog.tags)
        )
        self._unused = None if watchdog is None else UnusedMemory(loop)
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._retained_since_check = 0
        self._ending: set[asyncio.Task[None]] = set()

    def create(self, attachment: Attachment, revision: str) -> Session:
        """Create a session for a client that uses ``revision``, with its connection attached.

        Raises InvalidRequest if the maximum number of sessions is reached.
        """
        if len(self._sessions) >= self._settings.max_sessions:
            raise InvalidRequest(
                f"this server keeps at most {self._settings.max_sessions} sessions at a time"
            )
        session = Session(
            self._watchdog,
            self._reaper,
            self._settings,
            revision,
            self._count_retained,
        )
        session.attachment = attachment
        self._sessions[session.id] = session
        return session

    def resume(self, session_id: str, attachment: Attachment) -> Session:
        """Attach a connection to a detached session.

        Raises InvalidRequest if there is no such session, SessionAttached if it has a connection.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise InvalidRequest(f"unknown session id {session_id}")
        if session.attachment is not None:
            raise SessionAttached(session_id, session.revision)
        self._expiries.pop(session_id).cancel()
        session.attachment = attachment
        return session

    def detach(self, session: Session) -> None:
        """Detach the connection and start the timeout of the session."""
        session.attachment = None
        self.note_end()
        session.processes.resume_reading()
        if session.id in self._sessions:
            self._expiries[session.id] = self._loop.call_later(
                self._settings.detached_seconds, self.end, session
            )
            self._count_retained(session.held_bytes)

    def _count_retained(self, size: int) -> None:
        """Count memory that detached sessions take up, and check the limit now and then."""
        self._retained_since_check += size + CHUNK_COST
        limit = self._settings.max_detached_bytes
        if self._retained_since_check > min(_CHECK_BYTES, limit // _CHECKS_PER_LIMIT):
            self._bound_detached()

    def _bound_detached(self) -> None:
        """End the sessions that were detached first while all of them hold too much memory."""
        self._retained_since_check = 0
        # They are in the order in which they were detached.
        held = {session_id: self._sessions[session_id].held_bytes for session_id in self._expiries}
        excess = sum(held.values()) - self._settings.max_detached_bytes
        for session_id, size in held.items():
            if excess <= 0:
                break
            if size:
                excess -= size
                # Deferred, because a process of the session may be delivering output.
                self._loop.call_soon(self._end_early, self._sessions[session_id])

    def _end_early(self, session: Session) -> None:
        if session.attachment is None and session.id in self._sessions:
            log.info("a detached session ends early: too much memory is held for such sessions")
            self.end(session)

    def end(self, session: Session) -> None:
        """End a session and kill its processes."""
        if self._sessions.pop(session.id, None) is None:
            return
        expiry = self._expiries.pop(session.id, None)
        if expiry is not None:
            expiry.cancel()
        session.attachment = None
        session.processes.kill_all()
        task = self._loop.create_task(session.aclose())
        self._ending.add(task)
        task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        self.note_end()

    def note_end(self) -> None:
        """Note that a connection or a session has ended, which may leave much memory unused."""
        if self._unused is not None:
            self._unused.give_back_soon()

    @property
    def running(self) -> int:
        """Number of running processes."""
        return sum(session.processes.running for session in self._sessions.values())

    def ask_to_end(self, seconds: float) -> None:
        """Send SIGTERM to every process group, and SIGKILL some seconds later."""
        for session in self._sessions.values():
            for process in session.processes:
                process.terminate_gracefully(seconds)

    def kill_all(self) -> None:
        """Kill every process; the exits are still reported."""
        for session in self._sessions.values():
            session.processes.kill_all()

    async def aclose(self) -> None:
        """End all sessions and wait until no process is left."""
        for session in list(self._sessions.values()):
            self.end(session)
        if self._ending:
            # Processes that do not exit in time are left to end_all and the watchdog.
            await asyncio.wait(self._ending, timeout=REAP_SECONDS + END_SECONDS)
        if self._unused is not None:
            self._unused.close()
        if self._reaper is not None and self._watchdog is not None:
            is_clean = await self._reaper.end_all()
            self._reaper.close()
            if is_clean:
                self._watchdog.dismiss()
