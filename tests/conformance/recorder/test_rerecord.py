"""What a server says now is shown beside what was recorded, and written only where it may be."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.recording_proxy import OURS, command
from tests.support.suite_runs import PROGRAM, SESSION, against, run, written
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_process_is_left")

HEADER = {**SESSION[0], "source": "the first server"}


def recorded(directory: Path, header: dict[str, Any] | None = None, **process: Any) -> Path:
    """A folder with a session as a server without a fault says it; members change one step."""
    error = {"code": -32602, "message": "missing field"}
    refused = {**SESSION[3], "expect": {"error": error}}
    return written(directory, [header or HEADER, SESSION[1], {**SESSION[2], **process}, refused])


def rerecord(fault: str, sessions: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("rerecord", "--cmd", against(fault), "--sessions", sessions, *more)


def text_of(sessions: Path) -> str:
    [path] = sessions.rglob("*.jsonl")
    return path.read_text()


def test_unchanged_server_has_no_differences(tmp_path: Path) -> None:
    done = rerecord("none", recorded(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "1 run: 0 changed (0 would fail), 0 kept although the server differs, 0 failed; 0 n/a\n"
    )


def test_differences_are_written_only_on_request(tmp_path: Path) -> None:
    before = text_of(recorded(tmp_path))
    done = rerecord("exit-code", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "v1/test/one (the first server)",
        "  one.jsonl:3 process p",
        "    - exitCode: 0",
        "    + exitCode: 1",
        "1 run: 1 changed (1 would fail), 0 kept although the server differs, 0 failed; 0 n/a",
        "no file was changed; use --write --source NAME to update the sessions",
    ]
    assert text_of(tmp_path) == before

    write = rerecord("exit-code", tmp_path, "--write", "--source", "the second server")
    assert write.returncode == 0
    assert "+ exitCode: 1" in write.stdout
    assert "1 run: 1 refilled" in write.stdout
    after = before.replace("the first server", "the second server")
    assert text_of(tmp_path) == after.replace('"exitCode": 0', '"exitCode": 1')
    assert rerecord("exit-code", tmp_path).returncode == 0
    assert run("--cmd", against("exit-code"), "--sessions", tmp_path).returncode == 0


def test_changed_messages_are_shown(tmp_path: Path) -> None:
    lines = [HEADER, *SESSION[1:3]]
    error = {"code": -32602, "message": "no processId"}
    written(tmp_path, [*lines, {**SESSION[3], "expect": {"error": error}}])
    done = rerecord("none", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:4] == [
        "  one.jsonl:4 process/terminate (the session still passes)",
        '    - error.message: "no processId"',
        '    + error.message: "missing field"',
    ]
    assert "1 changed (0 would fail)" in done.stdout


def test_matching_pattern_is_kept(tmp_path: Path) -> None:
    loose = {"output": {"stdout": {"$regex": "h."}}, "exitCode": {"$type": "integer"}}
    recorded(tmp_path, expect=loose)
    assert rerecord("none", tmp_path).returncode == 0
    done = rerecord("wrong-stream", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:4] == [
        "  one.jsonl:3 process p",
        '    - output.stdout: {"$regex": "h."}',
        '    + output.stderr: "hi"',
    ]


@pytest.mark.parametrize("source", ["written: after the README", None])
def test_hand_written_session_is_never_updated(tmp_path: Path, source: str | None) -> None:
    header = {**SESSION[0], **({"source": source} if source else {})}
    before = text_of(recorded(tmp_path, header))
    for more in ([], ["--write", "--source", "another server"]):
        done = rerecord("exit-code", tmp_path, *more)
        assert done.returncode == 0
        assert "  one.jsonl:3 process p (kept: written)\n    - exitCode: 0\n" in done.stdout
        assert " 0 refilled " in done.stdout or " 0 changed " in done.stdout
        assert ", 1 kept although the server differs" in done.stdout
        assert text_of(tmp_path) == before


def test_overriding_expectation_is_kept(tmp_path: Path) -> None:
    before = text_of(recorded(tmp_path, overrides="a program that works ends with 0"))
    done = rerecord("exit-code", tmp_path, "--write", "--source", "another server")
    assert done.returncode == 0
    assert "  one.jsonl:3 process p (kept: a program that works ends with 0)" in done.stdout
    assert text_of(tmp_path) == before


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("crashes", "the server exited with exit code 9: out of luck"),
        ("stops-answering", "the server no longer answers any request"),
        ("floods-garbage", "expected a JSON message, got 'garbage'"),
    ],
)
def test_session_that_cannot_be_run_is_not_written(tmp_path: Path, fault: str, said: str) -> None:
    before = text_of(recorded(tmp_path))
    done = rerecord(fault, tmp_path, "--write", "--source", "x", "--timeout", "4")
    assert done.returncode == 1
    [failed, summary] = done.stdout.splitlines()
    assert failed.startswith("FAILED v1/test/one: one.jsonl:")
    assert said in failed
    assert summary.endswith(", 1 failed; 0 n/a")
    assert text_of(tmp_path) == before


def test_secret_is_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cr3t-0123456789")
    recorded(tmp_path, expect={"output": {"stdout": "s3cr3t-0123456789"}, "exitCode": 0})
    done = rerecord("none", tmp_path)
    assert '    - output.stdout: "[redacted]"\n    + output.stdout: "hi"\n' in done.stdout


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--cmd", "/no/such/program"], 3, "the server could not be run: cannot run '/no/such/"),
        (["--url", "ws://127.0.0.1:1"], 2, "no session over ws matches"),
        (["--cmd", OURS, "--select", "v1/nothing"], 2, "no session matches v1/nothing"),
        (["--cmd", OURS, "--write"], 2, "--write requires --source"),
        (["--cmd", OURS, "--jobs", "0"], 2, "argument --jobs: expected 1 or more"),
        (["--cmd", OURS, "--server-version", "new"], 2, "expected a release such as 0.139.0"),
        (["--cmd", against("none", "v2")], 2, "no session of v2 matches"),
        (["--cmd", against("hangs")], 3, "it supports none of v0, v1, v2, draft"),
        ([], 2, "one of the arguments --cmd --url is required"),
    ],
)
def test_errors_are_one_message(tmp_path: Path, more: list[str], code: int, said: str) -> None:
    done = run("rerecord", *more, "--sessions", recorded(tmp_path))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_interrupt_stops_everything_and_keeps_results(tmp_path: Path) -> None:
    waiting = [{**HEADER, "session": "v1/test/waiting", "timeoutSeconds": 90}, {"pause": 60}]
    sessions = written(recorded(tmp_path), waiting)
    argv = [PROGRAM, "rerecord", "--cmd", against("exit-code"), "--sessions", str(sessions)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "v1/test/one (the first server)\n"
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
            assert process.stderr is not None
            out, err = process.stdout.read(), process.stderr.read()
        finally:
            process.kill()
    assert (process.returncode, err) == (130, "")
    assert "    + exitCode: 1\n1 run: 1 changed" in out


@pytest.mark.parametrize(
    ("server", "sessions"),
    [
        ("codex 0.139.0", ["v1/process/pipe_*", "v1/fs/read_*", "v1/handshake/*"]),
        ("codex 0.169.0", ["v2/sandbox/*", "v2/discovery/*"]),
    ],
)
def test_recordings_match_the_recorded_release(server: str, sessions: list[str]) -> None:
    selected = [word for glob in sessions for word in ("--select", glob)]
    more = ["--server-version", server.removeprefix("codex "), *selected]
    done = run("rerecord", "--cmd", command(server), *more)
    assert " 0 changed (0 would fail)" in done.stdout
    assert ", 0 failed;" in done.stdout
    assert not done.stdout.startswith("0 played")
    assert done.returncode == 0
