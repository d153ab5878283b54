"""Reading of small text files such as configuration, instructions and manifests."""

from __future__ import annotations

import os

from exec_server.engine.files.regular_file import open_regular
from exec_server.errors import InvalidRequest


def read_text(path: str, max_bytes: int) -> str:
    """Return the contents of a regular file, decoded as UTF-8 without a byte order mark.

    Follows links and never blocks. Raises InvalidRequest for a special file or one that is too
    large, OSError, and UnicodeDecodeError.
    """
    with os.fdopen(open_regular(path, "read"), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InvalidRequest(f"the file has more than {max_bytes} bytes")
    return content.decode("utf-8-sig")
