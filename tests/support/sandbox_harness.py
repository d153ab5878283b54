"""Sandboxed commands for tests, where sandboxes are available."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.engine.sandbox import bubblewrap
from exec_server.engine.sandbox.policy import Rule, SandboxPolicy
from tests.support.process_harness import Bench, Told

if TYPE_CHECKING:
    from pathlib import Path

    from exec_server.engine.processes.process import Process


READ_ALL = Rule("/", "read")


class SandboxBench(Bench):
    """A process table with sandboxed commands, which may by default read all files."""

    def __init__(self, *rules: Rule, **policy: Any) -> None:
        super().__init__()
        self.policy = SandboxPolicy((READ_ALL, *rules), **policy)

    def sandboxed(
        self, script: str | list[str], policy: SandboxPolicy | None = None, **spec: Any
    ) -> Process[object]:
        """Start a sandboxed shell script, with all output on stdout, or another command."""
        argv = ["/bin/sh", "-c", f"exec 2>&1; {script}"] if isinstance(script, str) else script
        spec.setdefault("cwd", "/")
        spec.setdefault("env", {"PATH": "/usr/bin:/bin"})
        policy = policy or self.policy
        wrapper = bubblewrap.require()
        spec_in_sandbox = wrapper.wrap_spec(
            SpawnSpec(argv=argv, **spec),
            wrapper.plan(policy),
            allows_network=policy.allows_network,
        )
        self._count += 1
        return self.table.start(f"c{self._count}", spec_in_sandbox, context=None)

    async def finish(self, script: str | list[str], **options: Any) -> tuple[str, int | None]:
        """Return the output of a sandboxed command, and its exit code."""
        process = self.sandboxed(script, **options)
        told: Told = await self.has_closed(process)
        assert process.status is not None
        return told.text().decode(), process.status.code


def writable(path: Path) -> Rule:
    return Rule(str(path), "write")


def denied(path: Path) -> Rule:
    return Rule(str(path), "deny")


def readable(path: Path) -> Rule:
    return Rule(str(path), "read")
