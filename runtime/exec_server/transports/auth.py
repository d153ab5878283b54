"""Who may open a WebSocket: bearer tokens on the upgrade request.

Two kinds of token: one that is known to both sides beforehand, and JSON Web Tokens signed with
HS256 by a holder of the shared secret. The accepted forms and the texts of the refusals were
measured on codex 0.169.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

MISSING: Final = "missing websocket bearer token"
MALFORMED: Final = "invalid authorization header"
WRONG_TOKEN: Final = "invalid websocket bearer token"  # noqa: S105 (what is said, not a password)
WRONG_JWT: Final = "invalid websocket jwt"
EXPIRED_JWT: Final = "expired websocket jwt"
EARLY_JWT: Final = "websocket jwt is not valid yet"
OTHER_ISSUER: Final = "websocket jwt issuer mismatch"
OTHER_AUDIENCE: Final = "websocket jwt audience mismatch"
"""Why an upgrade is refused, all with status 401."""

MIN_SECRET_BYTES: Final = 32
"""A shorter secret than its hash weakens HS256 (RFC 7518, section 3.2)."""

_VISIBLE: Final = re.compile(r"[\t\x20-\x7e]*")
_JWT: Final = re.compile(r"([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])")
"""Three parts in base64url without padding; the signature of 32 bytes in its one right spelling."""


class Unauthorized(Exception):
    """An Authorization header that is not accepted; ``str(error)`` is the reason for the client."""


class Authenticator(Protocol):
    """Decides by an upgrade request's Authorization header."""

    def expiry(self, authorization: str | None) -> float | None:
        """Accept a header and return the Unix time at which it expires; None if it never does.

        Raises Unauthorized.
        """
        ...


class CapabilityToken:
    """One token, known by its SHA-256 digest: whoever reads this server's memory has not got it."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    @classmethod
    def of(cls, token: str) -> CapabilityToken:
        """For a token in plain text."""
        return cls(hashlib.sha256(token.encode()).digest())

    def expiry(self, authorization: str | None) -> float | None:
        """See Authenticator. Takes as long for any token of the same length."""
        digest = hashlib.sha256(bearer_token(authorization).encode()).digest()
        if not hmac.compare_digest(digest, self._digest):
            raise Unauthorized(WRONG_TOKEN)
        return None


class SignedToken(msgspec.Struct, frozen=True):
    """JSON Web Tokens with an ``exp`` that has not passed, signed with HS256."""

    secret: bytes
    """At least MIN_SECRET_BYTES."""
    issuer: str | None = None
    audience: str | None = None
    """What ``iss`` must be, and ``aud`` must be or contain; None for anything or nothing."""
    clock_skew_seconds: int = 30
    """How far the clocks of both sides may differ."""
    now: Callable[[], float] = time.time

    def expiry(self, authorization: str | None) -> float | None:
        """See Authenticator. The clock skew is granted at the end as at the beginning."""
        claims = _claims(bearer_token(authorization), self.secret)
        self._check(claims)
        return float(claims.exp + self.clock_skew_seconds)

    def _check(self, claims: _Claims) -> None:
        now = int(self.now())
        if claims.exp < now - self.clock_skew_seconds:
            raise Unauthorized(EXPIRED_JWT)
        if claims.nbf is not None and claims.nbf > now + self.clock_skew_seconds:
            raise Unauthorized(EARLY_JWT)
        if self.issuer is not None and claims.iss != self.issuer:
            raise Unauthorized(OTHER_ISSUER)
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if self.audience is not None and self.audience not in audiences:
            raise Unauthorized(OTHER_AUDIENCE)


class _Header(msgspec.Struct):
    """Header parameters that are ignored, but must have the right type."""

    typ: str | None = None
    cty: str | None = None


class _Claims(msgspec.Struct):
    """The claims that count. Whole seconds since 1970, in 64 bits."""

    exp: int
    nbf: int | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


def bearer_token(authorization: str | None) -> str:
    """Return the token of an Authorization header's value. Raises Unauthorized."""
    if authorization is None:
        raise Unauthorized(MISSING)
    scheme, _, token = authorization.partition(" ")
    token = token.strip(" \t")
    if not _VISIBLE.fullmatch(authorization) or scheme.lower() != "bearer" or not token:
        raise Unauthorized(MALFORMED)
    return token


def _claims(token: str, secret: bytes) -> _Claims:
    """The claims of a token that was signed with the secret. Raises Unauthorized."""
    # Loaded for the first token only; most servers never see one.
    import jwt  # noqa: PLC0415

    if not _JWT.fullmatch(token):
        raise Unauthorized(WRONG_JWT)
    try:
        signed = jwt.PyJWS().decode_complete(token, secret, algorithms=["HS256"])
        header = urlsafe_b64decode(token.partition(".")[0] + "==")
        msgspec.convert(_json_object(header), _Header)
        claims = msgspec.convert(_json_object(signed["payload"]), _Claims)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise Unauthorized(WRONG_JWT) from None
    if any(abs(moment) >= 2**63 for moment in (claims.exp, claims.nbf or 0)):
        raise Unauthorized(WRONG_JWT)
    return claims


def _json_object(data: bytes) -> object:
    """Decode JSON in UTF-8, which RFC 7519 demands; the parser alone would guess the encoding."""
    return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_not_json)


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which no member is given twice."""
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("duplicate member")
    return found


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)
