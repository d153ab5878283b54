"""File URIs: what they name, what is refused and with which words, and the canonical form."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exec_server.engine import path_uri, paths
from exec_server.errors import InvalidArgument, InvalidRequest


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///", "/"),
        ("file://", "/"),
        ("file:/", "/"),
        ("file:", "/"),
        ("file:///a/b", "/a/b"),
        ("file:/a", "/a"),
        ("file:a", "/a"),
        ("file:../a", "/a"),
        ("file:////a", "/a"),
        ("file://///a", "/a"),
        ("FiLe:///a", "/a"),
        ("file://localhost/a", "/a"),
        ("file://LOCALHOST//a", "/a"),
        ("file://%6cocalhost", "/"),
        ("file:///localhost/a", "/localhost/a"),
        (" \x00\t file:///a\x1f ", "/a"),
        ("fi\tle:///a\n/\rb", "/a/b"),
        ("file:///a\\b", "/a/b"),
        ("file:///\\host\\a", "/host/a"),
        ("file:\\\\\\a", "/a"),
        ("file:\\\\localhost\\a", "/a"),
        ("file:///a//b///", "/a/b"),
        ("file:///a/./b/.", "/a/b"),
        ("file:///a/../b/..", "/"),
        ("file:///../../a", "/a"),
        ("file:///a/%2e%2E/b/.%2e/%2e/c", "/c"),
        ("file:///a/...", "/a/..."),
        ("file:///.git/..x/.x", "/.git/..x/.x"),
        ("file:///a//../b", "/a/b"),
        ("file:///a%2Fb", "/a/b"),
        ("file:///a/b%2F..%2Fc", "/a/c"),
        ("file:///a/b/%2F../c", "/a/c"),
        ("file:///a%00/../b", "/b"),
        ("file:///a b/ü/%C3%bc/😀", "/a b/ü/ü/😀"),
        ("file:///%41%25%2541%zz/%/%2", "/A%%41%zz/%/%2"),
        ("file:///%FF%c3", "/\udcff\udcc3"),
        ("file:///a%5C..%5cb", "/a\\..\\b"),
        ("file:///;a=b&c,d@e!$'()*+[]^|~", "/;a=b&c,d@e!$'()*+[]^|~"),
        ('file:///"<>`{}\x01\x7f', '/"<>`{}\x01\x7f'),
        ("file:///%0A%09", "/\n\t"),
        ("file:///a\u00a0\u2028", "/a\u00a0\u2028"),
        ("file:///~/x", "/~/x"),
        ("file:///%20", "/ "),
        ("file:///C|/x", "/C|/x"),
        ("file:///C%7C", "/C|"),
        ("file:///C:x/cc:/1:", "/C:x/cc:/1:"),
        ("file:///a/c:/x", "/a/c:/x"),
        ("file:///x//../c:", "/x/c:"),
        ("file:///%43:/x", "/C:/x"),
        ("file:///c:%2Fx", "/c:/x"),
        ("file:///c%3A/../x", "/x"),
        ("file:///%00/bad/path/L2M6", "/c:"),
        ("file:////%00/bad/path/L2M6L_8", "/c:/\udcff"),
    ],
)
def test_uris_are_parsed(uri: str, path: str) -> None:
    """v2 fs/*: many ways to write it, one path."""
    assert path_uri.parse(uri) == path


NO_BASE = "invalid URI: relative URL without a base"
QUERY = "query parameters are not allowed in path URIs"
FRAGMENT = "fragments are not allowed in path URIs"
DOMAIN = "invalid URI: invalid international domain name"
FOREIGN = "'{}' is invalid on 'linux'"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        *(
            (uri, NO_BASE)
            for uri in ("", " ", "/a", "a", ".", "~", "//a", "\\a", ":", "1:a", "file :///a")
        ),
        ("http:///a", "unsupported path URI scheme `http`"),
        ("C:\\a", "unsupported path URI scheme `c`"),
        ("a+b.c-d:", "unsupported path URI scheme `a+b.c-d`"),
        *((uri, QUERY) for uri in ("file:///a?", "file:?b", "file:///a?b#c", "file://host/a?")),
        *((uri, FRAGMENT) for uri in ("file:///a#", "file:#b", "file:///a#b?c", "file:///C:#")),
        *(
            (uri, DOMAIN)
            for uri in (
                "file://user@/a",
                "file://user:password@localhost/a",
                "file://@localhost/a",
                "file://localhost:80/a",
                "file://localhost:/a",
                "file://:80/a",
                "file://user@host?b",
                "file://a b/c",
                "file://%00/a",
                "file://c:x/a",
            )
        ),
        ("file://[::1/a", "invalid URI: invalid IPv6 address"),
        ("file://[::1]:80/a", "invalid URI: invalid IPv6 address"),
        ("file://256.1.1.1/a", "invalid URI: invalid IPv4 address"),
        ("file:///a/%00", FOREIGN.format("file:///a/%00")),
        ("file:///a b%00", FOREIGN.format("file:///a%20b%00")),
        ("file:///c:/%00", FOREIGN.format("file:///c:/%00")),
        ("file://host/%00/bad/path/AA", FOREIGN.format("file://host/%00/bad/path/AA")),
        ("file:///%00/bad/path/", FOREIGN.format("file:///%00/bad/path/")),
        ("file:///%00/bad/path/A", FOREIGN.format("file:///%00/bad/path/A")),
        ("file:///%00/bad/path/AB", FOREIGN.format("file:///%00/bad/path/AB")),
        ("file:///%00/bad/path/AAA=", FOREIGN.format("file:///%00/bad/path/AAA=")),
        ("file:///%00/bad/path/AA/", FOREIGN.format("file:///%00/bad/path/AA/")),
        ("file:///%00/BAD/path/AA", FOREIGN.format("file:///%00/BAD/path/AA")),
    ],
)
def test_invalid_uris_are_refused(uri: str, message: str) -> None:
    """v2 fs/*: a bad argument, in the released servers' words."""
    with pytest.raises(InvalidArgument) as caught:
        path_uri.parse(uri)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("file://HOST", "file://host/"),
        ("file://host//a b", "file://host/a%20b"),
        ("file:/\\host\\a", "file://host/a"),
        ("file://127.1/a", "file://127.0.0.1/a"),
        ("file://[::1]/a", "file://[::1]/a"),
        ("file://ü/%FF", "file://xn--tda/%FF"),
        ("file://localhost./a", "file://localhost./a"),
        ("file:///c:/x", "file:///C:/x"),
        ("file:////c:", "file:///C:"),
        ("file:c:\\x", "file:///C:/x"),
        ("file:/c|/x", "file:///C:/x"),
        ("file://c|/x", "file:///C:/x"),
        ("file://C:", "file:///C:"),
        ("file://host/c:/x", "file:///C:/x"),
        ("file:///c%3a/a b", "file:///C%3a/a%20b"),
        ("file:///a/../c:/x", "file:///C:/x"),
        ("file:///./c:/../x", "file:///C:/x"),
        ("file:////c:/%00/..", "file:///C:/"),
        ("file:///%00/bad/path/L3Jvb3Q", "file:///%00/bad/path/L3Jvb3Q"),
        ("file:///%00/x/../bad/path/Yzpc", "file:///%00/bad/path/Yzpc"),
        ("file:///%00/bad/path/L2M6Lw", "file:///%00/bad/path/L2M6Lw"),
        ("file:///%00/bad/path/L2M6AA", "file:///%00/bad/path/L2M6AA"),
        ("file:///%00/bad/path/AA", "file:///%00/bad/path/AA"),
    ],
)
def test_paths_of_other_systems(uri: str, shown: str) -> None:
    """v2 fs/*: a bad request that shows the URI in normal form."""
    with pytest.raises(InvalidRequest) as caught:
        path_uri.parse(uri)
    assert str(caught.value) == FOREIGN.format(shown)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/", "file:///"),
        ("/a/.b", "file:///a/.b"),
        ("/a b", "file:///a%20b"),
        ("/ü😀", "file:///%C3%BC%F0%9F%98%80"),
        ("/\udcff", "file:///%FF"),
        ("/%41#?\\", "file:///%2541%23%3F%5C"),
        ('/\n\x7f"<>`{}', "file:///%0A%7F%22%3C%3E%60%7B%7D"),
        ("/!$&'()*+,-.09:;=@AZ[]^_az|~", "file:///!$&'()*+,-.09:;=@AZ[]^_az|~"),
        ("/a/c:", "file:///a/c:"),
        ("/cc:/c:x", "file:///cc:/c:x"),
        ("/c%3A", "file:///c%253A"),
        ("/c:", "file:///%00/bad/path/L2M6"),
        ("/c:/\udcff", "file:///%00/bad/path/L2M6L_8"),
    ],
)
def test_the_canonical_form(path: str, uri: str) -> None:
    """v2 fs/canonicalize: only what must be is encoded, in capitals; it leads back."""
    assert path_uri.format(path) == uri
    assert path_uri.parse(uri) == path


COMPONENTS = st.one_of(
    st.sampled_from(["c:", "C|", "...", "%2e", "%00", "a b", "\\", "%", "localhost"]),
    st.binary(min_size=1, max_size=6)
    .filter(lambda name: not {b"\0"[0], b"/"[0]} & set(name))
    .map(paths.from_native)
    .filter(lambda name: name not in (".", "..")),
)


@given(st.lists(COMPONENTS).map(lambda components: "/" + "/".join(components)))
def test_every_path_survives(path: str) -> None:
    """For any bytes, in both directions."""
    assert path_uri.parse(path_uri.format(path)) == path


@given(
    st.lists(
        st.sampled_from(
            ["/", "//", ".", "..", "a", "c:", "%2e", "%2F", "%41", "%ff", "\\", " ", "|", "ü"]
        )
    ).map("".join)
)
def test_the_canonical_form_names_the_same(rest: str) -> None:
    """In any spelling of the URI."""
    try:
        path = path_uri.parse("file:///" + rest)
    except InvalidRequest:  # a drive letter came to the front
        assume(False)
    assert paths.normalize(path) == path
    assert path_uri.parse(path_uri.format(path)) == path
