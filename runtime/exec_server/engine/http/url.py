"""Parser for http and https URLs, by the WHATWG URL standard.

The released servers use that standard, which accepts much (backslashes, ``http:host``, spaces in a
path, numeric hosts), and send and report URLs in its normal form.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_REMOVED: Final = str.maketrans("", "", "\t\n\r")
MAX_URL_BYTES: Final = 32 * 1024
"""Maximum length of a URL; servers accept 8 to 16 KiB. Bounds the time for percent-encoding."""

_MAX_WIDE_HOST_CHARACTERS: Final = 1024
"""Domain names have at most 253 characters; their conversion takes quadratic time."""

_OUTER_SPACE: Final = "".join(map(chr, range(0x21)))
_FORBIDDEN_IN_DOMAIN: Final = re.compile(r"[\x00-\x20\x7f\"#%/:<>?@\[\\\]^`{|}]")

# The bytes to percent-encode in each part.
_IN_PATH: Final = re.compile(rb'[\x00-\x20"#<>?`{}\x7f-\xff]')
_IN_QUERY: Final = re.compile(rb"[\x00-\x20\"#<>'\x7f-\xff]")
_IN_FRAGMENT: Final = re.compile(rb'[\x00-\x20"<>`\x7f-\xff]')

_DRIVE: Final = re.compile(r"[A-Za-z]:")
_DOT_SEGMENTS: Final = frozenset({".", "%2e"})
_DOUBLE_DOT_SEGMENTS: Final = frozenset({"..", ".%2e", "%2e.", "%2e%2e"})


class UrlError(ValueError):
    """The text is not a URL of http or https; the message says why."""


class UnsupportedScheme(UrlError):
    """A URL with another scheme."""

    def __init__(self, scheme: str) -> None:
        """Record the scheme, in lower case."""
        super().__init__(f"unsupported scheme {scheme}")
        self.scheme = scheme


class HttpUrl(msgspec.Struct, frozen=True):
    """A URL in normal form, ASCII only."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """A domain in ASCII, an IPv4 address, or an IPv6 address without brackets."""
    port: int | None
    """None for the default port of the scheme."""
    path: str
    """Begins with a slash."""
    query: str | None
    fragment: str | None
    username: bytes
    """Percent-decoded; empty if not given."""
    password: bytes

    @property
    def effective_port(self) -> int:
        """The port to connect to."""
        return DEFAULT_PORTS[self.scheme] if self.port is None else self.port

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.effective_port

    @property
    def origin_url(self) -> str:
        """The URL of the origin's root."""
        return f"{self.scheme}://{self.authority}/"

    @property
    def has_user(self) -> bool:
        """True if the URL has a user or a password."""
        return bool(self.username or self.password)

    @property
    def authority(self) -> str:
        """Host and port as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Request target: path and query."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def without_fragment(self) -> str:
        """The URL without fragment and without user."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def __str__(self) -> str:
        """Return the URL without user and password, for messages."""
        if self.fragment is None:
            return self.without_fragment
        return f"{self.without_fragment}#{self.fragment}"


def parse(text: str) -> HttpUrl:
    """Read an absolute URL. Raises UrlError, UnsupportedScheme for other than http and https."""
    scheme, rest = split_scheme(text)
    if scheme not in DEFAULT_PORTS:
        raise UnsupportedScheme(scheme)
    rest, hash_sign, fragment = rest.partition("#")
    rest, question_mark, query = rest.partition("?")
    authority, _, path = rest.replace("\\", "/").lstrip("/").partition("/")
    userinfo, _, host_and_port = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    host, port = _split_port(host_and_port, scheme)
    return HttpUrl(
        scheme=scheme,
        host=parse_host(host),
        port=port,
        path=normalize_path(path),
        query=_encode(_IN_QUERY, query) if question_mark else None,
        fragment=_encode(_IN_FRAGMENT, fragment) if hash_sign else None,
        username=unquote_to_bytes(username),
        password=unquote_to_bytes(password),
    )


def resolve(base: HttpUrl, reference: str) -> HttpUrl:
    """Resolve a URL reference (a Location header) against ``base``. Raises UrlError."""
    reference = reference.strip(_OUTER_SPACE).translate(_REMOVED)
    match = _SCHEME.match(reference)
    if match is not None:
        if match[1].lower() != base.scheme:
            return parse(reference)
        # By the standard, a relative URL may repeat the scheme of its base.
        reference = reference[match.end() :]
    path_length = len(re.split("[?#]", reference, maxsplit=1)[0])
    reference = reference[:path_length].replace("\\", "/") + reference[path_length:]
    if reference.startswith("//"):
        return parse(f"{base.scheme}:{reference}")
    root = f"{base.scheme}://{base.authority}"
    if reference.startswith("/"):
        return parse(root + reference)
    if reference.startswith("?"):
        return parse(root + base.path + reference)
    if not reference or reference.startswith("#"):
        return parse(base.without_fragment + reference)
    return parse(root + base.path[: base.path.rindex("/") + 1] + reference)


def split_scheme(text: str) -> tuple[str, str]:
    """Split a URL of any kind into its scheme, in lower case, and what follows the colon.

    Characters that the standard ignores are removed. Raises UrlError for a relative URL.
    """
    if len(text) > MAX_URL_BYTES:
        raise UrlError(f"longer than {MAX_URL_BYTES} bytes")
    text = text.strip(_OUTER_SPACE).translate(_REMOVED)
    match = _SCHEME.match(text)
    if match is None:
        raise UrlError("relative URL without a base")
    return match[1].lower(), text[match.end() :]


def _encode(characters: re.Pattern[bytes], text: str) -> str:
    encoded = characters.sub(_percent_encoded, text.encode())
    return encoded.decode("ascii")


def _percent_encoded(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def normalize_path(path: str, *, keeps_drive: bool = False) -> str:
    """Resolve the dot segments of a path, given without its first slash, and encode it.

    With ``keeps_drive``, for file URLs, ``..`` does not remove a leading ``C:``.
    """
    kept: list[str] = []
    names = 0  # kept segments that are not empty
    segments = path.split("/")
    for segment in segments:
        lowered = segment.lower()
        if lowered in _DOUBLE_DOT_SEGMENTS:
            if kept and not (keeps_drive and names == 1 and _DRIVE.fullmatch(kept[-1])):
                names -= bool(kept.pop())
        elif lowered not in _DOT_SEGMENTS:
            kept.append(segment)
            names += bool(segment)
    if segments[-1].lower() in _DOT_SEGMENTS | _DOUBLE_DOT_SEGMENTS:
        kept.append("")
    return "/" + _encode(_IN_PATH, "/".join(kept))


def _split_port(text: str, scheme: str) -> tuple[str, int | None]:
    """Split ``host:port``; the port is None if absent or the default of the scheme."""
    if text.startswith("["):
        host, bracket, after = text.partition("]")
        if not bracket:
            raise UrlError("invalid IPv6 address")
        host, colon, digits = host + bracket, after[:1], after[1:]
        if colon not in ("", ":"):
            raise UrlError("invalid port number")
    else:
        host, _, digits = text.partition(":")
    if not host:
        raise UrlError("empty host")
    if not digits:
        return host, None
    significant = digits.lstrip("0") or "0"
    if not (digits.isascii() and digits.isdigit()) or len(significant) > 5:
        raise UrlError("invalid port number")
    port = int(significant)
    if port > 65535:
        raise UrlError("invalid port number")
    return host, None if port == DEFAULT_PORTS[scheme] else port


def parse_host(text: str) -> str:
    """Return the normal form of a host. Raises UrlError."""
    if text.startswith("["):
        try:
            address = IPv6Address(text[1:-1])
        except AddressValueError:
            raise UrlError("invalid IPv6 address") from None
        if address.scope_id is not None or not text.endswith("]"):
            raise UrlError("invalid IPv6 address")
        return address.compressed
    try:
        domain = _to_ascii(unquote_to_bytes(text).decode())
    except ValueError:
        raise UrlError("invalid international domain name") from None
    if not domain:
        raise UrlError("empty host")
    if _FORBIDDEN_IN_DOMAIN.search(domain):
        raise UrlError("invalid international domain name")
    return _parse_ipv4(domain) or domain


def _to_ascii(domain: str) -> str:
    """Return the domain in its ASCII form. Raises ValueError."""
    domain = domain.lower()
    if domain.isascii() and "xn--" not in domain:
        return domain
    if len(domain) > _MAX_WIDE_HOST_CHARACTERS:
        raise ValueError("host is too long")
    # Imported only for names that need it.
    import idna  # noqa: PLC0415

    mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
    return mapped and idna.encode(mapped).decode("ascii")


def _parse_ipv4(domain: str) -> str | None:
    """Return the address if the domain ends in a number, in any form that inet_aton accepts."""
    labels = domain.removesuffix(".").split(".")
    last = labels[-1]
    if not (last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last)):
        return None
    if len(labels) > 4:
        raise UrlError("invalid IPv4 address")
    try:
        numbers = [_parse_ipv4_number(label) for label in labels]
    except ValueError:
        raise UrlError("invalid IPv4 address") from None
    value = numbers[-1]
    if any(number > 255 for number in numbers[:-1]) or value >= 256 ** (5 - len(numbers)):
        raise UrlError("invalid IPv4 address")
    for position, number in enumerate(numbers[:-1]):
        value += number << 8 * (3 - position)
    return str(IPv4Address(value))


def _parse_ipv4_number(label: str) -> int:
    """Parse a decimal, octal (0...) or hexadecimal (0x...) number. Raises ValueError."""
    if not re.fullmatch(r"0x[0-9a-f]*|0[0-7]*|[1-9][0-9]*", label):
        raise ValueError(label)
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8 if label.startswith("0") else 10)
