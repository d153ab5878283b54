"""One scenario: an exec-server, the wire to it, a workspace, a client and its model."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from exec_server_conformance import codex_binaries
from tests.support.waiting import PATIENCE, wait_until

from .codex_client import CodexClient, Connection, Release, Transport
from .exec_server import ListeningServer, Maker, command
from .mock_model import Item, MockModel, ModelRequest, Turn, call, call_freeform
from .processes import MARK, belonging, kill
from .proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from .wire import Wire

Client = TypeVar("Client", bound=CodexClient)

_COMMAND_RESULT = re.compile(
    r"(?:Chunk ID: \w+\n)?"
    r"Wall time: (?P<seconds>[\d.]+) seconds\n"
    r"(?:Process exited with code (?P<exit_code>-?\d+)\n)?"
    r"(?:Process running with session ID (?P<session_id>\d+)\n)?"
    r"(?:Original token count: (?P<tokens>\d+)\n)?"
    r"Output:\n(?P<output>.*)",
    re.DOTALL,
)

_CODEX_SECONDS = 100.0
"""For how long the processes of codex's own exec-servers may outlive a client that was killed."""


def run_command(call_id: str, cmd: str, **options: Any) -> Item:
    """A call that runs a shell command; options as the tool has them (``tty``, ``workdir`` …)."""
    return call(call_id, "exec_command", cmd=cmd, **options)


def type_into(call_id: str, session_id: int, chars: str, **options: Any) -> Item:
    """A call that types into a running command, and reads; with no characters it only reads."""
    return call(call_id, "write_stdin", session_id=session_id, chars=chars, **options)


def apply_patch(call_id: str, *lines: str) -> Item:
    """A call that applies a patch."""
    text = "\n".join(("*** Begin Patch", *lines, "*** End Patch", ""))
    return call_freeform(call_id, "apply_patch", text)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Result of a command as the model receives it."""

    seconds: float
    exit_code: int | None
    session_id: int | None
    """Names the command while it runs."""

    tokens: int
    """An estimate of all of the output, also of what is left out."""

    output: str

    @classmethod
    def of(cls, request: ModelRequest, call_id: str) -> CommandResult:
        """The result of a call; AssertionError when it is not that of a command."""
        text = request.text_result(call_id)
        match = _COMMAND_RESULT.fullmatch(text)
        assert match is not None, text
        found = match.groupdict()
        return cls(
            float(found["seconds"]),
            None if found["exit_code"] is None else int(found["exit_code"]),
            None if found["session_id"] is None else int(found["session_id"]),
            int(found["tokens"] or 0),
            found["output"],
        )


def running(request: ModelRequest, call_id: str) -> int:
    """The session id of a command that must still run."""
    result = CommandResult.of(request, call_id)
    assert result.session_id is not None, result
    return result.session_id


@dataclass(slots=True)
class Stage:
    """Set-up of a scenario; everything it started is gone when the context ends."""

    release: Release
    transport: Transport
    maker: Maker
    server_arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of the server's environment, over pipes also of its parent's, the client."""

    watched: bool = True
    """True if a proxy stands between the client and a listening server."""

    directory: Path = field(init=False)
    proxy: Proxy | None = field(init=False, default=None)
    _server: ListeningServer | None = field(init=False, default=None)
    _exits: ExitStack = field(init=False)

    def __enter__(self) -> Self:
        homes = codex_binaries.homes()
        homes.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="scenario-", dir=homes))
        with ExitStack() as exits:
            exits.callback(shutil.rmtree, self.directory, ignore_errors=True)
            exits.callback(self._kill_rest)
            self.server_home.mkdir()
            (self.workspace / ".git").mkdir(parents=True)  # what marks the root of a project
            if self.transport == "ws":
                self._server = exits.enter_context(
                    ListeningServer.start(
                        command(self.maker, self.release.version),
                        *self.server_arguments,
                        directory=self.server_home,
                        environment=self._server_environment(),
                    )
                )
                if self.watched:
                    self.proxy = exits.enter_context(Proxy(self._server.url))
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.close()

    @property
    def workspace(self) -> Path:
        """The working directory of the client and its commands."""
        return self.directory / "workspace"

    @property
    def server_home(self) -> Path:
        """The home of a listening server."""
        return self.directory / "server-home"

    @property
    def client_home(self) -> Path:
        """The home of the client, and of a server on its pipes."""
        return self.directory / "client-home"

    @property
    def wire(self) -> Wire | None:
        """Recorded messages; None where they cannot be seen, as on pipes."""
        return None if self.proxy is None else self.proxy.wire

    @contextmanager
    def client(
        self,
        model: MockModel,
        settings: Mapping[str, Any] | None = None,
        *,
        kind: type[Client],
        include_local: bool = False,
    ) -> Iterator[Client]:
        """A client that has just been started."""
        environment = self._environment()
        if self.proxy is not None:
            connection = Connection(url=self.proxy.url)
        elif self._server is not None:
            connection = Connection(url=self._server.url)
        else:
            environment.update(self.variables)
            program = command(self.maker, self.release.version)
            connection = Connection(command=[*program, "--listen", "stdio", *self.server_arguments])
        with kind(
            self.release,
            self.client_home,
            self.workspace,
            connection,
            model.base_url,
            environment,
            settings or {},
            include_local,
        ) as client:
            yield client

    def play(
        self,
        *turns: Turn,
        settings: Mapping[str, Any] | None = None,
        include_local: bool = False,
    ) -> ModelRequest:
        """Let the model say its turns to a client; return all that it was told at the end."""
        with (
            MockModel(turns) as model,
            self.client(model, settings, kind=CodexClient, include_local=include_local) as client,
        ):
            client.wait()
        return model.told()

    def only_process(self) -> str:
        """The id of the one process that was started; only where the wire can be seen."""
        assert self.wire is not None
        (params,) = self.wire.requests("process/start")
        process_id: str = params["processId"]
        return process_id

    def assert_nothing_left(self) -> None:
        """No process outlives its client, and the server ends in order and in peace."""
        server = {} if self._server is None else self._server_processes()
        seconds = PATIENCE if self.maker == "ours" else _CODEX_SECONDS
        assert wait_until(lambda: self._processes().keys() <= server.keys(), seconds), (
            self._processes()
        )
        if self._server is not None:
            code = self._server.stop()
            assert code == 0 or self.maker == "codex", f"the server ended with {code}"
            assert wait_until(lambda: not self._processes()), self._processes()
        if self.wire is not None:
            assert self.wire.faults() == []

    def _processes(self) -> dict[int, str]:
        return belonging(self.directory)

    def _server_processes(self) -> dict[int, str]:
        """The server and what it keeps running for itself."""
        name = command(self.maker, self.release.version)[0]
        return {pid: line for pid, line in self._processes().items() if name in line}

    def _kill_rest(self) -> None:
        for pid in self._processes():
            kill(pid)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "RUST_LOG": "warn",
            # Whatever the client would fetch from elsewhere fails at once.
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
            MARK: str(self.directory),
        }

    def _server_environment(self) -> dict[str, str]:
        codex_home = self.server_home / ".codex"
        codex_home.mkdir()
        return {
            **self._environment(),
            **self.variables,
            "HOME": str(self.server_home),
            "CODEX_HOME": str(codex_home),
        }
