"""First program inside a sandbox: verifies the sandbox, restores signals, and executes the command.

All signals are blocked until then, so that bubblewrap, which stays outside in the same process
group, is not killed by a Ctrl-C meant for the command. The compiled code of this module is read
from descriptor 3, followed by the description of the command. Also open are descriptor 4, written
to when signals reach the command, 5, with the description of the view, and 6, the host's /proc.

Another program may have replaced directories while bubblewrap mounted them, so the command is not
executed before ``check_view`` has found every mount in the right place.

Imports are kept to a minimum, because every sandboxed command waits for them.
"""

from __future__ import annotations

# The C module behind signal, without the enumerations, which take longer to create than everything
# else here.
import _signal  # type: ignore[import-not-found]
import io  # noqa: TC003  # loaded anyway, unlike typing
import os

SPEC_FD = 3
GO_AHEAD_FD = 4
VIEW_FD = 5
PROC_FD = 6
"""Mount ids are only found in /proc, which the view may hide."""

FAILURE_EXIT_CODE = 101
"""Exit code if the command cannot be executed (v2, process/start with a sandbox)."""


def main(file: io.BufferedReader) -> None:
    """Execute the command described by the rest of a file, or report an error on standard error."""
    with file:
        cwd, program, count, *texts = file.read().split(b"\0")
    problem = check_view(VIEW_FD, PROC_FD)
    if problem is not None:
        os.write(2, problem + b"\n")
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
    """Compare the mounts with the planned ones; return an error message if they differ.

    Closes both descriptors. The format of the first one is that of ``sources.expectation``.
    """
    with open(view_fd, "rb") as file:
        *fields, _ = file.read().split(b"\0")
    found = []
    mismatch = b""
    for kind, device, inode, path in zip(*[iter(fields)] * 4, strict=True):
        try:
            descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            mismatch = path
            break
        status = os.fstat(descriptor)
        if kind == b"empty":
            is_expected = status.st_mode & 0o7777 == int(device, 8)
        else:
            is_expected = (status.st_dev, status.st_ino) == (int(device), int(inode))
        if not is_expected:
            mismatch = path
        found.append((_mount_id(proc_fd, descriptor), kind, path))
        os.close(descriptor)
    mounts = _mounts(proc_fd)
    os.close(proc_fd)
    for mount_id, kind, path in found:
        point, options, file_system = mounts.get(mount_id, (b"", b"", b""))
        if (
            point != path
            or (kind != b"write" and b"ro" not in options.split(b","))
            or (kind == b"empty" and file_system != b"tmpfs")
        ):
            mismatch = path
    if not mismatch:
        return None
    return b"sandbox: " + mismatch + b" was replaced while the sandbox was being set up; try again"


def _mount_id(proc_fd: int, descriptor: int) -> bytes:
    """Return the id of the mount through which a descriptor was opened (proc(5), fdinfo)."""
    text = _read(proc_fd, f"self/fdinfo/{descriptor}")
    return text.partition(b"mnt_id:")[2].split(None, 1)[0]


def _mounts(proc_fd: int) -> dict[bytes, tuple[bytes, bytes, bytes]]:
    """Return mount point, options and type of each mount, by mount id (proc(5), mountinfo)."""
    mounts = {}
    for line in _read(proc_fd, "self/mountinfo").splitlines():
        mount_id, _, _, _, point, options, *rest = line.split(b" ")
        if b"\\" in point:
            for escape, byte in ((b"040", b" "), (b"011", b"\t"), (b"012", b"\n"), (b"134", b"\\")):
                point = point.replace(b"\\" + escape, byte)
        mounts[mount_id] = point, options, rest[rest.index(b"-") + 1]
    return mounts


def _read(proc_fd: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    with open(descriptor, "rb") as file:
        return file.read()


def _fail(failure: bytes, error: OSError) -> None:
    text = f"{error.strerror} (os error {error.errno})"
    os.write(2, b"sandbox: " + failure + b": " + text.encode() + b"\n")
    os._exit(FAILURE_EXIT_CODE)
