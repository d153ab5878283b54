"""Servers that cannot be run, hang, flood or crash: one clear message and no process left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from exec_server_conformance.runner import matrix
from tests.support.suite_runs import PROGRAM, SESSION, against, run, written
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_process_is_left")


def shell(script: str) -> str:
    """A command that runs a script; ``--listen`` and what follows are its arguments."""
    return shlex.join(["sh", "-c", script, "server"])


def python(script: str) -> str:
    return shlex.join([sys.executable, "-c", script])


FOREVER = "while :; do sleep 0.1; done"

NO_SERVERS = {
    "a command that does not exist": ("/no/such/program", "cannot run '/no/such/program'"),
    "a directory": ("/tmp", "cannot run '/tmp'"),
    "an unfinished quote": ("server 'x", "the command cannot be parsed"),
    "nothing": ("''", "cannot run ''"),
    "a program that ends": (shell("echo no good >&2; exit 3"), "no good"),
    "a program that says nothing": (shell(FOREVER), "initialize was not answered within 3 s"),
    "garbage": (shell("echo Welcome to the server; cat > /dev/null"), "Welcome to the server"),
    "a flood of garbage": (shell("cat > /dev/null & exec yes"), "'y'"),
    "a flood without lines": (
        shell("cat > /dev/null & exec cat /dev/zero"),
        "the server could not be run",
    ),
    "another protocol": (
        shell('read x; echo \'{"id": "initialize", "error": {"code": 1}}\'; cat >/dev/null'),
        "expected a result of initialize",
    ),
}


@pytest.mark.parametrize("what", NO_SERVERS)
def test_invalid_stdio_server_is_one_message(tmp_path: Path, what: str) -> None:
    command, said = NO_SERVERS[what]
    began = time.monotonic()
    done = run("--cmd", command, "--sessions", written(tmp_path), "--timeout", "3")
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("the server could not be run: ")
    assert said in done.stderr
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo Welcome; " + FOREVER, "was expected to print a ws:// URL, but printed 'Welcome'"),
        ("echo the port is taken >&2; exit 1", "exited with exit code 1: the port is taken"),
        ("kill -SEGV $$", "exited with SIGSEGV"),
        ("echo ws://127.0.0.1:1; " + FOREVER, "cannot connect to ws://127.0.0.1:1"),
        ("exec cat /dev/zero", "printed no ws:// URL"),
    ],
)
def test_invalid_websocket_server_is_one_message(tmp_path: Path, script: str, said: str) -> None:
    sessions = written(tmp_path, [{**SESSION[0], "transports": ["ws"]}, *SESSION[1:]])
    done = run("--cmd", shell(script), "--sessions", sessions)
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def known(directory: Path, more: str = "", fails_with: str = 'kind = "value"') -> Path:
    path = directory / "known.toml"
    path.write_text(
        f'[[deviation]]\nsessions = "v1/test/*"\nreason = "it is so"\n'
        f"fails_with = {{ {fails_with} }}\n{more}"
    )
    return path


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("crashes", "the server exited with exit code 9: out of luck"),
        ("is-killed", "the server exited with SIGKILL"),
        ("stops-answering", "the server no longer answers any request"),
    ],
)
def test_crash_or_hang_is_not_excused(tmp_path: Path, fault: str, said: str) -> None:
    options: list[Any] = ["--sessions", written(tmp_path), "--timeout", "3"]
    done = run("--cmd", against(fault), *options, "--known-deviations", known(tmp_path))
    assert done.returncode == 1, done.stdout
    assert done.stdout.startswith("ERROR  v1/test/one [stdio]: one.jsonl:2: ")
    assert said in done.stdout


def test_known_hang_is_excused_and_a_crash_is_not(tmp_path: Path) -> None:
    options: list[Any] = ["--sessions", written(tmp_path), "--timeout", "3"]
    path = known(tmp_path, fails_with='kind = "unresponsive"')
    silent = run("--cmd", against("stops-answering"), *options, "--known-deviations", path)
    assert silent.returncode == 0
    assert "1 known deviations" in silent.stdout
    dead = run("--cmd", against("crashes"), *options, "--known-deviations", path)
    assert dead.returncode == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("floods-events", "event of an unknown process"),
        ("floods-answers", "unexpected answer"),
        ("floods-garbage", "expected a JSON message"),
        ("floods-output", "expected process/exited and process/closed of process 'p' within 3 s"),
        ("endless-line", "one.jsonl:2: "),
    ],
)
def test_flood_ends_the_session_in_time(tmp_path: Path, fault: str, said: str) -> None:
    began = time.monotonic()
    done = run("--cmd", against(fault), "--sessions", written(tmp_path), "--timeout", "3")
    assert done.returncode == 1
    assert said in done.stdout
    assert len(done.stdout) < 5000
    assert time.monotonic() - began < 40


def test_interrupt_stops_everything_and_keeps_results(tmp_path: Path) -> None:
    quick = [{**SESSION[0], "session": "v1/test/quick", "timeoutSeconds": 90}]
    sessions = written(written(tmp_path / "sessions", [SESSION[0], {"pause": 60}]), quick)
    report = tmp_path / "report.tap"
    command = [PROGRAM, "--cmd", against("none"), "--sessions", str(sessions), "--verbose"]
    with subprocess.Popen(
        [*command, "--timeout", "90", "--tap", str(report)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("passed v1/test/quick")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == "interrupted\n"
    assert "1 passed" in out
    text = report.read_text()
    assert "ok 1 - v1/test/quick [stdio]" in text
    assert text.endswith("Bail out! interrupted\n")


def test_stale_deviation_has_its_own_exit_code(tmp_path: Path) -> None:
    options: list[Any] = ["--known-deviations", known(tmp_path), "--sessions"]
    sessions = written(tmp_path / "sessions")
    stale = run("--cmd", against("none"), *options, sessions)
    assert stale.returncode == 4
    assert "STALE  known deviation 'v1/test/*': none of its sessions fails" in stale.stdout
    other = [{**SESSION[0], "session": "v1/other/one"}]
    both = written(sessions, other)
    unselected = run("--cmd", against("none"), *options, both, "--select", "v1/other/*")
    assert unselected.returncode == 0


def test_deviation_without_matching_session_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(known(tmp_path).read_text().replace("v1/test", "v1/typo"))
    done = run(
        "--cmd", against("none"), "--sessions", written(tmp_path), "--known-deviations", path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "known.toml: there is no session 'v1/typo/*'" in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("color = 1\n", "deviation 1 needs the strings sessions and reason"),
        ('flaky = "yes"\n', "deviation 1 needs the strings sessions and reason"),
        (
            "[[deviation]]\nsessions = 'v1/*'\nreason = ' '\nfails_with.at = 'x'\n",
            "deviation 2: reason is empty",
        ),
        (
            "[[deviation]]\nsessions = 'v1/*'\nreason = 'x'\nfails_with.kind = 'crash'\n",
            "deviation 2: fails_with.kind 'crash' is not one of value, schema, rule",
        ),
        (
            "[[deviation]]\nsessions = 'v1/*'\nreason = 'x'\nfails_with = {}\n",
            "deviation 2: fails_with needs one of the strings",
        ),
        (
            "[[deviation]]\nsessions = 'v1/*'\nreason = 'x'\nfails_with.reason = '('\n",
            "deviation 2: fails_with.reason is not a pattern",
        ),
        ("[[", "known.toml"),
    ],
)
def test_invalid_deviations_file_is_reported(tmp_path: Path, more: str, said: str) -> None:
    options: list[Any] = ["--sessions", written(tmp_path), "--known-deviations"]
    done = run("--cmd", against("none"), *options, known(tmp_path, more))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_baseline_excuses_exactly_the_failures(tmp_path: Path) -> None:
    path = tmp_path / "baseline.toml"
    sessions = written(tmp_path / "sessions")
    first = run("--cmd", against("exit-code"), "--sessions", sessions, "--write-baseline", path)
    assert first.returncode == 1
    options: list[Any] = ["--sessions", sessions, "--known-deviations", path]
    again = run("--cmd", against("exit-code"), *options, "--write-baseline", path)
    assert again.returncode == 0
    assert "exitCode: expected 0, got 1" in path.read_text()
    dead = run("--cmd", against("crashes"), *options, "--write-baseline", path)
    assert dead.returncode == 1
    assert "deviation" not in path.read_text().split("\n", 1)[1]


def test_session_that_violates_the_schema_is_an_error(tmp_path: Path) -> None:
    lines = [SESSION[0], {**SESSION[1], "expect": {"result": {"processId": 5}}}]
    done = run("--cmd", against("none"), "--sessions", written(tmp_path, lines))
    assert done.returncode == 1
    assert done.stdout.startswith(
        "ERROR  v1/test/one [stdio]: one.jsonl:2: the session is invalid: "
    )
    assert "5 is not of type 'string'" in done.stdout


def test_repeated_failures_are_summarised(tmp_path: Path) -> None:
    for number in range(6):
        lines = [{**SESSION[0], "session": f"v1/test/s{number}"}, *SESSION[1:]]
        written(tmp_path, lines)
    done = run("--cmd", against("exit-code"), "--sessions", tmp_path)
    shown = [line for line in done.stdout.splitlines() if line.startswith("FAILED v1/")]
    assert len(shown) == 3
    assert (
        "FAILED 3 more with the same message: process 'p'.exitCode: expected 0, got 1"
        in done.stdout
    )
    assert "0 passed, 6 failed" in done.stdout


def test_deviation_that_fails_differently_is_a_failure(tmp_path: Path) -> None:
    options: list[Any] = ["--sessions", written(tmp_path), "--known-deviations"]
    at = "kind = 'value', at = \"process 'p'.exitCode\""
    same = run("--cmd", against("exit-code"), *options, known(tmp_path, fails_with=at))
    assert same.returncode == 0, same.stdout
    other = run("--cmd", against("wrong-code"), *options, known(tmp_path, fails_with=at))
    assert other.returncode == 1
    expected = "(differs from the known deviation: value at process 'p'.exitCode)"
    assert expected in other.stdout


def test_excused_check_does_not_hide_the_rest_of_the_session(tmp_path: Path) -> None:
    at = "kind = 'value', at = \"process 'p'.exitCode\""
    path = known(tmp_path, "check_only = true\n", at)
    options: list[Any] = ["--sessions", written(tmp_path), "--known-deviations", path]
    known_only = run("--cmd", against("exit-code"), *options)
    assert known_only.returncode == 0, known_only.stdout
    assert "1 known deviations" in known_only.stdout
    both = run("--cmd", against("exit-code+wrong-code"), *options)
    assert both.returncode == 1
    assert "process/terminate.error.code: expected -32602, got -32603" in both.stdout
    fixed = run("--cmd", against("none"), *options)
    assert fixed.returncode == 4


def test_flaky_play_must_pass_within_three_tries(tmp_path: Path) -> None:
    at = "kind = 'value', at = \"process 'p'.exitCode\""
    path = known(tmp_path, "flaky = true\n", at)
    options: list[Any] = ["--sessions", written(tmp_path / "sessions"), "--known-deviations", path]
    counter = tmp_path / "count"
    race = shlex.join(
        [
            "sh",
            "-c",
            f'echo >> {counter}; [ $(wc -l < {counter}) -ge "$0" ] && exec {against("none")}; '
            f"exec {against('exit-code')}",
        ]
    )
    # The first server is the one that is probed.
    passed = run("--cmd", f"{race} 4", *options)
    assert passed.returncode == 0, passed.stdout
    assert "FLAKY  v1/test/one [stdio]: passed after 3 tries" in passed.stdout
    counter.unlink()
    failed = run("--cmd", f"{race} 5", *options)
    assert failed.returncode == 1
    assert "FLAKY  v1/test/one [stdio]: failed after 3 tries" in failed.stdout
    other = run("--cmd", against("wrong-code"), *options)
    assert other.returncode == 1
    assert "FLAKY" not in other.stdout


def test_only_codex_releases_have_flaky_deviations() -> None:
    files = matrix.DEVIATIONS.glob("*")
    assert all(path.name.startswith("codex-") for path in files)
