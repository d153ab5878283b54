"""A revision's generated tables and its handlers, put together for one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from exec_server.server.connection import BoundMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from exec_server.server.connection import Connection
    from exec_server_protocol.table import Method

Decode: TypeAlias = "Callable[[msgspec.Raw], Any]"

_ABOUT_PROCESSES: Final = ("process/", "command/exec/")


_ANSWERED_AT_ONCE: Final = frozenset(
    (
        "command/exec/terminate",
        "environment/info",
        "environment/status",
        "initialize",
        "process/closeStdin",
        "process/resize",
        "process/signal",
        "process/snapshot",
        "process/terminate",
    )
)
"""They hold nothing up, however many requests wait, and some end what others wait for."""


_IDS: Final = frozenset(
    ("handleId", "processId", "requestId", "resumeSessionId", "sessionId", "watchId")
)
"""Params that are kept for as long as the thing they name, or are repeated in answers."""


_BASE64_TEXTS: Final = frozenset(("dataBase64",))
"""Params of type Base64Text: fs/writeFile has its own words for text that is not base64."""


class Decoders(dict[str, "Decode"]):
    """For each method of a revision what decodes its params, made when it is needed first."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        super().__init__()
        self._methods = methods

    def __missing__(self, name: str) -> Decode:
        """Make it."""
        decode = self[name] = _decoder(self._methods[name])
        return decode


def _decoder(method: Method) -> Decode:
    # msgspec takes 50 µs for a number such as 1e300 where any value may be.
    decode = msgspec.json.Decoder(method.params, float_hook=float).decode
    if method.params_presence == "ignored":
        return lambda _raw: decode(b"{}")
    if method.params_presence == "optional":
        return lambda raw: decode(b"{}" if bytes(raw) == b"null" else raw)
    return decode


class BoundMethods:
    """The requests of a revision, by name, for one connection.

    Each is bound when the connection uses it first: few use more than a handful, and what serves
    a family of methods may take a while to load.
    """

    def __init__(
        self,
        revision: str,
        methods: Mapping[str, Method],
        decoders: Decoders,
        handlers: object,
        *,
        in_lane: Collection[str],
        not_found_code: int,
        large_members: Mapping[str, tuple[str, str]] | None = None,
        is_newer: Mapping[str, Callable[[msgspec.Raw, Any], bool]] | None = None,
    ) -> None:
        """``methods`` is the revision's table, ``handlers`` are its ``Handlers``.

        ``in_lane`` names the families and methods whose effects keep the order of arrival;
        process/start is the one that brings the process to life that its ``processId`` names.
        ``large_members`` and ``is_newer`` are those of BoundMethod, by method.
        """
        self._revision = revision
        self._methods = methods
        self._decoders = decoders
        self._handlers = handlers
        self._in_lane = in_lane
        self._not_found_code = not_found_code
        self._large_members = large_members or {}
        self._is_newer = is_newer or {}
        self._bound: dict[str, BoundMethod] = {}

    def get(self, name: str) -> BoundMethod | None:
        """The request of that name; None if there is none."""
        bound = self._bound.get(name)
        if bound is None:
            method = self._methods.get(name)
            if method is None or method.kind != "request" or method.direction != "clientToServer":
                return None
            bound = self._bound[name] = self._bind(method)
        return bound

    def _bind(self, method: Method) -> BoundMethod:
        name = method.name
        fields = method.params
        members = dict(zip(fields.__struct_encode_fields__, fields.__struct_fields__, strict=True))
        return BoundMethod(
            revision=self._revision,
            method=name,
            family=method.state_name or "",
            decode=self._decoders[name],
            call=getattr(getattr(self._handlers, method.family), method.attribute),
            members=members,
            base64_params=method.base64_params,
            base64_texts=tuple(member for member in members if member in _BASE64_TEXTS),
            id_params=tuple(member for member in members if member in _IDS),
            is_newer=self._is_newer.get(name),
            in_lane=name in self._in_lane or method.family in self._in_lane,
            before_handshake=name == "initialize",
            starts_process=name == "process/start",
            about_process=name.startswith(_ABOUT_PROCESSES) and name != "process/start",
            may_wait=name not in _ANSWERED_AT_ONCE,
            not_found_code=self._not_found_code,
            large_member=self._large_members.get(name),
        )


class LateHandlers:
    """The handlers of one connection, by family: cached properties, made when they are needed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def aclose(self) -> None:
        """Release what they hold for the connection."""
        for family in ("filesystem", "http"):
            if family in vars(self):
                await getattr(self, family).aclose()
