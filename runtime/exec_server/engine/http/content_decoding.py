"""Decoding of response bodies with a content encoding, in bounded memory (v2, codex 0.171).

A coding is recognised only where the released servers recognise it: the first Content-Encoding
header is exactly ``gzip`` or ``zstd``. Anything else, lists of codings included, is passed through.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from exec_server.errors import OperationFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ACCEPTED: Final = b"zstd,gzip"
"""Accept-Encoding of a request whose client gives none."""

BODY_ERROR: Final = "error decoding response body"
"""Error text for a body that is incomplete, late or malformed (v1 http/request/bodyDelta)."""

_ZSTD_WINDOW_LOG: Final = 23
"""Largest zstd window, 8 MiB: what RFC 8878 asks decoders to support, and no more."""

_ZSTD_INPUT_BYTES: Final = 4096
"""Input given to the zstd decoder at a time. It copies the input that follows a frame, which for
many tiny frames in one large input would take quadratic time."""

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""Window size that makes zlib expect the gzip format."""


class ContentDecoder(Protocol):
    """Decodes one body."""

    memory_bytes: int
    """Bytes that the decoder may allocate."""

    def decode(self, data: bytes, max_bytes: int) -> Iterator[bytes]:
        """Yield the decoded content of ``data`` in pieces of at most ``max_bytes``.

        An empty piece marks work without output, after which the caller may let others run.
        Raises OperationFailed for malformed data.
        """

    def finish(self) -> None:
        """Raise OperationFailed if the body is incomplete."""


def decoder_for(headers: Iterable[tuple[bytes, bytes]]) -> ContentDecoder | None:
    """Return the decoder for a response with these headers; None to pass its body through."""
    for name, value in headers:
        if name.lower() == b"content-encoding":
            match value.strip():
                case b"gzip":
                    return _GzipDecoder()
                case b"zstd":
                    return _ZstdDecoder()
            return None
    return None


class _GzipDecoder:
    """Decodes the first member; like codex, it ignores everything after that."""

    memory_bytes = 64 * 1024

    def __init__(self) -> None:
        self._has_begun = False
        self._decoder = zlib.decompressobj(_GZIP_WINDOW)

    def decode(self, data: bytes, max_bytes: int) -> Iterator[bytes]:
        """Yield decoded pieces; see ContentDecoder."""
        self._has_begun = self._has_begun or bool(data)
        while data and not self._decoder.eof:
            try:
                piece = self._decoder.decompress(data, max_bytes)
            except zlib.error:
                raise OperationFailed(BODY_ERROR) from None
            yield piece
            data = self._decoder.unconsumed_tail

    def finish(self) -> None:
        """Raise OperationFailed unless the member is complete or the body is empty."""
        if self._has_begun and not self._decoder.eof:
            raise OperationFailed(BODY_ERROR)


class _ZstdDecoder:
    """Decodes any number of frames."""

    memory_bytes = (1 << _ZSTD_WINDOW_LOG) + 256 * 1024

    def __init__(self) -> None:
        # The library is loaded by the first response that needs it.
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415
        else:
            from backports import zstd  # noqa: PLC0415

        self._zstd = zstd
        self._options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG}
        self._frame: Any = None

    def decode(self, data: bytes, max_bytes: int) -> Iterator[bytes]:
        """Yield decoded pieces; see ContentDecoder."""
        for start in range(0, len(data), _ZSTD_INPUT_BYTES):
            rest = data[start : start + _ZSTD_INPUT_BYTES]
            while rest:
                if self._frame is None:
                    self._frame = self._zstd.ZstdDecompressor(options=self._options)
                yield from self._decode_frame(rest, max_bytes)
                if not self._frame.eof:
                    break
                rest = self._frame.unused_data
                self._frame = None

    def _decode_frame(self, data: bytes, max_bytes: int) -> Iterator[bytes]:
        frame = self._frame
        try:
            yield frame.decompress(data, max_bytes)
            while not frame.eof and not frame.needs_input:
                yield frame.decompress(b"", max_bytes)
        except self._zstd.ZstdError:
            raise OperationFailed(BODY_ERROR) from None

    def finish(self) -> None:
        """Raise OperationFailed if a frame is incomplete."""
        if self._frame is not None:
            raise OperationFailed(BODY_ERROR)
