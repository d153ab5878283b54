"""The messages of one connection of our server, on their way in and out, where mutants change them.

A mutant is made of hooks on a ``Wire``; everything that it does not hook passes unchanged.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.transports.channel import Channel, StreamedMessage

Message = dict[str, Any]

Hook = Any
"""A callable that changes what it gets in place, or returns what takes its place."""


class Wire:
    """The hooks of one connection.

    ``connection`` is the server's, for hooks that need more than messages; ``channel`` leads to the
    client past every hook.
    """

    def __init__(self, connection: Any, channel: Channel) -> None:
        self.connection = connection
        self.channel = channel
        self.requests: dict[str, Message] = {}
        """Pending requests, by the JSON of their ids."""
        self._reads: list[Hook] = []
        self._params: dict[str, list[Hook]] = defaultdict(list)
        self._results: dict[str, list[Hook]] = defaultdict(list)
        self._errors: list[Hook] = []
        self._events: list[Hook] = []
        self._answers: list[Hook] = []

    def on_input(self, hook: Callable[[bytes], bytes | None]) -> None:
        """Change whatever comes; None swallows it."""
        self._reads.append(hook)

    @property
    def changes_input(self) -> bool:
        """True if a hook changes the messages of the client as bytes."""
        return bool(self._reads)

    def on_params(self, method: str, hook: Callable[[Message], Any]) -> None:
        """Change the params of a request in place."""
        self._params[method].append(hook)

    def on_result(self, method: str, hook: Callable[[Message, Message], Any]) -> None:
        """Change a result in place; the hook gets the params, too."""
        self._results[method].append(hook)

    def on_error(self, hook: Callable[[Message], Any]) -> None:
        """Change the error object of an answer in place."""
        self._errors.append(hook)

    def on_event(self, hook: Callable[[str, Message], Any]) -> None:
        """Change the params of a notification in place, or return a list of what is sent."""
        self._events.append(hook)

    def on_answer(self, hook: Callable[[Message], Any]) -> None:
        """Change an answer in place, or return a list of what is sent."""
        self._answers.append(hook)

    def take_in(self, data: bytes) -> bytes | None:
        """Return the messages that the server gets in place of one."""
        for hook in self._reads:
            changed = hook(data)
            if changed is None:
                return None
            data = changed
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            return data
        if not isinstance(message, dict) or "method" not in message:
            return data
        self.requests[json.dumps(message.get("id"))] = json.loads(data)
        hooks = self._params.get(str(message["method"]), [])
        params = message.get("params")
        if not hooks or not isinstance(params, dict):
            return data
        for hook in hooks:
            hook(params)
        return json.dumps(message).encode()

    def give_out(self, message: Message) -> list[Message]:
        """Return the messages that the client gets in place of one."""
        if "method" in message:
            return self._changed(self._events, message, message["method"], message["params"])
        request = self.requests.pop(json.dumps(message.get("id")), {})
        for hook in self._results.get(str(request.get("method")), []):
            if "result" in message:
                hook(message["result"], request.get("params") or {})
        for hook in self._errors:
            if "error" in message:
                hook(message["error"])
        return self._changed(self._answers, message, message)

    def _changed(self, hooks: list[Hook], message: Message, *arguments: Any) -> list[Message]:
        messages = [message]
        for hook in hooks:
            changed = hook(*arguments)
            if changed is not None:
                messages = changed
        return messages


class TamperedChannel:
    """A channel whose messages go through the hooks of a wire."""

    def __init__(self, channel: Channel, wire: Wire) -> None:
        self._channel = channel
        self._wire = wire

    @property
    def peer(self) -> str:
        return self._channel.peer

    @property
    def message_kind(self) -> str:
        return self._channel.message_kind

    @property
    def sent_bytes(self) -> int:
        return self._channel.sent_bytes

    @property
    def unsent_bytes(self) -> int:
        return self._channel.unsent_bytes

    def send_reply(self, pieces: Sequence[bytes]) -> None:
        for message in self._wire.give_out(json.loads(b"".join(pieces))):
            self._channel.send_reply((json.dumps(message).encode(),))

    def send_streamed_reply(self, message: StreamedMessage) -> None:
        data = bytearray()
        while len(data) < message.length:
            data += message.next_piece()
        message.finish()
        self.send_reply((bytes(data),))

    def send_notification(self, pieces: Sequence[bytes]) -> None:
        for message in self._wire.give_out(json.loads(b"".join(pieces))):
            self._channel.send_notification((json.dumps(message).encode(),))

    def pause_reading(self) -> None:
        self._channel.pause_reading()

    def resume_reading(self) -> None:
        self._channel.resume_reading()

    def close(self, reason: str, *, violation: bool = False) -> None:
        self._channel.close(reason, violation=violation)


def install(make_hooks: Callable[[Wire], None]) -> None:
    """Let every connection of this process's server pass through hooks of its own."""
    from exec_server.server.connection import Connection  # noqa: PLC0415 (after what patches it)

    begin, receive = Connection.__init__, Connection.receive
    receive_part = Connection.receive_part
    wires: dict[Any, Wire] = {}
    parts: defaultdict[Any, bytearray] = defaultdict(bytearray)

    def tampered_begin(self: Any, channel: Channel, *rest: Any, **options: Any) -> None:
        wire = wires[self] = Wire(self, channel)
        make_hooks(wire)
        begin(self, TamperedChannel(channel, wire), *rest, **options)

    def tampered_receive(self: Any, data: bytes) -> None:
        changed = wires[self].take_in(bytes(data))
        if changed is not None:
            receive(self, changed)

    def tampered_receive_part(self: Any, part: bytes, *, is_last: bool) -> None:
        if not wires[self].changes_input:
            receive_part(self, part, is_last=is_last)
            return
        parts[self] += part
        if is_last:
            changed = wires[self].take_in(bytes(parts.pop(self)))
            if changed is not None:
                receive_part(self, changed, is_last=True)

    Connection.__init__ = tampered_begin  # type: ignore[method-assign]
    Connection.receive = tampered_receive  # type: ignore[method-assign]
    Connection.receive_part = tampered_receive_part  # type: ignore[method-assign]
