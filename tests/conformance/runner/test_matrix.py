"""Several servers side by side."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.suite_runs import SESSION, against, run, written

if TYPE_CHECKING:
    from pathlib import Path


def targets(directory: Path, **commands: str) -> Path:
    """A file that names servers by their commands."""
    path = directory / "targets.toml"
    path.write_text(
        "".join(
            f"[[target]]\nname = {json.dumps(name)}\ncommand = {json.dumps(command)}\n"
            for name, command in commands.items()
        )
    )
    return path


def test_matrix_compares_servers(tmp_path: Path) -> None:
    only_v2 = [{**SESSION[0], "session": "v2/test/two", "description": "not <for> v1"}]
    sessions = written(written(tmp_path / "sessions"), only_v2)
    path = targets(
        tmp_path,
        right=against("none", "v1", "v2"),
        wrong=against("exit-code"),
        old=against("none", "v0"),
        **{"not | there": "/no/such/server"},
    )
    files = {kind: tmp_path / kind for kind in ("json", "markdown", "html")}
    options = [f"--{kind}={file}" for kind, file in files.items()]
    done = run("matrix", path, "--sessions", sessions, *options)
    assert done.returncode == 3
    assert "v1/test/one   ✓  ✗" in done.stdout
    assert "v2/test/two" not in done.stdout
    assert "1 of 2 sessions pass on every server that they apply to." in done.stdout
    assert "not | there: could not be run: cannot run '/no/such/server'" in done.stdout
    matrix = json.loads(files["json"].read_text(encoding="utf-8"))
    assert [server["exitCode"] for server in matrix["servers"]] == [0, 1, 0, 3]
    assert [
        {name: cell["outcome"] for name, cell in row["cells"].items()} for row in matrix["rows"]
    ] == [{"right": "passed", "wrong": "failed"}, {"right": "passed"}]
    markdown = files["markdown"].read_text(encoding="utf-8")
    assert "| session | right | wrong | old | not \\| there |" in markdown
    assert "| one: one process | ✓ | ✗ |  |  |" in markdown
    assert "| two: not &lt;for> v1 | ✓ |  |  |  |" in markdown
    assert "- v1/test/one on wrong: one.jsonl:3: process 'p'.exitCode: expected 0" in markdown
    page = files["html"].read_text(encoding="utf-8")
    assert "not &lt;for&gt; v1" in page
    assert page.count("<tr class=session") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'target' is a required property"),
        ("[[target]]", "requires exactly one of command, url and peer"),
        ('[[target]]\ncommand = "a"\nurl = "b"', "requires exactly one of command, url and peer"),
        ('[[target]]\ncommand = "a"\ncolour = 1', "colour"),
        ('[[target]]\npeer = "newest"', "does not match"),
        ('[[target]]\npeer = "0.0.1"', "exec_server_conformance.codex_binaries fetch 0.0.1`"),
        ('[[target]]\nname = "a"\ncommand = "b"\n' * 2, "duplicate target 'a'"),
        ("[[target", "targets.toml"),
    ],
)
def test_invalid_targets_file_is_reported(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text)
    done = run("matrix", path, "--sessions", written(tmp_path / "sessions"))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_target_has_its_own_known_deviations(tmp_path: Path) -> None:
    (tmp_path / "known.toml").write_text(
        '[[deviation]]\nsessions = "v1/test/*"\nreason = "so it is"\n'
        """fails_with = { kind = "value", at = "process 'p'.exitCode" }\n"""
    )
    path = targets(tmp_path, wrong=against("exit-code"))
    path.write_text(path.read_text() + 'known_deviations = "known.toml"\n')
    markdown = tmp_path / "table.md"
    options: list[Any] = ["--sessions", written(tmp_path / "sessions"), "--markdown", markdown]
    done = run("matrix", path, *options)
    assert done.returncode == 0
    assert "v1/test/one   ~" in done.stdout
    assert "- v1/test/one on wrong: so it is" in markdown.read_text(encoding="utf-8")
    assert shlex.split(against("exit-code"))[0] in (tmp_path / "targets.toml").read_text()
