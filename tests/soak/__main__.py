"""Run the soak and report; exits 1 if anything was lost, leaked or otherwise wrong."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.soak import load
from tests.soak.attack import ATTACK_SECONDS, Suffered, attack
from tests.soak.client import Server, Tally, running
from tests.soak.faults import all_faults
from tests.soak.probe import probing

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKERS: Final = 4
SLOW_READERS: Final = 4
ROUNDS: Final = 5
WINDOW_SECONDS: Final = 1.0
"""Number and length of the windows in which a server at rest is compared with one whose client does
not read: by turns, so that other load of the machine hits both."""
MAX_SLOWDOWN: Final = 2.0
"""Limit of the slowdown of other clients by one that does not read (99th percentile)."""
SLACK_SECONDS: Final = 0.001
"""Differences below this are noise, however fast the server at rest is."""
LAP_SECONDS: Final = 60.0
"""Duration of a lap under load; memory at rest is measured after each."""
GROWTH: Final = 1.25
"""Limit of the growth of memory at rest between the first lap and the last."""
REST_SECONDS: Final = 8.0
"""Time limit for memory to be given back."""


class Measured:
    """Measurements of one server under load."""

    def __init__(self) -> None:
        self.unloaded: list[float] = []
        self.beside_never_reader: list[float] = []
        self.loaded: list[float] = []
        self.idle_bytes = 0
        self.at_rest_bytes: list[int] = []
        """One for each lap."""
        self.peak_bytes = 0
        self.never_reader_bytes = 0
        self.leaked_processes = 0
        self.leaked_descriptors = 0


async def soak(server: Server, seconds: float, seed: int, folder: Path, tally: Tally) -> Measured:
    """Laps of everything at once until time is up, and what is left after each of them."""
    found = Measured()
    chance = random.Random(seed)
    descriptors = server.descriptors
    found.idle_bytes = server.memory_bytes
    end = time.monotonic() + seconds
    found.never_reader_bytes = await cost_of_never_readers(server, tally)
    await compare_with_never_reader(server, tally, found)
    # At least two, however short the time is.
    laps = max(2, round((end - time.monotonic()) / LAP_SECONDS))
    for lap in range(laps):
        share = (end - time.monotonic()) / (laps - lap) - REST_SECONDS
        async with probing(server, tally) as latencies:
            await everything(server, share, chance, folder, tally)
        found.loaded += latencies
        tally.expect(await server.settles(descriptors), "processes or descriptors were left")
        found.at_rest_bytes.append(await memory_at_rest(server, found.at_rest_bytes))
    found.leaked_processes = server.children
    found.leaked_descriptors = max(0, server.descriptors - descriptors)
    found.peak_bytes = server.peak_bytes
    tally.expect(
        found.at_rest_bytes[-1] <= GROWTH * found.at_rest_bytes[0], "memory went on growing"
    )
    return found


async def everything(
    server: Server, seconds: float, chance: random.Random, folder: Path, tally: Tally
) -> None:
    """Every kind of load at once, each of them over and over, but at least once."""
    end = time.monotonic() + seconds

    def is_over() -> bool:
        return time.monotonic() > end

    def over_and_over(task: load.Task) -> asyncio.Task[None]:
        return asyncio.ensure_future(load.repeat(task, tally, is_over))

    tasks = [
        asyncio.ensure_future(load.watch(server, is_over)),
        *(over_and_over(lambda: load.work(server, tally, chance, folder)) for _ in range(WORKERS)),
        *(over_and_over(lambda: load.read_slowly(server, tally)) for _ in range(SLOW_READERS)),
        over_and_over(lambda: load.flood(server, tally)),
        over_and_over(lambda: load.die_mid_message(server, tally, chance)),
        over_and_over(lambda: load.stay_half_open(server, tally, is_over)),
        over_and_over(lambda: load.never_read(server, tally, is_over)),
    ]
    while True:
        await load.many_connections(server, tally)
        await load.many_processes(server, tally)
        if is_over():
            break
    await asyncio.gather(*tasks)


async def memory_at_rest(server: Server, before: Sequence[int]) -> int:
    """Return the server's memory after it had time to give back what it no longer uses."""
    enough = before[0] if before else 0
    end = time.monotonic() + REST_SECONDS
    least = server.memory_bytes
    while least > enough and time.monotonic() < end:
        await asyncio.sleep(0.5)
        least = min(least, server.memory_bytes)
    return least


async def cost_of_never_readers(server: Server, tally: Tally) -> int:
    """Return the most memory that a client that never reads costs the server, in bytes."""
    before = server.memory_bytes
    end = time.monotonic() + 3

    def is_over() -> bool:
        return time.monotonic() > end

    most, *_ = await asyncio.gather(
        load.watch(server, is_over),
        *(load.never_read(server, tally, is_over) for _ in range(load.NEVER_READERS)),
    )
    return (most - before) // load.NEVER_READERS


async def compare_with_never_reader(server: Server, tally: Tally, found: Measured) -> None:
    """Compare latencies at rest with those while another client does not read."""
    descriptors = server.descriptors
    for _ in range(ROUNDS):
        # What is left of the ones before must not count.
        tally.expect(await server.settles(descriptors), "something of a never reader was left")
        async with probing(server, tally) as latencies:
            await asyncio.sleep(WINDOW_SECONDS)
        found.unloaded += latencies
        end = time.monotonic() + WINDOW_SECONDS
        async with probing(server, tally) as latencies:
            await load.never_read(server, tally, lambda end=end: time.monotonic() > end)
        found.beside_never_reader += latencies
    at_rest, beside = (
        percentile(each, 0.99) for each in (found.unloaded, found.beside_never_reader)
    )
    tally.expect(
        beside <= max(MAX_SLOWDOWN * at_rest, at_rest + SLACK_SECONDS),
        "a client that does not read delayed another",
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(found: Measured, tally: Tally, tried: Sequence[str], seconds: float) -> None:
    """Print what came of it."""

    def latency(values: Sequence[float]) -> str:
        middle, most = (percentile(values, share) * 1000 for share in (0.5, 0.99))
        return f"p50 {middle:.2f} ms, p99 {most:.2f} ms"

    def mib(size: int) -> str:
        return f"{size / 2**20:.1f} MiB"

    at_rest = (found.idle_bytes, *found.at_rest_bytes)
    for name, value in (
        ("duration", f"{seconds:.0f} s"),
        ("connections", f"{tally.connections:,}"),
        ("requests sent", f"{tally.sent:,}"),
        ("requests answered", f"{tally.answered:,} ({tally.refused:,} refused, as expected)"),
        ("requests lost", tally.lost),
        ("processes started", f"{tally.processes:,}"),
        ("processes leaked", found.leaked_processes),
        ("descriptors leaked", found.leaked_descriptors),
        ("output delivered", mib(tally.output_bytes)),
        ("memory before / after each lap", " / ".join(map(mib, at_rest))),
        ("memory at its peak", mib(found.peak_bytes)),
        ("cost of one that never reads", mib(found.never_reader_bytes)),
        ("small request, unloaded", latency(found.unloaded)),
        ("... while one never reads", latency(found.beside_never_reader)),
        ("... under the whole load", latency(found.loaded)),
        ("faults of the system", ", ".join(tried)),
    ):
        print(f"{name:32} {value}")
    for fault in tally.faults[:20]:
        print(f"WRONG: {fault}")


def report_attack(suffered: Suffered) -> None:
    """Print what one client that attacks has done to another."""
    slowest = max(suffered.by_attack, key=lambda name: suffered.by_attack[name])
    for name, value in (
        ("memory under attack, at its peak", f"{suffered.peak_bytes / 2**20:.1f} MiB"),
        ("small request, under attack", f"p99 {suffered.disturbed * 1000:.2f} ms"),
        ("... of a server at rest beside it", f"p99 {suffered.undisturbed * 1000:.2f} ms"),
        (
            "... under the worst attack",
            f"p99 {suffered.by_attack[slowest] * 1000:.2f} ms ({slowest})",
        ),
    ):
        print(f"{name:32} {value}")


async def _run(seconds: float, attack_seconds: float, seed: int) -> int:
    tally = Tally()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        tried = await all_faults(tally, folder)
        suffered = await attack(attack_seconds, seed, folder, tally)
        with running("--detached-seconds", "1", "--retention-seconds", "1") as server:
            left = max(1.0, seconds - (time.monotonic() - begin))
            found = await soak(server, left, seed, folder, tally)
    report_attack(suffered)
    report(found, tally, tried, time.monotonic() - begin)
    is_well = not (tally.faults or tally.lost or found.leaked_processes or found.leaked_descriptors)
    return 0 if is_well else 1


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20_261_121, help="of what is left to chance")
    parser.add_argument(
        "--attack-seconds",
        type=float,
        default=ATTACK_SECONDS,
        help="how long of it one client attacks (default: %(default)s)",
    )
    options = parser.parse_args()
    return asyncio.run(_run(options.seconds, options.attack_seconds, options.seed))


if __name__ == "__main__":
    sys.exit(main())
