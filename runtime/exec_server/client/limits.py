"""Limits on what a server can make the client hold; docs/limits.md lists them."""

from __future__ import annotations

from typing import Final

MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Longest message that is taken from a server, the limit that servers have for clients."""

BULK_MESSAGE_BYTES: Final = 684 * 1024 * 1024
"""The same while an answer is due that holds a whole file or HTTP body: 512 MiB in base64, the most
that the real servers read of a file at once, and 1 MiB around it."""

HEAD_BYTES: Final = 64 * 1024
"""Longest head of the HTTP response to a WebSocket handshake; proxies add cookies, not more."""

CONTROL_BYTES: Final = 1024 * 1024
"""Unsent bytes above which pings are not answered: a server that pings without reading would make
the client queue pongs without end."""

REFUSED_REQUESTS: Final = 1000
"""Requests of the server that are refused on one connection; servers have none to make."""

HELD_EVENTS: Final = 1024
HELD_BYTES: Final = 16 * 1024 * 1024
"""Events of a process that are kept while an earlier one is missing. What comes beyond is read
again, as after a lost connection."""

QUEUED_EVENTS: Final = 16 * 1024
"""Events in the queue of one subscription, whatever their size: many small ones cost more memory
than their output."""

BLOCKED_BYTES: Final = 64 * 1024 * 1024
BLOCKED_EVENTS: Final = 16 * QUEUED_EVENTS
"""Output queued by a subscription that blocks, while requests wait for answers behind that output.
The connection is read until they have come."""

EARLY_EVENTS: Final = 1024
EARLY_BYTES: Final = 16 * 1024 * 1024
"""Events of processes whose start is unanswered (v0)."""

PIECE_OVERHEAD_BYTES: Final = 64
"""Counted for each piece of an HTTP body besides its bytes, about what its object takes."""
