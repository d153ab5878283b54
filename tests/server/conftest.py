"""Clients of a real server process, over each transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def servers() -> Iterator[peer.Servers]:
    servers = peer.Servers()
    yield servers
    servers.close()


@pytest.fixture(params=["stdio", "ws"])
def fresh(request: pytest.FixtureRequest, servers: peer.Servers) -> Iterator[peer.Client]:
    """A client that has not shaken hands."""
    with servers.client(request.param, "v1") as client:
        yield client


@pytest.fixture
def client(fresh: peer.Client) -> peer.Client:
    """A client that is ready."""
    fresh.initialize()
    return fresh
