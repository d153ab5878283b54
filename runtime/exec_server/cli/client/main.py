"""The command line of ``exec-server``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final, NoReturn

from exec_server import __version__
from exec_server.cli.client import copying, files, info, printing, run, sessions, terminal
from exec_server.cli.client.escape_keys import DETACH_KEYS, ESCAPE_CHARACTER
from exec_server.cli.client.exit_codes import (
    FAILED,
    SIGNALLED,
    TROUBLE,
    CommandError,
    describe,
)
from exec_server.cli.client.target_options import TOKEN_VARIABLE, add_options, reach
from exec_server.client import ClientError
from exec_server.client.display import TEXT_CHARACTERS
from exec_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERACTIVE: Final = "pass standard input on to the program"


class _Parser(argparse.ArgumentParser):
    """Parser whose errors exit with the code of this command, unlike those of programs.

    Options are not abbreviated: ``--token`` would be taken for ``--token-file``, and a secret for a
    path.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(TROUBLE, f"{self.prog}: {printable(message, TEXT_CHARACTERS)}\n")


def _parser() -> argparse.ArgumentParser:
    server = _Parser(add_help=False)
    add_options(server)
    server.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="enable informational logging on standard error",
    )
    server.add_argument("--version", action="version", version=f"exec-server {__version__}")
    as_json = _Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    keys = _Parser(add_help=False)
    keys.add_argument(
        "--escape",
        metavar="CHAR",
        default=ESCAPE_CHARACTER,
        help="escape character of an interactive terminal session: at the start of a line, CHAR "
        "and a period end the program and the session; 'none' disables it (default: %(default)s)",
    )
    keys.add_argument(
        "--detach-keys",
        metavar="KEYS",
        default=DETACH_KEYS,
        help="keys that leave an interactive terminal session and its program running, where the "
        "server keeps sessions; 'none' disables them (default: %(default)s)",
    )

    parser = _Parser(
        prog="exec-server",
        description="Run programs and copy files on a machine with an exec-server.",
        epilog="Exit codes: 'run' and 'attach' return that of the program, 128+N if signal N "
        "killed it, 126 if it cannot be executed and 127 if it was not found. Otherwise, 1 means "
        "that a file could not be read, written or listed, and 125 an error of the command line, "
        f"the server or the connection. {TOKEN_VARIABLE} holds the bearer token of servers that "
        "require one.",
    )
    parser.add_argument("--version", action="version", version=f"exec-server {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("run", parents=[server, as_json, keys], help="run a program")
    command.add_argument("-i", "--interactive", action="store_true", help=INTERACTIVE)
    command.add_argument(
        "-t", "--tty", action="store_true", help="run the program on a terminal instead of pipes"
    )
    command.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="leave the program running, and print its session and id for ps, attach and kill",
    )
    command.add_argument(
        "--name", metavar="ID", help="id of the program within the session (default: a unique one)"
    )
    command.add_argument(
        "-C",
        "--directory",
        metavar="DIR",
        help="working directory of the program (default: the server's)",
    )
    command.add_argument(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="environment variable of the program; without a value, the local one is passed on "
        "(repeatable)",
    )
    command.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="-- PROGRAM ...", help="program and arguments"
    )
    command.set_defaults(do=run.run, parser=command)

    command = commands.add_parser(
        "ps", parents=[server, as_json], help="list the programs of a session"
    )
    command.set_defaults(do=sessions.list_processes)

    command = commands.add_parser(
        "attach", parents=[server, keys], help="show the output of a program of a session"
    )
    command.add_argument("-i", "--interactive", action="store_true", help=INTERACTIVE)
    command.add_argument(
        "-t",
        "--tty",
        action="store_true",
        help="assume that the program has a terminal, if the server cannot list programs",
    )
    command.add_argument("process", metavar="ID", help="id of the program within the session")
    command.set_defaults(do=sessions.attach)

    command = commands.add_parser("kill", parents=[server], help="end programs of a session")
    command.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="send SIGKILL at once (default: SIGTERM, and SIGKILL 10 seconds later)",
    )
    command.add_argument(
        "processes", nargs="+", metavar="ID", help="id of a program within the session"
    )
    command.set_defaults(do=sessions.kill)

    command = commands.add_parser("cp", parents=[server], help="copy files to or from the server")
    command.add_argument(
        "-r", "-R", "--recursive", action="store_true", help="copy directories and their content"
    )
    command.add_argument(
        "-p",
        "--preserve",
        action="store_true",
        help="exit with 1 if modes and times cannot be kept, because the server has no tar "
        "(default: they are kept where possible)",
    )
    command.add_argument(
        "-a",
        "--archive",
        action="store_true",
        help="copy directories, and exit with 1 if modes and times cannot be kept; same as -rp",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="sources and then the destination: local paths, remote paths as :PATH or :~/PATH, or "
        "'-' for standard input or output",
    )
    command.set_defaults(do=copying.copy, parser=command)

    command = commands.add_parser(
        "ls", parents=[server, as_json], help="list a directory of the server"
    )
    command.add_argument(
        "-l", "--long", action="store_true", help="show kinds, sizes and modification times"
    )
    command.add_argument(
        "path", nargs="?", default="", help="directory or file (default: the server's directory)"
    )
    command.set_defaults(do=files.list_directory)

    command = commands.add_parser("cat", parents=[server], help="print files of the server")
    command.add_argument("paths", nargs="+", metavar="PATH", help="remote path")
    command.set_defaults(do=files.show)

    command = commands.add_parser("info", parents=[server, as_json], help="describe the server")
    command.set_defaults(do=info.info)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    printing.prepare()
    try:
        return _flushed(_run(argv))
    except BrokenPipeError:
        # The reader of the output is gone; without this, Python reports it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal.STDOUT)
        return SIGNALLED + signal.SIGPIPE
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal.STDOUT)
        return _fail(f"standard output: {describe(error)}", FAILED)


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _options(argv)
        handler = logging.StreamHandler()
        handler.setFormatter(printing.MessageFormatter())
        level = logging.INFO if options.verbose else logging.ERROR
        logging.basicConfig(handlers=[handler], level=level)
        return asyncio.run(_do(options))
    except SystemExit as end:
        return int(end.code or 0)
    except CommandError as error:
        return _fail(str(error), error.code)
    except ClientError as error:
        return _fail(str(error), TROUBLE)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(describe(error), FAILED)
    except (TypeError, ValueError) as error:
        # An argument that the client library refuses.
        return _fail(str(error), TROUBLE)
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except Exception as error:
        # The text of an unforeseen error may hold a secret; its place cannot.
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = os.path.basename(place.filename)
        return _fail(
            f"internal error, please report it: {type(error).__name__} in {name}:{place.lineno}",
            TROUBLE,
        )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = _parser().parse_args(argv)
    if options.do is run.run:
        if options.argv[:1] == ["--"]:
            del options.argv[0]
        if not options.argv:
            options.parser.error("a program to run is expected")
    if options.do is copying.copy:
        if len(options.paths) < 2:
            options.parser.error("a source and a destination are expected")
        options.recursive = options.recursive or options.archive
        options.preserve = options.preserve or options.archive
    return options


async def _do(options: argparse.Namespace) -> int:
    async with reach(options) as client:
        code: int = await options.do(client, options)
        return code


def _flushed(code: int) -> int:
    """Flush standard output and return the exit code. Raises OSError if it cannot be written."""
    sys.stdout.flush()
    return code


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(printing.message_line(message), file=sys.stderr)
    return code
