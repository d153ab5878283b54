"""A long message from a client, processed in parts while it arrives.

The work is divided into slices, between which other connections are served, so that no message
blocks the event loop for long. Only the decoding of the outline cannot be divided; the size of the
outline is limited for that reason.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server import jsonrpc
from exec_server.errors import MalformedMessage
from exec_server.message_scan import LONG_TEXT_BYTES, MAX_MEMBER_VALUES, MessageScan
from exec_server.revisions.decoded_text import DecodedText

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from exec_server.revisions.interface import BoundMethod
    from exec_server.settings import Settings

_TURN_SECONDS: Final = 0.0005
"""Time after which others are served; the same as for short messages."""

_BACKLOG_BYTES: Final = 1024 * 1024
"""Bytes of parts that may wait to be scanned before reading is paused."""

_JOIN_HERE_BYTES: Final = 1024 * 1024
"""Bytes that can be joined within a fraction of a millisecond. For more, ``bytes.join`` releases
the interpreter lock, so that a thread can do it."""


class LongParams:
    """Findings of the scan in the params of a long message."""

    def __init__(
        self, outline: bytes, heavy: Collection[str], texts: dict[str, tuple[bytes, str | None]]
    ) -> None:
        """``heavy`` are the members with too many values.

        ``texts`` are the decoded long texts by member, each with the reason why it is not base64,
        or None.
        """
        self.outline = outline
        """The message without those texts."""
        self._heavy = heavy
        self._texts = texts
        self.size = sum(len(content) for content, _ in texts.values())
        """Bytes of the decoded texts."""

    def check(self, bound: BoundMethod) -> None:
        """Raise msgspec.ValidationError for members that are too large for the method."""
        for name in self._heavy:
            if name in bound.members:
                raise msgspec.ValidationError(
                    f"Expected at most {MAX_MEMBER_VALUES} JSON values - at `$.{name}`"
                )
        for name, (_, error) in self._texts.items():
            if name not in bound.members or name in bound.base64_texts:
                continue
            if name not in bound.base64_params:
                raise msgspec.ValidationError(
                    f"Expected `str` of at most {LONG_TEXT_BYTES} bytes - at `$.{name}`"
                )
            if error is not None:
                raise msgspec.ValidationError(f"{error} - at `$.{name}`")

    def fill(self, bound: BoundMethod, params: msgspec.Struct) -> None:
        """Set the decoded texts in params, where they are still empty."""
        for name, (content, error) in self._texts.items():
            attribute = bound.members.get(name)
            if attribute is None:
                continue
            value: bytes | DecodedText = content
            if name in bound.base64_texts:
                value = DecodedText()
                value.content, value.error = content, error
            msgspec.structs.force_setattr(params, attribute, value)


class LongInput:
    """One message that is being received, from its first part to its last.

    ``pause`` is called with True when more has arrived than was scanned, and with False when there
    is room again.
    """

    def __init__(self, settings: Settings, pause: Callable[[bool], None]) -> None:
        self._scan: MessageScan | None = MessageScan(
            settings.max_json_depth, settings.max_json_values, settings.max_json_bytes
        )
        self._pause = pause
        self._parts: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_whole = False
        self._failure: str | None = None
        self._turn_end = 0.0

    @property
    def is_whole(self) -> bool:
        """True once the last part has arrived."""
        return self._is_whole

    def add(self, part: bytes, *, is_last: bool) -> None:
        """Add a part; ``read`` scans it."""
        if self._scan is not None:
            self._parts.append(part)
            self._waiting_bytes += len(part)
        self._is_whole = is_last
        if self._waiting_bytes > _BACKLOG_BYTES:
            self._pause(True)

    def abandon(self, reason: str) -> None:
        """End the message here, as the transport found it unreadable and skips the rest."""
        self._failure = reason
        self._is_whole = True

    async def read(self) -> tuple[jsonrpc.Message, LongParams] | None:
        """Scan what has arrived; return the message with undecoded params, or None if incomplete.

        Raises MalformedMessage, also only once it is whole, and ProtocolViolation; see ``jsonrpc``.
        """
        self._turn_end = time.monotonic() + _TURN_SECONDS
        scan = self._scan
        if scan is not None:
            try:
                await self._scan_parts(scan)
            except MalformedMessage as error:
                self._failure = str(error)
        if self._failure is not None:
            # Free what was kept of a message that is refused.
            self._scan = None
            self._parts.clear()
            self._waiting_bytes = 0
            if self._is_whole:
                raise MalformedMessage(self._failure)
            self._pause(False)
        if scan is None or not self._is_whole:
            return None
        outline = scan.outline
        await self._yield_if_due()
        message = jsonrpc.decode(outline)
        texts = {name: (await _join(text.pieces), text.error) for name, text in scan.texts.items()}
        await self._yield_if_due()
        return message, LongParams(outline, scan.heavy_members, texts)

    async def _scan_parts(self, scan: MessageScan) -> None:
        while self._parts:
            part = self._parts.popleft()
            for _ in scan.feed(part):
                await self._yield_if_due()
            was_full = self._waiting_bytes > _BACKLOG_BYTES
            self._waiting_bytes -= len(part)
            if was_full and self._waiting_bytes <= _BACKLOG_BYTES and not self._is_whole:
                self._pause(False)

    async def _yield_if_due(self) -> None:
        """Let the event loop serve others if the turn is over."""
        if time.monotonic() >= self._turn_end:
            await asyncio.sleep(0)
            self._turn_end = time.monotonic() + _TURN_SECONDS


async def _join(pieces: list[bytes]) -> bytes:
    if sum(map(len, pieces)) <= _JOIN_HERE_BYTES:
        return b"".join(pieces)
    joined: bytes = await asyncio.get_running_loop().run_in_executor(None, b"".join, pieces)
    pieces.clear()
    return joined
