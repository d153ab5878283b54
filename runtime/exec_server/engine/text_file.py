"""Reading small text files that people write: configuration, instructions, manifests."""

from __future__ import annotations

import os

from exec_server.engine.regular_file import open_regular


def read_text(path: str) -> str:
    """Return the content of a regular file, links followed, as UTF-8 without a byte order mark.

    Never waits: a FIFO is refused. Raises InvalidRequest for what is no regular file, OSError, and
    UnicodeDecodeError.
    """
    with os.fdopen(open_regular(path, "read"), "rb") as file:
        return file.read().decode("utf-8-sig")
