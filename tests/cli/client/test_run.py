"""``exec-server run``: like a program that runs here."""

from __future__ import annotations

import json
import shlex
import signal

import pytest

from tests.support import terminals
from tests.support.terminals import SERVER, Terminal

V1 = f"stdio:{SERVER} --protocol v1"
V2 = f"stdio:{SERVER} --protocol v2"
REVISIONS = pytest.mark.parametrize("url", [f"stdio:{SERVER}", V2, V1], ids=["draft", "v2", "v1"])


@REVISIONS
def test_streams_are_apart_and_the_exit_code_passes_through(url: str) -> None:
    done = terminals.run("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7", url=url)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


@REVISIONS
def test_all_output_comes(url: str) -> None:
    """Megabytes written right before the end are there."""
    done = terminals.run("run", "--", "sh", "-c", "head -c 5000000 /dev/zero", url=url)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 5_000_000, b"")


def test_standard_input_and_its_end_are_passed_on() -> None:
    data = bytes(range(256)) * 8192
    done = terminals.run("run", "-i", "--", "cat", input=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


def test_without_i_standard_input_is_empty() -> None:
    done = terminals.run("run", "cat", input=b"unread")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("url", [V2, V1], ids=["v2", "v1"])
def test_an_input_that_cannot_be_ended_is_told(url: str) -> None:
    """The program gets what there is, and the user hears of the missing end."""
    done = terminals.run("run", "-i", "--", "head", "-n1", input=b"line\n", url=url)
    assert (done.returncode, done.stdout) == (0, b"line\n")
    with terminals.started("run", "-i", "--", "cat", url=url) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        assert b"cannot close" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(terminals.PATIENCE) > 128


@REVISIONS
def test_the_outcome_as_json(url: str) -> None:
    """One object with everything; the exit code passes through all the same."""
    script = r"echo out; echo err >&2; exit 7"
    done = terminals.run("run", "--json", "--", "sh", "-c", script, url=url)
    assert (done.returncode, done.stderr) == (7, b"")
    assert json.loads(done.stdout) == {
        "argv": ["sh", "-c", script],
        "exitCode": 7,
        "stdout": "out\n",
        "stderr": "err\n",
    }


def test_json_of_odd_bytes_terminals_and_input() -> None:
    odd = json.loads(terminals.run("run", "--json", "--", "printf", r"\377\0").stdout)
    assert odd["stdoutBase64"] == "/wA="
    assert "stdout" not in odd
    on_terminal = json.loads(terminals.run("run", "-t", "--json", "--", "echo", "ü").stdout)
    assert (on_terminal["stdout"], on_terminal["stderr"]) == ("ü\r\n", "")
    fed = json.loads(terminals.run("run", "-i", "--json", "--", "cat", input=b"in").stdout)
    assert fed["stdout"] == "in"
    absent = terminals.run("run", "--json", "--", "no-such-program")
    assert (absent.returncode, absent.stdout) == (127, b"")


def test_directory_and_variables() -> None:
    done = terminals.run(
        *("run", "-C", "/usr", "-e", "A=b=c", "-e", "HERE"),
        *("--", "sh", "-c", 'pwd; echo "$A $HERE"'),
        HERE="from here",
    )
    assert done.stdout == b"/usr\nb=c from here\n"


def test_options_behind_the_program_are_its_own() -> None:
    done = terminals.run("run", "echo", "-i", "--", "--url")
    assert done.stdout == b"-i -- --url\n"


@REVISIONS
@pytest.mark.parametrize(
    ("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)], ids=["absent", "no-exec"]
)
def test_what_cannot_be_started(program: str, code: int, url: str) -> None:
    done = terminals.run("run", "--", program, url=url)
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.startswith(f"exec-server: {program}".encode())
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("release", ["0.139.0", "0.169.0"])
@pytest.mark.parametrize(
    ("program", "code"), [("no-such-program", 127), ("/no/such", 127), ("/etc/passwd", 126)]
)
def test_what_codex_cannot_start_on_a_terminal(program: str, code: int, release: str) -> None:
    command = shlex.join([*terminals.codex(release), "--listen", "stdio"])
    for options in ((), ("-t",)):
        done = terminals.run("run", *options, "--", program, url=f"stdio:{command}")
        assert (done.returncode, done.stdout) == (code, b"")
        assert done.stderr.startswith(f"exec-server: {program}".encode())


def test_death_by_a_signal() -> None:
    assert terminals.run("run", "--", "sh", "-c", "kill -KILL $$").returncode == 128 + 9


@pytest.mark.parametrize(
    ("signum", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM"), (signal.SIGHUP, "TERM")]
)
def test_signals_reach_the_program(signum: signal.Signals, name: str) -> None:
    """It may take its time, and what it writes meanwhile is there."""
    script = f"trap 'echo caught; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    with terminals.started("run", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signum)
        assert process.stdout.readline() == b"caught\n"
        assert process.wait(terminals.PATIENCE) == 9


def test_interrupt_kills_where_it_cannot_be_passed_on() -> None:
    with terminals.started("run", "--", "sh", "-c", "echo ready; sleep 60", url=V1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(terminals.PATIENCE) == 128 + signal.SIGINT


def test_a_reader_that_leaves_ends_the_program() -> None:
    with terminals.started("run", "--", "yes") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(terminals.PATIENCE) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


# In a terminal


@REVISIONS
def test_a_shell_in_a_terminal(url: str) -> None:
    """Keys go to the program as they are: Ctrl-C interrupts there, Ctrl-Z stops there."""
    with Terminal("run", "-it", "-e", "PS1=ready> ", "--", "sh", "-i", url=url) as terminal:
        terminal.expect(b"ready> ")
        terminal.type(b"sh -c 'echo $((20 + 3)); exec sleep 60'\r")
        terminal.expect(b"23\r\n")
        terminal.type(b"\x03")
        terminal.expect(b"ready> ")
        terminal.type(b"echo $TERM $((6 * 7)); cat\r")
        terminal.expect(b"xterm 42\r\n")
        terminal.type(b"there\r")
        terminal.expect(b"there\r\nthere\r\n")
        terminal.type(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.expect(b"ready> ")
        terminal.type(b"kill %1; fg; exit 5\r")
        assert terminal.end() == 5


def test_the_size_is_the_terminals_and_follows_it() -> None:
    script = "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    with Terminal("run", "-it", "--", "sh", "-c", script) as terminal:
        terminal.expect(b"30 90\r\n")
        terminal.expect(b"ready")
        terminal.resize(40, 100)
        # The terminal controls no session here, so that no kernel tells.
        terminal.signal(signal.SIGWINCH)
        terminal.expect(b"40 100\r\n")
        assert terminal.end() == 0


def test_a_size_that_cannot_be_set_is_told_when_asked() -> None:
    with Terminal("run", "-itv", "--", "stty", "size", url=V2) as terminal:
        terminal.expect(b"cannot resize")
        terminal.expect(b"24 80\r\n")
        assert terminal.end() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_when_told_to_end(signum: signal.Signals) -> None:
    with Terminal("run", "-it", "--", "sh", "-c", "echo ready; exec sleep 60") as terminal:
        terminal.expect(b"ready")
        terminal.signal(signum)
        assert terminal.end() != 0


def test_a_terminal_wants_a_terminal() -> None:
    done = terminals.run("run", "-it", "--", "true")
    assert done.returncode == 125
    assert b"not a terminal" in done.stderr
