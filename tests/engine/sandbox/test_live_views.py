"""Protected paths of running sandboxes: counted, limited, and released."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.files import operations as files
from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.engine.sandbox import bubblewrap, live_views
from exec_server.engine.sandbox.policy import SandboxPolicy
from exec_server.errors import InvalidRequest
from tests.support.process_harness import asynchronous
from tests.support.sandbox_harness import (
    READ_ALL,
    SandboxBench,
    denied,
    readable,
    writable,
)
from tests.support.sandboxes import needs_sandbox

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_sandbox


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub/deep").mkdir(parents=True)
    (root / "secret").write_text("old")
    return root


@asynchronous
async def test_a_path_is_protected_until_the_last_program_exits(root: Path) -> None:
    rules = writable(root), denied(root / "secret"), readable(root / "sub/deep")
    async with SandboxBench(*rules) as bench:
        programs = [bench.sandboxed("echo ready; sleep 100") for _ in range(2)]
        for program in programs:
            await bench.has_output(program, b"ready")
        os.unlink(root / "secret")
        for program in programs:
            with pytest.raises(InvalidRequest, match="is denied"):
                files.write_file(f"{root}/secret", b"new")
            for path in ("sub", "sub/deep"):
                with pytest.raises(InvalidRequest, match="is read-only"):
                    files.remove(f"{root}/{path}")
            program.terminate()
            await bench.has_closed(program)
    files.write_file(f"{root}/secret", b"new")
    files.remove(f"{root}/sub")


def test_a_denied_path_must_still_be_missing_at_the_start(root: Path) -> None:
    """The file may be created between planning and start."""
    wrapper = bubblewrap.require()
    view = wrapper.plan(SandboxPolicy((READ_ALL, denied(root / "late"))))
    (root / "late").write_text("new")
    with pytest.raises(InvalidRequest, match="was replaced while the sandbox was being set up"):
        wrapper.wrap_spec(SpawnSpec(argv=["true"], cwd="/", env={}), view, allows_network=False)
    files.remove(f"{root}/late")
    files.write_file(f"{root}/late", b"new")


@asynchronous
async def test_too_many_protected_paths_are_refused_without_leftovers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SandboxBench(writable(root), denied(root / "secret")) as bench:
        monkeypatch.setattr(live_views, "MAX_PLACES", 1)
        with pytest.raises(InvalidRequest, match="at most 1 paths can be protected"):
            bench.sandboxed("true")
        assert not (root / ".git").exists()
        files.remove(f"{root}/secret")
        files.write_file(f"{root}/secret", b"new")
        monkeypatch.undo()
        assert (await bench.finish(f"cat {root}/secret"))[1] == 1
