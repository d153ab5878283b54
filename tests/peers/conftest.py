"""Scenarios run on every release and transport that has what they need.

Environment variables choose: ``PEER_VERSIONS`` the releases (``0.139.0 0.169.0``, or ``all``),
``PEER_SERVER=codex`` the exec-server of the client's own release instead of this project's, which
shows whether a scenario is right.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import pytest

from exec_server_conformance import codex_binaries

from .codex_client import Release, Transport
from .stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .exec_server import Maker

ALL_VERSIONS = ("0.121.0", "0.130.0", "0.139.0", "0.143.0", "0.155.0", "0.169.0", "0.171.0")
USUAL_VERSIONS = ("0.130.0", "0.139.0", "0.143.0", "0.171.0")

_UNPROVEN = "nothing proven on codex"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "since(version): the first release that has what it needs")
    config.addinivalue_line("markers", "until(version): the first release that lacks what it needs")
    config.addinivalue_line("markers", "over(transport): the only transport that the scenario uses")
    config.addinivalue_line(
        "markers", "server(*arguments, **variables): arguments and environment of the server"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "release" not in metafunc.fixturenames:
        return
    since = metafunc.definition.get_closest_marker("since")
    until = metafunc.definition.get_closest_marker("until")
    over = metafunc.definition.get_closest_marker("over")
    cases = [
        (release, transport)
        for release in map(Release, _versions())
        for transport in release.transports
        if since is None or release.is_since(since.args[0])
        if until is None or not release.is_since(until.args[0])
        if over is None or transport == over.args[0]
    ]
    parameters = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in cases]
    if not cases:
        why = pytest.mark.skip("none of the chosen releases has what it needs")
        parameters = [pytest.param(None, None, id="none", marks=why)]
    metafunc.parametrize(("release", "transport"), parameters)


@pytest.fixture
def fetched(release: Release) -> Release:
    """The release, which is at hand."""
    if (obstacle := _obstacle(release.version)) is not None:
        pytest.skip(f"{_UNPROVEN} {release}: {obstacle}")
    return release


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, fetched: Release, transport: Transport
) -> Iterator[Stage]:
    """A scenario's stage; at the end no process may be left, and the wire must be in order."""
    maker: Maker = "codex" if os.environ.get("PEER_SERVER") == "codex" else "ours"
    server = request.node.get_closest_marker("server")
    arguments = () if server is None or maker == "codex" else server.args
    variables = {} if server is None else server.kwargs
    with Stage(fetched, transport, maker, arguments, variables) as stage:
        yield stage
        stage.assert_nothing_left()


@cache
def _obstacle(version: str) -> str | None:
    """Return the reason that a release cannot be fetched; cached, since npm may take long."""
    try:
        codex_binaries.fetch(version)
    except codex_binaries.NpmUnavailable as error:
        return str(error)
    return None


def _versions() -> tuple[str, ...]:
    chosen = os.environ.get("PEER_VERSIONS", "").split()
    return ALL_VERSIONS if chosen == ["all"] else tuple(chosen) or USUAL_VERSIONS
