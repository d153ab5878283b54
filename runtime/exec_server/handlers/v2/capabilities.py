"""Discovery of skills and plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec_server.errors import OperationFailed

if TYPE_CHECKING:
    from exec_server_protocol.v2.capabilities import (
        CapabilitiesDiscoverV2Params,
        CapabilitiesDiscoverV2Result,
        CapabilityRootsDiscoverV1Params,
        CapabilityRootsDiscoverV1Result,
    )


class CapabilitiesV2:
    """capabilityRoots/* and capabilities/*."""

    async def discover_v1(
        self, params: CapabilityRootsDiscoverV1Params
    ) -> CapabilityRootsDiscoverV1Result:
        """What is below some roots."""
        raise OperationFailed("capabilityRoots/discoverV1 is not served yet")

    async def discover_v2(
        self, params: CapabilitiesDiscoverV2Params
    ) -> CapabilitiesDiscoverV2Result:
        """What is installed."""
        raise OperationFailed("capabilities/discoverV2 is not served yet")
