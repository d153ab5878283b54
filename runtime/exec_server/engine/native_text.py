"""Text of the operating system: arguments and variables as UTF-8, whatever the locale.

Python itself converts by the encoding of the locale, which in a Latin-1 locale would change the
bytes of arguments that clients send as UTF-8. As in ``paths``, a byte that is not UTF-8 is a lone
surrogate (PEP 383).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_IS_PYTHON_UTF8: Final = sys.getfilesystemencoding() == "utf-8"


def encode(text: str) -> bytes:
    """Return the bytes of an argument or variable.

    Raises UnicodeEncodeError for a surrogate that stands for no byte.
    """
    return text.encode("utf-8", "surrogateescape")


def decode(native: bytes) -> str:
    """Return the text of an argument or variable; the inverse of ``encode``."""
    return native.decode("utf-8", "surrogateescape")


def environment() -> Mapping[str, str]:
    """Return the environment of this process."""
    if _IS_PYTHON_UTF8:
        return os.environ
    return {decode(name): decode(value) for name, value in os.environb.items()}
