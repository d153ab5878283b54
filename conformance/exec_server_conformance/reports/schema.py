"""The JSON Schema of a line of a JSON Lines report, made from the model.

``python -m exec_server_conformance.reports.schema`` writes it to ``report.schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from exec_server_conformance.reports.jsonl import Line

PATH = Path(__file__).with_name("report.schema.json")
"""The published schema."""


def schema() -> dict[str, Any]:
    """The schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of a report of exec-server-conformance",
        **msgspec.json.schema(Line),
    }


def text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
