"""Whether a session keeps the protocol's schema itself: what the suite sends, and what it expects.

The suite is judged by the same contract as the server, so that a session that asks for what no
server may do is not held against one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.contract import contract
from exec_server_conformance.runner.patterns import in_places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server_conformance.runner.contract import Contract
    from exec_server_conformance.runner.session import Session, Step

_PLACES: Final[Mapping[str, str]] = {
    "/workspace": "${workspace}",
    "http://127.0.0.1:1": "${http}",
    "00000000-0000-4000-8000-000000000000": "${session}",
}
"""What stands for the places of a session when it is checked without a server."""

_NOTHING: Final = object()


def fault(session: Session, step: Step) -> str | None:
    """What a step sends or expects that the contract forbids; None if there is no such thing.

    An expected error, a request that is expected to succeed, and its expected result, as far as
    patterns leave no choice, must validate.
    """
    expected = step.members.get("expect")
    if step.kind not in ("call", "answer") or not isinstance(expected, dict):
        return None
    try:
        rules = contract(session.revision)
        if "error" in expected:
            answer = {**_without_patterns(expected), "id": 1}
            rules.check_part("#/$defs/ErrorResponse", answer, "the expected error")
        elif step.kind == "call":
            _check_success(session.revision, rules, step.members)
    except Failure as failure:
        return str(failure)
    return None


def _check_success(revision: str, rules: Contract, members: dict[str, Any]) -> None:
    method = members["call"]
    if method not in rules.methods:
        raise Failure(f"a method that {revision} does not have is expected to succeed: {method}")
    request = {"id": 1, "method": method}
    if "params" in members:
        request["params"] = in_places(members["params"], dict(_PLACES))
    rules.check(rules.methods[method]["request"], request, "the request")
    response = {"id": 1, **_without_patterns(in_places(members["expect"], dict(_PLACES)))}
    rules.check_part(rules.methods[method]["response"], response, "the expected answer")


def _without_patterns(expected: Any) -> Any:
    """The part of an expectation that has only one value; ``_NOTHING`` for a pattern."""
    if isinstance(expected, dict):
        if any(name.startswith("$") for name in expected):
            return _NOTHING
        parts = {name: _without_patterns(one) for name, one in expected.items()}
        return {name: one for name, one in parts.items() if one is not _NOTHING}
    if isinstance(expected, list):
        return [one for one in map(_without_patterns, expected) if one is not _NOTHING]
    return expected
