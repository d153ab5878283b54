"""The command line of ``exec-server``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from exec_server.client import ClientError, connect
from exec_server.command import files, info, run
from exec_server.command.failures import (
    FAILED,
    SIGNALLED,
    TROUBLE,
    CommandError,
    describe,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

URL_VARIABLE: Final = "EXEC_SERVER_URL"
TOKEN_VARIABLE: Final = "EXEC_SERVER_TOKEN"  # noqa: S105 (a name)


class _Parser(argparse.ArgumentParser):
    """Wrong usage has an exit code that no program it runs is likely to have."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(TROUBLE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    server = _Parser(add_help=False)
    where = server.add_mutually_exclusive_group()
    where.add_argument(
        "--url",
        help=f"ws://HOST:PORT, stdio:COMMAND or in-process: (default: ${URL_VARIABLE})",
    )
    where.add_argument("--cmd", metavar="COMMAND", help="start this server, and end it afterwards")
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

    command = commands.add_parser("run", parents=[server], help="run a program")
    command.add_argument(
        "-i", "--interactive", action="store_true", help="pass standard input on to it"
    )
    command.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
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

    command = commands.add_parser("cp", parents=[server], help="copy a file, either way")
    command.add_argument("source", help="path here, or :PATH there")
    command.add_argument("destination", help="path there, as :PATH, or here")
    command.set_defaults(do=files.copy)

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
    parser = _parser()
    options = parser.parse_args(argv)
    if options.do is run.run:
        if options.argv[:1] == ["--"]:
            del options.argv[0]
        if not options.argv:
            parser.error("run: there is no program to run")
    logging.basicConfig(
        format="exec-server: %(message)s", level=logging.INFO if options.verbose else logging.ERROR
    )
    try:
        code = asyncio.run(_do(options))
        sys.stdout.flush()
    except CommandError as error:
        return _fail(str(error), error.code)
    except ClientError as error:
        return _fail(str(error), TROUBLE)
    except BrokenPipeError:
        # Whoever read the output is gone; Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNALLED + signal.SIGPIPE
    except OSError as error:
        return _fail(describe(error), FAILED)
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    return code


async def _do(options: argparse.Namespace) -> int:
    target = f"stdio:{options.cmd}" if options.cmd else options.url or os.environ.get(URL_VARIABLE)
    if not target:
        raise CommandError(f"there is no server: give --url or --cmd, or set {URL_VARIABLE}")
    async with connect(
        target, token=os.environ.get(TOKEN_VARIABLE), client_name="exec-server"
    ) as client:
        code: int = await options.do(client, options)
        return code


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"exec-server: {message}", file=sys.stderr)
    return code
