"""No message keeps other clients waiting: a short form of ``python -m tests.fuzz.stalls``."""

from __future__ import annotations

import random
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.messages import REVISIONS
from tests.fuzz.stalls import Case, Watch, envelope_cases, method_cases, watching

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.measures

SEED = 20_261_121
SAMPLE = 40
"""Of some ten thousand cases."""

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.fixture(scope="module")
def watch(folder: str) -> Iterator[Watch]:
    with watching(folder) as one:
        yield one


@pytest.mark.parametrize("case", list(envelope_cases()), ids=lambda case: case.name)
def test_what_belongs_to_no_method(watch: Watch, case: Case) -> None:
    assert not watch.faults_of(case, [MIB // 2, MIB, 2 * MIB, 4 * MIB])


@pytest.mark.parametrize("name", ["params of empty lists", "a long text"])
def test_the_longest_messages(watch: Watch, name: str) -> None:
    (case,) = (case for case in envelope_cases() if case.name == name)
    assert not watch.faults_of(case, [64 * MIB])


@pytest.mark.parametrize("revision", REVISIONS)
def test_params_that_grow(watch: Watch, folder: str, revision: str) -> None:
    cases = list(method_cases(revision, folder))
    chosen = random.Random(SEED).sample(cases, min(SAMPLE, len(cases)))
    assert not [fault for case in chosen for fault in watch.faults_of(case, [MIB, 2 * MIB])]
