"""HTTP server that the server under test sends requests to.

Sessions refer to it as ``${http}``. Its responses are part of the sessions and, except for
``/echo``, independent of the request:

====================  ==========================================================================
path                  response
====================  ==========================================================================
/hello                the text ``hello``; the header ``x-two`` occurs twice
/echo                 the request: method and path, headers sorted by name, body
/status/CODE          that status with a text body
/redirect/CODE        that status with ``/echo`` as the location
/loop                 302 to itself
/bytes                the 256 byte values in order
/big/N                the letter x, N times
/pieces               ``one two three``, chunked, with a short pause between chunks
/drip                 ``start``, then nothing until the client disconnects
/silent               nothing until the client disconnects
/broken               a tenth of the announced body, then the connection is closed
/encoded/CODING       the text ``hello encoded`` with that Content-Encoding: gzip, zstd or deflate
/encoded/FAULT        a ``truncated`` or ``malformed`` body with Content-Encoding gzip
/accepted             the Accept-Encoding header of the request
====================  ==========================================================================

``/echo`` repeats the headers that clients choose: ``x-…``, ``authorization``, ``cookie`` and
``content-type``.
"""

from __future__ import annotations

import contextlib
import gzip
import select
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

_PIECE_SECONDS: Final = 0.05
"""Pause between chunks, long enough for them to be sent separately."""

_TEXT: Final = b"hello encoded"
_GZIP: Final = gzip.compress(_TEXT, mtime=0)
_ENCODED: Final = {
    "gzip": _GZIP,
    "zstd": b"(\xb5/\xfd \ri\x00\x00hello encoded",  # the standard library has zstd since 3.14
    "deflate": zlib.compress(_TEXT),
    "truncated": _GZIP[:-6],
    "malformed": b"this is not gzip",
}

_REPEATED: Final = ("authorization", "cookie", "content-type")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        body = self.rfile.read(length)
        name, _, argument = self.path.partition("?")[0].strip("/").partition("/")
        answer = getattr(self, f"_get_{name}", None)
        if answer is None:
            self._say(404, b"no such path\n")
        else:
            answer(argument, body)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # Any method, including unknown ones.
            return self._answer
        raise AttributeError(name)

    def _say(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _get_hello(self, _: str, body: bytes) -> None:
        self._say(200, b"hello", ("X-One", "1"), ("x-two", "a"), ("x-two", "b"))

    def _get_echo(self, _: str, body: bytes) -> None:
        chosen = sorted(
            f"{name.lower()}: {value}\n"
            for name, value in self.headers.items()
            if name.lower().startswith("x-") or name.lower() in _REPEATED
        )
        self._say(200, f"{self.command} {self.path}\n{''.join(chosen)}\n".encode() + body)

    def _get_status(self, code: str, _: bytes) -> None:
        self._say(int(code), b"" if code == "204" else f"status {code}\n".encode())

    def _get_redirect(self, code: str, _: bytes) -> None:
        self._say(int(code), b"elsewhere\n", ("location", "/echo"), ("x-kept", "yes"))

    def _get_loop(self, _: str, body: bytes) -> None:
        self._say(302, b"", ("location", "/loop"))

    def _get_bytes(self, _: str, body: bytes) -> None:
        self._say(200, bytes(range(256)))

    def _get_big(self, size: str, _: bytes) -> None:
        self._say(200, b"x" * int(size))

    def _get_pieces(self, _: str, body: bytes) -> None:
        self._begin_chunks()
        for piece in (b"one ", b"two ", b"three"):
            self._chunk(piece)
            self.server.stopping.wait(_PIECE_SECONDS)
        self._chunk(b"")

    def _get_drip(self, _: str, body: bytes) -> None:
        self._begin_chunks()
        self._chunk(b"start")
        self._wait_for_the_client_to_go()

    def _get_silent(self, _: str, body: bytes) -> None:
        self._wait_for_the_client_to_go()

    def _get_broken(self, _: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", "100")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def _get_encoded(self, form: str, _: bytes) -> None:
        coding = form if form in ("zstd", "deflate") else "gzip"
        self._say(200, _ENCODED[form], ("content-encoding", coding), ("x-kept", "yes"))

    def _get_accepted(self, _: str, body: bytes) -> None:
        self._say(200, self.headers.get("accept-encoding", "").encode())

    def _begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _wait_for_the_client_to_go(self) -> None:
        while not self.server.stopping.is_set():
            if select.select([self.connection], [], [], _PIECE_SECONDS)[0]:
                break
        self.close_connection = True

    def handle(self) -> None:
        # Some sessions disconnect in the middle of a response.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the base's name)
        """Suppress logging."""


class Origin(ThreadingHTTPServer):
    """HTTP server on a free loopback port; a context manager."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
