"""Regular expressions for wildcard patterns, matched in linear time per part of the pattern."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def expression(parts: Sequence[str]) -> str:
    """Return a regular expression for parts separated by ``*``, which matches any text.

    Each part is a sequence of regular expressions for single characters.
    """
    first, *rest = parts
    if not rest:
        return first
    *middle, last = rest
    # For a part between two stars the leftmost match suffices, so no backtracking: (?>…).
    return first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last


def literal(character: str) -> str:
    """Return the regular expression that matches one character."""
    return re.escape(character)
