"""Sandboxed programs by means of bubblewrap: namespaces for resources, seccomp for system calls.

A sandboxed program has its own user, process, IPC and mount namespaces, and its own network
namespace unless its policy allows network access. It has no capabilities and cannot acquire any,
not even in a nested user namespace. It is killed when this server exits.

A sandbox does not protect against programs of the same user outside of it. With network access, a
program can connect to any service on this machine, including this server.
"""

from __future__ import annotations

import functools
import marshal
import os
import select
import signal
import sysconfig
from typing import TYPE_CHECKING, Any, Final

from exec_server.engine.memory_file import memory_file
from exec_server.engine.native_text import encode
from exec_server.engine.processes import pty
from exec_server.engine.processes.spawn import (
    INTERPRETER,
    SpawnSpec,
    check_program,
    passable_environment,
    spawn,
)
from exec_server.engine.sandbox import entry
from exec_server.engine.sandbox.mount_options import MountOptions, outer_options
from exec_server.engine.sandbox.resources import SandboxResources
from exec_server.engine.sandbox.seccomp import build_filter
from exec_server.engine.sandbox.view import Mount, View
from exec_server.engine.sandbox.view_planner import plan_view
from exec_server.errors import InvalidRequest, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exec_server.engine.processes.spawn import Child
    from exec_server.engine.sandbox.policy import SandboxPolicy
    from exec_server.engine.sandbox.view import Purpose

PROGRAM: Final = "bwrap"

MAX_ARGUMENTS: Final = 8_000
"""Options passed to bubblewrap, which accepts 9,000."""

_RUN_ENTRY: Final = (
    f"import marshal; file = open({entry.SPEC_FD}, 'rb'); exec(marshal.load(file)); main(file)"
)
"""Program for the interpreter that runs the compiled ``entry``."""

_FIRST_DESCRIPTOR: Final = 3
"""Number of the first descriptor that a child inherits; see SpawnSpec."""

_PROBE_SECONDS: Final = 10.0
"""Time limit for the test run of bubblewrap: a thousand times its usual duration."""

_PROBE_VIEW: Final = View(
    mounts=(
        Mount("read", "/"),
        Mount("dev", "/dev"),
        Mount("proc", "/proc"),
        Mount("denied_directory", "/dev/closed"),
        Mount("denied_file", "/dev/denied"),
    ),
    placeholders=(),
    sources=(),
)

_LIBRARIES: Final = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
"""Directories of the interpreter's shared libraries."""


class Bubblewrap:
    """An installed bubblewrap that has passed a test run."""

    def __init__(self, program: str) -> None:
        self._program = program

    def plan(
        self, policy: SandboxPolicy, needs: Iterable[str] = (), *, purpose: Purpose = "run"
    ) -> View:
        """Return the view of a policy; to be called in a thread, because it accesses many files.

        ``needs`` are paths that the program needs besides the interpreter. Raises InvalidRequest if
        the policy cannot be enforced.
        """
        return plan_view(policy, (*_interpreter_paths(), *needs), purpose=purpose)

    def wrap_spec(self, spec: SpawnSpec, view: View, *, allows_network: bool) -> SpawnSpec:
        """Return a spec that starts the program of ``spec`` in a sandbox.

        If it is not started, its ``confinement`` must be closed. Raises as ``spawn`` does, and
        InvalidRequest for a view that is too large.
        """
        check_program(spec)
        command = _encode_command(spec)
        resources = SandboxResources(view)
        try:
            resources.descriptors.append(memory_file("command", _entry_code() + command))
            resources.go_ahead, write_end = os.pipe()
            resources.descriptors.append(write_end)
            argv = self.wrap_argv(
                [*INTERPRETER, "-c", _RUN_ENTRY], view, resources, allows_network=allows_network
            )
        except BaseException:
            resources.close()
            raise
        return SpawnSpec(
            argv=argv,
            cwd=spec.cwd,
            env={},
            tty=spec.tty,
            pipe_stdin=spec.pipe_stdin,
            rows=spec.rows,
            cols=spec.cols,
            confinement=resources,
            asked_argv=spec.argv,
        )

    def wrap_argv(
        self, argv: Sequence[str], view: View, resources: SandboxResources, *, allows_network: bool
    ) -> list[str]:
        """Return the command line that runs ``argv`` in a sandbox.

        The program inherits the descriptors that ``resources`` has so far, from 3 on, and two more
        for ``entry.check_view``. Those that bubblewrap needs are added. Raises OSError for lack of
        resources, InvalidRequest if the view cannot be enforced.
        """
        seccomp = build_filter(allows_network=allows_network)
        assert seccomp is not None  # checked by _probe
        own = len(resources.descriptors)
        options_fd = _FIRST_DESCRIPTOR + own + 2
        filter_fd = options_fd + 1
        mounts = MountOptions(filter_fd + 1, resources.descriptors)
        for mount in view.mounts:
            if mount.path not in resources.skipped:
                mounts.add(mount)
        options = [*mounts.options(), "--seccomp", str(filter_fd)]
        if not allows_network:
            options.append("--unshare-net")
        if len(options) > MAX_ARGUMENTS:
            raise InvalidRequest("sandbox: too many rules for bubblewrap")
        text = b"".join(encode(option) + b"\0" for option in options)
        insert = resources.descriptors.insert
        insert(own, memory_file("view", bytes(mounts.expected)))
        insert(own + 1, os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        insert(own + 2, memory_file("options", text))
        insert(own + 3, memory_file("filter", seccomp))
        outer: list[str] = []
        if resources.contested and view.mounts[0].kind != "device":
            outer = [self._program, *outer_options(view, resources.contested), "--"]
        return [*outer, self._program, "--args", str(options_fd), "--", *argv]


def is_available() -> bool:
    """Return True if sandboxes are available.

    The first call of this function or ``require`` runs a test, which takes about 10 ms.
    """
    return isinstance(_probe(), Bubblewrap)


def require() -> Bubblewrap:
    """Return the installed bubblewrap. Raises InvalidRequest if it cannot be used."""
    found = _probe()
    if isinstance(found, str):
        raise InvalidRequest(f"sandbox: not available on this host: {found}")
    return found


@functools.cache
def _probe() -> Bubblewrap | str:
    """Return the installed bubblewrap, or the reason why it cannot be used."""
    if build_filter(allows_network=False) is None:
        return f"the system calls of {os.uname().machine} are not known"
    program = _find_program()
    if program is None:
        return f"bubblewrap ({PROGRAM}) is not installed"
    found = Bubblewrap(program)
    resources = SandboxResources(_PROBE_VIEW)
    try:
        argv = found.wrap_argv([program, "--version"], _PROBE_VIEW, resources, allows_network=False)
        child = spawn(SpawnSpec(argv=argv, cwd="/", env={}, confinement=resources))
    except (OSError, OperationFailed) as error:
        return f"bubblewrap cannot be run: {error}"
    finally:
        resources.close()
    code, message = _wait(child)
    return f"bubblewrap does not work: {message}" if code else found


def _wait(child: Child) -> tuple[int, str]:
    """Return the exit code of a short-lived child and the last line of its standard error."""
    try:
        poll = select.poll()
        poll.register(child.pidfd, select.POLLIN)
        if not poll.poll(_PROBE_SECONDS * 1000):
            os.killpg(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        try:
            lines = os.read(child.stderr, 4096).decode(errors="replace").splitlines()
        except BlockingIOError:
            lines = []
    finally:
        for descriptor in (child.pidfd, child.stdout, child.stderr):
            os.close(descriptor)
    code = os.waitstatus_to_exitcode(status)
    return code, lines[-1] if lines else f"exit code {code}"


def _find_program() -> str | None:
    """Look up bubblewrap along this server's PATH."""
    for directory in os.get_exec_path():
        candidate = os.path.join(directory, PROGRAM)
        if os.path.isabs(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def _encode_command(spec: SpawnSpec) -> bytes:
    """Return the description of a command that ``entry`` reads."""
    argv = list(spec.argv)
    program = argv[0]
    if spec.arg0 is not None:
        argv[0] = spec.arg0
    env = dict(passable_environment(spec.env))
    env["PWD"] = spec.cwd
    if spec.tty:
        env.setdefault("SHELL", pty.login_shell())
    texts = [spec.cwd, program, str(len(argv)), *argv]
    texts += (f"{name}={value}" for name, value in env.items())
    try:
        fields = [encode(text) for text in texts]
    except UnicodeEncodeError as error:
        raise OperationFailed("text that is not valid Unicode found in provided data") from error
    if any(b"\0" in field for field in fields):
        raise OperationFailed("nul byte found in provided data")
    return b"\0".join(fields)


@functools.cache
def _entry_code() -> bytes:
    """Return the compiled ``entry``, so that sandboxed programs need not wait for the compiler."""
    loader: Any = entry.__loader__
    return marshal.dumps(loader.get_code(entry.__name__))


@functools.cache
def _interpreter_paths() -> tuple[str, ...]:
    """Return the existing paths that the interpreter needs."""
    paths = [INTERPRETER[0], *_LIBRARIES, "/etc/ld.so.cache"]
    paths += (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    library_directory = sysconfig.get_config_var("LIBDIR")
    if isinstance(library_directory, str):
        paths.append(library_directory)
    return tuple(dict.fromkeys(path for path in paths if os.path.exists(path)))
