"""Messages with one large base64 member, read without taking the member through the JSON decoder.

Output and file content make up nearly all the bytes that a client receives. The member is cut out
of the message at its quotes, which cannot stand inside it, and decoded by itself; the little that
is left is decoded as usual. A message that is not written as servers write it is left alone.
"""

from __future__ import annotations

import re
from typing import Final

import pybase64

_START: Final = re.compile(
    rb"""
    \{"id":\d+,"result":\{"(?P<answer>dataBase64|chunk)":"
    | \{"method":"[\w/]+","params":\{[^{}]{0,300}?"(?P<notification>chunk|deltaBase64)":"
    """,
    re.VERBOSE,
)

ATTRIBUTES: Final = {
    b"dataBase64": "data_base64",
    b"chunk": "chunk",
    b"deltaBase64": "delta_base64",
}
"""The members that are cut out, and what the models call them."""


def cut(data: bytes) -> tuple[bytes, str, bytes] | None:
    """The message with its large member empty, the member's attribute, and its content.

    None if the message has no such member, or none that is strict base64.
    """
    match = _START.match(data)
    if match is None:
        return None
    start = match.end()
    end = data.find(b'"', start)
    try:
        content = pybase64.b64decode(memoryview(data)[start:end], validate=True)
    except ValueError:
        return None
    member = match["answer"] or match["notification"]
    return data[:start] + data[end:], ATTRIBUTES[member], content
