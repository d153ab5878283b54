"""A revision's generated tables and its handlers, put together for one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from exec_server.connection import BoundMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping

    from exec_server_protocol.table import Method


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


def decoders(routes: Mapping[str, Method]) -> dict[str, Callable[[msgspec.Raw], Any]]:
    """For each method what decodes its params; made once per revision."""
    return {name: _decoder(route) for name, route in routes.items()}


def _decoder(route: Method) -> Callable[[msgspec.Raw], Any]:
    decode = msgspec.json.Decoder(route.params).decode
    if route.params_presence == "ignored":
        return lambda _raw: decode(b"{}")
    if route.params_presence == "optional":
        return lambda raw: decode(b"{}" if bytes(raw) == b"null" else raw)
    return decode


def bind_methods(
    revision: str,
    routes: Mapping[str, Method],
    decode: Mapping[str, Callable[[msgspec.Raw], Any]],
    calls: Mapping[str, Callable[[Any], Coroutine[Any, Any, Any]]],
    *,
    in_lane: Collection[str],
    not_found_code: int,
) -> dict[str, BoundMethod]:
    """The requests of a revision, by name.

    ``in_lane`` names those whose effects keep the order of arrival; process/start is the one that
    brings the process to life that its ``processId`` names.
    """
    return {
        name: BoundMethod(
            revision=revision,
            method=name,
            family=route.state_name or "",
            decode=decode[name],
            call=calls[name],
            base64_params=route.base64_params,
            in_lane=name in in_lane,
            before_handshake=name == "initialize",
            starts_process=name == "process/start",
            about_process=name.startswith(_ABOUT_PROCESSES) and name != "process/start",
            may_wait=name not in _ANSWERED_AT_ONCE,
            not_found_code=not_found_code,
        )
        for name, route in routes.items()
        if route.kind == "request"
    }
