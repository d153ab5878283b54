"""Reading small text files that people write: configuration, instructions, manifests."""

from __future__ import annotations

import os

from exec_server.engine.files.regular_file import open_regular
from exec_server.errors import InvalidRequest


def read_text(path: str, max_bytes: int) -> str:
    """Return the content of a regular file, links followed, as UTF-8 without a byte order mark.

    Never waits: a FIFO is refused. Raises InvalidRequest for what is no regular file or too large,
    OSError, and UnicodeDecodeError.
    """
    with os.fdopen(open_regular(path, "read"), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InvalidRequest(f"the file has more than {max_bytes} bytes")
    return content.decode("utf-8-sig")
