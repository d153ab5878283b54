"""Bind the generated tables of a revision to its handlers, for one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from exec_server.revisions.interface import BoundMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exec_server.revisions.interface import ConnectionContext
    from exec_server_protocol.table import ErrorKind, Method

Decode: TypeAlias = "Callable[[msgspec.Raw], Any]"


class Decoders(dict[str, "Decode"]):
    """Decoders of the params of a revision's methods, each made at its first use."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        super().__init__()
        self._methods = methods

    def __missing__(self, name: str) -> Decode:
        """Make the decoder of a method."""
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
    """Requests of a revision by name, for one connection.

    Each is bound at its first use: few connections use more than a handful, and the handlers of a
    family may take a while to load.
    """

    def __init__(
        self,
        revision: str,
        methods: Mapping[str, Method],
        errors: Mapping[str, ErrorKind],
        decoders: Decoders,
        handlers: object,
        *,
        is_newer: Mapping[str, Callable[[msgspec.Raw, Any], bool]] | None = None,
    ) -> None:
        """Bind the tables ``methods`` and ``errors`` of a revision to its ``Handlers``.

        ``is_newer`` is that of BoundMethod, by method. A handler ``start_follow_up`` encodes the
        notification that follows the response of ``start``; see BoundMethod.
        """
        self._revision = revision
        self._methods = methods
        self._not_found_code = error_code(errors, "notFound", otherwise="internalError")
        self._decoders = decoders
        self._handlers = handlers
        self._is_newer = is_newer or {}
        self._bound: dict[str, BoundMethod] = {}

    def get(self, name: str) -> BoundMethod | None:
        """Return the request of that name; None if the revision has none."""
        bound = self._bound.get(name)
        if bound is None:
            method = self._methods.get(name)
            if method is None or method.kind != "request" or method.direction != "clientToServer":
                return None
            bound = self._bound[name] = self._bind(method)
        return bound

    def _bind(self, method: Method) -> BoundMethod:
        name = method.name
        handler = getattr(self._handlers, method.family)
        return BoundMethod(
            revision=self._revision,
            method=name,
            family=method.state_name or "",
            params=method.params,
            decode=self._decoders[name],
            call=getattr(handler, method.attribute),
            members=_attributes(method.params),
            base64_params=method.base64_params,
            base64_texts=method.base64_text_params,
            id_params=method.identifier_params,
            is_newer=self._is_newer.get(name),
            follow_up=getattr(handler, f"{method.attribute}_follow_up", None),
            serialized=method.is_serialized,
            before_handshake=method.state_name is None,
            starts_process=method.process == "starts",
            about_process=method.process == "uses",
            may_wait=method.may_wait,
            not_found_code=self._not_found_code,
            large_member=_large_member(method),
        )


def _attributes(model: type[msgspec.Struct]) -> dict[str, str]:
    """Return the attributes of a model by wire name."""
    return dict(zip(model.__struct_encode_fields__, model.__struct_fields__, strict=True))


def _large_member(method: Method) -> tuple[str, str] | None:
    """Return the ``large_member`` of BoundMethod."""
    if method.large_result is None or method.result is None:
        return None
    path = method.large_result.path
    return _attributes(method.result)[path[0]], path[-1]


def error_code(errors: Mapping[str, ErrorKind], name: str, *, otherwise: str) -> int:
    """Return the code of an error, or where a revision has no such error, of another one."""
    return (errors.get(name) or errors[otherwise]).code


class LazyHandlers:
    """Handlers of one connection by family: cached properties, made at their first use."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    async def aclose(self) -> None:
        """Release what the handlers hold for the connection."""
        for handler in list(vars(self).values()):
            # isinstance() with a protocol would take most of the time that this takes.
            aclose = getattr(handler, "aclose", None)
            if aclose is not None and handler is not self._connection:
                await aclose()
