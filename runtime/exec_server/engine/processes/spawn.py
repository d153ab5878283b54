"""Spawning child processes.

``os.posix_spawn`` is the fastest way to start a process: it runs no Python between fork and exec
and copies no page tables. It reports a program that cannot be executed as an OSError. Two features
that it lacks are implemented around it, on the calling thread:

* the working directory: this process changes to it, spawns, and changes back. All other paths in
  this process are absolute, so the change is not noticed;
* the search along the child's PATH, with relative entries resolved against the child's working
  directory, as execvp in the child would do.

A child leads its own session and process group, has only the descriptors 0, 1 and 2, no ignored or
blocked signals, and dumps no core (v1, process/start). A child in a sandbox gets the additional
descriptors of its confinement, and all signals are blocked until the sandbox is set up.
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
"""Search path for a child without PATH in its environment; the default of execvp."""

INTERPRETER: Final = (os.path.realpath(sys.executable), "-I", "-S", "-B")
"""Command to run a script of this package with: the standard library alone, whatever the
environment."""

_CATCHABLE: Final = tuple(
    int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
)

_KEEPS_LOOKING: Final = frozenset((errno.EACCES, errno.ENOENT, errno.ENOTDIR))
"""Failures after which execvp tries the next directory."""

_FIRST_FREE_FD: Final = 3


class Confinement(Protocol):
    """A launcher that confines the program that it runs, such as bubblewrap."""

    @property
    def descriptors(self) -> Sequence[int]:
        """Descriptors that the child gets as 3, 4, ..."""

    @property
    def go_ahead(self) -> int:
        """A descriptor that becomes readable once signals reach the program, or it cannot start."""

    def passed_on(self) -> None:
        """Release the descriptors that the child has inherited."""

    def close(self) -> None:
        """Release everything: the child has exited or will not be started. Idempotent."""


class SpawnSpec(msgspec.Struct, frozen=True):
    """Description of a process to start."""

    argv: Sequence[str]
    """Program, searched along the child's PATH unless it contains a slash, and arguments."""
    cwd: str
    """Working directory of the child; may be relative to that of this server."""
    env: Mapping[str, str]
    """The whole environment of the child."""
    tty: bool = False
    """True to use a new pseudo-terminal for standard input, output and error."""
    pipe_stdin: bool = False
    """True to use a pipe instead of /dev/null for standard input; ignored for a terminal."""
    arg0: str | None = None
    """Name that the program gets instead of ``argv[0]``."""
    rows: int = 24
    cols: int = 80
    confinement: Confinement | None = None
    """Sandbox of the process; the owner of the child closes it."""
    asked_argv: Sequence[str] | None = None
    """The requested command, if ``argv`` is that of the sandbox."""


class Child(msgspec.Struct, frozen=True):
    """A running process, and the server's ends of its streams."""

    pid: int
    """Also its process group and session."""
    pidfd: int
    stdin: int
    """Non-blocking write end of its input; -1 if it has none; the master of a terminal."""
    stdout: int
    """Non-blocking read end of its output; the master of a terminal."""
    stderr: int
    """Non-blocking read end of its error output; -1 for a terminal."""


def check_program(spec: SpawnSpec) -> None:
    """Raise InvalidArgument or SpawnFailed if the spec has no program."""
    if not spec.argv:
        raise InvalidArgument("argv must not be empty")
    if not spec.argv[0]:
        kind = "PTY" if spec.tty else "pipe"
        raise SpawnFailed(f"missing program for {kind} spawn")
    if spec.arg0 == "":
        raise InvalidArgument("arg0 must not be empty")


def spawn(spec: SpawnSpec, tag: int | None = None) -> Child:
    """Start a child that carries ``tag`` (see ``process_tags``).

    Raises SpawnFailed or InvalidArgument for a spec that cannot be carried out, and OSError with
    the errno that chdir, exec or the lack of some resource gave. No process or descriptor is left
    then.
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
    """Prepare this process so that its children inherit the right state; only the first call acts.

    Children dump no core and get none of the descriptors that this process inherited (those opened
    by Python are not inheritable). SIGCHLD is reset if it was ignored at start, because the kernel
    would discard exit codes.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= _FIRST_FREE_FD:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed
                os.set_inheritable(int(name), False)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _spawn_on_pipes(spec: SpawnSpec) -> Child:
    own: list[int] = []
    childs: list[int] = []
    actions: list[tuple[object, ...]] = []
    # In the order of their numbers in the child: if 0, 1 or 2 are closed in this process, the pipes
    # may get these numbers, and no redirection may overwrite an end that a later one needs.
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
        # Before anything else, so that a descriptor for the pidfd is free.
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
    """Return a pidfd of the process. If none is available, kill the process and raise OSError."""
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
    """Spawn while this process is in the child's working directory."""
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
    """Return the file actions that pass a confinement's descriptors to the child."""
    descriptors = confinement.descriptors
    # Copied above their target numbers, so that none overwrites another.
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
        # An empty entry means the working directory.
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
    """Return the environment with names that Python accepts.

    The child receives the text ``name=value``, so the part of a name from "=" on can be moved to
    the value (v2, process/start allows such names). A variable without a name is dropped: no
    program could look it up.
    """
    passable: dict[str, str] = {}
    for name, value in env.items():
        text = f"{name}={value}"
        end = text.find("=", 1)
        if end > 0:
            passable.setdefault(text[:end], text[end + 1 :])
    return passable
