"""Prose from the schema, laid out as docstrings."""

from __future__ import annotations

import json
import textwrap
from typing import Any, Final

LINE_LENGTH: Final = 100
"""Columns of a generated line; the line length that ruff is configured with."""


def docstring(text: str, indent: int = 4) -> str:
    """Return a docstring literal, without the indentation of its first line.

    One line where it fits; else the text is filled, and the closing quotes stand alone.
    """
    quoted = text.replace("\\", "\\\\").replace('"""', '\\"""')
    one_line = f'"""{quoted}"""'
    if indent + len(one_line) <= LINE_LENGTH:
        return one_line
    margin = " " * indent
    width = LINE_LENGTH - indent
    if len(quoted) + 3 <= width:
        width = len(quoted)  # never one line with the closing quotes below it
    lines = textwrap.wrap(f'"""{quoted}', width, break_long_words=False, break_on_hyphens=False)
    return "\n".join([lines[0], *(margin + line for line in lines[1:]), f'{margin}"""'])


def sections(summary: str, paragraphs: list[str], conditions: list[str], indent: int) -> str:
    """Return a docstring of a summary, paragraphs and a list of error conditions."""
    margin = " " * indent
    lines = [f'"""{summary}']
    for paragraph in paragraphs:
        lines += ["", *filled(paragraph, margin)]
    if conditions:
        lines += ["", f"{margin}Errors:"]
        for condition in conditions:
            lines += filled(condition, margin + "    ", margin + "        ")
    return "\n".join([*lines, f'{margin}"""'])


def filled(text: str, margin: str, rest: str | None = None) -> list[str]:
    """Wrap text to the generated width; ``rest`` is the margin of all lines but the first."""
    return textwrap.wrap(
        text,
        LINE_LENGTH,
        initial_indent=margin,
        subsequent_indent=margin if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def string_lines(text: str, width: int = 80) -> list[str]:
    """Return the text as adjacent string literals, which Python joins."""
    lines = textwrap.wrap(text, width, break_long_words=False, drop_whitespace=False)
    return [f'"{escaped}"' for escaped in (line.replace('"', '\\"') for line in lines)]


def compact_json(value: Any, indent: int = 0, width: int = 88) -> str:
    """Format JSON for reading: what fits stays on one line, the rest is indented."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or indent + len(flat) <= width:
        return flat
    margin = " " * (indent + 2)
    if isinstance(value, dict):
        lines = [
            f"{margin}{json.dumps(name)}: {compact_json(item, indent + 2, width - len(name) - 4)}"
            for name, item in value.items()
        ]
        return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"
    lines = [f"{margin}{compact_json(item, indent + 2, width)}" for item in value]
    return "[\n" + ",\n".join(lines) + "\n" + " " * indent + "]"
