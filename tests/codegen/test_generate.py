"""Generating and checking, through the command line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exec_server_codegen.cli import main
from tests.support.checkout import ROOT
from tests.support.waiting import RUN_SECONDS

SCHEMA = ROOT / "schema"
PACKAGE = Path("generated/exec_server_protocol")
COMMAND = "import sys; from exec_server_codegen.cli import main; sys.exit(main())"


OTHERS = ("v0", "v2", "draft", "v0.json", "v2.json")
"""Parts of the schema left out where one revision shows all."""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the schema and what is generated from it."""
    shutil.copytree(SCHEMA, tmp_path / "schema")
    shutil.copytree(
        ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "docs/reference", tmp_path / "docs/reference")
    shutil.copy(ROOT / "docs/compatibility.md", tmp_path / "docs/compatibility.md")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def generated_v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The schema of v1 alone, and what is generated from it."""
    folder = tmp_path_factory.mktemp("v1")
    shutil.copytree(SCHEMA, folder / "schema", ignore=shutil.ignore_patterns(*OTHERS))
    done = run(folder, "generate")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def v1(generated_v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the schema of v1 and what is generated from it."""
    shutil.copytree(generated_v1, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("generated", "docs")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def run(folder: Path, *arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )


def test_the_generated_files_of_the_repository_are_up_to_date(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(workspace)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == f"{len(before)} files are up to date\n"
    assert tree(workspace) == before


def test_generating_twice_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        folder = tmp_path / seed
        shutil.copytree(SCHEMA, folder / "schema")
        done = run(folder, "generate", hash_seed=seed)
        assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert tree(tmp_path / "1").items() <= tree(ROOT).items()


def test_generating_touches_only_what_changed(v1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (v1 / PACKAGE / "v1/http.py").write_text("edited by hand\n", encoding="utf-8")
    assert main(["generate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrote {PACKAGE}/v1/http.py"
    assert lines[1:] == [f"{len(tree(v1))} files, 1 changed"]
    assert main(["check"]) == 0


def test_check_prints_the_drift_of_an_edited_file(
    v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = v1 / PACKAGE / "v1/errors.py"
    path.write_text(path.read_text(encoding="utf-8").replace("-32602", "-32699"), encoding="utf-8")
    assert main(["check"]) == 1
    captured = capsys.readouterr()
    assert f"--- {PACKAGE}/v1/errors.py (present)\n+++ {PACKAGE}/v1/errors.py (generated)\n" in (
        captured.out
    )
    assert "-INVALID_PARAMS: Final = -32699\n+INVALID_PARAMS: Final = -32602\n" in captured.out
    assert f"changed: {PACKAGE}/v1/errors.py\n" in captured.err
    assert "-32699" in path.read_text(encoding="utf-8")


def test_check_names_a_missing_and_a_stale_file(
    v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (v1 / "docs/reference/v1/errors.md").unlink()
    old = v1 / PACKAGE / "v1/terminal.py"
    shutil.copy(v1 / PACKAGE / "v1/http.py", old)
    foreign = v1 / PACKAGE / "notes.txt"
    foreign.write_text("kept\n", encoding="utf-8")
    assert main(["check"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[:2] == [
        "exec-server-codegen: missing: docs/reference/v1/errors.md",
        f"exec-server-codegen: stale: {PACKAGE}/v1/terminal.py",
    ]
    assert main(["generate"]) == 0
    assert not old.exists()
    assert foreign.exists()


def test_a_change_of_the_schema_is_drift(v1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = v1 / "schema/v1/environment.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    shell = document["$defs"]["Shell"]
    shell["properties"]["version"] = {
        "description": "Version of the shell.",
        "type": "string",
        "default": "",
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    assert main(["check"]) == 1
    captured = capsys.readouterr()
    assert '+    version: str = ""' in captured.out.replace("''", '""')
    assert f"changed: {PACKAGE}/v1/environment.py\n" in captured.err


def test_a_revision_is_generated_alone_and_goes_when_its_schema_does(
    v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(v1 / "schema/v1", v1 / "schema/v9")
    methods = v1 / "schema/v9/methods.json"
    text = methods.read_text(encoding="utf-8").replace('"revision": "v1"', '"revision": "v9"')
    methods.write_text(text, encoding="utf-8")
    edited = v1 / PACKAGE / "v1/session.py"
    edited.write_text("edited by hand\n", encoding="utf-8")
    assert main(["generate", "--revision", "v9"]) == 0
    assert edited.read_text(encoding="utf-8") == "edited by hand\n"
    assert (v1 / PACKAGE / "v9/server.py").is_file()
    assert (v1 / "docs/reference/v9/index.md").is_file()
    assert '("v1", "v9")' in (v1 / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert main(["generate"]) == 0
    assert main(["check"]) == 0
    shutil.rmtree(v1 / "schema/v9")
    capsys.readouterr()
    assert main(["check"]) == 1
    assert f"stale: {PACKAGE}/v9/server.py\n" in capsys.readouterr().err


def test_the_header_names_the_schema_and_its_digest(workspace: Path) -> None:
    digest = hashlib.sha256((workspace / "schema/v1/process.json").read_bytes()).hexdigest()
    lines = (workspace / PACKAGE / "v1/process.py").read_text(encoding="utf-8").splitlines()
    assert lines[0] == (
        "# Generated by exec-server-codegen from schema/v1/process.json; do not edit."
    )
    assert lines[1] == f"# sha256 {digest}"
    files = sorted((workspace / "schema/v1").glob("*.json"))
    whole = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    for name in ("v1/methods.py", "v1/schema.json", "v1/openrpc.json"):
        assert whole in (workspace / PACKAGE / name).read_text(encoding="utf-8")
    page = (workspace / "docs/reference/v1/process.md").read_text(encoding="utf-8")
    assert whole in page.splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--schema", "nowhere"], "no schema folder: nowhere"),
        (["check", "--schema", "docs"], "no revision in the schema folder: docs"),
        (["lint", "--revision", "v77"], "unknown revision: v77 (known: v0, v1"),
    ],
)
def test_a_wrong_command_line_ends_with_one_message_and_code_2(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"exec-server-codegen: {message}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["make"], ["generate", "--fast"]])
def test_an_unknown_command_or_option_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: exec-server-codegen" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "check", "lint"])
@pytest.mark.parametrize("content", [b'{"$defs": ', b"[1, 2]", b"\xff\xfe", b'{"$defs": 5}'])
def test_a_broken_schema_file_is_a_finding_and_nothing_is_written(
    workspace: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes
) -> None:
    before = tree(workspace)
    (workspace / "schema/v1/http.json").write_bytes(content)
    assert main([command]) == 1
    captured = capsys.readouterr()
    assert "schema/v1/http.json:#" in captured.out + captured.err
    assert tree(workspace) == before


def test_a_broken_metaschema_is_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "schema/meta/errors.schema.json").write_text('{"type": 7}', encoding="utf-8")
    assert main(["lint"]) == 1
    assert "schema/meta/errors.schema.json: " in capsys.readouterr().err
    (workspace / "schema/meta/errors.schema.json").unlink()
    assert main(["lint"]) == 1
    assert "schema/meta/errors.schema.json: the file is missing" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(
    v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (v1 / "file").write_text("", encoding="utf-8")
    assert main(["generate", "--out", "file"]) == 1
    assert capsys.readouterr().err.startswith("exec-server-codegen: cannot write file/")


def test_help_explains_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("generate", "check", "lint", "exit codes"):
        assert word in text


@pytest.mark.parametrize("package", ["datamodel_code_generator", "jinja2", "jsonschema"])
def test_a_missing_package_is_named_in_one_line(package: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None; "
        "from exec_server_codegen.program import main; sys.exit(main())"
    )
    command = [sys.executable, "-W", "error", "-c", script, "lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"exec-server-codegen: the package {package} is not installed; install "
        "exec-server-codegen with its dependencies\n"
    )
