"""``codex app-server``: a client that takes several turns, told what to do over its own pipes."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.support.waiting import PATIENCE

from .codex_client import CLIENT_SECONDS, CodexClient
from .processes import kill_group

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType


@dataclass(slots=True)
class AppServer(CodexClient):
    """A running ``codex app-server``; it is killed when it takes too long."""

    _calls: int = field(init=False, default=0)
    _completed: set[str] = field(init=False, default_factory=set)
    _limit: threading.Timer = field(init=False)

    def __enter__(self) -> Self:
        CodexClient.__enter__(self)
        self._limit = threading.Timer(CLIENT_SECONDS, kill_group, [self.process.pid])
        self._limit.start()
        self._call(
            "initialize",
            clientInfo={"name": "scenario", "version": "1"},
            capabilities={"experimentalApi": True},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        CodexClient.__exit__(self, kind, error, traceback)
        self._limit.cancel()
        self._limit.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def start_thread(self, **params: Any) -> str:
        """Start a thread in the workspace; return its id."""
        result = self._call("thread/start", cwd=str(self.workspace), **params)
        thread_id: str = result["thread"]["id"]
        return thread_id

    def start_turn(self, thread_id: str) -> str:
        """Let the model speak; return the id of the turn."""
        words = [{"type": "text", "text": "go"}]
        result = self._call("turn/start", threadId=thread_id, input=words)
        turn_id: str = result["turn"]["id"]
        return turn_id

    def interrupt_turn(self, thread_id: str, turn_id: str) -> None:
        """Stop the model."""
        self._call("turn/interrupt", threadId=thread_id, turnId=turn_id)

    def wait_for_turn(self, turn_id: str) -> None:
        """Wait until a turn is over."""
        while turn_id not in self._completed:
            self._read()

    def wait(self) -> None:
        """Hang up, and wait for an orderly end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.home / "stderr").open("wb") as err:
            return subprocess.Popen(
                self._command("app-server"),
                cwd=self.home,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                start_new_session=True,
            )

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self._calls += 1
        request = {"id": self._calls, "method": method, "params": params}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        while (message := self._read()).get("id") != self._calls or "method" in message:
            continue
        assert "result" in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"codex app-server {self.release} ended: {(self.home / 'stderr').read_text()}"
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "turn/completed":
            self._completed.add(message["params"]["turn"]["id"])
        return message
