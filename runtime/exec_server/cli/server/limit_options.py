"""The options of the command line that set limits and times."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from exec_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class _Option(NamedTuple):
    flag: str
    field: str
    parse: Callable[[str], object] | None
    """How its value is read; None for a switch."""
    help: str
    metavar: str = "N"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return value


def whole_number(text: str) -> int:
    """A whole number above 0; raises argparse.ArgumentTypeError."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _depth(text: str) -> int:
    depth = whole_number(text)
    if depth > _MAX_DEPTH:
        raise argparse.ArgumentTypeError(f"expected at most {_MAX_DEPTH}, got {depth}")
    return depth


def _executions(text: str) -> tuple[str, ...]:
    if text not in _EXECUTIONS:
        kinds = ", ".join(_EXECUTIONS)
        raise argparse.ArgumentTypeError(f"expected one of {kinds}, got {text!r}")
    return _EXECUTIONS[text]


_MAX_DEPTH: Final = 512
"""What the parsers follow without running out of stack."""

_EXECUTIONS: Final = {
    "all": ("direct", "prepared"),
    "direct": ("direct",),
    "prepared": ("prepared",),
}

_OPTIONS: Final = (
    _Option(
        "--detached-seconds",
        "detached_seconds",
        _seconds,
        "how long a client that lost its connection may resume its session before its processes "
        "are killed (default: 10 with --protocol v1, else 80)",
    ),
    _Option(
        "--retention-seconds",
        "retention_seconds",
        _seconds,
        "how long the output of a finished process can still be read (default: 30 with "
        "--protocol v1, else 80)",
    ),
    _Option(
        "--max-connections", "max_connections", whole_number, "WebSocket connections at a time"
    ),
    _Option(
        "--max-sessions",
        "max_sessions",
        whole_number,
        "sessions at a time, with those that can be resumed",
    ),
    _Option(
        "--max-processes",
        "max_processes",
        whole_number,
        "how many processes of a client may run at a time",
    ),
    _Option(
        "--retained-bytes",
        "retained_bytes",
        whole_number,
        "output of a process that can be read again, the newest",
    ),
    _Option(
        "--retained-chunks", "retained_chunks", whole_number, "pieces of such output, the newest"
    ),
    _Option(
        "--max-retained-bytes",
        "max_retained_bytes",
        whole_number,
        "memory in bytes for the output of all processes of a client that can be read again; "
        "beyond, the finished process that ended first is forgotten early, and if there is none, "
        "the oldest output of the process that writes",
    ),
    _Option(
        "--remembered-writes",
        "remembered_writes",
        whole_number,
        "writes to the processes of a client that are done once, however often they are sent; "
        "the most recent ones",
    ),
    _Option(
        "--write-queue-bytes",
        "write_queue_bytes",
        whole_number,
        "input queued for a process before a write has to wait",
    ),
    _Option(
        "--max-message-bytes",
        "max_message_bytes",
        whole_number,
        "a WebSocket message or a line from a client",
    ),
    _Option(
        "--max-frame-bytes", "max_frame_bytes", whole_number, "a WebSocket frame from a client"
    ),
    _Option(
        "--max-json-bytes",
        "max_json_bytes",
        whole_number,
        "JSON of a message, without the base64 data in its params",
    ),
    _Option("--max-json-depth", "max_json_depth", _depth, "nested arrays and objects of a message"),
    _Option("--max-json-values", "max_json_values", whole_number, "JSON values of a message"),
    _Option(
        "--max-requests",
        "max_requests",
        whole_number,
        "requests of a connection that wait for something at a time",
    ),
    _Option(
        "--max-held-bytes",
        "max_held_bytes",
        whole_number,
        "memory in bytes that is held for a client: requests that wait, input queued for "
        "processes, contents that are collected before they are sent, answers not read yet; "
        "beyond, requests are refused or read later",
    ),
    _Option(
        "--max-unsent-bytes",
        "max_unsent_bytes",
        whole_number,
        "answers a client has not read before no more of its requests are read",
    ),
    _Option(
        "--max-file-handles",
        "max_file_handles",
        whole_number,
        "files that a connection may hold open",
    ),
    _Option(
        "--max-http-seconds",
        "max_http_seconds",
        _seconds,
        "how long an http/request may take (default: as long as the client says)",
    ),
    _Option(
        "--execution",
        "executions",
        _executions,
        "the kinds of command to run (all, direct or prepared; default: all): direct ones are run "
        "as their author wrote them, prepared ones as the client has made them fit to be run; "
        "clients of v0 to v2 start direct ones alone",
        "KIND",
    ),
    _Option(
        "--grace-seconds",
        "grace_seconds",
        _seconds,
        "how long requests and processes under way may take to end when the server is told to; "
        "processes get SIGTERM at once and SIGKILL then",
    ),
    _Option(
        "--fsync",
        "fsync",
        None,
        "answer fs/writeFile and fs/copy when the files are on the disk",
    ),
)


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line set every field of Settings."""
    defaults = Settings()
    group = parser.add_argument_group("limits and times")
    for option in _OPTIONS:
        if option.parse is None:
            group.add_argument(
                option.flag, dest=option.field, action="store_true", default=None, help=option.help
            )
            continue
        default = getattr(defaults, option.field)
        shown = "" if "default:" in option.help else f" (default: {default:,})"
        group.add_argument(
            option.flag,
            dest=option.field,
            metavar=option.metavar,
            type=option.parse,
            help=f"{option.help}{shown}",
        )


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Settings that a command line sets."""
    return {
        option.field: value
        for option in _OPTIONS
        if (value := getattr(options, option.field)) is not None
    }
