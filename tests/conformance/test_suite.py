"""The suite passes a right server, and says of each wrong one what is wrong."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exec_server_conformance.errors import Failure
from exec_server_conformance.patterns import generalise, match

PROGRAM = str(Path(sys.executable).with_name("exec-server-conformance"))
WRONG_SERVER = Path(__file__).with_name("wrong_server.py")

SESSION: list[dict[str, Any]] = [
    {"session": "v1/test/one", "description": "one process", "transports": ["stdio"]},
    {
        "call": "process/start",
        "params": {"processId": "p", "argv": ["x"], "cwd": "/", "env": {}, "tty": False},
        "expect": {"result": {"processId": "p"}},
    },
    {"process": "p", "expect": {"output": {"stdout": "hi"}, "exitCode": 0}},
    {"call": "process/terminate", "params": {}, "expect": {"error": {"code": -32602}}},
]


def written(directory: Path, lines: list[dict[str, Any]] | None = None) -> Path:
    """A folder with one session."""
    text = "".join(json.dumps(line) + "\n" for line in lines or SESSION)
    (directory / "one.jsonl").write_text(text)
    return directory


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def against(fault: str) -> str:
    return shlex.join([sys.executable, str(WRONG_SERVER), fault])


def test_a_right_server_passes(tmp_path: Path) -> None:
    done = run("--cmd", against("none"), "--sessions", written(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("1 passed, 0 failed, 0 known deviations, 0 skipped in ")


@pytest.mark.parametrize(
    ("fault", "line", "text"),
    [
        ("seq-gap", 3, "to exit and close without a gap"),
        ("seq-from-zero", 3, "numbers start from 1"),
        ("lost-chunk", 3, "expected a member 'stdout'"),
        ("wrong-stream", 3, "expected a member 'stdout'"),
        ("exit-code", 3, "exitCode: expected 0, got 1"),
        ("output-after-close", 3, "numbered after its close"),
        ("exit-twice", 3, "second process/exited"),
        ("unknown-notification", 3, "unknown notification"),
        ("wrong-code", 4, "expected -32602, got -32603"),
        ("wrong-id", 2, "nobody waits for this answer"),
        ("answer-twice", 3, "nobody waits for this answer"),
        ("schema", 2, "breaks the schema"),
        ("hangs", 2, "expected an answer to process/start within 6 s"),
        ("dies", 2, "the server ended the connection"),
        ("garbage", 2, "expected a JSON message"),
    ],
)
def test_each_fault_is_caught_and_named(tmp_path: Path, fault: str, line: int, text: str) -> None:
    done = run("--cmd", against(fault), "--sessions", written(tmp_path), "--timeout", "6")
    assert done.returncode == 1
    failures = [one for one in done.stdout.splitlines() if one.startswith("FAILED")]
    assert len(failures) == 1
    assert failures[0].startswith("FAILED v1/test/one [stdio]: one.jsonl:")
    assert text in failures[0]
    assert abs(int(failures[0].split("one.jsonl:")[1].split(":")[0]) - line) <= 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", ["/no/such/program", "true --listen ws://127.0.0.1:0", "echo hello --listen"]
)
def test_a_server_that_cannot_be_run_is_one_message(tmp_path: Path, command: str) -> None:
    session = [{**SESSION[0], "transports": ["ws"]}, *SESSION[1:]]
    done = run("--cmd", command, "--sessions", written(tmp_path, session))
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("the server could not be run: ")
    assert done.stdout == ""


def test_a_known_deviation_is_excused_and_a_stale_one_fails(tmp_path: Path) -> None:
    known = tmp_path / "known.toml"
    known.write_text('[[deviation]]\nsessions = "v1/test/*"\nreason = "it is so"\n')
    arguments = ["--sessions", written(tmp_path), "--known-deviations", known]
    excused = run("--cmd", against("exit-code"), *arguments)
    assert excused.returncode == 0
    assert "0 passed, 0 failed, 1 known deviations" in excused.stdout
    assert "it is so" in excused.stdout
    stale = run("--cmd", against("none"), *arguments)
    assert stale.returncode == 1
    assert "STALE" in stale.stdout


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "one.jsonl:1"),
        ("nonsense", "one.jsonl:1"),
        ('{"session": "x"}', "one.jsonl:1"),
        (json.dumps(SESSION[0]) + '\n{"dance": 1}', "one.jsonl:2"),
        (json.dumps(SESSION[0]) + '\n{"call": "x", "parms": 1}', "one.jsonl:2"),
    ],
)
def test_a_bad_session_file_is_named_with_its_line(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "one.jsonl").write_text(text)
    for done in (run("check", "--sessions", tmp_path), run("--list", "--sessions", tmp_path)):
        assert done.returncode == 2
        assert where in done.stderr
        assert "Traceback" not in done.stderr


def test_recording_twice_gives_the_same_session(tmp_path: Path) -> None:
    bare = [{name: value for name, value in line.items() if name != "expect"} for line in SESSION]
    scenario = written(tmp_path, bare)
    outputs = []
    for name in ("first", "second"):
        done = run(
            "record",
            "--cmd",
            against("none"),
            "--scenario",
            scenario / "one.jsonl",
            "--out",
            tmp_path / name,
            "--source",
            "test",
        )
        assert done.returncode == 0, done.stdout
        outputs.append((tmp_path / name / "v1/test/one.jsonl").read_text())
    assert outputs[0] == outputs[1]
    assert '"exitCode": 0' in outputs[0]


def test_the_sessions_of_the_suite_are_well_formed_and_listed() -> None:
    assert run("check").returncode == 0
    listed = run("--list").stdout.splitlines()
    assert len(listed) >= 150


@pytest.mark.parametrize(
    ("expected", "actual", "matches"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {}, False),
        ([1, 2], [1, 2], True),
        ([1, 2], [2, 1], False),
        ({"$unordered": [1, 2]}, [2, 1], True),
        ({"$unordered": [1, 2]}, [2, 2], False),
        ({"$type": "integer"}, 5, True),
        ({"$type": "integer"}, True, False),
        ({"$type": "string"}, 5, False),
        ({"$regex": "a+"}, "aaa", True),
        ({"$regex": "a+"}, "aab", False),
        (
            {"$chunks": {"pty": "ab"}},
            [{"stream": "pty", "chunk": "YQ=="}, {"stream": "pty", "chunk": "Yg=="}],
            True,
        ),
        ({"$chunks": {"pty": "ab"}}, [{"stream": "stdout", "chunk": "YWI="}], False),
    ],
)
def test_patterns(expected: Any, actual: Any, matches: bool) -> None:
    if matches:
        match(expected, actual, "value")
    else:
        with pytest.raises(Failure):
            match(expected, actual, "value")


def test_generalising_names_places_and_matches_what_was_recorded() -> None:
    value = {
        "sessionId": "00000000-0000-4000-8000-000000000000",
        "path": "/tmp/x/y",
        "entries": [2, 1],
    }
    general = generalise(value, {"/tmp/x": "${workspace}"})
    assert general["path"] == "${workspace}/y"
    match({**general, "path": "/tmp/x/y"}, value, "value")
