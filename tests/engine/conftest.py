"""What tests of the engine share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, whatever the environment of the tests says."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
