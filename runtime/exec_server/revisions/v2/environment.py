"""Handlers of environment/* in v2: the machine, and the capabilities of the server."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from exec_server.engine import path_uri
from exec_server.engine.discovery.host_info import environment_info
from exec_server.engine.sandbox import bubblewrap
from exec_server_protocol.v2.environment import (
    EnvironmentCapabilities,
    EnvironmentInfoParams,
    EnvironmentInfoResult,
    EnvironmentStatusParams,
    EnvironmentStatusResult,
    Shell,
)

CAPABILITIES: Final = EnvironmentCapabilities(
    capability_discovery_v2=True,
    environment_config_read=True,
    file_write_streaming=True,
    fs_watch_missing=True,
    http_header_env_vars=True,
)
"""Capabilities of the server; those not named here are absent and therefore false."""

CAPABILITIES_WITH_SANDBOX: Final = replace(
    CAPABILITIES,
    capability_discovery_sandbox=True,
    linux_approved_root_write_preserves_restrictions=True,
    linux_root_write_preserves_devices=True,
    sandboxed_file_streaming=True,
)
"""Capabilities of a server that can sandbox processes."""


def describe_environment() -> EnvironmentInfoResult:
    """Return the result of environment/info, which is also part of that of initialize."""
    info = environment_info()
    return EnvironmentInfoResult(
        shell=Shell(name=info.shell.name, path=info.shell.path),
        executor_version=info.executor_version,
        provider_id=UNSET if info.provider_id is None else info.provider_id,
        cwd=UNSET if info.cwd is None else path_uri.format(info.cwd),
        user_home_dir=UNSET if info.user_home_dir is None else path_uri.format(info.user_home_dir),
        platform_os=info.platform_os,
        temporary_directories=[path_uri.format(path) for path in info.temporary_directories],
        temp_dir=path_uri.format(info.temp_dir),
        capabilities=CAPABILITIES_WITH_SANDBOX if bubblewrap.is_available() else CAPABILITIES,
    )


class EnvironmentV2:
    """Handlers of environment/*."""

    async def info(self, params: EnvironmentInfoParams) -> EnvironmentInfoResult:
        """Describe the shell, the paths and the capabilities of this environment."""
        return describe_environment()

    async def status(self, params: EnvironmentStatusParams) -> EnvironmentStatusResult:
        """Return ``ready``: a server that responds can run commands."""
        return EnvironmentStatusResult(status="ready")
