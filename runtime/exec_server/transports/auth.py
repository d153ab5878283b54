"""Who may open a WebSocket: bearer tokens on the upgrade request.

Two kinds of token: one that is known to both sides beforehand, and JSON Web Tokens that somebody
who shares a secret with this server has signed with HS256. What is accepted, and what is told to
whoever is not, was measured on codex 0.169.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
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


class Authenticator(Protocol):
    """Decides by an upgrade request's Authorization header."""

    def refusal(self, authorization: str | None) -> str | None:
        """Say why the header does not do; None if it does."""
        ...


class CapabilityToken:
    """One token, known by its SHA-256 digest: whoever reads this server's memory has not got it."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    @classmethod
    def of(cls, token: str) -> CapabilityToken:
        """For a token in plain text."""
        return cls(hashlib.sha256(token.encode()).digest())

    def refusal(self, authorization: str | None) -> str | None:
        """See Authenticator. Takes as long for any token of the same length."""
        try:
            token = bearer_token(authorization)
        except _Refused as refused:
            return str(refused)
        digest = hashlib.sha256(token.encode()).digest()
        return None if hmac.compare_digest(digest, self._digest) else WRONG_TOKEN


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

    def refusal(self, authorization: str | None) -> str | None:
        """See Authenticator."""
        try:
            self._check(_claims(bearer_token(authorization), self.secret))
        except _Refused as refused:
            return str(refused)
        return None

    def _check(self, claims: _Claims) -> None:
        now = int(self.now())
        if claims.exp < now - self.clock_skew_seconds:
            raise _Refused(EXPIRED_JWT)
        if claims.nbf is not None and claims.nbf > now + self.clock_skew_seconds:
            raise _Refused(EARLY_JWT)
        if self.issuer is not None and claims.iss != self.issuer:
            raise _Refused(OTHER_ISSUER)
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if self.audience is not None and self.audience not in audiences:
            raise _Refused(OTHER_AUDIENCE)


class _Refused(Exception):
    """The text of a refusal."""


class _Header(msgspec.Struct):
    """What a token says of itself; it does not count, but must have the right form."""

    typ: str | None = None
    cty: str | None = None


class _Claims(msgspec.Struct):
    """The claims that count. Whole seconds since 1970, in 64 bits."""

    exp: int
    nbf: int | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


def bearer_token(authorization: str | None) -> str:
    """Return the token of an Authorization header's value. Raises _Refused."""
    if authorization is None:
        raise _Refused(MISSING)
    scheme, _, token = authorization.partition(" ")
    token = token.strip(" \t")
    if not _VISIBLE.fullmatch(authorization) or scheme.lower() != "bearer" or not token:
        raise _Refused(MALFORMED)
    return token


def _claims(token: str, secret: bytes) -> _Claims:
    """The claims of a token that was signed with the secret. Raises _Refused."""
    # Loaded for the first token only; most servers never see one.
    import jwt  # noqa: PLC0415

    if not _JWT.fullmatch(token):
        raise _Refused(WRONG_JWT)
    try:
        signed = jwt.PyJWS().decode_complete(token, secret, algorithms=["HS256"])
        msgspec.convert(signed["header"], _Header)
        payload = signed["payload"]
        document = json.loads(payload, object_pairs_hook=_unique, parse_constant=_not_json)
        claims = msgspec.convert(document, _Claims)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise _Refused(WRONG_JWT) from None
    if any(abs(moment) >= 2**63 for moment in (claims.exp, claims.nbf or 0)):
        raise _Refused(WRONG_JWT)
    return claims


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which no member is given twice."""
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("duplicate member")
    return found


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)
