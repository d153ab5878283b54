"""Measuring how the cost of something grows with the size of what it is given."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOISE_SECONDS: Final = 0.02
"""Below that the growth of a measured time says nothing."""

_EXPONENT: Final = 1.5
"""Half way between linear and quadratic growth."""


def assert_grows_linearly(work: Callable[[int], object], sizes: Sequence[int]) -> None:
    """Do some work for growing sizes; fail at the first that costs far more than in proportion.

    Counts processor time of this process, so that other work on the machine does not matter.
    """
    seconds = [_least_seconds(work, sizes[0])]
    for before, size in itertools.pairwise(sizes):
        seconds.append(_least_seconds(work, size))
        limit = max(NOISE_SECONDS, seconds[-2] * (size / before) ** _EXPONENT)
        assert seconds[-1] <= limit, f"sizes {sizes}: {seconds} s"


def _least_seconds(work: Callable[[int], object], size: int) -> float:
    """The least of three: what a garbage collection or a cold cache adds does not count."""
    least = float("inf")
    for _ in range(3):
        begin = time.process_time()
        work(size)
        least = min(least, time.process_time() - begin)
        if least > 1:
            break
    return least
