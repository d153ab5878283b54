"""Discovery as file operations, which can run in a sandbox."""

from __future__ import annotations

import msgspec

from exec_server.engine.discovery.capability_roots import (
    CapabilityRoot,
    CapabilityRootDiscovery,
    discover_root,
)
from exec_server.engine.discovery.installed_plugins import InstalledPlugin, installed_plugins
from exec_server.engine.files.requests import Operation
from exec_server.engine.paths import from_native


class DiscoverRoot(Operation[CapabilityRootDiscovery], frozen=True):
    """Run ``capability_roots.discover_root``."""

    result = CapabilityRootDiscovery
    root: CapabilityRoot

    def run(self) -> CapabilityRootDiscovery:
        """Return the findings."""
        return discover_root(self.root)

    def takes_long(self) -> bool:
        """Return True: the amount of data is unknown."""
        return True


class PluginsFound(msgspec.Struct, frozen=True):
    """The plugins in a cache."""

    plugins: list[InstalledPlugin]
    """Sorted by id."""
    is_complete: bool
    """True if the whole cache could be read."""


class FindPlugins(Operation[PluginsFound], frozen=True):
    """Run ``installed_plugins.installed_plugins`` as far as the cache can be read."""

    result = PluginsFound
    cache: bytes

    def run(self) -> PluginsFound:
        """Return the findings."""
        plugins: list[InstalledPlugin] = []
        try:
            plugins.extend(installed_plugins(from_native(self.cache)))
        except OSError:
            return PluginsFound(plugins, is_complete=False)
        return PluginsFound(plugins, is_complete=all(plugin.is_complete for plugin in plugins))

    def takes_long(self) -> bool:
        """Return True: the number of plugins is unknown."""
        return True
