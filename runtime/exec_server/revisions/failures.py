"""JSON-RPC error codes and texts of the exceptions that handlers raise."""

from __future__ import annotations

import errno

from exec_server.errors import (
    EngineError,
    InvalidArgument,
    InvalidRequest,
    NotFound,
    system_text,
)
from exec_server.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST


def describe_failure(
    error: BaseException, family: str, not_found_code: int
) -> tuple[int | None, str]:
    """Return the code and the text of an error response.

    The code is None for an exception that is a fault of this program. ``family`` is that of the
    method, ``not_found_code`` the revision's code for NotFound and, for files, ENOENT.
    """
    if isinstance(error, InvalidArgument):
        return INVALID_PARAMS, str(error)
    if isinstance(error, InvalidRequest):
        return INVALID_REQUEST, str(error)
    if isinstance(error, NotFound):
        return not_found_code, str(error)
    if isinstance(error, EngineError):
        return INTERNAL_ERROR, str(error)
    if isinstance(error, OSError) and error.errno is not None:
        text = system_text(error.errno)
        if family == "filesystem":
            if error.errno == errno.ENOENT:
                return not_found_code, text
            if error.errno in (errno.EACCES, errno.EPERM, errno.EINVAL):
                return INVALID_REQUEST, text
        return INTERNAL_ERROR, text
    return None, "internal error"
