"""Handler of environmentConfig/read."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from exec_server.engine import path_uri
from exec_server.engine.cancellation import run_in_thread
from exec_server_protocol.v2.config import ConfigLayer, ConfigLayers, EnvironmentConfigReadResult

if TYPE_CHECKING:
    from exec_server.engine.discovery import config_layers
    from exec_server_protocol.v2.config import EnvironmentConfigReadParams


class ConfigV2:
    """Handlers of environmentConfig/*."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        """Lock that admits one request of a connection at a time, as each may take long."""

    async def read(self, params: EnvironmentConfigReadParams) -> EnvironmentConfigReadResult:
        """Read some settings from the configuration files of this machine."""
        # Imports a TOML parser, which only codex itself needs.
        from exec_server.engine.discovery.config_layers import (  # noqa: PLC0415
            read_environment_config,
        )

        async with self._turn:
            found = await run_in_thread(
                partial(
                    read_environment_config,
                    path_uri.parse(params.cwd),
                    params.config_paths,
                    params.requirements_paths,
                )
            )
        home = found.user_home_dir
        return EnvironmentConfigReadResult(
            user_home_dir=None if home is None else path_uri.format(home),
            codex_home_dir=path_uri.format(found.codex_home_dir),
            hostname=found.hostname,
            config=_layers(found.config),
            requirements=_layers(found.requirements),
        )


def _layers(found: config_layers.ConfigLayers) -> ConfigLayers:
    return ConfigLayers(
        layers=[
            ConfigLayer(
                source=layer.source, base_dir=path_uri.format(layer.base_dir), toml=layer.toml
            )
            for layer in found.layers
        ],
        cloud_insertion_index=found.cloud_insertion_index,
    )
