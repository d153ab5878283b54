"""A decoded request, and the memory that it takes while it is pending."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from exec_server.engine.memory_budget import VALUE_BYTES

if TYPE_CHECKING:
    from exec_server.jsonrpc import RequestId
    from exec_server.revisions.interface import BoundMethod
    from exec_server.settings import Settings

_REQUEST_COST: Final = 1024
"""Bytes that a pending request counts on top of its message, so that tiny ones count too."""

_WIDE_CHARACTER_BYTES: Final = 4
"""Bytes of memory for each character of a text that has one beyond the basic plane."""


class Request(msgspec.Struct, gc=False):
    """A request whose method is known and whose params are decoded."""

    id: RequestId
    method: BoundMethod
    params: Any
    message: bytes
    """The message that it came in, without the long texts; dropped when the request is weighed."""
    decoded_bytes: int = 0
    """Bytes of the long texts."""
    held_bytes: int | None = None
    """Memory that the request takes while it is pending; see ``weigh``."""

    @property
    def greatest_weight(self) -> int:
        """The most that ``weigh`` can return, without a look at the message."""
        size = len(self.message) * (_WIDE_CHARACTER_BYTES + VALUE_BYTES)
        return _REQUEST_COST + size + self.decoded_bytes

    def weigh(self, settings: Settings) -> int:
        """Return the memory that the request takes while it is pending."""
        if self.held_bytes is None:
            message = self.message
            self.message = b""
            values = min(message.count(b","), settings.max_json_values)
            size = len(message) * (_WIDE_CHARACTER_BYTES if _is_wide(message) else 1)
            self.held_bytes = _REQUEST_COST + size + self.decoded_bytes + VALUE_BYTES * values
        return self.held_bytes


def _is_wide(message: bytes) -> bool:
    """Return True if texts of a message may hold characters that take several bytes in memory."""
    return not message.isascii() or b"\\u" in message
