"""The server's program on a machine whose wall clock jumps back and forth, years at a time."""

from __future__ import annotations

import itertools
import sys
import time

_YEAR = 365.25 * 24 * 60 * 60
_JUMPS = itertools.cycle((0.0, 10 * _YEAR, -10 * _YEAR))
_now, _now_ns = time.time, time.time_ns


def _jumping() -> float:
    return _now() + next(_JUMPS)


def _jumping_ns() -> int:
    return _now_ns() + int(next(_JUMPS)) * 10**9


if __name__ == "__main__":
    # Before anything can have taken hold of the real ones.
    time.time, time.time_ns = _jumping, _jumping_ns
    from exec_server.cli.server.main import main

    sys.exit(main())
