"""Files that the client reads, changes and discovers through the exec-server."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from .mock_model import call
from .stage import CommandResult, apply_patch, run_command

if TYPE_CHECKING:
    from .mock_model import Item
    from .stage import Stage


def test_patch_creates(stage: Stage) -> None:
    """A patch creates a file, and the directories above it."""
    told = stage.play([apply_patch("patch", "*** Add File: new/deep/file.txt", "+one", "+zwei ü")])
    assert "A new/deep/file.txt" in told.text_result("patch")
    assert (stage.workspace / "new/deep/file.txt").read_text() == "one\nzwei ü\n"


def test_patch_edits(stage: Stage) -> None:
    """A patch changes lines of a file and keeps the rest, its mode included."""
    file = stage.workspace / "script.sh"
    file.write_text("first\nsecond\nthird\n")
    file.chmod(0o750)
    told = stage.play(
        [apply_patch("patch", "*** Update File: script.sh", "@@", " first", "-second", "+2nd")]
    )
    assert "M script.sh" in told.text_result("patch")
    assert file.read_text() == "first\n2nd\nthird\n"
    assert file.stat().st_mode & 0o777 == 0o750


def test_patch_moves(stage: Stage) -> None:
    """A patch moves a file that it changes."""
    (stage.workspace / "old.txt").write_text("keep\nchange\n")
    told = stage.play(
        [
            apply_patch(
                "patch",
                "*** Update File: old.txt",
                "*** Move to: sub/new.txt",
                "@@",
                " keep",
                "-change",
                "+changed",
            )
        ]
    )
    assert "sub/new.txt" in told.text_result("patch")
    assert not (stage.workspace / "old.txt").exists()
    assert (stage.workspace / "sub/new.txt").read_text() == "keep\nchanged\n"


def test_patch_deletes(stage: Stage) -> None:
    """A patch deletes a file and nothing beside it."""
    (stage.workspace / "gone.txt").write_text("x\n")
    (stage.workspace / "kept.txt").write_text("x\n")
    told = stage.play([apply_patch("patch", "*** Delete File: gone.txt")])
    assert "D gone.txt" in told.text_result("patch")
    assert not (stage.workspace / "gone.txt").exists()
    assert (stage.workspace / "kept.txt").exists()


def test_patch_fails(stage: Stage) -> None:
    """Patches that do not fit change nothing, and the model is told what is wrong."""
    (stage.workspace / "file.txt").write_text("real\n")
    told = stage.play(
        [apply_patch("context", "*** Update File: file.txt", "@@", "-imagined", "+better")],
        [apply_patch("absent", "*** Update File: absent.txt", "@@", "-x", "+y")],
        [apply_patch("delete", "*** Delete File: absent.txt")],
    )
    assert "imagined" in told.text_result("context")
    assert "absent.txt" in told.text_result("absent")
    assert "absent.txt" in told.text_result("delete")
    assert (stage.workspace / "file.txt").read_text() == "real\n"
    assert {path.name for path in stage.workspace.iterdir()} == {".git", "file.txt"}


def test_patch_as_a_command(stage: Stage) -> None:
    """A patch that is typed as a shell command is applied as a patch."""
    told = stage.play(
        [
            run_command(
                "patch",
                "apply_patch <<'EOF'\n"
                "*** Begin Patch\n*** Add File: typed.txt\n+typed\n*** End Patch\n"
                "EOF",
            )
        ]
    )
    assert "A typed.txt" in told.text_result("patch")
    assert (stage.workspace / "typed.txt").read_text() == "typed\n"
    if stage.wire is not None:
        assert stage.wire.requests("process/start") == []


@pytest.mark.since("0.165.0")
def test_copies_between_environments(stage: Stage) -> None:
    """A file is carried over in blocks, from where the client is to the server and back."""
    data = bytes(range(256)) * 10_000 + b"an odd end"
    (stage.workspace / "source.bin").write_bytes(data)
    (stage.workspace / "there.bin").write_bytes(b"what was there before")

    def copy(call_id: str, source: str, target: str) -> Item:
        (from_environment, from_name), (to_environment, to_name) = source.split(), target.split()
        return call(
            call_id,
            "multi_env_copy_file",
            source_environment_id=from_environment,
            source_path=str(stage.workspace / from_name),
            target_environment_id=to_environment,
            target_path=str(stage.workspace / to_name),
        )

    told = stage.play(
        [copy("there", "local source.bin", "remote there.bin")],
        [copy("back", "remote there.bin", "local back.bin")],
        [copy("absent", "remote absent.bin", "local never.bin")],
        settings={"features.multi_env_copy_file": True},
        include_local=True,
    )
    assert str(len(data)) in told.text_result("there")
    assert (stage.workspace / "there.bin").read_bytes() == data
    assert (stage.workspace / "back.bin").read_bytes() == data
    assert "not found" in told.text_result("absent")
    if stage.wire is not None:
        assert {params["mode"] for params in stage.wire.requests("fs/open")} == {"read", "replace"}
        assert len(stage.wire.requests("fs/readBlock")) > 1
        assert len(stage.wire.requests("fs/writeBlock")) > 1


def test_image(stage: Stage) -> None:
    """An image is shown to the model; a file that is not there is not."""
    image = _png()
    (stage.workspace / "dot.png").write_bytes(image)
    told = stage.play(
        [call("see", "view_image", path=str(stage.workspace / "dot.png"))],
        [call("miss", "view_image", path=str(stage.workspace / "absent.png"))],
    )
    (part,) = told.result("see")
    assert part["type"] == "input_image"
    kind, _, data = part["image_url"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == image
    assert "absent.png" in told.text_result("miss")


def test_project_instructions(stage: Stage) -> None:
    """AGENTS.md of the project's root and of the directory are read to the model, in that order."""
    (stage.workspace / "AGENTS.md").write_text("Speak like a pirate, instruction 4711.\n")
    told = stage.play([run_command("run", "true")])
    assert told.text.count("Speak like a pirate, instruction 4711.") == 1


def test_overridden_project_instructions(stage: Stage) -> None:
    """AGENTS.override.md comes instead of AGENTS.md."""
    (stage.workspace / "AGENTS.md").write_text("Instruction 4711.\n")
    (stage.workspace / "AGENTS.override.md").write_text("Instruction 4712.\n")
    told = stage.play([run_command("run", "true")])
    assert "Instruction 4712." in told.text
    assert "Instruction 4711." not in told.text


def test_skills(stage: Stage) -> None:
    """Skills of the project are found and offered; the model can read one."""
    skill = stage.workspace / ".agents/skills/greeting/SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text(
        "---\nname: greeting\ndescription: How to greet on day 4713.\n---\nSay ahoy.\n"
    )
    told = stage.play([run_command("read", f"cat {skill}")])
    assert "How to greet on day 4713." in told.text
    assert CommandResult.of(told, "read").output == skill.read_text()


def _png() -> bytes:
    """A picture of one red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
