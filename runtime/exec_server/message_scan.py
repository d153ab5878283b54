"""One pass over a long message while it arrives: counts first, objects only for what may stay.

A message of tens of kilobytes or more is never parsed before it is known to keep the limits. The
scan goes through it in slices of bounded cost and refuses too many values, too deep nesting, too
much JSON and repeated members as soon as they are seen. What remains is the *outline*: the message
with the long texts of its params left empty. Those are decoded from base64 on the way, because
that is what nearly every long text is, and never stand in memory as text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec
import pybase64

from exec_server.errors import MalformedMessage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SLICE_BYTES: Final = 8 * 1024
"""JSON scanned at a time: about a millisecond if it is as dense as it can be."""

TEXT_SLICE_BYTES: Final = 256 * 1024
"""Long text scanned at a time, which costs no more."""

LONG_TEXT_BYTES: Final = 64 * 1024
"""A longer text in params leaves the outline. Only base64 data may be that long: a path, a URL or
an id of this size is an error in every method."""

MAX_MEMBER_VALUES: Final = 16 * 1024
"""JSON values that one member of params may hold if the method reads it: every entry becomes an
object, all of them in one step. Linux takes no more than some ten thousand arguments and variables
of usual length."""

_WHITE_SPACE: Final = b" \t\r\n"
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_find_control: Final = re.compile(rb"[\x00-\x1f]").search
_LAST_ESCAPE_BYTES: Final = 6  # \uXXXX
_find_bad_escape: Final = re.compile(rb'\\(?!["\\/bfnrt]|u[0-9A-Fa-f]{4})').search

_BASE64_ERROR: Final = "Invalid base64 encoded string"


class LongText:
    """A long text of params, decoded from base64 piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """The decoded bytes."""
        self.size = 0
        """Bytes decoded so far."""
        self.error: str | None = None
        """The reason why the text is not base64; then its bytes are not kept."""
        self._rest = b""
        self._last_group = b""
        self._escape = b""

    def feed(self, piece: bytes, *, is_last: bool = False) -> None:
        """Take the next bytes between the quotes. Raises MalformedMessage if they are not JSON."""
        raw = (self._rest, piece)
        if b"\\" in piece or self._escape:
            piece = self._unescape(piece, is_last=is_last)
        if self.error is None:
            self._decode(self._rest + piece, is_last=is_last)
        if self.error is not None:
            self._rest = b""
            if any(map(_find_control, raw)):
                raise MalformedMessage("invalid JSON: control character in a string")

    def _decode(self, data: bytes, *, is_last: bool) -> None:
        cut = len(data) & ~3
        if (cut and self._last_group.endswith(b"=")) or (is_last and cut != len(data)):
            self._fail(_BASE64_ERROR)
            return
        self._rest = data[cut:]
        if cut:
            try:
                decoded = pybase64.b64decode(memoryview(data)[:cut], validate=True)
            except ValueError:
                self._fail(_BASE64_ERROR)
                return
            self._last_group = data[cut - 4 : cut]
            self.pieces.append(decoded)
            self.size += len(decoded)
        if is_last and self._last_group.endswith(b"="):
            last = pybase64.b64decode(self._last_group)
            if pybase64.b64encode(last) != self._last_group:
                self._fail(f"{_BASE64_ERROR}: non-zero trailing bits")

    def _fail(self, reason: str) -> None:
        self.error = reason
        self.pieces.clear()
        self.size = 0

    def _unescape(self, piece: bytes, *, is_last: bool) -> bytes:
        """Replace escapes: some encoders write a slash as ``\\/`` and a plus as ``\\u002b``."""
        piece = self._escape + piece
        self._escape = b""
        last = piece.replace(b"\\\\", b"xx").rfind(b"\\")
        if last > len(piece) - _LAST_ESCAPE_BYTES and last >= 0 and not is_last:
            piece, self._escape = piece[:last], piece[last:]
        if _find_bad_escape(piece.replace(b"\\\\", b"xx")):
            raise MalformedMessage("invalid JSON: invalid escape character in a string")
        if self.error is None:
            try:
                plain = msgspec.json.decode(b'"%b"' % piece, type=str).encode()
            except msgspec.DecodeError:
                plain = b"\0"
            if not _find_control(plain):
                return plain
            self._fail(_BASE64_ERROR)
        return piece


class MessageScan:
    """Goes through one message from its first byte to its last; see the module."""

    def __init__(self, max_depth: int, max_values: int, max_json_bytes: int) -> None:
        """``max_json_bytes`` bounds the outline; the others are those of Settings."""
        self._max_depth = max_depth
        self._max_values = max_values
        self._max_json_bytes = max_json_bytes
        self._outline = bytearray()
        self._texts: dict[str, LongText] = {}
        self._heavy: set[str] = set()
        self._values = 1
        self._carry = b""
        # Containers that are open: the names seen in an object, None for an array.
        self._stack: list[set[bytes] | None] = []
        self._in_text = False
        self._text_start = 0
        self._text_end = -1
        self._follows_colon = False
        self._ends_open = False
        self._in_params = False
        self._member = b""
        self._member_start = 0
        self._long: LongText | None = None
        self._is_broken = False

    @property
    def outline(self) -> bytes:
        """The message with the long texts of its params left empty."""
        return bytes(self._outline) + self._carry

    @property
    def texts(self) -> Mapping[str, LongText]:
        """Those texts, by the name of the member."""
        return self._texts

    @property
    def heavy_members(self) -> set[str]:
        """Names of the members of params that hold more than MAX_MEMBER_VALUES values."""
        self._close_member()
        return self._heavy

    def feed(self, part: bytes) -> Iterator[None]:
        """Take the next bytes; yields after each slice, so that others may have a turn.

        Raises MalformedMessage for what exceeds a limit, for repeated members, and for some of
        what is not JSON; a parser finds the rest in the outline.
        """
        position = 0
        while position < len(part) and not self._is_broken:
            size = SLICE_BYTES
            if self._in_text and self._long is None:
                # The rest of a text has no structure.
                end = part.find(b'"', position, position + TEXT_SLICE_BYTES)
                left = (min(len(part), position + TEXT_SLICE_BYTES) if end < 0 else end) - position
                size = max(left, SLICE_BYTES)
                if len(self._outline) - self._text_start + left > LONG_TEXT_BYTES:
                    self._leave_out_text()
            if self._long is not None:
                size = TEXT_SLICE_BYTES
            piece = self._carry + part[position : position + size]
            carried = len(self._carry)
            # An escape is not cut in two.
            self._carry = b"\\" if _ends_in_escape(piece) else b""
            if self._carry:
                piece = piece[:-1]
            if self._long is None:
                self._scan(piece)
                position += size
            else:
                end = _without_escapes(piece).find(b'"')
                if end < 0:
                    self._long.feed(piece)
                    position += size
                else:
                    self._long.feed(piece[:end], is_last=True)
                    self._long = None
                    self._carry = b""
                    position += end - carried
            yield

    def _scan(self, piece: bytes) -> None:
        """Scan JSON that may begin and end anywhere but within an escape."""
        if not (self._in_text or piece.strip(_WHITE_SPACE)):
            piece = b" "  # white space has no limit of its own
        outline = self._outline
        base = len(outline)
        outline += piece
        in_text = self._in_text
        if in_text and b'"' not in piece:
            self._check_outline()
            return
        offset = base - 1
        is_first = True
        for segment in _without_escapes(piece).split(b'"'):
            offset += 1
            if is_first:
                is_first = False
            elif in_text:
                in_text = False
                self._text_end = offset - 1
            else:
                in_text = True
                self._text_start = offset
                if self._ends_open:
                    self._ends_open = False
                    self._values += 1
            if segment:
                if not in_text:
                    if segment == b",":
                        self._values += 1
                        self._text_end = -1
                        self._follows_colon = False
                    else:
                        self._take_structure(segment, piece, base)
                        if self._is_broken:
                            return
                offset += len(segment)
        self._in_text = in_text
        self._check_outline()

    def _check_outline(self) -> None:
        """Refuse what exceeds a limit, and leave out the text under way if it is long."""
        if self._values > self._max_values:
            self._refuse_values()
        outline = self._outline
        if self._in_text and len(outline) - self._text_start > LONG_TEXT_BYTES:
            self._leave_out_text()
        if len(outline) > self._max_json_bytes:
            raise MalformedMessage(
                f"the message exceeds the limit of {self._max_json_bytes} bytes of JSON "
                "besides base64 data"
            )

    def _take_structure(self, segment: bytes, piece: bytes, base: int) -> None:
        """Take what stands between two texts."""
        compact = segment.translate(None, _WHITE_SPACE)
        if not compact:
            return
        if compact[0] == 0x3A and self._text_end >= 0:  # a colon behind a text
            if self._text_start >= base:
                name = piece[self._text_start - base : self._text_end - base]
            else:
                name = bytes(self._outline[self._text_start : self._text_end])
            self._take_name(name)
        self._text_end = -1
        self._follows_colon = compact[-1] == 0x3A
        if compact == b":":
            return
        # Every value but the first of a container stands behind a comma; empty ones have none. Of
        # one that ends the segment it is not known yet.
        if self._ends_open and compact[0] not in b"]}":
            self._values += 1
        self._ends_open = compact[-1] in b"[{"
        opened = compact.count(b"[") + compact.count(b"{")
        self._values += compact.count(b",") + opened - self._ends_open
        if opened:
            self._values -= compact.count(b"[]") + compact.count(b"{}")
        if self._values > self._max_values:
            self._refuse_values()
        stack = self._stack
        for bracket in compact.translate(None, _NOT_BRACKETS):
            if bracket == 0x7B:
                stack.append(set())
            elif bracket == 0x5B:
                stack.append(None)
            elif stack:
                stack.pop()
                continue
            else:
                self._is_broken = True  # the parser says so
                return
            if len(stack) > self._max_depth:
                raise MalformedMessage(f"nesting is deeper than {self._max_depth} levels")

    def _take_name(self, name: bytes) -> None:
        names = self._stack[-1] if self._stack else None
        if names is None:
            return  # the parser refuses it
        if b"\\" in name:
            try:
                name = msgspec.json.decode(b'"%b"' % name, type=str).encode()
            except (msgspec.DecodeError, UnicodeError):
                return  # the parser refuses it
        if name in names:
            raise MalformedMessage(
                f"duplicate JSON object key `{shortened(name.decode(errors='replace'))}`"
            )
        names.add(name)
        depth = len(self._stack)
        if depth == 1:
            self._close_member()
            self._in_params = name == b"params"
        elif depth == 2 and self._in_params:
            self._close_member()
            self._member = name
            self._member_start = self._values

    def _close_member(self) -> None:
        if self._member and self._values - self._member_start > MAX_MEMBER_VALUES:
            self._heavy.add(self._member.decode(errors="replace"))
        self._member = b""

    def _leave_out_text(self) -> None:
        """Take the text under way out of the outline, if it is a member of params."""
        if len(self._stack) != 2 or not (self._member and self._follows_colon):
            return
        self._long = self._texts[self._member.decode(errors="replace")] = LongText()
        with memoryview(self._outline) as outline:
            begun = bytes(outline[self._text_start :])
        self._long.feed(begun)
        del self._outline[self._text_start :]

    def _refuse_values(self) -> None:
        raise MalformedMessage(f"the message exceeds the limit of {self._max_values} JSON values")


def shortened(text: str) -> str:
    """A text of the peer as error messages repeat it: its beginning."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def without_middle(text: str) -> str:
    """A text for the peer at its full length, unless it repeats something very long."""
    if len(text) <= _ERROR_CHARACTERS:
        return text
    return f"{text[: _ERROR_CHARACTERS // 2]} … {text[-_ERROR_CHARACTERS // 2 :]}"


_ERROR_CHARACTERS: Final = 16 * 1024
"""More than an error about the longest path has, which is repeated whole."""

_SHOWN_CHARACTERS: Final = 256
"""As long as an id may be, so that ids are shown whole."""


def _without_escapes(data: bytes) -> bytes:
    """The data with its escaped backslashes and quotes overwritten, so that the quotes left are
    those around texts."""
    if b"\\" not in data:
        return data
    return data.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")


def _ends_in_escape(data: bytes) -> bool:
    """True if the last byte is a backslash that escapes the next byte."""
    return data.endswith(b"\\") and (len(data) - len(data.rstrip(b"\\"))) % 2 == 1
