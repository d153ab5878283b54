"""File URIs, the form of all paths in v2 (fs/*, cwd).

URIs are parsed according to the WHATWG URL standard, with an empty host or ``localhost``. Dot
segments and doubled or trailing slashes are resolved lexically, percent-encoded bytes are decoded,
and bytes that are not valid UTF-8 become lone surrogates (see ``paths``). Formatting produces a
single canonical form.

A path that would be parsed as a Windows path, such as ``/c:/x``, is wrapped: it is encoded in
base64url after a prefix that no real path can have.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from typing import Final

from exec_server.engine.http import url as http_url
from exec_server.engine.paths import MAX_PATH_BYTES, check_length, from_native, normalize
from exec_server.errors import InvalidArgument, InvalidRequest

_ENCODED: Final = re.compile(rb"[^\w!$&'()*+,\-./:;=@\[\]^|~]")
"""Bytes that are percent-encoded in the canonical form."""

_ENCODINGS: Final = {bytes((byte,)): b"%%%02X" % byte for byte in range(256)}

_CANONICAL: Final = re.compile(
    r"file://"
    r"(?!/[A-Za-z]:(?:/|\Z))"
    r"((?:/(?!\.\.?(?:/|\Z))[\w!$&'()*+,\-.:;=@\[\]^|~]++)+)",
    re.ASCII,
)
"""Canonical URIs whose path is the native path as it is, which nearly all are."""

_MAX_CHARACTERS: Final = 3 * MAX_PATH_BYTES + len("file://localhost")
"""Length of the longest path with every byte percent-encoded."""

_NATIVE_DRIVE: Final = re.compile(r"/[A-Za-z]:(?=/|\Z)")

# Rarely needed, so compiled on demand.
_DRIVE: Final = r"/([A-Za-z])(:|%3[Aa])(?=/|\Z)"
_DRIVE_IN_PLACE_OF_HOST: Final = r"[A-Za-z][:|]"
_DRIVE_WITH_BAR: Final = r"\A/?([A-Za-z])\|(?=/|\Z)"

_WRAPPED_PREFIX: Final = "/%00/bad/path/"


def parse(uri: str) -> str:
    """Return the absolute, normalized native path of a file URI.

    Raises InvalidArgument for other URIs, and for a query, fragment, user, port or NUL;
    InvalidRequest for a path of another system, with a host, a drive letter, or an invalid wrapped
    path (v2 fs/*, "path"); OSError (ENAMETOOLONG) for a path that is too long.
    """
    check_length(uri, _MAX_CHARACTERS)
    canonical = _CANONICAL.fullmatch(uri)
    return canonical[1] if canonical else _parse_any(uri)


def format(path: str) -> str:  # noqa: A001 - path_uri.format is the counterpart of path_uri.parse
    """Return the canonical file URI of an absolute, normalized native path."""
    native = path.encode("utf-8", "surrogateescape")
    if _NATIVE_DRIVE.match(path):
        return "file://" + _WRAPPED_PREFIX + base64.urlsafe_b64encode(native).rstrip(b"=").decode()
    return "file://" + _encode(native)


def format_entries(directory: str, names: list[bytes]) -> list[str]:
    """Return the canonical file URIs of the entries of a directory."""
    if not names:
        return []
    if directory == "/" or _NATIVE_DRIVE.match(directory):
        return [format(f"{directory.rstrip('/')}/{from_native(name)}") for name in names]
    prefix = format(directory) + "/"
    # Encoded together, which is faster; no name contains a slash.
    return [prefix + name for name in _encode(b"/".join(names)).split("/")]


def _encode(native: bytes) -> str:
    return _ENCODED.sub(lambda byte: _ENCODINGS[byte[0]], native).decode("ascii")


def _parse_any(uri: str) -> str:
    try:
        scheme, rest = http_url.split_scheme(uri)
        if scheme != "file":
            raise InvalidArgument(f"unsupported path URI scheme `{scheme}`")
        rest, hash_sign, _ = rest.partition("#")
        rest, question_mark, _ = rest.partition("?")
        host, path = _split_host(rest.replace("\\", "/"))
    except http_url.UrlError as error:
        raise InvalidArgument(f"invalid URI: {error}") from None
    if question_mark:
        raise InvalidArgument("query parameters are not allowed in path URIs")
    if hash_sign:
        raise InvalidArgument("fragments are not allowed in path URIs")
    path = "/" + http_url.normalize_path(path, keeps_drive=True).lstrip("/")
    url = f"file://{host}{path}"
    if not host and path.startswith(_WRAPPED_PREFIX):
        return _unwrap(url, path.removeprefix(_WRAPPED_PREFIX))
    if "%00" in path:
        raise InvalidArgument(_foreign(url))
    drive = re.match(_DRIVE, path)
    if drive:
        url = f"file:///{drive[1].upper()}{path[2:]}"
    if host or drive:
        raise InvalidRequest(_foreign(url))
    return normalize(from_native(urllib.parse.unquote_to_bytes(path)))


def _split_host(rest: str) -> tuple[str, str]:
    """Split the part after ``file:`` into the host, empty if local, and the path without its slash.

    Raises UrlError.
    """
    if not rest.startswith("//"):
        return "", re.sub(_DRIVE_WITH_BAR, r"\1:", rest, count=1).removeprefix("/")
    authority, slash, path = rest[2:].partition("/")
    if re.fullmatch(_DRIVE_IN_PLACE_OF_HOST, authority):
        return "", f"{authority[0]}:{slash}{path}"
    # A file URL has no user and no port: their delimiters are invalid in a host.
    host = http_url.parse_host(authority) if authority else ""
    if ":" in host:
        host = f"[{host}]"
    return "" if host == "localhost" else host, path


def _unwrap(url: str, payload: str) -> str:
    """Return the path in a wrapped URI. Raises an error unless it is one that requires wrapping."""
    try:
        native = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    except ValueError:
        native = b""
    if base64.urlsafe_b64encode(native).rstrip(b"=").decode() != payload or not payload:
        raise InvalidArgument(_foreign(url))
    path = from_native(native)
    if not path.startswith("/") or "\0" in path or format(normalize(path)) != url:
        raise InvalidRequest(_foreign(url))
    return path


def _foreign(url: str) -> str:
    return f"'{url}' is invalid on 'linux'"
