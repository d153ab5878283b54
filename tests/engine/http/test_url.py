"""URLs of http and https in normal form (the WHATWG URL standard)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec_server.engine.http.url import HttpUrl, UnsupportedScheme, UrlError, parse, resolve


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://h", "http://h/"),
        ("HTTP://EXAMPLE.com:80", "http://example.com/"),
        ("https://h:443/", "https://h/"),
        ("https://h:80/", "https://h:80/"),
        ("http://h:/", "http://h/"),
        ("http://h:0/", "http://h:0/"),
        ("http://h:0008080/", "http://h:8080/"),
        ("http://h?q", "http://h/?q"),
        ("http://h#f", "http://h/#f"),
        ("http://h/?#", "http://h/?#"),
        ("http:h/a", "http://h/a"),
        ("http:/h/a", "http://h/a"),
        ("http:////h/a", "http://h/a"),
        ("http:\\\\h\\a\\..\\b?c\\d", "http://h/b?c\\d"),
        ("  http://h/x \n", "http://h/x"),
        ("ht\ttp://h/a\tb\nc", "http://h/abc"),
        ("http://h/a/./b/../c//d/%2e%2E/e/%2E?x/../y", "http://h/a/c//e/?x/../y"),
        ("http://h/../..", "http://h/"),
        ("http://h/a/..", "http://h/"),
        ("http://h/%zz%41?%", "http://h/%zz%41?%"),
        ('http://h/ "<>`{}|^ü', "http://h/%20%22%3C%3E%60%7B%7D|^%C3%BC"),
        ("http://h/?' \"<>`{}|^ü", "http://h/?%27%20%22%3C%3E`{}|^%C3%BC"),
        ('http://h/#? "<>`{}|^ü', "http://h/#?%20%22%3C%3E%60{}|^%C3%BC"),
        ("http://u:p@h/", "http://h/"),
        ("http://u@v:p@h/", "http://h/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7F.1/", "http://127.0.0.1/"),
        ("http://0177.0.0.01/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://%31%32%37.0.0.1./", "http://127.0.0.1/"),
        ("http://1.2.3.com/", "http://1.2.3.com/"),
        ("http://[::1]:1/", "http://[::1]:1/"),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"),
        ("http://[2001:DB8::A]/", "http://[2001:db8::a]/"),
        ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/"),
        ("http://a_b.c-.d/", "http://a_b.c-.d/"),
        ("http://h%C3%BC/", "http://xn--h-eha/"),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    """Normal forms, as in the released servers."""
    url = parse(text)
    assert str(url) == expected
    assert str(parse(expected)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "relative URL without a base") for text in ("", "x", "/x", "//h", "h:80/"[1:])),
        *((text, "relative URL without a base") for text in ("1http://h", "ht tp://h", "http")),
        *(
            (text, "empty host")
            for text in ("http:", "http://", "http:///", "http://u:p@/", "http://@", "http://:80/")
        ),
        *(
            (text, "invalid port number")
            for text in (
                "http://h:65536/",
                "http://h:x/",
                "http://h:-1",
                "http://h:٣",
                "http://[::1]x",
            )
        ),
        *(
            (f"http://{host}/", "invalid IPv6 address")
            for host in ("[::1", "[z]", "[::1%lo]", "[]")
        ),
        *(
            (f"http://{host}/", "invalid IPv4 address")
            for host in (
                "1.2.3.256",
                "1.2.3.4.5",
                "256.0.0.1",
                "09.1",
                "1..2",
                "0x.0xg.1",
                "9" * 5000,
            )
        ),
        *(
            (f"http://{host}/", "invalid international domain name")
            for host in ("a b", "a%20b", "a<b", "xn--a", "a%00", "%FF", "a^b", "ü%")
        ),
        ("http://\u00ad/", "empty host"),
    ],
)
def test_no_url(text: str, reason: str) -> None:
    """The reason is said in the released servers' words."""
    with pytest.raises(UrlError) as caught:
        parse(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "text", ["ftp://h", "FTP:", "file:///x", "mailto:x", "data:,x", "a+b.c-1:"]
)
def test_other_schemes(text: str) -> None:
    """Are named, in lower case."""
    with pytest.raises(UnsupportedScheme) as caught:
        parse(text)
    assert caught.value.scheme == text.partition(":")[0].lower()


def test_parts() -> None:
    """Host, port and target of a connection."""
    url = parse("https://us%20er:p%3Aw%zz@[::1]:8443/a?b#c")
    assert url == HttpUrl("https", "::1", 8443, "/a", "b", "c", b"us er", b"p:w%zz")
    assert (url.effective_port, url.authority, url.target) == (8443, "[::1]:8443", "/a?b")
    assert url.origin == ("https", "::1", 8443)
    assert url.without_fragment == "https://[::1]:8443/a?b"
    assert url.has_user
    plain = parse("http://h")
    assert (plain.effective_port, plain.authority, plain.target) == (80, "h", "/")
    assert not plain.has_user


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("", "http://h:1/a/b?c"),
        ("#f", "http://h:1/a/b?c#f"),
        ("?q", "http://h:1/a/b?q"),
        ("x", "http://h:1/a/x"),
        ("x?y", "http://h:1/a/x?y"),
        ("./x", "http://h:1/a/x"),
        ("../x", "http://h:1/x"),
        ("..", "http://h:1/"),
        ("/x", "http://h:1/x"),
        ("\\x", "http://h:1/x"),
        ("\\x?\\y", "http://h:1/x?\\y"),
        ("//o/x", "http://o/x"),
        ("\\\\o\\x", "http://o/x"),
        ("https://o", "https://o/"),
        ("https:o", "https://o/"),
        ("HTTP:x", "http://h:1/a/x"),
        ("http:/x", "http://h:1/x"),
        ("http:\\\\o", "http://o/"),
        ("http:", "http://h:1/a/b?c"),
        (" \t/x y\n", "http://h:1/x%20y"),
        ("x:y@z", None),
    ],
)
def test_resolving(reference: str, expected: str | None) -> None:
    """Against a URL whose user, query and fragment are not taken over."""
    base = parse("http://u:p@h:1/a/b?c#d")
    if expected is None:
        with pytest.raises(UnsupportedScheme):
            resolve(base, reference)
        return
    url = resolve(base, reference)
    assert str(url) == expected
    assert not url.has_user


@given(st.text(max_size=30), st.sampled_from(["", "http:", "http://", "https://h/", "http://h:"]))
def test_any_text_is_a_url_or_not(text: str, start: str) -> None:
    """No other error; what is a URL is ready for the wire and stays as it is."""
    try:
        url = parse(start + text)
    except UrlError:
        return
    assert str(url).isascii()
    assert not set(str(url)) & set(' \t\r\n"<>')
    assert str(parse(str(url))) == str(url)
