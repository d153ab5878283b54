"""Conformance of clients: correct clients pass, and each fault is reported."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.suite_runs import PROGRAM, run
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.usefixtures("no_process_is_left")

WRONG_CLIENT = ROOT / "tests/support/wrong_client.py"
OURS = str(Path(sys.executable).with_name("exec-server"))


def judged(fault: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Return the output for a v2 client with a fault, or without one."""
    command = shlex.join([sys.executable, str(WRONG_CLIENT), fault, "{url}"])
    return run("client", "--cmd", command, "--input-cmd", f"{command} -i", *options)


@pytest.mark.parametrize("revision", ["v0", "v1", "v2", "draft"])
@pytest.mark.parametrize("place", ["--url {url}", "--cmd {command}"])
def test_own_client_passes_in_every_revision(place: str, revision: str) -> None:
    command = f"{OURS} run {place} -- probe"
    with_input = f"{OURS} run -i {place} -- probe"
    options = ["--revision", revision, "--jobs", "4", "--timeout", "50"]
    done = run("client", "--cmd", command, "--input-cmd", with_input, *options)
    assert done.returncode == 0, done.stdout
    *lines, summary = done.stdout.splitlines()
    if place == "--url {url}":
        assert lines == []
        assert ", 0 failed, 0 known deviations, 0 n/a in " in summary
    else:
        assert [line.partition(": ")[2] for line in lines] == ["does not apply to stdio"]


def test_guide_example_passes(tmp_path: Path) -> None:
    guide = ROOT / "docs/conformance.md"
    (example,) = re.findall("```python\n(.*?)```", guide.read_text(), re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(example)
    command = shlex.join([sys.executable, str(program), "{url}"])
    done = run("client", "--cmd", command, "--tag", "run")
    assert done.returncode == 0, done.stdout
    assert ", 0 failed, 0 known deviations, 0 n/a in " in done.stdout


def test_open_input_is_reported_in_the_draft() -> None:
    done = judged("none", "--revision", "draft", "--select", "*/input/end", "--timeout", "6")
    assert "expected process/closeStdin at the end of the client's standard input" in done.stdout


def test_client_revision_is_detected() -> None:
    done = judged("none")
    assert done.returncode == 0, done.stdout
    *lines, summary = done.stdout.splitlines()
    reasons = [line.split(": ", 1)[1] for line in lines]
    assert reasons[0].startswith(
        "the client does not seem to support v0: expected command/exec after"
    )
    assert reasons[1].startswith("the client does not seem to support v1: cwd is a URI")
    assert len(reasons) == 2
    assert ", 0 failed, " in summary


FAULTS = {
    # the handshake
    "no-initialize": ("run/simple", "process/start came before initialize: the first message"),
    "no-initialized": ("run/simple", "process/start came before initialized: send the notificat"),
    "initialized-twice": ("run/simple", "initialized came a second time: a connection has one h"),
    "impatient": ("handshake/slow", "initialized came before initialize was answered: wait for"),
    "origin": ("run/simple", "the WebSocket handshake has an Origin header, with which servers"),
    # messages
    "garbage": ("run/simple", "expected one JSON object as a message, got 'HELLO server'"),
    "null-id": ("run/simple", "the id of initialize must be a string or an integer, got null"),
    "one-id": ("run/slow", "the id 2 of environment/info is that of process/start, which has not"),
    "answers-notifications": ("run/simple", "an answer to what is no request, which ends the con"),
    "unknown-notification": ("run/simple", "the notification hello, which ends the connection"),
    "schema": ("run/simple", "process/start violates the schema at $.params: 'env' is a required"),
    # the program
    "always-zero": ("run/simple", "expected the client to exit with the program's exit code 7, b"),
    "ignores-errors": (
        "run/refused",
        "expected the client to exit with an error, since process/start w",
    ),
    "asks-again": ("run/slow", "a second process/start, though the client was asked to run one"),
    "goes-on": ("run/success", "expected the client to exit after its program has ended"),
    # output
    "order-of-arrival": ("output/reordered", 'expected "one\\ntwo\\nthree\\n", got "two\\none'),
    "ends-at-exit": (
        "output/after_exit",
        "the client's standard output: expected \"What the program wrote: ä",
    ),
    "text": ("output/bytes", "the client's standard output: expected"),
    "mixes-streams": ("output/streams", 'got "one\\nnoise\\ntwo\\nnoise\\nthree\\nnoise\\n"'),
    # what comes from the future
    "strict-members": ("tolerance/members", "but the client exited with exit code 1: unknown mem"),
    "strict-notifications": ("tolerance/notifications", "unknown notification suite/chatter"),
    "any-process": ("tolerance/other_process", 'got "not yours\\n'),
    # a lost connection
    "end-is-success": ("lost/session", "exited with 0 as if the program had succeeded"),
    "forgets-session": ("resume/output", "expected the client to resume its session or to exit w"),
    "starts-again": ("resume/output", "a second process/start, though the client was asked to r"),
    "other-session": ("resume/output", 'resumeSessionId "mine" is no session of this server; it'),
    "no-reading": (
        "resume/end",
        "expected the client to exit after its program has ended",
    ),
    # input
    "no-pipe": ("input/text", "started it without pipeStdin and tty: the server refuses"),
    "one-write-id": ("input/text", 'writeId "1" was given to two writes of different bytes'),
    "new-write-id": ("resume/write", "the write whose answer was lost once more, with its writeId"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_reported(fault: str) -> None:
    name, text = FAULTS[fault]
    done = judged(fault, "--revision", "v2", "--select", f"*/{name}", "--timeout", "12")
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    failure, summary = done.stdout.splitlines()
    assert failure.startswith(f"FAILED v2/{name} [ws]: ")
    assert text in failure
    assert summary.startswith("0 passed, 1 failed")


def test_wire_only() -> None:
    options = ["--revision", "v2", "--wire-only", "--select", "*/run/*"]
    done = judged("always-zero", *options)
    assert done.returncode == 0, done.stdout


def test_reports_of_a_client_run(tmp_path: Path) -> None:
    report, page, baseline = (tmp_path / name for name in ("r.jsonl", "p.html", "known.toml"))
    options = ["--revision", "v2", "--select", "*/run/*"]
    done = judged(
        "always-zero",
        *options,
        *("--jsonl", report, "--html", page, "--write-baseline", baseline),
    )
    assert done.returncode == 1
    header, *plays, summary = map(json.loads, report.read_text().splitlines())
    assert (header["role"], header["revisions"]) == ("client", ["v2"])
    (failed,) = (
        play for play in plays if play["outcome"] == "failed" and "simple" in play["session"]
    )
    assert failed["cause"] == "client-violation"
    assert (failed["divergence"]["expected"], failed["divergence"]["received"]) == (7, 0)
    assert any('"process/start"' in entry["text"] for entry in failed["trace"])
    assert "Contract violation by the client" in page.read_text()
    assert summary["counts"]["failed"] > 0
    known = judged("always-zero", *options, "--known-deviations", baseline)
    assert known.returncode == 0, known.stdout
    stale = judged("none", *options, "--known-deviations", baseline)
    assert stale.returncode == 4, stale.stdout


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("/no/such/client {url}", 3, "the client could not be run: cannot run '/no/such/client'"),
        ("client", 2, "the client's command must contain {url}, the URL to connect to, or"),
        ("client 'x {url}", 2, "the client's command cannot be parsed: No closing quotation"),
    ],
)
def test_unrunnable_client_is_one_message(command: str, code: int, text: str) -> None:
    done = run("client", "--cmd", command)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert text in line


def test_inactive_client_is_told_what_was_expected() -> None:
    done = run("client", "--cmd", "sh -c 'sleep 60' {url}", "--timeout", "1", "--select", "v2/*")
    assert done.returncode == 1
    (failure,) = (line for line in done.stdout.splitlines() if line.startswith("FAILED"))
    assert failure.startswith(
        "FAILED v2/run/simple [ws]: expected process/start after the handshake; the latest message "
        "of the client is nothing, 1 s after the start"
    )


def python(script: str) -> str:
    return shlex.join([sys.executable, "-c", script, "{url}"])


FLOOD = """
import json, sys
from websockets.sync.client import connect
with connect(sys.argv[1]) as link:
    link.send(json.dumps({"id": 0, "method": "initialize", "params": {"clientName": "flood"}}))
    link.recv()
    link.send(json.dumps({"method": "initialized", "params": {}}))
    for number in range(1, 10**9):
        link.send(json.dumps({"id": number, "method": "environment/status", "params": {}}))
"""

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (FLOOD, "more than 1,000 requests are open, since the client does not read"),
        (
            STUBBORN,
            "expected process/start after the handshake; the latest message of the client is",
        ),
    ],
    ids=["floods", "ignores SIGTERM"],
)
def test_hanging_client_is_terminated(script: str, text: str) -> None:
    done = run("client", "--cmd", python(script), "--select", "v2/run/simple", "--timeout", "9")
    assert (done.returncode, done.stderr) == (1, "")
    assert text in done.stdout


def test_interrupted_run_reports_results_and_leaves_no_process(tmp_path: Path) -> None:
    started = tmp_path / "started"
    script = f"open({str(started)!r}, 'w').close(); import time; time.sleep(600)"
    command = ["client", "--cmd", python(script), "--revision", "v2", "--jobs", "2"]
    process = subprocess.Popen(
        [PROGRAM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert wait_until(started.exists)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert "\n0 passed, 0 failed, " in output


def test_case_filters_and_list() -> None:
    listed = run("client", "--list", "--select", "v2/*", "--method", "process/write")
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names == ["v2/input/text", "v2/input/slow", "v2/input/refused", "v2/resume/write"]
    quirks = run("client", "--list", "--level", "quirk", "--revision", "v1", "--tag", "tolerance")
    assert quirks.stdout.startswith(
        "v1/tolerance/request [ws, stdio]  The server sends an unknown request"
    )
    assert run("client", "--list", "--tag", "nothing").returncode == 2
