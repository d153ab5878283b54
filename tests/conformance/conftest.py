"""What the tests of the suite share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.suite_runs import marked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def no_process_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Every process that inherits this test's mark is gone when the suite has ended."""
    mark = f"SUITE_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*mark.split("=", 1))
    yield
    assert marked(mark) == []
