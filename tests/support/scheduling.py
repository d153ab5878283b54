"""Time that a busy machine keeps processes from running, which measurements must leave out."""

from __future__ import annotations

import os
from pathlib import Path


def run_queue_seconds(server: int) -> float:
    """Return the time that this process and a server's main thread were ready but did not run.

    The difference of two calls, subtracted from the time between them, leaves the latency for
    which the server is responsible, however many other processes compete for the processors.
    """
    return _run_delay(server) + _run_delay(os.getpid())


def _run_delay(pid: int) -> float:
    # Nanoseconds on a processor, nanoseconds ready to run, number of time slices.
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
