"""The look into one directory for an agent's files, as an operation that can be confined."""

from __future__ import annotations

from exec_server.engine.capability_roots import (
    CapabilityRoot,
    CapabilityRootDiscovery,
    discover_root,
)
from exec_server.engine.file_operations import Operation


class DiscoverRoot(Operation[CapabilityRootDiscovery], frozen=True):
    """``capability_roots.discover_root``."""

    result = CapabilityRootDiscovery
    root: CapabilityRoot

    def run(self) -> CapabilityRootDiscovery:
        """Return what was found."""
        return discover_root(self.root)

    def takes_long(self) -> bool:
        """Nobody knows how much there is."""
        return True
