"""A Responses API server on the loopback interface that plays the model from a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from types import TracebackType

Item: TypeAlias = dict[str, Any]
"""One output item of a response: a message or a tool call."""

_USAGE = {
    "input_tokens": 1,
    "input_tokens_details": None,
    "output_tokens": 1,
    "output_tokens_details": None,
    "total_tokens": 2,
}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One ``POST /v1/responses``: everything the model knows at that point."""

    body: dict[str, Any]

    @property
    def text(self) -> str:
        """Everything said in messages, instructions included."""
        said = [self.body.get("instructions") or ""]
        for item in self.body["input"]:
            if item["type"] == "message":
                said += [part.get("text", "") for part in item["content"]]
        return "\n".join(said)

    @property
    def tool_names(self) -> set[str]:
        """The tools on offer, those of namespaces as ``namespace/name``."""
        names = set()
        for tool in self.body["tools"]:
            for member in tool.get("tools", ()):
                names.add(f"{tool['name']}/{member['name']}")
            if "name" in tool:
                names.add(tool["name"])
        return names

    def result(self, call_id: str) -> Any:
        """Return the output of a tool call: a text, or a list of content parts."""
        for item in self.body["input"]:
            if item["type"].endswith("_call_output") and item["call_id"] == call_id:
                return item["output"]
        raise AssertionError(f"the model was told nothing of the call {call_id!r}")

    def text_result(self, call_id: str) -> str:
        """Return the output of a tool call as text."""
        result = self.result(call_id)
        if isinstance(result, str):
            return result
        return "".join(part.get("text", "") for part in result)


Turn: TypeAlias = Sequence[Item] | Callable[[ModelRequest], Sequence[Item]]
"""The items of one response, or what makes them from the request."""


def say(text: str) -> Item:
    """A message to the user; a response of only messages ends the client's turn."""
    return {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def call(call_id: str, tool: str, *, namespace: str | None = None, **arguments: Any) -> Item:
    """A call of a function tool."""
    item = {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": tool,
        "arguments": json.dumps(arguments),
    }
    return item if namespace is None else {**item, "namespace": namespace}


def call_freeform(call_id: str, tool: str, text: str) -> Item:
    """A call of a tool that takes plain text."""
    return {
        "type": "custom_tool_call",
        "id": f"ctc_{call_id}",
        "call_id": call_id,
        "name": tool,
        "input": text,
    }


@dataclass(slots=True)
class MockModel:
    """Answers the n-th request with the n-th turn; a request past the script ends the talk."""

    turns: Sequence[Turn]
    requests: list[ModelRequest] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    """Error of the script itself."""

    _server: ThreadingHTTPServer = field(init=False)
    _thread: threading.Thread = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler_class())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        """Base URL of the provider, for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def told(self) -> ModelRequest:
        """The last request, after a whole script: all that the model was told in the end."""
        for failure in self.failures:
            raise failure
        assert len(self.requests) == len(self.turns) + 1, (
            f"{len(self.requests)} requests to a model with {len(self.turns)} turns"
        )
        return self.requests[-1]

    def respond(self, body: dict[str, Any]) -> Sequence[Item]:
        """Record a request and return the items that answer it."""
        with self._lock:
            request = ModelRequest(body)
            self.requests.append(request)
            number = len(self.requests)
        if number > len(self.turns):
            return [say("done")]
        turn = self.turns[number - 1]
        if not callable(turn):
            return turn
        try:
            return turn(request)
        except Exception as error:  # reported by the test, the client gets an end
            self.failures.append(error)
            return [say("the script failed")]

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120  # seconds; a client that stalls does not hold the thread for ever

            def do_GET(self) -> None:
                self._answer("application/json", b'{"object":"list","data":[],"models":[]}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._answer("text/event-stream", _events(model.respond(body)))

            def _answer(self, content_type: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Keep stderr for the tests."""

        return Handler


def _events(items: Sequence[Item]) -> bytes:
    """The server-sent events of a whole response."""
    response = {"id": "resp_1", "object": "response", "output": []}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": response}]
    for index, item in enumerate(items):
        place = {"output_index": index, "item": item}
        events.append({"type": "response.output_item.added", **place})
        events.append({"type": "response.output_item.done", **place})
    events.append({"type": "response.completed", "response": {**response, "usage": _USAGE}})
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )
