"""Numbers and retention of a process's output, against a model that keeps everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from exec_server.engine.processes.output_log import OutputChunk, OutputLog

LIMIT = 40

appends = st.lists(st.binary(min_size=1, max_size=15), max_size=20)


class Model:
    """Everything that was ever told, and the rules in their plainest form."""

    def __init__(self) -> None:
        self.events: list[OutputChunk | None] = []

    @property
    def retained(self) -> list[OutputChunk]:
        """The newest chunks that fit, none of them in part."""
        kept: list[OutputChunk] = []
        size = 0
        for event in reversed(self.events):
            if event is None:
                continue
            size += len(event.data)
            if size > LIMIT:
                break
            kept.insert(0, event)
        return kept

    def read(self, after_seq: int, max_bytes: int | None) -> list[OutputChunk]:
        """At least one, more while the sum stays within, none once it is reached."""
        taken: list[OutputChunk] = []
        for chunk in self.retained:
            if chunk.seq <= after_seq:
                continue
            total = sum(len(other.data) for other in taken)
            if max_bytes is not None and taken and total + len(chunk.data) > max_bytes:
                break
            taken.append(chunk)
            if max_bytes is not None and total + len(chunk.data) >= max_bytes:
                break
        return taken


def filled(before: list[bytes], after: list[bytes], *, exits: bool) -> tuple[OutputLog, Model]:
    """A log and its model, with output before and after an exit."""
    log, model = OutputLog(LIMIT), Model()
    for data in before:
        model.events.append(log.append("stdout", data))
    if exits:
        assert log.take_seq() == len(before) + 1
        model.events.append(None)
        for data in after:
            model.events.append(log.append("stderr", data))
    return log, model


@settings(deadline=None)
@given(appends, appends, st.booleans())
def test_numbers_are_contiguous_whatever_takes_them(
    before: list[bytes], after: list[bytes], exits: bool
) -> None:
    """Output, exit and closing share one counter from 1."""
    log, model = filled(before, after, exits=exits)
    for number, event in enumerate(model.events, start=1):
        assert event is None or event.seq == number
    assert log.next_seq == len(model.events) + 1
    assert log.take_seq() == len(model.events) + 1


@settings(max_examples=400, deadline=None)
@given(
    appends,
    appends,
    st.booleans(),
    st.data(),
    st.none() | st.integers(min_value=0, max_value=60) | st.just(2**64 - 1),
)
def test_reads_return_what_the_rules_say(
    before: list[bytes],
    after: list[bytes],
    exits: bool,
    data: st.DataObject,
    max_bytes: int | None,
) -> None:
    """Any position, any limit: the same chunks as the model's, in the same order."""
    log, model = filled(before, after, exits=exits)
    newest = st.integers(min_value=1, max_value=log.next_seq + 1)
    after_seq = data.draw(
        newest.map(lambda back: log.next_seq + 1 - back) | st.sampled_from((0, 2**64 - 1))
    )
    assert log.read(after_seq, max_bytes) == model.read(after_seq, max_bytes)


@settings(deadline=None)
@given(appends, appends)
def test_the_sum_of_what_is_retained_never_exceeds_the_limit(
    before: list[bytes], after: list[bytes]
) -> None:
    """After each append, and it is the sum of what can be read."""
    log = OutputLog(LIMIT)
    for data in before + after:
        log.append("pty", data)
        assert log.retained_bytes <= LIMIT
        assert log.retained_bytes == sum(len(chunk.data) for chunk in log.read(0, None))


def test_exactly_the_limit_is_retained() -> None:
    """One byte more drops the oldest chunk, whole."""
    log = OutputLog()
    first = log.append("stdout", b"a" * 65536)
    for _ in range(15):
        log.append("stdout", b"b" * 65536)
    assert log.retained_bytes == 1_048_576
    assert log.read(0, None)[0] is first
    log.append("stderr", b"c")
    assert log.read(0, None)[0].seq == 2
    assert log.retained_bytes == 1_048_576 - 65536 + 1


def test_the_very_bytes_are_retained() -> None:
    """Nothing is copied."""
    log = OutputLog()
    data = b"x" * 1000
    log.append("stdout", data)
    assert log.read(0, None)[0].data is data


def test_many_tiny_chunks_are_paged_through_completely() -> None:
    """Long after the first were evicted, a reader that goes on from the last number misses none."""
    log = OutputLog(5000)
    for number in range(20_000):
        log.append("stdout", b"%d" % (number % 10))
    seen: list[int] = []
    after = 0
    while chunks := log.read(after, 700):
        assert sum(len(chunk.data) for chunk in chunks) == 700 or chunks[-1].seq == 20_000
        seen += [chunk.seq for chunk in chunks]
        after = chunks[-1].seq
    assert seen == list(range(15_001, 20_001))
