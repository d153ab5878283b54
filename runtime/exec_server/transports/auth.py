"""Authentication of WebSocket clients by bearer tokens on the upgrade request.

There are two kinds of token: a fixed one that both sides know, and JSON Web Tokens signed with
HS256 by a holder of the shared secret. The accepted forms and the error texts are those of codex
0.169.
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
WRONG_TOKEN: Final = "invalid websocket bearer token"  # noqa: S105 (a message, not a password)
WRONG_JWT: Final = "invalid websocket jwt"
EXPIRED_JWT: Final = "expired websocket jwt"
EARLY_JWT: Final = "websocket jwt is not valid yet"
OTHER_ISSUER: Final = "websocket jwt issuer mismatch"
OTHER_AUDIENCE: Final = "websocket jwt audience mismatch"
"""Reasons to reject an upgrade, all with status 401."""

MIN_SECRET_BYTES: Final = 32
"""A secret shorter than the hash weakens HS256 (RFC 7518, section 3.2)."""

_VISIBLE: Final = re.compile(r"[\t\x20-\x7e]*")
_JWT: Final = re.compile(r"([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])")
"""Three parts in base64url without padding; the 32 bytes of the signature in canonical form."""


class Unauthorized(Exception):
    """An Authorization header was rejected; ``str(error)`` is the reason sent to the client."""


class Authenticator(Protocol):
    """A check of the Authorization header of upgrade requests."""

    def expiry(self, authorization: str | None) -> float | None:
        """Return the Unix time at which a header expires; None if it never does.

        Raises Unauthorized if the header is not accepted.
        """
        ...


class CapabilityToken:
    """A fixed token, kept as its SHA-256 digest, so that the server's memory does not reveal it."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    @classmethod
    def of(cls, token: str) -> CapabilityToken:
        """Return the authenticator for a token in plain text."""
        return cls(hashlib.sha256(token.encode()).digest())

    def expiry(self, authorization: str | None) -> float | None:
        """Check the token in constant time for its length; see Authenticator."""
        digest = hashlib.sha256(bearer_token(authorization).encode()).digest()
        if not hmac.compare_digest(digest, self._digest):
            raise Unauthorized(WRONG_TOKEN)
        return None


class SignedToken(msgspec.Struct, frozen=True):
    """JSON Web Tokens with an ``exp`` that has not passed, signed with HS256."""

    secret: bytes
    """At least MIN_SECRET_BYTES."""
    issuer: str | None = None
    """Required value of ``iss``; None for any or none."""
    audience: str | None = None
    """Required value of ``aud``, or of one of its entries; None for any or none."""
    clock_skew_seconds: int = 30
    """Tolerated difference between the clocks of both sides."""
    now: Callable[[], float] = time.time
    """Clock that returns Unix time."""

    def expiry(self, authorization: str | None) -> float | None:
        """Check signature and claims, with the clock skew at both ends; see Authenticator."""
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
    """Header parameters that are ignored but must have the right type."""

    typ: str | None = None
    cty: str | None = None


class _Claims(msgspec.Struct):
    """The claims that are checked. Times are whole seconds since 1970, in 64 bits."""

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
    """Return the claims of a token signed with the secret. Raises Unauthorized."""
    # Imported for the first token; most servers never see one.
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
    """Decode JSON in UTF-8, as RFC 7519 requires; the parser alone would guess the encoding."""
    return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_not_json)


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. Raises ValueError for a repeated member."""
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("duplicate member")
    return found


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)
