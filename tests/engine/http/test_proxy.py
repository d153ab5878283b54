"""Which proxy the environment names for a URL."""

from __future__ import annotations

import pytest

from exec_server.engine.http.proxy import UnsupportedProxy, proxy_for
from exec_server.engine.http.url import parse


def chosen(url: str, **environment: str) -> str | None:
    proxy = proxy_for(parse(url), environment)
    return None if proxy is None else str(proxy)


@pytest.mark.parametrize(
    ("environment", "for_http", "for_https"),
    [
        ({}, None, None),
        ({"http_proxy": "http://p:1"}, "http://p:1/", None),
        ({"HTTP_PROXY": "p:1"}, "http://p:1/", None),
        ({"https_proxy": "https://p"}, None, "https://p/"),
        ({"HTTPS_PROXY": "p"}, None, "http://p/"),
        ({"all_proxy": "p:3128"}, "http://p:3128/", "http://p:3128/"),
        ({"ALL_PROXY": "p", "https_proxy": "q"}, "http://p/", "http://q/"),
        ({"http_proxy": "p", "HTTP_PROXY": "q"}, "http://p/", None),
        ({"http_proxy": "", "HTTP_PROXY": "q"}, None, None),
        ({"http_proxy": " p "}, "http://p/", None),
        ({"HTTP_PROXY": "p", "REQUEST_METHOD": "GET"}, None, None),
        ({"HTTPS_PROXY": "p", "REQUEST_METHOD": "GET"}, None, "http://p/"),
        ({"http_proxy": "::bad", "https_proxy": "ftp://p"}, None, None),
    ],
)
def test_variables(
    environment: dict[str, str], for_http: str | None, for_https: str | None
) -> None:
    """By scheme, lower case first, then the one for all."""
    assert chosen("http://h/", **environment) == for_http
    assert chosen("https://h/", **environment) == for_https


def test_the_proxy_may_name_a_user() -> None:
    """Percent-decoded."""
    proxy = proxy_for(parse("http://h/"), {"http_proxy": "http://us%20er:pw@p"})
    assert proxy is not None
    assert (proxy.username, proxy.password) == (b"us er", b"pw")


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("example.com", "example.com", True),
        ("example.com", "sub.example.com", True),
        (".example.com", "example.com", True),
        (".example.com", "sub.example.com", True),
        ("Example.COM", "example.com", True),
        ("example.com", "notexample.com", False),
        ("example.com", "example.com.evil", False),
        ("a, b ,c", "b", True),
        ("*", "anything", True),
        ("*", "10.0.0.1", True),
        ("*.example.com", "sub.example.com", False),
        ("", "h", False),
        (",", "h", False),
        (".", "h", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.0.0/8", "10.2.3.4", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("::1", "[::1]", True),
        ("[::1]", "[::1]", True),
        ("fe80::/10", "[fe80::1]", True),
        ("10.0.0.0/8", "[::1]", False),
        ("0.0.0.1", "h.0.0.0.1.example", False),
    ],
)
def test_exemptions(no_proxy: str, host: str, direct: bool) -> None:
    """Domains with all below them, addresses, networks, or everything."""
    environment = {"all_proxy": "http://p", "no_proxy": no_proxy}
    assert chosen(f"http://{host}:8080/", **environment) == (None if direct else "http://p/")


@pytest.mark.parametrize("proxy", ["socks5://p", "SOCKS5h://p:1080", "socks4://p"])
def test_socks_proxies_cannot_be_used(proxy: str) -> None:
    """Which is an error: going there directly is what a proxy is meant to prevent."""
    with pytest.raises(UnsupportedProxy):
        chosen("http://h/", http_proxy=proxy)
