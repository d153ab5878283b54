"""Places that running sandboxes depend on: counted, bounded, and released."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.files import operations as files
from exec_server.engine.sandbox import live_views
from exec_server.errors import InvalidRequest
from tests.support.process_harness import asynchronous
from tests.support.sandbox_harness import SandboxBench, denied, needs_sandbox, readable, writable

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
        programs = [bench.confined("sleep 100") for _ in range(2)]
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
