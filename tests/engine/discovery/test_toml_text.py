"""TOML as the configuration is read and handed out (v2 environmentConfig/read)."""

from __future__ import annotations

import contextlib
import datetime as dt
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec_server.engine.discovery.toml_text import MAX_TOML_DEPTH, TooComplicated, dump, parse
from tests.support.growth import assert_grows_linearly

TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
SCALARS = (
    TEXT
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_written_is_read_back(document: dict[str, object]) -> None:
    assert tomllib.loads(dump(document)) == document
    assert parse(dump(document)) == document


@pytest.mark.parametrize(
    ("before", "unit", "after"),
    [
        ("a = [", "1,", "]"),
        ("a = [", "{a=1},", "]"),
        ("a = [", "[[1]],", "]"),
        ("a = {", "b#=1,", "c=1}"),
        ("", "a#=1\n", ""),
        ("", "a.b.c.d#=1\n", ""),
        ("", "[t#]\n", ""),
        ("", "[[t]]\na=1\n", ""),
        ("", "[[t]]\n[[t.b]]\n", ""),
        ("[" + "a." * 100 + "a]\n", "a#=1\n", ""),
        ('a = "', "\\n", '"'),
        ('a = """', '""a', '"""'),
        ('a = """', "\\\n ", '"""'),
        ("a = 1.", "1", ""),
        ("a = ", "1", ""),
        ("a = ", "[", ""),
        ("", "a.", "a = 1"),
        ("", "'a' . ", "a = 1"),
        ("[", "a.", "a]\n"),
        ("", "\n", ""),
        ("#", "#", ""),
    ],
)
def test_the_effort_grows_with_the_length(before: str, unit: str, after: str) -> None:
    def read_and_write(size: int) -> None:
        units = "".join(unit.replace("#", str(i)) for i in range(size // len(unit)))
        with contextlib.suppress(ValueError):
            dump(parse(before + units + after))

    assert_grows_linearly(read_and_write, (2_000, 8_000, 32_000))


@pytest.mark.parametrize("shape", ["a = {0}{1}", "{2}a = 1", "[{2}a]", "a = {3}1{4}"])
def test_depth_is_bounded(shape: str) -> None:
    for depth, is_read in ((MAX_TOML_DEPTH - 1, True), (MAX_TOML_DEPTH + 1, False)):
        text = shape.format("[" * depth, "]" * depth, "a." * depth, "{a=" * depth, "}" * depth)
        if is_read:
            assert parse(dump(parse(text))) == parse(text)
        else:
            with pytest.raises(TooComplicated, match="nested too deeply"):
                parse(text)


def test_keys_of_very_many_parts_are_refused() -> None:
    with pytest.raises(TooComplicated, match="too many parts"):
        parse("a." * 10_000 + "a = 1")
    with pytest.raises(TooComplicated, match="too many parts"):
        parse("a." * 500 + "a = 1\n" + "b = 1\n" * 40_000)
    assert parse(f"a = '{'Sentence. ' * 1400}'\n")
