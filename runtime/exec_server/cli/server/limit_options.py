"""Options for limits and times: one for each field of Settings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from exec_server.cli import option_types
from exec_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class _Option(NamedTuple):
    flag: str
    field: str
    parse: Callable[[str], object] | None
    """Parser of its value; None for a switch."""
    help: str
    metavar: str = "N"


def _depth(text: str) -> int:
    depth = option_types.count(text)
    if depth > _MAX_DEPTH:
        raise argparse.ArgumentTypeError(f"expected at most {_MAX_DEPTH}, got {depth}")
    return depth


def _executions(text: str) -> tuple[str, ...]:
    if text not in _EXECUTIONS:
        kinds = ", ".join(_EXECUTIONS)
        raise argparse.ArgumentTypeError(f"expected one of {kinds}, got {text!r}")
    return _EXECUTIONS[text]


_MAX_DEPTH: Final = 512
"""Depth that the parsers reach without running out of stack."""

_EXECUTIONS: Final = {
    "all": ("direct", "prepared"),
    "direct": ("direct",),
    "prepared": ("prepared",),
}

_OPTIONS: Final = (
    _Option(
        "--detached-seconds",
        "detached_seconds",
        option_types.seconds,
        "seconds for which a client that lost its connection can resume its session; then the "
        "session ends and its processes are killed (default: 10 with --protocol v1, otherwise "
        "80)",
    ),
    _Option(
        "--retention-seconds",
        "retention_seconds",
        option_types.seconds,
        "seconds for which the output of a closed process can be read (default: 30 with "
        "--protocol v1, otherwise 80)",
    ),
    _Option(
        "--max-connections",
        "max_connections",
        option_types.count,
        "maximum number of WebSocket connections; beyond it a handshake is answered with 503",
    ),
    _Option(
        "--max-sessions",
        "max_sessions",
        option_types.count,
        "maximum number of sessions, detached ones included; beyond it `initialize` is refused",
    ),
    _Option(
        "--max-processes",
        "max_processes",
        option_types.count,
        "maximum number of running processes per session; beyond it a start is refused",
    ),
    _Option(
        "--retained-bytes",
        "retained_bytes",
        option_types.count,
        "bytes of output retained per process for process/read; beyond it the oldest chunks are "
        "dropped",
    ),
    _Option(
        "--retained-chunks",
        "retained_chunks",
        option_types.count,
        "number of output chunks retained per process for process/read; beyond it the oldest "
        "are dropped",
    ),
    _Option(
        "--max-retained-bytes",
        "max_retained_bytes",
        option_types.count,
        "bytes of memory for the retained output of all processes of a session; beyond it the "
        "process that closed first is forgotten early or, if none has closed, the oldest output "
        "of the process that writes is dropped",
    ),
    _Option(
        "--max-detached-bytes",
        "max_detached_bytes",
        option_types.count,
        "bytes of memory that all detached sessions may hold, output and queued input included; "
        "beyond it the session that was detached first ends early and its processes are killed",
    ),
    _Option(
        "--remembered-writes",
        "remembered_writes",
        option_types.count,
        "number of accepted writes per session that are recognized when a client repeats them; "
        "beyond it the oldest are forgotten",
    ),
    _Option(
        "--write-queue-bytes",
        "write_queue_bytes",
        option_types.count,
        "bytes of input queued per process; beyond it process/write is answered when there is room",
    ),
    _Option(
        "--max-message-bytes",
        "max_message_bytes",
        option_types.count,
        "maximum size in bytes of a WebSocket message or a line of input; beyond it the "
        "connection is closed with code 1009, or the line is skipped",
    ),
    _Option(
        "--max-frame-bytes",
        "max_frame_bytes",
        option_types.count,
        "maximum size in bytes of a WebSocket frame; beyond it the connection is closed with "
        "code 1009",
    ),
    _Option(
        "--max-json-bytes",
        "max_json_bytes",
        option_types.count,
        "maximum size in bytes of the JSON of a message, base64 data in its params excluded; "
        "beyond it the message is refused",
    ),
    _Option(
        "--max-json-depth",
        "max_json_depth",
        _depth,
        "maximum nesting of arrays and objects in a message; beyond it the message is refused",
    ),
    _Option(
        "--max-json-values",
        "max_json_values",
        option_types.count,
        "maximum number of JSON values in a message; beyond it the message is refused",
    ),
    _Option(
        "--max-requests",
        "max_requests",
        option_types.count,
        "maximum number of waiting requests per connection; beyond it requests that may wait "
        "are refused",
    ),
    _Option(
        "--max-held-bytes",
        "max_held_bytes",
        option_types.count,
        "bytes of memory held per client: waiting requests, input queued for processes, "
        "contents collected before they are sent, answers not read yet; beyond it requests are "
        "refused or read later",
    ),
    _Option(
        "--max-unsent-bytes",
        "max_unsent_bytes",
        option_types.count,
        "bytes of answers that a client has not read; beyond it no more of its requests are read",
    ),
    _Option(
        "--max-file-handles",
        "max_file_handles",
        option_types.count,
        "maximum number of open file handles per connection; beyond it fs/open is refused",
    ),
    _Option(
        "--max-http-seconds",
        "max_http_seconds",
        option_types.seconds,
        "maximum duration of an http/request in seconds; beyond it the request fails (default: "
        "none beside the client's own timeout)",
    ),
    _Option(
        "--execution",
        "executions",
        _executions,
        "kinds of command to run: direct ones are run as given, prepared ones after a client "
        "has adapted them (draft); all, direct or prepared (default: all)",
        "KIND",
    ),
    _Option(
        "--grace-seconds",
        "grace_seconds",
        option_types.seconds,
        "seconds that requests and processes may take to end after SIGTERM; then processes are "
        "killed and requests not answered",
    ),
    _Option(
        "--fsync",
        "fsync",
        None,
        "answer fs/writeFile and fs/copy only when the file is on the disk (default: off)",
    ),
)


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of Settings."""
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
    """Return the fields of Settings that a command line sets."""
    return {
        option.field: value
        for option in _OPTIONS
        if (value := getattr(options, option.field)) is not None
    }
