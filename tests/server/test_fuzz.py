"""Ten thousand mutated messages: the server answers on, and no process is left behind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from exec_server_protocol.v1.methods import METHODS
from tests.support import peer

SEED = 20_261_121
COUNT = 5_000  # on each of the two transports

ODD_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    2**64,
    1.5,
    1e300,
    "",
    "x" * 5000,
    "\0",
    "../..",
    "Ünï",
    [],
    [1],
    {},
    {"a": {"b": []}},
]


def samples(directory: str) -> list[dict[str, Any]]:
    """Valid messages whose effects stay inside a directory."""
    path = f"{directory}/f"
    params: dict[str, dict[str, Any]] = {
        "initialize": {"clientName": "x"},
        "process/start": {
            "processId": "p",
            "argv": ["true"],
            "cwd": directory,
            "env": {},
            "tty": False,
            "pipeStdin": True,
            "arg0": None,
        },
        "process/read": {"processId": "p", "afterSeq": 0, "maxBytes": 10, "waitMs": 1},
        "process/write": {"processId": "p", "chunk": "aGk="},
        "process/terminate": {"processId": "p"},
        "fs/readFile": {"path": path},
        "fs/writeFile": {"path": path, "dataBase64": "aGk="},
        "fs/createDirectory": {"path": f"{directory}/d", "recursive": True},
        "fs/getMetadata": {"path": path, "sandbox": None},
        "fs/readDirectory": {"path": directory},
        "fs/remove": {"path": path, "recursive": False, "force": True},
        "fs/copy": {"sourcePath": path, "destinationPath": f"{path}2", "recursive": False},
        "fs/canonicalize": {"path": path},
        "fs/join": {"basePath": directory, "path": "x"},
        "fs/parent": {"path": path},
        "http/request": {"method": "GET", "url": "http://127.0.0.1:1/", "requestId": "r"},
        "environment/info": {},
    }
    requests = {name for name, method in METHODS.items() if method.kind == "request"}
    assert requests == set(params)
    return [{"id": 1, "method": name, "params": value} for name, value in params.items()]


def mutated(chance: random.Random, sample: dict[str, Any]) -> str:
    """One message with a fault: in a value, a member, or the text."""
    message = json.loads(json.dumps(sample))
    kind = chance.randrange(4)
    params = message["params"]
    if kind == 0 and params:
        params[chance.choice(list(params))] = chance.choice(ODD_VALUES)
    elif kind == 1 and params:
        del params[chance.choice(list(params))]
    elif kind == 2:
        message[chance.choice(["params", "method", "extra"])] = chance.choice(ODD_VALUES)
    text = json.dumps(message)
    if kind == 3:
        start = chance.randrange(1, len(text))
        text = text[:start] + chance.choice(["", "{", "]", '"', "\\", "9" * 30]) + text[start + 1 :]
    return text


def is_dangerous(text: str, directory: str) -> bool:
    """Return True if a mutation makes a message act outside the directory."""
    try:
        message = json.loads(text)
    except ValueError:
        return False
    params = message.get("params") if isinstance(message, dict) else None
    if not isinstance(params, dict):
        return False
    paths = [params.get(name) for name in ("path", "sourcePath", "destinationPath")]
    return any(isinstance(path, str) and not path.startswith(directory) for path in paths)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize("transport", ["stdio", "ws"])
def test_mutated_messages_never_hurt_the_server(transport: str, tmp_path: Path) -> None:
    chance = random.Random(f"{SEED} {transport}")
    directory = str(tmp_path)
    known = samples(directory)
    if transport == "stdio":
        with peer.stdio() as client:
            client.initialize()
            _bombard(chance, client, client.process.pid, known, directory)
    else:
        with peer.listening() as server:
            websocket = server.client()
            websocket.initialize()
            _bombard(chance, websocket, server.process.pid, known, directory)


def _bombard(
    chance: random.Random,
    client: peer.Client,
    pid: int,
    known: list[dict[str, Any]],
    directory: str,
) -> None:
    client.start("first", "true")  # and with it the server's watchdog
    client.closed("first")
    before = children(pid)
    sent = 0
    while sent < COUNT:
        text = mutated(chance, chance.choice(known))
        if is_dangerous(text, directory) or "\n" in text or _is_violation(text):
            continue
        client.send_text(text)
        sent += 1
        if sent % 200 == 0:
            assert client.is_alive(), text
    for name in ("p", "", "\0", "../..", "Ünï"):
        client.call("process/terminate", {"processId": name})
    assert peer.wait_until(lambda: children(pid) == before)


def _is_violation(text: str) -> bool:
    """Return True if the message ends the connection by contract, as an unknown notification."""
    try:
        message = json.loads(text)
    except ValueError:
        return False
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        return isinstance(message, dict) and ("result" in message or "error" in message)
    identifier = message.get("id")
    is_usable = isinstance(identifier, str) or (
        type(identifier) is int and -(2**63) <= identifier < 2**63
    )
    return not is_usable or text.count('"id"') > 1
