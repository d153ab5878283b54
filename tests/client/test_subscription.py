"""Order, gaps and bounds of a process's events, against a model of the server.

The model retains so much output, tells events in any order close to the right one, and loses some
of them with a connection. Whatever happens, a consumer sees each output once and in order, and a
gap for exactly what it cannot see.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec_server.client.errors import ConnectionLost, ServerError
from exec_server.client.event_sequencer import SEQ_BEYOND, EventSequencer
from exec_server.client.events import Closed, Exited, Gap, Output, ProcessEvent, Snapshot
from exec_server.client.subscription import Overflow, Subscription


class ModelServer:
    """A process on a server, seen through a connection that may be cut."""

    can_read = True

    def __init__(self, retained_bytes: int) -> None:
        self.sequencer = EventSequencer(self, "p")
        self.retained: deque[Output] = deque()
        self.retained_bytes = retained_bytes
        self.seq = 0
        self.exit_code: int | None = None
        self.closed = False
        self.forgotten = False
        self.holders: set[object] = set()
        self.reads = 0
        self.wants_state = False

    def write(self, stream: str, size: int) -> Output:
        self.seq += 1
        output = Output(self.seq, stream, bytes(size))
        self.retained.append(output)
        while sum(len(kept.data) for kept in self.retained) > self.retained_bytes:
            self.retained.popleft()
        return output

    def exit(self) -> Exited:
        self.seq += 1
        self.exit_code = 7
        return Exited(self.seq, 7)

    def close(self) -> Closed:
        self.seq += 1
        self.closed = True
        return Closed(self.seq)

    def snapshot(self, after_seq: int, max_bytes: int | None) -> Snapshot:
        outputs: list[Output] = []
        size = 0
        for output in self.retained:
            if output.seq <= after_seq:
                continue
            size += len(output.data)
            if outputs and max_bytes is not None and size > max_bytes:
                break
            outputs.append(output)
        next_seq = outputs[-1].seq + 1 if outputs else self.seq + 1
        return Snapshot(outputs, next_seq, self.exit_code, self.closed)

    # Source

    async def read(self, process_id: str, after_seq: int, max_bytes: int | None) -> Snapshot:
        self.reads += 1
        await asyncio.sleep(0)
        if self.forgotten:
            raise ServerError("process/read", -32600, "unknown process id p")
        return self.snapshot(after_seq, max_bytes)

    def pause_reading(self, holder: object) -> None:
        self.holders.add(holder)

    def resume_reading(self, holder: object) -> None:
        self.holders.discard(holder)

    def resynchronize(self, sequencer: EventSequencer) -> None:
        self.wants_state = True

    def apply_state(self) -> None:
        self.sequencer.apply_state(self.snapshot(SEQ_BEYOND, None))


async def take_ready(subscription: Subscription) -> list[ProcessEvent]:
    """What can be consumed without anything new happening."""
    taken: list[ProcessEvent] = []
    while True:
        task = asyncio.ensure_future(subscription.next())
        for _ in range(50):
            await asyncio.sleep(0)
            if task.done():
                break
        if not task.done():
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return taken
        event = task.result()
        if event is None:
            return taken
        taken.append(event)


async def play(seed: int, overflow: Overflow, streams: tuple[str, ...] | None) -> None:
    """One random life of a process, checked against what the server did."""
    chance = random.Random(seed)
    server = ModelServer(retained_bytes=chance.choice([50, 200, 2000]))
    subscription = Subscription(
        server.sequencer,
        streams=streams,
        buffer_bytes=chance.choice([1, 60, 500]),
        overflow=overflow,
    )
    done: list[Output | Exited | Closed] = []
    undelivered: list[Output | Exited | Closed] = []
    taken: list[ProcessEvent] = []
    steps = chance.randrange(5, 60)
    exits_at = chance.randrange(steps)
    was_cut = False
    for step in range(steps + 1):
        if step == exits_at:
            undelivered.append(server.exit())
        elif step == steps:
            undelivered.append(server.close())
        else:
            stream = chance.choice(["stdout", "stderr"])
            undelivered.append(server.write(stream, chance.randrange(1, 40)))
        done.append(undelivered[-1])
        action = chance.random()
        if action < 0.1:
            # The connection is lost with what had not come, and resumed.
            undelivered.clear()
            was_cut = True
            server.apply_state()
        elif action < 0.6:
            # Neighbours may overtake each other.
            if len(undelivered) > 1 and chance.random() < 0.3:
                undelivered[-2:] = reversed(undelivered[-2:])
            while undelivered:
                server.sequencer.take(undelivered.pop(0))
        if chance.random() < 0.4:
            taken += await take_ready(subscription)
    while undelivered:
        server.sequencer.take(undelivered.pop(0))
    taken += await take_ready(subscription)

    outputs = [event for event in taken if isinstance(event, Output)]
    gaps = [event for event in taken if isinstance(event, Gap)]
    seen = [event.seq for event in outputs]
    assert seen == sorted(set(seen)), "each output once, in order"
    assert all(output in done for output in outputs), "as the server told it"
    wanted = {
        event.seq
        for event in done
        if isinstance(event, Output) and (streams is None or event.stream in streams)
    }
    missed = {seq for gap in gaps for seq in range(gap.first_seq, gap.last_seq + 1)}
    assert wanted - set(seen) <= missed, "what is missing is told of"
    assert not missed & set(seen), "what was seen is not told to be missing"
    places = {event.seq for event in done if isinstance(event, Output)}
    for gap in gaps:
        assert places & set(range(gap.first_seq, gap.last_seq + 1)), "a gap misses something"
    assert [event.code for event in taken if isinstance(event, Exited)] == [7]
    assert isinstance(taken[-1], Closed)
    assert sum(isinstance(event, Closed) for event in taken) == 1
    if overflow == "block" and not was_cut:
        assert not gaps, "nothing is lost when the server is held"
    assert await subscription.next() is None


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    overflow=st.sampled_from(["reread", "drop", "block"]),
    streams=st.sampled_from([None, ("stdout",)]),
)
def test_every_life_is_told_truly(
    seed: int, overflow: Overflow, streams: tuple[str, ...] | None
) -> None:
    """Outputs in order and once, gaps for what is missing and nothing else, one exit, one end."""
    asyncio.run(play(seed, overflow, streams))


async def test_rereading_loses_nothing_that_is_retained() -> None:
    """A consumer that is slower than its buffer gets everything that the server still has."""
    server = ModelServer(retained_bytes=10_000)
    subscription = Subscription(server.sequencer, buffer_bytes=100, overflow="reread")
    for _ in range(50):
        server.sequencer.take(server.write("stdout", 90))
    assert subscription.queued_bytes <= 100
    taken = await take_ready(subscription)
    assert [event.seq for event in taken] == list(range(1, 51))
    server.sequencer.take(server.write("stdout", 90))
    reads = server.reads
    assert [event.seq for event in await take_ready(subscription)] == [51]
    assert server.reads == reads, "who has caught up lives from notifications"


async def test_dropping_marks_what_it_drops() -> None:
    """A consumer that may miss output gets one gap for all it missed, and goes on behind it."""
    server = ModelServer(retained_bytes=10_000)
    subscription = Subscription(server.sequencer, buffer_bytes=100, overflow="drop")
    for _ in range(5):
        server.sequencer.take(server.write("stdout", 40))
    assert [event.seq for event in await take_ready(subscription) if isinstance(event, Output)] == [
        1,
        2,
    ]
    server.sequencer.take(server.write("stdout", 40))
    assert [event.seq for event in await take_ready(subscription) if isinstance(event, Output)] == [
        6
    ]
    assert server.reads == 0


async def test_blocking_holds_the_server_and_lets_go() -> None:
    """A consumer that must miss nothing stops the reading, and frees it when half is consumed."""
    server = ModelServer(retained_bytes=10)
    subscription = Subscription(server.sequencer, buffer_bytes=100, overflow="block")
    for _ in range(3):
        server.sequencer.take(server.write("stdout", 40))
    assert server.holders
    await subscription.next()
    assert server.holders
    await subscription.next()
    assert not server.holders
    subscription.close()


async def test_an_event_that_never_comes() -> None:
    """When too many have overtaken a missing event, the state of the process is asked for."""
    server = ModelServer(retained_bytes=100_000)
    subscription = Subscription(server.sequencer)
    server.write("stdout", 1)
    for _ in range(100):
        server.sequencer.take(server.write("stdout", 1))
    assert server.wants_state
    server.apply_state()
    assert [event.seq for event in await take_ready(subscription)] == list(range(1, 102))


async def test_output_that_was_forgotten() -> None:
    """A consumer that comes when nothing is retained any more learns of the gap and the exit."""
    server = ModelServer(retained_bytes=10_000)
    subscription = Subscription(server.sequencer, buffer_bytes=50, overflow="reread")
    for _ in range(3):
        server.sequencer.take(server.write("stdout", 40))
    server.sequencer.take(server.exit())
    server.sequencer.take(server.close())
    server.forgotten = True
    taken = await take_ready(subscription)
    assert taken == [Output(1, "stdout", bytes(40)), Gap(2, 3), Exited(4, 7), Closed(5)] or (
        taken == [Output(1, "stdout", bytes(40)), Gap(2, 5), Exited(4, 7), Closed(5)]
    )


async def test_failure_comes_after_what_had_come() -> None:
    """A lost connection is raised behind the events that came before it."""
    server = ModelServer(retained_bytes=100)
    subscription = Subscription(server.sequencer)
    server.sequencer.take(server.write("stdout", 3))
    server.sequencer.fail(ConnectionLost("gone"))
    assert await subscription.next() == Output(1, "stdout", bytes(3))
    with pytest.raises(ConnectionLost, match="gone"):
        await subscription.next()
