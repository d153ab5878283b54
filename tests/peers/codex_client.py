"""``codex exec`` of one release, in a home of its own, with its commands on an exec-server."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from exec_server_conformance import codex_binaries

from .processes import kill_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

Transport: TypeAlias = Literal["ws", "stdio"]

CLIENT_SECONDS = 90.0
"""A whole scenario takes a few seconds, one with a reconnection up to 45 more."""

_CONFIG = """\
model = "{model}"
model_provider = "mock"
approval_policy = "never"
check_for_update_on_startup = false
sandbox_mode = "danger-full-access"

[analytics]
enabled = false

[features]
plugins = false
apps = false

[model_providers.mock]
name = "mock"
base_url = "{base_url}"
wire_api = "responses"
requires_openai_auth = false
request_max_retries = 0
stream_max_retries = 0
"""

_OVER_WEBSOCKET = """\
default = "remote"
include_local = {include_local}

[[environments]]
id = "remote"
url = {url}
"""

_OVER_STDIO = """\
default = "remote"
include_local = {include_local}

[[environments]]
id = "remote"
program = {program}
args = {arguments}
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A released client and what it can do."""

    version: str

    def __str__(self) -> str:
        return self.version

    def is_since(self, version: str) -> bool:
        """Return True for that release and later ones."""
        return codex_binaries.parse_version(self.version) >= codex_binaries.parse_version(version)

    @property
    def speaks_v2(self) -> bool:
        """True for revision v2 of the protocol, false for v1."""
        return self.is_since("0.140.0")

    @property
    def transports(self) -> tuple[Transport, ...]:
        """Transports over which the client can reach an exec-server."""
        return ("ws", "stdio") if self.reads_environments else ("ws",)

    @property
    def reads_environments(self) -> bool:
        """True if ``environments.toml`` names its exec-servers; a variable does before."""
        return self.is_since("0.133.0")

    @property
    def model(self) -> str:
        """A model that the release has tools for."""
        return "gpt-5.5" if self.is_since("0.130.0") else "gpt-5.4"

    @property
    def environment_key(self) -> str:
        """The setting that puts an MCP server into an environment."""
        return "environment_id" if self.is_since("0.135.0") else "experimental_environment"


@dataclass(frozen=True, slots=True)
class Connection:
    """Way to an exec-server: a WebSocket URL, or a program to run."""

    url: str | None = None
    command: Sequence[str] = ()


@dataclass(slots=True)
class CodexClient:
    """A running ``codex exec``; the whole process group is gone when the context ends."""

    release: Release
    home: Path
    workspace: Path
    connection: Connection
    model_url: str
    environment: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings over the configuration file, by dotted name."""

    include_local: bool = False
    """True if the model may also work where the client is, in an environment ``local``."""

    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        codex_home = self.home / ".codex"
        codex_home.mkdir(parents=True, exist_ok=True)
        (codex_home / "config.toml").write_text(
            _CONFIG.format(model=self.release.model, base_url=self.model_url)
        )
        environment = {**self.environment, "HOME": str(self.home), "CODEX_HOME": str(codex_home)}
        if self.release.reads_environments:
            (codex_home / "environments.toml").write_text(self._environments())
        else:
            assert self.connection.url is not None, "this release has no stdio transport"
            environment["CODEX_EXEC_SERVER_URL"] = self.connection.url
        self.process = self._start(environment)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        kill_group(self.process.pid)
        self.process.wait()

    def wait(self) -> None:
        """Wait for an orderly end."""
        code = self.process.wait(CLIENT_SECONDS)
        assert code == 0, f"codex {self.release} ended with {code}:\n{self.said()}"

    def said(self) -> str:
        """Printed output of the client, for people."""
        return "\n".join((self.home / name).read_text() for name in ("stdout", "stderr"))

    def _environments(self) -> str:
        local = json.dumps(self.include_local)
        if self.connection.url is not None:
            url = json.dumps(self.connection.url)
            return _OVER_WEBSOCKET.format(include_local=local, url=url)
        program, *arguments = self.connection.command
        return _OVER_STDIO.format(
            include_local=local, program=json.dumps(program), arguments=json.dumps(arguments)
        )

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.home / "stdout").open("wb") as out, (self.home / "stderr").open("wb") as err:
            return subprocess.Popen(
                self._command(
                    "exec", "--skip-git-repo-check", "--json", "-C", str(self.workspace), "go"
                ),
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def _command(self, *arguments: str) -> list[str]:
        overrides = [
            part
            for name, value in self.settings.items()
            for part in ("-c", f"{name}={json.dumps(value)}")
        ]
        return [str(codex_binaries.binary(self.release.version)), *arguments, *overrides]
