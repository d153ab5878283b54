"""A client of revision v2 with one fault, named by its first argument. Fault ``none`` is right.

The second argument is the URL of the server; with a third, standard input is passed on.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FAULT, URL, *REST = sys.argv[1:]
PASSES_INPUT = bool(REST)

KNOWN = {"id", "method", "params", "result", "error"}
EVENTS = ("process/output", "process/exited", "process/closed")
STRANGE = [] if FAULT != "origin" else [("Origin", "http://example.com")]


class Refused(Exception):
    pass


class Client:
    def __init__(self) -> None:
        self.session_id: str | None = None
        self.next_id = 0
        self.next_write = 0
        self.code: int | None = None
        self.seen = 0
        self.is_closed = False
        self.held: dict[int, tuple[str, Any]] = {}
        self.chunks: dict[str, bytes] = {}
        self.connect()

    def connect(self) -> None:
        self.link = connect(URL, compression=None, max_size=None, additional_headers=STRANGE)
        if FAULT == "no-initialize":
            return
        if FAULT == "garbage":
            self.link.send("HELLO server")
        resume = self.session_id
        if resume is not None and FAULT == "other-session":
            resume = "mine"
        if FAULT in ("forgets-session", "starts-again"):
            resume = None
        params = {"clientName": "wrong", "resumeSessionId": resume}
        if FAULT == "impatient":
            self.send({"id": 0, "method": "initialize", "params": params})
            self.send({"method": "initialized", "params": {}})
            greeting = self.answer(0)
        else:
            greeting = self.call("initialize", params)
        if resume is not None and greeting["sessionId"] != resume and FAULT != "takes-any":
            raise Refused("another session")
        self.session_id = greeting["sessionId"]
        if FAULT != "no-initialized":
            self.send({"method": "initialized", "params": {}})
        if FAULT == "initialized-twice":
            self.send({"method": "initialized", "params": {}})
        if FAULT == "unknown-notification":
            self.send({"method": "hello"})

    def send(self, message: Any) -> None:
        self.link.send(json.dumps(message))

    def ask(self, method: str, params: Any) -> int:
        self.next_id += 1
        identifier: Any = None if FAULT == "null-id" else self.next_id
        self.send({"id": identifier, "method": method, "params": params})
        return self.next_id

    def call(self, method: str, params: Any) -> Any:
        return self.answer(self.ask(method, params))

    def answer(self, identifier: int, patience: float | None = None) -> Any:
        while True:
            message = self.receive(patience)
            if message.get("id") == identifier and "method" not in message:
                if "error" in message:
                    raise Refused(message["error"]["message"])
                return message["result"]

    def receive(self, patience: float | None = None) -> Any:
        message = json.loads(self.link.recv(patience))
        if FAULT == "strict-members" and not message.keys() <= KNOWN:
            sys.exit("unknown member")
        method = message.get("method")
        if method is not None and "id" in message:
            unknown = {"code": -32601, "message": "unknown method"}
            self.send({"id": message["id"], "error": unknown})
        elif method in EVENTS:
            if FAULT == "answers-notifications":
                self.send({"id": 1, "result": {}})
            self.take(method, message["params"])
        elif method is not None and FAULT == "strict-notifications":
            sys.exit(f"unknown notification {method}")
        return message

    def take(self, method: str, params: Any) -> None:
        if params["processId"] != "p" and FAULT != "any-process":
            return
        if FAULT in ("order-of-arrival", "any-process"):
            self.apply(method, params)
            return
        self.held[params["seq"]] = method, params
        while self.seen + 1 in self.held:
            self.seen += 1
            self.apply(*self.held.pop(self.seen))

    def apply(self, method: str, params: Any) -> None:
        if method == "process/exited":
            self.code = params["exitCode"]
            self.is_closed = self.is_closed or FAULT == "ends-at-exit"
        elif method == "process/closed":
            self.is_closed = True
        elif params["stream"] == "stdout" or FAULT == "mixes-streams":
            self.write(base64.b64decode(params["chunk"]))

    def write(self, data: bytes) -> None:
        if FAULT == "text":
            data = data.decode("utf-8", "replace").encode()
        sys.stdout.buffer.write(data)

    def start(self) -> None:
        params = {"processId": "p", "argv": ["probe"], "cwd": "file:///", "env": {}, "tty": False}
        params["pipeStdin"] = PASSES_INPUT and FAULT != "no-pipe"
        if FAULT == "schema":
            del params["env"]
        identifier = self.ask("process/start", params)
        if FAULT == "one-id":
            self.next_id -= 1
            self.ask("environment/info", {})
        if FAULT == "asks-again":
            with contextlib.suppress(TimeoutError):
                self.answer(identifier, 1)
                return
            identifier = self.ask("process/start", params)
        if FAULT == "ignores-errors":
            with contextlib.suppress(Refused):
                self.answer(identifier)
        else:
            self.answer(identifier)

    def write_input(self) -> None:
        for line in sys.stdin.buffer:
            self.next_write += 1
            name = "1" if FAULT == "one-write-id" else str(self.next_write)
            while True:
                chunk = base64.b64encode(line).decode()
                try:
                    self.call("process/write", {"processId": "p", "writeId": name, "chunk": chunk})
                    break
                except ConnectionClosed:
                    self.resume()
                    if FAULT == "new-write-id":
                        self.next_write += 1
                        name = str(self.next_write)

    def resume(self) -> None:
        while True:
            try:
                self.connect()
                self.catch_up()
            except (ConnectionClosed, OSError):
                time.sleep(0.1)
            else:
                return

    def catch_up(self) -> None:
        if FAULT == "starts-again":
            self.start()
        if FAULT in ("no-reading", "starts-again", "forgets-session"):
            return
        state = self.call("process/read", {"processId": "p", "afterSeq": self.seen})
        for chunk in state["chunks"]:
            if chunk["seq"] > self.seen:
                self.apply("process/output", chunk)
        self.seen = max(self.seen, state["nextSeq"] - 1)
        self.held.clear()
        if state["exited"]:
            self.code = state["exitCode"]
        self.is_closed = state["closed"]

    def run(self) -> int:
        try:
            self.start()
        except ConnectionClosed:
            self.connect()
            raise Refused("it may have been started") from None
        if PASSES_INPUT:
            self.write_input()
        while not self.is_closed:
            try:
                self.receive()
            except ConnectionClosed:
                if FAULT == "end-is-success":
                    return 0
                self.resume()
        if FAULT == "goes-on":
            sys.stdout.buffer.flush()
            self.link.recv()
        return 0 if FAULT == "always-zero" else self.code or 0


def main() -> int:
    try:
        return Client().run()
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return 0 if FAULT == "ignores-errors" else 125


if __name__ == "__main__":
    sys.exit(main())
