"""Options for authentication: a capability token, or JSON Web Tokens signed with a shared secret.

Secrets come from files or from the environment; a command line is visible to every user of the
machine. Error texts are those of codex where it has the option too.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from exec_server.cli import option_types
from exec_server.errors import UsageError, system_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from exec_server.transports.auth import Authenticator

_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")

DEFAULT_CLOCK_SKEW_SECONDS: Final = 30


def add_auth_options(group: argparse._ArgumentGroup) -> None:
    """Add the options for authentication."""
    group.add_argument(
        "--ws-auth",
        choices=("capability-token", "signed-bearer-token"),
        help="require a token in the header `Authorization: Bearer TOKEN`: `capability-token` is a "
        "fixed text, `signed-bearer-token` a JSON Web Token signed with HS256 "
        "(default: no authentication, on loopback addresses and Unix sockets only)",
    )
    group.add_argument(
        "--ws-token-file",
        metavar="PATH",
        type=option_types.path,
        help="file that holds the capability token; read again on SIGHUP",
    )
    group.add_argument(
        "--ws-token-env",
        metavar="NAME",
        type=option_types.variable,
        help="environment variable that holds the capability token; removed from the environment "
        "at start-up, so that programs do not inherit it",
    )
    group.add_argument(
        "--ws-token-sha256",
        metavar="HEX",
        help="SHA-256 digest of the capability token, as 64 hexadecimal digits",
    )
    group.add_argument(
        "--ws-shared-secret-file",
        metavar="PATH",
        type=option_types.path,
        help="file that holds the secret which signs the tokens, at least 32 bytes; read again on "
        "SIGHUP",
    )
    group.add_argument(
        "--ws-shared-secret-env",
        metavar="NAME",
        type=option_types.variable,
        help="environment variable that holds the secret which signs the tokens; removed from the "
        "environment at start-up, so that programs do not inherit it",
    )
    group.add_argument(
        "--ws-issuer",
        metavar="NAME",
        help="required `iss` claim of a signed token (default: any)",
    )
    group.add_argument(
        "--ws-audience",
        metavar="NAME",
        help="required `aud` claim of a signed token, or a member of it (default: any)",
    )
    group.add_argument(
        "--ws-max-clock-skew-seconds",
        metavar="N",
        type=option_types.whole_number,
        help="seconds by which the clocks of the token's issuer and of this server may differ "
        f"(default: {DEFAULT_CLOCK_SKEW_SECONDS})",
    )


class AuthOptions(NamedTuple):
    """Values of the options for authentication."""

    scheme: str | None
    """``capability-token``, ``signed-bearer-token``, or None for no authentication."""
    token_file: str | None
    token_env: str | None
    token_sha256: str | None
    secret_file: str | None
    secret_env: str | None
    issuer: str | None
    audience: str | None
    clock_skew: int | None

    @classmethod
    def given(cls, options: argparse.Namespace) -> AuthOptions:
        """Return the values of a parsed command line. Raises UsageError if they do not agree."""
        values = cls(
            options.ws_auth,
            options.ws_token_file,
            options.ws_token_env,
            options.ws_token_sha256,
            options.ws_shared_secret_file,
            options.ws_shared_secret_env,
            options.ws_issuer,
            options.ws_audience,
            options.ws_max_clock_skew_seconds,
        )
        values._check()
        return values

    @property
    def has_file(self) -> bool:
        """True if the secret is in a file, which may be read again."""
        return self.token_file is not None or self.secret_file is not None

    def authenticator(self) -> Authenticator | None:
        """Read the secret and return what checks tokens with it; None for no authentication.

        A secret in an environment variable can be read once. Raises UsageError.
        """
        if self.scheme is None:
            return None
        from exec_server.transports import auth  # noqa: PLC0415 (stdio does not need it)

        if self.scheme == "capability-token":
            if self.token_sha256 is not None:
                return auth.CapabilityToken(bytes.fromhex(self.token_sha256.strip()))
            return auth.CapabilityToken.of(_read_secret(self.token_file, self.token_env).text)
        secret = _read_secret(self.secret_file, self.secret_env)
        key = secret.text.encode()
        if len(key) < auth.MIN_SECRET_BYTES:
            raise UsageError(
                f"signed websocket bearer secret {secret.source} must be at least "
                f"{auth.MIN_SECRET_BYTES} bytes"
            )
        skew = DEFAULT_CLOCK_SKEW_SECONDS if self.clock_skew is None else self.clock_skew
        return auth.SignedToken(key, self.issuer or None, self.audience or None, skew)

    def _check(self) -> None:
        token = (self.token_file, self.token_sha256, self.token_env)
        signed = (self.secret_file, self.secret_env, self.issuer, self.audience, self.clock_skew)
        has_token = any(value is not None for value in token)
        has_signed = any(value is not None for value in signed)
        if self.scheme is None:
            if has_token or has_signed:
                raise UsageError(
                    "websocket auth flags require `--ws-auth capability-token` or "
                    "`--ws-auth signed-bearer-token`"
                )
        elif self.scheme == "capability-token":
            self._check_token(has_token=has_token, has_signed=has_signed)
        else:
            self._check_signed(has_token=has_token)

    def _check_token(self, *, has_token: bool, has_signed: bool) -> None:
        if self.secret_env is not None:
            raise UsageError(
                "`--ws-shared-secret-env` requires `--ws-auth signed-bearer-token`, "
                "not `capability-token`"
            )
        if has_signed:
            raise UsageError(
                "`--ws-shared-secret-file`, `--ws-issuer`, `--ws-audience`, and "
                "`--ws-max-clock-skew-seconds` require `--ws-auth signed-bearer-token`"
            )
        _refuse_two(
            {
                "--ws-token-file": self.token_file,
                "--ws-token-sha256": self.token_sha256,
                "--ws-token-env": self.token_env,
            }
        )
        if not has_token:
            raise UsageError(
                "`--ws-token-file` or `--ws-token-sha256` is required when "
                "`--ws-auth capability-token` is set"
            )
        if self.token_sha256 is not None and not _SHA256.fullmatch(self.token_sha256.strip()):
            raise UsageError("--ws-token-sha256 must be a 64-character hex SHA-256 digest")

    def _check_signed(self, *, has_token: bool) -> None:
        if self.token_env is not None:
            raise UsageError(
                "`--ws-token-env` requires `--ws-auth capability-token`, not `signed-bearer-token`"
            )
        if has_token:
            raise UsageError(
                "`--ws-token-file` and `--ws-token-sha256` require `--ws-auth capability-token`, "
                "not `signed-bearer-token`"
            )
        _refuse_two(
            {
                "--ws-shared-secret-file": self.secret_file,
                "--ws-shared-secret-env": self.secret_env,
            }
        )
        if self.secret_file is None and self.secret_env is None:
            raise UsageError(
                "`--ws-shared-secret-file` is required when `--ws-auth signed-bearer-token` is set"
            )
        if self.clock_skew is not None and self.clock_skew >= 2**63:
            raise UsageError("websocket auth clock skew must fit in a signed 64-bit integer")


def _refuse_two(sources: Mapping[str, str | None]) -> None:
    """Raise UsageError if a secret is given in two places."""
    given = [option for option, value in sources.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"`{given[0]}` and `{given[1]}` are mutually exclusive")


class _Secret(NamedTuple):
    text: str
    """Without surrounding white space; not empty."""
    source: str
    """Place that it was read from, for messages."""


def _read_secret(file: str | None, variable: str | None) -> _Secret:
    """Read the secret in a file or, if none is given, in a variable. Raises UsageError."""
    if file is not None:
        source = os.path.abspath(file)
        try:
            with open(source, "rb") as opened:
                data = opened.read()
        except OSError as error:
            reason = system_text(error.errno or 0)
            raise UsageError(f"failed to read websocket auth secret {source}: {reason}") from None
    else:
        assert variable is not None  # or else the options were refused
        source = f"in the environment variable {variable}"
        from exec_server.secret_memory import take_variable  # noqa: PLC0415 (slow to load)

        # Programs must neither inherit it nor find it in /proc.
        value = take_variable(variable)
        if value is None:
            raise UsageError(f"failed to read websocket auth secret {source}: it is not set")
        data = value
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise UsageError(
            f"failed to read websocket auth secret {source}: stream did not contain valid UTF-8"
        ) from None
    if not text:
        raise UsageError(f"websocket auth secret {source} must not be empty")
    return _Secret(text, source)
