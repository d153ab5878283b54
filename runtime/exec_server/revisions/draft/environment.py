"""environment/* of the draft: what it adds to v2, and the server's limits."""

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
"""What clients may count on beside what v2 promises them."""


def describe_environment(settings: Settings) -> EnvironmentInfoResult:
    """The answer to environment/info, sent along with initialize too."""
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
    """environment/*."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    async def info(self, params: EnvironmentInfoParams) -> EnvironmentInfoResult:
        """What commands are best written for, where things are, what can be asked for."""
        return describe_environment(self._connection.settings)
