"""File content between the wire and the disk, for every revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pybase64

from exec_server.errors import InvalidRequest
from exec_server.revisions.decoded_text import DecodedText
from exec_server.revisions.streamed_bytes import PIECE_BYTES, StreamedBytes

if TYPE_CHECKING:
    from exec_server.engine.files import operations as files
    from exec_server.revisions.interface import ConnectionContext


def decode_content(text: str) -> bytes:
    """Return the bytes of fs/writeFile.

    Raises InvalidRequest for anything but strict base64: padded, without white space, with unused
    bits of zero.
    """
    if isinstance(text, DecodedText):
        if text.error is not None:
            raise InvalidRequest(f"fs/writeFile requires valid base64 dataBase64: {text.error}")
        return text.content
    try:
        data = pybase64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"fs/writeFile requires valid base64 dataBase64: {error}") from None
    rest = len(data) % 3
    if rest and not text.endswith(pybase64.b64encode_as_string(data[-rest:])):
        raise InvalidRequest(
            "fs/writeFile requires valid base64 dataBase64: non-zero trailing bits"
        )
    return data


async def read_content(connection: ConnectionContext, source: files.ReadSource) -> bytes:
    """Return the content of an open file, or a placeholder that is read while it is sent.

    It takes over the source and closes it.
    """
    try:
        if source.size is None:
            # A FIFO may be without a writer for long, and reading it affects no other request.
            connection.release_slot()
            await source.load(connection.session.memory)
        assert source.size is not None
        if source.size > PIECE_BYTES:
            return StreamedBytes.of(source, source.size)
        data = source.read(source.size) if source.size else b""
    except BaseException:
        source.close()
        raise
    source.close()
    return data
