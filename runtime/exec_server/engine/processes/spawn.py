"""Starting a child: everything between a request and a process that has exec'ed.

``os.posix_spawn`` runs no Python between fork and exec and copies no page tables, which makes it
the fastest way there is, and reports a program that cannot be executed as an OSError. What it
lacks is done around it, on the calling thread:

* the working directory: this process changes into it, spawns, and changes back. Nothing else in
  the process may rely on relative paths while that happens, so every other path is absolute;
* the search along PATH, which is the child's, with relative directories seen from the child's
  working directory, exactly as execvp in the child would do it.

A child is the leader of its own session and process group, has no descriptors but 0, 1 and 2, no
signal ignored or blocked, and dumps no core (v1, process/start). One that is started through a
confinement gets the descriptors that this needs, and has every signal blocked on the way in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from exec_server.engine.native_text import encode
from exec_server.engine.processes import pty
from exec_server.engine.processes.process_tags import Tagging
from exec_server.errors import InvalidArgument, SpawnFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEFAULT_PATH: Final = "/bin:/usr/bin"
"""Where programs are looked for when the child's environment has no PATH; execvp's own default."""

INTERPRETER: Final = (os.path.realpath(sys.executable), "-I", "-S", "-B")
"""What a script of this package is run with: nothing but the standard library, whatever the
environment."""

_CATCHABLE: Final = tuple(
    int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
)

_KEEPS_LOOKING: Final = frozenset((errno.EACCES, errno.ENOENT, errno.ENOTDIR))
"""Failures after which execvp tries the next directory."""

_FIRST_FREE_FD: Final = 3


class Confinement(Protocol):
    """What a program is started through that confines another one."""

    @property
    def descriptors(self) -> Sequence[int]:
        """What the child gets as its descriptors 3, 4, ..."""

    @property
    def go_ahead(self) -> int:
        """Becomes readable when signals reach the confined program, or there will be none."""

    def passed_on(self) -> None:
        """The child has its descriptors."""

    def close(self) -> None:
        """The child has ended, or will not be started. Idempotent."""


class SpawnSpec(msgspec.Struct, frozen=True):
    """What to start."""

    argv: Sequence[str]
    """The program, looked up along the child's PATH unless it has a slash, and its arguments."""
    cwd: str
    """The child's working directory; relative to this server's own."""
    env: Mapping[str, str]
    """The whole environment of the child."""
    tty: bool = False
    """Whether standard input, output and error are a new pseudo-terminal."""
    pipe_stdin: bool = False
    """Whether standard input is a pipe instead of /dev/null; without effect on a terminal."""
    arg0: str | None = None
    """What the program sees as its name instead of ``argv[0]``."""
    rows: int = 24
    cols: int = 80
    confinement: Confinement | None = None
    """What this is started through; closed by whoever takes over the child."""
    asked_argv: Sequence[str] | None = None
    """What was asked for, where ``argv`` is what confines it."""


class Child(msgspec.Struct, frozen=True):
    """A process that has exec'ed, and this server's ends of everything that connects to it."""

    pid: int
    """Also its process group and session."""
    pidfd: int
    stdin: int
    """Takes its input, non-blocking; -1 if it has none. On a terminal the master."""
    stdout: int
    """Its output, non-blocking. On a terminal the master."""
    stderr: int
    """Its error output, non-blocking; -1 on a terminal."""


def check_program(spec: SpawnSpec) -> None:
    """Raise InvalidArgument or SpawnFailed if a spec names no program."""
    if not spec.argv:
        raise InvalidArgument("argv must not be empty")
    if not spec.argv[0]:
        kind = "PTY" if spec.tty else "pipe"
        raise SpawnFailed(f"missing program for {kind} spawn")
    if spec.arg0 == "":
        raise InvalidArgument("arg0 must not be empty")


def spawn(spec: SpawnSpec, tag: int | None = None) -> Child:
    """Start a child, which carries ``tag`` (see ``process_tags``).

    Raises SpawnFailed or InvalidArgument for a spec that cannot be carried out, and OSError
    with the errno that chdir, exec or the lack of some resource gave. Nothing is left behind then.
    """
    check_program(spec)
    try:
        with Tagging(tag):
            return _spawn_on_pty(spec) if spec.tty else _spawn_on_pipes(spec)
    except UnicodeEncodeError as error:
        raise SpawnFailed("text that is not valid Unicode found in provided data") from error
    except ValueError as error:
        raise SpawnFailed("nul byte found in provided data") from error


@functools.cache
def prepare_parent() -> None:
    """Give this process what its children must inherit; the first caller does it.

    They dump no core, get no descriptor that whoever started this process left open (Python's own
    are never inherited), and can be waited for even if SIGCHLD was ignored from the start, which
    makes the kernel throw exit codes away.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= _FIRST_FREE_FD:
            with contextlib.suppress(OSError):  # that of the listing itself is closed by now
                os.set_inheritable(int(name), False)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _spawn_on_pipes(spec: SpawnSpec) -> Child:
    own: list[int] = []
    childs: list[int] = []
    actions: list[tuple[object, ...]] = []
    # In the order of their places in the child: even where this process has no descriptors 0, 1 and
    # 2 and these pipes get those numbers, no redirection then overwrites what a later one needs.
    try:
        if spec.pipe_stdin:
            stdin_end, stdin = os.pipe()
            childs.append(stdin_end)
            own.append(stdin)
            os.set_blocking(stdin, False)
            actions.append((os.POSIX_SPAWN_DUP2, stdin_end, 0))
        else:
            stdin = -1
            actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
        stdout, stdout_end = os.pipe()
        own.append(stdout)
        childs.append(stdout_end)
        stderr, stderr_end = os.pipe()
        own.append(stderr)
        childs.append(stderr_end)
        os.set_blocking(stdout, False)
        os.set_blocking(stderr, False)
        actions.append((os.POSIX_SPAWN_DUP2, stdout_end, 1))
        actions.append((os.POSIX_SPAWN_DUP2, stderr_end, 2))
        pid = _spawn_in_directory(spec, spec.env, actions)
    except BaseException:
        _close_all(own)
        raise
    finally:
        # First of all, so that there is a free descriptor for the pidfd.
        _close_all(childs)
    return Child(pid, _watch(pid, own), stdin, stdout, stderr)


def _spawn_on_pty(spec: SpawnSpec) -> Child:
    env = spec.env if "SHELL" in spec.env else {**spec.env, "SHELL": pty.login_shell()}
    pair = pty.open_pair(spec.rows, spec.cols)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, pair.slave_name, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    try:
        pid = _spawn_in_directory(spec, env, actions)
    except BaseException:
        os.close(pair.master)
        raise
    finally:
        os.close(pair.slave)
    return Child(pid, _watch(pid, [pair.master]), pair.master, pair.master, -1)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _watch(pid: int, own: list[int]) -> int:
    """A descriptor that tells the end of the process; without one it is not kept alive."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        _close_all(own)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def _spawn_in_directory(
    spec: SpawnSpec, env: Mapping[str, str], actions: Sequence[tuple[object, ...]]
) -> int:
    """Spawn with the child's directory as this process's own, for the time of this call."""
    home = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        os.chdir(encode(spec.cwd))
        try:
            if spec.confinement is None:
                return _spawn_first_found(spec, env, actions)
            with _passed_on(spec.confinement) as more:
                return _spawn_first_found(spec, env, [*actions, *more])
        finally:
            os.fchdir(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def _passed_on(confinement: Confinement) -> Iterator[Sequence[tuple[object, ...]]]:
    """What gives the child its descriptors."""
    descriptors = confinement.descriptors
    # Copied to where none of them is in the place of another one.
    first = _FIRST_FREE_FD + len(descriptors)
    copies: list[int] = []
    try:
        copies += (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first) for fd in descriptors)
        yield [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(copies, _FIRST_FREE_FD)]
    finally:
        _close_all(copies)
    confinement.passed_on()


def _spawn_first_found(
    spec: SpawnSpec, env: Mapping[str, str], actions: Sequence[tuple[object, ...]]
) -> int:
    program = encode(spec.argv[0])
    argv = [*map(encode, spec.argv)]
    if spec.arg0 is not None:
        argv[0] = encode(spec.arg0)
    sigmask = () if spec.confinement is None else _CATCHABLE
    if b"/" in program:
        return _posix_spawn(program, argv, env, actions, sigmask)
    is_forbidden = False
    for directory in encode(env.get("PATH", DEFAULT_PATH)).split(b":"):
        # An empty element is the working directory.
        candidate = (directory or b".") + b"/" + program
        if not os.access(candidate, os.X_OK):
            is_forbidden = is_forbidden or os.access(candidate, os.F_OK)
            continue
        try:
            return _posix_spawn(candidate, argv, env, actions, sigmask)
        except OSError as error:
            if error.errno not in _KEEPS_LOOKING:
                raise
            is_forbidden = is_forbidden or error.errno == errno.EACCES
    number = errno.EACCES if is_forbidden else errno.ENOENT
    raise OSError(number, os.strerror(number), spec.argv[0])


def _posix_spawn(
    path: bytes,
    argv: list[bytes],
    env: Mapping[str, str],
    actions: Sequence[tuple[object, ...]],
    sigmask: Sequence[int],
) -> int:
    try:
        return os.posix_spawn(
            path,
            argv,
            {encode(name): encode(value) for name, value in env.items()},
            file_actions=actions,
            setsid=True,
            setsigmask=sigmask,
            setsigdef=_CATCHABLE,
        )
    except ValueError:
        passable = passable_environment(env)
        if passable == env:
            raise
        return _posix_spawn(path, argv, passable, actions, sigmask)


def passable_environment(env: Mapping[str, str]) -> Mapping[str, str]:
    """The same environment in names that Python accepts.

    What reaches the child is the text ``name=value``, so a name with "=" in it can give its end to
    the value (v2, process/start passes such names on). A nameless variable, which no program can
    ask for, is left out.
    """
    passable: dict[str, str] = {}
    for name, value in env.items():
        text = f"{name}={value}"
        end = text.find("=", 1)
        if end > 0:
            passable.setdefault(text[:end], text[end + 1 :])
    return passable
