"""The choice of the revision that serves a request.

A server may serve several revisions of the protocol at once. A request goes to the revision that
the client used last if its params decode there, else to the newest one where they do. A request
about a process goes to the revision that started the process.
"""

from __future__ import annotations

import functools
import re
import typing
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from exec_server import jsonrpc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from exec_server.revisions.interface import (
        BoundMethod,
        BoundRevision,
        ConnectionContext,
        Revision,
    )
    from exec_server.server.long_input import LongParams

Route: TypeAlias = "tuple[BoundMethod, Any]"
"""A method of the revision that serves a request, and the decoded params."""


class RevisionRouter:
    """The revisions of one connection."""

    def __init__(
        self,
        revisions: Sequence[Revision],
        connection: ConnectionContext,
        starter_of: Callable[[str], str | None],
    ) -> None:
        """``revisions`` are in order, newest first.

        ``starter_of`` returns the revision that started a process, by the process's id.
        """
        self._revisions = {revision.name: revision for revision in revisions}
        self._connection = connection
        self._starter_of = starter_of
        self._bound: dict[str, BoundRevision] = {}
        self._newest = self.bind(revisions[0].name)
        self._active = self._newest
        self._order = list(self._revisions)

    @property
    def names(self) -> Collection[str]:
        """Names of the revisions, newest first."""
        return self._revisions.keys()

    @property
    def active(self) -> BoundRevision:
        """The revision that the client used last."""
        return self._active

    @property
    def bound(self) -> Collection[BoundRevision]:
        """The revisions that were needed so far."""
        return self._bound.values()

    def bind(self, name: str) -> BoundRevision:
        """Return a revision, bound to the connection when it is needed for the first time."""
        bound = self._bound.get(name)
        if bound is None:
            bound = self._bound[name] = self._revisions[name].bind(self._connection)
        return bound

    def switch(self, name: str) -> None:
        """Make a revision the active one: it is tried first, then the others, newest first."""
        self._active = self.bind(name)
        self._order = [name, *(other for other in self._revisions if other != name)]

    def route(self, method: str, raw: msgspec.Raw, long: LongParams | None) -> Route | None:
        """Find the method that serves a request; None if no revision has such a method.

        ``long`` is what was taken out of a long message. Raises msgspec.ValidationError if no
        revision accepts the params: the error of the revision that the params are closest to.
        """
        refusal: msgspec.ValidationError | None = None
        is_in_other_form = False
        for name in self._order:
            bound = self.bind(name).methods.get(method)
            if bound is None:
                continue
            if bound.before_handshake:
                # The newest handshake has the members of all others.
                newest = self._newest.methods.get(method)
                assert newest is not None
                return newest, _decode(newest, raw, long)
            try:
                params = _decode(bound, raw, long)
            except msgspec.ValidationError as error:
                if refusal is None or is_in_other_form:
                    refusal = error
                    is_in_other_form = _is_in_other_form(bound, raw)
                continue
            if bound.is_newer is not None and bound.is_newer(raw, params):
                continue
            if not bound.starts_process:
                process_id = getattr(params, "process_id", None)
                starter = None if process_id is None else self._starter_of(process_id)
                if starter is not None and starter != name:
                    other = self.bind(starter).methods.get(method)
                    if other is not None:
                        return other, _decode(other, raw, long)
            return bound, params
        if refusal is None:
            return None
        raise refusal


def _decode(bound: BoundMethod, raw: msgspec.Raw, long: LongParams | None) -> Any:
    """Decode params, with the checks that the decoder does not make."""
    if long is not None:
        long.check(bound)
    params = bound.decode(raw)
    for member in bound.base64_params:
        _check_base64(raw, member, getattr(params, bound.members[member]))
    if long is not None:
        long.fill(bound, params)
    return params


def _check_base64(raw: msgspec.Raw, member: str, value: bytes | None) -> None:
    """Refuse base64 text whose unused trailing bits are not zero."""
    if value and not jsonrpc.has_canonical_base64(raw, member, value):
        raise msgspec.ValidationError(
            f"Invalid base64 encoded string: non-zero trailing bits - at `$.{member}`"
        )


def check_ids(bound: BoundMethod, params: Any) -> None:
    """Refuse ids that are too long to be kept."""
    for member in bound.id_params:
        value = getattr(params, bound.members[member])
        if value and jsonrpc.is_too_long(value, jsonrpc.MAX_ID_BYTES):
            raise msgspec.ValidationError(
                f"Expected `str` of at most {jsonrpc.MAX_ID_BYTES} bytes - at `$.{member}`"
            )


def _is_in_other_form(bound: BoundMethod, raw: msgspec.Raw) -> bool:
    """Return True if a text has the form of another revision, such as a native path in v2."""
    try:
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        for name, pattern in _patterns(bound.params).items():
            if name in members and not pattern.search(msgspec.json.decode(members[name], type=str)):
                return True
    except msgspec.DecodeError:
        pass  # the refusal says what is wrong
    return False


@functools.cache
def _patterns(params: type[msgspec.Struct]) -> Mapping[str, re.Pattern[str]]:
    """Return the patterns of the texts of params, by wire name."""
    found: dict[str, re.Pattern[str]] = {}
    hints = typing.get_type_hints(params, include_extras=True)
    for wire_name, attribute in zip(
        params.__struct_encode_fields__, params.__struct_fields__, strict=True
    ):
        for annotation in getattr(hints[attribute], "__metadata__", ()):
            if isinstance(annotation, msgspec.Meta) and annotation.pattern is not None:
                found[wire_name] = re.compile(annotation.pattern)
    return found
