"""The first program inside a sandbox: undoes what the way in has changed, and becomes the command.

On the way in every signal is blocked, so that bubblewrap, which waits outside in the same process
group, does not end of a Ctrl-C meant for the command. Its compiled code comes through descriptor 3,
and behind it the description of the command. Descriptors 4, in which it says that signals now reach
the command, 5, where the view is described, and 6, the /proc of outside, are open as well.

Another program may have exchanged directories while bubblewrap mounted them, so the command gets
nothing before ``check_view`` has found every mount where it belongs.

It needs little of Python, because every confined command has to wait for it.
"""

from __future__ import annotations

# What the module signal is made of, without the enumerations that take longer to make than
# everything else here.
import _signal  # type: ignore[import-not-found]
import io  # noqa: TC003  # loaded anyway, unlike typing
import os

SPEC_FD = 3
GO_AHEAD_FD = 4
VIEW_FD = 5
PROC_FD = 6
"""The view may hide its own, and a mount is known by its number in there only."""

FAILURE_EXIT_CODE = 101
"""Of a command that cannot be run (v2, process/start with a sandbox)."""


def main(file: io.BufferedReader) -> None:
    """Become the command that the rest of a file describes, or say on standard error why not."""
    with file:
        cwd, program, count, *texts = file.read().split(b"\0")
    wrong = check_view(VIEW_FD, PROC_FD)
    if wrong is not None:
        os.write(2, wrong + b"\n")
        os._exit(FAILURE_EXIT_CODE)
    argv = texts[: int(count)]
    env: dict[bytes, bytes] = {}
    for text in texts[int(count) :]:
        end = text.index(b"=", 1)
        env[text[:end]] = text[end + 1 :]
    for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.write(GO_AHEAD_FD, b"\n")
    os.close(GO_AHEAD_FD)
    try:
        os.chdir(cwd)
    except OSError as error:
        _fail(b"cannot enter " + cwd, error)
    try:
        os.execvpe(program, argv, env)
    except OSError as error:
        _fail(b"cannot run " + program, error)


def check_view(view_fd: int, proc_fd: int) -> bytes | None:
    """Compare what is mounted with what was planned; returns what is wrong, if anything is.

    Closes both descriptors. ``sources.expectation`` says what the first one holds.
    """
    with open(view_fd, "rb") as file:
        *fields, _ = file.read().split(b"\0")
    found = []
    wrong = b""
    for kind, device, inode, path in zip(*[iter(fields)] * 4, strict=True):
        try:
            number = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            wrong = path
            break
        status = os.fstat(number)
        if kind == b"empty":
            is_right = status.st_mode & 0o7777 == int(device, 8)
        else:
            is_right = (status.st_dev, status.st_ino) == (int(device), int(inode))
        if not is_right:
            wrong = path
        found.append((_mount_id(proc_fd, number), kind, path))
        os.close(number)
    mounts = _mounts(proc_fd)
    os.close(proc_fd)
    for mount_id, kind, path in found:
        point, options, file_system = mounts.get(mount_id, (b"", b"", b""))
        if (
            point != path
            or (kind != b"write" and b"ro" not in options.split(b","))
            or (kind == b"empty" and file_system != b"tmpfs")
        ):
            wrong = path
    if not wrong:
        return None
    return b"sandbox: " + wrong + b" was exchanged while the sandbox was prepared; try again"


def _mount_id(proc_fd: int, number: int) -> bytes:
    """The number of the mount through which something was opened (proc(5), fdinfo)."""
    text = _read(proc_fd, f"self/fdinfo/{number}")
    return text.partition(b"mnt_id:")[2].split(None, 1)[0]


def _mounts(proc_fd: int) -> dict[bytes, tuple[bytes, bytes, bytes]]:
    """Mount point, options and type of each mount, by number (proc(5), mountinfo)."""
    mounts = {}
    for line in _read(proc_fd, "self/mountinfo").splitlines():
        number, _, _, _, point, options, *rest = line.split(b" ")
        if b"\\" in point:
            for escape, byte in ((b"040", b" "), (b"011", b"\t"), (b"012", b"\n"), (b"134", b"\\")):
                point = point.replace(b"\\" + escape, byte)
        mounts[number] = point, options, rest[rest.index(b"-") + 1]
    return mounts


def _read(proc_fd: int, name: str) -> bytes:
    number = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    with open(number, "rb") as file:
        return file.read()


def _fail(what: bytes, error: OSError) -> None:
    text = f"{error.strerror} (os error {error.errno})"
    os.write(2, b"sandbox: " + what + b": " + text.encode() + b"\n")
    os._exit(FAILURE_EXIT_CODE)
