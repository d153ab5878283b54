"""A report with every outcome, and with text that has a meaning in some format."""

from __future__ import annotations

from typing import Any

from exec_server_conformance.runner.results import (
    Cause,
    Divergence,
    Outcome,
    Play,
    Report,
    RunHeader,
    Summary,
    TraceEntry,
)

MARKUP = '<script>alert("x")</script>'

NASTY = f"a \x00 # \\ {MARKUP} & ]]> é"
"""Text that has a meaning in some format, and what XML cannot hold."""


def entry(direction: Any, text: str, seconds: float = 0.0) -> TraceEntry:
    return TraceEntry(seconds, "main", direction, text, len(text))


def play(name: str, outcome: Outcome, **members: Any) -> Play:
    defaults: dict[str, Any] = {
        "transport": "ws",
        "description": f"what {name} shows",
        "level": "contract",
        "methods": ["process/start", "suite/unheard"],
        "seconds": 0.25,
        "trace": [
            entry("sent", '{"id":1,"method":"process/start","params":{}}', 0.001),
            entry("received", '{"id":1,"result":{"processId":"p"}}', 0.002),
        ],
    }
    return Play(session=f"v1/{name}", outcome=outcome, **{**defaults, **members})


def sample() -> Report:
    """A report with every outcome, and text that has a meaning in some format."""
    plays = [
        play("fs/error", Outcome.ERROR, reason="the server died", cause=Cause.SERVER_NO_RESPONSE),
        play(
            "fs/failed",
            Outcome.FAILED,
            reason=f"failed.jsonl:2: {NASTY}",
            cause=Cause.SERVER_VIOLATION,
            divergence=Divergence(NASTY, "process/start.result", {"a": NASTY}, [1], 1, 2),
        ),
        play("fs/known", Outcome.KNOWN, reason="it failed", known_deviation="it is # so"),
        play("fs/na", Outcome.NOT_APPLICABLE, reason="needs #1", seconds=0.0, trace=[]),
        play("process/passed", Outcome.PASSED),
        play("process/stale", Outcome.STALE, reason="passed, but is known to deviate"),
    ]
    header = RunHeader("suite 1", NASTY, "2026-01-02T03:04:05+00:00", ["v1"], ["x"], "0.139.0")
    counts = dict.fromkeys(map(str, Outcome), 1)
    return Report(header, plays, Summary(counts, 1.5, 1, stale=["v1/process/*"]))
