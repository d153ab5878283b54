"""environment/* of v2: the machine, and what this server can do."""

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
"""What clients may count on; what is not named here is absent and so false."""

CAPABILITIES_WITH_SANDBOX: Final = replace(
    CAPABILITIES,
    capability_discovery_sandbox=True,
    linux_approved_root_write_preserves_restrictions=True,
    linux_root_write_preserves_devices=True,
    sandboxed_file_streaming=True,
)
"""The same where something can be confined."""


def describe_environment() -> EnvironmentInfoResult:
    """The answer to environment/info, sent along with initialize too."""
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
    """environment/*."""

    async def info(self, params: EnvironmentInfoParams) -> EnvironmentInfoResult:
        """What commands are best written for, where things are, what can be asked for."""
        return describe_environment()

    async def status(self, params: EnvironmentStatusParams) -> EnvironmentStatusResult:
        """Commands can be run as soon as there is an answer."""
        return EnvironmentStatusResult(status="ready")
