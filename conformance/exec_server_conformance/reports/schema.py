"""JSON Schema of a line of the JSON Lines report, derived from the data model.

``python -m exec_server_conformance.reports.schema`` writes ``report.schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from exec_server_conformance.reports.jsonl import Line

PATH = Path(__file__).with_name("report.schema.json")
"""Path of the published schema."""


def schema() -> dict[str, Any]:
    """Return the schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of a report of exec-server-conformance",
        **msgspec.json.schema(Line),
    }


def text() -> str:
    """Return the schema as text."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
