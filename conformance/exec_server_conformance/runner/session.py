"""Session files: JSON Lines with a header and steps. docs/sessions.md describes the format.

A scenario is a session without expectations; the recorder adds them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonschema

from exec_server_conformance.errors import SessionError

SESSIONS = Path(__file__).parents[1] / "sessions"
"""Directory of the sessions that ship with the suite."""

Transport = Literal["ws", "stdio"]
Level = Literal["contract", "quirk"]
Release = tuple[int, int, int]
Lines = list[tuple[int, dict[str, Any]]]
"""Line numbers and decoded objects of a file."""

_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_RELEASE = {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}
_CONNECTION = {"on": _TEXT}
_EXPECT = {"expect": True, "overrides": _TEXT}


def release(text: str) -> Release:
    """Parse a codex release number; raise SessionError for anything but X.Y.Z."""
    if re.fullmatch(_RELEASE["pattern"], text) is None:
        raise SessionError(f"expected a release such as 0.139.0, got {text!r}")
    major, minor, patch = (int(part) for part in text.split("."))
    return major, minor, patch


def _step(required: str, **members: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {required: True, **members},
        "required": [required],
        "additionalProperties": False,
    }


HEADER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "session": {"type": "string", "pattern": "^(v[0-9]+|draft)(/[a-z0-9_]+)+$"},
        "description": {"type": "string", "minLength": 1},
        "transports": {
            "type": "array",
            "items": {"enum": ["ws", "stdio"]},
            "minItems": 1,
            "uniqueItems": True,
        },
        "since": _RELEASE,
        "until": _RELEASE,
        "capabilities": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
        "strict": {"type": "boolean"},
        "level": {"enum": ["contract", "quirk"]},
        "tags": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
        "timeoutSeconds": {"type": "number", "exclusiveMinimum": 0},
        "handshake": {"type": "boolean"},
        "files": _TEXTS,
        "arguments": {"type": "array", "items": _TEXT, "minItems": 1},
        "environment": _TEXTS,
        "source": _TEXT,
    },
    "required": ["session", "description", "transports"],
    "additionalProperties": False,
}

STEP_SCHEMAS: dict[str, dict[str, Any]] = {
    "call": _step(
        "call",
        params=True,
        id={"type": ["string", "integer"]},
        wait={"type": "boolean"},
        **_CONNECTION,
        **_EXPECT,
    ),
    "answer": _step("answer", **_CONNECTION, **_EXPECT),
    "notify": _step("notify", params=True, **_CONNECTION),
    "text": _step("text", **_CONNECTION),
    "fragments": _step("fragments", **_CONNECTION),
    "binary": _step("binary", **_CONNECTION),
    "ping": _step("ping", **_CONNECTION),
    "process": _step("process", **_CONNECTION, **_EXPECT),
    "until": _step("until", output=_TEXT, event=_TEXT, **_CONNECTION),
    "stream": _step("stream", **_CONNECTION, **_EXPECT),
    "notification": _step("notification", **_CONNECTION, **_EXPECT),
    "connect": _step("connect", handshake={"type": "boolean"}, headers=_TEXTS),
    "disconnect": _step("disconnect"),
    "ended": _step("ended"),
    "pause": _step("pause"),
    "signal": _step("signal"),
    "exit": _step("exit", **_EXPECT),
    "gone": _step("gone"),
    "http": _step("http", **_EXPECT),
}

_HEADER = jsonschema.Draft202012Validator(HEADER_SCHEMA)
_STEPS = {name: jsonschema.Draft202012Validator(one) for name, one in STEP_SCHEMAS.items()}


@dataclass(slots=True)
class Step:
    """An action of the client, or something that it waits for."""

    kind: str
    members: dict[str, Any]
    line: int


@dataclass(slots=True)
class Session:
    """A session or scenario."""

    path: Path
    name: str
    description: str
    transports: list[Transport]
    since: Release
    until: Release | None
    capabilities: frozenset[str]
    strict: bool
    timeout_seconds: float
    handshake: bool
    files: dict[str, str]
    arguments: list[str]
    environment: dict[str, str]
    header: dict[str, Any]
    steps: list[Step] = field(default_factory=list)

    @property
    def revision(self) -> str:
        """Revision of the session."""
        return self.name.partition("/")[0]

    @property
    def level(self) -> Level:
        """``contract``, or ``quirk`` where servers are known to differ."""
        level: Level = self.header.get("level", "contract")
        return level

    @property
    def tags(self) -> frozenset[str]:
        """Folders of the name, required capabilities, and tags of the header."""
        folders = self.name.split("/")[1:-1]
        return frozenset((*folders, *self.capabilities, *self.header.get("tags", ())))

    @property
    def methods(self) -> list[str]:
        """Methods that the client calls, in order, without duplicates."""
        sent = (one.members.get("call") or one.members.get("notify") for one in self.steps)
        return list(dict.fromkeys(filter(None, sent)))

    @property
    def needs_own_server(self) -> bool:
        """True if the suite must start the server: extra arguments, signals or the exit code are
        used.
        """
        return bool(
            self.arguments
            or self.environment
            or any(step.kind in ("signal", "exit") for step in self.steps)
        )

    @property
    def makes_requests(self) -> bool:
        """True if the session uses the suite's HTTP server."""
        return any("${http}" in json.dumps(step.members) for step in self.steps)

    def dump(self) -> str:
        """Return the contents of the file."""
        lines = [self.header, *(step.members for step in self.steps)]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def load(path: Path) -> Session:
    """Read a session file; raise SessionError with the line if it is invalid."""
    objects: Lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise SessionError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise SessionError(f"{path}:{number}: expected an object")
        objects.append((number, value))
    if not objects:
        raise SessionError(f"{path}:1: the file is empty")
    return of_lines(path, objects)


def of_lines(path: Path, objects: Lines) -> Session:
    """Build a session from numbered lines; raise SessionError if one is invalid."""
    number, header = objects[0]
    _check(header, _HEADER, f"{path}:{number}")
    session = Session(
        path=path,
        name=header["session"],
        description=header["description"],
        transports=header["transports"],
        since=release(header.get("since", "0.0.0")),
        until=release(header["until"]) if "until" in header else None,
        capabilities=frozenset(header.get("capabilities", ())),
        strict=header.get("strict", False),
        timeout_seconds=header.get("timeoutSeconds", 20),
        handshake=header.get("handshake", True),
        files=header.get("files", {}),
        arguments=header.get("arguments", []),
        environment=header.get("environment", {}),
        header=header,
    )
    for number, members in objects[1:]:
        kind = next((name for name in members if name in STEP_SCHEMAS), None)
        if kind is None:
            raise SessionError(
                f"{path}:{number}: expected a step with one of {', '.join(STEP_SCHEMAS)}"
            )
        _check(members, _STEPS[kind], f"{path}:{number}")
        session.steps.append(Step(kind, members, number))
    return session


def _check(value: dict[str, Any], validator: jsonschema.Draft202012Validator, where: str) -> None:
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if error is not None:
        raise SessionError(f"{where}: {error.message}")


def load_all(directory: Path) -> list[Session]:
    """Load every session below a directory, sorted; raise SessionError for duplicates."""
    sessions = [load(path) for path in sorted(directory.rglob("*.jsonl"))]
    seen: dict[str, Path] = {}
    for session in sessions:
        if session.name in seen:
            raise SessionError(f"{session.path}:1: {seen[session.name]} has the same name")
        seen[session.name] = session.path
    return sessions
