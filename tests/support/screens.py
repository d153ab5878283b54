"""Full-screen programs in ``exec-server run -it -- bash``, in a real terminal: what it shows.

    python tests/support/screens.py docs/guides/terminal.md

writes the screens into the page, each in place of the one that follows its marker.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.support.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

BIN: Final = Path(sys.executable).parent

ROWS: Final = 16
COLS: Final = 80

PROGRAMS: Final = ("tmux", "vim", "less", "htop")
"""Programs that the scenes need."""


def missing() -> list[str]:
    """Return those that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Window:
    """A terminal that tmux keeps, with a shell of this machine in it. Use it in ``with``."""

    def __init__(self, folder: Path, url: str = "stdio:codex-exec-server") -> None:
        """``folder`` is where the shell is, and the server if ``url`` starts one."""
        self._socket = Path(tempfile.mkdtemp(prefix="screens")) / "tmux"
        self._environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "PS1": "here$ ",
            "EXEC_SERVER_URL": url,
        }
        self._tmux(*_new_session(folder), ";", "set-option", "-g", "window-size", "manual")

    def _tmux(self, *arguments: str) -> str:
        # The server of tmux is started with the first command, and has this environment.
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", "/dev/null", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, text: str) -> None:
        """Type this text, and Return."""
        self._tmux("send-keys", "-l", text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        self._tmux("send-keys", *keys)

    def resize(self, rows: int, cols: int) -> None:
        """Change the size of the window."""
        self._tmux("resize-window", "-x", str(cols), "-y", str(rows))

    def screen(self) -> str:
        """Return the screen, without blanks at the ends of lines and empty lines at the end."""
        lines = self._tmux("capture-pane", "-p").splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip("\n")

    def expect(self, pattern: str) -> str:
        """Wait until the screen has a match of the pattern; return the screen."""
        screen = ""

        def is_shown() -> bool:
            nonlocal screen
            screen = self.screen()
            return re.search(pattern, screen, re.MULTILINE) is not None

        assert wait_until(is_shown), f"{pattern!r} was not shown, but\n{screen}"
        return screen

    def enter(self) -> None:
        """Run a shell through the server."""
        self.expect(r"here\$")
        self.type("exec-server run -it -C $PWD -e PS1='there$ ' -e LC_ALL -- bash --norc")
        self.expect(r"^there\$$")

    def leave(self) -> None:
        """End that shell, and see its exit code."""
        self.type("exit 42")
        self.expect(r"^here\$$")
        self.type("echo it exited with $?")
        self.expect(r"^it exited with 42$")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")
        shutil.rmtree(self._socket.parent)


def _new_session(folder: Path) -> tuple[str, ...]:
    size = ("-x", str(COLS), "-y", str(ROWS))
    return ("new-session", "-d", *size, "-c", str(folder), "bash", "--norc")


# The scenes: each begins and ends at the prompt of the shell behind the server


def vim(window: Window, folder: Path) -> str:
    """Write a file."""
    window.type("clear; vim --clean -n notes.txt")
    window.expect(r'"notes\.txt" \[New\]')
    window.press("i")
    window.type("Edited in vim,")
    window.type("on the machine of the server.")
    window.press("Escape")
    window.press("g", "g")
    screen = window.expect(r"\b1,1\b")
    window.type(":wq")
    window.expect(r"^there\$$")
    assert (folder / "notes.txt").read_text().startswith("Edited in vim,\non the machine")
    return screen


def less(window: Window, folder: Path) -> str:
    """Page through a long file, and search it."""
    (folder / "numbers").write_text("".join(f"line {number}\n" for number in range(1, 1001)))
    window.type("clear; less -M numbers")
    window.expect(r"^numbers lines 1-15/1000")
    window.press("Space")
    window.expect(r"^numbers lines 16-30/1000")
    window.type("/line 777")
    screen = window.expect(r"^numbers lines 777-791/1000")
    window.press("q")
    window.expect(r"^there\$$")
    return screen


def htop(window: Window, folder: Path) -> str:
    """Watch processes, refreshed by the second."""
    del folder
    window.type("clear; sleep 600 & htop -d 5 -p $$,$!")
    screen = window.expect(r" sleep 600$(.*\n)+F1Help .*F10Quit$")
    window.press("q")
    window.expect(r"^there\$$")
    window.type("kill %1; wait; clear")
    window.expect(r"\A(there\$)$")
    return screen


def resize(window: Window, folder: Path) -> str:
    """The window gets smaller; the program at the other end fits itself into it."""
    (folder / "numbers").write_text("".join(f"line {number}\n" for number in range(1, 1001)))
    window.type("clear; stty size; less -M numbers")
    window.expect(r"^numbers lines 1-15/1000")
    window.resize(8, 40)
    screen = window.expect(r"^numbers lines 1-7/1000")
    window.resize(ROWS, COLS)
    window.expect(r"^numbers lines 1-15/1000")
    window.press("q")
    window.expect(r"^there\$$")
    window.resize(10, 60)
    window.type("clear; until stty size | grep '10 60'; do sleep 0.1; done")
    window.expect(r"^10 60$")
    window.resize(ROWS, COLS)
    return screen


def jobs(window: Window, folder: Path) -> str:
    """Ctrl-Z stops a program, ``fg`` goes on with it, Ctrl-C interrupts one."""
    del folder
    window.type("clear; vim --clean -n notes.txt")
    # Its message about the file may be gone again when the terminal has answered its questions.
    window.expect(r" 1,1 +All$")
    window.press("C-z")
    window.expect(r"Stopped +vim --clean -n notes\.txt")
    window.type("jobs")
    window.expect(r"^there\$ jobs\n\[1\]\+  Stopped")
    window.type("fg")
    window.expect(r"^~")
    window.type(":q")
    window.expect(r"^there\$$")
    window.type("sh -c 'echo running; exec sleep 600'")
    window.expect(r"^running$")
    window.press("C-c")
    window.type("echo interrupted: $?")
    return window.expect(r"^interrupted: 130$")


SCENES: Final[dict[str, Callable[[Window, Path], str]]] = {
    scene.__name__: scene for scene in (vim, less, htop, resize, jobs)
}

_MARKED: Final = re.compile(
    r"(?P<marker><!-- screen: (?P<name>\w+) -->\n)```text\n.*?```\n", re.DOTALL
)


def marked(page: str) -> list[str]:
    """The scenes that a page shows."""
    return [match["name"] for match in _MARKED.finditer(page)]


def main(path: Path) -> None:
    """Write the screens into the page."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        Window(Path(name)) as window,
    ):
        window.enter()
        screens = {scene: play(window, Path(name)) for scene, play in SCENES.items()}
        window.leave()
    page = path.read_text(encoding="utf-8")
    path.write_text(
        _MARKED.sub(lambda m: f"{m['marker']}```text\n{screens[m['name']]}\n```\n", page),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
