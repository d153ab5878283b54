"""Conversion of wire names to Python names."""

from __future__ import annotations

import re

_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


def snake(name: str) -> str:
    """``readFile`` → ``read_file``; ``createdAtMs`` → ``created_at_ms``."""
    return "_".join(word.lower() for word in _WORDS.findall(name))


def pascal(method: str) -> str:
    """Class name stem of a method: ``fs/readFile`` → ``FsReadFile``."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[/_]", method))


def camel(name: str) -> str:
    """Convert as msgspec's ``rename="camel"``: ``read_file`` → ``readFile``."""
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def attribute(method: str) -> str:
    """Name of a method inside its family: ``fs/readFile`` → ``read_file``."""
    return snake(method.rsplit("/", 1)[-1])


def constant(name: str) -> str:
    """``invalidParams`` → ``INVALID_PARAMS``."""
    return snake(name).upper()
