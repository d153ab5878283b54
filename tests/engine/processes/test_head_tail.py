"""Both ends of an output, against the plainest form of the rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec_server.engine.processes.head_tail import Excerpt, HeadTail


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 20), st.lists(st.binary(min_size=1, max_size=15), max_size=12), st.data())
def test_both_halves_are_those_of_the_whole(
    limit: int, pieces: list[bytes], data: st.DataObject
) -> None:
    """At whatever moment, wherever the pieces end."""
    kept, whole = HeadTail(limit), b""
    for piece in pieces:
        kept.append(piece)
        whole += piece
        if data.draw(st.booleans()):
            assert_is_excerpt(kept.excerpt(), whole, limit)
    assert_is_excerpt(kept.excerpt(), whole, limit)


def assert_is_excerpt(excerpt: Excerpt, whole: bytes, limit: int) -> None:
    head, omitted, tail = excerpt.head, excerpt.omitted, excerpt.tail
    assert len(head) + omitted + len(tail) == len(whole)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert len(head) == min(len(whole), limit - limit // 2)
    assert len(tail) == min(len(whole) - len(head), limit // 2)


def test_nothing_is_missing_up_to_the_limit() -> None:
    """And one byte more leaves out exactly one."""
    kept = HeadTail(10)
    kept.append(b"0123456789")
    assert kept.excerpt() == Excerpt(b"01234", 0, b"56789")
    kept.append(b"a")
    assert kept.excerpt() == Excerpt(b"01234", 1, b"6789a")


@pytest.mark.parametrize("size", [1, 100, 65536])
def test_what_is_kept_is_bounded(size: int) -> None:
    """By the limit and one piece, however much comes."""
    kept = HeadTail(200_000)
    for _ in range(3_000_000 // size):
        kept.append(b"x" * size)
    held = sum(map(len, kept._head)) + sum(map(len, kept._tail))
    assert 200_000 <= held < 200_000 + size
