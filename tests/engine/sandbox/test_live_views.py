"""Places that running sandboxes depend on: counted, bounded, and released."""

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
    needs_sandbox,
    readable,
    writable,
)

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
async def test_a_place_is_protected_until_the_last_program_ends(root: Path) -> None:
    rules = writable(root), denied(root / "secret"), readable(root / "sub/deep")
    async with SandboxBench(*rules) as bench:
        programs = [bench.confined("echo ready; sleep 100") for _ in range(2)]
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


def test_what_was_missing_must_still_be_missing_at_the_start(root: Path) -> None:
    """Planning and starting are two steps, and the file may have been created between them."""
    wrapper = bubblewrap.require()
    view = wrapper.plan(SandboxPolicy((READ_ALL, denied(root / "late"))))
    (root / "late").write_text("new")
    with pytest.raises(InvalidRequest, match="was exchanged while the sandbox was prepared"):
        wrapper.confine(SpawnSpec(argv=["true"], cwd="/", env={}), view, allows_network=False)
    files.remove(f"{root}/late")
    files.write_file(f"{root}/late", b"new")


@asynchronous
async def test_too_many_places_are_refused_and_nothing_is_left(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SandboxBench(writable(root), denied(root / "secret")) as bench:
        monkeypatch.setattr(live_views, "MAX_PLACES", 1)
        with pytest.raises(InvalidRequest, match="at most 1 places can be protected"):
            bench.confined("true")
        assert not (root / ".git").exists()
        files.remove(f"{root}/secret")
        files.write_file(f"{root}/secret", b"new")
        monkeypatch.undo()
        assert (await bench.finish(f"cat {root}/secret"))[1] == 1
