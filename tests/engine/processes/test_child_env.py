"""The environment of a child under a policy (v1, process/start envPolicy)."""

from __future__ import annotations

import asyncio
import fnmatch
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec_server.engine.processes.child_env import (
    CORE_NAMES,
    EnvironmentPolicy,
    child_environment,
    prepare_child_environment,
)
from exec_server.errors import InvalidArgument
from tests.support.growth import assert_grows_linearly

SERVER = {
    "HOME": "/home/me",
    "PATH": "/bin",
    "LANG": "C.UTF-8",
    "TERM": "xterm",
    "TZ": "UTC",
    "API_KEY": "k",
    "api_key_lower": "k",
    "MONKEY": "m",
    "CLIENT_SECRET": "s",
    "TOKENS": "t",
    "EDITOR": "vi",
}


def policy(**changes: Any) -> EnvironmentPolicy:
    """A policy that inherits everything and drops nothing, with changes."""
    settings: dict[str, Any] = {
        "inherit": "all",
        "ignore_default_excludes": True,
        "exclude": [],
        "set": {},
        "include_only": [],
    }
    made: EnvironmentPolicy = SimpleNamespace(**(settings | changes))
    return made


def inherited(**changes: Any) -> set[str]:
    """The names that a policy lets through."""
    return set(child_environment(policy(**changes), {}, SERVER))


def test_without_a_policy_nothing_is_inherited() -> None:
    """The client's variables are the whole environment, in a mapping of their own."""
    env = {"A": "1"}
    result = child_environment(None, env, SERVER)
    assert result == env
    assert result is not env


def test_inherit() -> None:
    """None, the core variables, or all."""
    assert inherited(inherit="none") == set()
    assert inherited(inherit="core") == {"HOME", "PATH", "LANG"}
    assert inherited(inherit="all") == set(SERVER)
    everything = dict.fromkeys([*CORE_NAMES, "OTHER"], "x")
    assert set(child_environment(policy(inherit="core"), {}, everything)) == set(CORE_NAMES)


def test_core_ignores_case() -> None:
    """Every spelling of a core variable is inherited under its own name."""
    server = {"home": "1", "HOME": "2", "Path": "3", "lc_all": "4", "homes": "5"}
    result = child_environment(policy(inherit="core"), {}, server)
    assert result == {"home": "1", "HOME": "2", "Path": "3", "lc_all": "4"}


def test_names_that_look_like_secrets_are_dropped_by_default() -> None:
    """At any position in the name, ignoring case."""
    assert inherited(ignore_default_excludes=False) == {
        "HOME",
        "PATH",
        "LANG",
        "TERM",
        "TZ",
        "EDITOR",
    }


def test_exclude_and_set_and_include_only_in_this_order() -> None:
    """``set`` is added after the excludes, and filtered by ``include_only``."""
    result = child_environment(
        policy(
            ignore_default_excludes=False,
            exclude=["t*", "home"],
            set={"TOKEN_SET": "1", "TERM": "set", "DROPPED": "1"},
            include_only=["T*", "path", "HOME"],
        ),
        {},
        SERVER,
    )
    assert result == {"TOKEN_SET": "1", "TERM": "set", "PATH": "/bin"}


def test_the_clients_own_variables_pass_every_filter_and_win() -> None:
    """They are laid over the result at the end."""
    result = child_environment(
        policy(
            ignore_default_excludes=False,
            exclude=["*"],
            set={"A": "set"},
            include_only=["NOTHING"],
        ),
        {"A": "client", "MY_TOKEN": "t"},
        SERVER,
    )
    assert result == {"A": "client", "MY_TOKEN": "t"}


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("PATH", "PATH", True),
        ("path", "PATH", True),
        ("PAT", "PATH", False),
        ("P?TH", "PATH", True),
        ("P?TH", "PTH", False),
        ("?", "", False),
        ("*", "", True),
        ("", "", True),
        ("", "A", False),
        ("**", "ANY", True),
        ("A*B*C", "AxxBxxC", True),
        ("A*B*C", "ABCB", False),
        ("*AB", "AAB", True),
        ("A*A", "A", False),
        ("[AB]", "A", False),
        ("[AB]", "[AB]", True),
        ("A.B", "AxB", False),
        ("A\\*", "A\\B", True),
        ("A*", "A\nB", True),
        ("Ä*", "äX", True),
    ],
)
def test_patterns(pattern: str, name: str, matches: bool) -> None:
    """Stars and question marks; brackets, dots and backslashes stand for themselves."""
    result = child_environment(policy(include_only=[pattern]), {}, {name: "x"})
    assert (name in result) is matches


globs = st.text(alphabet="ab*?[].", max_size=8)
names = st.text(alphabet="abAB[].", max_size=10)


def _matches(pattern: str, name: str) -> bool:
    literal = pattern.replace("[", "[[]")
    return fnmatch.fnmatchcase(name.lower(), literal.lower())


@settings(max_examples=300, deadline=None)
@given(
    st.booleans(),
    st.lists(globs, max_size=3),
    st.dictionaries(names, st.just("set"), max_size=3),
    st.lists(globs, max_size=3),
    st.dictionaries(names, st.just("client"), max_size=3),
    st.dictionaries(names, st.just("server"), max_size=6),
)
def test_each_variable_comes_from_where_the_steps_say(  # noqa: PLR0917 (one for each strategy)
    ignore: bool,
    exclude: list[str],
    added: dict[str, str],
    include_only: list[str],
    env: dict[str, str],
    server: dict[str, str],
) -> None:
    """Name by name, the same decision as the steps taken one by one."""
    result = child_environment(
        policy(
            ignore_default_excludes=ignore,
            exclude=exclude,
            set=added,
            include_only=include_only,
        ),
        env,
        server,
    )
    for name in {*added, *env, *server}:
        expected: str | None = "server" if name in server else None
        if any(_matches(pattern, name) for pattern in exclude):
            expected = None
        if not ignore and re.search("key|secret|token", name, re.IGNORECASE):
            expected = None
        expected = added.get(name, expected)
        if include_only and not any(_matches(pattern, name) for pattern in include_only):
            expected = None
        expected = env.get(name, expected)
        assert result.get(name) == expected
    assert set(result) <= {*added, *env, *server}


@pytest.mark.parametrize("unit", ["*A", "A?", "*?A", "?*", "*"])
def test_the_effort_grows_with_the_pattern(unit: str) -> None:
    """Against a long name that almost matches."""

    def match(size: int) -> None:
        pattern = unit * (size // len(unit)) + "B"
        child_environment(policy(exclude=[pattern]), {}, {"A" * 4000: "x"})

    assert_grows_linearly(match, (16, 64, 255))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"exclude": ["A"] * 600, "include_only": ["A"] * 425}, "at most 1024 patterns"),
        ({"exclude": ["A" * 257]}, "at most 256 characters, got 257"),
        ({"include_only": ["A"], "set": {"A" * 4097: ""}}, "at most 4096 characters, got 4097"),
        (
            {"include_only": ["A" * 256] * 1024, "set": {"A" * 2000: ""}},
            "too many patterns for so many variables",
        ),
    ],
)
def test_more_than_can_be_compared_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        asyncio.run(prepare_child_environment(policy(**changes), {}, SERVER))


@pytest.mark.parametrize("count", [1, 300])
def test_few_and_many_patterns_are_compared_alike(count: int) -> None:
    """The one at once, the other away from the event loop."""
    names = {f"NAME_{number}": "" for number in range(count)}
    wanted = policy(exclude=["HOME", *map("NOT_{}".format, range(count))], set=names)
    prepared = asyncio.run(prepare_child_environment(wanted, {"HOME": "/"}, SERVER))
    assert prepared == child_environment(wanted, {"HOME": "/"}, SERVER)
    assert prepared["HOME"] == "/"
    assert prepared.keys() >= names.keys()
