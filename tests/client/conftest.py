"""Each behaviour of the client, tried on every server and over every way to reach it."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from typing import TYPE_CHECKING

import pytest

from tests.support import targets

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND = 120.0
"""Seconds that a test may take; nothing here takes a tenth of it on an idle machine."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "revisions(*names): those that have what the test needs")
    config.addinivalue_line("markers", "released: about released revisions, not the draft")
    config.addinivalue_line("markers", "ours: about this project's server alone")
    config.addinivalue_line("markers", "transports(*names): those that the test is about")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test on a loop of its own, within bounds."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    names = inspect.signature(test).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await test(**arguments)

    asyncio.run(bounded())
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    revisions = metafunc.definition.get_closest_marker("revisions")
    transports = metafunc.definition.get_closest_marker("transports")
    is_released = metafunc.definition.get_closest_marker("released") is not None
    metafunc.parametrize(
        "target",
        [
            pytest.param(target, id=target.name)
            for target in (*targets.OURS, *targets.CODEX)
            if target.codex is None or metafunc.definition.get_closest_marker("ours") is None
            if not (is_released and target.revision == "draft")
            if revisions is None or set(revisions.args) & {target.revision, target.family}
            if transports is None or target.transport in transports.args
        ],
        indirect=True,
    )


@pytest.fixture(scope="session")
def servers() -> Iterator[targets.Servers]:
    servers = targets.Servers()
    yield servers
    servers.close()


@pytest.fixture
def target(request: pytest.FixtureRequest, servers: targets.Servers) -> targets.Target:
    """A server to connect to, once per server and way."""
    target: targets.Target = request.param
    reason = targets.missing(target)
    if reason is not None:
        pytest.skip(reason)
    return dataclasses.replace(target, servers=servers)
