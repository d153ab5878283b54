"""A small MCP server: on stdin and stdout when run as a program, over HTTP within a test."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

TOKEN = "speak-friend"
"""Bearer token that the HTTP server requires."""

_TOOLS = [
    {
        "name": "greet",
        "description": "Returns a greeting.",
        "inputSchema": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "surroundings",
        "description": "Tells the names of the environment's variables.",
        "inputSchema": {"type": "object", "properties": {}},
        "annotations": {"readOnlyHint": True},
    },
]


def answer(request: dict[str, Any]) -> dict[str, Any] | None:
    """The response to a JSON-RPC request; None for a notification."""
    if "id" not in request:
        return None
    params = request.get("params") or {}
    match request["method"]:
        case "initialize":
            result: dict[str, Any] = {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "greeter", "version": "1"},
            }
        case "tools/list":
            result = {"tools": _TOOLS}
        case "tools/call":
            result = {"content": [{"type": "text", "text": _call(params)}]}
        case "ping":
            result = {}
        case method:
            return {
                "jsonrpc": "2.0",
                "id": request["id"],
                "error": {"code": -32601, "message": f"no method {method}"},
            }
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def _call(params: dict[str, Any]) -> str:
    if params["name"] == "greet":
        return f"hello {params['arguments']['name']}"
    return " ".join(sorted(os.environ))


@dataclass(slots=True)
class HttpMcpServer:
    """The server over HTTP on a free loopback port: one answer is a body, the next a stream."""

    methods: list[str] = field(default_factory=list)
    """The JSON-RPC methods that were called with the right token."""

    _server: ThreadingHTTPServer = field(init=False)
    _thread: threading.Thread = field(init=False)

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
    def url(self) -> str:
        """URL for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/mcp"

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        methods = self.methods

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120  # seconds; a client that stalls does not hold the thread for ever

            def do_GET(self) -> None:
                self._answer(405)  # nothing is ever sent unasked

            def do_DELETE(self) -> None:
                self._answer(405)  # there are no sessions to end

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.headers["authorization"] != f"Bearer {TOKEN}":
                    self._answer(403)
                    return
                methods.append(request["method"])
                response = answer(request)
                if response is None:
                    self._answer(202)
                elif request["method"] == "tools/call":
                    self._stream(f"event: message\ndata: {json.dumps(response)}\n\n".encode())
                else:
                    self._answer(200, json.dumps(response).encode())

            def _answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                if body:
                    self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, event: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in (event[:20], event[20:], b""):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                """Keep stderr for the tests."""

        return Handler


if __name__ == "__main__":
    for line in sys.stdin:
        if (response := answer(json.loads(line))) is not None:
            print(json.dumps(response), flush=True)
