"""A long message from a client, taken in parts while it arrives.

The work is cut into slices, between which the other connections have their turn, so no message
holds the event loop for long. What it cannot cut is what the JSON decoder does with the outline,
which is bounded for that reason.
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
"""Time after which the others have their turn, as with short messages."""

_BACKLOG_BYTES: Final = 1024 * 1024
"""Parts that may wait to be scanned before nothing more is read."""

_JOIN_HERE_BYTES: Final = 1024 * 1024
"""Bytes that are joined within a fraction of a millisecond. ``bytes.join`` releases the
interpreter lock for more, so that a thread can do it."""


class LongParams:
    """What the scan found in the params of a long message."""

    def __init__(
        self, outline: bytes, heavy: Collection[str], texts: dict[str, tuple[bytes, str | None]]
    ) -> None:
        """``texts`` are the decoded long texts by member, each with the reason why it is not
        base64, if it is not.
        """
        self.outline = outline
        """The message without those texts."""
        self._heavy = heavy
        self._texts = texts
        self.size = sum(len(content) for content, _ in texts.values())
        """Bytes of the decoded texts."""

    def check(self, bound: BoundMethod) -> None:
        """Raise msgspec.ValidationError for members that the method cannot have so large."""
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
        """Put the decoded texts in their places, which are still empty."""
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
    """One message on its way in, from its first part to its last.

    ``hold`` is called with True when more arrives than is scanned, and with False when there is
    room again.
    """

    def __init__(self, settings: Settings, hold: Callable[[bool], None]) -> None:
        self._scan: MessageScan | None = MessageScan(
            settings.max_json_depth, settings.max_json_values, settings.max_json_bytes
        )
        self._hold = hold
        self._parts: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_whole = False
        self._failure: str | None = None
        self._turn_end = 0.0

    @property
    def is_whole(self) -> bool:
        """True when the last part has arrived."""
        return self._is_whole

    def add(self, part: bytes, *, is_last: bool) -> None:
        """Take a part; it is scanned by ``read``."""
        if self._scan is not None:
            self._parts.append(part)
            self._waiting_bytes += len(part)
        self._is_whole = is_last
        if self._waiting_bytes > _BACKLOG_BYTES:
            self._hold(True)

    def abandon(self, reason: str) -> None:
        """End the message here: the transport found it unreadable, and skips the rest."""
        self._failure = reason
        self._is_whole = True

    async def read(self) -> tuple[jsonrpc.Message, LongParams] | None:
        """Scan what has arrived, and return the message, decoded but for its params, if that is all
        of it; None otherwise.

        Raises MalformedMessage, also when it is whole, and ProtocolViolation; see ``jsonrpc``.
        """
        self._turn_end = time.monotonic() + _TURN_SECONDS
        scan = self._scan
        if scan is not None:
            try:
                await self._scan_parts(scan)
            except MalformedMessage as error:
                self._failure = str(error)
        if self._failure is not None:
            # Let go of what was kept of the message, and of the rest of it.
            self._scan = None
            self._parts.clear()
            self._waiting_bytes = 0
            if self._is_whole:
                raise MalformedMessage(self._failure)
            self._hold(False)
        if scan is None or not self._is_whole:
            return None
        outline = scan.outline
        await self._breathe()
        message = jsonrpc.decode(outline)
        texts = {name: (await _join(text.pieces), text.error) for name, text in scan.texts.items()}
        await self._breathe()
        return message, LongParams(outline, scan.heavy_members, texts)

    async def _scan_parts(self, scan: MessageScan) -> None:
        while self._parts:
            part = self._parts.popleft()
            for _ in scan.feed(part):
                await self._breathe()
            was_full = self._waiting_bytes > _BACKLOG_BYTES
            self._waiting_bytes -= len(part)
            if was_full and self._waiting_bytes <= _BACKLOG_BYTES and not self._is_whole:
                self._hold(False)

    async def _breathe(self) -> None:
        """Let the others have their turn, if it is time."""
        if time.monotonic() >= self._turn_end:
            await asyncio.sleep(0)
            self._turn_end = time.monotonic() + _TURN_SECONDS


async def _join(pieces: list[bytes]) -> bytes:
    if sum(map(len, pieces)) <= _JOIN_HERE_BYTES:
        return b"".join(pieces)
    joined: bytes = await asyncio.get_running_loop().run_in_executor(None, b"".join, pieces)
    pieces.clear()
    return joined
