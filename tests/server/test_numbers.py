"""Numbers in params that may have any form."""

from __future__ import annotations

import time

from exec_server.revisions.binding import Decoders
from exec_server_protocol.v1.methods import METHODS


def _seconds(number: str) -> float:
    """The least processor time to decode a sandbox with so many of them as it may have."""
    numbers = ",".join([number] * 16_000)
    params = f'{{"path": "/", "sandbox": {{"permissions": [{numbers}]}}}}'.encode()
    decode = Decoders(METHODS)["fs/getMetadata"]
    least = float("inf")
    for _ in range(3):
        begin = time.process_time()
        decode(params)
        least = min(least, time.process_time() - begin)
    return least


def test_large_exponents_cost_no_more_than_other_numbers() -> None:
    assert _seconds("1.5e300") <= 10 * _seconds("1.5")
