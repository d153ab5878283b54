"""Types of command-line options: each parses a text or raises argparse.ArgumentTypeError."""

from __future__ import annotations

import argparse
import re


def whole_number(text: str) -> int:
    """Parse a whole number, 0 or more, that fits in 64 bits."""
    if not (text.isascii() and text.isdigit()) or int(text[:32]) >= 2**64:
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """Parse a whole number above 0."""
    if not (text.isascii() and text.isdigit()) or not int(text[:32]):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return whole_number(text)


def seconds(text: str) -> float:
    """Parse a time in seconds, 0 or more."""
    return _seconds(text, "0 or more", 0.0)


def positive_seconds(text: str) -> float:
    """Parse a time in seconds, more than 0."""
    return _seconds(text, "more than 0", 1e-9)


def _seconds(text: str, expected: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, {expected}, got {text!r}")
    return value


def path(text: str) -> str:
    """Parse a path: any text but an empty one."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return text


def variable(text: str) -> str:
    """Parse the name of an environment variable."""
    if not text or "=" in text or "\0" in text:
        raise argparse.ArgumentTypeError(
            f"expected the name of an environment variable, got {text!r}"
        )
    return text


def file_mode(text: str) -> int:
    """Parse the permission bits of a file as three octal digits, such as 660."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"expected three octal digits such as 660, got {text!r}")
    return int(text, 8)
