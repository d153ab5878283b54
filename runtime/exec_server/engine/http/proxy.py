"""Proxy selection by the customary environment variables.

These are ``http_proxy`` and ``https_proxy``, ``all_proxy`` as their fallback, and ``no_proxy``.
Lower case takes precedence over upper case. ``HTTP_PROXY`` is ignored in a CGI program, where a
client could set it through the header ``Proxy:``.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from exec_server.engine.http.url import HttpUrl, UnsupportedScheme, UrlError, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOCKS: Final = "socks"


class UnsupportedProxy(Exception):
    """The environment names a proxy of an unsupported kind, such as SOCKS."""


def proxy_for(url: HttpUrl, environment: Mapping[str, str]) -> HttpUrl | None:
    """Return the proxy for a request to ``url``, None to connect directly.

    A value that is not a URL is ignored. Raises UnsupportedProxy.
    """
    text = _variable(environment, f"{url.scheme}_proxy") or _variable(environment, "all_proxy")
    if not text or _is_exempt(url.host, _variable(environment, "no_proxy")):
        return None
    try:
        return parse(text if "://" in text else f"http://{text}")
    except UnsupportedScheme as error:
        if error.scheme.startswith(_SOCKS):
            raise UnsupportedProxy(error.scheme) from None
        return None
    except UrlError:
        return None


def _variable(environment: Mapping[str, str], name: str) -> str:
    """Return a variable in lower case, even if empty, else in upper case."""
    value = environment.get(name)
    if value is None and not (name == "http_proxy" and "REQUEST_METHOD" in environment):
        value = environment.get(name.upper())
    return (value or "").strip()


def _is_exempt(host: str, exemptions: str) -> bool:
    """Return True if ``no_proxy`` covers the host.

    Its items are ``*``, a domain with its subdomains, an address, or a network in prefix notation.
    """
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    for item in exemptions.split(","):
        exemption = item.strip().lower()
        if exemption == "*":
            return True
        if address is not None:
            try:
                if address in ip_network(exemption.strip("[]"), strict=False):
                    return True
            except ValueError:
                continue
        else:
            domain = exemption.lstrip(".")
            if domain and (host == domain or host.endswith(f".{domain}")):
                return True
    return False
