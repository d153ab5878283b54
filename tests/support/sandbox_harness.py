"""Confined commands under test, where commands can be confined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.engine.sandbox import bubblewrap
from exec_server.engine.sandbox.policy import Rule, SandboxPolicy
from exec_server.errors import InvalidRequest
from tests.support.process_harness import Bench, Told

if TYPE_CHECKING:
    from pathlib import Path

    from exec_server.engine.processes.process import Process


def _why_not() -> str:
    try:
        bubblewrap.require()
    except InvalidRequest as error:
        return str(error)
    return ""


needs_sandbox = pytest.mark.skipif(
    not bubblewrap.is_available(), reason=f"CONFINEMENT IS NOT TESTED HERE: {_why_not()}"
)

READ_ALL = Rule("/", "read")


class SandboxBench(Bench):
    """A process table whose commands are confined; everything may be read unless said otherwise."""

    def __init__(self, *rules: Rule, **policy: Any) -> None:
        super().__init__()
        self.policy = SandboxPolicy((READ_ALL, *rules), **policy)

    def confined(
        self, script: str | list[str], policy: SandboxPolicy | None = None, **spec: Any
    ) -> Process[object]:
        """Start a confined shell script, all on standard output, or any other command."""
        argv = ["/bin/sh", "-c", f"exec 2>&1; {script}"] if isinstance(script, str) else script
        spec.setdefault("cwd", "/")
        spec.setdefault("env", {"PATH": "/usr/bin:/bin"})
        policy = policy or self.policy
        wrapper = bubblewrap.require()
        confined = wrapper.confine(
            SpawnSpec(argv=argv, **spec),
            wrapper.plan(policy),
            allows_network=policy.allows_network,
        )
        self._count += 1
        return self.table.start(f"c{self._count}", confined, context=None)

    async def finish(self, script: str | list[str], **options: Any) -> tuple[str, int | None]:
        """All that a confined command writes, and its exit code."""
        process = self.confined(script, **options)
        told: Told = await self.has_closed(process)
        assert process.status is not None
        return told.text().decode(), process.status.code


def writable(path: Path) -> Rule:
    return Rule(str(path), "write")


def denied(path: Path) -> Rule:
    return Rule(str(path), "deny")


def readable(path: Path) -> Rule:
    return Rule(str(path), "read")
