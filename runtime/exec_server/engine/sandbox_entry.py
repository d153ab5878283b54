"""The first program inside a sandbox: undoes what the way in has changed, and becomes the command.

On the way in every signal is blocked, so that bubblewrap, which waits outside in the same process
group, does not end of a Ctrl-C meant for the command. Run as a script, with descriptors 3, where
the command is described, and 4, in which it says that signals now reach the command.

It needs little of Python, because every confined command has to wait for it.
"""

from __future__ import annotations

# What the module signal is made of, without the enumerations that take longer to make than
# everything else here.
import _signal  # type: ignore[import-not-found]
import os

SPEC_FD = 3
GO_AHEAD_FD = 4

FAILURE_EXIT_CODE = 101
"""Of a command that cannot be run (v2, process/start with a sandbox)."""


def main() -> None:
    """Become the command, or say on standard error why not."""
    with open(SPEC_FD, "rb") as file:
        cwd, program, count, *texts = file.read().split(b"\0")
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


def _fail(what: bytes, error: OSError) -> None:
    text = f"{error.strerror} (os error {error.errno})"
    os.write(2, b"sandbox: " + what + b": " + text.encode() + b"\n")
    os._exit(FAILURE_EXIT_CODE)


if __name__ == "__main__":
    main()
