"""The WebSocket transport of the client: from a URL to the closed socket.

Client frames are masked, which copies every payload once; large messages are cut into frames that
the real servers accept.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import CloseCode, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from exec_server.client.display import shown_url
from exec_server.client.errors import ConnectFailed
from exec_server.client.limits import CONTROL_BYTES, HEAD_BYTES, MESSAGE_BYTES
from exec_server.transports.endpoint import MASKED, WebSocketEndpoint, apply_mask

if TYPE_CHECKING:
    import ssl

    from websockets.uri import WebSocketURI

    from exec_server.client.transports.tls import TlsRelay
    from exec_server.transports.channel import Receiver

UNIX: Final = "unix://"
"""Scheme of servers that listen at a path of this machine."""

FRAME_BYTES: Final = 8 * 1024 * 1024
"""Payload of one frame; the real servers refuse frames of more than 16 MiB."""

KEEPALIVE_SECONDS: Final = 20.0
"""A connection without traffic is pinged this often; after two pings without any answer it is
lost. The server's own pings, every 30 seconds, are not in every release."""

_JOIN_BELOW: Final = 4096
_END_OF_HEAD: Final = b"\r\n\r\n"
_TLS_ALERT: Final = b"\x15\x03"
"""Beginning of the answer of a server that expects TLS."""
_FINAL: Final = 0x80

_VIOLATIONS: Final = frozenset(
    (
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_DATA,
        CloseCode.MESSAGE_TOO_BIG,
    )
)
"""Codes that this client closes with when the server is at fault."""


class WebSocketDialer:
    """Connects to one URL."""

    can_resume = True

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        tls: ssl.SSLContext | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """``token`` is sent as a bearer token. Raises ConnectFailed for an unusable URL."""
        self.target = shown_url(url)
        self._path = url.removeprefix(UNIX) if url.startswith(UNIX) else None
        if self._path is not None and (not os.path.isabs(self._path) or "\0" in self._path):
            raise ConnectFailed(f"cannot connect to {self.target!r}: expected unix:///PATH")
        try:
            self._uri = parse_uri(url if self._path is None else "ws://localhost/")
        except InvalidURI as error:
            raise ConnectFailed(f"cannot connect to {self.target!r}: {error.msg}") from None
        except ValueError as error:
            # Of the standard library: a port or an address in brackets. Its text may be the URL's.
            part = "the port" if "ort" in str(error) else "the host"
            raise ConnectFailed(f"cannot connect to {self.target!r}: {part} is invalid") from None
        if not self._uri.secure and not (tls is None and ca_file is None):
            raise ConnectFailed(f"cannot connect to {self.target!r}: TLS is for wss:// alone")
        self._tls = tls
        if self._uri.secure and tls is None:
            from exec_server.client.transports.tls import default_context  # noqa: PLC0415

            self._tls = default_context(ca_file)
        self._token = token

    async def dial(self, receiver: Receiver) -> WebSocketClientTransport:
        """Connect to the first address that answers, and shake hands; see Dialer."""
        sock = await self._connected_socket()
        relay = None
        if self._tls is not None:
            from exec_server.client.transports.tls import TlsRelay  # noqa: PLC0415

            relay = await TlsRelay.open(sock, self._tls, self._uri.host, self.target)
            sock = relay.local
        transport = WebSocketClientTransport(
            sock, self._uri, self._token, self.target, receiver, relay=relay
        )
        try:
            await transport.opened()
        except BaseException:
            transport.abort()
            raise
        return transport

    async def _connected_socket(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for family, address in await self._addresses():
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except OSError as error:
                failure = error
                sock.close()
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        assert failure is not None
        reason = os.strerror(failure.errno) if failure.errno else str(failure)
        raise ConnectFailed(f"cannot connect to {self.target}: {reason}") from failure

    async def _addresses(self) -> list[tuple[int, Any]]:
        if self._path is not None:
            return [(socket.AF_UNIX, self._path)]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._uri.host, self._uri.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectFailed(f"cannot connect to {self.target}: {error.strerror}") from error
        except ValueError:
            # A label of the name that is empty or too long, or a NUL.
            raise ConnectFailed(f"cannot connect to {self.target}: the host is invalid") from None
        return [(family, address) for family, _, _, _, address in found]


class WebSocketClientTransport(WebSocketEndpoint):
    """One connection to a server, from its connected socket to its end."""

    _peer_masks = False
    _protocol: ClientProtocol

    def __init__(
        self,
        sock: socket.socket,
        uri: WebSocketURI,
        token: str | None,
        target: str,
        receiver: Receiver,
        *,
        relay: TlsRelay | None,
    ) -> None:
        """``relay`` is what ``sock`` leads to, if it is not the server itself."""
        loop = asyncio.get_running_loop()
        super().__init__(loop, sock, ClientProtocol(uri, max_size=MESSAGE_BYTES), self._note_closed)
        self._max_frame_bytes = self._max_message_bytes = MESSAGE_BYTES
        self.peer = target
        self._relay = relay
        self._reason = ""
        self._heard = True
        self._silent_ticks = 0
        self._is_paused = False
        self._keepalive: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._next_receiver = receiver
        self._consume = self._consume_head
        request = self._protocol.connect()
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        self._protocol.send_request(request)
        self._send_control()
        self._stream.start_reading()

    async def opened(self) -> None:
        """Return when the server has agreed. Raises ConnectFailed if it does not."""
        await self._opened

    # Transport

    @property
    def end_reason(self) -> str:
        """Reason why the connection ended; see Transport."""
        if self.has_violated and self._protocol.close_sent is not None:
            return f"the server broke the protocol: {self._protocol.close_sent.reason}"
        close = self._protocol.close_rcvd
        if close is not None:
            name = f"close code {close.code}"
            return f"the server closed it: {close.reason or name}"
        return self._reason or "the server ended it without a word"

    @property
    def has_violated(self) -> bool:
        """True if this side ended the connection because of what the server sent."""
        sent = self._protocol.close_sent
        was_first = not self._protocol.close_rcvd_then_sent
        return sent is not None and was_first and sent.code in _VIOLATIONS

    def limit_messages(self, max_bytes: int) -> None:
        """Refuse longer messages by the header of the frame that exceeds it; see Transport."""
        self._max_frame_bytes = self._max_message_bytes = max_bytes
        self._protocol.max_message_size = max_bytes

    def _send_control(self) -> None:
        """Queue pongs, but not for a server that does not read them (RFC 6455, 5.5.3)."""
        pieces = self._protocol.data_to_send()
        if pieces and self._stream.unsent_bytes <= CONTROL_BYTES:
            self._stream.queue_reply(pieces)

    def send(self, message: bytes, *, at_once: bool = False) -> None:
        """Queue one message, in as many frames as it needs; see Transport."""
        if len(message) <= FRAME_BYTES:
            queue = self._stream.send_now if at_once else self._stream.queue_reply
            queue(_frame(_FINAL | Opcode.TEXT, message))
            return
        view = memoryview(message)
        opcode = Opcode.TEXT
        for start in range(0, len(message), FRAME_BYTES):
            payload = view[start : start + FRAME_BYTES]
            is_last = start + FRAME_BYTES >= len(message)
            self._stream.queue_reply(_frame((_FINAL if is_last else 0) | opcode, payload))
            opcode = Opcode.CONT

    def pause_receiving(self) -> None:
        """Stop reading the socket; see Transport."""
        self._is_paused = True
        self._stream.stop_reading()

    def resume_receiving(self) -> None:
        """Read the socket again; see Transport."""
        self._is_paused = False
        self._heard = True
        if not self._closed:
            self._stream.start_reading()

    def close(self) -> None:
        """Say goodbye, then end; see Transport."""
        if self._is_paused:
            self.resume_receiving()
        self._reason = self._reason or "it was closed here"
        self._close(CloseCode.NORMAL_CLOSURE, "")

    def abort(self) -> None:
        """Close the socket now; see Transport."""
        self._abort()

    async def wait_closed(self) -> None:
        """Return when the socket is closed; see Transport."""
        await asyncio.shield(self._gone)
        if self._relay is not None:
            await self._relay.wait_closed()

    # The answer to the handshake

    def _consume_head(self, data: memoryview) -> int:
        head = bytes(data)
        if head.startswith(_TLS_ALERT):
            self._settle(_TlsSpoken())
            self._abort()
            return 0
        end = head.find(_END_OF_HEAD, 0, HEAD_BYTES)
        if end < 0:
            if len(head) >= HEAD_BYTES:
                self._settle(_HeadTooLong())
                self._abort()
            return 0
        end += len(_END_OF_HEAD)
        if not head.startswith(b"HTTP/1.1 101 "):
            # A refusal says why in its body, which the core reads to its end.
            self._protocol.receive_data(head)
            self._consume = self._consume_refusal
            self._check_handshake()
            return len(head)
        self._protocol.receive_data(head[:end])
        self._check_handshake()
        if self._receiver is None:
            return len(head)
        self._keep_alive()
        return end + self._consume_frames(data[end:])

    def _consume_refusal(self, data: memoryview) -> int:
        self._protocol.receive_data(bytes(data))
        self._check_handshake()
        return len(data)

    def _check_handshake(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._settle(self._protocol.handshake_exc)
                return
        if self._protocol.handshake_exc is not None:
            self._settle(self._protocol.handshake_exc)

    def _settle(self, refusal: Exception | None) -> None:
        if self._opened.done():
            return
        if refusal is None:
            self._receiver = self._next_receiver
            self._consume = self._consume_frames
            self._opened.set_result(None)
        else:
            self._opened.set_exception(
                ConnectFailed(f"{self.peer} refused the connection: {_refusal_text(refusal)}")
            )

    def end_received(self) -> None:
        """The server ended its side; see StreamOwner."""
        if not self._opened.done():
            self._protocol.receive_eof()
            self._check_handshake()
            self._settle(EOFError() if self._broken is None else self._broken)
        super().end_received()

    def stream_lost(self) -> None:
        """The socket broke; see StreamOwner."""
        self._reason = self._reason or "the connection broke"
        self._settle(EOFError())
        super().stream_lost()

    @property
    def _broken(self) -> OSError | None:
        """Error that broke the underlying connection; None if there was none."""
        return None if self._relay is None else self._relay.failure

    def bytes_received(self, data: memoryview) -> None:
        """Note that the server is alive; see StreamOwner."""
        self._heard = True
        super().bytes_received(data)

    # Keeping alive

    def _keep_alive(self) -> None:
        if self._closing:
            return
        if self._heard or self._is_paused:
            self._silent_ticks = 0
        else:
            self._silent_ticks += 1
            if self._silent_ticks > 2:
                self._reason = f"no sign of life for {self._silent_ticks * KEEPALIVE_SECONDS:g} s"
                self._abort()
                return
            self._protocol.send_ping(b"")
            self._send_control()
        self._heard = False
        self._keepalive = self._loop.call_later(KEEPALIVE_SECONDS, self._keep_alive)

    def _note_closed(self) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        if self._relay is not None:
            self._relay.close()
        if not self._gone.done():
            self._gone.set_result(None)


class _TlsSpoken(Exception):
    """The answer to the handshake is TLS."""


class _HeadTooLong(Exception):
    """The answer to the handshake has no end within the limit."""


def _frame(first: int, payload: bytes | memoryview) -> tuple[bytes, ...]:
    """A masked frame: its header and its payload."""
    length = len(payload)
    key = os.urandom(4)
    if length < 126:
        header = bytes((first, MASKED | length)) + key
    elif length < 65536:
        header = b"%c%c%b%b" % (first, MASKED | 126, length.to_bytes(2, "big"), key)
    else:
        header = b"%c%c%b%b" % (first, MASKED | 127, length.to_bytes(8, "big"), key)
    masked = apply_mask(payload if isinstance(payload, bytes) else bytes(payload), key)
    return (header + masked,) if length < _JOIN_BELOW else (header, masked)


def _refusal_text(refusal: Exception) -> str:
    if isinstance(refusal, InvalidStatus):
        response = refusal.response
        body = bytes(response.body or b"").decode(errors="replace").strip()
        return f"{response.status_code} {body or response.reason_phrase}"
    if isinstance(refusal, InvalidHandshake):
        return str(refusal)
    if isinstance(refusal, _TlsSpoken):
        return "it expects TLS; use wss://"
    if isinstance(refusal, _HeadTooLong):
        return f"the head of its answer exceeds {HEAD_BYTES} bytes"
    if isinstance(refusal, OSError):
        from exec_server.client.transports.tls import describe  # noqa: PLC0415

        return describe(refusal)
    return "it is no WebSocket server"
