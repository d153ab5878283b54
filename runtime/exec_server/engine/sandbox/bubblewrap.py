"""Confining programs with bubblewrap: namespaces for what they see, seccomp for what they may ask.

A confined program has user, process, IPC and mount namespaces of its own, no capability and no way
to get any, not even in a further user namespace, a network of its own unless it may use the
machine's, and ends with this server.

That is no boundary against what the same user runs outside. With the network, a program can reach
whatever listens on this machine, this server too.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import select
import signal
import stat
import sysconfig
from typing import TYPE_CHECKING, Any, Final

from exec_server.engine.memory_file import memory_file
from exec_server.engine.processes import pty
from exec_server.engine.processes.spawn import (
    INTERPRETER,
    SpawnSpec,
    check_program,
    passable_environment,
    spawn,
)
from exec_server.engine.sandbox import entry as sandbox_entry
from exec_server.engine.sandbox.grants import GRANTS
from exec_server.engine.sandbox.live_views import LIVE_VIEWS
from exec_server.engine.sandbox.placeholders import PLACEHOLDERS
from exec_server.engine.sandbox.seccomp import build_filter
from exec_server.engine.sandbox.sources import expectation, open_source
from exec_server.engine.sandbox.view import Mount, View, plan_view
from exec_server.errors import InvalidRequest, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exec_server.engine.processes.spawn import Child
    from exec_server.engine.sandbox.live_views import Places
    from exec_server.engine.sandbox.policy import SandboxPolicy
    from exec_server.engine.sandbox.view import Purpose

PROGRAM: Final = "bwrap"

MAX_ARGUMENTS: Final = 8_000
"""bubblewrap takes 9,000."""

_RUN_ENTRY: Final = (
    f"import marshal; file = open({sandbox_entry.SPEC_FD}, 'rb'); exec(marshal.load(file)); "
    "main(file)"
)

_FIRST_DESCRIPTOR: Final = 3
"""Of those that a child gets; see SpawnSpec."""

_PROBE_SECONDS: Final = 10.0
"""What bubblewrap gets to show that it works: a thousand times what it takes."""

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

_SAFE_IN_PROC: Final = frozenset(
    ("bus", "irq", "net", "pressure", "self", "sysrq-trigger", "thread-self")
)
"""Entries of /proc that stay as they are: links to a process's own, the triggers of pressure, which
any user may set (proc(5)), and what bubblewrap covers by itself."""

_LIBRARIES: Final = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
"""Where the interpreter's shared libraries are."""


class Confinement:
    """What one confined program is started through, and what it needs as long as it lives."""

    def __init__(self, view: View, *, runs_program: bool = True) -> None:
        """Raises OSError for lack of resources, InvalidRequest if the view cannot be kept."""
        self.descriptors: list[int] = []
        self.go_ahead = -1
        self._places: Places | None = None
        self._held, self.impossible = PLACEHOLDERS.hold(view)
        self.unsettled = GRANTS.unsettled(view)
        self._granted: View | None = view
        GRANTS.add(view)
        try:
            self._places = LIVE_VIEWS.enter(view, self.impossible, runs_program=runs_program)
        except BaseException:
            self.close()
            raise

    def passed_on(self) -> None:
        """The program has been started; see spawn.Confinement."""
        descriptors, self.descriptors = self.descriptors, []
        for descriptor in set(descriptors):
            os.close(descriptor)

    def close(self) -> None:
        """Let go of everything; idempotent."""
        self.passed_on()
        if self.go_ahead >= 0:
            os.close(self.go_ahead)
            self.go_ahead = -1
        if self._places is not None:
            LIVE_VIEWS.leave(self._places)
            self._places = None
        held, self._held = self._held, ()
        PLACEHOLDERS.release(held)
        granted, self._granted = self._granted, None
        if granted is not None:
            GRANTS.remove(granted)


class Bubblewrap:
    """Bubblewrap, as it was found to work here."""

    def __init__(self, program: str) -> None:
        self._program = program

    def plan(
        self, policy: SandboxPolicy, needs: Iterable[str] = (), *, purpose: Purpose = "run"
    ) -> View:
        """The view of a policy at this moment; for a thread, because it looks at any files.

        ``needs`` are paths that a program needs besides the interpreter. Raises InvalidRequest if
        the policy cannot be kept.
        """
        needs = (*_interpreter_paths(), *needs)
        return plan_view(policy, needs, purpose=purpose)

    def confine(self, spec: SpawnSpec, view: View, *, allows_network: bool) -> SpawnSpec:
        """What to start instead of ``spec`` to have it confined.

        Whoever does not start it closes its confinement. Raises as ``spawn`` does, and
        InvalidRequest for too large a view.
        """
        check_program(spec)
        description = _describe(spec)
        argv = [*INTERPRETER, "-c", _RUN_ENTRY]
        confinement = Confinement(view)
        try:
            confinement.descriptors.append(memory_file("command", _entry_code() + description))
            confinement.go_ahead, told = os.pipe()
            confinement.descriptors.append(told)
            argv = self.wrap(argv, view, confinement, allows_network=allows_network)
        except BaseException:
            confinement.close()
            raise
        return SpawnSpec(
            argv=argv,
            cwd=spec.cwd,
            env={},
            tty=spec.tty,
            pipe_stdin=spec.pipe_stdin,
            rows=spec.rows,
            cols=spec.cols,
            confinement=confinement,
            asked_argv=spec.argv,
        )

    def wrap(
        self, argv: Sequence[str], view: View, confinement: Confinement, *, allows_network: bool
    ) -> list[str]:
        """The command line that runs ``argv`` confined; it keeps the descriptors from 3 on that
        ``confinement`` has until now, and gets two more, for ``sandbox_entry.check_view``. Those
        that bubblewrap needs are added. Raises OSError for lack of resources, InvalidRequest if
        the view cannot be kept.
        """
        seccomp = build_filter(allows_network=allows_network)
        assert seccomp is not None  # or else _probe says so
        own = len(confinement.descriptors)
        arguments_fd = _FIRST_DESCRIPTOR + own + 2
        steps = _Steps(arguments_fd + 2, confinement.descriptors)
        for mount in view.mounts:
            if mount.path not in confinement.impossible:
                steps.add(mount)
        options = [*steps.options(), "--seccomp", str(arguments_fd + 1)]
        if not allows_network:
            options.append("--unshare-net")
        if len(options) > MAX_ARGUMENTS:
            raise InvalidRequest("sandbox: it has too many rules for bubblewrap")
        text = b"".join(os.fsencode(option) + b"\0" for option in options)
        insert = confinement.descriptors.insert
        insert(own, memory_file("view", bytes(steps.expected)))
        insert(own + 1, os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        insert(own + 2, memory_file("options", text))
        insert(own + 3, memory_file("filter", seccomp))
        outside: list[str] = []
        if confinement.unsettled and not _leaves_all_writable(view):
            outside = [self._program, *_surroundings(view, confinement.unsettled), "--"]
        return [*outside, self._program, "--args", str(arguments_fd), "--", *argv]


def is_available() -> bool:
    """Whether anything can be confined here. The first call of this or ``require`` tries it out,
    which takes some 10 ms."""
    return isinstance(_probe(), Bubblewrap)


def require() -> Bubblewrap:
    """Bubblewrap. Raises InvalidRequest, saying why, if it does not work here."""
    found = _probe()
    if isinstance(found, str):
        raise InvalidRequest(f"sandbox: nothing can be confined here, because {found}")
    return found


@functools.cache
def _probe() -> Bubblewrap | str:
    """Bubblewrap, or why there is none."""
    if build_filter(allows_network=False) is None:
        return f"the system calls of {os.uname().machine} are not known"
    program = _find_program()
    if program is None:
        return f"bubblewrap ({PROGRAM}) is not installed"
    found = Bubblewrap(program)
    confinement = Confinement(_PROBE_VIEW)
    try:
        argv = found.wrap([program, "--version"], _PROBE_VIEW, confinement, allows_network=False)
        child = spawn(SpawnSpec(argv=argv, cwd="/", env={}, confinement=confinement))
    except (OSError, OperationFailed) as error:
        return f"bubblewrap cannot be run: {error}"
    finally:
        confinement.close()
    code, complaint = _outcome(child)
    return f"bubblewrap does not work: {complaint}" if code else found


def _outcome(child: Child) -> tuple[int, str]:
    """Exit code of a short-lived child, and the last line of what it says on standard error."""
    try:
        poll = select.poll()
        poll.register(child.pidfd, select.POLLIN)
        if not poll.poll(_PROBE_SECONDS * 1000):
            os.killpg(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        try:
            said = os.read(child.stderr, 4096).decode(errors="replace").splitlines()
        except BlockingIOError:
            said = []
    finally:
        for descriptor in (child.pidfd, child.stdout, child.stderr):
            os.close(descriptor)
    code = os.waitstatus_to_exitcode(status)
    return code, said[-1] if said else f"it ends with {code}"


def _find_program() -> str | None:
    """As found by this server, not by what it confines."""
    for directory in os.get_exec_path():
        candidate = os.path.join(directory, PROGRAM)
        if os.path.isabs(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def _leaves_all_writable(view: View) -> bool:
    return view.mounts[0].kind == "device"


def _surroundings(view: View, unsettled: Iterable[str]) -> list[str]:
    """Options for bubblewrap around bubblewrap, while others may exchange mount points.

    A mount point that does not exist is created by bubblewrap, through links and in the file system
    outside. So that one has to be read-only, except where the view or the others may write.
    """
    options = ["--unshare-user", "--die-with-parent", "--ro-bind", "/", "/"]
    for place in ("/dev", "/proc"):
        options += ("--dev-bind", place, place)
    places = {*unsettled, *(mount.path for mount in view.mounts if mount.kind == "write")}
    for place in sorted(places):
        if not any(place.startswith(f"{other}/") for other in places):
            options += ("--bind", place, place)
    return options


class _Steps:
    """Makes a view: options for bubblewrap, the descriptors they name, and the result expected."""

    def __init__(self, next_descriptor: int, descriptors: list[int]) -> None:
        """``descriptors`` gets what bubblewrap is to have from the number given."""
        self.expected = bytearray()
        self._options = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent"]
        self._options += ("--disable-userns", "--cap-drop", "ALL")
        self._read_only: list[str] = []
        self._descriptors = descriptors
        self._next_descriptor = next_descriptor
        self._nothing: int | None = None

    def options(self) -> list[str]:
        """The options for everything added."""
        remounts = (option for path in self._read_only for option in ("--remount-ro", path))
        return [*self._options, *remounts]

    def add(self, mount: Mount) -> None:
        """Mount something over what was added before."""
        path = mount.path
        source: int | None = None
        match mount.kind:
            case "read":
                source = open_source(path)
                self._options += ("--ro-bind-fd", self._pass_on(source), path)
            case "write":
                source = open_source(path)
                self._options += ("--bind-fd", self._pass_on(source), path)
            case "device":
                # bubblewrap takes no descriptor for it; the comparison inside does without.
                source = open_source(path)
                self._options += ("--dev-bind", path, path)
            case "hidden":
                self._options += ("--tmpfs", path)
                self._read_only.append(path)
            case "denied_directory":
                mode = "111" if mount.is_passable else "000"
                self._options += ("--perms", mode, "--tmpfs", path)
                self._read_only.append(path)
            case "denied_file":
                self._options += ("--perms", "000", "--ro-bind-data", self._pass_on_nothing(), path)
            case "link":
                self._options += ("--symlink", mount.content, path)
            case "dev":
                self._options += ("--dev", path)
            case "proc":
                self._options += ("--proc", path)
                for name in _kernel_settings():
                    self._options += ("--ro-bind-try", f"/proc/{name}", f"{path}/{name}")
        self.expected += expectation(mount, source)
        if mount.kind == "device" and source is not None:
            os.close(source)

    def _pass_on(self, descriptor: int) -> str:
        self._descriptors.append(descriptor)
        self._next_descriptor += 1
        return str(self._next_descriptor - 1)

    def _pass_on_nothing(self) -> str:
        if self._nothing is None:
            self._nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return self._pass_on(self._nothing)


@functools.cache
def _kernel_settings() -> tuple[str, ...]:
    """Entries of /proc through which the kernel is configured; found once, in some milliseconds.

    They belong to root, and for most of them the kernel asks for no capability, so a confined
    process of root could write them. bubblewrap covers some, but not /proc/sys.
    """
    if os.geteuid():
        return ("sys",)
    names = (name for name in os.listdir("/proc") if not name.isdecimal())
    others = sorted(name for name in names if name not in _SAFE_IN_PROC | {"sys"})
    return ("sys", *(name for name in others if _has_writable_files(f"/proc/{name}")))


def _has_writable_files(path: str) -> bool:
    """True for a file that its owner may write, and for a directory with one below it."""
    files = [path]
    for directory, _, names in os.walk(path):
        files += (os.path.join(directory, name) for name in names)
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(file).st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IWUSR:
                return True
    return False


def _describe(spec: SpawnSpec) -> bytes:
    """A command as ``sandbox_entry`` reads it."""
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
        fields = [os.fsencode(text) for text in texts]
    except UnicodeEncodeError as error:
        raise OperationFailed("text that is not valid Unicode found in provided data") from error
    if any(b"\0" in field for field in fields):
        raise OperationFailed("nul byte found in provided data")
    return b"\0".join(fields)


@functools.cache
def _entry_code() -> bytes:
    """Return ``entry``, compiled: every sandboxed start would have to wait for the compiler."""
    loader: Any = sandbox_entry.__loader__
    return marshal.dumps(loader.get_code(sandbox_entry.__name__))


@functools.cache
def _interpreter_paths() -> tuple[str, ...]:
    """What the interpreter needs to be run, as far as it exists."""
    paths = [INTERPRETER[0], *_LIBRARIES, "/etc/ld.so.cache"]
    paths += (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    library_directory = sysconfig.get_config_var("LIBDIR")
    if isinstance(library_directory, str):
        paths.append(library_directory)
    return tuple(dict.fromkeys(path for path in paths if os.path.exists(path)))
