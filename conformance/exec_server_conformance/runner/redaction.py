"""Keeping secrets out of what the suite shows: the wire trace, failures and reports.

Never shown are the values of environment variables (members of ``env`` and ``set`` objects), of
headers that carry credentials, and of user information in URLs. What such a header, or a variable
whose name tells that it is a secret, was seen to hold is a secret wherever it comes again, also
within base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REDACTED = "[redacted]"

_VARIABLES = frozenset({"env", "set"})
"""Members that map names of environment variables to their values."""

_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"}
)
"""Headers that carry credentials."""

_BASE64_MEMBERS = frozenset({"chunk", "deltaBase64", "dataBase64", "bodyBase64"})

_SECRET_NAME = re.compile(r"(?i)token|secret|passw|credential|api_?key|private_?key")

_LEAST_LENGTH = 8
"""A shorter value is too likely to occur by chance to be looked for."""

_USER_INFORMATION = re.compile(r"(?<=://)[^/@\s\"]+(?=@)")
_ASSIGNMENT = re.compile(
    r"(?<!\S)([A-Za-z_]\w*=|--?[\w-]*(?:token|secret|passw|key)[\w-]*[= ]\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|\S+)"
)

_SENSITIVE_KEY = re.compile(r'"(?:env|set)"\s*:|' + "|".join(_HEADERS), re.IGNORECASE)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)


class Redactor:
    """Takes secrets out of messages, and remembers those it has seen.

    ``shown`` names the variables whose values are shown, which are no secrets.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, shown: Collection[str] = ()
    ) -> None:
        self._shown = shown
        self._secrets: set[str] = set()
        for name, value in environment.items():
            self._learn_variable(name, value)

    def message(self, text: str) -> str:
        """A message without secrets; one without any comes back as it was."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        clean = self.value(value)
        if clean == value:
            return text
        return json.dumps(clean, ensure_ascii=False, separators=(",", ":"))

    def value(self, value: Any, member: str = "") -> Any:
        """A JSON value without secrets."""
        if isinstance(value, dict):
            name = value.get("name")
            is_credential = isinstance(name, str) and name.lower() in _HEADERS
            return {
                self._scrub(key): self._hide(one, is_secret=True)
                if key.lower() in _HEADERS or (is_credential and key == "value")
                else self._variables(one)
                if key in _VARIABLES and isinstance(one, dict)
                else self.value(one, key)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [self.value(one, member) for one in value]
        if isinstance(value, str):
            return self._scrub(self._within_base64(value) if member in _BASE64_MEMBERS else value)
        return value

    def text(self, text: str) -> str:
        """Text that is not JSON, or is only part of it, without secrets.

        After the first member that may hold some, no string is shown.
        """
        found = _SENSITIVE_KEY.search(text)
        if found is not None:
            text = text[: found.end()] + _STRING.sub(f'"{REDACTED}"', text[found.end() :])
        return self._scrub(text)

    def command(self, command: str) -> str:
        """A command line without the values of variables, and of options that name a secret."""
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

    def _learn(self, value: str) -> None:
        if len(value) >= _LEAST_LENGTH and value != REDACTED:
            self._secrets.add(value)
            # "Bearer TOKEN": the token may come again alone.
            self._secrets.update(word for word in value.split() if len(word) >= _LEAST_LENGTH)

    def _scrub(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return _USER_INFORMATION.sub(REDACTED, text) if "@" in text else text

    def _within_base64(self, text: str) -> str:
        """Base64 of the same data without secrets."""
        try:
            data = base64.b64decode(text)
        except (binascii.Error, ValueError):
            return text
        clean = data
        for secret in self._secrets:
            clean = clean.replace(secret.encode(), REDACTED.encode())
        return text if clean == data else base64.b64encode(clean).decode()
