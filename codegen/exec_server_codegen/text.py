"""Prose from the schema, laid out as docstrings."""

from __future__ import annotations

import textwrap
from typing import Final

LINE_LENGTH: Final = 100
"""Columns of a generated line; the line length that ruff is configured with."""


def docstring(text: str, indent: int = 4) -> str:
    """A docstring literal, without the indentation of its first line.

    One line where it fits; else the text is filled, and the closing quotes stand alone.
    """
    quoted = text.replace("\\", "\\\\").replace('"""', '\\"""')
    one_line = f'"""{quoted}"""'
    if indent + len(one_line) <= LINE_LENGTH:
        return one_line
    margin = " " * indent
    lines = textwrap.wrap(
        f'"""{quoted}',
        LINE_LENGTH - indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join([lines[0], *(margin + line for line in lines[1:]), f'{margin}"""'])


def sections(summary: str, paragraphs: list[str], conditions: list[str], indent: int) -> str:
    """A docstring of a summary line, paragraphs, and a list of error conditions."""
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
    """The text in lines of the generated width; ``rest`` is the margin of all but the first."""
    return textwrap.wrap(
        text,
        LINE_LENGTH,
        initial_indent=margin,
        subsequent_indent=margin if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def string_lines(text: str, width: int = 80) -> list[str]:
    """The text as string literals to stand below each other, which Python joins."""
    lines = textwrap.wrap(text, width, break_long_words=False, drop_whitespace=False)
    return [f'"{escaped}"' for escaped in (line.replace('"', '\\"') for line in lines)]
