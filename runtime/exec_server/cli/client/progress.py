"""Progress bar of a copy."""

from __future__ import annotations

import sys
import time
from typing import Final

from exec_server.printable import printable

LARGE_BYTES: Final = 8 * 1024 * 1024
"""Minimum size of a file with a bar: smaller ones are copied within a second."""

REFRESH_SECONDS: Final = 0.1

BAR_CHARACTERS: Final = 30

MIB: Final = 1024 * 1024


class Progress:
    """Progress bar on standard error, shown for large files on a terminal."""

    def __init__(self, name: str, total: int | None) -> None:
        """``total``: bytes, None if unknown."""
        self._name = printable(name)
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._next_at = self._began
        self._is_shown = sys.stderr.isatty() and (total is None or total >= LARGE_BYTES)

    def advance(self, size: int) -> None:
        """Add to the number of copied bytes."""
        self._done += size
        now = time.monotonic()
        if self._is_shown and now >= self._next_at:
            self._next_at = now + REFRESH_SECONDS
            self._draw(now)

    def finish(self) -> None:
        """Draw the bar a last time and end its line."""
        if self._is_shown:
            self._draw(time.monotonic())
            print(file=sys.stderr)

    def _draw(self, now: float) -> None:
        rate = self._done / MIB / max(now - self._began, 1e-3)
        text = f"{self._done / MIB:.1f} MiB, {rate:.1f} MiB/s"
        if self._total:
            share = min(1.0, self._done / self._total)
            bar = ("#" * round(share * BAR_CHARACTERS)).ljust(BAR_CHARACTERS, ".")
            text = f"[{bar}] {share:4.0%} {text}"
        print(f"\r{self._name} {text}\033[K", end="", file=sys.stderr, flush=True)
