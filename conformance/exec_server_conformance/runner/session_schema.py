"""Validation of sessions against the protocol's schema: requests and expectations.

A session that requires behaviour which the schema forbids must not fail a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.contract import contract
from exec_server_conformance.runner.patterns import substitute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server_conformance.runner.contract import Contract
    from exec_server_conformance.runner.session import Session, Step

_PLACEHOLDERS: Final[Mapping[str, str]] = {
    "/workspace": "${workspace}",
    "http://127.0.0.1:1": "${http}",
    "00000000-0000-4000-8000-000000000000": "${session}",
}
"""Placeholder values used when a session is checked without a server."""

_NOTHING: Final = object()


def find_violation(session: Session, step: Step) -> str | None:
    """Return the schema violation in a step; None if there is none.

    Checked are expected errors, requests that are expected to succeed, and the parts of their
    expected results that are not patterns.
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
        request["params"] = substitute(members["params"], dict(_PLACEHOLDERS))
    rules.check(rules.methods[method]["request"], request, "the request")
    response = {"id": 1, **_without_patterns(substitute(members["expect"], dict(_PLACEHOLDERS)))}
    rules.check_part(rules.methods[method]["response"], response, "the expected answer")


def _without_patterns(expected: Any) -> Any:
    """Return the parts of an expectation that are not patterns; ``_NOTHING`` for a pattern."""
    if isinstance(expected, dict):
        if any(name.startswith("$") for name in expected):
            return _NOTHING
        parts = {name: _without_patterns(one) for name, one in expected.items()}
        return {name: one for name, one in parts.items() if one is not _NOTHING}
    if isinstance(expected, list):
        return [one for one in map(_without_patterns, expected) if one is not _NOTHING]
    return expected
