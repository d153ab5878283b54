"""Handlers of environment/* in the draft, which adds the limits of the server to v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import asdict

import exec_server
from exec_server.revisions.v2 import environment as v2
from exec_server_protocol.draft.environment import (
    EnvironmentCapabilities,
    EnvironmentInfoResult,
    ServerLimits,
)

if TYPE_CHECKING:
    from exec_server.revisions.interface import ConnectionContext
    from exec_server.settings import Settings
    from exec_server_protocol.draft.environment import EnvironmentInfoParams

_ADDED: Final = {
    "process_close_stdin": True,
    "process_execution": True,
    "process_list": True,
    "process_resize": True,
    "process_snapshot": True,
    "process_start_notification": True,
    "process_terminate_mode": True,
    "process_wait": True,
}
"""Capabilities in addition to those of v2."""


def describe_environment(settings: Settings) -> EnvironmentInfoResult:
    """Return the result of environment/info, which is also part of that of initialize."""
    limits = ServerLimits(
        max_processes=settings.max_processes,
        retained_bytes=settings.retained_bytes,
        shutdown_grace_ms=round(settings.grace_seconds * 1000),
        executions=list(settings.executions),
    )
    facts = asdict(v2.describe_environment())
    facts["server_version"] = exec_server.__version__
    facts["capabilities"] = EnvironmentCapabilities(**asdict(facts["capabilities"]), **_ADDED)
    return EnvironmentInfoResult(**facts, limits=limits)


class EnvironmentDraft(v2.EnvironmentV2):
    """Handlers of environment/*."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    async def info(self, params: EnvironmentInfoParams) -> EnvironmentInfoResult:
        """Describe the shell, the paths, the capabilities and the limits."""
        return describe_environment(self._connection.settings)
