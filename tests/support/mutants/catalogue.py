"""The mutants: for each its fault, and the session that must fail because of it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.support.mutants.wire import Message, Wire, install

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.engine.processes.process import Process

Transport = Literal["ws", "stdio"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """Our server with one fault."""

    fault: str
    caught_by: str
    """A session that fails."""
    transport: Transport
    change: Callable[..., None]
    is_patch: bool
    """True if it changes the program rather than the messages."""
    drift: str = ""
    """Place of the drift that the session reports instead of failing; empty if it fails."""

    def install(self) -> None:
        """Make this process's server the mutant."""
        if self.is_patch:
            self.change()
        else:
            install(self.change)


MUTANTS: dict[str, Mutant] = {}


def mutant(
    fault: str, caught_by: str, transport: Transport = "stdio", drift: str = ""
) -> Callable[[Callable[[Wire], None]], Callable[[Wire], None]]:
    """Enter hooks on the messages of a connection into the catalogue."""

    def enter(change: Callable[[Wire], None]) -> Callable[[Wire], None]:
        name = change.__name__.replace("_", "-")
        MUTANTS[name] = Mutant(fault, caught_by, transport, change, is_patch=False, drift=drift)
        return change

    return enter


def patch(
    fault: str, caught_by: str, transport: Transport = "stdio"
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Enter a change of the program itself into the catalogue."""

    def enter(change: Callable[[], None]) -> Callable[[], None]:
        name = change.__name__.replace("_", "-")
        MUTANTS[name] = Mutant(fault, caught_by, transport, change, is_patch=True)
        return change

    return enter


def text_of(chunk: str) -> bytes:
    return base64.b64decode(chunk)


def chunk_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def notification(method: str, **params: Any) -> Message:
    return {"method": method, "params": params}


# Events of processes


def _numbering(renumber: Callable[[int], int]) -> Callable[[str, Message], None]:
    def change(_: str, params: Message) -> None:
        if "seq" in params:
            params["seq"] = renumber(params["seq"])

    return change


@mutant("numbers skip 2", "v1/process/pipe_basic")
def seq_gap(wire: Wire) -> None:
    wire.on_event(_numbering(lambda seq: seq + (seq > 1)))


@mutant("numbers begin with 0", "v1/process/pipe_basic")
def seq_from_zero(wire: Wire) -> None:
    wire.on_event(_numbering(lambda seq: seq - 1))


@mutant("the close repeats the number of the exit", "v1/process/no_output")
def seq_repeated(wire: Wire) -> None:
    def change(method: str, params: Message) -> None:
        params["seq"] -= method == "process/closed"

    wire.on_event(change)


@mutant("the close overtakes, and is numbered before, the last output", "v1/process/pipe_basic")
def closed_before_output(wire: Wire) -> None:
    held: list[Message] = []

    def change(method: str, params: Message) -> list[Message]:
        held.append(notification(method, **params))
        if method != "process/closed":
            return []
        held.insert(0, held.pop())
        for seq, message in enumerate(held, 1):
            message["params"]["seq"] = seq
        return held

    wire.on_event(change)


@mutant("the last chunk of output is lost", "v1/process/pipe_basic")
def last_chunk_lost(wire: Wire) -> None:
    held: list[Message] = []

    def change(method: str, params: Message) -> list[Message]:
        if method == "process/output":
            held.append(notification(method, **params))
            return held[:-1] and [held.pop(0)]
        params["seq"] -= 1
        return [notification(method, **params)]

    wire.on_event(change)


@mutant("stderr comes as stdout", "v1/process/pipe_basic")
def wrong_stream(wire: Wire) -> None:
    def change(_: str, params: Message) -> None:
        if params.get("stream") == "stderr":
            params["stream"] = "stdout"

    wire.on_event(change)


@mutant("the output of a terminal comes as stdout", "v1/process/pty_basic")
def pty_as_stdout(wire: Wire) -> None:
    def change(_: str, params: Message) -> None:
        if params.get("stream") == "pty":
            params["stream"] = "stdout"

    wire.on_event(change)


@mutant("exit codes are one too high", "v1/process/exit_codes")
def exit_code_off_by_one(wire: Wire) -> None:
    def change(method: str, params: Message) -> None:
        if method == "process/exited":
            params["exitCode"] += 1

    wire.on_event(change)


@mutant("death by a signal is told as success", "v1/process/killed_by_signal")
def signal_as_success(wire: Wire) -> None:
    def change(method: str, params: Message) -> None:
        if method == "process/exited" and params["exitCode"] < 0:
            params["exitCode"] = 0

    wire.on_event(change)


@mutant("the exit is told twice", "v1/process/no_output")
def exited_twice(wire: Wire) -> None:
    def change(method: str, params: Message) -> list[Message] | None:
        message = notification(method, **params)
        return [message, message] if method == "process/exited" else None

    wire.on_event(change)


@mutant("the exit is not told", "v1/process/no_output")
def exited_missing(wire: Wire) -> None:
    def change(method: str, params: Message) -> list[Message] | None:
        params["seq"] -= method == "process/closed"
        return [] if method == "process/exited" else None

    wire.on_event(change)


@mutant("the close is not told", "v1/process/no_output")
def closed_missing(wire: Wire) -> None:
    wire.on_event(lambda method, _: [] if method == "process/closed" else None)


@mutant("the exit is kept back until the close", "v1/process/orphan_delays_close")
def exited_late(wire: Wire) -> None:
    held: list[Message] = []

    def change(method: str, params: Message) -> list[Message] | None:
        if method == "process/exited":
            held.append(notification(method, **params))
            return []
        return [*held, notification(method, **params)] if method == "process/closed" else None

    wire.on_event(change)


@mutant("the close follows the exit at once, and later output is lost", "v1/process/orphan_output")
def closed_early(wire: Wire) -> None:
    exited: set[str] = set()

    def change(method: str, params: Message) -> list[Message] | None:
        if params["processId"] in exited:
            return []
        if method != "process/exited":
            return None
        exited.add(params["processId"])
        closed = {"processId": params["processId"], "seq": params["seq"] + 1}
        return [notification(method, **params), notification("process/closed", **closed)]

    wire.on_event(change)


@mutant("output after the close", "v1/process/pipe_basic")
def output_after_close(wire: Wire) -> None:
    def change(method: str, params: Message) -> list[Message] | None:
        if method != "process/closed":
            return None
        late = {**params, "seq": params["seq"] + 1, "stream": "stdout", "chunk": "eA=="}
        return [notification(method, **params), notification("process/output", **late)]

    wire.on_event(change)


@mutant("output is taken for UTF-8", "v1/process/binary_output")
def output_as_text(wire: Wire) -> None:
    def change(_: str, params: Message) -> None:
        if "chunk" in params:
            text = text_of(params["chunk"]).decode("utf-8", "replace")
            params["chunk"] = chunk_of(text.encode())

    wire.on_event(change)


@mutant("chunks lose their last byte", "v1/process/pipe_basic")
def chunks_cut(wire: Wire) -> None:
    def change(_: str, params: Message) -> None:
        if "chunk" in params:
            params["chunk"] = chunk_of(text_of(params["chunk"])[:-1])

    wire.on_event(change)


@mutant("output carries the id of another process", "v1/process/multiplex")
def wrong_process(wire: Wire) -> None:
    first: list[str] = []

    def change(method: str, params: Message) -> None:
        first.append(params["processId"])
        if method == "process/output":
            params["processId"] = first[0]

    wire.on_event(change)


@mutant(
    "results of process/start have an unknown member",
    "v1/process/no_output",
    drift="process/start.result.color",
)
def unknown_member(wire: Wire) -> None:
    wire.on_result("process/start", lambda result, params: result.update(color="red"))


@mutant(
    "starts are announced with a notification of its own",
    "v1/process/no_output",
    drift="process/started",
)
def unknown_notification(wire: Wire) -> None:
    def change(method: str, params: Message) -> list[Message] | None:
        started = notification("process/started", processId=params["processId"])
        message = notification(method, **params)
        return [started, message] if method == "process/exited" else None

    wire.on_event(change)


# Answers


def _with_code(old: int, new: int) -> Callable[[Wire], None]:
    def change(error: Message) -> None:
        if error["code"] == old:
            error["code"] = new

    return lambda wire: wire.on_error(change)


@mutant("bad params are an internal error", "v1/process/start_missing_params")
def bad_params_as_internal_error(wire: Wire) -> None:
    _with_code(-32602, -32603)(wire)


@mutant("an unknown method is an invalid request", "v1/envelope/unknown_method")
def unknown_method_as_invalid_request(wire: Wire) -> None:
    _with_code(-32601, -32600)(wire)


@mutant("an unknown process is an internal error", "v1/reading/errors")
def invalid_request_as_internal_error(wire: Wire) -> None:
    _with_code(-32600, -32603)(wire)


@mutant("what is not found is an internal error", "v1/fs/read_errors")
def not_found_as_internal_error(wire: Wire) -> None:
    _with_code(-32004, -32603)(wire)


@mutant("an unknown method succeeds", "v1/envelope/unknown_method")
def unknown_method_succeeds(wire: Wire) -> None:
    def change(answer: Message) -> list[Message] | None:
        if answer.get("error", {}).get("code") != -32601:
            return None
        return [{"id": answer["id"], "result": {}}]

    wire.on_answer(change)


@mutant("errors have no message", "v1/envelope/unknown_method")
def errors_without_message(wire: Wire) -> None:
    wire.on_error(lambda error: error.pop("message"))


@mutant("malformed input is answered with id null", "v1/envelope/malformed_text")
def malformed_id_null(wire: Wire) -> None:
    def change(answer: Message) -> None:
        if answer["id"] == -1 and "error" in answer:
            answer["id"] = None

    wire.on_answer(change)


@mutant("ids come back as text", "v1/envelope/ids")
def ids_as_text(wire: Wire) -> None:
    wire.on_answer(lambda answer: answer.update(id=str(answer["id"])))


@mutant("text ids that look like numbers come back as numbers", "v1/envelope/ids")
def ids_as_numbers(wire: Wire) -> None:
    def change(answer: Message) -> None:
        if isinstance(answer["id"], str) and answer["id"].isdigit():
            answer["id"] = int(answer["id"])

    wire.on_answer(change)


@mutant("ids pass through a double", "v1/envelope/ids")
def ids_lose_precision(wire: Wire) -> None:
    def change(answer: Message) -> None:
        if isinstance(answer["id"], int):
            answer["id"] = int(float(answer["id"]))

    wire.on_answer(change)


@mutant("every answer comes twice", "v1/handshake/basic")
def answers_twice(wire: Wire) -> None:
    wire.on_answer(lambda answer: [answer, answer])


@mutant("process/terminate is not answered", "v1/process/terminate_not_running")
def terminate_without_answer(wire: Wire) -> None:
    wire.on_answer(lambda answer: [] if "running" in answer.get("result", {}) else None)


@mutant("the answer to a start lacks processId", "v1/process/no_output")
def start_without_id(wire: Wire) -> None:
    wire.on_result("process/start", lambda result, _: result.pop("processId"))


@mutant("terminate always says that the process ran", "v1/process/terminate_not_running")
def terminate_always_running(wire: Wire) -> None:
    wire.on_result("process/terminate", lambda result, _: result.update(running=True))


@mutant("every write is accepted", "v1/process/write_statuses")
def write_always_accepted(wire: Wire) -> None:
    wire.on_result("process/write", lambda result, _: result.update(status="accepted"))


@mutant("reads never tell the exit", "v1/process/pipe_basic")
def read_without_exit(wire: Wire) -> None:
    hide = {"exited": False, "exitCode": None}
    wire.on_result("process/read", lambda result, _: result.update(hide))


@mutant("reads never tell the close", "v1/process/pipe_basic")
def read_without_close(wire: Wire) -> None:
    wire.on_result("process/read", lambda result, _: result.update(closed=False))


@mutant("reads give the number of the last event, not the next", "v2/reading/next_seq")
def next_seq_off_by_one(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        result["nextSeq"] -= 1

    wire.on_result("process/read", change)


@mutant("links are not told", "v1/fs/get_metadata")
def links_hidden(wire: Wire) -> None:
    wire.on_result("fs/getMetadata", lambda result, _: result.update(isSymlink=False))


@mutant("times are in seconds and fractions", "v1/fs/get_metadata")
def times_in_seconds(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        result["modifiedAtMs"] /= 1000.5

    wire.on_result("fs/getMetadata", change)


@mutant("hidden entries are left out", "v1/fs/read_directory")
def hidden_entries_left_out(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        entries = result["entries"]
        result["entries"] = [one for one in entries if not one["fileName"].startswith(".")]

    wire.on_result("fs/readDirectory", change)


@mutant("files lose their last byte", "v1/fs/write_read")
def files_cut(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        result["dataBase64"] = chunk_of(text_of(result["dataBase64"])[:-1])

    wire.on_result("fs/readFile", change)


@mutant("canonicalize gives back what it was given", "v1/fs/canonicalize")
def canonicalize_does_nothing(wire: Wire) -> None:
    wire.on_result("fs/canonicalize", lambda result, params: result.update(path=params["path"]))


@mutant("the shell is told as text", "v1/environment/info")
def shell_as_text(wire: Wire) -> None:
    wire.on_result("environment/info", lambda result, _: result.update(shell="/bin/sh"))


@mutant("every status is 200", "v1/http/statuses")
def http_always_200(wire: Wire) -> None:
    wire.on_result("http/request", lambda result, _: result.update(status=200))


@mutant("of headers with one name, only the last is kept", "v1/http/buffered")
def http_headers_as_map(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        headers = {one["name"]: one for one in result["headers"]}
        result["headers"] = list(headers.values())

    wire.on_result("http/request", change)


@mutant("pieces of a body are numbered from 0", "v1/http/stream")
def http_seq_from_zero(wire: Wire) -> None:
    def change(method: str, params: Message) -> None:
        if method == "http/request/bodyDelta":
            params["seq"] -= 1

    wire.on_event(change)


@mutant("the end of a body is not told", "v1/http/stream")
def http_never_done(wire: Wire) -> None:
    wire.on_event(lambda _, params: params.update(done=False) if "done" in params else None)


@mutant("a body that breaks off ends as if it were whole", "v1/http/stream_broken")
def http_error_hidden(wire: Wire) -> None:
    wire.on_event(lambda _, params: params.update(error=None) if "error" in params else None)


# Requests


@mutant("a start without tty is taken", "v1/process/start_missing_params")
def missing_param_accepted(wire: Wire) -> None:
    wire.on_params("process/start", lambda params: params.setdefault("tty", False))


@mutant("numbers are taken for text", "v1/process/start_wrong_types")
def wrong_type_accepted(wire: Wire) -> None:
    def change(params: Message) -> None:
        if isinstance(params.get("processId"), int):
            params["processId"] = str(params["processId"])

    wire.on_params("process/start", change)


@mutant("a reused id starts another process", "v1/process/duplicate_id")
def reused_id_accepted(wire: Wire) -> None:
    count: dict[str, int] = {}

    def start(params: Message) -> None:
        name = params.get("processId")
        if isinstance(name, str):
            count[name] = count.get(name, 0) + 1
            params["processId"] = f"{name}\0{count[name]}"

    def use(params: Message) -> None:
        name = params.get("processId")
        if isinstance(name, str) and name in count:
            params["processId"] = f"{name}\0{count[name]}"

    def tell(params: Message) -> None:
        if "processId" in params:
            params["processId"] = params["processId"].partition("\0")[0]

    wire.on_params("process/start", start)
    for method in ("process/read", "process/write", "process/terminate"):
        wire.on_params(method, use)
    wire.on_event(lambda _, params: tell(params))
    wire.on_result("process/start", lambda result, _: tell(result))


@mutant("maxBytes is ignored", "v1/reading/paging")
def max_bytes_ignored(wire: Wire) -> None:
    wire.on_params("process/read", lambda params: params.pop("maxBytes", None))


@mutant("afterSeq is ignored", "v1/reading/paging")
def after_seq_ignored(wire: Wire) -> None:
    wire.on_params("process/read", lambda params: params.pop("afterSeq", None))


@mutant("afterSeq includes its event", "v1/reading/paging")
def after_seq_inclusive(wire: Wire) -> None:
    def change(params: Message) -> None:
        if isinstance(params.get("afterSeq"), int) and params["afterSeq"] > 0:
            params["afterSeq"] -= 1

    wire.on_params("process/read", change)


@mutant("long polls return at once", "v1/reading/longpoll_output")
def long_poll_early(wire: Wire) -> None:
    wire.on_params("process/read", lambda params: params.pop("waitMs", None))


@mutant("long polls have no deadline", "v1/reading/longpoll_timeout")
def long_poll_endless(wire: Wire) -> None:
    def change(params: Message) -> None:
        if isinstance(params.get("waitMs"), int) and params["waitMs"] > 0:
            params["waitMs"] = 3_600_000

    wire.on_params("process/read", change)


@mutant("a long poll holds back what is asked after it", "v2/process/concurrent_requests")
def long_poll_blocks(wire: Wire) -> None:
    held: list[bytes] = []

    def is_polling() -> bool:
        return any("waitMs" in (one.get("params") or {}) for one in wire.requests.values())

    def take(data: bytes) -> bytes | None:
        if is_polling():
            held.append(data)
            return None
        return data

    def give(answer: Message) -> None:
        if not is_polling():
            for data in [held.pop(0) for _ in list(held)]:
                wire.connection.receive(data)

    wire.on_input(take)
    wire.on_answer(give)


@mutant("variables are not passed on", "v1/process/env_exact")
def env_ignored(wire: Wire) -> None:
    wire.on_params("process/start", lambda params: params.update(env={"PATH": "/usr/bin:/bin"}))


@mutant("the server's own variables leak into processes", "v1/process/env_exact")
def env_leaks(wire: Wire) -> None:
    def change(params: Message) -> None:
        if isinstance(params.get("env"), dict):
            params["env"] = {**os.environ, **params["env"]}

    wire.on_params("process/start", change)


@mutant("the working directory is ignored", "v1/process/cwd")
def cwd_ignored(wire: Wire) -> None:
    wire.on_params("process/start", lambda params: params.update(cwd="/"))


@mutant("arg0 is ignored", "v1/process/arg0_pipe")
def arg0_ignored(wire: Wire) -> None:
    wire.on_params("process/start", lambda params: params.pop("arg0", None))


@mutant("terminals are pipes", "v1/process/pty_basic")
def tty_ignored(wire: Wire) -> None:
    def change(params: Message) -> None:
        if params.get("tty") is True:
            params["tty"] = False

    wire.on_params("process/start", change)


@mutant("pipeStdin is ignored", "v1/process/pipe_stdin")
def pipe_stdin_ignored(wire: Wire) -> None:
    wire.on_params("process/start", lambda params: params.pop("pipeStdin", None))


@mutant("writes are accepted and dropped", "v1/process/pipe_stdin")
def writes_dropped(wire: Wire) -> None:
    wire.on_params("process/write", lambda params: params.update(chunk=""))


def _lenient(text: str) -> str:
    text = re.sub(r"[^A-Za-z0-9+/]", "", text)
    text = text[: len(text) - (len(text) % 4 == 1)]
    return chunk_of(base64.b64decode(text + "=" * (-len(text) % 4)))


@mutant("sloppy base64 is taken for files", "v1/fs/write_errors")
def file_base64_lenient(wire: Wire) -> None:
    def change(params: Message) -> None:
        if isinstance(params.get("dataBase64"), str):
            params["dataBase64"] = _lenient(params["dataBase64"])

    wire.on_params("fs/writeFile", change)


@mutant("sloppy base64 is taken for input", "v1/process/write_param_errors")
def write_base64_lenient(wire: Wire) -> None:
    def change(params: Message) -> None:
        if isinstance(params.get("chunk"), str):
            params["chunk"] = _lenient(params["chunk"])

    wire.on_params("process/write", change)


@mutant("trees are removed without being asked to", "v1/fs/remove")
def remove_always_recursive(wire: Wire) -> None:
    wire.on_params("fs/remove", lambda params: params.update(recursive=True))


@mutant("removing nothing always succeeds", "v1/fs/remove")
def remove_always_forced(wire: Wire) -> None:
    wire.on_params("fs/remove", lambda params: params.update(force=True))


@mutant("directories are copied without being asked to", "v1/fs/copy_dirs")
def copy_always_recursive(wire: Wire) -> None:
    wire.on_params("fs/copy", lambda params: params.update(recursive=True))


@mutant("parents are always created", "v1/fs/create_directory")
def parents_always_created(wire: Wire) -> None:
    wire.on_params("fs/createDirectory", lambda params: params.update(recursive=True))


@mutant("relative paths are taken", "v1/fs/paths_refused")
def relative_paths_accepted(wire: Wire) -> None:
    def change(params: Message) -> None:
        path = params.get("path")
        if isinstance(path, str) and not path.startswith(("/", "file:")):
            params["path"] = f"/{path}"

    for method in ("fs/readFile", "fs/getMetadata", "fs/readDirectory", "fs/writeFile"):
        wire.on_params(method, change)


@mutant("a restricted sandbox is waved through", "v1/fs/sandbox_restricted")
def sandbox_ignored(wire: Wire) -> None:
    for method in ("fs/readFile", "fs/writeFile", "fs/getMetadata", "fs/readDirectory"):
        wire.on_params(method, lambda params: params.pop("sandbox", None))


@mutant("request bodies are dropped", "v1/http/echo")
def http_body_dropped(wire: Wire) -> None:
    wire.on_params("http/request", lambda params: params.pop("bodyBase64", None))


@mutant("request headers are dropped", "v1/http/echo")
def http_headers_dropped(wire: Wire) -> None:
    wire.on_params("http/request", lambda params: params.update(headers=[]))


@mutant("timeoutMs is ignored", "v1/http/timeout")
def http_timeout_ignored(wire: Wire) -> None:
    wire.on_params("http/request", lambda params: params.pop("timeoutMs", None))


@mutant("methods are made upper case", "v1/http/methods")
def http_method_upper_case(wire: Wire) -> None:
    wire.on_params("http/request", lambda params: params.update(method=params["method"].upper()))


@mutant("bodies are never streamed", "v1/http/stream")
def http_stream_ignored(wire: Wire) -> None:
    wire.on_params("http/request", lambda params: params.pop("streamResponse", None))


# Envelope and handshake


def _parsed_again(data: bytes) -> bytes:
    try:
        return json.dumps(json.loads(data)).encode()
    except (ValueError, RecursionError):
        return data


def _refusing(is_bad: Callable[[Any], bool]) -> Callable[[Wire], None]:
    """Hooks that answer messages as if they were malformed."""

    def make(wire: Wire) -> None:
        def take(data: bytes) -> bytes | None:
            try:
                message = json.loads(data)
            except (ValueError, RecursionError):
                return data
            if not isinstance(message, dict) or not is_bad(message):
                return data
            wire.connection.refuse("not for this mutant")
            return None

        wire.on_input(take)

    return make


@mutant("unknown members are refused", "v1/envelope/extra_members")
def extra_members_refused(wire: Wire) -> None:
    members = {"id", "method", "params", "trace", "result", "error"}
    _refusing(lambda message: not members >= set(message))(wire)


@mutant("a trace of null is refused", "v1/envelope/trace")
def null_trace_refused(wire: Wire) -> None:
    _refusing(lambda message: message.get("trace", {}) is None)(wire)


@mutant("an id serves only once", "v1/envelope/duplicate_ids")
def used_id_refused(wire: Wire) -> None:
    used: set[str] = set()

    def is_used(message: Message) -> bool:
        identifier = json.dumps(message.get("id"))
        found = "id" in message and identifier in used
        used.add(identifier)
        return found

    _refusing(is_used)(wire)


@mutant("a message must begin with its brace", "v1/envelope/whitespace")
def whitespace_refused(wire: Wire) -> None:
    def take(data: bytes) -> bytes | None:
        if not data[:1].isspace():
            return data
        wire.connection.refuse("white space")
        return None

    wire.on_input(take)


@mutant("an empty clientName is refused", "v1/handshake/empty_client_name")
def empty_client_name_refused(wire: Wire) -> None:
    _refusing(lambda message: (message.get("params") or {}).get("clientName") == "")(wire)


@mutant("resumeSessionId must not be null", "v1/handshake/null_resume")
def null_resume_refused(wire: Wire) -> None:
    wire.on_params(
        "initialize",
        lambda params: (
            params.update(resumeSessionId=params.get("resumeSessionId", "") or 0)
            if "resumeSessionId" in params
            else None
        ),
    )


@mutant("unknown members of initialize are refused", "v2/handshake/unknown_members")
def unknown_members_refused(wire: Wire) -> None:
    known = {"clientName", "resumeSessionId"}
    _refusing(
        lambda message: (
            message.get("method") == "initialize" and not known >= set(message.get("params") or ())
        )
    )(wire)


@mutant("the params of initialized are checked", "v1/handshake/initialized_params")
def initialized_params_checked(wire: Wire) -> None:
    _refusing(
        lambda message: (
            message.get("method") == "initialized" and message.get("params") not in ({}, None)
        )
    )(wire)


@mutant("what comes before the answer to initialize is dropped", "v1/handshake/pipelined")
def pipelining_lost(wire: Wire) -> None:
    begun: list[bool] = []

    def take(data: bytes) -> bytes | None:
        if b'"initialize"' in data:
            asyncio.get_running_loop().call_later(0.05, begun.append, True)
            return data
        return data if begun else None

    wire.on_input(take)


@mutant("NaN, repeated members and byte order marks are taken", "v1/envelope/strict_id_twice")
def json_lenient(wire: Wire) -> None:
    wire.on_input(_parsed_again)


@mutant("fractions are taken for ids", "v1/envelope/strict_float_id")
def float_id_accepted(wire: Wire) -> None:
    wire.on_input(lambda data: re.sub(rb'"id":\s*(\d+)\.\d+', rb'"id":\1', data))


@mutant("batches are served", "v1/envelope/malformed_batch")
def batches_served(wire: Wire) -> None:
    def take(data: bytes) -> bytes | None:
        try:
            messages = json.loads(data)
        except (ValueError, RecursionError):
            return data
        if not isinstance(messages, list) or not messages:
            return data
        for message in messages:
            wire.connection.receive(json.dumps(message).encode())
        return None

    wire.on_input(take)


@mutant("malformed input is ignored", "v1/envelope/malformed_text")
def malformed_ignored(wire: Wire) -> None:
    wire.on_answer(lambda answer: [] if answer["id"] == -1 and "error" in answer else None)


@mutant("malformed input ends the connection", "v1/envelope/malformed_text")
def malformed_ends(wire: Wire) -> None:
    def change(answer: Message) -> list[Message] | None:
        if answer["id"] != -1 or "error" not in answer:
            return None
        wire.channel.close("malformed input", violation=True)
        return []

    wire.on_answer(change)


@mutant("malformed input ends the server", "v1/envelope/malformed_text")
def malformed_crashes(wire: Wire) -> None:
    def change(answer: Message) -> None:
        if answer["id"] == -1 and "error" in answer:
            os.kill(os.getpid(), signal.SIGKILL)

    wire.on_answer(change)


@mutant("messages above a mebibyte end the connection", "v1/frames/large_message", "ws")
def large_messages_refused(wire: Wire) -> None:
    def take(data: bytes) -> bytes | None:
        if len(data) <= 1 << 20:
            return data
        wire.channel.close("too large", violation=True)
        return None

    wire.on_input(take)


@mutant("unknown notifications are ignored", "v1/violation/unknown_notification")
def unknown_notification_ignored(wire: Wire) -> None:
    def take(data: bytes) -> bytes | None:
        return data if b'"id"' in data or b'"initialized"' in data else None

    wire.on_input(take)


@mutant("answers of the client are ignored", "v1/violation/client_response")
def client_response_ignored(wire: Wire) -> None:
    wire.on_input(lambda data: data if b'"method"' in data else None)


@mutant("requests are served before the handshake", "v1/handshake/before_initialize")
def handshake_optional(wire: Wire) -> None:
    done: list[bool] = []

    def take(data: bytes) -> bytes:
        if not done and b'"initialize"' not in data:
            done.append(True)
            for message in (
                {"id": "early", "method": "initialize", "params": {"clientName": "x"}},
                {"method": "initialized", "params": {}},
            ):
                wire.connection.receive(json.dumps(message).encode())
        done.append(True)
        return data

    wire.on_input(take)
    wire.on_answer(lambda answer: [] if answer["id"] == "early" else None)


@mutant("a second initialize succeeds", "v1/handshake/twice")
def initialize_twice(wire: Wire) -> None:
    sessions: list[Message] = []

    def change(answer: Message) -> list[Message] | None:
        if "sessionId" in answer.get("result", {}):
            sessions.append(answer["result"])
        elif "initialize may only" in answer.get("error", {}).get("message", ""):
            return [{"id": answer["id"], "result": sessions[0]}]
        return None

    wire.on_answer(change)


@mutant("an unknown session is opened anew", "v1/handshake/unknown_resume")
def unknown_session_opened(wire: Wire) -> None:
    wire.on_params("initialize", lambda params: params.pop("resumeSessionId", None))


@mutant("output is forgotten at a resume", "v1/session/resume", "ws")
def resume_loses_output(wire: Wire) -> None:
    resumed: list[bool] = []

    def begin(_: Message, params: Message) -> None:
        if params.get("resumeSessionId"):
            resumed.append(True)

    def read(result: Message, _: Message) -> None:
        if resumed:
            result["chunks"] = []

    wire.on_result("initialize", begin)
    wire.on_result("process/read", read)


@mutant("a resumed client hears nothing of its processes", "v1/session/resume", "ws")
def resume_without_events(wire: Wire) -> None:
    resumed: list[bool] = []

    def begin(_: Message, params: Message) -> None:
        if params.get("resumeSessionId"):
            resumed.append(True)

    wire.on_result("initialize", begin)
    wire.on_event(lambda *_: [] if resumed else None)


# What v2 has that v1 has not


@mutant("a repeated write is written again", "v2/process/write_id_repeated")
def write_id_ignored(wire: Wire) -> None:
    count: list[int] = []

    def change(params: Message) -> None:
        count.append(1)
        params["writeId"] = str(len(count))

    wire.on_params("process/write", change)


@mutant("every signal kills", "v2/process/signal_trapped")
def signal_kills(wire: Wire) -> None:
    def take(data: bytes) -> bytes:
        return data.replace(b'"process/signal"', b'"process/terminate"').replace(
            b',"signal":"interrupt"', b""
        )

    wire.on_input(take)
    wire.on_result("process/terminate", lambda result, _: result.pop("running"))


@mutant("blocks are read from the beginning", "v2/handles/read")
def offset_ignored(wire: Wire) -> None:
    wire.on_params("fs/readBlock", lambda params: params.update(offset=0))


@mutant("eof is told as soon as the end is reached", "v2/handles/read")
def eof_early(wire: Wire) -> None:
    wire.on_result("fs/readBlock", lambda result, _: result.update(eof=True))


@mutant("walks go to any depth", "v2/walk/depth")
def walk_depth_ignored(wire: Wire) -> None:
    wire.on_params("fs/walk", lambda params: params["options"].update(maxDepth=64))


@mutant("walks descend into hidden directories", "v2/walk/hidden")
def walk_hidden(wire: Wire) -> None:
    def change(params: Message) -> None:
        if params["options"].get("pruneHiddenDirectories"):
            params["options"]["pruneHiddenDirectories"] = False

    wire.on_params("fs/walk", change)


@mutant("walks are told in no order", "v2/walk/tree")
def walk_unordered(wire: Wire) -> None:
    wire.on_result("fs/walk", lambda result, _: result["entries"].reverse())


@mutant("what appears is not told", "v2/watch/created")
def watch_mute(wire: Wire) -> None:
    wire.on_event(lambda method, _: [] if method == "fs/missingChanged" else None)


@mutant("a change is told twice", "v2/watch/created")
def watch_twice(wire: Wire) -> None:
    def change(method: str, params: Message) -> list[Message] | None:
        message = notification(method, **params)
        return [message, message] if method == "fs/missingChanged" else None

    wire.on_event(change)


@mutant("closing an unknown handle is an error", "v2/handles/close")
def close_not_idempotent(wire: Wire) -> None:
    opened: set[str] = set()

    def change(answer: Message) -> list[Message] | None:
        if answer.get("result") != {} or unknown.pop("now", None) is None:
            return None
        return [{"id": answer["id"], "error": {"code": -32004, "message": "unknown handle"}}]

    unknown: dict[str, bool] = {}

    def close(params: Message) -> None:
        if params["handleId"] not in opened:
            unknown["now"] = True
        opened.discard(params["handleId"])

    wire.on_params("fs/open", lambda params: opened.add(params["handleId"]))
    wire.on_params("fs/close", close)
    wire.on_answer(change)


@mutant("a watch that cannot be is promised", "v2/watch/not_watching")
def watch_promised(wire: Wire) -> None:
    wire.on_result("fs/watchMissing", lambda result, _: result.update(watching=True))


@mutant("skills are found without their metadata", "v2/discovery/skills")
def skills_without_metadata(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        for root in result["roots"]:
            for skill in root["skills"]:
                skill["metadata"] = None

    wire.on_result("capabilityRoots/discoverV1", change)


@mutant("plugins are not found", "v2/discovery/plugins")
def plugins_missed(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        for root in result["roots"]:
            root["plugin"] = None

    wire.on_result("capabilityRoots/discoverV1", change)


@mutant("the configuration has a name of its own", "v2/config/read")
def config_renamed(wire: Wire) -> None:
    wire.on_result(
        "environmentConfig/read", lambda result, _: result.update(toml=result.pop("config"))
    )


@mutant("links are followed whatever is asked", "v2/fs/no_follow_read")
def links_followed(wire: Wire) -> None:
    wire.on_params("fs/readFile", lambda params: params.pop("followSymlinks", None))


@mutant("redirects are always followed", "v2/http/redirect_stop")
def redirects_followed(wire: Wire) -> None:
    wire.on_params("http/request", lambda params: params.pop("redirectPolicy", None))


@mutant("environment/status has a word of its own", "v2/environment/status")
def status_of_its_own(wire: Wire) -> None:
    wire.on_result("environment/status", lambda result, _: result.update(status="fine"))


# The program itself


@patch("output is retained without bound", "v1/reading/retention")
def retention_unbounded() -> None:
    from exec_server.engine.processes import output_log  # noqa: PLC0415

    output_log.OutputLog._evict = lambda self: None  # type: ignore[method-assign]


@patch("nothing is retained", "v1/process/pipe_basic")
def retention_none() -> None:
    from exec_server.engine.processes import output_log  # noqa: PLC0415

    output_log.OutputLog.read = lambda self, after_seq, max_bytes: []  # type: ignore[method-assign]


@patch("a closed process is forgotten at once", "v1/process/pipe_basic")
def closed_forgotten() -> None:
    from exec_server.engine.processes.retention import Retention  # noqa: PLC0415

    retain = Retention.add_closed

    def forget(self: Any, process: Any) -> None:
        self._seconds = 0
        retain(self, process)

    Retention.add_closed = forget  # type: ignore[method-assign]


@patch("a detached session is over at once", "v1/session/resume", "ws")
def detached_forgotten() -> None:
    from exec_server.server.session import SessionRegistry  # noqa: PLC0415

    SessionRegistry.detach = SessionRegistry.end  # type: ignore[method-assign]


@patch("an attached session is handed to any client that asks", "v2/session/attached", "ws")
def attached_stolen() -> None:
    from exec_server.server.session import SessionRegistry  # noqa: PLC0415

    resume = SessionRegistry.resume

    def steal(self: Any, session_id: str, attachment: Any) -> Any:
        session = self._sessions.get(session_id)
        if session is not None and session.attachment is not None:
            self.detach(session)
        return resume(self, session_id, attachment)

    SessionRegistry.resume = steal  # type: ignore[method-assign]


@patch("terminate kills the leader alone", "v1/process/terminate_group")
def terminate_leader_alone() -> None:
    os.killpg = os.kill


@patch("processes outlive a server that is killed", "v1/end/sigkill")
def children_outlive() -> None:
    from exec_server.engine.processes.watchdog import Watchdog  # noqa: PLC0415

    Watchdog.arm = lambda self: None  # type: ignore[method-assign]


@patch("a request with an Origin header is accepted", "v1/door/origin", "ws")
def origin_accepted() -> None:
    _patch_head(lambda head: re.sub(rb"(?i)\r\norigin:[^\r]*", b"", head))


@patch("any path is the server", "v1/door/unknown_path", "ws")
def any_path_accepted() -> None:
    _patch_head(lambda head: re.sub(rb"^(\w+) /(?!readyz)\S* ", rb"\1 / ", head))


@patch("a slash after /readyz makes no difference", "v1/door/readyz_slash", "ws")
def readyz_slash_accepted() -> None:
    _patch_head(lambda head: head.replace(b"/readyz/", b"/readyz"))


@patch("any method is GET", "v1/door/post_root", "ws")
def any_method_accepted() -> None:
    _patch_head(lambda head: re.sub(rb"^\w+ ", b"GET ", head))


@patch("an upgrade is taken for granted", "v1/door/root_without_upgrade", "ws")
def upgrade_granted() -> None:
    from exec_server.transports import handshake  # noqa: PLC0415

    check_upgrade = handshake.check_upgrade

    def tampered(head: bytes, *rest: Any, **options: Any) -> Any:
        found = check_upgrade(head, *rest, **options)
        is_bad = isinstance(found, handshake.HttpRejection) and found.status == 400
        return handshake.HttpRejection(200) if is_bad else found

    handshake.check_upgrade = tampered


@patch("there is no /readyz", "v1/door/readyz", "ws")
def readyz_missing() -> None:
    _patch_head(lambda head: head.replace(b"/readyz", b"/other"))


def _patch_head(change: Callable[[bytes], bytes]) -> None:
    from exec_server.transports import handshake  # noqa: PLC0415

    check_upgrade = handshake.check_upgrade

    def tampered(head: bytes, *rest: Any, **options: Any) -> Any:
        return check_upgrade(change(bytes(head)), *rest, **options)

    handshake.check_upgrade = tampered


# The draft


@patch("a new size is forgotten", "draft/resize/running")
def resize_ignored() -> None:
    from exec_server.engine.processes import pty  # noqa: PLC0415

    pty.resize = lambda master, rows, cols: None


@patch("rows and columns are mixed up", "draft/resize/before_output")
def resize_swapped() -> None:
    from exec_server.engine.processes import pty  # noqa: PLC0415

    resize = pty.resize
    pty.resize = lambda master, rows, cols: resize(master, cols, rows)


@mutant("every terminal starts with 24 rows and 80 columns", "draft/resize/initial_size")
def initial_size_ignored(wire: Wire) -> None:
    def change(params: Message) -> None:
        params.pop("rows", None)
        params.pop("cols", None)

    wire.on_params("process/start", change)


@mutant("a terminal may have no rows", "draft/resize/params")
def zero_rows_accepted(wire: Wire) -> None:
    def change(params: Message) -> None:
        if params.get("rows") == 0:
            params["rows"] = 1

    wire.on_params("process/resize", change)


@patch("closing an input drops what is on its way", "draft/stdin/large")
def stdin_cut_off() -> None:
    from exec_server.engine.processes.stdin import StdinWriter  # noqa: PLC0415

    StdinWriter.finish = StdinWriter.close  # type: ignore[method-assign,assignment]


@patch("an input is never closed", "draft/stdin/end_of_input")
def stdin_left_open() -> None:
    from exec_server.engine.processes.stdin import StdinWriter  # noqa: PLC0415

    StdinWriter.finish = lambda self: None  # type: ignore[method-assign]


@mutant("a closed input accepts what is written", "draft/stdin/write_after")
def write_after_close_accepted(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        result["status"] = "accepted"

    wire.on_result("process/write", change)


@mutant("a wait is never waited", "draft/wait/exit")
def wait_answered_at_once(wire: Wire) -> None:
    wire.on_params("process/wait", lambda params: params.update(timeoutMs=0))


@mutant("a wait goes on when its time is over", "draft/wait/timeout")
def wait_without_timeout(wire: Wire) -> None:
    wire.on_params("process/wait", lambda params: params.pop("timeoutMs", None))


@mutant("a wait for the close ends with the exit", "draft/wait/closed")
def wait_for_exit_alone(wire: Wire) -> None:
    wire.on_params("process/wait", lambda params: params.pop("until", None))


@mutant("a wait whose time is over tells an exit", "draft/wait/timeout")
def wait_tells_exit(wire: Wire) -> None:
    wire.on_result("process/wait", lambda result, _: result.update(exited=True, exitCode=0))


@mutant("a list leaves out what has ended", "draft/list/states")
def list_of_running_alone(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        result["processes"] = [found for found in result["processes"] if found["running"]]

    wire.on_result("process/list", change)


@mutant("a list begins with what was started last", "draft/list/states")
def list_backwards(wire: Wire) -> None:
    wire.on_result("process/list", lambda result, _: result["processes"].reverse())


@mutant("a listed process has no arguments", "draft/list/states")
def list_without_arguments(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        for found in result["processes"]:
            del found["argv"][1:]

    wire.on_result("process/list", change)


@mutant("a listed process is closed when it has ended", "draft/list/open_output")
def list_closes_early(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        for found in result["processes"]:
            found["closed"] = not found["running"]

    wire.on_result("process/list", change)


@patch("a list includes the processes of every session", "draft/list/session", "ws")
def list_of_all_sessions() -> None:
    from exec_server.engine.processes.table import ProcessTable  # noqa: PLC0415

    tables: list[ProcessTable[Any]] = []
    start = ProcessTable.start

    def noted(self: ProcessTable[Any], *args: Any, **options: Any) -> Process[Any]:
        tables.append(self)
        return start(self, *args, **options)

    ProcessTable.start = noted  # type: ignore[method-assign]
    ProcessTable.__iter__ = lambda self: iter(  # type: ignore[method-assign]
        [process for table in tables for process in table._processes.values()]
    )


@mutant("a snapshot has no end", "draft/snapshot/both_ends")
def snapshot_without_tail(wire: Wire) -> None:
    wire.on_result("process/snapshot", lambda result, _: result["stdout"].update(tail=""))


@mutant("a snapshot's gap is not counted", "draft/snapshot/both_ends")
def snapshot_gap_uncounted(wire: Wire) -> None:
    wire.on_result("process/snapshot", lambda result, _: result["stdout"].update(omitted=0))


@mutant("a snapshot never says that something is omitted", "draft/snapshot/both_ends")
def snapshot_never_truncated(wire: Wire) -> None:
    wire.on_result("process/snapshot", lambda result, _: result.update(truncated=False))


@mutant("a snapshot mixes up the streams", "draft/snapshot/pipes")
def snapshot_streams_swapped(wire: Wire) -> None:
    def change(result: Message, _: Message) -> None:
        result["stdout"], result["stderr"] = result["stderr"], result["stdout"]

    wire.on_result("process/snapshot", change)


@mutant("a snapshot's nextSeq is that of its last event", "draft/snapshot/running")
def snapshot_next_seq_low(wire: Wire) -> None:
    wire.on_result(
        "process/snapshot", lambda result, _: result.update(nextSeq=result["nextSeq"] - 1)
    )


@patch("a snapshot keeps the end of the output alone", "draft/snapshot/exactly_the_limit")
def snapshot_without_head() -> None:
    from exec_server.engine.processes.head_tail import Excerpt, HeadTail  # noqa: PLC0415

    excerpt = HeadTail.excerpt

    def tail_alone(self: Any) -> Excerpt:
        head, omitted, tail = excerpt(self)
        return Excerpt(b"", omitted + len(head), tail)

    HeadTail.excerpt = tail_alone  # type: ignore[method-assign]


@mutant("a graceful end kills at once", "draft/terminate/graceful")
def graceful_is_force(wire: Wire) -> None:
    wire.on_params("process/terminate", lambda params: params.pop("mode", None))


@patch("a graceful end is never forced", "draft/terminate/killed_in_time")
def graceful_for_ever() -> None:
    from exec_server.engine.processes.process import Process  # noqa: PLC0415

    gracefully = Process.terminate_gracefully
    Process.terminate_gracefully = (  # type: ignore[method-assign]
        lambda self, seconds: gracefully(self, 3600)
    )


@patch("a later graceful end puts the kill off", "draft/terminate/not_later")
def graceful_put_off() -> None:
    from exec_server.engine.processes.process import Process  # noqa: PLC0415

    gracefully = Process.terminate_gracefully

    def put_off(self: Any, seconds: float) -> bool:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        return gracefully(self, seconds)

    Process.terminate_gracefully = put_off  # type: ignore[method-assign]


@patch("a stopped process does not hear that it is to end", "draft/terminate/stopped")
def stopped_not_continued() -> None:
    from exec_server.engine.processes.process import Process  # noqa: PLC0415

    send = Process.signal

    def stay(self: Any, signum: int) -> None:
        if signum != signal.SIGCONT:
            send(self, signum)

    Process.signal = stay  # type: ignore[method-assign]


@patch("what is left of a group outlives a graceful end", "draft/terminate/group")
def group_left_alive() -> None:
    from exec_server.engine.processes.process import Process  # noqa: PLC0415

    end_now = Process.end_now

    def leader_alone(self: Any) -> None:
        if self.status is None:
            end_now(self)

    Process.end_now = leader_alone  # type: ignore[method-assign]


@mutant("an unknown mode kills", "draft/terminate/params")
def unknown_mode_kills(wire: Wire) -> None:
    def change(params: Message) -> None:
        if not isinstance(params.get("mode"), dict) or params["mode"].get("type") != "graceful":
            params.pop("mode", None)

    wire.on_params("process/terminate", change)


def _lost(event: str) -> Callable[[str, Message], list[Message] | None]:
    return lambda method, params: [] if method == event else None


@mutant("a start is not announced", "draft/start/started")
def started_lost(wire: Wire) -> None:
    wire.on_event(_lost("process/started"))


@mutant("a start that fails is not announced", "draft/start/failed")
def failed_lost(wire: Wire) -> None:
    wire.on_event(_lost("process/failed"))


@mutant("starts are announced to every client", "draft/start/not_asked")
def started_unasked(wire: Wire) -> None:
    wire.on_params("process/start", lambda params: params.update(notifyStart=True))


@mutant("a start is announced after the output", "draft/start/before_output")
def started_late(wire: Wire) -> None:
    held: list[Message] = []

    def change(method: str, params: Message) -> list[Message] | None:
        if method == "process/started":
            held.append(notification(method, **params))
            return []
        if method == "process/closed":
            return [*held, notification(method, **params)]
        return None

    wire.on_event(change)


@mutant("a failed start is announced with another code", "draft/start/taken")
def failed_code_wrong(wire: Wire) -> None:
    def change(method: str, params: Message) -> None:
        if method == "process/failed":
            params["code"] = -32603

    wire.on_event(change)


@mutant("a kind that is none is taken for direct", "draft/execution/params")
def unknown_execution_accepted(wire: Wire) -> None:
    wire.on_params("process/start", lambda params: params.update(execution="direct"))


@mutant("the limits are not told", "draft/environment/limits")
def limits_untold(wire: Wire) -> None:
    wire.on_result("environment/info", lambda result, _: result.pop("limits"))
