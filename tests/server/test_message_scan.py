"""The scan of long messages: the same verdict as a parser's, however the message is cut."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec_server.errors import MalformedMessage
from exec_server.message_scan import LONG_TEXT_BYTES, MAX_MEMBER_VALUES, LongText, MessageScan

MANY = 1_000_000

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab\\"/{}[],: \né'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('ab\\":,é', max_size=3), inner),
    max_leaves=40,
)


def scan(
    data: bytes, *, depth: int = MANY, values: int = MANY, size: int = MANY, cut: int = MANY
) -> MessageScan:
    """A scan that has taken a whole message, in parts of some size."""
    one = MessageScan(depth, values, size)
    for start in range(0, len(data), cut):
        for _ in one.feed(data[start : start + cut]):
            pass
    return one


def count(value: Any) -> int:
    """The number of values in a JSON value, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


def depth(value: Any) -> int:
    """The number of containers around the innermost value."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_valid_messages_are_counted_as_a_parser_counts(
    value: Any, cut: int, indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    values, levels = count(value), depth(value)
    outline = scan(data, depth=levels, values=values, cut=cut).outline
    assert json.loads(outline) == value
    if values > 1:
        with pytest.raises(MalformedMessage, match=f"limit of {values - 1} JSON values"):
            scan(data, values=values - 1, cut=cut)
    if levels:
        with pytest.raises(MalformedMessage, match=f"deeper than {levels - 1} levels"):
            scan(data, depth=levels - 1, cut=cut)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    "text",
    [
        r'{"a":1,"a":2}',
        r'[{"x":{"a" : {},"b":[{"a":1}],"a":{}}}]',
        r'{"a\n":1,"\u0061\n":2}',
        r'{"a\\":1,"a\\":2}',
        r'{"\"":1,"\"":2}',
        '{"é":1,"\\u00e9":2}',
        '{"":1,"":2}',
    ],
)
def test_a_repeated_member_is_refused(text: str, cut: int) -> None:
    with pytest.raises(MalformedMessage, match="duplicate JSON object key"):
        scan(text.encode(), cut=cut)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    "text",
    [
        r'[{"a":1},{"a":2}]',
        r'{"a":{"a":{"a":1}}}',
        r'["a","a",{"a":"a"},":",":"]',
        r'{"a\\":1,"a\"":2,"a":3}',
        r'{"a":"\\\",{","b":"\\"}',
    ],
)
def test_what_is_not_repeated_is_not_refused(text: str, cut: int) -> None:
    assert json.loads(scan(text.encode(), cut=cut).outline) == json.loads(text)


def message(member: str, text: str) -> bytes:
    return b'{"id":1,"method":"x","params":{"before":[1],"%b":"%b","after":"x"}}' % (
        member.encode(),
        text.encode(),
    )


@pytest.mark.parametrize("cut", [4099, 65_536, MANY])
@pytest.mark.parametrize("size", [LONG_TEXT_BYTES, LONG_TEXT_BYTES + 1, LONG_TEXT_BYTES + 2])
@pytest.mark.parametrize(
    "escape",
    [str, lambda text: text.replace("/", r"\/"), lambda text: text.replace("+", r"\u002b")],
)
def test_long_base64_is_decoded_and_left_out(size: int, cut: int, escape: Any) -> None:
    content = bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)
    one = scan(message("chunk", escape(base64.b64encode(content).decode())), cut=cut)
    text = one.texts["chunk"]
    assert b"".join(text.pieces) == content
    assert text.size == size
    assert text.error is None
    assert json.loads(one.outline) == json.loads(message("chunk", ""))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("A" * 200_001, "Invalid base64 encoded string"),
        ("A" * 100_000 + "=" + "A" * 100_000, "Invalid base64 encoded string"),
        ("A" * 99_998 + "==" + "A" * 100_000, "Invalid base64 encoded string"),
        ("A" * 100_000 + " " + "A" * 100_003, "Invalid base64 encoded string"),
        ("A" * 199_999 + "\\n", "Invalid base64 encoded string"),
        ("é" * 100_000, "Invalid base64 encoded string"),
        ("A" * 199_998 + "B=", "Invalid base64 encoded string: non-zero trailing bits"),
    ],
)
def test_other_long_texts_are_not_kept(text: str, error: str) -> None:
    one = scan(message("chunk", text), cut=4099)
    assert one.texts["chunk"].error == error
    assert not one.texts["chunk"].pieces
    assert json.loads(one.outline) == json.loads(message("chunk", ""))


@pytest.mark.parametrize("fault", ["\n", "\\x", "\\u12g4", "\0"])
def test_a_long_text_that_is_not_json_is_refused(fault: str) -> None:
    with pytest.raises(MalformedMessage, match="invalid JSON: "):
        scan(message("chunk", "A" * 100_000 + fault + "A" * 100_000), cut=4099)


@given(st.binary(max_size=40), st.lists(st.integers(0, 60), max_size=6))
def test_base64_cut_anywhere(content: bytes, cuts: list[int]) -> None:
    encoded = base64.b64encode(content).replace(b"/", rb"\u002F").replace(b"+", rb"\u002b")
    text = LongText()
    places = [0, *sorted(min(cut, len(encoded)) for cut in cuts), len(encoded)]
    for start, end in itertools.pairwise(places):
        text.feed(encoded[start:end])
    text.feed(b"", is_last=True)
    assert (b"".join(text.pieces), text.error) == (content, None)


def test_a_member_of_very_many_values_is_named() -> None:
    params = {"few": [0] * (MAX_MEMBER_VALUES - 1), "many": {"a": [0] * MAX_MEMBER_VALUES}, "c": 1}
    data = json.dumps({"id": 1, "method": "x", "params": params, "trace": {"many": []}}).encode()
    assert scan(data, cut=4099).heavy_members == {"many"}


def test_json_besides_base64_has_a_limit() -> None:
    data = message("chunk", "A" * 400_000)
    assert scan(data, size=200_000).texts["chunk"].size == 300_000
    with pytest.raises(MalformedMessage, match="exceeds the limit of 200000 bytes of JSON"):
        scan(b'{"params":{"a":["' + b"A" * 400_000 + b'"]}}', size=200_000)


def test_white_space_is_not_kept() -> None:
    blank = b" \n" * 100_000
    outline = scan(blank + b"[1," + blank + b"2" + blank + b"]", cut=8192).outline
    assert json.loads(outline) == [1, 2]
    assert len(outline) < 60_000
