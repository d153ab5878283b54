"""Redaction of secrets in traces, failure messages and reports.

Redacted are

* the values of environment variables (members of ``env`` and ``set`` objects);
* the values of headers, members, options, assignments and query parameters with secret-like names,
  and ``Bearer`` and ``Basic`` credentials;
* user information in URLs, including those of proxies.

A redacted value, and the value of a secret-like variable of this process, is redacted wherever it
occurs again, also within base64.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REDACTED = "[redacted]"

_VARIABLES = frozenset({"env", "set"})
"""Members that map environment variables to their values."""

_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"}
)
"""Headers that carry credentials."""

_BASE64_MEMBERS = frozenset({"chunk", "deltaBase64", "dataBase64", "bodyBase64"})

_WORDS = r"token|secret|passw|credential|api[-_]?key|private[-_]?key"

_SECRET_NAME = re.compile(f"(?i){_WORDS}")

_SECRET_HEADER = re.compile(f"(?i){_WORDS}|auth|cookie|key|session|signature")

_PLAIN_HEADERS = frozenset({"sec-websocket-key", "www-authenticate", "proxy-authenticate"})
"""Headers with secret-like names that carry no credentials."""

_COOKIE_ATTRIBUTES = frozenset({"domain", "expires", "max-age", "path", "samesite"})

_MIN_SECRET_LENGTH = 8
"""Minimum length of a remembered secret; shorter values occur by chance."""

_MAX_SECRETS = 4096
"""Maximum number of remembered secrets, since a peer can send arbitrarily many."""

# Repetitions are bounded to keep matching linear.
_USER_INFORMATION = re.compile(r"(?<=://)([^/?#\s\"]+)(?=@)")
_BARE_USER_INFORMATION = re.compile(r"\A([^\s/@:]{1,256}:[^\s/@]{1,256})(?=@[\w.\[\]:-]{1,256}\Z)")
"""User and password of a proxy URL without a scheme."""
_QUERY = re.compile(
    r"(?i)((?:^|[?&;#])[^=?;&#\s\"']{0,64}?"
    rf"(?:{_WORDS}|pwd|auth|key|sig|session|code|jwt)[^=?;&#\s\"']{{0,64}}=)([^&#;\s\"'<>]+)"
)
_SCHEME = re.compile(r"(?i)(\b(?:bearer|basic)\s+)([a-z0-9._~+/=-]{8,})")
_NAMED = re.compile(
    rf"(?i)(?<![\w-])([\w-]{{0,64}}?(?:{_WORDS})[\w-]{{0,64}}=|"
    rf"--?[\w-]{{0,64}}?(?:{_WORDS})[\w-]{{0,64}}\s+)"
    r"('[^']*'|\"[^\"]*\"|[^\s'\"]+)"
)
"""Assignment or option within a command."""
_HEADER_LINE = re.compile(
    rf"(?i)(?<![\w-])([\w-]{{0,64}}?(?:{_WORDS}|authorization|cookie)[\w-]{{0,64}}:[ \t]*)"
    r"([^'\"\r\n]+)"
)
"""Header within a command."""
_OPTION = re.compile(rf"(?i)--?[\w-]{{0,64}}?(?:{_WORDS})[\w-]{{0,64}}")
_USER_OPTIONS = frozenset({"-u", "--user", "-U", "--proxy-user"})
"""Options of curl and similar programs that are followed by user and password."""
_ASSIGNMENT = re.compile(
    r"(?<!\S)([A-Za-z_]\w*=|--?[\w-]*(?:token|secret|passw|key)[\w-]*[= ]\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|\S+)"
)

_SENSITIVE_KEY = re.compile(r'"(?:env|set)"\s*:|' + "|".join(_HEADERS), re.IGNORECASE)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)

_SCHEME_MARKS = ("bearer", "basic")
_KEY_MARKS = ('"env"', '"set"', *sorted(_HEADERS))
_NAME_MARKS = ("token", "secret", "passw", "credential", "key", "authorization", "cookie")
"""Texts of which a pattern needs at least one. Searching for them first is several times faster
than the pattern, which matters for the data of a file."""


def _has(marks: Collection[str], text: str) -> bool:
    folded = text.casefold()
    return any(mark in folded for mark in marks)


class Redactor:
    """Removes secrets from messages and remembers them.

    ``shown`` names the environment variables whose values are not secret.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, shown: Collection[str] = ()
    ) -> None:
        self._shown = shown
        self._secrets: set[str] = set()
        self._longest_first: list[str] | None = []
        for name, value in environment.items():
            self._learn_variable(name, value)

    def message(self, text: str) -> str:
        """Return a message without secrets; one without any is returned unchanged."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        clean = self.value(value)
        if clean == value:
            return text
        return json.dumps(clean, ensure_ascii=False, separators=(",", ":"))

    def value(self, value: Any, member: str = "") -> Any:
        """Return a JSON value without secrets."""
        if isinstance(value, dict):
            return self._object(value, member)
        if isinstance(value, list):
            if member == "argv":
                return self._arguments(value)
            return [self.value(one, member) for one in value]
        if isinstance(value, str):
            return self._scrub(self._within_base64(value) if member in _BASE64_MEMBERS else value)
        return value

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a request without secrets."""
        return {
            name: self._hide(value, is_secret=True) if _is_credential(name) else self._scrub(value)
            for name, value in headers.items()
        }

    def _object(self, value: dict[str, Any], member: str) -> dict[str, Any]:
        name = value.get("name")
        is_pair = isinstance(name, str) and _is_credential(name)
        shown = {}
        for key, one in value.items():
            is_secret = (
                key.lower() in _HEADERS
                or (isinstance(one, str) and _SECRET_NAME.search(key) is not None)
                or (member == "headers" and _is_credential(key))
                or (is_pair and key == "value")
            )
            if is_secret:
                clean = self._hide(one, is_secret=True)
            elif key in _VARIABLES and isinstance(one, dict):
                clean = self._variables(one)
            else:
                clean = self.value(one, key)
            shown[self._scrub(key)] = clean
        return shown

    def _arguments(self, words: list[Any]) -> list[Any]:
        """Return a program and its arguments without the values of secret-like options."""
        shown = []
        option = ""
        for word in words:
            if not isinstance(word, str):
                shown.append(self.value(word))
            elif option and (option not in _USER_OPTIONS or ":" in word):
                self._learn(word.partition(":")[2] if option in _USER_OPTIONS else word)
                shown.append(REDACTED)
            else:
                shown.append(self._scrub(self._script(word)))
            is_option = isinstance(word, str) and (word in _USER_OPTIONS or _OPTION.fullmatch(word))
            option = word if is_option else ""
        return shown

    def _script(self, text: str) -> str:
        """Return a shell command or its input without the values of secret-like names."""
        text = self._replace(_BARE_USER_INFORMATION, text)
        if _has(_NAME_MARKS, text):
            text = self._replace(_HEADER_LINE, self._replace(_NAMED, text))
        return text

    def text(self, text: str) -> str:
        """Return text that is not complete JSON without secrets.

        Every string after the first secret-like member is redacted.
        """
        found = _SENSITIVE_KEY.search(text) if _has(_KEY_MARKS, text) else None
        if found is not None:
            text = text[: found.end()] + _STRING.sub(f'"{REDACTED}"', text[found.end() :])
        return self._scrub(text)

    def command(self, command: str) -> str:
        """Return a command line without the values of variables and secret-like options."""
        return self._scrub(_ASSIGNMENT.sub(rf"\1{REDACTED}", command))

    def _variables(self, variables: dict[str, Any]) -> dict[str, Any]:
        for name, value in variables.items():
            if isinstance(value, str):
                self._learn_variable(name, value)
        return {
            name: self.value(value) if name in self._shown else self._hide(value)
            for name, value in variables.items()
        }

    def _hide(self, value: Any, *, is_secret: bool = False) -> Any:
        if isinstance(value, str):
            if is_secret:
                self._learn(value)
            return REDACTED
        return self.value(value)

    def _learn_variable(self, name: str, value: str) -> None:
        if _SECRET_NAME.search(name):
            self._learn(value)
        elif "@" in value:  # Proxy or other URL with user and password.
            self._replace(_USER_INFORMATION, value)

    def _learn(self, value: str) -> None:
        if value == REDACTED:
            return
        # Parts of "Bearer TOKEN" or "USER:PASSWORD" may occur on their own.
        parts = {value, *value.split(), value.strip("'\""), value.partition(":")[2]}
        for piece in value.split(";"):
            name, _, content = piece.partition("=")
            if name.strip().lower() not in _COOKIE_ATTRIBUTES:
                parts.add(content.strip())
        scheme, _, content = value.partition(" ")
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                parts.add(base64.b64decode(content).decode().partition(":")[2])
        parts |= {unquote(part) for part in parts} | {quote(part, safe="") for part in parts}
        new = {part for part in parts if len(part) >= _MIN_SECRET_LENGTH} - self._secrets
        if new and len(self._secrets) < _MAX_SECRETS:
            self._secrets |= new
            self._longest_first = None

    def _replace(self, pattern: re.Pattern[str], text: str) -> str:
        """Redact and remember what the last group of the pattern matches."""

        def hide(match: re.Match[str]) -> str:
            self._learn(match[match.re.groups])
            kept = match[1] if match.re.groups > 1 else ""
            return f"{kept}{REDACTED}"

        return pattern.sub(hide, text)

    def _scrub(self, text: str) -> str:
        if self._longest_first is None:
            # Longest first, since one secret may be the prefix of another.
            self._longest_first = sorted(self._secrets, key=len, reverse=True)
        for secret in self._longest_first:
            text = text.replace(secret, REDACTED)
        if "@" in text:
            text = self._replace(_USER_INFORMATION, text)
        if "=" in text:
            text = self._replace(_QUERY, text)
        return self._replace(_SCHEME, text) if _has(_SCHEME_MARKS, text) else text

    def _within_base64(self, text: str) -> str:
        """Return base64 of the same data without secrets."""
        try:
            data = base64.b64decode(text)
        except (binascii.Error, ValueError):
            return text
        try:
            before = data.decode()
        except UnicodeDecodeError:
            clean = data
            for secret in self._secrets:
                clean = clean.replace(secret.encode(), REDACTED.encode())
        else:
            clean = self._script(self.message(before)).encode()
        return text if clean == data else base64.b64encode(clean).decode()


def _is_credential(name: str) -> bool:
    return _SECRET_HEADER.search(name) is not None and name.lower() not in _PLAIN_HEADERS
