"""A stdio server with one fault, named by its first argument, or with several joined by "+".

Fault ``none`` is a conforming server.

Further arguments name the supported revisions; the default is v1.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys

FAULT = sys.argv[1]
REVISIONS = [one for one in sys.argv[2:] if one in ("v0", "v1", "v2")] or ["v1"]
ROOTS = {"v1": "/", "v2": "file:///"}
ROOTS_SPOKEN = [root for revision, root in ROOTS.items() if revision in REVISIONS]
CAPABILITIES = {"fsWatchMissing": False, "shellSnapshotV2": True}


def say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def events() -> list[dict[str, object]]:
    told = [
        ("process/output", {"seq": 1, "stream": "stdout", "chunk": "aGk="}),
        ("process/exited", {"seq": 2, "exitCode": 0}),
        ("process/closed", {"seq": 3}),
    ]
    if FAULT == "seq-gap":
        told[1][1]["seq"], told[2][1]["seq"] = 3, 4
    elif FAULT == "seq-from-zero":
        for index, (_, params) in enumerate(told):
            params["seq"] = index
    elif FAULT == "lost-chunk":
        told = [("process/exited", {"seq": 1, "exitCode": 0}), ("process/closed", {"seq": 2})]
    elif FAULT == "wrong-stream":
        told[0][1]["stream"] = "stderr"
    elif "exit-code" in FAULT:
        told[1][1]["exitCode"] = 1
    elif FAULT == "output-after-close":
        told[0][1]["seq"], told[1][1]["seq"], told[2][1]["seq"] = 3, 1, 2
        told = [told[1], told[2], told[0]]
    elif FAULT == "exit-twice":
        told.insert(2, ("process/exited", {"seq": 3, "exitCode": 0}))
        told[3][1]["seq"] = 4
    elif FAULT == "unknown-notification":
        told.insert(0, ("process/vanished", {}))
    elif FAULT == "unknown-stream":
        told[0][1]["stream"] = "holo"
    return [{"method": method, "params": {"processId": "p", **params}} for method, params in told]


def break_down() -> None:
    if FAULT == "crashes":
        print("out of luck", file=sys.stderr)
        sys.exit(9)
    elif FAULT == "is-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT == "stops-answering":
        sys.stdin.read()
    elif FAULT == "endless-line":
        while True:
            sys.stdout.write("x" * (1 << 20))


def flood() -> None:
    """Output without end, after the answer to a start."""
    event = {"processId": "other", "stream": "stdout", "chunk": "aGk="}
    for count in itertools.count(1):
        if FAULT == "floods-events":
            say({"method": "process/output", "params": {**event, "seq": count}})
        elif FAULT == "floods-output":
            say({"method": "process/output", "params": {**event, "processId": "p", "seq": count}})
        elif FAULT == "floods-answers":
            say({"id": count + 5000, "result": {}})
        elif FAULT == "floods-garbage":
            sys.stdout.write("garbage\n")


def serve() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method, identifier = message["method"], message.get("id")
        if method == "initialize":
            session: dict[str, object] = {}
            if "v0" in REVISIONS:
                session["protocolVersion"] = "exec-server.v0"
            if REVISIONS != ["v0"]:
                session["sessionId"] = "00000000-0000-4000-8000-000000000000"
            say({"id": identifier, "result": session})
        elif method == "process/start" and message["params"]["cwd"] not in ROOTS_SPOKEN:
            say({"error": {"code": -32602, "message": "cwd"}, "id": identifier})
        elif method == "process/start":
            if FAULT == "hangs":
                continue
            if FAULT == "dies":
                return
            if message["params"]["processId"] == "p":
                break_down()
            if FAULT == "garbage":
                sys.stdout.write("Segmentation fault\n")
                sys.stdout.flush()
                continue
            wrong_id = "other" if FAULT == "wrong-id" else identifier
            result: dict[str, object] = {} if FAULT == "schema" else {"processId": "p"}
            if FAULT == "unknown-member":
                result["color"] = "red"
            say({"id": wrong_id, "result": result})
            if FAULT == "answer-twice":
                say({"id": identifier, "result": result})
            if FAULT.startswith("floods") and message["params"]["processId"] == "p":
                flood()
            for event in events():
                say(event)
        elif method == "process/terminate" and message["params"]:
            say({"id": identifier, "result": {"running": False}})
        elif method == "process/terminate":
            code = -32603 if "wrong-code" in FAULT else -32602
            say({"error": {"code": code, "message": "missing field"}, "id": identifier})
        elif method == "http/request":
            header = message["params"]["headers"][0]
            headers = [{**header, "value": header["value"] + "!"}] if FAULT == "echoes" else []
            say({"id": identifier, "result": {"status": 200, "headers": headers, "bodyBase64": ""}})
        elif method == "environment/info":
            more = {"timeTravel": True} if FAULT == "unknown-flag" else {}
            info = {
                "shell": {"name": "sh", "path": "/bin/sh"},
                "capabilities": {**CAPABILITIES, **more},
            }
            say({"id": identifier, "result": info})


serve()
