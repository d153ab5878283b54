"""Leaving ``exec-server run`` and ``attach``: escape, detach keys, signals and job control."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import signal
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from exec_server.cli.client.escape_keys import Action, KeyFilter, parse_detach_keys, parse_escape
from exec_server.cli.client.exit_codes import CommandError
from tests.support import terminals
from tests.support.terminals import PATIENCE, SCRIPT, SERVER, Terminal
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT = "echo UP; exec cat"
SHELL = ("--", "sh", "-c", PROMPT)


@contextlib.contextmanager
def freezable() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A listening server and its URL; it is continued before it is ended."""
    server = subprocess.Popen(
        [SERVER, "--listen", "ws://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().decode().strip(), server
        finally:
            server.send_signal(signal.SIGCONT)
            server.terminate()
            server.wait(PATIENCE)


@pytest.mark.parametrize(
    ("typed", "sent", "action"),
    [
        (b"~.", b"", Action.QUIT),
        (b"a~.", b"a~.", None),
        (b"a\r~.", b"a\r", Action.QUIT),
        (b"~~.", b"~.", None),
        (b"~x", b"~x", None),
        (b"\x10\x11", b"", Action.DETACH),
        (b"a\x10\x11", b"a", Action.DETACH),
        (b"\x10a", b"\x10a", None),
        (b"\x10\x10\x11", b"\x10", Action.DETACH),
        (b"\x10\r~.", b"\x10\r", Action.QUIT),
    ],
)
def test_key_filter(typed: bytes, sent: bytes, action: Action | None) -> None:
    """The keys arrive alike in one piece and one by one."""
    for pieces in ([typed], [typed[i : i + 1] for i in range(len(typed))]):
        keys = KeyFilter(b"~", b"\x10\x11")
        results = [keys.feed(piece) for piece in pieces]
        assert b"".join(result[0] for result in results) == sent
        assert results[-1][1] == action


def test_key_options() -> None:
    assert (parse_escape("none"), parse_escape("^")) == (b"", b"^")
    assert parse_detach_keys("ctrl-],d") == b"\x1dd"
    assert KeyFilter(b"", b"").feed(b"~.\x10\x11") == (b"~.\x10\x11", None)
    for parse, text in ((parse_escape, "ab"), (parse_detach_keys, "ctrl-xy")):
        with pytest.raises(CommandError, match="expected"):
            parse(text)


def test_escape_ends_the_program_and_the_session() -> None:
    with Terminal("run", "-it", "--", "sh", "-c", PROMPT) as terminal:
        terminal.expect(b"UP\r\n")
        terminal.type(b"~.")
        assert terminal.end() == 128 + signal.SIGHUP


def test_escape_leaves_a_frozen_server() -> None:
    """The keys are read while the server takes no input, and a notice says so."""
    with (
        freezable() as (url, server),
        Terminal("run", "-it", "--", "sh", "-c", PROMPT, url=url) as terminal,
    ):
        terminal.expect(b"UP\r\n")
        server.send_signal(signal.SIGSTOP)
        terminal.type(b"lost words\r")
        terminal.expect(b"no answer from the server for 2 s; type ~. on a new line")
        for key in (b"\r", b"~", b"."):
            terminal.type(key)
        assert terminal.end() == 128 + signal.SIGHUP


def test_detach_keys_leave_the_program_running() -> None:
    with freezable() as (url, _):
        with Terminal("run", "-it", "--name", "cat", *SHELL, url=url) as terminal:
            terminal.expect(b"UP\r\n")
            terminal.type(b"hello\r")
            terminal.expect(b"hello\r\nhello\r\n")
            terminal.type(b"\x10\x11")
            terminal.expect(b"detached from session ")
            terminal.expect(b", process cat")
            assert terminal.end() == 0
            session = terminal.before.decode()
        listed = terminals.run("ps", "--session", session, url=url)
        assert b"running" in listed.stdout


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_a_frozen_server(signum: signal.Signals) -> None:
    script = "echo UP; exec sleep 600"
    with (
        freezable() as (url, server),
        terminals.started("run", "--", "sh", "-c", script, url=url) as running,
    ):
        assert running.stdout is not None
        running.stdout.readline()
        server.send_signal(signal.SIGSTOP)
        running.send_signal(signum)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.5)
        running.send_signal(signum)
        assert running.wait(PATIENCE) == 128 + signum


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_output_that_a_background_process_keeps_open(
    signum: signal.Signals,
) -> None:
    script = "sleep 600 & echo $$"
    with terminals.started("run", "--", "sh", "-c", script) as running:
        assert running.stdout is not None
        running.stdout.readline()
        # The shell has exited when its child is the server's, but the client may not know yet.
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(0.5)
        running.send_signal(signum)
        assert running.wait(PATIENCE) == 128 + signum


def test_a_stopped_session_sets_raw_mode_again() -> None:
    """fg of a shell restores its own modes; keys go to the program again all the same."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe("bash", ["bash", "--norc", "-i"], terminals.environment(PS1="$ "))
    shown = b""

    def expect(text: bytes) -> None:
        nonlocal shown
        give_up_at = time.monotonic() + PATIENCE
        while text not in shown:
            assert select.select([fd], [], [], max(0, give_up_at - time.monotonic()))[0], shown
            shown += os.read(fd, 65536)
        shown = shown.partition(text)[2]

    def is_raw() -> bool:
        return not termios.tcgetattr(fd)[3] & termios.ICANON

    try:
        expect(b"$ ")
        command = [SCRIPT, "run", "-it", "--cmd", SERVER, "--", "sh", "-c", PROMPT]
        os.write(fd, f"{shlex.join(command)}\n".encode())
        expect(b"UP\r\n")
        assert wait_until(is_raw)
        os.kill(os.tcgetpgrp(fd), signal.SIGTSTP)
        expect(b"Stopped")
        assert wait_until(lambda: not is_raw() or os.tcgetpgrp(fd) == pid)
        os.write(fd, b"fg\r")
        assert wait_until(lambda: os.tcgetpgrp(fd) != pid and is_raw())
    finally:
        os.kill(os.tcgetpgrp(fd), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)
