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
from typing import TYPE_CHECKING, Final, NoReturn

from exec_server.cli.client import copying, files, info, printing, run, sessions, terminal
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

INTERACTIVE: Final = "pass standard input on to it"


class _Parser(argparse.ArgumentParser):
    """Wrong usage has an exit code that no program it runs is likely to have."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(TROUBLE, f"{self.prog}: {printable(message, TEXT_CHARACTERS)}\n")


def _parser() -> argparse.ArgumentParser:
    server = _Parser(add_help=False)
    add_options(server)
    server.add_argument("-v", "--verbose", action="store_true", help="tell what is worth knowing")
    as_json = _Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, for programs")

    parser = _Parser(
        prog="exec-server",
        description="Commands and files of a machine that runs an exec-server.",
        epilog=f"{TOKEN_VARIABLE} holds the bearer token for servers that ask for one. Exit codes: "
        "run's are the program's; 128+N died by signal N, 127 not found, 126 not executable, "
        "125 trouble with the server or the command line; 1 a file could not be had.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("run", parents=[server, as_json], help="run a program")
    command.add_argument("-i", "--interactive", action="store_true", help=INTERACTIVE)
    command.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    command.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="leave it running, and print its session and its id for ps, attach and kill",
    )
    command.add_argument("--name", metavar="ID", help="its id within the session")
    command.add_argument("-C", "--directory", metavar="DIR", help="its working directory")
    command.add_argument(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="an environment variable (may be repeated)",
    )
    command.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="-- PROGRAM ...", help="program and arguments"
    )
    command.set_defaults(do=run.run)

    command = commands.add_parser("ps", parents=[server, as_json], help="list a session's programs")
    command.set_defaults(do=sessions.list_processes)

    command = commands.add_parser(
        "attach", parents=[server], help="show what a session's program writes"
    )
    command.add_argument("-i", "--interactive", action="store_true", help=INTERACTIVE)
    command.add_argument(
        "-t", "--tty", action="store_true", help="it has a terminal, where the server does not tell"
    )
    command.add_argument("process", metavar="ID")
    command.set_defaults(do=sessions.attach)

    command = commands.add_parser("kill", parents=[server], help="end a session's programs")
    command.add_argument("-f", "--force", action="store_true", help="without asking them first")
    command.add_argument("processes", nargs="+", metavar="ID")
    command.set_defaults(do=sessions.kill)

    command = commands.add_parser("cp", parents=[server], help="copy files, either way")
    command.add_argument(
        "-r", "-R", "--recursive", action="store_true", help="copy directories and their content"
    )
    command.add_argument(
        "-p",
        "--preserve",
        action="store_true",
        help="fail with exit code 1 where modes and times cannot be kept (default: a warning for "
        "private files alone)",
    )
    command.add_argument(
        "-a",
        "--archive",
        action="store_true",
        help="copy directories, and fail where modes and times cannot be kept: the same as -rp",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="SOURCE... DESTINATION",
        help="local path, remote path as :PATH or :~/PATH, or '-' for the standard streams",
    )
    command.set_defaults(do=copying.copy)

    command = commands.add_parser("ls", parents=[server, as_json], help="list a directory")
    command.add_argument("-l", "--long", action="store_true", help="with sizes and times")
    command.add_argument("path", nargs="?", default="", help="default: the server's directory")
    command.set_defaults(do=files.list_directory)

    command = commands.add_parser("cat", parents=[server], help="print files")
    command.add_argument("paths", nargs="+", metavar="PATH")
    command.set_defaults(do=files.show)

    command = commands.add_parser("info", parents=[server, as_json], help="describe the server")
    command.set_defaults(do=info.info)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; returns the exit code."""
    printing.prepare()
    try:
        return _flushed(_run(argv))
    except BrokenPipeError:
        # The reader of the output is gone; Python would complain about it once more at exit.
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
        # An argument that the client library does not take.
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
    parser = _parser()
    options = parser.parse_args(argv)
    if options.do is run.run:
        if options.argv[:1] == ["--"]:
            del options.argv[0]
        if not options.argv:
            parser.error("run: there is no program to run")
    if options.do is copying.copy:
        if len(options.paths) < 2:
            parser.error("cp: a source and a destination are expected")
        options.recursive = options.recursive or options.archive
        options.preserve = options.preserve or options.archive
    return options


async def _do(options: argparse.Namespace) -> int:
    async with reach(options) as client:
        code: int = await options.do(client, options)
        return code


def _flushed(code: int) -> int:
    """The exit code, with standard output written. Raises OSError if it cannot be."""
    sys.stdout.flush()
    return code


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(printing.message_line(message), file=sys.stderr)
    return code
