"""Authentication of WebSocket clients, and the refusals (measured on codex 0.169)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import re
import socket
import subprocess
import tempfile
import time
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exec_server.cli.server.main import main
from exec_server.transports.auth import WRONG_TOKEN, CapabilityToken, SignedToken, Unauthorized
from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server.transports.auth import Authenticator

TOKEN = "s3cret token"
SECRET = "k" * 32
TOKEN_OF_T = (
    *("--ws-auth", "capability-token"),
    *("--ws-token-sha256", hashlib.sha256(b"t").hexdigest()),
)

OTHER_ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")
"""Encodings that a lenient parser of JSON guesses; RFC 7519 has UTF-8 alone."""

UPGRADE = (
    "GET / HTTP/1.1",
    "Host: 127.0.0.1",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def connected(server: peer.Listening) -> socket.socket:
    host, _, port = server.url.removeprefix("ws://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=peer.PATIENCE)


def answer(server: peer.Listening, *lines: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the answer to a request head; the body only if it is short."""
    with connected(server) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
    return int(status.split(" ")[1]), headers, body.decode()


def upgraded(server: peer.Listening, *authorizations: str) -> tuple[int, str]:
    """Status and body of the answer to an upgrade with these Authorization headers."""
    headers = [f"Authorization:{value}" for value in authorizations]
    status, _, body = answer(server, *UPGRADE, *headers)
    return status, body if status != 101 else ""


def with_token(server: peer.Listening, token: str) -> peer.WebSocketClient:
    """A connection with a token, before the handshake of the protocol."""
    headers = {"Authorization": f"Bearer {token}"}
    return peer.WebSocketClient(server.url, additional_headers=headers)


def encode(part: object) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(
    claims: object, header: object = None, *, secret: str = SECRET, algorithm: str = "sha256"
) -> str:
    """A signed token; claims that are bytes are taken as they are."""
    signed = f"{encode(header or {'alg': 'HS256', 'typ': 'JWT'})}.{encode(claims)}"
    return f"{signed}.{encode(hmac.digest(secret.encode(), signed.encode(), algorithm))}"


def soon(seconds: float = 60) -> int:
    return int(time.time() + seconds)


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peer.Listening]:
    """A server that asks for TOKEN."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"  {TOKEN}\n")
    arguments = ("--ws-auth", "capability-token", "--ws-token-file", str(file))
    with peer.listening(*arguments) as server:
        yield server


@pytest.fixture(scope="module")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that holds SECRET."""
    file: Path = tmp_path_factory.mktemp("secret") / "secret"
    file.write_text(f"{SECRET}\n")
    return file


@pytest.fixture(scope="module")
def signed(secret_file: Path) -> Iterator[peer.Listening]:
    """A server that asks for tokens signed with SECRET."""
    arguments = ("--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", str(secret_file))
    with peer.listening(*arguments) as server:
        yield server


@pytest.fixture(scope="module")
def hosts() -> Iterator[peer.Listening]:
    """A server with a name."""
    with peer.listening("--allow-host", "Box.Example") as server:
        yield server


class TestCapabilityTokens:
    """A token that is agreed on."""

    @pytest.mark.parametrize(
        "authorization",
        [
            f" Bearer {TOKEN}",
            f"bearer {TOKEN}",
            f"  BEARER    {TOKEN}  \t",
        ],
    )
    def test_the_right_token(self, agreed: peer.Listening, authorization: str) -> None:
        """However the scheme is spelt and spaced."""
        assert upgraded(agreed, authorization) == (101, "")

    @pytest.mark.parametrize(
        ("authorization", "text"),
        [
            ("Bearer s3cret", "invalid websocket bearer token"),
            (f"Bearer {TOKEN} ,", "invalid websocket bearer token"),
            (f"Bearer {TOKEN.upper()}", "invalid websocket bearer token"),
            (f'Bearer "{TOKEN}"', "invalid websocket bearer token"),
            ("", "invalid authorization header"),
            ("Bearer", "invalid authorization header"),
            ("Bearer ", "invalid authorization header"),
            (TOKEN, "invalid authorization header"),
            (f"Basic {TOKEN}", "invalid authorization header"),
            (f"Bearer: {TOKEN}", "invalid authorization header"),
            (f"Bearer\t{TOKEN}", "invalid authorization header"),
            ("Bearer \xff", "invalid authorization header"),
        ],
    )
    def test_others(self, agreed: peer.Listening, authorization: str, text: str) -> None:
        """Are refused."""
        assert upgraded(agreed, authorization) == (401, text)

    def test_the_whole_answer(self, agreed: peer.Listening) -> None:
        """Plain text, and no challenge that a browser would ask its user about."""
        status, headers, body = answer(agreed, *UPGRADE)
        assert (status, body) == (401, "missing websocket bearer token")
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert "www-authenticate" not in headers

    def test_the_first_header_counts(self, agreed: peer.Listening) -> None:
        """Of several."""
        assert upgraded(agreed, f"Bearer {TOKEN}", "Bearer x")[0] == 101
        assert upgraded(agreed, "Bearer x", f"Bearer {TOKEN}")[0] == 401

    @pytest.mark.parametrize(
        "lines",
        [
            ("GET /?token=s3cret%20token HTTP/1.1", *UPGRADE[1:]),
            (*UPGRADE, f"Sec-WebSocket-Protocol: bearer, {TOKEN}"),
            (*UPGRADE, f"Proxy-Authorization: Bearer {TOKEN}"),
            (*UPGRADE, f"Cookie: token={TOKEN}"),
        ],
    )
    def test_nothing_else_counts(self, agreed: peer.Listening, lines: tuple[str, ...]) -> None:
        """Neither the URL, which gets into logs, nor other headers."""
        assert answer(agreed, *lines)[2] == "missing websocket bearer token"

    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            ((*UPGRADE, "Origin: x"), 403),
            (("GET /other HTTP/1.1", *UPGRADE[1:]), 404),
            (("POST / HTTP/1.1", *UPGRADE[1:]), 405),
            (UPGRADE[:3], 400),
            (UPGRADE[:5], 400),
            (("GET /readyz HTTP/1.1", "Host: localhost"), 200),
        ],
    )
    def test_it_is_asked_last(
        self, agreed: peer.Listening, lines: tuple[str, ...], status: int
    ) -> None:
        """So what is wrong otherwise is said, and everybody may ask whether the server is up."""
        assert answer(agreed, *lines)[0] == status

    def test_a_client(self, agreed: peer.Listening) -> None:
        """Works as without."""
        client = peer.WebSocketClient(
            agreed.url, additional_headers={"Authorization": f"Bearer {TOKEN}"}
        )
        try:
            assert client.initialize()
            assert client.is_alive()
        finally:
            client.close()

    def test_a_digest_of_the_token(self) -> None:
        """Does as well, and is no token itself."""
        digest = hashlib.sha256(TOKEN.encode()).hexdigest().upper()
        arguments = ("--ws-auth", "capability-token", "--ws-token-sha256", digest)
        with peer.listening(*arguments) as server:
            assert upgraded(server, f"Bearer {TOKEN}") == (101, "")
            assert upgraded(server, f"Bearer {digest}")[0] == 401

    def test_a_token_in_the_environment(self) -> None:
        """Lets in, and is not there for the programs that are started."""
        arguments = ("--ws-auth", "capability-token", "--ws-token-env", "ITS_TOKEN")
        environment = {**os.environ, "ITS_TOKEN": f" {TOKEN}\n", "OTHER": "o"}
        with peer.running("--listen", "ws://127.0.0.1:0", *arguments, env=environment) as process:
            server = peer.Listening(process)
            assert upgraded(server, f"Bearer {TOKEN}x") == (401, "invalid websocket bearer token")
            assert TOKEN not in Path(f"/proc/{process.pid}/cmdline").read_text()
            headers = {"Authorization": f"Bearer {TOKEN}"}
            client = peer.WebSocketClient(server.url, additional_headers=headers)
            try:
                client.initialize()
                policy = {
                    "inherit": "all",
                    "ignoreDefaultExcludes": True,
                    "exclude": [],
                    "set": {},
                    "includeOnly": [],
                }
                client.start("p", "/usr/bin/env", env={}, envPolicy=policy)
                printed = b"".join(
                    base64.b64decode(event["params"]["chunk"])
                    for event in client.closed("p")
                    if event["method"] == "process/output"
                )
            finally:
                client.close()
        assert b"OTHER=o\n" in printed
        assert b"ITS_TOKEN" not in printed

    def test_the_token_stays_secret(self, tmp_path: Path) -> None:
        """Nothing that the server prints has it, nor its command line or environment."""
        file = tmp_path / "token"
        file.write_text(TOKEN)
        arguments = ("--ws-auth", "capability-token", "--ws-token-file", str(file), "--verbose")
        command = [peer.PROGRAM, "--listen", "ws://127.0.0.1:0", *arguments]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                server = peer.Listening(process)
                assert upgraded(server, f"Bearer {TOKEN}")[0] == 101
                assert upgraded(server, f"Bearer {TOKEN}x")[0] == 401
                with open(f"/proc/{process.pid}/environ") as environment:
                    assert TOKEN not in environment.read()
            finally:
                process.terminate()
            out, err = process.communicate(timeout=peer.PATIENCE)
        assert TOKEN.encode() not in out + err


NOBODY = 65534


class TestProcFiles:
    """Secrets of the server are hidden in /proc from programs of the same user."""

    ENVIRONMENT = ("--ws-auth", "capability-token", "--ws-token-env", "ITS_TOKEN")

    @staticmethod
    def printed(client: peer.WebSocketClient, *argv: str) -> bytes:
        client.start("p", *argv)
        return b"".join(
            base64.b64decode(event["params"]["chunk"])
            for event in client.closed("p")
            if event["method"] == "process/output"
        )

    def test_a_token_in_the_environment_is_erased(self) -> None:
        """Also for root, whom no rule keeps from reading."""
        environment = {**os.environ, "BEFORE": "b", "ITS_TOKEN": TOKEN, "BEHIND": "c"}
        with peer.running(
            "--listen", "ws://127.0.0.1:0", *self.ENVIRONMENT, env=environment
        ) as process:
            server = peer.Listening(process)
            client = with_token(server, TOKEN)
            client.initialize()
            if os.geteuid() == 0:
                seen = self.printed(client, "sh", "-c", "cat /proc/$PPID/environ")
                assert b"BEFORE=b\0" in seen
                assert b"BEHIND=c\0" in seen
                assert TOKEN.encode() not in seen
            client.close()

    @pytest.mark.parametrize("name", ["environ", "mem", "maps", "fd/0"])
    def test_programs_cannot_look_into_the_server(self, name: str) -> None:
        """As an ordinary user: its memory has tokens and secrets."""
        arguments = ("--listen", "ws://127.0.0.1:0", *TOKEN_OF_T)
        with peer.running(*arguments, program=as_ordinary_user()) as process:
            server = peer.Listening(process)
            client = with_token(server, "t")
            client.initialize()
            script = f"(true </proc/$PPID/{name}) 2>/dev/null && echo open || echo closed"
            assert self.printed(client, "sh", "-c", script) == b"closed\n"
            client.close()

    def test_files_are_written_all_the_same(self) -> None:
        """The server itself finds its descriptors in /proc."""
        arguments = ("--listen", "ws://127.0.0.1:0", *TOKEN_OF_T)
        with (
            peer.running(*arguments, program=as_ordinary_user()) as process,
            tempfile.TemporaryDirectory() as folder,
        ):
            os.chmod(folder, 0o777)
            client = with_token(peer.Listening(process), "t")
            client.initialize()
            for content in (b"old", b"new"):
                data = base64.b64encode(content).decode()
                client.call("fs/writeFile", {"path": f"{folder}/f", "dataBase64": data})
                assert Path(folder, "f").read_bytes() == content
            assert os.listdir(folder) == ["f"]
            client.close()


def as_ordinary_user() -> tuple[str, ...]:
    """The server's program, run by an ordinary user; root's files may be where only root can go."""
    if os.geteuid():
        return (peer.PROGRAM,)
    reading = "-all,+dac_read_search"
    return (
        *("setpriv", f"--reuid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={reading}", f"--ambient-caps={reading}", f"--bounding-set={reading}"),
        peer.PROGRAM,
    )


class TestSignedTokens:
    """JSON Web Tokens."""

    @pytest.mark.parametrize(
        ("claims", "text"),
        [
            ({"exp": 60}, None),
            ({"exp": -20}, None),
            ({"exp": -60}, "expired websocket jwt"),
            ({"exp": 60, "nbf": 20}, None),
            ({"exp": 60, "nbf": 60}, "websocket jwt is not valid yet"),
            ({"exp": -60, "nbf": 60}, "expired websocket jwt"),
        ],
    )
    def test_times(self, signed: peer.Listening, claims: dict[str, int], text: str | None) -> None:
        """Clocks may differ by 30 seconds."""
        moments = {name: soon(seconds) for name, seconds in claims.items()}
        status = (101, "") if text is None else (401, text)
        assert upgraded(signed, f"Bearer {jwt(moments)}") == status

    @pytest.mark.parametrize(
        "claims",
        [
            {"iat": 2**40},
            {"iat": "x"},
            {"iss": "anybody"},
            {"aud": "anybody"},
            {"aud": ["a", "b"]},
            {"sub": 5, "jti": 5, "other": {"a": [1]}},
            {"nbf": None, "iss": None, "aud": None},
            {"nbf": -5},
        ],
    )
    def test_claims_that_do_not_count(self, signed: peer.Listening, claims: object) -> None:
        """Because nothing is known of them, or nothing was configured."""
        assert isinstance(claims, dict)
        assert upgraded(signed, f"Bearer {jwt({'exp': soon(), **claims})}")[0] == 101

    @pytest.mark.parametrize(
        "header",
        [
            {"alg": "HS256"},
            {"alg": "HS256", "typ": "other"},
            {"alg": "HS256", "kid": "k", "more": 1},
        ],
    )
    def test_headers_that_do_not_count(self, signed: peer.Listening, header: object) -> None:
        """All but the algorithm."""
        assert upgraded(signed, f"Bearer {jwt({'exp': soon()}, header)}")[0] == 101

    @pytest.mark.parametrize(
        "claims",
        [
            {},
            {"exp": None},
            {"exp": "9999999999"},
            {"exp": 9999999999.0},
            {"exp": True},
            {"exp": 2**64},
            {"exp": 9999999999, "nbf": "x"},
            {"exp": 9999999999, "nbf": 1.5},
            {"exp": 9999999999, "iss": 5},
            {"exp": 9999999999, "aud": 5},
            {"exp": 9999999999, "aud": [5]},
            {"exp": 9999999999, "aud": {}},
            [1],
            b"x",
            b'{"exp": 9999999999}x',
            b'{"exp": NaN}',
            b'{"exp": 1, "exp": 9999999999}',
            b'{"exp": 9999999999, "x": "\xff"}',
            b"[" * 5000,
            *('{"exp": 9999999999}'.encode(name) for name in OTHER_ENCODINGS),
        ],
    )
    def test_claims_of_the_wrong_form(self, signed: peer.Listening, claims: object) -> None:
        """Headers of unknown meaning."""
        assert upgraded(signed, f"Bearer {jwt(claims)}") == (401, "invalid websocket jwt")

    @pytest.mark.parametrize(
        "header",
        [
            {"alg": "none"},
            {"alg": "HS384"},
            {"alg": "HS512"},
            {"alg": "RS256"},
            {"alg": "hs256"},
            {"typ": "JWT"},
            {"alg": "HS256", "typ": 5},
            {"alg": "HS256", "kid": 5},
            {"alg": "HS256", "crit": ["x"]},
            {"alg": "HS256", "crit": ["b64"], "b64": False},
            ["HS256"],
            *('{"alg": "HS256"}'.encode(name) for name in OTHER_ENCODINGS),
            b'{"alg": "none", "alg": "HS256"}',
        ],
    )
    def test_headers_of_the_wrong_form(self, signed: peer.Listening, header: object) -> None:
        """Above all those that name another algorithm, or none."""
        token = jwt({"exp": soon()}, header)
        assert upgraded(signed, f"Bearer {token}") == (401, "invalid websocket jwt")

    def test_tokens_of_the_wrong_form(self, signed: peer.Listening) -> None:
        """Or with another signature."""
        right = jwt({"exp": soon()})
        head, body, signature = right.split(".")
        for token in (
            f"{head}.{body}",
            f"{head}.{body}.",
            f"{right}.x",
            f"{right}=",
            f"{head}. {body}.{signature}",
            "x",
            "..",
            f"{head}.{body}.{encode(bytes(32))}",
            f"{head}.{body}.{encode(b'x')}",
            f"{head}.{body}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}",
            f"{head}.{encode({'exp': soon(600)})}.{signature}",
            f"{encode({'alg': 'none'})}.{body}.",
            jwt({"exp": soon()}, secret="t" * 32),
            jwt({"exp": soon()}, secret=f"{SECRET}\n"),
            jwt({"exp": soon()}, {"alg": "HS384"}, algorithm="sha384"),
            jwt({"exp": soon(-99)}, secret="t" * 32),
        ):
            assert upgraded(signed, f"Bearer {token}") == (401, "invalid websocket jwt"), token
        assert upgraded(signed, f"Bearer {right}") == (101, "")

    def test_no_token(self, signed: peer.Listening) -> None:
        """As for tokens of the other kind."""
        assert upgraded(signed) == (401, "missing websocket bearer token")
        assert upgraded(signed, "Basic x") == (401, "invalid authorization header")

    @pytest.mark.parametrize(
        ("claims", "text"),
        [
            ({"iss": "i", "aud": "a"}, None),
            ({"iss": "i", "aud": ["x", "a"]}, None),
            ({"aud": "a"}, "websocket jwt issuer mismatch"),
            ({"iss": None, "aud": "a"}, "websocket jwt issuer mismatch"),
            ({"iss": "I", "aud": "x"}, "websocket jwt issuer mismatch"),
            ({"iss": ["i"], "aud": "a"}, "invalid websocket jwt"),
            ({"iss": "i"}, "websocket jwt audience mismatch"),
            ({"iss": "i", "aud": []}, "websocket jwt audience mismatch"),
            ({"iss": "i", "aud": ["x", "aa"]}, "websocket jwt audience mismatch"),
            ({"iss": "i", "aud": ["a", 5]}, "invalid websocket jwt"),
            ({"iss": "x", "exp": 1}, "expired websocket jwt"),
            ({"iss": "x", "nbf": 9999999999}, "websocket jwt is not valid yet"),
        ],
    )
    def test_issuer_and_audience(self, claims: object, text: str | None) -> None:
        """Where they are configured; the times are looked at before."""
        assert isinstance(claims, dict)
        judge = SignedToken(SECRET.encode(), "i", "a")
        assert refusal(judge, f"Bearer {jwt({'exp': soon(), **claims})}") == text

    def test_options(self, secret_file: Path) -> None:
        """Of the command line; an empty name is none."""
        common = ("--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", str(secret_file))
        named = ("--ws-issuer", "i", "--ws-audience", "a", "--ws-max-clock-skew-seconds", "0")
        with peer.listening(*common, *named) as server:
            for claims, status in (
                ({"exp": soon(), "iss": "i", "aud": "a"}, 101),
                ({"exp": soon(), "iss": "i"}, 401),
                ({"exp": soon(), "aud": "a"}, 401),
                ({"exp": soon(-10), "iss": "i", "aud": "a"}, 401),
                ({"exp": soon(), "nbf": soon(20), "iss": "i", "aud": "a"}, 401),
            ):
                assert upgraded(server, f"Bearer {jwt(claims)}")[0] == status
        with peer.listening(*common, "--ws-issuer", "", "--ws-audience", "") as server:
            assert upgraded(server, f"Bearer {jwt({'exp': soon()})}")[0] == 101

    def test_a_connection_ends_with_its_token(self, secret_file: Path) -> None:
        """With a close code that says so; another token resumes the session."""
        skew = ("--ws-max-clock-skew-seconds", "0")
        common = ("--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", str(secret_file))
        with peer.listening(*common, *skew) as server:
            expires = soon(3)
            client = with_token(server, jwt({"exp": expires}))
            session = client.initialize()
            client.start("p", "sleep", "100")
            client.wait_for_end()
            assert expires <= time.time() < expires + peer.PATIENCE / 2
            assert client.websocket.close_code == 3000
            assert client.websocket.close_reason == "expired websocket jwt"
            client.close()
            other = with_token(server, jwt({"exp": soon(600)}))
            assert other.initialize(resumeSessionId=session) == session
            assert other.call("process/terminate", {"processId": "p"}) == {"running": True}
            other.close()

    @pytest.mark.parametrize("expires", [2**62, 2**63 - 1])
    def test_a_token_for_ever(self, signed: peer.Listening, expires: int) -> None:
        """Ends nothing."""
        client = with_token(signed, jwt({"exp": expires}))
        client.initialize()
        assert client.is_alive()
        client.close()

    def test_a_secret_in_the_environment(self) -> None:
        """Is what tokens are to be signed with."""
        arguments = ("--ws-auth", "signed-bearer-token", "--ws-shared-secret-env", "ITS_SECRET")
        environment = {**os.environ, "ITS_SECRET": f"{SECRET}\n"}
        with peer.running("--listen", "ws://127.0.0.1:0", *arguments, env=environment) as process:
            server = peer.Listening(process)
            assert upgraded(server, f"Bearer {jwt({'exp': soon()})}")[0] == 101
            assert upgraded(server, f"Bearer {jwt({'exp': soon()}, secret='x' * 32)}")[0] == 401


def refusal(judge: Authenticator, authorization: str) -> str | None:
    """Why a header is refused; None if it is accepted."""
    try:
        judge.expiry(authorization)
    except Unauthorized as error:
        return str(error)
    return None


def order(one: list[int], other: list[int]) -> float:
    """The chance that a value of one sample is below one of the other: 0.5 if they are alike.

    This is the statistic of Mann and Whitney. Outliers, which a busy machine makes, hardly count.
    """
    ordered = sorted(other)
    below = sum(
        len(ordered) - (bisect_left(ordered, value) + bisect_right(ordered, value)) / 2
        for value in one
    )
    return below / (len(one) * len(other))


def distances(judge: Authenticator, headers: list[str]) -> list[float]:
    """Return the differences between refusal times, each header compared with the first."""
    times: list[list[int]] = [[] for _ in headers]
    turns = list(zip(times, headers, strict=True))
    chance = random.Random(1)
    for _ in range(2000):
        # By turns, so that whatever else the machine does hits all of them, and in any order, so
        # that what one leaves in the processor's caches does as well.
        chance.shuffle(turns)
        for found, header in turns:
            start = time.perf_counter_ns()
            refusal(judge, header)
            found.append(time.perf_counter_ns() - start)
    return [abs(order(times[0], found) - 0.5) for found in times[1:]]


class Naive:
    """Compares character by character, and stops at the first that differs."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}"

    def expiry(self, authorization: str | None) -> float | None:
        for one, other in zip(authorization or "", self._expected, strict=True):
            if one != other:
                raise Unauthorized(WRONG_TOKEN)
        return None


class TestTiming:
    """The duration of a refusal does not depend on how much of a token is right."""

    ALIKE = 0.2
    """Far above the chance of 2,000 samples (0.01), far below what a stop at the first difference
    makes (0.5)."""

    RIGHT = "t" * 64

    def near(self, right: str) -> list[str]:
        """Wrong at the start, in the middle, at the end; right."""
        headers = []
        for at in (0, len(right) // 2, len(right) - 1):
            other = "A" if right[at] != "A" else "E"
            headers.append(f"Bearer {right[:at]}{other}{right[at + 1 :]}")
        return [*headers, f"Bearer {right}"]

    def test_tokens_of_one_length(self) -> None:
        wrong = self.near(self.RIGHT)[:-1]
        found = distances(CapabilityToken.of(self.RIGHT), wrong)
        assert max(found) < self.ALIKE, found

    def test_signatures(self) -> None:
        signed, _, signature = jwt({"exp": soon()}).rpartition(".")
        headers = [f"Bearer {signed}.{end.partition(' ')[2]}" for end in self.near(signature)]
        found = distances(SignedToken(SECRET.encode()), headers[:-1])
        assert max(found) < self.ALIKE, found

    def test_the_statistic_notices(self) -> None:
        """A comparison that stops early."""
        found = distances(Naive(self.RIGHT), self.near(self.RIGHT))
        assert min(found) > self.ALIKE, found

    @pytest.mark.parametrize("end", ["", "x" * 1000])
    def test_every_token_is_compared_in_constant_time(
        self, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        """As the whole of something that has one length, whatever the length of the token."""
        compared: list[tuple[int, int]] = []
        compare = hmac.compare_digest

        def note(one: bytes, other: bytes) -> bool:
            compared.append((len(one), len(other)))
            return compare(one, other)

        monkeypatch.setattr(hmac, "compare_digest", note)
        tokens = (f"{self.RIGHT}{end}", "x")
        judges = (CapabilityToken.of(tokens[0]), SignedToken(SECRET.encode()))
        for token in tokens:
            refusal(judges[0], f"Bearer {token}")
        for secret in (SECRET, "other" * 8):
            refusal(judges[1], f"Bearer {jwt({'exp': soon()}, secret=secret)}")
        assert compared == [(32, 32)] * 4


def write_secrets(folder: Path) -> None:
    """Secrets of every kind."""
    for name, content in (
        ("token", b"token\n"),
        ("secret", b"k" * 32),
        ("short", b" " + b"k" * 31 + b"\n"),
        ("empty", b" \n"),
        ("binary", b"\xff" * 40),
    ):
        (folder / name).write_bytes(content)
    (folder / "directory").mkdir()


FLAGS = (
    "websocket auth flags require `--ws-auth capability-token` or `--ws-auth signed-bearer-token`"
)
DIGEST = "--ws-token-sha256 must be a 64-character hex SHA-256 digest"
SIGNED_ONLY = (
    "`--ws-shared-secret-file`, `--ws-issuer`, `--ws-audience`, and "
    "`--ws-max-clock-skew-seconds` require `--ws-auth signed-bearer-token`"
)
TOKEN_ONLY = (
    "`--ws-token-file` and `--ws-token-sha256` require `--ws-auth capability-token`, "
    "not `signed-bearer-token`"
)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            "capability-token",
            "`--ws-token-file` or `--ws-token-sha256` is required when "
            "`--ws-auth capability-token` is set",
        ),
        (
            f"capability-token --ws-token-file token --ws-token-sha256 {'0' * 64}",
            "`--ws-token-file` and `--ws-token-sha256` are mutually exclusive",
        ),
        (
            "capability-token --ws-token-file missing",
            "failed to read websocket auth secret {folder}/missing: "
            "No such file or directory (os error 2)",
        ),
        (
            "capability-token --ws-token-file directory",
            "failed to read websocket auth secret {folder}/directory: Is a directory (os error 21)",
        ),
        (
            "capability-token --ws-token-file binary",
            "failed to read websocket auth secret {folder}/binary: "
            "stream did not contain valid UTF-8",
        ),
        (
            "capability-token --ws-token-file empty",
            "websocket auth secret {folder}/empty must not be empty",
        ),
        ("capability-token --ws-token-sha256 xyz", DIGEST),
        (f"capability-token --ws-token-sha256 {'0' * 63}", DIGEST),
        (f"capability-token --ws-token-sha256 {'g' * 64}", DIGEST),
        ("capability-token --ws-token-file token --ws-shared-secret-file secret", SIGNED_ONLY),
        ("capability-token --ws-token-file token --ws-issuer i", SIGNED_ONLY),
        ("capability-token --ws-token-file token --ws-audience a", SIGNED_ONLY),
        ("capability-token --ws-token-file token --ws-max-clock-skew-seconds 3", SIGNED_ONLY),
        (
            "signed-bearer-token",
            "`--ws-shared-secret-file` is required when `--ws-auth signed-bearer-token` is set",
        ),
        (
            "signed-bearer-token --ws-shared-secret-file short",
            "signed websocket bearer secret {folder}/short must be at least 32 bytes",
        ),
        (
            "signed-bearer-token --ws-shared-secret-file empty",
            "websocket auth secret {folder}/empty must not be empty",
        ),
        (
            "signed-bearer-token --ws-shared-secret-file {folder}/missing",
            "failed to read websocket auth secret {folder}/missing: "
            "No such file or directory (os error 2)",
        ),
        ("signed-bearer-token --ws-shared-secret-file secret --ws-token-file token", TOKEN_ONLY),
        ("signed-bearer-token --ws-token-sha256 x", TOKEN_ONLY),
        (
            "signed-bearer-token --ws-shared-secret-file secret "
            f"--ws-max-clock-skew-seconds {2**63}",
            "websocket auth clock skew must fit in a signed 64-bit integer",
        ),
        (
            "capability-token --ws-token-env UNSET",
            "failed to read websocket auth secret in the environment variable UNSET: it is not set",
        ),
        (
            "capability-token --ws-token-env BLANK",
            "websocket auth secret in the environment variable BLANK must not be empty",
        ),
        (
            "signed-bearer-token --ws-shared-secret-env SHORT",
            "signed websocket bearer secret in the environment variable SHORT must be at least "
            "32 bytes",
        ),
        (
            "capability-token --ws-token-file token --ws-token-env SHORT",
            "`--ws-token-file` and `--ws-token-env` are mutually exclusive",
        ),
        (
            f"capability-token --ws-token-sha256 {'0' * 64} --ws-token-env SHORT",
            "`--ws-token-sha256` and `--ws-token-env` are mutually exclusive",
        ),
        (
            "signed-bearer-token --ws-shared-secret-file secret --ws-shared-secret-env SHORT",
            "`--ws-shared-secret-file` and `--ws-shared-secret-env` are mutually exclusive",
        ),
        (
            "signed-bearer-token --ws-shared-secret-file secret --ws-token-env SHORT",
            "`--ws-token-env` requires `--ws-auth capability-token`, not `signed-bearer-token`",
        ),
        (
            "capability-token --ws-token-file token --ws-shared-secret-env SHORT",
            "`--ws-shared-secret-env` requires `--ws-auth signed-bearer-token`, "
            "not `capability-token`",
        ),
        ("- --ws-token-file token", FLAGS),
        ("- --ws-token-env SHORT", FLAGS),
        ("- --ws-shared-secret-env SHORT", FLAGS),
        ("- --ws-token-sha256 x", FLAGS),
        ("- --ws-shared-secret-file secret", FLAGS),
        ("- --ws-issuer i", FLAGS),
        ("- --ws-max-clock-skew-seconds 3", FLAGS),
        (
            "capability-token --ws-token-file token --listen stdio",
            "WebSocket auth requires a WebSocket listener, not stdio",
        ),
    ],
)
def test_wrong_options(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    text: str,
) -> None:
    """Are told in the words of the released servers, and nothing listens."""
    write_secrets(tmp_path)
    monkeypatch.setenv("SHORT", "k" * 31)
    monkeypatch.setenv("BLANK", " ")
    monkeypatch.chdir(tmp_path)
    mode, *rest = arguments.format(folder=tmp_path).split(" ")
    chosen = [] if mode == "-" else ["--ws-auth", mode]
    assert main(["--listen", "ws://127.0.0.1:0", *chosen, *rest]) == 1
    assert capsys.readouterr() == ("", f"Error: {text.format(folder=tmp_path)}\n")


class TestExposure:
    """Listening beyond the own machine."""

    @pytest.mark.parametrize("url", ["ws://0.0.0.0:0", "ws://[::]:0"])
    def test_needs_authentication(self, capsys: pytest.CaptureFixture[str], url: str) -> None:
        """A client on another machine could run anything without authentication."""
        assert main(["--listen", url]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(
            r"Error: refusing to listen on \S+ without authentication: [^\n]+\n", err
        )

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--allow-unauthenticated",),
            ("--ws-auth", "capability-token", "--ws-token-sha256", "0" * 64),
        ],
    )
    def test_unless_acknowledged(self, arguments: tuple[str, ...]) -> None:
        """This server itself, or what is around it."""
        with peer.running("--listen", "ws://0.0.0.0:0", *arguments) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"ws://0.0.0.0:")


class TestHosts:
    """The name that a client calls the server by."""

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("127.0.0.1:1234", 101),
            ("127.0.0.1", 101),
            ("192.0.2.1", 101),
            ("[::1]:80", 101),
            ("localhost:1234", 101),
            ("LOCALHOST", 101),
            ("app.localhost", 101),
            ("box.example:1", 101),
            ("example.com", 403),
            ("box.example.com", 403),
            ("localhost.example.com", 403),
            ("127.0.0.1.example.com:80", 403),
            ("", 403),
        ],
    )
    def test_names(self, hosts: peer.Listening, host: str, status: int) -> None:
        """A web page can make its own name point here, but not an address."""
        assert answer(hosts, UPGRADE[0], f"Host: {host}", *UPGRADE[2:])[0] == status

    def test_no_name(self, hosts: peer.Listening) -> None:
        """Comes from no browser; of two, the first counts."""
        assert answer(hosts, UPGRADE[0], *UPGRADE[2:])[0] == 101
        assert answer(hosts, UPGRADE[0], "Host: evil", *UPGRADE[1:])[0] == 403

    def test_what_is_said(self, hosts: peer.Listening) -> None:
        """Whatever is asked for."""
        found = answer(hosts, "GET /readyz HTTP/1.1", "Host: evil")
        assert (found[0], found[2]) == (403, "Host header names another server")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--listen", "ws://127.0.0.1:0"),
            ("--listen", "ws://127.0.0.1:0", *TOKEN_OF_T),
            ("--listen", "ws://0.0.0.0:0", *TOKEN_OF_T),
            ("--listen", "ws://0.0.0.0:0", "--allow-unauthenticated"),
        ],
    )
    def test_it_is_checked_with_every_kind_of_authentication(
        self, arguments: tuple[str, ...]
    ) -> None:
        """And wherever the server listens; the machine's own name is one of its names."""
        own = os.uname().nodename
        with peer.running(*arguments) as process:
            server = peer.Listening(process)
            for host, status in (("evil.example", 403), (own, 101), (f"{own.upper()}:80", 101)):
                lines = (UPGRADE[0], f"Host: {host}", *UPGRADE[2:], "Authorization: Bearer t")
                assert answer(server, *lines)[0] == status, host

    def test_any_name(self) -> None:
        """Does if the server is told so."""
        with peer.listening("--allow-host", "*") as server:
            assert answer(server, UPGRADE[0], "Host: evil.example", *UPGRADE[2:])[0] == 101


class TestPending:
    """Clients that have not been let in."""

    def test_their_time_is_limited(self) -> None:
        """Options that are missing or insufficient."""
        with peer.listening("--handshake-seconds", "0.3") as server:
            for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"):
                with connected(server) as connection:
                    connection.sendall(said)
                    assert connection.recv(1) == b""
            client = server.client()
            client.initialize()
            client.start("p", "sleep", "0.5")
            assert client.closed("p")  # an admitted client has no time limit

    def test_their_number_is_limited(self) -> None:
        """The oldest pending handshake is dropped; admitted connections do not count."""
        with peer.listening("--max-pending-connections", "3") as server:
            clients = [server.client() for _ in range(5)]
            waiting = [connected(server) for _ in range(4)]
            try:
                assert waiting[0].recv(1) == b""
                assert answer(server, *UPGRADE)[0] == 101
                assert waiting[1].recv(1) == b""
                waiting[3].sendall("\r\n".join((*UPGRADE, "", "")).encode())
                assert waiting[3].recv(12) == b"HTTP/1.1 101"
                for client in clients:
                    client.initialize()
                    assert client.is_alive()
            finally:
                for connection in waiting:
                    connection.close()

    def test_each_has_a_moment(self) -> None:
        """Before it is dropped for another, so that a flood keeps no client out."""
        with peer.listening("--max-pending-connections", "1") as server:
            begin = time.monotonic()
            with connected(server) as first, connected(server):
                assert first.recv(1) == b""
                assert time.monotonic() - begin >= 0.1

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--handshake-seconds", "0"),
            ("--handshake-seconds", "inf"),
            ("--handshake-seconds", "soon"),
            ("--max-pending-connections", "0"),
            ("--max-pending-connections", "-1"),
            ("--max-pending-connections", "many"),
        ],
    )
    def test_limits_that_are_none(
        self, capsys: pytest.CaptureFixture[str], option: str, value: str
    ) -> None:
        """Are wrong usage."""
        with pytest.raises(SystemExit) as caught:
            main([option, value])
        assert caught.value.code == 2
        assert option in capsys.readouterr().err.splitlines()[-1]
