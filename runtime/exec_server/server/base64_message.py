"""A response whose base64 member is read, encoded and sent piece by piece.

A file of hundreds of megabytes never stands in memory, and the pieces stay small enough for the
processor's cache and the allocator's fast path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pybase64

from exec_server.revisions.streamed_bytes import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.revisions.streamed_bytes import StreamedBytes


class Base64Message:
    """A StreamedMessage: ``head``, the base64 text of a source, ``tail``.

    If the source turns out shorter than announced (a file was truncated meanwhile), the message
    ends early and is padded with the white space that JSON allows at its end.
    """

    def __init__(
        self, head: bytes, tail: bytes, content: StreamedBytes, on_finish: Callable[[], None]
    ) -> None:
        self._source = content.source
        self._raw_left = content.size
        self._next: bytes | None = head
        self._tail = tail
        self._on_finish = on_finish
        self.held_bytes = content.held_bytes
        self.length = len(head) + (content.size + 2) // 3 * 4 + len(tail)
        self._left = self.length

    def next_piece(self) -> bytes:
        """Return the next piece; see StreamedMessage."""
        if self._next is not None:
            piece, self._next = self._next, None
        elif self._raw_left > 0:
            piece = pybase64.b64encode(self._read())
        else:
            piece = self._tail + b" " * (self._left - len(self._tail))
        if not piece:
            return self.next_piece()
        self._left -= len(piece)
        return piece

    def _read(self) -> bytes:
        """Read exactly one piece of the source; a shorter one only at its end."""
        wanted = min(PIECE_BYTES, self._raw_left)
        data = self._source.read(wanted)
        while len(data) < wanted:
            more = self._source.read(wanted - len(data))
            if not more:
                self._raw_left = 0
                return data
            data += more
        self._raw_left -= wanted
        return data

    def finish(self) -> None:
        """Close the source; see StreamedMessage."""
        self._source.close()
        self._on_finish()
