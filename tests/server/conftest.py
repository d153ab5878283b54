"""Clients of a real server process, over each transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import peer
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["stdio", "ws"])
def fresh(request: pytest.FixtureRequest) -> Iterator[peer.Client]:
    """A client that has not shaken hands."""
    if request.param == "stdio":
        with peer.stdio() as client:
            yield client
    else:
        with peer.listening() as server:
            yield server.client()


@pytest.fixture
def client(fresh: peer.Client) -> peer.Client:
    """A client that is ready."""
    fresh.initialize()
    return fresh
