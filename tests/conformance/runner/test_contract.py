"""What the suite holds messages against: the schema, in every revision."""

from __future__ import annotations

import pytest

from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.contract import REVISIONS, contract

RIGHT = ["", "AA==", "AAA=", "AAAA", "ab+/", "ab+/" * 100_000]

WRONG = [
    # Trailing bits that are not zero; padding that is missing, too much or in between.
    "AB==",
    "AAB=",
    "AA",
    "AAA",
    "A===",
    "AAAA====",
    "AA==AAAA",
    "=",
    # Another alphabet, and what is in none.
    "ab-_",
    "AA AA===",
    "AAAA\n",
    "ab+/" * 100_000 + "\n",
    "ÄÖÜß",
    "\ud800",
    None,
    5,
]


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("text", RIGHT)
def test_base64(revision: str, text: object) -> None:
    contract(revision).check("#/$defs/Base64", text, "it")


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("text", WRONG)
def test_invalid_base64(revision: str, text: object) -> None:
    with pytest.raises(Failure, match=r"^it violates the schema at \$: "):
        contract(revision).check("#/$defs/Base64", text, "it")
