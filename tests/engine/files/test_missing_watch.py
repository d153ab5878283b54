"""Watches for missing paths (v2 fs/watchMissing, fs/missingChanged)."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.files.missing_watch import MissingWatch
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

TURNS = 5
"""Turns of the event loop after which pending events have been handled."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of files to be changed."""
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "file").write_bytes(b"inner")
    (tmp_path / "file").write_bytes(b"outer")
    (tmp_path / "empty").mkdir()
    (tmp_path / "to dir").symlink_to("dir")
    (tmp_path / "to file").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path.resolve()


MOUNTING = """
import asyncio, subprocess, sys
from exec_server.engine.files.missing_watch import MissingWatch

async def main(directory):
    fired = asyncio.Queue()
    watches = MissingWatch(fired.put_nowait)
    assert watches.watch(1, [directory + "/m"])
    subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    print(await asyncio.wait_for(fired.get(), 10))
    await watches.aclose()

asyncio.run(main(sys.argv[1]))
"""
"""Mounts an empty file system over a directory that is watched."""


class Client:
    """A client with a watch, and the notifications it received."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._fired: asyncio.Queue[int] = asyncio.Queue()
        self._watches = MissingWatch(self._fired.put_nowait)
        self.aclose = self._watches.aclose

    def watch(self, watch_id: int, *missing: str, present: str | None = None) -> bool:
        """Watch paths relative to the tree."""
        return self._watches.watch(
            watch_id,
            [os.path.join(self._tree, path) for path in missing],
            None if present is None else os.path.join(self._tree, present),
        )

    async def next(self) -> int:
        """Return the id of the next watch that fires."""
        return await asyncio.wait_for(self._fired.get(), PATIENCE)

    async def stays_silent(self) -> bool:
        """Return True if no watch fires within a few turns."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return self._fired.empty()


@asynccontextmanager
async def client(tree: Path) -> AsyncIterator[Client]:
    """A client that is closed at the end."""
    watcher = Client(tree)
    try:
        yield watcher
    finally:
        await watcher.aclose()


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test, and check that all descriptors are closed."""
    before = os.listdir("/proc/self/fd")
    asyncio.run(test)
    assert os.listdir("/proc/self/fd") == before


def create(path: Path) -> None:
    """Make an empty file."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def write(path: Path) -> None:
    """Add a byte to a file that exists."""
    with path.open("ab") as file:
        file.write(b"+")


def fill(tree: Path) -> None:
    """Make, then replace an empty directory by one that has what is missing."""
    (tree / "new" / "m").mkdir(parents=True)
    (tree / "new").rename(tree / "empty")


class TestEvents:
    """Events that fire a watch."""

    @pytest.mark.parametrize(
        ("missing", "change"),
        [
            ("m", lambda tree: create(tree / "m")),
            ("m", lambda tree: (tree / "m").mkdir()),
            ("m", lambda tree: os.mkfifo(tree / "m")),
            ("m", lambda tree: (tree / "m").symlink_to("nowhere")),
            ("m", lambda tree: os.link(tree / "file", tree / "m")),
            ("m", lambda tree: (tree / "file").rename(tree / "m")),
            ("m", lambda tree: (tree / "dir").rename(tree / "m")),
            ("m/a/b", lambda tree: (tree / "m").mkdir()),
            ("m/a/b", lambda tree: (tree / "m" / "a" / "b").mkdir(parents=True)),
            ("m/a/b", lambda tree: create(tree / "m")),
            ("dir/m/a", lambda tree: (tree / "dir" / "m").symlink_to("nowhere")),
            ("dir/../m", lambda tree: create(tree / "m")),
            ("\udcff", lambda tree: create(tree / "\udcff")),
            ("M\u00dc", lambda tree: create(tree / "m\u00fc")),
        ],
    )
    def test_a_path_or_its_first_missing_ancestor_appears(
        self, tree: Path, missing: str, change: Callable[[Path], object]
    ) -> None:
        """As any type, in any way, and with any case of letters."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(7, missing)
                assert await watcher.stays_silent()
                change(tree)
                assert await watcher.next() == 7
                assert await watcher.stays_silent()

        run(test())

    @pytest.mark.parametrize(
        ("missing", "change"),
        [
            ("empty/m", lambda tree: (tree / "empty").rmdir()),
            ("empty/m", fill),
            ("empty/m", lambda tree: (tree / "empty").chmod(0o700)),
            ("dir/sub/m", lambda tree: (tree / "dir" / "sub").rename(tree / "away")),
            ("dir/sub/m", lambda tree: (tree / "dir").rename(tree / "away")),
            ("dir/sub/m", lambda tree: shutil.rmtree(tree / "dir")),
            ("dir/sub/m", lambda tree: (tree / "dir").chmod(0o700)),
            ("dir/sub/m", lambda tree: tree.rename(tree.parent / "away")),
        ],
    )
    def test_a_directory_on_the_way_changes(
        self, tree: Path, missing: str, change: Callable[[Path], object]
    ) -> None:
        """A directory is removed, renamed, replaced or made accessible."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, missing)
                change(tree)
                assert await watcher.next() == 1

        run(test())

    def test_a_directory_in_use_is_removed(self, tree: Path) -> None:
        """The watch fires although the inode still exists."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "empty/m")
                descriptor = os.open(tree / "empty", os.O_RDONLY)
                try:
                    (tree / "empty").rmdir()
                    assert await watcher.next() == 1
                finally:
                    os.close(descriptor)

        run(test())

    @pytest.mark.parametrize(
        ("present", "change"),
        [
            ("file", lambda tree: write(tree / "file")),
            ("file", lambda tree: (tree / "file").write_bytes(b"")),
            ("file", lambda tree: (tree / "file").chmod(0o600)),
            ("file", lambda tree: os.utime(tree / "file")),
            ("file", lambda tree: (tree / "file").unlink()),
            ("file", lambda tree: (tree / "file").rename(tree / "away")),
            ("file", lambda tree: (tree / "dir" / "file").rename(tree / "file")),
            ("file", lambda tree: create(tree / "m")),
            ("dir/file", lambda tree: (tree / "dir").rename(tree / "away")),
            ("dir", lambda tree: shutil.rmtree(tree / "dir")),
            ("dir", lambda tree: (tree / "dir").chmod(0o700)),
        ],
    )
    def test_the_present_path_changes(
        self, tree: Path, present: str, change: Callable[[Path], object]
    ) -> None:
        """Its contents, its mode, its location."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "m", present=present)
                change(tree)
                assert await watcher.next() == 1

        run(test())

    def test_the_present_path_changes_under_another_name(self, tree: Path) -> None:
        """It is the same file."""

        async def test() -> None:
            os.link(tree / "file", tree / "dir" / "other name")
            async with client(tree) as watcher:
                assert watcher.watch(1, "m", present="file")
                write(tree / "dir" / "other name")
                assert await watcher.next() == 1

        run(test())

    def test_something_is_mounted_on_the_way(self, tree: Path) -> None:
        """The mounted file system may contain a missing path."""
        own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
        if subprocess.run([*own_mounts, "true"], capture_output=True).returncode:
            pytest.skip("needs a mount namespace of its own")
        script = [sys.executable, "-c", MOUNTING, str(tree / "dir")]
        done = subprocess.run(
            [*own_mounts, *script], capture_output=True, text=True, timeout=PATIENCE
        )
        assert (done.stdout, done.stderr) == ("1\n", "")

    def test_one_of_many(self, tree: Path) -> None:
        """In any directory."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "a/x", "dir/y", "dir/sub/z", "dir/sub/zz", "m")
                create(tree / "dir" / "sub" / "z")
                assert await watcher.next() == 1

        run(test())


class TestSilence:
    """Events that do not fire a watch. A second client is notified, so the event was seen."""

    @pytest.mark.parametrize(
        ("change", "witnessed"),
        [
            (lambda tree: create(tree / "other"), ("other", None)),
            (lambda tree: create(tree / "mm"), ("mm", None)),
            (lambda tree: (tree / "new").mkdir(), ("new", None)),
            (lambda tree: create(tree / "dir" / "other"), ("dir/other", None)),
            (lambda tree: create(tree / "dir" / "sub" / "n"), ("dir/sub/n", None)),
            (lambda tree: write(tree / "dir" / "file"), ("x", "dir/file")),
            (lambda tree: (tree / "dir" / "file").chmod(0o600), ("x", "dir/file")),
            (lambda tree: (tree / "dir" / "file").unlink(), ("x", "dir/file")),
            (lambda tree: (tree / "empty").rmdir(), ("x", "empty")),
        ],
    )
    def test_unrelated_changes(
        self,
        tree: Path,
        change: Callable[[Path], object],
        witnessed: tuple[str, str | None],
    ) -> None:
        """Of neighbours, and inside of the present directory."""

        async def test() -> None:
            async with client(tree) as watcher, client(tree) as witness:
                assert watcher.watch(1, "m", "dir/sub/m", "dir/m/m", present="dir")
                assert witness.watch(1, witnessed[0], present=witnessed[1])
                change(tree)
                assert await witness.next() == 1
                assert await watcher.stays_silent()
                create(tree / "m")
                assert await watcher.next() == 1

        run(test())

    def test_reading_the_present_file(self, tree: Path) -> None:
        """Neither reading nor opening for writing is a change."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "m", present="file")
                assert (tree / "file").read_bytes() == b"outer"
                os.close(os.open(tree / "file", os.O_RDWR))
                assert await watcher.stays_silent()
                write(tree / "file")
                assert await watcher.next() == 1

        run(test())

    def test_many_events_before_the_one_that_matters(self, tree: Path) -> None:
        """The relevant event is not lost, even if others are."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "m")
                for _ in range(20_000):
                    create(tree / "busy")
                    (tree / "busy").unlink()
                create(tree / "m")
                assert await watcher.next() == 1

        run(test())


class TestOnce:
    """A watch fires only once."""

    def test_nothing_follows(self, tree: Path) -> None:
        """Further events are ignored until there is another watch."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "m", "n")
                create(tree / "m")
                create(tree / "n")
                assert await watcher.next() == 1
                create(tree / "o")
                assert await watcher.stays_silent()
                assert watcher.watch(2, "p")
                create(tree / "p")
                assert await watcher.next() == 2

        run(test())

    def test_nothing_fires_after_aclose(self, tree: Path) -> None:
        """Closing may be repeated."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "m")
                create(tree / "m")
                await watcher.aclose()
                assert await watcher.stays_silent()
                await watcher.aclose()

        run(test())


class TestIds:
    """A client numbers its watches upwards."""

    def test_only_larger_ones_are_taken(self, tree: Path) -> None:
        """0 never; what is running goes on."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert not watcher.watch(0, "m")
                assert watcher.watch(5, "m")
                assert [watcher.watch(watch_id, "n") for watch_id in (5, 4, 0)] == [False] * 3
                create(tree / "n")
                assert await watcher.stays_silent()
                create(tree / "m")
                assert await watcher.next() == 5
                assert not watcher.watch(5, "o")
                assert watcher.watch(2**64 - 1, "o")

        run(test())

    @pytest.mark.parametrize("missing", [(), ("file",), ("n",)])
    def test_a_larger_id_ends_the_previous_watch(
        self, tree: Path, missing: tuple[str, ...]
    ) -> None:
        """Even if it is refused; its id is used up then."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert watcher.watch(1, "m")
                assert watcher.watch(2, *missing) == (missing == ("n",))
                create(tree / "m")
                assert await watcher.stays_silent()
                assert not watcher.watch(2, "o")
                assert watcher.watch(3, "o")

        run(test())


class TestRefusals:
    """Watches that are refused."""

    @pytest.mark.parametrize(
        "missing",
        [
            ("file",),
            ("dir",),
            ("m", "file"),
            ("to file",),
            ("dangling",),
            ("loop",),
            ("/",),
            ("to dir/m",),
            ("dangling/m",),
            ("loop/m",),
            ("file/m",),
            ("to file/m",),
            ("x" * 256,),
            ("/proc/m",),
            ("/proc/self/m",),
            ("/sys/m",),
        ],
    )
    def test_paths(self, tree: Path, missing: tuple[str, ...]) -> None:
        """Paths that exist, lead through links or files, are invalid, or change without events."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert not watcher.watch(1, *missing)
                assert watcher.watch(2, "m")

        run(test())

    @pytest.mark.parametrize(
        "present",
        ["m", "to file", "to dir/file", "dangling", "loop", "file/x", "/proc/self/status"],
    )
    def test_something_present(self, tree: Path, present: str) -> None:
        """A path that is missing, is or crosses a link, or changes without events."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert not watcher.watch(1, "m", present=present)
                assert watcher.watch(2, "m", present="dir/file")

        run(test())

    def test_how_many(self, tree: Path) -> None:
        """1 to 64, the same one more than once or not."""

        async def test() -> None:
            async with client(tree) as watcher:
                assert not watcher.watch(1)
                assert not watcher.watch(2, present="file")
                assert not watcher.watch(3, *["m"] * 65)
                assert watcher.watch(4, *["m"] * 64)
                assert watcher.watch(5, *[f"m{number}" for number in range(64)])
                create(tree / "m63")
                assert await watcher.next() == 5

        run(test())
