"""Matching names against wildcards in time linear in the name for each part of the pattern."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def expression(parts: Sequence[str]) -> str:
    """Return a regular expression for parts with any text, or none, between two of them.

    Each part is a regular expression of fixed length: one for each character.
    """
    first, *rest = parts
    if not rest:
        return first
    *middle, last = rest
    # The leftmost place is always right for a part between two stars, so it is final: (?>…).
    return first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last


def literal(character: str) -> str:
    """Return the regular expression that matches one character."""
    return re.escape(character)
