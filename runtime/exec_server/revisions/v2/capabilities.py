"""Handlers of the discovery of skills and plugins, below given roots and of the user."""

from __future__ import annotations

import asyncio
import functools
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from exec_server.engine import path_uri
from exec_server.revisions.file_access import FileAccess
from exec_server.revisions.v2.sandbox import policy_for_files
from exec_server_protocol.v2.capabilities import (
    CapabilitiesDiscoverV2Result,
    CapabilityRootDiscovery,
    CapabilityRootsDiscoverV1Result,
    DiscoveryRoot,
    Plugin,
    PluginFiles,
    Skill,
    SkillDependencies,
    SkillPolicy,
)

if TYPE_CHECKING:
    from exec_server.engine.discovery import capabilities as engine
    from exec_server.engine.discovery import capability_roots as engine_roots
    from exec_server_protocol.v2.capabilities import (
        CapabilitiesDiscoverV2Params,
        CapabilityRootsDiscoverV1Params,
    )


class CapabilitiesV2:
    """Handlers of capabilityRoots/* and capabilities/*."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        """Lock that admits one request of a connection at a time, as each may take long."""

    async def discover_v1(
        self, params: CapabilityRootsDiscoverV1Params
    ) -> CapabilityRootsDiscoverV1Result:
        """Discover what is below some roots; errors of a root are in its result."""
        # Imports what only codex itself needs.
        from exec_server.engine.discovery.capability_roots import (  # noqa: PLC0415
            MAX_RESPONSE_BYTES,
            CapabilityRoot,
            check_number,
        )
        from exec_server.engine.discovery.root_discovery import DiscoverRoot  # noqa: PLC0415

        looks = [
            (DiscoverRoot(CapabilityRoot(root.id, root.path)), policy_for_files(root.sandbox))
            for root in params.roots
        ]
        check_number(looks)
        found: list[engine_roots.CapabilityRootDiscovery] = []
        bytes_left = MAX_RESPONSE_BYTES
        async with self._turn, aclosing(FileAccess()) as access:
            for look, policy in looks:
                discovery = (await access.run(look, policy)).within(bytes_left)
                bytes_left -= discovery.size
                found.append(discovery)
        return CapabilityRootsDiscoverV1Result(
            roots=msgspec.convert(found, list[CapabilityRootDiscovery], from_attributes=True)
        )

    async def discover_v2(
        self, params: CapabilitiesDiscoverV2Params
    ) -> CapabilitiesDiscoverV2Result:
        """Discover the plugins and skills of the user, whatever the working directory."""
        from exec_server.engine.discovery.capabilities import discover_capabilities  # noqa: PLC0415

        path_uri.parse(params.cwd)
        policy = policy_for_files(params.sandbox)
        async with self._turn, aclosing(FileAccess()) as access:
            found = await discover_capabilities(functools.partial(access.run, policy=policy))
        return CapabilitiesDiscoverV2Result(
            plugins=[_plugin(plugin) for plugin in found.plugins],
            skills=[_skill(skill) for skill in found.skills],
            warnings=found.warnings,
        )


def _plugin(found: engine.Plugin) -> Plugin:
    return Plugin(
        id=found.id,
        display_name=found.display_name,
        remote_plugin_id=found.remote_plugin_id,
        version=found.version,
        root=found.root,
        files=msgspec.convert(found.files, PluginFiles, from_attributes=True),
        skills=[_skill(skill) for skill in found.skills],
    )


def _skill(found: engine.Skill) -> Skill:
    root = found.discovery_root
    return Skill(
        name=found.name,
        description=found.description,
        short_description=found.short_description,
        path=found.path,
        discovery_root=(
            msgspec.UNSET if root is None else DiscoveryRoot(id=root.id, path=root.path)
        ),
        dependencies=msgspec.convert(
            found.dependencies, SkillDependencies | None, from_attributes=True
        ),
        policy=msgspec.convert(found.policy, SkillPolicy | None, from_attributes=True),
    )
